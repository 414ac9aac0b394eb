/**
 * Two nodes in one thread, packets from the first one's TUN to the second one's, and a count of garbage
 * collections over them:
 *
 *     feed --> TUN twin --> loop 1 --> UDP on loopback --> loop 2 --> TUN twin --> sink
 *                  sink <-----'
 *
 * Feeding and sinking use constant addresses too, so that what is collected is the path's.
 */
import { PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { addressOf, close, eventfd, readv, writev } from '../../linux/libc.ts';
import { VNET_HEADER_BYTES, writeVnetHeader } from '../../linux/tun.ts';
import { enableGro, openReceiver, openSender, portOf } from '../../linux/udp.ts';
import { type IpAddress, parseAddress } from '../../wire/address.ts';
import { type Cidr4, type Cidr6, parseCidr } from '../../wire/cidr.ts';
import { parseMac } from '../../wire/mac.ts';
import { createCounters, sumCounters } from '../../overlay/counters.ts';
import { createCaptureRing, setCaptureFilter } from '../../overlay/capture-ring.ts';
import { createEventRing } from '../../overlay/event-ring.ts';
import { CONTROL_GENERATION, CONTROL_WORDS, type Loop, createLoop } from '../../overlay/loop.ts';
import { compileSnapshot } from '../../overlay/snapshot.ts';
import type { OverlayState } from '../../overlay/types.ts';
import * as build from './build.ts';
import { ALL_OFFLOADS, MAC_A, TunTwin, US, loopback, peerOf, stateOf } from './wire-harness.ts';

export interface AllocationOrder {
  readonly datagrams: number;
  readonly warmUpDatagrams: number;
  readonly offloads: Partial<typeof ALL_OFFLOADS>;
  /** Captures that nobody reads, of inner packets or (true) of datagrams. */
  readonly captures: readonly boolean[];
}

export interface AllocationResult {
  readonly collections: number;
  readonly sent: Readonly<Record<string, number>>;
  readonly received: Readonly<Record<string, number>>;
}

const order = workerData as AllocationOrder;
const offloads = { ...ALL_OFFLOADS, ...order.offloads };

interface Node {
  readonly tun: TunTwin;
  readonly loop: Loop;
  readonly counters: Float64Array;
  readonly fds: readonly number[];
}

function openNode(address: IpAddress, port: number, receiver: number, state: OverlayState): Node {
  const tun = new TunTwin(offloads.tunTso);
  const counters = createCounters();
  const control = new Int32Array(new SharedArrayBuffer(CONTROL_WORDS * 4));
  const captures = createCaptureRing();
  for (const [slot, outer] of order.captures.entries()) {
    setCaptureFilter(captures, slot, {
      outer,
      snapBytes: 128,
      protocol: null,
      port: null,
      verdict: null,
      ends: [],
    });
  }
  const flows = [openSender(address), openSender(address)];
  const fragmenting = openSender(address, true);
  const wakeFd = eventfd(0, 0o4000);
  if (offloads.udpGro) enableGro(receiver);
  const loop = createLoop({
    tunFd: tun.fd,
    receiver4: receiver,
    receiver6: null,
    senders4: { flows, fragmenting },
    senders6: null,
    tunnel: null,
    wakeFd,
    port,
    offloads,
    counters,
    control,
    flows: null,
    events: createEventRing(),
    captures,
    onChange: (install) => install(compileSnapshot(state, port, 1)),
    report: (event) => {
      throw new Error(JSON.stringify(event));
    },
  });
  control[CONTROL_GENERATION] = 1;
  return {
    tun,
    loop,
    counters,
    fds: [receiver, wakeFd, fragmenting.fd, ...flows.map(({ fd }) => fd)],
  };
}

const addresses = [parseAddress(loopback(21)), parseAddress(loopback(22))] as const;
const receiver1 = openReceiver(addresses[0], 0, false);
const port = portOf(receiver1);
const receiver2 = openReceiver(addresses[1], port, false);
const one = openNode(addresses[0], port, receiver1, stateOf(addresses[1], addresses[0]));
const two = openNode(addresses[1], port, receiver2, {
  ...stateOf(addresses[1], addresses[1]),
  subnet4: parseCidr('10.244.2.0/24') as Cidr4,
  subnet6: parseCidr('fd00:2::/64') as Cidr6,
  mac: parseMac(MAC_A),
  pods: [parseAddress('10.244.2.7'), parseAddress('fd00:2::7')],
  peers: [peerOf('one', 1, US.mac, addresses[0])],
});

/** Blocks that are only known by their addresses, kept from the collector. */
const blocks: SharedArrayBuffer[] = [];

/** A message in memory that does not move, and the vector that points to it. */
function vectorOf(bytes: number): { readonly address: number; readonly room: Uint8Array } {
  const block = new SharedArrayBuffer(16 + bytes);
  blocks.push(block);
  const view = new DataView(block);
  const address = addressOf(block);
  view.setBigUint64(0, BigInt(address + 16), true);
  view.setBigUint64(8, BigInt(bytes), true);
  return { address, room: new Uint8Array(block, 16) };
}

const PIECE = 64;
const fedFd = one.tun.kernelFd;

/** Feeds the packet. Each is a function that knows its own address: read from an array, it is garbage. */
function messageOf(packet: Buffer, gsoType: number): () => number {
  const headerBytes = offloads.tunTso ? VNET_HEADER_BYTES : 0;
  const { address, room } = vectorOf(headerBytes + packet.length);
  const transport = build.transportAt(packet);
  const csumOffset = build.protocolOf(packet) === build.TCP ? 16 : 6;
  if (headerBytes > 0) {
    const view = new DataView(room.buffer, room.byteOffset);
    if (gsoType === 0) writeVnetHeader(view, 0, 1, 0, 0, 0, transport, csumOffset);
    else
      writeVnetHeader(view, 0, 1, gsoType, build.payloadAt(packet), PIECE, transport, csumOffset);
  } else {
    build.finishTransport(packet);
  }
  room.set(packet, headerBytes);
  return () => writev(fedFd, address, 1);
}

const to4 = { source: '10.244.1.5', destination: '10.244.2.7', checksum: 'partial' } as const;
const to6 = { source: 'fd00:1::5', destination: 'fd00:2::7', checksum: 'partial' } as const;
/** To another pod of the first node, and out of the overlay: back into its TUN. */
const here4 = { ...to4, destination: '10.244.1.6' } as const;
const here6 = { ...to6, destination: 'fd00:1::6' } as const;
const outside4 = { ...to4, destination: '198.51.100.1' } as const;
const outside6 = { ...to6, destination: '2001:db8::1' } as const;
const whole = build.payloadOf(64 * PIECE);
const single = build.payloadOf(PIECE);
const large = offloads.tunTso
  ? [
      messageOf(build.udp({ ...to4, sourcePort: 1 }, whole), build.GSO_UDP_L4),
      messageOf(build.udp({ ...to4, sourcePort: 2 }, whole), build.GSO_UDP_L4),
      messageOf(build.udp({ ...to6, sourcePort: 3 }, whole), build.GSO_UDP_L4),
      messageOf(build.tcp({ ...to4, sourcePort: 4 }, whole), build.GSO_TCPV4),
      messageOf(build.tcp({ ...to6, sourcePort: 5 }, whole), build.GSO_TCPV6),
    ]
  : [];
const messages = [
  ...large,
  messageOf(build.udp({ ...to4, sourcePort: 6 }, single), 0),
  messageOf(build.tcp({ ...to4, sourcePort: 7 }, single), 0),
  messageOf(build.tcp({ ...to6, sourcePort: 8, flags: build.ACK }, Buffer.alloc(0)), 0),
  messageOf(build.icmp({ ...to4 }, 8, 0, single), 0),
].slice(0, offloads.tunTso ? undefined : -1);
const tcpTypeOf = (source: string): number =>
  source === to4.source ? build.GSO_TCPV4 : build.GSO_TCPV6;
const backs = [here4, here6, outside4, outside6].flatMap((ends) => [
  messageOf(build.udp({ ...ends, sourcePort: 9 }, single), 0),
  ...(offloads.tunTso
    ? [messageOf(build.tcp({ ...ends, sourcePort: 10 }, whole), tcpTypeOf(ends.source))]
    : []),
]);
const sink = vectorOf(1 << 17);
const sunkFd = two.tun.kernelFd;

/** One batch from end to end. */
function carry(): void {
  for (let i = 0; i < messages.length; i++) messages[i]!();
  for (let i = 0; i < backs.length; i++) backs[i]!();
  while (one.loop.turn(0));
  while (two.loop.turn(0));
  while (readv(sunkFd, sink.address, 1) > 0);
  while (readv(fedFd, sink.address, 1) > 0);
}

function carryDatagrams(count: number): void {
  const perBatch = large.length * 64 + messages.length - large.length;
  for (let left = count; left > 0; left -= perBatch) carry();
}

let collections = 0;
const observer = new PerformanceObserver((list) => {
  collections += list.getEntries().length;
});

carryDatagrams(order.warmUpDatagrams);
// Collections are reported from the event loop: let those of the warm-up come first.
await sleep(10);
observer.observe({ entryTypes: ['gc'] });
await sleep(10);
collections = 0;
const before = { sent: sumCounters([one.counters]), received: sumCounters([two.counters]) };
carryDatagrams(order.datagrams);
await sleep(10);
observer.disconnect();

const since = (now: Record<string, number>, then: Record<string, number>) =>
  Object.fromEntries(Object.entries(now).map(([name, count]) => [name, count - then[name]!]));
const result: AllocationResult = {
  collections,
  sent: since(sumCounters([one.counters]), before.sent),
  received: since(sumCounters([two.counters]), before.received),
};
parentPort!.postMessage(result);
for (const node of [one, two]) {
  node.tun[Symbol.dispose]();
  for (const fd of node.fds) close(fd);
}
