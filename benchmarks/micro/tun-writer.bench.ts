import { VNET_DATA_VALID } from '../../linux/tun.ts';
import { createTunWriter } from '../../overlay/tun-writer.ts';
import { bench } from './runner.ts';
import { SEGMENTS, TCP_PIECE, createStage, openNull, payload } from './stage.ts';

const HEADERS = 52;

bench('tunWriter.single', {
  bytes: HEADERS + TCP_PIECE,
  setup: () => {
    const { arena, checksum, counters, place } = createStage(1);
    const writer = createTunWriter(arena, counters, checksum, openNull(), true);
    return { writer, at: place(payload(HEADERS + TCP_PIECE), 22) };
  },
  run: ({ writer, at }, n) => {
    for (let i = 0; i < n; i++) writer.single(at, HEADERS + TCP_PIECE, VNET_DATA_VALID, 20, 16);
  },
});

bench('tunWriter.gathered', {
  packets: SEGMENTS,
  bytes: HEADERS + SEGMENTS * TCP_PIECE,
  setup: () => {
    const { arena, checksum, counters, place } = createStage(1);
    const writer = createTunWriter(arena, counters, checksum, openNull(), true);
    const gather = writer.createGather(SEGMENTS);
    return { writer, gather, at: place(payload(HEADERS + TCP_PIECE), 22) };
  },
  run: ({ writer, gather, at }, n) => {
    for (let i = 0; i < n; i++) {
      gather.begin(at, HEADERS + TCP_PIECE);
      for (let s = 1; s < SEGMENTS; s++) gather.push(at + HEADERS, TCP_PIECE);
      writer.gathered(gather, HEADERS + SEGMENTS * TCP_PIECE);
    }
  },
});
