/** The decision to give up the tunnel TAP, and that it is taken once. */
import test from 'ava';
import { guardTunnel, isTunnelLost } from './tunnel-guard.ts';

const rows: readonly (readonly [string, number, number, number, number, boolean])[] = [
  ['everything left', 0, 0, 1000, 1000, false],
  ['a few are on their way', 0, 0, 1000, 950, false],
  ['nothing left', 0, 0, 1000, 0, true],
  ['most did not', 100, 100, 1100, 500, true],
  ['too few to tell', 0, 0, 19, 0, false],
  ['the table was replaced, and counts anew', 5000, 5000, 6000, 900, false],
];

for (const [name, written0, left0, written1, left1, lost] of rows) {
  test(`lost or not: ${name}`, (t) => {
    t.is(
      isTunnelLost({ written: written0, left: left0 }, { written: written1, left: left1 }),
      lost,
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
  await guardTunnel(dataplane, () => Promise.resolve(left), new AbortController().signal, 1);
  t.is(reasons.length, 1);
  t.is(written, 600);
});
