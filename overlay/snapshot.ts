/**
 * The published state, compiled to flat tables for the workers. A snapshot is made once on the main
 * thread, copied to every worker, and swapped in whole between two batches; nothing patches one.
 */
import { type Family, type IpAddress, familyOf, ipv6Words } from '../wire/address.ts';
import { type Cidr, cidrContains, cidrsOverlap, formatCidr, lastOf } from '../wire/cidr.ts';
import {
  ETHERNET_HEADER_BYTES,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  writeEthernet,
} from '../wire/ethernet.ts';
import { VXLAN_HEADER_BYTES, writeVxlan } from '../wire/vxlan.ts';
import { SOCKADDR_BYTES, writeSockaddr } from '../linux/udp.ts';
import { EMPTY_POLICY_TABLE, type PolicyTable } from '../policy/table.ts';
import { EMPTY_SERVICE_TABLE, type ServiceTable } from '../service/table.ts';
import type { NextHop, OverlayState, Peer } from './types.ts';

/** VXLAN and inner Ethernet headers: what stands before every inner IP packet. */
export const ENCAPSULATION_BYTES = VXLAN_HEADER_BYTES + ETHERNET_HEADER_BYTES;
/** IP, UDP, VXLAN and Ethernet around an inner packet (RFC 7348 section 5). */
const OVERHEAD_BYTES_IPV4 = 20 + 8 + ENCAPSULATION_BYTES;
const OVERHEAD_BYTES_IPV6 = 40 + 8 + ENCAPSULATION_BYTES;
export const overheadBytes = (family: Family): number =>
  family === 4 ? OVERHEAD_BYTES_IPV4 : OVERHEAD_BYTES_IPV6;

/** The arena has room for this many. */
export const PEERS_MAX = 8192;

/**
 * A next hop, 64 bytes, two per peer (inner IPv4, then inner IPv6):
 *
 *     0         22     24       28           32                60       64
 *     | headers | slot | family | addressLen | struct sockaddr | mtu    |
 *
 * headers: VXLAN and Ethernet, as they are sent. slot: where the peer's traffic is counted (counters.ts), the
 * same in both. family: of the underlay, 4 or 6, or 0 for no next hop. mtu: largest inner packet on this path,
 * bytes.
 */
export const HOP_BYTES = 64;
export const HOP_SLOT = 22;
export const HOP_FAMILY = 24;
export const HOP_ADDRESS_LENGTH = 28;
export const HOP_ADDRESS = 32;
export const HOP_MTU = 60;

export interface Snapshot {
  readonly generation: number;
  readonly vni: number;
  readonly forwarding: boolean;
  /** Of the TUN. */
  readonly mtuBytes: number;
  /** Our MAC, as high 16 and low 32 bits. */
  readonly macHigh: number;
  readonly macLow: number;
  /** First and last address of our IPv4 subnet; first > last when there is none. */
  readonly own4: Uint32Array;
  /** The same for IPv6: two times four words. */
  readonly own6: Uint32Array;
  /** The overlay networks, as own4 and own6 are. */
  readonly network4: Uint32Array;
  readonly network6: Uint32Array;
  /** Our pods' addresses in ascending order: one word, or four, each. */
  readonly pods4: Uint32Array;
  readonly pods6: Uint32Array;
  /** Peers' IPv4 subnets in ascending order: [first, last, peer] each. */
  readonly ranges4: Uint32Array;
  /** Peers' IPv6 subnets in ascending order: [first x 4, last x 4, peer] each. */
  readonly ranges6: Uint32Array;
  /** Per peer DIRECT4, DIRECT6 or both. */
  readonly direct: Uint8Array;
  /** Per peer the outer sources it may send from: [IPv4, or 0; IPv6 x 4, or zeros]. */
  readonly sources: Uint32Array;
  /** All of them, in ascending order: one word, or four, each. */
  readonly allSources4: Uint32Array;
  readonly allSources6: Uint32Array;
  /** Two next hops per peer, HOP_BYTES each. */
  readonly hops: Uint8Array;
  readonly peerNames: readonly string[];
  /** The host's own addresses in ascending order: one word, or four, each. */
  readonly nodes4: Uint32Array;
  readonly nodes6: Uint32Array;
  readonly policyReady: boolean;
  readonly policy: PolicyTable;
  readonly services: ServiceTable;
}

export const RANGE4_WORDS = 3;
export const RANGE6_WORDS = 9;
export const SOURCE_WORDS = 5;
export const DIRECT4 = 1;
export const DIRECT6 = 2;

/** Before anything is published: no peers, nothing of ours, nothing forwarded. */
export const EMPTY_SNAPSHOT: Snapshot = {
  generation: 0,
  vni: 0,
  forwarding: false,
  mtuBytes: 65535,
  macHigh: 0,
  macLow: 0,
  own4: Uint32Array.of(1, 0),
  own6: Uint32Array.of(1, 0, 0, 0, 0, 0, 0, 0),
  network4: Uint32Array.of(1, 0),
  network6: Uint32Array.of(1, 0, 0, 0, 0, 0, 0, 0),
  pods4: Uint32Array.of(),
  pods6: Uint32Array.of(),
  ranges4: Uint32Array.of(),
  ranges6: Uint32Array.of(),
  direct: Uint8Array.of(),
  sources: Uint32Array.of(),
  allSources4: Uint32Array.of(),
  allSources6: Uint32Array.of(),
  hops: Uint8Array.of(),
  peerNames: [],
  nodes4: Uint32Array.of(),
  nodes6: Uint32Array.of(),
  policyReady: false,
  policy: EMPTY_POLICY_TABLE,
  services: EMPTY_SERVICE_TABLE,
};

/** Neither policies nor Services: what a state says that knows of none. */
export const PLAIN_OVERLAY: Pick<
  OverlayState,
  'nodeAddresses' | 'policyReady' | 'policy' | 'services'
> = {
  nodeAddresses: [],
  policyReady: true,
  policy: EMPTY_POLICY_TABLE,
  services: EMPTY_SERVICE_TABLE,
};

/** Nodes contradict each other or themselves, or there are more than the arena has room for. */
export class SnapshotError extends Error {
  readonly code = 'ERR_SNAPSHOT';
}

/**
 * @param port   outer UDP destination port
 * @param mtuOf  largest inner packet that the path to an underlay address takes, bytes
 * @param slots  of each peer, where its traffic is counted; 0: nowhere in particular
 * @throws SnapshotError; the earlier snapshot then stays in force
 */
export function compileSnapshot(
  state: OverlayState,
  port: number,
  generation: number,
  mtuOf: (address: IpAddress) => number = () => Infinity,
  slots: Uint16Array = new Uint16Array(state.peers.length),
): Snapshot {
  const { peers } = state;
  if (peers.length > PEERS_MAX) {
    throw new SnapshotError(`${peers.length} peers; this build has room for ${PEERS_MAX}`);
  }
  const hops = new Uint8Array(peers.length * 2 * HOP_BYTES);
  const hopsView = new DataView(hops.buffer);
  const sources = new Uint32Array(peers.length * SOURCE_WORDS);
  peers.forEach((peer, index) => {
    writeHop(hopsView, index * 2 * HOP_BYTES, peer.nextHop4, ETHERTYPE_IPV4, state, port, mtuOf);
    writeHop(
      hopsView,
      (index * 2 + 1) * HOP_BYTES,
      peer.nextHop6,
      ETHERTYPE_IPV6,
      state,
      port,
      mtuOf,
    );
    hopsView.setUint16(index * 2 * HOP_BYTES + HOP_SLOT, slots[index]!, true);
    hopsView.setUint16((index * 2 + 1) * HOP_BYTES + HOP_SLOT, slots[index]!, true);
    for (const address of peer.addresses) {
      const at = index * SOURCE_WORDS + (typeof address === 'number' ? 0 : 1);
      if (peer.addresses.some((other) => other !== address && typeof other === typeof address)) {
        throw new SnapshotError(`${peer.name} has two underlay addresses of one family`);
      }
      sources.set(wordsOf(address), at);
    }
  });
  return {
    generation,
    vni: state.vni,
    forwarding: state.forwarding,
    mtuBytes: state.mtuBytes,
    macHigh: Math.floor(state.mac / 2 ** 32),
    macLow: state.mac % 2 ** 32,
    own4: rangeOf(state.subnet4, EMPTY_SNAPSHOT.own4),
    own6: rangeOf(state.subnet6, EMPTY_SNAPSHOT.own6),
    network4: rangeOf(state.network4, EMPTY_SNAPSHOT.network4),
    network6: rangeOf(state.network6, EMPTY_SNAPSHOT.network6),
    pods4: sortedWords(podsIn(state.subnet4, state.pods)),
    pods6: sortedWords(podsIn(state.subnet6, state.pods)),
    ranges4: rangesOf(peers, (peer) => peer.subnet4),
    ranges6: rangesOf(peers, (peer) => peer.subnet6),
    direct: Uint8Array.from(
      peers.map(({ direct4, direct6 }) => (direct4 ? DIRECT4 : 0) | (direct6 ? DIRECT6 : 0)),
    ),
    sources,
    allSources4: sortedWords(peers.flatMap((peer) => peer.addresses.filter(isNumber))),
    allSources6: sortedWords(peers.flatMap((peer) => peer.addresses.filter(isBigInt))),
    hops,
    peerNames: peers.map((peer) => peer.name),
    nodes4: sortedWords(state.nodeAddresses.filter(isNumber)),
    nodes6: sortedWords(state.nodeAddresses.filter(isBigInt)),
    policyReady: state.policyReady,
    policy: state.policy,
    services: state.services,
  };
}

const wordsOf = (address: IpAddress): readonly number[] =>
  typeof address === 'number' ? [address] : ipv6Words(address);

const isNumber = (address: IpAddress): boolean => typeof address === 'number';
const isBigInt = (address: IpAddress): boolean => typeof address === 'bigint';

/** A pod left from an earlier lease must not keep the others from what is published: it is passed over. */
const podsIn = (subnet: Cidr | null, pods: readonly IpAddress[]): readonly IpAddress[] =>
  subnet === null ? [] : pods.filter((pod) => pod !== subnet.base && cidrContains(subnet, pod));

const sortedWords = (addresses: readonly IpAddress[]): Uint32Array =>
  Uint32Array.from(addresses.toSorted((a, b) => (a < b ? -1 : 1)).flatMap(wordsOf));

const rangeOf = (block: Cidr | null, none: Iterable<number>): Uint32Array =>
  Uint32Array.from(block === null ? none : [...wordsOf(block.base), ...wordsOf(lastOf(block))]);

function rangesOf(peers: readonly Peer[], subnetOf: (peer: Peer) => Cidr | null): Uint32Array {
  const held = peers
    .flatMap((peer, index) => {
      const block = subnetOf(peer);
      return block === null ? [] : [{ block, index }];
    })
    .sort((a, b) => (a.block.base < b.block.base ? -1 : 1));
  for (const [i, { block, index }] of held.entries()) {
    const before = held[i - 1];
    if (before !== undefined && cidrsOverlap(before.block, block)) {
      throw new SnapshotError(
        `subnets ${formatCidr(before.block)} of ${peers[before.index]!.name} and ` +
          `${formatCidr(block)} of ${peers[index]!.name} overlap`,
      );
    }
  }
  return Uint32Array.from(held.flatMap(({ block, index }) => [...rangeOf(block, []), index]));
}

function writeHop(
  view: DataView,
  at: number,
  hop: NextHop | null,
  etherType: number,
  state: OverlayState,
  port: number,
  mtuOf: (address: IpAddress) => number,
): void {
  if (hop === null) return;
  writeVxlan(view, at, state.vni);
  writeEthernet(view, at + VXLAN_HEADER_BYTES, hop.mac, state.mac, etherType);
  view.setUint32(at + HOP_FAMILY, familyOf(hop.address), true);
  const sockaddr = new DataView(new ArrayBuffer(SOCKADDR_BYTES));
  const length = writeSockaddr(sockaddr, 0, hop.address, port);
  view.setUint32(at + HOP_ADDRESS_LENGTH, length, true);
  for (let i = 0; i < length; i++) view.setUint8(at + HOP_ADDRESS + i, sockaddr.getUint8(i));
  view.setUint32(at + HOP_MTU, Math.min(state.mtuBytes, mtuOf(hop.address)), true);
}
