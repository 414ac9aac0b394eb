/**
 * What a pod, or a stranger on the underlay, might try against Services and the flows of others.
 *
 *     n1: default/a (client), default/evil        n2: default/w, default/w2, in turns behind Service `web`
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
let w2: { pod: LabPod; prober: Prober };
let evil: { pod: LabPod; prober: Prober };

test.before(async () => {
  cluster = await Cluster.open('at', 'a directory', `--max-flows=${MAX_FLOWS}`, '--ip-masq');
  a = await cluster.addPod(0, 'a', 'app=client');
  evil = await cluster.addPod(0, 'evil', 'app=client');
  w = await cluster.addPod(1, 'w', 'app=web', [8080]);
  w2 = await cluster.addPod(1, 'w2', 'app=web2', [8080]);
  for (const { pod } of [w, w2]) {
    await pod.start([...STEADY, 'serve', '7040'], { ready: { line: /^ready$/ } });
  }
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

/** New connections go to this pod. */
async function leadTo(app: 'web' | 'web2', name: string): Promise<void> {
  await cluster.put(
    service('web', VIPS, {
      type: 'NodePort',
      selector: { app },
      ports: [
        { name: 'web', protocol: 'TCP', port: 80, targetPort: 8080, nodePort: NODE_PORT + 1 },
        { name: 'steady', protocol: 'TCP', port: 7040, targetPort: 7040, nodePort: NODE_PORT + 2 },
        { name: 'udp', protocol: 'UDP', port: 80, targetPort: 8080, nodePort: NODE_PORT },
      ],
    }),
  );
  for (const address of VIPS) {
    await answerOf(a.prober, { protocol: 'TCP', address, port: 80 }, new RegExp(` ${name}$`));
  }
}

async function finish(holding: Running): Promise<readonly Held[]> {
  process.kill(holding.pid, 'SIGUSR1');
  await holding.exited;
  return JSON.parse(holding.output().trim().split('\n').at(-1) ?? '') as Held[];
}

const ROUNDS = 4;
const PER_ROUND = 4000;

/** From a port each, to the pod w. */
const FLOODS: readonly (readonly [string, (fields: build.UdpFields) => Buffer, number])[] = [
  [
    'connections that are never opened',
    (fields) => build.tcp({ ...fields, flags: build.SYN }, Buffer.alloc(0)),
    1,
  ],
  // Answered, and sent once more: as good as anybody's.
  ['datagrams that are answered', (fields) => build.udp(fields, Buffer.from('?')), 2],
];

for (const [title, packetOf, times] of FLOODS) {
  test.serial(
    `one pod's flood of ${title}: what stands goes on, what is new comes in`,
    async (t) => {
      t.timeout(90_000);
      const link = await PodLink.open(evil.pod);
      // It resets and refuses nothing.
      await evil.pod.run(['nft', '-f', '-'], {
        input: `table inet silent {
        chain out {
          type filter hook output priority 0;
          tcp flags rst drop
          meta l4proto icmp drop
        }
      }`,
      });
      await leadTo('web', 'w');
      const holding = await a.pod.start([...STEADY, 'hold', '7040', ...VIPS], {
        ready: { line: /^steady$/ },
      });
      // From here on only their entries know that they belong to w.
      await leadTo('web2', 'w2');
      const before = (await statusOf(cluster.nodes[0])).counters;
      const flooded = new AbortController();
      let asked = 0;
      const wrong: string[] = [];
      const asking = (async () => {
        while (!flooded.signal.aborted) {
          const address = VIPS[asked % VIPS.length]!;
          const question = { protocol: 'TCP', address, port: 80, timeoutMs: 5000 } as const;
          const got = await a.prober.ask(question);
          if (!/^8080 .* w2$/.test(got)) wrong.push(`${address}: ${got}`);
          asked++;
        }
      })();
      for (let round = 0; round < ROUNDS; round++) {
        const packets = Array.from({ length: PER_ROUND }, (_, i) =>
          packetOf({
            source: evil.pod.address4!,
            destination: w.pod.address4!,
            sourcePort: 1024 + round * PER_ROUND + i,
            destinationPort: 8080,
          }),
        );
        for (let i = 0; i < times; i++) await link.send(...packets);
      }
      flooded.abort();
      await asking;
      const { counters } = await statusOf(cluster.nodes[0]);
      const evicted = counters['flows.evicted']! - before['flows.evicted']!;
      t.log(`${ROUNDS * PER_ROUND} flows, ${evicted} given up, ${asked} connections meanwhile`);
      t.true(evicted > MAX_FLOWS / 2, `${evicted}`);
      t.true(counters['flows']! <= MAX_FLOWS);
      t.true(asked > 5, `${asked}`);
      t.deepEqual(wrong, []);
      const held = await finish(holding);
      t.is(held.length, VIPS.length);
      for (const it of held) t.like(it, { alive: true, intact: true });
      await evil.pod.run(['nft', 'delete', 'table', 'inet', 'silent']);
    },
  );
}

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
    await leadTo('web', 'w');
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
