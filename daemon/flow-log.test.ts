import assert from 'node:assert/strict';
import test from 'ava';
import { parseObjects } from '../objects/parse.ts';
import { mergeSets, objectSetOf } from '../objects/set.ts';
import { createEventRing, createEventWriter, readEvents } from '../overlay/event-ring.ts';
import {
  FLOW_DST_ORIG,
  FLOW_FLAGS,
  FLOW_KIND,
  FLOW_PORTS_ORIG,
  FLOW_PORTS_REPLY,
  FLOW_SERVICE,
  FLOW_SRC_ORIG,
  FLOW_SRC_REPLY,
  FLOW_WORDS,
} from '../overlay/flow-layout.ts';
import * as build from '../test/packets/build.ts';
import { parseIpv4 } from '../wire/address.ts';
import { Drop } from '../wire/drop-reason.ts';
import { parseCidr } from '../wire/cidr.ts';
import { linesOf } from './flow-lines.ts';
import { FlowLog, flowFilter } from './flow-log.ts';
import { createNames } from './names.ts';

const pod = (name: string, address: string, node: string): string => `
---
apiVersion: v1
kind: Pod
metadata: { namespace: shop, name: ${name}, labels: { app: ${name} } }
spec: { nodeName: ${node} }
status: { phase: Running, podIP: ${address}, podIPs: [{ ip: ${address} }] }`;

const OBJECTS = mergeSets([
  objectSetOf(
    parseObjects(
      `${pod('web', '10.244.1.5', 'n1')}${pod('db', '10.244.2.7', 'n2')}
---
apiVersion: v1
kind: Service
metadata: { namespace: shop, name: db }
spec: { clusterIP: 10.96.0.10, selector: { app: db }, ports: [{ name: sql, port: 5432 }] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: shop, name: closed }
spec: { podSelector: { matchLabels: { app: web } }, policyTypes: [Egress] }`,
      'objects.yaml',
    ).objects,
  ),
]);
const NODES = [
  { name: 'n1', addresses: [parseIpv4('192.0.2.1')], subnets: [parseCidr('10.244.1.0/24')] },
  { name: 'n2', addresses: [parseIpv4('192.0.2.2')], subnets: [parseCidr('10.244.2.0/24')] },
];
const NOW_MS = Date.UTC(2026, 0, 1);

function open(history?: number) {
  const arena = new Uint8Array(2048);
  const ring = createEventRing();
  const clock = { ms: NOW_MS };
  const writer = createEventWriter(new DataView(arena.buffer), ring, () => clock.ms);
  const log = new FlowLog({
    node: 'n1',
    names: () => createNames(OBJECTS, NODES),
    policies: () => ({
      objects: OBJECTS,
      around: { nodeName: 'n1', nodeAddresses: [], subjects: 'all' },
    }),
    ...(history !== undefined && { history }),
  });
  const read = (): void =>
    log.read({
      readEvents: (take) => {
        readEvents(ring, (at) => take(ring, at));
        return 0;
      },
    });
  const drop = (
    reason: Drop,
    source: string,
    destination: string,
    port = 80,
    sourcePort = 4000,
    flags: number = build.ACK,
    isReply = false,
    outerSource: string | null = null,
  ): void => {
    const ends = { source, destination, sourcePort, destinationPort: port, flags };
    const packet = build.tcp(ends, Buffer.alloc(0));
    arena.set(packet, 64);
    if (outerSource !== null) new DataView(arena.buffer).setInt32(0, parseIpv4(outerSource));
    const sourceAt = outerSource === null ? -1 : 0;
    writer.begin();
    writer.dropped(reason, 64, 64 + packet.length, true, sourceAt, true, isReply);
    read();
  };
  const began = (backend: string | null): void => {
    const words = new Int32Array(FLOW_WORDS);
    words[FLOW_KIND] = 6 | (4 << 8);
    words[FLOW_SRC_ORIG] = parseIpv4('10.244.1.5');
    words[FLOW_DST_ORIG] = parseIpv4(backend === null ? '10.244.2.7' : '10.96.0.10');
    words[FLOW_SRC_REPLY] = parseIpv4('10.244.2.7');
    words[FLOW_PORTS_ORIG] = (4001 << 16) | 5432;
    words[FLOW_PORTS_REPLY] = (5432 << 16) | 4001;
    words[FLOW_FLAGS] = backend === null ? 0 : FLOW_SERVICE;
    writer.begin();
    writer.began(words, 0, true, 60);
    read();
  };
  const ask = (query: string) => {
    const filter = flowFilter(new URLSearchParams(query), clock.ms);
    const found = log.query(filter);
    const { lines, ...head } = log.lines(filter);
    const expected = linesOf(found);
    assert.deepEqual(
      { ...head, lines: String(lines) },
      { ...expected, lines: String(expected.lines) },
    );
    return found;
  };
  return { log, ask, drop, began, clock };
}

test('a denied packet: who, to whom, and which policy', (t) => {
  const { ask, drop } = open();
  drop(Drop.policyEgress, '10.244.1.5', '10.244.2.7');
  const { flows, next, lost } = ask('');
  t.is(next, 1);
  t.is(lost, 0);
  t.like(flows[0], {
    sequence: 0,
    time: '2026-01-01T00:00:00.000Z',
    node: 'n1',
    verdict: 'dropped',
    reason: 'policyEgress',
    direction: 'egress',
    protocol: 'TCP',
    tcpFlags: 'ACK',
    source: { address: '10.244.1.5', port: 4000, namespace: 'shop', pod: 'web', node: 'n1' },
    destination: { address: '10.244.2.7', port: 80, namespace: 'shop', pod: 'db', node: 'n2' },
    service: null,
    backend: null,
    bytes: 40,
  });
  t.regex(flows[0]!.because!, /shop\/closed/);
});

test('an answer in a flow that is denied: the policy of the flow, and no flow of its own', (t) => {
  const { log, ask, drop } = open();
  drop(Drop.policyEgress, '10.244.2.7', '10.244.1.5', 40000, 80, build.SYN, true);
  const [flow] = ask('').flows;
  t.like(flow, { isReply: true, source: { pod: 'db' }, destination: { pod: 'web' } });
  t.regex(flow!.because!, /^an answer: .*shop\/closed/);
  t.deepEqual(log.seen(0), []);
});

test('a packet of a node to another, and who sent the datagram', (t) => {
  const { ask, drop } = open();
  drop(Drop.policyIngress, '192.0.2.1', '192.0.2.2', 80, 4000, build.SYN, false, '198.51.100.9');
  t.like(ask('').flows[0], {
    tcpFlags: 'SYN',
    source: { address: '192.0.2.1', pod: null, node: 'n1' },
    destination: { address: '192.0.2.2', pod: null, node: 'n2' },
    outerSource: '198.51.100.9',
    because: 'the policies have changed since, and allow it now',
  });
});

test('a flow of a Service: the Service that was asked, the endpoint that answers', (t) => {
  const { ask, began } = open();
  began('10.244.2.7');
  t.like(ask('').flows[0], {
    verdict: 'forwarded',
    reason: null,
    destination: { address: '10.96.0.10', port: 5432, pod: null },
    service: { namespace: 'shop', name: 'db', port: 'sql' },
    backend: { address: '10.244.2.7', port: 5432, pod: 'db' },
    because: null,
  });
});

test('a packet that is none', (t) => {
  const { log, ask } = open();
  t.like(ask(''), { flows: [], next: 0, lost: 0 });
  t.is(log.lost, 0);
});

const EVENTS = ['web>db denied', 'web>db', 'web>Service', 'out>web denied', 'n2>web denied'];
for (const [query, wanted] of [
  ['', EVENTS],
  ['verdict=deny', ['web>db denied', 'out>web denied', 'n2>web denied']],
  ['verdict=allow', ['web>db', 'web>Service']],
  ['reason=policyIngress', ['out>web denied', 'n2>web denied']],
  ['from=shop/web', ['web>db denied', 'web>db', 'web>Service']],
  ['from=shop/', ['web>db denied', 'web>db', 'web>Service']],
  ['to=shop/db', ['web>db denied', 'web>db', 'web>Service']],
  ['with=shop/web', EVENTS],
  ['from=198.51.100.7', ['out>web denied']],
  ['from=198.51.100.0/24', ['out>web denied']],
  ['from=n2', ['n2>web denied']],
  ['service=shop/db', ['web>Service']],
  ['protocol=tcp&port=5432', ['web>db', 'web>Service']],
  ['protocol=udp', []],
  ['limit=2', ['out>web denied', 'n2>web denied']],
  ['since=90s', ['out>web denied', 'n2>web denied']],
  ['after=1&limit=2', ['web>db', 'web>Service']],
] as const) {
  test(`filter: ${query}`, (t) => {
    const { ask, drop, began, clock } = open();
    drop(Drop.policyEgress, '10.244.1.5', '10.244.2.7');
    began(null);
    began('10.244.2.7');
    clock.ms += 60_000;
    drop(Drop.policyIngress, '198.51.100.7', '10.244.1.5');
    drop(Drop.policyIngress, '192.0.2.2', '10.244.1.5');
    clock.ms += 60_000;
    t.deepEqual(
      ask(query).flows.map(({ sequence }) => EVENTS[sequence]),
      wanted,
    );
  });
}

for (const [query, message] of [
  ['verdict=maybe', /verdict: "maybe" is not allow or deny/],
  ['reason=bad', /reason/],
  ['from=a/b/c', /"a\/b\/c" is no NAMESPACE/],
  ['from=%3Cscript%3E', /is no NAMESPACE/],
  ['service=x', /service: "x" is not NAMESPACE\/NAME/],
  ['port=70000', /port: "70000" is not 0..65535/],
  ['limit=0', /limit/],
  ['since=soon', /"soon" is no time/],
] as const) {
  test(`refused: ${query}`, (t) => {
    const { ask } = open();
    t.throws(() => ask(query), { code: 'ERR_FILTER', message });
  });
}

test('the oldest make room, and keep their numbers', (t) => {
  const { ask, drop } = open(4);
  for (let i = 0; i < 6; i++) drop(Drop.policyEgress, '10.244.1.5', '10.244.2.7', 80, 4000 + i);
  const { flows, next } = ask('');
  t.deepEqual(
    flows.map(({ sequence, source }) => [sequence, source.port]),
    [2, 3, 4, 5].map((i) => [i, 4000 + i]),
  );
  t.is(next, 6);
});

test('who follows gets what comes, each once', async (t) => {
  const { log, drop } = open();
  drop(Drop.policyEgress, '10.244.1.5', '10.244.2.7', 1);
  const filter = flowFilter(new URLSearchParams('after=1&port=3'), NOW_MS);
  const waiting = log.follow(filter, 5000);
  drop(Drop.policyEgress, '10.244.1.5', '10.244.2.7', 2);
  drop(Drop.policyEgress, '10.244.1.5', '10.244.2.7', 3);
  const { lines, next } = await waiting;
  t.regex(lines.toString(), /^[^\n]*"destination":\{[^}]*"port":3,[^\n]*\n$/);
  t.is(next, 3);
  const more = await log.follow({ ...filter, after: next }, 10);
  t.like(more, { next: 3, lost: 0 });
  t.is(more.lines.length, 0);
});

test('policies were asked of flows that began, not of packets of others that were cut', (t) => {
  const { log, drop, began } = open();
  began(null);
  began('10.244.2.7');
  drop(Drop.policyEgress, '10.244.1.5', '10.244.2.7', 80, 4000, build.SYN);
  drop(Drop.policyEgress, '10.244.2.7', '10.244.1.5', 4000, 80, build.ACK);
  drop(Drop.policyEgress, '10.244.2.7', '10.244.1.5', 4000, 80, build.SYN | build.ACK);
  drop(Drop.noPeer, '10.244.1.5', '10.244.9.9');
  drop(Drop.policyEgress, '10.244.1.5', '10.96.0.10', 5432, 4000, build.SYN);
  t.deepEqual(
    log
      .seen(0)
      .map(({ told, port, isDenied, isFrontend }) => [
        told.service?.name ?? told.destination.pod,
        port,
        isDenied,
        isFrontend,
      ]),
    [
      ['db', 5432, false, false],
      ['db', 5432, false, false],
      ['db', 80, true, false],
      ['db', 5432, true, true],
    ],
  );
  t.deepEqual(log.seen(NOW_MS + 1), []);
});

test('why a packet to a Service was denied: its endpoints are asked', (t) => {
  const { ask, drop } = open();
  drop(Drop.policyEgress, '10.244.1.5', '10.96.0.10', 5432);
  t.regex(ask('').flows[0]!.because ?? '', /NetworkPolicy shop\/closed isolates pod shop\/web/);
});
