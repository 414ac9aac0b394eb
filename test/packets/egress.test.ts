/**
 * What comes of a packet that a pod sends: the datagrams that its peer gets, byte for byte, or the
 * reason it is dropped for and the ICMP error that its sender gets. Nodes as in wire-harness.ts.
 */
import test, { type ExecutionContext } from 'ava';
import { type Family, parseAddress } from '../../wire/address.ts';
import type { DropName } from '../../wire/drop-reason.ts';
import { enableGro } from '../../linux/udp.ts';
import * as build from './build.ts';
import {
  MAC_A,
  MAC_B,
  US,
  type VnetHeader,
  Wire,
  dropsOf,
  error4,
  error6,
  large,
  unaccounted,
  unfinished,
} from './wire-harness.ts';

const to4 = { source: '10.244.1.5', destination: '10.244.2.7' } as const;
const to6 = { source: 'fd00:1::5', destination: 'fd00:2::7' } as const;
const { ACK, PSH, FIN, CWR } = build;
const GSO_ECN = 0x80;
const MTU = 1450;

const toA = (packet: Uint8Array): Buffer =>
  build.vxlan({ destinationMac: MAC_A, sourceMac: US.mac }, packet);

const hex = (packets: readonly Uint8Array[]): string[] =>
  packets.map((packet) => Buffer.from(packet).toString('hex'));

/** The inner packets that the peers got. */
const innerOf = (wire: Wire): Buffer[] =>
  wire.received().map(({ payload }) => payload.subarray(22));

interface Sent {
  readonly name: string;
  readonly packet: Buffer;
  readonly vnet: Partial<VnetHeader>;
  /** What the peer must get. */
  readonly inner: readonly Buffer[];
}

function alone(name: string, packet: Buffer): Sent {
  return { name, packet, vnet: {}, inner: [packet] };
}

function finished(name: string, packet: Buffer): Sent {
  return {
    name,
    packet,
    vnet: unfinished(packet),
    inner: [build.finishTransport(Buffer.from(packet))],
  };
}

function cut(name: string, packet: Buffer, gsoSize: number, gsoFlag = 0): Sent {
  const vnet = large(packet, gsoSize);
  const inner = build.segmentReference(packet, gsoSize);
  return { name, packet, vnet: { ...vnet, gsoType: vnet.gsoType! | gsoFlag }, inner };
}

/** UDP datagrams of 20 bytes whose checksum comes out as zero, which is sent as ones (RFC 768). */
function zeroSum(ends: typeof to4 | typeof to6, datagrams = 1): Buffer {
  const payload = Buffer.alloc(20);
  const packet = build.udp(ends, payload);
  payload.writeUInt16BE(packet.readUInt16BE(build.transportAt(packet) + 6), 0);
  const payloads = Buffer.concat(Array.from({ length: datagrams }, () => payload));
  return build.udp({ ...ends, checksum: 'partial' }, payloads);
}

const timestamps = [1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9];
const partial = { checksum: 'partial' } as const;

function sentOver(family: Family): Sent[] {
  const ends = family === 4 ? to4 : to6;
  const name = (text: string) => `IPv${family}: ${text}`;
  const tcp = (fields: Partial<build.TcpFields>, bytes: number): Buffer =>
    build.tcp({ ...ends, dontFragment: true, ...fields }, build.payloadOf(bytes));
  const udp = (fields: Partial<build.UdpFields>, bytes: number): Buffer =>
    build.udp({ ...ends, dontFragment: true, ...fields }, build.payloadOf(bytes));
  const tcpMss = MTU - (family === 4 ? 40 : 60);
  const udpMax = MTU - (family === 4 ? 28 : 48);
  return [
    alone(name('an empty UDP packet'), udp({}, 0)),
    alone(name('UDP'), udp({}, 64)),
    alone(name('UDP of the MTU'), udp({}, udpMax)),
    alone(name('UDP without a checksum'), udp({ checksum: 0 }, 64)),
    alone(name('TCP of the MTU'), tcp({}, tcpMss)),
    alone(name('a wrong checksum is not ours to mend'), tcp({ checksum: 0x1234 }, 99)),
    alone(
      name('an echo request'),
      build.icmp(ends, family === 4 ? 8 : 128, 0, build.payloadOf(60)),
    ),
    alone(name('any protocol'), build.ip(ends, 132, build.payloadOf(99))),
    alone(name('TTL 1: the kernel has counted it down'), udp({ ttl: 1 }, 64)),
    finished(name('TCP checksum'), tcp(partial, 999)),
    finished(name('TCP checksum, odd length'), tcp({ ...partial, options: timestamps }, 1000)),
    finished(name('UDP checksum'), udp(partial, 1000)),
    finished(name('UDP checksum, odd length'), udp(partial, 7)),
    finished(name('UDP checksum of zero'), zeroSum(ends)),
    cut(name('TCP of two segments'), tcp(partial, 2 * tcpMss), tcpMss),
    cut(name('TCP of one byte more'), tcp(partial, tcpMss + 1), tcpMss),
    cut(name('TCP of one segment'), tcp(partial, tcpMss), tcpMss),
    cut(name('TCP smaller than its segment size'), tcp(partial, 100), tcpMss),
    cut(name('TCP of odd segments'), tcp(partial, 5000), 333),
    cut(name('TCP of segments of one byte'), tcp(partial, 70), 1),
    cut(name('TCP of 64 KB'), tcp({ ...partial, options: timestamps }, 65400), tcpMss - 12),
    cut(name('TCP of more segments than a message takes'), tcp(partial, 20_000), 150),
    cut(name('TCP: FIN and PSH last'), tcp({ ...partial, flags: ACK | PSH | FIN }, 3000), 1000),
    cut(name('TCP: CWR first'), tcp({ ...partial, flags: ACK | CWR, tos: 2 }, 3000), 1000, GSO_ECN),
    cut(name('TCP: sequence wraps'), tcp({ ...partial, sequence: 0xfffffc00 }, 3000), 1000),
    cut(name('TCP: identification wraps'), tcp({ ...partial, id: 0xfffe }, 4000), 1000),
    cut(name('TCP: without DF'), tcp({ ...partial, dontFragment: false }, 4000), 1000),
    cut(name('TCP: the sum need not stand in the field'), tcp({ checksum: 0 }, 3000), 1000),
    cut(name('UDP of three'), udp(partial, 3000), 1000),
    cut(name('UDP of odd datagrams'), udp(partial, 3001), 1001),
    cut(name('UDP of 64 KB'), udp(partial, 65400), udpMax),
    cut(name('UDP of datagrams with a sum of zero'), zeroSum(ends, 3), 20),
    cut(name('UDP of datagrams of one byte'), udp(partial, 60), 1),
  ];
}

const options4 = { ...to4, ipOptions: [1, 1, 1, 1, 1, 1, 1, 0] };
const everything: readonly Sent[] = [
  ...sentOver(4),
  ...sentOver(6),
  alone('IPv4 options', build.udp(options4, build.payloadOf(64))),
  cut(
    'TCP behind IPv4 options',
    build.tcp({ ...options4, ...partial }, build.payloadOf(3000)),
    999,
  ),
  cut(
    'the longest headers',
    build.tcp(
      {
        ...to4,
        ...partial,
        ipOptions: Array.from({ length: 40 }, () => 1),
        options: Array.from({ length: 40 }, () => 1),
      },
      build.payloadOf(3000),
    ),
    999,
  ),
  alone('a fragment', build.udp({ ...to4, moreFragments: true }, build.payloadOf(64))),
  alone('a last fragment', build.udp({ ...to4, fragmentOffset: 4 }, build.payloadOf(64))),
];

/** What arrives is what was sent, encapsulated; whatever way it went. */
function expectSent(t: ExecutionContext, wire: Wire, sent: Sent): void {
  wire.carry([sent.packet, sent.vnet]);
  const datagrams = wire.received();
  t.deepEqual(hex(datagrams.map(({ payload }) => payload)), hex(sent.inner.map(toA)), sent.name);
  t.is(new Set(datagrams.map(({ sourcePort }) => sourcePort)).size, 1, 'one flow, one source port');
}

for (const underlay of [4, 6] as const) {
  test(`IPv${underlay} underlay: each packet alone`, (t) => {
    using wire = new Wire({ underlay });
    for (const sent of everything) expectSent(t, wire, sent);
    t.deepEqual(dropsOf(wire.counters), {});
    t.is(wire.counters['egressAccepted'], everything.length);
    t.is(unaccounted(wire.counters), 0);
    t.deepEqual(wire.events, []);
  });

  for (const udpGso of [true, false]) {
    for (const batch of [true, false]) {
      for (const tunUso of [true, false]) {
        test(`rung: IPv${underlay}, vnet header, USO ${tunUso}, GSO ${udpGso}, batch ${batch}`, (t) => {
          using wire = new Wire({ underlay, offloads: { udpGso, batch, tunUso } });
          for (const sent of everything) expectSent(t, wire, sent);
          t.deepEqual(dropsOf(wire.counters), {});
        });
      }
      test(`rung: IPv${underlay}, no vnet header, GSO ${udpGso}, batch ${batch}`, (t) => {
        const offloads = { udpGso, batch, tunTso: false, tunUso: false };
        using wire = new Wire({ underlay, offloads });
        for (const { name, packet, vnet } of everything) {
          if (vnet.flags === undefined) expectSent(t, wire, alone(name, packet));
        }
        t.deepEqual(dropsOf(wire.counters), {});
      });
    }
  }
}

test('the reference cuts as devices do: each segment is right in itself', (t) => {
  for (const { name, inner, vnet } of everything) {
    if (vnet.flags === undefined) continue;
    for (const packet of inner) t.deepEqual(build.faultsOf(packet), [], name);
  }
});

test('a batch of many flows to two peers: each gets its own, in order', (t) => {
  using wire = new Wire();
  const packets = Array.from({ length: 64 }, (_, i) =>
    build.udp(
      {
        source: '10.244.1.5',
        destination: i % 3 === 0 ? '10.244.3.9' : '10.244.2.9',
        sourcePort: 1000 + (i % 7),
        tos: i % 4 === 0 ? 2 : 0,
      },
      build.payloadOf(100 + (i % 2), i),
    ),
  );
  for (const packet of packets) t.true(wire.tun.write(packet));
  wire.settle();
  t.is(wire.counters['tunPackets'], 64);
  t.true(wire.counters['udpSends']! <= 4, 'one system call for each source port');
  const at = (peer: 2 | 3): Buffer[] => packets.filter((packet) => packet[18] === peer);
  for (const [end, expected, mac] of [
    [wire.a, at(2), MAC_A],
    [wire.b, at(3), MAC_B],
  ] as const) {
    const payloads = end.receive(expected.length).map(({ payload }) => payload);
    t.is(payloads.length, expected.length);
    for (const payload of payloads) {
      t.is(
        payload.toString('hex', 0, 22),
        build
          .vxlan({ destinationMac: mac, sourceMac: US.mac }, Buffer.of(0x40))
          .toString('hex', 0, 22),
      );
    }
    const flowsOf = (list: readonly Buffer[]) =>
      Object.fromEntries(
        [...Map.groupBy(list, (packet) => build.flowOf(packet))].map(([flow, found]) => [
          flow,
          hex(found),
        ]),
      );
    t.deepEqual(flowsOf(payloads.map((payload) => payload.subarray(22))), flowsOf(expected));
  }
});

const groupings: readonly [name: string, payloads: readonly number[], messages: number][] = [
  ['equal sizes are one message', [100, 100, 100, 100], 1],
  ['a smaller last belongs to it', [100, 100, 50], 1],
  ['and ends it', [100, 100, 50, 50], 2],
  ['a larger one begins anew', [100, 200, 200], 2],
  ['64 are the limit', Array.from({ length: 65 }, () => 10), 2],
  ['65,507 bytes are the limit', Array.from({ length: 46 }, () => 1400), 2],
];

for (const [name, payloads, messages] of groupings) {
  test(`grouping: ${name}`, (t) => {
    using wire = new Wire({ senders: 1 });
    const packets = payloads.map((bytes, i) => build.udp(to4, build.payloadOf(bytes, i)));
    // A socket with GRO gets what was one message as one message: loopback does not cut it up.
    enableGro(wire.a.fd);
    for (const packet of packets) t.true(wire.tun.write(packet));
    wire.settle();
    const received = wire.a.receive(messages);
    t.is(received.length, messages);
    t.deepEqual(
      Buffer.concat(received.map(({ payload }) => payload)).toString('hex'),
      Buffer.concat(packets.map(toA)).toString('hex'),
    );
    t.is(wire.counters['udpSentDatagrams'], packets.length);
  });
}

for (const underlay of [4, 6] as const) {
  for (const [family, ends] of [
    ['IPv4', to4],
    ['IPv6', to6],
  ] as const) {
    test(`ECN of inner ${family} goes into the outer IPv${underlay} header, DSCP does not`, (t) => {
      using wire = new Wire({ underlay });
      for (const ecn of [0, 1, 2, 3]) {
        for (const packet of [
          build.udp({ ...ends, tos: 0xb8 | ecn }, build.payloadOf(10)),
          build.tcp({ ...ends, tos: 0xb8 | ecn, flags: ACK }, build.payloadOf(3000)),
        ]) {
          wire.carry([packet, packet.length > 1000 ? large(packet, 1000) : {}]);
          const received = wire.received();
          t.is(received.length, packet.length > 1000 ? 3 : 1);
          for (const { tos } of received) t.is(tos, ecn);
        }
      }
    });
  }
}

test('packets of one size and flow, but not of one ECN field, each keep theirs', (t) => {
  using wire = new Wire({ senders: 1 });
  const fields = [0, 2, 2, 0, 3, 1, 1, 0];
  for (const ecn of fields) {
    t.true(wire.tun.write(build.udp({ ...to4, tos: ecn }, build.payloadOf(50))));
  }
  wire.settle();
  t.deepEqual(
    wire.received().map(({ payload, tos }) => [payload[22 + 1], tos]),
    fields.map((ecn) => [ecn, ecn]),
  );
});

test('flows are spread over source ports', (t) => {
  using wire = new Wire({ senders: 4 });
  const portsOf = (port: number): number[] => {
    wire.carry(
      build.udp({ ...to4, sourcePort: port }, build.payloadOf(10)),
      build.udp({ ...to4, sourcePort: port }, build.payloadOf(900)),
    );
    return wire.received().map(({ sourcePort }) => sourcePort);
  };
  const flows = Array.from({ length: 64 }, (_, i) => portsOf(40000 + i));
  for (const ports of flows) t.is(new Set(ports).size, 1);
  const counts = Object.values(Object.groupBy(flows, (ports) => String(ports[0])));
  t.is(counts.length, 4);
  for (const group of counts)
    t.true(group!.length >= 4, `of 64 flows one port has ${group!.length}`);
});

test('the fragments of a packet go by one port', (t) => {
  using wire = new Wire({ senders: 4 });
  for (let i = 0; i < 16; i++) {
    const ends = { ...to4, destination: `10.244.2.${i}` };
    wire.carry(build.udp({ ...ends, sourcePort: i, moreFragments: true }, build.payloadOf(64)));
    wire.carry(build.udp({ ...ends, sourcePort: 99, fragmentOffset: 9 }, build.payloadOf(64)));
    t.is(new Set(wire.received().map(({ sourcePort }) => sourcePort)).size, 1);
  }
});

// What is not sent.

type Refused = readonly [
  name: string,
  packet: Buffer,
  reason: DropName,
  answer: Buffer | null,
  vnet?: Partial<VnetHeader>,
];

const udpTo = (destination: string, fields: Partial<build.UdpFields> = {}, bytes = 100): Buffer =>
  build.udp(
    { source: destination.includes(':') ? to6.source : to4.source, destination, ...fields },
    build.payloadOf(bytes),
  );

const nowhere4 = udpTo('10.244.9.9');
const nowhere6 = udpTo('fd00:9::9');
const long4 = udpTo('10.244.9.9', {}, 1200);
const long6 = udpTo('fd00:9::9', {}, 1300);
const big4 = udpTo(to4.destination, { dontFragment: true }, 1423);
const big6 = udpTo(to6.destination, {}, 1403);
const tso4 = build.tcp({ ...to4, dontFragment: true, ...partial }, build.payloadOf(5000));
const tso6 = build.tcp({ ...to6, ...partial }, build.payloadOf(5000));
const uso4 = build.udp({ ...to4, dontFragment: true, ...partial }, build.payloadOf(5000));

const changed = (packet: Buffer, at: number, ...bytes: readonly number[]): Buffer => {
  const copy = Buffer.from(packet);
  copy.set(bytes, at);
  return copy;
};

const refused: readonly Refused[] = [
  ['no peer: host unreachable', nowhere4, 'noPeer', error4(nowhere4, 1, 0)],
  ['no peer, IPv6: address unreachable', nowhere6, 'noPeer', error6(nowhere6, 1, 3, 0)],
  ['the quote ends at 576 bytes', long4, 'noPeer', error4(long4, 1, 0)],
  ['the quote ends at 1280 bytes', long6, 'noPeer', error6(long6, 1, 3, 0)],
  ['no pod', udpTo('10.244.1.77'), 'noPod', error4(udpTo('10.244.1.77'), 1, 0)],
  ['no pod, IPv6', udpTo('fd00:1::77'), 'noPod', error6(udpTo('fd00:1::77'), 1, 3, 0)],
  ['multicast', udpTo('224.0.0.251'), 'multicast', null],
  ['reserved', udpTo('240.0.0.1'), 'multicast', null],
  ['broadcast', udpTo('255.255.255.255'), 'multicast', null],
  ['IPv6 multicast', udpTo('ff02::1'), 'multicast', null],
  ['not our source', udpTo(to4.destination, { source: '10.9.9.9' }), 'notOurSource', null],
  ["a peer's source", udpTo(to4.destination, { source: '10.244.3.1' }), 'notOurSource', null],
  ['not our IPv6 source', udpTo(to6.destination, { source: 'fd00:3::1' }), 'notOurSource', null],
  ['no peer, not our source', udpTo('10.244.9.9', { source: '10.9.9.9' }), 'notOurSource', null],
  ...[3, 4, 5, 11, 12].map((type): Refused => [
    `no error about ICMP type ${type}`,
    build.icmp({ ...to4, destination: '10.244.9.9' }, type, 0, build.payloadOf(40)),
    'noPeer',
    null,
  ]),
  ...[1, 2, 3, 4, 127].map((type): Refused => [
    `no error about ICMPv6 type ${type}`,
    build.icmp({ ...to6, destination: 'fd00:9::9' }, type, 0, build.payloadOf(40)),
    'noPeer',
    null,
  ]),
  [
    'about an echo request there is one',
    build.icmp({ ...to4, destination: '10.244.9.9' }, 8, 0, build.payloadOf(40)),
    'noPeer',
    error4(build.icmp({ ...to4, destination: '10.244.9.9' }, 8, 0, build.payloadOf(40)), 1, 0),
  ],
  ['no error about a later fragment', udpTo('10.244.9.9', { fragmentOffset: 3 }), 'noPeer', null],
  [
    'about the first fragment there is one',
    udpTo('10.244.9.9', { moreFragments: true }),
    'noPeer',
    error4(udpTo('10.244.9.9', { moreFragments: true }), 1, 0),
  ],
  ['too big, DF', big4, 'tooBig', error4(big4, 4, MTU)],
  ['too big, IPv6', big6, 'tooBig', error6(big6, 2, 0, MTU)],
  ['TSO: a segment too big, DF', tso4, 'tooBig', error4(tso4, 4, MTU), large(tso4, 1411)],
  ['TSO: a segment too big, IPv6', tso6, 'tooBig', error6(tso6, 2, 0, MTU), large(tso6, 1391)],
  ['USO: a datagram too big, DF', uso4, 'tooBig', error4(uso4, 4, MTU), large(uso4, 1423)],
  // Packets that a kernel does not make.
  ['nothing', Buffer.alloc(0), 'ipHeader', null],
  ['no version', Buffer.alloc(100), 'ipHeader', null],
  ['version 15', changed(nowhere4, 0, 0xf5), 'ipHeader', null],
  ['IPv4 of 19 bytes', nowhere4.subarray(0, 19), 'truncated', null],
  ['IPv6 of 39 bytes', nowhere6.subarray(0, 39), 'truncated', null],
  ['a total length beyond the end', nowhere4.subarray(0, 60), 'ipHeader', null],
  ['a payload length beyond the end', nowhere6.subarray(0, 60), 'ipHeader', null],
  [
    'a vnet header of another protocol',
    tso4,
    'offloadHeader',
    null,
    { ...large(tso4, 1000), gsoType: 5 },
  ],
  ['of the other family', tso4, 'offloadHeader', null, { ...large(tso4, 1000), gsoType: 4 }],
  ['of UFO (gso_type 3)', uso4, 'offloadHeader', null, { ...large(uso4, 1000), gsoType: 3 }],
  ['segment size zero', tso4, 'offloadHeader', null, large(tso4, 0)],
  ['a TCP header of 16 bytes', changed(tso4, 32, 0x40), 'offloadHeader', null, large(tso4, 1000)],
  [
    'segmentation of nothing',
    build.tcp({ ...to4, ...partial }, new Uint8Array()),
    'offloadHeader',
    null,
    large(tso4, 1000),
  ],
  [
    'a checksum in the IP header',
    nowhere(),
    'offloadHeader',
    null,
    { flags: 1, csumStart: 12, csumOffset: 6 },
  ],
  [
    'a checksum behind the end',
    nowhere(),
    'offloadHeader',
    null,
    { flags: 1, csumStart: 20, csumOffset: 107 },
  ],
  [
    'a checksum far behind',
    nowhere(),
    'offloadHeader',
    null,
    { flags: 1, csumStart: 65535, csumOffset: 65535 },
  ],
];

function nowhere(): Buffer {
  return udpTo(to4.destination);
}

for (const [name, packet, reason, answer, vnet = {}] of refused) {
  test(`refused: ${name}`, (t) => {
    using wire = new Wire();
    // Behind one that is sent, so that the message is not taken for the end of what is there.
    if (packet.length === 0) {
      t.true(wire.tun.write(packet, vnet));
      wire.settle();
    } else {
      wire.carry([packet, vnet]);
    }
    t.deepEqual(dropsOf(wire.counters), { [reason]: 1 });
    t.deepEqual(
      hex(wire.tun.read().map((entry) => entry.packet)),
      hex(answer === null ? [] : [answer]),
    );
    t.is(wire.counters['icmpErrors'], answer === null ? 0 : 1);
    t.is(wire.counters['udpSentDatagrams'], 0);
    t.is(unaccounted(wire.counters), 0);
  });
}

test('lease lost: nothing is sent, and nobody is told that peers are gone', (t) => {
  using wire = new Wire({ state: { forwarding: false } });
  wire.carry(udpTo(to4.destination), udpTo(to6.destination), udpTo(to4.destination, {}, 3000));
  t.deepEqual(dropsOf(wire.counters), { notForwarding: 3 });
  t.deepEqual(wire.tun.read(), []);
});

test('a peer without a next hop for this family', (t) => {
  using wire = new Wire();
  wire.publish({ peers: wire.state.peers.map((peer) => ({ ...peer, nextHop6: null })) });
  const packet = udpTo(to6.destination);
  wire.carry(packet, udpTo(to4.destination));
  t.deepEqual(dropsOf(wire.counters), { noPeer: 1 });
  t.deepEqual(hex(wire.tun.read().map((entry) => entry.packet)), hex([error6(packet, 1, 3, 0)]));
  t.is(wire.received().length, 1);
});

test('a peer that only the other underlay family reaches', (t) => {
  using four = new Wire();
  using six = new Wire({ underlay: 6, state: { peers: four.state.peers } });
  const packet = udpTo(to4.destination);
  six.carry(packet);
  t.deepEqual(dropsOf(six.counters), { noPeer: 1 });
  t.deepEqual(hex(six.tun.read().map((entry) => entry.packet)), hex([error4(packet, 1, 0)]));
});

test('before anything is published, nothing is sent and nothing answered', (t) => {
  using wire = new Wire({ state: { subnet4: null, subnet6: null, peers: [] } });
  wire.carry(nowhere4, nowhere6);
  t.deepEqual(dropsOf(wire.counters), { notOurSource: 2 });
  t.deepEqual(wire.tun.read(), []);
});

// Fragments.

/** RFC 791 section 3.2, the receiving side. @returns the packet, but for its identification's sums */
function reassemble(t: ExecutionContext, fragments: readonly Buffer[]): Buffer {
  const [first] = fragments;
  const header = build.transportAt(first!);
  const parts: Buffer[] = [];
  let offset = first!.readUInt16BE(6) & 0x1fff;
  const begin = offset;
  for (const [i, fragment] of fragments.entries()) {
    t.is(fragment.readUInt16BE(2), fragment.length);
    t.true(fragment.length <= MTU);
    t.is(fragment.readUInt16BE(4), first!.readUInt16BE(4), 'one identification');
    t.deepEqual(build.finishIp(Buffer.from(fragment)), fragment, 'header checksum');
    t.is(fragment.readUInt16BE(6) & 0x1fff, offset);
    const isLast = i === fragments.length - 1;
    if (!isLast) t.is((fragment.length - header) % 8, 0);
    if (!isLast) t.is(fragment.readUInt16BE(6) >> 13, 1);
    parts.push(fragment.subarray(header));
    offset += (fragment.length - header) / 8;
  }
  const packet = Buffer.concat([first!.subarray(0, header), ...parts]);
  packet.writeUInt16BE(packet.length, 2);
  packet.writeUInt16BE((fragments.at(-1)!.readUInt16BE(6) & 0xe000) | begin, 6);
  return build.finishIp(packet);
}

const fragmented: readonly [name: string, packet: Buffer, fragments: number][] = [
  ['one byte too long', udpTo(to4.destination, {}, 1423), 2],
  ['UDP of 4000 bytes', udpTo(to4.destination, {}, 4000), 3],
  ['64 KB', udpTo(to4.destination, {}, 65507), 47],
  [
    'a fragment, in the middle',
    udpTo(to4.destination, { moreFragments: true, fragmentOffset: 185 }, 2992),
    3,
  ],
  ['a last fragment', udpTo(to4.destination, { fragmentOffset: 185 }, 2999), 3],
  ['IPv4 options', build.udp(options4, build.payloadOf(4000)), 3],
];

for (const [name, packet, count] of fragmented) {
  test(`fragments without DF: ${name}`, (t) => {
    using wire = new Wire();
    wire.carry(packet);
    const fragments = innerOf(wire);
    t.is(fragments.length, count);
    t.is(reassemble(t, fragments).toString('hex'), packet.toString('hex'));
    t.deepEqual(dropsOf(wire.counters), {});
    t.is(unaccounted(wire.counters), 0);
  });
}

test('fragments: the checksum is finished first', (t) => {
  using wire = new Wire();
  const packet = build.udp({ ...to4, ...partial }, build.payloadOf(4000));
  wire.carry([packet, unfinished(packet)]);
  t.deepEqual(build.faultsOf(reassemble(t, innerOf(wire))), []);
});

test('TSO without DF: segments that are too big become smaller ones', (t) => {
  using wire = new Wire();
  const packet = build.tcp({ ...to4, ...partial, flags: ACK | PSH }, build.payloadOf(5000));
  wire.carry([packet, large(packet, 1460)]);
  t.deepEqual(hex(innerOf(wire)), hex(build.segmentReference(packet, MTU - 40)));
});

// The path's MTU. Loopback carries at most 65,536 bytes, so a packet of the largest size is too big.

for (const underlay of [4, 6] as const) {
  test(`IPv${underlay} underlay: a lowered path MTU is learned once, and each sender told`, (t) => {
    using wire = new Wire({ underlay, state: { mtuBytes: 65535 } });
    // The kernel never believes in more than 65,535 bytes of IPv4 (IP_MAX_MTU).
    const pathMtu = underlay === 4 ? 65535 - 50 : 65536 - 70;
    const packet = udpTo(to4.destination, { dontFragment: true }, 65500);
    const small = udpTo(to4.destination, { dontFragment: true }, 100);
    for (let i = 0; i < 3; i++) {
      if (!wire.tun.write(packet)) t.fail('the TUN twin has no room');
    }
    t.true(wire.tun.write(small));
    wire.settle();
    t.deepEqual(dropsOf(wire.counters), { tooBig: 3 });
    t.deepEqual(wire.events, [{ kind: 'path-mtu', peer: 'A', mtuBytes: pathMtu }]);
    const told = error4(packet, 4, pathMtu);
    t.deepEqual(hex(wire.tun.read().map((entry) => entry.packet)), hex([told, told, told]));
    t.is(unaccounted(wire.counters), 0);

    const sends = wire.counters['udpSends']!;
    wire.carry(packet);
    t.is(wire.counters['udpSends'], sends, 'the next one is not even tried');
    t.deepEqual(hex(wire.tun.read().map((entry) => entry.packet)), hex([told]));

    wire.publish({});
    wire.carry(packet);
    t.is(wire.events.length, 2, 'and learned anew with the next state');
    t.deepEqual(hex(innerOf(wire)), hex([small]));
  });
}

test('the kernel refuses segmentation: said once, and everything arrives one by one', (t) => {
  using wire = new Wire();
  wire.refuseSegmentation();
  const packets = Array.from({ length: 8 }, (_, i) =>
    build.tcp({ ...to4, ...partial, sourcePort: 1000 + i, tos: i & 2 }, build.payloadOf(3000, i)),
  );
  for (const packet of packets) t.true(wire.tun.write(packet, large(packet, 1000)));
  wire.settle();
  const received = wire.received();
  for (const { payload, tos } of received) t.is(tos, payload[23]! & 3);
  const expected = packets.flatMap((packet) => build.segmentReference(packet, 1000).map(toA));
  t.deepEqual(hex(received.map(({ payload }) => payload)).sort(), hex(expected).sort());
  t.deepEqual(
    wire.events.map((event) => event.kind === 'offload-off' && event.offload),
    ['udpGso'],
  );
  t.deepEqual(dropsOf(wire.counters), {});
  t.is(unaccounted(wire.counters), 0);

  // From now on nobody asks for it.
  wire.carry([packets[0]!, large(packets[0]!, 1000)]);
  t.is(wire.received().length, 3);
  t.is(wire.events.length, 1);
});

test('a peer that cannot be reached: datagrams are counted as not sent', (t) => {
  using wire = new Wire();
  // 127.0.0.1 cannot send to a broadcast address without permission: EACCES.
  wire.publish({
    peers: wire.state.peers.map((peer) => ({
      ...peer,
      nextHop4: { ...peer.nextHop4!, address: parseAddress('127.255.255.255') },
    })),
  });
  wire.carry(udpTo(to4.destination), udpTo('10.244.3.4'));
  t.deepEqual(dropsOf(wire.counters), { sendFailed: 2 });
  t.is(unaccounted(wire.counters), 0);
});
