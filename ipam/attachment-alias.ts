/**
 * The alias (IFLA_IFALIAS) of a pod's interface on the host: enough to know again who has which address
 * when the file is lost. One line of at most 255 bytes, single spaces:
 *
 *     weft1 CONTAINER IFNAME NETWORK ADDRESS4|- ADDRESS6|- MAC NAMESPACE/POD|-
 *
 * What does not fit is left out whole, `-` in its place: first the pod, which is for people to read, then
 * the network's name, which only GC asks for. The rest always fits.
 */
import { AddressError, formatAddress, parseIpv4, parseIpv6 } from '../wire/address.ts';
import { CONTAINER_ID, INTERFACE_NAME, NETWORK_NAME } from '../wire/cni.ts';
import { formatMac, isUnicastMac, parseMac } from '../wire/mac.ts';
import type { Attachment } from './types.ts';

/** What the host's interface says. `network` is "" where it was left out. */
export type HostAttachment = Omit<Attachment, 'netns' | 'netnsId'>;

/** IFALIASZ, less its terminating zero. */
const ALIAS_BYTES = 255;
const VERSION = 'weft1';
/** Kubernetes' names: a DNS label, and a DNS subdomain (RFC 1123). */
const POD = /^([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)\/([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)$/;
const NONE = '-';

/** @param attachment  its names fit the patterns of wire/cni.ts; a pod's that are none are left out */
export function formatAlias(attachment: HostAttachment): string {
  const { containerId, ifname, address4, address6, mac } = attachment;
  const withNames = (network: string, pod: string): string =>
    [
      VERSION,
      containerId,
      ifname,
      network,
      address4 === null ? NONE : formatAddress(address4),
      address6 === null ? NONE : formatAddress(address6),
      formatMac(mac),
      pod,
    ].join(' ');
  const network = attachment.network || NONE;
  const podText = attachment.pod && `${attachment.pod.namespace}/${attachment.pod.name}`;
  const pod = podText !== null && POD.test(podText) ? podText : NONE;
  for (const alias of [withNames(network, pod), withNames(network, NONE)]) {
    if (alias.length <= ALIAS_BYTES) return alias;
  }
  return withNames(NONE, NONE);
}

/** It begins as ours do: cheap, for those who know the rest. */
export const isAlias = (text: string): boolean => text.startsWith(`${VERSION} `);

/** Null for everything that `formatAlias` would not have written. */
export function parseAlias(text: string): HostAttachment | null {
  if (text.length > ALIAS_BYTES) return null;
  const [version, containerId, ifname, network, ip4, ip6, ethernet, pod, ...rest] = text.split(' ');
  if (version !== VERSION || pod === undefined || rest.length > 0) return null;
  if (!CONTAINER_ID.test(containerId!) || !INTERFACE_NAME.test(ifname!)) return null;
  if (network !== NONE && !NETWORK_NAME.test(network!)) return null;
  if (ip4 === NONE && ip6 === NONE) return null;
  const podParts = POD.exec(pod);
  try {
    const attachment: HostAttachment = {
      containerId: containerId!,
      ifname: ifname!,
      network: network === NONE ? '' : network!,
      address4: ip4 === NONE ? null : parseIpv4(ip4!),
      address6: ip6 === NONE ? null : parseIpv6(ip6!),
      mac: parseMac(ethernet!),
      pod: podParts && { namespace: podParts[1]!, name: podParts[2]! },
    };
    // Written in another way, such as fd00:0::2, or with a pod that is none: not by us.
    return isUnicastMac(attachment.mac) && formatAlias(attachment) === text ? attachment : null;
  } catch (error) {
    if (error instanceof AddressError) return null;
    throw error;
  }
}
