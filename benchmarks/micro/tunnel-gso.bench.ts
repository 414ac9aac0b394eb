import { createTunnelGso } from '../../overlay/tunnel-gso.ts';
import { tcp } from '../../test/packets/build.ts';
import { bench } from './runner.ts';
import {
  OUR_POD4,
  SEGMENTS,
  TCP_PIECE,
  TCP_TIMESTAMPS,
  createStage,
  openNull,
  payload,
  podOf4,
} from './stage.ts';

bench('tunnelGso.tcp4', {
  packets: SEGMENTS,
  bytes: SEGMENTS * TCP_PIECE,
  setup: () => {
    const { arena, counters, peers, place } = createStage();
    const tunnel = createTunnelGso(arena, counters, {
      tapFd: openNull(),
      macHigh: 0x0200,
      macLow: 1,
      source: 0x7f000001,
    });
    const packet = tcp(
      {
        source: OUR_POD4,
        destination: podOf4(200),
        options: TCP_TIMESTAMPS,
        checksum: 'partial',
      },
      payload(SEGMENTS * TCP_PIECE),
    );
    return { tunnel, ip: place(packet, 12), total: packet.length, hop: peers.hopOf(200) };
  },
  run: ({ tunnel, ip, total, hop }, n) => {
    for (let i = 0; i < n; i++) tunnel.write(ip, 20, 32, total, TCP_PIECE, hop, 0, 40000);
  },
});
