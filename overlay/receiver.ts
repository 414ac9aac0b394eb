/**
 * Datagrams from the underlay, many per system call, and with UDP_GRO many per message.
 * Runs per packet: no await, no allocation, no throw.
 */
import type { Arena } from '../linux/arena.ts';
import { recvmmsg } from '../linux/libc.ts';
import {
  IPV6_TCLASS,
  IP_TOS,
  SOCKADDR_BYTES,
  SOCKADDR_IN6_ADDRESS,
  SOCKADDR_IN_ADDRESS,
  SOL_UDP,
  UDP_GRO,
} from '../linux/udp.ts';
import type { Family } from '../wire/address.ts';
import { ECN_MASK } from '../wire/ecn.ts';
import { readTotalLength } from '../wire/ipv4.ts';
import { IPV6_HEADER_BYTES, readPayloadLength } from '../wire/ipv6.ts';
import { Counter } from './counters.ts';
import { ENCAPSULATION_BYTES } from './snapshot.ts';

const MESSAGES = 64;
/** The largest UDP payload, and then some: odd multiples of a cache line keep slots off each other's sets. */
const SLOT_BYTES = 65536 + 33 * 64;
const NAME_BYTES = 32;
const CONTROL_BYTES = 64;
const MMSGHDR_BYTES = 64;
const IOVEC_BYTES = 16;
const CMSG_HEADER_BYTES = 16;
/** Large messages are taken a few at a time, so that they are still in the cache when they are written. */
const BATCH_BYTES = 256 << 10;
const MSG_DONTWAIT = 0x40;
const MSG_TRUNC = 0x20;

/** What `onDatagram` is told of the datagrams that share one message. */
export interface Receiver {
  /**
   * Takes what is there, at most 64 messages, and hands each datagram to `onDatagram`.
   * @returns messages received; fewer than `capacity` means that the queue is empty
   */
  readonly receive: () => number;
  readonly capacity: number;
}

export interface ReceiverOptions {
  readonly fd: number;
  readonly family: Family;
  readonly batch: boolean;
  /**
   * @param at       offset of the datagram's first byte (VXLAN header) in the arena
   * @param end      offset after its last
   * @param ecn      the outer ECN field, 0..3
   * @param sourceAt offset of the outer source address, 4 or 16 bytes
   * @param gsoSize  of a datagram that nobody has segmented (see `isWhole`): payload bytes of a segment
   *                 as the kernel tells them, or 0
   */
  readonly onDatagram: (
    at: number,
    end: number,
    ecn: number,
    sourceAt: number,
    gsoSize: number,
  ) => void;
}

export function createReceiver(
  arena: Arena,
  counters: Float64Array,
  options: ReceiverOptions,
): Receiver {
  const { view, words, setPointer } = arena;
  const { fd, family, onDatagram } = options;
  const capacity = options.batch ? MESSAGES : 1;
  const messagesAt = arena.take(capacity * MMSGHDR_BYTES, 'receive messages');
  const iovecsAt = arena.take(capacity * IOVEC_BYTES, 'receive vectors');
  const namesAt = arena.take(capacity * NAME_BYTES, 'receive names');
  const controlsAt = arena.take(capacity * CONTROL_BYTES, 'receive controls');
  const slotsAt = arena.take(capacity * SLOT_BYTES, 'receive slots');
  let limit = capacity;
  const messagesAddress = arena.address + messagesAt;
  const sourceOffset = family === 4 ? SOCKADDR_IN_ADDRESS : SOCKADDR_IN6_ADDRESS;

  for (let i = 0; i < capacity; i++) openSlot(i);

  function openSlot(i: number): void {
    const message = messagesAt + i * MMSGHDR_BYTES;
    const vector = iovecsAt + i * IOVEC_BYTES;
    setPointer(message, namesAt + i * NAME_BYTES);
    setPointer(message + 16, vector);
    words[(message + 24) >>> 2] = 1;
    setPointer(message + 32, controlsAt + i * CONTROL_BYTES);
    setPointer(vector, slotsAt + i * SLOT_BYTES);
    words[(vector + 8) >>> 2] = 65536;
    resetSlot(i);
  }

  /** The kernel overwrites the lengths on each receive. */
  function resetSlot(i: number): void {
    const message = messagesAt + i * MMSGHDR_BYTES;
    words[(message + 8) >>> 2] = SOCKADDR_BYTES;
    words[(message + 40) >>> 2] = CONTROL_BYTES;
  }

  function receive(): number {
    const count = recvmmsg(fd, messagesAddress, limit, MSG_DONTWAIT, 0);
    if (count <= 0) return 0;
    const bytesBefore = counters[Counter.udpBytes]!;
    counters[Counter.udpReceives]!++;
    for (let i = 0; i < count; i++) {
      const message = messagesAt + i * MMSGHDR_BYTES;
      const bytes = words[(message + 56) >>> 2]!;
      const truncated = (words[(message + 48) >>> 2]! & MSG_TRUNC) !== 0;
      splitMessage(i, bytes, words[(message + 40) >>> 2]!, truncated);
      resetSlot(i);
    }
    const average = (counters[Counter.udpBytes]! - bytesBefore) / count;
    limit = Math.min(capacity, Math.max(1, Math.floor(BATCH_BYTES / (average + 1))));
    return count;
  }

  function splitMessage(i: number, bytes: number, controlBytes: number, truncated: boolean): void {
    let segment = bytes;
    let ecn = 0;
    let at = controlsAt + i * CONTROL_BYTES;
    const controlEnd = at + Math.min(controlBytes, CONTROL_BYTES);
    while (at + CMSG_HEADER_BYTES < controlEnd) {
      const length = words[at >>> 2]!;
      if (length < CMSG_HEADER_BYTES) break;
      const level = words[(at + 8) >>> 2]!;
      const type = words[(at + 12) >>> 2]!;
      // The kernel writes IP_TOS as one byte, the others as an int.
      if (level === SOL_UDP && type === UDP_GRO) segment = words[(at + 16) >>> 2]!;
      else if (type === IP_TOS || type === IPV6_TCLASS) ecn = view.getUint8(at + 16) & ECN_MASK;
      at += (length + 7) & ~7;
    }
    // What no longer fits its slot is handed over as an empty datagram, and so counted as truncated.
    if (truncated) bytes = segment = 0;
    const sourceAt = namesAt + i * NAME_BYTES + sourceOffset;
    const start = slotsAt + i * SLOT_BYTES;
    const end = start + bytes;
    counters[Counter.udpBytes]! += bytes;
    if (segment <= 0 || segment >= bytes) {
      counters[Counter.udpDatagrams]!++;
      onDatagram(start, end, ecn, sourceAt, 0);
      return;
    }
    if (isWhole(start, bytes, segment)) {
      counters[Counter.udpDatagrams]!++;
      onDatagram(start, end, ecn, sourceAt, segment);
      return;
    }
    for (let p = start; p < end; p += segment) {
      counters[Counter.udpDatagrams]!++;
      onDatagram(p, p + segment < end ? p + segment : end, ecn, sourceAt, 0);
    }
  }

  /**
   * A tunnel packet from a sender on the same machine, segmented by nobody on the way: the size the
   * kernel tells is then of the inner segments, and the first inner packet is longer than that.
   */
  function isWhole(start: number, bytes: number, segment: number): boolean {
    const ip = start + ENCAPSULATION_BYTES;
    if (bytes < ENCAPSULATION_BYTES + IPV6_HEADER_BYTES) return false;
    const inner =
      view.getUint8(ip) >>> 4 === 4
        ? readTotalLength(view, ip)
        : readPayloadLength(view, ip) + IPV6_HEADER_BYTES;
    return ENCAPSULATION_BYTES + inner > segment;
  }

  return { receive, capacity };
}
