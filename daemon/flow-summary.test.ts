import test from 'ava';
import { joinSummaries, summarize } from './flow-summary.ts';
import type { FlowEndMessage, FlowMessage } from './messages.ts';

const end = (name: string): FlowEndMessage => {
  const [namespace = null, pod = null] = name.includes('/') ? name.split('/') : [];
  return { address: name, port: 80, namespace, pod, node: /^n\d$/.test(name) ? name : null };
};
const flow = (from: string, to: string, more: Partial<FlowMessage> = {}): FlowMessage => ({
  sequence: 1,
  time: '2026-11-01T00:00:00.000Z',
  node: 'n1',
  verdict: more.reason === undefined ? 'forwarded' : 'dropped',
  reason: null,
  direction: 'egress',
  protocol: 'TCP',
  isReply: false,
  tcpFlags: '',
  source: end(from),
  destination: end(to),
  service: null,
  backend: null,
  outerSource: null,
  bytes: 100,
  because: null,
  ...more,
});
const service = { namespace: 'shop', name: 'web', port: 'http' };

const TABLE: readonly [string, readonly FlowMessage[], readonly string[]][] = [
  ['none', [], []],
  ['pods', [flow('a/x', 'a/y'), flow('a/x', 'a/y')], ['a/x a/y 2 0']],
  [
    'pods of one Deployment are one',
    [flow('a/x-7d9c5b8f6d-x2k9p', 'a/y'), flow('a/x-7d9c5b8f6d-zz4wq', 'a/y')],
    ['a/x a/y 2 0'],
  ],
  [
    'a Service is between',
    [flow('a/x', '10.96.0.1', { service, backend: end('shop/w') })],
    ['a/x shop/web 1 0', 'shop/web shop/w 1 0'],
  ],
  [
    'denied, with a node and outside',
    [flow('n1', 'a/y', { reason: 'policyIngress' }), flow('a/x', '192.0.2.9')],
    ['n1 a/y 0 1', 'a/x 192.0.2.9 1 0'],
  ],
];
const lines = (flows: ReturnType<typeof summarize>) =>
  flows.edges.map(({ from, to, forwarded, dropped }) =>
    [from.name, to.name, forwarded, dropped].join(' '),
  );
for (const [name, flows, expected] of TABLE) {
  test(`edges: ${name}`, (t) => t.deepEqual(lines(summarize(flows)), expected));
}

test('drops are counted by reason and rule, most first, with the newest of each', (t) => {
  const denied = (because: string, time: string) =>
    flow('a/x', 'a/y', { reason: 'policyIngress', because, time });
  const one = summarize([denied('p', '1'), denied('q', '2'), denied('q', '3')]);
  const two = summarize([denied('p', '0'), denied('p', '0'), denied('q', '0')]);
  const joined = joinSummaries([one, two]);
  t.deepEqual(
    joined.drops.map(({ because, count, last }) => [because, count, last.time]),
    [
      ['q', 3, '3'],
      ['p', 3, '1'],
    ],
  );
  t.deepEqual(lines(joined), ['a/x a/y 0 6']);
});
