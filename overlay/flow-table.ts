/**
 * Flows (connection tracking): one fixed table in memory that all workers share and that outlives the
 * process.
 * Runs per packet: no await, no allocation, no throw.
 *
 * The words of an entry are in flow-layout.ts, its states in flow-state.ts. A reference is good for the
 * packet that it was found for: the entry may be given back meanwhile, and taken for another flow more
 * than a thousand insertions later (flow-store.ts). A worker that was kept from running for so long asks
 * `isStill`.
 */
import { PROTOCOL_TCP } from '../wire/tcp.ts';
import {
  FLOW_ASSURED,
  FLOW_DEADLINE_S,
  FLOW_FLAGS,
  FLOW_FOLLOWING,
  FLOW_HASH_ORIG,
  FLOW_HASH_REPLY,
  FLOW_KIND,
  FLOW_NEXT_ORIG,
  FLOW_OWNER,
  FLOW_PORTS_ORIG,
  FLOW_SERVICE_GENERATION,
  FLOW_STATE,
  FLOW_VERSION,
  FLOW_WORDS,
  KIND_AFFINITY,
} from './flow-layout.ts';
import { type FlowMemory, openStore } from './flow-memory.ts';
import { STATE_KEEP, isAssuring, isOver, nextState, timeoutS } from './flow-state.ts';
import {
  HEADER_INSERTED,
  HEADER_IN_USE,
  HEADER_REMOVED,
  HEADER_SEQUENCE,
  OWNERS,
  TUPLE_ENTRY,
  TUPLE_VERSION,
  createFlowStore,
  hasReply,
} from './flow-store.ts';

export * from './flow-layout.ts';
export type { FlowMemory } from './flow-memory.ts';

/**
 * Find and insert take tuples as they stand in packets: IPv4 addresses as int32, IPv6 addresses by
 * their offset in the arena, ports in one word, the source's above. ICMP echo has its identifier as both.
 * A reference is entry * 2 + direction: 0 a packet of the side that began, 1 of the other; -1 none.
 */
export interface FlowTable {
  /** All entries' words; an entry of reference `ref` begins at (ref >>> 1) * FLOW_WORDS. */
  readonly words: Int32Array;
  /** The caller's next entry: tuples, KIND, FLAGS, generations; the rest is the table's. */
  readonly draft: Int32Array;
  /** Seconds since boot, set when a batch begins; from it deadlines count. */
  readonly setNow: (nowS: number) => void;
  readonly nowS: () => number;
  readonly find4: (source: number, destination: number, ports: number, protocol: number) => number;
  readonly find6: (
    sourceAt: number,
    destinationAt: number,
    ports: number,
    protocol: number,
  ) => number;
  /**
   * This tuple will be looked for soon. What memory has to bring for a batch of them, it brings at once
   * when `fetch` is called, where one find after the other would wait twice each; and who is looked for in
   * the same order needs no hash any more.
   */
  readonly expect4: (source: number, destination: number, ports: number, protocol: number) => void;
  readonly expect6: (
    sourceAt: number,
    destinationAt: number,
    ports: number,
    protocol: number,
  ) => void;
  readonly fetch: () => void;
  /** The table is larger than caches: expecting pays. */
  readonly isLarge: () => boolean;
  /**
   * Makes an entry of `draft`, at the cost of another one where the table is full: the owner with the
   * most flows gives its oldest that is not assured, else its oldest.
   * @param owner  hash of the address of the pod that it is charged to
   * @returns      its reference; that of a flow which has the orig tuple already; -1: another flow has the
   *               reply tuple already
   */
  readonly insert: (owner: number) => number;
  readonly remove: (ref: number) => void;
  /**
   * The entry is the one that the last find or insert returned, and not another flow's by now. Asked after
   * its words have been read, and before what they say is done.
   */
  readonly isStill: (ref: number) => boolean;
  /**
   * A packet of this flow: moves its state and its deadline as Linux does (nf_conntrack's).
   * @param tcpFlags  0 for other protocols; for SCTP the first chunk's type
   */
  readonly advance: (ref: number, tcpFlags: number) => void;
  /** A TCP connection that has ended, or is about to: a SYN begins another one. */
  readonly isClosing: (ref: number) => boolean;
  /** Keyed, for choices that nobody outside may foresee. */
  readonly hash4: (source: number, destination: number, ports: number, protocol: number) => number;
  readonly hash6: (
    sourceAt: number,
    destinationAt: number,
    ports: number,
    protocol: number,
  ) => number;
}

/** Tuples that are expected together. */
const EXPECTED_MAX = 64;
/** Links of a chain that are followed: where all flows are in use one in fifty is further behind. */
const EXPECTED_LINKS = 4;
/** So many in a row are expected and then not looked for, and those behind them are known all the same. */
const EXPECTED_MISSING = 1;
/** Entries in use, of which the index and the first lines no longer fit the second cache. */
const LARGE = 16_384;

const FAMILY4 = 4 << 8;
const FAMILY6 = 6 << 8;
/** Tries of a state that another worker keeps changing. */
const STATE_TRIES = 4;

/**
 * One for each worker, over the same memory.
 * @param view  of the arena that find6 and hash6 read addresses from
 */
export function createFlowTable(view: DataView, memory: FlowMemory): FlowTable {
  // With a memory of its own of what it has found last.
  const store = createFlowStore(openStore(memory).words.buffer, memory.maxFlows);
  const { words, header, heads, counters, tuple, hash } = store;
  const headMask = heads.length - 1;
  /** Hashes; after `fetch` their references, as they are likely to be looked for in turn. */
  const expected = new Int32Array(EXPECTED_MAX);
  const refs = new Int32Array(EXPECTED_MAX);
  /** Which of them have not been found yet. */
  const waiting = new Int32Array(EXPECTED_MAX);
  /** What was loaded has to go somewhere, or the engine leaves it out. */
  const touched = new Int32Array(1);
  let expectedCount = 0;
  let fetchedCount = 0;
  let next = 0;
  const draft = new Int32Array(FLOW_WORDS);
  let nowS = 0;

  function setNow(seconds: number): void {
    nowS = seconds;
    // Nobody of the batch before is still looked for.
    fetchedCount = 0;
  }

  function hash4(source: number, destination: number, ports: number, protocol: number): number {
    return hash.ofTuple4(source, destination, ports, protocol | FAMILY4);
  }

  function hash6(sourceAt: number, destinationAt: number, ports: number, protocol: number): number {
    readTuple6(sourceAt, destinationAt, ports, protocol);
    return hash.ofTuple6(tuple);
  }

  function readTuple6(from: number, to: number, ports: number, protocol: number): void {
    for (let i = 0; i < 4; i++) {
      tuple[i] = view.getInt32(from + 4 * i);
      tuple[4 + i] = view.getInt32(to + 4 * i);
    }
    tuple[8] = ports;
    tuple[9] = protocol | FAMILY6;
  }

  /** `ref` unless its time is over. */
  function live(ref: number): number {
    return ref >= 0 && words[(ref >>> 1) * FLOW_WORDS + FLOW_DEADLINE_S]! > nowS ? ref : -1;
  }

  function find4(source: number, destination: number, ports: number, protocol: number): number {
    const kind = protocol | FAMILY4;
    for (let i = next; i < fetchedCount && i <= next + EXPECTED_MISSING; i++) {
      const ref = refs[i]!;
      if (ref < 0 || !store.holds4(ref, source, destination, ports, kind)) continue;
      next = i + 1;
      return live(ref);
    }
    const hashed = hash.ofTuple4(source, destination, ports, kind);
    return live(store.seek4(hashed, source, destination, ports, kind));
  }

  function find6(sourceAt: number, destinationAt: number, ports: number, protocol: number): number {
    readTuple6(sourceAt, destinationAt, ports, protocol);
    for (let i = next; i < fetchedCount && i <= next + EXPECTED_MISSING; i++) {
      const ref = refs[i]!;
      if (ref < 0 || !store.holds6(ref)) continue;
      next = i + 1;
      return live(ref);
    }
    return live(store.seek6(hash.ofTuple6(tuple)));
  }

  function isLarge(): boolean {
    return header[HEADER_IN_USE]! > LARGE;
  }

  function expect(hashed: number): void {
    if (expectedCount < EXPECTED_MAX) expected[expectedCount++] = hashed;
  }

  function expect4(source: number, destination: number, ports: number, protocol: number): void {
    expect(hash.ofTuple4(source, destination, ports, protocol | FAMILY4));
  }

  function expect6(sourceAt: number, destinationAt: number, ports: number, protocol: number): void {
    expect(hash6(sourceAt, destinationAt, ports, protocol));
  }

  function fetch(): void {
    const count = expectedCount;
    fetchedCount = count;
    expectedCount = 0;
    next = 0;
    for (let i = 0; i < count; i++) {
      refs[i] = heads[expected[i]! & headMask]!;
      waiting[i] = i;
    }
    let left = count;
    for (let links = 0; left > 0 && links < EXPECTED_LINKS; links++) {
      touch(left);
      left = follow(left);
    }
  }

  /**
   * Brings the entries that are looked at next. Nothing but loads that do not depend on each other: the
   * shorter the loop, the more of them the processor has under way.
   */
  function touch(count: number): void {
    let all = 0;
    for (let i = 0; i < count; i++) {
      const ref = refs[waiting[i]!]!;
      // None: the first entry.
      all ^= words[((ref & ~(ref >> 31)) >>> 1) * FLOW_WORDS]!;
    }
    touched[0] = all;
  }

  /** Goes on to the next of the chain where the entry is another tuple's. @returns how many there are */
  function follow(count: number): number {
    let others = 0;
    for (let k = 0; k < count; k++) {
      const i = waiting[k]!;
      const ref = refs[i]!;
      if (ref < 0) continue;
      const at = (ref >>> 1) * FLOW_WORDS + (ref & 1);
      const difference = words[at + FLOW_HASH_ORIG]! ^ expected[i]!;
      // All ones where they differ: no branch, which would be guessed wrong.
      const isOther = (difference | -difference) >> 31;
      refs[i] = ref ^ ((ref ^ words[at + FLOW_NEXT_ORIG]!) & isOther);
      waiting[others] = i;
      others -= isOther;
    }
    return others;
  }

  /** With the lock held: who has the tuple, after making those go whose time is over. */
  function holderOf(hashed: number, direction: number): number {
    const ref = store.seekTuple(hashed, draft, 0, direction);
    if (ref < 0 || live(ref) >= 0) return ref;
    store.expireNow(ref >>> 1);
    return -1;
  }

  function insert(owner: number): number {
    const hashOrig = store.hashTuple(draft, 0, 0);
    const withReply = hasReply(draft, 0);
    const hashReply = withReply ? store.hashTuple(draft, 0, 1) : 0;
    if (!store.lock()) return -1;
    const holder = holderOf(hashOrig, 0);
    const blocked = holder < 0 && withReply ? holderOf(hashReply, 1) : -1;
    if (holder >= 0 || blocked >= 0) {
      store.unlock();
      return holder;
    }
    store.makeRoom(nowS);
    const entry = store.take();
    const at = entry * FLOW_WORDS;
    for (let i = FLOW_PORTS_ORIG; i < FLOW_FOLLOWING; i++) words[at + i] = draft[i]!;
    const protocol = draft[FLOW_KIND]! & 0xff;
    words[at + FLOW_HASH_ORIG] = hashOrig;
    words[at + FLOW_HASH_REPLY] = hashReply;
    words[at + FLOW_STATE] = 0;
    if (protocol !== KIND_AFFINITY) words[at + FLOW_DEADLINE_S] = nowS + timeoutS(protocol, 0);
    words[at + FLOW_FLAGS] = draft[FLOW_FLAGS]! & ~FLOW_ASSURED;
    words[at + FLOW_SERVICE_GENERATION] = draft[FLOW_SERVICE_GENERATION]!;
    words[at + FLOW_OWNER] = slotOf(owner);
    const sequence = (header[HEADER_SEQUENCE]! + 2) | 1;
    header[HEADER_SEQUENCE] = sequence;
    Atomics.store(words, at + FLOW_VERSION, sequence);
    store.link(entry);
    tuple[TUPLE_VERSION] = sequence;
    tuple[TUPLE_ENTRY] = entry;
    counters[HEADER_INSERTED] = counters[HEADER_INSERTED]! + 1;
    store.unlock();
    return entry * 2;
  }

  function isStill(ref: number): boolean {
    return Atomics.load(words, (ref >>> 1) * FLOW_WORDS + FLOW_VERSION) === tuple[TUPLE_VERSION];
  }

  /** Found last, and given back since: whatever is to be done to it would be done to another flow. */
  function isStale(entry: number): boolean {
    return tuple[TUPLE_ENTRY] === entry && !isStill(entry * 2);
  }

  function remove(ref: number): void {
    const entry = ref >>> 1;
    if (!store.lock()) return;
    if ((words[entry * FLOW_WORDS + FLOW_VERSION]! & 1) === 1 && !isStale(entry)) {
      store.drop(entry);
      counters[HEADER_REMOVED] = counters[HEADER_REMOVED]! + 1;
    }
    store.unlock();
  }

  /** Once in a flow's life. */
  function assure(entry: number, version: number): void {
    const at = entry * FLOW_WORDS;
    if (!store.lock()) return;
    if (words[at + FLOW_VERSION] === version && (words[at + FLOW_FLAGS]! & FLOW_ASSURED) === 0) {
      store.assure(entry);
    }
    store.unlock();
  }

  function advance(ref: number, tcpFlags: number): void {
    const at = (ref >>> 1) * FLOW_WORDS;
    const version = words[at + FLOW_VERSION]!;
    const protocol = words[at + FLOW_KIND]! & 0xff;
    if (isStale(ref >>> 1)) return;
    for (let tries = 0; tries < STATE_TRIES; tries++) {
      const before = words[at + FLOW_STATE]!;
      const after = nextState(protocol, ref & 1, before, tcpFlags);
      if (after === STATE_KEEP) return;
      if (
        after !== before &&
        Atomics.compareExchange(words, at + FLOW_STATE, before, after) !== before
      ) {
        continue;
      }
      const deadlineS = nowS + timeoutS(protocol, after);
      // Unchanged, the line stays shared among the workers' caches.
      if (words[at + FLOW_DEADLINE_S] !== deadlineS) words[at + FLOW_DEADLINE_S] = deadlineS;
      if (
        (words[at + FLOW_FLAGS]! & FLOW_ASSURED) === 0 &&
        (version & 1) === 1 &&
        isAssuring(protocol, before, after)
      ) {
        assure(ref >>> 1, version);
      }
      return;
    }
  }

  function isClosing(ref: number): boolean {
    const at = (ref >>> 1) * FLOW_WORDS;
    return (words[at + FLOW_KIND]! & 0xff) === PROTOCOL_TCP && isOver(words[at + FLOW_STATE]!);
  }

  return {
    words,
    draft,
    setNow,
    nowS: () => nowS,
    find4,
    find6,
    expect4,
    expect6,
    fetch,
    isLarge,
    insert,
    remove,
    isStill,
    advance,
    isClosing,
    hash4,
    hash6,
  };
}

/** The owner's slot: Fibonacci hashing, should the caller's hash be a plain address. */
function slotOf(owner: number): number {
  return (Math.imul(owner, 0x9e3779b1) >>> 20) & (OWNERS - 1);
}
