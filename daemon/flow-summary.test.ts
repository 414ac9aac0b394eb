import test from 'ava';
import type { Pod } from '../objects/types.ts';
import { addressOrNull } from '../wire/address.ts';
import type { Named } from './flow-log.ts';
import { type CountedEvent, FlowCounts, type FlowSummary, joinSummaries } from './flow-summary.ts';
import type { FlowMessage } from './messages.ts';

interface Seen {
  readonly event: CountedEvent & { readonly because: string | null };
  readonly named: Named;
}

/** `namespace/pod`, a node `n1`, or an address. */
const podOf = (name: string): Pod | null => {
  const [namespace, pod] = name.split('/');
  return pod === undefined ? null : ({ metadata: { namespace, name: pod } } as Pod);
};
const nodeOf = (name: string): string | null => (/^n\d$/.test(name) ? name : null);
const SOMEWHERE = '10.244.1.5';
const addressOf = (name: string) => addressOrNull(/^[0-9.]+$/.test(name) ? name : SOMEWHERE);

function flow(
  from: string,
  to: string,
  more: Partial<Pick<CountedEvent, 'reason' | 'timeMs'>> & {
    readonly service?: Named['service'];
    readonly backend?: string;
    readonly because?: string;
  } = {},
): Seen {
  const { reason = null, timeMs = 0, service = null, backend = null, because = null } = more;
  return {
    event: {
      reason,
      timeMs,
      source: addressOf(from),
      destination: addressOf(to),
      backend: backend === null ? null : addressOf(backend),
      because,
    },
    named: {
      source: podOf(from),
      destination: podOf(to),
      backend: backend === null ? null : podOf(backend),
      sourceNode: nodeOf(from),
      destinationNode: nodeOf(to),
      service,
    },
  };
}

function summarize(flows: readonly Seen[]): FlowSummary {
  const counts = new FlowCounts<Seen['event']>({
    because: ({ because }) => because,
    tell: ({ reason, because, timeMs }) =>
      ({ reason, because, time: String(timeMs) }) as FlowMessage,
  });
  for (const { event, named } of flows) counts.take(event, named);
  return counts.summary;
}

const service = { namespace: 'shop', name: 'web', port: 'http' };

const TABLE: readonly [string, readonly Seen[], readonly string[]][] = [
  ['none', [], []],
  ['pods', [flow('a/x', 'a/y'), flow('a/x', 'a/y')], ['a/x a/y 2 0']],
  [
    'pods of one Deployment are one',
    [flow('a/x-7d9c5b8f6d-x2k9p', 'a/y'), flow('a/x-7d9c5b8f6d-zz4wq', 'a/y')],
    ['a/x a/y 2 0'],
  ],
  [
    'a Service is between',
    [flow('a/x', '10.96.0.1', { service, backend: 'shop/w' })],
    ['a/x shop/web 1 0', 'shop/web shop/w 1 0'],
  ],
  [
    'a Service without endpoints',
    [flow('a/x', '10.96.0.1', { service, reason: 'noEndpoints' })],
    ['a/x shop/web 0 1'],
  ],
  [
    'denied, with a node and outside',
    [flow('n1', 'a/y', { reason: 'policyIngress' }), flow('a/x', '192.0.2.9')],
    ['n1 a/y 0 1', 'a/x 192.0.2.9 1 0'],
  ],
  [
    'outside, each address is its own, and most come first',
    [flow('192.0.2.8', 'a/y'), flow('192.0.2.9', 'a/y'), flow('192.0.2.9', 'a/y')],
    ['192.0.2.9 a/y 2 0', '192.0.2.8 a/y 1 0'],
  ],
];
const lines = (flows: FlowSummary) =>
  flows.edges.map(({ from, to, forwarded, dropped }) =>
    [from.name, to.name, forwarded, dropped].join(' '),
  );
for (const [name, flows, expected] of TABLE) {
  test(`edges: ${name}`, (t) => t.deepEqual(lines(summarize(flows)), expected));
}

test('drops are counted by reason and rule, most first, with the newest of each', (t) => {
  const denied = (because: string, timeMs: number) =>
    flow('a/x', 'a/y', { reason: 'policyIngress', because, timeMs });
  const one = summarize([denied('p', 1), denied('q', 3), denied('q', 2)]);
  const two = summarize([denied('p', 0), denied('p', 0), denied('q', 0)]);
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
