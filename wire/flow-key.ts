/** A 32-bit hash of an inner flow: it picks the outer source port (RFC 7348 section 5) and finds open flows. */

/** Multiply and shift mixing; cheap, and spreads neighbouring addresses and ports over all bits. */
export function mix(hash: number, word: number): number {
  let h = Math.imul(hash ^ word, 0x9e3779b1);
  h ^= h >>> 15;
  return h;
}
