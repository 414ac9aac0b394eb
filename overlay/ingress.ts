/**
 * Ingress: a datagram from the underlay becomes an inner packet for the TUN, or is dropped and counted.
 * Runs per packet: no await, no allocation, no throw.
 * Nothing in a datagram is trusted before it is checked: form first (a packet that lies about its
 * lengths must not be looked at further), then who sent it, then what it is for.
 * @see RFC 7348 sections 4.1 and 5; test/packets/ingress.test.ts
 */
import type { Arena } from '../linux/arena.ts';
import type { Family } from '../wire/address.ts';
import { Drop } from '../wire/drop-reason.ts';
import { ECN_DROP, ECN_MASK, decapsulateEcn } from '../wire/ecn.ts';
import {
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  readDestinationHigh,
  readDestinationLow,
  readEtherType,
} from '../wire/ethernet.ts';
import {
  IPV4_DESTINATION,
  IPV4_SOURCE,
  checkIpv4,
  finishIpv4Header,
  fragmentOffsetBytes,
  readHeaderBytes,
  readProtocol,
  readTos,
  readTotalLength,
  readTtl,
  sumIpv4Header,
} from '../wire/ipv4.ts';
import {
  IPV6_DESTINATION,
  IPV6_HEADER_BYTES,
  IPV6_SOURCE,
  checkIpv6,
  readHopLimit,
  readNextHeader,
  readPayloadLength,
  readTrafficClass,
} from '../wire/ipv6.ts';
import { PROTOCOL_UDP, UDP_HEADER_BYTES, readDestinationPort } from '../wire/udp.ts';
import { VXLAN_HEADER_BYTES, hasVni, readVni } from '../wire/vxlan.ts';
import type { Coalescer } from './coalesce.ts';
import { PEER_COUNTERS, PEER_RECEIVED_BYTES, PEER_RECEIVED_DATAGRAMS } from './counters.ts';
import type { IcmpErrors } from './icmp-errors.ts';
import type { Peers } from './peers.ts';
import { ENCAPSULATION_BYTES, HOP_SLOT } from './snapshot.ts';

/**
 * @param at       offset of the VXLAN header in the arena
 * @param end      offset after the datagram's last byte; nothing at or after it is read
 * @param outerEcn the outer ECN field, 0..3
 * @param sourceAt offset of the outer source address, 4 or 16 bytes
 * @param gsoSize  payload bytes of a segment where the inner packet is an unsegmented one and the
 *                 kernel has told, else 0
 * @returns        Drop.none, or why the packet went nowhere
 */
export type Ingress = (
  at: number,
  end: number,
  outerEcn: number,
  sourceAt: number,
  gsoSize: number,
) => Drop;

export function createIngress(
  arena: Arena,
  counters: Float64Array,
  peers: Peers,
  coalescer: Coalescer,
  icmp: IcmpErrors,
  underlay: Family,
  port: number,
): Ingress {
  const { view } = arena;

  function ingress(
    at: number,
    end: number,
    outerEcn: number,
    sourceAt: number,
    gsoSize: number,
  ): Drop {
    const snapshot = peers.current();
    if (end - at < ENCAPSULATION_BYTES) return Drop.truncated;
    if (!hasVni(view, at)) return Drop.flags;
    // Before the first snapshot there is no VNI to compare with.
    if (!snapshot.forwarding) return Drop.notForwarding;
    if (readVni(view, at) !== snapshot.vni) return Drop.vni;
    const frame = at + VXLAN_HEADER_BYTES;
    if (
      readDestinationLow(view, frame) !== snapshot.macLow ||
      readDestinationHigh(view, frame) !== snapshot.macHigh
    ) {
      return Drop.innerMac;
    }
    const ip = at + ENCAPSULATION_BYTES;
    const etherType = readEtherType(view, frame);
    if (etherType === ETHERTYPE_IPV4) return ingress4(ip, end, outerEcn, sourceAt, gsoSize);
    if (etherType === ETHERTYPE_IPV6) return ingress6(ip, end, outerEcn, sourceAt, gsoSize);
    return Drop.etherType;
  }

  function ingress4(
    ip: number,
    end: number,
    outerEcn: number,
    sourceAt: number,
    gsoSize: number,
  ): Drop {
    const form = checkIpv4(view, ip, end);
    if (form !== Drop.none) return form;
    if (sumIpv4Header(view, ip) !== 0xffff) return Drop.ipChecksum;
    const peer = peers.of4(ip + IPV4_SOURCE);
    const sender = checkSender(peer, sourceAt);
    if (sender !== Drop.none) return sender;
    countPeer(peer, end - ip + ENCAPSULATION_BYTES);
    if (!peers.isOwn4(ip + IPV4_DESTINATION)) return Drop.innerDestination;
    if (readTtl(view, ip) === 0) return Drop.ttl;
    if (!peers.isPod4(ip + IPV4_DESTINATION)) {
      if (!peers.isNode4(ip + IPV4_DESTINATION)) {
        icmp.unreachable(ip, readTotalLength(view, ip));
        return Drop.noPod;
      }
      if (
        readProtocol(view, ip) === PROTOCOL_UDP &&
        fragmentOffsetBytes(view, ip) === 0 &&
        isTunnel(ip + readHeaderBytes(view, ip), end)
      ) {
        return Drop.nested;
      }
    }
    const tos = readTos(view, ip);
    const ecn = decapsulateEcn(tos & ECN_MASK, outerEcn);
    if (ecn === ECN_DROP) return Drop.ecn;
    if (ecn !== (tos & ECN_MASK)) {
      view.setUint8(ip + 1, (tos & ~ECN_MASK) | ecn);
      finishIpv4Header(view, ip);
    }
    coalescer.add(ip, readTotalLength(view, ip), gsoSize);
    return Drop.none;
  }

  function ingress6(
    ip: number,
    end: number,
    outerEcn: number,
    sourceAt: number,
    gsoSize: number,
  ): Drop {
    const form = checkIpv6(view, ip, end);
    if (form !== Drop.none) return form;
    const peer = peers.of6(ip + IPV6_SOURCE);
    const sender = checkSender(peer, sourceAt);
    if (sender !== Drop.none) return sender;
    countPeer(peer, end - ip + ENCAPSULATION_BYTES);
    if (!peers.isOwn6(ip + IPV6_DESTINATION)) return Drop.innerDestination;
    if (readHopLimit(view, ip) === 0) return Drop.ttl;
    if (!peers.isPod6(ip + IPV6_DESTINATION)) {
      if (!peers.isNode6(ip + IPV6_DESTINATION)) {
        icmp.unreachable(ip, readPayloadLength(view, ip) + IPV6_HEADER_BYTES);
        return Drop.noPod;
      }
      if (readNextHeader(view, ip) === PROTOCOL_UDP && isTunnel(ip + IPV6_HEADER_BYTES, end)) {
        return Drop.nested;
      }
    }
    const inner = readTrafficClass(view, ip) & ECN_MASK;
    const ecn = decapsulateEcn(inner, outerEcn);
    if (ecn === ECN_DROP) return Drop.ecn;
    // The ECN field is bits 4 and 5 of the second byte.
    if (ecn !== inner) view.setUint8(ip + 1, (view.getUint8(ip + 1) & ~0x30) | (ecn << 4));
    coalescer.add(ip, readPayloadLength(view, ip) + IPV6_HEADER_BYTES, gsoSize);
    return Drop.none;
  }

  /** The inner source decides which node must have sent this; the outer source says which node did. */
  function checkSender(peer: number, sourceAt: number): Drop {
    if (underlay === 4) {
      if (peer >= 0 && peers.sendsFrom4(peer, sourceAt)) return Drop.none;
      return peers.isPeer4(sourceAt) ? Drop.innerSource : Drop.outerSource;
    }
    if (peer >= 0 && peers.sendsFrom6(peer, sourceAt)) return Drop.none;
    return peers.isPeer6(sourceAt) ? Drop.innerSource : Drop.outerSource;
  }

  function countPeer(peer: number, bytes: number): void {
    const at = view.getUint16(peers.hopOf(peer) + HOP_SLOT, true) * PEER_COUNTERS;
    counters[at + PEER_RECEIVED_DATAGRAMS]!++;
    counters[at + PEER_RECEIVED_BYTES]! += bytes;
  }

  /** A tunnel to this node's own end point inside the tunnel: nobody's honest traffic. */
  function isTunnel(udp: number, end: number): boolean {
    return end - udp >= UDP_HEADER_BYTES && readDestinationPort(view, udp) === port;
  }

  return ingress;
}
