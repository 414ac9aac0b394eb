/**
 * A million broken datagrams through ingress, and a third as many broken packets through egress: never a
 * throw, each delivered or counted, and not a byte looked at or changed outside of what was handed over.
 *
 * Reads are caught by doing everything twice, with different bytes behind and before each packet: any
 * difference in what comes of it is a byte that was not the packet's. Writes are caught by looking for
 * those bytes afterwards.
 *
 *     [ guard | datagram | guard | datagram | guard ] ...
 */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { createArena } from '../../linux/arena.ts';
import { VNET_HEADER_BYTES, writeVnetHeader } from '../../linux/tun.ts';
import { createChecksum } from '../../wire/checksum/checksum.ts';
import { Drop, dropNames } from '../../wire/drop-reason.ts';
import { Counter, createCounters } from '../../overlay/counters.ts';
import { createEgress } from '../../overlay/egress.ts';
import { createIcmpErrors } from '../../overlay/icmp-errors.ts';
import { createPeers } from '../../overlay/peers.ts';
import { createSegmenter } from '../../overlay/segment.ts';
import type { Sender } from '../../overlay/sender.ts';
import { compileSnapshot } from '../../overlay/snapshot.ts';
import { createTunWriter } from '../../overlay/tun-writer.ts';
import * as build from './build.ts';
import { captures, nodeOf } from './capture-nodes.ts';
import { createRandom, mutate } from './mutate.ts';
import { datagramOf, readPcap } from './pcap.ts';
import { IngressPath, TunTwin, unaccounted } from './wire-harness.ts';

const FRAMES = 1_000_000;
const PACKETS = 300_000;
const GUARD_BYTES = 128;
const DATAGRAM_BYTES_MAX = 1600;
const PATTERNS = [0xa5, 0x5a] as const;

const seed = Number(process.env['WEFT_FUZZ_SEED'] ?? Date.now() & 0x7fffffff);

const [capture] = captures;
const captured = captures.flatMap(({ file, outer }) =>
  readPcap(readFileSync(new URL(`../fixtures/${file}`, import.meta.url)))
    .map((frame) => datagramOf(frame))
    .filter(({ source }) => source.join('.') === outer[1] || source.at(-1) === 1)
    .map(({ payload }) => Buffer.from(payload)),
);

// What the capture has not: segments that can be merged, ECN, options, fragments, nested tunnels.
const from4 = { source: '10.244.1.2', destination: '10.244.2.2' } as const;
const from6 = { source: 'fd00:10:244:1::2', destination: 'fd00:10:244:2::2' } as const;
const toUs = { destinationMac: '02:00:00:00:00:0b', sourceMac: '02:00:00:00:00:0a' } as const;
const built = [from4, from6].flatMap((ends) =>
  [0, 1, 2, 3]
    .flatMap((i) => [
      build.tcp({ ...ends, sequence: 1000 + 500 * i, id: i }, build.payloadOf(500)),
      build.tcp({ ...ends, sequence: 1000 + 500 * i, id: i, tos: i }, build.payloadOf(500)),
      build.tcp({ ...ends, options: [1, 1, 8, 10, 0, 0, 0, i, 0, 0, 0, 1] }, build.payloadOf(99)),
      build.udp({ ...ends, dontFragment: true }, build.payloadOf(300)),
      build.udp({ ...ends, ipOptions: [1, 1, 1, 0], checksum: 'partial' }, build.payloadOf(30)),
      build.udp({ ...ends, moreFragments: true, destinationPort: 8472 }, build.payloadOf(64)),
      build.udp(
        {
          ...ends,
          destination: ends === from4 ? '10.244.2.0' : 'fd00:10:244:2::',
          destinationPort: 8472,
        },
        build.payloadOf(64),
      ),
      build.icmp(ends, 8, 0, build.payloadOf(56)),
    ])
    .map((packet) => build.vxlan(toUs, packet)),
);
const seeds = [...captured, ...built];

/** FNV-1a over `count` bytes. */
function digest(hash: number, bytes: Uint8Array, at: number, count: number): number {
  let h = hash;
  for (let i = at; i < at + count; i++) h = Math.imul(h ^ bytes[i]!, 0x01000193);
  return h;
}

test(`ingress: a million broken datagrams (seed ${seed})`, (t) => {
  using path = new IngressPath(nodeOf(capture!, 2));
  const { bytes } = path.arena;
  const random = createRandom(seed);
  const room = new Uint8Array(DATAGRAM_BYTES_MAX);
  const batch = new Uint8Array(8 * (DATAGRAM_BYTES_MAX + GUARD_BYTES));
  const ends = new Int32Array(8);
  const gsoSizes = new Int32Array(8);
  const outcomes = new Int32Array(8);
  path.setSource(Uint8Array.of(192, 0, 2, 1));
  let frames = 0;
  let delivered = 0;
  const reasons = new Set<number>();
  let complaint = '';

  /** The batch, with guards of `pattern`; a digest of what it came to. */
  function carry(count: number, size: number, pattern: number): number {
    let hash = 0x811c9dc5;
    const begin = path.roomAt;
    bytes.fill(pattern, begin, begin + size + GUARD_BYTES);
    let from = 0;
    for (let i = 0; i < count; i++) {
      const at = begin + from + GUARD_BYTES;
      bytes.set(batch.subarray(from + GUARD_BYTES, ends[i]), at);
      from = ends[i]!;
    }
    from = 0;
    for (let i = 0; i < count; i++) {
      const drop = path.takeAt(begin + from + GUARD_BYTES, begin + ends[i]!, i & 3, gsoSizes[i]);
      outcomes[i] = drop;
      hash = Math.imul(hash ^ drop, 0x01000193);
      from = ends[i]!;
    }
    path.flush();
    for (;;) {
      const message = path.tun.readMessage();
      if (message === null) break;
      delivered++;
      hash = digest(hash, message, 0, message.length);
      complaint ||= complaintOf(message);
    }
    from = 0;
    for (let i = 0; i <= count; i++) {
      for (let p = begin + from; p < begin + from + GUARD_BYTES; p++) {
        if (bytes[p] !== pattern)
          complaint ||= `datagram ${i}: byte ${p - begin - from} was written`;
      }
      from = ends[i]!;
    }
    return hash;
  }

  while (frames < FRAMES) {
    const count = 1 + random(8);
    let size = 0;
    for (let i = 0; i < count; i++) {
      const original = seeds[random(seeds.length)]!;
      room.set(original);
      // Now and then one as it was, so that merging has something to merge.
      let length = original.length;
      if (random(8) > 0) length = mutate(room, length, random, seeds[random(seeds.length)]!);
      // A right header checksum lets half of the broken ones through to what comes after it.
      if (random(2) === 0) mendIpv4(room, length);
      batch.set(room.subarray(0, length), size + GUARD_BYTES);
      size += GUARD_BYTES + length;
      ends[i] = size;
      gsoSizes[i] = random(16) === 0 ? random(1500) : 0;
    }
    const [first, second] = PATTERNS.map((pattern) => carry(count, size, pattern));
    if (first !== second) complaint ||= 'what comes of a datagram depends on bytes around it';
    if (complaint !== '') break;
    for (let i = 0; i < count; i++) reasons.add(outcomes[i]!);
    frames += count;
  }
  t.is(complaint, '', `batch before frame ${frames}`);
  t.is(unaccounted(path.counters), 0);
  t.is(path.counters['udpDatagrams'], 2 * frames);
  t.log(`${frames} datagrams, ${delivered / 2} writes to the TUN, seed ${seed}`);
  t.true(delivered > FRAMES / 20, 'enough of them get through');
  const met = new Set([...reasons].map((reason) => dropNames[reason]));
  for (const name of [
    'truncated',
    'flags',
    'vni',
    'innerMac',
    'etherType',
    'ipHeader',
    'ipChecksum',
    'innerSource',
    'innerDestination',
    'noPod',
    'nested',
    'ecn',
    'ttl',
  ] as const) {
    t.true(met.has(name), `${name} is met`);
  }
});

function mendIpv4(datagram: Uint8Array, length: number): void {
  const ip = 22;
  const header = (datagram[ip]! & 15) * 4;
  if (header < 20 || ip + header > length) return;
  let sum = 0;
  for (let i = 0; i < header; i += 2) {
    if (i !== 10) sum += datagram[ip + i]! * 256 + datagram[ip + i + 1]!;
  }
  sum = (sum & 0xffff) + (sum >>> 16);
  sum = ~((sum & 0xffff) + (sum >>> 16));
  datagram[ip + 10] = sum >> 8;
  datagram[ip + 11] = sum;
}

/**
 * What no write to the TUN may be: of a length that is not its own, or not between A and us; and from us
 * to A only an ICMP error that the node itself sends.
 */
function complaintOf(message: Uint8Array): string {
  const ip = VNET_HEADER_BYTES;
  const bytes = message.length - ip;
  if (bytes < 20) return `a write of ${bytes} bytes`;
  const is4 = message[ip]! >> 4 === 4;
  const total = is4
    ? message[ip + 2]! * 256 + message[ip + 3]!
    : message[ip + 4]! * 256 + message[ip + 5]! + 40;
  if (total !== bytes) return `a write of ${bytes} bytes that says ${total}`;
  const source = is4 ? message[ip + 14] : message[ip + 15];
  const destination = is4 ? message[ip + 18] : message[ip + 31];
  if (source === 2 && destination === 1) {
    const isError = is4
      ? message[ip + 9] === build.ICMP && message[ip + 15] === 0 && message[ip + 20] === 3
      : message[ip + 6] === build.ICMPV6 && message[ip + 23] === 0 && message[ip + 40] === 1;
    return isError ? '' : 'a write from us that is no ICMP error';
  }
  if (source !== 1 || destination !== 2) return `a write from ${source} to ${destination}`;
  return '';
}

/** What no packet that goes back may be: another than was read, or between ends that none may have. */
function backComplaintOf(message: Buffer, read: Uint8Array): string {
  if (!message.equals(read)) return 'a packet changed on its way back';
  const ip = VNET_HEADER_BYTES;
  const is4 = message[ip]! >> 4 === 4;
  const ends = is4
    ? [message.subarray(ip + 12, ip + 16), message.subarray(ip + 16, ip + 20)]
    : [message.subarray(ip + 8, ip + 24), message.subarray(ip + 24, ip + 40)];
  const isNowhere = (address: Buffer): boolean =>
    is4
      ? address[0] === 0 || address[0] === 127 || address[0]! >= 224
      : address.readUInt32BE(0) === 0 || address[0] === 0xff || address.readUInt16BE(0) === 0xfe80;
  if (ends.some((address) => isNowhere(address))) return `back: ${message.toString('hex', ip, 60)}`;
  const ours = Buffer.from(is4 ? '0af401' : 'fd00001002440001', 'hex');
  const isOurs = ends.map((address) => address.subarray(0, ours.length).equals(ours));
  return isOurs.includes(true)
    ? ''
    : `back, from others to others: ${message.toString('hex', ip, 60)}`;
}

test(`egress: broken packets and vnet headers (seed ${seed})`, (t) => {
  using tun = new TunTwin(true);
  const arena = createArena(4 << 20);
  const { bytes, view } = arena;
  const counters = createCounters();
  const checksum = createChecksum(arena.memory);
  const writer = createTunWriter(arena, counters, checksum, tun.fd, true);
  const peers = createPeers(arena);
  peers.install(compileSnapshot(nodeOf(capture!, 1), 8472, 1));
  let nowMs = 0;
  const icmp = createIcmpErrors(arena, counters, checksum, peers, writer, () => (nowMs += 1));
  const segmenter = createSegmenter(arena, checksum, 2048, () => segmenter.reset());
  const random = createRandom(seed);
  const slot = arena.take(1 << 17, 'packet');
  let hash = 0;
  let datagrams = 0;
  let complaint = '';
  let from = 0;
  let end = 0;
  const sender: Sender = {
    sourcePort: 1,
    flush: () => {},
    append: (_hop, ecn, headAt, headBytes, bodyAt, bodyBytes) => {
      datagrams++;
      if (headBytes + bodyBytes < 22 + 20) complaint ||= `a datagram of ${headBytes + bodyBytes}`;
      if (bodyBytes > 0 && (bodyAt < from || bodyAt + bodyBytes > end)) {
        complaint ||= `a body at ${bodyAt - from} of ${bodyBytes} in ${end - from}`;
      }
      if (headAt > slot && headAt + headBytes > end) complaint ||= 'a head beyond the packet';
      hash = digest(Math.imul(hash ^ ecn, 0x01000193), bytes, headAt, headBytes);
      // The whole of a body in every packet would be most of the work here.
      hash = digest(hash, bytes, bodyAt, Math.min(bodyBytes, 16));
      hash = digest(
        hash,
        bytes,
        bodyAt + bodyBytes - Math.min(bodyBytes, 16),
        Math.min(bodyBytes, 16),
      );
    },
  };
  const queues = { flows: [sender], fragmenting: sender };
  const egress = createEgress(
    arena,
    checksum,
    peers,
    segmenter,
    icmp,
    writer,
    queues,
    queues,
    null,
  );

  const packets = seeds.map((datagram) => datagram.subarray(22));
  const larges = [from4, from6].flatMap((ends) => [
    build.tcp({ ...ends, checksum: 'partial', dontFragment: true }, build.payloadOf(2900)),
    build.udp({ ...ends, checksum: 'partial' }, build.payloadOf(2900)),
    build.udp(ends, build.payloadOf(2900)),
  ]);
  // What goes back: to a pod, to the node, out of the overlay; and from there to a pod.
  const local = [
    { source: from4.source, destination: '10.244.1.2' },
    { source: from4.source, destination: '10.244.1.0' },
    { source: from4.source, destination: '198.51.100.1' },
    { source: '198.51.100.1', destination: from4.source },
    { source: from6.source, destination: 'fd00:10:244:1::2' },
    { source: from6.source, destination: 'fd00:10:244:1::' },
    { source: from6.source, destination: '2001:db8::1' },
    { source: '2001:db8::1', destination: from6.source },
  ].flatMap((ends) => [
    build.tcp({ ...ends, checksum: 'partial' }, build.payloadOf(2900)),
    build.udp(ends, build.payloadOf(99)),
  ]);
  const originals = [...packets, ...larges, ...larges, ...larges, ...local, ...local, ...local];
  const room = new Uint8Array(3200);
  const reasons = new Set<number>();

  const written = new Uint8Array(VNET_HEADER_BYTES + room.length);
  let backs = 0;
  const wentBack = (): number =>
    counters[Counter.localDelivered]! + counters[Counter.hostDelivered]!;

  function carry(length: number, vnet: readonly number[], pattern: number, at: number): number {
    hash = 0x811c9dc5;
    bytes.fill(pattern, slot, at + VNET_HEADER_BYTES + length + GUARD_BYTES);
    writeVnetHeader(view, at, vnet[0]!, vnet[1]!, vnet[2]!, vnet[3]!, vnet[4]!, vnet[5]!);
    bytes.set(room.subarray(0, length), at + VNET_HEADER_BYTES);
    from = at + VNET_HEADER_BYTES;
    end = from + length;
    const backBefore = wentBack();
    written.set(bytes.subarray(at, end));
    const drop = egress(at, length);
    segmenter.reset();
    reasons.add(drop);
    const isBack = wentBack() > backBefore;
    for (;;) {
      const message = tun.readMessage();
      if (message === null) break;
      hash = digest(hash, message, 0, message.length);
      if (isBack) {
        backs++;
        complaint ||= backComplaintOf(message, written.subarray(0, end - at));
      }
    }
    for (let p = end; p < end + GUARD_BYTES; p++) {
      if (bytes[p] !== pattern) complaint ||= `byte ${p - end} behind the packet was written`;
    }
    // The encapsulation's place in front of the vnet header is the path's own.
    for (let p = slot; p < at - 76; p++) {
      if (bytes[p] !== pattern) complaint ||= `byte ${p - at} before the packet was written`;
    }
    return Math.imul(hash ^ drop, 0x01000193);
  }

  let carried = 0;
  for (; carried < PACKETS && complaint === ''; carried++) {
    const original = originals[random(originals.length)]!;
    room.set(original);
    const isLarge = original.length > 2000;
    let length = original.length;
    if (random(4) > 0) length = mutate(room, length, random, originals[random(originals.length)]!);
    const isV4 = original[0]! >> 4 === 4;
    const transport = build.transportAt(original);
    const isTcp = build.protocolOf(original) === build.TCP;
    const rightType = isTcp ? (isV4 ? build.GSO_TCPV4 : build.GSO_TCPV6) : build.GSO_UDP_L4;
    const vnet = isLarge
      ? [1, rightType, 54, 200 + random(1300), transport, isTcp ? 16 : 6]
      : [random(2), 0, 0, 0, transport, isTcp ? 16 : 6];
    if (random(3) === 0) vnet[random(6)] = [random(256), random(65536), 0][random(3)]!;
    const at = slot + 256 + 4 * random(16);
    const [first, second] = PATTERNS.map((pattern) => carry(length, vnet, pattern, at));
    if (first !== second) complaint ||= 'what comes of a packet depends on bytes around it';
  }
  t.is(complaint, '', `packet ${carried}`);
  t.log(`${carried} packets, ${datagrams / 2} datagrams, seed ${seed}`);
  t.true(datagrams > PACKETS, 'enough of them get through');
  t.true(backs > PACKETS / 10, 'and enough go back');
  t.is(backs, wentBack());
  for (const name of [
    'truncated',
    'ipHeader',
    'notOurSource',
    'noPeer',
    'noPod',
    'multicast',
    'martian',
    'tooBig',
    'offloadHeader',
  ] as const) {
    t.true(reasons.has(Drop[name]), `${name} is met`);
  }
});
