/** Captures as tests read them: libpcap's classic file format (pcap-savefile(5)), Ethernet frames only. */

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
  const isIpv4 = view.getUint16(12) === 0x0800;
  if (!isIpv4 && view.getUint16(12) !== 0x86dd) throw new Error('neither IPv4 nor IPv6');
  const addressesAt = isIpv4 ? 14 + 12 : 14 + 8;
  const addressBytes = isIpv4 ? 4 : 16;
  const udpAt = isIpv4 ? 14 + (view.getUint8(14) & 15) * 4 : 14 + 40;
  const isFragment = isIpv4 && (view.getUint16(14 + 6) & 0x3fff) !== 0;
  if (view.getUint8(isIpv4 ? 14 + 9 : 14 + 6) !== 17 || isFragment) throw new Error('not UDP');
  const slice = (at: number, bytes: number) => frame.subarray(at, at + bytes);
  return {
    source: slice(addressesAt, addressBytes),
    destination: slice(addressesAt + addressBytes, addressBytes),
    trafficClass: isIpv4 ? view.getUint8(15) : (view.getUint16(14) >>> 4) & 0xff,
    sourcePort: view.getUint16(udpAt),
    destinationPort: view.getUint16(udpAt + 2),
    payload: slice(udpAt + 8, view.getUint16(udpAt + 4) - 8),
  };
}
