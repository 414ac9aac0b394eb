/**
 * What each drop reason means and what to do about it, for people: `weft status` and docs/drop-reasons.md.
 * Packets may also be lost in queues of the kernel, before a worker has seen them.
 */
import type { DropName } from './drop-reason.ts';

export interface DropText {
  /** Where it is dropped. */
  readonly stage: string;
  readonly means: string;
  readonly action: string;
}

export const DROP_TEXTS: Readonly<
  Record<DropName | 'receiveQueueFull' | 'tunQueueFull', DropText>
> = {
  truncated: {
    stage: 'ingress',
    means: 'the datagram ends before its headers do',
    action: 'not VXLAN, or a broken sender: look who sends to the port',
  },
  flags: {
    stage: 'ingress',
    means: 'the VXLAN I flag is not set',
    action: 'not VXLAN, or a broken sender: look who sends to the port',
  },
  vni: {
    stage: 'ingress',
    means: 'another VNI than ours',
    action: 'two overlays share a port: change the port or VNI of one',
  },
  innerMac: {
    stage: 'ingress',
    means: "inner Ethernet destination is not this node's",
    action: 'the sender has an old lease of ours; it should pass',
  },
  etherType: {
    stage: 'ingress',
    means: 'neither IPv4 nor IPv6 inside (ARP, 802.1Q)',
    action: 'a peer that is not set up as flannel does it',
  },
  ipHeader: {
    stage: 'both',
    means: 'version or lengths of the inner header contradict each other',
    action: 'a broken or hostile sender',
  },
  ipChecksum: {
    stage: 'ingress',
    means: 'wrong IPv4 header checksum',
    action: 'damage on the way, or a hostile sender',
  },
  outerSource: {
    stage: 'ingress',
    means: "the outer source is no peer's address",
    action: 'a stranger, a peer behind NAT, or one whose lease is not here yet',
  },
  innerSource: {
    stage: 'ingress',
    means: "the inner source is not in that peer's subnets",
    action: "a peer that forwards others' traffic, or spoofing",
  },
  innerDestination: {
    stage: 'ingress',
    means: "the inner destination is not in this node's subnets",
    action: 'the sender has an old lease of ours; it should pass',
  },
  nested: {
    stage: 'ingress',
    means: "VXLAN inside VXLAN, to the node's own end point",
    action: 'an attack, or a tunnel set up to the wrong address',
  },
  ecn: {
    stage: 'ingress',
    means: 'congestion marked outside, not allowed inside (RFC 6040)',
    action: 'a router marks packets that do not take part in ECN',
  },
  ttl: { stage: 'ingress', means: 'the inner TTL or hop limit is 0', action: 'a routing loop' },
  oversized: {
    stage: 'ingress',
    means: "larger than the TUN's MTU, and nobody can say how to cut it",
    action: 'a peer with a larger MTU: make them equal',
  },
  notOurSource: {
    stage: 'egress',
    means: 'not from here, nor from the outside or a direct peer to a pod here',
    action: 'somebody spoofs, or a lease is not here yet',
  },
  noPeer: {
    stage: 'egress',
    means: "no node holds the destination's subnet; answered with ICMP",
    action: "is that node's daemon up? `weft lease list`",
  },
  noPod: {
    stage: 'both',
    means: 'in our own subnet, but there is no such pod; answered with ICMP',
    action: 'the pod is gone',
  },
  multicast: {
    stage: 'egress',
    means: 'multicast, broadcast, reserved or IPv6 link-local: no next hop here',
    action: 'nothing; hosts send some by themselves',
  },
  martian: {
    stage: 'egress',
    means:
      'from or to an address that never leaves a host: 0/8, 127/8, ::/32; or from multicast or link-local',
    action: 'a pod that probes, or a broken sender',
  },
  tooBig: {
    stage: 'egress, sending',
    means: 'larger than the path takes; answered with ICMP',
    action: 'nothing if it passes; else lower the MTU',
  },
  offloadHeader: {
    stage: 'egress',
    means: "the kernel's vnet header contradicts the packet",
    action: 'report it; `--offloads -tun-tso` helps meanwhile',
  },
  notForwarding: {
    stage: 'both',
    means: "this node's lease is not its own at the moment, or not yet",
    action: 'is etcd reachable? the log says since when',
  },
  sendQueueFull: {
    stage: 'sending',
    means: "the socket's or the device's queue was full",
    action: 'the underlay is slower than the pods',
  },
  sendFailed: {
    stage: 'sending',
    means: 'the kernel refused it: no route, a firewall',
    action: "`ip route get` the peer's address",
  },
  tunDown: {
    stage: 'TUN, both ways',
    means: '`weft0` is down',
    action: 'the daemon sets it up again',
  },
  tunWriteFailed: { stage: 'TUN, both ways', means: 'the kernel refused it', action: 'report it' },
  policyEgress: {
    stage: 'flow',
    means: 'a policy does not let the pod send this',
    action: '`weft policy verdict` says which one',
  },
  policyIngress: {
    stage: 'flow',
    means: 'a policy does not let the pod receive this',
    action: '`weft policy verdict` says which one',
  },
  noPolicy: {
    stage: 'flow',
    means: 'policies for this pod are not known yet',
    action: 'it should pass; is etcd reachable?',
  },
  noEndpoints: {
    stage: 'flow',
    means: 'a Service without a ready endpoint; answered with RST or ICMP',
    action: 'are its pods ready?',
  },
  noLocalEndpoint: {
    stage: 'flow',
    means: 'traffic policy Local, and no endpoint on this node',
    action: 'send to nodes that have one (health check port)',
  },
  unusedPort: {
    stage: 'flow',
    means: 'the Service has no such port; answered with RST or ICMP',
    action: 'is it the right port?',
  },
  unallocated: {
    stage: 'flow',
    means: "in a Service network, and no Service's",
    action: 'the Service is gone, or not here yet',
  },
  sourceRange: {
    stage: 'flow',
    means: "outside of the Service's loadBalancerSourceRanges",
    action: 'nothing, or widen them',
  },
  fragment: {
    stage: 'flow',
    means: 'a fragment whose first one was not seen, or that hides its ports',
    action: "lower the sender's packet size; or an attack",
  },
  transport: {
    stage: 'flow',
    means: 'a transport header cut short, or extension headers that do not end',
    action: 'a broken or hostile sender',
  },
  protocol: {
    stage: 'flow',
    means: 'IP protocol 0, 253 or 254',
    action: 'a broken or hostile sender',
  },
  flowConflict: {
    stage: 'flow',
    means: 'no source port is left for this backend',
    action: 'fewer clients for each endpoint, or more endpoints',
  },
  receiveQueueFull: {
    stage: 'kernel',
    means: 'datagrams lost before a worker read them: socket queue full',
    action: 'more `--workers`, or a faster node',
  },
  tunQueueFull: {
    stage: 'kernel',
    means: 'packets lost before a worker read them: TUN queue full',
    action: 'more `--workers`, or a faster node',
  },
};
