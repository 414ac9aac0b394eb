/**
 * One large packet becomes datagrams that fit the path: TCP and UDP as a network device with
 * segmentation offload does it, other IPv4 packets by fragmentation (RFC 791 section 3.2).
 * Runs per packet: no await, no allocation, no throw.
 *
 * The payload stays where it was read; each datagram is a header built here and a piece of it:
 *
 *     headers   [ encapsulation | IP | TCP ][ encapsulation | IP | TCP ] ...
 *     packet    [ IP | TCP |   piece 0        |        piece 1         ] ...
 */
import type { Arena } from '../linux/arena.ts';
import { VNET_GSO_ECN, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_UDP_L4 } from '../linux/tun.ts';
import type { Checksum } from '../wire/checksum/checksum.ts';
import {
  IPV4_HEADER_BYTES,
  IPV4_MORE_FRAGMENTS,
  finishIpv4Header,
  readFragmentWord,
  readId,
  readProtocol,
  sumIpv4Header,
} from '../wire/ipv4.ts';
import { readNextHeader } from '../wire/ipv6.ts';
import {
  PROTOCOL_TCP,
  TCP_CHECKSUM,
  TCP_CWR,
  TCP_FIN,
  TCP_HEADER_BYTES,
  TCP_PSH,
  readDataOffsetBytes,
  readSequence,
  readTcpFlags,
} from '../wire/tcp.ts';
import { PROTOCOL_UDP, UDP_CHECKSUM, UDP_HEADER_BYTES } from '../wire/udp.ts';
import { fold, pseudoSum } from './pseudo-header.ts';
import { ENCAPSULATION_BYTES } from './snapshot.ts';

/** Room for the longest header: encapsulation, IPv4 with options, TCP with options. */
const HEADER_BYTES_MAX = 144;

/** Takes datagrams: a header, built here or found in place, and a piece of payload (body bytes > 0). */
export interface DatagramSink {
  readonly append: (
    hop: number,
    ecn: number,
    headAt: number,
    headBytes: number,
    bodyAt: number,
    bodyBytes: number,
  ) => void;
}

export interface Segmenter {
  /**
   * The bytes of the TCP or UDP header of a packet that is to be cut as `gsoType` says, or 0 where
   * the packet contradicts it.
   */
  readonly transportHeaderOf: (
    ip: number,
    ipHeader: number,
    total: number,
    gsoType: number,
  ) => number;
  /** Cuts TCP (a header of 20 bytes or more) or UDP into segments of at most `piece` payload bytes. */
  readonly segment: (
    ip: number,
    ipHeader: number,
    header: number,
    total: number,
    piece: number,
    hop: number,
    ecn: number,
    sink: DatagramSink,
  ) => void;
  /** Fragments an IPv4 packet. @returns false where no fragment could fit */
  readonly fragment: (
    ip: number,
    ipHeader: number,
    total: number,
    hop: number,
    ecn: number,
    sink: DatagramSink,
    mtu: number,
  ) => boolean;
  /** The headers built so far have been sent. */
  readonly reset: () => void;
}

/** Copies a next hop's VXLAN and Ethernet headers. */
export function writeEncapsulation(view: DataView, at: number, hop: number): void {
  for (let i = 0; i < 20; i += 4) view.setInt32(at + i, view.getInt32(hop + i));
  view.setUint16(at + 20, view.getUint16(hop + 20));
}

/**
 * @param capacity headers that may wait to be sent
 * @param flush    called when they are all in use; sends them and calls `reset`
 */
export function createSegmenter(
  arena: Arena,
  checksum: Checksum,
  capacity: number,
  flush: () => void,
): Segmenter {
  const { view } = arena;
  const headersAt = arena.take(capacity * HEADER_BYTES_MAX, 'segment headers');
  const headersEnd = headersAt + (capacity - 1) * HEADER_BYTES_MAX;
  let next = headersAt;

  function takeHeader(): number {
    if (next > headersEnd) flush();
    const at = next;
    next += HEADER_BYTES_MAX;
    return at;
  }

  function reset(): void {
    next = headersAt;
  }

  /** Headers are copied by words; the room after each is ours, and the source has a payload behind. */
  function copyHeader(to: number, from: number, bytes: number): void {
    for (let i = 0; i < bytes; i += 4) view.setInt32(to + i, view.getInt32(from + i));
  }

  function transportHeaderOf(ip: number, ipHeader: number, total: number, gsoType: number): number {
    const isV4 = view.getUint8(ip) >>> 4 === 4;
    const protocol = isV4 ? readProtocol(view, ip) : readNextHeader(view, ip);
    const type = gsoType & ~VNET_GSO_ECN;
    let header = 0;
    if (protocol === PROTOCOL_TCP && type === (isV4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6)) {
      if (total > ipHeader + TCP_HEADER_BYTES) header = readDataOffsetBytes(view, ip + ipHeader);
      if (header < TCP_HEADER_BYTES) return 0;
    } else if (protocol === PROTOCOL_UDP && type === VNET_GSO_UDP_L4) {
      header = UDP_HEADER_BYTES;
    }
    return total > ipHeader + header ? header : 0;
  }

  function segment(
    ip: number,
    ipHeader: number,
    header: number,
    total: number,
    piece: number,
    hop: number,
    ecn: number,
    sink: DatagramSink,
  ): void {
    const isV4 = view.getUint8(ip) >>> 4 === 4;
    const isTcp = header !== UDP_HEADER_BYTES;
    const headers = ipHeader + header;
    const transport = ip + ipHeader;
    const end = ip + total;
    const firstId = isV4 ? readId(view, ip) : 0;
    const firstSequence = isTcp ? readSequence(view, transport) : 0;
    const flags = isTcp ? readTcpFlags(view, transport) : 0;
    const constant = isTcp ? sumConstantTcp(ip, transport, header) : sumConstantUdp(ip, transport);
    const ipConstant = isV4 ? sumConstantHeader(ip) : 0;
    let index = 0;
    for (let payload = ip + headers; payload < end; payload += piece) {
      const length = payload + piece < end ? piece : end - payload;
      const at = takeHeader();
      const to = at + ENCAPSULATION_BYTES;
      writeEncapsulation(view, at, hop);
      copyHeader(to, ip, headers);
      if (isTcp) {
        // FIN and PSH belong to the last segment, CWR to the first (RFC 3168 section 6.1.2).
        let segmentFlags = flags;
        if (payload + length < end) segmentFlags &= ~(TCP_FIN | TCP_PSH);
        if (index > 0) segmentFlags &= ~TCP_CWR;
        const sequence = (firstSequence + index * piece) >>> 0;
        finishTcp(to + ipHeader, sequence, segmentFlags, payload, length, constant);
      } else {
        finishUdp(to + ipHeader, payload, length, constant);
      }
      finishIp(to, isV4, ipHeader, header + length, firstId + index, ipConstant);
      sink.append(hop, ecn, at, ENCAPSULATION_BYTES + headers, payload, length);
      index++;
    }
  }

  /**
   * The sum of what is the same in every segment: addresses and protocol, and the TCP header without
   * sequence number, flags and checksum; leaves those zero.
   */
  function sumConstantTcp(ip: number, tcp: number, header: number): number {
    const pseudo = pseudoSum(view, ip, PROTOCOL_TCP, header);
    view.setUint16(tcp + TCP_CHECKSUM, 0);
    view.setUint8(tcp + 13, 0);
    view.setUint32(tcp + 4, 0);
    return checksum(tcp, header, pseudo);
  }

  function sumConstantUdp(ip: number, udp: number): number {
    const ports = view.getUint16(udp) + view.getUint16(udp + 2);
    return fold(pseudoSum(view, ip, PROTOCOL_UDP, 0) + ports);
  }

  function finishTcp(
    tcp: number,
    sequence: number,
    flags: number,
    payload: number,
    length: number,
    constant: number,
  ): void {
    view.setUint32(tcp + 4, sequence);
    view.setUint8(tcp + 13, flags);
    const words = (sequence >>> 16) + (sequence & 0xffff) + flags + length;
    view.setUint16(tcp + TCP_CHECKSUM, ~checksum(payload, length, constant + words) & 0xffff);
  }

  function finishUdp(udp: number, payload: number, length: number, constant: number): void {
    const udpLength = UDP_HEADER_BYTES + length;
    view.setUint16(udp + 4, udpLength);
    // The length stands in the pseudo-header and in the header.
    const sum = checksum(payload, length, constant + 2 * udpLength);
    view.setUint16(udp + UDP_CHECKSUM, ~sum & 0xffff || 0xffff);
  }

  /** The sum of what is the same in every segment's IPv4 header; leaves the rest of it zero. */
  function sumConstantHeader(ip: number): number {
    view.setUint16(ip + 2, 0);
    view.setUint16(ip + 4, 0);
    view.setUint16(ip + 10, 0);
    return sumIpv4Header(view, ip);
  }

  function finishIp(
    ip: number,
    isV4: boolean,
    ipHeader: number,
    payloadBytes: number,
    id: number,
    constant: number,
  ): void {
    if (isV4) {
      const total = ipHeader + payloadBytes;
      view.setUint16(ip + 2, total);
      view.setUint16(ip + 4, id);
      view.setUint16(ip + 10, ~fold(constant + total + (id & 0xffff)) & 0xffff);
    } else {
      view.setUint16(ip + 4, payloadBytes);
    }
  }

  function fragment(
    ip: number,
    ipHeader: number,
    total: number,
    hop: number,
    ecn: number,
    sink: DatagramSink,
    mtu: number,
  ): boolean {
    // Every fragment but the last carries a multiple of eight bytes. Options are copied to all: those
    // that need not be are ignored in the others (RFC 791 section 3.1).
    const piece = (mtu - ipHeader) & ~7;
    if (piece < 8 || ipHeader < IPV4_HEADER_BYTES) return false;
    const word = readFragmentWord(view, ip);
    const end = ip + total;
    let offset = word & 0x1fff;
    for (let payload = ip + ipHeader; payload < end; payload += piece) {
      const length = payload + piece < end ? piece : end - payload;
      const at = takeHeader();
      const to = at + ENCAPSULATION_BYTES;
      const more = payload + length < end ? IPV4_MORE_FRAGMENTS : word & IPV4_MORE_FRAGMENTS;
      writeEncapsulation(view, at, hop);
      copyHeader(to, ip, ipHeader);
      view.setUint16(to + 2, ipHeader + length);
      view.setUint16(to + 6, more | offset);
      finishIpv4Header(view, to);
      sink.append(hop, ecn, at, ENCAPSULATION_BYTES + ipHeader, payload, length);
      offset += piece >>> 3;
    }
    return true;
  }

  return { transportHeaderOf, segment, fragment, reset };
}
