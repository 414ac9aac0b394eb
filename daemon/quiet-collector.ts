/**
 * Collects the engine's garbage when a large set of objects was read, or took another's place, and nothing changes any
 * more: the engine itself looks for garbage only while it allocates, and would keep the old set until then.
 */
import { getHeapStatistics } from 'node:v8';
import type { Log } from './log.ts';

/** So long after the last change is quiet. */
const QUIET_MS = 1_000;
/**
 * Less is the engine's to collect, which does it in small steps: this one stands still for a quarter of a second, and
 * the change that comes next meets cold code. More than changes of single objects leave behind (bin/weft).
 */
const GARBAGE_BYTES = 64 * 2 ** 20;

export interface QuietCollectorOptions {
  readonly log: Log;
  /** Null: the engine was started without `--expose-gc`, as bin/weft starts it, and is left alone. */
  readonly collect?: (() => void) | null;
  /** Used bytes of the engine's heap. */
  readonly usedBytes?: () => number;
  readonly quietMs?: number;
}

export class QuietCollector implements Disposable {
  readonly #options: Required<QuietCollectorOptions>;
  #timer: NodeJS.Timeout | null = null;
  /** What was left by the last collection. */
  #leftBytes = 0;

  constructor(options: QuietCollectorOptions) {
    this.#options = {
      collect: globalThis.gc === undefined ? null : () => globalThis.gc?.(),
      usedBytes: () => getHeapStatistics().used_heap_size,
      quietMs: QUIET_MS,
      ...options,
    };
  }

  /** Something changed now, and has left garbage. */
  changed(): void {
    if (this.#options.collect === null) return;
    if (this.#timer === null) {
      this.#timer = setTimeout(() => this.#collect(), this.#options.quietMs);
    } else this.#timer.refresh();
  }

  #collect(): void {
    this.#timer = null;
    const { log, collect, usedBytes } = this.#options;
    const before = usedBytes();
    // The engine has collected since then, or nothing was left behind.
    this.#leftBytes = Math.min(this.#leftBytes, before);
    if (before - this.#leftBytes < GARBAGE_BYTES) return;
    const startMs = performance.now();
    collect?.();
    this.#leftBytes = usedBytes();
    const tookMs = Math.round(performance.now() - startMs);
    log.debug({ before, after: this.#leftBytes, tookMs }, 'collected garbage');
  }

  [Symbol.dispose](): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
