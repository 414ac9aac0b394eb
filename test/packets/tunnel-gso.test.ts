/**
 * Large TCP packets as one tunnel packet each: every byte that the kernel gets to cut up, and which
 * packets go this way. That the kernel cuts them as it should is the lab's to test.
 */
import test, { type ExecutionContext } from 'ava';
import { formatAddress } from '../../wire/address.ts';
import * as build from './build.ts';
import { MAC_A, TAP_MAC, US, type VnetHeader, Wire, dropsOf, unaccounted } from './wire-harness.ts';

const to4 = { source: '10.244.1.5', destination: '10.244.2.7', dontFragment: true } as const;
const to6 = { source: 'fd00:1::5', destination: 'fd00:2::7' } as const;
const partial = { checksum: 'partial' } as const;

const toA = (packet: Uint8Array): Buffer =>
  build.vxlan({ destinationMac: MAC_A, sourceMac: US.mac }, packet);

const large = (packet: Buffer, gsoSize: number): Partial<VnetHeader> => ({
  flags: 1,
  gsoType:
    build.protocolOf(packet) === build.UDP
      ? build.GSO_UDP_L4
      : packet[0]! >> 4 === 4
        ? build.GSO_TCPV4
        : build.GSO_TCPV6,
  gsoSize,
  headerBytes: build.payloadAt(packet),
  csumStart: build.transportAt(packet),
  csumOffset: build.protocolOf(packet) === build.TCP ? 16 : 6,
});

/** struct virtio_net_hdr_v1_hash_tunnel, then the packet from its outer Ethernet header on. */
function tunnelPacket(wire: Wire, packet: Buffer, gsoSize: number, sourcePort: number): Buffer {
  const isV4 = packet[0]! >> 4 === 4;
  const innerTransport = 64 + build.transportAt(packet);
  const header = Buffer.alloc(24);
  header[0] = 1;
  header[1] = 0x20 | (isV4 ? build.GSO_TCPV4 : build.GSO_TCPV6);
  header.writeUInt16LE(64 + build.payloadAt(packet), 2);
  header.writeUInt16LE(gsoSize, 4);
  header.writeUInt16LE(innerTransport, 6);
  header.writeUInt16LE(16, 8);
  header.writeUInt16LE(14 + 20, 20);
  header.writeUInt16LE(64, 22);
  const mac = Buffer.from(TAP_MAC.replaceAll(':', ''), 'hex');
  const outer = build.udp(
    {
      source: formatAddress(wire.address),
      destination: formatAddress(wire.state.peers[0]!.addresses[0]!),
      sourcePort,
      destinationPort: wire.a.port,
      id: 0,
      dontFragment: true,
      tos: isV4 ? packet[1]! & 3 : (packet[1]! >> 4) & 3,
      checksum: 0,
    },
    toA(packet),
  );
  return Buffer.concat([header, mac, mac, Buffer.of(0x08, 0x00), outer]);
}

const tapped = (wire: Wire): string[] =>
  wire.tap!.read().map(({ packet }) => packet.toString('hex'));

/** The outer source port of a flow, by a packet of it that goes through the socket. */
function portOf(t: ExecutionContext, wire: Wire, fields: build.TcpFields): number {
  wire.carry(build.tcp(fields, new Uint8Array()));
  const [datagram] = wire.received();
  t.truthy(datagram);
  return datagram!.sourcePort;
}

const rows: readonly [name: string, fields: build.TcpFields, bytes: number, gsoSize: number][] = [
  ['IPv4', to4, 5000, 1000],
  ['IPv6', to6, 5000, 1000],
  ['IPv4, ECN', { ...to4, tos: 2 }, 5000, 1000],
  ['IPv6, ECN', { ...to6, tos: 1 }, 5000, 1000],
  ['TCP options', { ...to4, options: [1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9] }, 5001, 1000],
  ['FIN and PSH', { ...to4, flags: build.FIN | build.PSH | build.ACK }, 5000, 1000],
  ['the largest', to4, 65535 - 50 - 40, 1410],
];

for (const [name, fields, bytes, gsoSize] of rows) {
  test(`one tunnel packet: ${name}`, (t) => {
    using wire = new Wire({ tunnel: true });
    const port = portOf(t, wire, fields);
    const before = wire.counters;
    const packet = build.tcp({ ...fields, ...partial }, build.payloadOf(bytes));
    wire.carry([packet, large(packet, gsoSize)]);
    t.deepEqual(tapped(wire), [tunnelPacket(wire, packet, gsoSize, port).toString('hex')]);

    const segments = build.segmentReference(packet, gsoSize).map(toA);
    const { counters } = wire;
    t.is(counters['tunnelWrites'], 1);
    t.is(counters['egressDatagrams']! - before['egressDatagrams']!, segments.length);
    t.is(
      counters['udpSentBytes']! - before['udpSentBytes']!,
      segments.reduce((sum, segment) => sum + segment.length, 0),
    );
    t.is(unaccounted(counters), 0);
    t.like(counters, wire.sentToPeers);
  });
}

test('without DF the segments fit the path', (t) => {
  using wire = new Wire({ tunnel: true });
  const fields = { ...to4, dontFragment: false };
  const port = portOf(t, wire, fields);
  const packet = build.tcp({ ...fields, ...partial }, build.payloadOf(5000));
  wire.carry([packet, large(packet, 1460)]);
  t.deepEqual(tapped(wire), [tunnelPacket(wire, packet, 1410, port).toString('hex')]);
});

const cutHere: readonly [name: string, packet: Buffer][] = [
  ['UDP', build.udp({ ...to4, ...partial }, build.payloadOf(5000))],
  [
    'what no outer header could say the length of',
    build.tcp({ ...to4, ...partial }, build.payloadOf(65535 - 50 - 39)),
  ],
];

function expectCutHere(t: ExecutionContext, wire: Wire, packet: Buffer): void {
  wire.carry([packet, large(packet, 1000)]);
  t.deepEqual(
    wire.received().map(({ payload }) => payload.toString('hex')),
    build.segmentReference(packet, 1000).map((segment) => toA(segment).toString('hex')),
  );
  t.is(wire.counters['tunnelWrites'], 0);
  t.deepEqual(dropsOf(wire.counters), {});
  t.is(unaccounted(wire.counters), 0);
}

for (const [name, packet] of cutHere) {
  test(`cut here: ${name}`, (t) => {
    using wire = new Wire({ tunnel: true });
    expectCutHere(t, wire, packet);
    t.deepEqual(tapped(wire), []);
  });
}

for (const ends of [to4, to6]) {
  const packet = build.tcp({ ...ends, ...partial }, build.payloadOf(5000));

  test(`cut here: TCP from ${ends.source} once the tunnel is withdrawn`, (t) => {
    using wire = new Wire({ tunnel: true });
    wire.withdrawTunnel();
    expectCutHere(t, wire, packet);
  });

  test(`cut here: TCP from ${ends.source} that the kernel refuses`, (t) => {
    using wire = new Wire({ tunnel: true });
    wire.tap![Symbol.dispose]();
    expectCutHere(t, wire, packet);
  });
}

test('a packet too big for the path is answered, not tunnelled', (t) => {
  using wire = new Wire({ tunnel: true });
  const packet = build.tcp({ ...to4, ...partial }, build.payloadOf(5000));
  wire.carry([packet, large(packet, 1411)]);
  t.deepEqual(tapped(wire), []);
  t.deepEqual(dropsOf(wire.counters), { tooBig: 1 });
  t.is(wire.tun.read().length, 1);
});

test('what a flow has sent before leaves before', (t) => {
  using wire = new Wire({ tunnel: true });
  const small = build.tcp({ ...to4 }, build.payloadOf(10));
  const packet = build.tcp({ ...to4, ...partial, sequence: 1010 }, build.payloadOf(5000));
  t.true(wire.tun.write(small));
  t.true(wire.tun.write(packet, large(packet, 1000)));
  t.true(wire.tun.write(small));
  wire.settle();
  // The first small one had to be sent before the tunnel packet was written, the second one after.
  t.is(wire.counters['udpSends'], 2);
  t.is(wire.counters['tunnelWrites'], 1);
  t.is(wire.a.receive(2).length, 2);
});
