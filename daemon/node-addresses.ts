/** The addresses by which this host is known: what node ports answer on, and what is no pod. */
import type { Netlink } from '../linux/netlink.ts';
import { type AddressState, listAddresses } from '../linux/rtnetlink.ts';
import { type IpAddress, familyOf } from '../wire/address.ts';
import { type Cidr, cidrContains } from '../wire/cidr.ts';

/**
 * Global addresses of all interfaces, IPv4 first, in ascending order; `.0` of our own subnets is one of
 * them. Loopback and link-local ones are not, nor those that IPv6 has not found to be free yet.
 * @param services  networks whose addresses are Services', whichever interface has them
 */
export function nodeAddressesOf(
  states: readonly Pick<AddressState, 'address' | 'scope' | 'tentative'>[],
  services: readonly Cidr[],
): readonly IpAddress[] {
  const found = states
    .filter(({ scope, tentative }) => scope === 'global' && !tentative)
    .map(({ address }) => address)
    .filter((it) => !services.some((block) => cidrContains(block, it)));
  return [...new Set(found)].sort((a, b) => familyOf(a) - familyOf(b) || (a < b ? -1 : 1));
}

/** @throws NetlinkError */
export const readNodeAddresses = (netlink: Netlink, services: readonly Cidr[]) =>
  nodeAddressesOf(listAddresses(netlink), services);
