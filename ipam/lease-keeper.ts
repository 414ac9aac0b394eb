/**
 * The node's own subnet: acquires it, renews it, and stops using it before anyone else could have it.
 */
import { uptime } from 'node:os';
import type { Store } from '../store/store.ts';
import type { Ipv4, Ipv6 } from '../wire/address.ts';
import type { Cidr4, Cidr6 } from '../wire/cidr.ts';
import type { Mac } from '../wire/mac.ts';
import type { NetworkConfig, NodeLease } from './types.ts';

export class LeaseLostError extends Error {
  readonly code = 'ERR_LEASE_LOST';
}

/** Monotonic milliseconds since boot, time asleep included: a suspended node must not wake up believing. */
export const bootTimeMs = (): number => uptime() * 1000;

export interface Clock {
  now(): number;
  /** Rejects with the signal's reason. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
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
  readonly previous?: { readonly subnet4: Cidr4 | null; readonly subnet6: Cidr6 | null } | null;
  /** Default 24 h, as flannel. */
  readonly ttlMs?: number;
  /** Renewal starts this long before the end. Default 60 min, at most half of ttlMs. */
  readonly renewMarginMs?: number;
  /** Pause between failed tries. Default 2 s, spread by half. */
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
  /** Resolves as soon as a subnet is held. Rejects with the signal's reason. */
  held(signal: AbortSignal): Promise<HeldLease>;
  /** Stops renewing; the lease stays in the store until its end, for the restart to reuse. */
  stop(): Promise<void>;
  /** Stops using the subnet, then gives it back. A reservation stays in the store. @throws StoreError */
  release(signal?: AbortSignal): Promise<void>;
}

/** Starts at once and goes on until stop() or release(); needs nobody to wait for it. */
export function keepLease(options: LeaseKeeperOptions): LeaseKeeper {
  throw new LeaseLostError(`not yet: ${options.prefix}`);
}
