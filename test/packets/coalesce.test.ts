/**
 * Which segments of one batch become one packet for the TUN. Each row names packets in the order they
 * come in, and how they are grouped when they are written: `[0, 1, 2]` is one large packet of three.
 * A large packet is right if cutting it up again, as a device would, gives the packets that came in.
 */
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { parseAddress } from '../../wire/address.ts';
import * as build from './build.ts';
import {
  IngressPath,
  MAC_A,
  NO_OFFLOAD,
  type TunPacket,
  US,
  dropsOf,
  stateOf,
  unaccounted,
} from './wire-harness.ts';

const A = '192.0.2.2';
const state = stateOf(parseAddress(A), parseAddress('192.0.2.3'));
const from4 = { source: '10.244.2.7', destination: '10.244.1.5' } as const;
const from6 = { source: 'fd00:2::7', destination: 'fd00:1::5' } as const;
const { ACK, PSH, FIN, SYN, RST, URG, ECE, CWR } = build;
const SIZE = 1000;
const NEEDS_CSUM = 1;
const DATA_VALID = 2;

type Ends = typeof from4 | typeof from6;
type TcpRow = readonly [
  name: string,
  segments: readonly (Partial<build.TcpFields> & { readonly bytes?: number })[],
  groups: readonly (readonly number[])[],
];

/** Segments follow one another, but for what a row says. */
function stream(ends: Ends, row: TcpRow[1]): Buffer[] {
  let sequence = 0xfffffe00;
  let id = 0xfffe;
  return row.map(({ bytes = SIZE, ...fields }, i) => {
    const packet = build.tcp({ ...ends, sequence, id, ...fields }, build.payloadOf(bytes, i));
    sequence = (fields.sequence ?? sequence) + bytes;
    id = (fields.id ?? id) + 1;
    return packet;
  });
}

const timestamps = (value: number): number[] => [1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 9];
const times = <T>(count: number, value: T): T[] => Array.from({ length: count }, () => value);
const upTo = (from: number, to: number): number[] =>
  Array.from({ length: to - from }, (_, i) => from + i);

const tcpRows: readonly TcpRow[] = [
  ['one segment', [{}], [[0]]],
  ['three in order', [{}, {}, {}], [[0, 1, 2]]],
  ['a short last', [{}, {}, { bytes: 1 }], [[0, 1, 2]]],
  [
    'a short one in the middle ends it',
    [{}, { bytes: 500 }, {}, {}],
    [
      [0, 1],
      [2, 3],
    ],
  ],
  ['a larger one begins anew', [{ bytes: 500 }, {}, {}], [[0], [1, 2]]],
  ['out of order', [{ sequence: 2000 }, { sequence: 1000 }, { sequence: 3000 }], [[0], [1], [2]]],
  [
    'a gap',
    [{}, {}, { sequence: 77 }, {}],
    [
      [0, 1],
      [2, 3],
    ],
  ],
  ['a retransmission', [{ sequence: 5 }, { sequence: 5 }], [[0], [1]]],
  ['another acknowledgement', [{}, {}, { acknowledgement: 9 }], [[0, 1], [2]]],
  ['another window', [{}, {}, { window: 9 }], [[0, 1], [2]]],
  ['the same options', [{ options: timestamps(1) }, { options: timestamps(1) }], [[0, 1]]],
  ['other options', [{ options: timestamps(1) }, { options: timestamps(2) }], [[0], [1]]],
  ['options that were not there', [{}, { options: [1, 1, 1, 1] }], [[0], [1]]],
  ['another TOS', [{}, {}, { tos: 4 }], [[0, 1], [2]]],
  ['another ECN field', [{ tos: 2 }, { tos: 2 }, { tos: 3 }], [[0, 1], [2]]],
  ['another TTL', [{}, {}, { ttl: 63 }], [[0, 1], [2]]],
  [
    'PSH ends it',
    [{}, { flags: ACK | PSH }, {}, {}],
    [
      [0, 1],
      [2, 3],
    ],
  ],
  ['PSH first', [{ flags: ACK | PSH }, {}, {}], [[0], [1, 2]]],
  ['PSH on all', [{ flags: ACK | PSH }, { flags: ACK | PSH }], [[0], [1]]],
  ['FIN', [{}, {}, { flags: ACK | FIN }, {}], [[0, 1], [2], [3]]],
  ['SYN', [{ flags: SYN, bytes: 0 }, {}, {}], [[0], [1, 2]]],
  ['SYN with payload', [{ flags: SYN }, {}], [[0], [1]]],
  ['RST', [{}, {}, { flags: RST, bytes: 0 }], [[0, 1], [2]]],
  ['URG', [{}, { flags: ACK | URG }, {}], [[0], [1], [2]]],
  ['ECE', [{}, { flags: ACK | ECE }, {}], [[0], [1], [2]]],
  ['CWR', [{ flags: ACK | CWR }, {}, {}], [[0], [1, 2]]],
  ['no ACK', [{ flags: 0 }, { flags: 0 }], [[0], [1]]],
  ['a pure ACK comes between', [{}, {}, { bytes: 0 }, {}, {}], [[0, 1], [2], [3, 4]]],
  ['pure ACKs alone', [{ bytes: 0 }, { bytes: 0 }], [[0], [1]]],
  ['a wrong checksum', [{}, {}, { checksum: 0x1234 }, {}], [[0, 1], [2], [3]]],
  ['a wrong checksum first', [{ checksum: 0x1234 }, {}, {}], [[0], [1, 2]]],
  ['unfinished checksums', times(3, { checksum: 'partial' as const }), [[0, 1, 2]]],
  ['finished and unfinished', [{}, { checksum: 'partial' }, {}], [[0, 1, 2]]],
  ['unfinished alone', [{ checksum: 'partial' }], [[0]]],
  ['64 segments and one', times(65, {}), [upTo(0, 64), [64]]],
  ['65535 bytes are the limit', times(50, { bytes: 1390 }), [upTo(0, 47), upTo(47, 50)]],
];

const tcp4Rows: readonly TcpRow[] = [
  [
    'DF on all, any identification',
    [
      { dontFragment: true, id: 7 },
      { dontFragment: true, id: 7 },
    ],
    [[0, 1]],
  ],
  ['DF on one', [{}, {}, { dontFragment: true }], [[0, 1], [2]]],
  [
    'an identification that jumps, without DF',
    [{}, {}, { id: 9 }, {}],
    [
      [0, 1],
      [2, 3],
    ],
  ],
  ['an identification that stays, without DF', [{ id: 9 }, { id: 9 }], [[0], [1]]],
  ['IPv4 options', times(2, { ipOptions: [1, 1, 1, 0] }), [[0], [1]]],
  ['a fragment between', [{}, {}, { moreFragments: true }, {}], [[0, 1], [2], [3]]],
  ['fragments', [{ moreFragments: true }, { fragmentOffset: 125 }], [[0], [1]]],
];

const tcp6Rows: readonly TcpRow[] = [
  ['another flow label', [{}, {}, { flowLabel: 1 }], [[0, 1], [2]]],
];

/** The packets that a device would put on the wire for what was written. */
function expand(t: ExecutionContext, { vnet, packet }: TunPacket): Buffer[] {
  const finished = Buffer.from(packet);
  if (vnet.flags === NEEDS_CSUM) {
    const transport = build.transportAt(packet);
    t.is(vnet.csumStart, transport, 'csum_start');
    t.is(vnet.csumOffset, build.protocolOf(packet) === build.TCP ? 16 : 6, 'csum_offset');
    const field = packet.readUInt16BE(vnet.csumStart + vnet.csumOffset);
    t.is(field, build.pseudoSum(packet), 'the checksum field holds the pseudo-header sum');
    build.finishTransport(finished);
  }
  if (vnet.gsoType === 0) return [finished];
  t.is(vnet.flags, NEEDS_CSUM);
  t.is(vnet.headerBytes, build.payloadAt(packet), 'hdr_len');
  t.deepEqual(build.faultsOf(finished), [], 'the large packet is right in itself');
  const isUdp = build.protocolOf(packet) === build.UDP;
  const isV4 = packet[0]! >> 4 === 4;
  t.is(
    vnet.gsoType,
    isUdp ? build.GSO_UDP_L4 : isV4 ? build.GSO_TCPV4 : build.GSO_TCPV6,
    'gso_type',
  );
  return build.segmentReference(finished, vnet.gsoSize);
}

const isFragment = (packet: Buffer): boolean =>
  packet[0]! >> 4 === 4 && (packet.readUInt16BE(6) & 0x3fff) !== 0;

/** With DF, an identification means nothing (RFC 6864 section 4.1), and unfinished sums are finished. */
function canonical(packet: Buffer): string {
  const copy = Buffer.from(packet);
  if (copy[0]! >> 4 === 4 && (copy.readUInt16BE(6) & 0x4000) !== 0) {
    copy.writeUInt16BE(0, 4);
    build.finishIp(copy);
  }
  const at = build.transportAt(copy) + (build.protocolOf(copy) === build.TCP ? 16 : 6);
  if (!isFragment(copy) && copy.readUInt16BE(at) === build.pseudoSum(copy)) {
    build.finishTransport(copy);
  }
  return copy.toString('hex');
}

const encapsulate = (packet: Buffer): Buffer =>
  build.vxlan({ destinationMac: US.mac, sourceMac: MAC_A }, packet);

function expectGroups(
  t: ExecutionContext,
  packets: readonly Buffer[],
  groups: readonly (readonly number[])[],
): void {
  using path = new IngressPath({ ...state, mtuBytes: 65535 });
  path.takeBatch(packets.map(encapsulate), A);
  const written = path.tun.read().map((entry) => expand(t, entry).map(canonical));
  t.deepEqual(
    written,
    groups.map((group) => group.map((index) => canonical(packets[index]!))),
  );
  t.is(path.counters['tunDelivered'], packets.length);
  t.is(path.counters['tunWrites'], groups.length);
  t.is(unaccounted(path.counters), 0);
}

for (const [family, ends, rows] of [
  ['IPv4', from4, [...tcpRows, ...tcp4Rows]],
  ['IPv6', from6, [...tcpRows, ...tcp6Rows]],
] as const) {
  for (const [name, segments, groups] of rows) {
    test(`TCP over ${family}: ${name}`, (t) => {
      expectGroups(t, stream(ends, segments), groups);
    });
  }
}

type UdpRow = readonly [
  name: string,
  datagrams: readonly (Partial<build.UdpFields> & { readonly bytes?: number })[],
  groups: readonly (readonly number[])[],
];

const udpRows: readonly UdpRow[] = [
  ['one', [{}], [[0]]],
  ['equal sizes', [{}, {}, {}], [[0, 1, 2]]],
  ['a smaller last', [{}, {}, { bytes: 3 }, {}], [[0, 1, 2], [3]]],
  ['a larger next', [{}, {}, { bytes: 1001 }], [[0, 1], [2]]],
  ['empty', [{ bytes: 0 }, { bytes: 0 }], [[0], [1]]],
  ['an empty one between', [{}, {}, { bytes: 0 }, {}], [[0, 1], [2], [3]]],
  ['no checksum', [{ checksum: 0 }, { checksum: 0 }], [[0], [1]]],
  ['one without checksum between', [{}, {}, { checksum: 0 }, {}], [[0, 1], [2], [3]]],
  ['a wrong checksum', [{}, {}, { checksum: 0x1234 }, {}], [[0, 1], [2], [3]]],
  ['unfinished checksums', times(3, { checksum: 'partial' as const }), [[0, 1, 2]]],
  ['another TTL', [{}, {}, { ttl: 63 }], [[0, 1], [2]]],
  ['another TOS', [{}, {}, { tos: 63 }], [[0, 1], [2]]],
  ['another port', [{}, {}, { sourcePort: 7 }, {}], [[0, 1, 3], [2]]],
  ['64 datagrams and one', times(65, { bytes: 10 }), [upTo(0, 64), [64]]],
];

for (const [family, ends] of [
  ['IPv4', from4],
  ['IPv6', from6],
] as const) {
  for (const [name, datagrams, groups] of udpRows) {
    test(`UDP over ${family}: ${name}`, (t) => {
      const packets = datagrams.map(({ bytes = SIZE, ...fields }, i) =>
        build.udp({ ...ends, dontFragment: true, ...fields }, build.payloadOf(bytes, i)),
      );
      expectGroups(t, packets, groups);
    });
  }
}

test("a UDP length that is not the packet's is not merged", (t) => {
  const packet = build.udp({ ...from4, dontFragment: true }, build.payloadOf(SIZE));
  const lying = Buffer.from(packet);
  lying.writeUInt16BE(500, 24);
  build.finishTransport(lying);
  expectGroups(t, [packet, lying, packet], [[0], [1], [2]]);
});

test('a TCP header that is longer than the packet goes on as it is', (t) => {
  const packet = build.tcp({ ...from4, dontFragment: true }, build.payloadOf(8));
  packet[20 + 12] = 0xf0;
  expectGroups(t, [packet, packet], [[0], [1]]);
});

test('ICMP, and any other protocol, keeps its place among the segments', (t) => {
  const segments = stream(from4, [{}, {}]);
  const echo = build.icmp(from4, 8, 0, build.payloadOf(60));
  const sctp = build.ip(from4, 132, build.payloadOf(60));
  expectGroups(t, [segments[0]!, segments[1]!, echo, sctp], [[0, 1], [2], [3]]);
});

test('a hundred flows at once: some give up their places to others, none its order', (t) => {
  const bytes = 100;
  const packets = upTo(0, 3).flatMap((round) =>
    upTo(0, 100).map((port) =>
      build.tcp(
        { ...from4, sourcePort: 1000 + port, sequence: round * bytes, id: round },
        build.payloadOf(bytes, round),
      ),
    ),
  );
  using path = new IngressPath(state);
  path.takeBatch(packets.map(encapsulate), A);
  const written = path.tun.read();
  const flows = Map.groupBy(
    written.flatMap((entry) => expand(t, entry)),
    (packet) => build.flowOf(packet),
  );
  t.is(flows.size, 100);
  for (const packetsOfFlow of flows.values()) {
    t.deepEqual(
      packetsOfFlow.map((packet) => packet.readUInt32BE(24)),
      [0, bytes, 2 * bytes],
    );
  }
});

test('sixteen flows at once are sixteen large packets', (t) => {
  const packets = upTo(0, 3).flatMap((round) =>
    upTo(0, 16).map((port) =>
      build.tcp(
        { ...from6, sourcePort: 1000 + port, sequence: round * SIZE },
        build.payloadOf(SIZE, round),
      ),
    ),
  );
  using path = new IngressPath(state);
  path.takeBatch(packets.map(encapsulate), A);
  t.is(path.tun.read().length, 16);
});

test('IPv4 and IPv6 of the same ports are two flows', (t) => {
  const [a, b] = [stream(from4, [{}, {}]), stream(from6, [{}, {}])];
  expectGroups(
    t,
    [a[0]!, b[0]!, a[1]!, b[1]!],
    [
      [0, 2],
      [1, 3],
    ],
  );
});

test('batches are not merged with one another', (t) => {
  using path = new IngressPath(state);
  for (const packet of stream(from4, [{}, {}])) path.takeBatch([encapsulate(packet)], A);
  t.is(path.tun.read().length, 2);
});

test('a single segment says whether its checksum was looked at', (t) => {
  using path = new IngressPath(state);
  const fields = { ...from4, dontFragment: true };
  for (const [checksum, flags] of [
    ['right', DATA_VALID],
    ['partial', NEEDS_CSUM],
    [0x1234, 0],
  ] as const) {
    path.take(encapsulate(build.tcp({ ...fields, checksum }, build.payloadOf(SIZE))), A);
    t.is(path.tun.read()[0]!.vnet.flags, flags, String(checksum));
  }
});

for (const [name, offloads, writes] of [
  ['all', {}, [1, 1]],
  ['no USO', { tunUso: false }, [1, 3]],
  ['no coalescing', { coalesce: false }, [3, 3]],
  ['no vnet header', { tunTso: false, tunUso: false }, [3, 3]],
] as const) {
  test(`offloads: ${name}: TCP and UDP take ${writes.join(' and ')} writes of three`, (t) => {
    using path = new IngressPath(state, { offloads });
    const tcp = stream(from4, [{}, {}, {}]);
    const udp = times(3, build.udp({ ...from4, dontFragment: true }, build.payloadOf(SIZE)));
    for (const [packets, count] of [
      [tcp, writes[0]],
      [udp, writes[1]],
    ] as const) {
      path.takeBatch(packets.map(encapsulate), A);
      const written = path.tun.read();
      t.is(written.length, count);
      t.deepEqual(
        written.flatMap((entry) => expand(t, entry)).map(canonical),
        packets.map(canonical),
      );
    }
  });
}

test('without a vnet header unfinished checksums are finished', (t) => {
  using path = new IngressPath(state, { offloads: { tunTso: false, tunUso: false } });
  for (const ends of [from4, from6]) {
    for (const make of [build.tcp, build.udp]) {
      const packet = make({ ...ends, checksum: 'partial' }, build.payloadOf(33));
      path.take(encapsulate(packet), A);
      const [written] = path.tun.read();
      t.deepEqual(written!.vnet, NO_OFFLOAD);
      t.true(written!.packet.equals(build.finishTransport(packet)));
    }
  }
});

test('a TUN that takes nothing: each segment is counted', (t) => {
  using path = new IngressPath(state);
  path.tun[Symbol.dispose]();
  path.takeBatch(stream(from4, [{}, {}, {}, { flags: FIN | ACK }]).map(encapsulate), A);
  t.deepEqual(dropsOf(path.counters), { tunWriteFailed: 4 });
  t.is(unaccounted(path.counters), 0);
});

// Packets that nobody has segmented: from a sender on this machine, which left it to a device.

type WholeRow = readonly [
  name: string,
  packet: Buffer,
  /** What the kernel told of the size of a segment, or 0. */
  gsoSize: number,
  /** That of the TUN packet; null where it is dropped. */
  expected: number | null,
];

const wholes = (ends: Ends, name: string): readonly WholeRow[] => {
  const tcp = (fields: Partial<build.TcpFields>): Buffer =>
    build.tcp({ ...ends, dontFragment: true, ...fields }, build.payloadOf(5001));
  const udp = (fields: Partial<build.UdpFields>): Buffer =>
    build.udp({ ...ends, dontFragment: true, ...fields }, build.payloadOf(5001));
  const mss = 1450 - (ends === from4 ? 40 : 60);
  return [
    [`${name}: TCP, its sum unfinished`, tcp({ checksum: 'partial' }), 1000, 1000],
    [`${name}: TCP, its sum right`, tcp({}), 1000, 1000],
    [`${name}: TCP, FIN and PSH`, tcp({ flags: FIN | PSH | ACK }), 1000, 1000],
    [`${name}: TCP of unknown segments fits the TUN`, tcp({ checksum: 'partial' }), 0, mss],
    [`${name}: TCP, its sum wrong`, tcp({ checksum: 0x1234 }), 1000, null],
    [`${name}: UDP, its sum unfinished`, udp({ checksum: 'partial' }), 1000, 1000],
    [`${name}: UDP of unknown segments`, udp({ checksum: 'partial' }), 0, null],
    [`${name}: UDP without a sum`, udp({ checksum: 0 }), 1000, null],
  ];
};

for (const [name, packet, gsoSize, expected] of [
  ...wholes(from4, 'IPv4'),
  ...wholes(from6, 'IPv6'),
]) {
  for (const tunTso of [true, false]) {
    test(`unsegmented, ${tunTso ? 'large packets' : 'none'} to the TUN: ${name}`, (t) => {
      using path = new IngressPath(state, { offloads: { tunTso, tunUso: tunTso } });
      path.take(encapsulate(packet), A, 0, gsoSize);
      const written = path.tun.read();
      t.is(unaccounted(path.counters), 0);
      if (expected === null) {
        t.deepEqual(written, []);
        t.deepEqual(dropsOf(path.counters), { oversized: 1 });
        return;
      }
      const finished = build.finishTransport(Buffer.from(packet));
      if (tunTso) t.is(written.length, 1);
      t.deepEqual(
        written.flatMap((entry) => expand(t, entry)).map(canonical),
        build.segmentReference(finished, expected).map(canonical),
      );
    });
  }
}

test("an unsegmented packet goes behind what is open, and is nobody's next", (t) => {
  using path = new IngressPath(state);
  const [first, second] = stream(from4, [{}, {}]);
  const whole = build.tcp({ ...from4, dontFragment: true }, build.payloadOf(5000));
  path.takeBatch([first!, whole, second!].map(encapsulate), A);
  t.deepEqual(
    path.tun.read().map(({ packet }) => packet.length),
    [first!.length, whole.length, second!.length],
  );
});

// Any traffic: per flow, what comes out, cut up again, is what went in.

type Change = Partial<build.TcpFields> & { readonly skip?: number };

const NO_CHANGE: Change = {};

const changes: readonly Change[] = [
  ...times(12, NO_CHANGE),
  { skip: 1 },
  { acknowledgement: 5 },
  { window: 5 },
  { ttl: 5 },
  { tos: 4 },
  { dontFragment: true },
  { id: 5 },
  { checksum: 0x1234 },
  { checksum: 'partial' },
  { checksum: 0 },
  { flags: ACK | PSH },
  { flags: ACK | FIN },
  { options: [1, 1, 1, 1] },
  { ipOptions: [1, 1, 1, 0] },
  { moreFragments: true },
  { flowLabel: 9 },
];

const events = fc.array(
  fc.record({
    flow: fc.nat(19),
    bytes: fc.oneof(
      { weight: 6, arbitrary: fc.constant(SIZE / 2) },
      { weight: 1, arbitrary: fc.constantFrom(0, 1, 500, 1001) },
    ),
    change: fc.constantFrom(...changes),
    /** Segments before it that follow one another. */
    before: fc.nat(3),
  }),
  { minLength: 1, maxLength: 40 },
);

interface Burst {
  readonly flow: number;
  readonly bytes: number;
  readonly change: Change;
  readonly before: number;
}

function trafficOf(bursts: readonly Burst[]): Buffer[] {
  const script = bursts.flatMap((burst) => [
    ...times(burst.before, { ...burst, bytes: SIZE / 2, change: NO_CHANGE }),
    burst,
  ]);
  const sequences = new Map<number, number>();
  const ids = new Map<number, number>();
  return script.map(({ flow, bytes, change: { skip = 0, ...fields } }, i) => {
    const sequence = (sequences.get(flow) ?? flow * 0x10000001) + skip;
    const id = fields.id ?? (ids.get(flow) ?? 0xfff0) + 1;
    sequences.set(flow, sequence + bytes);
    ids.set(flow, id);
    const ends = flow % 2 === 0 ? from4 : from6;
    const make = flow % 5 === 4 ? build.udp : build.tcp;
    return make(
      { ...ends, id, sequence, sourcePort: 5000 + flow, ...fields },
      build.payloadOf(bytes, i),
    );
  });
}

const byFlow = (packets: readonly Buffer[]): [string, string[]][] =>
  [...Map.groupBy(packets, (packet) => build.flowOf(packet))]
    .map(([flow, found]): [string, string[]] => [flow, found.map(canonical)])
    .sort(([a], [b]) => (a < b ? -1 : 1));

test('any traffic: each flow keeps its packets and their order', (t) => {
  using path = new IngressPath(state);
  let merged = 0;
  const property = fc.property(events, (script) => {
    const packets = trafficOf(script);
    path.takeBatch(packets.map(encapsulate), A);
    const written = path.tun.read();
    merged += packets.length - written.length;
    t.deepEqual(byFlow(written.flatMap((entry) => expand(t, entry))), byFlow(packets));
  });
  const seed = Date.now() & 0x7fffffff;
  t.log(`seed ${seed}`);
  fc.assert(property, { seed, numRuns: 150 });
  t.true(merged > 100, 'the traffic has something to merge');
  t.deepEqual(dropsOf(path.counters), {});
});
