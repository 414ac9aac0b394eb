import test from 'ava';
import { EMPTY_OBJECTS, type Pod } from '../objects/types.ts';
import { parseIpv4 } from '../wire/address.ts';
import { joinKinds, kindsOf, newestKinds, presentFlows } from './flow-kinds.ts';
import type { PolicyEvent } from './flow-log.ts';
import type { FlowKindMessage } from './messages.ts';
import { createNames } from './names.ts';

const WEB = '10.244.1.5';
const DB = '10.244.2.7';
const VIP = { address: '10.96.0.1', port: 80 };
const second = (s: number): string => `2026-01-01T00:00:0${s}.000Z`;

const kind = (more: Partial<FlowKindMessage> = {}): FlowKindMessage => ({
  source: WEB,
  destination: DB,
  protocol: 6,
  port: 5432,
  frontend: null,
  sourcePod: 'shop/web',
  destinationPod: 'shop/db',
  entered: true,
  count: 1,
  firstSeen: second(1),
  lastSeen: second(1),
  ...more,
});
const left = (more: Partial<FlowKindMessage> = {}) => kind({ entered: false, ...more });

const JOINED: readonly [
  string,
  readonly (readonly FlowKindMessage[])[],
  readonly FlowKindMessage[],
][] = [
  ['told by both of its nodes', [[kind({ count: 3 })], [left({ count: 3 })]], [kind({ count: 3 })]],
  ['whichever is asked first', [[left({ count: 3 })], [kind({ count: 3 })]], [kind({ count: 3 })]],
  [
    'denied where it arrives: each try is a packet there, one flow here',
    [[kind()], [left({ count: 4 })]],
    [kind()],
  ],
  ['the node of the source does not tell it', [[], [left({ count: 3 })]], [left({ count: 3 })]],
  [
    'directly and through a Service: on the other node that is one kind',
    [[kind({ count: 2 }), kind({ frontend: VIP })], [left({ count: 3 })]],
    [kind({ count: 2 }), kind({ frontend: VIP })],
  ],
  [
    'from outside, into two nodes: both count',
    [
      [kind({ count: 2, firstSeen: second(2), lastSeen: second(2) })],
      [kind({ count: 5, firstSeen: second(1), lastSeen: second(4) })],
    ],
    [kind({ count: 7, firstSeen: second(1), lastSeen: second(4) })],
  ],
  ['another port is another kind', [[kind()], [left({ port: 80 })]], [kind(), left({ port: 80 })]],
];
for (const [title, told, joined] of JOINED) {
  test(`joined: ${title}`, (t) => t.deepEqual(joinKinds(told), joined));
}

const podOf = (name: string, address: string): Pod => ({
  kind: 'Pod',
  metadata: { namespace: 'shop', name, labels: {}, annotations: {} },
  nodeName: 'n1',
  hostNetwork: false,
  ports: [],
  podIPs: [parseIpv4(address)],
  phase: 'Running',
  ready: true,
  terminating: false,
});
const web = podOf('web', WEB);
const db = podOf('db', DB);

test('what events come to: entered only where this node lets the source in', (t) => {
  const event = (more: Partial<PolicyEvent> = {}): PolicyEvent => ({
    source: parseIpv4(WEB),
    destination: parseIpv4(DB),
    protocol: 'TCP',
    protocolNumber: 6,
    port: 5432,
    frontend: null,
    isFrontend: false,
    isOut: true,
    isDenied: false,
    timeMs: Date.parse(second(1)),
    sourcePod: web,
    destinationPod: db,
    told: {
      source: { address: WEB, port: null, namespace: null, pod: null, node: null },
      destination: { address: DB, port: 5432, namespace: null, pod: null, node: null },
      service: null,
      protocol: 'TCP',
    },
    ...more,
  });
  const events = [event(), event({ timeMs: Date.parse(second(3)) })];
  const twice = { count: 2, lastSeen: second(3) };
  t.deepEqual(
    kindsOf(events, () => true),
    [kind(twice)],
  );
  t.deepEqual(
    kindsOf(events, () => false),
    [left(twice)],
  );
  t.deepEqual(
    kindsOf([event({ isOut: false })], () => true),
    [left()],
  );
  const frontend = { ...VIP, address: parseIpv4(VIP.address) };
  t.deepEqual(
    kindsOf([event({ frontend })], () => true),
    [kind({ frontend: VIP })],
  );
});

test('the newest, and how many are left out', (t) => {
  const kinds = [1, 3, 2].map((s) => kind({ lastSeen: second(s) }));
  t.deepEqual(newestKinds(kinds, 2), { kinds: [kinds[1]!, kinds[2]!], untold: 1 });
  t.deepEqual(newestKinds(kinds, 3), { kinds, untold: 0 });
});

test('of pods that are there still, with the names of now; others are gone', (t) => {
  const pods = new Map([['shop/web', web]]);
  const names = createNames({ ...EMPTY_OBJECTS, pods }, []);
  const toNobody = { destination: '192.0.2.1', destinationPod: null };
  const { flows, gone } = presentFlows(
    [kind(), kind({ ...toNobody, protocol: 1, port: 0 }), kind({ sourcePod: 'shop/old' })],
    names,
  );
  t.is(gone, 1);
  t.deepEqual(
    flows.map(({ told, port, protocol }) => [told.source.pod, told.protocol, port, protocol]),
    [['web', 'ICMP', 0, 'other']],
  );
  t.deepEqual(presentFlows([kind({ source: 'nothing', sourcePod: null })], names), {
    flows: [],
    gone: 1,
  });
});
