/** The nodes of test/fixtures/capture.ts, as each end of the captured conversation would be configured. */
import { parseAddress } from '../../wire/address.ts';
import { type Cidr4, type Cidr6, parseCidr } from '../../wire/cidr.ts';
import { parseMac } from '../../wire/mac.ts';
import { toVni } from '../../wire/vxlan.ts';
import { PLAIN_OVERLAY } from '../../overlay/snapshot.ts';
import type { NextHop, OverlayState } from '../../overlay/types.ts';

export interface Capture {
  readonly file: string;
  readonly underlay: 4 | 6;
  /** By the node's number, 1 or 2. */
  readonly outer: Readonly<Record<1 | 2, string>>;
}

export const captures: readonly Capture[] = [
  { file: 'vxlan-ipv4.pcap', underlay: 4, outer: { 1: '192.0.2.1', 2: '192.0.2.2' } },
  { file: 'vxlan-ipv6.pcap', underlay: 6, outer: { 1: '2001:db8::1', 2: '2001:db8::2' } },
];

const macs = { 1: '02:00:00:00:00:0a', 2: '02:00:00:00:00:0b' } as const;
const subnet4 = (node: 1 | 2): Cidr4 => parseCidr(`10.244.${node}.0/24`) as Cidr4;
const subnet6 = (node: 1 | 2): Cidr6 => parseCidr(`fd00:10:244:${node}::/64`) as Cidr6;

/** @param hop the peer's underlay address, where it is not the captured one */
export function nodeOf(capture: Capture, node: 1 | 2, hop?: NextHop['address']): OverlayState {
  const peer = node === 1 ? 2 : 1;
  const nextHop = { address: hop ?? parseAddress(capture.outer[peer]), mac: parseMac(macs[peer]) };
  return {
    ...PLAIN_OVERLAY,
    vni: toVni(1),
    subnet4: subnet4(node),
    subnet6: subnet6(node),
    mac: parseMac(macs[node]),
    mtuBytes: capture.underlay === 4 ? 1450 : 1430,
    forwarding: true,
    network4: parseCidr('10.244.0.0/16') as Cidr4,
    network6: parseCidr('fd00:10:244::/56') as Cidr6,
    pods: [parseAddress(`10.244.${node}.2`), parseAddress(`fd00:10:244:${node}::2`)],
    peers: [
      {
        name: `node ${peer}`,
        subnet4: subnet4(peer),
        subnet6: subnet6(peer),
        nextHop4: nextHop,
        nextHop6: nextHop,
        direct4: false,
        direct6: false,
        addresses: [parseAddress(capture.outer[peer])],
      },
    ],
  };
}
