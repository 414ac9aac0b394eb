import test from 'ava';
import type { Rule } from '../linux/ip.ts';
import { type Cidr, parseCidr } from '../wire/cidr.ts';
import { planRules, removeRules } from './steering.ts';

const all = { src: 'all' } as const;
const ours = { protocol: '157' } as const;
const local: Rule = { ...all, priority: 0, table: 'local' };
const main: Rule = { ...all, priority: 32766, table: 'main' };
const rest: Rule = { ...all, priority: 32767, table: 'default' };
/** As the kernel has them on every host. */
const fresh = [local, main, rest];
const fromPod: Rule = { ...ours, priority: 93, src: '10.244.1.0', srclen: 24, table: '158' };
const moved: Rule = { ...all, priority: 96, table: 'local' };
const steered: readonly Rule[] = [
  { ...all, ...ours, priority: 91, iif: 'lo', goto: 96 },
  { ...all, ...ours, priority: 92, iif: 'weft0', goto: 96 },
  fromPod,
  moved,
  { ...all, ...ours, priority: 97, iif: 'lo', table: '157' },
  { ...all, ...ours, priority: 98, iif: 'weft0', table: '157' },
  main,
  rest,
];
const elsewhere: Rule = { ...all, priority: 100, table: 'local' };
const foreign: Rule = { priority: 93, src: '10.9.0.0', srclen: 16, table: '200' };

for (const [title, subnet, actual, expected] of [
  [
    'a fresh host: the local rule is there twice before it is there once',
    '10.244.1.0/24',
    fresh,
    [
      'rule add pref 96 lookup local protocol kernel',
      'rule add pref 97 iif lo lookup 157 protocol 157',
      'rule add pref 98 iif weft0 lookup 157 protocol 157',
      'rule add pref 91 iif lo goto 96 protocol 157',
      'rule add pref 92 iif weft0 goto 96 protocol 157',
      'rule add pref 93 from 10.244.1.0/24 lookup 158 protocol 157',
      'rule del pref 0 lookup local',
    ],
  ],
  ['nothing to do', '10.244.1.0/24', steered, []],
  ['a rule of somebody else at the same place', '10.244.1.0/24', [...steered, foreign], []],
  [
    'another subnet',
    '10.244.9.0/24',
    steered,
    [
      'rule add pref 93 from 10.244.9.0/24 lookup 158 protocol 157',
      'rule del pref 93 from 10.244.1.0/24 lookup 158 protocol 157',
    ],
  ],
  [
    'one that somebody deleted',
    '10.244.1.0/24',
    steered.filter((it) => it !== fromPod),
    ['rule add pref 93 from 10.244.1.0/24 lookup 158 protocol 157'],
  ],
  [
    'the local rule somebody put back in front',
    '10.244.1.0/24',
    [local, ...steered],
    ['rule del pref 0 lookup local'],
  ],
  [
    'the local rule lost',
    '10.244.1.0/24',
    steered.filter((it) => it !== moved),
    ['rule add pref 96 lookup local protocol kernel'],
  ],
  [
    'the same rule without our mark is not ours',
    '10.244.1.0/24',
    [...steered.filter((it) => it !== fromPod), { ...fromPod, protocol: 'static' }],
    ['rule add pref 93 from 10.244.1.0/24 lookup 158 protocol 157'],
  ],
  ['a family without a subnet, on a fresh host', null, fresh, []],
] as readonly (readonly [string, string | null, readonly Rule[], readonly string[]])[]) {
  test(`rules: ${title}`, (t) => {
    const block: Cidr | null = subnet === null ? null : parseCidr(subnet);
    const plan = planRules(block, 'weft0', false, actual);
    t.deepEqual(
      plan.map((it) => it.join(' ')),
      [...expected],
    );
  });
}

const marked: Rule = {
  ...all,
  ...ours,
  priority: 90,
  fwmark: '0x1000',
  fwmask: '0x1000',
  table: '158',
};

test('rules: Services: the mark comes last, and goes when there are none', (t) => {
  const plan = (steersMarked: boolean, actual: readonly Rule[]): string[] =>
    planRules(parseCidr('10.244.1.0/24'), 'weft0', steersMarked, actual).map((it) => it.join(' '));
  const rule = 'pref 90 fwmark 0x1000/0x1000 lookup 158 protocol 157';
  t.deepEqual(plan(true, steered), [`rule add ${rule}`]);
  t.deepEqual(plan(true, [marked, ...steered]), []);
  t.deepEqual(plan(false, [marked, ...steered]), [`rule del ${rule}`]);
  t.is(plan(true, fresh).at(-2), `rule add ${rule}`);
  t.true(removeRules([marked, ...steered]).some((it) => it.join(' ') === `rule del ${rule}`));
});

const OURS_GO = [
  'rule del pref 91 iif lo goto 96 protocol 157',
  'rule del pref 92 iif weft0 goto 96 protocol 157',
  'rule del pref 93 from 10.244.1.0/24 lookup 158 protocol 157',
  'rule del pref 97 iif lo lookup 157 protocol 157',
  'rule del pref 98 iif weft0 lookup 157 protocol 157',
];

for (const [title, actual, expected] of [
  ['a host that never had them', fresh, []],
  [
    'the local rule is back in front before ours goes',
    steered,
    ['rule add pref 0 lookup local protocol kernel', ...OURS_GO, 'rule del pref 96 lookup local'],
  ],
  ['it is back already', [local, ...steered], [...OURS_GO, 'rule del pref 96 lookup local']],
  [
    'somebody else moved it too',
    [...steered, elsewhere],
    [...OURS_GO, 'rule del pref 96 lookup local'],
  ],
] as readonly (readonly [string, readonly Rule[], readonly string[]])[]) {
  test(`rules of a host that is cleaned up: ${title}`, (t) => {
    t.deepEqual(
      removeRules(actual).map((it) => it.join(' ')),
      [...expected],
    );
  });
}
