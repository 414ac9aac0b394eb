/**
 * A router between the nodes, which takes less than the nodes' own links:
 *
 *     n1p1 --- n1 ---1500--- router ---1400--> n2 --- n2p1
 *
 * Only packets to n2 are too large: n1 learns it from the router's ICMP, its pods learn it from n1.
 */
import test from 'ava';
import { collect, poll } from '../../linux/program.ts';
import {
  type Pair,
  addsUp,
  allReach,
  createPair,
  exchangeAll,
  exchangeTcp,
  logOf,
  settled,
  startTcp,
  statusOf,
  within,
} from './pair.ts';

const PATH_MTU = 1400;
const CONGESTION = ['multicast', 'tunQueueFull', 'receiveQueueFull', 'sendQueueFull'];

let pair: Pair;

test.before(async () => {
  // On a link of its own each, so DirectRouting finds nobody to route to.
  pair = await createPair({ underlay: 'routed', backend: { DirectRouting: true } }, 'p');
});
test.after.always(() => pair?.[Symbol.asyncDispose]());

/** The router takes whole packets again, and nobody remembers that it did not. */
async function forget(): Promise<void> {
  await pair.lab.setPathMtu(pair.nodes[1], 1500);
  for (const host of [...pair.nodes, ...pair.pods]) {
    for (const family of ['-4', '-6']) await host.run(['ip', family, 'route', 'flush', 'cache']);
  }
}

test.serial('across a router everything goes by VXLAN, direct routing or not', async (t) => {
  const [a, b] = pair.pods;
  await allReach(pair);
  await exchangeAll(t, a, b);
  for (const node of pair.nodes) {
    const counters = await settled(node);
    addsUp(t, node.name, counters, CONGESTION);
    t.true(counters['udpSentDatagrams']! > 0);
    t.false((await node.run(['ip', 'route', 'show', 'proto', '157'])).includes('via'));
  }
});

for (const [family, absent, words] of [
  [4, (subnet: string) => subnet.replace(/0\/24$/, '250'), /Destination Host Unreachable/],
  [6, (subnet: string) => subnet.replace(/\/64$/, 'fa'), /Destination unreachable: Address/],
] as const) {
  test.serial(`IPv${family}: of a pod that is not there, its own node tells`, async (t) => {
    const [n1, n2] = pair.nodes;
    const { lease } = await statusOf(n2);
    const subnet = family === 4 ? lease!.subnet! : lease!.ipv6Subnet!;
    const { stdout } = await collect(['ping', '-n', '-c1', '-W2', absent(subnet)], {
      netns: n1.netns,
    });
    t.regex(stdout, words);
    t.true(stdout.includes(`From ${subnet.split('/')[0]!}`), stdout);
    t.true((await statusOf(n2)).counters['drop.noPod']! > 0);
  });
}

for (const [family, headers, innerMtu, words] of [
  [4, 28, PATH_MTU - 50, /Frag needed and DF set \(mtu = (\d+)\)/],
  [6, 48, PATH_MTU - 70, /Packet too big: mtu=(\d+)/],
] as const) {
  test.serial(`IPv${family}: a pod is told the path's MTU, by its node`, async (t) => {
    const [n1, n2] = pair.nodes;
    const [a, b] = pair.pods;
    await forget();
    await pair.lab.setPathMtu(n2, PATH_MTU);
    const to = family === 4 ? b.address4! : b.address6!;
    const { mtuBytes } = await n1.subnetFile();
    const size = `${mtuBytes - headers}`;
    const mtu = await poll(async () => {
      const { stdout } = await collect(['ping', '-n', '-c1', '-W1', '-M', 'do', '-s', size, to], {
        netns: a.netns,
      });
      return words.exec(stdout)?.[1];
    }, within(10_000));
    t.is(Number(mtu), innerMtu);
    const fits = ['ping', '-n', '-c1', '-W2', '-M', 'do', '-s', `${innerMtu - headers}`, to];
    t.true((await a.run(fits)).includes('1 received'));
    t.true(logOf(n1).some((it) => it['mtuBytes'] === innerMtu && it.msg === 'path MTU'));
    t.true((await statusOf(n1)).counters['icmpErrors']! > 0);
    // In fragments, where the sender allows that: made by n1 (IPv4), or by the pod that has learned.
    const large = ['ping', '-n', '-c3', '-i0.05', '-W2', '-M', 'dont', '-s', size, to];
    t.true((await a.run(large)).includes('3 received'));
    // What is sent in fragments anyway, fragment by fragment.
    const huge = ['ping', '-n', '-c3', '-i0.05', '-W2', '-M', 'dont', '-s', '4000', to];
    t.true((await a.run(huge)).includes('3 received'));
  });
}

test.serial('IPv6 packets of the minimum MTU arrive where the path takes less', async (t) => {
  const [a, b] = pair.pods;
  await forget();
  await pair.lab.setPathMtu(pair.nodes[1], 1300);
  const size = 1280 - 48;
  // The first ones teach the node; a packet of 1281 bytes is too large, and is told the minimum.
  await poll(async () => {
    const { stdout } = await collect(['ping', '-n', '-c1', '-W1', '-s', `${size}`, b.address6!], {
      netns: a.netns,
    });
    return stdout.includes('1 received') ? true : undefined;
  }, within(10_000));
  const larger = ['ping', '-n', '-c1', '-W1', '-M', 'do', '-s', `${size + 1}`, b.address6!];
  const { stdout } = await collect(larger, { netns: a.netns });
  t.regex(stdout, /Packet too big: mtu=1280|mtu: 1280/);
});

for (const [offloads, pathMtu] of [
  ['auto', PATH_MTU],
  ['-tunnel-gso', PATH_MTU],
  ['none', PATH_MTU],
  // Leaves less than IPv6's minimum MTU of 1280 for the inner packet.
  ['auto', 1300],
] as const) {
  test.serial(
    `--offloads=${offloads}: TCP goes on when the path narrows to ${pathMtu}`,
    async (t) => {
      const [a, b] = pair.pods;
      await forget();
      await pair.restart([`--offloads=${offloads}`]);
      await allReach(pair);
      for (const address of b.addresses) {
        await forget();
        const flowing = await startTcp(a, address);
        await pair.lab.setPathMtu(pair.nodes[1], pathMtu);
        t.like(await flowing.finish(15_000), { intact: true }, address);
        // One that begins on the narrow path, from the far side too.
        t.like(await exchangeTcp(b, a.addresses[b.addresses.indexOf(address)]!, 5_000_000), {
          intact: true,
        });
      }
      for (const node of pair.nodes) {
        addsUp(t, node.name, await settled(node), [...CONGESTION, 'tooBig']);
      }
    },
  );
}
