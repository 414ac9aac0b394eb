/** What the packet path's modules are made from, without a device or a peer; each benchmark has its own. */
import { openSync } from 'node:fs';
import { type Arena, createArena } from '../../linux/arena.ts';
import { createCounters } from '../../overlay/counters.ts';
import type { IcmpErrors } from '../../overlay/icmp-errors.ts';
import { type Peers, createPeers } from '../../overlay/peers.ts';
import { PLAIN_OVERLAY, compileSnapshot } from '../../overlay/snapshot.ts';
import type { Offloads, Peer } from '../../overlay/types.ts';
import { formatAddress, parseAddress, toIpv4 } from '../../wire/address.ts';
import { type Checksum, createChecksum } from '../../wire/checksum/checksum.ts';
import { type Cidr4, type Cidr6, parseCidr } from '../../wire/cidr.ts';
import { parseMac } from '../../wire/mac.ts';
import { toVni } from '../../wire/vxlan.ts';
import { payloadOf } from '../../test/packets/build.ts';

export const ALL_OFFLOADS: Offloads = {
  tunTso: true,
  tunUso: true,
  tunnelGso: true,
  udpGso: true,
  udpGro: true,
  batch: true,
  coalesce: true,
};

const ignore = (): void => undefined;
/** Nothing is answered. */
export const SILENT: IcmpErrors = {
  unreachable: ignore,
  tooBig: ignore,
  portUnreachable: ignore,
  mayAnswer: () => false,
  onError: ignore,
};

export const OUR_MAC = '02:00:00:00:00:01';
export const PEER_MAC = '02:00:00:00:00:0a';
export const OUR_POD4 = '10.244.1.2';
export const OUR_POD6 = 'fd00:ffff:1::2';
export const OUR_OTHER_POD4 = '10.244.1.77';
export const OUR_OTHER_POD6 = 'fd00:ffff:1::4d';
const OUR_SUBNET4 = parseCidr('10.244.1.0/24') as Cidr4;
const OUR_SUBNET6 = parseCidr('fd00:ffff:1::/64') as Cidr6;
const NETWORK4 = parseCidr('10.0.0.0/8') as Cidr4;
const NETWORK6 = parseCidr('fd00::/16') as Cidr6;
/** As many as a node usually has at most. */
const OUR_PODS = Array.from({ length: 110 }, (_, i) => [
  parseAddress(`10.244.1.${i + 2}`),
  parseAddress(`fd00:ffff:1::${(i + 2).toString(16)}`),
]).flat();

/** A pod of peer `i`, below 8192. */
export const podOf4 = (i: number): string => `10.${i >> 8}.${i & 255}.2`;
export const podOf6 = (i: number): string => `fd00:0:${i.toString(16)}::2`;
/** The peer's underlay address. */
export const underlayOf = (i: number): string => formatAddress(toIpv4(0xac100001 + i));

function peerOf(i: number): Peer {
  const hop = { address: toIpv4(0xac100001 + i), mac: parseMac(PEER_MAC) };
  return {
    name: `peer ${i}`,
    subnet4: parseCidr(`10.${i >> 8}.${i & 255}.0/24`) as Cidr4,
    subnet6: parseCidr(`fd00:0:${i.toString(16)}::/64`) as Cidr6,
    nextHop4: hop,
    nextHop6: hop,
    direct4: false,
    direct6: false,
    addresses: [hop.address],
  };
}

/** Pieces of a large packet, and the payload of each, as they are with an MTU of 1450. */
export const SEGMENTS = 44;
export const TCP_PIECE = 1398;
export const TCP6_PIECE = 1378;
export const UDP_PIECE = 1400;
/** The timestamps that Linux puts into every segment: NOP, NOP, kind 8, length 10. */
export const TCP_TIMESTAMPS = [1, 1, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4];

export const payload = (bytes: number): Buffer => payloadOf(bytes);

/** Takes any write and does nothing with it: what is left is the cost of getting there. */
export const openNull = (): number => openSync('/dev/null', 'w');

export interface Stage {
  readonly arena: Arena;
  readonly checksum: Checksum;
  readonly counters: Float64Array;
  readonly peers: Peers;
  /** Lays a packet into the arena, 128 bytes of headroom before it, off by `skew` from a cache line. */
  readonly place: (packet: Uint8Array, skew: number) => number;
}

export function createStage(peerCount = 256, port = 8472): Stage {
  const arena = createArena(10 << 20);
  const peers = createPeers(arena);
  peers.install(
    compileSnapshot(
      {
        ...PLAIN_OVERLAY,
        vni: toVni(1),
        subnet4: OUR_SUBNET4,
        subnet6: OUR_SUBNET6,
        mac: parseMac(OUR_MAC),
        mtuBytes: 1450,
        forwarding: true,
        network4: NETWORK4,
        network6: NETWORK6,
        pods: OUR_PODS,
        peers: Array.from({ length: peerCount }, (_, i) => peerOf(i)),
      },
      port,
      1,
    ),
  );
  return {
    arena,
    checksum: createChecksum(arena.memory),
    counters: createCounters(),
    peers,
    place: (packet, skew) => {
      const at = arena.take(packet.length + 256, 'packet') + 128 + skew;
      arena.bytes.set(packet, at);
      return at;
    },
  };
}
