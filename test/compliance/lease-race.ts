/**
 * One thread of the race (lease-race.test.ts): some rounds of 64 lease keepers for 60 subnets.
 *
 * A pause stops a keeper as SIGSTOP would stop its process: no timer fires, no call leaves, no answer
 * arrives, while clocks, etcd and everybody else go on. Some are paused in the middle of acquiring, some
 * while they hold; those that hold nothing take over what the paused ones lose.
 *
 * The observer believes no keeper's word about others. From what each keeper itself claims, "mine until
 * that instant", it keeps intervals on one clock, and no two intervals of one subnet may overlap. And
 * whenever somebody says "held", all the others are asked whether they think they hold the same.
 */
import { parentPort, workerData } from 'node:worker_threads';
import type { Clock } from '../../ipam/clock.ts';
import { bootClock } from '../../ipam/clock.ts';
import { type LeaseKeeper, type LeaseState, keepLease } from '../../ipam/lease-keeper.ts';
import { openEtcd } from '../../store/etcd.ts';
import type { Store } from '../../store/store.ts';
import { toIpv4 } from '../../wire/address.ts';
import { toMac } from '../../wire/mac.ts';

const SIDE_BY_SIDE = 3;
/** What the test tells each thread, and hears of it. */
export interface RaceTask {
  readonly endpoint: string;
  readonly prefix: string;
  readonly rounds: number;
}
export interface RaceResult {
  readonly rounds: number;
  /** Subnets that went from one keeper to another. */
  readonly takeovers: number;
  readonly faults: readonly string[];
}

const KEEPERS = 64;
const SUBNETS = 60;
const TTL_MS = 2_000;
const PAUSED = 16;
const CONFIG = JSON.stringify({
  Network: '10.0.0.0/16',
  SubnetMin: '10.0.1.0',
  SubnetMax: `10.0.${SUBNETS}.0`,
  Backend: { Type: 'vxlan' },
});

/** Open or closed; while it is closed, nothing that waits at it goes on. */
class Gate {
  #closed: PromiseWithResolvers<void> | null = null;

  close(): void {
    this.#closed ??= Promise.withResolvers();
  }

  open(): void {
    this.#closed?.resolve();
    this.#closed = null;
  }

  async pass(): Promise<void> {
    while (this.#closed !== null) await this.#closed.promise;
  }

  /** Both the question and the answer wait at the gate. */
  async around<T>(call: () => Promise<T>): Promise<T> {
    await this.pass();
    try {
      return await call();
    } finally {
      await this.pass();
    }
  }
}

function gatedStore(store: Store, gate: Gate, onCall: () => void): Store {
  const around = async <T>(call: () => Promise<T>): Promise<T> => {
    onCall();
    return await gate.around(call);
  };
  return {
    get: (...args) => around(() => store.get(...args)),
    list: (...args) => around(() => store.list(...args)),
    commit: (...args) => around(() => store.commit(...args)),
    grant: (...args) => around(() => store.grant(...args)),
    revoke: (...args) => around(() => store.revoke(...args)),
    async *watch(...args) {
      for await (const view of store.watch(...args)) {
        await gate.pass();
        yield view;
      }
    },
    [Symbol.dispose]: () => undefined,
  };
}

const gatedClock = (gate: Gate): Clock => ({
  now: () => performance.now(),
  sleep: (ms, signal) => gate.around(() => bootClock.sleep(ms, signal)),
});

interface Interval {
  readonly keeper: number;
  readonly fromMs: number;
  untilMs: number;
}

class Observer {
  readonly #claims = new Map<string, Interval[]>();
  readonly faults: string[] = [];
  readonly keepers: LeaseKeeper[] = [];
  takeovers = 0;
  /**
   * Who has held something since `lookAnew`, and what has been held. Not all at one instant: on a busy
   * machine some are always late for a TTL this short, lose what they held, and come back.
   */
  keepersSeen = new Set<number>();
  subnetsSeen = new Set<string>();
  #waiting: (() => void)[] = [];

  note(keeper: number, state: LeaseState): void {
    const nowMs = performance.now();
    if (state.kind === 'held') this.#noteHeld(keeper, state.lease.key, nowMs, state.deadlineMs);
    else this.#noteEnd(keeper, nowMs);
    for (const wake of this.#waiting.splice(0)) wake();
  }

  #noteHeld(keeper: number, key: string, nowMs: number, untilMs: number): void {
    if (untilMs <= nowMs) return;
    this.keepersSeen.add(keeper);
    this.subnetsSeen.add(key);
    const claims = this.#claims.get(key) ?? [];
    this.#claims.set(key, claims);
    const last = claims.at(-1);
    if (last !== undefined && last.keeper !== keeper) {
      this.takeovers++;
      if (last.untilMs > nowMs) {
        this.faults.push(
          `${key}: ${keeper} claims it ${Math.round(last.untilMs - nowMs)} ms before ${last.keeper} gives up`,
        );
      }
    }
    for (const [other, { state }] of this.keepers.entries()) {
      if (other !== keeper && state.kind === 'held' && state.lease.key === key) {
        this.faults.push(`${key}: ${keeper} and ${other} hold it at once`);
      }
    }
    if (last?.keeper === keeper && last.untilMs >= nowMs) last.untilMs = untilMs;
    else claims.push({ keeper, fromMs: nowMs, untilMs });
  }

  #noteEnd(keeper: number, nowMs: number): void {
    for (const claims of this.#claims.values()) {
      const last = claims.at(-1);
      if (last?.keeper === keeper) last.untilMs = Math.min(last.untilMs, nowMs);
    }
  }

  lookAnew(): void {
    this.keepersSeen = new Set();
    this.subnetsSeen = new Set();
    for (const [keeper, { state }] of this.keepers.entries()) {
      if (state.kind !== 'held') continue;
      this.keepersSeen.add(keeper);
      this.subnetsSeen.add(state.lease.key);
    }
  }

  holders(): number[] {
    return [...this.keepers.keys()].filter((i) => this.keepers[i]!.state.kind === 'held');
  }

  async until(what: string, isReached: () => boolean): Promise<void> {
    const endMs = performance.now() + 60_000;
    while (!isReached()) {
      if (performance.now() > endMs) throw new Error(`not reached within 60 s: ${what}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 100);
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }
}

const randomBelow = (bound: number): number => Math.floor(Math.random() * bound);

async function round(store: Store, prefix: string): Promise<Observer> {
  await store.commit({ kind: 'create', key: `${prefix}/config`, value: CONFIG, leaseId: null });
  const observer = new Observer();
  const gates = Array.from({ length: KEEPERS }, () => new Gate());
  let stopped: readonly number[] = [];
  for (const [i, gate] of gates.entries()) {
    // One in eight is stopped for more than a TTL in the middle of its first calls.
    let callsLeft = randomBelow(8) === 0 ? randomBelow(6) : Infinity;
    const onCall = (): void => {
      if (callsLeft-- !== 0) return;
      gate.close();
      const goOn = (): void => {
        // Who is stopped meanwhile stays so.
        if (!stopped.includes(i)) gate.open();
      };
      setTimeout(goOn, TTL_MS * (1.05 + Math.random() / 4));
    };
    observer.keepers.push(
      keepLease({
        store: gatedStore(store, gate, onCall),
        prefix,
        node: {
          publicIp4: toIpv4(0xc0a80001 + i),
          publicIp6: null,
          mac: toMac(0x020000000001 + i),
        },
        ttlMs: TTL_MS,
        renewMarginMs: TTL_MS / 4,
        retryMs: 200,
        clock: gatedClock(gate),
        onChange: (state) => observer.note(i, state),
      }),
    );
  }
  try {
    // Not all: some of the rest are paused in the middle of their first calls.
    await observer.until('most subnets held', () => observer.holders().length >= SUBNETS - 10);

    const before = observer.holders();
    stopped = before.filter(() => randomBelow(before.length) < PAUSED);
    for (const i of stopped) gates[i]!.close();
    const pauseEndMs = performance.now() + TTL_MS * 1.05;
    observer.lookAnew();
    await observer.until(
      'the paused keepers have lost what they held, and all others have held something since',
      () => {
        const held = observer.holders();
        const others = [...observer.keepersSeen].filter((i) => !stopped.includes(i));
        return (
          performance.now() > pauseEndMs &&
          stopped.every((i) => !held.includes(i)) &&
          others.length >= Math.min(SUBNETS, KEEPERS - stopped.length)
        );
      },
    );
    for (const i of stopped) gates[i]!.open();
    stopped = [];
    observer.lookAnew();
    await observer.until(
      'every subnet has been held since',
      () => observer.subnetsSeen.size === SUBNETS,
    );
  } finally {
    for (const gate of gates) gate.open();
    await Promise.all(observer.keepers.map((keeper) => keeper.stop()));
  }
  return observer;
}

const task = workerData as RaceTask;
using store = openEtcd({ endpoints: [task.endpoint], callTimeoutMs: 10_000 });
const faults: string[] = [];
let rounds = 0;
let takeovers = 0;
const lane = async (): Promise<void> => {
  while (rounds < task.rounds && faults.length === 0) {
    const observer = await round(store, `${task.prefix}/${rounds++}`);
    takeovers += observer.takeovers;
    faults.push(...observer.faults);
  }
};
await Promise.all(Array.from({ length: SIDE_BY_SIDE }, lane));
const result: RaceResult = { rounds, takeovers, faults };
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, not a window
parentPort!.postMessage(result);
