/** What the API's answers hold: plain JSON, addresses as text. */
import type { EntryProblem } from '../ipam/peers.ts';
import type { NodeLease } from '../ipam/types.ts';
import { type IpAddress, formatAddress } from '../wire/address.ts';
import { type Cidr, formatCidr } from '../wire/cidr.ts';
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
}

export interface LeasesMessage {
  readonly leases: readonly LeaseMessage[];
  readonly problems: readonly EntryProblem[];
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
  readonly etcd: { readonly endpoints: readonly string[]; readonly own: boolean };
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
  readonly lease: (LeaseMessage & { readonly endsInS: number | null }) | null;
  readonly peers: readonly LeaseMessage[];
  /** Rungs in use, by name; null before the packet path runs. */
  readonly offloads: Readonly<Record<string, boolean>> | null;
  readonly counters: Readonly<Record<string, number>>;
}

export interface ErrorMessage {
  readonly error: { readonly code: string; readonly message: string };
}

export const addressText = (address: IpAddress | null): string | null =>
  address === null ? null : formatAddress(address);
export const cidrText = (block: Cidr | null | undefined): string | null =>
  block === null || block === undefined ? null : formatCidr(block);

export const leaseMessage = (lease: NodeLease, own: boolean): LeaseMessage => ({
  key: lease.key,
  subnet: cidrText(lease.subnet4),
  ipv6Subnet: cidrText(lease.subnet6),
  publicIp: addressText(lease.publicIp4),
  publicIpv6: addressText(lease.publicIp6),
  vtepMac: lease.vtep4 && formatMac(lease.vtep4.mac),
  vtepMacV6: lease.vtep6 && formatMac(lease.vtep6.mac),
  reserved: lease.reserved,
  own,
});
