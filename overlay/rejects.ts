/**
 * "Nobody is here": a TCP RST (RFC 9293 section 3.5.2), or ICMP port unreachable for other protocols,
 * from the address that was asked. For Services without endpoints and ports that they have not; policy
 * drops in silence.
 * Runs per packet: no await, no allocation, no throw.
 */
import type { Arena } from '../linux/arena.ts';
import type { Checksum } from '../wire/checksum/checksum.ts';
import {
  IPV4_DESTINATION,
  IPV4_HEADER_BYTES,
  IPV4_SOURCE,
  finishIpv4Header,
} from '../wire/ipv4.ts';
import { IPV6_DESTINATION, IPV6_HEADER_BYTES, IPV6_SOURCE } from '../wire/ipv6.ts';
import {
  PROTOCOL_TCP,
  TCP_ACK,
  TCP_CHECKSUM,
  TCP_FIN,
  TCP_HEADER_BYTES,
  TCP_RST,
  TCP_SYN,
  readAcknowledgement,
  readDataOffsetBytes,
  readSequence,
} from '../wire/tcp.ts';
import type { IcmpErrors } from './icmp-errors.ts';
import type { Packet } from './packet.ts';
import { pseudoSum } from './pseudo-header.ts';
import type { TunWriter } from './tun-writer.ts';

const HEADROOM = 64;

export interface Rejects {
  readonly reject: (packet: Packet) => void;
}

export function createRejects(
  arena: Arena,
  checksum: Checksum,
  icmp: IcmpErrors,
  writer: TunWriter,
): Rejects {
  const { view } = arena;
  const at = arena.take(HEADROOM + IPV6_HEADER_BYTES + TCP_HEADER_BYTES, 'TCP reset') + HEADROOM;

  function copy(to: number, from: number, bytes: number): void {
    for (let i = 0; i < bytes; i += 4) view.setInt32(to + i, view.getInt32(from + i));
  }

  function reject(packet: Packet): void {
    if (packet.protocol === PROTOCOL_TCP && !packet.isLater) {
      if ((packet.flags & TCP_RST) === 0 && icmp.mayAnswer()) reset(packet);
      return;
    }
    icmp.portUnreachable(packet.ip, packet.end - packet.ip);
  }

  function reset(packet: Packet): void {
    const { is4, sourceAt, destinationAt, transport, end, flags } = packet;
    const ipBytes = is4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES;
    const tcp = at + ipBytes;
    if (is4) {
      view.setUint32(at, 0x45000000 | (IPV4_HEADER_BYTES + TCP_HEADER_BYTES));
      view.setUint32(at + 4, 0x4000);
      view.setUint32(at + 8, (64 << 24) | (PROTOCOL_TCP << 16));
      copy(at + IPV4_SOURCE, destinationAt, 4);
      copy(at + IPV4_DESTINATION, sourceAt, 4);
      finishIpv4Header(view, at);
    } else {
      view.setUint32(at, 0x60000000);
      view.setUint32(at + 4, (TCP_HEADER_BYTES << 16) | (PROTOCOL_TCP << 8) | 64);
      copy(at + IPV6_SOURCE, destinationAt, 16);
      copy(at + IPV6_DESTINATION, sourceAt, 16);
    }
    const payload = end - transport - readDataOffsetBytes(view, transport);
    const length =
      (payload > 0 ? payload : 0) +
      ((flags & TCP_SYN) === 0 ? 0 : 1) +
      ((flags & TCP_FIN) === 0 ? 0 : 1);
    const answersAck = (flags & TCP_ACK) !== 0;
    view.setUint16(tcp, view.getUint16(transport + 2));
    view.setUint16(tcp + 2, view.getUint16(transport));
    view.setUint32(tcp + 4, answersAck ? readAcknowledgement(view, transport) : 0);
    view.setUint32(tcp + 8, answersAck ? 0 : readSequence(view, transport) + length);
    view.setUint16(tcp + 12, 0x5000 | TCP_RST | (answersAck ? 0 : TCP_ACK));
    view.setUint32(tcp + 14, 0);
    view.setUint16(tcp + 18, 0);
    const pseudo = pseudoSum(view, at, PROTOCOL_TCP, TCP_HEADER_BYTES);
    view.setUint16(tcp + TCP_CHECKSUM, ~checksum(tcp, TCP_HEADER_BYTES, pseudo) & 0xffff);
    writer.single(at, ipBytes + TCP_HEADER_BYTES, 0, 0, 0);
  }

  return { reject };
}
