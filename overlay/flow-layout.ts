/**
 * A flow's entry, word by word: 32 of them (128 bytes). It is found by two tuples: `orig`, as its first
 * packet came, and `reply`, as its answers come; without translation the one is the other turned round.
 * The first line (64 bytes) is all that an IPv4 packet needs.
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

export const FLOW_VERSION = 0;
export const FLOW_HASH_ORIG = 1;
export const FLOW_HASH_REPLY = 2;
/** NEXT_REPLY follows. */
export const FLOW_NEXT_ORIG = 3;
export const FLOW_OWNER = 28;
export const FLOW_PREVIOUS = 29;
export const FLOW_FOLLOWING = 30;
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
