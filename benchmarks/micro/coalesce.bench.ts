import { createCoalescer } from '../../overlay/coalesce.ts';
import { Counter } from '../../overlay/counters.ts';
import { createTunWriter } from '../../overlay/tun-writer.ts';
import { segmentReference, tcp, udp } from '../../test/packets/build.ts';
import { bench } from './runner.ts';
import {
  ALL_OFFLOADS,
  OUR_POD4,
  OUR_POD6,
  SEGMENTS,
  TCP6_PIECE,
  TCP_PIECE,
  TCP_TIMESTAMPS,
  UDP_PIECE,
  createStage,
  openNull,
  payload,
  podOf4,
  podOf6,
} from './stage.ts';

const flow4 = { source: podOf4(200), destination: OUR_POD4, dontFragment: true };
const flow6 = { source: podOf6(200), destination: OUR_POD6 };
const options = TCP_TIMESTAMPS;
const HEADERS_MAX = 72;

for (const [name, large, piece, writes] of [
  ['tcp4', tcp({ ...flow4, options }, payload(SEGMENTS * TCP_PIECE)), TCP_PIECE, 1],
  ['tcp6', tcp({ ...flow6, options }, payload(SEGMENTS * TCP6_PIECE)), TCP6_PIECE, 1],
  ['udp4', udp(flow4, payload(SEGMENTS * UDP_PIECE)), UDP_PIECE, 1],
  ['udp6', udp(flow6, payload(SEGMENTS * UDP_PIECE)), UDP_PIECE, 1],
  ['ack4', tcp({ ...flow4, options }, payload(0)), 1, 1],
] as const) {
  const segments = large.length > 100 ? segmentReference(large, piece) : [large];
  bench(`coalesce.${name}`, {
    packets: segments.length,
    bytes: large.length,
    setup: () => {
      const { arena, checksum, counters, peers, place } = createStage();
      const writer = createTunWriter(arena, counters, checksum, openNull(), true);
      const coalescer = createCoalescer(arena, counters, checksum, peers, writer, ALL_OFFLOADS);
      const places = Int32Array.from(segments, (segment) => place(segment, 22));
      const first = places[0]!;
      const headers = arena.bytes.slice(first, first + HEADERS_MAX);
      const stage = { coalescer, places, bytes: arena.bytes, first, headers };
      runOnce(stage, segments[0]!.length);
      if (counters[Counter.tunWrites] !== writes) throw new Error('the segments do not merge');
      return stage;
    },
    run: (stage, n) => {
      for (let i = 0; i < n; i++) runOnce(stage, segments[0]!.length);
    },
  });
}

interface Batch {
  readonly coalescer: ReturnType<typeof createCoalescer>;
  readonly places: Int32Array;
  readonly bytes: Uint8Array;
  readonly first: number;
  readonly headers: Uint8Array;
}

function runOnce({ coalescer, places, bytes, first, headers }: Batch, length: number): void {
  // Merging writes the headers of the whole over those of the first.
  bytes.set(headers, first);
  for (let i = 0; i < places.length; i++) coalescer.add(places[i]!, length, 0);
  coalescer.flush();
}
