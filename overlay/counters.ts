/**
 * What a worker counts, in shared memory that only it writes and anyone reads. Float64 holds whole
 * numbers up to 2^53 and is written in one piece.
 *
 * Nothing is lost silently: for each direction, what came in equals what went out plus what was dropped
 * under a named reason. The unit changes once on the way, from packets as the TUN hands them over (up
 * to 64 KiB) to packets as they travel (one datagram each):
 *
 *     tunPackets          = egressAccepted + drops of egress, and of TUN writes on the way back
 *     egressDatagrams     = udpSentDatagrams + drops of sending
 *     udpDatagrams        = tunDelivered + drops of ingress and of TUN writes
 *     localDelivered,       are parts of egressAccepted: packets that went back into the TUN, for a pod or
 *     hostDelivered         this node, or for the host to route on; the rest went to peers
 *     icmpErrors            are packets of our own making, and part of none of the sums
 *
 * Of each peer, by the slot that it has (peer-slots.ts): datagrams that the kernel took for it, which add up to
 * udpSentDatagrams and udpSentBytes; and those that came from it as their outer and inner sources say, whatever
 * became of them, which are a part of udpDatagrams and udpBytes.
 */
import { type DropName, dropNames } from '../wire/drop-reason.ts';
import { PEERS_MAX } from './snapshot.ts';

const names = [
  ...dropNames,
  'tunPackets',
  'tunBytes',
  'egressAccepted',
  'localDelivered',
  'localDeliveredBytes',
  'hostDelivered',
  'hostDeliveredBytes',
  'egressDatagrams',
  'udpSentDatagrams',
  'udpSentBytes',
  'udpSends',
  'tunnelWrites',
  'udpDatagrams',
  'udpBytes',
  'udpReceives',
  'tunDelivered',
  'tunDeliveredBytes',
  'tunWrites',
  'icmpErrors',
  'wakeups',
] as const;

type CounterName = (typeof names)[number];

/** Index of each counter. The drop reasons come first, each at its own number. */
export const Counter = Object.fromEntries(names.map((name, index) => [name, index])) as Readonly<
  Record<CounterName, number>
>;

/** Behind the counters: of each drop reason, those of packets that came from a peer, as `reason + DROPS_IN`. */
export const DROPS_IN = names.length;

/** Slots of peers; 0 is for peers that have none. Those of a generation in force and of the next have room. */
export const PEER_SLOTS = 2 * PEERS_MAX;
/** Counters of a slot; each is at `slot * PEER_COUNTERS` behind the index of the first slot's. */
export const PEER_COUNTERS = 4;
const PEERS_AT = DROPS_IN + dropNames.length;
export const PEER_SENT_DATAGRAMS = PEERS_AT;
export const PEER_SENT_BYTES = PEERS_AT + 1;
export const PEER_RECEIVED_DATAGRAMS = PEERS_AT + 2;
export const PEER_RECEIVED_BYTES = PEERS_AT + 3;

/** Pages that nobody counts in take no memory. */
export const createCounters = (): Float64Array =>
  new Float64Array(new SharedArrayBuffer((PEERS_AT + PEER_SLOTS * PEER_COUNTERS) * 8));

/** What the kernel has taken, of all peers and of this one. Runs per packet. @param slot  the peer's */
export function countSent(
  counters: Float64Array,
  slot: number,
  datagrams: number,
  bytes: number,
): void {
  counters[Counter.udpSentDatagrams]! += datagrams;
  counters[Counter.udpSentBytes]! += bytes;
  const at = slot * PEER_COUNTERS;
  counters[at + PEER_SENT_DATAGRAMS]! += datagrams;
  counters[at + PEER_SENT_BYTES]! += bytes;
}

/** Sums over workers. Drop reasons are named `drop.<reason>`. */
export function sumCounters(workers: readonly Float64Array[]): Record<string, number> {
  const sums: Record<string, number> = {};
  names.forEach((name, index) => {
    if (index === 0) return;
    const key = index < dropNames.length ? `drop.${name}` : name;
    sums[key] = workers.reduce((sum, counters) => sum + counters[index]!, 0);
  });
  return sums;
}

/** Of each drop reason, packets from peers; all others were on their way out. */
export function sumDropsIn(workers: readonly Float64Array[]): Partial<Record<DropName, number>> {
  const sums: Partial<Record<DropName, number>> = {};
  dropNames.forEach((name, reason) => {
    if (name === 'none') return;
    sums[name] = workers.reduce((sum, counters) => sum + counters[DROPS_IN + reason]!, 0);
  });
  return sums;
}
