/**
 * Which way a packet goes that is read from the TUN: back into it as it came, for a pod or the node
 * (`local`) or for the host to route on (`host`); to peer A by VXLAN; or nowhere, for a reason, with an
 * ICMP error to its sender where there is a `!`. Nodes as in wire-harness.ts, but B is a direct peer.
 */
import test, { type ExecutionContext } from 'ava';
import { VNET_HEADER_BYTES } from '../../linux/tun.ts';
import { type Family, parseAddress } from '../../wire/address.ts';
import * as build from './build.ts';
import {
  MAC_A,
  NO_OFFLOAD,
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

const places: Readonly<Record<string, readonly [ipv4: string, ipv6: string]>> = {
  pod: ['10.244.1.6', 'fd00:1::6'],
  node: [US.node4, US.node6],
  nobody: ['10.244.1.77', 'fd00:1::77'],
  A: ['10.244.2.7', 'fd00:2::7'],
  'A itself': ['10.244.2.0', 'fd00:2::'],
  B: ['10.244.3.7', 'fd00:3::7'],
  'B itself': ['10.244.3.0', 'fd00:3::'],
  overlay: ['10.244.9.9', 'fd00:9::9'],
  outside: ['198.51.100.1', '2001:db8::1'],
};

const held = `
  from \\ to  pod            node           nobody         A              B              overlay        outside
  pod        local          local          noPod!         A              host           noPeer!        host
  node       local          local          noPod!         A              host           noPeer!        host
  nobody     local          local          noPod!         A              host           noPeer!        host
  A          notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource
  A itself   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource
  B          local          local          noPod!         notOurSource   notOurSource   notOurSource   notOurSource
  B itself   local          local          noPod!         notOurSource   notOurSource   notOurSource   notOurSource
  overlay    notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource
  outside    local          notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource
`;

const lost = `
  from \\ to  pod            node           nobody         A              B              overlay        outside
  pod        local          local          noPod!         notForwarding  notForwarding  notForwarding  host
  node       local          local          noPod!         notForwarding  notForwarding  notForwarding  host
  A          notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource
  B          notForwarding  notForwarding  notForwarding  notOurSource   notOurSource   notOurSource   notOurSource
  overlay    notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource
  outside    local          notOurSource   notOurSource   notOurSource   notOurSource   notOurSource   notOurSource
`;

type Row = readonly [from: string, to: string, outcome: string];

function rowsOf(table: string): Row[] {
  const [head, ...lines] = table.split('\n').filter((line) => line.trim() !== '');
  const cells = (line: string): string[] => line.trim().split(/ {2,}/);
  const [, ...columns] = cells(head!);
  return lines.flatMap((line) => {
    const [from, ...outcomes] = cells(line);
    return outcomes.map((outcome, i): Row => [from!, columns[i]!, outcome]);
  });
}

const hex = (packets: readonly Uint8Array[]): string[] =>
  packets.map((packet) => Buffer.from(packet).toString('hex'));

const toA = (packet: Uint8Array): Buffer =>
  build.vxlan({ destinationMac: MAC_A, sourceMac: US.mac }, packet);

const errorOf = (packet: Buffer): Buffer =>
  packet[0]! >> 4 === 4 ? error4(packet, 1, 0) : error6(packet, 1, 3, 0);

function createWire(options: ConstructorParameters<typeof Wire>[0] = {}): Wire {
  const wire = new Wire(options);
  wire.publish({
    peers: wire.state.peers.map((peer) =>
      peer.name === 'B' ? { ...peer, direct4: true, direct6: true } : peer,
    ),
  });
  return wire;
}

/** Sends it alone, and looks for it everywhere. */
function expectOutcome(t: ExecutionContext, wire: Wire, packet: Buffer, outcome: string): void {
  const before = wire.counters;
  const grown = (name: string): number => wire.counters[name]! - before[name]!;
  wire.carry(packet);
  const back = hex(wire.tun.read().map((entry) => entry.packet));
  const isBack = outcome === 'local' || outcome === 'host';
  t.is(grown('localDelivered'), outcome === 'local' ? 1 : 0);
  t.is(grown('localDeliveredBytes'), outcome === 'local' ? packet.length : 0);
  t.is(grown('hostDelivered'), outcome === 'host' ? 1 : 0);
  t.is(grown('hostDeliveredBytes'), outcome === 'host' ? packet.length : 0);
  t.is(grown('egressAccepted'), isBack || outcome === 'A' ? 1 : 0);
  t.deepEqual(
    hex(wire.received().map(({ payload }) => payload)),
    outcome === 'A' ? hex([toA(packet)]) : [],
  );
  if (isBack) t.deepEqual(back, hex([packet]));
  else t.deepEqual(back, outcome.endsWith('!') ? hex([errorOf(packet)]) : []);
  const reason = outcome.replace('!', '');
  t.is(grown('tunPackets'), 1);
  if (!isBack && outcome !== 'A') t.is(grown(`drop.${reason}`), 1);
  t.is(unaccounted(wire.counters), 0);
}

for (const [title, table, forwarding] of [
  ['', held, true],
  ['lease lost: ', lost, false],
] as const) {
  for (const [from, to, outcome] of rowsOf(table)) {
    test(`${title}from ${from} to ${to}: ${outcome}`, (t) => {
      using wire = createWire({ state: { forwarding } });
      for (const family of [0, 1] as const) {
        const source = from === 'pod' ? (['10.244.1.5', 'fd00:1::5'] as const) : places[from]!;
        const ends = { source: source[family], destination: places[to]![family] };
        expectOutcome(t, wire, build.udp(ends, build.payloadOf(64)), outcome);
      }
    });
  }
}

const ends: readonly [from: string, to: string, outcome: string][] = [
  // No next hop.
  ['10.244.1.5', '224.0.0.251', 'multicast'],
  ['10.244.1.5', '239.255.255.255', 'multicast'],
  ['10.244.1.5', '240.0.0.1', 'multicast'],
  ['10.244.1.5', '255.255.255.255', 'multicast'],
  ['0.0.0.0', '255.255.255.255', 'multicast'],
  ['fd00:1::5', 'ff02::1', 'multicast'],
  ['fd00:1::5', 'fe80::1', 'multicast'],
  ['fd00:1::5', 'febf:ffff::1', 'multicast'],
  ['fe80::1', 'ff02::2', 'multicast'],
  ['::', 'ff02::1:ff00:5', 'multicast'],
  // What never leaves a host, and must not get into it.
  ['10.244.1.5', '127.0.0.1', 'martian'],
  ['10.244.1.5', '127.255.255.255', 'martian'],
  ['10.244.1.5', '0.0.0.0', 'martian'],
  ['10.244.1.5', '0.255.255.255', 'martian'],
  ['198.51.100.1', '127.0.0.1', 'martian'],
  ['127.0.0.1', '10.244.1.5', 'martian'],
  ['0.0.0.0', '10.244.1.5', 'martian'],
  ['224.0.0.1', '10.244.1.5', 'martian'],
  ['255.255.255.255', '10.244.1.5', 'martian'],
  ['fd00:1::5', '::1', 'martian'],
  ['fd00:1::5', '::', 'martian'],
  ['fd00:1::5', '::ffff:10.244.1.6', 'martian'],
  ['::1', 'fd00:1::5', 'martian'],
  ['::', 'fd00:1::5', 'martian'],
  ['ff02::1', 'fd00:1::5', 'martian'],
  ['fe80::1', 'fd00:1::5', 'martian'],
  // What looks like it, and is not.
  ['10.244.1.5', '169.254.169.254', 'host'],
  ['169.254.169.254', '10.244.1.5', 'local'],
  ['10.244.1.5', '223.255.255.255', 'host'],
  ['10.244.1.5', '1.1.1.1', 'host'],
  ['10.244.1.5', '126.255.255.255', 'host'],
  ['10.244.1.5', '128.0.0.0', 'host'],
  ['fd00:1::5', '64:ff9b::1', 'host'],
  ['fd00:1::5', 'fec0::1', 'host'],
  ['fd00:1::5', 'fe7f::1', 'host'],
  // The edges of our own and of the overlay.
  ['10.244.1.255', '10.244.1.5', 'local'],
  ['10.244.0.255', '10.244.1.5', 'notOurSource'],
  ['10.243.255.255', '10.244.1.5', 'local'],
  ['10.245.0.0', '10.244.1.5', 'local'],
  ['10.244.1.5', '10.243.255.255', 'host'],
  ['10.244.1.5', '10.244.255.255', 'noPeer!'],
  ['10.244.1.5', '10.245.0.0', 'host'],
  ['fd00:1::ffff:ffff:ffff:ffff', 'fd00:1::5', 'local'],
  ['fd00:0:ffff::1', 'fd00:1::5', 'notOurSource'],
  ['fd01::', 'fd00:1::5', 'local'],
  ['fd00:1::5', 'fcff:ffff::1', 'host'],
  ['fd00:1::5', 'fd00:ffff::1', 'noPeer!'],
  ['fd00:1::5', 'fd01::', 'host'],
  // A pod to itself.
  ['10.244.1.5', '10.244.1.5', 'local'],
  ['fd00:1::5', 'fd00:1::5', 'local'],
];

for (const [source, destination, outcome] of ends) {
  test(`from ${source} to ${destination}: ${outcome}`, (t) => {
    using wire = createWire();
    expectOutcome(t, wire, build.udp({ source, destination }, build.payloadOf(64)), outcome);
  });
}

for (const [family, direct] of [
  [4, { direct4: true, direct6: false }],
  [6, { direct4: false, direct6: true }],
] as const) {
  test(`a peer that is direct in IPv${family} only`, (t) => {
    using wire = new Wire();
    wire.publish({ peers: wire.state.peers.map((peer) => ({ ...peer, ...direct })) });
    for (const [index, isDirect] of [family === 4, family === 6].entries()) {
      const pod = ['10.244.1.5', 'fd00:1::5'][index]!;
      const far = places['A']![index]!;
      const out = build.udp({ source: pod, destination: far }, build.payloadOf(64));
      const back = build.udp({ source: far, destination: pod }, build.payloadOf(64));
      expectOutcome(t, wire, out, isDirect ? 'host' : 'A');
      expectOutcome(t, wire, back, isDirect ? 'local' : 'notOurSource');
    }
  });
}

test('a peer outside of the overlay network is a peer all the same', (t) => {
  using wire = new Wire({ state: { network4: null, network6: null } });
  for (const [source, destination, outcome] of [
    ['10.244.1.5', '10.244.2.7', 'A'],
    ['10.244.2.7', '10.244.1.5', 'notOurSource'],
    ['fd00:2::7', 'fd00:1::5', 'notOurSource'],
  ] as const) {
    expectOutcome(t, wire, build.udp({ source, destination }, build.payloadOf(64)), outcome);
  }
});

test('a node without an IPv6 subnet: nothing of IPv6 goes anywhere', (t) => {
  using wire = createWire({ state: { subnet6: null, network6: null } });
  for (const [from, to] of [
    ['fd00:1::5', 'fd00:1::6'],
    ['fd00:1::5', '2001:db8::1'],
    ['2001:db8::1', 'fd00:1::5'],
  ] as const) {
    const packet = build.udp({ source: from, destination: to }, build.payloadOf(64));
    expectOutcome(t, wire, packet, 'notOurSource');
  }
});

test('a broken packet goes nowhere, not even here', (t) => {
  using wire = createWire();
  const packet = build.udp({ source: '10.244.1.5', destination: '10.244.1.6' }, Buffer.alloc(64));
  wire.carry(packet.subarray(0, 60), packet.subarray(0, 19));
  t.deepEqual(dropsOf(wire.counters), { ipHeader: 1, truncated: 1 });
  t.deepEqual(wire.tun.read(), []);
});

// As it came, vnet header and all.

interface Shape {
  readonly name: string;
  readonly packet: Buffer;
  readonly vnet: Partial<VnetHeader>;
}

function shapesOf(family: Family, destination: string): Shape[] {
  const source = family === 4 ? '10.244.1.5' : 'fd00:1::5';
  const name = (text: string): string => `IPv${family} ${text}`;
  const partial = { source, destination, checksum: 'partial' } as const;
  const tcp = build.tcp(partial, build.payloadOf(65_000));
  const udp = build.udp(partial, build.payloadOf(65_000));
  const one = build.tcp(partial, build.payloadOf(1000));
  return [
    { name: name('TCP of 64 KB'), packet: tcp, vnet: large(tcp, 1398) },
    {
      name: name('TCP, congestion window reduced'),
      packet: tcp,
      vnet: { ...large(tcp, 1398), gsoType: large(tcp, 1398).gsoType! | 0x80 },
    },
    {
      name: name('TCP, a header length of what lay in one piece'),
      packet: tcp,
      vnet: { ...large(tcp, 1398), headerBytes: 1450 },
    },
    { name: name('UDP of 64 KB'), packet: udp, vnet: large(udp, 1400) },
    { name: name('TCP, unfinished'), packet: one, vnet: unfinished(one) },
    {
      name: name('UDP, found right'),
      packet: build.udp({ source, destination }, build.payloadOf(99)),
      vnet: { flags: 2 },
    },
    {
      name: name('UDP, plain'),
      packet: build.udp({ source, destination }, build.payloadOf(1400)),
      vnet: NO_OFFLOAD,
    },
    {
      name: name('a wrong checksum'),
      packet: build.udp({ source, destination, checksum: 0x1234 }, build.payloadOf(99)),
      vnet: {},
    },
    { name: name('any protocol'), packet: build.ip(partial, 132, build.payloadOf(99)), vnet: {} },
  ];
}

for (const vnetHeader of [true, false]) {
  test(`unchanged, ${vnetHeader ? 'with' : 'without'} a vnet header`, (t) => {
    using wire = createWire({ offloads: vnetHeader ? {} : { tunTso: false, tunUso: false } });
    for (const family of [4, 6] as const) {
      for (const to of ['pod', 'node', 'B', 'outside']) {
        for (const { name, packet, vnet } of shapesOf(family, places[to]![family === 4 ? 0 : 1])) {
          if (!vnetHeader && (vnet.flags ?? 0) !== 0) continue;
          const header = Buffer.alloc(vnetHeader ? VNET_HEADER_BYTES : 0);
          if (vnetHeader) {
            header[0] = vnet.flags ?? 0;
            header[1] = vnet.gsoType ?? 0;
            header.writeUInt16LE(vnet.headerBytes ?? 0, 2);
            header.writeUInt16LE(vnet.gsoSize ?? 0, 4);
            header.writeUInt16LE(vnet.csumStart ?? 0, 6);
            header.writeUInt16LE(vnet.csumOffset ?? 0, 8);
          }
          const message = Buffer.concat([header, packet]);
          t.true(wire.tun.writeMessage(message));
          wire.settle();
          t.true(wire.tun.readMessage()?.equals(message), `${name} to ${to}`);
          t.is(wire.tun.readMessage(), null, 'once');
        }
      }
    }
    t.deepEqual(dropsOf(wire.counters), {});
    t.is(wire.counters['egressDatagrams'], 0);
    t.is(unaccounted(wire.counters), 0);
  });
}

for (const batch of [true, false]) {
  test(`one batch of all ways, batch ${batch}: each gets its own, in order`, (t) => {
    using wire = createWire({ offloads: { batch } });
    const packets = Array.from({ length: 60 }, (_, i) =>
      build.udp(
        { source: '10.244.1.5', destination: places[['pod', 'A', 'outside'][i % 3]!]![0] },
        build.payloadOf(100 + i, i),
      ),
    );
    for (const packet of packets) t.true(wire.tun.write(packet));
    wire.settle();
    t.deepEqual(
      hex(wire.tun.read().map(({ packet }) => packet)),
      hex(packets.filter((_, i) => i % 3 !== 1)),
    );
    t.deepEqual(
      hex(wire.received().map(({ payload }) => payload)),
      hex(packets.filter((_, i) => i % 3 === 1).map(toA)),
    );
    t.is(wire.counters['localDelivered'], 20);
    t.is(wire.counters['hostDelivered'], 20);
    t.is(wire.counters['egressAccepted'], 60);
    t.is(unaccounted(wire.counters), 0);
  });
}

test('a pod that comes and goes: from the next state on', (t) => {
  using wire = createWire();
  const packet = build.udp({ source: '10.244.1.5', destination: '10.244.1.77' }, Buffer.alloc(9));
  expectOutcome(t, wire, packet, 'noPod!');
  const { pods } = wire.state;
  wire.publish({ pods: [...pods, ...pods, parseAddress('10.244.1.77')] });
  expectOutcome(t, wire, packet, 'local');
  wire.publish({ pods });
  expectOutcome(t, wire, packet, 'noPod!');
});
