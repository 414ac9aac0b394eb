/**
 * IP addresses as the control plane holds them: an IPv4 address is a uint32 in host order, an IPv6
 * address a 128-bit BigInt, so that `typeof` tells the family. The packet path reads addresses from
 * its arena instead (ipv4.ts, ipv6.ts) and makes neither.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { IPv4, IPv6 } from 'ip-num';
import type { Branded } from './brand.ts';

export type Ipv4 = Branded<number, 'Ipv4'>;
export type Ipv6 = Branded<bigint, 'Ipv6'>;
export type IpAddress = Ipv4 | Ipv6;
export type Family = 4 | 6;

/** An address that is not one: names the text, so that the caller can say where it came from. */
export class AddressError extends Error {
  readonly code = 'ERR_ADDRESS';
}

export const familyOf = (address: IpAddress): Family => (typeof address === 'number' ? 4 : 6);

/** @throws RangeError unless `value` is an integer in 0 .. 2^32 - 1 */
export function toIpv4(value: number): Ipv4 {
  if (!Number.isInteger(value) || value < 0 || value > 0xffffffff) {
    throw new RangeError(`not a 32-bit IPv4 address: ${value}`);
  }
  return value as Ipv4;
}

/** @throws RangeError unless `value` is in 0 .. 2^128 - 1 */
export function toIpv6(value: bigint): Ipv6 {
  if (value < 0n || value >> 128n !== 0n)
    throw new RangeError(`not a 128-bit IPv6 address: ${value}`);
  return value as Ipv6;
}

/**
 * Dotted quad, or any RFC 4291 text form without a zone. Zones are refused first: ip-num would accept
 * `fe80::1%eth0` and return another number.
 * @throws AddressError
 */
export function parseAddress(text: string): IpAddress {
  if (isIPv4(text)) return toIpv4(Number(new IPv4(text).getValue()));
  if (isIPv6(text) && !text.includes('%')) return toIpv6(new IPv6(text).getValue());
  throw new AddressError(`"${text}" is not an IP address`);
}

/** Null where the text is no address. */
export function addressOrNull(text: string): IpAddress | null {
  try {
    return parseAddress(text);
  } catch (error) {
    if (error instanceof AddressError) return null;
    throw error;
  }
}

/**
 * As workers write addresses into shared memory: one word of IPv4, four of IPv6, each the packet's.
 * @param family  4 or 6; null for any other
 */
export function addressOfWords(words: Int32Array, at: number, family: number): IpAddress | null {
  if (family === 4) return toIpv4(words[at]! >>> 0);
  if (family !== 6) return null;
  let value = 0n;
  for (let i = 0; i < 4; i++) value = (value << 32n) | BigInt(words[at + i]! >>> 0);
  return toIpv6(value);
}

/** @throws AddressError */
export function parseIpv4(text: string): Ipv4 {
  const address = isIPv4(text) ? parseAddress(text) : undefined;
  if (typeof address !== 'number') throw new AddressError(`"${text}" is not an IPv4 address`);
  return address;
}

/** @throws AddressError */
export function parseIpv6(text: string): Ipv6 {
  const address = isIPv6(text) ? parseAddress(text) : undefined;
  if (typeof address !== 'bigint') throw new AddressError(`"${text}" is not an IPv6 address`);
  return address;
}

/** Dotted quad, or the canonical text of RFC 5952. */
export function formatAddress(address: IpAddress): string {
  return typeof address === 'number'
    ? `${address >>> 24}.${(address >>> 16) & 255}.${(address >>> 8) & 255}.${address & 255}`
    : formatIpv6(address);
}

/**
 * RFC 5952 section 4: the first of the longest runs of two zero groups or more is left out. Thousands of
 * addresses are written at each change of the pods, and ip-num takes twenty times as long; a property
 * test holds the two equal.
 */
function formatIpv6(address: Ipv6): string {
  const groups = ipv6Words(address).flatMap((word) => [word >>> 16, word & 0xffff]);
  let [from, length] = [0, 1];
  for (let i = 0; i < groups.length; i++) {
    let end = i;
    while (groups[end] === 0) end++;
    if (end - i > length) [from, length] = [i, end - i];
    if (end > i) i = end;
  }
  const text = (some: readonly number[]): string => some.map((it) => it.toString(16)).join(':');
  if (length < 2) return text(groups);
  return `${text(groups.slice(0, from))}::${text(groups.slice(from + length))}`;
}

/** The four 32-bit words of an IPv6 address, most significant first. */
export function ipv6Words(address: Ipv6): readonly [number, number, number, number] {
  return [
    Number(address >> 96n),
    Number((address >> 64n) & 0xffffffffn),
    Number((address >> 32n) & 0xffffffffn),
    Number(address & 0xffffffffn),
  ];
}

/** As on the wire: 4 or 16 bytes. */
export function addressBytes(address: IpAddress): Uint8Array {
  const words = typeof address === 'number' ? [address] : ipv6Words(address);
  const view = new DataView(new ArrayBuffer(4 * words.length));
  for (const [i, word] of words.entries()) view.setUint32(4 * i, word);
  return new Uint8Array(view.buffer);
}
