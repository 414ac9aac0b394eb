/** A captured packet in a line, for people. */
import { tcpFlagsText, protocolName } from '../wire/protocol-names.ts';
import { type IpAddress, formatAddress, toIpv4, toIpv6 } from '../wire/address.ts';
import { ETHERNET_HEADER_BYTES } from '../wire/ethernet.ts';
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6 } from '../wire/icmp.ts';
import { IPV4_HEADER_BYTES, fragmentOffsetBytes, readHeaderBytes } from '../wire/ipv4.ts';
import { IPV6_HEADER_BYTES } from '../wire/ipv6.ts';
import { LINKTYPE_ETHERNET, type PcapngPacket } from '../wire/pcapng.ts';
import { PROTOCOL_SCTP } from '../wire/sctp.ts';
import { PROTOCOL_TCP } from '../wire/tcp.ts';
import { PROTOCOL_UDP, UDP_HEADER_BYTES } from '../wire/udp.ts';
import { VXLAN_HEADER_BYTES, readVni } from '../wire/vxlan.ts';

const addressIn = (view: DataView, at: number, is4: boolean): IpAddress =>
  is4
    ? toIpv4(view.getUint32(at))
    : toIpv6((view.getBigUint64(at) << 64n) | view.getBigUint64(at + 8));

function icmpText(view: DataView, at: number, end: number): string {
  if (at + 8 > end) return '';
  const type = view.getUint8(at);
  const names: Readonly<Record<number, string>> = {
    0: 'echo reply',
    8: 'echo request',
    128: 'echo request',
    129: 'echo reply',
  };
  const name = names[type];
  if (name === undefined) return ` type ${type} code ${view.getUint8(at + 1)}`;
  return ` ${name} id ${view.getUint16(at + 4)} seq ${view.getUint16(at + 6)}`;
}

/** `TCP 10.244.1.5:4000 > 10.244.2.7:80 SYN`; what is cut off is not told. */
function ipText(view: DataView, at: number, end: number): string {
  const bytes = end - at;
  const version = bytes > 0 ? view.getUint8(at) >>> 4 : 0;
  const is4 = version === 4 && bytes >= IPV4_HEADER_BYTES;
  if (!is4 && !(version === 6 && bytes >= IPV6_HEADER_BYTES)) return 'no IP packet';
  const protocol = view.getUint8(at + (is4 ? 9 : 6));
  const source = formatAddress(addressIn(view, at + (is4 ? 12 : 8), is4));
  const destination = formatAddress(addressIn(view, at + (is4 ? 16 : 24), is4));
  const name = protocolName(protocol) ?? `protocol ${protocol}`;
  const isLater = is4 && fragmentOffsetBytes(view, at) > 0;
  const transport = at + (is4 ? readHeaderBytes(view, at) : IPV6_HEADER_BYTES);
  if (isLater) return `${name} ${source} > ${destination} fragment`;
  if (protocol === PROTOCOL_ICMP || protocol === PROTOCOL_ICMPV6) {
    return `${name} ${source} > ${destination}${icmpText(view, transport, end)}`;
  }
  const hasPorts =
    protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP || protocol === PROTOCOL_SCTP;
  if (!hasPorts || transport + 4 > end) return `${name} ${source} > ${destination}`;
  const end4 = (address: string, port: number): string =>
    is4 ? `${address}:${port}` : `[${address}]:${port}`;
  const from = end4(source, view.getUint16(transport));
  const to = end4(destination, view.getUint16(transport + 2));
  if (protocol !== PROTOCOL_TCP || transport + 14 > end) return `${name} ${from} > ${to}`;
  const bits = view.getUint8(transport + 13);
  return `${name} ${from} > ${to} ${tcpFlagsText(bits)}`.trimEnd();
}

/** The inner packet of a VXLAN datagram. */
function outerText(view: DataView, end: number): string {
  const ip = ETHERNET_HEADER_BYTES;
  if (end <= ip) return 'no IP packet';
  const is4 = view.getUint8(ip) >>> 4 === 4;
  const udp = ip + (is4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES);
  const vxlan = udp + UDP_HEADER_BYTES;
  if (vxlan + VXLAN_HEADER_BYTES > end) return ipText(view, ip, end);
  const inner = vxlan + VXLAN_HEADER_BYTES + ETHERNET_HEADER_BYTES;
  const around = ipText(view, ip, end);
  return `${around} VXLAN ${readVni(view, vxlan)} | ${inner < end ? ipText(view, inner, end) : ''}`;
}

/** The time of day, in this host's time zone. */
function timeText(timeNs: bigint): string {
  const date = new Date(Number(timeNs / 1_000_000n));
  const two = (value: number): string => String(value).padStart(2, '0');
  const micros = String((timeNs / 1000n) % 1_000_000n).padStart(6, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${micros}`;
}

/** Comments hold names from etcd: no control character gets through. */
export function packetLine(
  { timeNs, packet, bytes, direction, comment }: PcapngPacket,
  linkType: number,
): string {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  const text =
    linkType === LINKTYPE_ETHERNET
      ? outerText(view, packet.length)
      : ipText(view, 0, packet.length);
  const way = direction === 'out' ? 'egress ' : direction === 'in' ? 'ingress' : '-      ';
  const said = comment === null ? '' : `  ${comment.replaceAll(/\p{Cc}/gu, '?')}`;
  return `${timeText(timeNs)} ${way} ${text}, ${bytes} bytes${said}`;
}
