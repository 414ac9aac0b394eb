import { type DatagramSink, createSegmenter } from '../../overlay/segment.ts';
import { tcp, udp } from '../../test/packets/build.ts';
import { bench } from './runner.ts';
import {
  OUR_POD4,
  OUR_POD6,
  SEGMENTS,
  TCP6_PIECE,
  TCP_PIECE,
  TCP_TIMESTAMPS,
  UDP_PIECE,
  createStage,
  payload,
  podOf4,
  podOf6,
} from './stage.ts';

const flow4 = { source: OUR_POD4, destination: podOf4(200), dontFragment: true };
const flow6 = { source: OUR_POD6, destination: podOf6(200) };
const options = TCP_TIMESTAMPS;

for (const [name, packet, ipHeader, header, piece] of [
  ['tcp4', tcp({ ...flow4, options }, payload(SEGMENTS * TCP_PIECE)), 20, 32, TCP_PIECE],
  ['tcp6', tcp({ ...flow6, options }, payload(SEGMENTS * TCP6_PIECE)), 40, 32, TCP6_PIECE],
  ['udp4', udp(flow4, payload(SEGMENTS * UDP_PIECE)), 20, 8, UDP_PIECE],
  ['udp6', udp(flow6, payload(SEGMENTS * UDP_PIECE)), 40, 8, UDP_PIECE],
] as const) {
  bench(`segment.${name}`, {
    packets: SEGMENTS,
    bytes: packet.length,
    setup: () => {
      const { arena, checksum, counters, peers, place } = createStage();
      const sink: DatagramSink = { append: () => counters[0]!++ };
      const segmenter = createSegmenter(arena, checksum, SEGMENTS, () => undefined);
      return { segmenter, sink, ip: place(packet, 12), hop: peers.hopOf(200) };
    },
    run: ({ segmenter, sink, ip, hop }, n) => {
      for (let i = 0; i < n; i++) {
        segmenter.reset();
        segmenter.segment(ip, ipHeader, header, packet.length, piece, hop, 0, sink);
      }
    },
  });
}
