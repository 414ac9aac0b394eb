/**
 * What stands in the memory that holds the flows, and the operations on it that need its lock.
 * Runs per packet: no await, no allocation, no throw.
 * Not per packet: bytesFor, capacityOf, headsFor, sparesOf.
 *
 *     header 4 KiB | heads of chains | counts per owner | lists per owner | entries
 *
 * Readers take no lock. What they rely on: an entry that is given back keeps its tuples and its chain
 * links until it is taken again, and it is not before a thousand others were, and one for sixteen flows.
 * So who has just found one, or stands on it in a chain, reads what it was; who was kept from running for
 * as long as that sees another VERSION, or a chain that ends elsewhere, and takes it as a miss.
 *
 * VERSION is the insertion's number * 2 + 1, so that the age of an entry outlives a restart; given back,
 * 1 more.
 */
import { schedYield } from '../linux/libc.ts';
import { createFlowHash, type FlowHash } from './flow-hash.ts';
import {
  FLOW_ASSURED,
  FLOW_DEADLINE_S,
  FLOW_DST_ORIG,
  FLOW_FLAGS,
  FLOW_FOLLOWING,
  FLOW_HASH_ORIG,
  FLOW_KIND,
  FLOW_NEXT_ORIG,
  FLOW_OWNER,
  FLOW_PORTS_ORIG,
  FLOW_PREVIOUS,
  FLOW_SRC_ORIG,
  FLOW_SRC_ORIG_HIGH,
  FLOW_VERSION,
  FLOW_WORDS,
  KIND_AFFINITY,
} from './flow-layout.ts';

/** Words of the header. */
export const HEADER_MAGIC = 0;
export const HEADER_LAYOUT = 1;
export const HEADER_MAX_FLOWS = 2;
export const HEADER_KEY = 4;
export const HEADER_BOOT_ID = 8;
/** In a line of its own: who waits for it must not slow down who holds it. */
export const HEADER_LOCK = 32;
export const HEADER_SEQUENCE = 48;
export const HEADER_IN_USE = 49;
/** Entries from here on have never been used. */
export const HEADER_HIGH_WATER = 50;
export const HEADER_FREE_FIRST = 51;
export const HEADER_FREE_LAST = 52;
export const HEADER_FREE_COUNT = 53;
export const HEADER_HAND = 54;
/** Counters, of Float64: their indices among the header's. */
export const HEADER_INSERTED = 32;
export const HEADER_EVICTED = 33;
export const HEADER_EXPIRED = 34;
export const HEADER_REMOVED = 35;

const HEADER_BYTES = 4096;
export const OWNERS = 4096;
/** Of an owner's lists: first and last not assured, first and last assured. */
const OWNER_WORDS = 4;
const OWNER_ASSURED = 2;
/** Source (4), destination (4), ports, kind: as the hash takes them; then what was found last. */
export const TUPLE_VERSION = 10;
export const TUPLE_ENTRY = 11;
const TUPLE_WORDS = 12;

/** Entries given back that wait before they are taken again: these, and one for sixteen flows. */
const SPARES_MIN = 1024;

/** Links that a reader follows: with a keyed hash no chain is as long, unless it changes underfoot. */
const STEPS_MAX = 128;
const LOCK_TRIES = 1 << 24;
const LOCK_TRIES_A_TURN = 128;

/** Entries looked at for their deadlines with each insertion, and when there is no room. */
const HAND_STEPS = 4;
const HAND_STEPS_FULL = 64;
const EVICT_BATCH = 64;

const sparesOf = (maxFlows: number): number => SPARES_MIN + (maxFlows >>> 4);

export const capacityOf = (maxFlows: number): number => maxFlows + sparesOf(maxFlows);

/** At least two a flow, a power of two: a chain has one link on average at most. */
export const headsFor = (maxFlows: number): number => 2 ** Math.ceil(Math.log2(maxFlows * 2));

export const bytesFor = (maxFlows: number): number =>
  HEADER_BYTES +
  headsFor(maxFlows) * 4 +
  OWNERS * (1 + OWNER_WORDS) * 4 +
  capacityOf(maxFlows) * FLOW_WORDS * 4;

export interface FlowStore {
  readonly maxFlows: number;
  readonly header: Int32Array;
  readonly counters: Float64Array;
  readonly heads: Int32Array;
  readonly counts: Int32Array;
  readonly lists: Int32Array;
  readonly words: Int32Array;
  readonly hash: FlowHash;
  /** The IPv6 tuple that `seek6` looks for, and what was found last, by TUPLE_… */
  readonly tuple: Int32Array;
  /** @returns false if somebody holds it for good */
  readonly lock: () => boolean;
  readonly unlock: () => void;
  /** The reference that has this tuple, whatever its deadline, or -1. Needs no lock. */
  readonly seek4: (
    hash: number,
    source: number,
    destination: number,
    ports: number,
    kind: number,
  ) => number;
  readonly seek6: (hash: number) => number;
  /** It is in use and has this tuple; if so, it is what was found last. Needs no lock. */
  readonly holds4: (
    ref: number,
    source: number,
    destination: number,
    ports: number,
    kind: number,
  ) => boolean;
  readonly holds6: (ref: number) => boolean;
  /** The same for the tuple of an entry or draft at `from[at]`. Leaves `tuple` changed. */
  readonly seekTuple: (hash: number, from: Int32Array, at: number, direction: number) => number;
  readonly hashTuple: (from: Int32Array, at: number, direction: number) => number;
  // With the lock held:
  /** An entry that is in no chain and no list, not yet in use. There is one: see makeRoom. */
  readonly take: () => number;
  readonly giveBack: (entry: number) => void;
  /** Puts an entry whose words are written into its chains and its owner's list. */
  readonly link: (entry: number) => void;
  /** Moves it to its owner's list of those assured. */
  readonly assure: (entry: number) => void;
  /** Takes an entry out of chains and list, and gives it back. */
  readonly drop: (entry: number) => void;
  /** The same because its time is over. */
  readonly expireNow: (entry: number) => void;
  /** Gives back what has expired among the next `entries`. */
  readonly expire: (entries: number, nowS: number) => number;
  /** At least one below the most. */
  readonly makeRoom: (nowS: number) => void;
}

/** The reply tuple is none of its own: entries that are no flows, and a flow to itself. */
export function hasReply(words: Int32Array, at: number): boolean {
  return (words[at + FLOW_KIND]! & 0xff) < KIND_AFFINITY && !isOwnReply(words, at);
}

/** The reply tuple is the orig tuple: a pod that asks itself, from the port that it asks. */
function isOwnReply(words: Int32Array, at: number): boolean {
  if (
    words[at + FLOW_PORTS_ORIG] !== words[at + FLOW_PORTS_ORIG + 1] ||
    words[at + FLOW_SRC_ORIG] !== words[at + FLOW_SRC_ORIG + 2] ||
    words[at + FLOW_DST_ORIG] !== words[at + FLOW_DST_ORIG + 2]
  ) {
    return false;
  }
  if (words[at + FLOW_KIND]! >>> 8 === 4) return true;
  for (let i = FLOW_SRC_ORIG_HIGH; i < FLOW_SRC_ORIG_HIGH + 6; i++) {
    if (words[at + i] !== words[at + i + 6]) return false;
  }
  return true;
}

/** @param buffer  of bytesFor(maxFlows), with a header that is written */
export function createFlowStore(buffer: ArrayBufferLike, maxFlows: number): FlowStore {
  const capacity = capacityOf(maxFlows);
  const spares = sparesOf(maxFlows);
  const headCount = headsFor(maxFlows);
  const mask = headCount - 1;
  const header = new Int32Array(buffer, 0, HEADER_BYTES / 4);
  const counters = new Float64Array(buffer, 0, HEADER_BYTES / 8);
  let at = HEADER_BYTES;
  const heads = new Int32Array(buffer, at, headCount);
  at += headCount * 4;
  const counts = new Int32Array(buffer, at, OWNERS);
  at += OWNERS * 4;
  const lists = new Int32Array(buffer, at, OWNERS * OWNER_WORDS);
  at += OWNERS * OWNER_WORDS * 4;
  const words = new Int32Array(buffer, at, capacity * FLOW_WORDS);
  const hash = createFlowHash(header.slice(HEADER_KEY, HEADER_KEY + 4));
  const tuple = new Int32Array(TUPLE_WORDS).fill(-1);
  /** Owners among whom the next to give is looked for. */
  const candidates = new Int32Array(OWNERS);
  const batch = Math.min(EVICT_BATCH, Math.max(1, maxFlows >>> 6));

  function lock(): boolean {
    for (let tries = 1; tries < LOCK_TRIES; tries++) {
      if (Atomics.compareExchange(header, HEADER_LOCK, 0, 1) === 0) return true;
      // Who holds it may be waiting for this very core.
      if (tries % LOCK_TRIES_A_TURN === 0) schedYield();
    }
    return false;
  }

  function unlock(): void {
    Atomics.store(header, HEADER_LOCK, 0);
  }

  function seek4(
    hashed: number,
    source: number,
    destination: number,
    ports: number,
    kind: number,
  ): number {
    let ref = heads[hashed & mask]!;
    for (let steps = 0; ref >= 0 && steps < STEPS_MAX; steps++) {
      const at = (ref >>> 1) * FLOW_WORDS + (ref & 1);
      if (words[at + FLOW_HASH_ORIG] === hashed && holds4(ref, source, destination, ports, kind)) {
        return ref;
      }
      ref = words[at + FLOW_NEXT_ORIG]!;
    }
    return -1;
  }

  function holds4(
    ref: number,
    source: number,
    destination: number,
    ports: number,
    kind: number,
  ): boolean {
    const entry = (ref >>> 1) * FLOW_WORDS;
    const direction = ref & 1;
    const version = Atomics.load(words, entry);
    if (
      (version & 1) === 0 ||
      words[entry + FLOW_SRC_ORIG + 2 * direction] !== source ||
      words[entry + FLOW_DST_ORIG + 2 * direction] !== destination ||
      words[entry + FLOW_PORTS_ORIG + direction] !== ports ||
      words[entry + FLOW_KIND] !== kind ||
      Atomics.load(words, entry) !== version
    ) {
      return false;
    }
    tuple[TUPLE_VERSION] = version;
    tuple[TUPLE_ENTRY] = ref >>> 1;
    return true;
  }

  function holds6(ref: number): boolean {
    const entry = (ref >>> 1) * FLOW_WORDS;
    const version = Atomics.load(words, entry);
    if (
      (version & 1) === 0 ||
      !hasTuple6(entry, ref & 1) ||
      Atomics.load(words, entry) !== version
    ) {
      return false;
    }
    tuple[TUPLE_VERSION] = version;
    tuple[TUPLE_ENTRY] = ref >>> 1;
    return true;
  }

  function hasTuple6(entry: number, direction: number): boolean {
    const source = entry + FLOW_SRC_ORIG_HIGH + 6 * direction;
    return (
      words[entry + FLOW_SRC_ORIG + 2 * direction] === tuple[3] &&
      words[entry + FLOW_DST_ORIG + 2 * direction] === tuple[7] &&
      words[entry + FLOW_PORTS_ORIG + direction] === tuple[8] &&
      words[entry + FLOW_KIND] === tuple[9] &&
      words[source] === tuple[0] &&
      words[source + 1] === tuple[1] &&
      words[source + 2] === tuple[2] &&
      words[source + 3] === tuple[4] &&
      words[source + 4] === tuple[5] &&
      words[source + 5] === tuple[6]
    );
  }

  function seek6(hashed: number): number {
    let ref = heads[hashed & mask]!;
    for (let steps = 0; ref >= 0 && steps < STEPS_MAX; steps++) {
      const at = (ref >>> 1) * FLOW_WORDS + (ref & 1);
      if (words[at + FLOW_HASH_ORIG] === hashed && holds6(ref)) return ref;
      ref = words[at + FLOW_NEXT_ORIG]!;
    }
    return -1;
  }

  function readTuple6(from: Int32Array, base: number, direction: number): void {
    const high = base + FLOW_SRC_ORIG_HIGH + 6 * direction;
    for (let i = 0; i < 3; i++) {
      tuple[i] = from[high + i]!;
      tuple[4 + i] = from[high + 3 + i]!;
    }
    tuple[3] = from[base + FLOW_SRC_ORIG + 2 * direction]!;
    tuple[7] = from[base + FLOW_DST_ORIG + 2 * direction]!;
    tuple[8] = from[base + FLOW_PORTS_ORIG + direction]!;
    tuple[9] = from[base + FLOW_KIND]!;
  }

  function hashTuple(from: Int32Array, base: number, direction: number): number {
    const kind = from[base + FLOW_KIND]!;
    if (kind >>> 8 === 4) {
      return hash.ofTuple4(
        from[base + FLOW_SRC_ORIG + 2 * direction]!,
        from[base + FLOW_DST_ORIG + 2 * direction]!,
        from[base + FLOW_PORTS_ORIG + direction]!,
        kind,
      );
    }
    readTuple6(from, base, direction);
    return hash.ofTuple6(tuple);
  }

  function seekTuple(hashed: number, from: Int32Array, base: number, direction: number): number {
    const kind = from[base + FLOW_KIND]!;
    if (kind >>> 8 === 4) {
      return seek4(
        hashed,
        from[base + FLOW_SRC_ORIG + 2 * direction]!,
        from[base + FLOW_DST_ORIG + 2 * direction]!,
        from[base + FLOW_PORTS_ORIG + direction]!,
        kind,
      );
    }
    readTuple6(from, base, direction);
    return seek6(hashed);
  }

  function take(): number {
    const fresh = header[HEADER_HIGH_WATER]!;
    if (fresh < capacity && header[HEADER_FREE_COUNT]! < spares) {
      header[HEADER_HIGH_WATER] = fresh + 1;
      return fresh;
    }
    const entry = header[HEADER_FREE_FIRST]!;
    header[HEADER_FREE_FIRST] = words[entry * FLOW_WORDS + FLOW_FOLLOWING]!;
    header[HEADER_FREE_COUNT] = header[HEADER_FREE_COUNT]! - 1;
    return entry;
  }

  function giveBack(entry: number): void {
    words[entry * FLOW_WORDS + FLOW_FOLLOWING] = -1;
    const count = header[HEADER_FREE_COUNT]!;
    if (count === 0) header[HEADER_FREE_FIRST] = entry;
    else words[header[HEADER_FREE_LAST]! * FLOW_WORDS + FLOW_FOLLOWING] = entry;
    header[HEADER_FREE_LAST] = entry;
    header[HEADER_FREE_COUNT] = count + 1;
  }

  function chain(ref: number): void {
    const entry = (ref >>> 1) * FLOW_WORDS;
    const direction = ref & 1;
    const head = words[entry + FLOW_HASH_ORIG + direction]! & mask;
    words[entry + FLOW_NEXT_ORIG + direction] = heads[head]!;
    Atomics.store(heads, head, ref);
  }

  function unchain(ref: number): void {
    const entry = (ref >>> 1) * FLOW_WORDS;
    const head = words[entry + FLOW_HASH_ORIG + (ref & 1)]! & mask;
    const next = words[entry + FLOW_NEXT_ORIG + (ref & 1)]!;
    let before = heads[head]!;
    if (before === ref) {
      Atomics.store(heads, head, next);
      return;
    }
    while (before >= 0) {
      const link = (before >>> 1) * FLOW_WORDS + FLOW_NEXT_ORIG + (before & 1);
      before = words[link]!;
      if (before === ref) {
        Atomics.store(words, link, next);
        return;
      }
    }
  }

  function listOf(base: number): number {
    const isAssured = (words[base + FLOW_FLAGS]! & FLOW_ASSURED) !== 0;
    return words[base + FLOW_OWNER]! * OWNER_WORDS + (isAssured ? OWNER_ASSURED : 0);
  }

  function enlist(entry: number): void {
    const base = entry * FLOW_WORDS;
    const list = listOf(base);
    const last = lists[list + 1]!;
    words[base + FLOW_PREVIOUS] = last;
    words[base + FLOW_FOLLOWING] = -1;
    if (last < 0) lists[list] = entry;
    else words[last * FLOW_WORDS + FLOW_FOLLOWING] = entry;
    lists[list + 1] = entry;
  }

  function unlist(entry: number): void {
    const base = entry * FLOW_WORDS;
    const list = listOf(base);
    const previous = words[base + FLOW_PREVIOUS]!;
    const following = words[base + FLOW_FOLLOWING]!;
    if (previous < 0) lists[list] = following;
    else words[previous * FLOW_WORDS + FLOW_FOLLOWING] = following;
    if (following < 0) lists[list + 1] = previous;
    else words[following * FLOW_WORDS + FLOW_PREVIOUS] = previous;
  }

  function link(entry: number): void {
    const base = entry * FLOW_WORDS;
    const owner = words[base + FLOW_OWNER]!;
    enlist(entry);
    counts[owner] = counts[owner]! + 1;
    header[HEADER_IN_USE] = header[HEADER_IN_USE]! + 1;
    chain(entry * 2);
    if (hasReply(words, base)) chain(entry * 2 + 1);
  }

  function assure(entry: number): void {
    const flags = entry * FLOW_WORDS + FLOW_FLAGS;
    unlist(entry);
    words[flags] = words[flags]! | FLOW_ASSURED;
    enlist(entry);
  }

  function drop(entry: number): void {
    const base = entry * FLOW_WORDS;
    const owner = words[base + FLOW_OWNER]!;
    Atomics.store(words, base + FLOW_VERSION, words[base + FLOW_VERSION]! + 1);
    unchain(entry * 2);
    if (hasReply(words, base)) unchain(entry * 2 + 1);
    unlist(entry);
    counts[owner] = counts[owner]! - 1;
    header[HEADER_IN_USE] = header[HEADER_IN_USE]! - 1;
    giveBack(entry);
  }

  function expireNow(entry: number): void {
    drop(entry);
    counters[HEADER_EXPIRED] = counters[HEADER_EXPIRED]! + 1;
  }

  function expire(entries: number, nowS: number): number {
    const highWater = header[HEADER_HIGH_WATER]!;
    let hand = header[HEADER_HAND]!;
    let expired = 0;
    for (let i = 0; i < entries && i < highWater; i++) {
      if (hand >= highWater) hand = 0;
      const base = hand * FLOW_WORDS;
      if ((words[base + FLOW_VERSION]! & 1) === 1 && words[base + FLOW_DEADLINE_S]! <= nowS) {
        expireNow(hand);
        expired++;
      }
      hand++;
    }
    header[HEADER_HAND] = hand;
    return expired;
  }

  /** An owner's oldest that is not assured, else its oldest. */
  function evictFrom(owner: number): void {
    const list = owner * OWNER_WORDS;
    const oldest = lists[list]!;
    drop(oldest >= 0 ? oldest : lists[list + OWNER_ASSURED]!);
  }

  /**
   * Takes a batch from those owners that have the most, level by level: never from one while another has
   * more. Who has `batch` fewer than the most cannot come to have the most by this batch.
   */
  function evict(): void {
    let most = 0;
    for (let owner = 0; owner < OWNERS; owner++) {
      if (counts[owner]! > most) most = counts[owner]!;
    }
    let found = 0;
    for (let owner = 0; owner < OWNERS; owner++) {
      if (counts[owner]! > most - batch && counts[owner]! > 0) candidates[found++] = owner;
    }
    let evicted = 0;
    for (let level = most; evicted < batch && level > 0; level--) {
      for (let i = 0; i < found && evicted < batch; i++) {
        if (counts[candidates[i]!] === level) {
          evictFrom(candidates[i]!);
          evicted++;
        }
      }
    }
    counters[HEADER_EVICTED] = counters[HEADER_EVICTED]! + evicted;
  }

  function makeRoom(nowS: number): void {
    expire(HAND_STEPS, nowS);
    if (header[HEADER_IN_USE]! < maxFlows) return;
    if (expire(HAND_STEPS_FULL, nowS) === 0) evict();
  }

  return {
    maxFlows,
    header,
    counters,
    heads,
    counts,
    lists,
    words,
    hash,
    tuple,
    lock,
    unlock,
    seek4,
    seek6,
    holds4,
    holds6,
    seekTuple,
    hashTuple,
    take,
    giveBack,
    link,
    assure,
    drop,
    expireNow,
    expire,
    makeRoom,
  };
}
