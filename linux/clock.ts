/**
 * Time since boot, time asleep included, which Node's own timers do not count. Not os.uptime(), which opens and
 * reads /proc/uptime each time: the worker asks once a batch, and that took an eighth of what it could carry.
 */
import { addressOf, clockGettime } from './libc.ts';

/** <linux/time.h>; the vDSO answers without a system call. */
const CLOCK_BOOTTIME = 7;

/** struct timespec: seconds, nanoseconds, 64 bits each. */
const words = new Int32Array(new SharedArrayBuffer(16));
const timespec = addressOf(words.buffer);

/** Whole seconds; for the packet path, without an allocation. */
export function bootTimeS(): number {
  clockGettime(CLOCK_BOOTTIME, timespec);
  return words[0]!;
}

/** Milliseconds. */
export function bootTimeMs(): number {
  clockGettime(CLOCK_BOOTTIME, timespec);
  return words[0]! * 1000 + words[2]! / 1e6;
}
