/**
 * Egress: a packet read from the TUN becomes VXLAN datagrams to a peer, goes back into the TUN for a pod
 * or the host, or is answered and dropped.
 * Runs per packet: no await, no allocation, no throw.
 *
 * The kernel has routed the packet here, so its TTL is already decremented, and the outer header gets
 * one of its own. Whether a source of ours is the sender's own, the host has looked at before; what is
 * checked here besides is what a peer would check, so that a drop is counted where an operator looks
 * first. The source is looked at first, then what its flow says (flows.ts), which may put another
 * destination or source in, then who has the destination:
 *
 *     source           local pod, .0   own subnet  peer       overlay  outside
 *     own subnet       back            noPod       to it (1)  noPeer   back
 *     a direct peer's  back            noPod       notOurSource
 *     overlay          notOurSource
 *     outside          back (2)        notOurSource
 *
 * (1) by VXLAN; back if it is direct. (2) to a pod only, or as a Service's client: the host does not
 * route its own `.0` to us.
 * @see RFC 7348 section 5; test/packets/ways.test.ts, test/packets/egress.test.ts
 */
import type { Arena } from '../linux/arena.ts';
import {
  VNET_GSO_NONE,
  VNET_HEADER_BYTES,
  VNET_NEEDS_CSUM,
  readVnetCsumOffset,
  readVnetCsumStart,
  readVnetFlags,
  readVnetGsoSize,
  readVnetGsoType,
} from '../linux/tun.ts';
import type { Checksum } from '../wire/checksum/checksum.ts';
import { Drop } from '../wire/drop-reason.ts';
import { ECN_MASK } from '../wire/ecn.ts';
import { mix } from '../wire/flow-key.ts';
import {
  IPV4_DESTINATION,
  IPV4_DONT_FRAGMENT,
  IPV4_SOURCE,
  checkIpv4,
  isFragment,
  isMartian4,
  isMulticast4,
  readFragmentWord,
  readHeaderBytes,
  readTos,
  readTotalLength,
} from '../wire/ipv4.ts';
import {
  IPV6_DESTINATION,
  IPV6_HEADER_BYTES,
  IPV6_MTU_MIN,
  IPV6_SOURCE,
  checkIpv6,
  isMartian6,
  isMulticast6,
  readPayloadLength,
  readTrafficClass,
} from '../wire/ipv6.ts';
import { UDP_HEADER_BYTES } from '../wire/udp.ts';
import type { Flows } from './flows.ts';
import type { HeldFragments } from './held-fragments.ts';
import type { IcmpErrors } from './icmp-errors.ts';
import type { Peers } from './peers.ts';
import { type Segmenter, writeEncapsulation } from './segment.ts';
import type { Sender } from './sender.ts';
import { ENCAPSULATION_BYTES, HOP_BYTES, HOP_FAMILY, HOP_MTU } from './snapshot.ts';
import type { TunnelGso } from './tunnel-gso.ts';
import type { TunWriter } from './tun-writer.ts';

/**
 * @param at    offset of the packet's vnet header in the arena; the 76 bytes before it are ours too
 * @param bytes of the packet, without the vnet header
 * @returns     Drop.none, or why the packet went nowhere
 */
export type Egress = (at: number, bytes: number) => Drop;

export interface UnderlayQueues {
  /** One per outer source port, a power of two of them: a flow has one of them. */
  readonly flows: readonly Sender[];
  /**
   * Its datagrams may be fragmented on the way: for IPv6 packets of the minimum MTU on a path that
   * takes less (RFC 2473 section 7.1 (b)), where telling the sender would not help.
   */
  readonly fragmenting: Sender;
}

export function createEgress(
  arena: Arena,
  checksum: Checksum,
  peers: Peers,
  segmenter: Segmenter,
  icmp: IcmpErrors,
  writer: TunWriter,
  /** Queues of each underlay family, or null: this node has no address of it. */
  queues4: UnderlayQueues | null,
  queues6: UnderlayQueues | null,
  /** The way for large TCP packets over IPv4, or null: they are cut here. */
  tunnel: TunnelGso | null,
  /** Null: nothing is decided or translated. */
  flows: Flows | null = null,
  held: HeldFragments | null = null,
): Egress {
  const { view, words } = arena;

  let isHeld = false;

  function egress(at: number, bytes: number): Drop {
    const drop = carry(at, bytes);
    if (isHeld) {
      isHeld = false;
      return Drop.none;
    }
    if (held !== null) releaseHeld(held);
    return drop;
  }

  /** The first fragment of their datagram may have passed. */
  function releaseHeld(fragments: HeldFragments): void {
    for (let at = fragments.next(); at >= 0; at = fragments.next()) {
      const drop = carry(at, fragments.bytes());
      if (isHeld) isHeld = false;
      else if (drop !== Drop.none) fragments.spoil(drop);
    }
  }

  function carry(at: number, bytes: number): Drop {
    const ip = at + VNET_HEADER_BYTES;
    const version = bytes > 0 ? view.getUint8(ip) >>> 4 : 0;
    if (version === 4) return egress4(at, ip, ip + bytes);
    if (version === 6) return egress6(at, ip, ip + bytes);
    return Drop.ipHeader;
  }

  function egress4(at: number, ip: number, end: number): Drop {
    const form = checkIpv4(view, ip, end);
    if (form !== Drop.none) return form;
    const destination = ip + IPV4_DESTINATION;
    // Neither has a next hop.
    if (isMulticast4(view, destination)) return Drop.multicast;
    if (isMartian4(view, destination)) return Drop.martian;
    if (!peers.isOwn4(ip + IPV4_SOURCE)) return fromOthers4(at, ip, end);
    const verdict = decide(at, ip, end);
    return verdict === Drop.none ? route4(at, ip, end) : verdict;
  }

  /** By the destination: the source is ours, or was before an answer was translated back. */
  function route4(at: number, ip: number, end: number): Drop {
    const destination = ip + IPV4_DESTINATION;
    const total = readTotalLength(view, ip);
    if (peers.isOwn4(destination)) return deliver4(at, ip, end);
    const peer = peers.of4(destination);
    if (peer < 0) {
      if (!peers.isOverlay4(destination)) return writer.backToHost(at, end - ip);
      return refuse(ip, total);
    }
    if (peers.isDirect4(peer)) return toDirect(at, end - ip);
    const header = readHeaderBytes(view, ip);
    // A fragment's ports are only in the first one: all of them go by addresses alone, in order.
    const ports = isFragment(view, ip) || total < header + 4 ? 0 : view.getInt32(ip + header);
    const hash = mix(
      mix(view.getInt32(ip + IPV4_SOURCE), view.getInt32(ip + IPV4_DESTINATION)),
      ports,
    );
    const mayFragment = (readFragmentWord(view, ip) & IPV4_DONT_FRAGMENT) === 0;
    const ecn = readTos(view, ip) & ECN_MASK;
    return send(at, ip, header, total, peers.hopOf(peer), hash, ecn, mayFragment, 0);
  }

  function egress6(at: number, ip: number, end: number): Drop {
    const form = checkIpv6(view, ip, end);
    if (form !== Drop.none) return form;
    const destination = ip + IPV6_DESTINATION;
    if (isMulticast6(view, destination)) return Drop.multicast;
    if (isMartian6(view, destination)) return Drop.martian;
    if (!peers.isOwn6(ip + IPV6_SOURCE)) return fromOthers6(at, ip, end);
    const verdict = decide(at, ip, end);
    return verdict === Drop.none ? route6(at, ip, end) : verdict;
  }

  function route6(at: number, ip: number, end: number): Drop {
    const destination = ip + IPV6_DESTINATION;
    const total = readPayloadLength(view, ip) + IPV6_HEADER_BYTES;
    if (peers.isOwn6(destination)) return deliver6(at, ip, end);
    const peer = peers.of6(destination);
    if (peer < 0) {
      if (!peers.isOverlay6(destination)) return writer.backToHost(at, end - ip);
      return refuse(ip, total);
    }
    if (peers.isDirect6(peer)) return toDirect(at, end - ip);
    // RFC 6437: addresses and flow label name a flow; the label carries what ports would.
    const hash = mix(
      mix(view.getInt32(ip + 20), view.getInt32(ip + 36)),
      view.getInt32(ip) & 0xfffff,
    );
    const ecn = readTrafficClass(view, ip) & ECN_MASK;
    const hop = peers.hopOf(peer) + HOP_BYTES;
    return send(at, ip, IPV6_HEADER_BYTES, total, hop, hash, ecn, false, IPV6_MTU_MIN);
  }

  function decide(at: number, ip: number, end: number): Drop {
    if (flows === null) return Drop.none;
    const verdict = flows.outbound(ip, end, (readVnetFlags(view, at) & VNET_NEEDS_CSUM) !== 0);
    if (verdict === Drop.fragment && held !== null && flows.isEarly()) {
      isHeld = held.keep(flows.packet, at, end - ip);
    }
    return verdict;
  }

  /** Into our own subnet. */
  function deliver4(at: number, ip: number, end: number): Drop {
    const destination = ip + IPV4_DESTINATION;
    if (peers.isPod4(destination) || peers.isNode4(destination)) {
      return writer.backLocal(at, end - ip);
    }
    icmp.unreachable(ip, readTotalLength(view, ip));
    return Drop.noPod;
  }

  function deliver6(at: number, ip: number, end: number): Drop {
    const destination = ip + IPV6_DESTINATION;
    if (peers.isPod6(destination) || peers.isNode6(destination)) {
      return writer.backLocal(at, end - ip);
    }
    icmp.unreachable(ip, readPayloadLength(view, ip) + IPV6_HEADER_BYTES);
    return Drop.noPod;
  }

  /** From the outside to a pod of ours, or from a direct peer; whatever else is routed here is not ours. */
  function fromOthers4(at: number, ip: number, end: number): Drop {
    const source = ip + IPV4_SOURCE;
    if (isMulticast4(view, source) || isMartian4(view, source)) return Drop.martian;
    const peer = peers.of4(source);
    if (peer < 0) {
      if (peers.isOverlay4(source)) return Drop.notOurSource;
      const verdict = decide(at, ip, end);
      if (verdict !== Drop.none) return verdict;
      // A Service's client that its backend is to answer through us.
      if (peers.isOwn4(source)) return route4(at, ip, end);
      if (!peers.isPod4(ip + IPV4_DESTINATION)) return Drop.notOurSource;
      return writer.backLocal(at, end - ip);
    }
    if (!peers.isDirect4(peer) || !peers.isOwn4(ip + IPV4_DESTINATION)) return Drop.notOurSource;
    if (!peers.current().forwarding) return Drop.notForwarding;
    const verdict = decide(at, ip, end);
    if (verdict !== Drop.none) return verdict;
    // An answer to a client outside, translated back.
    if (!peers.isOwn4(ip + IPV4_DESTINATION)) return writer.backToHost(at, end - ip);
    return deliver4(at, ip, end);
  }

  function fromOthers6(at: number, ip: number, end: number): Drop {
    const source = ip + IPV6_SOURCE;
    if (isMulticast6(view, source) || isMartian6(view, source)) return Drop.martian;
    const peer = peers.of6(source);
    if (peer < 0) {
      if (peers.isOverlay6(source)) return Drop.notOurSource;
      const verdict = decide(at, ip, end);
      if (verdict !== Drop.none) return verdict;
      if (peers.isOwn6(source)) return route6(at, ip, end);
      if (!peers.isPod6(ip + IPV6_DESTINATION)) return Drop.notOurSource;
      return writer.backLocal(at, end - ip);
    }
    if (!peers.isDirect6(peer) || !peers.isOwn6(ip + IPV6_DESTINATION)) return Drop.notOurSource;
    if (!peers.current().forwarding) return Drop.notForwarding;
    const verdict = decide(at, ip, end);
    if (verdict !== Drop.none) return verdict;
    if (!peers.isOwn6(ip + IPV6_DESTINATION)) return writer.backToHost(at, end - ip);
    return deliver6(at, ip, end);
  }

  /** To a peer that the host has a route to. */
  function toDirect(at: number, bytes: number): Drop {
    return peers.current().forwarding ? writer.backToHost(at, bytes) : Drop.notForwarding;
  }

  /** Into the overlay, but to nobody; while we do not forward, our word on that is worth nothing. */
  function refuse(ip: number, total: number): Drop {
    if (!peers.current().forwarding) return Drop.notForwarding;
    icmp.unreachable(ip, total);
    return Drop.noPeer;
  }

  function send(
    at: number,
    ip: number,
    header: number,
    total: number,
    hop: number,
    hash: number,
    ecn: number,
    mayFragment: boolean,
    mtuMin: number,
  ): Drop {
    if (!peers.current().forwarding) return Drop.notForwarding;
    const family = words[(hop + HOP_FAMILY) >>> 2]!;
    const queues = family === 4 ? queues4 : queues6;
    if (family === 0 || queues === null) {
      icmp.unreachable(ip, total);
      return Drop.noPeer;
    }
    const pathMtu = words[(hop + HOP_MTU) >>> 2]!;
    const isNarrow = pathMtu < mtuMin;
    const mtu = isNarrow ? mtuMin : pathMtu;
    const sender = isNarrow ? queues.fragmenting : queues.flows[hash & (queues.flows.length - 1)]!;
    const gsoType = readVnetGsoType(view, at);
    if (gsoType !== VNET_GSO_NONE) {
      const piece = readVnetGsoSize(view, at);
      const way = isNarrow || family !== 4 ? null : tunnel;
      return sendLarge(ip, header, total, gsoType, piece, hop, ecn, sender, mtu, mayFragment, way);
    }
    if ((readVnetFlags(view, at) & VNET_NEEDS_CSUM) !== 0) {
      const start = readVnetCsumStart(view, at);
      const field = start + readVnetCsumOffset(view, at);
      if (start < header || field + 2 > total) return Drop.offloadHeader;
      const sum = checksum(ip + start, total - start, 0);
      // A computed zero is sent as all ones: for UDP zero means "none" (RFC 768), TCP reads both alike.
      view.setUint16(ip + field, ~sum & 0xffff || 0xffff);
    }
    if (total > mtu) {
      if (mayFragment && segmenter.fragment(ip, header, total, hop, ecn, sender, mtu))
        return Drop.none;
      icmp.tooBig(ip, total, mtu);
      return Drop.tooBig;
    }
    const datagram = ip - ENCAPSULATION_BYTES;
    writeEncapsulation(view, datagram, hop);
    sender.append(hop, ecn, datagram, ENCAPSULATION_BYTES + total, 0, 0);
    return Drop.none;
  }

  function sendLarge(
    ip: number,
    ipHeader: number,
    total: number,
    gsoType: number,
    gsoSize: number,
    hop: number,
    ecn: number,
    sender: Sender,
    mtu: number,
    mayFragment: boolean,
    way: TunnelGso | null,
  ): Drop {
    const header = segmenter.transportHeaderOf(ip, ipHeader, total, gsoType);
    if (header === 0 || gsoSize === 0) return Drop.offloadHeader;
    const isTcp = header !== UDP_HEADER_BYTES;
    let piece = gsoSize;
    if (ipHeader + header + piece > mtu) {
      // TCP is a stream: where the sender allows fragments, smaller segments say the same.
      if (!mayFragment || !isTcp || mtu <= ipHeader + header) {
        icmp.tooBig(ip, total, mtu);
        return Drop.tooBig;
      }
      piece = mtu - ipHeader - header;
    }
    if (isTcp && way !== null) {
      // What waits in the queue may belong to the same flow, and goes first.
      sender.flush();
      if (way.write(ip, ipHeader, header, total, piece, hop, ecn, sender.sourcePort)) {
        return Drop.none;
      }
    }
    segmenter.segment(ip, ipHeader, header, total, piece, hop, ecn, sender);
    return Drop.none;
  }

  return egress;
}
