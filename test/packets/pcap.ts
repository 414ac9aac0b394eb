/** Captures as tests read them: libpcap's classic file format (pcap-savefile(5)), Ethernet frames only. */
import {
  ETHERNET_HEADER_BYTES,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  readEtherType,
} from '../../wire/ethernet.ts';
import * as ipv4 from '../../wire/ipv4.ts';
import * as ipv6 from '../../wire/ipv6.ts';
import {
  PROTOCOL_UDP,
  UDP_HEADER_BYTES,
  readDestinationPort,
  readUdpLength,
} from '../../wire/udp.ts';

const MAGIC_MICROSECONDS = 0xa1b2c3d4;
const MAGIC_NANOSECONDS = 0xa1b23c4d;
const LINKTYPE_ETHERNET = 1;
const FILE_HEADER_BYTES = 24;
const RECORD_HEADER_BYTES = 16;

/**
 * The frames of a capture, in order, as views of `file`.
 * @throws Error if it is no capture of whole Ethernet frames
 */
export function readPcap(file: Uint8Array): Uint8Array[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < FILE_HEADER_BYTES) throw new Error('shorter than a pcap file header');
  const isLittle = isMagic(view.getUint32(0, true));
  if (!isLittle && !isMagic(view.getUint32(0))) throw new Error('not a pcap file');
  const linkType = view.getUint32(20, isLittle) & 0xffff;
  if (linkType !== LINKTYPE_ETHERNET) throw new Error(`link type ${linkType} is not Ethernet`);

  const frames: Uint8Array[] = [];
  let at = FILE_HEADER_BYTES;
  while (at < file.length) {
    if (at + RECORD_HEADER_BYTES > file.length) throw new Error(`record header cut off at ${at}`);
    const captured = view.getUint32(at + 8, isLittle);
    if (captured !== view.getUint32(at + 12, isLittle)) throw new Error(`frame cut off at ${at}`);
    at += RECORD_HEADER_BYTES;
    if (at + captured > file.length) throw new Error(`record cut off at ${at}`);
    frames.push(file.subarray(at, at + captured));
    at += captured;
  }
  return frames;
}

const isMagic = (word: number): boolean =>
  word === MAGIC_MICROSECONDS || word === MAGIC_NANOSECONDS;

/** A UDP datagram and the parts of its outer headers that a VXLAN receiver is told. */
export interface CapturedDatagram {
  /** 4 or 16 bytes. */
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
  /** The IPv4 TOS or IPv6 traffic class byte; ECN is its low two bits. */
  readonly trafficClass: number;
  readonly sourcePort: number;
  readonly destinationPort: number;
  /** For VXLAN: from the VXLAN header to the end of the inner frame. A view of the frame. */
  readonly payload: Uint8Array;
}

/** @throws Error unless `frame` is UDP over IPv4 or IPv6, unfragmented and without extension headers */
export function datagramOf(frame: Uint8Array): CapturedDatagram {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  const etherType = readEtherType(view, 0);
  const ip = ETHERNET_HEADER_BYTES;
  const slice = (at: number, bytes: number) => frame.subarray(at, at + bytes);
  const carriedAt = (udp: number) => ({
    sourcePort: view.getUint16(udp),
    destinationPort: readDestinationPort(view, udp),
    payload: slice(udp + UDP_HEADER_BYTES, readUdpLength(view, udp) - UDP_HEADER_BYTES),
  });
  if (
    etherType === ETHERTYPE_IPV4 &&
    ipv4.readProtocol(view, ip) === PROTOCOL_UDP &&
    !ipv4.isFragment(view, ip)
  ) {
    return {
      source: slice(ip + ipv4.IPV4_SOURCE, 4),
      destination: slice(ip + ipv4.IPV4_DESTINATION, 4),
      trafficClass: ipv4.readTos(view, ip),
      ...carriedAt(ip + ipv4.readHeaderBytes(view, ip)),
    };
  }
  if (etherType === ETHERTYPE_IPV6 && ipv6.readNextHeader(view, ip) === PROTOCOL_UDP) {
    return {
      source: slice(ip + ipv6.IPV6_SOURCE, 16),
      destination: slice(ip + ipv6.IPV6_DESTINATION, 16),
      trafficClass: ipv6.readTrafficClass(view, ip),
      ...carriedAt(ip + ipv6.IPV6_HEADER_BYTES),
    };
  }
  throw new Error(`not a UDP datagram (EtherType ${etherType.toString(16)})`);
}
