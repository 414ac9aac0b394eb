/**
 * What has happened to flows and packets, for people: a ring of records in shared memory for each worker,
 * which it writes and the main thread reads. A worker never waits: what finds the ring full is not
 * written, and counted.
 * Runs per packet: no await, no allocation, no throw.
 * Not per packet: createEventRing, readEvents.
 *
 *     HEAD, TAIL, LOST in lines of their own | RECORDS records of 32 words (128 bytes):
 *
 *     0 TIME (Float64, milliseconds since 1970)
 *     2 KIND      3 REASON (Drop)   4 FORM: out 1 | reply 2 | family << 8 | protocol << 16 | TCP flags << 24
 *     5 PORTS     source port in the upper half, as the packet was first seen; 0 where it shows none
 *     6 SOURCE    10 DESTINATION (IPv4: the first word)
 *     14 OTHER    the backend of a flow of a Service; the outer source of a datagram that was dropped
 *     18 OTHER_PORT               19 FLAGS (FLOW_FLAGS)
 *     20 BYTES    of the inner packet
 */
import { type Drop } from '../wire/drop-reason.ts';
import { IPV4_HEADER_BYTES, fragmentOffsetBytes, readHeaderBytes } from '../wire/ipv4.ts';
import { IPV6_HEADER_BYTES } from '../wire/ipv6.ts';
import { PROTOCOL_SCTP } from '../wire/sctp.ts';
import { PROTOCOL_TCP } from '../wire/tcp.ts';
import { PROTOCOL_UDP } from '../wire/udp.ts';
import {
  FLOW_DST_ORIG,
  FLOW_DST_ORIG_HIGH,
  FLOW_FLAGS,
  FLOW_KIND,
  FLOW_PORTS_ORIG,
  FLOW_PORTS_REPLY,
  FLOW_SERVICE,
  FLOW_SRC_ORIG,
  FLOW_SRC_ORIG_HIGH,
  FLOW_SRC_REPLY,
  FLOW_SRC_REPLY_HIGH,
} from './flow-layout.ts';

const LINE_WORDS = 16;
const RING_HEAD = 0;
const RING_TAIL = LINE_WORDS;
const RING_LOST = 2 * LINE_WORDS;
const HEADER_WORDS = 4 * LINE_WORDS;
/** A tenth of a second of 80,000 events a second. */
const RECORDS = 8192;

export const EVENT_WORDS = 32;
/** Float64, two words. */
export const EVENT_TIME = 0;
export const EVENT_KIND = 2;
export const EVENT_REASON = 3;
export const EVENT_FORM = 4;
export const EVENT_PORTS = 5;
export const EVENT_SOURCE = 6;
export const EVENT_DESTINATION = 10;
export const EVENT_OTHER = 14;
export const EVENT_OTHER_PORT = 18;
export const EVENT_FLAGS = 19;
export const EVENT_BYTES = 20;

/** A flow was allowed, and has an entry now. */
export const EVENT_BEGAN = 1;
/** A packet went nowhere. */
export const EVENT_DROPPED = 2;

export const FORM_OUT = 1;
/** It goes the other way than the packet that began its flow. */
export const FORM_REPLY = 2;

export const createEventRing = (): Int32Array =>
  new Int32Array(new SharedArrayBuffer((HEADER_WORDS + RECORDS * EVENT_WORDS) * 4));

/** Events that were not written since the ring was made. */
export const lostEvents = (ring: Int32Array): number => Atomics.load(ring, RING_LOST) >>> 0;

export interface EventWriter {
  /** A batch begins: all that is told of it has one time, which nobody asks for where there is nothing. */
  readonly begin: () => void;
  /** @param e  offset of the flow's entry in `words` */
  readonly began: (words: Int32Array, e: number, isOut: boolean, bytes: number) => void;
  /**
   * @param ip       of the inner packet; its header need not have been checked
   * @param sourceAt offset of the outer source address in the arena, or -1
   * @param outerIs4 its family
   * @param isReply  see FORM_REPLY
   */
  readonly dropped: (
    reason: Drop,
    ip: number,
    end: number,
    isOut: boolean,
    sourceAt: number,
    outerIs4: boolean,
    isReply: boolean,
  ) => void;
}

/**
 * One a ring.
 * @param view   of the arena
 * @param nowMs  since 1970
 */
export function createEventWriter(
  view: DataView,
  ring: Int32Array,
  nowMs: () => number = Date.now,
): EventWriter {
  const times = new Float64Array(ring.buffer);
  const now = new Float64Array(1);
  let isTimed = false;
  let head = Atomics.load(ring, RING_HEAD);

  function begin(): void {
    isTimed = false;
  }

  /** @returns where the next record goes, or -1 */
  function next(kind: number, reason: number): number {
    if (((head - Atomics.load(ring, RING_TAIL)) | 0) >= RECORDS) {
      Atomics.add(ring, RING_LOST, 1);
      return -1;
    }
    if (!isTimed) now[0] = nowMs();
    isTimed = true;
    const at = HEADER_WORDS + (head & (RECORDS - 1)) * EVENT_WORDS;
    ring.fill(0, at, at + EVENT_WORDS);
    times[(at + EVENT_TIME) >>> 1] = now[0]!;
    ring[at + EVENT_KIND] = kind;
    ring[at + EVENT_REASON] = reason;
    return at;
  }

  function done(): void {
    head = (head + 1) | 0;
    Atomics.store(ring, RING_HEAD, head);
  }

  /** From an entry, whose addresses have their last word apart. */
  function copyAddress(
    to: number,
    words: Int32Array,
    low: number,
    high: number,
    is4: boolean,
  ): void {
    if (is4) {
      ring[to] = words[low]!;
      return;
    }
    for (let i = 0; i < 3; i++) ring[to + i] = words[high + i]!;
    ring[to + 3] = words[low]!;
  }

  function began(words: Int32Array, e: number, isOut: boolean, bytes: number): void {
    const at = next(EVENT_BEGAN, 0);
    if (at < 0) return;
    const kind = words[e + FLOW_KIND]!;
    const is4 = kind >>> 8 === 4;
    ring[at + EVENT_FORM] = (isOut ? FORM_OUT : 0) | ((is4 ? 4 : 6) << 8) | ((kind & 0xff) << 16);
    ring[at + EVENT_PORTS] = words[e + FLOW_PORTS_ORIG]!;
    copyAddress(at + EVENT_SOURCE, words, e + FLOW_SRC_ORIG, e + FLOW_SRC_ORIG_HIGH, is4);
    copyAddress(at + EVENT_DESTINATION, words, e + FLOW_DST_ORIG, e + FLOW_DST_ORIG_HIGH, is4);
    const flags = words[e + FLOW_FLAGS]!;
    ring[at + EVENT_FLAGS] = flags;
    if ((flags & FLOW_SERVICE) !== 0) {
      copyAddress(at + EVENT_OTHER, words, e + FLOW_SRC_REPLY, e + FLOW_SRC_REPLY_HIGH, is4);
      ring[at + EVENT_OTHER_PORT] = words[e + FLOW_PORTS_REPLY]! >>> 16;
    }
    ring[at + EVENT_BYTES] = bytes;
    done();
  }

  function copyFrom(to: number, from: number, bytes: number): void {
    for (let i = 0; i < bytes; i += 4) ring[to + (i >>> 2)] = view.getInt32(from + i);
  }

  function hasPorts(protocol: number): boolean {
    return protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP || protocol === PROTOCOL_SCTP;
  }

  function dropped(
    reason: Drop,
    ip: number,
    end: number,
    isOut: boolean,
    sourceAt: number,
    outerIs4: boolean,
    isReply: boolean,
  ): void {
    const at = next(EVENT_DROPPED, reason);
    if (at < 0) return;
    const bytes = end - ip;
    const version = bytes >= IPV4_HEADER_BYTES ? view.getUint8(ip) >>> 4 : 0;
    let protocol = 0;
    let transport = end;
    let family = 0;
    if (version === 4) {
      family = 4;
      protocol = view.getUint8(ip + 9);
      copyFrom(at + EVENT_SOURCE, ip + 12, 4);
      copyFrom(at + EVENT_DESTINATION, ip + 16, 4);
      if (fragmentOffsetBytes(view, ip) === 0) transport = ip + readHeaderBytes(view, ip);
    } else if (version === 6 && bytes >= IPV6_HEADER_BYTES) {
      family = 6;
      protocol = view.getUint8(ip + 6);
      copyFrom(at + EVENT_SOURCE, ip + 8, 16);
      copyFrom(at + EVENT_DESTINATION, ip + 24, 16);
      transport = ip + IPV6_HEADER_BYTES;
    }
    let flags = 0;
    if (hasPorts(protocol) && transport + 4 <= end) {
      ring[at + EVENT_PORTS] = view.getInt32(transport);
      if (protocol === PROTOCOL_TCP && transport + 14 <= end) flags = view.getUint8(transport + 13);
    }
    ring[at + EVENT_FORM] =
      (isOut ? FORM_OUT : 0) |
      (isReply ? FORM_REPLY : 0) |
      (family << 8) |
      (protocol << 16) |
      (flags << 24);
    ring[at + EVENT_BYTES] = bytes;
    if (sourceAt >= 0) {
      copyFrom(at + EVENT_OTHER, sourceAt, outerIs4 ? 4 : 16);
      ring[at + EVENT_FLAGS] = outerIs4 ? 4 : 6;
    }
    done();
  }

  return { begin, began, dropped };
}

/**
 * Takes what has been written since the last call.
 * @param take  a record begins at `at` of the ring; it is the worker's again when all have been taken
 * @returns     how many
 */
export function readEvents(ring: Int32Array, take: (at: number) => void): number {
  const tail = Atomics.load(ring, RING_TAIL);
  const head = Atomics.load(ring, RING_HEAD);
  for (let i = tail; i !== head; i = (i + 1) | 0) {
    take(HEADER_WORDS + (i & (RECORDS - 1)) * EVENT_WORDS);
  }
  Atomics.store(ring, RING_TAIL, head);
  return (head - tail) | 0;
}
