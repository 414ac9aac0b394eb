/**
 * The watch both stores share: snapshot, then events, merged into one map.
 *
 *     list at revision R ──> stream from R + 1 ──events──> map ──> reader (as fast as it reads)
 *       ^                       │ cut: stream again from the last event's revision + 1
 *       └── compacted, refused, or relistEveryMs over ──────┘
 *
 * A stream is resumed after the last event, never after a response header: the header's revision is the
 * store's, and a stream that is still catching up has not delivered up to it.
 */
import { type Listing, type StoreEntry, type WatchOptions, StoreError } from './store.ts';

/** What happened to one key at one revision; `entry` null: deleted. */
export interface StoreEvent {
  readonly key: string;
  readonly revision: number;
  readonly entry: StoreEntry | null;
}

export interface WatchSource {
  list(prefix: string, signal: AbortSignal): Promise<Listing>;
  /**
   * Every event from `revision` on, in order, no revision split over two batches; an empty batch as soon
   * as the stream stands. Ends or throws when it is cut.
   * @throws CompactedError if `revision` is gone; StoreError
   */
  stream(
    prefix: string,
    revision: number,
    signal: AbortSignal,
  ): AsyncIterable<readonly StoreEvent[]>;
}

export class CompactedError extends Error {
  readonly code = 'ERR_STORE_COMPACTED';
}

const RELIST_EVERY_MS = 10 * 60_000;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 5_000;

export async function* follow(
  source: WatchSource,
  prefix: string,
  options: WatchOptions,
): AsyncGenerator<Listing, void, undefined> {
  const stopping = new AbortController();
  const signal = AbortSignal.any([options.signal, stopping.signal]);
  const live = new Map<string, StoreEntry>();
  const view = { revision: 0, dirty: false, changed: Promise.withResolvers<void>() };
  signal.addEventListener('abort', () => view.changed.resolve(), { once: true });

  const pump = keepCurrent(source, prefix, options, signal, (change) => {
    view.revision = change(live);
    view.dirty = true;
    view.changed.resolve();
  });
  // A defect ends the loop below, whose last line then throws it.
  pump.catch(() => stopping.abort());

  try {
    for (;;) {
      await view.changed.promise;
      if (signal.aborted) return;
      view.changed = Promise.withResolvers();
      if (!view.dirty) continue;
      view.dirty = false;
      yield { entries: new Map(live), revision: view.revision };
    }
  } finally {
    stopping.abort();
    await pump;
  }
}

/** A change of the live map that says which revision the map then shows. */
type Apply = (change: (live: Map<string, StoreEntry>) => number) => void;

async function keepCurrent(
  source: WatchSource,
  prefix: string,
  options: WatchOptions,
  signal: AbortSignal,
  apply: Apply,
): Promise<void> {
  /** Where the next stream begins; null: list first. */
  let next: number | null = null;
  let listed = false;
  let interrupted = false;
  let failures = 0;

  const current = (): void => {
    failures = 0;
    if (interrupted) options.onInterruption?.(null);
    interrupted = false;
  };

  while (!signal.aborted) {
    const relist = new AbortController();
    const timer = setTimeout(() => relist.abort(), options.relistEveryMs ?? RELIST_EVERY_MS);
    try {
      if (next === null) {
        const listing = await source.list(prefix, signal);
        next = listing.revision + 1;
        apply((live) => reconcile(live, listing));
        listed = true;
      }
      const stop = AbortSignal.any([signal, relist.signal]);
      for await (const events of source.stream(prefix, next, stop)) {
        current();
        const last = events.at(-1);
        if (last === undefined) continue;
        next = last.revision + 1;
        apply((live) => replay(live, events));
      }
      if (!relist.signal.aborted)
        throw new StoreError('ERR_STORE_UNREACHABLE', 'the watch was cut');
      next = null;
    } catch (error) {
      if (signal.aborted) return;
      if (relist.signal.aborted) {
        next = null;
      } else if (error instanceof CompactedError) {
        next = null;
      } else if (error instanceof StoreError) {
        // Refused, not cut: the login may have run out, which only a plain call renews.
        if (error.code !== 'ERR_STORE_UNREACHABLE' || !listed) next = null;
        interrupted = true;
        options.onInterruption?.(error);
      } else {
        throw error;
      }
      if (failures > 0 || error instanceof StoreError) {
        await pause(Math.min(FIRST_PAUSE_MS * 2 ** failures, LONGEST_PAUSE_MS), signal);
      }
      failures++;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Makes `live` equal to the listing; entries that did not change stay the same objects. */
function reconcile(live: Map<string, StoreEntry>, listing: Listing): number {
  for (const key of live.keys()) if (!listing.entries.has(key)) live.delete(key);
  for (const [key, entry] of listing.entries) {
    if (live.get(key)?.modRevision !== entry.modRevision) live.set(key, entry);
  }
  return listing.revision;
}

function replay(live: Map<string, StoreEntry>, events: readonly StoreEvent[]): number {
  let revision = 0;
  for (const event of events) {
    revision = event.revision;
    if (event.entry === null) live.delete(event.key);
    else live.set(event.key, event.entry);
  }
  return revision;
}

/** Spread by half, so that a thousand nodes do not come back in the same instant. Ends early when aborted. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const finish = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', finish);
      resolve();
    };
    const timer = setTimeout(finish, ms * (0.5 + Math.random() / 2));
    signal.addEventListener('abort', finish, { once: true });
  });
}
