/**
 * The host has a firewall of its own, and strangers: forwarded tunnel packets that it drops, VXLAN from
 * who is no peer, VXLAN from a pod. And peers on one link that need no VXLAN at all.
 */
import test from 'ava';
import { listRoutes } from '../../linux/ip.ts';
import { poll } from '../../linux/program.ts';
import { LabHost, reaches } from '../lab/lab.ts';
import { type Encapsulation, udp, vxlan } from '../packets/build.ts';
import {
  type Pair,
  allReach,
  createPair,
  dropsOf,
  exchangeAll,
  exchangeTcp,
  fromPods,
  logOf,
  settled,
  startTcp,
  statusOf,
  within,
} from './pair.ts';

const VXLAN_PORT = 8472;
/** The guard looks every two seconds, and wants to have seen a few packets. */
const NOTICED_MS = 20_000;

let pair: Pair;

test.before(async () => {
  pair = await createPair({}, 'f', ['--ip-masq']);
});
test.after.always(() => pair?.[Symbol.asyncDispose]());

const withdrawn = (): boolean =>
  logOf(pair.nodes[0]).some((it) => it['offload'] === 'tunnelGso' && it.msg.includes('offload'));

async function dropTunnelPackets(): Promise<void> {
  await pair.nodes[0].run(['nft', '-f', '-'], {
    input: `table inet firewall {
      chain forward {
        type filter hook forward priority filter; policy accept;
        iifname "weft0-gso" drop
      }
    }`,
  });
}

test.serial(
  'a firewall that begins to drop tunnel packets: noticed, and TCP goes on',
  async (t) => {
    const [a, b] = pair.pods;
    await allReach(pair);
    const flowing = await startTcp(a, b.address4!);
    t.true((await statusOf(pair.nodes[0])).counters['tunnelWrites']! > 0);
    t.false(withdrawn());
    await dropTunnelPackets();
    await poll(async () => (withdrawn() ? true : undefined), within(NOTICED_MS));
    t.like(await flowing.finish(20_000), { intact: true });
    t.false((await statusOf(pair.nodes[0])).offloads!['tunnelGso']);
  },
);

test.serial('a firewall that was there before the daemon: the same', async (t) => {
  const [a, b] = pair.pods;
  const earlier = logOf(pair.nodes[0]).length;
  await pair.restart(['--ip-masq']);
  await allReach(pair);
  t.like(await exchangeTcp(a, b.address4!, 20_000_000, NOTICED_MS + 20_000), { intact: true });
  t.true(
    logOf(pair.nodes[0])
      .slice(earlier)
      .some((it) => it['offload'] === 'tunnelGso'),
  );
  await pair.nodes[0].run(['nft', 'delete', 'table', 'inet', 'firewall']);
});

/** One datagram to a VXLAN port, n2's unless said. */
async function sendFrame(
  from: LabHost,
  frame: Uint8Array,
  to = pair.nodes[1].underlay4!,
): Promise<void> {
  const script = `
    const socket = require('node:dgram').createSocket('udp4');
    const [frame, port, address] = process.argv.slice(1);
    socket.send(Buffer.from(frame, 'hex'), Number(port), address, () => socket.close());`;
  const hex = Buffer.from(frame).toString('hex');
  await from.run([process.execPath, '-e', script, hex, `${VXLAN_PORT}`, to]);
}

interface Attack {
  readonly from: 'n1' | 'stranger';
  readonly source: 'a' | 'n1' | 'stranger' | 'service' | 'loopback';
  readonly to: 'b' | 'elsewhere' | 'n2' | 'service' | 'loopback';
  readonly frame?: Partial<Encapsulation>;
}

for (const [title, { from, source, to, frame }, drop] of [
  ['a right frame of a peer (the control)', { from: 'n1', source: 'a', to: 'b' }, null],
  ['the same frame from a stranger', { from: 'stranger', source: 'a', to: 'b' }, 'outerSource'],
  [
    "a stranger's packet from a stranger",
    { from: 'stranger', source: 'stranger', to: 'b' },
    'outerSource',
  ],
  ['a source of nobody, from a peer', { from: 'n1', source: 'stranger', to: 'b' }, 'innerSource'],
  ["a source of a peer's underlay", { from: 'n1', source: 'n1', to: 'b' }, 'innerSource'],
  ["a Service's address as source", { from: 'n1', source: 'service', to: 'b' }, 'innerSource'],
  ['127/8 as source', { from: 'n1', source: 'loopback', to: 'b' }, 'innerSource'],
  ['127/8 as destination', { from: 'n1', source: 'a', to: 'loopback' }, 'innerDestination'],
  [
    "a Service's address, which a peer has to translate",
    { from: 'n1', source: 'a', to: 'service' },
    'innerDestination',
  ],
  ['a destination elsewhere', { from: 'n1', source: 'a', to: 'elsewhere' }, 'innerDestination'],
  ["the node's underlay address", { from: 'n1', source: 'a', to: 'n2' }, 'innerDestination'],
  ['another VNI', { from: 'n1', source: 'a', to: 'b', frame: { vni: 2 } }, 'vni'],
  ['no I flag', { from: 'n1', source: 'a', to: 'b', frame: { flags: 0 } }, 'flags'],
  [
    'an Ethernet address that is not ours',
    { from: 'n1', source: 'a', to: 'b', frame: { destinationMac: '02:00:00:00:00:99' } },
    'innerMac',
  ],
  ['ARP', { from: 'n1', source: 'a', to: 'b', frame: { etherType: 0x0806 } }, 'etherType'],
] as [string, Attack, string | null][]) {
  test.serial(`a datagram to the VXLAN port: ${title}`, async (t) => {
    const [n1, n2] = pair.nodes;
    const [a, b] = pair.pods;
    const stranger = new LabHost('etcd', pair.lab.netnsOf('etcd'));
    const macs = [await statusOf(n1), await statusOf(n2)].map((it) => it.lease!.vtepMac!);
    const special = { service: '10.96.0.1', loopback: '127.0.0.1' };
    const packet = udp(
      {
        source: { ...special, a: a.address4!, n1: n1.underlay4!, stranger: '198.51.100.1' }[source],
        destination: { ...special, b: b.address4!, n2: n2.underlay4!, elsewhere: '10.244.255.9' }[
          to
        ],
        destinationPort: 9,
      },
      Buffer.from('x'),
    );
    const before = await settled(n2);
    await sendFrame(
      from === 'n1' ? n1 : stranger,
      vxlan({ sourceMac: macs[0]!, destinationMac: macs[1]!, ...frame }, packet),
    );
    const after = await poll(async () => {
      const { counters } = await statusOf(n2);
      return counters['udpDatagrams']! > before['udpDatagrams']! ? counters : undefined;
    }, within(5_000));
    const more = (name: string): number => after[name]! - before[name]!;
    t.is(more('udpDatagrams'), 1);
    t.is(more('tunDelivered'), drop === null ? 1 : 0);
    if (drop !== null) t.is(more(`drop.${drop}`), 1, JSON.stringify(dropsOf(after)));
  });
}

test.serial("a pod's VXLAN datagrams go nowhere, not to its own node either", async (t) => {
  const [n1, n2] = pair.nodes;
  const [a, b] = pair.pods;
  const { lease } = await statusOf(n2);
  const packet = udp({ source: a.address4!, destination: b.address4! }, Buffer.from('x'));
  const frame = vxlan({ sourceMac: '02:00:00:00:00:07', destinationMac: lease!.vtepMac! }, packet);
  for (const [i, to] of [n2.underlay4!, n1.underlay4!].entries()) {
    const before = await Promise.all([settled(n1), settled(n2)]);
    await sendFrame(a, frame, to);
    await poll(async () => ((await fromPods(n1)) === i + 1 ? true : undefined), within(5_000));
    const after = await Promise.all([settled(n1), settled(n2)]);
    t.deepEqual(
      after.map((it) => it['udpDatagrams']),
      before.map((it) => it['udpDatagrams']),
      to,
    );
  }
  // Out of the overlay all the same, by the node's address: nobody there knows a way back to pods.
  const outside = new LabHost('etcd', pair.lab.netnsOf('etcd'));
  await reaches(a, new URL(pair.lab.store.endpoint).hostname);
  t.false((await outside.run(['ip', 'route'])).includes('10.244.'));
});

test.serial('direct routing: peers on one link reach each other without VXLAN', async (t) => {
  const [n1, n2] = pair.nodes;
  const [a, b] = pair.pods;
  await pair.restart(['--direct-routing', '--ip-masq']);
  const { lease } = await statusOf(n2);
  for (const [family, to, via] of [
    [4, lease!.subnet, n2.underlay4],
    [6, lease!.ipv6Subnet, n2.underlay6],
  ] as const) {
    const route = await poll(async () => {
      const routes = await listRoutes({ netns: n1.netns, family });
      return routes.find((it) => it.dst === to);
    }, within(10_000));
    t.like(route, { gateway: via, dev: 'eth0', protocol: '157' });
  }
  await allReach(pair);
  await exchangeAll(t, a, b);
  for (const node of pair.nodes) {
    const { udpDatagrams, udpSentDatagrams } = await settled(node);
    t.deepEqual([udpDatagrams, udpSentDatagrams], [0, 0], node.name);
  }
  // And back: the routes go, the overlay carries on.
  await pair.restart(['--ip-masq']);
  await poll(async () => {
    const routes = await listRoutes({ netns: n1.netns });
    return routes.some((it) => it.dst === lease!.subnet) ? undefined : true;
  }, within(10_000));
  await allReach(pair);
  t.true((await settled(n1))['udpSentDatagrams']! > 0);
});
