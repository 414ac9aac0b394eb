/** A 32-bit hash of an inner flow: it picks the outer source port (RFC 7348 section 5) and finds open flows. */

/**
 * Multiply and shift, twice: every bit of `word` reaches the low bits, which are what users take. Once
 * would not do: ports stand in the upper half of their word, and ephemeral ones are all even or all odd.
 */
export function mix(hash: number, word: number): number {
  let h = Math.imul(hash ^ word, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 15), 0x85ebca6b);
  return h ^ (h >>> 13);
}
