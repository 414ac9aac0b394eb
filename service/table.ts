/**
 * Services as the packet path reads them: frontends (address, protocol, port), and for each the endpoints
 * that this node may send to. Flat arrays, compiled on the main thread, swapped in whole.
 * Runs per packet: no await, no allocation, no throw.
 */

/** What frontendOf says besides an index. */
export const FRONTEND_NONE = -1;
/** The address is a Service's, the port is none of its: reject. */
export const FRONTEND_UNUSED_PORT = -2;
/** In a Service network, and nobody's: drop. */
export const FRONTEND_UNALLOCATED = -3;

/** What pick says besides an index. */
export const BACKEND_NONE = -1;
/** The traffic policy is Local, and there is none on this node, though there are elsewhere: drop. */
export const BACKEND_NOT_LOCAL = -2;
/** Outside of the Service's loadBalancerSourceRanges: drop. */
export const BACKEND_SOURCE_REFUSED = -3;

/** Words of a backend in `backends`: address (IPv4 in the first, else all four, host order), then: */
export const BACKEND_PORT = 4;
/** Number that stays the same while the endpoint is known. */
export const BACKEND_ID = 5;
export const BACKEND_WORDS = 8;

/** Of the endpoint's address and port alone: what rendezvous hashing mixes with a flow's hash. */
export const BACKEND_SEED = 6;
export const BACKEND_FLAGS = 7;
/** Of BACKEND_FLAGS: on this node. */
export const BACKEND_LOCAL = 1;

/** Words of a frontend: address as a backend's, then: */
export const FRONTEND_KEY = 4;
export const FRONTEND_FLAGS = 5;
export const FRONTEND_AFFINITY_S = 6;
/** Its endpoints in `backends`, in ascending order of address and port. */
export const FRONTEND_BACKENDS = 7;
export const FRONTEND_BACKENDS_COUNT = 8;
/** Those that are chosen from, in `members`: for clients inside of the cluster, and for others. */
export const FRONTEND_INSIDE = 9;
export const FRONTEND_INSIDE_COUNT = 10;
export const FRONTEND_OUTSIDE = 11;
export const FRONTEND_OUTSIDE_COUNT = 12;
export const FRONTEND_SOURCES = 13;
export const FRONTEND_SOURCES_COUNT = 14;
export const FRONTEND_WORDS = 16;

/** Of FRONTEND_FLAGS. Nobody on this node, though elsewhere: to clients inside, to others. */
export const INSIDE_NOT_LOCAL = 1;
export const OUTSIDE_NOT_LOCAL = 2;
/** Only endpoints of this node are ever chosen. */
export const ONLY_LOCAL = 4;
export const HIDES_SOURCE = 8;
/** Clients outside must be in one of its source ranges. */
export const RESTRICTED = 16;
/** A port that every node of the cluster serves. */
export const NODE_PORT = 32;

/** Of FRONTEND_KEY, and all that is told of a known address's family. */
export const FAMILY6 = 1 << 24;
export const frontendKey = (is4: boolean, protocol: number, port: number): number =>
  (is4 ? 0 : FAMILY6) | (protocol << 16) | port;

/** Words of a known address: address, family (0 or FAMILY6), then what it is. */
export const ADDRESS_FAMILY = 4;
export const ADDRESS_MEANING = 5;
export const ADDRESS_WORDS = 8;
/** Its unused ports are rejected. */
export const MEANS_SERVICE = 1;
/** Somebody else serves it: a node, another proxy. */
export const MEANS_LEFT_ALONE = 2;

/** Words of a network: first and last address, family. */
export const NETWORK_LAST = 4;
export const NETWORK_FAMILY = 8;
export const NETWORK_WORDS = 9;

/** Numbers and typed arrays only, so that it can be placed in shared memory. */
export interface ServiceTable {
  /** Grows with every change. */
  readonly generation: number;
  readonly backends: Uint32Array;
  readonly frontends: Uint32Array;
  /** Places in a frontend's backends: the lists that FRONTEND_INSIDE and FRONTEND_OUTSIDE point to. */
  readonly members: Uint32Array;
  /** First and last address of source ranges, of the frontend's family. */
  readonly sources: Uint32Array;
  /** Frontends by hash; a power of two, -1 where there is none, and somewhere there is none. */
  readonly frontendSlots: Int32Array;
  readonly addresses: Uint32Array;
  /** Known addresses by hash, as frontendSlots. */
  readonly addressSlots: Int32Array;
  /** The Service networks. */
  readonly networks: Uint32Array;
}

export const SOURCE_WORDS = 8;

export const EMPTY_SERVICE_TABLE: ServiceTable = {
  generation: 0,
  backends: Uint32Array.of(),
  frontends: Uint32Array.of(),
  members: Uint32Array.of(),
  sources: Uint32Array.of(),
  frontendSlots: Int32Array.of(-1),
  addresses: Uint32Array.of(),
  addressSlots: Int32Array.of(-1),
  networks: Uint32Array.of(),
};

/** MurmurHash3's last step: one bit of `word` changes each bit of the result in half of all cases. */
export function scramble(word: number): number {
  let h = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/**
 * Of an address (IPv4 in the first word, else all four) and a port or key. For one port no two IPv4
 * addresses have the same.
 */
export function hashOf(is4: boolean, a: number, b: number, c: number, d: number, key: number) {
  const low = is4 ? a : scramble(scramble(scramble(a) ^ b) ^ c) ^ d;
  return scramble(scramble(low) ^ key);
}

export interface ServiceLookup {
  readonly install: (table: ServiceTable) => void;
  /** By the address at `at` (4 or 16 bytes in network order). @returns an index, or FRONTEND_… */
  readonly frontendOf: (at: number, is4: boolean, protocol: number, port: number) => number;
  /**
   * An endpoint for a new flow, by rendezvous hashing: while it stays usable, the same hash gets the same.
   * @param sourceAt  the client's address, of the frontend's family
   * @param isInside  the client is a pod or a node: it reaches external addresses as if they were the
   *                  cluster's own, whatever externalTrafficPolicy and source ranges say
   * @param hash      of the flow, int32; of the client's address alone where affinity is asked for
   * @returns         a backend's index, BACKEND_WORDS apart in `backends`; or BACKEND_…
   */
  readonly pick: (frontend: number, sourceAt: number, isInside: boolean, hash: number) => number;
  /**
   * The endpoint of this address and port, if `pick` might choose it now (or it is still serving while
   * terminating), else -1.
   */
  readonly usable: (frontend: number, at: number, is4: boolean, port: number) => number;
  /** Seconds of ClientIP affinity; 0: none. */
  readonly affinityS: (frontend: number) => number;
  /**
   * The client's address may not reach the endpoint: it comes from outside to an external address (node
   * port, external or load-balancer address) under externalTrafficPolicy Cluster.
   */
  readonly hidesSource: (frontend: number, isInside: boolean) => boolean;
  /** Other nodes serve it at their addresses too. */
  readonly isNodePort: (frontend: number) => boolean;
}

/** @param view the arena that the addresses stand in */
export function createServiceLookup(view: DataView): ServiceLookup {
  let { backends, frontends, members, sources, networks } = EMPTY_SERVICE_TABLE;
  let { frontendSlots, addresses, addressSlots } = EMPTY_SERVICE_TABLE;

  /** -1, 0 or 1: the address at `at` against the words of `table` at `index`. */
  function compare(at: number, is4: boolean, table: Uint32Array, index: number): number {
    const words = is4 ? 1 : 4;
    for (let i = 0; i < words; i++) {
      const a = view.getUint32(at + 4 * i);
      const b = table[index + i]!;
      if (a !== b) return a < b ? -1 : 1;
    }
    return 0;
  }

  function hashAt(at: number, is4: boolean, key: number): number {
    const first = view.getInt32(at);
    return is4
      ? hashOf(true, first, 0, 0, 0, key)
      : hashOf(
          false,
          first,
          view.getInt32(at + 4),
          view.getInt32(at + 8),
          view.getInt32(at + 12),
          key,
        );
  }

  function meaningOf(at: number, is4: boolean): number {
    const mask = addressSlots.length - 1;
    const family = is4 ? 0 : FAMILY6;
    let slot = hashAt(at, is4, family) & mask;
    for (;;) {
      const entry = addressSlots[slot]!;
      if (entry < 0) return 0;
      const index = entry * ADDRESS_WORDS;
      if (
        addresses[index + ADDRESS_FAMILY] === family &&
        compare(at, is4, addresses, index) === 0
      ) {
        return addresses[index + ADDRESS_MEANING]!;
      }
      slot = (slot + 1) & mask;
    }
  }

  function isInNetwork(at: number, is4: boolean): boolean {
    const family = is4 ? 0 : FAMILY6;
    for (let i = 0; i < networks.length; i += NETWORK_WORDS) {
      if (
        networks[i + NETWORK_FAMILY] === family &&
        compare(at, is4, networks, i) >= 0 &&
        compare(at, is4, networks, i + NETWORK_LAST) <= 0
      ) {
        return true;
      }
    }
    return false;
  }

  function frontendOf(at: number, is4: boolean, protocol: number, port: number): number {
    const key = frontendKey(is4, protocol, port);
    const mask = frontendSlots.length - 1;
    let slot = hashAt(at, is4, key) & mask;
    for (;;) {
      const frontend = frontendSlots[slot]!;
      if (frontend < 0) break;
      const index = frontend * FRONTEND_WORDS;
      if (frontends[index + FRONTEND_KEY] === key && compare(at, is4, frontends, index) === 0) {
        return frontend;
      }
      slot = (slot + 1) & mask;
    }
    const meaning = meaningOf(at, is4);
    if (meaning === MEANS_SERVICE) return FRONTEND_UNUSED_PORT;
    if (meaning === MEANS_LEFT_ALONE) return FRONTEND_NONE;
    return isInNetwork(at, is4) ? FRONTEND_UNALLOCATED : FRONTEND_NONE;
  }

  function isAllowedSource(index: number, at: number): boolean {
    const is4 = (frontends[index + FRONTEND_KEY]! & FAMILY6) === 0;
    const from = frontends[index + FRONTEND_SOURCES]!;
    const end = from + frontends[index + FRONTEND_SOURCES_COUNT]!;
    for (let i = from; i < end; i++) {
      const range = i * SOURCE_WORDS;
      if (compare(at, is4, sources, range) >= 0 && compare(at, is4, sources, range + 4) <= 0) {
        return true;
      }
    }
    return false;
  }

  function pick(frontend: number, sourceAt: number, isInside: boolean, hash: number): number {
    const index = frontend * FRONTEND_WORDS;
    const flags = frontends[index + FRONTEND_FLAGS]!;
    if (!isInside && (flags & RESTRICTED) !== 0 && !isAllowedSource(index, sourceAt)) {
      return BACKEND_SOURCE_REFUSED;
    }
    const from = frontends[index + (isInside ? FRONTEND_INSIDE : FRONTEND_OUTSIDE)]!;
    const count = frontends[index + (isInside ? FRONTEND_INSIDE_COUNT : FRONTEND_OUTSIDE_COUNT)]!;
    if (count === 0) {
      const notLocal = isInside ? INSIDE_NOT_LOCAL : OUTSIDE_NOT_LOCAL;
      return (flags & notLocal) === 0 ? BACKEND_NONE : BACKEND_NOT_LOCAL;
    }
    const first = frontends[index + FRONTEND_BACKENDS]!;
    let best = -1;
    let bestScore = -1;
    for (let i = from; i < from + count; i++) {
      const backend = first + members[i]!;
      const seed = backends[backend * BACKEND_WORDS + BACKEND_SEED]!;
      const score = scramble(seed ^ hash) >>> 0;
      if (score > bestScore) {
        best = backend;
        bestScore = score;
      }
    }
    return best;
  }

  function usable(frontend: number, at: number, is4: boolean, port: number): number {
    const index = frontend * FRONTEND_WORDS;
    let low = frontends[index + FRONTEND_BACKENDS]!;
    let high = low + frontends[index + FRONTEND_BACKENDS_COUNT]!;
    if (((frontends[index + FRONTEND_KEY]! & FAMILY6) === 0) !== is4) return -1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const place = middle * BACKEND_WORDS;
      const order = compare(at, is4, backends, place) || port - backends[place + BACKEND_PORT]!;
      if (order === 0) {
        const isLocal = (backends[place + BACKEND_FLAGS]! & BACKEND_LOCAL) !== 0;
        const isOnlyLocal = (frontends[index + FRONTEND_FLAGS]! & ONLY_LOCAL) !== 0;
        return isLocal || !isOnlyLocal ? middle : -1;
      }
      if (order > 0) low = middle + 1;
      else high = middle;
    }
    return -1;
  }

  function affinityS(frontend: number): number {
    return frontends[frontend * FRONTEND_WORDS + FRONTEND_AFFINITY_S]!;
  }

  function hidesSource(frontend: number, isInside: boolean): boolean {
    return (
      !isInside && (frontends[frontend * FRONTEND_WORDS + FRONTEND_FLAGS]! & HIDES_SOURCE) !== 0
    );
  }

  function isNodePort(frontend: number): boolean {
    return (frontends[frontend * FRONTEND_WORDS + FRONTEND_FLAGS]! & NODE_PORT) !== 0;
  }

  function openTable(table: ServiceTable): void {
    ({ backends, frontends, members, sources, networks } = table);
    ({ frontendSlots, addresses, addressSlots } = table);
  }

  return { install: openTable, frontendOf, pick, usable, affinityS, hidesSource, isNodePort };
}
