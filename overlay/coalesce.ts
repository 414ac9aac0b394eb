/**
 * Inner segments of one flow that arrive in one batch become one large packet for the TUN: TCP as the
 * kernel's GRO does it, UDP as datagrams of equal size (VNET_GSO_UDP_L4).
 * Runs per packet: no await, no allocation, no throw.
 *
 * A flow is open from its first segment until one comes that does not continue it, or the batch ends.
 * Order within a flow is kept: what cannot be merged is written after what was open before it.
 * Only segments whose checksum is right, or still the bare pseudo-header sum that a sender on the same
 * machine leaves to its device, are merged; others go on as they are, and the pod's kernel judges them.
 */
import type { Arena } from '../linux/arena.ts';
import {
  VNET_DATA_VALID,
  VNET_GSO_TCPV4,
  VNET_GSO_TCPV6,
  VNET_GSO_UDP_L4,
  VNET_HEADER_BYTES,
  VNET_NEEDS_CSUM,
  writeVnetHeader,
} from '../linux/tun.ts';
import type { Checksum } from '../wire/checksum/checksum.ts';
import { Drop } from '../wire/drop-reason.ts';
import { mix } from '../wire/flow-key.ts';
import { IPV4_DONT_FRAGMENT, finishIpv4Header, isFragment } from '../wire/ipv4.ts';
import { IPV6_HEADER_BYTES } from '../wire/ipv6.ts';
import {
  PROTOCOL_TCP,
  TCP_ACK,
  TCP_CHECKSUM,
  TCP_HEADER_BYTES,
  TCP_PSH,
  readDataOffsetBytes,
  readPorts,
  readSequence,
  readTcpFlags,
} from '../wire/tcp.ts';
import { PROTOCOL_UDP, UDP_CHECKSUM, UDP_HEADER_BYTES, readUdpLength } from '../wire/udp.ts';
import type { CaptureWriter } from './capture-ring.ts';
import { Counter, DROPS_IN } from './counters.ts';
import type { Flows } from './flows.ts';
import type { EventWriter } from './event-ring.ts';
import type { HeldFragments } from './held-fragments.ts';
import { pseudoSum } from './pseudo-header.ts';
import type { Peers } from './peers.ts';
import { type DatagramSink, createSegmenter } from './segment.ts';
import { ENCAPSULATION_BYTES } from './snapshot.ts';
import type { Gather, TunWriter } from './tun-writer.ts';
import type { Offloads } from './types.ts';

/** Places for open flows, a power of two; a flow has its own and the next few to look at. */
const FLOWS = 64;
const PLACES = 4;
const BEGUN_MAX = 256;
const SEGMENTS_MAX = 64;
const PACKET_BYTES_MAX = 65535;

export interface Coalescer {
  /**
   * Takes the checked IP packet of `bytes` at `ip`; it must stay put until `flush`.
   * @param gsoSize payload of a segment where the packet is an unsegmented one, or 0: not known
   */
  readonly add: (ip: number, bytes: number, gsoSize: number) => void;
  readonly flush: () => void;
}

interface OpenFlow {
  readonly gather: Gather;
  /** Offset of the first packet, or 0: the place is free. */
  ip: number;
  hash: number;
  /** IP and transport header, bytes. */
  header: number;
  ipHeader: number;
  protocol: number;
  /** Payload of the first segment; none is larger, and a smaller one is the last. */
  segmentBytes: number;
  /** The sequence number that comes next, as an int32. */
  nextSequence: number;
  bytes: number;
  segments: number;
  /** VNET_NEEDS_CSUM or VNET_DATA_VALID, for a flow that ends with one segment. */
  flags: number;
}

export function createCoalescer(
  arena: Arena,
  counters: Float64Array,
  checksum: Checksum,
  peers: Peers,
  writer: TunWriter,
  offloads: Offloads,
  /** Null: nothing is decided or translated. */
  decisions: Flows | null = null,
  held: HeldFragments | null = null,
  events: EventWriter | null = null,
  capture: CaptureWriter | null = null,
): Coalescer {
  const { view } = arena;
  const coalesceTcp = offloads.coalesce && offloads.tunTso;
  const coalesceUdp = offloads.coalesce && offloads.tunUso;
  const flows: OpenFlow[] = Array.from({ length: FLOWS }, () => ({
    gather: writer.createGather(SEGMENTS_MAX),
    ip: 0,
    hash: 0,
    header: 0,
    ipHeader: 0,
    protocol: 0,
    segmentBytes: 0,
    nextSequence: 0,
    bytes: 0,
    segments: 0,
    flags: 0,
  }));
  const large = writer.createGather(1);
  const segmentPiece = writer.createGather(2);
  /** Where a TUN takes no large packets, they are cut as for the wire, and each piece is written. */
  const pieces: DatagramSink = { append: writePiece };
  const segmenter = createSegmenter(arena, checksum, 1, () => segmenter.reset());
  let worst: Drop = Drop.none;
  /** Places in the order in which flows were begun in them, since the last flush. */
  const begun = new Uint8Array(BEGUN_MAX);
  let begunCount = 0;

  function add(ip: number, bytes: number, gsoSize: number): void {
    const isV4 = view.getUint8(ip) >>> 4 === 4;
    const ipHeader = isV4 ? (view.getUint8(ip) & 15) << 2 : IPV6_HEADER_BYTES;
    const protocol = view.getUint8(ip + (isV4 ? 9 : 6));
    const transport = ip + ipHeader;
    const transportBytes = bytes - ipHeader;
    let header = 0;
    if (protocol === PROTOCOL_TCP && transportBytes >= TCP_HEADER_BYTES) {
      header = readDataOffsetBytes(view, transport);
      if (header < TCP_HEADER_BYTES || header > transportBytes) header = 0;
    } else if (protocol === PROTOCOL_UDP && transportBytes >= UDP_HEADER_BYTES) {
      if (readUdpLength(view, transport) === transportBytes) header = UDP_HEADER_BYTES;
    }
    if (header === 0 || (isV4 && isFragment(view, ip))) {
      // No ports to go by. Fragments may belong to any open flow of these hosts: keep the order.
      flush();
      count(single(ip, bytes, 0, 0, 0), 1);
      if (held !== null) releaseHeld(held);
      return;
    }
    const flags = checksumState(ip, transport, transportBytes, protocol, header);
    const mtu = peers.current().mtuBytes;
    if (bytes > mtu) {
      flush();
      const piece = gsoSize > 0 ? gsoSize : mtu - ipHeader - header;
      const large = protocol === PROTOCOL_TCP || gsoSize > 0;
      if (flags === 0 || !large || piece <= 0) {
        counters[Drop.oversized]!++;
        counters[DROPS_IN + Drop.oversized]!++;
        events?.dropped(Drop.oversized, ip, ip + bytes, false, -1, true, false);
        if (capture !== null && capture.isInner()) {
          capture.note(ip, ip + bytes);
          capture.decided(Drop.oversized, ip, ip + bytes, bytes, false);
        }
      } else writeLarge(ip, ipHeader, protocol, header, bytes, piece);
      return;
    }
    const hash = hashOf(ip, isV4, transport);
    const flow = begunCount === 0 ? null : findOpen(ip, isV4, transport, protocol, hash);
    const payload = transportBytes - header;
    if (!isMergeable(protocol, transport, payload, ipHeader, isV4, flags)) {
      if (flow !== null) close(flow);
      const csumOffset = protocol === PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
      count(single(ip, bytes, flags, ipHeader, csumOffset), 1);
      return;
    }
    if (flow !== null) {
      if (continues(flow, ip, isV4, transport, header, payload)) {
        extend(flow, transport, header, payload);
        return;
      }
      close(flow);
    }
    begin(ip, hash, ipHeader, header, protocol, payload, flags);
  }

  /**
   * Once for all the segments that were merged; what is merged gets its checksum's sum afterwards.
   * @param stored  of `bytes`, those that stand at `ip`
   */
  function decide(ip: number, bytes: number, stored: number, unfinished: boolean): Drop {
    const isCaptured = capture !== null && capture.isInner();
    if (isCaptured) capture.note(ip, ip + stored);
    const verdict = decisions === null ? Drop.none : decisions.inbound(ip, ip + bytes, unfinished);
    // A fragment that waits for its first one is told when that has come.
    if (verdict !== Drop.none && decisions!.isEarly()) return verdict;
    if (verdict !== Drop.none) {
      events?.dropped(verdict, ip, ip + bytes, false, -1, true, decisions!.isReply());
    }
    if (isCaptured) capture.decided(verdict, ip, ip + bytes, stored, false);
    return verdict;
  }

  function single(
    ip: number,
    bytes: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
  ): Drop {
    const verdict = decide(ip, bytes, bytes, flags === VNET_NEEDS_CSUM);
    if (verdict === Drop.none) return writer.single(ip, bytes, flags, csumStart, csumOffset);
    if (verdict === Drop.fragment && held !== null && decisions!.isEarly()) {
      if (held.keep(decisions!.packet, ip - VNET_HEADER_BYTES, bytes)) return Drop.none;
    }
    return verdict;
  }

  /** The first fragment of their datagram may have passed. */
  function releaseHeld(fragments: HeldFragments): void {
    for (let at = fragments.next(); at >= 0; at = fragments.next()) {
      const drop = single(at + VNET_HEADER_BYTES, fragments.bytes(), 0, 0, 0);
      if (drop !== Drop.none) fragments.spoil(drop);
    }
    fragments.settle();
  }

  /** VNET_NEEDS_CSUM: unfinished. VNET_DATA_VALID: right. 0: wrong, absent, or not looked at. */
  function checksumState(
    ip: number,
    transport: number,
    bytes: number,
    protocol: number,
    header: number,
  ): number {
    const pseudo = pseudoSum(view, ip, protocol, bytes);
    const field = view.getUint16(
      transport + (protocol === PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM),
    );
    if (field === pseudo) return VNET_NEEDS_CSUM;
    // Without payload there is nothing to merge, and the kernel sums a header as fast as we do.
    if (bytes === header || (protocol === PROTOCOL_UDP && field === 0)) return 0;
    return checksum(transport, bytes, pseudo) === 0xffff ? VNET_DATA_VALID : 0;
  }

  function hashOf(ip: number, isV4: boolean, transport: number): number {
    return isV4
      ? mix(mix(view.getInt32(ip + 12), view.getInt32(ip + 16)), view.getInt32(transport))
      : mix(mix(view.getInt32(ip + 20), view.getInt32(ip + 36)), view.getInt32(transport));
  }

  function findOpen(
    ip: number,
    isV4: boolean,
    transport: number,
    protocol: number,
    hash: number,
  ): OpenFlow | null {
    for (let i = 0; i < PLACES; i++) {
      const flow = flows[(hash + i) & (FLOWS - 1)]!;
      if (flow.ip !== 0 && flow.hash === hash && flow.protocol === protocol) {
        const at = flow.ip;
        if (
          sameAddresses(at, ip, isV4) &&
          readPorts(view, at + flow.ipHeader) === readPorts(view, transport)
        ) {
          return flow;
        }
      }
    }
    return null;
  }

  function sameAddresses(a: number, b: number, isV4: boolean): boolean {
    if (view.getUint8(a) >>> 4 !== view.getUint8(b) >>> 4) return false;
    const from = isV4 ? 12 : 8;
    const to = isV4 ? 20 : 40;
    for (let i = from; i < to; i += 4) {
      if (view.getInt32(a + i) !== view.getInt32(b + i)) return false;
    }
    return true;
  }

  function isMergeable(
    protocol: number,
    transport: number,
    payload: number,
    ipHeader: number,
    isV4: boolean,
    flags: number,
  ): boolean {
    if (payload <= 0 || flags === 0) return false;
    if (isV4 && ipHeader !== 20) return false;
    if (protocol === PROTOCOL_UDP) return coalesceUdp;
    return coalesceTcp && (readTcpFlags(view, transport) & ~TCP_PSH) === TCP_ACK;
  }

  function continues(
    flow: OpenFlow,
    ip: number,
    isV4: boolean,
    transport: number,
    header: number,
    payload: number,
  ): boolean {
    if (
      payload > flow.segmentBytes ||
      flow.segments === SEGMENTS_MAX ||
      flow.bytes + payload > PACKET_BYTES_MAX ||
      flow.header !== flow.ipHeader + header
    ) {
      return false;
    }
    const first = flow.ip;
    if (isV4) {
      // TOS, TTL and DF alike; the identification counts up where it means something (RFC 6864).
      const fragment = view.getUint16(ip + 6);
      const step = (view.getUint16(first + 4) + flow.segments) & 0xffff;
      if (
        view.getUint8(ip + 1) !== view.getUint8(first + 1) ||
        view.getUint8(ip + 8) !== view.getUint8(first + 8) ||
        fragment !== view.getUint16(first + 6) ||
        ((fragment & IPV4_DONT_FRAGMENT) === 0 && view.getUint16(ip + 4) !== step)
      ) {
        return false;
      }
    } else if (
      view.getInt32(ip) !== view.getInt32(first) ||
      view.getUint8(ip + 7) !== view.getUint8(first + 7)
    ) {
      return false;
    }
    if (flow.protocol === PROTOCOL_UDP) return true;
    if (readSequence(view, transport) !== flow.nextSequence >>> 0) return false;
    // Acknowledgement, window and options alike; PSH may differ.
    const base = first + flow.ipHeader;
    if (
      view.getInt32(transport + 8) !== view.getInt32(base + 8) ||
      view.getUint16(transport + 14) !== view.getUint16(base + 14)
    ) {
      return false;
    }
    for (let i = TCP_HEADER_BYTES; i < header; i += 4) {
      if (view.getInt32(transport + i) !== view.getInt32(base + i)) return false;
    }
    return true;
  }

  function extend(flow: OpenFlow, transport: number, header: number, payload: number): void {
    flow.gather.push(transport + header, payload);
    flow.segments++;
    flow.bytes += payload;
    flow.nextSequence = (flow.nextSequence + payload) | 0;
    if (flow.protocol === PROTOCOL_TCP) {
      const pushed = readTcpFlags(view, transport) & TCP_PSH;
      const flagsAt = flow.ip + flow.ipHeader + 13;
      view.setUint8(flagsAt, view.getUint8(flagsAt) | pushed);
      if (pushed !== 0) {
        close(flow);
        return;
      }
    }
    if (payload < flow.segmentBytes) close(flow);
  }

  function begin(
    ip: number,
    hash: number,
    ipHeader: number,
    header: number,
    protocol: number,
    payload: number,
    flags: number,
  ): void {
    if (begunCount === BEGUN_MAX) flush();
    const place = freePlace(hash);
    const flow = flows[place]!;
    begun[begunCount++] = place;
    flow.ip = ip;
    flow.hash = hash;
    flow.ipHeader = ipHeader;
    flow.header = ipHeader + header;
    flow.protocol = protocol;
    flow.segmentBytes = payload;
    flow.bytes = ipHeader + header + payload;
    flow.segments = 1;
    flow.flags = flags;
    flow.nextSequence =
      protocol === PROTOCOL_TCP ? (view.getInt32(ip + ipHeader + 4) + payload) | 0 : 0;
    flow.gather.begin(ip, flow.bytes);
    // A PSH asks for delivery now; what follows it begins anew.
    if (protocol === PROTOCOL_TCP && (readTcpFlags(view, ip + ipHeader) & TCP_PSH) !== 0)
      close(flow);
  }

  /** A free place for a flow, if need be by closing the flow that has the first. */
  function freePlace(hash: number): number {
    for (let i = 0; i < PLACES; i++) {
      const place = (hash + i) & (FLOWS - 1);
      if (flows[place]!.ip === 0) return place;
    }
    const place = hash & (FLOWS - 1);
    close(flows[place]!);
    return place;
  }

  function close(flow: OpenFlow): void {
    const { ip, ipHeader, protocol, segments } = flow;
    flow.ip = 0;
    if (segments === 1) {
      const csumOffset = protocol === PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
      count(single(ip, flow.bytes, flow.flags, ipHeader, csumOffset), 1);
      return;
    }
    const transportBytes = flow.bytes - ipHeader;
    if (view.getUint8(ip) >>> 4 === 4) {
      view.setUint16(ip + 2, flow.bytes);
      finishIpv4Header(view, ip);
    } else {
      view.setUint16(ip + 4, transportBytes);
    }
    if (protocol === PROTOCOL_UDP) view.setUint16(ip + ipHeader + 4, transportBytes);
    const verdict = decide(ip, flow.bytes, flow.header + flow.segmentBytes, true);
    if (verdict !== Drop.none) {
      count(verdict, segments);
      return;
    }
    writeGsoHeader(ip, ipHeader, protocol, flow.header, flow.bytes, flow.segmentBytes);
    count(writer.gathered(flow.gather, flow.bytes), segments);
  }

  /** For a packet of more than one segment; leaves its checksum to whoever takes it apart. */
  function writeGsoHeader(
    ip: number,
    ipHeader: number,
    protocol: number,
    headers: number,
    bytes: number,
    piece: number,
  ): void {
    const csumOffset = protocol === PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
    view.setUint16(ip + ipHeader + csumOffset, pseudoSum(view, ip, protocol, bytes - ipHeader));
    let gsoType = VNET_GSO_UDP_L4;
    if (protocol === PROTOCOL_TCP) {
      gsoType = view.getUint8(ip) >>> 4 === 4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6;
    }
    const at = ip - VNET_HEADER_BYTES;
    writeVnetHeader(view, at, VNET_NEEDS_CSUM, gsoType, headers, piece, ipHeader, csumOffset);
  }

  /**
   * A packet that nobody has segmented, larger than the TUN takes as it is: a sender on this machine
   * left it to a network device that was not there.
   */
  function writeLarge(
    ip: number,
    ipHeader: number,
    protocol: number,
    header: number,
    bytes: number,
    piece: number,
  ): void {
    const verdict = decide(ip, bytes, bytes, true);
    if (verdict !== Drop.none) {
      count(verdict, 1);
      return;
    }
    if (protocol === PROTOCOL_TCP ? offloads.tunTso : offloads.tunUso) {
      writeGsoHeader(ip, ipHeader, protocol, ipHeader + header, bytes, piece);
      large.begin(ip, bytes);
      count(writer.gathered(large, bytes), 1);
      return;
    }
    worst = Drop.none;
    segmenter.segment(ip, ipHeader, header, bytes, piece, 0, 0, pieces);
    count(worst, 1);
  }

  function writePiece(
    _hop: number,
    _ecn: number,
    headAt: number,
    headBytes: number,
    bodyAt: number,
    bodyBytes: number,
  ): void {
    const ip = headAt + ENCAPSULATION_BYTES;
    const ipBytes = headBytes - ENCAPSULATION_BYTES;
    writeVnetHeader(view, ip - VNET_HEADER_BYTES, 0, 0, 0, 0, 0, 0);
    segmentPiece.begin(ip, ipBytes);
    segmentPiece.push(bodyAt, bodyBytes);
    const drop = writer.gathered(segmentPiece, ipBytes + bodyBytes);
    if (drop !== Drop.none) worst = drop;
  }

  function count(drop: Drop, segments: number): void {
    counters[drop === Drop.none ? Counter.tunDelivered : drop]! += segments;
    if (drop !== Drop.none) counters[DROPS_IN + drop]! += segments;
  }

  function flush(): void {
    if (begunCount > 1 && decisions !== null && decisions.isLarge()) expectAll(decisions);
    for (let i = 0; i < begunCount; i++) {
      const flow = flows[begun[i]!]!;
      if (flow.ip !== 0) close(flow);
    }
    begunCount = 0;
  }

  function expectAll(of: Flows): void {
    for (let i = 0; i < begunCount; i++) {
      const { ip, bytes } = flows[begun[i]!]!;
      if (ip !== 0) of.expect(ip, ip + bytes);
    }
    of.fetch();
  }

  return { add, flush };
}
