/** The store in this process: for tests, and to show what etcd is trusted with. One suite runs on both. */
import { CompactedError, type StoreEvent, follow } from './follow.ts';
import {
  type Change,
  type LeaseGrant,
  type Listing,
  type Store,
  type StoreEntry,
  type WatchOptions,
  StoreError,
} from './store.ts';

export class MemoryStore implements Store {
  readonly #entries = new Map<string, StoreEntry>();
  readonly #leases = new Map<string, { readonly endMs: number }>();
  readonly #now: () => number;
  #history: StoreEvent[] = [];
  #compacted = 0;
  #revision = 1;
  #lastLease = 0;
  #failures: StoreError[] = [];
  /** Streams that wait for an event, or for their end. */
  readonly #waiting = new Set<() => void>();
  readonly #cuts = new Set<() => void>();

  /** @param now milliseconds; with a clock of your own, call expire() after you advanced it */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** The next call (get, list, commit, grant or revoke) rejects with this. Queues. */
  failNext(error: StoreError = new StoreError('ERR_STORE_UNREACHABLE', 'told to fail')): void {
    this.#failures.push(error);
  }

  /** Ends all streams, as a broken connection would. */
  cutStreams(): void {
    for (const cut of this.#cuts) cut();
  }

  /** Forgets events up to now: streams that want them end with CompactedError. */
  compact(): void {
    this.#compacted = this.#revision;
    this.#history = [];
  }

  /** Deletes the keys of leases that are over. Every call does it first. */
  expire(): void {
    for (const [leaseId, { endMs }] of this.#leases) {
      if (endMs <= this.#now()) this.#endLease(leaseId);
    }
  }

  async get(key: string, signal?: AbortSignal): Promise<StoreEntry | null> {
    await this.#enter(signal);
    return this.#entries.get(key) ?? null;
  }

  async list(prefix: string, signal?: AbortSignal): Promise<Listing> {
    await this.#enter(signal);
    const entries = [...this.#entries].filter(([key]) => key.startsWith(prefix));
    return { entries: new Map(entries), revision: this.#revision };
  }

  async commit(change: Change, signal?: AbortSignal): Promise<number | null> {
    await this.#enter(signal);
    const before = this.#entries.get(change.key);
    const wanted = change.kind === 'create' ? undefined : change.modRevision;
    if (before?.modRevision !== wanted) return null;
    if (change.kind === 'delete') {
      this.#record(change.key, null);
      return this.#revision;
    }
    if (change.leaseId !== null && !this.#leases.has(change.leaseId)) {
      throw new StoreError('ERR_STORE_REFUSED', `there is no lease ${change.leaseId}`);
    }
    const revision = this.#revision + 1;
    this.#record(change.key, {
      key: change.key,
      value: change.value,
      createRevision: before?.createRevision ?? revision,
      modRevision: revision,
      leaseId: change.leaseId,
    });
    return revision;
  }

  async grant(ttlMs: number, signal?: AbortSignal): Promise<LeaseGrant> {
    await this.#enter(signal);
    const granted = Math.max(1, Math.ceil(ttlMs / 1000)) * 1000;
    const leaseId = String(++this.#lastLease);
    this.#leases.set(leaseId, { endMs: this.#now() + granted });
    return { leaseId, ttlMs: granted };
  }

  async revoke(leaseId: string, signal?: AbortSignal): Promise<void> {
    await this.#enter(signal);
    this.#endLease(leaseId);
  }

  watch(prefix: string, options: WatchOptions): AsyncIterable<Listing> {
    return follow(
      {
        list: (prefix, signal) => this.list(prefix, signal),
        stream: (prefix, revision, signal) => this.#stream(prefix, revision, signal),
      },
      prefix,
      options,
    );
  }

  [Symbol.dispose](): void {
    this.cutStreams();
  }

  async #enter(signal: AbortSignal | undefined): Promise<void> {
    // Answers come in a later turn, as they do from elsewhere.
    await Promise.resolve();
    signal?.throwIfAborted();
    const failure = this.#failures.shift();
    if (failure !== undefined) throw failure;
    this.expire();
  }

  async *#stream(
    prefix: string,
    revision: number,
    signal: AbortSignal,
  ): AsyncGenerator<readonly StoreEvent[]> {
    let cut = false;
    let wake: (() => void) | null = null;
    const stop = (): void => {
      cut = true;
      wake?.();
    };
    const notify = (): void => wake?.();
    this.#cuts.add(stop);
    this.#waiting.add(notify);
    signal.addEventListener('abort', stop, { once: true });
    try {
      yield [];
      let next = revision;
      for (;;) {
        if (cut || signal.aborted) return;
        if (next <= this.#compacted && next <= this.#revision) {
          throw new CompactedError(`revision ${next} is compacted`);
        }
        const events = this.#history.filter((event) => event.revision >= next);
        next = Math.max(next, this.#revision + 1);
        const seen = events.filter((event) => event.key.startsWith(prefix));
        if (seen.length > 0) yield seen;
        else if (events.length === 0) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
    } finally {
      this.#cuts.delete(stop);
      this.#waiting.delete(notify);
      signal.removeEventListener('abort', stop);
    }
  }

  /** One commit: the new state of the keys, at one new revision. */
  #record(key: string, entry: StoreEntry | null, revision = this.#revision + 1): void {
    this.#revision = revision;
    if (entry === null) this.#entries.delete(key);
    else this.#entries.set(key, entry);
    this.#history.push({ key, revision, entry });
    for (const notify of this.#waiting) notify();
  }

  #endLease(leaseId: string): void {
    this.#leases.delete(leaseId);
    const revision = this.#revision + 1;
    for (const entry of this.#entries.values()) {
      if (entry.leaseId === leaseId) this.#record(entry.key, null, revision);
    }
  }
}
