import { spawnSync } from 'node:child_process';
import test from 'ava';
import * as build from '../test/packets/build.ts';
import {
  LINKTYPE_RAW,
  type PcapngPacket,
  PcapngReader,
  type PcapngStatistics,
  pcapngHeader,
  pcapngPacket,
  pcapngStatistics,
} from './pcapng.ts';

const packets: readonly PcapngPacket[] = [
  {
    timeNs: 1_700_000_000_123_456_789n,
    packet: build.udp(
      { source: '10.244.1.5', destination: '10.244.2.7', sourcePort: 4000, destinationPort: 53 },
      Buffer.from('abc'),
    ),
    bytes: 31,
    direction: 'out',
    comment: 'forwarded egress',
  },
  {
    timeNs: 1_700_000_001_000_000_001n,
    packet: build
      .tcp(
        { source: 'fd00:2::7', destination: 'fd00:1::5', sourcePort: 80, destinationPort: 4000 },
        Buffer.from('abcdefgh'),
      )
      .subarray(0, 61),
    bytes: 68,
    direction: 'in',
    comment: null,
  },
  { timeNs: 1n, packet: Buffer.alloc(0), bytes: 0, direction: null, comment: 'ß' },
];
const statistics: PcapngStatistics = { received: 3n, dropped: 2n ** 40n };

const fileOf = (): Buffer =>
  Buffer.concat([
    pcapngHeader(LINKTYPE_RAW, 65535, 'weft0', 'weft'),
    ...packets.map(pcapngPacket),
    pcapngStatistics(1_700_000_002_000_000_000n, statistics),
  ]);

function readBack(file: Buffer, pieceBytes: number) {
  const found: PcapngPacket[] = [];
  let last: PcapngStatistics | null = null;
  const reader = new PcapngReader({
    onPacket: (packet, linkType) => {
      if (linkType !== LINKTYPE_RAW) throw new Error(`link type ${linkType}`);
      found.push({ ...packet, packet: Buffer.from(packet.packet) });
    },
    onStatistics: (it) => (last = it),
  });
  for (let at = 0; at < file.length; at += pieceBytes) {
    reader.take(file.subarray(at, at + pieceBytes));
  }
  return { found, last, waitingBytes: reader.waitingBytes };
}

for (const pieceBytes of [1, 7, 64, 100_000]) {
  test(`what is written is read back, in pieces of ${pieceBytes} bytes`, (t) => {
    const { found, last, waitingBytes } = readBack(fileOf(), pieceBytes);
    t.deepEqual(
      found,
      packets.map((it) => ({ ...it, packet: Buffer.from(it.packet) })),
    );
    t.deepEqual(last, statistics);
    t.is(waitingBytes, 0);
  });
}

test('a small file, byte for byte', (t) => {
  const file = Buffer.concat([
    pcapngHeader(LINKTYPE_RAW, 96, 'w0', 'weft'),
    pcapngPacket({
      timeNs: 0x0102030405060708n,
      packet: Uint8Array.of(0x45, 0, 0, 1, 2),
      bytes: 60,
      direction: 'in',
      comment: 'ok',
    }),
  ]);
  const words = (text: string): string => text.replaceAll(/\s|#.*/g, '');
  t.is(
    file.toString('hex'),
    words(`
      0a0d0d0a 28000000 4d3c2b1a 01000000 ffffffffffffffff # section header, version 1.0
      04000400 77656674 00000000 28000000                  # shb_userappl
      01000000 28000000 65000000 60000000                  # interface: raw IP, 96 bytes
      02000200 77300000 09000100 09000000 00000000 28000000 # if_name, if_tsresol 10^-9
      06000000 3c000000 00000000 04030201 08070605         # enhanced packet
      05000000 3c000000 45000001 02000000
      01000200 6f6b0000 02000400 01000000 00000000 3c000000 # opt_comment, epb_flags inbound
    `),
  );
});

for (const [name, damage, message] of [
  ['no file of this kind', (file: Buffer) => file.fill(0), /does not begin with a section/],
  ['another byte order mark', (file: Buffer) => file.fill(9, 8, 12), /byte order/],
  ['a block of a gigabyte', (file: Buffer) => file.writeUInt32LE(1 << 30, 4), /damaged/],
  ['a block of nothing', (file: Buffer) => file.writeUInt32LE(0, 4), /damaged/],
  ['lengths that differ', (file: Buffer) => file.writeUInt32LE(8, file.length - 4), /differ/],
] as const) {
  test(`a damaged file: ${name}`, (t) => {
    const file = fileOf();
    damage(file);
    t.throws(() => readBack(file, 1000), { code: 'ERR_PCAPNG', message });
  });
}

test('a file that was cut off is read as far as it goes', (t) => {
  const { found, last, waitingBytes } = readBack(fileOf().subarray(0, -5), 1000);
  t.is(found.length, 3);
  t.is(last, null);
  t.true(waitingBytes > 0);
});

test('tcpdump reads it', (t) => {
  const { stdout, status, stderr } = spawnSync('tcpdump', ['-nn', '-tt', '-r', '-'], {
    input: fileOf(),
    encoding: 'utf8',
  });
  t.is(status, 0, stderr);
  t.regex(stdout, /^1700000000\.123456 IP 10\.244\.1\.5\.4000 > 10\.244\.2\.7\.53/m);
  t.regex(stdout, /^1700000001\.000000 IP6 fd00:2::7\.80 > fd00:1::5\.4000/m);
});
