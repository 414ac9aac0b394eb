/** What the API's questions and answers hold: plain JSON, addresses as text. */
import type { EntryProblem } from '../ipam/peers.ts';
import type { NodeLease } from '../ipam/types.ts';
import type { Kind } from '../objects/types.ts';
import type { PeerTraffic } from '../overlay/types.ts';
import { type IpAddress, formatAddress } from '../wire/address.ts';
import { type Cidr, formatCidr } from '../wire/cidr.ts';
import type { CniCode, NamedContainerPort } from '../wire/cni.ts';
import { formatMac } from '../wire/mac.ts';

export interface LeaseMessage {
  readonly key: string;
  readonly subnet: string | null;
  readonly ipv6Subnet: string | null;
  readonly publicIp: string | null;
  readonly publicIpv6: string | null;
  readonly vtepMac: string | null;
  readonly vtepMacV6: string | null;
  /** An operator's reservation: it has no end. */
  readonly reserved: boolean;
  /** This node's own. */
  readonly own: boolean;
  /** Seconds that it may still be used unless it is renewed; null: it has no end, or is another node's. */
  readonly endsInS: number | null;
}

export interface LeasesMessage {
  readonly leases: readonly LeaseMessage[];
  readonly problems: readonly EntryProblem[];
}

/** Something that is not as it should be. */
export interface FindingMessage {
  /** error: traffic is cut off, or will be; warning: it passes, not as it should; note: nothing to mend. */
  readonly severity: 'error' | 'warning' | 'note';
  /** Stable; docs/troubleshooting.md has them all. */
  readonly code: string;
  readonly what: string;
  /** For traffic. */
  readonly consequence: string;
  readonly remedy: string;
}

export interface StatusMessage {
  readonly node: string;
  readonly version: string;
  readonly pid: number;
  readonly startedAt: string;
  /** The lease is ours, and packets go through. */
  readonly forwarding: boolean;
  /** Forwarding, and nothing stands in the way of the next change. */
  readonly ready: boolean;
  /** Why not ready, one line each; empty when ready. */
  readonly reasons: readonly string[];
  readonly etcd: {
    readonly endpoints: readonly string[];
    readonly own: boolean;
    /** Null: it answers, or was not asked yet. */
    readonly unreachable: { readonly since: string; readonly message: string } | null;
  };
  /** Packet threads. */
  readonly workers: number;
  readonly host: {
    /** Interface, routes, rules and nft table were once as they should be. */
    readonly applied: boolean;
    /** Why they are not at the moment. */
    readonly problem: string | null;
  };
  readonly underlay: {
    readonly iface: string;
    readonly mtuBytes: number;
    readonly publicIp: string | null;
    readonly publicIpv6: string | null;
  };
  /** Null before the network config was read. */
  readonly overlay: {
    readonly tunName: string;
    readonly mtuBytes: number;
    readonly vni: number;
    readonly port: number;
    readonly network: string | null;
    readonly ipv6Network: string | null;
    readonly directRouting: boolean;
  } | null;
  readonly lease: LeaseMessage | null;
  readonly peers: readonly LeaseMessage[];
  /** What echoes to peers have shown, by the leases' keys; the rest is well or was not asked yet. */
  readonly probes: {
    /** Why none are sent. */
    readonly problem: string | null;
    /** They answer neither outside of the tunnel nor through it. */
    readonly silent: readonly string[];
    /** They answer, and not through the tunnel. */
    readonly tunnelSilent: readonly string[];
    /** Through the tunnel some are lost. */
    readonly lossy: readonly string[];
    /** Packets of the overlay's MTU do not arrive. */
    readonly smallMtu: readonly string[];
  };
  /** Interfaces that pods have on this node. */
  readonly pods: number;
  /** Null: a plain overlay. */
  readonly objects: ObjectsStatus | null;
  /** Rungs in use, by name; null before the packet path runs. */
  readonly offloads: Readonly<Record<string, boolean>> | null;
  /** Rungs that were wanted and do not work here, with why. */
  readonly offloadsGivenUp: Readonly<Record<string, string>>;
  /** Of the packet path; and `host.…`, packets that the nft table refused, since it was made. */
  readonly counters: Readonly<Record<string, number>>;
  /** Packets by drop reason, of the last minute; those that are nought are left out. */
  readonly dropsPerSecond: Readonly<Record<string, number>>;
  /** The worst first; empty when all is well. */
  readonly findings: readonly FindingMessage[];
}

/** The last echoes along one way to a peer, at most 30. */
export interface EchoesMessage {
  readonly sent: number;
  readonly received: number;
  /** None of the last five was answered. */
  readonly silent: boolean;
  /** Mean of the round trips; null when nothing was answered. */
  readonly avgMs: number | null;
}

export interface LinkProbeMessage extends EchoesMessage {
  /** To the node's own address, or through the tunnel to `.0` of its subnet. */
  readonly kind: 'underlay' | 'overlay';
  readonly address: string;
  readonly minMs: number | null;
  readonly maxMs: number | null;
  /** The largest packet that was answered; null when none was, or none was tried. */
  readonly pathMtuBytes: number | null;
  /** The largest that should be. */
  readonly expectedMtuBytes: number;
  /** Why the kernel did not send. */
  readonly problem: string | null;
}

export interface PeerProbeMessage {
  /** RFC 3339. */
  readonly time: string;
  readonly links: readonly LinkProbeMessage[];
}

/**
 * VXLAN datagrams to a peer and from it, since it came or the daemon began, and their bytes without outer IP and
 * UDP headers (docs/packet-path.md); at most two seconds old.
 */
export interface PeerTrafficMessage extends PeerTraffic {
  /** Of the last two seconds; null: they have not passed yet. */
  readonly sentBytesPerS: number | null;
  readonly receivedBytesPerS: number | null;
}

export interface PeerMessage {
  /** By its Node object, else its address. */
  readonly node: string;
  readonly lease: LeaseMessage;
  /** The underlay address that packets for its subnets go to, one a family; null: none is known. */
  readonly nextHop: string | null;
  readonly nextHopV6: string | null;
  /** Reached by plain routes, without VXLAN. */
  readonly direct: boolean;
  /** Of the underlay, as the kernel knows it. */
  readonly pathMtuBytes: number | null;
  /** Null: it was not asked yet. */
  readonly probe: PeerProbeMessage | null;
  /** Null: the packet path does not know it yet, or it is direct in each family. */
  readonly traffic: PeerTrafficMessage | null;
}

/** GET /v1/peers; POST /v1/peers/probe, which asks all of them first. */
export interface PeersMessage {
  readonly peers: readonly PeerMessage[];
  /** Why peers are not asked. */
  readonly problem: string | null;
}

/** What is known of Kubernetes' objects. */
export interface ObjectsStatus {
  /** False: not all of them yet, and nothing goes to pods or comes from them. */
  readonly listed: boolean;
  /** Of both kinds. */
  readonly policies: number;
  readonly services: number;
  /** What is wrong with objects, one line each. */
  readonly problems: readonly string[];
  /** Why the last change could not be taken up; null: it was. */
  readonly failure: string | null;
}

/** One end of a flow: what the packet says, and who had the address when it was seen. */
export interface FlowEndMessage {
  /** Null: the packet was none. */
  readonly address: string | null;
  /** Null for protocols without ports. */
  readonly port: number | null;
  readonly namespace: string | null;
  readonly pod: string | null;
  /** The pod's node, or the node whose own address it is. */
  readonly node: string | null;
}

/** A flow that began, or a packet that was dropped, on one node. */
export interface FlowMessage {
  /** Of this node's events; they only grow. */
  readonly sequence: number;
  /** RFC 3339, milliseconds. */
  readonly time: string;
  /** Where it was seen. */
  readonly node: string;
  readonly verdict: 'forwarded' | 'dropped';
  /** A drop reason (docs/drop-reasons.md), or null. */
  readonly reason: string | null;
  /** egress: from a pod, the node or a client; ingress: from another node. */
  readonly direction: 'egress' | 'ingress';
  /** Dropped, as an answer in a flow that policy denies: who began it is the destination. */
  readonly isReply: boolean;
  /** TCP, UDP, SCTP, ICMP, ICMPv6, or the number. */
  readonly protocol: string;
  /** `SYN,ACK`; of packets that were dropped. */
  readonly tcpFlags: string;
  readonly source: FlowEndMessage;
  /** As the client asked: the Service's address, where it is a Service. */
  readonly destination: FlowEndMessage;
  readonly service: {
    readonly namespace: string;
    readonly name: string;
    readonly port: string;
  } | null;
  /** The endpoint that was chosen. */
  readonly backend: FlowEndMessage | null;
  /** Of a datagram that was refused: who sent it. */
  readonly outerSource: string | null;
  readonly bytes: number;
  /** The policy and rule that denied. */
  readonly because: string | null;
}

/** GET /v1/flows */
export interface FlowsMessage {
  /** Who has seen them. */
  readonly node: string;
  readonly flows: readonly FlowMessage[];
  /** `after` of the question that goes on from here. */
  readonly next: number;
  /** Another one: another daemon, which counts anew. */
  readonly run: string;
  /** Events since the daemon began that nobody will see: they came faster than they were read. */
  readonly lost: number;
}

/** One thing that is decided about a packet, or happens to it. */
export interface TraceStage {
  readonly node: string;
  readonly stage: 'pod' | 'tun' | 'service' | 'egress' | 'route' | 'receive' | 'ingress' | 'node';
  readonly outcome: 'passes' | 'dropped';
  /** A drop reason (docs/packet-path.md), or null. */
  readonly reason: string | null;
  readonly text: string;
}

/** One way that the packet may take: a Service has one for each endpoint. */
export interface TracePath {
  /** The endpoint, or null. */
  readonly backend: string | null;
  readonly arrives: boolean;
  /** In order, up to the one that drops. */
  readonly stages: readonly TraceStage[];
}

/** GET /v1/trace */
export interface TraceMessage {
  readonly from: string;
  readonly to: string;
  readonly protocol: string;
  readonly port: number | null;
  /** By every path. */
  readonly arrives: boolean;
  readonly paths: readonly TracePath[];
}

/** A packet of a live trace, as it passed on a node. */
export interface SightingMessage {
  readonly node: string;
  /** Since it was sent, milliseconds; null: on another node, whose clock is another. */
  readonly atMs: number | null;
  readonly direction: 'egress' | 'ingress';
  readonly source: string | null;
  readonly destination: string | null;
  readonly reason: string | null;
  /** What was decided. */
  readonly text: string;
}

/** POST /v1/trace/live */
export interface LiveTraceMessage {
  /** What was to be expected. */
  readonly trace: TraceMessage;
  /** On this node and that of the destination, in the order in which they must have been. */
  readonly seen: readonly SightingMessage[];
  /** Nodes that should have watched and did not, and why. */
  readonly absent: readonly string[];
  /** SYN-ACK, RST, datagram, echo reply, an ICMP error; or null. */
  readonly answer: string | null;
  /** `not seen`: it did not come out of the TUN; `no answer`: it went on from where it was seen last. */
  readonly outcome: 'answered' | 'refused' | 'dropped' | 'no answer' | 'not seen';
}

/** GET /v1/trace/watch: nodes ask one another. It ends by itself, or when its packets are fetched. */
export interface TraceWatchMessage {
  readonly node: string;
  readonly id: string;
}

/** GET /v1/trace/watch/:id: what was seen of the probe, in order; `atMs` is null. */
export interface TraceWatchedMessage {
  readonly node: string;
  readonly seen: readonly SightingMessage[];
}

/** Header of the answer to GET /v1/capture, a stream of pcapng: DELETE /v1/capture/ID ends it. */
export const CAPTURE_ID = 'weft-capture';

/** DELETE /v1/capture/:id */
export interface CaptureMessage {
  readonly captured: number;
  /** They came faster than they were read, by the daemon or the client. */
  readonly lost: number;
}

/** POST /v1/policy/diff */
export interface PolicyDiffRequest {
  /** Policies as raw Kubernetes JSON. */
  readonly documents: readonly Readonly<Record<string, unknown>>[];
  /** They are all that there would be; else they come to those that are known. */
  readonly replace: boolean;
  /** Null: those that the flow logs of all nodes remember. */
  readonly flows: readonly FlowQuestion[] | null;
  /** Of the flow logs: not older; null: all. */
  readonly since: string | null;
}

/** A flow that somebody else has seen. */
export interface FlowQuestion {
  readonly source: string;
  readonly destination: string;
  /** IANA's number. */
  readonly protocol: number;
  /** Of the destination; 0 for protocols without ports. */
  readonly port: number;
  readonly count: number;
  /** RFC 3339 */
  readonly firstSeen: string;
  readonly lastSeen: string;
}

/** Flows of one kind that policies of a node have let through or denied. */
export interface FlowKindMessage extends FlowQuestion {
  /** What the client asked, when a Service gave it the destination; else null. */
  readonly frontend: { readonly address: string; readonly port: number } | null;
  /** Who had the addresses then, `namespace/name`; null: no pod. */
  readonly sourcePod: string | null;
  readonly destinationPod: string | null;
  /** It came into the overlay here: no other node has sent it, and may tell it too. */
  readonly entered: boolean;
}

/** GET /v1/flows/kinds: nodes ask one another. */
export interface FlowKindsMessage {
  readonly node: string;
  /** The newest. */
  readonly kinds: readonly FlowKindMessage[];
  /** Kinds beyond those. */
  readonly untold: number;
}

/** Flows of one source, destination, protocol and port that other policies would treat otherwise. */
export interface PolicyChangeMessage extends Pick<
  FlowMessage,
  'source' | 'destination' | 'service' | 'protocol' | 'backend'
> {
  readonly before: 'allow' | 'deny';
  readonly beforeBecause: string;
  readonly after: 'allow' | 'deny';
  readonly afterBecause: string;
  readonly count: number;
  readonly firstSeen: string;
  readonly lastSeen: string;
}

export interface PolicyDiffMessage {
  readonly changes: readonly PolicyChangeMessage[];
  /** Kinds of flow that were asked about. */
  readonly asked: number;
  /** Not asked about: the pod that had the address then has it no more. */
  readonly gone: number;
  /** Not asked about: there are too many; the newest were. */
  readonly untold: number;
  /** Nodes whose flows are missing, and why. */
  readonly absent: readonly string[];
}

/** From this node to a peer and back: of what `weft peers` tells, of two families the worse one. */
export interface LinkMessage {
  /** The peer's lease. */
  readonly key: string;
  /** Null: not asked yet, or it cannot be. */
  readonly overlay: EchoesMessage | null;
  readonly underlay: EchoesMessage | null;
  readonly traffic: PeerTrafficMessage | null;
}

/** What a node carried between two looks at its counters, by the second. */
export interface RateMessage {
  readonly timeMs: number;
  /** VXLAN to peers and from them. */
  readonly outBytes: number;
  readonly inBytes: number;
  readonly drops: number;
}

/** One end of what the service map shows. */
export interface PlaceMessage {
  readonly kind: 'workload' | 'service' | 'node' | 'outside';
  /** `namespace/name`, a node's name, or an address of nobody's. */
  readonly name: string;
}

/** Flows that began, and packets that were dropped, between two places, in the last minutes. */
export interface EdgeMessage {
  readonly from: PlaceMessage;
  readonly to: PlaceMessage;
  readonly forwarded: number;
  readonly dropped: number;
}

/** Drops of one kind, in the last minutes. */
export interface DropMessage {
  readonly reason: string;
  /** The policy and rule, where it is one. */
  readonly because: string | null;
  readonly count: number;
  /** The newest of them. */
  readonly last: FlowMessage;
}

export interface TimelineMessage {
  /** RFC 3339, milliseconds. */
  readonly time: string;
  readonly node: string;
  readonly kind: 'node' | 'lease' | 'peer' | 'policy' | 'service' | 'drops';
  readonly text: string;
}

/** GET /v1/node: one node, as the page shows it. */
export interface NodeMessage {
  readonly node: string;
  readonly version: string;
  readonly startedAt: string;
  readonly forwarding: boolean;
  readonly ready: boolean;
  readonly reasons: readonly string[];
  readonly lease: StatusMessage['lease'];
  readonly pods: number;
  readonly links: readonly LinkMessage[];
  readonly rates: readonly RateMessage[];
  readonly edges: readonly EdgeMessage[];
  readonly drops: readonly DropMessage[];
  readonly timeline: readonly TimelineMessage[];
}

/** A node of GET /v1/cluster. What it told of flows and events is joined with the others'. */
export interface ClusterNodeMessage extends LeaseMessage {
  /** As it calls itself; the key of its lease, where it does not answer. */
  readonly name: string;
  readonly answer: Omit<NodeMessage, 'edges' | 'drops' | 'timeline'> | null;
  /** Why there is no answer. */
  readonly problem: string | null;
}

/** GET /v1/cluster */
export interface ClusterMessage {
  /** RFC 3339, milliseconds. */
  readonly time: string;
  /** Who asked the others. */
  readonly node: string;
  /** Itself first, then by name. */
  readonly nodes: readonly ClusterNodeMessage[];
  /** Most first, at most some hundreds. */
  readonly edges: readonly EdgeMessage[];
  readonly drops: readonly DropMessage[];
  /** Newest first. */
  readonly timeline: readonly TimelineMessage[];
}

/** GET /v1/cluster/flows: of all nodes that answer, or of those that `node` names, oldest first. */
export interface ClusterFlowsMessage {
  readonly flows: readonly FlowMessage[];
  /** Nodes that did not answer, and why: `n2: no answer within 3 s`. */
  readonly absent: readonly string[];
}

/** A line of GET /v1/cluster/flows/follow and, below its head, of GET /v1/flows/lines: a flow, or what else its reader must know of a node. */
export type FollowedMessage =
  { readonly flow: FlowMessage } | { readonly node: string; readonly note: string };

/** GET /v1/explain */
export interface ExplainMessage {
  readonly from: string;
  readonly to: string;
  readonly protocol: string;
  readonly port: number | string;
  /** partly: it depends on which endpoint of the Service is chosen. */
  readonly verdict: 'allow' | 'deny' | 'partly';
  /** In the order in which a packet meets them. */
  readonly steps: readonly {
    readonly what: string;
    readonly verdict: 'allow' | 'deny';
    readonly because: string;
  }[];
}

/** GET /v1/shadow; PUT with `documents` and `replace` begins, DELETE ends, on all nodes. */
export interface ShadowMessage {
  readonly node: string;
  /** Null: no policies are tried. */
  readonly trial: {
    /** RFC 3339 */
    readonly startedAt: string;
    readonly policies: readonly string[];
    readonly replace: boolean;
    /** Events of flows: new ones, and those that policies denied. */
    readonly asked: number;
    /** Events that there was no time for, or kinds of flow too many. */
    readonly skipped: number;
    /** Differences beyond those that are remembered. */
    readonly untold: number;
  } | null;
  /** Why what was given is ignored, or could not be compiled. */
  readonly problem: string | null;
  /** `before`: what was done; `after`: what the policies that are tried would have done. */
  readonly changes: readonly PolicyChangeMessage[];
}

/** GET /v1/cluster/shadow: what all nodes found. */
export interface ClusterShadowMessage {
  /** Who asked the others. */
  readonly node: string;
  /** As this node knows it, with the numbers of all nodes. */
  readonly trial: ShadowMessage['trial'];
  /** A difference that two nodes found is one, with both reasons. */
  readonly changes: ShadowMessage['changes'];
  /** What is missing, and why: `n2: no answer within 3 s`. */
  readonly problems: readonly string[];
}

export interface ErrorMessage {
  readonly error: { readonly code: string; readonly message: string };
}

/** POST /v1/cni: what the CNI plugin asks, its environment and configuration checked for form. */
export type CniRequest =
  | CniAddRequest
  | CniCheckRequest
  | { readonly command: 'DEL'; readonly containerId: string; readonly ifname: string }
  | {
      readonly command: 'GC';
      readonly network: string;
      /** What the runtime still knows; everything else of the network goes. */
      readonly valid: readonly { readonly containerId: string; readonly ifname: string }[];
    }
  | { readonly command: 'STATUS' };

export interface CniAddRequest {
  readonly command: 'ADD';
  /** The configuration's `name`. */
  readonly network: string;
  readonly containerId: string;
  readonly ifname: string;
  /** Path of the container's network namespace (CNI_NETNS). */
  readonly netns: string;
  /** Addresses asked for, at most one of each family (capability `ips`, CNI_ARGS IP, args.cni.ips). */
  readonly ips: readonly string[];
  /** Ethernet address asked for (capability `mac`, CNI_ARGS MAC, args.cni.mac). */
  readonly mac: string | null;
  /** CNI_ARGS K8S_POD_NAMESPACE and K8S_POD_NAME. */
  readonly pod: { readonly namespace: string; readonly name: string } | null;
  /** args.cni.labels, and CNI_ARGS K8S_POD_LABELS; absent: none. */
  readonly labels?: Readonly<Record<string, string>>;
  /** args.cni.ports; absent: none. */
  readonly ports?: readonly NamedContainerPort[];
}

export interface CniCheckRequest {
  readonly command: 'CHECK';
  readonly network: string;
  readonly containerId: string;
  readonly ifname: string;
  readonly netns: string;
  /** Of prevResult, those of this plugin's interface, without lengths; null: there was no prevResult. */
  readonly ips: readonly string[] | null;
  /** Of prevResult's interface `ifname`, or null. */
  readonly mac: string | null;
}

/** What ADD made. */
export interface CniAttachment {
  readonly hostInterface: { readonly name: string; readonly mac: string };
  readonly interface: { readonly name: string; readonly mac: string; readonly sandbox: string };
  readonly mtuBytes: number;
  /** `10.244.1.2/32` and `fd00::2/128`. */
  readonly ips: readonly { readonly address: string; readonly gateway: string }[];
  readonly routes: readonly { readonly dst: string; readonly gw: string }[];
}

export interface CniError {
  readonly code: CniCode;
  readonly msg: string;
  readonly details?: string;
}

/** `attachment` for ADD, null for the others. */
export type CniAnswer =
  { readonly attachment: CniAttachment | null } | { readonly error: CniError };

/** One attachment, as `weft ipam show` prints it. */
export interface AttachmentMessage {
  readonly containerId: string;
  readonly ifname: string;
  readonly network: string;
  readonly netns: string;
  readonly hostInterface: string;
  readonly address: string | null;
  readonly ipv6Address: string | null;
  readonly mac: string;
  /** `namespace/name`, or null. */
  readonly pod: string | null;
}

/** GET /v1/ipam */
export interface IpamMessage {
  readonly subnet: string | null;
  readonly ipv6Subnet: string | null;
  /** Addresses that pods can have; null where there are more than can be counted (IPv6). */
  readonly capacity: number | null;
  readonly used: number;
  readonly reserved: readonly string[];
  readonly attachments: readonly AttachmentMessage[];
}

/** GET /v1/ipam/check: what does not agree, one line each; empty when all is well. */
export interface IpamCheckMessage {
  readonly attachments: number;
  readonly problems: readonly string[];
}

/** GET /v1/host/check: what is not as it should be on the host, one line each; empty when all is well. */
export interface HostDifferencesMessage {
  readonly differences: readonly string[];
}

export interface ObjectNameMessage {
  readonly kind: Kind;
  /** '' for objects of the cluster. */
  readonly namespace: string;
  readonly name: string;
}

/** POST /v1/objects: all are checked before one is written. */
export interface ApplyRequest {
  /** Raw Kubernetes JSON, one object each. */
  readonly documents: readonly Readonly<Record<string, unknown>>[];
  /** Remembered with each object, for a later --prune. */
  readonly set: string;
  readonly dryRun: boolean;
}

/** POST /v1/objects/delete */
export interface DeleteRequest {
  readonly objects: readonly ObjectNameMessage[];
  /** Only what this set's `weft apply` wrote last; null: whatever is there. */
  readonly set: string | null;
  readonly dryRun: boolean;
}

/** The answer to both, an element an object, in their order. */
export interface AppliedMessage extends ObjectNameMessage {
  readonly result: 'created' | 'configured' | 'unchanged' | 'deleted' | 'absent';
}

/** GET /v1/objects/:plural; GET /v1/objects?set=NAME is a list of ObjectNameMessage. */
export interface ObjectsMessage {
  readonly items: readonly Readonly<Record<string, unknown>>[];
}

/** `shop/web:4000`, `node/n1:4000`, `10.0.0.1:4000`, `[fd00::1]:4000`; without a port, ICMP's. */
export function endText({ address, port, namespace, pod, node }: FlowEndMessage): string {
  if (address === null) return '?';
  const named =
    pod === null ? (node === null ? null : `node/${node}`) : `${namespace ?? ''}/${pod}`;
  if (port === null) return named ?? address;
  return `${named ?? (address.includes(':') ? `[${address}]` : address)}:${port}`;
}

export const addressText = (address: IpAddress | null): string | null =>
  address === null ? null : formatAddress(address);
export const cidrText = (block: Cidr | null | undefined): string | null =>
  block === null || block === undefined ? null : formatCidr(block);

export const leaseMessage = (
  lease: NodeLease,
  own: boolean,
  endsInS: number | null = null,
): LeaseMessage => ({
  key: lease.key,
  subnet: cidrText(lease.subnet4),
  ipv6Subnet: cidrText(lease.subnet6),
  publicIp: addressText(lease.publicIp4),
  publicIpv6: addressText(lease.publicIp6),
  vtepMac: lease.vtep4 && formatMac(lease.vtep4.mac),
  vtepMacV6: lease.vtep6 && formatMac(lease.vtep6.mac),
  reserved: lease.reserved,
  own,
  endsInS,
});
