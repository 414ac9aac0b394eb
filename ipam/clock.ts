/** Time that only goes forward. */
import { bootTimeMs } from '../linux/clock.ts';

export interface Clock {
  /** Monotonic milliseconds. */
  now(): number;
  /** May end early: look at now() afterwards. Rejects with the signal's reason. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

/** Short enough that a sleep which began before a suspension ends soon after it. */
const LONGEST_SLEEP_MS = 30_000;

/** A suspended machine must not wake up believing that its lease still stands. */
export const bootClock: Clock = {
  now: bootTimeMs,
  async sleep(ms, signal) {
    signal.throwIfAborted();
    const done = Promise.withResolvers<void>();
    const abort = (): void => done.reject(signal.reason as Error);
    const timer = setTimeout(done.resolve, Math.max(0, Math.min(ms, LONGEST_SLEEP_MS)));
    signal.addEventListener('abort', abort, { once: true });
    try {
      await done.promise;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', abort);
    }
  },
};
