import { VNET_HEADER_BYTES, VNET_NEEDS_CSUM, writeVnetHeader } from '../../linux/tun.ts';
import { createEgress } from '../../overlay/egress.ts';
import { createSegmenter } from '../../overlay/segment.ts';
import type { Sender } from '../../overlay/sender.ts';
import { createTunWriter } from '../../overlay/tun-writer.ts';
import { type TcpFields, tcp, udp } from '../../test/packets/build.ts';
import { Drop } from '../../wire/drop-reason.ts';
import { bench } from './runner.ts';
import {
  OUR_OTHER_POD4,
  OUR_OTHER_POD6,
  OUR_POD4,
  OUR_POD6,
  createStage,
  openNull,
  payload,
  podOf4,
  podOf6,
  SILENT,
} from './stage.ts';

const none = (): void => undefined;

function createPacket(packet: Buffer, ipHeader: number, flags: number) {
  const { arena, checksum, counters, peers, place } = createStage();
  const senders: Sender[] = Array.from({ length: 4 }, () => ({
    append: () => counters[0]!++,
    flush: none,
    sourcePort: 1,
  }));
  const segmenter = createSegmenter(arena, checksum, 64, none);
  const icmp = SILENT;
  const queues = { flows: senders, fragmenting: senders[0]! };
  const writer = createTunWriter(arena, counters, checksum, openNull(), true);
  const egress = createEgress(arena, checksum, peers, segmenter, icmp, writer, queues, null, null);
  const at = place(packet, VNET_HEADER_BYTES) - VNET_HEADER_BYTES;
  /** The encapsulation is written over the vnet header, so each packet needs its own. */
  const run = (): Drop => {
    writeVnetHeader(arena.view, at, flags, 0, 0, 0, ipHeader, 16);
    return egress(at, packet.length);
  };
  if (run() !== Drop.none) throw new Error('egress refuses the packet');
  return run;
}

const flow4: TcpFields = { source: OUR_POD4, destination: podOf4(200), dontFragment: true };
const flow6: TcpFields = { source: OUR_POD6, destination: podOf6(200) };

for (const [name, packet, ipHeader, flags] of [
  ['ack4', tcp(flow4, payload(0)), 20, 0],
  ['udp4.64', udp(flow4, payload(36)), 20, 0],
  ['tcp4.1450', tcp(flow4, payload(1410)), 20, 0],
  ['tcp4.1450.checksum', tcp(flow4, payload(1410)), 20, VNET_NEEDS_CSUM],
  ['tcp6.1450', tcp(flow6, payload(1390)), 40, 0],
  // With the system call, though nobody takes the packet.
  ['local4', tcp({ ...flow4, destination: OUR_OTHER_POD4 }, payload(1410)), 20, VNET_NEEDS_CSUM],
  ['local6', tcp({ ...flow6, destination: OUR_OTHER_POD6 }, payload(1390)), 40, VNET_NEEDS_CSUM],
  ['outside4', tcp({ ...flow4, destination: '198.51.100.1' }, payload(1410)), 20, VNET_NEEDS_CSUM],
] as const) {
  bench(`egress.${name}`, {
    bytes: packet.length,
    setup: () => createPacket(packet, ipHeader, flags),
    run: (run, n) => {
      for (let i = 0; i < n; i++) run();
    },
  });
}
