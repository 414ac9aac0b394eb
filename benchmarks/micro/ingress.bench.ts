import type { Coalescer } from '../../overlay/coalesce.ts';
import { createIngress } from '../../overlay/ingress.ts';
import { addressBytes, tcp, udp, vxlan } from '../../test/packets/build.ts';
import { Drop } from '../../wire/drop-reason.ts';
import { bench } from './runner.ts';
import {
  OUR_MAC,
  OUR_POD4,
  OUR_POD6,
  PEER_MAC,
  createStage,
  payload,
  podOf4,
  podOf6,
  underlayOf,
  SILENT,
} from './stage.ts';

for (const [name, packet] of [
  ['tcp4', tcp({ source: podOf4(200), destination: OUR_POD4 }, payload(1410))],
  ['udp4', udp({ source: podOf4(200), destination: OUR_POD4 }, payload(36))],
  ['tcp6', tcp({ source: podOf6(200), destination: OUR_POD6 }, payload(1390))],
] as const) {
  bench(`ingress.${name}`, {
    setup: () => {
      const { arena, counters, peers, place } = createStage();
      const coalescer: Coalescer = { add: () => counters[0]!++, flush: () => undefined };
      const icmp = SILENT;
      const ingress = createIngress(arena, counters, peers, coalescer, icmp, 4, 8472);
      const datagram = vxlan({ destinationMac: OUR_MAC, sourceMac: PEER_MAC }, packet);
      const at = place(datagram, 0);
      const sourceAt = place(addressBytes(underlayOf(200)), 0);
      const end = at + datagram.length;
      if (ingress(at, end, 0, sourceAt, 0) !== Drop.none) throw new Error('ingress refuses it');
      return { ingress, at, end, sourceAt };
    },
    run: ({ ingress, at, end, sourceAt }, n) => {
      for (let i = 0; i < n; i++) ingress(at, end, 0, sourceAt, 0);
    },
  });
}
