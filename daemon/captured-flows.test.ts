import test from 'ava';
import * as build from '../test/packets/build.ts';
import { LINKTYPE_RAW, pcapngHeader, pcapngPacket } from '../wire/pcapng.ts';
import { TCP_ACK, TCP_SYN } from '../wire/tcp.ts';
import { readCapturedFlows } from './captured-flows.ts';

const A = '10.244.1.5';
const B = '10.244.2.7';
const NOTHING = Buffer.alloc(0);

const tcp = (source: string, destination: string, port: number, flags: number): Buffer =>
  build.tcp({ source, destination, sourcePort: 4000, destinationPort: port, flags }, NOTHING);
const udp = (source: string, destination: string, from: number, to: number): Buffer =>
  build.udp({ source, destination, sourcePort: from, destinationPort: to }, NOTHING);

const PACKETS: readonly Buffer[] = [
  tcp(A, B, 80, TCP_SYN),
  tcp(B, A, 4000, TCP_SYN | TCP_ACK),
  tcp(A, B, 80, TCP_ACK),
  tcp(A, B, 80, TCP_SYN),
  udp(A, B, 5000, 53),
  udp(B, A, 53, 5000),
  udp(A, B, 5001, 53),
  tcp('fd00::1', 'fd00::2', 443, TCP_SYN),
];
const FLOWS = [
  [A, B, 6, 80, 2],
  [A, B, 17, 53, 2],
  ['fd00::1', 'fd00::2', 6, 443, 1],
];

const pcapng = (packets: readonly Uint8Array[]): Buffer =>
  Buffer.concat([
    pcapngHeader(LINKTYPE_RAW, 65_535, 'weft0', 'test'),
    ...packets.map((packet, i) =>
      pcapngPacket({
        timeNs: BigInt(i) * 1_000_000_000n,
        packet,
        bytes: packet.length,
        direction: null,
        comment: null,
      }),
    ),
  ]);

function pcap(packets: readonly Uint8Array[], isLittle: boolean, linkType = LINKTYPE_RAW): Buffer {
  const words = (...values: readonly number[]): Buffer => {
    const it = Buffer.alloc(values.length * 4);
    for (const [i, value] of values.entries()) {
      if (isLittle) it.writeUInt32LE(value, i * 4);
      else it.writeUInt32BE(value, i * 4);
    }
    return it;
  };
  return Buffer.concat([
    words(0xa1b2c3d4, 0x00020004, 0, 0, 65_535, linkType),
    ...packets.flatMap((packet, i) => [words(i, 0, packet.length, packet.length), packet]),
  ]);
}

async function* inPieces(file: Uint8Array, bytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < file.length; at += bytes) yield file.subarray(at, at + bytes);
}

const FILES: readonly (readonly [string, Buffer])[] = [
  ['pcapng', pcapng(PACKETS)],
  ['pcap, little-endian', pcap(PACKETS, true)],
  ['pcap, big-endian', pcap(PACKETS, false)],
];
for (const [title, file] of FILES) {
  test(`flows of a capture: ${title}, in pieces of any size`, async (t) => {
    for (const bytes of [1, 7, 1 << 16]) {
      const { flows, unread } = await readCapturedFlows(inPieces(file, bytes));
      t.is(unread, 0);
      t.deepEqual(
        flows.map((it) => [it.source, it.destination, it.protocol, it.port, it.count]),
        FLOWS,
      );
      t.is(flows[0]!.firstSeen, '1970-01-01T00:00:00.000Z');
      t.is(flows[0]!.lastSeen, '1970-01-01T00:00:03.000Z');
    }
  });
}

test('packets that are cut off anywhere, or of a strange link, are counted and left out', async (t) => {
  const cut = PACKETS.flatMap((it) => [...it.keys()].map((bytes) => it.subarray(0, bytes)));
  const { flows, unread } = await readCapturedFlows(inPieces(pcapng(cut), 1 << 16));
  t.true(unread > 0 && flows.length <= FLOWS.length);
  const strange = await readCapturedFlows(inPieces(pcap(PACKETS, true, 147), 1 << 16));
  t.is(strange.unread, PACKETS.length);
});

for (const [title, file, reason] of [
  ['empty', NOTHING, /too short/],
  ['text', Buffer.from('apiVersion: v1, and more'), /no pcapng file/],
  ['cut off', pcap(PACKETS, true).subarray(0, 60), /ends within a packet/],
] as const) {
  test(`no capture: ${title}`, async (t) => {
    await t.throwsAsync(readCapturedFlows(inPieces(file, 1 << 16)), { message: reason });
  });
}

test('of VXLAN what is inside', async (t) => {
  const mac = { destinationMac: '02:00:00:00:00:02', sourceMac: '02:00:00:00:00:01' };
  const ends = { source: '192.0.2.1', destination: '192.0.2.2', destinationPort: 8472 };
  const outer = build.udp(ends, build.vxlan(mac, tcp(A, B, 80, TCP_SYN)));
  const { flows } = await readCapturedFlows(inPieces(pcapng([outer]), 1 << 16));
  t.deepEqual(
    flows.map((it) => [it.source, it.destination, it.protocol, it.port]),
    [[A, B, 6, 80]],
  );
});
