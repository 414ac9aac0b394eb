/** Time that only goes forward. */
import { uptime } from 'node:os';

export interface Clock {
  /** Monotonic milliseconds. */
  now(): number;
  /** May end early: look at now() afterwards. Rejects with the signal's reason. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

/**
 * Milliseconds since boot, time asleep included, which Node's own timers do not count: a suspended
 * machine must not wake up believing that its lease still stands. Resolution 10 ms.
 */
export const bootTimeMs = (): number => uptime() * 1000;

/** Short enough that a sleep which began before a suspension ends soon after it. */
const LONGEST_SLEEP_MS = 30_000;

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
