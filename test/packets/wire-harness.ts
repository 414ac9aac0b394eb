/**
 * A node's packet path between ends that a test holds, without a device and without root:
 *
 *     pods  <-- AF_UNIX datagram pair -->  packet path  <-- UDP on loopback -->  peers
 *
 * A datagram pair keeps message boundaries as a TUN queue does: one read, one packet with its vnet
 * header. The nodes of every test:
 *
 *     us  10.244.1.0/24 fd00:1::/64 02:00:00:00:00:01    127.x.y.1, or ::1    pods 5 and 6
 *     A   10.244.2.0/24 fd00:2::/64 02:00:00:00:00:0a    127.x.y.2, or ::1
 *     B   10.244.3.0/24 fd00:3::/64 02:00:00:00:00:0b    127.x.y.3, or ::1
 *
 * x.y is this process's, so that tests run side by side on the port that the standard names.
 */
import koffi from 'koffi';
import { addressOf, close, errno, eventfd, poll, setsockopt } from '../../linux/libc.ts';
import { EAGAIN, SystemCallError } from '../../linux/errno.ts';
import { VNET_HEADER_BYTES, VNET_NEEDS_CSUM, writeVnetHeader } from '../../linux/tun.ts';
import {
  type BoundSocket,
  SOCKADDR_BYTES,
  UDP_SEGMENT,
  SOL_UDP,
  enableGro,
  openReceiver,
  openSender,
  portOf,
  writeSockaddr,
} from '../../linux/udp.ts';
import { type Family, type IpAddress, parseAddress } from '../../wire/address.ts';
import { type Cidr4, type Cidr6, parseCidr } from '../../wire/cidr.ts';
import { parseMac } from '../../wire/mac.ts';
import { VXLAN_DEFAULT_PORT, toVni } from '../../wire/vxlan.ts';
import { createChecksum } from '../../wire/checksum/checksum.ts';
import { Drop, dropNames } from '../../wire/drop-reason.ts';
import { createArena } from '../../linux/arena.ts';
import { type Coalescer, createCoalescer } from '../../overlay/coalesce.ts';
import { Counter, createCounters, sumCounters } from '../../overlay/counters.ts';
import { EVENT_REASON, createEventRing, readEvents } from '../../overlay/event-ring.ts';
import { createIcmpErrors } from '../../overlay/icmp-errors.ts';
import { type Ingress, createIngress } from '../../overlay/ingress.ts';
import { createPeers } from '../../overlay/peers.ts';
import type { TunnelOptions } from '../../overlay/tunnel-gso.ts';
import { createTunWriter } from '../../overlay/tun-writer.ts';
import {
  GSO_TCPV4,
  GSO_TCPV6,
  GSO_UDP_L4,
  TCP,
  addressBytes,
  icmp,
  payloadAt,
  protocolOf,
  sourceOf,
  transportAt,
} from './build.ts';
import {
  CONTROL_GENERATION,
  CONTROL_NO_TUNNEL,
  CONTROL_WORDS,
  type Loop,
  createLoop,
} from '../../overlay/loop.ts';
import { createPeerSlots } from '../../overlay/peer-slots.ts';
import { PLAIN_OVERLAY, type Snapshot, compileSnapshot } from '../../overlay/snapshot.ts';
import type {
  DataplaneEvent,
  Offloads,
  OverlayState,
  Peer,
  PeerTraffic,
} from '../../overlay/types.ts';

const libc = koffi.load(null);
const socketpair = libc.func('int socketpair(int, int, int, uintptr_t)');
const send = libc.func('intptr_t send(int, void *, uintptr_t, int)');
const recv = libc.func('intptr_t recv(int, void *, uintptr_t, int)');
const sendto = libc.func('intptr_t sendto(int, void *, uintptr_t, int, uintptr_t, uint32_t)');
const recvmsg = libc.func('intptr_t recvmsg(int, uintptr_t, int)');

const AF_UNIX = 1;
const SOCK_DGRAM_NONBLOCK_CLOEXEC = 2 | 0o4000 | 0o2000000;
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;
const SO_NO_CHECK = 11;
const SO_SNDBUFFORCE = 32;
const SOL_IP = 0;
const IP_TOS = 1;
const SOL_IPV6 = 41;
const IPV6_TCLASS = 67;
const MSG_DONTWAIT = 0x40;
const EFD_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000;
const POLLIN = 1;
/** Loopback delivers at once, but for a machine so busy that the kernel puts it off. */
const PATIENCE_MS = 5000;

export interface VnetHeader {
  readonly flags: number;
  readonly gsoType: number;
  readonly headerBytes: number;
  readonly gsoSize: number;
  readonly csumStart: number;
  readonly csumOffset: number;
}

export const NO_OFFLOAD: VnetHeader = {
  flags: 0,
  gsoType: 0,
  headerBytes: 0,
  gsoSize: 0,
  csumStart: 0,
  csumOffset: 0,
};

export interface TunPacket {
  readonly vnet: VnetHeader;
  readonly packet: Buffer;
}

function setOption(fd: number, level: number, name: number, value: number): boolean {
  const cell = Int32Array.from([value]);
  const shared = new Int32Array(new SharedArrayBuffer(4));
  shared.set(cell);
  return setsockopt(fd, level, name, addressOf(shared.buffer), 4) === 0;
}

/** A TUN queue's twin. `fd` is what the packet path reads and writes; the rest is the kernel's side. */
export class TunTwin implements Disposable {
  readonly fd: number;
  /** The kernel's end, for those who bring their own buffers. */
  readonly kernelFd: number;
  readonly #headerBytes: number;
  readonly #room = Buffer.alloc(1 << 17);
  #isClosed = false;

  constructor(vnetHeader: boolean) {
    const pair = new Int32Array(new SharedArrayBuffer(8));
    if (socketpair(AF_UNIX, SOCK_DGRAM_NONBLOCK_CLOEXEC, 0, addressOf(pair.buffer)) < 0) {
      throw new SystemCallError('opening a pair of sockets', errno());
    }
    this.fd = pair[0]!;
    this.kernelFd = pair[1]!;
    for (const fd of pair) {
      if (!setOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)) {
        setOption(fd, SOL_SOCKET, SO_SNDBUF, 8 << 20);
      }
    }
    this.#headerBytes = vnetHeader ? VNET_HEADER_BYTES : 0;
  }

  /** The kernel queues a packet for the path. @returns false when the queue is full */
  write(packet: Uint8Array, vnet: Partial<VnetHeader> = {}): boolean {
    const header = new DataView(new ArrayBuffer(this.#headerBytes));
    if (this.#headerBytes > 0) {
      const v = { ...NO_OFFLOAD, ...vnet };
      writeVnetHeader(
        header,
        0,
        v.flags,
        v.gsoType,
        v.headerBytes,
        v.gsoSize,
        v.csumStart,
        v.csumOffset,
      );
    }
    return this.writeMessage(Buffer.concat([new Uint8Array(header.buffer), packet]));
  }

  /** The same, of a message that has its vnet header. */
  writeMessage(message: Uint8Array): boolean {
    if ((send(this.kernelFd, message, message.length, MSG_DONTWAIT) as number) >= 0) return true;
    if (errno() === EAGAIN) return false;
    throw new SystemCallError('queueing a packet', errno());
  }

  /** One message that the path wrote, vnet header and packet; valid until the next call. */
  readMessage(): Buffer | null {
    const bytes = recv(this.kernelFd, this.#room, this.#room.length, MSG_DONTWAIT) as number;
    return bytes < 0 ? null : this.#room.subarray(0, bytes);
  }

  /** What the path has written since the last call. */
  read(): TunPacket[] {
    const packets: TunPacket[] = [];
    for (;;) {
      const message = this.readMessage();
      if (message === null) return packets;
      packets.push(tunPacketOf(Buffer.from(message), this.#headerBytes > 0));
    }
  }

  /** Does no harm a second time: a test may take the device away. */
  [Symbol.dispose](): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    close(this.fd);
    close(this.kernelFd);
  }
}

function tunPacketOf(message: Buffer, vnetHeader: boolean): TunPacket {
  if (!vnetHeader) return { vnet: NO_OFFLOAD, packet: message };
  return {
    vnet: {
      flags: message[0]!,
      gsoType: message[1]!,
      headerBytes: message.readUInt16LE(2),
      gsoSize: message.readUInt16LE(4),
      csumStart: message.readUInt16LE(6),
      csumOffset: message.readUInt16LE(8),
    },
    packet: message.subarray(VNET_HEADER_BYTES),
  };
}

export interface Datagram {
  readonly payload: Buffer;
  readonly sourcePort: number;
  readonly tos: number;
}

/** Another node's UDP socket. */
export class UdpEnd implements Disposable {
  readonly fd: number;
  readonly port: number;
  readonly #family: Family;
  readonly #block = new SharedArrayBuffer(256 + 65536);
  readonly #view = new DataView(this.#block);
  readonly #address = addressOf(this.#block);

  constructor(address: IpAddress, port: number) {
    this.fd = openReceiver(address, port, false);
    this.#family = typeof address === 'number' ? 4 : 6;
    this.port = portOf(this.fd);
  }

  send(to: IpAddress, port: number, datagram: Uint8Array, ecn = 0): void {
    const is4 = this.#family === 4;
    setOption(this.fd, is4 ? SOL_IP : SOL_IPV6, is4 ? IP_TOS : IPV6_TCLASS, ecn);
    const length = writeSockaddr(this.#view, 0, to, port);
    const sent = sendto(this.fd, datagram, datagram.length, 0, this.#address, length) as number;
    if (sent < 0) throw new SystemCallError('sending a datagram', errno());
  }

  /** From now on what is sent leaves as datagrams of this size: 0 for as it is. */
  segmentBy(bytes: number): void {
    setOption(this.fd, SOL_UDP, UDP_SEGMENT, bytes);
  }

  /** Waits until `count` datagrams are there, and takes them. */
  receive(count: number): Datagram[] {
    const datagrams: Datagram[] = [];
    while (datagrams.length < count) {
      const datagram = this.#receiveOne();
      if (datagram !== null) datagrams.push(datagram);
      else if (!isReadable(this.fd)) break;
    }
    return datagrams;
  }

  /** What is there now. */
  receiveAll(): Datagram[] {
    const datagrams: Datagram[] = [];
    for (;;) {
      const datagram = this.#receiveOne();
      if (datagram === null) return datagrams;
      datagrams.push(datagram);
    }
  }

  #receiveOne(): Datagram | null {
    // name 0..32, iovec 32..48, control 48..112, msghdr 112..168, then the payload.
    const pointer = (at: number, to: number) =>
      this.#view.setBigUint64(at, BigInt(this.#address + to), true);
    const size = (at: number, bytes: number) => this.#view.setBigUint64(at, BigInt(bytes), true);
    pointer(32, 256);
    size(40, 65536);
    pointer(112, 0);
    size(120, SOCKADDR_BYTES);
    pointer(128, 32);
    size(136, 1);
    pointer(144, 48);
    size(152, 64);
    const bytes = recvmsg(this.fd, this.#address + 112, MSG_DONTWAIT) as number;
    if (bytes < 0) return null;
    return {
      payload: Buffer.from(new Uint8Array(this.#block, 256, bytes)),
      sourcePort: this.#view.getUint16(2),
      // The only control message that was asked for: the TOS or traffic class.
      tos: this.#view.getUint32(152, true) >= 17 ? this.#view.getUint8(48 + 16) : 0,
    };
  }

  [Symbol.dispose](): void {
    close(this.fd);
  }
}

function isReadable(fd: number): boolean {
  const block = new SharedArrayBuffer(8);
  const view = new DataView(block);
  view.setInt32(0, fd, true);
  view.setUint16(4, POLLIN, true);
  return poll(addressOf(block), 1, PATIENCE_MS) > 0;
}

export const US = { mac: '02:00:00:00:00:01', node4: '10.244.1.0', node6: 'fd00:1::' } as const;
export const MAC_A = '02:00:00:00:00:0a';
export const MAC_B = '02:00:00:00:00:0b';

export const loopback = (host: number): string =>
  `127.${(process.pid >> 8) & 0xff}.${process.pid & 0xff}.${host}`;

const underlayOf = (family: Family, host: number): IpAddress =>
  parseAddress(family === 4 ? loopback(host) : '::1');

export function peerOf(name: string, subnet: number, mac: string, address: IpAddress): Peer {
  const hop = { address, mac: parseMac(mac) };
  return {
    name,
    subnet4: parseCidr(`10.244.${subnet}.0/24`) as Cidr4,
    subnet6: parseCidr(`fd00:${subnet}::/64`) as Cidr6,
    nextHop4: hop,
    nextHop6: hop,
    direct4: false,
    direct6: false,
    addresses: [address],
  };
}

/** The state every test begins with. */
export function stateOf(a: IpAddress, b: IpAddress): OverlayState {
  return {
    ...PLAIN_OVERLAY,
    vni: toVni(1),
    subnet4: parseCidr('10.244.1.0/24') as Cidr4,
    subnet6: parseCidr('fd00:1::/64') as Cidr6,
    mac: parseMac(US.mac),
    mtuBytes: 1450,
    forwarding: true,
    network4: parseCidr('10.244.0.0/16') as Cidr4,
    network6: parseCidr('fd00::/16') as Cidr6,
    pods: ['10.244.1.5', '10.244.1.6', 'fd00:1::5', 'fd00:1::6'].map((it) => parseAddress(it)),
    peers: [peerOf('A', 2, MAC_A, a), peerOf('B', 3, MAC_B, b)],
  };
}

export const ALL_OFFLOADS: Offloads = {
  tunTso: true,
  tunUso: true,
  // Needs a TAP, which needs a host that routes: the lab's to test.
  tunnelGso: false,
  udpGso: true,
  udpGro: true,
  batch: true,
  coalesce: true,
};

/**
 * Whether nothing was lost silently (the equations of overlay/counters.ts). Some reasons are shared by
 * both directions, so that drops can only be told apart where one direction runs alone: what is given
 * here is the sum over all three.
 */
export function unaccounted(counters: Readonly<Record<string, number>>): number {
  const inward = counters['tunPackets']! + counters['egressDatagrams']! + counters['udpDatagrams']!;
  const onward =
    counters['egressAccepted']! + counters['udpSentDatagrams']! + counters['tunDelivered']!;
  return inward - onward - Object.values(dropsOf(counters)).reduce((sum, n) => sum + n, 0);
}

/** The drops that were counted, by reason. */
export const dropsOf = (counters: Readonly<Record<string, number>>): Record<string, number> =>
  Object.fromEntries(
    Object.entries(counters)
      .filter(([name, count]) => name.startsWith('drop.') && count > 0)
      .map(([name, count]) => [name.slice('drop.'.length), count]),
  );

const INGRESS_ARENA_BYTES = 2 << 20;

/**
 * What happens to one datagram after another, without sockets: each is laid where the test says, and
 * goes through ingress and the coalescer into a TUN's twin.
 */
export class IngressPath implements Disposable {
  readonly tun: TunTwin;
  readonly arena = createArena(INGRESS_ARENA_BYTES);
  readonly #counters = createCounters();
  readonly #peers = createPeers(this.arena);
  readonly #coalescer: Coalescer;
  readonly #ingress: Ingress;
  readonly #sourceAt = this.arena.take(16, 'source');
  /** Room for one datagram of any size. */
  readonly roomAt = this.arena.take(1 << 17, 'datagram');
  readonly roomBytes = 1 << 17;

  /** @param state  null: none has been published yet */
  constructor(
    state: OverlayState | null,
    options: { readonly underlay?: Family; readonly offloads?: Partial<Offloads> } = {},
  ) {
    const offloads = { ...ALL_OFFLOADS, ...options.offloads };
    this.tun = new TunTwin(offloads.tunTso);
    const checksum = createChecksum(this.arena.memory);
    const writer = createTunWriter(
      this.arena,
      this.#counters,
      checksum,
      this.tun.fd,
      offloads.tunTso,
    );
    this.#coalescer = createCoalescer(
      this.arena,
      this.#counters,
      checksum,
      this.#peers,
      writer,
      offloads,
    );
    let nowMs = 0;
    this.#ingress = createIngress(
      this.arena,
      this.#counters,
      this.#peers,
      this.#coalescer,
      // A millisecond between any two errors: as many as there are occasions, every time alike.
      createIcmpErrors(
        this.arena,
        this.#counters,
        checksum,
        this.#peers,
        writer,
        () => (nowMs += 1),
      ),
      options.underlay ?? 4,
      VXLAN_DEFAULT_PORT,
    );
    if (state !== null) this.#peers.install(compileSnapshot(state, VXLAN_DEFAULT_PORT, 1));
  }

  get counters(): Readonly<Record<string, number>> {
    return sumCounters([this.#counters]);
  }

  /** The outer source of what comes next. */
  setSource(address: Uint8Array): void {
    this.arena.bytes.set(address, this.#sourceAt);
  }

  /**
   * A datagram that lies at `at` .. `end` of the arena.
   * @param gsoSize as the receiver hands it on
   */
  takeAt(at: number, end: number, ecn: number, gsoSize = 0): Drop {
    this.#counters[Counter.udpDatagrams]!++;
    const drop = this.#ingress(at, end, ecn, this.#sourceAt, gsoSize);
    if (drop !== Drop.none) this.#counters[drop]!++;
    return drop;
  }

  /** The batch ends. */
  flush(): void {
    this.#coalescer.flush();
  }

  /** One datagram, alone in its batch. */
  take(datagram: Uint8Array, source: string, ecn = 0, gsoSize = 0): keyof typeof Drop {
    this.setSource(addressBytes(source));
    // Never at an aligned offset, as it is behind the headers of a coalesced message.
    const at = this.roomAt + 6;
    this.arena.bytes.set(datagram, at);
    const drop = this.takeAt(at, at + datagram.length, ecn, gsoSize);
    this.flush();
    return dropNames[drop]!;
  }

  /** Several of one batch, one behind the other. */
  takeBatch(datagrams: readonly Uint8Array[], source: string): void {
    this.setSource(addressBytes(source));
    // A batch never outgrows the receiver's slots; here it is the room that it must not outgrow.
    let at = this.roomAt;
    for (const datagram of datagrams) {
      if (at + datagram.length > this.roomAt + this.roomBytes)
        throw new RangeError('batch too big');
      this.arena.bytes.set(datagram, at);
      this.takeAt(at, at + datagram.length, 0);
      at += datagram.length;
    }
    this.flush();
  }

  [Symbol.dispose](): void {
    this.tun[Symbol.dispose]();
  }
}

export interface WireOptions {
  readonly offloads?: Partial<Offloads>;
  readonly underlay?: Family;
  readonly state?: Partial<OverlayState>;
  /** Sending sockets, a power of two; 4. */
  readonly senders?: number;
  /** Large TCP packets may leave by a TAP's twin. */
  readonly tunnel?: boolean;
}

/** The TAP's own Ethernet address. */
export const TAP_MAC = '02:00:00:00:77:01';

const tunnelOf = (tap: TunTwin, source: IpAddress): TunnelOptions => ({
  tapFd: tap.fd,
  macHigh: 0x0200,
  macLow: 0x00007701,
  source: Number(source),
});

/** The ICMP error that a router at 10.244.1.0 returns: RFC 792, RFC 1191; TOS as RFC 1812 section 4.3.2.5. */
export function error4(packet: Buffer, code: number, mtu: number): Buffer {
  const rest = Buffer.alloc(4);
  rest.writeUInt32BE(mtu);
  const fields = { source: US.node4, destination: sourceOf(packet), tos: 0xc0, id: 0 };
  return icmp(fields, 3, code, Buffer.concat([rest, packet.subarray(0, 576 - 28)]));
}

/** And at fd00:1::, RFC 4443. */
export function error6(packet: Buffer, type: number, code: number, mtu: number): Buffer {
  const rest = Buffer.alloc(4);
  rest.writeUInt32BE(mtu);
  const fields = { source: US.node6, destination: sourceOf(packet), flowLabel: 0 };
  return icmp(fields, type, code, Buffer.concat([rest, packet.subarray(0, 1280 - 48)]));
}

/** The vnet header of a packet whose checksum is the device's to finish. */
export const unfinished = (packet: Buffer): Partial<VnetHeader> => ({
  flags: VNET_NEEDS_CSUM,
  csumStart: transportAt(packet),
  csumOffset: protocolOf(packet) === TCP ? 16 : 6,
});

/** And of one that the device must cut. */
export function large(packet: Buffer, gsoSize: number): Partial<VnetHeader> {
  const tcpType = packet[0]! >> 4 === 4 ? GSO_TCPV4 : GSO_TCPV6;
  return {
    ...unfinished(packet),
    gsoType: protocolOf(packet) === TCP ? tcpType : GSO_UDP_L4,
    headerBytes: payloadAt(packet),
    gsoSize,
  };
}

/** The whole loop, stepped by the test. */
export class Wire implements Disposable {
  readonly tun: TunTwin;
  readonly a: UdpEnd;
  readonly b: UdpEnd;
  /** What is written to it, headers and all, is a whole tunnel packet. */
  readonly tap: TunTwin | null;
  readonly events: DataplaneEvent[] = [];
  readonly #counters = createCounters();
  readonly #ring = createEventRing();
  readonly #control = new Int32Array(new SharedArrayBuffer(CONTROL_WORDS * 4));
  readonly #loop: Loop;
  readonly #address: IpAddress;
  readonly #port: number;
  readonly #fds: number[];
  readonly #senders: readonly BoundSocket[];
  readonly #slots = createPeerSlots([this.#counters], () => this.#installed);
  #installed = 0;
  #state: OverlayState;
  /** Of the datagrams that were sent, those that `received` has waited for. */
  #taken = 0;

  constructor(options: WireOptions = {}) {
    const family = options.underlay ?? 4;
    const offloads = { ...ALL_OFFLOADS, ...options.offloads };
    this.tun = new TunTwin(offloads.tunTso);
    this.tap = options.tunnel === true ? new TunTwin(false) : null;
    this.#address = underlayOf(family, 1);
    // On ::1 all nodes are one address: A and B share a socket, and ours has a port of its own.
    this.a = new UdpEnd(underlayOf(family, 2), 0);
    this.b = family === 4 ? new UdpEnd(underlayOf(family, 3), this.a.port) : this.a;
    const receiver = openReceiver(this.#address, family === 4 ? this.a.port : 0, false);
    this.#port = portOf(receiver);
    if (offloads.udpGro) enableGro(receiver);
    const senders = Array.from({ length: options.senders ?? 4 }, () => openSender(this.#address));
    const wakeFd = eventfd(0, EFD_NONBLOCK_CLOEXEC);
    this.#senders = senders;
    const fragmenting = openSender(this.#address, true);
    const sending = { flows: senders, fragmenting };
    this.#fds = [receiver, fragmenting.fd, ...senders.map(({ fd }) => fd), wakeFd];
    this.#state = {
      ...stateOf(underlayOf(family, 2), underlayOf(family, 3)),
      ...options.state,
    };
    this.#loop = createLoop({
      tunFd: this.tun.fd,
      receiver4: family === 4 ? receiver : null,
      receiver6: family === 6 ? receiver : null,
      senders4: family === 4 ? sending : null,
      senders6: family === 6 ? sending : null,
      tunnel: this.tap === null ? null : tunnelOf(this.tap, this.#address),
      wakeFd,
      port: this.#port,
      offloads,
      counters: this.#counters,
      control: this.#control,
      flows: null,
      events: this.#ring,
      onChange: (install) => install(this.#compile()),
      report: (event) => this.events.push(event),
    });
    this.publish({});
  }

  #compile(): Snapshot {
    this.#installed = this.#control[CONTROL_GENERATION]!;
    const slots = this.#slots.assign(this.#peerNames, this.#installed);
    return compileSnapshot(this.#state, this.a.port, this.#installed, undefined, slots);
  }

  get #peerNames(): readonly string[] {
    return this.#state.peers.map(({ name }) => name);
  }

  /** Of the peers of the state in force. */
  get peerTraffic(): ReadonlyMap<string, PeerTraffic> {
    return this.#slots.traffic(this.#peerNames);
  }

  /** What went to peers, of all together: it is what went out. */
  get sentToPeers(): { readonly udpSentDatagrams: number; readonly udpSentBytes: number } {
    const sums = { udpSentDatagrams: 0, udpSentBytes: 0 };
    for (const { sentDatagrams, sentBytes } of this.peerTraffic.values()) {
      sums.udpSentDatagrams += sentDatagrams;
      sums.udpSentBytes += sentBytes;
    }
    return sums;
  }

  /** Our underlay address. */
  get address(): IpAddress {
    return this.#address;
  }

  get state(): OverlayState {
    return this.#state;
  }

  /** As the dataplane does when what is written to the TAP does not leave the host. */
  withdrawTunnel(): void {
    this.#control[CONTROL_NO_TUNNEL] = 1;
    this.publish({});
  }

  publish(change: Partial<OverlayState>): void {
    this.#state = { ...this.#state, ...change };
    this.#control[CONTROL_GENERATION]!++;
  }

  get counters(): Readonly<Record<string, number>> {
    return sumCounters([this.#counters]);
  }

  /** Packets that were told as dropped since the last call, by reason. */
  toldDrops(): Readonly<Record<string, number>> {
    const told: Record<string, number> = {};
    readEvents(this.#ring, (at) => {
      const name = dropNames[this.#ring[at + EVENT_REASON]!]!;
      told[name] = (told[name] ?? 0) + 1;
    });
    return told;
  }

  /**
   * From now on the kernel refuses UDP_SEGMENT, as it does for devices that cannot: with EINVAL, which
   * a socket gets that sends without checksums.
   */
  refuseSegmentation(): void {
    for (const { fd } of this.#senders) setOption(fd, SOL_SOCKET, SO_NO_CHECK, 1);
  }

  /** A node sends to us. */
  fromPeer(peer: UdpEnd, datagram: Uint8Array, ecn = 0): void {
    peer.send(this.#address, this.#port, datagram, ecn);
  }

  /** Turns the loop until nothing is left to do. */
  settle(): void {
    while (this.#loop.turn(0));
  }

  /** Turns the loop until `count` more datagrams came from the underlay than `before`. */
  settleDatagrams(count: number, before: number): void {
    while (this.counters['udpDatagrams']! < before + count) {
      if (!this.#loop.turn(PATIENCE_MS)) return;
    }
    this.settle();
  }

  /** Pods send: carries the packets, one batch. */
  carry(...packets: readonly (Uint8Array | readonly [Uint8Array, Partial<VnetHeader>])[]): void {
    for (const entry of packets) {
      const [packet, vnet] = entry instanceof Uint8Array ? [entry, {}] : entry;
      if (!this.tun.write(packet, vnet)) {
        this.settle();
        if (!this.tun.write(packet, vnet)) throw new Error('the TUN twin takes no packet');
      }
    }
    this.settle();
  }

  /** Datagrams that came from the loop to A, or both, by the count of those that were sent. */
  received(): Datagram[] {
    const sent = this.counters['udpSentDatagrams']! - this.#taken;
    const datagrams = this.a === this.b ? this.a.receive(sent) : this.#receiveEither(sent);
    this.#taken += datagrams.length;
    return datagrams;
  }

  #receiveEither(count: number): Datagram[] {
    const a = this.a.receiveAll();
    const b = this.b.receiveAll();
    if (a.length + b.length >= count) return [...a, ...b];
    return [...a, ...b, ...this.a.receive(count - a.length - b.length)];
  }

  [Symbol.dispose](): void {
    this.tun[Symbol.dispose]();
    this.tap?.[Symbol.dispose]();
    this.a[Symbol.dispose]();
    if (this.b !== this.a) this.b[Symbol.dispose]();
    for (const fd of this.#fds) close(fd);
  }
}
