/** UDP sockets of the underlay, with segmentation and coalescing by the kernel (udp(7), UDP_SEGMENT, UDP_GRO). */
import {
  type Family,
  type IpAddress,
  familyOf,
  formatAddress,
  ipv6Words,
} from '../wire/address.ts';
import { SystemCallError } from './errno.ts';
import {
  addressOf,
  bindSocket,
  close,
  connect,
  errno,
  getsockname,
  getsockopt,
  setOption,
  setsockopt,
  socket,
} from './libc.ts';

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SO_REUSEPORT = 15;
const SO_ATTACH_FILTER = 26;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const SO_MEMINFO = 55;
const SK_MEMINFO_DROPS = 8;

export const SOL_IP = 0;
export const SOL_IPV6 = 41;
export const SOL_UDP = 17;
export const IP_TOS = 1;
export const IPV6_TCLASS = 67;
export const UDP_SEGMENT = 103;
export const UDP_GRO = 104;
const IP_MTU_DISCOVER = 10;
const IP_RECVTOS = 13;
const IP_MTU = 14;
const IPV6_MTU_DISCOVER = 23;
const IPV6_MTU = 24;
const IPV6_V6ONLY = 26;
const IPV6_RECVTCLASS = 66;
/** Never fragment; learn the path MTU and refuse what is larger (ip(7)). */
const PMTUDISC_DO = 2;
/** Fragment here, and let routers do so. */
const PMTUDISC_DONT = 0;

const BUFFER_BYTES = 8 << 20;

export const SOCKADDR_BYTES = 28;

/** Writes struct sockaddr_in or sockaddr_in6. @returns its length, 16 or 28 */
export function writeSockaddr(
  view: DataView,
  at: number,
  address: IpAddress,
  port: number,
): number {
  if (typeof address === 'number') {
    view.setUint16(at, AF_INET, true);
    view.setUint16(at + 2, port);
    view.setUint32(at + 4, address);
    view.setUint32(at + 8, 0);
    view.setUint32(at + 12, 0);
    return 16;
  }
  view.setUint16(at, AF_INET6, true);
  view.setUint16(at + 2, port);
  view.setUint32(at + 4, 0);
  ipv6Words(address).forEach((word, i) => view.setUint32(at + 8 + 4 * i, word));
  view.setUint32(at + 24, 0);
  return 28;
}

/** Offset of the port within a sockaddr, and of the address within the one that the kernel writes. */
export const SOCKADDR_PORT = 2;
export const SOCKADDR_IN_ADDRESS = 4;
export const SOCKADDR_IN6_ADDRESS = 8;

function openSocket(family: Family): number {
  const fd = socket(
    family === 4 ? AF_INET : AF_INET6,
    SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
    0,
  );
  if (fd < 0) throw new SystemCallError(`opening an IPv${family} UDP socket`, errno());
  if (family === 6) setOption(fd, SOL_IPV6, IPV6_V6ONLY, 1);
  setOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES);
  setOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES);
  return fd;
}

function bindTo(fd: number, address: IpAddress, port: number): void {
  const name = new SharedArrayBuffer(SOCKADDR_BYTES);
  const bytes = writeSockaddr(new DataView(name), 0, address, port);
  if (bindSocket(fd, addressOf(name), bytes) < 0) {
    const number = errno();
    close(fd);
    throw new SystemCallError(`binding UDP ${formatAddress(address)} port ${port}`, number);
  }
}

/**
 * The socket that peers send to. Each datagram comes with its outer ECN field, and with the segment
 * size when the kernel coalesced several.
 * @throws SystemCallError, for example when a kernel VXLAN device already has the port
 */
export function openReceiver(address: IpAddress, port: number, shared: boolean): number {
  const family = familyOf(address);
  const fd = openSocket(family);
  if (shared) setOption(fd, SOL_SOCKET, SO_REUSEPORT, 1);
  if (family === 4) setOption(fd, SOL_IP, IP_RECVTOS, 1);
  else setOption(fd, SOL_IPV6, IPV6_RECVTCLASS, 1);
  bindTo(fd, address, port);
  return fd;
}

/** @returns false where the kernel has no UDP_GRO (before 5.0) */
export const enableGro = (fd: number): boolean => setOption(fd, SOL_UDP, UDP_GRO, 1);

export interface BoundSocket {
  readonly fd: number;
  readonly port: number;
}

/**
 * A socket to send from, with a source port of its own. It never receives: a filter that accepts no
 * byte drops whatever is sent to that port before it can fill a queue.
 */
export function openSender(address: IpAddress, mayFragment = false): BoundSocket {
  const discovery = mayFragment ? PMTUDISC_DONT : PMTUDISC_DO;
  const family = familyOf(address);
  const fd = openSocket(family);
  if (family === 4) setOption(fd, SOL_IP, IP_MTU_DISCOVER, discovery);
  else setOption(fd, SOL_IPV6, IPV6_MTU_DISCOVER, discovery);
  refuseAll(fd);
  bindTo(fd, address, 0);
  return { fd, port: portOf(fd) };
}

/** The port that a socket is bound to. */
export function portOf(fd: number): number {
  const name = new DataView(new SharedArrayBuffer(SOCKADDR_BYTES + 4));
  name.setUint32(SOCKADDR_BYTES, SOCKADDR_BYTES, true);
  const at = addressOf(name.buffer);
  if (getsockname(fd, at, at + SOCKADDR_BYTES) < 0) {
    throw new SystemCallError('reading the port of a socket', errno());
  }
  return name.getUint16(2);
}

function refuseAll(fd: number): void {
  // struct sock_filter { u16 code; u8 jt, jf; u32 k } = BPF_RET | BPF_K, 0
  const program = new SharedArrayBuffer(8);
  new DataView(program).setUint16(0, 0x06, true);
  // struct sock_fprog { u16 length; struct sock_filter *filter }
  const header = new SharedArrayBuffer(16);
  const view = new DataView(header);
  view.setUint16(0, 1, true);
  view.setBigUint64(8, BigInt(addressOf(program)), true);
  if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, addressOf(header), 16) < 0) {
    const number = errno();
    close(fd);
    throw new SystemCallError('refusing datagrams on a sending socket', number);
  }
}

/**
 * What the kernel believes of the path to `address` now: the interface's MTU, or less once a router has
 * said so (RFC 1191, RFC 8201). Outer IP packet, bytes. Zero when there is no route.
 */
export function pathMtuBytes(address: IpAddress): number {
  const family = familyOf(address);
  const fd = openSocket(family);
  try {
    const name = new SharedArrayBuffer(SOCKADDR_BYTES);
    const bytes = writeSockaddr(new DataView(name), 0, address, 9);
    if (connect(fd, addressOf(name), bytes) < 0) return 0;
    const cells = new Int32Array(new SharedArrayBuffer(8));
    cells[1] = 4;
    const at = addressOf(cells.buffer);
    const [level, option] = family === 4 ? [SOL_IP, IP_MTU] : [SOL_IPV6, IPV6_MTU];
    return getsockopt(fd, level, option, at, at + 4) < 0 ? 0 : cells[0]!;
  } finally {
    close(fd);
  }
}

/** Datagrams the kernel dropped because this socket's queue was full. */
export function socketDrops(fd: number): number {
  const cells = new Uint32Array(new SharedArrayBuffer(64));
  cells[15] = 60;
  const at = addressOf(cells.buffer);
  return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, at, at + 60) < 0 ? 0 : cells[SK_MEMINFO_DROPS]!;
}
