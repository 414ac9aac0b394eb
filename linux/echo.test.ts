import test from 'ava';
import { parseAddress } from '../wire/address.ts';
import { type Echo, largestThatFits, openEcho } from './echo.ts';

for (const [name, low, high, limit, most] of [
  ['the largest fits: one question', 100, 1500, 1500, 1],
  ['a tunnel below', 100, 1500, 1450, 12],
  ['only the least fits', 100, 1500, 100, 12],
  ['nothing to look for', 1400, 1400, 1400, 0],
] as const) {
  test(`largestThatFits: ${name}`, async (t) => {
    let asked = 0;
    const fits = (bytes: number): Promise<boolean> => {
      asked += 1;
      return Promise.resolve(bytes <= limit);
    };
    t.is(await largestThatFits(low, high, fits), limit);
    t.true(asked <= most, `${asked} questions`);
  });
}

const isRoot = process.getuid!() === 0;
const withRoot = isRoot ? test.serial : test.serial.skip;

for (const [family, address] of [
  [4, '127.0.0.1'],
  [6, '::1'],
] as const) {
  withRoot(`IPv${family}: an address of this host answers, whatever the size`, async (t) => {
    using socket = await openEcho(family);
    const echoes = await Promise.all(
      [0, 64, 1500, 9000].map((it) => socket.echo(parseAddress(address), it, 2000)),
    );
    for (const it of echoes) t.is(it.kind, 'answered', JSON.stringify(it));
  });
}

withRoot('nobody answers, and a socket that is closed: echoes end', async (t) => {
  let left: Promise<Echo>;
  {
    using socket = await openEcho(4);
    // RFC 5737, on no link of ours; 240/4 has no route.
    const { kind } = await socket.echo(parseAddress('240.0.0.1'), 64, 100);
    t.not(kind, 'answered');
    left = socket.echo(parseAddress('192.0.2.77'), 64, 60_000);
  }
  t.not((await left).kind, 'answered');
});

withRoot('many sockets are opened and closed without a descriptor left', async (t) => {
  const { readdirSync } = await import('node:fs');
  const count = (): number => readdirSync('/proc/self/fd').length;
  for (let i = 0; i < 5; i++) (await openEcho(4))[Symbol.dispose]();
  await new Promise((resolve) => setTimeout(resolve, 20));
  const before = count();
  for (let i = 0; i < 200; i++) (await openEcho(4))[Symbol.dispose]();
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.true(count() <= before, `${count()} descriptors, ${before} before`);
});
