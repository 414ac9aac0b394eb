/** The other nodes: a checked view of `<prefix>/subnets/`. */
import type { Store, StoreError } from '../store/store.ts';
import type { NetworkConfig, NodeIdentity, NodeLease } from './types.ts';

/** An entry that is ignored, and why. */
export interface EntryProblem {
  /** Below `<prefix>/subnets/`, shortened and made printable: it may be hostile. */
  readonly key: string;
  readonly reason: string;
}

export interface PeersOptions {
  readonly store: Store;
  readonly prefix: string;
  readonly network: NetworkConfig;
  /** Entries with one of our public addresses are ours, and left out. */
  readonly self: Pick<NodeIdentity, 'publicIp4' | 'publicIp6'>;
  readonly signal: AbortSignal;
  /** Once per key, again only when the entry goes bad in another way. */
  readonly onProblem: (problem: EntryProblem) => void;
  /** Told when the view may have fallen behind (why), and null when it is current again. */
  readonly onInterruption?: (error: StoreError | null) => void;
}

/**
 * The whole list of usable others, in order of their creation, at first and after each change of it.
 * Nothing before the first full list; nothing taken away while the store is unreachable.
 */
export async function* watchPeers(options: PeersOptions): AsyncGenerator<readonly NodeLease[]> {
  yield Promise.reject(new Error(`not yet: ${options.prefix}`));
}
