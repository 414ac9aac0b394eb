/**
 * ICMP errors to pods, ours and peers': the overlay behaves like the router that it is (RFC 792, RFC 1191, RFC 4443).
 * The source is the node's own overlay address, `<subnet>.0`. Off the common path, but called from it:
 * no await, no throw. Limited to what a Linux router sends (net.ipv4.icmp_msgs_per_sec, _burst).
 */
import type { Arena } from '../linux/arena.ts';
import type { Checksum } from '../wire/checksum/checksum.ts';
import { Drop } from '../wire/drop-reason.ts';
import {
  ICMPV6_CODE_ADDRESS,
  ICMPV6_TOO_BIG,
  ICMPV6_UNREACHABLE,
  ICMP_CODE_HOST,
  ICMP_CODE_TOO_BIG,
  ICMP_HEADER_BYTES,
  ICMP_UNREACHABLE,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  isIcmpError,
  isIcmpv6Error,
} from '../wire/icmp.ts';
import {
  IPV4_HEADER_BYTES,
  IPV4_SOURCE,
  finishIpv4Header,
  fragmentOffsetBytes,
  readHeaderBytes,
  readProtocol,
} from '../wire/ipv4.ts';
import {
  IPV6_DESTINATION,
  IPV6_FRAGMENT,
  IPV6_FRAGMENT_BYTES,
  IPV6_HEADER_BYTES,
  IPV6_SOURCE,
  fragmentOffsetBytes6,
  readNextHeader,
} from '../wire/ipv6.ts';
import { Counter } from './counters.ts';
import type { Peers } from './peers.ts';
import { pseudoSum6 } from './pseudo-header.ts';
import type { TunWriter } from './tun-writer.ts';

/** As much of the packet as fits an error of 576 bytes (RFC 1812 section 4.3.2.3). */
const QUOTE_BYTES_IPV4 = 576 - IPV4_HEADER_BYTES - ICMP_HEADER_BYTES;
/** The minimum IPv6 MTU (RFC 4443 section 2.4 (c)). */
const QUOTE_BYTES_IPV6 = 1280 - IPV6_HEADER_BYTES - ICMP_HEADER_BYTES;
const PER_SECOND = 1000;
const BURST = 50;
const HEADROOM = 64;

export interface IcmpErrors {
  /** @param ip the packet that cannot go on, `bytes` of which are in the arena */
  readonly unreachable: (ip: number, bytes: number) => void;
  /** @param mtuBytes the largest packet that could */
  readonly tooBig: (ip: number, bytes: number, mtuBytes: number) => void;
}

export function createIcmpErrors(
  arena: Arena,
  counters: Float64Array,
  checksum: Checksum,
  peers: Peers,
  writer: TunWriter,
  now: () => number,
): IcmpErrors {
  const { view, bytes: memory } = arena;
  const at = arena.take(HEADROOM + 1280, 'ICMP error') + HEADROOM;
  let tokens = BURST;
  let refilledMs = now();

  /**
   * Never about an error or a later fragment, nor to anybody but a node's pods (RFC 1122 section 3.2.2,
   * RFC 4443 section 2.4 (e)): a source in a leased subnet is neither multicast nor nobody's.
   */
  function mayAnswer4(ip: number, bytes: number): boolean {
    const header = readHeaderBytes(view, ip);
    const source = ip + IPV4_SOURCE;
    if (!peers.isOwn4(source) && peers.of4(source) < 0) return false;
    if (fragmentOffsetBytes(view, ip) !== 0) return false;
    if (readProtocol(view, ip) !== PROTOCOL_ICMP) return true;
    return bytes > header && !isIcmpError(view.getUint8(ip + header));
  }

  function mayAnswer6(ip: number, bytes: number): boolean {
    const source = ip + IPV6_SOURCE;
    if (!peers.isOwn6(source) && peers.of6(source) < 0) return false;
    let next = readNextHeader(view, ip);
    let header = IPV6_HEADER_BYTES;
    if (next === IPV6_FRAGMENT) {
      if (bytes < header + IPV6_FRAGMENT_BYTES || fragmentOffsetBytes6(view, ip + header) !== 0) {
        return false;
      }
      next = view.getUint8(ip + header);
      header += IPV6_FRAGMENT_BYTES;
    }
    if (next !== PROTOCOL_ICMPV6) return true;
    return bytes > header && !isIcmpv6Error(view.getUint8(ip + header));
  }

  function takeToken(): boolean {
    const nowMs = now();
    tokens = Math.min(BURST, tokens + ((nowMs - refilledMs) * PER_SECOND) / 1000);
    refilledMs = nowMs;
    if (tokens < 1) return false;
    tokens--;
    return true;
  }

  function answer(
    ip: number,
    bytes: number,
    type4: number,
    code4: number,
    type6: number,
    code6: number,
    mtuBytes: number,
  ): void {
    if (view.getUint8(ip) >>> 4 === 4) {
      if (mayAnswer4(ip, bytes) && takeToken()) write4(ip, bytes, type4, code4, mtuBytes);
    } else if (mayAnswer6(ip, bytes) && takeToken()) {
      write6(ip, bytes, type6, code6, mtuBytes);
    }
  }

  function write4(ip: number, bytes: number, type: number, code: number, mtuBytes: number): void {
    const quote = Math.min(bytes, QUOTE_BYTES_IPV4);
    const icmp = at + IPV4_HEADER_BYTES;
    const total = IPV4_HEADER_BYTES + ICMP_HEADER_BYTES + quote;
    view.setUint32(at, 0x45c00000 | total);
    view.setUint32(at + 4, 0);
    view.setUint32(at + 8, (64 << 24) | (PROTOCOL_ICMP << 16));
    view.setUint32(at + 12, peers.current().own4[0]!);
    view.setUint32(at + 16, view.getUint32(ip + IPV4_SOURCE));
    finishIpv4Header(view, at);
    view.setUint32(icmp, (type << 24) | (code << 16));
    view.setUint32(icmp + 4, mtuBytes);
    memory.copyWithin(icmp + ICMP_HEADER_BYTES, ip, ip + quote);
    view.setUint16(icmp + 2, ~checksum(icmp, total - IPV4_HEADER_BYTES, 0) & 0xffff);
    if (writer.single(at, total, 0, 0, 0) === Drop.none) counters[Counter.icmpErrors]!++;
  }

  function write6(ip: number, bytes: number, type: number, code: number, mtuBytes: number): void {
    const quote = Math.min(bytes, QUOTE_BYTES_IPV6);
    const icmp = at + IPV6_HEADER_BYTES;
    const length = ICMP_HEADER_BYTES + quote;
    view.setUint32(at, 0x60000000);
    view.setUint32(at + 4, (length << 16) | (PROTOCOL_ICMPV6 << 8) | 64);
    const { own6 } = peers.current();
    for (let i = 0; i < 4; i++) {
      view.setUint32(at + IPV6_SOURCE + 4 * i, own6[i]!);
      view.setUint32(at + IPV6_DESTINATION + 4 * i, view.getUint32(ip + IPV6_SOURCE + 4 * i));
    }
    view.setUint32(icmp, (type << 24) | (code << 16));
    view.setUint32(icmp + 4, mtuBytes);
    memory.copyWithin(icmp + ICMP_HEADER_BYTES, ip, ip + quote);
    const pseudo = pseudoSum6(view, at, PROTOCOL_ICMPV6, length);
    view.setUint16(icmp + 2, ~checksum(icmp, length, pseudo) & 0xffff);
    if (writer.single(at, IPV6_HEADER_BYTES + length, 0, 0, 0) === Drop.none) {
      counters[Counter.icmpErrors]!++;
    }
  }

  return {
    unreachable: (ip, bytes) =>
      answer(
        ip,
        bytes,
        ICMP_UNREACHABLE,
        ICMP_CODE_HOST,
        ICMPV6_UNREACHABLE,
        ICMPV6_CODE_ADDRESS,
        0,
      ),
    tooBig: (ip, bytes, mtuBytes) =>
      answer(ip, bytes, ICMP_UNREACHABLE, ICMP_CODE_TOO_BIG, ICMPV6_TOO_BIG, 0, mtuBytes),
  };
}
