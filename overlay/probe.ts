/**
 * What this kernel can do, tried once at start with a device and datagrams of our own: feature lists
 * and version numbers have been wrong before (EINVAL on TUN writes with a short last segment in Linux
 * 6.6.44, EIO from devices that cannot segment). What fails is taken off, with its reason.
 */
import { closeSync, writeFileSync } from 'node:fs';
import { type Arena, createArena } from '../linux/arena.ts';
import { SystemCallError, describeErrno } from '../linux/errno.ts';
import { addressOf, errno, poll, writev } from '../linux/libc.ts';
import {
  VNET_GSO_TCPV4,
  VNET_GSO_UDP_L4,
  VNET_HEADER_BYTES,
  VNET_NEEDS_CSUM,
  openTun,
  openTunnelTap,
  setUp,
  writeVnetHeader,
} from '../linux/tun.ts';
import { enableGro, openReceiver, openSender, portOf } from '../linux/udp.ts';
import { type IpAddress, familyOf, parseIpv4 } from '../wire/address.ts';
import { cidrOf } from '../wire/cidr.ts';
import { IPV4_HEADER_BYTES, finishIpv4Header } from '../wire/ipv4.ts';
import { toMac } from '../wire/mac.ts';
import { PROTOCOL_TCP, TCP_ACK, TCP_CHECKSUM, TCP_HEADER_BYTES } from '../wire/tcp.ts';
import { PROTOCOL_UDP, UDP_CHECKSUM, UDP_HEADER_BYTES } from '../wire/udp.ts';
import { toVni } from '../wire/vxlan.ts';
import { Counter, createCounters } from './counters.ts';
import { createPeers } from './peers.ts';
import { pseudoSum4 } from './pseudo-header.ts';
import { createReceiver } from './receiver.ts';
import { createSender } from './sender.ts';
import { ENCAPSULATION_BYTES, PLAIN_OVERLAY, compileSnapshot } from './snapshot.ts';
import { TUNNEL_HEADROOM_BYTES, createTunnelGso } from './tunnel-gso.ts';
import type { DataplaneOptions, Offloads } from './types.ts';

const PROBE_ARENA_BYTES = 4 << 20;
const WAIT_MS = 200;
const POLLIN = 1;
/** Three segments, the last one short. */
const SEGMENT_BYTES = 1000;
const PAYLOAD_BYTES = 2 * SEGMENT_BYTES + 7;

/** Interface names have at most 15 characters. */
export const tunnelTapName = (tunName: string): string => `${tunName.slice(0, 11)}-gso`;
const probeTunName = (tunName: string): string => `${tunName.slice(0, 11)}-try`;

/** What comes in by this device has our own address as its source (Linux's ip-sysctl.rst). */
export function acceptLocalSources(name: string): void {
  const settings = { accept_local: 1, rp_filter: 0, forwarding: 1 };
  for (const [key, value] of Object.entries(settings)) {
    writeFileSync(`/proc/sys/net/ipv4/conf/${name}/${key}`, String(value));
  }
  silence(name);
}

/** No neighbour discovery on a device that has no neighbours; where there is no IPv6, none anyway. */
function silence(name: string): void {
  try {
    writeFileSync(`/proc/sys/net/ipv6/conf/${name}/disable_ipv6`, '1');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** Of the packet path's options, those that decide what can be tried. */
export type ProbeOptions = Pick<
  DataplaneOptions,
  'tunName' | 'underlay4' | 'underlay6' | 'offloads' | 'report'
>;

/**
 * The offloads that were asked for, less those that this host cannot do; each of these is reported.
 * @throws SystemCallError only where not even the plain way works
 */
export function probeOffloads(options: ProbeOptions): Offloads {
  const asked = options.offloads;
  const offloads = { ...asked };
  const check = (offload: keyof Offloads, test: () => string | null): void => {
    if (!offloads[offload]) return;
    let reason: string | null;
    try {
      reason = test();
    } catch (error) {
      if (!(error instanceof SystemCallError)) throw error;
      reason = error.message;
    }
    if (reason === null) return;
    offloads[offload] = false;
    options.report({ kind: 'offload-off', offload, reason });
  };
  check('tunTso', () => tryTun(options, false));
  if (!offloads.tunTso) offloads.tunUso = offloads.tunnelGso = offloads.coalesce = false;
  check('tunUso', () => tryTun(options, true));
  const address = options.underlay4 ?? options.underlay6;
  if (address !== null) {
    check('udpGso', () => tryUdp(address, false));
    check('udpGro', () => tryUdp(address, offloads.udpGso));
  }
  const { underlay4 } = options;
  if (underlay4 === null) offloads.tunnelGso = false;
  else check('tunnelGso', () => tryTunnel(options, underlay4));
  return offloads;
}

/** An IPv4 TCP or UDP packet that goes nowhere: its checksum is left to be finished. @returns bytes */
function writeLargePacket(arena: Arena, ip: number, protocol: number): number {
  const { view } = arena;
  const header = protocol === PROTOCOL_TCP ? TCP_HEADER_BYTES : UDP_HEADER_BYTES;
  const total = IPV4_HEADER_BYTES + header + PAYLOAD_BYTES;
  const transport = ip + IPV4_HEADER_BYTES;
  arena.bytes.fill(0, ip, ip + total);
  view.setUint32(ip, 0x45000000 | total);
  view.setUint32(ip + 8, (64 << 24) | (protocol << 16));
  // Documentation addresses (RFC 5737).
  view.setUint32(ip + 12, parseIpv4('192.0.2.1'));
  view.setUint32(ip + 16, parseIpv4('192.0.2.2'));
  finishIpv4Header(view, ip);
  view.setUint32(transport, (9 << 16) | 9);
  if (protocol === PROTOCOL_TCP) view.setUint16(transport + 12, 0x5000 | TCP_ACK);
  else view.setUint16(transport + 4, total - IPV4_HEADER_BYTES);
  view.setUint16(
    transport + (protocol === PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM),
    pseudoSum4(view, ip, protocol, total - IPV4_HEADER_BYTES),
  );
  return total;
}

/** A large packet into a device without addresses: the kernel takes it whole, and drops it. */
function tryTun(options: ProbeOptions, uso: boolean): string | null {
  const name = probeTunName(options.tunName);
  const tun = openTun({ name, queues: 1, vnetHeader: true, tso: true, uso, persist: false });
  try {
    if (!(uso ? tun.uso : tun.tso)) return 'the kernel refuses it (TUNSETOFFLOAD)';
    silence(name);
    setUp(name);
    const arena = createArena(PROBE_ARENA_BYTES);
    const protocol = uso ? PROTOCOL_UDP : PROTOCOL_TCP;
    const at = arena.take(65536, 'packet');
    const total = writeLargePacket(arena, at + VNET_HEADER_BYTES, protocol);
    const header = IPV4_HEADER_BYTES + (uso ? UDP_HEADER_BYTES : TCP_HEADER_BYTES);
    writeVnetHeader(
      arena.view,
      at,
      VNET_NEEDS_CSUM,
      uso ? VNET_GSO_UDP_L4 : VNET_GSO_TCPV4,
      header,
      SEGMENT_BYTES,
      IPV4_HEADER_BYTES,
      uso ? UDP_CHECKSUM : TCP_CHECKSUM,
    );
    const vector = arena.take(16, 'vector');
    arena.setPointer(vector, at);
    arena.words[(vector + 8) >>> 2] = VNET_HEADER_BYTES + total;
    if (writev(tun.fds[0]!, arena.address + vector, 1) >= 0) return null;
    return `a large packet was refused (${describeErrno(errno())})`;
  } finally {
    for (const fd of tun.fds) closeSync(fd);
  }
}

/** A receiver at `address`, the next hop to it, and what arrived within a moment. */
interface Mirror {
  readonly arena: Arena;
  readonly counters: Float64Array;
  readonly hop: number;
  /** Bytes of the datagrams received until `bytes` are there or time is up. */
  readonly received: (bytes: number) => number;
}

function withMirror<T>(address: IpAddress, gro: boolean, run: (mirror: Mirror) => T): T {
  const arena = createArena(PROBE_ARENA_BYTES);
  const counters = createCounters();
  const fd = openReceiver(address, 0, false);
  try {
    if (gro) enableGro(fd);
    const peers = createPeers(arena);
    const self = { address, mac: toMac(0x020000000001) };
    const subnet4 = cidrOf(parseIpv4('192.0.2.0'), 24);
    peers.install(
      compileSnapshot(
        {
          ...PLAIN_OVERLAY,
          vni: toVni(1),
          subnet4: null,
          subnet6: null,
          mac: toMac(0x020000000002),
          mtuBytes: 65535,
          forwarding: true,
          network4: null,
          network6: null,
          pods: [],
          peers: [
            {
              name: 'this node',
              subnet4,
              subnet6: null,
              nextHop4: self,
              nextHop6: null,
              direct4: false,
              direct6: false,
              addresses: [address],
            },
          ],
        },
        portOf(fd),
        1,
      ),
    );
    const receiver = createReceiver(arena, counters, {
      fd,
      family: familyOf(address),
      batch: false,
      onDatagram: () => {},
    });
    const pollFd = new Int32Array(new SharedArrayBuffer(8));
    pollFd[0] = fd;
    pollFd[1] = POLLIN;
    const received = (bytes: number): number => {
      const before = counters[Counter.udpBytes]!;
      while (counters[Counter.udpBytes]! - before < bytes) {
        if (poll(addressOf(pollFd.buffer), 1, WAIT_MS) <= 0) break;
        receiver.receive();
      }
      return counters[Counter.udpBytes]! - before;
    };
    return run({ arena, counters, hop: peers.hopOf(0), received });
  } finally {
    closeSync(fd);
  }
}

const arrival = (received: number, sent: number): string | null =>
  received === sent ? null : `of ${sent} bytes sent to ourselves ${received} arrived`;

/** Three datagrams in one message; with `gso` false, the same three without UDP_SEGMENT. */
function tryUdp(address: IpAddress, gso: boolean): string | null {
  return withMirror(address, true, ({ arena, counters, hop, received }) => {
    const { fd, port } = openSender(address);
    try {
      let refused: string | null = null;
      const sender = createSender(arena, counters, {
        fd,
        sourcePort: port,
        family: familyOf(address),
        gso,
        batch: true,
        onTooBig: () => false,
        onGsoRefused: (number) => {
          refused = `a message of several datagrams was refused (${describeErrno(number)})`;
        },
      });
      const at = arena.take(SEGMENT_BYTES, 'datagram');
      for (const bytes of [SEGMENT_BYTES, SEGMENT_BYTES, 7]) sender.append(hop, 0, at, bytes, 0, 0);
      sender.flush();
      return refused ?? arrival(received(2 * SEGMENT_BYTES + 7), 2 * SEGMENT_BYTES + 7);
    } finally {
      closeSync(fd);
    }
  });
}

/** A tunnel packet from ourselves to ourselves, through the TAP and the host's routing. */
function tryTunnel(
  options: ProbeOptions,
  address: NonNullable<DataplaneOptions['underlay4']>,
): string | null {
  const name = tunnelTapName(options.tunName);
  const { fds, macHigh, macLow } = openTunnelTap(name, 1);
  try {
    acceptLocalSources(name);
    setUp(name);
    return withMirror(address, false, ({ arena, counters, hop, received }) => {
      const tunnel = createTunnelGso(arena, counters, {
        tapFd: fds[0]!,
        macHigh,
        macLow,
        source: address,
      });
      const ip = arena.take(TUNNEL_HEADROOM_BYTES + 4096, 'packet') + TUNNEL_HEADROOM_BYTES;
      const total = writeLargePacket(arena, ip, PROTOCOL_TCP);
      const header = IPV4_HEADER_BYTES;
      if (!tunnel.write(ip, header, TCP_HEADER_BYTES, total, SEGMENT_BYTES, hop, 0, 9)) {
        return `a tunnel packet was refused (${describeErrno(errno())})`;
      }
      // Whole, as nobody segments what stays on this host.
      return arrival(received(ENCAPSULATION_BYTES + total), ENCAPSULATION_BYTES + total);
    });
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}
