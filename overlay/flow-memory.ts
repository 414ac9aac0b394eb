/**
 * The memory that the flows stand in: a file on a tmpfs, which outlives the process, so that after a
 * restart or a crash the connections go on as the policy and the Services once decided them. Main thread.
 *
 * A process may have died in the middle of anything. What is believed on opening is only what an entry
 * says of itself, and that is checked; chains, lists, counts and the free list are made anew.
 */
import { randomFillSync } from 'node:crypto';
import {
  type Stats,
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { bootTimeS } from '../linux/clock.ts';
import { EAGAIN, SystemCallError } from '../linux/errno.ts';
import { errno, flock } from '../linux/libc.ts';
import { HUGE_PAGE_BYTES, collapse, mapShared, reserve } from '../linux/mapping.ts';
import { type IpAddress, toIpv4, toIpv6 } from '../wire/address.ts';
import {
  FLOW_ASSURED,
  FLOW_DEADLINE_S,
  FLOW_DST_ORIG,
  FLOW_DST_ORIG_HIGH,
  FLOW_FLAGS,
  FLOW_GENERATION,
  FLOW_HASH_ORIG,
  FLOW_HASH_REPLY,
  FLOW_KIND,
  FLOW_OWNER,
  FLOW_PORTS_ORIG,
  FLOW_SERVICE_GENERATION,
  FLOW_SRC_ORIG,
  FLOW_SRC_ORIG_HIGH,
  FLOW_STATE,
  FLOW_VERSION,
  FLOW_WORDS,
} from './flow-layout.ts';
import { STATE_MASK, STATE_REPLIED, TIMEOUT_MAX_S, stateName } from './flow-state.ts';
import {
  type FlowStore,
  HEADER_BOOT_ID,
  HEADER_EVICTED,
  HEADER_EXPIRED,
  HEADER_FREE_COUNT,
  HEADER_HAND,
  HEADER_HIGH_WATER,
  HEADER_INSERTED,
  HEADER_IN_USE,
  HEADER_KEY,
  HEADER_LAYOUT,
  HEADER_LOCK,
  HEADER_MAGIC,
  HEADER_MAX_FLOWS,
  HEADER_REMOVED,
  HEADER_SEQUENCE,
  OWNERS,
  bytesFor,
  capacityOf,
  createFlowStore,
  hasReply,
} from './flow-store.ts';

/** "weft", little-endian. */
const MAGIC = 0x74666577;
/** Grows whenever the meaning of any word changes. */
const LAYOUT = 1;
/** References are 31 bits, words are indexed by 31 bits. */
const MAX_FLOWS = 2 ** 25;
/** More than there are with their spares; times the greatest age they fit into a Float64's 53 bits. */
const ENTRIES_MAX = 2 ** 26;
const AGE_MAX = 2 ** 27 - 1;
const KEY_WORDS = 4;
const LOCK_EX = 2;
const LOCK_NB = 4;
const LOCK_UN = 8;
/** Entries swept for each time that the lock is taken. */
const SWEEP_TURN = 256;
/** Made at a time: some milliseconds each, in which who reads there waits. */
const HUGE_PAGES_A_TURN = 4;

/** Numbers and shared memory only: it is sent to the workers, which map the file for themselves. */
export interface FlowMemory {
  readonly maxFlows: number;
  readonly bytes: number;
  /** Open as long as the process; null where the memory is not a file's. */
  readonly fd: number | null;
  readonly buffer: SharedArrayBuffer | null;
}

export class FlowMemoryError extends Error {
  readonly code: 'ERR_FLOWS_BUSY' | 'ERR_FLOWS_NO_ROOM' | 'ERR_FLOWS_SIZE';

  constructor(code: FlowMemoryError['code'], message: string) {
    super(message);
    this.code = code;
  }
}

/** Of this thread: one mapping for each memory. */
const stores = new WeakMap<FlowMemory, FlowStore>();

/** What stands in the memory, as this thread sees it. */
export function openStore(memory: FlowMemory): FlowStore {
  let store = stores.get(memory);
  if (store === undefined) {
    const buffer = memory.buffer ?? mapShared(memory.fd!, memory.bytes);
    store = createFlowStore(buffer, memory.maxFlows);
    stores.set(memory, store);
  }
  return store;
}

/** Whoever could write there could pass the policy: only a file that nobody else has ever had. */
function isOurs(stats: Stats): boolean {
  return (
    stats.isFile() &&
    stats.uid === process.geteuid!() &&
    stats.nlink === 1 &&
    (stats.mode & 0o777) === 0o600
  );
}

/** 128 bits that differ after each boot: deadlines count from it. */
function bootId(): Int32Array {
  const text = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').replaceAll(
    /[^0-9a-f]/g,
    '',
  );
  const bytes = Uint8Array.from(Buffer.from(text, 'hex'));
  return new Int32Array(bytes.buffer, 0, KEY_WORDS);
}

/** The open file if it is ours and of this layout, size and boot, else null. */
function openExisting(path: string, maxFlows: number): number | null {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    // Absent, a symbolic link, a directory, no device: what it is comes out when it is made anew.
    return null;
  }
  const stats = fstatSync(fd);
  if (isOurs(stats)) {
    lockFile(path, fd);
    const header = new Int32Array(HEADER_BOOT_ID + KEY_WORDS);
    readSync(fd, header, 0, header.byteLength, 0);
    if (
      stats.size === bytesFor(maxFlows) &&
      header[HEADER_MAGIC] === MAGIC &&
      header[HEADER_LAYOUT] === LAYOUT &&
      header[HEADER_MAX_FLOWS] === maxFlows &&
      bootId().every((word, i) => header[HEADER_BOOT_ID + i] === word) &&
      // A hole is a page that the file system may have no room for.
      stats.blocks * 512 >= stats.size
    ) {
      return fd;
    }
  }
  closeSync(fd);
  return null;
}

/** @throws FlowMemoryError if another process has it */
function lockFile(path: string, fd: number): void {
  if (flock(fd, LOCK_EX | LOCK_NB) === 0) return;
  const number = errno();
  closeSync(fd);
  if (number !== EAGAIN) throw new SystemCallError(`locking ${path}`, number);
  throw new FlowMemoryError(
    'ERR_FLOWS_BUSY',
    `${path} is in use by another process; two would make a muddle of each other's connections`,
  );
}

/** `/run/weft`, which a boot takes away. Not its parents: Node.js tries for ever to make one under /proc. */
function makeDirectory(directory: string): void {
  try {
    mkdirSync(directory, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

/** A new file in the place of whatever has the name. */
function createFile(path: string, bytes: number): number {
  makeDirectory(dirname(path));
  rmSync(path, { force: true });
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
  const fd = openSync(path, flags, 0o600);
  lockFile(path, fd);
  if (reserve(fd, bytes)) return fd;
  closeSync(fd);
  rmSync(path, { force: true });
  throw new FlowMemoryError(
    'ERR_FLOWS_NO_ROOM',
    `${path} needs ${Math.ceil(bytes / 2 ** 20)} MiB, and its file system has not as much; ` +
      'without it no connection is tracked',
  );
}

/** Writes the header of a memory that is all zeros; the mark that it is whole comes last. */
function createHeader(buffer: ArrayBufferLike, maxFlows: number): void {
  const header = new Int32Array(buffer, 0, HEADER_LOCK);
  header.set(randomFillSync(new Int32Array(KEY_WORDS)), HEADER_KEY);
  header.set(bootId(), HEADER_BOOT_ID);
  header[HEADER_LAYOUT] = LAYOUT;
  header[HEADER_MAX_FLOWS] = maxFlows;
  header[HEADER_MAGIC] = MAGIC;
}

/**
 * Opens the memory, or makes it; what had been there goes on if it was written by this layout, for as many
 * flows, since the last boot, and by nobody but this user.
 * @param path      on a tmpfs, in a directory that only we write to; null for memory that ends with us
 * @param maxFlows  entries that may be in use, 144 bytes each
 * @throws FlowMemoryError, SystemCallError, or the file system's error
 */
export function openFlowMemory(path: string | null, maxFlows: number): FlowMemory {
  if (!(Number.isInteger(maxFlows) && maxFlows > 0 && maxFlows <= MAX_FLOWS)) {
    throw new FlowMemoryError(
      'ERR_FLOWS_SIZE',
      `a table of ${maxFlows} flows cannot be made: 1 to ${MAX_FLOWS} can`,
    );
  }
  const bytes = bytesFor(maxFlows);
  if (path === null) {
    const buffer = new SharedArrayBuffer(bytes);
    createHeader(buffer, maxFlows);
    const memory: FlowMemory = { maxFlows, bytes, fd: null, buffer };
    rebuild(openStore(memory), bootTimeS());
    return memory;
  }
  const existing = openExisting(path, maxFlows);
  const memory: FlowMemory = {
    maxFlows,
    bytes,
    fd: existing ?? createFile(path, bytes),
    buffer: null,
  };
  const buffer = mapShared(memory.fd!, bytes);
  if (existing === null) createHeader(buffer, maxFlows);
  const store = createFlowStore(buffer, maxFlows);
  stores.set(memory, store);
  rebuild(store, bootTimeS());
  return memory;
}

/** Lets another process have the file. What threads have mapped stays mapped until this process ends. */
export function closeFlowMemory(memory: FlowMemory): void {
  if (memory.fd === null) return;
  // A mapping holds the open file, and by that its lock.
  flock(memory.fd, LOCK_UN);
  closeSync(memory.fd);
}

/** What an entry in use says of itself holds: nothing of it was left half written. */
function isSound(store: FlowStore, at: number, nowS: number): boolean {
  const { words } = store;
  const kind = words[at + FLOW_KIND]!;
  const family = kind >>> 8;
  const owner = words[at + FLOW_OWNER]!;
  const deadlineS = words[at + FLOW_DEADLINE_S]!;
  const state = words[at + FLOW_STATE]!;
  return (
    (family === 4 || family === 6) &&
    owner >= 0 &&
    owner < OWNERS &&
    deadlineS > nowS &&
    deadlineS <= nowS + TIMEOUT_MAX_S &&
    (state & ~(STATE_REPLIED | STATE_MASK)) === 0 &&
    stateName(kind & 0xff, state) !== undefined &&
    words[at + FLOW_HASH_ORIG] === store.hashTuple(words, at, 0) &&
    (!hasReply(words, at) || words[at + FLOW_HASH_REPLY] === store.hashTuple(words, at, 1))
  );
}

/** Chains, lists, counts and free list from the entries alone, those in use in the order of their age. */
function rebuild(store: FlowStore, nowS: number): void {
  const { header, heads, counts, lists, words, counters, maxFlows } = store;
  const capacity = capacityOf(maxFlows);
  heads.fill(-1);
  counts.fill(0);
  lists.fill(-1);
  header[HEADER_LOCK] = 0;
  header[HEADER_IN_USE] = 0;
  header[HEADER_HAND] = 0;
  header[HEADER_FREE_COUNT] = 0;
  for (const counter of [HEADER_INSERTED, HEADER_EVICTED, HEADER_EXPIRED, HEADER_REMOVED]) {
    counters[counter] = 0;
  }
  const highWater = Math.min(Math.max(header[HEADER_HIGH_WATER]!, 0), capacity);
  header[HEADER_HIGH_WATER] = highWater;
  const newest = header[HEADER_SEQUENCE]!;
  // Age and index in one number of 53 bits, to be sorted without a callback: oldest first.
  const order = new Float64Array(highWater);
  let sound = 0;
  for (let entry = 0; entry < highWater; entry++) {
    const at = entry * FLOW_WORDS;
    const version = words[at + FLOW_VERSION]!;
    if ((version & 1) === 0) {
      store.giveBack(entry);
    } else if (isSound(store, at, nowS)) {
      order[sound++] = entry - Math.min((newest - version) >>> 1, AGE_MAX) * ENTRIES_MAX;
    } else {
      words[at + FLOW_VERSION] = version + 1;
      store.giveBack(entry);
    }
  }
  let inUse = 0;
  for (const key of order.subarray(0, sound).sort()) {
    const entry = ((key % ENTRIES_MAX) + ENTRIES_MAX) % ENTRIES_MAX;
    const at = entry * FLOW_WORDS;
    // Two of one tuple: the process died between making the one and giving back the other.
    const isTaken =
      store.seekTuple(words[at + FLOW_HASH_ORIG]!, words, at, 0) >= 0 ||
      (hasReply(words, at) && store.seekTuple(words[at + FLOW_HASH_REPLY]!, words, at, 1) >= 0);
    if (isTaken || inUse >= maxFlows) {
      words[at + FLOW_VERSION] = words[at + FLOW_VERSION]! + 1;
      store.giveBack(entry);
      continue;
    }
    // Generations are numbered by a process: decided by another's, it is to be decided again.
    inUse++;
    words[at + FLOW_GENERATION] = -1;
    words[at + FLOW_SERVICE_GENERATION] = -1;
    store.link(entry);
  }
}

/**
 * Gives back what has expired among the next `entries`, going round. A flow whose time is over is not
 * found in any case; this is for the room, and for those who count.
 * @param nowS  seconds since boot
 * @returns     how many went
 */
export function sweepFlows(memory: FlowMemory, entries: number, nowS = bootTimeS()): number {
  const store = openStore(memory);
  let expired = 0;
  for (let left = entries; left > 0; left -= SWEEP_TURN) {
    if (!store.lock()) return expired;
    expired += store.expire(Math.min(left, SWEEP_TURN), nowS);
    store.unlock();
  }
  return expired;
}

/** Bytes from the beginning that were tried. */
const collapsed = new WeakMap<FlowMemory, number>();

/**
 * Some huge pages more under what is in use: with a million flows a lookup without them takes half as
 * long again. What no flow has used stays without memory of this process.
 * @returns  whether all that is in use has them, or cannot
 */
export function collapseFlows(memory: FlowMemory): boolean {
  const { words, header } = openStore(memory);
  const { buffer } = words;
  const begin = collapsed.get(memory) ?? 0;
  const used = words.byteOffset + header[HEADER_HIGH_WATER]! * FLOW_WORDS * 4;
  const end = used - (used % HUGE_PAGE_BYTES);
  if (buffer instanceof SharedArrayBuffer || begin >= end) return true;
  const bytes = Math.min(end - begin, HUGE_PAGES_A_TURN * HUGE_PAGE_BYTES);
  const isDone = !collapse(buffer, begin, bytes);
  collapsed.set(memory, isDone ? Infinity : begin + bytes);
  return isDone || begin + bytes >= end;
}

export interface FlowStats {
  readonly maxFlows: number;
  /** In use, those included whose time is over and that nobody has swept. */
  readonly flows: number;
  /** Since the process began: */
  readonly inserted: number;
  readonly evicted: number;
  readonly expired: number;
  readonly removed: number;
}

export function flowStats(memory: FlowMemory): FlowStats {
  const { header, counters, maxFlows } = openStore(memory);
  return {
    maxFlows,
    flows: header[HEADER_IN_USE]!,
    inserted: counters[HEADER_INSERTED]!,
    evicted: counters[HEADER_EVICTED]!,
    expired: counters[HEADER_EXPIRED]!,
    removed: counters[HEADER_REMOVED]!,
  };
}

export interface FlowTuple {
  readonly source: IpAddress;
  readonly destination: IpAddress;
  readonly sourcePort: number;
  readonly destinationPort: number;
}

export interface ListedFlow {
  /** IANA's number, or KIND_AFFINITY, KIND_FRAGMENT. */
  readonly protocol: number;
  readonly family: 4 | 6;
  readonly orig: FlowTuple;
  readonly reply: FlowTuple;
  readonly state: string;
  readonly replied: boolean;
  readonly assured: boolean;
  /** FLOW_FLAGS. */
  readonly flags: number;
  readonly secondsLeft: number;
}

function addressAt(words: Int32Array, at: number, low: number, high: number): IpAddress {
  if (words[at + FLOW_KIND]! >>> 8 === 4) return toIpv4(words[at + low]! >>> 0);
  let value = 0n;
  for (let i = 0; i < 3; i++) value = (value << 32n) | BigInt(words[at + high + i]! >>> 0);
  return toIpv6((value << 32n) | BigInt(words[at + low]! >>> 0));
}

function tupleAt(words: Int32Array, at: number, direction: number): FlowTuple {
  const ports = words[at + FLOW_PORTS_ORIG + direction]!;
  const [low, high] = [2 * direction, 6 * direction];
  return {
    source: addressAt(words, at, FLOW_SRC_ORIG + low, FLOW_SRC_ORIG_HIGH + high),
    destination: addressAt(words, at, FLOW_DST_ORIG + low, FLOW_DST_ORIG_HIGH + high),
    sourcePort: ports >>> 16,
    destinationPort: ports & 0xffff,
  };
}

/** For people: flows as they are while the iterator gets to them. Those whose time is over are left out. */
export function* listFlows(memory: FlowMemory, nowS = bootTimeS()): Generator<ListedFlow> {
  const { words, header } = openStore(memory);
  const copy = new Int32Array(FLOW_WORDS);
  for (let entry = 0; entry < header[HEADER_HIGH_WATER]!; entry++) {
    const at = entry * FLOW_WORDS;
    const version = Atomics.load(words, at + FLOW_VERSION);
    copy.set(words.subarray(at, at + FLOW_WORDS));
    if ((version & 1) === 0 || Atomics.load(words, at + FLOW_VERSION) !== version) continue;
    const secondsLeft = copy[FLOW_DEADLINE_S]! - nowS;
    if (secondsLeft <= 0) continue;
    const kind = copy[FLOW_KIND]!;
    const protocol = kind & 0xff;
    const state = copy[FLOW_STATE]!;
    yield {
      protocol,
      family: kind >>> 8 === 4 ? 4 : 6,
      orig: tupleAt(copy, 0, 0),
      reply: tupleAt(copy, 0, 1),
      state: stateName(protocol, state) ?? 'none',
      replied: (state & STATE_REPLIED) !== 0,
      assured: (copy[FLOW_FLAGS]! & FLOW_ASSURED) !== 0,
      flags: copy[FLOW_FLAGS]!,
      secondsLeft,
    };
  }
}
