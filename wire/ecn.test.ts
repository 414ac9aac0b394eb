import test from 'ava';
import { ECN_DROP, decapsulateEcn } from './ecn.ts';

const NAMES = ['Not-ECT', 'ECT(1)', 'ECT(0)', 'CE'] as const;

// RFC 6040 figure 4: rows are the inner field, columns the outer one, both in this order.
const ORDER = [0, 2, 1, 3] as const;
const FIGURE_4: readonly (readonly (0 | 1 | 2 | 3 | 'drop')[])[] = [
  [0, 0, 0, 'drop'],
  [2, 2, 1, 3],
  [1, 1, 1, 3],
  [3, 3, 3, 3],
];

ORDER.forEach((inner, row) => {
  ORDER.forEach((outer, column) => {
    const expected = FIGURE_4[row]![column]!;
    const result = expected === 'drop' ? 'dropped' : NAMES[expected];
    test(`inner ${NAMES[inner]}, outer ${NAMES[outer]}: ${result}`, (t) => {
      t.is(decapsulateEcn(inner, outer), expected === 'drop' ? ECN_DROP : expected);
    });
  });
});
