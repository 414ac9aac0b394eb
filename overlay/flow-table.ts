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
  /** Seconds since boot, set once a batch; from it deadlines count. */
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
   * when `fetch` is called, where one find after the other would wait twice each.
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
  const expected = new Int32Array(EXPECTED_MAX);
  let expectedCount = 0;
  /** What was fetched has to go somewhere, or the engine leaves it out. */
  const fetched = new Int32Array(1);
  const draft = new Int32Array(FLOW_WORDS);
  let nowS = 0;

  function setNow(seconds: number): void {
    nowS = seconds;
  }

  function hash4(source: number, destination: number, ports: number, protocol: number): number {
    return hash.ofTuple4(source, destination, ports, protocol | FAMILY4);
  }

  function hash6(sourceAt: number, destinationAt: number, ports: number, protocol: number): number {
    for (let i = 0; i < 4; i++) {
      tuple[i] = view.getInt32(sourceAt + 4 * i);
      tuple[4 + i] = view.getInt32(destinationAt + 4 * i);
    }
    tuple[8] = ports;
    tuple[9] = protocol | FAMILY6;
    return hash.ofTuple6(tuple);
  }

  /** `ref` unless its time is over. */
  function live(ref: number): number {
    return ref >= 0 && words[(ref >>> 1) * FLOW_WORDS + FLOW_DEADLINE_S]! > nowS ? ref : -1;
  }

  function find4(source: number, destination: number, ports: number, protocol: number): number {
    const kind = protocol | FAMILY4;
    const hashed = hash.ofTuple4(source, destination, ports, kind);
    return live(store.seek4(hashed, source, destination, ports, kind));
  }

  function find6(sourceAt: number, destinationAt: number, ports: number, protocol: number): number {
    return live(store.seek6(hash6(sourceAt, destinationAt, ports, protocol)));
  }

  function isLarge(): boolean {
    return header[HEADER_IN_USE]! > LARGE;
  }

  function expect(hashed: number): void {
    if (expectedCount < EXPECTED_MAX) expected[expectedCount++] = hashed & headMask;
  }

  function expect4(source: number, destination: number, ports: number, protocol: number): void {
    expect(hash.ofTuple4(source, destination, ports, protocol | FAMILY4));
  }

  function expect6(sourceAt: number, destinationAt: number, ports: number, protocol: number): void {
    expect(hash6(sourceAt, destinationAt, ports, protocol));
  }

  function fetch(): void {
    const count = expectedCount;
    expectedCount = 0;
    // Loads that do not depend on each other: the processor has many under way.
    for (let i = 0; i < count; i++) expected[i] = heads[expected[i]!]!;
    let all = 0;
    for (let i = 0; i < count; i++) {
      const ref = expected[i]!;
      if (ref >= 0) all ^= words[(ref >>> 1) * FLOW_WORDS]!;
    }
    fetched[0] = all;
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
