import test from 'ava';
import { Drop } from '../wire/drop-reason.ts';
import * as build from '../test/packets/build.ts';
import {
  CAPTURE_BYTES,
  CAPTURE_FLAGS,
  CAPTURE_MASK,
  CAPTURE_OUT,
  CAPTURE_REASON,
  CAPTURE_STORED,
  CAPTURE_TIME,
  CAPTURE_WORDS,
  type CaptureFilter,
  type CaptureRange,
  createCaptureRing,
  createCaptureWriter,
  endCaptureFilter,
  lostCaptures,
  readCaptures,
  setCaptureFilter,
} from './capture-ring.ts';

const AT = 66;
const ROOM = 70_000;
const ALL: CaptureFilter = {
  outer: false,
  snapBytes: 65535,
  protocol: null,
  port: null,
  verdict: null,
  ends: [],
};

function open() {
  const room = new Uint8Array(ROOM).fill(0xa5);
  const ring = createCaptureRing();
  const writer = createCaptureWriter(new DataView(room.buffer), ring, () => 1_700_000_000_123.5);
  const read = (bytesMax = Infinity) => {
    const records: { words: Int32Array; packet: Buffer; timeMs: number }[] = [];
    readCaptures(ring, bytesMax, (at) => {
      const bytes = ring[at + CAPTURE_STORED]!;
      records.push({
        words: ring.slice(at, at + CAPTURE_WORDS),
        packet: Buffer.from(new Uint8Array(ring.buffer, (at + CAPTURE_WORDS) * 4, bytes)),
        timeMs: new Float64Array(ring.buffer)[(at + CAPTURE_TIME) >>> 1]!,
      });
    });
    return records;
  };
  /** A packet that becomes another one, as by translation. */
  const carry = (packet: Uint8Array, drop: Drop = Drop.none, becomes = packet): void => {
    writer.begin();
    if (!writer.isInner()) return;
    room.set(packet, AT);
    writer.note(AT, AT + packet.length);
    room.set(becomes, AT);
    writer.decided(drop, AT, AT + becomes.length, becomes.length, true);
  };
  return { room, ring, writer, read, carry };
}

const range4 = (first: number, last = first): CaptureRange => ({ first: [first], last: [last] });
const range6 = (first: readonly number[], last = first): CaptureRange => ({ first, last });

const ends = { source: '10.244.1.5', destination: '10.96.0.10', sourcePort: 4000 };
const asked = build.tcp({ ...ends, destinationPort: 80 }, Buffer.from('hello'));
const translated = build.tcp(
  { ...ends, destination: '10.244.2.7', destinationPort: 8080 },
  Buffer.from('hello'),
);
const A = range4(0x0af40105);
const B = range4(0x0af40207);
const SUBNET_2 = range4(0x0af40200, 0x0af402ff);
const SUBNET_3 = range4(0x0af40300, 0x0af403ff);

const rows: readonly [name: string, filter: Partial<CaptureFilter>, drop: Drop, taken: boolean][] =
  [
    ['everything', {}, Drop.none, true],
    ['TCP', { protocol: 6 }, Drop.none, true],
    ['UDP', { protocol: 17 }, Drop.none, false],
    ['the port that the client asked', { port: 80 }, Drop.none, true],
    ['the port of the backend', { port: 8080 }, Drop.none, true],
    ['the port of the client', { port: 4000 }, Drop.none, true],
    ['another port', { port: 81 }, Drop.none, false],
    ['any drop, of one that passed', { verdict: 'dropped' }, Drop.none, false],
    ['any drop', { verdict: 'dropped' }, Drop.policyEgress, true],
    ['what passed', { verdict: 'forwarded' }, Drop.none, true],
    ['what passed, of a drop', { verdict: 'forwarded' }, Drop.policyEgress, false],
    ['the reason', { verdict: Drop.policyEgress }, Drop.policyEgress, true],
    ['another reason', { verdict: Drop.vni }, Drop.policyEgress, false],
    ['the source', { ends: [[A]] }, Drop.none, true],
    ['the backend', { ends: [[B]] }, Drop.none, true],
    ['the Service', { ends: [[range4(0x0a60000a)]] }, Drop.none, true],
    ['both ends', { ends: [[B], [A]] }, Drop.none, true],
    ['a subnet', { ends: [[SUBNET_3, SUBNET_2]] }, Drop.none, true],
    ['another subnet', { ends: [[SUBNET_3]] }, Drop.none, false],
    ['one end of two', { ends: [[A], [SUBNET_3]] }, Drop.none, false],
    ['a pod without an address', { ends: [[]] }, Drop.none, false],
    [
      'an address of the other family',
      { ends: [[range6([0x0af40105, 0, 0, 0])]] },
      Drop.none,
      false,
    ],
    [
      'all of it',
      { ends: [[A], [B]], port: 80, protocol: 6, verdict: 'forwarded' },
      Drop.none,
      true,
    ],
  ];

for (const [name, filter, drop, taken] of rows) {
  test(`a filter: ${name}`, (t) => {
    const { ring, read, carry } = open();
    setCaptureFilter(ring, 2, { ...ALL, ...filter });
    carry(asked, drop, translated);
    const [record, more] = read();
    t.is(more, undefined);
    t.is(record !== undefined, taken);
    if (record === undefined) return;
    t.is(record.words[CAPTURE_MASK], 1 << 2);
    t.is(record.words[CAPTURE_REASON], drop);
    t.is(record.words[CAPTURE_FLAGS], CAPTURE_OUT);
    t.is(record.timeMs, 1_700_000_000_123.5);
    t.deepEqual(record.packet, translated);
  });
}

test('an IPv6 address is between others', (t) => {
  const packet = build.udp(
    { source: 'fd00:1::5', destination: 'fd00:2::7', sourcePort: 1 },
    Buffer.alloc(3),
  );
  const first = [0xfd000002, 0, 0, 0];
  const last = [0xfd000002, 0, 0xffffffff, 0xffffffff];
  for (const [range, expected] of [
    [range6(first, last), 1],
    [range6([0xfd000003, 0, 0, 0], [0xfd000003, 0, 0, 9]), 0],
    [range6([0xfd000002, 0, 0, 8], last), 0],
  ] as const) {
    const { ring, read, carry } = open();
    setCaptureFilter(ring, 0, { ...ALL, ends: [[range]] });
    carry(packet);
    t.is(read().length, expected);
  }
});

test('a packet is copied once for all who want it, as much of it as the one who wants most', (t) => {
  const { ring, read, carry } = open();
  setCaptureFilter(ring, 0, { ...ALL, snapBytes: 24 });
  setCaptureFilter(ring, 1, { ...ALL, snapBytes: 30 });
  setCaptureFilter(ring, 3, { ...ALL, snapBytes: 65535, protocol: 17 });
  carry(asked);
  const [record] = read();
  t.is(record!.words[CAPTURE_MASK], 0b11);
  t.is(record!.words[CAPTURE_BYTES], asked.length);
  t.deepEqual(record!.packet, asked.subarray(0, 30));
  endCaptureFilter(ring, 0);
  endCaptureFilter(ring, 1);
  carry(asked);
  t.deepEqual(read(), []);
  endCaptureFilter(ring, 3);
  const { writer } = open();
  writer.begin();
  t.false(writer.isInner() || writer.isOuter());
});

test('what is no packet is copied too, and nothing behind it', (t) => {
  for (const packet of [Buffer.alloc(0), Buffer.alloc(3), asked.subarray(0, 20)]) {
    const { ring, read, carry } = open();
    setCaptureFilter(ring, 0, ALL);
    carry(packet, Drop.ipHeader);
    t.deepEqual(read()[0]!.packet, packet);
  }
});

test('what finds the ring full is counted, and what is read makes room, around its end', (t) => {
  const { ring, read, carry } = open();
  setCaptureFilter(ring, 1, ALL);
  const packet = build.udp({ ...ends }, build.payloadOf(40_001));
  for (let i = 0; i < 200; i++) carry(packet);
  const lost = lostCaptures(ring, 1);
  t.true(lost > 0);
  t.is(lostCaptures(ring, 0), 0);
  const first = read();
  t.is(first.length + lost, 200);
  for (let i = 0; i < 300; i++) {
    carry(packet);
    const [record, more] = read();
    t.is(more, undefined);
    if (!record!.packet.equals(packet)) t.fail(`packet ${i} came out as another`);
  }
  t.is(lostCaptures(ring, 1), lost);
});

test('a reader takes so much at a time, and the rest waits', (t) => {
  const { ring, read, carry } = open();
  setCaptureFilter(ring, 0, ALL);
  for (let i = 0; i < 100; i++) carry(asked);
  const first = read(1000).length;
  t.true(first > 0 && first < 100);
  t.is(first + read().length, 100);
});
