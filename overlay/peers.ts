/**
 * Whose address is it: the peer tables of the snapshot in force, as the packet path reads them.
 * Runs per packet: no await, no allocation, no throw.
 * Not per packet: nameOf.
 */
import type { Arena } from '../linux/arena.ts';
import {
  DIRECT4,
  DIRECT6,
  EMPTY_SNAPSHOT,
  HOP_BYTES,
  PEERS_MAX,
  RANGE4_WORDS,
  RANGE6_WORDS,
  SOURCE_WORDS,
  type Snapshot,
} from './snapshot.ts';

export interface Peers {
  /** The peer whose subnet holds the address at `at`, or -1. */
  readonly of4: (at: number) => number;
  readonly of6: (at: number) => number;
  /** The address at `at` lies in our own subnet. */
  readonly isOwn4: (at: number) => boolean;
  readonly isOwn6: (at: number) => boolean;
  /** It is the first of our subnet, the node's own. */
  readonly isNode4: (at: number) => boolean;
  readonly isNode6: (at: number) => boolean;
  /** A pod of ours has it. */
  readonly isPod4: (at: number) => boolean;
  readonly isPod6: (at: number) => boolean;
  /** The host itself has it, on another interface than ours. */
  readonly isHost4: (at: number) => boolean;
  readonly isHost6: (at: number) => boolean;
  /** It lies in the overlay network, whoever has it. */
  readonly isOverlay4: (at: number) => boolean;
  readonly isOverlay6: (at: number) => boolean;
  /** `peer` is reached without VXLAN. */
  readonly isDirect4: (peer: number) => boolean;
  readonly isDirect6: (peer: number) => boolean;
  /** `peer` may send from the underlay address at `at`, of 4 or 16 bytes. */
  readonly sendsFrom4: (peer: number, at: number) => boolean;
  readonly sendsFrom6: (peer: number, at: number) => boolean;
  /** Some peer does: for naming the reason of a drop. */
  readonly isPeer4: (at: number) => boolean;
  readonly isPeer6: (at: number) => boolean;
  /** Offset of the next hop for inner IPv4; that for inner IPv6 follows HOP_BYTES later. */
  readonly hopOf: (peer: number) => number;
  /** The peer that a next hop belongs to. */
  readonly atHop: (hop: number) => number;
  readonly nameOf: (peer: number) => string;
  readonly current: () => Snapshot;
  readonly install: (snapshot: Snapshot) => void;
}

export function createPeers(arena: Arena): Peers {
  const { view } = arena;
  const hopsAt = arena.take(PEERS_MAX * 2 * HOP_BYTES, 'next hops');
  let snapshot = EMPTY_SNAPSHOT;
  let { ranges4, ranges6, sources, allSources4, allSources6, own4, own6 } = EMPTY_SNAPSHOT;
  let { network4, network6, pods4, pods6, nodes4, nodes6, direct } = EMPTY_SNAPSHOT;

  /** -1, 0 or 1: the IPv6 address at `at` against the four words of `table` at `index`. */
  function compare6(at: number, table: Uint32Array, index: number): number {
    for (let i = 0; i < 4; i++) {
      const a = view.getUint32(at + 4 * i);
      const b = table[index + i]!;
      if (a !== b) return a < b ? -1 : 1;
    }
    return 0;
  }

  /** The last entry of `table`, sorted by first word, that begins at or below `address`; -1 if none. */
  function floor4(table: Uint32Array, stride: number, address: number): number {
    let low = 0;
    let high = table.length / stride;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (table[middle * stride]! <= address) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  function floor6(table: Uint32Array, stride: number, at: number): number {
    let low = 0;
    let high = table.length / stride;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (compare6(at, table, middle * stride) >= 0) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  function of4(at: number): number {
    const address = view.getUint32(at);
    const index = floor4(ranges4, RANGE4_WORDS, address) * RANGE4_WORDS;
    return index >= 0 && address <= ranges4[index + 1]! ? ranges4[index + 2]! : -1;
  }

  function of6(at: number): number {
    const index = floor6(ranges6, RANGE6_WORDS, at) * RANGE6_WORDS;
    return index >= 0 && compare6(at, ranges6, index + 4) <= 0 ? ranges6[index + 8]! : -1;
  }

  function sendsFrom4(peer: number, at: number): boolean {
    const address = view.getUint32(at);
    return address !== 0 && sources[peer * SOURCE_WORDS] === address;
  }

  function sendsFrom6(peer: number, at: number): boolean {
    const index = peer * SOURCE_WORDS + 1;
    return compare6(at, sources, index) === 0 && !isUnspecified6(at);
  }

  /** :: stands for a peer without an IPv6 address, and is nobody's source (RFC 4291 section 2.5.2). */
  function isUnspecified6(at: number): boolean {
    return (
      (view.getInt32(at) |
        view.getInt32(at + 4) |
        view.getInt32(at + 8) |
        view.getInt32(at + 12)) ===
      0
    );
  }

  function isAmong4(table: Uint32Array, at: number): boolean {
    const address = view.getUint32(at);
    const index = floor4(table, 1, address);
    return index >= 0 && table[index] === address;
  }

  function isAmong6(table: Uint32Array, at: number): boolean {
    const index = floor6(table, 4, at);
    return index >= 0 && compare6(at, table, index * 4) === 0;
  }

  function isWithin4(range: Uint32Array, at: number): boolean {
    const address = view.getUint32(at);
    return address >= range[0]! && address <= range[1]!;
  }

  function isWithin6(range: Uint32Array, at: number): boolean {
    return compare6(at, range, 0) >= 0 && compare6(at, range, 4) <= 0;
  }

  function isPeer4(at: number): boolean {
    return isAmong4(allSources4, at);
  }

  function isPeer6(at: number): boolean {
    return isAmong6(allSources6, at);
  }

  function isPod4(at: number): boolean {
    return isAmong4(pods4, at);
  }

  function isPod6(at: number): boolean {
    return isAmong6(pods6, at);
  }

  function isHost4(at: number): boolean {
    return isAmong4(nodes4, at);
  }

  function isHost6(at: number): boolean {
    return isAmong6(nodes6, at);
  }

  function isOwn4(at: number): boolean {
    return isWithin4(own4, at);
  }

  function isOwn6(at: number): boolean {
    return isWithin6(own6, at);
  }

  function isOverlay4(at: number): boolean {
    return isWithin4(network4, at);
  }

  function isOverlay6(at: number): boolean {
    return isWithin6(network6, at);
  }

  function isDirect4(peer: number): boolean {
    return (direct[peer]! & DIRECT4) !== 0;
  }

  function isDirect6(peer: number): boolean {
    return (direct[peer]! & DIRECT6) !== 0;
  }

  function isNode4(at: number): boolean {
    return isOwn4(at) && view.getUint32(at) === own4[0];
  }

  function isNode6(at: number): boolean {
    return isOwn6(at) && compare6(at, own6, 0) === 0;
  }

  function hopOf(peer: number): number {
    return hopsAt + peer * 2 * HOP_BYTES;
  }

  function atHop(hop: number): number {
    return Math.floor((hop - hopsAt) / (2 * HOP_BYTES));
  }

  function openSnapshot(next: Snapshot): void {
    arena.bytes.set(next.hops, hopsAt);
    snapshot = next;
    ({ ranges4, ranges6, sources, allSources4, allSources6, own4, own6 } = next);
    ({ network4, network6, pods4, pods6, nodes4, nodes6, direct } = next);
  }

  return {
    of4,
    of6,
    isOwn4,
    isOwn6,
    isNode4,
    isNode6,
    isPod4,
    isPod6,
    isHost4,
    isHost6,
    isOverlay4,
    isOverlay6,
    isDirect4,
    isDirect6,
    sendsFrom4,
    sendsFrom6,
    isPeer4,
    isPeer6,
    hopOf,
    atHop,
    nameOf: (peer) => snapshot.peerNames[peer] ?? `peer ${peer}`,
    current: () => snapshot,
    install: openSnapshot,
  };
}
