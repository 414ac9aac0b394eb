/**
 * What a pod, or a stranger on the underlay, might try. Each row is a frame that a pod puts on its own
 * link, as it likes, or that somebody puts on the underlay; and whether anything of it arrives.
 *
 *     evil (n1p1) --- n1 --- victim (n1p2)
 *                      '--- underlay --- stranger (etcd's host)
 */
import test from 'ava';
import { findLink } from '../../linux/rtnetlink.ts';
import { openNamespace, readSysctl } from '../../linux/netns.ts';
import { openNetlink } from '../../linux/netlink.ts';
import { collect, poll } from '../../linux/program.ts';
import { formatMac, macBytes, parseMac } from '../../wire/mac.ts';
import { join } from 'node:path';
import { LabHost, type LabPod, addressIn, reaches } from '../lab/lab.ts';
import { icmp, udp, vxlan } from '../packets/build.ts';
import { type Pair, createPair, settled, statusOf, within } from '../overlay/pair.ts';

const FRAMES = [process.execPath, join(import.meta.dirname, '..', 'lab', 'traffic', 'frames.ts')];
const PORT = 7031;
/** Prints each datagram that comes. */
const LISTEN = `
  const socket = require('node:dgram').createSocket('udp6');
  socket.on('message', (text, { address }) => console.log(text + ' from ' + address));
  socket.bind(${PORT}, '::', () => console.log('ready'));`;

let pair: Pair;
let evil: LabPod;
let victim: LabPod;
let stranger: LabHost;
let evilMac: string;
let gatewayMac: string;

const macOf = (host: LabHost, name: string): string => {
  using namespace = openNamespace(`/run/netns/${host.netns}`);
  using netlink = openNetlink({ netnsFd: namespace.fd });
  return formatMac(findLink(netlink, name)!.mac!);
};

test.before(async () => {
  pair = await createPair({ podsPerNode: 2 }, 'a', ['--ip-masq']);
  [evil, victim] = pair.lab.pods as [LabPod, LabPod];
  stranger = new LabHost('etcd', pair.lab.netnsOf('etcd'));
  evilMac = macOf(evil, 'eth0');
  gatewayMac = macOf(pair.nodes[0], evil.hostInterface);
});
test.after.always(() => pair?.[Symbol.asyncDispose]());

interface Frame {
  readonly source?: string;
  readonly destination?: string;
  readonly sourceMac?: string;
}

/** One datagram with `text` to the port, in an Ethernet frame to the next hop. */
function frameOf(text: string, { source, destination, sourceMac }: Frame): string {
  const from = source ?? evil.address4!;
  const packet = udp(
    { source: from, destination: destination ?? victim.address4!, destinationPort: PORT },
    Buffer.from(text),
  );
  return ethernet(packet, gatewayMac, sourceMac ?? evilMac);
}

const ethernet = (packet: Uint8Array, to: string, from: string): string =>
  Buffer.concat([
    macBytes(parseMac(to)),
    macBytes(parseMac(from)),
    Buffer.from(packet[0]! >> 4 === 4 ? '0800' : '86dd', 'hex'),
    packet,
  ]).toString('hex');

const counter = async (name: string): Promise<number> =>
  (await statusOf(pair.nodes[0])).counters[name] ?? 0;

const nodeOverlay = async (family: 4 | 6): Promise<string> => {
  const { subnet4, subnet6 } = await pair.nodes[0].subnetFile();
  return addressIn((family === 4 ? subnet4 : subnet6)!, 0);
};

for (const [title, frame, refusedAs] of [
  ['its own address (the control)', () => ({}), null],
  [
    'its own IPv6 address (the control)',
    () => ({ source: evil.address6!, destination: victim.address6! }),
    null,
  ],
  [
    "the victim's neighbour's address",
    () => ({ source: pair.lab.pods[2]!.address4! }),
    'host.spoofedSource',
  ],
  ["the victim's own address", () => ({ source: victim.address4! }), 'host.spoofedSource'],
  [
    "the node's overlay address",
    async () => ({ source: await nodeOverlay(4) }),
    'host.spoofedSource',
  ],
  [
    "the node's overlay address, IPv6",
    async () => ({ source: await nodeOverlay(6), destination: victim.address6! }),
    'host.spoofedSource',
  ],
  ['an address of outside', () => ({ source: '198.51.100.7' }), 'host.spoofedSource'],
  ["a Service's address", () => ({ source: '10.96.0.1' }), 'host.spoofedSource'],
  ['the loopback address', () => ({ source: '127.0.0.1' }), 'host.spoofedSource'],
  [
    'another IPv6 address',
    () => ({ source: 'fd00:10:244::66', destination: victim.address6! }),
    'host.spoofedSource',
  ],
  [
    'a link-local address',
    () => ({ source: 'fe80::66', destination: victim.address6! }),
    'host.spoofedSource',
  ],
  ['another Ethernet address', () => ({ sourceMac: '02:00:00:00:00:99' }), 'host.spoofedSource'],
] as readonly (readonly [string, () => Frame | Promise<Frame>, string | null])[]) {
  test.serial(`a pod sends from ${title}`, async (t) => {
    await using listener = await victim.start([process.execPath, '-e', LISTEN], {
      ready: { line: /^ready$/ },
    });
    const before = refusedAs === null ? 0 : await counter(refusedAs);
    // The second is the proof that the first would have come by now.
    const frames = [frameOf('attack', await frame()), frameOf('after', {})];
    await evil.run([...FRAMES, 'eth0', ...frames]);
    await poll(async () => (listener.output().includes('after') ? true : undefined), within(5_000));
    t.is(listener.output().includes('attack'), refusedAs === null, listener.output());
    if (refusedAs !== null) t.is((await counter(refusedAs)) - before, 1);
  });
}

test.serial("a stranger sends from a pod's address, by the node", async (t) => {
  await using listener = await victim.start([process.execPath, '-e', LISTEN], {
    ready: { line: /^ready$/ },
  });
  const to = macOf(pair.nodes[0], 'eth0');
  const from = macOf(stranger, 'eth0');
  const destination = victim.address4!;
  const packet = (source: string, text: string): string =>
    ethernet(udp({ source, destination, destinationPort: PORT }, Buffer.from(text)), to, from);
  const spoofed = await counter('host.spoofedSource');
  const foreign = await counter('drop.notOurSource');
  await stranger.run([
    ...FRAMES,
    'eth0',
    packet(evil.address4!, 'as a pod here'),
    packet(pair.lab.pods[2]!.address4!, 'as a pod elsewhere'),
    packet('10.244.250.1', 'as a pod of nobody'),
    packet('172.31.0.254', 'as itself'),
  ]);
  await poll(
    async () => (listener.output().includes('as itself') ? true : undefined),
    within(5_000),
  );
  t.false(listener.output().includes('as a pod'), listener.output());
  t.is((await counter('host.spoofedSource')) - spoofed, 1);
  t.is((await counter('drop.notOurSource')) - foreign, 2);
});

test.serial('router advertisements and redirects of a pod are nobody’s', async (t) => {
  const gateway = 'fe80::1';
  const source = 'fe80::66';
  const [n1] = pair.nodes;
  const routes = (): Promise<string> => n1.run(['ip', '-6', 'route']);
  const before = await routes();
  // RFC 4861 section 4.2: hop limit 64, no flags, a router for an hour.
  const advertisement = Buffer.from('40000e100000000000000000', 'hex');
  const redirect = Buffer.concat([Buffer.alloc(4), Buffer.alloc(32, 0xfd)]);
  for (const [destination, type, body] of [
    ['ff02::1', 134, advertisement],
    [gateway, 134, advertisement],
    [gateway, 137, redirect],
  ] as const) {
    const packet = icmp({ source, destination, ttl: 255 }, type, 0, body);
    await evil.run([...FRAMES, 'eth0', ethernet(packet, gatewayMac, evilMac)]);
  }
  await reaches(evil, victim.address6!);
  t.is(await routes(), before);
  t.is(await readSysctl(`net.ipv6.conf.${evil.hostInterface}.accept_ra`, n1.netns), '0');
  t.is(await readSysctl('net.ipv6.conf.eth0.accept_ra', evil.netns), '0');
});

test.serial('the gateway is only a gateway', async (t) => {
  for (const address of ['fe80::1%eth0']) {
    const { exitCode } = await collect(['ping', '-n', '-c1', '-W1', address], {
      netns: evil.netns,
    });
    t.not(exitCode, 0, `${address} answers`);
  }
  // It still answers for its neighbours' sake, when a pod has forgotten it.
  await evil.run(['ip', 'neigh', 'flush', 'dev', 'eth0']);
  for (const address of victim.addresses) await reaches(evil, address);
});

test.serial('a pod cannot speak VXLAN, to the underlay or to its own node', async (t) => {
  const [n1, n2] = pair.nodes;
  const mac = (await statusOf(n2)).lease!.vtepMac!;
  const inner = udp({ source: evil.address4!, destination: victim.address4! }, Buffer.from('x'));
  const frame = vxlan({ sourceMac: evilMac, destinationMac: mac }, inner);
  const before = await counter('host.vxlanFromPod');
  const arrived = (await settled(n2))['udpDatagrams']!;
  for (const destination of [n1.underlay4!, n2.underlay4!]) {
    const packet = udp({ source: evil.address4!, destination, destinationPort: 8472 }, frame);
    await evil.run([...FRAMES, 'eth0', ethernet(packet, gatewayMac, evilMac)]);
  }
  await poll(
    async () => ((await counter('host.vxlanFromPod')) - before === 2 ? true : undefined),
    within(5_000),
  );
  t.is((await settled(n2))['udpDatagrams'], arrived);
});

test.serial('127/8 from the wire and from a pod reaches no socket of the node', async (t) => {
  const [n1] = pair.nodes;
  await using listener = await n1.start([process.execPath, '-e', LISTEN], {
    ready: { line: /^ready$/ },
  });
  const packet = (source: string, destination: string, text: string): Buffer =>
    udp({ source, destination, destinationPort: PORT }, Buffer.from(text));
  const outerTo = macOf(n1, 'eth0');
  const outerFrom = macOf(stranger, 'eth0');
  await stranger.run([
    ...FRAMES,
    'eth0',
    ethernet(packet('172.31.0.254', '127.0.0.1', 'attack'), outerTo, outerFrom),
    ethernet(packet('127.0.0.1', n1.underlay4!, 'attack'), outerTo, outerFrom),
  ]);
  await evil.run([
    ...FRAMES,
    'eth0',
    ethernet(packet(evil.address4!, '127.0.0.1', 'attack'), gatewayMac, evilMac),
    ethernet(packet(evil.address4!, n1.underlay4!, 'after'), gatewayMac, evilMac),
  ]);
  await poll(async () => (listener.output().includes('after') ? true : undefined), within(5_000));
  t.false(listener.output().includes('attack'), listener.output());
});
