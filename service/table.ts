/**
 * Services as the packet path reads them: frontends (address, protocol, port), and for each the endpoints
 * that this node may send to. Flat arrays, compiled on the main thread, swapped in whole.
 * Runs per packet: no await, no allocation, no throw.
 *
 *     slots      [ frontend + 1 | ... ]         open addressing, by hash of address, protocol and port
 *     frontends  FRONTEND_WORDS each            key, traits, and three lists of backends
 *     backends   BACKEND_WORDS each             a frontend's lists stand one behind the other
 *
 * A flow gets the backend with the highest score, a mix of the flow's hash and the backend's own
 * (rendezvous hashing, Thaler and Ravishankar 1998): what a lost backend had spreads over all others, and
 * nothing else moves.
 */
import { mix } from '../wire/flow-key.ts';

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
/** Of address and port: the same on every node and after every restart. */
export const BACKEND_ID = 5;
export const BACKEND_WORDS = 8;

/**
 * Words of a frontend: address as a backend's; then these. Lists are offsets of their first backend, in
 * backends, and counts: `inside` for pods and nodes, `outside` for others, `serving` all that flows
 * may stay with.
 */
export const FRONTEND_KEY = 4; // protocol << 16 | port
export const FRONTEND_TRAITS = 5;
export const FRONTEND_AFFINITY_S = 6;
export const FRONTEND_INSIDE = 7;
export const FRONTEND_INSIDE_COUNT = 8;
export const FRONTEND_OUTSIDE = 9;
export const FRONTEND_OUTSIDE_COUNT = 10;
export const FRONTEND_SERVING = 11;
export const FRONTEND_SERVING_COUNT = 12;
/** First of its source ranges and their count; no count: any source. */
export const FRONTEND_RANGES = 13;
export const FRONTEND_RANGES_COUNT = 14;
export const FRONTEND_WORDS = 16;

export const TRAIT_IPV6 = 1;
/** A client from outside is not seen by the backend. */
export const TRAIT_HIDES = 2;
/** No backend inside, or outside, but there is one elsewhere. */
export const TRAIT_ELSEWHERE_INSIDE = 4;
export const TRAIT_ELSEWHERE_OUTSIDE = 8;
/** A node's own address: other ports of it are the node's. */
export const TRAIT_NODE = 16;

/** First and last address, four words each, host order; IPv4 in the first. */
export const RANGE_WORDS = 8;

/** Numbers and typed arrays only, so that it can be placed in shared memory. */
export interface ServiceTable {
  /** Grows with every change. */
  readonly generation: number;
  readonly backends: Uint32Array;
  /** A power of two of them. */
  readonly slots: Uint32Array;
  readonly frontends: Uint32Array;
  /** Slots of addresses that are Services' whatever the port: one frontend of each, plus 1. */
  readonly addresses: Uint32Array;
  /** RANGE_WORDS each; of loadBalancerSourceRanges. */
  readonly ranges: Uint32Array;
  /** Service networks of each family, RANGE_WORDS each. */
  readonly networks4: Uint32Array;
  readonly networks6: Uint32Array;
}

export const EMPTY_SERVICE_TABLE: ServiceTable = {
  generation: 0,
  backends: Uint32Array.of(),
  slots: Uint32Array.of(0),
  frontends: Uint32Array.of(),
  addresses: Uint32Array.of(0),
  ranges: Uint32Array.of(),
  networks4: Uint32Array.of(),
  networks6: Uint32Array.of(),
};

/** Of four address words; IPv4 in the first, zeros behind. */
export const hashAddress = (a: number, b: number, c: number, d: number): number =>
  mix(mix(mix(mix(0x57656674, a), b), c), d);

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
   * @returns         an index into backends (times BACKEND_WORDS), or BACKEND_…
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
}

/** @param view the arena that the addresses stand in */
export function createServiceLookup(view: DataView): ServiceLookup {
  let { backends, slots, frontends, addresses, ranges, networks4, networks6 } = EMPTY_SERVICE_TABLE;

  function openTable(table: ServiceTable): void {
    ({ backends, slots, frontends, addresses, ranges, networks4, networks6 } = table);
  }

  function word(at: number, is4: boolean, index: number): number {
    if (is4) return index === 0 ? view.getUint32(at) : 0;
    return view.getUint32(at + 4 * index);
  }

  function isAddress(base: number, table: Uint32Array, at: number, is4: boolean): boolean {
    if (is4) return table[base] === view.getUint32(at);
    return (
      table[base] === view.getUint32(at) &&
      table[base + 1] === view.getUint32(at + 4) &&
      table[base + 2] === view.getUint32(at + 8) &&
      table[base + 3] === view.getUint32(at + 12)
    );
  }

  function frontendOf(at: number, is4: boolean, protocol: number, port: number): number {
    const hash = hashAddress(
      word(at, is4, 0),
      word(at, is4, 1),
      word(at, is4, 2),
      word(at, is4, 3),
    );
    const key = (protocol << 16) | port;
    const family = is4 ? 0 : TRAIT_IPV6;
    for (let i = mix(hash, key); ; i++) {
      const slot = slots[i & (slots.length - 1)]!;
      if (slot === 0) break;
      const base = (slot - 1) * FRONTEND_WORDS;
      if (
        frontends[base + FRONTEND_KEY] === key &&
        (frontends[base + FRONTEND_TRAITS]! & TRAIT_IPV6) === family &&
        isAddress(base, frontends, at, is4)
      ) {
        return slot - 1;
      }
    }
    for (let i = hash; ; i++) {
      const slot = addresses[i & (addresses.length - 1)]!;
      if (slot === 0) break;
      const base = (slot - 1) * FRONTEND_WORDS;
      if (
        (frontends[base + FRONTEND_TRAITS]! & TRAIT_IPV6) === family &&
        isAddress(base, frontends, at, is4)
      ) {
        return FRONTEND_UNUSED_PORT;
      }
    }
    const networks = is4 ? networks4 : networks6;
    for (let base = 0; base < networks.length; base += RANGE_WORDS) {
      if (isWithin(networks, base, at, is4)) return FRONTEND_UNALLOCATED;
    }
    return FRONTEND_NONE;
  }

  function isWithin(table: Uint32Array, base: number, at: number, is4: boolean): boolean {
    if (is4) {
      const address = view.getUint32(at);
      return address >= table[base]! && address <= table[base + 4]!;
    }
    return compare(table, base, at) <= 0 && compare(table, base + 4, at) >= 0;
  }

  /** -1, 0 or 1: what stands in the table against the IPv6 address at `at`. */
  function compare(table: Uint32Array, base: number, at: number): number {
    for (let i = 0; i < 4; i++) {
      const own = table[base + i]!;
      const other = view.getUint32(at + 4 * i);
      if (own !== other) return own < other ? -1 : 1;
    }
    return 0;
  }

  function pick(frontend: number, sourceAt: number, isInside: boolean, hash: number): number {
    const base = frontend * FRONTEND_WORDS;
    const traits = frontends[base + FRONTEND_TRAITS]!;
    if (!isInside && !isSourceAllowed(base, sourceAt, (traits & TRAIT_IPV6) === 0)) {
      return BACKEND_SOURCE_REFUSED;
    }
    const list = base + (isInside ? FRONTEND_INSIDE : FRONTEND_OUTSIDE);
    const count = frontends[list + 1]!;
    if (count === 0) {
      const elsewhere = isInside ? TRAIT_ELSEWHERE_INSIDE : TRAIT_ELSEWHERE_OUTSIDE;
      return (traits & elsewhere) === 0 ? BACKEND_NONE : BACKEND_NOT_LOCAL;
    }
    const first = frontends[list]!;
    let best = first;
    let bestScore = -1;
    const end = first + count * BACKEND_WORDS;
    for (let at = first; at < end; at += BACKEND_WORDS) {
      const score = mix(hash, backends[at + BACKEND_ID]!) >>> 0;
      if (score > bestScore) {
        bestScore = score;
        best = at;
      }
    }
    return best;
  }

  function isSourceAllowed(base: number, at: number, is4: boolean): boolean {
    const count = frontends[base + FRONTEND_RANGES_COUNT]!;
    const first = frontends[base + FRONTEND_RANGES]!;
    for (let i = 0; i < count; i++) {
      if (isWithin(ranges, first + i * RANGE_WORDS, at, is4)) return true;
    }
    return count === 0;
  }

  function usable(frontend: number, at: number, is4: boolean, port: number): number {
    const base = frontend * FRONTEND_WORDS;
    const first = frontends[base + FRONTEND_SERVING]!;
    const end = first + frontends[base + FRONTEND_SERVING_COUNT]! * BACKEND_WORDS;
    for (let backend = first; backend < end; backend += BACKEND_WORDS) {
      if (backends[backend + BACKEND_PORT] === port && isAddress(backend, backends, at, is4)) {
        return backend;
      }
    }
    return -1;
  }

  function affinityS(frontend: number): number {
    return frontends[frontend * FRONTEND_WORDS + FRONTEND_AFFINITY_S]!;
  }

  function hidesSource(frontend: number, isInside: boolean): boolean {
    const traits = frontends[frontend * FRONTEND_WORDS + FRONTEND_TRAITS]!;
    return !isInside && (traits & TRAIT_HIDES) !== 0;
  }

  return { install: openTable, frontendOf, pick, usable, affinityS, hidesSource };
}
