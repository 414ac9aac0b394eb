/**
 * The pseudo-header sums of TCP and UDP (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1), folded
 * and not inverted: what a checksum field holds while VNET_NEEDS_CSUM says that it is unfinished.
 * Runs per packet: no await, no allocation, no throw.
 */

export function fold(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16);
  return (once & 0xffff) + (once >>> 16);
}

/** @param length of the transport header and payload, bytes */
export function pseudoSum4(view: DataView, ip: number, protocol: number, length: number): number {
  return fold(
    view.getUint16(ip + 12) +
      view.getUint16(ip + 14) +
      view.getUint16(ip + 16) +
      view.getUint16(ip + 18) +
      protocol +
      length,
  );
}

export function pseudoSum6(view: DataView, ip: number, protocol: number, length: number): number {
  let sum = protocol + length;
  for (let p = ip + 8; p < ip + 40; p += 8) {
    sum +=
      view.getUint16(p) + view.getUint16(p + 2) + view.getUint16(p + 4) + view.getUint16(p + 6);
  }
  return fold(sum);
}

/** Of either version, by the first nibble. */
export function pseudoSum(view: DataView, ip: number, protocol: number, length: number): number {
  return view.getUint8(ip) >>> 4 === 4
    ? pseudoSum4(view, ip, protocol, length)
    : pseudoSum6(view, ip, protocol, length);
}
