/**
 * Which subnet a node should ask for. Pure: the store's entries in, the next step out; the lease keeper
 * takes the step, and asks again if somebody else was faster.
 */
import { type Ipv4, type Ipv6, toIpv4, toIpv6 } from '../wire/address.ts';
import { type Cidr4, type Cidr6, cidrOf } from '../wire/cidr.ts';
import type { PublicAddresses, SubnetPair } from './lease-codec.ts';
import { type SubnetEntry, rangeOf } from './subnets.ts';
import type { FamilyNetwork, NetworkConfig } from './types.ts';

export type Plan =
  /** It is ours already, by public address: refresh it. A reservation stays one. */
  | { readonly kind: 'reuse'; readonly subnet: SubnetEntry }
  /** It is ours, but the network has changed or an earlier entry has it: delete it, plan again. */
  | { readonly kind: 'discard'; readonly subnet: SubnetEntry }
  | { readonly kind: 'create'; readonly subnets: SubnetPair }
  /** No free subnet is left in this family. */
  | { readonly kind: 'exhausted'; readonly family: 4 | 6 };

export interface AcquireQuestion {
  readonly subnets: readonly SubnetEntry[];
  readonly network: NetworkConfig;
  readonly owner: PublicAddresses;
  /** Each of the two is taken again if it is free and fits. */
  readonly previous: SubnetPair | null;
  /** An integer in 0 .. bound - 1. */
  readonly random: (bound: number) => number;
}

/**
 * As many free ones as flannel looks at: enough to make racing nodes choose differently, few enough to
 * stop early in a large IPv6 network.
 */
const CANDIDATES = 100;

export function planAcquire(question: AcquireQuestion): Plan {
  const { subnets, network, owner, previous, random } = question;
  const ours = subnets.filter((subnet) => isOwnedBy(subnet, owner));
  const usable = ours.filter(
    (subnet) => subnet.overlaps === null && subnet.subnets && fits(subnet.subnets, network),
  );
  const reuse = usable.find((subnet) => subnet.entry.leaseId === null) ?? usable[0];
  if (reuse !== undefined) return { kind: 'reuse', subnet: reuse };
  const useless = ours.find((subnet) => subnet.entry.leaseId !== null);
  if (useless !== undefined) return { kind: 'discard', subnet: useless };

  const { ipv4, ipv6 } = network;
  let subnet4: Cidr4 | null = null;
  let subnet6: Cidr6 | null = null;
  if (ipv4 !== null) {
    const taken = merge(subnets.flatMap((subnet) => subnet.subnets?.subnet4 ?? []).map(rangeOf));
    subnet4 = previous?.subnet4 ?? null;
    if (subnet4 === null || !fits4(subnet4, ipv4) || !isFree(taken, rangeOf(subnet4))) {
      const size = 1n << BigInt(32 - ipv4.subnetLength);
      const bases = freeBases(BigInt(ipv4.min), BigInt(ipv4.max), size, taken);
      if (bases.length === 0) return { kind: 'exhausted', family: 4 };
      subnet4 = cidrOf(toIpv4(Number(bases[random(bases.length)]!)), ipv4.subnetLength);
    }
  }
  if (ipv6 !== null) {
    const taken = merge(subnets.flatMap((subnet) => subnet.subnets?.subnet6 ?? []).map(rangeOf));
    subnet6 = previous?.subnet6 ?? null;
    if (subnet6 === null || !fits6(subnet6, ipv6) || !isFree(taken, rangeOf(subnet6))) {
      const size = 1n << BigInt(128 - ipv6.subnetLength);
      const bases = freeBases(ipv6.min, ipv6.max, size, taken);
      if (bases.length === 0) return { kind: 'exhausted', family: 6 };
      subnet6 = cidrOf(toIpv6(bases[random(bases.length)]!), ipv6.subnetLength);
    }
  }
  return { kind: 'create', subnets: { subnet4, subnet6 } };
}

export const isOwnedBy = ({ owner }: SubnetEntry, node: PublicAddresses): boolean =>
  (owner.publicIp4 !== null && owner.publicIp4 === node.publicIp4) ||
  (owner.publicIp6 !== null && owner.publicIp6 === node.publicIp6);

/** Exactly the network's families, its subnet lengths, within its bounds. */
const fits = ({ subnet4, subnet6 }: SubnetPair, { ipv4, ipv6 }: NetworkConfig): boolean =>
  (ipv4 === null ? subnet4 === null : subnet4 !== null && fits4(subnet4, ipv4)) &&
  (ipv6 === null ? subnet6 === null : subnet6 !== null && fits6(subnet6, ipv6));

const fits4 = (subnet: Cidr4, { subnetLength, min, max }: FamilyNetwork<Cidr4, Ipv4>): boolean =>
  subnet.length === subnetLength && subnet.base >= min && subnet.base <= max;

const fits6 = (subnet: Cidr6, { subnetLength, min, max }: FamilyNetwork<Cidr6, Ipv6>): boolean =>
  subnet.length === subnetLength && subnet.base >= min && subnet.base <= max;

type Range = readonly [first: bigint, last: bigint];

/** In order, none touching the range before it in more than an end. Entries may overlap: some are bad. */
function merge(ranges: readonly Range[]): Range[] {
  const sorted = ranges.toSorted((a, b) => (a[0] < b[0] ? -1 : 1));
  const merged: [bigint, bigint][] = [];
  for (const [first, last] of sorted) {
    const before = merged.at(-1);
    if (before !== undefined && first <= before[1]) {
      if (last > before[1]) before[1] = last;
    } else {
      merged.push([first, last]);
    }
  }
  return merged;
}

const isFree = (taken: readonly Range[], [first, last]: Range): boolean =>
  taken.every((range) => range[1] < first || range[0] > last);

/** The lowest free bases in min .. max, multiples of `size` apart; jumps over what is taken. */
function freeBases(min: bigint, max: bigint, size: bigint, taken: readonly Range[]): bigint[] {
  const bases: bigint[] = [];
  let at = 0;
  let base = min;
  while (base <= max && bases.length < CANDIDATES) {
    while (taken[at] !== undefined && taken[at]![1] < base) at++;
    const next = taken[at];
    if (next !== undefined && next[0] < base + size) {
      base = (next[1] / size + 1n) * size;
    } else {
      bases.push(base);
      base += size;
    }
  }
  return bases;
}
