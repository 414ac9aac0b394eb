/**
 * What each drop reason means and what an operator does about it, as docs/packet-path.md has it: of the
 * packet path, and the two that only the kernel counts.
 */
import type { DropName } from './drop-reason.ts';

export interface DropMeaning {
  readonly meaning: string;
  readonly remedy: string;
}

export type CountedDrop = DropName | 'receiveQueueFull' | 'tunQueueFull';

const TEXTS: Readonly<Record<CountedDrop, readonly [meaning: string, remedy: string]>> = {
  truncated: [
    'the datagram ends before its headers do',
    'not VXLAN, or a broken sender: look who sends to the port',
  ],
  flags: [
    'the VXLAN I flag is not set',
    'not VXLAN, or a broken sender: look who sends to the port',
  ],
  vni: ['another VNI than ours', 'two overlays share a port: change the port or VNI of one'],
  innerMac: [
    "inner Ethernet destination is not this node's",
    'the sender has an old lease of ours; it should pass',
  ],
  etherType: [
    'neither IPv4 nor IPv6 inside (ARP, 802.1Q)',
    'a peer that is not set up as flannel does it',
  ],
  ipHeader: [
    'version or lengths of the inner header contradict each other',
    'a broken or hostile sender',
  ],
  ipChecksum: ['wrong IPv4 header checksum', 'damage on the way, or a hostile sender'],
  outerSource: [
    "the outer source is no peer's address",
    'a stranger, a peer behind NAT, or one whose lease is not here yet',
  ],
  innerSource: [
    "the inner source is not in that peer's subnets",
    "a peer that forwards others' traffic, or spoofing",
  ],
  innerDestination: [
    "the inner destination is not in this node's subnets",
    'the sender has an old lease of ours; it should pass',
  ],
  nested: [
    "VXLAN inside VXLAN, to the node's own end point",
    'an attack, or a tunnel set up to the wrong address',
  ],
  ecn: [
    'congestion marked outside, not allowed inside (RFC 6040)',
    'a router marks packets that do not take part in ECN',
  ],
  ttl: ['the inner TTL or hop limit is 0', 'a routing loop'],
  oversized: [
    "larger than the TUN's MTU, and nobody can say how to cut it",
    'a peer with a larger MTU: make them equal',
  ],
  notOurSource: [
    'not from here, nor from the outside or a direct peer to a pod here',
    'somebody spoofs, or a lease is not here yet',
  ],
  noPeer: [
    "no node holds the destination's subnet; answered with ICMP",
    "is that node's daemon up? `weft leases`",
  ],
  noPod: ['in our own subnet, but there is no such pod; answered with ICMP', 'the pod is gone'],
  multicast: [
    'multicast, broadcast, reserved or IPv6 link-local: no next hop here',
    'nothing; hosts send some by themselves',
  ],
  martian: [
    'from or to an address that never leaves a host: 0/8, 127/8, ::/32; or from multicast or link-local',
    'a pod that probes, or a broken sender',
  ],
  tooBig: [
    'larger than the path takes; answered with ICMP',
    'nothing if it passes; else lower the MTU',
  ],
  offloadHeader: [
    "the kernel's vnet header contradicts the packet",
    'report it; `--offloads -tun-tso` helps meanwhile',
  ],
  notForwarding: [
    "this node's lease is not its own at the moment",
    'is etcd reachable? the log says since when',
  ],
  sendQueueFull: [
    "the socket's or the device's queue was full",
    'the underlay is slower than the pods',
  ],
  sendFailed: ['the kernel refused it: no route, a firewall', "`ip route get` the peer's address"],
  tunDown: ['`weft0` is down', 'the daemon sets it up again'],
  tunWriteFailed: ['the kernel refused it', 'report it'],
  policyEgress: ['a policy does not let the pod send this', '`weft policy verdict` says which one'],
  policyIngress: [
    'a policy does not let the pod receive this',
    '`weft policy verdict` says which one',
  ],
  noPolicy: ['policies for this pod are not known yet', 'it should pass; is etcd reachable?'],
  noEndpoints: [
    'a Service without a ready endpoint; answered with RST or ICMP',
    'are its pods ready?',
  ],
  noLocalEndpoint: [
    'traffic policy Local, and no endpoint on this node',
    'send to nodes that have one (health check port)',
  ],
  unusedPort: ['the Service has no such port; answered with RST or ICMP', 'is it the right port?'],
  unallocated: ["in a Service network, and no Service's", 'the Service is gone, or not here yet'],
  sourceRange: ["outside of the Service's loadBalancerSourceRanges", 'nothing, or widen them'],
  fragment: [
    'a fragment whose first one was not seen, or that hides its ports',
    "lower the sender's packet size; or an attack",
  ],
  transport: [
    'a transport header cut short, or extension headers that do not end',
    'a broken or hostile sender',
  ],
  protocol: ['IP protocol 0, 253 or 254', 'a broken or hostile sender'],
  flowConflict: [
    'no source port is left for this backend',
    'fewer clients for each endpoint, or more endpoints',
  ],
  receiveQueueFull: [
    'datagrams lost before a worker read them: socket queue full',
    'more `--workers`, or a faster node',
  ],
  tunQueueFull: [
    'packets lost before a worker read them: TUN queue full',
    'more `--workers`, or a faster node',
  ],
};

/** Null: the name is no drop reason. */
export function dropMeaning(name: string): DropMeaning | null {
  if (!Object.hasOwn(TEXTS, name)) return null;
  const [meaning, remedy] = TEXTS[name as CountedDrop];
  return { meaning, remedy };
}
