/**
 * Packets for tests, built and taken apart the slow and obvious way, with nothing of the packet path in
 * it but the checksum's definition. The family follows from the addresses' text.
 */
import { isIPv4 } from 'node:net';
import {
  type IpAddress,
  formatAddress,
  ipv6Words,
  parseAddress,
  toIpv4,
  toIpv6,
} from '../../wire/address.ts';
import { checksumReference } from '../../wire/checksum/checksum.ts';
import { ETHERNET_HEADER_BYTES } from '../../wire/ethernet.ts';
import { parseMac } from '../../wire/mac.ts';
import { VXLAN_HEADER_BYTES } from '../../wire/vxlan.ts';

export const TCP = 6;
export const UDP = 17;
export const ICMP = 1;
export const ICMPV6 = 58;

export const FIN = 0x01;
export const SYN = 0x02;
export const RST = 0x04;
export const PSH = 0x08;
export const ACK = 0x10;
export const URG = 0x20;
export const ECE = 0x40;
export const CWR = 0x80;

export const GSO_TCPV4 = 1;
export const GSO_TCPV6 = 4;
export const GSO_UDP_L4 = 5;

/** What a checksum field holds: the right sum, the bare pseudo-header sum, or this value. */
type ChecksumField = 'right' | 'partial' | number;

export interface IpFields {
  readonly source: string;
  readonly destination: string;
  /** TOS or traffic class. */
  readonly tos?: number;
  /** TTL or hop limit; 64. */
  readonly ttl?: number;
  readonly flowLabel?: number;
  readonly id?: number;
  readonly dontFragment?: boolean;
  readonly moreFragments?: boolean;
  /** In units of eight bytes. */
  readonly fragmentOffset?: number;
  /** IPv4 options, a multiple of four bytes. */
  readonly ipOptions?: readonly number[];
}

export interface TcpFields extends IpFields {
  readonly sourcePort?: number;
  readonly destinationPort?: number;
  readonly sequence?: number;
  readonly acknowledgement?: number;
  /** ACK. */
  readonly flags?: number;
  readonly window?: number;
  /** A multiple of four bytes. */
  readonly options?: readonly number[];
  readonly checksum?: ChecksumField;
}

export interface UdpFields extends IpFields {
  readonly sourcePort?: number;
  readonly destinationPort?: number;
  readonly checksum?: ChecksumField;
}

export function addressBytes(address: string | IpAddress): Buffer {
  const value = typeof address === 'string' ? parseAddress(address) : address;
  const words = typeof value === 'number' ? [value] : ipv6Words(value);
  const bytes = Buffer.alloc(words.length * 4);
  words.forEach((word, i) => bytes.writeUInt32BE(word, i * 4));
  return bytes;
}

/** `length` bytes that differ from place to place. */
export const payloadOf = (length: number, seed = 1): Buffer =>
  Buffer.from(Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) * 7 + seed * 13) & 0xff));

export function ip(fields: IpFields, protocol: number, payload: Uint8Array): Buffer {
  const packet = isIPv4(fields.source)
    ? ipv4Header(fields, protocol, payload.length)
    : ipv6Header(fields, protocol, payload.length);
  return Buffer.concat([packet, payload]);
}

function ipv4Header(fields: IpFields, protocol: number, payloadBytes: number): Buffer {
  const options = fields.ipOptions ?? [];
  const header = Buffer.alloc(20 + options.length);
  header[0] = 0x40 | (header.length / 4);
  header[1] = fields.tos ?? 0;
  header.writeUInt16BE(header.length + payloadBytes, 2);
  header.writeUInt16BE((fields.id ?? 1) & 0xffff, 4);
  header.writeUInt16BE(
    ((fields.dontFragment ?? false) ? 0x4000 : 0) |
      ((fields.moreFragments ?? false) ? 0x2000 : 0) |
      (fields.fragmentOffset ?? 0),
    6,
  );
  header[8] = fields.ttl ?? 64;
  header[9] = protocol;
  addressBytes(fields.source).copy(header, 12);
  addressBytes(fields.destination).copy(header, 16);
  header.set(options, 20);
  header.writeUInt16BE(~checksumReference(header) & 0xffff, 10);
  return header;
}

function ipv6Header(fields: IpFields, protocol: number, payloadBytes: number): Buffer {
  const header = Buffer.alloc(40);
  header.writeUInt32BE(
    ((6 << 28) | ((fields.tos ?? 0) << 20) | (fields.flowLabel ?? 0x12345)) >>> 0,
  );
  header.writeUInt16BE(payloadBytes, 4);
  header[6] = protocol;
  header[7] = fields.ttl ?? 64;
  addressBytes(fields.source).copy(header, 8);
  addressBytes(fields.destination).copy(header, 24);
  return header;
}

export function tcp(fields: TcpFields, payload: Uint8Array): Buffer {
  const options = fields.options ?? [];
  const header = Buffer.alloc(20 + options.length);
  header.writeUInt16BE(fields.sourcePort ?? 40000, 0);
  header.writeUInt16BE(fields.destinationPort ?? 80, 2);
  header.writeUInt32BE((fields.sequence ?? 1000) >>> 0, 4);
  header.writeUInt32BE(fields.acknowledgement ?? 2000, 8);
  header[12] = header.length << 2;
  header[13] = fields.flags ?? ACK;
  header.writeUInt16BE(fields.window ?? 512, 14);
  header.set(options, 20);
  return withChecksum(ip(fields, TCP, Buffer.concat([header, payload])), fields.checksum);
}

export function udp(fields: UdpFields, payload: Uint8Array): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt16BE(fields.sourcePort ?? 40000, 0);
  header.writeUInt16BE(fields.destinationPort ?? 53, 2);
  header.writeUInt16BE(8 + payload.length, 4);
  return withChecksum(ip(fields, UDP, Buffer.concat([header, payload])), fields.checksum);
}

export function icmp(fields: IpFields, type: number, code: number, body: Uint8Array): Buffer {
  const message = Buffer.concat([Buffer.from([type, code, 0, 0]), body]);
  const is4 = isIPv4(fields.source);
  const packet = ip(fields, is4 ? ICMP : ICMPV6, message);
  const at = transportAt(packet);
  const initial = is4 ? 0 : pseudoSum(packet);
  packet.writeUInt16BE(~checksumReference(packet.subarray(at), initial) & 0xffff, at + 2);
  return packet;
}

function withChecksum(packet: Buffer, field: ChecksumField = 'right'): Buffer {
  const at = checksumAt(packet);
  if (field === 'right') finishTransport(packet);
  else packet.writeUInt16BE(field === 'partial' ? pseudoSum(packet) : field, at);
  return packet;
}

/** The source address, as text. */
export function sourceOf(packet: Buffer): string {
  const address = is4(packet)
    ? toIpv4(packet.readUInt32BE(12))
    : toIpv6((packet.readBigUInt64BE(8) << 64n) | packet.readBigUInt64BE(16));
  return formatAddress(address);
}

const is4 = (packet: Uint8Array): boolean => packet[0]! >> 4 === 4;

export const protocolOf = (packet: Uint8Array): number => packet[is4(packet) ? 9 : 6]!;

export const transportAt = (packet: Uint8Array): number =>
  is4(packet) ? (packet[0]! & 15) * 4 : 40;

const checksumAt = (packet: Uint8Array): number =>
  transportAt(packet) + (protocolOf(packet) === TCP ? 16 : 6);

/** Where the payload of a TCP or UDP packet begins. */
export function payloadAt(packet: Uint8Array): number {
  const at = transportAt(packet);
  return at + (protocolOf(packet) === TCP ? (packet[at + 12]! >> 4) * 4 : 8);
}

/** The pseudo-header's sum, folded, by the length of what stands behind the IP header. */
export function pseudoSum(packet: Uint8Array): number {
  const addresses = is4(packet) ? packet.subarray(12, 20) : packet.subarray(8, 40);
  return checksumReference(addresses, protocolOf(packet) + packet.length - transportAt(packet));
}

/** Writes the right TCP or UDP checksum, whatever stood there. */
export function finishTransport(packet: Buffer): Buffer {
  const at = checksumAt(packet);
  packet.writeUInt16BE(0, at);
  const sum = ~checksumReference(packet.subarray(transportAt(packet)), pseudoSum(packet)) & 0xffff;
  packet.writeUInt16BE(protocolOf(packet) === UDP && sum === 0 ? 0xffff : sum, at);
  return packet;
}

export function finishIp(packet: Buffer): Buffer {
  if (!is4(packet)) return packet;
  packet.writeUInt16BE(0, 10);
  packet.writeUInt16BE(~checksumReference(packet.subarray(0, transportAt(packet))) & 0xffff, 10);
  return packet;
}

/** What is wrong with the packet's lengths and checksums; empty when it is right. Not for fragments. */
export function faultsOf(packet: Buffer): string[] {
  const faults: string[] = [];
  const length = is4(packet) ? packet.readUInt16BE(2) : packet.readUInt16BE(4) + 40;
  if (length !== packet.length) faults.push(`IP says ${length} of ${packet.length} bytes`);
  const at = transportAt(packet);
  if (is4(packet) && checksumReference(packet.subarray(0, at)) !== 0xffff) {
    faults.push('IPv4 checksum');
  }
  const protocol = protocolOf(packet);
  if (protocol === UDP && packet.readUInt16BE(at + 4) !== packet.length - at) {
    faults.push('UDP length');
  }
  const initial = protocol === ICMP ? 0 : pseudoSum(packet);
  if (checksumReference(packet.subarray(at), initial) !== 0xffff) {
    faults.push(`checksum of protocol ${protocol}`);
  }
  return faults;
}

/** Addresses, protocol and ports, as hexadecimal text. */
export function flowOf(packet: Buffer): string {
  const addresses = is4(packet) ? packet.subarray(12, 20) : packet.subarray(8, 40);
  const at = transportAt(packet);
  return `${addresses.toString('hex')} ${protocolOf(packet)} ${packet.toString('hex', at, at + 4)}`;
}

/**
 * What a network device with segmentation offload makes of a large TCP or UDP packet: payload in pieces
 * of `gsoSize`; each with the headers of the whole, but lengths, checksums, the identification (counts
 * up), the sequence number, FIN and PSH (last only) and CWR (first only) of its own.
 */
export function segmentReference(packet: Buffer, gsoSize: number): Buffer[] {
  const headers = payloadAt(packet);
  const transport = transportAt(packet);
  const segments: Buffer[] = [];
  for (let at = headers; at < packet.length; at += gsoSize) {
    const end = Math.min(at + gsoSize, packet.length);
    const segment = Buffer.concat([packet.subarray(0, headers), packet.subarray(at, end)]);
    if (is4(packet)) {
      segment.writeUInt16BE(segment.length, 2);
      segment.writeUInt16BE((packet.readUInt16BE(4) + segments.length) & 0xffff, 4);
    } else {
      segment.writeUInt16BE(segment.length - 40, 4);
    }
    if (protocolOf(packet) === TCP) {
      segment.writeUInt32BE(
        (packet.readUInt32BE(transport + 4) + at - headers) >>> 0,
        transport + 4,
      );
      if (end < packet.length) segment[transport + 13]! &= ~(FIN | PSH);
      if (at > headers) segment[transport + 13]! &= ~CWR;
    } else {
      segment.writeUInt16BE(segment.length - transport, transport + 4);
    }
    segments.push(finishTransport(finishIp(segment)));
  }
  return segments;
}

export interface Encapsulation {
  /** First byte of the VXLAN header; 0x08. */
  readonly flags?: number;
  readonly vni?: number;
  readonly destinationMac: string;
  readonly sourceMac: string;
  /** By the packet's version. */
  readonly etherType?: number;
}

/** VXLAN header, inner Ethernet, packet: the payload of the outer UDP datagram. */
export function vxlan(fields: Encapsulation, packet: Uint8Array): Buffer {
  const header = Buffer.alloc(VXLAN_HEADER_BYTES + ETHERNET_HEADER_BYTES);
  header[0] = fields.flags ?? 0x08;
  header.writeUIntBE(fields.vni ?? 1, 4, 3);
  header.writeUIntBE(parseMac(fields.destinationMac), 8, 6);
  header.writeUIntBE(parseMac(fields.sourceMac), 14, 6);
  header.writeUInt16BE(fields.etherType ?? (packet[0]! >> 4 === 4 ? 0x0800 : 0x86dd), 20);
  return Buffer.concat([header, packet]);
}
