/**
 * The pseudo-header sums of TCP and UDP (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1), folded
 * and not inverted: what a checksum field holds while VNET_NEEDS_CSUM says that it is unfinished.
 * Runs per packet: no await, no allocation, no throw.
 */

export function fold(sum: number): number {
  const once = (sum & 0xffff) + (sum >>> 16);
  return (once & 0xffff) + (once >>> 16);
}

/** Two of the sum's words in one read. */
function sumWord(view: DataView, at: number): number {
  const word = view.getInt32(at);
  return (word >>> 16) + (word & 0xffff);
}

/** @param length of the transport header and payload, bytes */
export function pseudoSum4(view: DataView, ip: number, protocol: number, length: number): number {
  return fold(sumWord(view, ip + 12) + sumWord(view, ip + 16) + protocol + length);
}

export function pseudoSum6(view: DataView, ip: number, protocol: number, length: number): number {
  let sum = protocol + length;
  for (let p = ip + 8; p < ip + 40; p += 4) sum += sumWord(view, p);
  return fold(sum);
}

/** Of either version, by the first nibble. */
export function pseudoSum(view: DataView, ip: number, protocol: number, length: number): number {
  return view.getUint8(ip) >>> 4 === 4
    ? pseudoSum4(view, ip, protocol, length)
    : pseudoSum6(view, ip, protocol, length);
}
