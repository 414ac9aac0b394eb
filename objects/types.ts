/**
 * The Kubernetes objects that decide about traffic, checked and with their defaults filled in: what
 * every source (directory, etcd, later an API server) hands out, and all that policy/ and service/ see.
 * Field names are Kubernetes' own; addresses and blocks are values, not text. Never changed after they
 * were handed out: an object that changed is another object.
 */
import type { IpAddress } from '../wire/address.ts';
import type { Cidr } from '../wire/cidr.ts';

export type Labels = Readonly<Record<string, string>>;

export interface Metadata {
  readonly name: string;
  /** '' for objects of the cluster: Namespace, Node, ClusterNetworkPolicy. */
  readonly namespace: string;
  readonly labels: Labels;
  readonly annotations: Labels;
}

export type Protocol = 'TCP' | 'UDP' | 'SCTP';
/** IANA's numbers, as they stand in packets. */
export const PROTOCOL_NUMBERS: Readonly<Record<Protocol, number>> = { TCP: 6, UDP: 17, SCTP: 132 };

/** metav1.LabelSelector. Both empty matches everything. */
export interface LabelSelector {
  readonly matchLabels: Labels;
  readonly matchExpressions: readonly {
    readonly key: string;
    readonly operator: 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';
    readonly values: readonly string[];
  }[];
}

export interface Namespace {
  readonly kind: 'Namespace';
  readonly metadata: Metadata;
  readonly phase: 'Active' | 'Terminating';
}

export interface ContainerPort {
  /** '' if it has none. */
  readonly name: string;
  /** 1..65535 */
  readonly containerPort: number;
  readonly protocol: Protocol;
}

export interface Pod {
  readonly kind: 'Pod';
  readonly metadata: Metadata;
  readonly nodeName: string;
  readonly hostNetwork: boolean;
  /** Of all containers and restartable init containers. */
  readonly ports: readonly ContainerPort[];
  /** status.podIPs, or podIP; at most one of each family; empty before it has one. */
  readonly podIPs: readonly IpAddress[];
  /** Succeeded and Failed pods have no traffic any more, and their addresses may be others'. */
  readonly phase: 'Pending' | 'Running' | 'Succeeded' | 'Failed' | 'Unknown';
  /** The condition Ready; true where there are no conditions at all and the phase is Running. */
  readonly ready: boolean;
  /** metadata.deletionTimestamp is set. */
  readonly terminating: boolean;
}

export interface Node {
  readonly kind: 'Node';
  readonly metadata: Metadata;
  /** status.addresses that are addresses (InternalIP, ExternalIP). */
  readonly addresses: readonly IpAddress[];
  readonly podCidrs: readonly Cidr[];
}

export interface ServicePort {
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
  /** A number, a container port's name, or, where it is left out, `port`. */
  readonly targetPort: number | string;
  /** 0: none. */
  readonly nodePort: number;
}

export interface Service {
  readonly kind: 'Service';
  readonly metadata: Metadata;
  readonly type: 'ClusterIP' | 'NodePort' | 'LoadBalancer' | 'ExternalName';
  /** Empty for headless ones ("None") and those that have none yet. */
  readonly clusterIPs: readonly IpAddress[];
  /** spec.clusterIP is "None". */
  readonly headless: boolean;
  readonly ports: readonly ServicePort[];
  /** Null: its endpoints are somebody else's to list. */
  readonly selector: Labels | null;
  readonly externalIPs: readonly IpAddress[];
  /** status.loadBalancer.ingress addresses whose ipMode is VIP (the default). */
  readonly loadBalancerIPs: readonly IpAddress[];
  readonly loadBalancerSourceRanges: readonly Cidr[];
  readonly sessionAffinity: 'None' | 'ClientIP';
  /** 1..86400 seconds; 10800 unless given. */
  readonly affinityTimeoutS: number;
  readonly internalTrafficPolicy: 'Cluster' | 'Local';
  readonly externalTrafficPolicy: 'Cluster' | 'Local';
  /** 0: none. */
  readonly healthCheckNodePort: number;
  /** PreferClose is PreferSameZone's older name, and becomes it. */
  readonly trafficDistribution: '' | 'PreferSameZone' | 'PreferSameNode';
  readonly publishNotReadyAddresses: boolean;
}

export interface Endpoint {
  readonly addresses: readonly IpAddress[];
  /** Absent conditions: ready and serving are true, terminating false. */
  readonly ready: boolean;
  readonly serving: boolean;
  readonly terminating: boolean;
  readonly nodeName: string;
  readonly zone: string;
  readonly hintsForZones: readonly string[];
  readonly hintsForNodes: readonly string[];
}

export interface EndpointSlice {
  readonly kind: 'EndpointSlice';
  readonly metadata: Metadata;
  readonly addressType: 'IPv4' | 'IPv6';
  /** The label kubernetes.io/service-name; '' for a slice of no Service. */
  readonly serviceName: string;
  readonly endpoints: readonly Endpoint[];
  readonly ports: readonly {
    readonly name: string;
    readonly protocol: Protocol;
    /** 0: all ports, which no proxy serves. */
    readonly port: number;
  }[];
}

export interface NetworkPolicyPort {
  readonly protocol: Protocol;
  /** Null: every port of the protocol. A text: the destination pod's container port of that name. */
  readonly port: number | string | null;
  /** Inclusive; null: only `port`. */
  readonly endPort: number | null;
}

/** One entry of from or to. ipBlock stands alone; of the other two at least one is there. */
export type NetworkPolicyPeer =
  | { readonly ipBlock: { readonly cidr: Cidr; readonly except: readonly Cidr[] } }
  | {
      readonly ipBlock?: undefined;
      readonly podSelector: LabelSelector | null;
      readonly namespaceSelector: LabelSelector | null;
    };

export interface NetworkPolicyRule {
  /** from or to; empty: any peer. */
  readonly peers: readonly NetworkPolicyPeer[];
  /** Empty: any protocol and port. */
  readonly ports: readonly NetworkPolicyPort[];
}

export interface NetworkPolicy {
  readonly kind: 'NetworkPolicy';
  readonly metadata: Metadata;
  readonly podSelector: LabelSelector;
  /** With the default of the absent field filled in. */
  readonly policyTypes: readonly ('Ingress' | 'Egress')[];
  readonly ingress: readonly NetworkPolicyRule[];
  readonly egress: readonly NetworkPolicyRule[];
}

/** One peer or subject of a ClusterNetworkPolicy. */
export type ClusterPeer =
  | { readonly type: 'namespaces'; readonly namespaceSelector: LabelSelector }
  | {
      readonly type: 'pods';
      readonly namespaceSelector: LabelSelector;
      readonly podSelector: LabelSelector;
    }
  | { readonly type: 'nodes'; readonly nodeSelector: LabelSelector }
  | { readonly type: 'networks'; readonly networks: readonly Cidr[] }
  /** A field of a later version: an Accept rule matches nobody by it, Deny and Pass deny everybody. */
  | { readonly type: 'unknown' };

export interface ClusterPolicyPort {
  /** Null: a port name alone, of whatever protocol the destination's container port has. */
  readonly protocol: Protocol | null;
  /** Inclusive; null: every port. */
  readonly range: { readonly start: number; readonly end: number } | null;
  /** The destination pod's container port of this name instead of a range; '' for none. */
  readonly portName: string;
  /** A field of a later version: as for peers. */
  readonly unknown: boolean;
}

export interface ClusterPolicyRule {
  readonly name: string;
  readonly action: 'Accept' | 'Deny' | 'Pass';
  readonly peers: readonly ClusterPeer[];
  /** Empty: any protocol and port. */
  readonly ports: readonly ClusterPolicyPort[];
}

export interface ClusterNetworkPolicy {
  readonly kind: 'ClusterNetworkPolicy';
  readonly metadata: Metadata;
  readonly tier: 'Admin' | 'Baseline';
  /** 0..1000; lower wins; equal ones by name. */
  readonly priority: number;
  readonly subject: ClusterPeer;
  /** In order; at most 25 each. */
  readonly ingress: readonly ClusterPolicyRule[];
  readonly egress: readonly ClusterPolicyRule[];
}

export type WeftObject =
  Namespace | Pod | Node | Service | EndpointSlice | NetworkPolicy | ClusterNetworkPolicy;
export type Kind = WeftObject['kind'];

/** `Pod default/web-1`; `Node n1`. */
export const describeObject = ({ kind, metadata }: WeftObject): string =>
  `${kind} ${metadata.namespace === '' ? '' : `${metadata.namespace}/`}${metadata.name}`;
/** `namespace/name`, or `/name`: unique within a kind. */
export const nameOf = ({ metadata }: WeftObject): string =>
  `${metadata.namespace}/${metadata.name}`;

/** Everything that is known, at one moment; by `nameOf`. Replaced as a whole, and map by map. */
export interface ObjectSet {
  readonly namespaces: ReadonlyMap<string, Namespace>;
  readonly pods: ReadonlyMap<string, Pod>;
  readonly nodes: ReadonlyMap<string, Node>;
  readonly services: ReadonlyMap<string, Service>;
  readonly endpointSlices: ReadonlyMap<string, EndpointSlice>;
  readonly networkPolicies: ReadonlyMap<string, NetworkPolicy>;
  readonly clusterNetworkPolicies: ReadonlyMap<string, ClusterNetworkPolicy>;
}

export const EMPTY_OBJECTS: ObjectSet = {
  namespaces: new Map(),
  pods: new Map(),
  nodes: new Map(),
  services: new Map(),
  endpointSlices: new Map(),
  networkPolicies: new Map(),
  clusterNetworkPolicies: new Map(),
};

/**
 * Where objects come from. Level, not edge: the whole set, first when it is complete for the first time
 * (nothing before that), then after every change, maps and objects that did not change being the same.
 * Ends when the signal is aborted. An object that is not valid is left out and told as a problem; one
 * that was valid before it changed stays as it was, so that a slip widens nothing.
 */
export interface ObjectSource {
  watch(signal: AbortSignal): AsyncIterable<ObjectSet>;
}

/** What is wrong with what a source holds. */
export interface ObjectProblem {
  /** A file with its line, or an etcd key. */
  readonly place: string;
  /** As far as it could be told. */
  readonly object: string;
  /** Path of the field, such as spec.ingress[0].ports[1].endPort; '' for the whole. */
  readonly field: string;
  readonly reason: string;
}
