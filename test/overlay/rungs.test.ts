/**
 * The real daemon on both nodes, with every choice of `--offloads`: the same traffic arrives whole, the
 * counters add up, nothing is dropped. One lab: the daemons are started again for each row.
 */
import test from 'ava';
import { listLinks, listRoutes } from '../../linux/ip.ts';
import { reaches } from '../lab/lab.ts';
import {
  type Counters,
  type Pair,
  WEFT,
  addsUp,
  createPair,
  exchangeAll,
  exchangeTcp,
  residentBytes,
  settled,
  stateDirOf,
  statusOf,
} from './pair.ts';

const ALL = ['tunTso', 'tunUso', 'tunnelGso', 'udpGso', 'udpGro', 'batch', 'coalesce'];
/** What TCP runs into where it is faster than the node. */
const CONGESTION = ['multicast', 'tunQueueFull', 'receiveQueueFull', 'sendQueueFull'];
/** Daemon and its one peer, after bulk traffic: what we promise. */
const RESIDENT_BYTES_MAX = 150e6;

let pair: Pair;
test.before(async () => {
  pair = await createPair({}, 'r');
});
test.after.always(() => pair?.[Symbol.asyncDispose]());

const rows: [first: string, second: string, without: readonly string[]][] = [
  ['auto', 'auto', []],
  ['-tunnel-gso', '-tunnel-gso', ['tunnelGso']],
  ['-tun-uso', '-tun-uso', ['tunUso']],
  ['-udp-gso', '-udp-gso', ['udpGso']],
  ['-udp-gso,-tunnel-gso', '-udp-gso,-tunnel-gso', ['udpGso', 'tunnelGso']],
  ['-udp-gro', '-udp-gro', ['udpGro']],
  ['-batch', '-batch', ['batch']],
  ['-coalesce', '-coalesce', ['coalesce']],
  ['-tun-tso', '-tun-tso', ['tunTso', 'tunUso', 'tunnelGso', 'coalesce']],
  ['none', 'none', ALL],
  ['auto', 'none', []],
];

for (const [first, second, without] of rows) {
  const title = first === second ? first : `${first} beside ${second}`;
  test.serial(`--offloads=${title}`, async (t) => {
    await pair.restart([`--offloads=${first}`], [`--offloads=${second}`]);
    const [n1, n2] = pair.nodes;
    const [a, b] = pair.pods;
    const used = (names: readonly string[]): Record<string, boolean> =>
      Object.fromEntries(ALL.map((it) => [it, !names.includes(it)]));
    t.deepEqual((await statusOf(n1)).offloads, used(without));
    t.deepEqual((await statusOf(n2)).offloads, used(second === 'none' ? ALL : without));

    for (const address of b.addresses) await reaches(a, address);
    await exchangeAll(t, a, b);
    const [one, other] = [await settled(n1), await settled(n2)];
    addsUp(t, 'n1', one, CONGESTION);
    addsUp(t, 'n2', other, CONGESTION);
    const lost = (counters: Counters): number => counters['drop.receiveQueueFull']!;
    if (one['tunnelWrites'] === 0) {
      t.is(other['udpDatagrams']! + lost(other), one['udpSentDatagrams']!, 'from n1 to n2');
    }
    if (other['tunnelWrites'] === 0) {
      t.is(one['udpDatagrams']! + lost(one), other['udpSentDatagrams']!, 'from n2 to n1');
    }
    t.is(one['tunnelWrites']! > 0, !without.includes('tunnelGso'), 'the tunnel TAP');
  });
}

test.serial('--workers=2: many flows in both directions, each in order', async (t) => {
  await pair.restart(['--workers=2'], ['--workers=2', '--offloads=-tunnel-gso']);
  const [a, b] = pair.pods;
  for (const address of b.addresses) await reaches(a, address);
  await Promise.all([
    exchangeAll(t, a, b),
    exchangeAll(t, a, b),
    exchangeAll(t, b, a),
    exchangeAll(t, b, a),
  ]);
  for (const node of pair.nodes) addsUp(t, node.name, await settled(node), CONGESTION);
});

test.serial('a node with one peer stays small, bulk traffic or not', async (t) => {
  await pair.restart([]);
  const [a, b] = pair.pods;
  const bytes = 200_000_000;
  t.like(await exchangeTcp(a, b.address4!, bytes), { received: bytes, intact: true });
  for (const [i, daemon] of pair.daemons.entries()) {
    const resident = await residentBytes(daemon);
    t.log(`n${i + 1}: ${(resident / 1e6).toFixed(0)} MB`);
    t.true(resident < RESIDENT_BYTES_MAX, `n${i + 1}: ${resident} bytes`);
  }
});

test.serial('a cleanup leaves nothing of all this', async (t) => {
  const [node] = pair.nodes;
  const { netns } = node;
  await pair.daemons[0].stop();
  await node.run([
    WEFT,
    'cleanup',
    stateDirOf(node),
    `--subnet-file=${node.subnetFilePath}`,
    `--etcd-endpoints=${pair.lab.store.endpoint}`,
    '--release-lease',
  ]);
  const links = (await listLinks({ netns })).map((it) => it.ifname);
  t.deepEqual(links.toSorted(), ['eth0', 'lo']);
  for (const family of [4, 6] as const) {
    const routes = await listRoutes({ netns, family, table: 'all' });
    t.deepEqual(
      routes.filter((it) => !['eth0', 'lo'].includes(it.dev ?? '')),
      [],
    );
    const rules = await node.run(['ip', `-${family}`, 'rule']);
    t.is(rules.split('\n')[0], '0:\tfrom all lookup local');
    t.false(/15[78]/.test(rules), rules);
  }
  t.is(await node.run(['nft', 'list', 'ruleset']), '');
  t.is((await pair.lab.store.leases()).length, 1, 'only the other node has a lease');
});
