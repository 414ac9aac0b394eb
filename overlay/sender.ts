/**
 * Datagrams waiting to be sent from one socket. Equal-sized datagrams to one peer share a message with
 * UDP_SEGMENT; messages share a system call.
 * Runs per packet: no await, no allocation, no throw.
 *
 *     messages   [ mmsghdr | mmsghdr | ... ]          64 bytes each
 *                     |  \
 *     iovecs     [ hd | body | hd | body | ... ]      16 bytes each; a datagram takes one or two
 *     controls   [ ECN | segment size ] a message     24 bytes each
 *
 * @see udp(7), include/uapi/linux/udp.h, sendmmsg(2)
 */
import { EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, ENOBUFS } from '../linux/errno.ts';
import { errno, sendmmsg, sendmsg } from '../linux/libc.ts';
import {
  IPV6_TCLASS,
  IP_TOS,
  SOCKADDR_IN6_ADDRESS,
  SOCKADDR_IN_ADDRESS,
  SOCKADDR_PORT,
  SOL_IP,
  SOL_IPV6,
  SOL_UDP,
  UDP_SEGMENT,
} from '../linux/udp.ts';
import type { Arena } from '../linux/arena.ts';
import type { Family } from '../wire/address.ts';
import { Drop } from '../wire/drop-reason.ts';
import type { CaptureWriter } from './capture-ring.ts';
import { Counter, countSent } from './counters.ts';
import { HOP_ADDRESS, HOP_ADDRESS_LENGTH, HOP_SLOT } from './snapshot.ts';

const MESSAGES = 64;
const IOVECS = 2048;
/** Linux before 6.9 refuses more (UDP_MAX_SEGMENTS). */
const SEGMENTS_MAX = 64;
/** The largest UDP payload of an IPv4 packet. */
const MESSAGE_BYTES_MAX = 65507;
const MSG_DONTWAIT = 0x40;

const MMSGHDR_BYTES = 64;
const IOVEC_BYTES = 16;
const CONTROL_BYTES = 24;

export interface SenderOptions {
  readonly fd: number;
  readonly sourcePort: number;
  readonly family: Family;
  readonly gso: boolean;
  readonly batch: boolean;
  /** Who captures datagrams; absent: nobody does. */
  readonly capture?: CaptureWriter | null;
  /**
   * The kernel refused a datagram as larger than the path. `headAt` is where it begins in the arena
   * (VXLAN header), `headBytes` how much of it is contiguous there.
   * @returns true when the path's MTU explains it
   */
  readonly onTooBig: (
    hopAt: number,
    headAt: number,
    headBytes: number,
    datagramBytes: number,
  ) => boolean;
  /** The egress device cannot segment: from now on this queue sends datagrams one by one. */
  readonly onGsoRefused: (number: number) => void;
}

export interface Sender {
  /** Queues one datagram, in one piece or (body bytes > 0) in two, which must stay put until `flush`. */
  readonly append: (
    hopAt: number,
    ecn: number,
    headAt: number,
    headBytes: number,
    bodyAt: number,
    bodyBytes: number,
  ) => void;
  readonly flush: () => void;
  /** The outer UDP source port. */
  readonly sourcePort: number;
}

export function createSender(arena: Arena, counters: Float64Array, options: SenderOptions): Sender {
  const { view, words, setPointer } = arena;
  const { fd, family, sourcePort } = options;
  const capture = options.capture ?? null;
  const addressOffset = family === 4 ? SOCKADDR_IN_ADDRESS : SOCKADDR_IN6_ADDRESS;
  const messagesAt = arena.take(MESSAGES * MMSGHDR_BYTES, 'send messages');
  const iovecsAt = arena.take(IOVECS * IOVEC_BYTES, 'send vectors');
  const controlsAt = arena.take(MESSAGES * 2 * CONTROL_BYTES, 'send controls');
  const messagesAddress = arena.address + messagesAt;
  const messagesMax = options.batch ? MESSAGES : 1;
  let segmentsMax = options.gso ? SEGMENTS_MAX : 1;

  for (let i = 0; i < MESSAGES; i++) openControl(controlsAt + i * 2 * CONTROL_BYTES);

  function openControl(at: number): void {
    // struct cmsghdr { size_t length; int level, type }, then an int of ECN and a u16 of segment size.
    words[at >>> 2] = 20;
    words[(at + 8) >>> 2] = family === 4 ? SOL_IP : SOL_IPV6;
    words[(at + 12) >>> 2] = family === 4 ? IP_TOS : IPV6_TCLASS;
    words[(at + CONTROL_BYTES) >>> 2] = 18;
    words[(at + CONTROL_BYTES + 8) >>> 2] = SOL_UDP;
    words[(at + CONTROL_BYTES + 12) >>> 2] = UDP_SEGMENT;
  }

  /** Of the messages in the queue: datagrams in each, size of the first, where that stands, next hop. */
  const segmentsOf = new Int32Array(MESSAGES);
  const sizeOf = new Int32Array(MESSAGES);
  const bytesOf = new Int32Array(MESSAGES);
  const hopOf = new Int32Array(MESSAGES);
  let messages = 0;
  let iovecs = 0;
  /** The last message still takes datagrams of `openSize` bytes or, once, a smaller one. */
  let openSize = 0;
  let openHop = 0;
  let openEcn = 0;

  function append(
    hopAt: number,
    ecn: number,
    headAt: number,
    headBytes: number,
    bodyAt: number,
    bodyBytes: number,
  ): void {
    const size = headBytes + bodyBytes;
    let m = messages - 1;
    if (
      size > openSize ||
      hopAt !== openHop ||
      ecn !== openEcn ||
      segmentsOf[m]! >= segmentsMax ||
      bytesOf[m]! + size > MESSAGE_BYTES_MAX ||
      iovecs + 2 > IOVECS
    ) {
      if (messages === messagesMax || iovecs + 2 > IOVECS) flush();
      m = messages++;
      openMessage(m, hopAt, ecn, size);
    } else {
      const segments = segmentsOf[m]! + 1;
      segmentsOf[m] = segments;
      bytesOf[m]! += size;
      if (segments === 2) {
        // The segment size is told only where there are several: alone it would cost for nothing.
        const message = messagesAt + m * MMSGHDR_BYTES;
        words[(message + 40) >>> 2]! += CONTROL_BYTES;
        view.setUint16(controlsAt + (m * 2 + 1) * CONTROL_BYTES + 16, openSize, true);
      }
      if (size < openSize) openSize = 0;
    }
    pushVector(headAt, headBytes);
    if (bodyBytes > 0) pushVector(bodyAt, bodyBytes);
    const count = (messagesAt + m * MMSGHDR_BYTES + 24) >>> 2;
    words[count]! += bodyBytes > 0 ? 2 : 1;
    counters[Counter.egressDatagrams]!++;
    if (capture !== null && capture.isOuter()) {
      const to = hopAt + HOP_ADDRESS;
      const ports = (sourcePort << 16) | view.getUint16(to + SOCKADDR_PORT);
      const addressAt = to + addressOffset;
      capture.sent(headAt, headBytes, bodyAt, bodyBytes, addressAt, family === 4, ports, ecn);
    }
  }

  function openMessage(m: number, hopAt: number, ecn: number, size: number): void {
    const message = messagesAt + m * MMSGHDR_BYTES;
    const control = controlsAt + m * 2 * CONTROL_BYTES;
    setPointer(message, hopAt + HOP_ADDRESS);
    words[(message + 8) >>> 2] = words[(hopAt + HOP_ADDRESS_LENGTH) >>> 2]!;
    setPointer(message + 16, iovecsAt + iovecs * IOVEC_BYTES);
    words[(message + 24) >>> 2] = 0;
    if (ecn === 0) {
      setPointer(message + 32, control + CONTROL_BYTES);
      words[(message + 40) >>> 2] = 0;
    } else {
      setPointer(message + 32, control);
      words[(message + 40) >>> 2] = CONTROL_BYTES;
      words[(control + 16) >>> 2] = ecn;
    }
    segmentsOf[m] = 1;
    sizeOf[m] = size;
    bytesOf[m] = size;
    hopOf[m] = hopAt;
    openSize = size;
    openHop = hopAt;
    openEcn = ecn;
  }

  function pushVector(at: number, bytes: number): void {
    const vector = iovecsAt + iovecs * IOVEC_BYTES;
    setPointer(vector, at);
    words[(vector + 8) >>> 2] = bytes;
    iovecs++;
  }

  function flush(): void {
    const count = messages;
    if (count === 0) return;
    openSize = 0;
    let done = sendmmsg(fd, messagesAddress, count, MSG_DONTWAIT);
    counters[Counter.udpSends]!++;
    if (done === count) {
      countTaken(0, count);
    } else {
      let sent = 0;
      for (;;) {
        if (done > 0) {
          countTaken(sent, sent + done);
          sent += done;
        } else {
          sent += refused(sent, errno());
        }
        if (sent >= count) break;
        done = sendmmsg(fd, messagesAddress + sent * MMSGHDR_BYTES, count - sent, MSG_DONTWAIT);
        counters[Counter.udpSends]!++;
      }
    }
    messages = 0;
    iovecs = 0;
  }

  function countTaken(from: number, to: number): void {
    for (let m = from; m < to; m++) countSent(counters, slotOf(m), segmentsOf[m]!, bytesOf[m]!);
  }

  /** Where the traffic of the message's peer is counted. */
  function slotOf(m: number): number {
    return view.getUint16(hopOf[m]! + HOP_SLOT, true);
  }

  /** The kernel did not take message `m`. @returns how many messages that settles: 0, 1 or all left */
  function refused(m: number, number: number): number {
    if (number === EINTR) return 0;
    if (number === EAGAIN || number === ENOBUFS) {
      for (let i = m; i < messages; i++) counters[Drop.sendQueueFull]! += segmentsOf[i]!;
      return messages - m;
    }
    const segments = segmentsOf[m]!;
    const sizeRefused = number === EMSGSIZE || (number === EINVAL && segments > 1);
    if (sizeRefused && tooBig(m)) {
      counters[Drop.tooBig]! += segments;
      return 1;
    }
    if (segments > 1 && (number === EIO || number === EINVAL)) {
      segmentsMax = 1;
      options.onGsoRefused(number);
      sendOneByOne(m);
      return 1;
    }
    counters[Drop.sendFailed]! += segments;
    return 1;
  }

  function firstVectorOf(m: number): number {
    let vector = iovecsAt;
    for (let i = 0; i < m; i++) {
      vector += words[(messagesAt + i * MMSGHDR_BYTES + 24) >>> 2]! * IOVEC_BYTES;
    }
    return vector;
  }

  function offsetOf(vector: number): number {
    return (words[vector >>> 2]! - (arena.address % 2 ** 32) + 2 ** 32) % 2 ** 32;
  }

  function tooBig(m: number): boolean {
    const vector = firstVectorOf(m);
    const headBytes = words[(vector + 8) >>> 2]!;
    return options.onTooBig(hopOf[m]!, offsetOf(vector), headBytes, sizeOf[m]!);
  }

  /** Message `m` again, each datagram in a message of its own. */
  function sendOneByOne(m: number): void {
    const message = messagesAt + m * MMSGHDR_BYTES;
    const total = words[(message + 24) >>> 2]!;
    words[(message + 40) >>> 2]! -= CONTROL_BYTES;
    let vector = firstVectorOf(m);
    let used = 0;
    while (used < total) {
      let size = 0;
      let count = 0;
      while (used + count < total && size < sizeOf[m]!) {
        size += words[(vector + count * IOVEC_BYTES + 8) >>> 2]!;
        count++;
      }
      setPointer(message + 16, vector);
      words[(message + 24) >>> 2] = count;
      if (sendmsg(fd, messagesAddress + m * MMSGHDR_BYTES, MSG_DONTWAIT) < 0) {
        counters[Drop.sendFailed]!++;
      } else {
        countSent(counters, slotOf(m), 1, size);
      }
      vector += count * IOVEC_BYTES;
      used += count;
    }
    words[(message + 24) >>> 2] = total;
  }

  return { append, flush, sourcePort };
}
