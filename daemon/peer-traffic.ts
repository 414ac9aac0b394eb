/** What was carried to each peer and from it, and how much of that a second. */
import type { Dataplane, PeerTraffic } from '../overlay/types.ts';
import type { PeerTrafficMessage } from './messages.ts';

const LOOK_EVERY_MS = 2_000;

/** Of two looks at the counters. */
export class PeerRates {
  #before: ReadonlyMap<string, PeerTraffic> = new Map();
  #now: ReadonlyMap<string, PeerTraffic> = new Map();
  #seconds = 0;
  #atMs = 0;

  look(traffic: ReadonlyMap<string, PeerTraffic>, nowMs: number): void {
    this.#seconds = (nowMs - this.#atMs) / 1000;
    this.#atMs = nowMs;
    this.#before = this.#now;
    this.#now = traffic;
  }

  /** As it was at the last look. @param key  the peer's lease @returns null: it is not known yet */
  message(key: string): PeerTrafficMessage | null {
    const now = this.#now.get(key);
    if (now === undefined) return null;
    const before = this.#before.get(key);
    // Less than before: it was gone in between, and is counted anew.
    const perSecond = (field: 'sentBytes' | 'receivedBytes'): number | null =>
      before === undefined || now[field] < before[field]
        ? null
        : Math.round((now[field] - before[field]) / this.#seconds);
    return {
      ...now,
      sentBytesPerS: perSecond('sentBytes'),
      receivedBytesPerS: perSecond('receivedBytes'),
    };
  }
}

/** Looks every two seconds, so that there is a rate when somebody asks. */
export class PeerTraffics implements Disposable {
  readonly #rates = new PeerRates();
  readonly #timer: NodeJS.Timeout;

  constructor(dataplane: () => Pick<Dataplane, 'peerTraffic'> | null) {
    this.#timer = setInterval(() => {
      this.#rates.look(dataplane()?.peerTraffic() ?? new Map(), performance.now());
    }, LOOK_EVERY_MS).unref();
  }

  of(key: string): PeerTrafficMessage | null {
    return this.#rates.message(key);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
