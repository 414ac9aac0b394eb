/** The decision to give up the tunnel TAP, and that it is taken once. */
import test from 'ava';
import { guardTunnel, judgeTunnel } from './tunnel-guard.ts';

const rows: readonly (readonly [
  string,
  number,
  number,
  number,
  number,
  'lost' | 'fine' | 'unclear',
  number?,
])[] = [
  ['everything left', 0, 0, 1000, 1000, 'fine'],
  ['a few are on their way', 0, 0, 1000, 950, 'fine'],
  ['nothing left', 0, 0, 1000, 0, 'lost'],
  ['most did not', 100, 100, 1100, 500, 'lost'],
  ['too few to tell', 0, 0, 19, 0, 'unclear'],
  ['the table was replaced, and counts anew', 5000, 5000, 6000, 900, 'fine', 2],
  ['the same, of which less was seen before', 100, 100, 6000, 900, 'fine', 2],
];

for (const [name, written0, left0, written1, left1, verdict, table = 1] of rows) {
  test(`lost or not: ${name}`, (t) => {
    t.is(
      judgeTunnel(
        { written: written0, left: left0, table: 1 },
        { written: written1, left: left1, table },
      ),
      verdict,
    );
  });
}

test('the rung is withdrawn when packets stop leaving the host, and the guard ends', async (t) => {
  let written = 0;
  let left = 0;
  const reasons: string[] = [];
  const dataplane = {
    counters: () => {
      written += 100;
      // The firewall changes its mind.
      if (written <= 500) left = written;
      return { tunnelWrites: written };
    },
    withdrawTunnelGso: (reason: string) => void reasons.push(reason),
  };
  await guardTunnel(
    dataplane,
    () => Promise.resolve({ left, table: 1 }),
    new AbortController().signal,
    1,
  );
  t.is(reasons.length, 1);
  t.is(written, 600);
});

test('few packets at each look add up: TCP that gets nothing through writes few', async (t) => {
  let written = 0;
  let withdrawn = 0;
  const dataplane = {
    counters: () => ({ tunnelWrites: (written += 3) }),
    withdrawTunnelGso: () => void (withdrawn = written),
  };
  const limit = AbortSignal.timeout(5_000);
  await guardTunnel(dataplane, () => Promise.resolve({ left: 7, table: 1 }), limit, 1);
  t.is(withdrawn, 3 + 21);
});
