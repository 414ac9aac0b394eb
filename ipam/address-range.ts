/** Runs of addresses, as operators name those that no pod shall have. */
import {
  AddressError,
  type Family,
  type IpAddress,
  type Ipv4,
  type Ipv6,
  formatAddress,
  parseAddress,
} from '../wire/address.ts';
import { lastOf, parseCidr } from '../wire/cidr.ts';

/** Both ends belong to it; they are of one family, and in order. */
export type AddressRange =
  | { readonly family: 4; readonly first: Ipv4; readonly last: Ipv4 }
  | { readonly family: 6; readonly first: Ipv6; readonly last: Ipv6 };

/** The same as numbers, for arithmetic over both families. */
export interface Span {
  readonly first: bigint;
  readonly last: bigint;
}

/** `10.244.1.2-10.244.1.9`, `fd00:5::/120` or one address. @throws AddressError */
export function parseAddressRange(text: string): AddressRange {
  if (text.includes('/')) {
    const block = parseCidr(text);
    return block.family === 4
      ? { family: 4, first: block.base, last: lastOf(block) }
      : { family: 6, first: block.base, last: lastOf(block) };
  }
  const [first, last = first, ...rest] = text.split('-').map(parseAddress);
  if (rest.length === 0) {
    if (typeof first === 'number' && typeof last === 'number' && first <= last) {
      return { family: 4, first, last };
    }
    if (typeof first === 'bigint' && typeof last === 'bigint' && first <= last) {
      return { family: 6, first, last };
    }
  }
  throw new AddressError(
    `"${text}" is not an address, a block, or two addresses of one family, the lower one first`,
  );
}

export const formatAddressRange = (first: IpAddress, last: IpAddress): string =>
  first === last ? formatAddress(first) : `${formatAddress(first)}-${formatAddress(last)}`;

/**
 * What the ranges hold of `within`: in order, apart from each other, and never touching, so that one
 * step past an end is free.
 */
export function mergeRanges(
  family: Family,
  ranges: readonly AddressRange[],
  within: Span,
): readonly Span[] {
  const clipped = ranges
    .filter((range) => range.family === family)
    .map(({ first, last }) => ({ first: BigInt(first), last: BigInt(last) }))
    .filter(({ first, last }) => first <= within.last && last >= within.first)
    .map(({ first, last }) => ({
      first: first < within.first ? within.first : first,
      last: last > within.last ? within.last : last,
    }))
    .toSorted((a, b) => (a.first < b.first ? -1 : 1));
  const merged: { first: bigint; last: bigint }[] = [];
  for (const span of clipped) {
    const before = merged.at(-1);
    if (before === undefined || span.first > before.last + 1n) merged.push(span);
    else if (span.last > before.last) before.last = span.last;
  }
  return merged;
}

/** The span that holds `address`, of spans in order. */
export function spanOf(spans: readonly Span[], address: bigint): Span | undefined {
  let low = 0;
  let high = spans.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (spans[middle]!.last < address) low = middle + 1;
    else high = middle;
  }
  const span = spans[low];
  return span !== undefined && span.first <= address ? span : undefined;
}
