/** CIDR blocks of either family. The base is always the network address: host bits are zero. */
import {
  type Family,
  type IpAddress,
  type Ipv4,
  type Ipv6,
  AddressError,
  formatAddress,
  parseAddress,
  toIpv4,
  toIpv6,
} from './address.ts';

export interface Cidr4 {
  readonly family: 4;
  readonly base: Ipv4;
  /** Prefix length, 0 to 32. */
  readonly length: number;
}

export interface Cidr6 {
  readonly family: 6;
  readonly base: Ipv6;
  /** Prefix length, 0 to 128. */
  readonly length: number;
}

export type Cidr = Cidr4 | Cidr6;

const widthOf = (family: Family): number => (family === 4 ? 32 : 128);

/** The block of `length` bits that holds `address`. @throws RangeError on a length outside the family's */
export function cidrOf(address: Ipv4, length: number): Cidr4;
export function cidrOf(address: Ipv6, length: number): Cidr6;
export function cidrOf(address: IpAddress, length: number): Cidr;
export function cidrOf(address: IpAddress, length: number): Cidr {
  const family = typeof address === 'number' ? 4 : 6;
  if (!Number.isInteger(length) || length < 0 || length > widthOf(family)) {
    throw new RangeError(`prefix length ${length} is outside 0..${widthOf(family)}`);
  }
  if (typeof address === 'number') {
    const mask = length === 0 ? 0 : (0xffffffff << (32 - length)) >>> 0;
    return { family: 4, base: toIpv4((address & mask) >>> 0), length };
  }
  const hostBits = BigInt(128 - length);
  return { family: 6, base: toIpv6((address >> hostBits) << hostBits), length };
}

/**
 * `10.244.0.0/16`, `fd00:10:244::/56`. Host bits that are set are an error: they are more often a slip
 * than a meaning.
 * @throws AddressError
 */
export function parseCidr(text: string): Cidr {
  const match = /^([0-9a-fA-F:.]+)\/(0|[1-9][0-9]{0,2})$/.exec(text);
  if (match === null) throw new AddressError(`"${text}" is not a CIDR block`);
  const address = parseAddress(match[1]!);
  const length = Number(match[2]);
  if (length > widthOf(typeof address === 'number' ? 4 : 6)) {
    throw new AddressError(`"${text}" has an impossible prefix length`);
  }
  const block = cidrOf(address, length);
  if (block.base !== address) {
    throw new AddressError(`"${text}" has host bits set; the block is ${formatCidr(block)}`);
  }
  return block;
}

export const formatCidr = (block: Cidr): string => `${formatAddress(block.base)}/${block.length}`;

/** The last address of the block. */
export function lastOf(block: Cidr4): Ipv4;
export function lastOf(block: Cidr6): Ipv6;
export function lastOf(block: Cidr): IpAddress;
export function lastOf(block: Cidr): IpAddress {
  if (block.family === 4) return toIpv4(block.base + 2 ** (32 - block.length) - 1);
  return toIpv6(block.base + (1n << BigInt(128 - block.length)) - 1n);
}

export function cidrContains(block: Cidr, address: IpAddress): boolean {
  if (typeof address === 'number') {
    return block.family === 4 && address >= block.base && address <= lastOf(block);
  }
  return block.family === 6 && address >= block.base && address <= lastOf(block);
}

export function cidrsOverlap(a: Cidr, b: Cidr): boolean {
  return a.length <= b.length ? cidrContains(a, b.base) : cidrContains(b, a.base);
}

export const cidrsEqual = (a: Cidr, b: Cidr): boolean => a.base === b.base && a.length === b.length;
