/** IPv6 header (RFC 8200 section 3). */
import { Drop } from './drop-reason.ts';

export const IPV6_HEADER_BYTES = 40;
/** Every link carries packets of this size, one way or another (RFC 8200 section 5). */
export const IPV6_MTU_MIN = 1280;
export const IPV6_SOURCE = 8;
export const IPV6_DESTINATION = 24;
/** Extension headers that may stand before an upper layer (RFC 8200 section 4, IANA's registry). */
export const IPV6_FRAGMENT = 44;
export const IPV6_FRAGMENT_BYTES = 8;

export const readTrafficClass = (view: DataView, at: number): number =>
  (view.getUint16(at) >>> 4) & 0xff;
export const readPayloadLength = (view: DataView, at: number): number => view.getUint16(at + 4);
export const readNextHeader = (view: DataView, at: number): number => view.getUint8(at + 6);
export const readHopLimit = (view: DataView, at: number): number => view.getUint8(at + 7);

/** Of the fragment header at `at` (section 4.5). */
export const fragmentOffsetBytes6 = (view: DataView, at: number): number =>
  view.getUint16(at + 2) & 0xfff8;

/** The address at `at` is multicast, or of one link only (RFC 4291 sections 2.7 and 2.5.6): no router's. */
export const isMulticast6 = (view: DataView, at: number): boolean => {
  const first = view.getUint16(at);
  return first >= 0xff00 || (first & 0xffc0) === 0xfe80;
};
/** It never leaves a host: ::, ::1 and IPv4 in IPv6's clothes, all in ::/32 (sections 2.5.2, 2.5.3, 2.5.5). */
export const isMartian6 = (view: DataView, at: number): boolean => view.getUint32(at) === 0;

/** Version and payload length agree with `end`. A jumbogram (payload length 0, RFC 2675) is refused. */
export function checkIpv6(view: DataView, at: number, end: number): Drop {
  if (end - at < IPV6_HEADER_BYTES) return Drop.truncated;
  if (view.getUint8(at) >>> 4 !== 6) return Drop.ipHeader;
  const payload = readPayloadLength(view, at);
  if (payload === 0 && readNextHeader(view, at) === 0) return Drop.ipHeader;
  return payload + IPV6_HEADER_BYTES > end - at ? Drop.ipHeader : Drop.none;
}
