/**
 * What comes of a datagram from the underlay: the reason it is dropped for, or the packet that the TUN
 * gets. The nodes are those of wire-harness.ts; 192.0.2.2 is A's underlay address and 192.0.2.3 B's.
 */
import test from 'ava';
import { parseAddress } from '../../wire/address.ts';
import type { DropName } from '../../wire/drop-reason.ts';
import * as build from './build.ts';
import {
  IngressPath,
  MAC_A,
  MAC_B,
  US,
  UdpEnd,
  Wire,
  dropsOf,
  error4,
  error6,
  stateOf,
  unaccounted,
} from './wire-harness.ts';

const A4 = '192.0.2.2';
const B4 = '192.0.2.3';
const A6 = '2001:db8::2';
const B6 = '2001:db8::3';

const from4 = { source: '10.244.2.7', destination: '10.244.1.5' } as const;
const from6 = { source: 'fd00:2::7', destination: 'fd00:1::5' } as const;
const toUs = { destinationMac: US.mac, sourceMac: MAC_A } as const;

const PAYLOAD = build.payloadOf(100);
const udp4 = build.udp(from4, PAYLOAD);
const udp6 = build.udp(from6, PAYLOAD);
const good4 = build.vxlan(toUs, udp4);
const good6 = build.vxlan(toUs, udp6);

/** A datagram with some bytes changed. */
function changed(datagram: Uint8Array, at: number, ...bytes: readonly number[]): Buffer {
  const copy = Buffer.from(datagram);
  copy.set(bytes, at);
  return copy;
}

/** An inner IPv4 header with some bytes changed and its checksum right again. */
const changed4 = (at: number, ...bytes: readonly number[]): Buffer =>
  build.vxlan({ ...toUs, etherType: 0x0800 }, build.finishIp(changed(udp4, at, ...bytes)));

const changed6 = (at: number, ...bytes: readonly number[]): Buffer =>
  build.vxlan({ ...toUs, etherType: 0x86dd }, changed(udp6, at, ...bytes));

type Outcome = DropName | Buffer;
type Row = readonly [name: string, datagram: Uint8Array, outcome: Outcome, source?: string];

const rows: readonly Row[] = [
  // The datagram.
  ['nothing', new Uint8Array(), 'truncated'],
  ['one byte', good4.subarray(0, 1), 'truncated'],
  ['VXLAN header alone', good4.subarray(0, 8), 'truncated'],
  ['one byte short of an Ethernet header', good4.subarray(0, 21), 'truncated'],
  ['Ethernet header alone', good4.subarray(0, 22), 'truncated'],
  ['one byte short of an IPv4 header', good4.subarray(0, 22 + 19), 'truncated'],
  ['one byte short of an IPv6 header', good6.subarray(0, 22 + 39), 'truncated'],
  ['I flag clear (RFC 7348 section 5)', changed(good4, 0, 0x00), 'flags'],
  ['every flag but I', changed(good4, 0, 0xf7), 'flags'],
  ['reserved flags set are ignored on receipt', changed(good4, 0, 0xff), udp4],
  ['reserved bits set are ignored on receipt', changed(good4, 1, 0xff, 0xff, 0xff), udp4],
  ['the last reserved byte too', changed(good4, 7, 0xff), udp4],
  ['another VNI', build.vxlan({ ...toUs, vni: 2 }, udp4), 'vni'],
  ['our VNI, shifted by a byte', changed(good4, 4, 0, 1, 0), 'vni'],
  ['the VNI with its highest bit set', changed(good4, 4, 0x80, 0, 1), 'vni'],
  // The frame.
  ['for another end point', build.vxlan({ ...toUs, destinationMac: MAC_B }, udp4), 'innerMac'],
  [
    'our address but for its first byte',
    build.vxlan({ ...toUs, destinationMac: '03:00:00:00:00:01' }, udp4),
    'innerMac',
  ],
  ['broadcast', build.vxlan({ ...toUs, destinationMac: 'ff:ff:ff:ff:ff:ff' }, udp4), 'innerMac'],
  ['any inner source address', build.vxlan({ ...toUs, sourceMac: MAC_B }, udp4), udp4],
  ['ARP', build.vxlan({ ...toUs, etherType: 0x0806 }, build.payloadOf(46)), 'etherType'],
  ['802.1Q', build.vxlan({ ...toUs, etherType: 0x8100 }, udp4), 'etherType'],
  ['IPv6 said, IPv4 there', build.vxlan({ ...toUs, etherType: 0x86dd }, udp4), 'ipHeader'],
  ['IPv4 said, IPv6 there', build.vxlan({ ...toUs, etherType: 0x0800 }, udp6), 'ipHeader'],
  // IPv4.
  ['IPv4', good4, udp4],
  ['IPv4, Ethernet padding behind it', Buffer.concat([good4, Buffer.alloc(26, 0xee)]), udp4],
  ['version 5', changed4(0, 0x55), 'ipHeader'],
  ['header of 16 bytes', changed4(0, 0x44), 'ipHeader'],
  ['header longer than the packet', build.vxlan(toUs, short4(0x4f)), 'ipHeader'],
  ['total length below the header', changed4(2, 0, 19), 'ipHeader'],
  ['total length zero', changed4(2, 0, 0), 'ipHeader'],
  ['total length one more than there is', changed4(2, 0, udp4.length + 1), 'ipHeader'],
  ['total length 65535', changed4(2, 0xff, 0xff), 'ipHeader'],
  ['header checksum wrong', changed(good4, 22 + 10, 0x12, 0x34), 'ipChecksum'],
  ['IPv4 options', ...both({ ...from4, ipOptions: [1, 1, 1, 0] })],
  ['TTL 0', build.vxlan(toUs, build.udp({ ...from4, ttl: 0 }, PAYLOAD)), 'ttl'],
  ['TTL 1 is the receiver', ...both({ ...from4, ttl: 1 })],
  ['a first fragment', ...both({ ...from4, moreFragments: true })],
  ['a last fragment', ...both({ ...from4, fragmentOffset: 185 })],
  // IPv6.
  ['IPv6', good6, udp6],
  ['IPv6, Ethernet padding behind it', Buffer.concat([good6, Buffer.alloc(26, 0xee)]), udp6],
  ['payload length one more than there is', changed6(4, 0, 109), 'ipHeader'],
  ['payload length 65535', changed6(4, 0xff, 0xff), 'ipHeader'],
  ['jumbogram (RFC 2675)', changed6(4, 0, 0, 0), 'ipHeader'],
  ['no next header', build.vxlan(toUs, noNext6()), noNext6()],
  ['hop limit 0', build.vxlan(toUs, build.udp({ ...from6, ttl: 0 }, PAYLOAD)), 'ttl'],
  ['hop limit 1', ...both({ ...from6, ttl: 1 })],
  // Who sent it.
  ['from nobody we know', good4, 'outerSource', '192.0.2.4'],
  ['from nobody we know, IPv6 inside', good6, 'outerSource', '192.0.2.4'],
  ['from ourselves', good4, 'outerSource', '192.0.2.1'],
  ['from 0.0.0.0', good4, 'outerSource', '0.0.0.0'],
  ["A's inner source sent by B", good4, 'innerSource', B4],
  ["A's inner IPv6 source sent by B", good6, 'innerSource', B4],
  [
    'our own inner source',
    build.vxlan(toUs, build.udp({ ...from4, source: '10.244.1.9' }, PAYLOAD)),
    'innerSource',
  ],
  [
    'an inner source of no peer',
    build.vxlan(toUs, build.udp({ ...from4, source: '192.168.7.7' }, PAYLOAD)),
    'innerSource',
  ],
  [
    'inner source 127.0.0.1',
    build.vxlan(toUs, build.udp({ ...from4, source: '127.0.0.1' }, PAYLOAD)),
    'innerSource',
  ],
  ["a host's own traffic, from .0", ...both({ ...from4, source: '10.244.2.0' })],
  ["the last address of A's subnet", ...both({ ...from4, source: '10.244.2.255' })],
  [
    "one after A's subnet",
    build.vxlan(toUs, build.udp({ ...from4, source: '10.244.3.0' }, PAYLOAD)),
    'innerSource',
  ],
  [
    "the last IPv6 address of A's subnet",
    ...both({ ...from6, source: 'fd00:2::ffff:ffff:ffff:ffff' }),
  ],
  [
    "one after A's IPv6 subnet",
    build.vxlan(toUs, build.udp({ ...from6, source: 'fd00:2:0:1::' }, PAYLOAD)),
    'innerSource',
  ],
  // What it is for.
  [
    "another peer's pod",
    build.vxlan(toUs, build.udp({ ...from4, destination: '10.244.3.5' }, PAYLOAD)),
    'innerDestination',
  ],
  [
    'the internet',
    build.vxlan(toUs, build.udp({ ...from4, destination: '198.51.100.1' }, PAYLOAD)),
    'innerDestination',
  ],
  [
    '127.0.0.1',
    build.vxlan(toUs, build.udp({ ...from4, destination: '127.0.0.1' }, PAYLOAD)),
    'innerDestination',
  ],
  [
    'multicast',
    build.vxlan(toUs, build.udp({ ...from4, destination: '224.0.0.1' }, PAYLOAD)),
    'innerDestination',
  ],
  [
    'IPv6 multicast',
    build.vxlan(toUs, build.udp({ ...from6, destination: 'ff02::1' }, PAYLOAD)),
    'innerDestination',
  ],
  ['our own .0', ...both({ ...from4, destination: US.node4 })],
  ['our own ::', ...both({ ...from6, destination: US.node6 })],
  // A tunnel to us in the tunnel.
  ['nested VXLAN', build.vxlan(toUs, nested(from4, US.node4, 8472)), 'nested'],
  ['nested VXLAN in IPv6', build.vxlan(toUs, nested(from6, US.node6, 8472)), 'nested'],
  [
    'nested VXLAN behind IPv4 options',
    build.vxlan(toUs, nested({ ...from4, ipOptions: [1, 1, 1, 0] }, US.node4, 8472)),
    'nested',
  ],
  [
    'nested VXLAN in a first fragment',
    build.vxlan(toUs, nested({ ...from4, moreFragments: true }, US.node4, 8472)),
    'nested',
  ],
  [
    'what only looks like it, in a later fragment',
    build.vxlan(toUs, nested({ ...from4, fragmentOffset: 9 }, US.node4, 8472)),
    nested({ ...from4, fragmentOffset: 9 }, US.node4, 8472),
  ],
  [
    "a pod's own port 8472",
    build.vxlan(toUs, nested(from4, '10.244.1.5', 8472)),
    nested(from4, '10.244.1.5', 8472),
  ],
  [
    'another port of the node',
    build.vxlan(toUs, nested(from4, US.node4, 8473)),
    nested(from4, US.node4, 8473),
  ],
];

/** A UDP packet with these fields, as a datagram and as the outcome. */
function both(fields: build.UdpFields): readonly [Buffer, Buffer] {
  const packet = build.udp(fields, PAYLOAD);
  return [build.vxlan(toUs, packet), packet];
}

/** Twenty-four bytes that claim a header of the given first byte. */
function short4(first: number): Buffer {
  return changed(build.ip(from4, build.UDP, build.payloadOf(4)), 0, first);
}

function noNext6(): Buffer {
  return build.ip(from6, 59, new Uint8Array());
}

function nested(fields: build.UdpFields, destination: string, destinationPort: number): Buffer {
  return build.udp({ ...fields, destination, destinationPort }, good4);
}

const state4 = stateOf(parseAddress(A4), parseAddress(B4));
const state6 = stateOf(parseAddress(A6), parseAddress(B6));

const toUnderlay6 = (address: string): string =>
  address === B4 ? B6 : address.replace('192.0.2.', '2001:db8::9');

for (const underlay of [4, 6] as const) {
  for (const [name, datagram, outcome, source = A4] of rows) {
    test(`IPv${underlay} underlay: ${name}`, (t) => {
      using path = new IngressPath(underlay === 4 ? state4 : state6, { underlay });
      const outer = underlay === 4 ? source : source === A4 ? A6 : toUnderlay6(source);
      const drop = path.take(datagram, outer);
      const written = path.tun.read();
      if (typeof outcome === 'string') {
        t.is(drop, outcome);
        t.deepEqual(written, []);
        t.deepEqual(dropsOf(path.counters), { [outcome]: 1 });
      } else {
        t.is(drop, 'none');
        t.deepEqual(
          written.map(({ packet }) => packet.toString('hex')),
          [outcome.toString('hex')],
        );
        t.is(path.counters['tunDelivered'], 1);
        t.is(path.counters['tunDeliveredBytes'], outcome.length);
      }
      t.is(unaccounted(path.counters), 0);
    });
  }
}

test('a UDP header cut off before its ports is not looked for behind the end', (t) => {
  using path = new IngressPath(state4);
  t.is(path.take(build.vxlan(toUs, nested(from4, US.node4, 8472)), A4), 'nested');
  // The same place still holds the port behind the end of this one.
  const short = build.ip({ ...from4, destination: US.node4 }, build.UDP, build.payloadOf(2));
  t.is(path.take(build.vxlan(toUs, short), A4), 'none');
  t.is(path.tun.read()[0]!.packet.toString('hex'), short.toString('hex'));
});

// In our subnet, but nobody's: whoever sent it is told, as by a router.
const toNobody = (fields: Partial<build.IpFields> = {}) => ({
  ...from4,
  destination: '10.244.1.77',
  ...fields,
});
const toNobody6 = { ...from6, destination: 'fd00:1::77' };
/** An IPv6 fragment header (RFC 8200 section 4.5) before these bytes; the offset in units of eight. */
const fragment6 = (protocol: number, offset: number, bytes: readonly number[]): Buffer =>
  build.ip(
    toNobody6,
    44,
    Buffer.from([protocol, 0, offset >> 5, (offset << 3) | 1, 0, 0, 0, 9, ...bytes]),
  );
const absent: readonly [name: string, packet: Buffer, told: boolean][] = [
  ['UDP', build.udp(toNobody(), PAYLOAD), true],
  ['TCP of the largest segment', build.tcp(toNobody(), build.payloadOf(1400)), true],
  ['UDP in IPv6', build.udp(toNobody6, PAYLOAD), true],
  ['from the node itself', build.udp(toNobody({ source: '10.244.2.0' }), PAYLOAD), true],
  ['the last address', build.udp(toNobody({ destination: '10.244.1.255' }), PAYLOAD), true],
  ['an echo request', build.icmp(toNobody(), 8, 0, PAYLOAD), true],
  ['an echo request in IPv6', build.icmp(toNobody6, 128, 0, PAYLOAD), true],
  ['an error', build.icmp(toNobody(), 3, 1, PAYLOAD), false],
  ['an error in IPv6', build.icmp(toNobody6, 1, 3, PAYLOAD), false],
  ['ICMP without a type', build.ip(toNobody(), build.ICMP, new Uint8Array()), false],
  ['ICMPv6 without a type', build.ip(toNobody6, build.ICMPV6, new Uint8Array()), false],
  ['a first fragment', build.udp(toNobody({ moreFragments: true }), PAYLOAD), true],
  ['a later fragment', build.udp(toNobody({ fragmentOffset: 9 }), PAYLOAD), false],
  ['a first IPv6 fragment', fragment6(build.UDP, 0, [1, 2, 3, 4]), true],
  ['a later IPv6 fragment', fragment6(build.UDP, 1, [1, 2, 3, 4]), false],
  ['an error in an IPv6 fragment', fragment6(build.ICMPV6, 0, [3, 0, 0, 0]), false],
  ['an echo request in an IPv6 fragment', fragment6(build.ICMPV6, 0, [128, 0, 0, 0]), true],
  ['an IPv6 fragment cut off', build.ip(toNobody6, 44, Buffer.from([build.UDP])), false],
  ['congestion marked outside', build.udp(toNobody({ tos: 2 }), PAYLOAD), true],
  [
    'what would be a tunnel to the node',
    build.udp({ ...toNobody(), destinationPort: 8472 }, good4),
    true,
  ],
];

for (const [name, packet, told] of absent) {
  test(`no such pod: ${name}: ${told ? 'the sender is told' : 'silence'}`, (t) => {
    using path = new IngressPath(state4);
    t.is(path.take(build.vxlan(toUs, packet), A4, packet[1] === 2 ? 3 : 0), 'noPod');
    const error = packet[0]! >> 4 === 4 ? error4(packet, 1, 0) : error6(packet, 1, 3, 0);
    t.deepEqual(
      path.tun.read().map((written) => written.packet.toString('hex')),
      told ? [error.toString('hex')] : [],
    );
    t.is(path.counters['icmpErrors'], told ? 1 : 0);
    t.is(unaccounted(path.counters), 0);
  });
}

test('no such pod: a TTL of 0 is that first, and a forged source is not answered', (t) => {
  using path = new IngressPath(state4);
  t.is(path.take(build.vxlan(toUs, build.udp(toNobody({ ttl: 0 }), PAYLOAD)), A4), 'ttl');
  t.is(path.take(build.vxlan(toUs, build.udp(toNobody(), PAYLOAD)), B4), 'innerSource');
  t.deepEqual(path.tun.read(), []);
});

test('a pod that is gone is not there from the next state on', (t) => {
  using wire = new Wire();
  wire.fromPeer(wire.a, good4);
  wire.settleDatagrams(1, 0);
  wire.publish({ pods: wire.state.pods.filter((pod) => typeof pod === 'bigint') });
  wire.fromPeer(wire.a, good4);
  wire.fromPeer(wire.a, good6);
  wire.settleDatagrams(2, 1);
  t.deepEqual(dropsOf(wire.counters), { noPod: 1 });
  t.deepEqual(
    wire.tun.read().map(({ packet }) => packet.toString('hex')),
    [udp4, error4(udp4, 1, 0), udp6].map((packet) => packet.toString('hex')),
  );
  t.is(unaccounted(wire.counters), 0);
});

test('lease lost: nothing is delivered', (t) => {
  using path = new IngressPath({ ...state4, forwarding: false });
  t.is(path.take(good4, A4), 'notForwarding');
  t.is(path.take(good6, A4), 'notForwarding');
  t.deepEqual(path.tun.read(), []);
});

test('before the first state: nothing is delivered, and no VNI is to blame', (t) => {
  using path = new IngressPath(null);
  t.is(path.take(good4, A4), 'notForwarding');
  t.is(path.take(good6, A4), 'notForwarding');
  t.deepEqual(path.tun.read(), []);
});

test('a node without an IPv6 subnet takes no IPv6', (t) => {
  using path = new IngressPath({ ...state4, subnet6: null });
  t.is(path.take(good6, A4), 'innerDestination');
  t.is(path.take(good4, A4), 'none');
});

test('a peer without an IPv6 subnet sends no IPv6', (t) => {
  using path = new IngressPath({
    ...state4,
    peers: state4.peers.map((peer) => ({ ...peer, subnet6: null, nextHop6: null })),
  });
  t.is(path.take(good6, A4), 'innerSource');
  t.is(path.take(good4, A4), 'none');
});

test('a peer without an IPv6 address cannot send from ::', (t) => {
  using path = new IngressPath(state4, { underlay: 6 });
  t.is(path.take(good4, '::'), 'outerSource');
});

// RFC 6040 figure 4, over both inner families: the packet that the pod gets carries this ECN field.
const NOT_ECT = 0;
const ECT1 = 1;
const ECT0 = 2;
const CE = 3;
const ecnRows: readonly [inner: number, outer: number, result: number | 'ecn'][] = [
  [NOT_ECT, NOT_ECT, NOT_ECT],
  [NOT_ECT, ECT0, NOT_ECT],
  [NOT_ECT, ECT1, NOT_ECT],
  [NOT_ECT, CE, 'ecn'],
  [ECT0, NOT_ECT, ECT0],
  [ECT0, ECT0, ECT0],
  [ECT0, ECT1, ECT1],
  [ECT0, CE, CE],
  [ECT1, NOT_ECT, ECT1],
  [ECT1, ECT0, ECT1],
  [ECT1, ECT1, ECT1],
  [ECT1, CE, CE],
  [CE, NOT_ECT, CE],
  [CE, ECT0, CE],
  [CE, ECT1, CE],
  [CE, CE, CE],
];

for (const [inner, outer, result] of ecnRows) {
  for (const [family, ends] of [
    ['IPv4', from4],
    ['IPv6', from6],
  ] as const) {
    test(`ECN: inner ${family} ${inner}, outer ${outer} gives ${result}`, (t) => {
      using path = new IngressPath(state4);
      const dscp = 0xb8;
      const packet = (ecn: number) => build.udp({ ...ends, tos: dscp | ecn }, PAYLOAD);
      const drop = path.take(build.vxlan(toUs, packet(inner)), A4, outer);
      if (result === 'ecn') {
        t.is(drop, 'ecn');
        t.deepEqual(path.tun.read(), []);
      } else {
        t.is(drop, 'none');
        t.is(path.tun.read()[0]!.packet.toString('hex'), packet(result).toString('hex'));
      }
    });
  }
}

// Through sockets.

for (const underlay of [4, 6] as const) {
  for (const batch of [true, false]) {
    for (const udpGro of [true, false]) {
      test(`IPv${underlay} sockets, batch ${batch}, GRO ${udpGro}: each datagram with its source and ECN`, (t) => {
        using wire = new Wire({ underlay, offloads: { batch, udpGro, coalesce: false } });
        const packets = Array.from({ length: 5 }, (_, i) =>
          build.udp({ ...from4, tos: 2 }, build.payloadOf(50 + i, i)),
        );
        for (const packet of packets) wire.fromPeer(wire.a, build.vxlan(toUs, packet), 3);
        wire.settleDatagrams(5, 0);
        t.deepEqual(
          wire.tun.read().map(({ packet }) => packet.toString('hex')),
          packets.map((_, i) =>
            build.udp({ ...from4, tos: 3 }, build.payloadOf(50 + i, i)).toString('hex'),
          ),
        );
        t.is(unaccounted(wire.counters), 0);
      });

      test(`IPv${underlay} sockets, batch ${batch}, GRO ${udpGro}: a segmented send is split`, (t) => {
        using wire = new Wire({ underlay, offloads: { batch, udpGro, coalesce: false } });
        const packets = Array.from({ length: 20 }, (_, i) =>
          build.udp(from4, build.payloadOf(i < 19 ? 300 : 7, i)),
        );
        const datagrams = packets.map((packet) => build.vxlan(toUs, packet));
        wire.a.segmentBy(datagrams[0]!.length);
        wire.fromPeer(wire.a, Buffer.concat(datagrams));
        wire.settleDatagrams(20, 0);
        t.deepEqual(
          wire.tun.read().map(({ packet }) => packet.toString('hex')),
          packets.map((packet) => packet.toString('hex')),
        );
        t.is(wire.counters['udpDatagrams'], 20);
        if (udpGro) t.is(wire.counters['udpReceives'], 1);
      });
    }
  }
}

test('sockets: each batch has room for what the kernel tells: segment size and ECN', (t) => {
  using wire = new Wire({ offloads: { coalesce: false } });
  const packet = (ecn: number) => build.udp({ ...from4, tos: ecn }, PAYLOAD);
  const datagram = build.vxlan(toUs, packet(2));
  for (let round = 0; round < 4; round++) {
    const before = wire.counters['udpDatagrams']!;
    const count = round % 2 === 0 ? 1 : 3;
    wire.a.segmentBy(round % 2 === 0 ? 0 : datagram.length);
    wire.fromPeer(wire.a, Buffer.concat(Array.from({ length: count }, () => datagram)), 3);
    wire.settleDatagrams(count, before);
    t.deepEqual(
      wire.tun.read().map((entry) => entry.packet.toString('hex')),
      Array.from({ length: count }, () => packet(3).toString('hex')),
    );
  }
});

test('sockets: the last datagram of a message ends where it ends', (t) => {
  using wire = new Wire({ offloads: { coalesce: false } });
  wire.a.segmentBy(good4.length);
  // What stands in the slot from the first message would make the cut one whole.
  wire.fromPeer(wire.a, Buffer.concat([good4, good4]));
  wire.settleDatagrams(2, 0);
  wire.fromPeer(wire.a, Buffer.concat([good4, good4.subarray(0, -1)]));
  wire.settleDatagrams(2, 2);
  t.deepEqual(dropsOf(wire.counters), { ipHeader: 1 });
  t.is(wire.tun.read().length, 3);
});

for (const ends of [from4, from6]) {
  test(`sockets: a packet from ${ends.source} that nobody has segmented is taken whole`, (t) => {
    using wire = new Wire();
    const packet = build.tcp({ ...ends, checksum: 'partial' }, build.payloadOf(5000));
    // What a tunnel packet looks like that reached us uncut: the size told is of the inner segments.
    wire.a.segmentBy(1000);
    wire.fromPeer(wire.a, build.vxlan(toUs, packet));
    wire.settleDatagrams(1, 0);
    const [written] = wire.tun.read();
    t.is(written!.packet.toString('hex'), packet.toString('hex'));
    t.is(written!.vnet.gsoSize, 1000);
    t.is(wire.counters['tunDelivered'], 1);
    t.is(unaccounted(wire.counters), 0);
  });
}

test('sockets: an empty datagram is counted as truncated', (t) => {
  using wire = new Wire();
  wire.fromPeer(wire.a, new Uint8Array());
  wire.settleDatagrams(1, 0);
  t.deepEqual(dropsOf(wire.counters), { truncated: 1 });
});

test('sockets: the largest datagram there is', (t) => {
  using wire = new Wire({ state: { mtuBytes: 65535 } });
  const packet = build.udp(from4, build.payloadOf(65507 - 22 - 28));
  wire.fromPeer(wire.a, build.vxlan(toUs, packet));
  wire.settleDatagrams(1, 0);
  t.true(wire.tun.read()[0]!.packet.equals(packet));
});

test("sockets: B's datagrams are not taken for A's", (t) => {
  using wire = new Wire();
  wire.fromPeer(wire.b, good4);
  wire.fromPeer(wire.a, good4);
  wire.settleDatagrams(2, 0);
  t.deepEqual(dropsOf(wire.counters), { innerSource: 1 });
  t.is(wire.counters['tunDelivered'], 1);
});

test('sockets: a change of state holds from the next batch on', (t) => {
  using wire = new Wire();
  using stranger = new UdpEnd(parseAddress('127.0.0.1'), 0);
  wire.fromPeer(stranger, good4);
  wire.settleDatagrams(1, 0);
  wire.publish({
    peers: wire.state.peers.map((peer) =>
      peer.name === 'A' ? { ...peer, addresses: [parseAddress('127.0.0.1')] } : peer,
    ),
  });
  wire.fromPeer(stranger, good4);
  wire.fromPeer(wire.a, good4);
  wire.settleDatagrams(2, 1);
  t.deepEqual(dropsOf(wire.counters), { outerSource: 2 });
  t.is(wire.counters['tunDelivered'], 1);
});
