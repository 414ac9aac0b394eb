/**
 * A node's packet path without a daemon: opens `weft0` in the namespace it is started in, publishes one
 * state, and prints its counters as a line of JSON at the start and with each SIGUSR2.
 *
 *     local-node.ts all|none POD...
 */
import { startDataplane } from '../../overlay/dataplane.ts';
import { PLAIN_OVERLAY } from '../../overlay/snapshot.ts';
import type { Offloads } from '../../overlay/types.ts';
import { parseAddress, parseIpv4 } from '../../wire/address.ts';
import { type Cidr4, type Cidr6, parseCidr } from '../../wire/cidr.ts';
import { parseMac } from '../../wire/mac.ts';
import { VXLAN_DEFAULT_PORT, toVni } from '../../wire/vxlan.ts';

const [rungs, ...pods] = process.argv.slice(2);
const isOn = rungs === 'all';
const offloads: Offloads = {
  tunTso: isOn,
  tunUso: isOn,
  tunnelGso: false,
  udpGso: isOn,
  udpGro: isOn,
  batch: isOn,
  coalesce: isOn,
};
const dataplane = await startDataplane({
  tunName: 'weft0',
  workers: 1,
  underlay4: parseIpv4('127.0.0.1'),
  underlay6: null,
  port: VXLAN_DEFAULT_PORT,
  offloads,
  flows: null,
  events: false,
  report: (event) => process.stderr.write(`${JSON.stringify(event)}\n`),
});
dataplane.publish({
  ...PLAIN_OVERLAY,
  vni: toVni(1),
  subnet4: parseCidr('10.244.1.0/24') as Cidr4,
  subnet6: parseCidr('fd00:1::/64') as Cidr6,
  mac: parseMac('02:00:00:00:00:01'),
  mtuBytes: 1450,
  forwarding: true,
  network4: parseCidr('10.244.0.0/16') as Cidr4,
  network6: parseCidr('fd00::/16') as Cidr6,
  pods: pods.map((text) => parseAddress(text)),
  peers: [],
});
const print = (): boolean =>
  process.stdout.write(`${JSON.stringify({ ...dataplane.counters(), ...dataplane.offloads })}\n`);
process.on('SIGUSR2', print);
process.on('SIGTERM', () => void dataplane.stop().then(() => process.exit(0)));
// Signals alone do not keep a process.
setInterval(() => undefined, 1 << 30);
print();
