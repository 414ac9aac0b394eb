/**
 * Packets for people: while somebody captures, a worker copies those that a filter lets through into a
 * ring of bytes in shared memory, which the main thread reads. A worker never waits: what finds the ring
 * full is counted as lost. While nobody captures, a packet costs one look at a number.
 * Runs per packet: no await, no allocation, no throw.
 * Not per packet: createCaptureRing, setCaptureFilter, endCaptureFilter, readCaptures, writeRange.
 *
 *     HEAD, TAIL, masks, LOST in lines of their own | a filter for each slot | DATA_BYTES of records
 *
 * A record is 34 words and the packet's first bytes, a multiple of 8 in all; one that would not fit
 * before the end of the ring begins anew, behind a filler whose mask is 0:
 *
 *     0 SIZE  bytes of the record        1 MASK  a bit for each slot that it is for
 *     2 TIME  Float64, milliseconds since 1970
 *     4 REASON (Drop)                    5 FLAGS  CAPTURE_OUT, CAPTURE_OUTER
 *     6 WAS   the packet before it was decided about: form, ports, source x 4, destination x 4
 *     16 IS   the same as it went on; form: protocol | family << 8
 *     26 BYTES of the packet             27 STORED of these
 *     28 OUTER_FORM  family << 8 | ECN   29 OUTER_PORTS   30 OUTER_ADDRESS x 4: of the other node
 */
import type { Drop } from '../wire/drop-reason.ts';
import { IPV4_HEADER_BYTES, fragmentOffsetBytes, readHeaderBytes } from '../wire/ipv4.ts';
import { IPV6_HEADER_BYTES } from '../wire/ipv6.ts';
import { PROTOCOL_SCTP } from '../wire/sctp.ts';
import { PROTOCOL_TCP } from '../wire/tcp.ts';
import { PROTOCOL_UDP } from '../wire/udp.ts';

/** So many captures run side by side. */
export const CAPTURE_SLOTS = 4;

const LINE_WORDS = 16;
const RING_HEAD = 0;
const RING_TAIL = LINE_WORDS;
/** Slots that want inner packets, and those that want VXLAN datagrams. */
const RING_INNER = 2 * LINE_WORDS;
const RING_OUTER = RING_INNER + 1;
/** One of each slot. */
const RING_LOST = 3 * LINE_WORDS;
const FILTERS = 4 * LINE_WORDS;
/** A turn of 25 ms at 1 Gbit/s. */
const DATA_BYTES = 4 << 20;

const FILTER_SNAP = 0;
const FILTER_PROTOCOL = 1;
const FILTER_PORT = 2;
const FILTER_REASON = 3;
const FILTER_GROUPS = 4;
const ANY = -1;
const ANY_DROP = -2;
/** A group: how many ranges, then family, first x 4, last x 4 of each. */
const GROUPS = 3;
const RANGES = 16;
const RANGE_WORDS = 9;
const GROUP_WORDS = 1 + RANGES * RANGE_WORDS;
const FILTER_WORDS = FILTER_GROUPS + GROUPS * GROUP_WORDS;
const DATA = (FILTERS + CAPTURE_SLOTS * FILTER_WORDS + 15) & ~15;

export const CAPTURE_SIZE = 0;
export const CAPTURE_MASK = 1;
/** Float64, two words. */
export const CAPTURE_TIME = 2;
export const CAPTURE_REASON = 4;
export const CAPTURE_FLAGS = 5;
export const CAPTURE_WAS = 6;
export const CAPTURE_IS = 16;
export const CAPTURE_BYTES = 26;
export const CAPTURE_STORED = 27;
export const CAPTURE_OUTER_FORM = 28;
/** Source port in the upper half. */
export const CAPTURE_OUTER_PORTS = 29;
export const CAPTURE_OUTER_ADDRESS = 30;
/** Words before the packet's bytes. */
export const CAPTURE_WORDS = 34;

/** Of WAS and IS. */
export const ENDS_FORM = 0;
export const ENDS_PORTS = 1;
export const ENDS_SOURCE = 2;
export const ENDS_DESTINATION = 6;
const ENDS_WORDS = 10;

export const CAPTURE_OUT = 1;
export const CAPTURE_OUTER = 2;

/** Addresses from first to last, one word (IPv4) or four each. */
export interface CaptureRange {
  readonly first: readonly number[];
  readonly last: readonly number[];
}

/** All that is there must hold, of the packet as it came or as it went on. */
export interface CaptureFilter {
  /** What goes between nodes, instead of what is in it. */
  readonly outer: boolean;
  readonly snapBytes: number;
  readonly protocol: number | null;
  /** Either end's. */
  readonly port: number | null;
  readonly verdict: 'forwarded' | 'dropped' | Drop | null;
  /** Of each of these, at most three, one end is in one range, of at most 16; or the other node is. */
  readonly ends: readonly (readonly CaptureRange[])[];
}

export const CAPTURE_RANGES_MAX = RANGES;

export const createCaptureRing = (): Int32Array =>
  new Int32Array(new SharedArrayBuffer(DATA * 4 + DATA_BYTES));

/** Packets for the slot that found the ring full, since the ring was made. */
export const lostCaptures = (ring: Int32Array, slot: number): number =>
  Atomics.load(ring, RING_LOST + slot) >>> 0;

function writeRange(ring: Int32Array, at: number, { first, last }: CaptureRange): void {
  ring[at] = first.length === 1 ? 4 : 6;
  first.forEach((it, i) => (ring[at + 1 + i] = it));
  last.forEach((it, i) => (ring[at + 5 + i] = it));
}

/** From now on the slot's packets are copied. */
export function setCaptureFilter(ring: Int32Array, slot: number, filter: CaptureFilter): void {
  const { verdict } = filter;
  const f = FILTERS + slot * FILTER_WORDS;
  ring.fill(0, f, f + FILTER_WORDS);
  ring[f + FILTER_SNAP] = filter.snapBytes;
  ring[f + FILTER_PROTOCOL] = filter.protocol ?? ANY;
  ring[f + FILTER_PORT] = filter.port ?? ANY;
  ring[f + FILTER_REASON] =
    verdict === null
      ? ANY
      : verdict === 'dropped'
        ? ANY_DROP
        : verdict === 'forwarded'
          ? 0
          : verdict;
  filter.ends.slice(0, GROUPS).forEach((ranges, i) => {
    const g = f + FILTER_GROUPS + i * GROUP_WORDS;
    // None at all is nobody's address, not everybody's.
    ring[g] = Math.max(1, Math.min(ranges.length, RANGES));
    ranges.slice(0, RANGES).forEach((it, n) => writeRange(ring, g + 1 + n * RANGE_WORDS, it));
  });
  Atomics.or(ring, filter.outer ? RING_OUTER : RING_INNER, 1 << slot);
}

export function endCaptureFilter(ring: Int32Array, slot: number): void {
  Atomics.and(ring, RING_INNER, ~(1 << slot));
  Atomics.and(ring, RING_OUTER, ~(1 << slot));
}

export interface CaptureWriter {
  /** A batch begins: who captures is asked once for it. */
  readonly begin: () => void;
  /** Somebody wants inner packets. */
  readonly isInner: () => boolean;
  /** Somebody wants datagrams. */
  readonly isOuter: () => boolean;
  /** A packet that is about to be decided about, and perhaps translated. */
  readonly note: (ip: number, end: number) => void;
  /** @param stored  so many of its bytes stand at `ip`: those of merged packets come in pieces */
  readonly decided: (reason: Drop, ip: number, end: number, stored: number, isOut: boolean) => void;
  /** The inner packet of a datagram that was refused before it was decided about. */
  readonly refused: (
    reason: Drop,
    ip: number,
    end: number,
    sourceAt: number,
    outerIs4: boolean,
  ) => void;
  /** A datagram on its way, from its VXLAN header on, in one piece or two. @param toAt  as sourceAt */
  readonly sent: (
    headAt: number,
    headBytes: number,
    bodyAt: number,
    bodyBytes: number,
    toAt: number,
    outerIs4: boolean,
    ports: number,
    ecn: number,
  ) => void;
  /** A datagram that is about to be looked at, from its VXLAN header on. */
  readonly noteDatagram: (at: number, end: number) => void;
  /** What became of it. */
  readonly received: (
    reason: Drop,
    sourceAt: number,
    outerIs4: boolean,
    ports: number,
    ecn: number,
  ) => void;
}

/** A steady clock, taken along when the host's is set. */
function createClock(): () => number {
  let offsetMs = performance.timeOrigin;
  function now(): number {
    const wallMs = Date.now();
    const timeMs = offsetMs + performance.now();
    if (timeMs > wallMs - CLOCK_APART_MS && timeMs < wallMs + 1 + CLOCK_APART_MS) return timeMs;
    offsetMs += wallMs - timeMs;
    return wallMs;
  }
  return now;
}

/** So far the two may be apart. */
export const CLOCK_APART_MS = 2;

/** VXLAN and inner Ethernet headers. */
const ENCAPSULATION_BYTES = 22;
const DATAGRAM_BYTES_MAX = 65536;

/**
 * @param view   of the arena
 * @param nowMs  since 1970, finer than a millisecond
 */
export function createCaptureWriter(
  view: DataView,
  ring: Int32Array,
  nowMs: () => number = createClock(),
): CaptureWriter {
  const times = new Float64Array(ring.buffer);
  const room = new DataView(ring.buffer, DATA * 4);
  const was = new Int32Array(ENDS_WORDS);
  const is = new Int32Array(ENDS_WORDS);
  /** A received datagram as it came: what is done with it writes over its headers. */
  const datagram = new DataView(new ArrayBuffer(DATAGRAM_BYTES_MAX));
  let datagramBytes = 0;
  /** Where `write` copies from. */
  let source = view;
  /** Form, ports, address. */
  const outer = new Int32Array(6);
  let head = Atomics.load(ring, RING_HEAD);
  let inners = 0;
  let outers = 0;

  function begin(): void {
    inners = Atomics.load(ring, RING_INNER);
    outers = Atomics.load(ring, RING_OUTER);
  }

  function isInner(): boolean {
    return inners !== 0;
  }

  function isOuter(): boolean {
    return outers !== 0;
  }

  function copyAddress(to: Int32Array, i: number, at: number, bytes: number): void {
    for (let n = 0; n < bytes; n += 4) to[i + (n >>> 2)] = view.getInt32(at + n);
  }

  function hasPorts(protocol: number): boolean {
    return protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP || protocol === PROTOCOL_SCTP;
  }

  /** The header need not have been checked. */
  function readEnds(ends: Int32Array, ip: number, end: number): void {
    ends.fill(0);
    const bytes = end - ip;
    const version = bytes >= IPV4_HEADER_BYTES ? view.getUint8(ip) >>> 4 : 0;
    let protocol = 0;
    let transport = end;
    let family = 0;
    if (version === 4) {
      family = 4;
      protocol = view.getUint8(ip + 9);
      copyAddress(ends, ENDS_SOURCE, ip + 12, 4);
      copyAddress(ends, ENDS_DESTINATION, ip + 16, 4);
      if (fragmentOffsetBytes(view, ip) === 0) transport = ip + readHeaderBytes(view, ip);
    } else if (version === 6 && bytes >= IPV6_HEADER_BYTES) {
      family = 6;
      protocol = view.getUint8(ip + 6);
      copyAddress(ends, ENDS_SOURCE, ip + 8, 16);
      copyAddress(ends, ENDS_DESTINATION, ip + 24, 16);
      transport = ip + IPV6_HEADER_BYTES;
    }
    if (hasPorts(protocol) && transport + 4 <= end) ends[ENDS_PORTS] = view.getInt32(transport);
    ends[ENDS_FORM] = (family << 8) | protocol;
  }

  function isIn(words: Int32Array, i: number, count: number, range: number): boolean {
    for (let n = 0; n < count; n++) {
      const word = words[i + n]! >>> 0;
      const first = ring[range + 1 + n]! >>> 0;
      if (word < first) return false;
      if (word > first) break;
    }
    for (let n = 0; n < count; n++) {
      const word = words[i + n]! >>> 0;
      const last = ring[range + 5 + n]! >>> 0;
      if (word > last) return false;
      if (word < last) break;
    }
    return true;
  }

  function hasEnd(words: Int32Array, i: number, family: number, range: number): boolean {
    return ring[range] === family && isIn(words, i, family === 4 ? 1 : 4, range);
  }

  function fitsGroup(g: number): boolean {
    const count = ring[g]!;
    if (count === 0) return true;
    const family = is[ENDS_FORM]! >>> 8;
    const outerFamily = outer[0]! >>> 8;
    for (let n = 0; n < count; n++) {
      const range = g + 1 + n * RANGE_WORDS;
      if (outerFamily !== 0 && hasEnd(outer, 2, outerFamily, range)) return true;
      if (
        family !== 0 &&
        (hasEnd(is, ENDS_SOURCE, family, range) ||
          hasEnd(is, ENDS_DESTINATION, family, range) ||
          hasEnd(was, ENDS_SOURCE, family, range) ||
          hasEnd(was, ENDS_DESTINATION, family, range))
      ) {
        return true;
      }
    }
    return false;
  }

  function hasPort(ends: Int32Array, port: number): boolean {
    const ports = ends[ENDS_PORTS]!;
    return ports >>> 16 === port || (ports & 0xffff) === port;
  }

  function fits(slot: number, reason: Drop): boolean {
    const f = FILTERS + slot * FILTER_WORDS;
    const wanted = ring[f + FILTER_REASON]!;
    if (wanted >= 0 ? wanted !== reason : wanted === ANY_DROP && reason === 0) return false;
    const protocol = ring[f + FILTER_PROTOCOL]!;
    if (protocol !== ANY && protocol !== (is[ENDS_FORM]! & 0xff)) return false;
    const port = ring[f + FILTER_PORT]!;
    if (port !== ANY && !hasPort(is, port) && !hasPort(was, port)) return false;
    for (let i = 0; i < GROUPS; i++) {
      if (!fitsGroup(f + FILTER_GROUPS + i * GROUP_WORDS)) return false;
    }
    return true;
  }

  /** The slots of `asked` that the packet is for. */
  function match(asked: number, reason: Drop): number {
    let mask = 0;
    for (let slot = 0; slot < CAPTURE_SLOTS; slot++) {
      if (((asked >>> slot) & 1) !== 0 && fits(slot, reason)) mask |= 1 << slot;
    }
    return mask;
  }

  function lose(mask: number): void {
    for (let slot = 0; slot < CAPTURE_SLOTS; slot++) {
      if (((mask >>> slot) & 1) !== 0) Atomics.add(ring, RING_LOST + slot, 1);
    }
  }

  function snapOf(mask: number): number {
    let most = 0;
    for (let slot = 0; slot < CAPTURE_SLOTS; slot++) {
      const snap = ring[FILTERS + slot * FILTER_WORDS + FILTER_SNAP]!;
      if (((mask >>> slot) & 1) !== 0 && snap > most) most = snap;
    }
    return most;
  }

  function copyBytes(
    toView: DataView,
    to: number,
    fromView: DataView,
    from: number,
    bytes: number,
  ): void {
    let i = 0;
    for (; i + 4 <= bytes; i += 4) toView.setInt32(to + i, fromView.getInt32(from + i));
    for (; i < bytes; i++) toView.setUint8(to + i, fromView.getUint8(from + i));
  }

  function write(
    mask: number,
    reason: Drop,
    flags: number,
    bytes: number,
    headAt: number,
    headBytes: number,
    bodyAt: number,
    bodyBytes: number,
  ): void {
    const snap = snapOf(mask);
    const fromHead = headBytes < snap ? headBytes : snap;
    const fromBody = bodyBytes < snap - fromHead ? bodyBytes : snap - fromHead;
    const size = (CAPTURE_WORDS * 4 + fromHead + fromBody + 7) & ~7;
    const used = (head - Atomics.load(ring, RING_TAIL)) >>> 0;
    const rest = DATA_BYTES - (head & (DATA_BYTES - 1));
    const filler = rest < size ? rest : 0;
    if (used + filler + size > DATA_BYTES) {
      lose(mask);
      return;
    }
    if (filler > 0) {
      const end = DATA + ((head & (DATA_BYTES - 1)) >>> 2);
      ring[end + CAPTURE_SIZE] = filler;
      ring[end + CAPTURE_MASK] = 0;
      head = (head + filler) | 0;
    }
    const at = DATA + ((head & (DATA_BYTES - 1)) >>> 2);
    ring[at + CAPTURE_SIZE] = size;
    ring[at + CAPTURE_MASK] = mask;
    times[(at + CAPTURE_TIME) >>> 1] = nowMs();
    ring[at + CAPTURE_REASON] = reason;
    ring[at + CAPTURE_FLAGS] = flags;
    for (let i = 0; i < ENDS_WORDS; i++) {
      ring[at + CAPTURE_WAS + i] = was[i]!;
      ring[at + CAPTURE_IS + i] = is[i]!;
    }
    ring[at + CAPTURE_BYTES] = bytes;
    ring[at + CAPTURE_STORED] = fromHead + fromBody;
    for (let i = 0; i < 6; i++) ring[at + CAPTURE_OUTER_FORM + i] = outer[i]!;
    const to = (head & (DATA_BYTES - 1)) + CAPTURE_WORDS * 4;
    copyBytes(room, to, source, headAt, fromHead);
    copyBytes(room, to + fromHead, source, bodyAt, fromBody);
    head = (head + size) | 0;
    Atomics.store(ring, RING_HEAD, head);
  }

  function note(ip: number, end: number): void {
    readEnds(was, ip, end);
  }

  function decided(reason: Drop, ip: number, end: number, stored: number, isOut: boolean): void {
    readEnds(is, ip, end < ip + stored ? end : ip + stored);
    outer.fill(0);
    const mask = match(inners, reason);
    if (mask !== 0) write(mask, reason, isOut ? CAPTURE_OUT : 0, end - ip, ip, stored, 0, 0);
  }

  function readOuter(addressAt: number, is4: boolean, ports: number, ecn: number): void {
    outer.fill(0);
    outer[0] = ((is4 ? 4 : 6) << 8) | ecn;
    outer[1] = ports;
    copyAddress(outer, 2, addressAt, is4 ? 4 : 16);
  }

  function copyEnds(): void {
    for (let i = 0; i < ENDS_WORDS; i++) was[i] = is[i]!;
  }

  function refused(
    reason: Drop,
    ip: number,
    end: number,
    sourceAt: number,
    outerIs4: boolean,
  ): void {
    readEnds(is, ip, end);
    copyEnds();
    readOuter(sourceAt, outerIs4, 0, 0);
    const mask = match(inners, reason);
    const bytes = end > ip ? end - ip : 0;
    if (mask !== 0) write(mask, reason, 0, bytes, ip, bytes, 0, 0);
  }

  function sent(
    headAt: number,
    headBytes: number,
    bodyAt: number,
    bodyBytes: number,
    toAt: number,
    outerIs4: boolean,
    ports: number,
    ecn: number,
  ): void {
    readEnds(is, headAt + ENCAPSULATION_BYTES, headAt + headBytes);
    copyEnds();
    readOuter(toAt, outerIs4, ports, ecn);
    const mask = match(outers, 0);
    if (mask === 0) return;
    const flags = CAPTURE_OUT | CAPTURE_OUTER;
    write(mask, 0, flags, headBytes + bodyBytes, headAt, headBytes, bodyAt, bodyBytes);
  }

  function noteDatagram(at: number, end: number): void {
    readEnds(is, at + ENCAPSULATION_BYTES, end);
    copyEnds();
    datagramBytes = end - at;
    copyBytes(datagram, 0, view, at, datagramBytes);
  }

  function received(
    reason: Drop,
    sourceAt: number,
    outerIs4: boolean,
    ports: number,
    ecn: number,
  ): void {
    readOuter(sourceAt, outerIs4, ports, ecn);
    const mask = match(outers, reason);
    if (mask === 0) return;
    source = datagram;
    write(mask, reason, CAPTURE_OUTER, datagramBytes, 0, datagramBytes, 0, 0);
    source = view;
  }

  return { begin, isInner, isOuter, note, decided, refused, sent, noteDatagram, received };
}

/**
 * Takes what has been written since the last call, but no more than about `bytesMax`: what is left waits.
 * @param take  a record begins at word `at` of the ring; it is the worker's again when all have been taken
 * @returns     how many
 */
export function readCaptures(
  ring: Int32Array,
  bytesMax: number,
  take: (at: number) => void,
): number {
  const tail = Atomics.load(ring, RING_TAIL);
  const head = Atomics.load(ring, RING_HEAD);
  let count = 0;
  let at = tail;
  while (at !== head && ((at - tail) | 0) < bytesMax) {
    const record = DATA + ((at & (DATA_BYTES - 1)) >>> 2);
    if (ring[record + CAPTURE_MASK] !== 0) {
      take(record);
      count++;
    }
    at = (at + ring[record + CAPTURE_SIZE]!) | 0;
  }
  Atomics.store(ring, RING_TAIL, at);
  return count;
}
