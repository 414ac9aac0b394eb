/**
 * A new version: the daemon ends and starts again under connections that are held all the while, between
 * pods of one node, of two nodes, and from a pod to outside, in both families.
 */
import { join } from 'node:path';
import test from 'ava';
import type { Running } from '../../linux/program.ts';
import { LabHost } from '../lab/lab.ts';
import type { Held } from '../lab/traffic/steady.ts';
import { type Pair, createPair, logOf } from '../overlay/pair.ts';

const STEADY = [process.execPath, join(import.meta.dirname, '..', 'lab', 'traffic', 'steady.ts')];
const PORT = '7020';
const CONNECTIONS = 20;

let pair: Pair;
let outside: LabHost;

test.before(async () => {
  pair = await createPair({ podsPerNode: 2 }, 's', ['--ip-masq']);
  outside = new LabHost('etcd', pair.lab.netnsOf('etcd'));
  const [, b, c] = pair.lab.pods;
  for (const host of [b!, c!, outside]) {
    await host.start([...STEADY, 'serve', PORT], { ready: { line: /^ready$/ } });
  }
});
test.after.always(() => pair?.[Symbol.asyncDispose]());

async function finish(holding: Running): Promise<readonly Held[]> {
  process.kill(holding.pid, 'SIGUSR1');
  await holding.exited;
  return JSON.parse(holding.output().trim().split('\n').at(-1) ?? '') as Held[];
}

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test.serial(`${CONNECTIONS} connections live through a restart by ${signal}`, async (t) => {
    const [n1] = pair.nodes;
    const [a, b, c] = pair.lab.pods;
    const targets = [...b!.addresses, ...c!.addresses, '172.31.0.254', 'fd31::254'];
    const addresses = Array.from({ length: CONNECTIONS }, (_, i) => targets[i % targets.length]!);
    const holding = await a!.start([...STEADY, 'hold', PORT, ...addresses], {
      ready: { line: /^steady$/ },
    });
    await pair.daemons[0].stop(signal);
    pair.daemons[0] = await n1.startDaemon(['--ip-masq']);
    const held = await finish(holding);
    t.is(held.length, CONNECTIONS);
    t.log(
      `longest gaps, ms: ${held
        .map((it) => it.gapMs)
        .toSorted((x, y) => x - y)
        .join(' ')}`,
    );
    for (const [i, it] of held.entries()) {
      t.like(it, { alive: true, intact: true }, addresses[i]);
    }
    t.true(logOf(n1).some((it) => it.msg === 'ready'));
  });
}
