/**
 * The flows that a capture shows to begin: TCP by its SYN, all else by the first packet between two ends.
 * pcapng, and libpcap's older format (pcap-savefile(5)); of VXLAN what is inside.
 */
import { formatAddress, toIpv4, toIpv6 } from '../wire/address.ts';
import {
  ETHERNET_HEADER_BYTES,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  readEtherType,
} from '../wire/ethernet.ts';
import {
  IPV4_DESTINATION,
  IPV4_HEADER_BYTES,
  IPV4_SOURCE,
  fragmentOffsetBytes,
  readHeaderBytes,
  readProtocol,
} from '../wire/ipv4.ts';
import { IPV6_DESTINATION, IPV6_HEADER_BYTES, IPV6_SOURCE, readNextHeader } from '../wire/ipv6.ts';
import { LINKTYPE_ETHERNET, LINKTYPE_RAW, PcapngReader } from '../wire/pcapng.ts';
import { PROTOCOL_SCTP } from '../wire/sctp.ts';
import { PROTOCOL_TCP, TCP_ACK, TCP_SYN, readPorts, readTcpFlags } from '../wire/tcp.ts';
import { PROTOCOL_UDP, UDP_HEADER_BYTES, readDestinationPort } from '../wire/udp.ts';
import { VXLAN_DEFAULT_PORT, VXLAN_HEADER_BYTES, hasVni } from '../wire/vxlan.ts';
import type { FlowQuestion } from './messages.ts';

/** The file is no capture, or a damaged one. */
export class CaptureFileError extends Error {
  override readonly name = 'CaptureFileError';
  readonly code = 'ERR_CAPTURE_FILE';
}

/** Ends that are told apart, so that answers begin nothing. */
const TALKS_MAX = 500_000;

interface Counted extends Omit<FlowQuestion, 'count' | 'firstSeen' | 'lastSeen'> {
  count: number;
  firstMs: number;
  lastMs: number;
}

function addressText(view: DataView, at: number, is4: boolean): string {
  if (is4) return formatAddress(toIpv4(view.getUint32(at)));
  return formatAddress(toIpv6((view.getBigUint64(at) << 64n) | view.getBigUint64(at + 8)));
}

export class CapturedFlows {
  readonly #kinds = new Map<string, Counted>();
  readonly #talks = new Set<string>();
  /** Packets that could not be read: cut off, or of no link type that is known. */
  unread = 0;

  take(packet: Uint8Array, linkType: number, timeMs: number): void {
    const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
    const end = packet.length;
    let isRead = true;
    if (linkType === LINKTYPE_RAW) isRead = this.#takeIp(view, 0, end, timeMs);
    else if (linkType === LINKTYPE_ETHERNET) isRead = this.#takeFrame(view, 0, end, timeMs);
    else isRead = false;
    if (!isRead) this.unread++;
  }

  /** What is no IP is none of ours, and read. */
  #takeFrame(view: DataView, at: number, end: number, timeMs: number): boolean {
    if (at + ETHERNET_HEADER_BYTES > end) return false;
    const type = readEtherType(view, at);
    if (type !== ETHERTYPE_IPV4 && type !== ETHERTYPE_IPV6) return true;
    return this.#takeIp(view, at + ETHERNET_HEADER_BYTES, end, timeMs);
  }

  /** @returns false: too little of it is there */
  #takeIp(view: DataView, ip: number, end: number, timeMs: number): boolean {
    if (ip >= end) return false;
    const is4 = view.getUint8(ip) >>> 4 === 4;
    if (ip + (is4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES) > end) return false;
    // A later fragment begins nothing.
    if (is4 && fragmentOffsetBytes(view, ip) !== 0) return true;
    const protocol = is4 ? readProtocol(view, ip) : readNextHeader(view, ip);
    const l4 = ip + (is4 ? readHeaderBytes(view, ip) : IPV6_HEADER_BYTES);
    const isPorted = [PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_SCTP].includes(protocol);
    if (isPorted && l4 + (protocol === PROTOCOL_TCP ? 14 : 4) > end) return false;
    const inner = l4 + UDP_HEADER_BYTES + VXLAN_HEADER_BYTES;
    const isVxlan =
      protocol === PROTOCOL_UDP &&
      readDestinationPort(view, l4) === VXLAN_DEFAULT_PORT &&
      inner <= end &&
      hasVni(view, l4 + UDP_HEADER_BYTES);
    if (isVxlan) return this.#takeFrame(view, inner, end, timeMs);
    const source = addressText(view, ip + (is4 ? IPV4_SOURCE : IPV6_SOURCE), is4);
    const destination = addressText(view, ip + (is4 ? IPV4_DESTINATION : IPV6_DESTINATION), is4);
    const ports = isPorted ? readPorts(view, l4) : 0;
    const isBeginning =
      protocol === PROTOCOL_TCP
        ? (readTcpFlags(view, l4) & (TCP_SYN | TCP_ACK)) === TCP_SYN
        : this.#isFirst(source, destination, protocol, ports >>> 16, ports & 0xffff);
    if (isBeginning) this.#count({ source, destination, protocol, port: ports & 0xffff }, timeMs);
    return true;
  }

  #isFirst(
    source: string,
    destination: string,
    protocol: number,
    from: number,
    to: number,
  ): boolean {
    const there = `${protocol} ${source} ${from} ${destination} ${to}`;
    if (this.#talks.has(there)) return false;
    if (this.#talks.has(`${protocol} ${destination} ${to} ${source} ${from}`)) return false;
    if (this.#talks.size >= TALKS_MAX) {
      throw new CaptureFileError(`the capture has more than ${TALKS_MAX} flows; nothing was asked`);
    }
    this.#talks.add(there);
    return true;
  }

  #count(kind: Pick<Counted, 'source' | 'destination' | 'protocol' | 'port'>, atMs: number): void {
    const key = `${kind.protocol} ${kind.source} ${kind.destination} ${kind.port}`;
    const known = this.#kinds.get(key);
    if (known === undefined) {
      this.#kinds.set(key, { ...kind, count: 1, firstMs: atMs, lastMs: atMs });
      return;
    }
    known.count++;
    known.firstMs = Math.min(known.firstMs, atMs);
    known.lastMs = Math.max(known.lastMs, atMs);
  }

  get flows(): readonly FlowQuestion[] {
    return Array.from(this.#kinds.values(), ({ firstMs, lastMs, ...kind }) => ({
      ...kind,
      firstSeen: new Date(firstMs).toISOString(),
      lastSeen: new Date(lastMs).toISOString(),
    }));
  }
}

const PCAP_HEADER_BYTES = 24;
const PCAP_RECORD_BYTES = 16;
const PCAP_MICROSECONDS = 0xa1b2c3d4;
const PCAP_NANOSECONDS = 0xa1b23c4d;
/** As libpcap has it. */
const PCAP_PACKET_BYTES_MAX = 262_144;

/** Reads a file as it comes, in pieces of any size. */
class PcapReader {
  readonly #onPacket: (packet: Uint8Array, linkType: number, timeMs: number) => void;
  #waiting: Buffer = Buffer.alloc(0);
  #header: { isLittle: boolean; isNano: boolean; linkType: number } | null = null;

  constructor(onPacket: (packet: Uint8Array, linkType: number, timeMs: number) => void) {
    this.#onPacket = onPacket;
  }

  get waitingBytes(): number {
    return this.#waiting.length;
  }

  /** @throws CaptureFileError */
  take(piece: Uint8Array): void {
    const room = Buffer.concat([this.#waiting, piece]);
    let at = 0;
    if (this.#header === null) {
      this.#waiting = room;
      if (room.length < PCAP_HEADER_BYTES) return;
      const isLittle = isPcapMagic(room.readUInt32LE(0));
      const magic = isLittle ? room.readUInt32LE(0) : room.readUInt32BE(0);
      const linkType = (isLittle ? room.readUInt32LE(20) : room.readUInt32BE(20)) & 0xffff;
      this.#header = { isLittle, isNano: magic === PCAP_NANOSECONDS, linkType };
      at = PCAP_HEADER_BYTES;
    }
    const { isLittle, isNano, linkType } = this.#header;
    const u32 = (from: number): number =>
      isLittle ? room.readUInt32LE(from) : room.readUInt32BE(from);
    while (at + PCAP_RECORD_BYTES <= room.length) {
      const bytes = u32(at + 8);
      if (bytes > PCAP_PACKET_BYTES_MAX) {
        throw new CaptureFileError(`a packet of ${bytes} bytes: the file is damaged from here on`);
      }
      const from = at + PCAP_RECORD_BYTES;
      if (from + bytes > room.length) break;
      const timeMs = u32(at) * 1000 + u32(at + 4) / (isNano ? 1_000_000 : 1000);
      this.#onPacket(room.subarray(from, from + bytes), linkType, timeMs);
      at = from + bytes;
    }
    this.#waiting = room.subarray(at);
  }
}

const isPcapMagic = (word: number): boolean =>
  word === PCAP_MICROSECONDS || word === PCAP_NANOSECONDS;

/** @throws CaptureFileError, PcapngError */
export async function readCapturedFlows(
  pieces: AsyncIterable<Uint8Array>,
): Promise<{ readonly flows: readonly FlowQuestion[]; readonly unread: number }> {
  const found = new CapturedFlows();
  let reader: Pick<PcapReader, 'take' | 'waitingBytes'> | null = null;
  let first = Buffer.alloc(0);
  for await (const piece of pieces) {
    if (reader !== null) {
      reader.take(piece);
      continue;
    }
    first = Buffer.concat([first, piece]);
    if (first.length < 4) continue;
    reader =
      isPcapMagic(first.readUInt32LE(0)) || isPcapMagic(first.readUInt32BE(0))
        ? new PcapReader((packet, linkType, timeMs) => found.take(packet, linkType, timeMs))
        : new PcapngReader({
            onPacket: ({ packet, timeNs }, linkType) =>
              found.take(packet, linkType, Number(timeNs / 1_000_000n)),
          });
    reader.take(first);
  }
  if (reader === null) throw new CaptureFileError('the file is too short for a capture');
  if (reader.waitingBytes > 0) throw new CaptureFileError('the file ends within a packet');
  return { flows: found.flows, unread: found.unread };
}
