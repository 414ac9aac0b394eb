import { openFlowMemory } from '../../overlay/flow-memory.ts';
import { createFlowTable } from '../../overlay/flow-table.ts';
import { createFlows } from '../../overlay/flows.ts';
import { udp } from '../../test/packets/build.ts';
import { bench } from './runner.ts';
import { OUR_POD4, OUR_POD6, createStage } from './stage.ts';

let sink = 0;

/** Everything is allowed, and nothing is a Service: what is left is what flows cost by themselves. */
function setUp(pod: string, remote: string, maxFlows: number) {
  const { arena, peers, place } = createStage();
  const table = createFlowTable(arena.view, openFlowMemory(null, maxFlows));
  table.setNow(1000);
  const flows = createFlows(arena, peers, {
    table,
    policy: { install: () => undefined, subjectOf: () => 0, allows: () => true },
    services: {
      install: () => undefined,
      frontendOf: () => -1,
      pick: () => -1,
      usable: () => -1,
      affinityS: () => 0,
      hidesSource: () => false,
      isNodePort: () => false,
    },
    rejects: { reject: () => undefined },
    loose: false,
    heldOut: null,
    heldIn: null,
  });
  const packet = udp({ source: pod, destination: remote }, new Uint8Array(64));
  const ip = place(packet, 0);
  return { flows, view: arena.view, ip, end: ip + packet.length };
}

for (const [family, pod, remote] of [
  ['4', OUR_POD4, '10.1.2.3'],
  ['6', OUR_POD6, 'fd00:0:102::3'],
] as const) {
  const portsAt = family === '4' ? 20 : 40;
  bench(`flows.known${family}`, {
    setup: () => setUp(pod, remote, 4096),
    run: ({ flows, view, ip, end }, n) => {
      for (let i = 0; i < n; i++) {
        view.setUint16(ip + portsAt, i & 1023);
        sink ^= flows.outbound(ip, end, false);
      }
    },
  });
  /** The table is full: each new one takes the place of another. */
  bench(`flows.new${family}`, {
    setup: () => setUp(pod, remote, 65_536),
    run: ({ flows, view, ip, end }, n) => {
      for (let i = 0; i < n; i++) {
        sink = (sink + 1) | 0;
        view.setInt32(ip + portsAt, sink);
        flows.outbound(ip, end, false);
      }
    },
  });
}
