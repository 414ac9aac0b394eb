/** Leases become what the packet path decides by. Pure. */
import type { NetworkConfig, NodeIdentity, NodeLease, Vtep } from '../ipam/types.ts';
import type { NextHop, OverlayState, Peer } from '../overlay/types.ts';
import type { PolicyTable } from '../policy/table.ts';
import type { ServiceTable } from '../service/table.ts';
import {
  type Family,
  type IpAddress,
  type Ipv4,
  type Ipv6,
  formatAddress,
} from '../wire/address.ts';
import { type Cidr, cidrContains, cidrsOverlap, formatCidr } from '../wire/cidr.ts';
import type { Mac } from '../wire/mac.ts';
import type { Underlay } from './underlay.ts';

/** Outer IPv4 20, UDP 8, VXLAN 8 and inner Ethernet 14 bytes; IPv6 has 20 more. */
const OVERHEAD4 = 50;
const OVERHEAD6 = 70;
/** RFC 8200 section 5, and RFC 791: below it the kernel takes the family off the interface. */
const LEAST_MTU6 = 1280;
const LEAST_MTU4 = 576;

type Addresses = Pick<NodeIdentity, 'publicIp4' | 'publicIp6'>;
type Families = Pick<NetworkConfig, 'ipv4' | 'ipv6'>;

/** What does not change while the daemon runs. */
export interface Fixed {
  readonly network: NetworkConfig;
  readonly addresses: Addresses;
  readonly mac: Mac;
  readonly mtuBytes: number;
}

/** The network cannot be carried by this node's underlay as it is. */
export class UnderlayError extends Error {
  override readonly name = 'UnderlayError';
  readonly code = 'ERR_UNDERLAY';
}

/**
 * The addresses peers get from us. Inner IPv4 travels in IPv4 and inner IPv6 in IPv6, as flannel has it,
 * so an address is published only when its inner family is in use, when it is the only one, or when the
 * operator named it.
 */
export function publicAddresses(
  network: Families,
  underlay: Pick<Underlay, 'address4' | 'address6'>,
  named: { readonly publicIp: Ipv4 | null; readonly publicIpv6: Ipv6 | null },
): Addresses {
  const { address4, address6 } = underlay;
  const use4 = network.ipv4 !== null || address6 === null;
  const use6 = network.ipv6 !== null || address4 === null;
  return {
    publicIp4: named.publicIp ?? (use4 ? address4 : null),
    publicIp6: named.publicIpv6 ?? (use6 ? address6 : null),
  };
}

/**
 * The TUN's MTU, bytes. @throws UnderlayError when too little is left for a family in use
 */
export function overlayMtu(
  network: Families & Pick<NetworkConfig, 'mtuBytes'>,
  underlay: Pick<Underlay, 'mtuBytes' | 'iface'>,
  addresses: Addresses,
): number {
  const below = network.mtuBytes ?? underlay.mtuBytes;
  // 65535 is the longest IPv4 packet; loopback and some veths have more.
  const mtu = Math.min(below - (addresses.publicIp6 === null ? OVERHEAD4 : OVERHEAD6), 65_535);
  const least = network.ipv6 === null ? LEAST_MTU4 : LEAST_MTU6;
  if (mtu >= least) return mtu;
  const where =
    network.mtuBytes === null ? `interface ${underlay.iface}` : 'Backend.MTU of the network config';
  throw new UnderlayError(
    `an MTU of ${below} bytes (${where}) leaves ${mtu} for the overlay, which needs ${least}`,
  );
}

/** @throws UnderlayError when the overlay would swallow the very address its packets leave from */
export function refuseOverlap(
  network: Families,
  underlay: Pick<Underlay, 'address4' | 'address6' | 'iface'>,
): void {
  for (const [block, address] of [
    [network.ipv4?.network, underlay.address4],
    [network.ipv6?.network, underlay.address6],
  ] as const) {
    if (block === undefined || address === null || !cidrContains(block, address)) continue;
    throw new UnderlayError(
      `the overlay network ${formatCidr(block)} contains ${formatAddress(address)} of interface ` +
        `${underlay.iface}: peers there could not be reached`,
    );
  }
}

/** @throws UnderlayError when Services would swallow pods' addresses, or the underlay's */
export function refuseServiceOverlap(
  services: readonly Cidr[],
  network: Families,
  underlay: Pick<Underlay, 'address4' | 'address6' | 'iface'>,
): void {
  const change = 'name other blocks with --service-cluster-ip-range ("" for none)';
  for (const block of services) {
    for (const pods of [network.ipv4?.network, network.ipv6?.network]) {
      if (pods === undefined || !cidrsOverlap(block, pods)) continue;
      throw new UnderlayError(
        `the Service network ${formatCidr(block)} overlaps the overlay network ` +
          `${formatCidr(pods)}: ${change}`,
      );
    }
    for (const address of [underlay.address4, underlay.address6]) {
      if (address === null || !cidrContains(block, address)) continue;
      throw new UnderlayError(
        `the Service network ${formatCidr(block)} contains ${formatAddress(address)} of interface ` +
          `${underlay.iface}: peers there could not be reached; ${change}`,
      );
    }
  }
}

/**
 * The peer's subnet of this family is routed straight to its address of the same family, without VXLAN:
 * asked for, and the address is on our link.
 */
export function isDirect(
  peer: NodeLease,
  family: Family,
  { onLink }: Pick<Underlay, 'onLink'>,
  directRouting: boolean,
): boolean {
  const subnet = family === 4 ? peer.subnet4 : peer.subnet6;
  const address = family === 4 ? peer.publicIp4 : peer.publicIp6;
  if (!directRouting || subnet === null || address === null) return false;
  return onLink.some((it) => cidrContains(it, address));
}

function nextHop(
  vtep: Vtep | null,
  vni: number,
  candidates: readonly (IpAddress | null)[],
): NextHop | null {
  const address = candidates.find((it) => it !== null);
  if (vtep === null || vtep.vni !== vni || address === undefined) return null;
  return { address, mac: vtep.mac };
}

function peerOf(lease: NodeLease, inputs: OverlayInputs): Peer {
  const { reach, underlay, directRouting } = inputs;
  const { vni } = inputs.network;
  const address4 = reach.ipv4 ? lease.publicIp4 : null;
  const address6 = reach.ipv6 ? lease.publicIp6 : null;
  const { subnet4, subnet6 } = lease;
  return {
    name: lease.key,
    subnet4,
    subnet6,
    nextHop4: subnet4 && nextHop(lease.vtep4, vni, [address4, address6]),
    nextHop6: subnet6 && nextHop(lease.vtep6, vni, [address6, address4]),
    direct4: isDirect(lease, 4, underlay, directRouting),
    direct6: isDirect(lease, 6, underlay, directRouting),
    addresses: [lease.publicIp4, lease.publicIp6].filter((it) => it !== null),
  };
}

export interface OverlayInputs {
  readonly network: NetworkConfig;
  readonly mac: Mac;
  readonly mtuBytes: number;
  /** Ours, also after it was lost. */
  readonly lease: Pick<NodeLease, 'subnet4' | 'subnet6'>;
  /** The lease is ours now. */
  readonly held: boolean;
  readonly peers: readonly NodeLease[];
  /** Addresses of pods that are attached here. */
  readonly pods: readonly IpAddress[];
  /** Outer families that we have a socket for. */
  readonly reach: { readonly ipv4: boolean; readonly ipv6: boolean };
  readonly underlay: Pick<Underlay, 'onLink'>;
  readonly directRouting: boolean;
  readonly nodeAddresses: readonly IpAddress[];
  readonly policyReady: boolean;
  readonly policy: PolicyTable;
  readonly services: ServiceTable;
}

export function overlayState(inputs: OverlayInputs): OverlayState {
  const { network, lease } = inputs;
  return {
    vni: network.vni,
    subnet4: lease.subnet4,
    subnet6: lease.subnet6,
    mac: inputs.mac,
    mtuBytes: inputs.mtuBytes,
    forwarding: inputs.held,
    network4: network.ipv4?.network ?? null,
    network6: network.ipv6?.network ?? null,
    pods: inputs.pods,
    peers: inputs.peers.map((it) => peerOf(it, inputs)),
    nodeAddresses: inputs.nodeAddresses,
    policyReady: inputs.policyReady,
    policy: inputs.policy,
    services: inputs.services,
  };
}
