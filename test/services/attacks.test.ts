/**
 * What a pod, or a stranger on the underlay, might try against Services and the flows of others.
 *
 *     n1: default/a (client), default/evil        n2: default/w, behind Service `web`
 *     stranger (etcd's host)
 */
import { join } from 'node:path';
import test from 'ava';
import { listLinks } from '../../linux/ip.ts';
import { type Running, poll } from '../../linux/program.ts';
import { macBytes, parseMac } from '../../wire/mac.ts';
import { Cluster, answerOf, service } from '../lab/cluster.ts';
import { LabHost, type LabPod } from '../lab/lab.ts';
import { PodLink } from '../lab/pod-link.ts';
import type { Prober } from '../lab/prober.ts';
import type { Held } from '../lab/traffic/steady.ts';
import { statusOf, within } from '../overlay/pair.ts';
import * as build from '../packets/build.ts';

const TRAFFIC = join(import.meta.dirname, '..', 'lab', 'traffic');
const STEADY = [process.execPath, join(TRAFFIC, 'steady.ts')];
const FRAMES = [process.execPath, join(TRAFFIC, 'frames.ts')];
const VIPS = ['10.96.0.70', 'fd00:10:96::70'] as const;
const MAX_FLOWS = 4096;
const NODE_PORT = 30_170;

let cluster: Cluster;
let a: { pod: LabPod; prober: Prober };
let w: { pod: LabPod; prober: Prober };
let evil: { pod: LabPod; prober: Prober };

test.before(async () => {
  cluster = await Cluster.open('at', 'a directory', `--max-flows=${MAX_FLOWS}`, '--ip-masq');
  a = await cluster.addPod(0, 'a', 'app=client');
  evil = await cluster.addPod(0, 'evil', 'app=client');
  w = await cluster.addPod(1, 'w', 'app=web', [8080]);
  await w.pod.start([...STEADY, 'serve', '7040'], { ready: { line: /^ready$/ } });
  await cluster.put(
    service('web', VIPS, {
      type: 'NodePort',
      selector: { app: 'web' },
      ports: [
        { name: 'web', protocol: 'TCP', port: 80, targetPort: 8080, nodePort: NODE_PORT + 1 },
        { name: 'steady', protocol: 'TCP', port: 7040, targetPort: 7040, nodePort: NODE_PORT + 2 },
        { name: 'udp', protocol: 'UDP', port: 80, targetPort: 8080, nodePort: NODE_PORT },
      ],
    }),
  );
  for (const address of VIPS) {
    await answerOf(a.prober, { protocol: 'TCP', address, port: 80 }, /^8080 /);
  }
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

async function finish(holding: Running): Promise<readonly Held[]> {
  process.kill(holding.pid, 'SIGUSR1');
  await holding.exited;
  return JSON.parse(holding.output().trim().split('\n').at(-1) ?? '') as Held[];
}

const ROUNDS = 4;
const SYNS = 6000;

test.serial(
  'a SYN flood of one pod starves no other: what stands goes on, what is new comes in',
  async (t) => {
    t.timeout(60_000);
    const link = await PodLink.open(evil.pod);
    // It does not reset what it never opened: connections stay half open.
    await evil.pod.run(['nft', '-f', '-'], {
      input: `table inet silent {
      chain out { type filter hook output priority 0; tcp flags rst drop; }
    }`,
    });
    const holding = await a.pod.start([...STEADY, 'hold', '7040', ...VIPS, ...w.pod.addresses], {
      ready: { line: /^steady$/ },
    });
    const before = await statusOf(cluster.nodes[0]);
    const flooded = new AbortController();
    let asked = 0;
    const wrong: string[] = [];
    const asking = (async () => {
      while (!flooded.signal.aborted) {
        const address = VIPS[asked % VIPS.length]!;
        const question = { protocol: 'TCP', address, port: 80, timeoutMs: 5000 } as const;
        const got = await a.prober.ask(question);
        if (!got.startsWith('8080 ')) wrong.push(`${address}: ${got}`);
        asked++;
      }
    })();
    for (let round = 0; round < ROUNDS; round++) {
      const syns = Array.from({ length: SYNS }, (_, i) =>
        build.tcp(
          {
            source: evil.pod.address4!,
            destination: round % 2 === 0 ? VIPS[0] : w.pod.address4!,
            sourcePort: 1024 + round * SYNS + i,
            destinationPort: round % 2 === 0 ? 80 : 8080,
            flags: build.SYN,
          },
          Buffer.alloc(0),
        ),
      );
      await link.send(...syns);
    }
    flooded.abort();
    await asking;
    const { counters } = await statusOf(cluster.nodes[0]);
    const evicted = counters['flows.evicted']! - before.counters['flows.evicted']!;
    t.log(`${ROUNDS * SYNS} SYNs, ${evicted} flows given up, ${asked} connections meanwhile`);
    t.true(evicted > MAX_FLOWS, `${evicted}`);
    t.true(counters['flows']! <= MAX_FLOWS);
    t.true(asked > 5, `${asked}`);
    t.deepEqual(wrong, []);
    const held = await finish(holding);
    t.is(held.length, 4);
    for (const it of held) t.like(it, { alive: true, intact: true });
    await evil.pod.run(['nft', 'delete', 'table', 'inet', 'silent']);
  },
);

const macOf = async (host: LabHost): Promise<Uint8Array> => {
  const links = await listLinks({ netns: host.netns });
  return macBytes(parseMac(links.find((it) => it.ifname === 'eth0')!.address!));
};

for (const [title, source, destination, arrives] of [
  ['from itself (the control)', '172.31.0.254', 'node', true],
  ['from 127.0.0.1', '127.0.0.1', 'node', false],
  ['from 127.0.0.1, to 127.0.0.1', '127.0.0.1', '127.0.0.1', false],
  ['to 127.0.0.1', '172.31.0.254', '127.0.0.1', false],
  ["from a pod's address", 'pod', 'node', false],
  ["from the node's own address", 'node', 'node', false],
] as const) {
  test.serial(`a stranger's datagram to a node port, ${title}`, async (t) => {
    const [n1] = cluster.nodes;
    const stranger = new LabHost('etcd', cluster.lab.netnsOf('etcd'));
    const atW = await PodLink.open(w.pod);
    const macs = await Promise.all([macOf(n1), macOf(stranger)]);
    const addresses = { node: n1.underlay4!, pod: a.pod.address4! };
    const address = (it: string): string => addresses[it as 'node' | 'pod'] ?? it;
    const frame = (from: string, to: string, text: string): string =>
      Buffer.concat([
        ...macs,
        Buffer.from([8, 0]),
        build.udp({ source: from, destination: to, destinationPort: NODE_PORT }, Buffer.from(text)),
      ]).toString('hex');
    await stranger.run([
      ...FRAMES,
      'eth0',
      frame(address(source), address(destination), 'attack'),
      frame('172.31.0.254', n1.underlay4!, 'after'),
    ]);
    const came = await poll(async () => {
      const text = atW.text();
      return text.includes('after') ? text : undefined;
    }, within(5_000));
    t.is(came.includes('attack'), arrives);
  });
}
