/**
 * A packet that asks for an answer, as a pod's own programs would send it: a TCP SYN (a SYN that no socket
 * waits for is answered, and the answer by the pod's kernel with RST, so nothing stays open), a datagram
 * or an echo request.
 */
import { SystemCallError } from '../linux/errno.ts';
import { addressOf, close, connect, errno, send, socket } from '../linux/libc.ts';
import { inNamespace } from '../linux/netlink.ts';
import { openNamespace } from '../linux/netns.ts';
import { SOCKADDR_BYTES, writeSockaddr } from '../linux/udp.ts';
import { type IpAddress, addressBytes } from '../wire/address.ts';
import { ICMPV6_ECHO, ICMP_ECHO, PROTOCOL_ICMP, PROTOCOL_ICMPV6 } from '../wire/icmp.ts';
import { IPV4_DONT_FRAGMENT, IPV4_HEADER_BYTES, finishIpv4Header } from '../wire/ipv4.ts';
import { IPV6_HEADER_BYTES } from '../wire/ipv6.ts';
import { PROTOCOL_TCP, TCP_CHECKSUM, TCP_HEADER_BYTES, TCP_SYN } from '../wire/tcp.ts';
import { PROTOCOL_UDP, UDP_CHECKSUM, UDP_HEADER_BYTES } from '../wire/udp.ts';

export interface ProbeFields {
  readonly source: IpAddress;
  readonly destination: IpAddress;
  readonly protocol: 'TCP' | 'UDP' | 'ICMP';
  /** Of TCP and UDP; the identifier of an echo request. */
  readonly sourcePort: number;
  readonly port: number;
}

export const PROBE_TEXT = 'weft trace';
const TTL = 64;
const ICMP_ECHO_BYTES = 8;
const ICMP_CHECKSUM = 2;
const WINDOW_BYTES = 64240;

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
/** The header is ours (raw(7)). */
const IPPROTO_RAW = 255;

/** RFC 1071, of any bytes and what was summed before. */
function inverseSum(bytes: Uint8Array, before: number): number {
  let sum = before;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff || 0xffff;
}

function transportOf({ protocol, sourcePort, port }: ProbeFields, is4: boolean): Uint8Array {
  const text = Buffer.from(PROBE_TEXT);
  if (protocol === 'TCP') {
    const header = Buffer.alloc(TCP_HEADER_BYTES);
    header.writeUInt16BE(sourcePort, 0);
    header.writeUInt16BE(port, 2);
    // Any sequence number is as good.
    header.writeUInt32BE(0x77656674, 4);
    header.writeUInt8((TCP_HEADER_BYTES >>> 2) << 4, 12);
    header.writeUInt8(TCP_SYN, 13);
    header.writeUInt16BE(WINDOW_BYTES, 14);
    return header;
  }
  if (protocol === 'UDP') {
    const header = Buffer.alloc(UDP_HEADER_BYTES);
    header.writeUInt16BE(sourcePort, 0);
    header.writeUInt16BE(port, 2);
    header.writeUInt16BE(UDP_HEADER_BYTES + text.length, 4);
    return Buffer.concat([header, text]);
  }
  const header = Buffer.alloc(ICMP_ECHO_BYTES);
  header.writeUInt8(is4 ? ICMP_ECHO : ICMPV6_ECHO, 0);
  header.writeUInt16BE(sourcePort, 4);
  header.writeUInt16BE(1, 6);
  return Buffer.concat([header, text]);
}

/** The whole IP packet. */
export function probePacket(fields: ProbeFields): Uint8Array {
  const { source, destination, protocol } = fields;
  const is4 = typeof source === 'number';
  const transport = transportOf(fields, is4);
  const icmp = is4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6;
  const number = { TCP: PROTOCOL_TCP, UDP: PROTOCOL_UDP, ICMP: icmp }[protocol];
  const addresses = Buffer.concat([addressBytes(source), addressBytes(destination)]);
  const hasPseudoHeader = number !== PROTOCOL_ICMP;
  const pseudo = hasPseudoHeader ? inverseSum(addresses, number + transport.length) ^ 0xffff : 0;
  const field = { TCP: TCP_CHECKSUM, UDP: UDP_CHECKSUM, ICMP: ICMP_CHECKSUM }[protocol];
  new DataView(transport.buffer, transport.byteOffset).setUint16(
    field,
    inverseSum(transport, pseudo),
  );
  const headerBytes = is4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES;
  const packet = new Uint8Array(headerBytes + transport.length);
  const view = new DataView(packet.buffer);
  if (is4) {
    view.setUint8(0, 0x45);
    view.setUint16(2, packet.length);
    view.setUint16(6, IPV4_DONT_FRAGMENT);
    view.setUint8(8, TTL);
    view.setUint8(9, number);
    packet.set(addresses, 12);
    finishIpv4Header(view, 0);
  } else {
    view.setUint8(0, 0x60);
    view.setUint16(4, transport.length);
    view.setUint8(6, number);
    view.setUint8(7, TTL);
    packet.set(addresses, 8);
  }
  packet.set(transport, headerBytes);
  return packet;
}

/**
 * From inside the network namespace, by its own routes.
 * @param id  the namespace's, so that it is the same one
 * @throws NamespaceError, SystemCallError
 */
export function sendFrom(netns: string, id: string, to: IpAddress, packet: Uint8Array): void {
  using namespace = openNamespace(netns);
  if (namespace.id !== id) {
    throw new Error(`${netns} is another network namespace than the one that was attached`);
  }
  const is4 = typeof to === 'number';
  const fd = inNamespace(namespace.fd, () =>
    socket(is4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW),
  );
  if (fd < 0) throw new SystemCallError('opening a raw socket', errno());
  try {
    const room = new SharedArrayBuffer(SOCKADDR_BYTES + packet.length);
    const bytes = writeSockaddr(new DataView(room), 0, to, 0);
    new Uint8Array(room, SOCKADDR_BYTES).set(packet);
    const at = addressOf(room);
    if (connect(fd, at, bytes) < 0) throw new SystemCallError('finding a route', errno());
    if (send(fd, at + SOCKADDR_BYTES, packet.length, 0) < 0) {
      throw new SystemCallError('sending a packet', errno());
    }
  } finally {
    close(fd);
  }
}
