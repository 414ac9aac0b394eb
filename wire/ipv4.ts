/** IPv4 header (RFC 791 section 3.1). `checkIpv4` once, then every accessor reads inside the packet. */
import { Drop } from './drop-reason.ts';

export const IPV4_HEADER_BYTES = 20;
export const IPV4_SOURCE = 12;
export const IPV4_DESTINATION = 16;
export const IPV4_DONT_FRAGMENT = 0x4000;
export const IPV4_MORE_FRAGMENTS = 0x2000;
const FRAGMENT_OFFSET = 0x1fff;

export const readHeaderBytes = (view: DataView, at: number): number =>
  (view.getUint8(at) & 15) << 2;
export const readTos = (view: DataView, at: number): number => view.getUint8(at + 1);
export const readTotalLength = (view: DataView, at: number): number => view.getUint16(at + 2);
export const readId = (view: DataView, at: number): number => view.getUint16(at + 4);
/** Flags and fragment offset, as they stand. */
export const readFragmentWord = (view: DataView, at: number): number => view.getUint16(at + 6);
export const readTtl = (view: DataView, at: number): number => view.getUint8(at + 8);
export const readProtocol = (view: DataView, at: number): number => view.getUint8(at + 9);
export const isFragment = (view: DataView, at: number): boolean =>
  (view.getUint16(at + 6) & (IPV4_MORE_FRAGMENTS | FRAGMENT_OFFSET)) !== 0;
/** The address at `at` is multicast, reserved or broadcast: 224.0.0.0 and above. */
export const isMulticast4 = (view: DataView, at: number): boolean => view.getUint8(at) >= 224;
/** It never leaves a host: 0.0.0.0/8 or 127.0.0.0/8 (RFC 1122 section 3.2.1.3). */
export const isMartian4 = (view: DataView, at: number): boolean => {
  const first = view.getUint8(at);
  return first === 0 || first === 127;
};
export const fragmentOffsetBytes = (view: DataView, at: number): number =>
  (view.getUint16(at + 6) & FRAGMENT_OFFSET) << 3;

/** The folded ones' complement sum of the header: 0xffff when its checksum is right. */
export function sumIpv4Header(view: DataView, at: number): number {
  const end = at + readHeaderBytes(view, at);
  let sum = 0;
  // A word holds two of the sum's: half the reads.
  for (let p = at; p < end; p += 4) {
    const word = view.getInt32(p);
    sum += (word >>> 16) + (word & 0xffff);
  }
  sum = (sum & 0xffff) + (sum >>> 16);
  return (sum & 0xffff) + (sum >>> 16);
}

/** Writes the checksum of the header as it stands. */
export function finishIpv4Header(view: DataView, at: number): void {
  view.setUint16(at + 10, 0);
  view.setUint16(at + 10, ~sumIpv4Header(view, at) & 0xffff);
}

/**
 * Version, header length and total length agree with each other and with `end`. Bytes after the total
 * length are Ethernet padding and allowed. The checksum is the caller's to check.
 */
export function checkIpv4(view: DataView, at: number, end: number): Drop {
  if (end - at < IPV4_HEADER_BYTES) return Drop.truncated;
  if (view.getUint8(at) >>> 4 !== 4) return Drop.ipHeader;
  const header = readHeaderBytes(view, at);
  const total = readTotalLength(view, at);
  if (header < IPV4_HEADER_BYTES || total < header || total > end - at) return Drop.ipHeader;
  return Drop.none;
}
