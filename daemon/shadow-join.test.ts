import test from 'ava';
import type { FlowEndMessage, PolicyChangeMessage, ShadowMessage } from './messages.ts';
import { joinShadows, shadowOf } from './shadow-join.ts';

const end = (pod: string, node: string, address: string): FlowEndMessage => ({
  address,
  port: 80,
  namespace: 'shop',
  pod,
  node,
});
const change = (more: Partial<PolicyChangeMessage> = {}): PolicyChangeMessage => ({
  source: { ...end('web', 'n1', '10.244.1.5'), port: null },
  destination: end('db', 'n2', '10.244.2.7'),
  service: null,
  protocol: 'TCP',
  backend: null,
  before: 'allow',
  beforeBecause: 'nothing selects it',
  after: 'deny',
  afterBecause: 'egress is closed',
  count: 3,
  firstSeen: '2026-01-01T00:00:01.000Z',
  lastSeen: '2026-01-01T00:00:02.000Z',
  ...more,
});
const there = change({ afterBecause: 'ingress is closed', count: 4 });
const throughService = change({
  destination: { ...end('', '', '10.96.0.1'), pod: null },
  service: { namespace: 'shop', name: 'db', port: '80' },
  backend: end('db', 'n2', '10.244.2.7'),
  count: 1,
});

const shadow = (
  node: string,
  changes: readonly PolicyChangeMessage[],
  more: Partial<ShadowMessage> = {},
): ShadowMessage => ({
  node,
  trial: {
    startedAt: '2026-01-01T00:00:00.000Z',
    policies: ['NetworkPolicy shop/closed'],
    replace: false,
    asked: 10,
    skipped: 1,
    untold: 0,
  },
  problem: null,
  changes,
  ...more,
});

test('what two nodes found of one flow is one change, as the node of the source tells it', (t) => {
  const because = 'egress is closed; ingress is closed';
  for (const [a, b] of [
    [shadow('n1', [change()]), shadow('n2', [there])],
    [shadow('n2', [there]), shadow('n1', [change()])],
  ] as const) {
    t.deepEqual(joinShadows(a, [b], []).changes, [change({ afterBecause: because })]);
  }
  const two = joinShadows(shadow('n1', [change(), throughService]), [shadow('n2', [there])], []);
  t.deepEqual(
    two.changes.map(({ count, afterBecause }) => [count, afterBecause]),
    [
      [3, because],
      [1, because],
    ],
  );
});

test('what one node found, and what goes the other way, stays as it is', (t) => {
  const opened = change({ before: 'deny', after: 'allow' });
  const { changes } = joinShadows(shadow('n1', [opened]), [shadow('n2', [there])], []);
  t.deepEqual(changes, [opened, there]);
});

test('numbers are of all nodes; problems are named by node', (t) => {
  const other = shadow('n3', [change()], { trial: null });
  const ill = shadow('n2', [], { problem: 'it could not be compiled' });
  const { trial, changes, problems } = joinShadows(shadow('n1', []), [ill, other], ['n4: gone']);
  t.like(trial, { asked: 20, skipped: 2, untold: 0 });
  t.deepEqual(changes, []);
  t.deepEqual(problems, [
    'n2: it could not be compiled',
    'n3: it tries other policies, or none yet',
    'n4: gone',
  ]);
});

test('what is no answer is none', (t) => {
  const whole = shadow('n1', [change(), throughService]);
  t.deepEqual(shadowOf(JSON.parse(JSON.stringify(whole))), whole);
  for (const it of [null, 'x', {}, { ...whole, changes: [{}] }, { ...whole, node: 5 }]) {
    t.is(shadowOf(it), null);
  }
});
