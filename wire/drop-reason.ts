/**
 * Why a packet went nowhere. On the packet path an error is one of these numbers; each has a counter of
 * the same name, which metrics, `weft status` and the documentation use too. docs/packet-path.md says
 * what an operator does about each.
 */
export const Drop = {
  none: 0,
  // A datagram from the underlay.
  truncated: 1,
  flags: 2,
  vni: 3,
  innerMac: 4,
  etherType: 5,
  ipHeader: 6,
  ipChecksum: 7,
  outerSource: 8,
  innerSource: 9,
  innerDestination: 10,
  nested: 11,
  ecn: 12,
  ttl: 13,
  oversized: 14,
  // A packet from a pod or from this node.
  notOurSource: 15,
  noPeer: 16,
  noPod: 17,
  multicast: 18,
  tooBig: 19,
  offloadHeader: 20,
  // Either direction.
  notForwarding: 21,
  sendQueueFull: 22,
  sendFailed: 23,
  tunDown: 24,
  tunWriteFailed: 25,
} as const;

export type Drop = (typeof Drop)[keyof typeof Drop];
export type DropName = Exclude<keyof typeof Drop, 'none'>;

/** Indexed by reason. */
export const dropNames: readonly (keyof typeof Drop)[] = Object.keys(Drop) as (keyof typeof Drop)[];
