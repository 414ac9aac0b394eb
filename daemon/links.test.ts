import test from 'ava';
import { foremost, linkOf } from './links.ts';
import type { LinkMessage, LinkProbeMessage } from './messages.ts';

const probe = (
  kind: LinkProbeMessage['kind'],
  sent: number,
  received: number,
  avgMs: number | null,
): LinkProbeMessage => ({
  kind,
  address: '192.0.2.1',
  sent,
  received,
  silent: false,
  minMs: avgMs,
  avgMs,
  maxMs: avgMs,
  pathMtuBytes: null,
  expectedMtuBytes: 1450,
  problem: null,
});

for (const [what, probes, overlay, underlay] of [
  ['nothing asked', [], null, null],
  ['one way each', [probe('underlay', 9, 9, 1), probe('overlay', 9, 8, 2)], [9, 8, 2], [9, 9, 1]],
  ['the lossier family', [probe('overlay', 9, 9, 5), probe('overlay', 9, 8, 1)], [9, 8, 1], null],
  ['the slower family', [probe('overlay', 9, 9, 1), probe('overlay', 9, 9, 2)], [9, 9, 2], null],
  ['still on its way', [probe('overlay', 0, 0, null)], null, null],
] as const) {
  test(`a link: ${what}`, (t) => {
    const link = linkOf('k', probes, null);
    const told = (it: LinkMessage['overlay']) => it && [it.sent, it.received, it.avgMs];
    t.deepEqual([told(link.overlay), told(link.underlay)], [overlay, underlay] as never);
  });
}

test('of many links the worst and the busiest are told', (t) => {
  const links = Array.from({ length: 100 }, (_, i): LinkMessage => {
    const traffic = {
      sentDatagrams: 0,
      sentBytes: 0,
      receivedDatagrams: 0,
      receivedBytes: 0,
      sentBytesPerS: i,
      receivedBytesPerS: null,
    };
    return linkOf(String(i), [probe('overlay', 30, i === 50 ? 29 : 30, 100 - i)], traffic);
  });
  const told = foremost(links).map(({ key }) => Number(key));
  t.is(told.length, 20);
  // It loses; these are the slowest; and those carry most.
  t.deepEqual(told.slice(0, 10), [50, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
  t.deepEqual(told.slice(10), [99, 98, 97, 96, 95, 94, 93, 92, 91, 90]);
  t.is(foremost(links.slice(0, 20)).length, 20);
});
