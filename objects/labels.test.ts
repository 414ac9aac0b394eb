import test from 'ava';
import { matchesSelector } from './labels.ts';
import type { LabelSelector, Labels } from './types.ts';

type Expression = LabelSelector['matchExpressions'][number];

const selectorOf = (
  matchLabels: Labels,
  ...matchExpressions: readonly Expression[]
): LabelSelector => ({ matchLabels, matchExpressions });

const expression = (
  key: string,
  operator: Expression['operator'],
  ...values: readonly string[]
): LabelSelector => selectorOf({}, { key, operator, values });

const proto: Labels = Object.fromEntries([['__proto__', 'a']]);

const cases: readonly (readonly [string, LabelSelector, Labels, boolean])[] = [
  ['empty: no labels', selectorOf({}), {}, true],
  ['empty: any labels', selectorOf({}), { app: 'web' }, true],
  ['a label', selectorOf({ app: 'web' }), { app: 'web', tier: 'x' }, true],
  ['another value', selectorOf({ app: 'web' }), { app: 'db' }, false],
  ['an absent key', selectorOf({ app: 'web' }), {}, false],
  ['an absent key is not the empty value', selectorOf({ app: '' }), {}, false],
  ['the empty value', selectorOf({ app: '' }), { app: '' }, true],
  ['all labels', selectorOf({ a: '1', b: '2' }), { a: '1' }, false],
  ['In', expression('a', 'In', '1', '2'), { a: '2' }, true],
  ['In: another', expression('a', 'In', '1', '2'), { a: '3' }, false],
  ['In: absent', expression('a', 'In', '1'), {}, false],
  ['NotIn: another', expression('a', 'NotIn', '1'), { a: '2' }, true],
  ['NotIn: it is', expression('a', 'NotIn', '1'), { a: '1' }, false],
  ['NotIn: absent', expression('a', 'NotIn', '1'), {}, true],
  ['Exists', expression('a', 'Exists'), { a: '' }, true],
  ['Exists: absent', expression('a', 'Exists'), { b: '' }, false],
  ['DoesNotExist', expression('a', 'DoesNotExist'), { b: '' }, true],
  ['DoesNotExist: it does', expression('a', 'DoesNotExist'), { a: '' }, false],
  [
    'labels and expressions',
    selectorOf({ a: '1' }, { key: 'b', operator: 'Exists', values: [] }),
    { a: '1' },
    false,
  ],
  [
    'two expressions of one key',
    selectorOf(
      {},
      { key: 'a', operator: 'Exists', values: [] },
      { key: 'a', operator: 'NotIn', values: ['1'] },
    ),
    { a: '2' },
    true,
  ],
  ['constructor is a plain key: absent', expression('constructor', 'Exists'), {}, false],
  [
    'constructor is a plain key: there',
    expression('constructor', 'Exists'),
    { constructor: 'a' },
    true,
  ],
  ['__proto__ is a plain key: absent', expression('__proto__', 'DoesNotExist'), {}, true],
  ['__proto__ is a plain key: there', selectorOf(proto), proto, true],
  ['__proto__ is a plain key: wanted', selectorOf(proto), {}, false],
];

for (const [name, selector, labels, expected] of cases) {
  test(name, (t) => t.is(matchesSelector(selector, labels), expected));
}
