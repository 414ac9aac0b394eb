/**
 * Flows (connection tracking): one fixed table in memory that all workers share and that outlives the
 * process.
 * Runs per packet: no await, no allocation, no throw.
 *
 * An entry is 32 words. It is found by two tuples: `orig`, as its first packet came, and `reply`, as its
 * answers come; without translation the one is the other turned round. The first line (64 bytes) is all
 * that an IPv4 packet needs.
 *
 *     0 VERSION    odd while in use; changes when the entry is taken or given back
 *     1 HASH_ORIG  2 HASH_REPLY   3 NEXT_ORIG  4 NEXT_REPLY (chains: entry * 2 + direction, or -1)
 *     5 PORTS_ORIG 6 PORTS_REPLY  source port in the upper half
 *     7 KIND       protocol | family << 8 (4 or 6)
 *     8 SRC_ORIG   9 DST_ORIG  10 SRC_REPLY  11 DST_REPLY   IPv4 address, or the last word of an IPv6 one
 *    12 STATE      13 DEADLINE_S  14 GENERATION (of the policy)  15 FLAGS
 *    16..18 19..21 22..24 25..27   the first three words of the IPv6 addresses, in the order of 8..11
 *    28 OWNER      29 PREVIOUS  30 FOLLOWING (list of the owner's flows)  31 SERVICE_GENERATION
 */

export const FLOW_WORDS = 32;
export const FLOW_PORTS_ORIG = 5;
export const FLOW_PORTS_REPLY = 6;
export const FLOW_KIND = 7;
export const FLOW_SRC_ORIG = 8;
export const FLOW_DST_ORIG = 9;
export const FLOW_SRC_REPLY = 10;
export const FLOW_DST_REPLY = 11;
export const FLOW_STATE = 12;
export const FLOW_DEADLINE_S = 13;
export const FLOW_GENERATION = 14;
export const FLOW_FLAGS = 15;
export const FLOW_SRC_ORIG_HIGH = 16;
export const FLOW_DST_ORIG_HIGH = 19;
export const FLOW_SRC_REPLY_HIGH = 22;
export const FLOW_DST_REPLY_HIGH = 25;
export const FLOW_SERVICE_GENERATION = 31;

/** Of FLOW_FLAGS. Destination or source are translated. */
export const FLOW_TRANSLATED = 1;
/** Its destination was a Service's. */
export const FLOW_SERVICE = 2;
/** The policy of this node's pods was asked, in the direction of its first packet. */
export const FLOW_EGRESS = 4;
export const FLOW_INGRESS = 8;
/** Both ends have been heard: it is given up last. The table's own. */
export const FLOW_ASSURED = 16;

/** Protocol numbers of entries that are no flows (IANA: 253, 254 for experiments; no packet gets here). */
export const KIND_AFFINITY = 253;
export const KIND_FRAGMENT = 254;

/**
 * Find and insert take tuples as they stand in packets: IPv4 addresses as int32, IPv6 addresses by
 * their offset in the arena, ports in one word, the source's above. ICMP echo has its identifier as both.
 * A reference is entry * 2 + direction: 0 a packet of the side that began, 1 of the other; -1 none.
 */
export interface FlowTable {
  /** All entries' words; an entry of reference `ref` begins at (ref >>> 1) * FLOW_WORDS. */
  readonly words: Int32Array;
  /** The caller's next entry: tuples, KIND, FLAGS, generations; the rest is the table's. */
  readonly draft: Int32Array;
  /** Seconds since boot, set once a batch; from it deadlines count. */
  readonly setNow: (nowS: number) => void;
  readonly nowS: () => number;
  readonly find4: (source: number, destination: number, ports: number, protocol: number) => number;
  readonly find6: (
    sourceAt: number,
    destinationAt: number,
    ports: number,
    protocol: number,
  ) => number;
  /**
   * Makes an entry of `draft`, at the cost of another one where the table is full: the owner with the
   * most flows gives its oldest that is not assured, else its oldest.
   * @param owner  hash of the address of the pod that it is charged to
   * @returns      its reference; that of a flow which has the orig tuple already; -1: another flow has the
   *               reply tuple already
   */
  readonly insert: (owner: number) => number;
  readonly remove: (ref: number) => void;
  /**
   * A packet of this flow: moves its state and its deadline as Linux does (nf_conntrack's).
   * @param tcpFlags  0 for other protocols; for SCTP the first chunk's type
   */
  readonly advance: (ref: number, tcpFlags: number) => void;
  /** A TCP connection that has ended, or is about to: a SYN begins another one. */
  readonly isClosing: (ref: number) => boolean;
  /** Keyed, for choices that nobody outside may foresee. */
  readonly hash4: (source: number, destination: number, ports: number, protocol: number) => number;
  readonly hash6: (
    sourceAt: number,
    destinationAt: number,
    ports: number,
    protocol: number,
  ) => number;
}
