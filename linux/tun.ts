/**
 * TUN devices with several queues and a vnet header (Documentation/networking/tuntap.rst,
 * include/uapi/linux/if_tun.h). A packet read or written is
 *
 *     [virtio_net_hdr, 12 bytes | IP packet, up to 65,535 bytes]
 *
 * or the bare IP packet when the queue was opened without `vnetHeader`.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { EBUSY, EINVAL, EPERM, SystemCallError } from './errno.ts';
import { addressOf, close, errno, ioctl, socket } from './libc.ts';

const TUNSETIFF = 0x400454ca;
const TUNSETPERSIST = 0x400454cb;
const TUNSETOFFLOAD = 0x400454d0;
const TUNSETVNETHDRSZ = 0x400454d8;
const SIOCGIFHWADDR = 0x8927;
const SIOCSIFFLAGS = 0x8914;
const IFF_UP = 0x0001;
const IFF_TUN = 0x0001;
const IFF_TAP = 0x0002;
const IFF_MULTI_QUEUE = 0x0100;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const TUN_F_CSUM = 0x01;
const TUN_F_TSO4 = 0x02;
const TUN_F_TSO6 = 0x04;
const TUN_F_TSO_ECN = 0x08;
const TUN_F_USO4 = 0x20;
const TUN_F_USO6 = 0x40;
const TUN_F_UDP_TUNNEL_GSO = 0x80;

export const VNET_HEADER_BYTES = 12;
/** With the offsets of a tunnel's outer transport and inner network headers (Linux 6.17). */
export const TUNNEL_VNET_HEADER_BYTES = 24;

/** struct virtio_net_hdr: little endian whatever the machine, as TUNSETVNETLE is the default on ours. */
export const VNET_NEEDS_CSUM = 1;
export const VNET_DATA_VALID = 2;
export const VNET_GSO_NONE = 0;
export const VNET_GSO_TCPV4 = 1;
export const VNET_GSO_TCPV6 = 4;
export const VNET_GSO_UDP_L4 = 5;
export const VNET_GSO_UDP_TUNNEL_IPV4 = 0x20;
export const VNET_GSO_ECN = 0x80;

export const readVnetFlags = (view: DataView, at: number): number => view.getUint8(at);
export const readVnetGsoType = (view: DataView, at: number): number => view.getUint8(at + 1);
export const readVnetGsoSize = (view: DataView, at: number): number => view.getUint16(at + 4, true);
export const readVnetCsumStart = (view: DataView, at: number): number =>
  view.getUint16(at + 6, true);
export const readVnetCsumOffset = (view: DataView, at: number): number =>
  view.getUint16(at + 8, true);

export function writeVnetHeader(
  view: DataView,
  at: number,
  flags: number,
  gsoType: number,
  headerBytes: number,
  gsoSize: number,
  csumStart: number,
  csumOffset: number,
): void {
  view.setUint8(at, flags);
  view.setUint8(at + 1, gsoType);
  view.setUint16(at + 2, headerBytes, true);
  view.setUint16(at + 4, gsoSize, true);
  view.setUint16(at + 6, csumStart, true);
  view.setUint16(at + 8, csumOffset, true);
  view.setUint16(at + 10, 0, true);
}

export interface TunOptions {
  /** At most 15 characters. */
  readonly name: string;
  readonly queues: number;
  /** Packets carry a vnet header. Without it there is no offload at all. */
  readonly vnetHeader: boolean;
  /** The kernel may hand over TCP packets of up to 64 KiB and unfinished checksums. */
  readonly tso: boolean;
  /** The same for UDP (Linux 6.2). */
  readonly uso: boolean;
  /** The device outlives its file descriptors. */
  readonly persist: boolean;
}

export interface Tun {
  /** One non-blocking descriptor per queue. */
  readonly fds: readonly number[];
  readonly tso: boolean;
  readonly uso: boolean;
}

/**
 * Creates the device or attaches to the one that is there. Offloads the kernel refuses come back false.
 * @throws SystemCallError where there is no TUN at all, naming what to do
 */
export function openTun(options: TunOptions): Tun {
  const fds: number[] = [];
  try {
    for (let i = 0; i < options.queues; i++) fds.push(openQueue(options));
    const [first] = fds;
    const request = (uso: boolean): boolean =>
      ioctl(
        first!,
        TUNSETOFFLOAD,
        TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | (uso ? TUN_F_USO4 | TUN_F_USO6 : 0),
      ) === 0;
    const wantTso = options.vnetHeader && options.tso;
    const uso = wantTso && options.uso && request(true);
    const tso = uso || (wantTso && request(false));
    // A persistent device remembers what an earlier daemon asked for.
    if (!tso) ioctl(first!, TUNSETOFFLOAD, 0);
    if (ioctl(first!, TUNSETPERSIST, options.persist ? 1 : 0) < 0) {
      throw new SystemCallError(`making ${options.name} persistent`, errno());
    }
    return { fds, tso, uso };
  } catch (error) {
    for (const fd of fds) closeSync(fd);
    throw error;
  }
}

/** struct ifreq: the device's name, then what the request is about. */
function interfaceRequest(name: string): DataView {
  const request = new SharedArrayBuffer(40);
  new Uint8Array(request).set(new TextEncoder().encode(name).subarray(0, 15));
  return new DataView(request);
}

function openQueue(options: TunOptions): number {
  const { name, vnetHeader } = options;
  return openDevice(
    name,
    IFF_TUN | IFF_MULTI_QUEUE | (vnetHeader ? IFF_VNET_HDR : 0),
    vnetHeader ? VNET_HEADER_BYTES : 0,
  );
}

function openDevice(name: string, flags: number, vnetHeaderBytes: number): number {
  const fd = openSync('/dev/net/tun', constants.O_RDWR | constants.O_NONBLOCK);
  const request = interfaceRequest(name);
  request.setUint16(16, IFF_NO_PI | flags, true);
  if (ioctl(fd, TUNSETIFF, addressOf(request.buffer)) < 0) {
    const number = errno();
    closeSync(fd);
    throw new SystemCallError(`opening ${name}${tunAdvice(name, number)}`, number);
  }
  if (vnetHeaderBytes > 0) {
    const size = new Int32Array(new SharedArrayBuffer(4));
    size[0] = vnetHeaderBytes;
    if (ioctl(fd, TUNSETVNETHDRSZ, addressOf(size.buffer)) < 0) {
      const number = errno();
      closeSync(fd);
      throw new SystemCallError(`setting the vnet header size of ${name}`, number);
    }
  }
  return fd;
}

export interface TunnelTap {
  /** One non-blocking descriptor per queue. */
  readonly fds: readonly number[];
  /** The device's own Ethernet address, as high 16 and low 32 bits. */
  readonly macHigh: number;
  readonly macLow: number;
}

/**
 * A TAP that takes whole VXLAN packets of up to 64 KiB with an unsegmented TCP packet inside, for the
 * kernel or the network device to segment (Linux 6.17). It exists while its descriptors do.
 * @throws SystemCallError where the kernel cannot
 */
export function openTunnelTap(name: string, queues: number): TunnelTap {
  const fds: number[] = [];
  try {
    for (let i = 0; i < queues; i++) {
      fds.push(
        openDevice(name, IFF_TAP | IFF_MULTI_QUEUE | IFF_VNET_HDR, TUNNEL_VNET_HEADER_BYTES),
      );
    }
    const [first] = fds;
    const features = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_UDP_TUNNEL_GSO;
    if (ioctl(first!, TUNSETOFFLOAD, features) < 0) {
      throw new SystemCallError('asking for tunnel segmentation offload', errno());
    }
    const request = interfaceRequest(name);
    const address = addressOf(request.buffer);
    // struct sockaddr after the name: family, then the address.
    if (ioctl(first!, SIOCGIFHWADDR, address) < 0) {
      throw new SystemCallError(`reading the Ethernet address of ${name}`, errno());
    }
    return { fds, macHigh: request.getUint16(18), macLow: request.getUint32(20) };
  } catch (error) {
    for (const fd of fds) closeSync(fd);
    throw error;
  }
}

/** @throws SystemCallError */
export function setUp(name: string): void {
  const request = interfaceRequest(name);
  request.setUint16(16, IFF_UP, true);
  const fd = socket(2, 2, 0);
  const failed = fd < 0 || ioctl(fd, SIOCSIFFLAGS, addressOf(request.buffer)) < 0;
  const number = failed ? errno() : 0;
  if (fd >= 0) close(fd);
  if (failed) throw new SystemCallError(`setting ${name} up`, number);
}

function tunAdvice(name: string, number: number): string {
  if (number === EPERM) return ' (needs CAP_NET_ADMIN)';
  if (number === EBUSY) return ' (another process has it: is a daemon running already?)';
  if (number === EINVAL) return ` (a device of another kind has that name: ip link delete ${name})`;
  return '';
}
