/** What `weft leases`, `weft lease show` and `weft lease release` do. */
import type { Store, StoreEntry } from '../store/store.ts';
import { addressOrNull, type IpAddress } from '../wire/address.ts';
import { readOwner, shown } from './lease-codec.ts';
import type { EntryProblem } from './peers.ts';
import { subnetReader, subnetsPrefix } from './subnets.ts';
import type { NetworkConfig, NodeLease } from './types.ts';

export interface LeaseList {
  /** In order of their creation. */
  readonly leases: readonly NodeLease[];
  readonly problems: readonly EntryProblem[];
}

/** @throws StoreError */
export async function listLeases(
  store: Store,
  prefix: string,
  network: NetworkConfig,
  signal?: AbortSignal,
): Promise<LeaseList> {
  const { entries } = await store.list(subnetsPrefix(prefix), signal);
  const subnets = subnetReader(prefix, network)(entries.values());
  return {
    leases: subnets.flatMap(({ lease }) => lease ?? []),
    problems: subnets.flatMap(({ key, problem }) =>
      problem === null ? [] : { key: shown(key), reason: problem },
    ),
  };
}

export type Released =
  | { readonly kind: 'released'; readonly key: string }
  /** It is a reservation, and stays. */
  | { readonly kind: 'reserved'; readonly key: string }
  | { readonly kind: 'absent' };

/**
 * Deletes one entry, named by its key or by a public address of its node. A reservation is deleted only
 * with `reservations`. For nodes that are gone: one that lives takes a subnet again at once, and one that
 * is cut off from the store goes on using this one until its own deadline.
 * @throws StoreError
 */
export async function releaseLease(
  store: Store,
  prefix: string,
  which: string,
  options: { readonly reservations?: boolean; readonly signal?: AbortSignal } = {},
): Promise<Released> {
  const address = addressOrNull(which);
  const start = subnetsPrefix(prefix);
  for (;;) {
    const { entries } = await store.list(start, options.signal);
    const entry = entries.get(start + which) ?? ownedBy(entries.values(), address);
    if (entry === null) return { kind: 'absent' };
    const key = entry.key.slice(start.length);
    if (entry.leaseId === null && options.reservations !== true) return { kind: 'reserved', key };
    const done = await store.commit(
      { kind: 'delete', key: entry.key, modRevision: entry.modRevision },
      options.signal,
    );
    // Null: it was renewed in between; look again.
    if (done !== null) return { kind: 'released', key };
  }
}

function ownedBy(entries: Iterable<StoreEntry>, address: IpAddress | null): StoreEntry | null {
  if (address === null) return null;
  for (const entry of entries) {
    const owner = readOwner(entry.value);
    if (owner?.publicIp4 === address || owner?.publicIp6 === address) return entry;
  }
  return null;
}
