/** What the cluster's memory says about nodes: the network they share and the subnet each holds. */
import type { Ipv4, Ipv6 } from '../wire/address.ts';
import type { Cidr4, Cidr6 } from '../wire/cidr.ts';
import type { NamedContainerPort } from '../wire/cni.ts';
import type { Mac } from '../wire/mac.ts';
import type { Vni } from '../wire/vxlan.ts';

/** One family of `<prefix>/config`. Subnets lie in `min`..`max` (bases of the first and last). */
export interface FamilyNetwork<C, A> {
  readonly network: C;
  readonly subnetLength: number;
  readonly min: A;
  readonly max: A;
}

/** `<prefix>/config`, flannel's fields, checked. At least one family is present. */
export interface NetworkConfig {
  readonly ipv4: FamilyNetwork<Cidr4, Ipv4> | null;
  readonly ipv6: FamilyNetwork<Cidr6, Ipv6> | null;
  readonly vni: Vni;
  /** Outer UDP destination port, 1..65535. */
  readonly port: number;
  /** Underlay MTU given by the operator, or null: take the interface's. */
  readonly mtuBytes: number | null;
  readonly directRouting: boolean;
}

/** The VXLAN end point of a node in one family (flannel's BackendData and BackendV6Data). */
export interface Vtep {
  readonly mac: Mac;
  readonly vni: Vni;
}

/** What a node says of itself when it asks for a subnet. At least one public address is present. */
export interface NodeIdentity {
  readonly publicIp4: Ipv4 | null;
  readonly publicIp6: Ipv6 | null;
  readonly vtep4: Vtep | null;
  readonly vtep6: Vtep | null;
}

/** One entry below `<prefix>/subnets/`, checked. At least one subnet is present. */
export interface NodeLease extends NodeIdentity {
  /** The key's last part, `10.5.52.0-24` or `10.5.52.0-24&fd00:5::-64`; unique. */
  readonly key: string;
  readonly subnet4: Cidr4 | null;
  readonly subnet6: Cidr6 | null;
  /** The key has no etcd lease: an operator's reservation, which stays one. */
  readonly reserved: boolean;
}

/** One interface that a container runtime asked for (CNI ADD) and has not given back (DEL). */
export interface Attachment {
  readonly containerId: string;
  /** The interface's name within the container. The two together are unique. */
  readonly ifname: string;
  /** The CNI network's name; "" if it was adopted from an interface whose alias has no room for it. */
  readonly network: string;
  /** Path of the container's network namespace; "" if it was adopted from the host, and not known. */
  readonly netns: string;
  /** That namespace's `device:inode` when it was attached, or ""; the path may lead to another one later. */
  readonly netnsId: string;
  readonly address4: Ipv4 | null;
  readonly address6: Ipv6 | null;
  readonly mac: Mac;
  readonly pod: {
    readonly namespace: string;
    readonly name: string;
    /** What the runtime said of it at ADD; absent: nothing. Not in the alias, so lost with the file. */
    readonly labels?: Readonly<Record<string, string>>;
    readonly ports?: readonly NamedContainerPort[];
  } | null;
}
