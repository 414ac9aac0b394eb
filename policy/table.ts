/**
 * NetworkPolicy and ClusterNetworkPolicy as the packet path reads them: flat arrays, compiled on the main
 * thread, swapped in whole.
 * Runs per packet: no await, no allocation, no throw.
 */

export const INGRESS = 0;
export const EGRESS = 1;

/** Numbers and typed arrays only, so that it can be placed in shared memory. */
export interface PolicyTable {
  /** Grows when a verdict may have changed; flows decided under another one are decided again. */
  readonly generation: number;
}

/** Before anything is known: no subjects. */
export const EMPTY_POLICY_TABLE: PolicyTable = { generation: 0 };

export interface PolicyLookup {
  readonly install: (table: PolicyTable) => void;
  /** The pod of this node that has the address at `at` (4 or 16 bytes in network order), or -1. */
  readonly subjectOf: (at: number, is4: boolean) => number;
  /**
   * May traffic of `protocol` (IANA's number) to destination port `port` pass the subject's rules of
   * this direction? Protocols without ports pass by rules without ports only.
   * @param subject  from subjectOf, not -1
   * @param selfAt   the subject's address, @param peerAt the other end's, of one family
   * @param port     0..65535; of the destination, after Service translation
   */
  readonly allows: (
    direction: number,
    subject: number,
    selfAt: number,
    peerAt: number,
    is4: boolean,
    protocol: number,
    port: number,
  ) => boolean;
}

/** @param view the arena that the addresses stand in */
export function createPolicyLookup(_view: DataView): PolicyLookup {
  return { install: () => undefined, subjectOf: () => -1, allows: () => false };
}
