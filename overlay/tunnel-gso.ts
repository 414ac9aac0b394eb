/**
 * Large TCP packets as one tunnel packet each: the kernel, or a network device that can, cuts the whole
 * of outer and inner headers (include/uapi/linux/virtio_net.h, struct virtio_net_hdr_v1_hash_tunnel).
 * One write takes the place of one header, one checksum and two vectors per segment.
 * Runs per packet: no await, no allocation, no throw.
 *
 *     ip - 88       - 64       - 50   - 30  - 22    - 14       0
 *     | vnet header | Ethernet | IPv4 | UDP | VXLAN | Ethernet | inner IP | TCP | payload |
 *
 * The packet enters the host at a TAP, from our own address, and is routed on like any other: the TAP
 * accepts local sources, and the host must forward.
 */
import type { Arena } from '../linux/arena.ts';
import { writev } from '../linux/libc.ts';
import {
  TUNNEL_VNET_HEADER_BYTES,
  VNET_GSO_TCPV4,
  VNET_GSO_TCPV6,
  VNET_GSO_UDP_TUNNEL_IPV4,
  VNET_NEEDS_CSUM,
  writeVnetHeader,
} from '../linux/tun.ts';
import { ETHERNET_HEADER_BYTES, ETHERTYPE_IPV4 } from '../wire/ethernet.ts';
import { IPV4_DONT_FRAGMENT, IPV4_HEADER_BYTES, finishIpv4Header } from '../wire/ipv4.ts';
import { TCP_CHECKSUM } from '../wire/tcp.ts';
import { PROTOCOL_UDP, UDP_HEADER_BYTES } from '../wire/udp.ts';
import type { CaptureWriter } from './capture-ring.ts';
import { Counter, countSent } from './counters.ts';
import { writeEncapsulation } from './segment.ts';
import { ENCAPSULATION_BYTES, HOP_ADDRESS, HOP_SLOT } from './snapshot.ts';

const OUTER_TTL = 64;
const IOVEC_BYTES = 16;
/** Before the inner IP header. */
const UDP_AT = ENCAPSULATION_BYTES + UDP_HEADER_BYTES;
const IP_AT = UDP_AT + IPV4_HEADER_BYTES;
const FRAME_AT = IP_AT + ETHERNET_HEADER_BYTES;
const VNET_AT = FRAME_AT + TUNNEL_VNET_HEADER_BYTES;
/** The outer IP length has 16 bits, segmented or not. */
const INNER_BYTES_MAX = 65535 - IP_AT;

/** Room that the writer needs before the inner IP header, bytes. */
export const TUNNEL_HEADROOM_BYTES = VNET_AT;

export interface TunnelOptions {
  readonly tapFd: number;
  /** The TAP's own Ethernet address: what is sent to it, the host routes. */
  readonly macHigh: number;
  readonly macLow: number;
  /** Our underlay address. */
  readonly source: number;
}

export interface TunnelGso {
  /**
   * Writes the TCP packet at `ip`, whose checksum field holds its pseudo-header's sum.
   * @param piece payload of a segment, bytes
   * @returns false where the kernel refused: the packet is as it was, and can go another way
   */
  readonly write: (
    ip: number,
    ipHeader: number,
    tcpHeader: number,
    total: number,
    piece: number,
    hop: number,
    ecn: number,
    sourcePort: number,
  ) => boolean;
  /** While disabled, `write` refuses. */
  readonly enable: (enabled: boolean) => void;
}

export function createTunnelGso(
  arena: Arena,
  counters: Float64Array,
  options: TunnelOptions,
  capture: CaptureWriter | null = null,
): TunnelGso {
  const { view, words, setPointer } = arena;
  const { tapFd, macHigh, macLow, source } = options;
  const vectorAt = arena.take(IOVEC_BYTES, 'tunnel write vector');
  const vectorAddress = arena.address + vectorAt;
  let enabled = true;

  function write(
    ip: number,
    ipHeader: number,
    tcpHeader: number,
    total: number,
    piece: number,
    hop: number,
    ecn: number,
    sourcePort: number,
  ): boolean {
    if (!enabled || total > INNER_BYTES_MAX) return false;
    const isV4 = view.getUint8(ip) >>> 4 === 4;
    const udp = ip - UDP_AT;
    const outer = ip - IP_AT;
    const frame = ip - FRAME_AT;
    const vnet = ip - VNET_AT;
    const transport = FRAME_AT + ipHeader;
    writeVnetHeader(
      view,
      vnet,
      VNET_NEEDS_CSUM,
      VNET_GSO_UDP_TUNNEL_IPV4 | (isV4 ? VNET_GSO_TCPV4 : VNET_GSO_TCPV6),
      transport + tcpHeader,
      piece,
      transport,
      TCP_CHECKSUM,
    );
    view.setInt32(vnet + 12, 0);
    view.setInt32(vnet + 16, 0);
    view.setUint16(vnet + 20, ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES, true);
    view.setUint16(vnet + 22, FRAME_AT, true);
    view.setUint16(frame, macHigh);
    view.setUint32(frame + 2, macLow);
    view.setUint16(frame + 6, macHigh);
    view.setUint32(frame + 8, macLow);
    view.setUint16(frame + 12, ETHERTYPE_IPV4);
    view.setUint32(outer, 0x45000000 | (ecn << 16) | (IP_AT + total));
    view.setUint32(outer + 4, IPV4_DONT_FRAGMENT);
    view.setUint32(outer + 8, (OUTER_TTL << 24) | (PROTOCOL_UDP << 16));
    view.setUint32(outer + 12, source);
    view.setUint32(outer + 16, view.getUint32(hop + HOP_ADDRESS + 4));
    finishIpv4Header(view, outer);
    view.setUint16(udp, sourcePort);
    view.setUint16(udp + 2, view.getUint16(hop + HOP_ADDRESS + 2));
    // No outer checksum, which IPv4 allows (RFC 7348 section 5): the inner one is verified.
    view.setUint32(udp + 4, (UDP_AT + total) << 16);
    writeEncapsulation(view, ip - ENCAPSULATION_BYTES, hop);
    setPointer(vectorAt, vnet);
    words[(vectorAt + 8) >>> 2] = VNET_AT + total;
    if (writev(tapFd, vectorAddress, 1) < 0) return false;
    const payload = total - ipHeader - tcpHeader;
    const segments = Math.ceil(payload / piece);
    counters[Counter.egressDatagrams]! += segments;
    const bytes = payload + segments * (ENCAPSULATION_BYTES + total - payload);
    countSent(counters, view.getUint16(hop + HOP_SLOT, true), segments, bytes);
    counters[Counter.tunnelWrites]!++;
    if (capture !== null && capture.isOuter()) {
      const ports = view.getInt32(udp);
      capture.sent(udp + 8, UDP_AT - 8 + total, 0, 0, outer + 16, true, ports, ecn);
    }
    return true;
  }

  function enable(value: boolean): void {
    enabled = value;
  }

  return { write, enable };
}
