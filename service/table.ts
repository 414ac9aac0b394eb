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

/** Numbers and typed arrays only, so that it can be placed in shared memory. */
export interface ServiceTable {
  /** Grows with every change. */
  readonly generation: number;
  readonly backends: Uint32Array;
}

export const EMPTY_SERVICE_TABLE: ServiceTable = { generation: 0, backends: Uint32Array.of() };

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
export function createServiceLookup(_view: DataView): ServiceLookup {
  return {
    install: () => undefined,
    frontendOf: () => FRONTEND_NONE,
    pick: () => BACKEND_NONE,
    usable: () => -1,
    affinityS: () => 0,
    hidesSource: () => false,
  };
}
