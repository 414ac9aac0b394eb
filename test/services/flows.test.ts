/**
 * Flows that are held while what decided them changes: the daemon starts again, a policy comes, another pod
 * floods the table.
 *
 *     n1: default/a, default/b        n2: default/w, behind Service `web`
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { type Running, poll } from '../../linux/program.ts';
import { type Lab, type LabNode, type LabPod, createLab } from '../lab/lab.ts';
import { Prober } from '../lab/prober.ts';
import { labPrefix } from '../lab/run.ts';
import type { Held } from '../lab/traffic/steady.ts';
import { peersKnown, statusOf, within } from '../overlay/pair.ts';

const STEADY = [process.execPath, join(import.meta.dirname, '..', 'lab', 'traffic', 'steady.ts')];
const PORT = 7020;
const VIP = { 4: '10.96.0.20', 6: 'fd00:10:96::20' } as const;

const SERVICE = `
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  clusterIP: ${VIP[4]}
  clusterIPs: ["${VIP[4]}", "${VIP[6]}"]
  selector: { app: web }
  ports: [{ port: ${PORT} }]
`;
const DENY = `
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny }
spec: { podSelector: { matchLabels: { app: web } }, ingress: [] }
`;

let lab: Lab;
let nodes: readonly [LabNode, LabNode];
let directories: readonly string[];
let daemons: Running[];
let a: LabPod;
let b: LabPod;
let w: LabPod;

const flagsOf = (i: number, ...more: readonly string[]): string[] => [
  `--objects=${directories[i]!}`,
  '--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112',
  '--max-flows=4096',
  ...more,
];

async function apply(manifest: string): Promise<void> {
  for (const directory of directories) await writeFile(join(directory, 'all.yaml'), manifest);
}

test.before(async () => {
  lab = await createLab({ nodes: 2, prefix: `${labPrefix()}fl` });
  nodes = lab.nodes as unknown as readonly [LabNode, LabNode];
  directories = nodes.map((node) => join(node.directory, 'objects'));
  for (const directory of directories) await mkdir(directory);
  await apply(SERVICE);
  daemons = await Promise.all(nodes.map((node, i) => node.startDaemon(flagsOf(i))));
  for (const node of nodes) {
    await peersKnown(node);
    await node.installPlugin();
  }
  const add = (node: LabNode, name: string, app: string): Promise<LabPod> =>
    node.addPod(name, {
      args: `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=${name};K8S_POD_LABELS=app=${app}`,
    });
  a = await add(nodes[0], 'a', 'client');
  b = await add(nodes[0], 'b', 'client');
  w = await add(nodes[1], 'w', 'web');
  await w.start([...STEADY, 'serve', `${PORT}`], { ready: { line: /^ready$/ } });
});
test.after.always(() => lab?.[Symbol.asyncDispose]());

async function hold(pod: LabPod, ...addresses: readonly string[]): Promise<Running> {
  return await pod.start([...STEADY, 'hold', `${PORT}`, ...addresses], {
    ready: { line: /^steady$/ },
  });
}

async function finish(holding: Running): Promise<readonly Held[]> {
  process.kill(holding.pid, 'SIGUSR1');
  await holding.exited;
  return JSON.parse(holding.output().trim().split('\n').at(-1) ?? '') as Held[];
}

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test.serial(
    `connections to a Service live through a restart by ${signal}, translated`,
    async (t) => {
      const holding = await hold(a, VIP[4], VIP[6], ...w.addresses);
      // The client's node is where they are translated.
      await daemons[0]!.stop(signal);
      daemons[0] = await nodes[0].startDaemon(flagsOf(0));
      const held = await finish(holding);
      t.is(held.length, 4);
      for (const it of held) t.like(it, { alive: true, intact: true });
    },
  );
}

test.serial(
  'a policy that comes ends what it denies, and lets it go on when it goes',
  async (t) => {
    const holding = await hold(a, ...w.addresses);
    const before = (await statusOf(nodes[1])).counters['drop.policyIngress'] ?? 0;
    await apply(SERVICE + DENY);
    await poll(async () => {
      const { counters } = await statusOf(nodes[1]);
      return counters['drop.policyIngress']! > before + 5 ? true : undefined;
    }, within(15_000));
    await apply(SERVICE);
    // TCP sends again what was dropped.
    const held = await finish(holding);
    for (const it of held) t.like(it, { alive: true });
  },
);

test.serial(
  '--established loose: what stood before the policy goes on, what is new does not',
  async (t) => {
    for (const [i, node] of nodes.entries()) {
      await daemons[i]!.stop();
      daemons[i] = await node.startDaemon(flagsOf(i, '--established=loose'));
    }
    const prober = await Prober.start(a, lab.directory, []);
    const holding = await hold(b, ...w.addresses);
    await apply(SERVICE + DENY);
    await poll(async () => {
      const got = await prober.ask({
        protocol: 'TCP',
        address: w.address4!,
        port: PORT,
        timeoutMs: 300,
      });
      return got === 'nothing' && (await statusOf(nodes[1])).counters['drop.policyIngress']! > 0
        ? true
        : undefined;
    }, within(15_000));
    const held = await finish(holding);
    for (const it of held) t.like(it, { alive: true, intact: true });
    await apply(SERVICE);
    for (const [i, node] of nodes.entries()) {
      await daemons[i]!.stop();
      daemons[i] = await node.startDaemon(flagsOf(i));
    }
  },
);

const FLOOD = `
const { createSocket } = require('node:dgram');
const socket = createSocket('udp4');
let port = 1;
const send = () => {
  for (let i = 0; i < 200; i++) socket.send('x', 1024 + (port++ % 60000), process.argv[1]);
  if (port > 40000) process.exit(0);
  setImmediate(send);
};
send();`;

test.serial('one pod that floods the table takes nothing from another', async (t) => {
  const holding = await hold(a, VIP[4], VIP[6], ...w.addresses);
  const flood = await b.start([process.execPath, '-e', FLOOD, w.address4!], {});
  t.is(await flood.exited, 0);
  const { counters } = await statusOf(nodes[0]);
  t.true(counters['flows.evicted']! > 1000, `${counters['flows.evicted']} evicted`);
  t.true(counters['flows']! <= 4096);
  const held = await finish(holding);
  t.is(held.length, 4);
  for (const it of held) t.like(it, { alive: true, intact: true });
});
