/**
 * Every policy set with real packets: each pod asks each other one, on one node and across, over both
 * families, TCP and UDP; what came back is what the reference evaluator says.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { type Running, poll } from '../../linux/program.ts';
import { parseObjects } from '../../objects/parse.ts';
import { objectSetOf } from '../../objects/set.ts';
import { referenceVerdict } from '../../policy/reference.ts';
import { parseAddress } from '../../wire/address.ts';
import { type Lab, type LabNode, type LabPod, createLab } from '../lab/lab.ts';
import { Prober } from '../lab/prober.ts';
import { labPrefix } from '../lab/run.ts';
import { peersKnown, within } from '../overlay/pair.ts';
import { NAMESPACES, SETS } from './sets.ts';

const PORTS = [80, 81];
const SILENCE_MS = 300;

interface Member {
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly pod: LabPod;
  readonly prober: Prober;
}

let lab: Lab;
let directories: readonly string[];
let members: readonly Member[];
let nodes: readonly [LabNode, LabNode];
let daemons: Running[];

test.before(async () => {
  lab = await createLab({ nodes: 2, prefix: `${labPrefix()}tr` });
  nodes = lab.nodes as unknown as readonly [LabNode, LabNode];
  directories = nodes.map((node) => join(node.directory, 'objects'));
  for (const directory of directories) {
    await mkdir(directory);
    await writeFile(join(directory, 'all.yaml'), NAMESPACES);
  }
  daemons = await Promise.all(
    nodes.map((node, i) => node.startDaemon([`--objects=${directories[i]!}`])),
  );
  for (const node of nodes) {
    await peersKnown(node);
    await node.installPlugin();
  }
  const add = async (node: LabNode, namespace: string, name: string, tier: string) => {
    const pod = await node.addPod(`${namespace}${name}`, {
      args: `IgnoreUnknown=1;K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=${name};K8S_POD_LABELS=app=${name},tier=${tier}`,
    });
    const prober = await Prober.start(pod, lab.directory, PORTS);
    return { namespace, name, labels: { app: name, tier }, pod, prober };
  };
  members = [
    await add(nodes[0], 'x', 'a', 'web'),
    await add(nodes[0], 'y', 'b', 'web'),
    await add(nodes[1], 'x', 'c', 'db'),
    await add(nodes[1], 'y', 'd', 'db'),
  ];
});
test.after.always(() => lab?.[Symbol.asyncDispose]());

/** As `kubectl get pods -o yaml` would have it. */
const manifestOf = ({ namespace, name, labels, pod }: Member): string => `
---
apiVersion: v1
kind: Pod
metadata: { namespace: ${namespace}, name: ${name}, labels: ${JSON.stringify(labels)} }
spec:
  nodeName: ${pod.node.name}
  containers:
    - name: c
      ports:
        - { name: http, containerPort: 80 }
        - { name: alt, containerPort: 81 }
        - { name: dns, containerPort: 80, protocol: UDP }
status:
  phase: Running
  podIPs: ${JSON.stringify(pod.addresses.map((ip) => ({ ip })))}
`;

interface Probe {
  readonly text: string;
  readonly from: Member;
  readonly address: string;
  readonly protocol: 'TCP' | 'UDP';
  readonly port: number;
  readonly isAllowed: boolean;
}

function probesOf(manifest: string): readonly Probe[] {
  const { objects, problems } = parseObjects(manifest, 'set');
  if (problems.length > 0) throw new Error(JSON.stringify(problems));
  const set = objectSetOf(objects);
  const probes: Probe[] = [];
  for (const from of members) {
    for (const to of members) {
      if (from === to) continue;
      for (const address of to.pod.addresses) {
        for (const [protocol, port] of [
          ['TCP', 80],
          ['TCP', 81],
          ['UDP', 80],
        ] as const) {
          const ends = {
            from: `${from.namespace}/${from.name}`,
            to: `${to.namespace}/${to.name}`,
          };
          // A name stands for both families; blocks tell them apart.
          const family = address.includes(':');
          const source = from.pod.addresses.find((it) => it.includes(':') === family)!;
          const { verdict } = referenceVerdict(set, {
            from: parseAddress(source),
            to: parseAddress(address),
            protocol,
            port,
          });
          const text = `${ends.from} > ${ends.to} ${address} ${protocol} ${port}`;
          probes.push({ text, from, address, protocol, port, isAllowed: verdict === 'allow' });
        }
      }
    }
  }
  return probes;
}

async function isAsExpected({ from, address, protocol, port, isAllowed }: Probe): Promise<boolean> {
  const got = await from.prober.ask({ protocol, address, port, timeoutMs: SILENCE_MS });
  const answered = got.startsWith(`${port} `);
  return isAllowed ? answered : got === 'nothing';
}

for (const [name, policies] of SETS) {
  test.serial(name, async (t) => {
    const manifest = NAMESPACES + members.map(manifestOf).join('') + policies;
    for (const directory of directories) await writeFile(join(directory, 'all.yaml'), manifest);
    const probes = probesOf(manifest);
    t.true(probes.length >= 72);
    let wrong: readonly string[] = [];
    await poll(async () => {
      const right = await Promise.all(probes.map(isAsExpected));
      wrong = probes
        .filter((_, i) => !right[i])
        .map(({ text, isAllowed }) => `${text}: not ${isAllowed ? 'answered' : 'silent'}`);
      return wrong.length === 0 ? true : undefined;
    }, within(15_000)).catch(() => undefined);
    t.deepEqual(wrong, []);
  });
}

test.serial('a pod reaches itself, and its node reaches it, whatever policy says', async (t) => {
  const manifest =
    NAMESPACES +
    members.map(manifestOf).join('') +
    SETS.find(([it]) => it.startsWith('ingress: []'))![1];
  for (const directory of directories) await writeFile(join(directory, 'all.yaml'), manifest);
  const [a] = members;
  const own = await Prober.start(nodes[0], lab.directory, []);
  const other = await Prober.start(nodes[1], lab.directory, []);
  for (const address of a!.pod.addresses) {
    const question = { protocol: 'TCP', address, port: 80, timeoutMs: SILENCE_MS } as const;
    await poll(
      async () => ((await other.ask(question)) === 'nothing' ? true : undefined),
      within(15_000),
    );
    t.regex(await a!.prober.ask(question), /^80 /, 'itself');
    t.regex(await own.ask(question), /^80 /, 'its node');
    t.is(await other.ask(question), 'nothing', 'another node');
  }
});

test.serial(
  'a policy of a Terminating namespace outlives its deletion, a restart, and the Namespace',
  async (t) => {
    const [a, b] = members;
    const [node] = nodes;
    const pods = members.map(manifestOf).join('');
    const policy = SETS.find(([it]) => it.startsWith('ingress: []'))![1];
    const terminating = NAMESPACES.replace(
      'name: x,',
      'name: x, deletionTimestamp: "2026-01-01T00:00:00Z",',
    );
    t.not(terminating, NAMESPACES);
    const path = join(directories[0]!, 'all.yaml');
    const question = {
      protocol: 'TCP',
      address: a!.pod.addresses[0]!,
      port: 80,
      timeoutMs: SILENCE_MS,
    } as const;
    const comes = (pattern: RegExp, why: string) =>
      poll(
        async () => (pattern.test(await b!.prober.ask(question)) ? true : undefined),
        within(15_000),
      ).then(
        () => t.pass(),
        () => t.fail(why),
      );
    await writeFile(path, terminating + pods + policy);
    await comes(/^nothing$/, 'the policy denies');
    await writeFile(path, terminating + pods);
    await sleep(1500);
    await comes(/^nothing$/, 'it is deleted');
    await daemons[0]!.stop();
    daemons[0] = await node.startDaemon([`--objects=${directories[0]!}`]);
    await peersKnown(node);
    await comes(/^nothing$/, 'the daemon is another');
    await writeFile(path, NAMESPACES.split('---')[1]! + pods);
    await sleep(1500);
    t.is(await b!.prober.ask(question), 'nothing', 'the Namespace is gone');
    await writeFile(path, NAMESPACES + pods);
    await comes(/^80 /, 'a Namespace that is Active');
  },
);
