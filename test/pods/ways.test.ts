/**
 * Which way packets go. Pods attached by the plugin, `--ip-masq` on both nodes:
 *
 *     n1p1 --.                                     .-- n2p1
 *             n1 (weft) ======= VXLAN ======= n2 (weft)
 *     n1p2 --'     \                         /
 *                   `------- underlay ------'------- out (etcd's host)
 *
 * A packet that passes n1's daemon on its way from a pod, or to one from elsewhere, is read from the TUN
 * and counted there. `read` is how many of one request and its answer n1's daemon reads.
 */
import test from 'ava';
import { poll } from '../../linux/program.ts';
import { LabHost, addressIn, reaches } from '../lab/lab.ts';
import { bulkTcp, ping } from '../lab/traffic/traffic.ts';
import { type Pair, createPair, dropsOf, settled, statusOf, within } from '../overlay/pair.ts';

const COUNT = 10;

let pair: Pair;
let out: LabHost;

test.before(async () => {
  pair = await createPair({ podsPerNode: 2 }, 'w', ['--ip-masq']);
  out = new LabHost('etcd', pair.lab.netnsOf('etcd'));
});
test.after.always(() => pair?.[Symbol.asyncDispose]());

type Place = 'n1p1' | 'n1p2' | 'n2p1' | 'n1' | 'n2' | 'out';

function hostOf(place: Place): LabHost {
  if (place === 'out') return out;
  return [...pair.nodes, ...pair.lab.pods].find((it) => it.name === place)!;
}

async function addressOf(place: Place, family: 4 | 6): Promise<string> {
  if (place === 'out') return family === 4 ? '172.31.0.254' : 'fd31::254';
  const pod = pair.lab.pods.find((it) => it.name === place);
  if (pod !== undefined) return (family === 4 ? pod.address4 : pod.address6)!;
  const node = pair.nodes.find((it) => it.name === place)!;
  return (family === 4 ? node.underlay4 : node.underlay6)!;
}

for (const [from, to, read, why] of [
  ['n1p1', 'n1p2', 2, 'both between pods of the node'],
  ['n1p1', 'n2p1', 1, 'the request; the answer comes by VXLAN'],
  ['n1p1', 'n1', 1, 'the request; the node answers its pod directly'],
  ['n1p1', 'n2', 2, 'both, by the kernel in between'],
  ['n1p1', 'out', 2, 'both, masqueraded in between'],
  ['n1', 'n1p1', 1, 'the answer; the node asks its pod directly'],
  ['n1', 'n2p1', 1, 'the request; the answer comes by VXLAN'],
  ['n2p1', 'n1p1', 1, 'the answer; the request comes by VXLAN'],
] as readonly (readonly [Place, Place, number, string])[]) {
  for (const family of [4, 6] as const) {
    test.serial(`IPv${family}, ${from} to ${to}: the daemon reads ${why}`, async (t) => {
      const [n1] = pair.nodes;
      const address = await addressOf(to, family);
      // Neighbours are known then, and nobody asks for them in between.
      await reaches(hostOf(from), address);
      const before = await settled(n1);
      const { received } = await ping(hostOf(from), address, { count: COUNT });
      const after = await settled(n1);
      t.is(received, COUNT);
      // IPv6 hosts ask for neighbours and listeners now and then, and some of that is multicast.
      const others = (after['drop.multicast'] ?? 0) - (before['drop.multicast'] ?? 0);
      const more = after['tunPackets']! - before['tunPackets']! - others;
      t.true(more >= read * COUNT && more <= read * COUNT + 2, `${more} of ${read * COUNT} read`);
    });
  }
}

/** Says who connects, once. */
const WHO = `
  const server = require('node:net').createServer((socket) => {
    console.log('from ' + socket.remoteAddress.replace('::ffff:', ''));
    socket.end();
  });
  server.listen(7009, '::', () => console.log('ready'));`;
const CONNECT = `
  const socket = require('node:net').connect(7009, process.argv[1]);
  socket.resume().on('end', () => process.exit(0));`;

/** The source address of a TCP connection, as its destination sees it. */
async function seenBy(to: LabHost, from: LabHost, address: string): Promise<string> {
  await using server = await to.start([process.execPath, '-e', WHO], {
    ready: { line: /^ready$/ },
  });
  await from.run([process.execPath, '-e', CONNECT, address], { signal: within(10_000) });
  return await poll(async () => /^from (.*)$/m.exec(server.output())?.[1], within(5_000));
}

for (const family of [4, 6] as const) {
  for (const [to, seen, whose] of [
    ['n1p2', 'n1p1', "the pod's"],
    ['n2p1', 'n1p1', "the pod's"],
    ['n1', 'n1p1', "the pod's"],
    ['n2', 'n1', "the node's"],
    ['out', 'n1', "the node's"],
  ] as const) {
    test.serial(`IPv${family}, n1p1 to ${to}: the source is ${whose} address`, async (t) => {
      const source = await seenBy(hostOf(to), hostOf('n1p1'), await addressOf(to, family));
      t.is(source, await addressOf(seen, family));
    });
  }

  test.serial(`IPv${family}, n1 to its own pod: the source is its overlay address`, async (t) => {
    const source = await seenBy(hostOf('n1p1'), hostOf('n1'), await addressOf('n1p1', family));
    const { subnet4, subnet6 } = await pair.nodes[0].subnetFile();
    t.is(source, addressIn((family === 4 ? subnet4 : subnet6)!, 0));
  });

  test.serial(`IPv${family}: an address that no pod has is told so, here and there`, async (t) => {
    const [n1, n2] = pair.nodes;
    const [a, , c] = pair.lab.pods;
    const here = (await n1.subnetFile())[family === 4 ? 'subnet4' : 'subnet6']!;
    const absent = addressIn(here, 77);
    for (const from of [a!, c!, n1]) {
      const command = ['ping', '-n', '-c1', '-W3', absent];
      const said = await from.run(command).catch((error: Error) => error.message);
      t.regex(said, /[Uu]nreachable|No route/, from.name);
    }
    const drops = dropsOf(await settled(n1));
    t.true(drops['noPod']! >= 2, JSON.stringify(drops));
    t.is(dropsOf(await settled(n2))['noPod'], undefined);
  });
}

test.serial('a pod is reached by a host outside that knows the way', async (t) => {
  const [n1] = pair.nodes;
  const [a] = pair.lab.pods;
  const { lease } = await statusOf(n1);
  await out.run(['ip', 'route', 'add', lease!.subnet!, 'via', n1.underlay4!]);
  await out.run(['ip', '-6', 'route', 'add', lease!.ipv6Subnet!, 'via', n1.underlay6!]);
  for (const address of a!.addresses) {
    await reaches(out, address);
    const before = await settled(n1);
    const { received } = await ping(out, address, { count: COUNT });
    t.is(received, COUNT);
    const after = await settled(n1);
    t.true(after['tunPackets']! - before['tunPackets']! >= 2 * COUNT, 'both ways');
  }
  await out.run(['ip', 'route', 'del', lease!.subnet!]);
  await out.run(['ip', '-6', 'route', 'del', lease!.ipv6Subnet!]);
});

test.serial('large TCP between pods of one node stays large', async (t) => {
  const [a, b] = pair.lab.pods;
  const [n1] = pair.nodes;
  for (const address of b!.addresses) {
    const before = await settled(n1);
    const { bytes } = await bulkTcp(a!, b!, address, { seconds: 1 });
    const after = await settled(n1);
    const packets = after['localDelivered']! - before['localDelivered']!;
    const carried = after['localDeliveredBytes']! - before['localDeliveredBytes']!;
    t.true(carried > bytes);
    // Acknowledgements are small and count as packets too.
    t.true(carried / packets > 8_000, `${(carried / packets).toFixed(0)} bytes a packet`);
  }
});

test.serial('nothing of this was lost without a reason', async (t) => {
  const [n1] = pair.nodes;
  const counters = await poll(async () => settled(n1), within(10_000));
  const drops = dropsOf(counters);
  t.deepEqual(
    Object.keys(drops).filter((it) => !['multicast', 'noPod', 'martian'].includes(it)),
    [],
    JSON.stringify(drops),
  );
  t.is(counters['host.spoofedSource'], 0);
});
