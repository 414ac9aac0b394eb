/**
 * Who has which address of the node's subnets. Pure: no clock, no randomness, no I/O; the same state and
 * the same calls give the same addresses.
 *
 *     subnet   .0      .1         .2  .3  .4 ...                      .255
 *              node's  kept free  given in turn, skipping reserved    broadcast (IPv4)
 *
 * The order of giving. Addresses that were freed wait in a line, the longest free first. All others that
 * are free come before them, ascending from where the turn is, and round again after the last address. So
 * what a pod has just given back is the last to be given: peers, conntrack tables and name servers have
 * time to forget it. In a subnet of up to 65,536 addresses "all others" are those never given. In a larger
 * one the line holds the 1,024 freed last; what falls off its head waits for the turn to come round.
 */
import {
  type Family,
  type IpAddress,
  type Ipv4,
  type Ipv6,
  familyOf,
  formatAddress,
  toIpv4,
  toIpv6,
} from '../wire/address.ts';
import { type Cidr, cidrContains, formatCidr } from '../wire/cidr.ts';
import {
  type AddressRange,
  type Span,
  formatAddressRange,
  mergeRanges,
  spanOf,
} from './address-range.ts';
import type { SubnetPair } from './lease-codec.ts';
import { rangeOf } from './subnets.ts';
import type { Attachment } from './types.ts';

export type AttachmentKey = Pick<Attachment, 'containerId' | 'ifname'>;
/** What is known of an attachment before it has addresses. */
export type AttachmentRequest = Omit<Attachment, 'address4' | 'address6'>;

/** What decides the next address of one family. */
export interface Turn<A extends IpAddress> {
  /** Where the search begins; null: at the subnet's first. */
  readonly next: A | null;
  /** The longest free first; none is in use. */
  readonly freed: readonly A[];
}

/** All that a pool remembers. */
export interface PoolState {
  /** No two with one key, no two with one address. */
  readonly attachments: readonly Attachment[];
  readonly turn4: Turn<Ipv4>;
  readonly turn6: Turn<Ipv6>;
}

export const EMPTY_POOL_STATE: PoolState = {
  attachments: [],
  turn4: { next: null, freed: [] },
  turn6: { next: null, freed: [] },
};

/** Addresses of one family by what they are good for; the last three add up to the first. */
export interface PoolUse {
  readonly family: Family;
  readonly subnet: Cidr;
  /** All but the node's own, the one after it, and IPv4's last. */
  readonly addresses: bigint;
  readonly used: bigint;
  /** Reserved, and not in use from before. */
  readonly reserved: bigint;
  readonly free: bigint;
}

/** No free address is left. */
export class PoolExhaustedError extends Error {
  readonly code = 'ERR_POOL_EXHAUSTED';
}

/** The address that was asked for is another's. */
export class AddressTakenError extends Error {
  readonly code = 'ERR_ADDRESS_TAKEN';
}

/** The address that was asked for is none of this node's. */
export class AddressOutsideError extends Error {
  readonly code = 'ERR_ADDRESS_OUTSIDE';
}

/** The address that was asked for is the node's, the broadcast's, or kept free by the operator. */
export class AddressReservedError extends Error {
  readonly code = 'ERR_ADDRESS_RESERVED';
}

/** Two addresses of one family were asked for, or one of a family that the node has no subnet of. */
export class AddressFamilyError extends Error {
  readonly code = 'ERR_ADDRESS_FAMILY';
}

/** The container has an interface of that name. */
export class AlreadyAttachedError extends Error {
  readonly code = 'ERR_ALREADY_ATTACHED';
}

/** The node holds no subnet of either family. */
export class NoSubnetError extends Error {
  readonly code = 'ERR_NO_SUBNET';
}

export interface PodPoolOptions {
  readonly subnets: SubnetPair;
  /** Never given, also when asked for; what lies outside of the subnets is without effect. */
  readonly reserved?: readonly AddressRange[];
  readonly state?: PoolState;
}

export class PodPool {
  readonly #attachments = new Map<string, Attachment>();
  readonly #pool4: FamilyPool<Ipv4> | null;
  readonly #pool6: FamilyPool<Ipv6> | null;
  /** What was remembered of a family that has no subnet now. */
  readonly #idle4: Turn<Ipv4>;
  readonly #idle6: Turn<Ipv6>;
  /** Who has an address, of the subnets or not. */
  readonly #holders = new Map<IpAddress, Attachment>();

  /** @throws AlreadyAttachedError or AddressTakenError if the state says one thing twice */
  constructor({ subnets, reserved = [], state = EMPTY_POOL_STATE }: PodPoolOptions) {
    const { subnet4, subnet6 } = subnets;
    const { turn4, turn6 } = state;
    const toAddress4 = (value: bigint): Ipv4 => toIpv4(Number(value));
    this.#idle4 = turn4;
    this.#idle6 = turn6;
    this.#pool4 = subnet4 && new FamilyPool(subnet4, reserved, turn4.next, toAddress4);
    this.#pool6 = subnet6 && new FamilyPool(subnet6, reserved, turn6.next, toIpv6);
    for (const attachment of state.attachments) this.adopt(attachment);
    for (const address of turn4.freed) this.#pool4?.lineUp(address);
    for (const address of turn6.freed) this.#pool6?.lineUp(address);
  }

  get size(): number {
    return this.#attachments.size;
  }

  attachments(): IteratorObject<Attachment> {
    return this.#attachments.values();
  }

  get(key: AttachmentKey): Attachment | null {
    return this.#attachments.get(keyText(key)) ?? null;
  }

  holderOf(address: IpAddress): Attachment | null {
    return this.#holders.get(address) ?? null;
  }

  /**
   * One address of each family that the node has a subnet of; those in `wanted` where it names one.
   * Nothing changes when it throws.
   * @throws PoolExhaustedError, AddressTakenError, AddressOutsideError, AddressReservedError,
   *   AddressFamilyError, AlreadyAttachedError, NoSubnetError
   */
  allocate(request: AttachmentRequest, wanted: readonly IpAddress[] = []): Attachment {
    this.#refuseKnown(request);
    if (this.#pool4 === null && this.#pool6 === null) {
      throw new NoSubnetError('this node holds no subnet; its pods get no address until it does');
    }
    let wanted4: Ipv4 | null = null;
    let wanted6: Ipv6 | null = null;
    for (const address of wanted) {
      const before = typeof address === 'number' ? wanted4 : wanted6;
      if (before !== null) {
        throw new AddressFamilyError(
          `${formatAddress(before)} and ${formatAddress(address)} are asked for at once; ` +
            `an interface has one IPv${familyOf(address)} address`,
        );
      }
      if (typeof address === 'number') wanted4 = address;
      else wanted6 = address;
    }
    const address4 = this.#choose(this.#pool4, wanted4);
    const address6 = this.#choose(this.#pool6, wanted6);
    const attachment = { ...request, address4, address6 };
    // After both are known: an exhausted family leaves the other's turn as it was.
    if (address4 !== null && wanted4 === null) this.#pool4!.advance(address4);
    if (address6 !== null && wanted6 === null) this.#pool6!.advance(address6);
    this.#add(attachment);
    return attachment;
  }

  /**
   * Enters an attachment with the addresses it has, also where none would be given: reserved ones, and
   * such as are of no subnet of ours now.
   * @throws AlreadyAttachedError, AddressTakenError
   */
  adopt(attachment: Attachment): void {
    this.#refuseKnown(attachment);
    for (const address of addressesOf(attachment)) this.#refuseTaken(address);
    this.#add(attachment);
  }

  /** What was released; null if the key is not attached, as after an earlier release. */
  release(key: AttachmentKey): Attachment | null {
    const text = keyText(key);
    const attachment = this.#attachments.get(text);
    if (attachment === undefined) return null;
    this.#attachments.delete(text);
    const { address4, address6 } = attachment;
    for (const address of addressesOf(attachment)) this.#holders.delete(address);
    if (address4 !== null) this.#pool4?.giveBack(address4);
    if (address6 !== null) this.#pool6?.giveBack(address6);
    return attachment;
  }

  /**
   * Attachments with an address that this pool would not give, reserved or not: the lease had another
   * subnet when they were made. They keep it until they are released, and take nothing from the pool.
   */
  strays(): Attachment[] {
    return Array.from(this.attachments()).filter(
      ({ address4, address6 }) =>
        (address4 !== null && this.#pool4?.holds(address4) !== true) ||
        (address6 !== null && this.#pool6?.holds(address6) !== true),
    );
  }

  /** IPv4 first; a family without a subnet is left out. */
  use(): PoolUse[] {
    return [this.#pool4, this.#pool6].flatMap((pool) => pool?.use() ?? []);
  }

  /** The reserved addresses of the present subnets: in order, what touches or overlaps joined. */
  reserved(): string[] {
    return [this.#pool4, this.#pool6].flatMap((pool) => pool?.reserved() ?? []);
  }

  state(): PoolState {
    return {
      attachments: Array.from(this.attachments()),
      turn4: this.#pool4?.turn() ?? this.#idle4,
      turn6: this.#pool6?.turn() ?? this.#idle6,
    };
  }

  #choose<A extends IpAddress>(pool: FamilyPool<A> | null, wanted: A | null): A | null {
    if (wanted === null) return pool === null ? null : pool.next();
    if (pool === null) {
      throw new AddressFamilyError(
        `${formatAddress(wanted)} is asked for, but this node holds no IPv${familyOf(wanted)} subnet`,
      );
    }
    pool.refuseUngiven(wanted);
    this.#refuseTaken(wanted);
    return wanted;
  }

  #add(attachment: Attachment): void {
    const { address4, address6 } = attachment;
    this.#attachments.set(keyText(attachment), attachment);
    for (const address of addressesOf(attachment)) this.#holders.set(address, attachment);
    if (address4 !== null) this.#pool4?.take(address4);
    if (address6 !== null) this.#pool6?.take(address6);
  }

  #refuseKnown(key: AttachmentKey): void {
    const { containerId, ifname } = key;
    const known = this.get(key);
    if (known === null) return;
    throw new AlreadyAttachedError(
      `container ${containerId} has an interface ${ifname} already, with ${addressesText(known)}; ` +
        'it must be deleted before it is added again',
    );
  }

  #refuseTaken(address: IpAddress): void {
    const holder = this.#holders.get(address);
    if (holder === undefined) return;
    throw new AddressTakenError(`${formatAddress(address)} is in use by ${holderText(holder)}`);
  }
}

/** One family's subnet. `IpAddress` outside, BigInt within: one arithmetic for both. */
class FamilyPool<A extends IpAddress> {
  readonly #subnet: Cidr;
  readonly #toAddress: (value: bigint) => A;
  /** What pods can have, reserved or not. In a subnet of one or two addresses it ends before it begins. */
  readonly #span: Span;
  readonly #addresses: bigint;
  readonly #reserved: readonly Span[];
  readonly #used = new Set<bigint>();
  /** Neither used nor reserved, in the order they were freed. */
  readonly #freed = new Line();
  readonly #freedLimit: number;
  #reservedUnused = 0n;
  /** Within the span, unless that is empty. */
  #next: bigint;

  constructor(
    subnet: Cidr,
    reserved: readonly AddressRange[],
    next: A | null,
    toAddress: (value: bigint) => A,
  ) {
    const [base, end] = rangeOf(subnet);
    this.#subnet = subnet;
    this.#toAddress = toAddress;
    this.#span = { first: base + 2n, last: subnet.family === 4 ? end - 1n : end };
    const addresses = this.#span.last - this.#span.first + 1n;
    this.#addresses = addresses > 0n ? addresses : 0n;
    this.#reserved = mergeRanges(subnet.family, reserved, this.#span);
    for (const { first, last } of this.#reserved) this.#reservedUnused += last - first + 1n;
    this.#freedLimit = end - base < 65_536n ? 65_536 : 1_024;
    this.#next = next !== null && this.holds(next) ? BigInt(next) : this.#span.first;
  }

  /** It is one of those that pods can have, reserved or not. */
  holds(address: A): boolean {
    const value = BigInt(address);
    return value >= this.#span.first && value <= this.#span.last;
  }

  /** @throws AddressOutsideError, AddressReservedError */
  refuseUngiven(address: A): void {
    const text = formatAddress(address);
    if (!cidrContains(this.#subnet, address)) {
      throw new AddressOutsideError(
        `${text} is not of this node's subnet ${formatCidr(this.#subnet)}; ` +
          'packets for it would not come here',
      );
    }
    if (!this.holds(address)) {
      throw new AddressReservedError(
        `${text} is the node's own, the bridge's or the broadcast address of ` +
          `${formatCidr(this.#subnet)}; no pod can have it`,
      );
    }
    // Also when asked for: who asks can be any tenant, and what is reserved stands outside of Kubernetes.
    const span = spanOf(this.#reserved, BigInt(address));
    if (span !== undefined) {
      throw new AddressReservedError(
        `${text} is reserved on this node (${this.#spanText(span)}); no pod can have it`,
      );
    }
  }

  /** The free address whose turn it is. @throws PoolExhaustedError */
  next(): A {
    const { used, reserved, free, addresses } = this.use();
    if (free === 0n) {
      throw new PoolExhaustedError(
        `${formatCidr(this.#subnet)} has no free address left: of ${addresses}, ${used} are in use ` +
          `and ${reserved} reserved; delete pods of this node, or lease it a larger subnet`,
      );
    }
    if (free === BigInt(this.#freed.length)) return this.#toAddress(this.#freed.head());
    // At least one is free and in no line, so this ends.
    for (let value = this.#next; ; value++) {
      if (value > this.#span.last) value = this.#span.first;
      const span = spanOf(this.#reserved, value);
      if (span !== undefined) value = span.last;
      else if (!this.#used.has(value) && !this.#freed.has(value)) return this.#toAddress(value);
    }
  }

  /** The turn has been `address`'s: it goes on behind it, unless that one came from the line. */
  advance(address: A): void {
    const value = BigInt(address);
    if (this.#freed.has(value)) return;
    this.#next = value === this.#span.last ? this.#span.first : value + 1n;
  }

  take(address: A): void {
    if (!this.holds(address)) return;
    const value = BigInt(address);
    this.#used.add(value);
    this.#freed.leave(value);
    if (spanOf(this.#reserved, value) !== undefined) this.#reservedUnused--;
  }

  giveBack(address: A): void {
    const value = BigInt(address);
    if (!this.#used.delete(value)) return;
    if (spanOf(this.#reserved, value) !== undefined) this.#reservedUnused++;
    else this.lineUp(address);
  }

  /** Puts a free address last into the line; one that is not to be given does not wait. */
  lineUp(address: A): void {
    const value = BigInt(address);
    if (!this.holds(address) || this.#used.has(value)) return;
    if (spanOf(this.#reserved, value) !== undefined) return;
    this.#freed.join(value);
    if (this.#freed.length > this.#freedLimit) this.#freed.leave(this.#freed.head());
  }

  use(): PoolUse {
    const used = BigInt(this.#used.size);
    return {
      family: this.#subnet.family,
      subnet: this.#subnet,
      addresses: this.#addresses,
      used,
      reserved: this.#reservedUnused,
      free: this.#addresses - used - this.#reservedUnused,
    };
  }

  reserved(): string[] {
    return this.#reserved.map((span) => this.#spanText(span));
  }

  turn(): Turn<A> {
    return {
      next: this.#addresses === 0n ? null : this.#toAddress(this.#next),
      freed: this.#freed.inOrder().map(this.#toAddress),
    };
  }

  #spanText({ first, last }: Span): string {
    return formatAddressRange(this.#toAddress(first), this.#toAddress(last));
  }
}

/** A queue that can be left from anywhere; each step takes constant time, amortised. */
class Line {
  /** Null where somebody left. */
  #places: (bigint | null)[] = [];
  readonly #placeOf = new Map<bigint, number>();
  /** No earlier place is taken. */
  #head = 0;

  get length(): number {
    return this.#placeOf.size;
  }

  has(value: bigint): boolean {
    return this.#placeOf.has(value);
  }

  /** The one that has waited longest. The line must not be empty. */
  head(): bigint {
    while (this.#places[this.#head] === null) this.#head++;
    return this.#places[this.#head]!;
  }

  /** Without effect for one that waits already. */
  join(value: bigint): void {
    if (this.has(value)) return;
    this.#placeOf.set(value, this.#places.length);
    this.#places.push(value);
  }

  leave(value: bigint): void {
    const place = this.#placeOf.get(value);
    if (place === undefined) return;
    this.#placeOf.delete(value);
    this.#places[place] = null;
    if (this.#places.length > 2 * this.length + 32) this.#closeUp();
  }

  inOrder(): bigint[] {
    return this.#places.filter((value) => value !== null);
  }

  #closeUp(): void {
    const order = this.inOrder();
    for (const [place, value] of order.entries()) this.#placeOf.set(value, place);
    this.#places = order;
    this.#head = 0;
  }
}

export const keyText = ({ containerId, ifname }: AttachmentKey): string =>
  `${containerId} ${ifname}`;

export const addressesOf = ({
  address4,
  address6,
}: Pick<Attachment, 'address4' | 'address6'>): IpAddress[] =>
  [address4, address6].filter((address) => address !== null);

export const addressesText = (attachment: Pick<Attachment, 'address4' | 'address6'>): string =>
  addressesOf(attachment)
    .map((address) => formatAddress(address))
    .join(' and ');

/** The pod, or whatever else says who it is. */
const holderText = ({ containerId, ifname, pod }: Attachment): string =>
  pod === null
    ? `interface ${ifname} of container ${containerId}`
    : `pod ${pod.namespace}/${pod.name} (interface ${ifname} of container ${containerId})`;

/** A pool in the figures that operators see. */
export interface PoolDescription {
  readonly subnet: string | null;
  readonly ipv6Subnet: string | null;
  /**
   * Addresses that pods can have, reserved ones left out, in the family that has fewer left; null where
   * they are more than a number can count (IPv6).
   */
  readonly capacity: number | null;
  /** Those of them in use; attachments with an address of an earlier subnet take none. */
  readonly used: number;
  readonly reserved: readonly string[];
}

export function describePool(pool: PodPool): PoolDescription {
  const uses = pool.use();
  const subnetOf = (family: Family): string | null => {
    const use = uses.find((one) => one.family === family);
    return use === undefined ? null : formatCidr(use.subnet);
  };
  const [tightest] = uses.toSorted((a, b) => (a.free < b.free ? -1 : a.free > b.free ? 1 : 0));
  const capacity = tightest === undefined ? 0n : tightest.addresses - tightest.reserved;
  return {
    subnet: subnetOf(4),
    ipv6Subnet: subnetOf(6),
    capacity: capacity > BigInt(Number.MAX_SAFE_INTEGER) ? null : Number(capacity),
    used: Number(tightest?.used ?? 0n),
    reserved: pool.reserved(),
  };
}
