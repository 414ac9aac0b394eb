/**
 * The cluster's memory: etcd v3 (etcd.ts), or its twin in this process (memory.ts). Both pass one suite
 * of tests (test/compliance/store.test.ts).
 *
 * Obligations of every implementation:
 * - Reads and changes are linearizable: what one node has committed, every later call sees.
 * - Every call ends: by its answer, by its own deadline (StoreError), or by the signal's reason.
 * - A change that ends in an error may or may not have been made. Read before you try again.
 * - Revisions grow by one with each commit, over the whole store. They stay below 2^53.
 */

/** One key with its value, as it was at `modRevision`. Never changed after it was handed out. */
export interface StoreEntry {
  readonly key: string;
  /** As UTF-8; bytes that are not become U+FFFD. Whatever somebody wrote: check it. */
  readonly value: string;
  readonly createRevision: number;
  readonly modRevision: number;
  /** The lease whose end deletes the key; null: it stays. */
  readonly leaseId: string | null;
}

/** All keys below a prefix at one revision. */
export interface Listing {
  readonly entries: ReadonlyMap<string, StoreEntry>;
  readonly revision: number;
}

/** A compare-and-swap of one key. There is no unconditional put. */
export type Change =
  | {
      readonly kind: 'create';
      readonly key: string;
      readonly value: string;
      readonly leaseId: string | null;
    }
  | {
      readonly kind: 'replace';
      readonly key: string;
      readonly value: string;
      /** The key hangs on this lease afterwards, whatever it hung on before. */
      readonly leaseId: string | null;
      readonly modRevision: number;
    }
  | { readonly kind: 'delete'; readonly key: string; readonly modRevision: number };

export interface LeaseGrant {
  readonly leaseId: string;
  /** What the store granted, counted from some moment after the call began; may exceed the wish. */
  readonly ttlMs: number;
}

export interface WatchOptions {
  readonly signal: AbortSignal;
  /** Told when the view may have fallen behind (why), and null when it is current again. */
  readonly onInterruption?: (error: StoreError | null) => void;
  /** Lists afresh this often, whatever the events said. Default 10 minutes. */
  readonly relistEveryMs?: number;
}

export interface Store extends Disposable {
  get(key: string, signal?: AbortSignal): Promise<StoreEntry | null>;
  list(prefix: string, signal?: AbortSignal): Promise<Listing>;
  /** The new revision; null if the key was not as the change demands, and nothing was changed. */
  commit(change: Change, signal?: AbortSignal): Promise<number | null>;
  /** Rounded up to whole seconds, and to the store's own minimum. */
  grant(ttlMs: number, signal?: AbortSignal): Promise<LeaseGrant>;
  /** Ends the lease and deletes its keys. A lease that is already gone is no error. */
  revoke(leaseId: string, signal?: AbortSignal): Promise<void>;
  /**
   * Level, not edge: the whole map, first as listed, then after changes. Changes that come while the
   * reader is busy arrive as one map; an entry that did not change is the same object. Cut streams,
   * compaction and restarts of the store are survived, for as long as it takes; nothing is handed out
   * before the first full list. Ends when the signal is aborted; throws nothing but programming errors.
   */
  watch(prefix: string, options: WatchOptions): AsyncIterable<Listing>;
}

/** The store did not do what it was asked. */
export class StoreError extends Error {
  readonly code: 'ERR_STORE_UNREACHABLE' | 'ERR_STORE_DENIED' | 'ERR_STORE_REFUSED';

  constructor(code: StoreError['code'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
