/**
 * All entries below `<prefix>/subnets/` together: each decoded, and of two that overlap only the one that
 * was created first counts. Every node sees the same order, so every node drops the same one.
 */
import type { StoreEntry } from '../store/store.ts';
import type { Cidr } from '../wire/cidr.ts';
import { lastOf } from '../wire/cidr.ts';
import { type DecodedEntry, decodeEntry, shown } from './lease-codec.ts';
import type { NetworkConfig } from './types.ts';

export interface SubnetEntry extends DecodedEntry {
  /** The last part of the store's key. */
  readonly key: string;
  readonly entry: StoreEntry;
  /** Key of the earlier entry that has part of this subnet; then `problem` says so. */
  readonly overlaps: string | null;
}

export const subnetsPrefix = (prefix: string): string => `${prefix}/subnets/`;

/** Decodes each entry once, for as long as it stays unchanged. */
export function subnetReader(
  prefix: string,
  network: NetworkConfig,
): (entries: Iterable<StoreEntry>) => SubnetEntry[] {
  const start = subnetsPrefix(prefix).length;
  let before = new Map<string, SubnetEntry>();
  const decode = (entry: StoreEntry): SubnetEntry => {
    const known = before.get(entry.key);
    if (known?.entry.modRevision === entry.modRevision) return known;
    const key = entry.key.slice(start);
    const reserved = entry.leaseId === null;
    return { key, entry, overlaps: null, ...decodeEntry(key, entry.value, reserved, network) };
  };
  return (entries) => {
    const subnets = Array.from(entries, decode);
    before = new Map(subnets.map((subnet) => [subnet.entry.key, subnet]));
    subnets.sort(
      (a, b) => a.entry.createRevision - b.entry.createRevision || (a.key < b.key ? -1 : 1),
    );
    const taken4 = new DisjointBlocks();
    const taken6 = new DisjointBlocks();
    for (const [at, subnet] of subnets.entries()) {
      if (subnet.lease === null) continue;
      const { subnet4, subnet6 } = subnet.lease;
      const winner =
        (subnet4 && taken4.overlapping(subnet4)) ?? (subnet6 && taken6.overlapping(subnet6));
      if (winner !== null) {
        const problem = `its subnet overlaps the earlier entry ${shown(winner)}`;
        subnets[at] = { ...subnet, lease: null, overlaps: winner, problem };
        continue;
      }
      if (subnet4 !== null) taken4.add(subnet4, subnet.key);
      if (subnet6 !== null) taken6.add(subnet6, subnet.key);
    }
    return subnets;
  };
}

/** Blocks of one family, none overlapping another, in order of their first address. */
class DisjointBlocks {
  readonly #blocks: { readonly first: bigint; readonly last: bigint; readonly key: string }[] = [];

  /** The key of the block that shares an address with this one. */
  overlapping(block: Cidr): string | null {
    const [first, last] = rangeOf(block);
    const at = this.#after(first);
    const before = this.#blocks[at - 1];
    if (before !== undefined && before.last >= first) return before.key;
    const next = this.#blocks[at];
    return next !== undefined && next.first <= last ? next.key : null;
  }

  add(block: Cidr, key: string): void {
    const [first, last] = rangeOf(block);
    this.#blocks.splice(this.#after(first), 0, { first, last, key });
  }

  /** Index of the first block that begins after `first`. */
  #after(first: bigint): number {
    let low = 0;
    let high = this.#blocks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#blocks[middle]!.first <= first) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** First and last address of a block. */
export const rangeOf = (block: Cidr): readonly [first: bigint, last: bigint] => [
  BigInt(block.base),
  BigInt(block.family === 4 ? lastOf(block) : lastOf(block)),
];
