/**
 * NetworkPolicy and ClusterNetworkPolicy as the packet path reads them: flat arrays, compiled on the main
 * thread, swapped in whole.
 * Runs per packet: no await, no allocation, no throw.
 *
 * Addresses that no rule tells apart are one class, and so are ports. A row (of the pods that the same
 * policies select, per direction) has for each class of the other end a set of port classes. Pods' and
 * nodes' addresses stand in hash tables, all others lie in ranges.
 */

export const INGRESS = 0;
export const EGRESS = 1;

/** Entries of addresses4: [address, class + 1 (0: free), node, subject + 1]; probed linearly. */
export const ADDRESS4_WORDS = 4;
/** Entries of addresses6: [address x 4, class + 1, node, subject + 1, 0]. */
export const ADDRESS6_WORDS = 8;
/** Ranges by their first address, ascending: [first, class], or [first x 4, class]. */
export const RANGE4_WORDS = 2;
export const RANGE6_WORDS = 5;
/** Of a subject: offsets into `matrix`, its node, and the port sets towards itself. */
export const SUBJECT_ROW = 0;
export const SUBJECT_NODE = 2;
/** + direction * 2 + (1 for IPv6) */
export const SUBJECT_SELF = 4;
export const SUBJECT_WORDS = 8;
/** Of each of TCP, UDP, SCTP; in this order port p of protocol i is i * PORTS + p. */
export const PORTS = 65536;

/** Numbers and typed arrays only, so that it can be placed in shared memory. */
export interface PolicyTable {
  /**
   * Grows when a verdict may have changed; flows decided under another one are decided again. Two tables of
   * one generation say the same, though other addresses stand in them.
   */
  readonly generation: number;
  readonly addresses4: Uint32Array;
  readonly addresses6: Uint32Array;
  readonly ranges4: Uint32Array;
  readonly ranges6: Uint32Array;
  /** SUBJECT_WORDS each. A node's number is never 0 in `addresses4`; 0 is no node. */
  readonly subjects: Uint32Array;
  /** Rows of one entry per class: offset into portSets. */
  readonly matrix: Uint32Array;
  /** Sets of bits, one for each class of ports, and the last for all protocols that have no ports here. */
  readonly portSets: Uint32Array;
  /** The first port of each class, ascending; 0 of each protocol is among them. */
  readonly portStarts: Uint32Array;
}

/** Before anything is known: no subjects. */
export const EMPTY_POLICY_TABLE: PolicyTable = {
  generation: 0,
  addresses4: new Uint32Array(ADDRESS4_WORDS),
  addresses6: new Uint32Array(ADDRESS6_WORDS),
  ranges4: Uint32Array.of(0, 0),
  ranges6: Uint32Array.of(0, 0, 0, 0, 0),
  subjects: Uint32Array.of(),
  matrix: Uint32Array.of(),
  portSets: Uint32Array.of(),
  portStarts: Uint32Array.of(0, PORTS, 2 * PORTS),
};

export interface PolicyLookup {
  readonly install: (table: PolicyTable) => void;
  /** The pod of this node that has the address at `at` (4 or 16 bytes in network order), or -1. */
  readonly subjectOf: (at: number, is4: boolean) => number;
  /**
   * May traffic of `protocol` (IANA's number) to destination port `port` pass the subject's rules of
   * this direction? Protocols without ports pass by rules without ports only.
   * @param subject  from subjectOf, not -1
   * @param selfAt   the subject's address, @param peerAt the other end's, of one family
   * @param port     0..65535; of the destination, after Service translation
   */
  readonly allows: (
    direction: number,
    subject: number,
    selfAt: number,
    peerAt: number,
    is4: boolean,
    protocol: number,
    port: number,
  ) => boolean;
}

export function hash4(address: number): number {
  const mixed = Math.imul(address ^ (address >>> 16), 0x45d9f3b);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}

export function hash6(a: number, b: number, c: number, d: number): number {
  return hash4(Math.imul(a, 31) ^ Math.imul(b, 0x9e3779b1) ^ Math.imul(c, 0x85ebca6b) ^ d);
}

/** The class that holds the port. @param port  as in portStarts */
export function classOfPort(portStarts: Uint32Array, port: number): number {
  let low = 0;
  let after = portStarts.length;
  while (after - low > 1) {
    const middle = (low + after) >>> 1;
    if (portStarts[middle]! <= port) low = middle;
    else after = middle;
  }
  return low;
}

/** @param view the arena that the addresses stand in */
export function createPolicyLookup(view: DataView): PolicyLookup {
  let { addresses4, addresses6, ranges4, ranges6, subjects } = EMPTY_POLICY_TABLE;
  let { matrix, portSets, portStarts } = EMPTY_POLICY_TABLE;

  /** Offset of the address's entry, or -1. Half of the entries are free. */
  function find4(address: number): number {
    const mask = addresses4.length / ADDRESS4_WORDS - 1;
    for (let slot = hash4(address) & mask; ; slot = (slot + 1) & mask) {
      const at = slot * ADDRESS4_WORDS;
      if (addresses4[at + 1] === 0) return -1;
      if (addresses4[at] === address) return at;
    }
  }

  function find6(at: number): number {
    const a = view.getUint32(at);
    const b = view.getUint32(at + 4);
    const c = view.getUint32(at + 8);
    const d = view.getUint32(at + 12);
    const mask = addresses6.length / ADDRESS6_WORDS - 1;
    for (let slot = hash6(a, b, c, d) & mask; ; slot = (slot + 1) & mask) {
      const entry = slot * ADDRESS6_WORDS;
      if (addresses6[entry + 4] === 0) return -1;
      if (
        addresses6[entry + 3] === d &&
        addresses6[entry + 2] === c &&
        addresses6[entry + 1] === b &&
        addresses6[entry] === a
      ) {
        return entry;
      }
    }
  }

  /** The first range begins at 0. */
  function range4(address: number): number {
    let low = 1;
    let high = ranges4.length / RANGE4_WORDS;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (ranges4[middle * RANGE4_WORDS]! <= address) low = middle + 1;
      else high = middle;
    }
    return ranges4[(low - 1) * RANGE4_WORDS + 1]!;
  }

  function beginsAfter6(index: number, at: number): boolean {
    for (let i = 0; i < 4; i++) {
      const a = ranges6[index * RANGE6_WORDS + i]!;
      const b = view.getUint32(at + 4 * i);
      if (a !== b) return a > b;
    }
    return false;
  }

  function range6(at: number): number {
    let low = 1;
    let high = ranges6.length / RANGE6_WORDS;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (beginsAfter6(middle, at)) high = middle;
      else low = middle + 1;
    }
    return ranges6[(low - 1) * RANGE6_WORDS + 4]!;
  }

  function subjectOf(at: number, is4: boolean): number {
    if (is4) {
      const entry = find4(view.getUint32(at));
      return entry === -1 ? -1 : addresses4[entry + 3]! - 1;
    }
    const entry = find6(at);
    return entry === -1 ? -1 : addresses6[entry + 6]! - 1;
  }

  function portBit(protocol: number, port: number): number {
    // IANA's numbers of TCP, UDP, SCTP.
    const which = protocol === 6 ? 0 : protocol === 17 ? 1 : protocol === 132 ? 2 : -1;
    if (which === -1) return portStarts.length;
    return classOfPort(portStarts, which * PORTS + (port & 0xffff));
  }

  function isSame(a: number, b: number, is4: boolean): boolean {
    if (view.getUint32(a) !== view.getUint32(b)) return false;
    return (
      is4 ||
      (view.getUint32(a + 4) === view.getUint32(b + 4) &&
        view.getUint32(a + 8) === view.getUint32(b + 8) &&
        view.getUint32(a + 12) === view.getUint32(b + 12))
    );
  }

  function allows(
    direction: number,
    subject: number,
    selfAt: number,
    peerAt: number,
    is4: boolean,
    protocol: number,
    port: number,
  ): boolean {
    const self = subject * SUBJECT_WORDS;
    let set: number;
    if (isSame(selfAt, peerAt, is4)) {
      set = subjects[self + SUBJECT_SELF + direction * 2 + (is4 ? 0 : 1)]!;
    } else {
      let node = 0;
      let peerClass: number;
      if (is4) {
        const address = view.getUint32(peerAt);
        const entry = find4(address);
        if (entry === -1) peerClass = range4(address);
        else {
          peerClass = addresses4[entry + 1]! - 1;
          node = addresses4[entry + 2]!;
        }
      } else {
        const entry = find6(peerAt);
        if (entry === -1) peerClass = range6(peerAt);
        else {
          peerClass = addresses6[entry + 4]! - 1;
          node = addresses6[entry + 5]!;
        }
      }
      if (node !== 0 && node === subjects[self + SUBJECT_NODE]) return true;
      set = matrix[subjects[self + SUBJECT_ROW + direction]! + peerClass]!;
    }
    const bit = portBit(protocol, port);
    return ((portSets[set + (bit >>> 5)]! >>> (bit & 31)) & 1) === 1;
  }

  function openTable(table: PolicyTable): void {
    ({ addresses4, addresses6, ranges4, ranges6, subjects } = table);
    ({ matrix, portSets, portStarts } = table);
  }

  return { install: openTable, subjectOf, allows };
}
