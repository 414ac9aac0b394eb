/** What `weft lease list`, `show` and `release` do. */
import type { Store } from '../store/store.ts';
import type { EntryProblem } from './peers.ts';
import type { NetworkConfig, NodeLease } from './types.ts';

export interface LeaseList {
  readonly leases: readonly NodeLease[];
  readonly problems: readonly EntryProblem[];
}

/** @throws StoreError */
export async function listLeases(
  store: Store,
  prefix: string,
  network: NetworkConfig,
): Promise<LeaseList> {
  return await Promise.reject(
    new Error(`not yet: ${store.constructor.name} ${prefix} ${network.vni}`),
  );
}

export type Released =
  | { readonly kind: 'released'; readonly key: string }
  | { readonly kind: 'reserved'; readonly key: string }
  | { readonly kind: 'absent' };

/**
 * Deletes one entry, named by its key or by a public address of its node. A reservation is only deleted
 * by its key with `reservations`. For nodes that are gone: one that lives but is cut off from the store
 * goes on using the subnet until its own deadline.
 * @throws StoreError
 */
export async function releaseLease(
  store: Store,
  prefix: string,
  which: string,
  options?: { readonly reservations?: boolean },
): Promise<Released> {
  return await Promise.reject(
    new Error(`not yet: ${store.constructor.name} ${prefix} ${which} ${options?.reservations}`),
  );
}
