import test from 'ava';
import { DropRates } from './drop-rates.ts';

for (const [name, looks, expected] of [
  ['nothing is known yet', [], {}],
  ['one look has no rate', [[0, { noPeer: 7 }]], {}],
  [
    'what was dropped before the first look does not count',
    [
      [0, { noPeer: 7 }],
      [1000, { noPeer: 7 }],
    ],
    {},
  ],
  [
    'by reason; one that was not there before began at nought',
    [
      [0, { noPeer: 7 }],
      [2000, { noPeer: 9, policyIngress: 1 }],
    ],
    { noPeer: 1, policyIngress: 0.5 },
  ],
  [
    'an old burst is over after a minute',
    [
      [0, { noPeer: 0 }],
      [1000, { noPeer: 6000 }],
      [31_000, { noPeer: 6000 }],
      [61_000, { noPeer: 6000 }],
    ],
    {},
  ],
  [
    'and until then stands for its share of the minute',
    [
      [0, { noPeer: 0 }],
      [1000, { noPeer: 6000 }],
      [60_000, { noPeer: 6000 }],
    ],
    { noPeer: 100 },
  ],
] as const satisfies readonly (readonly [
  string,
  readonly (readonly [number, Readonly<Record<string, number>>])[],
  Readonly<Record<string, number>>,
])[]) {
  test(`drops a second: ${name}`, (t) => {
    const rates = new DropRates();
    for (const [atMs, drops] of looks) rates.look(drops, atMs);
    t.deepEqual(rates.perSecond, expected);
  });
}
