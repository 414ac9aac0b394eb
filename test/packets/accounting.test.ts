/**
 * Nothing is lost silently: the equations of overlay/counters.ts, over random traffic. What is counted
 * is held against what the test has put in and got out, too.
 */
import test from 'ava';
import { parseAddress } from '../../wire/address.ts';
import { type Cidr4, parseCidr } from '../../wire/cidr.ts';
import * as build from './build.ts';
import { type Random, createRandom, mutate } from './mutate.ts';
import { MAC_A, US, type VnetHeader, Wire, dropsOf, unaccounted } from './wire-harness.ts';

/** Few packets a round: a socket of an unprivileged user has room for some 200 KB. */
const ROUNDS = 100;
const PACKETS_PER_ROUND = 4;
const seed = Number(process.env['WEFT_TRAFFIC_SEED'] ?? Date.now() & 0x7fffffff);

const pick = <T>(random: Random, list: readonly T[]): T => list[random(list.length)]!;

type Outgoing = readonly [packet: Buffer, vnet: Partial<VnetHeader>];

function outgoing(random: Random): Outgoing {
  const is4 = random(2) === 0;
  const source = is4
    ? pick(random, ['10.244.1.5', '10.244.1.6', '10.244.1.0', '10.9.9.9', '127.0.0.1'])
    : pick(random, ['fd00:1::5', 'fd00:1::6', 'fd00:9::9', '2001:db8::9']);
  const destination = is4
    ? pick(random, [
        '10.244.2.7',
        '10.244.3.7',
        '10.244.4.7',
        '10.244.9.9',
        '10.244.1.9',
        '10.244.1.6',
        '10.9.9.9',
        '224.0.0.1',
      ])
    : pick(random, [
        'fd00:2::7',
        'fd00:3::7',
        'fd00:9::1',
        'fd00:1::9',
        'fd00:1::6',
        '2001:db8::9',
        'ff02::1',
      ]);
  const fields = {
    source,
    destination,
    sourcePort: 1000 + random(9),
    dontFragment: random(2) === 0,
  };
  const payload = build.payloadOf(
    pick(random, [0, 1, 64, 1000, 1410, 1450, 4000, 9000]),
    random(9),
  );
  if (random(8) === 0) return [build.icmp(fields, pick(random, [0, 3, 8]), 0, payload), {}];
  const isTcp = random(2) === 0;
  const packet = (isTcp ? build.tcp : build.udp)({ ...fields, checksum: 'partial' }, payload);
  const vnet = {
    flags: 1,
    csumStart: build.transportAt(packet),
    csumOffset: isTcp ? 16 : 6,
  };
  if (random(3) === 0) return [packet, vnet];
  const tcpType = is4 ? build.GSO_TCPV4 : build.GSO_TCPV6;
  const gsoType = random(12) === 0 ? 3 : isTcp ? tcpType : build.GSO_UDP_L4;
  return [packet, { ...vnet, gsoType, gsoSize: pick(random, [0, 200, 1000, 1380, 1500]) }];
}

const room = new Uint8Array(2000);

function incoming(random: Random, round: number): Buffer {
  const is4 = random(2) === 0;
  const ends = is4
    ? {
        source: pick(random, ['10.244.2.7', '10.244.3.7']),
        destination: pick(random, ['10.244.1.5', '10.244.1.5', '10.244.1.0', '10.244.1.9']),
      }
    : {
        source: pick(random, ['fd00:2::7', 'fd00:3::7']),
        destination: pick(random, ['fd00:1::5', 'fd00:1::5', 'fd00:1::', 'fd00:1::9']),
      };
  const make = random(2) === 0 ? build.tcp : build.udp;
  const packet = make(
    { ...ends, sourcePort: 1000 + random(3), sequence: round * 500, id: round },
    build.payloadOf(pick(random, [0, 100, 500, 500, 500])),
  );
  const datagram = build.vxlan({ destinationMac: US.mac, sourceMac: MAC_A }, packet);
  if (random(4) > 0) return datagram;
  room.set(datagram);
  return Buffer.from(room.subarray(0, mutate(room, datagram.length, random, datagram)));
}

/** A peer that cannot be sent to: a broadcast address, without the permission. */
function withUnreachable(wire: Wire): void {
  const [a] = wire.state.peers;
  const address = parseAddress('127.255.255.255');
  wire.publish({
    peers: [
      ...wire.state.peers,
      {
        ...a!,
        name: 'unreachable',
        subnet4: parseCidr('10.244.4.0/24') as Cidr4,
        subnet6: null,
        nextHop4: { ...a!.nextHop4!, address },
        addresses: [address],
      },
    ],
  });
}

function add(to: Record<string, number>, more: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(more)) to[name] = (to[name] ?? 0) + count;
}

const sum = (record: Readonly<Record<string, number>>): number =>
  Object.values(record).reduce((total, count) => total + count, 0);

for (const [name, offloads] of [
  ['every offload', {}],
  ['no segmentation by the kernel', { udpGso: false, udpGro: false }],
  ['one packet at a time', { batch: false, coalesce: false }],
] as const) {
  test(`out, ${name} (seed ${seed})`, (t) => {
    using wire = new Wire({ offloads });
    withUnreachable(wire);
    const random = createRandom(seed);
    let put = 0;
    let got = 0;
    let told = 0;
    const events: Record<string, number> = {};
    for (let round = 0; round < ROUNDS; round++) {
      for (let count = random(PACKETS_PER_ROUND); count >= 0; count--) {
        if (wire.tun.write(...outgoing(random))) put++;
      }
      wire.settle();
      got += wire.received().length;
      told += wire.tun.read().length;
      const { counters } = wire;
      const { sendFailed = 0, sendQueueFull = 0, ...drops } = dropsOf(counters);
      t.is(counters['tunPackets'], put);
      t.is(put, counters['egressAccepted']! + sum(drops), 'tunPackets');
      const notSent = sendFailed + sendQueueFull;
      t.is(counters['egressDatagrams'], counters['udpSentDatagrams']! + notSent, 'egressDatagrams');
      t.is(got, counters['udpSentDatagrams']!, 'what is called sent has arrived');
      t.like(counters, wire.sentToPeers, 'all of it to peers');
      const back = counters['localDelivered']! + counters['hostDelivered']!;
      t.is(told, counters['icmpErrors']! + back, 'ICMP errors, and what went back');
      add(events, wire.toldDrops());
      t.deepEqual(events, drops, 'each drop is told');
    }
    const met = Object.keys(dropsOf(wire.counters));
    for (const reason of [
      'noPeer',
      'noPod',
      'multicast',
      'martian',
      'notOurSource',
      'tooBig',
      'sendFailed',
    ]) {
      t.true(met.includes(reason), `${reason} is met`);
    }
    for (const way of ['localDelivered', 'hostDelivered', 'udpSentDatagrams']) {
      t.true(wire.counters[way]! > 0, `${way} is met`);
    }
  });

  test(`in, ${name} (seed ${seed})`, (t) => {
    using wire = new Wire({ offloads });
    const random = createRandom(seed);
    let put = 0;
    const events: Record<string, number> = {};
    for (let round = 0; round < ROUNDS; round++) {
      const before = put;
      for (let count = random(PACKETS_PER_ROUND); count >= 0; count--) {
        wire.fromPeer(pick(random, [wire.a, wire.a, wire.b]), incoming(random, round), random(4));
        put++;
      }
      wire.settleDatagrams(put - before, before);
      const { counters } = wire;
      t.is(counters['udpDatagrams'], put);
      t.is(put, counters['tunDelivered']! + sum(dropsOf(counters)), 'udpDatagrams');
      add(events, wire.toldDrops());
      t.deepEqual(events, dropsOf(counters), 'each drop is told');
    }
    const written = wire.tun.read();
    t.is(written.length, wire.counters['tunWrites']!);
    const packets = written.flatMap(({ vnet, packet }) =>
      vnet.gsoType === 0 ? [packet] : build.segmentReference(packet, vnet.gsoSize),
    );
    const { tunDelivered, icmpErrors } = wire.counters;
    t.is(packets.length, tunDelivered! + icmpErrors!, 'what is called delivered was written');
    t.true(dropsOf(wire.counters)['noPod']! > 0, 'noPod is met');
    // What came from somebody else than it says came from no peer.
    const { innerSource = 0, outerSource = 0, ...others } = dropsOf(wire.counters);
    const malformed = sum(others) - others['noPod']!;
    const fromPeers = [...wire.peerTraffic.values()].reduce((n, it) => n + it.receivedDatagrams, 0);
    t.true(fromPeers <= put - innerSource - outerSource);
    t.true(fromPeers >= put - innerSource - outerSource - malformed);
  });

  test(`both ways, ${name} (seed ${seed})`, (t) => {
    using wire = new Wire({ offloads });
    withUnreachable(wire);
    const random = createRandom(seed);
    for (let round = 0; round < ROUNDS; round++) {
      const before = wire.counters['udpDatagrams']!;
      const count = random(PACKETS_PER_ROUND);
      for (let i = 0; i < count; i++) {
        wire.tun.write(...outgoing(random));
        wire.fromPeer(wire.a, incoming(random, round));
      }
      wire.settleDatagrams(count, before);
      t.is(unaccounted(wire.counters), 0);
      wire.tun.read();
      wire.received();
    }
  });
}

test('a queue of the TUN that is full: what was written and what was not', (t) => {
  using wire = new Wire({ offloads: { coalesce: false } });
  const packet = build.udp(
    { source: '10.244.2.7', destination: '10.244.1.5' },
    build.payloadOf(1400),
  );
  const datagram = build.vxlan({ destinationMac: US.mac, sourceMac: MAC_A }, packet);
  let put = 0;
  // The twin's other end is not read: at some point it takes no more.
  while (put < 100_000 && dropsOf(wire.counters)['tunWriteFailed'] === undefined) {
    for (let i = 0; i < 40; i++) wire.fromPeer(wire.a, datagram);
    wire.settleDatagrams(40, put);
    put += 40;
  }
  t.true(dropsOf(wire.counters)['tunWriteFailed']! > 0);
  t.is(wire.counters['udpDatagrams'], put);
  t.is(wire.tun.read().length, wire.counters['tunDelivered']!);
  t.is(unaccounted(wire.counters), 0);
});

test('a queue of the TUN that is full: what went back and what did not', (t) => {
  using wire = new Wire();
  const packet = build.udp({ source: '10.244.1.5', destination: '10.244.1.6' }, room);
  let put = 0;
  while (put < 100_000 && dropsOf(wire.counters)['tunWriteFailed'] === undefined) {
    for (let i = 0; i < 40; i++) if (wire.tun.write(packet)) put++;
    wire.settle();
  }
  t.true(dropsOf(wire.counters)['tunWriteFailed']! > 0);
  t.is(wire.counters['tunPackets'], put);
  t.is(wire.tun.read().length, wire.counters['localDelivered']!);
  t.is(wire.counters['egressAccepted'], wire.counters['localDelivered']);
  t.is(unaccounted(wire.counters), 0);
});

const FAMILIES = {
  IPv4: { pod: '10.244.1.5', at: (subnet: number) => `10.244.${subnet}.7`, header: 20 },
  IPv6: { pod: 'fd00:1::5', at: (subnet: number) => `fd00:${subnet}::7`, header: 40 },
};
for (const [name, { pod, at, header }] of Object.entries(FAMILIES)) {
  const datagramTo = (subnet: number, bytes: number): Buffer =>
    build.udp({ source: pod, destination: at(subnet) }, build.payloadOf(bytes));
  const datagramFrom = (subnet: number, bytes: number): Buffer =>
    build.vxlan(
      { destinationMac: US.mac, sourceMac: MAC_A },
      build.udp({ source: at(subnet), destination: pod }, build.payloadOf(bytes)),
    );
  /** Of a datagram with that payload: VXLAN, Ethernet, IP and UDP headers. */
  const bytesOf = (payload: number): number => 8 + 14 + header + 8 + payload;

  test(`${name} of each peer: what went to it and came from it, however peers are published`, (t) => {
    using wire = new Wire();
    const [a, b] = wire.state.peers;
    let round = 0;
    const exchange = (): void => {
      wire.carry(datagramTo(2, 100), datagramTo(3, 900), datagramTo(3, 900));
      wire.fromPeer(wire.a, datagramFrom(2, 300));
      wire.fromPeer(wire.b, datagramFrom(3, 500));
      // B sends what only A may: nobody's.
      wire.fromPeer(wire.b, datagramFrom(2, 300));
      wire.settleDatagrams(3, 3 * round++);
    };
    const expected = (rounds: number) => ({
      A: {
        sentDatagrams: rounds,
        sentBytes: rounds * bytesOf(100),
        receivedDatagrams: rounds,
        receivedBytes: rounds * bytesOf(300),
      },
      B: {
        sentDatagrams: 2 * rounds,
        sentBytes: 2 * rounds * bytesOf(900),
        receivedDatagrams: rounds,
        receivedBytes: rounds * bytesOf(500),
      },
    });
    const told = () => Object.fromEntries(wire.peerTraffic);
    exchange();
    t.deepEqual(told(), expected(1));
    wire.publish({ peers: [b!, a!] });
    exchange();
    t.deepEqual(told(), expected(2));
    wire.publish({ peers: [b!] });
    wire.settle();
    t.deepEqual(told(), { B: expected(2).B } as never);
    wire.publish({ peers: [a!, b!] });
    exchange();
    t.deepEqual(told(), expected(3));
  });

  test(`${name} of each peer: also where the kernel refuses segments`, (t) => {
    using wire = new Wire();
    wire.refuseSegmentation();
    wire.carry(datagramTo(2, 100), datagramTo(2, 100), datagramTo(2, 50), datagramTo(3, 100));
    const { A, B } = Object.fromEntries(wire.peerTraffic);
    t.like(A, { sentDatagrams: 3, sentBytes: 2 * bytesOf(100) + bytesOf(50) });
    t.like(B, { sentDatagrams: 1, sentBytes: bytesOf(100) });
  });
}
