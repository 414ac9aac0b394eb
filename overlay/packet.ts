/**
 * Which flow a packet belongs to: finds the transport header behind IPv4 options and IPv6 extension
 * headers, and what of it a fragment shows.
 * Runs per packet: no await, no allocation, no throw.
 */
import { Drop } from '../wire/drop-reason.ts';
import {
  ICMPV6_ECHO,
  ICMPV6_ECHO_REPLY,
  ICMP_ECHO,
  ICMP_ECHO_REPLY,
  ICMP_HEADER_BYTES,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  isIcmpError,
  isIcmpv6Error,
  readEchoId,
} from '../wire/icmp.ts';
import {
  IPV4_DESTINATION,
  IPV4_MORE_FRAGMENTS,
  IPV4_SOURCE,
  fragmentOffsetBytes,
  readFragmentWord,
  readHeaderBytes,
  readId,
  readProtocol,
  readTotalLength,
} from '../wire/ipv4.ts';
import {
  IPV6_DESTINATION,
  IPV6_FRAGMENT,
  IPV6_FRAGMENT_BYTES,
  IPV6_HEADER_BYTES,
  IPV6_SOURCE,
  fragmentOffsetBytes6,
  readNextHeader,
  readPayloadLength,
} from '../wire/ipv6.ts';
import { PROTOCOL_SCTP, SCTP_HEADER_BYTES, readFirstChunk } from '../wire/sctp.ts';
import { PROTOCOL_TCP, TCP_HEADER_BYTES, readTcpFlags } from '../wire/tcp.ts';
import { PROTOCOL_UDP, UDP_HEADER_BYTES } from '../wire/udp.ts';
import { KIND_AFFINITY, KIND_FRAGMENT } from './flow-table.ts';

const IPV6_HOP_BY_HOP = 0;
const IPV6_ROUTING = 43;
const IPV6_AUTHENTICATION = 51;
const IPV6_DESTINATION_OPTIONS = 60;
/** RFC 8200 section 4.1 has each at most once, destination options twice. */
const IPV6_EXTENSIONS_MAX = 8;

/** The packet that was parsed last; one a worker, written over each time. */
export interface Packet {
  ip: number;
  /** After its last byte. */
  end: number;
  is4: boolean;
  sourceAt: number;
  destinationAt: number;
  protocol: number;
  /** Offset of the transport header; of what follows the fragment header in a later fragment. */
  transport: number;
  /** Source port above, destination port below; ICMP echo: its identifier as both; else 0. */
  ports: number;
  /** TCP's flags; SCTP's first chunk type. */
  flags: number;
  /** More fragments belong to it. */
  isFragment: boolean;
  /** Not the first: it shows no transport header. */
  isLater: boolean;
  /** Names the datagram that a fragment belongs to, with its addresses. */
  fragmentId: number;
  isIcmpError: boolean;
}

export const createPacket = (): Packet => ({
  ip: 0,
  end: 0,
  is4: true,
  sourceAt: 0,
  destinationAt: 0,
  protocol: 0,
  transport: 0,
  ports: 0,
  flags: 0,
  isFragment: false,
  isLater: false,
  fragmentId: 0,
  isIcmpError: false,
});

/**
 * @param ip     a packet whose IP header was checked against `end`
 * @param quote  it stands in an ICMP error: 8 bytes of the transport header are enough (RFC 792)
 */
export function parsePacket(
  view: DataView,
  packet: Packet,
  ip: number,
  end: number,
  quote: boolean,
): Drop {
  packet.ip = ip;
  packet.ports = 0;
  packet.flags = 0;
  packet.isIcmpError = false;
  const is4 = view.getUint8(ip) >>> 4 === 4;
  packet.is4 = is4;
  const drop = is4 ? parse4(view, packet, ip, end, quote) : parse6(view, packet, ip, end, quote);
  if (drop !== Drop.none || packet.isLater) return drop;
  return parseTransport(view, packet, quote);
}

function parse4(view: DataView, packet: Packet, ip: number, end: number, quote: boolean): Drop {
  packet.sourceAt = ip + IPV4_SOURCE;
  packet.destinationAt = ip + IPV4_DESTINATION;
  packet.protocol = readProtocol(view, ip);
  packet.transport = ip + readHeaderBytes(view, ip);
  const total = ip + readTotalLength(view, ip);
  packet.end = quote && total > end ? end : total;
  const offset = fragmentOffsetBytes(view, ip);
  packet.isLater = offset !== 0;
  packet.isFragment = packet.isLater || (readFragmentWord(view, ip) & IPV4_MORE_FRAGMENTS) !== 0;
  packet.fragmentId = (packet.protocol << 16) | readId(view, ip);
  // It would write over a TCP header's flags (RFC 3128 section 3).
  if (offset === 8 && packet.protocol === PROTOCOL_TCP) return Drop.fragment;
  return isReserved(packet.protocol) ? Drop.protocol : Drop.none;
}

function parse6(view: DataView, packet: Packet, ip: number, end: number, quote: boolean): Drop {
  packet.sourceAt = ip + IPV6_SOURCE;
  packet.destinationAt = ip + IPV6_DESTINATION;
  packet.isFragment = false;
  packet.isLater = false;
  packet.fragmentId = 0;
  const whole = ip + IPV6_HEADER_BYTES + readPayloadLength(view, ip);
  packet.end = quote && whole > end ? end : whole;
  let next = readNextHeader(view, ip);
  let at = ip + IPV6_HEADER_BYTES;
  for (let i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
    if (!isExtension(next)) {
      packet.protocol = next;
      packet.transport = at;
      return isReserved(next) ? Drop.protocol : Drop.none;
    }
    if (at + 8 > packet.end) return Drop.transport;
    let bytes = 8 + view.getUint8(at + 1) * 8;
    if (next === IPV6_AUTHENTICATION) bytes = (view.getUint8(at + 1) + 2) * 4;
    if (next === IPV6_FRAGMENT) {
      // One in another: nobody's honest traffic.
      if (packet.isFragment) return Drop.fragment;
      const offset = fragmentOffsetBytes6(view, at);
      packet.fragmentId = view.getInt32(at + 4);
      packet.isLater = offset !== 0;
      // An atomic fragment is a whole packet (RFC 6946).
      packet.isFragment = packet.isLater || (view.getUint8(at + 3) & 1) !== 0;
      bytes = IPV6_FRAGMENT_BYTES;
    }
    const type = next;
    next = view.getUint8(at);
    at += bytes;
    if (at > packet.end) return Drop.transport;
    if (type === IPV6_FRAGMENT && packet.isLater) {
      packet.protocol = next;
      packet.transport = at;
      return Drop.none;
    }
  }
  return Drop.transport;
}

function isExtension(next: number): boolean {
  return (
    next === IPV6_HOP_BY_HOP ||
    next === IPV6_ROUTING ||
    next === IPV6_FRAGMENT ||
    next === IPV6_AUTHENTICATION ||
    next === IPV6_DESTINATION_OPTIONS
  );
}

/** In IPv4 0 is no protocol; the others name entries of the flow table that are no flows. */
function isReserved(protocol: number): boolean {
  return protocol === 0 || protocol === KIND_AFFINITY || protocol === KIND_FRAGMENT;
}

function parseTransport(view: DataView, packet: Packet, quote: boolean): Drop {
  const { transport, protocol, end } = packet;
  const bytes = end - transport;
  // A first fragment too short for the ports would dodge rules about them (RFC 1858).
  const short = packet.isFragment ? Drop.fragment : Drop.transport;
  if (protocol === PROTOCOL_TCP) {
    if (bytes < (quote ? 8 : TCP_HEADER_BYTES)) return short;
    packet.ports = view.getInt32(transport);
    if (!quote) packet.flags = readTcpFlags(view, transport);
    return Drop.none;
  }
  if (protocol === PROTOCOL_UDP) {
    if (bytes < UDP_HEADER_BYTES) return short;
    packet.ports = view.getInt32(transport);
    return Drop.none;
  }
  if (protocol === PROTOCOL_SCTP) {
    if (bytes < (quote ? 8 : SCTP_HEADER_BYTES)) return short;
    packet.ports = view.getInt32(transport);
    packet.flags = quote ? 0 : readFirstChunk(view, transport, end);
    return Drop.none;
  }
  if (protocol === PROTOCOL_ICMP || protocol === PROTOCOL_ICMPV6) {
    if (bytes < ICMP_HEADER_BYTES) return short;
    const type = view.getUint8(transport);
    const isV4 = protocol === PROTOCOL_ICMP;
    packet.isIcmpError = isV4 ? isIcmpError(type) : isIcmpv6Error(type);
    const isEcho = isV4
      ? type === ICMP_ECHO || type === ICMP_ECHO_REPLY
      : type === ICMPV6_ECHO || type === ICMPV6_ECHO_REPLY;
    if (isEcho) packet.ports = readEchoId(view, transport) * 0x10001;
    packet.ports |= 0;
  }
  return Drop.none;
}
