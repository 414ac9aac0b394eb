/**
 * One worker's packet path, put together, and the loop that runs it to completion: wait until a queue
 * has something, take a batch, decide, hand it on, and only then wait again.
 * Runs per packet: no await, no allocation, no throw.
 * Not per packet: onGsoRefused.
 */
import { bootTimeS } from '../linux/clock.ts';
import { type Arena, createArena } from '../linux/arena.ts';
import { describeErrno } from '../linux/errno.ts';
import { errno, poll, readv, schedYield } from '../linux/libc.ts';
import { VNET_HEADER_BYTES } from '../linux/tun.ts';
import {
  type BoundSocket,
  SOCKADDR_IN6_ADDRESS,
  SOCKADDR_IN_ADDRESS,
  SOCKADDR_PORT,
  pathMtuBytes,
} from '../linux/udp.ts';
import { createPolicyLookup } from '../policy/table.ts';
import { createServiceLookup } from '../service/table.ts';
import { type Family, toIpv4, toIpv6 } from '../wire/address.ts';
import { createChecksum } from '../wire/checksum/checksum.ts';
import { Drop } from '../wire/drop-reason.ts';
import { createCaptureWriter } from './capture-ring.ts';
import { createCoalescer } from './coalesce.ts';
import { Counter, DROPS_IN } from './counters.ts';
import { type UnderlayQueues, createEgress } from './egress.ts';
import { createEventWriter } from './event-ring.ts';
import { type FlowMemory, createFlowTable } from './flow-table.ts';
import { createFlows } from './flows.ts';
import { createHeldFragments } from './held-fragments.ts';
import { createIcmpErrors } from './icmp-errors.ts';
import { createIngress } from './ingress.ts';
import { type Peers, createPeers } from './peers.ts';
import { type Receiver, createReceiver } from './receiver.ts';
import { createRejects } from './rejects.ts';
import { createSegmenter } from './segment.ts';
import { type Sender, type SenderOptions, createSender } from './sender.ts';
import {
  ENCAPSULATION_BYTES,
  HOP_ADDRESS,
  HOP_MTU,
  type Snapshot,
  overheadBytes,
} from './snapshot.ts';
import { type TunnelOptions, createTunnelGso } from './tunnel-gso.ts';
import { createTunWriter } from './tun-writer.ts';
import type { DataplaneEvent, Offloads } from './types.ts';

const PACKET_BYTES_MAX = 65535;
/** Packets of one turn stand one after another here; large ones are sent before the cache forgets them. */
const READ_BYTES = 128 << 10;
const READ_PACKETS = 64;
/** Of a packet that waits for those read after it. */
const SMALL_BYTES = 2048;
/** Before each packet, for the headers of a tunnel packet; a whole number of cache lines. */
const HEADROOM = 128;
const SEGMENT_HEADERS = 2048;
const ARENA_BYTES = 14 << 20;
/** About 100 us where nobody else wants the processor. */
const LOOKS = 100;
const BACK_OFF_MAX = 64;
const IOVEC_BYTES = 16;
const POLLFD_BYTES = 8;
const POLLIN = 1;
const POLL_FAILED = 0x08 | 0x10 | 0x20;

/** Words of the control block that the main thread shares with a worker. */
export const CONTROL_STOP = 0;
export const CONTROL_GENERATION = 1;
/** Not 0: the tunnel TAP is not to be used. */
export const CONTROL_NO_TUNNEL = 2;
/** One of each worker, by its index: the generation of the snapshot that it has installed last. */
export const CONTROL_INSTALLED = 3;
const WORKERS_MAX = 64;
/** One of each worker: CONTROL_GENERATION as it has seen it last, between two batches. */
export const CONTROL_SEEN = CONTROL_INSTALLED + WORKERS_MAX;
export const CONTROL_WORDS = CONTROL_SEEN + WORKERS_MAX;

/** What a worker sends from in one underlay family. */
export interface SendingSockets {
  /** A power of two of them, each with a source port of its own. */
  readonly flows: readonly BoundSocket[];
  /** Its datagrams may be fragmented. */
  readonly fragmenting: BoundSocket;
}

export interface LoopOptions {
  readonly tunFd: number;
  /** Receiving socket of each underlay family, or null. */
  readonly receiver4: number | null;
  readonly receiver6: number | null;
  /** Sending sockets of each underlay family, or null. */
  readonly senders4: SendingSockets | null;
  readonly senders6: SendingSockets | null;
  /** A TAP for whole tunnel packets over IPv4, or null. */
  readonly tunnel: TunnelOptions | null;
  /** An eventfd that the main thread writes to after it has changed something. */
  readonly wakeFd: number;
  readonly port: number;
  readonly offloads: Offloads;
  readonly counters: Float64Array;
  readonly control: Int32Array;
  /** Null: no flows are tracked; Services and policy count for nothing. */
  readonly flows: FlowOptions | null;
  /** Where flows that begin and packets that are dropped are told (event-ring.ts); null: nowhere. */
  readonly events: Int32Array | null;
  /** Where packets are copied that somebody captures (capture-ring.ts); absent: nowhere. */
  readonly captures?: Int32Array | null;
  /** Called between batches when the control block's generation has moved; hands on what was published. */
  readonly onChange: (install: (snapshot: Snapshot) => void) => void;
  readonly report: (event: DataplaneEvent) => void;
}

/** The flow table, and how it is used. */
export interface FlowOptions {
  readonly memory: FlowMemory;
  /** Established flows go on whatever a new policy says of them. */
  readonly loose: boolean;
}

/** The TUN is gone or cannot be read: this worker carries no traffic any more. */
export class LoopError extends Error {
  readonly code = 'ERR_PACKET_LOOP';
}

export interface Loop {
  /** Returns when told to stop. @throws LoopError */
  readonly run: () => void;
  /**
   * What `run` does over and over: takes up what was published, waits for packets, carries one batch
   * from each queue. @returns false when nothing came within `timeoutMs` (-1: no limit) @throws LoopError
   */
  readonly turn: (timeoutMs: number) => boolean;
  readonly arena: Arena;
  readonly peers: Peers;
}

export function createLoop(options: LoopOptions): Loop {
  const { tunFd, counters, control, offloads } = options;
  const arena = createArena(ARENA_BYTES);
  const { view, words, setPointer } = arena;
  const checksum = createChecksum(arena.memory);
  const peers = createPeers(arena);
  const vnetHeader = offloads.tunTso;
  const writer = createTunWriter(arena, counters, checksum, tunFd, vnetHeader);
  const icmp = createIcmpErrors(arena, counters, checksum, peers, writer, () => performance.now());
  const policy = createPolicyLookup(view);
  const services = createServiceLookup(view);
  const table = options.flows === null ? null : createFlowTable(view, options.flows.memory);
  const isTracking = table !== null;
  const events = options.events === null ? null : createEventWriter(view, options.events);
  const captures = options.captures ?? null;
  const capture = captures === null ? null : createCaptureWriter(view, captures);
  const heldOut = isTracking ? createHeldFragments(arena, counters, Counter.egressAccepted) : null;
  const heldIn = isTracking ? createHeldFragments(arena, counters, Counter.tunDelivered) : null;
  const flows =
    options.flows === null || table === null
      ? null
      : createFlows(arena, peers, {
          table,
          policy,
          services,
          rejects: createRejects(arena, checksum, icmp, writer),
          loose: options.flows.loose,
          heldOut,
          heldIn,
          events,
        });
  if (flows !== null) icmp.onError(flows.ownError);
  const coalescer = createCoalescer(
    arena,
    counters,
    checksum,
    peers,
    writer,
    offloads,
    flows,
    heldIn,
    events,
    capture,
  );
  let isGsoRefused = false;
  const senders: Sender[] = [];
  const queues4 = options.senders4 === null ? null : createQueues(options.senders4, 4);
  const queues6 = options.senders6 === null ? null : createQueues(options.senders6, 6);
  const segmenter = createSegmenter(arena, checksum, SEGMENT_HEADERS, flushSenders);
  const tunnel =
    options.tunnel === null ? null : createTunnelGso(arena, counters, options.tunnel, capture);
  const egress = createEgress(
    arena,
    checksum,
    peers,
    segmenter,
    icmp,
    writer,
    queues4,
    queues6,
    tunnel,
    flows,
    heldOut,
  );
  const receivers: Receiver[] = [];
  const pollFds = [tunFd, options.wakeFd];
  if (options.receiver4 !== null) createUnderlay(options.receiver4, 4);
  if (options.receiver6 !== null) createUnderlay(options.receiver6, 6);

  const pollAt = arena.take(pollFds.length * POLLFD_BYTES, 'poll');
  const pollAddress = arena.address + pollAt;
  const pollCount = pollFds.length;
  pollFds.forEach((fd, i) => {
    words[(pollAt + i * POLLFD_BYTES) >>> 2] = fd;
    view.setUint16(pollAt + i * POLLFD_BYTES + 4, POLLIN, true);
  });
  const readVectorAt = arena.take(IOVEC_BYTES, 'TUN read vector');
  const readVectorAddress = arena.address + readVectorAt;
  const readAt = arena.take(
    HEADROOM + READ_BYTES + VNET_HEADER_BYTES + PACKET_BYTES_MAX,
    'TUN reads',
  );
  const readEnd = readAt + READ_BYTES;
  /** Packets that were read, and are to be carried together. */
  const readStarts = new Int32Array(READ_PACKETS);
  const readBytes = new Int32Array(READ_PACKETS);
  const readPackets = offloads.batch ? READ_PACKETS : 1;
  const readOffset = vnetHeader ? 0 : VNET_HEADER_BYTES;
  const wakeVectorAt = arena.take(IOVEC_BYTES, 'wake vector');
  const wakeVectorAddress = arena.address + wakeVectorAt;
  setPointer(wakeVectorAt, arena.take(8, 'wake count'));
  words[(wakeVectorAt + 8) >>> 2] = 8;
  let generation = 0;
  let skip = 0;
  let backOff = 1;

  function openSnapshot(snapshot: Snapshot): void {
    peers.install(snapshot);
    policy.install(snapshot.policy);
    services.install(snapshot.services);
  }

  function createQueues(sockets: SendingSockets, family: Family): UnderlayQueues {
    return {
      flows: sockets.flows.map((it) => createQueue(it, family, offloads.udpGso)),
      // Fragments of segmented messages are more than the kernel does.
      fragmenting: createQueue(sockets.fragmenting, family, false),
    };
  }

  function createQueue(bound: BoundSocket, family: Family, gso: boolean): Sender {
    const sender = createSender(arena, counters, {
      fd: bound.fd,
      sourcePort: bound.port,
      family,
      gso,
      batch: offloads.batch,
      capture,
      onTooBig: createPathMtu(family),
      onGsoRefused: (number) => {
        // Every queue finds out for itself, and for each message that waited; people are told once.
        if (!isGsoRefused) {
          options.report({ kind: 'offload-off', offload: 'udpGso', reason: describeErrno(number) });
        }
        isGsoRefused = true;
      },
    });
    senders.push(sender);
    return sender;
  }

  function createUnderlay(fd: number, family: Family): void {
    const ingress = createIngress(arena, counters, peers, coalescer, icmp, family, options.port);
    /** From the address of a sockaddr to its port. */
    const portOffset = SOCKADDR_PORT - (family === 4 ? SOCKADDR_IN_ADDRESS : SOCKADDR_IN6_ADDRESS);
    const onDatagram = (
      at: number,
      end: number,
      ecn: number,
      sourceAt: number,
      gsoSize: number,
    ): void => {
      const is4 = family === 4;
      const isCaptured = capture !== null && capture.isOuter();
      if (isCaptured) capture.noteDatagram(at, end);
      const drop = ingress(at, end, ecn, sourceAt, gsoSize);
      if (isCaptured) {
        const ports = (view.getUint16(sourceAt + portOffset) << 16) | options.port;
        capture.received(drop, sourceAt, is4, ports, ecn);
      }
      if (drop === Drop.none) return;
      counters[drop]!++;
      counters[DROPS_IN + drop]!++;
      const ip = at + ENCAPSULATION_BYTES;
      events?.dropped(drop, ip, end, false, sourceAt, is4, false);
      if (capture !== null && capture.isInner()) capture.refused(drop, ip, end, sourceAt, is4);
    };
    receivers.push(
      createReceiver(arena, counters, { fd, family, batch: offloads.batch, onDatagram }),
    );
    pollFds.push(fd);
  }

  /** Asks the kernel what it has learned of the path, once per change, and tells the packet's sender. */
  function createPathMtu(family: Family): SenderOptions['onTooBig'] {
    const openPath = (hop: number): void => {
      const address = hop + HOP_ADDRESS;
      const outer = pathMtuBytes(
        family === 4
          ? toIpv4(view.getUint32(address + 4))
          : toIpv6((view.getBigUint64(address + 8) << 64n) | view.getBigUint64(address + 16)),
      );
      const inner = Math.max(outer - overheadBytes(family), 0);
      if (outer === 0 || inner >= words[(hop + HOP_MTU) >>> 2]!) return;
      words[(hop + HOP_MTU) >>> 2] = inner;
      options.report({ kind: 'path-mtu', peer: peers.nameOf(peers.atHop(hop)), mtuBytes: inner });
    };
    return (hop, at, headBytes, datagramBytes) => {
      const bytes = datagramBytes - ENCAPSULATION_BYTES;
      if (bytes <= words[(hop + HOP_MTU) >>> 2]!) openPath(hop);
      const mtu = words[(hop + HOP_MTU) >>> 2]!;
      if (bytes <= mtu) return false;
      icmp.tooBig(at + ENCAPSULATION_BYTES, headBytes - ENCAPSULATION_BYTES, mtu);
      return true;
    };
  }

  function flushSenders(): void {
    for (let i = 0; i < senders.length; i++) senders[i]!.flush();
    segmenter.reset();
    heldOut?.settle();
  }

  /** Takes a batch from the TUN: small packets are read together, a large one is sent at once. */
  function drainTun(): void {
    let at = readAt + HEADROOM;
    let waiting = 0;
    for (let n = 0; n < readPackets && at < readEnd; n++) {
      setPointer(readVectorAt, at + readOffset);
      words[(readVectorAt + 8) >>> 2] = VNET_HEADER_BYTES + PACKET_BYTES_MAX - readOffset;
      const read = readv(tunFd, readVectorAddress, 1);
      if (read <= 0) break;
      const bytes = read + readOffset - VNET_HEADER_BYTES;
      if (!vnetHeader) for (let i = 0; i < VNET_HEADER_BYTES; i += 4) view.setInt32(at + i, 0);
      counters[Counter.tunPackets]!++;
      counters[Counter.tunBytes]! += bytes;
      readStarts[waiting] = at;
      readBytes[waiting++] = bytes;
      if (bytes > SMALL_BYTES) {
        carry(waiting);
        waiting = 0;
      }
      at = (at + VNET_HEADER_BYTES + bytes + HEADROOM + 63) & ~63;
    }
    carry(waiting);
    flushSenders();
  }

  function carry(count: number): void {
    if (count > 1 && flows !== null && flows.isLarge()) {
      for (let i = 0; i < count; i++) {
        const ip = readStarts[i]! + VNET_HEADER_BYTES;
        flows.expect(ip, ip + readBytes[i]!);
      }
      flows.fetch();
    }
    for (let i = 0; i < count; i++) {
      const at = readStarts[i]!;
      const bytes = readBytes[i]!;
      const ip = at + VNET_HEADER_BYTES;
      const isCaptured = capture !== null && capture.isInner();
      if (isCaptured) capture.note(ip, ip + bytes);
      const drop = egress(at, bytes);
      counters[drop === Drop.none ? Counter.egressAccepted : drop]!++;
      if (drop !== Drop.none) {
        const isReply = flows !== null && flows.isReply();
        events?.dropped(drop, ip, ip + bytes, true, -1, true, isReply);
      }
      if (isCaptured) capture.decided(drop, ip, ip + bytes, bytes, true);
    }
  }

  /** Takes a batch from one underlay socket. */
  function drainUdp(receiver: Receiver): void {
    receiver.receive();
    coalescer.flush();
  }

  function readyAt(i: number): number {
    return view.getUint16(pollAt + i * POLLFD_BYTES + 6, true);
  }

  /**
   * A thread that sleeps is woken late: an idle processor takes tens of microseconds. So before it
   * sleeps it looks again for a while, giving way to whoever else wants the processor, as long as that
   * pays: after a look in vain it goes to sleep at once for a number of times that doubles.
   */
  function wait(timeoutMs: number): number {
    if (timeoutMs < 0 && skip === 0) {
      for (let i = 0; i < LOOKS; i++) {
        const ready = poll(pollAddress, pollCount, 0);
        if (ready !== 0) {
          backOff = 1;
          return ready;
        }
        schedYield();
      }
      skip = backOff;
      if (backOff < BACK_OFF_MAX) backOff *= 2;
    } else if (skip > 0) {
      skip--;
    }
    return poll(pollAddress, pollCount, timeoutMs);
  }

  function turn(timeoutMs: number): boolean {
    const published = Atomics.load(control, CONTROL_GENERATION);
    if (published !== generation) {
      generation = published;
      tunnel?.enable(Atomics.load(control, CONTROL_NO_TUNNEL) === 0);
      options.onChange(openSnapshot);
    }
    if (wait(timeoutMs) <= 0) return false;
    counters[Counter.wakeups]!++;
    table?.setNow(bootTimeS());
    events?.begin();
    capture?.begin();
    const tun = readyAt(0);
    if ((tun & POLLIN) !== 0) drainTun();
    else if ((tun & POLL_FAILED) !== 0) openFailure();
    for (let i = 0; i < receivers.length; i++) {
      if (readyAt(2 + i) !== 0) drainUdp(receivers[i]!);
    }
    if (readyAt(1) !== 0) readv(options.wakeFd, wakeVectorAddress, 1);
    return true;
  }

  function run(): void {
    while (Atomics.load(control, CONTROL_STOP) === 0) turn(-1);
  }

  function openFailure(): void {
    throw new LoopError(
      `the TUN device went away (${describeErrno(errno())}): pod traffic of this node has stopped; ` +
        'restart the daemon to create it again',
    );
  }

  return { run, turn, arena, peers };
}
