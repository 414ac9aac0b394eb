/**
 * When the host is brought to what the state says: one pass after another, over the whole host where that is
 * asked for or due, or over its pods alone. Who waits for a pod waits for little, and shares a pass with others.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { bootTimeMs } from '../linux/clock.ts';
import type { Log } from './log.ts';
import type { PodHostResult } from './pod-host.ts';

/** What changes on the host is noticed (host-watch.ts); settings of the kernel are not: look this often. */
const RECONCILE_EVERY_MS = 30_000;
/** After a failure. */
const RECONCILE_AGAIN_MS = 2_000;
/** Pods' passes go first for so long. */
const NODE_WITHIN_MS = 2_000;
/** Between two passes over pods: one for many costs little more than one for one. */
const GATHER_MS = 4;

export interface HostPassesOptions {
  readonly log: Pick<Log, 'info' | 'error'>;
  /** There is a subnet of ours, and a device for it. */
  readonly canSetHost: () => boolean;
  readonly overAll: () => Promise<PodHostResult>;
  readonly overPods: () => PodHostResult;
  readonly afterEach: () => void;
}

export class HostPasses {
  readonly #options: HostPassesOptions;
  #nodeEvent = Promise.withResolvers<void>();
  #podEvent = Promise.withResolvers<void>();
  /** The whole host is to be looked at, not only the pods. */
  #isNodeDirty = false;
  /** Who waits for a pass over the pods that begins after they asked. */
  #podWaiters: PromiseWithResolvers<PodHostResult>[] = [];
  #problem: Error | null = null;

  constructor(options: HostPassesOptions) {
    this.#options = options;
  }

  /** Why the last pass failed; null before the first, and when it did not. */
  get problem(): Error | null {
    return this.#problem;
  }

  markNode(): void {
    this.#isNodeDirty = true;
    this.#nodeEvent.resolve();
  }

  /** @returns what a pass over the pods came to that began after this call */
  podsChanged(): Promise<PodHostResult> {
    const waiter = Promise.withResolvers<PodHostResult>();
    this.#podWaiters.push(waiter);
    this.#podEvent.resolve();
    return waiter.promise;
  }

  /** @throws the signal's reason */
  async run(signal: AbortSignal): Promise<never> {
    const { log, canSetHost, overAll, overPods, afterEach } = this.#options;
    let nodeAgainAtMs = 0;
    let lastWholeMs = 0;
    /** A pass over the pods failed, perhaps for what only a pass over all can mend. */
    let isForced = false;
    for (;;) {
      signal.throwIfAborted();
      this.#nodeEvent = Promise.withResolvers();
      this.#podEvent = Promise.withResolvers();
      const waiters = this.#podWaiters;
      this.#podWaiters = [];
      const nowMs = bootTimeMs();
      const isPaused = this.#problem !== null && nowMs < nodeAgainAtMs;
      const isDue = nowMs >= nodeAgainAtMs;
      // Who waits for a pod waits for little; but not for ever is the whole put off.
      const isWanted =
        this.#isNodeDirty && (waiters.length === 0 || nowMs - lastWholeMs > NODE_WITHIN_MS);
      const whole = canSetHost() && !isPaused && (isWanted || isDue || isForced);
      isForced = false;
      let result: PodHostResult | null = null;
      let failure: Error | null = null;
      try {
        if (whole) {
          this.#isNodeDirty = false;
          lastWholeMs = nowMs;
          result = await overAll();
          if (this.#problem !== null) log.info('host state is as it should be again');
          this.#problem = null;
        } else if (waiters.length > 0) {
          result = overPods();
        }
      } catch (error) {
        if (!whole && canSetHost() && !isPaused) {
          isForced = true;
          this.#podWaiters.unshift(...waiters);
          continue;
        }
        failure = error as Error;
        if (failure.message !== this.#problem?.message) {
          log.error({ err: failure }, 'host state is not as it should be; trying again');
        }
        this.#problem = failure;
      }
      for (const waiter of waiters) {
        if (failure !== null) waiter.reject(failure);
        else waiter.resolve(result!);
      }
      // Answers go out, and questions that come meanwhile share the next pass.
      if (waiters.length > 0) await sleep(GATHER_MS);
      if (whole || failure !== null) {
        const pauseMs = failure === null ? RECONCILE_EVERY_MS : RECONCILE_AGAIN_MS;
        nodeAgainAtMs = bootTimeMs() + pauseMs;
      }
      afterEach();
      if (!this.#isNodeDirty || isPaused || !canSetHost()) {
        await this.#nextPass(nodeAgainAtMs, signal);
      }
    }
  }

  /** Until somebody asks for a pass, or the next one is due. */
  async #nextPass(dueMs: number, signal: AbortSignal): Promise<void> {
    const timer = new AbortController();
    const isDueOnce = this.#options.canSetHost();
    const waitMs = isDueOnce ? Math.max(dueMs - bootTimeMs(), 0) : RECONCILE_EVERY_MS;
    const pause = sleep(waitMs, undefined, { signal: AbortSignal.any([signal, timer.signal]) });
    const events = [this.#podEvent.promise];
    // After a failure an event does not cut the pause short: no storm of failing programs.
    if (this.#problem === null) events.push(this.#nodeEvent.promise);
    try {
      await Promise.race([pause, ...events]);
    } finally {
      pause.catch(() => 'the pause was cut short');
      timer.abort();
    }
  }
}
