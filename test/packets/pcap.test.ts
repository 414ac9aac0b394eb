import { readFile } from 'node:fs/promises';
import test from 'ava';
import { checksumReference } from '../../wire/checksum/checksum.ts';
import {
  ETHERNET_HEADER_BYTES,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  readEtherType,
} from '../../wire/ethernet.ts';
import * as ipv4 from '../../wire/ipv4.ts';
import * as ipv6 from '../../wire/ipv6.ts';
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6 } from '../../wire/icmp.ts';
import { PROTOCOL_TCP, readTcpFlags } from '../../wire/tcp.ts';
import { PROTOCOL_UDP, UDP_HEADER_BYTES } from '../../wire/udp.ts';
import { VXLAN_FLAGS, VXLAN_HEADER_BYTES, readVni } from '../../wire/vxlan.ts';
import { type CapturedDatagram, datagramOf, readPcap } from './pcap.ts';

const TCP_SYN = 0x02;

const viewOf = (bytes: Uint8Array) =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** The inner IP packet of a VXLAN payload. */
const innerOf = (payload: Uint8Array) =>
  payload.subarray(VXLAN_HEADER_BYTES + ETHERNET_HEADER_BYTES);

const isIpv4 = (packet: Uint8Array) => packet[0]! >> 4 === 4;

/** The transport header and what follows; its protocol. */
function transportOf(packet: Uint8Array): { protocol: number; segment: Uint8Array } {
  const view = viewOf(packet);
  return isIpv4(packet)
    ? {
        protocol: ipv4.readProtocol(view, 0),
        segment: packet.subarray(ipv4.readHeaderBytes(view, 0), ipv4.readTotalLength(view, 0)),
      }
    : {
        protocol: ipv6.readNextHeader(view, 0),
        segment: packet.subarray(ipv6.IPV6_HEADER_BYTES),
      };
}

const isFragment = (packet: Uint8Array) =>
  isIpv4(packet)
    ? ipv4.isFragment(viewOf(packet), 0)
    : transportOf(packet).protocol === ipv6.IPV6_FRAGMENT;

/** Ones' complement sum with the pseudo-header of RFC 793 or RFC 8200; 0xffff if the checksum is right. */
function transportSum(packet: Uint8Array): number {
  const { protocol, segment } = transportOf(packet);
  if (protocol === PROTOCOL_ICMP) return checksumReference(segment);
  const addresses = isIpv4(packet)
    ? packet.subarray(ipv4.IPV4_SOURCE, ipv4.IPV4_SOURCE + 8)
    : packet.subarray(ipv6.IPV6_SOURCE, ipv6.IPV6_SOURCE + 32);
  return checksumReference(segment, checksumReference(addresses, protocol + segment.length));
}

const fixtures: readonly [file: string, overheadBytes: number][] = [
  ['vxlan-ipv4.pcap', 20],
  ['vxlan-ipv6.pcap', 40],
];

const contents: readonly [
  name: string,
  holds: (packet: Uint8Array, datagram: CapturedDatagram) => boolean,
][] = [
  ['inner ICMP', (packet) => transportOf(packet).protocol === PROTOCOL_ICMP],
  ['inner ICMPv6', (packet) => transportOf(packet).protocol === PROTOCOL_ICMPV6],
  ['a TCP SYN in IPv4', (packet) => isIpv4(packet) && isSyn(packet)],
  ['a TCP SYN in IPv6', (packet) => !isIpv4(packet) && isSyn(packet)],
  ['an empty UDP datagram', (packet) => isUdpOf(packet, 0)],
  ['an odd UDP datagram', (packet) => isUdpOf(packet, 1)],
  ['a fragment in IPv4', (packet) => isIpv4(packet) && isFragment(packet)],
  ['a fragment in IPv6', (packet) => !isIpv4(packet) && isFragment(packet)],
  ['a low TTL', (packet) => isIpv4(packet) && ipv4.readTtl(viewOf(packet), 0) === 7],
  ['ECN in the outer header, from the inner', (_, { trafficClass }) => trafficClass === 2],
];

function isSyn(packet: Uint8Array): boolean {
  const { protocol, segment } = transportOf(packet);
  return protocol === PROTOCOL_TCP && (readTcpFlags(viewOf(segment), 0) & TCP_SYN) !== 0;
}

function isUdpOf(packet: Uint8Array, bytes: number): boolean {
  const { protocol, segment } = transportOf(packet);
  return protocol === PROTOCOL_UDP && segment.length === UDP_HEADER_BYTES + bytes;
}

for (const [file, outerIpBytes] of fixtures) {
  const load = async () =>
    readPcap(await readFile(new URL(`../fixtures/${file}`, import.meta.url)));

  test(`${file}: every frame is VXLAN of VNI 1, as long as its headers say`, async (t) => {
    const frames = await load();
    t.true(frames.length > 50);
    for (const frame of frames) {
      const { payload, destinationPort } = datagramOf(frame);
      const view = viewOf(payload);
      t.is(destinationPort, 8472);
      t.is(view.getUint32(0), VXLAN_FLAGS);
      t.is(readVni(view, 0), 1);
      const headers = ETHERNET_HEADER_BYTES + outerIpBytes + UDP_HEADER_BYTES;
      t.is(payload.length, frame.length - headers);
      const etherType = readEtherType(view, VXLAN_HEADER_BYTES);
      t.is(etherType, isIpv4(innerOf(payload)) ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6);
    }
  });

  test(`${file}: every inner checksum is right`, async (t) => {
    for (const frame of await load()) {
      const packet = innerOf(datagramOf(frame).payload);
      if (isIpv4(packet)) t.is(checksumReference(packet.subarray(0, 20)), 0xffff);
      if (!isFragment(packet)) t.is(transportSum(packet), 0xffff);
    }
  });

  for (const [name, holds] of contents) {
    test(`${file}: has ${name}`, async (t) => {
      const datagrams = (await load()).map((frame) => datagramOf(frame));
      t.true(datagrams.some((datagram) => holds(innerOf(datagram.payload), datagram)));
    });
  }
}

/** A capture of one frame, abcd, by a machine of the given byte order. */
function pcapOf(isLittle: boolean, change: (view: DataView) => void = () => {}): Uint8Array {
  const view = new DataView(new ArrayBuffer(24 + 16 + 2));
  view.setUint32(0, 0xa1b2c3d4, isLittle);
  view.setUint32(20, 1, isLittle);
  view.setUint32(24 + 8, 2, isLittle);
  view.setUint32(24 + 12, 2, isLittle);
  view.setUint16(40, 0xabcd);
  change(view);
  return new Uint8Array(view.buffer);
}

const captures: readonly [name: string, file: Uint8Array, frames: string[] | RegExp][] = [
  ['little-endian', pcapOf(true), ['abcd']],
  ['big-endian', pcapOf(false), ['abcd']],
  ['nanoseconds', pcapOf(true, (view) => view.setUint32(0, 0xa1b23c4d, true)), ['abcd']],
  ['no frame', pcapOf(true).subarray(0, 24), []],
  ['empty file', new Uint8Array(), /shorter/],
  ['another format', pcapOf(true, (view) => view.setUint32(0, 0x0a0d0d0a)), /not a pcap/],
  ['another link type', pcapOf(true, (view) => view.setUint32(20, 113, true)), /link type 113/],
  ['a frame cut by snaplen', pcapOf(true, (view) => view.setUint32(36, 3, true)), /frame cut off/],
  ['a record cut off', pcapOf(true).subarray(0, 41), /record cut off/],
  ['a record header cut off', pcapOf(true).subarray(0, 30), /record header cut off/],
];

for (const [name, file, expected] of captures) {
  test(`pcap: ${name}`, (t) => {
    if (expected instanceof RegExp) {
      t.throws(() => readPcap(file), { message: expected });
    } else {
      t.deepEqual(
        readPcap(file).map((frame) => Buffer.from(frame).toString('hex')),
        expected,
      );
    }
  });
}

const frames: readonly [name: string, change: (frame: Uint8Array) => void][] = [
  ['another EtherType', (frame) => frame.set([0x08, 0x06], 12)],
  ['another protocol', (frame) => frame.set([PROTOCOL_TCP], ETHERNET_HEADER_BYTES + 9)],
  ['a fragment', (frame) => frame.set([0x20], ETHERNET_HEADER_BYTES + 6)],
];

for (const [name, change] of frames) {
  test(`no datagram: ${name}`, async (t) => {
    const [frame] = readPcap(
      await readFile(new URL('../fixtures/vxlan-ipv4.pcap', import.meta.url)),
    );
    t.notThrows(() => datagramOf(frame!));
    change(frame!);
    t.throws(() => datagramOf(frame!), { message: /not a UDP datagram/ });
  });
}
