/**
 * The node's own subnet: acquires it, renews it, and stops using it before anyone else could have it.
 *
 *     acquiring ──> held ──(renewed)──> held ──┐ deadline passed, or the entry is no longer ours
 *                    ^                         v
 *                    └─────(retaken)───────── lost
 *
 * Why two nodes never believe in one subnet:
 * - Each acquisition and each renewal hangs the key on a *new* etcd lease, granted and committed through
 *   the store's consensus, by compare-and-swap on the key's revision. A mere keep-alive could be answered
 *   by a leader that is none any more, and would not notice that the key is gone.
 * - Our deadline counts from the moment *before* the grant was asked for, less a margin for clocks that
 *   run at different speeds; etcd's counts from a moment after. So ours is always earlier.
 * - `state` is computed when read. A process that was stopped and wakes up past its deadline holds
 *   nothing, whichever of its timers runs first.
 * - Keys of different text can overlap (another length, another IPv6 half). A new claim counts only after
 *   a list, read later than the claim, shows no earlier entry that overlaps it (subnets.ts).
 */
import { unlessAborted } from '../store/abort.ts';
import { type LeaseGrant, type Store, type StoreEntry, StoreError } from '../store/store.ts';
import type { Ipv4, Ipv6 } from '../wire/address.ts';
import type { Mac } from '../wire/mac.ts';
import { type Clock, bootClock } from './clock.ts';
import { NetworkConfigError, readNetworkConfig } from './config.ts';
import { type SubnetPair, encodeLeaseValue, encodeSubnetKey } from './lease-codec.ts';
import { planAcquire } from './plan.ts';
import { type SubnetEntry, subnetReader, subnetsPrefix } from './subnets.ts';
import type { NetworkConfig, NodeIdentity, NodeLease } from './types.ts';

/** The subnet may be another node's from now on. The message says why. */
export class LeaseLostError extends Error {
  readonly code = 'ERR_LEASE_LOST';
}

/** There is no subnet to be had at the moment. The message says why. */
export class LeaseUnavailableError extends Error {
  readonly code = 'ERR_LEASE_UNAVAILABLE';
}

export interface HeldLease {
  readonly kind: 'held';
  readonly lease: NodeLease;
  readonly network: NetworkConfig;
  /** On the keeper's clock (bootTimeMs): from then on the subnet may be another's. Infinity: reserved. */
  readonly deadlineMs: number;
}

export type LeaseState =
  /** Nothing held since the start; `reason` is why the last try failed, null before it. */
  | { readonly kind: 'acquiring'; readonly reason: Error | null }
  | HeldLease
  /** Held once and no longer; being retaken, `reason` says what stands in the way. */
  | { readonly kind: 'lost'; readonly lease: NodeLease; readonly reason: Error }
  /** Given back by release(). */
  | { readonly kind: 'released' };

export interface LeaseKeeperOptions {
  readonly store: Store;
  /** `/coreos.com/network` */
  readonly prefix: string;
  /** Who asks. At least one public address. */
  readonly node: {
    readonly publicIp4: Ipv4 | null;
    readonly publicIp6: Ipv6 | null;
    readonly mac: Mac;
  };
  /** The subnets of subnet.env (readSubnetFile), taken again if free. */
  readonly previous?: SubnetPair | null;
  /** Default 24 h, as flannel. */
  readonly ttlMs?: number;
  /** Renewal starts this long before the deadline. Default 60 min, at most half of ttlMs. */
  readonly renewMarginMs?: number;
  /** Pause after a failed try; grows to five times as much. Default 2 s. Spread by half. */
  readonly retryMs?: number;
  /** Called after each change of state, a renewal included. Must not throw. */
  readonly onChange?: (state: LeaseState) => void;
  readonly clock?: Clock;
  /** An integer in 0 .. bound - 1. */
  readonly random?: (bound: number) => number;
}

export interface LeaseKeeper {
  /** Computed when read: never `held` past the deadline, however late the timers run. */
  readonly state: LeaseState;
  /** Resolves as soon as a subnet is held. Rejects with the signal's reason, or when stopped. */
  held(signal: AbortSignal): Promise<HeldLease>;
  /** Stops renewing; the lease stays in the store until its end, for the restart to reuse. */
  stop(): Promise<void>;
  /** Stops using the subnet, then gives it back. A reservation stays in the store. @throws StoreError */
  release(signal?: AbortSignal): Promise<void>;
}

/** Starts at once and goes on until stop() or release(); needs nobody to wait for it. */
export function keepLease(options: LeaseKeeperOptions): LeaseKeeper {
  return new Keeper(options);
}

const TTL_MS = 24 * 3_600_000;
const RENEW_MARGIN_MS = 3_600_000;
const RETRY_MS = 2_000;
/** Races lost in a row before a pause, as flannel. */
const RACES = 10;

/**
 * Between our deadline and the earliest moment at which etcd may give the subnet away: 172 s in 24 h,
 * four times what a clock can drift that NTP still steers (500 ppm), and time for the packet path to stop.
 */
const fenceMarginMs = (ttlMs: number): number => Math.max(100, ttlMs / 500);

/** What we believe to have in the store. */
interface Claim {
  readonly entryKey: string;
  readonly value: string;
  readonly modRevision: number;
  /** Null: a reservation. */
  readonly leaseId: string | null;
  readonly held: HeldLease;
}

/** A new etcd lease, and until when it is good for us. */
interface Grant extends LeaseGrant {
  readonly deadlineMs: number;
}

class Keeper implements LeaseKeeper {
  readonly #options: LeaseKeeperOptions;
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #ttlMs: number;
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;
  /** etcd leases that this process asked for and has not seen the end of. */
  readonly #granted = new Set<string>();
  #state: LeaseState = { kind: 'acquiring', reason: null };
  #claim: Claim | null = null;
  #changed = Promise.withResolvers<void>();

  constructor(options: LeaseKeeperOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#clock = options.clock ?? bootClock;
    this.#ttlMs = options.ttlMs ?? TTL_MS;
    this.#running = this.#run(this.#stopping.signal);
  }

  get state(): LeaseState {
    const state = this.#state;
    if (state.kind !== 'held' || this.#clock.now() < state.deadlineMs) return state;
    return { kind: 'lost', lease: state.lease, reason: notRenewed(state.lease) };
  }

  async held(signal: AbortSignal): Promise<HeldLease> {
    for (;;) {
      const { state } = this;
      if (state.kind === 'held') return state;
      this.#stopping.signal.throwIfAborted();
      await unlessAborted(this.#changed.promise, signal);
    }
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new LeaseLostError('the lease keeper was stopped'));
    this.#changed.resolve();
    await this.#running;
  }

  async release(signal?: AbortSignal): Promise<void> {
    this.#enter({ kind: 'released' });
    await this.stop();
    // The key hangs on one of them, and on nothing else that is ours: a reservation hangs on none.
    for (const leaseId of this.#granted) await this.#store.revoke(leaseId, signal);
    this.#granted.clear();
  }

  /** Ends only when stopped, or by a defect, which then ends the process. */
  async #run(signal: AbortSignal): Promise<void> {
    let previous = this.#options.previous ?? null;
    let failures = 0;
    while (!signal.aborted) {
      try {
        this.#claim = await this.#acquire(previous, signal);
        failures = 0;
        this.#enter(this.#claim.held);
        await this.#hold(this.#claim, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof LeaseLostError) {
          const { lease } = this.#claim!.held;
          previous = lease;
          this.#enter({ kind: 'lost', lease, reason: error });
        } else if (isTemporary(error)) {
          this.#enter(
            this.#state.kind === 'lost'
              ? { ...this.#state, reason: error }
              : { kind: 'acquiring', reason: error },
          );
        } else {
          throw error;
        }
        await this.#pause(failures++, signal);
      }
    }
  }

  /** @throws LeaseUnavailableError, NetworkConfigError, StoreError */
  async #acquire(previous: SubnetPair | null, signal: AbortSignal): Promise<Claim> {
    const { prefix, node } = this.#options;
    const network = await readNetworkConfig(this.#store, prefix, signal);
    const identity = identityOf(node, network);
    const value = encodeLeaseValue(identity);
    const read = subnetReader(prefix, network);
    const list = async (): Promise<SubnetEntry[]> => {
      const { entries } = await this.#store.list(subnetsPrefix(prefix), signal);
      return read(entries.values());
    };
    const random = this.#options.random ?? ((bound: number) => Math.floor(Math.random() * bound));

    let grant: Grant | null = null;
    let used = false;
    try {
      let wanted = previous;
      for (let race = 0; race < RACES; race++) {
        const plan = planAcquire({
          subnets: await list(),
          network,
          owner: node,
          previous: wanted,
          random,
        });
        if (plan.kind === 'exhausted') {
          throw new LeaseUnavailableError(
            `all IPv${plan.family} subnets are taken; enlarge the network or release leases`,
          );
        }
        if (plan.kind === 'discard') {
          const { entry, subnets } = plan.subnet;
          wanted ??= subnets;
          await this.#store.commit(
            { kind: 'delete', key: entry.key, modRevision: entry.modRevision },
            signal,
          );
          continue;
        }
        const before = plan.kind === 'reuse' ? plan.subnet.entry : null;
        const subnets = plan.kind === 'reuse' ? plan.subnet.subnets! : plan.subnets;
        const reserved = before !== null && before.leaseId === null;
        if (!reserved) grant ??= await this.#grant(signal);
        const leaseId = reserved ? null : grant!.leaseId;
        const entryKey = before?.key ?? subnetsPrefix(prefix) + encodeSubnetKey(subnets);
        const modRevision = await this.#store.commit(
          before === null
            ? { kind: 'create', key: entryKey, value, leaseId }
            : { kind: 'replace', key: entryKey, value, leaseId, modRevision: before.modRevision },
          signal,
        );
        if (modRevision === null) continue;

        const after = (await list()).find((subnet) => subnet.entry.key === entryKey);
        if (after?.entry.modRevision !== modRevision) continue;
        if (after.lease === null) {
          if (after.overlaps === null) throw new LeaseUnavailableError(describe(after));
          // Two of different text at once: the later one gives way. A reservation is not ours to delete.
          if (reserved) throw new LeaseUnavailableError(describe(after));
          await this.#store.commit({ kind: 'delete', key: entryKey, modRevision }, signal);
          continue;
        }
        const deadlineMs = reserved ? Infinity : grant!.deadlineMs;
        if (this.#clock.now() >= deadlineMs) {
          throw new LeaseUnavailableError('the store answers more slowly than leases last');
        }
        used = !reserved;
        return {
          entryKey,
          value,
          modRevision,
          leaseId,
          held: { kind: 'held', lease: after.lease, network, deadlineMs },
        };
      }
      throw new LeaseUnavailableError(`other nodes were faster ${RACES} times in a row`);
    } finally {
      if (grant !== null && !used) await this.#drop(grant.leaseId);
    }
  }

  /** Renews until the deadline passes or the entry is taken away. @throws LeaseLostError */
  async #hold(first: Claim, stopping: AbortSignal): Promise<never> {
    let claim = first;
    let failures = 0;
    let renewAtMs = this.#renewAtMs(claim);
    const over = new AbortController();
    const signal = AbortSignal.any([stopping, over.signal]);
    const end = (reason: unknown): void => over.abort(reason);
    const guards = [
      this.#watchClaim(() => claim, signal).catch(end),
      this.#watchDeadline(() => claim, signal).catch(end),
    ];
    try {
      for (;;) {
        await this.#sleepUntil(renewAtMs, signal);
        try {
          claim = await this.#renew(claim, signal);
          this.#claim = claim;
          failures = 0;
          renewAtMs = this.#renewAtMs(claim);
          this.#enter(claim.held);
        } catch (error) {
          if (!(error instanceof StoreError)) throw error;
          renewAtMs = this.#clock.now() + this.#retryMs(failures++);
        }
      }
    } finally {
      end(new LeaseLostError('the lease keeper goes on to something else'));
      await Promise.all(guards);
    }
  }

  #renewAtMs({ held }: Claim): number {
    const margin = Math.min(this.#options.renewMarginMs ?? RENEW_MARGIN_MS, this.#ttlMs / 2);
    return held.deadlineMs - margin;
  }

  /** @throws LeaseLostError if the entry is no longer ours; StoreError */
  async #renew(claim: Claim, signal: AbortSignal): Promise<Claim> {
    const grant = await this.#grant(signal);
    let { modRevision } = claim;
    for (;;) {
      const renewed = await this.#store.commit(
        {
          kind: 'replace',
          key: claim.entryKey,
          value: claim.value,
          leaseId: grant.leaseId,
          modRevision,
        },
        signal,
      );
      if (renewed !== null) {
        // The old lease is left to end by itself: nothing hangs on it any more.
        if (claim.leaseId !== null) this.#granted.delete(claim.leaseId);
        return {
          ...claim,
          leaseId: grant.leaseId,
          modRevision: renewed,
          held: { ...claim.held, deadlineMs: grant.deadlineMs },
        };
      }
      // An earlier try may have been made although its answer was lost.
      const entry = await this.#store.get(claim.entryKey, signal);
      if (entry === null || !this.#isOurs(entry, claim)) {
        await this.#drop(grant.leaseId);
        throw takenAway(claim, entry);
      }
      modRevision = entry.modRevision;
      if (entry.leaseId === null) {
        await this.#drop(grant.leaseId);
        return asReservation(claim, entry);
      }
    }
  }

  /** Notices at once what a renewal would notice later. @throws LeaseLostError */
  async #watchClaim(current: () => Claim, signal: AbortSignal): Promise<void> {
    const { entryKey } = current();
    for await (const { entries, revision } of this.#store.watch(entryKey, { signal })) {
      const claim = current();
      if (revision < claim.modRevision) continue;
      const entry = entries.get(entryKey) ?? null;
      const isOurs =
        entry !== null && (entry.modRevision <= claim.modRevision || this.#isOurs(entry, claim));
      if (!isOurs) throw takenAway(claim, entry);
    }
  }

  /** @throws LeaseLostError once the deadline has passed */
  async #watchDeadline(current: () => Claim, signal: AbortSignal): Promise<void> {
    while (this.#clock.now() < current().held.deadlineMs) {
      await this.#clock.sleep(current().held.deadlineMs - this.#clock.now(), signal);
    }
    throw notRenewed(current().held.lease);
  }

  async #sleepUntil(timeMs: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    while (this.#clock.now() < timeMs) await this.#clock.sleep(timeMs - this.#clock.now(), signal);
  }

  async #grant(signal: AbortSignal): Promise<Grant> {
    // Before the call: the store's clock for this lease cannot have started earlier.
    const startMs = this.#clock.now();
    const granted = await this.#store.grant(this.#ttlMs, signal);
    this.#granted.add(granted.leaseId);
    return { ...granted, deadlineMs: startMs + granted.ttlMs - fenceMarginMs(granted.ttlMs) };
  }

  /** Gives an etcd lease back that nothing hangs on. If that fails, it ends by itself. */
  async #drop(leaseId: string): Promise<void> {
    try {
      await this.#store.revoke(leaseId, this.#stopping.signal);
      this.#granted.delete(leaseId);
    } catch (error) {
      if (!(error instanceof StoreError || this.#stopping.signal.aborted)) throw error;
    }
  }

  /** Written by us, or made a reservation by an operator who left our words in it. */
  #isOurs(entry: StoreEntry, claim: Claim): boolean {
    return entry.leaseId === null
      ? entry.value === claim.value
      : claim.leaseId !== null && this.#granted.has(entry.leaseId);
  }

  #retryMs(failures: number): number {
    const base = this.#options.retryMs ?? RETRY_MS;
    return Math.min(base * 2 ** failures, base * 5) * (0.5 + Math.random() / 2);
  }

  async #pause(failures: number, signal: AbortSignal): Promise<void> {
    try {
      await this.#sleepUntil(this.#clock.now() + this.#retryMs(failures), signal);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  #enter(state: LeaseState): void {
    // What was still under way when we were stopped changes nothing any more.
    if (this.#stopping.signal.aborted && state.kind !== 'released') return;
    this.#state = state;
    this.#options.onChange?.(state);
    const { resolve } = this.#changed;
    this.#changed = Promise.withResolvers();
    resolve();
  }
}

function identityOf(node: LeaseKeeperOptions['node'], { vni }: NetworkConfig): NodeIdentity {
  const { publicIp4, publicIp6, mac } = node;
  return {
    publicIp4,
    publicIp6,
    vtep4: publicIp4 === null ? null : { vni, mac },
    vtep6: publicIp6 === null ? null : { vni, mac },
  };
}

const asReservation = (claim: Claim, { modRevision }: StoreEntry): Claim => ({
  ...claim,
  leaseId: null,
  modRevision,
  held: { ...claim.held, lease: { ...claim.held.lease, reserved: true }, deadlineMs: Infinity },
});

const isTemporary = (error: unknown): error is Error =>
  error instanceof StoreError ||
  error instanceof NetworkConfigError ||
  error instanceof LeaseUnavailableError;

const describe = ({ key, problem }: SubnetEntry): string =>
  `our entry ${key} cannot be used: ${problem}`;

const notRenewed = ({ key }: NodeLease): LeaseLostError =>
  new LeaseLostError(`subnet lease ${key} could not be renewed in time; its traffic has stopped`);

function takenAway({ held }: Claim, entry: StoreEntry | null): LeaseLostError {
  const what = entry === null ? 'was deleted in etcd' : 'was overwritten in etcd by somebody else';
  return new LeaseLostError(`subnet lease ${held.lease.key} ${what}; its traffic has stopped`);
}
