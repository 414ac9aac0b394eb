/** Explicit congestion notification across a tunnel (RFC 6040, normal mode). */
export const ECN_MASK = 3;
export const ECN_NOT_ECT = 0;
export const ECN_ECT1 = 1;
export const ECN_CE = 3;

/** Outcome of decapsulation when the packet is to be dropped: outer CE over an inner Not-ECT. */
export const ECN_DROP = -1;

/**
 * The inner ECN field after decapsulation, or ECN_DROP (RFC 6040 section 4.2, figure 4).
 * Encapsulation needs no function: in normal mode the outer field is the inner one (section 4.1).
 */
export function decapsulateEcn(inner: number, outer: number): number {
  if (outer === ECN_CE) return inner === ECN_NOT_ECT ? ECN_DROP : ECN_CE;
  return outer === ECN_ECT1 && inner !== ECN_NOT_ECT && inner !== ECN_CE ? ECN_ECT1 : inner;
}
