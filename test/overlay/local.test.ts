/**
 * Pods of one node, and a host outside, over a real TUN: what a pod sends goes into `weft0`, and comes
 * back out of it as large and as unfinished as it went in. The kernel judges whether that is well-formed.
 *
 *     p1 ---.
 *            n1 (weft0) --- out
 *     p2 ---'
 *
 * What comes out of `weft0` is routed to pods' interfaces; whatever else is for a pod goes into it.
 */
import test from 'ava';
import { type Command, apply, listLinks, words } from '../../linux/ip.ts';
import { createNamespace, writeSysctls } from '../../linux/netns.ts';
import { type Running, collect, poll, run, start } from '../../linux/program.ts';
import { labPrefix, openRun, removeRun } from '../lab/run.ts';
import { EXCHANGE, type UdpResult, type TcpResult, within } from './pair.ts';

const MTU = 1450;
const lab = openRun(`${labPrefix()}l`);
const netnsOf = (name: string): string => `${lab.name}-${name}`;
const NODE = netnsOf('n1');
test.after.always(() => removeRun(lab));

const hosts = {
  p1: ['10.244.1.5', 'fd00:1::5'],
  p2: ['10.244.1.6', 'fd00:1::6'],
  out: ['203.0.113.2', '2001:db8::2'],
} as const;

const quiet = {
  'net.ipv6.conf.default.accept_dad': 0,
  'net.ipv6.conf.all.accept_dad': 0,
  'net.ipv4.conf.default.rp_filter': 0,
  'net.ipv4.conf.all.rp_filter': 0,
};

/** Joins a host to the node: addresses, and the node as the way to everywhere. */
async function join(name: keyof typeof hosts): Promise<void> {
  const netns = netnsOf(name);
  const [address4, address6] = hosts[name];
  await createNamespace(netns);
  await writeSysctls(quiet, netns);
  await apply(
    [
      words`link add ${name} mtu ${MTU} type veth peer name eth0 mtu ${MTU} netns ${netns}`,
      words`addr add 169.254.1.1/32 dev ${name}`,
      words`addr add fe80::1/64 dev ${name} nodad`,
      words`link set ${name} up`,
    ],
    { netns: NODE },
  );
  await apply(
    [
      words`addr add ${address4}/32 dev eth0`,
      words`addr add ${address6}/128 dev eth0 nodad`,
      words`link set eth0 up`,
      words`route add 169.254.1.1 dev eth0 scope link`,
      words`route add default via 169.254.1.1 dev eth0 onlink`,
      words`route add default via fe80::1 dev eth0`,
    ],
    { netns },
  );
}

test.before(async () => {
  await createNamespace(NODE);
  await writeSysctls(
    { ...quiet, 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 },
    NODE,
  );
  for (const name of Object.keys(hosts) as (keyof typeof hosts)[]) await join(name);
  for (const name of ['p2', 'out']) {
    await start([...EXCHANGE, 'serve'], {
      netns: netnsOf(name),
      ready: { line: /^ready$/ },
    });
  }
});

/** Routes as the host has them with pods: into the TUN from everywhere but the TUN. */
async function route(): Promise<void> {
  const commands: Command[] = [
    words`link set weft0 mtu ${MTU} up`,
    words`addr replace 10.244.1.0/32 dev weft0`,
    words`addr replace fd00:1::/128 dev weft0 nodad`,
    words`route replace 10.244.0.0/16 dev weft0 src 10.244.1.0`,
    words`route replace fd00::/16 dev weft0 src fd00:1::`,
    words`route replace 203.0.113.2 dev out scope link`,
    words`route replace 2001:db8::2 dev out`,
    words`route replace 0.0.0.0/0 dev weft0 table 101`,
    words`route replace ::/0 dev weft0 table 101`,
  ];
  for (const name of ['p1', 'p2'] as const) {
    const [address4, address6] = hosts[name];
    commands.push(words`route replace ${address4} dev ${name} scope link table 100`);
    commands.push(words`route replace ${address6} dev ${name} table 100`);
  }
  await apply(commands, { netns: NODE });
  const rules = await run(['ip', 'rule', 'show'], { netns: NODE });
  if (!rules.includes('weft0')) {
    for (const family of ['-4', '-6']) {
      for (const [iif, table] of [
        ['weft0', '100'],
        ['p1', '101'],
        ['p2', '101'],
      ] as const) {
        await run(['ip', family, 'rule', 'add', 'iif', iif, 'lookup', table, 'pref', table], {
          netns: NODE,
        });
      }
    }
  }
  await writeSysctls({ 'net.ipv4.conf.weft0.accept_local': 1 }, NODE);
}

type Counters = Readonly<Record<string, number>>;

const linesOf = (node: Running): string[] => node.output().trim().split('\n');

async function countersOf(node: Running): Promise<Counters> {
  const before = linesOf(node).length;
  process.kill(node.pid, 'SIGUSR2');
  const line = await poll(async () => linesOf(node)[before], within(5000));
  return JSON.parse(line) as Counters;
}

/** When nothing moves any more: the worker counts a packet after it has written it. */
async function settledCounters(node: Running): Promise<Counters> {
  let last = await countersOf(node);
  return await poll(async () => {
    const before = last;
    last = await countersOf(node);
    const moved = (name: string): boolean => last[name] !== before[name];
    return moved('localDelivered') || moved('hostDelivered') ? undefined : last;
  }, within(5000));
}

const exchange = async (...argv: readonly string[]): Promise<string> =>
  await run([...EXCHANGE, ...argv], { netns: netnsOf('p1'), signal: within(30_000) });

const tcp = async (address: string): Promise<boolean> => {
  const result = JSON.parse(await exchange('tcp', address, '5000000')) as TcpResult;
  return result.intact && result.received === result.sent;
};
const udp =
  (bytes: number, count: number, segments: number) =>
  async (address: string): Promise<boolean> => {
    const text = await exchange('udp', address, `${bytes}`, `${count}`, `${segments}`);
    const result = JSON.parse(text) as UdpResult;
    return result.wrong === 0 && result.received === result.sent;
  };
async function ping(address: string): Promise<boolean> {
  const { stdout } = await collect(['ping', '-n', '-c3', '-i0.05', '-W10', '-s', '1000', address], {
    netns: netnsOf('p1'),
    signal: within(30_000),
  });
  if (!stdout.includes('3 received')) throw new Error(stdout);
  return true;
}

/** Large: packets of more than the MTU went through, on average. */
const rows: readonly [
  name: string,
  send: (address: string) => Promise<boolean>,
  packets: number,
  large: boolean,
][] = [
  ['TCP', tcp, 100, true],
  ['UDP, many in one send', udp(1350, 320, 32), 320, true],
  ['UDP, one by one: unfinished checksums', udp(1350, 64, 1), 128, false],
  ['UDP, of one byte', udp(1, 64, 1), 128, false],
  ['ICMP: nothing is left to the device', ping, 6, false],
];

for (const rungs of ['all', 'none']) {
  test.serial(`offloads ${rungs}: everything comes back out as it went in`, async (t) => {
    const pods = [...hosts.p1, ...hosts.p2];
    await using node = await start(
      [process.execPath, `${import.meta.dirname}/local-node.ts`, rungs, ...pods],
      { netns: NODE, ready: { line: /^\{/ } },
    );
    await route();
    const links = await listLinks({ netns: NODE });
    t.true(links.some((link) => link.ifname === 'weft0' && link.flags.includes('UP')));
    const offloads = await countersOf(node);
    for (const to of ['p2', 'out'] as const) {
      for (const address of hosts[to]) {
        for (const [name, send, packets, large] of rows) {
          const title = `${name} to ${address}`;
          const before = await countersOf(node);
          t.true(await send(address), title);
          const after = await settledCounters(node);
          const grown = (counter: string): number => after[counter]! - before[counter]!;
          const local = grown('localDelivered');
          const host = grown('hostDelivered');
          const bytes = grown('localDeliveredBytes') + grown('hostDeliveredBytes');
          t.log(`${title}: ${local} local, ${host} to the host, ${bytes} bytes`);
          // Large ones count for many.
          const least = large && rungs === 'all' ? packets / 32 : packets;
          if (to === 'p2') t.true(local >= least && host === 0, title);
          else t.true(local >= least / 2 && host >= least / 2 / 32, title);
          const isWhole = large && rungs === 'all' && (name === 'TCP' || offloads['tunUso']);
          if (isWhole === true) t.true(bytes / (local + host) > MTU, `${title}: large`);
          for (const [reason, count] of Object.entries(after)) {
            // Hosts multicast by themselves, and TCP fills a queue where it finds one.
            if (/^drop\.(?!multicast|tunQueueFull)/.test(reason)) {
              t.is(count, before[reason]!, `${title}: ${reason}`);
            }
          }
        }
      }
    }
  });
}
