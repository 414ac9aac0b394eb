/**
 * Why a packet went nowhere. On the packet path an error is one of these numbers; each has a counter of
 * the same name, which metrics, `weft status` and the documentation use too. wire/drop-texts.ts says
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
  martian: 19,
  tooBig: 20,
  offloadHeader: 21,
  // Either direction.
  notForwarding: 22,
  sendQueueFull: 23,
  sendFailed: 24,
  tunDown: 25,
  tunWriteFailed: 26,
  // A flow, either direction.
  policyEgress: 27,
  policyIngress: 28,
  noPolicy: 29,
  noEndpoints: 30,
  noLocalEndpoint: 31,
  unusedPort: 32,
  unallocated: 33,
  sourceRange: 34,
  fragment: 35,
  transport: 36,
  protocol: 37,
  flowConflict: 38,
} as const;

export type Drop = (typeof Drop)[keyof typeof Drop];
export type DropName = Exclude<keyof typeof Drop, 'none'>;

/** Indexed by reason. */
export const dropNames: readonly (keyof typeof Drop)[] = Object.keys(Drop) as (keyof typeof Drop)[];
