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
  ICMPV6_CODE_PORT,
  ICMPV6_TOO_BIG,
  ICMPV6_UNREACHABLE,
  ICMP_CODE_HOST,
  ICMP_CODE_PORT,
  ICMP_CODE_TOO_BIG,
  ICMP_HEADER_BYTES,
  ICMP_UNREACHABLE,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  isIcmpError,
  isIcmpv6Error,
} from '../wire/icmp.ts';
import {
  IPV4_DESTINATION,
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
  /** From the address that was asked, to whoever asked. */
  readonly portUnreachable: (ip: number, bytes: number) => void;
  /** One answer more is within the limit, and is counted as given. */
  readonly mayAnswer: () => boolean;
  /** Sees every error before it is written: what it quotes may have had other addresses. */
  readonly onError: (revise: (ip: number, end: number) => void) => void;
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
  let revise: ((ip: number, end: number) => void) | null = null;

  /**
   * Never about an error or a later fragment, nor to multicast and nobody (RFC 1122 section 3.2.2, RFC
   * 4443 section 2.4 (e)): such sources are dropped before, and those in leased subnets are none.
   */
  function isKnown4(ip: number): boolean {
    return peers.isOwn4(ip + IPV4_SOURCE) || peers.of4(ip + IPV4_SOURCE) >= 0;
  }

  function isKnown6(ip: number): boolean {
    return peers.isOwn6(ip + IPV6_SOURCE) || peers.of6(ip + IPV6_SOURCE) >= 0;
  }

  function mayAnswer4(ip: number, bytes: number): boolean {
    const header = readHeaderBytes(view, ip);
    if (fragmentOffsetBytes(view, ip) !== 0) return false;
    if (readProtocol(view, ip) !== PROTOCOL_ICMP) return true;
    return bytes > header && !isIcmpError(view.getUint8(ip + header));
  }

  function mayAnswer6(ip: number, bytes: number): boolean {
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
      if (isKnown4(ip) && mayAnswer4(ip, bytes) && takeToken()) {
        view.setUint32(at + IPV4_SOURCE, peers.current().own4[0]!);
        write4(ip, bytes, type4, code4, mtuBytes);
      }
    } else if (isKnown6(ip) && mayAnswer6(ip, bytes) && takeToken()) {
      const { own6 } = peers.current();
      for (let i = 0; i < 4; i++) view.setUint32(at + IPV6_SOURCE + 4 * i, own6[i]!);
      write6(ip, bytes, type6, code6, mtuBytes);
    }
  }

  function portUnreachable(ip: number, bytes: number): void {
    if (view.getUint8(ip) >>> 4 === 4) {
      if (!mayAnswer4(ip, bytes) || !takeToken()) return;
      view.setInt32(at + IPV4_SOURCE, view.getInt32(ip + IPV4_DESTINATION));
      write4(ip, bytes, ICMP_UNREACHABLE, ICMP_CODE_PORT, 0);
    } else if (mayAnswer6(ip, bytes) && takeToken()) {
      for (let i = 0; i < 16; i += 4) {
        view.setInt32(at + IPV6_SOURCE + i, view.getInt32(ip + IPV6_DESTINATION + i));
      }
      write6(ip, bytes, ICMPV6_UNREACHABLE, ICMPV6_CODE_PORT, 0);
    }
  }

  function finish(total: number): void {
    revise?.(at, at + total);
    if (writer.single(at, total, 0, 0, 0) === Drop.none) counters[Counter.icmpErrors]!++;
  }

  /** The source stands there already. */
  function write4(ip: number, bytes: number, type: number, code: number, mtuBytes: number): void {
    const quote = Math.min(bytes, QUOTE_BYTES_IPV4);
    const icmp = at + IPV4_HEADER_BYTES;
    const total = IPV4_HEADER_BYTES + ICMP_HEADER_BYTES + quote;
    view.setUint32(at, 0x45c00000 | total);
    view.setUint32(at + 4, 0);
    view.setUint32(at + 8, (64 << 24) | (PROTOCOL_ICMP << 16));
    view.setUint32(at + IPV4_DESTINATION, view.getUint32(ip + IPV4_SOURCE));
    finishIpv4Header(view, at);
    view.setUint32(icmp, (type << 24) | (code << 16));
    view.setUint32(icmp + 4, mtuBytes);
    memory.copyWithin(icmp + ICMP_HEADER_BYTES, ip, ip + quote);
    view.setUint16(icmp + 2, ~checksum(icmp, total - IPV4_HEADER_BYTES, 0) & 0xffff);
    finish(total);
  }

  function write6(ip: number, bytes: number, type: number, code: number, mtuBytes: number): void {
    const quote = Math.min(bytes, QUOTE_BYTES_IPV6);
    const icmp = at + IPV6_HEADER_BYTES;
    const length = ICMP_HEADER_BYTES + quote;
    view.setUint32(at, 0x60000000);
    view.setUint32(at + 4, (length << 16) | (PROTOCOL_ICMPV6 << 8) | 64);
    for (let i = 0; i < 4; i++) {
      view.setUint32(at + IPV6_DESTINATION + 4 * i, view.getUint32(ip + IPV6_SOURCE + 4 * i));
    }
    view.setUint32(icmp, (type << 24) | (code << 16));
    view.setUint32(icmp + 4, mtuBytes);
    memory.copyWithin(icmp + ICMP_HEADER_BYTES, ip, ip + quote);
    const pseudo = pseudoSum6(view, at, PROTOCOL_ICMPV6, length);
    view.setUint16(icmp + 2, ~checksum(icmp, length, pseudo) & 0xffff);
    finish(IPV6_HEADER_BYTES + length);
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
    portUnreachable,
    mayAnswer: takeToken,
    onError: (next) => {
      revise = next;
    },
  };
}
