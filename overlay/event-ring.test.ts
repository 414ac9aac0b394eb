import test from 'ava';
import { Drop } from '../wire/drop-reason.ts';
import * as build from '../test/packets/build.ts';
import {
  EVENT_BYTES,
  EVENT_DESTINATION,
  EVENT_FORM,
  EVENT_KIND,
  EVENT_OTHER,
  EVENT_OTHER_PORT,
  EVENT_PORTS,
  EVENT_REASON,
  EVENT_SOURCE,
  EVENT_TIME,
  createEventRing,
  createEventWriter,
  lostEvents,
  readEvents,
} from './event-ring.ts';
import {
  FLOW_DST_ORIG,
  FLOW_FLAGS,
  FLOW_KIND,
  FLOW_PORTS_ORIG,
  FLOW_PORTS_REPLY,
  FLOW_SERVICE,
  FLOW_SRC_ORIG,
  FLOW_SRC_REPLY,
  FLOW_WORDS,
} from './flow-layout.ts';

const OUTER_AT = 8;
const PACKET_AT = 64;
const ROOM = 512;

function open() {
  const bytes = new Uint8Array(ROOM).fill(0xa5);
  const ring = createEventRing();
  const writer = createEventWriter(new DataView(bytes.buffer), ring, () => 1_700_000_000_123);
  const read = (): Int32Array[] => {
    const records: Int32Array[] = [];
    readEvents(ring, (at) => records.push(ring.slice(at, at + 32)));
    return records;
  };
  return { bytes, ring, writer, read };
}

const dotted = (word: number): string =>
  [24, 16, 8, 0].map((shift) => (word >>> shift) & 255).join('.');

const ends = { source: '10.244.1.5', destination: '10.244.2.7', sourcePort: 4000 };
const ends6 = { source: 'fd00:1::5', destination: 'fd00:2::7', sourcePort: 4000 };

for (const [name, packet, { family, protocol, port, bytes }] of [
  ['TCP', build.tcp(ends, Buffer.from('x')), { family: 4, protocol: 6, port: 4000, bytes: 41 }],
  ['UDP', build.udp(ends, Buffer.from('x')), { family: 4, protocol: 17, port: 4000, bytes: 29 }],
  ['IPv6', build.udp(ends6, Buffer.from('x')), { family: 6, protocol: 17, port: 4000, bytes: 49 }],
  ['ICMP', build.icmp(ends, 8, 0, Buffer.alloc(8)), { family: 4, protocol: 1, port: 0, bytes: 32 }],
  [
    'cut off behind the addresses',
    build.udp(ends, Buffer.from('x')).subarray(0, 20),
    { family: 4, protocol: 17, port: 0, bytes: 20 },
  ],
  ['no header at all', Buffer.alloc(3), { family: 0, protocol: 0, port: 0, bytes: 3 }],
] as const) {
  test(`a packet that was dropped: ${name}`, (t) => {
    const { bytes: room, writer, read } = open();
    room.set(packet, PACKET_AT);
    room.set([192, 0, 2, 7], OUTER_AT);
    const end = PACKET_AT + packet.length;
    writer.dropped(Drop.policyEgress, PACKET_AT, end, true, OUTER_AT, true, false);
    const [record, more] = read();
    t.is(more, undefined);
    t.is(new Float64Array(record!.buffer)[EVENT_TIME], 1_700_000_000_123);
    t.is(record![EVENT_KIND], 2);
    t.is(record![EVENT_REASON], Drop.policyEgress);
    t.is(record![EVENT_FORM]! & 0xffffff, 1 | (family << 8) | (protocol << 16));
    t.is(record![EVENT_PORTS]! >>> 16, port);
    t.is(record![EVENT_BYTES], bytes);
    t.is(dotted(record![EVENT_OTHER]!), '192.0.2.7');
    if (family !== 4) return;
    t.is(dotted(record![EVENT_SOURCE]!), '10.244.1.5');
    t.is(dotted(record![EVENT_DESTINATION]!), '10.244.2.7');
  });
}

test('a flow of a Service says its backend', (t) => {
  const { writer, read } = open();
  const words = new Int32Array(2 * FLOW_WORDS);
  const e = FLOW_WORDS;
  words[e + FLOW_KIND] = 6 | (4 << 8);
  words[e + FLOW_SRC_ORIG] = 0x0af40105;
  words[e + FLOW_DST_ORIG] = 0x0a60000a;
  words[e + FLOW_SRC_REPLY] = 0x0af40207;
  words[e + FLOW_PORTS_ORIG] = (4000 << 16) | 80;
  words[e + FLOW_PORTS_REPLY] = (8080 << 16) | 4000;
  words[e + FLOW_FLAGS] = FLOW_SERVICE;
  writer.began(words, e, true, 60);
  const [record] = read();
  t.is(record![EVENT_KIND], 1);
  t.is(dotted(record![EVENT_DESTINATION]!), '10.96.0.10');
  t.is(dotted(record![EVENT_OTHER]!), '10.244.2.7');
  t.is(record![EVENT_OTHER_PORT], 8080);
});

test('what finds the ring full is counted, and what is read makes room', (t) => {
  const { ring, writer, read } = open();
  const put = (count: number): void => {
    for (let i = 0; i < count; i++) writer.dropped(Drop.vni, 0, 0, false, -1, true, false);
  };
  put(10_000);
  const first = read().length;
  t.is(first + lostEvents(ring), 10_000);
  t.true(lostEvents(ring) > 0);
  const lost = lostEvents(ring);
  for (let i = 0; i < 30; i++) {
    put(1000);
    t.is(read().length, 1000);
  }
  t.is(lostEvents(ring), lost);
});
