/**
 * Two labs of one shape on which Services are compared: two nodes joined by one veth, a client on the first
 * and a server on the second.
 *
 *     weft     daemons that watch a directory; pods attached by the CNI plugin
 *     kernel   kernel VXLAN as flannel sets it up, kube-proxy's rules and a policy agent's
 *
 * On the second nobody watches anything: what kube-proxy and the agent take to see an object and to make
 * rules of it is not counted. Both nodes' rules are written at the same time, as by two machines.
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { writeSysctls } from '../linux/netns.ts';
import type { Running } from '../linux/program.ts';
import { type Lab, type LabNode, type LabPod, createLab } from '../test/lab/lab.ts';
import { Prober } from '../test/lab/prober.ts';
import { kubeProxyRules } from './kube-proxy.ts';
import { type LocalPod, changedPolicies, policyRules, policySets } from './policy-agent.ts';
import {
  type ClusterObject,
  PORT,
  PROBE_PORT,
  type PolicyObject,
  switched,
} from './service-objects.ts';

export const CONNECT = join(import.meta.dirname, '../test/lab/traffic/tcp-connect.ts');

/** Of 10 ms, in a second, of both daemons. */
const IDLE_TICKS = 4;
const QUIET_SECONDS = 2;

/**
 * Which of iptables' programs: the ones before nf_tables, or those that write it. The latter take some
 * minutes to add the large set, since every chain is looked for among all.
 */
export const FLAVOURS = ['legacy', 'nft'] as const;
export type Flavour = (typeof FLAVOURS)[number];

export interface Ground extends AsyncDisposable {
  readonly name: 'weft' | 'kernel';
  readonly client: LabPod;
  readonly server: LabPod;
  /** In the client. */
  readonly prober: Prober;
  /** No Services, no policies. */
  clear(): Promise<void>;
  /**
   * Makes what is to be written: files, or rules. `policies` are those that change later, one by one.
   * @returns what writes it, after `clear`
   */
  prepare(
    objects: readonly ClusterObject[],
    policies: readonly PolicyObject[],
  ): () => Promise<void>;
  /** One of the policies is another now. @returns when it is written; with Weft, it is not in effect then */
  change(policy: PolicyObject): Promise<void>;
  /** The Service `switch` has an endpoint now, or none. @returns as `change` does */
  turn(isOn: boolean): Promise<void>;
  /** Until there is nothing to do: what was written is read, and in force. */
  settled(): Promise<void>;
}

const SHAPE = { nodes: 2, podsPerNode: 1, families: 4, underlay: 'direct' } as const;

const podsOf = (lab: Lab): readonly [LabPod, LabPod] => [
  lab.nodes[0]!.pods[0]!,
  lab.nodes[1]!.pods[0]!,
];

/** Pods, and who answers them. @returns who asks in the client */
async function populate(lab: Lab): Promise<Prober> {
  await lab.attachPods();
  const [client, server] = podsOf(lab);
  for (const { netns } of [client, server]) {
    await writeSysctls({ 'net.ipv4.tcp_no_metrics_save': 1 }, netns);
  }
  await server.start([process.execPath, CONNECT, 'serve', `${PORT}`], {
    ready: { line: /^ready$/ },
  });
  await Prober.start(server, lab.directory, [PROBE_PORT]);
  return Prober.start(client, lab.directory, []);
}

export class WeftGround implements Ground {
  readonly name = 'weft';
  readonly client: LabPod;
  readonly server: LabPod;
  readonly prober: Prober;
  readonly #lab: Lab;
  #daemons: readonly Running[];
  readonly #policies = new Set<string>();

  private constructor(lab: Lab, daemons: readonly Running[], prober: Prober) {
    this.#lab = lab;
    this.#daemons = daemons;
    this.prober = prober;
    [this.client, this.server] = podsOf(lab);
  }

  static async create(): Promise<WeftGround> {
    await using opening = new AsyncDisposableStack();
    const lab = opening.use(await createLab(SHAPE));
    for (const node of lab.nodes) await mkdir(objectsOf(node), { recursive: true });
    const daemons = await startDaemons(lab, []);
    const ground = new WeftGround(lab, daemons, await populate(lab));
    opening.move();
    return ground;
  }

  get stateDirs(): readonly string[] {
    return this.#lab.nodes.map(({ stateDir }) => stateDir);
  }

  async restart(flags: readonly string[]): Promise<void> {
    await Promise.all(this.#daemons.map((it) => it.stop()));
    this.#daemons = await startDaemons(this.#lab, flags);
  }

  async clear(): Promise<void> {
    for (const node of this.#lab.nodes) {
      for (const name of ['set', 'switch', ...this.#policies]) {
        await rm(join(objectsOf(node), `${name}.json`), { force: true });
      }
    }
    this.#policies.clear();
  }

  prepare(
    objects: readonly ClusterObject[],
    policies: readonly PolicyObject[],
  ): () => Promise<void> {
    const text = listOf(objects);
    return async () => {
      await this.#write('set', text);
      await this.turn(false);
      for (const policy of policies) await this.change(policy);
    };
  }

  async change(policy: PolicyObject): Promise<void> {
    const { name } = policy.metadata;
    this.#policies.add(name);
    await this.#write(name, listOf([policy]));
  }

  async turn(isOn: boolean): Promise<void> {
    await this.#write('switch', listOf(switched(isOn, this.server.address4!)));
  }

  async #write(name: string, text: string): Promise<void> {
    for (const node of this.#lab.nodes) {
      const directory = objectsOf(node);
      await writeFile(join(directory, `.${name}`), text);
      await rename(join(directory, `.${name}`), join(directory, `${name}.json`));
    }
  }

  async settled(): Promise<void> {
    const ticks = async (): Promise<number> => {
      const each = await Promise.all(
        this.#daemons.map(({ pid }) => readFile(`/proc/${pid}/stat`, 'utf8')),
      );
      return each.reduce((sum, it) => {
        const fields = it.slice(it.lastIndexOf(')') + 2).split(' ');
        return sum + Number(fields[11]) + Number(fields[12]);
      }, 0);
    };
    // One quiet second may lie between two readings of a file that others still write.
    for (let quiet = 0; quiet < QUIET_SECONDS;) {
      const before = await ticks();
      await sleep(1000);
      quiet = (await ticks()) - before <= IDLE_TICKS ? quiet + 1 : 0;
    }
  }

  async residentMiB(): Promise<number> {
    const each = await Promise.all(
      this.#daemons.map(({ pid }) => readFile(`/proc/${pid}/status`, 'utf8')),
    );
    return Math.max(...each.map((it) => Number(/VmRSS:\s+(\d+)/.exec(it)![1]) / 1024));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lab[Symbol.asyncDispose]();
  }
}

const listOf = (items: readonly ClusterObject[]): string =>
  JSON.stringify({ apiVersion: 'v1', kind: 'List', items });

const objectsOf = (node: LabNode): string => join(node.directory, 'objects');

const startDaemons = (lab: Lab, flags: readonly string[]): Promise<readonly Running[]> =>
  Promise.all(
    lab.nodes.map((node) => node.startDaemon([`--objects=${objectsOf(node)}`, ...flags])),
  );

const EMPTY = [
  '*filter',
  ...['INPUT', 'FORWARD', 'OUTPUT'].map((it) => `:${it} ACCEPT [0:0]`),
  'COMMIT',
  '*nat',
  ...['PREROUTING', 'INPUT', 'OUTPUT', 'POSTROUTING'].map((it) => `:${it} ACCEPT [0:0]`),
  'COMMIT',
  '',
].join('\n');

export class KernelGround implements Ground {
  readonly name = 'kernel';
  readonly client: LabPod;
  readonly server: LabPod;
  readonly prober: Prober;
  readonly #lab: Lab;
  readonly #flavour: Flavour;
  /** By name, as they shall be. */
  #waiting = new Map<string, PolicyObject>();
  #written: Promise<void> | null = null;
  /** Rules of the switch without its endpoint, and with it. */
  #turns: readonly string[] = [];

  private constructor(lab: Lab, flavour: Flavour, prober: Prober) {
    this.#lab = lab;
    this.#flavour = flavour;
    this.prober = prober;
    [this.client, this.server] = podsOf(lab);
  }

  static async create(flavour: Flavour): Promise<KernelGround> {
    await using opening = new AsyncDisposableStack();
    const lab = opening.use(await createLab(SHAPE));
    for (const node of lab.nodes) await node.startKernelVxlan();
    const ground = new KernelGround(lab, flavour, await populate(lab));
    opening.move();
    return ground;
  }

  async clear(): Promise<void> {
    await this.#onNodes(async (node) => {
      await this.#restore(node, EMPTY);
      await node.run(['ipset', 'destroy']);
    });
  }

  prepare(
    objects: readonly ClusterObject[],
    policies: readonly PolicyObject[],
  ): () => Promise<void> {
    const withSwitch = (isOn: boolean): readonly ClusterObject[] => [
      ...objects,
      ...switched(isOn, this.server.address4!),
    ];
    const changed = new Set(['switch']);
    this.#turns = [false, true].map((isOn) => kubeProxyRules(withSwitch(isOn), changed));
    const services = kubeProxyRules(withSwitch(false));
    const all = [...objects, ...policies];
    const pods = this.#lab.nodes.flatMap(localPods);
    const texts = new Map(
      this.#lab.nodes.map((node) => {
        const local = localPods(node);
        return [node, [policySets(all, local, pods), policyRules(all, local)] as const];
      }),
    );
    return () =>
      this.#onNodes(async (node) => {
        const [sets, rules] = texts.get(node)!;
        await node.run(['ipset', 'restore'], { input: sets });
        await this.#restore(node, rules, '--noflush');
        await this.#restore(node, services, '--noflush');
      });
  }

  /** What comes while rules are being written is written at once afterwards, all of it together. */
  async change(policy: PolicyObject): Promise<void> {
    this.#waiting.set(policy.metadata.name, policy);
    while (this.#waiting.has(policy.metadata.name)) {
      if (this.#written === null) {
        const text = changedPolicies([...this.#waiting.values()]);
        this.#waiting = new Map();
        this.#written = this.#onNodes((node) => this.#restore(node, text, '--noflush')).finally(
          () => (this.#written = null),
        );
      }
      await this.#written;
    }
  }

  async turn(isOn: boolean): Promise<void> {
    await this.#onNodes((node) => this.#restore(node, this.#turns[Number(isOn)]!, '--noflush'));
  }

  async settled(): Promise<void> {
    await this.#written;
  }

  async #onNodes(work: (node: LabNode) => Promise<void>): Promise<void> {
    await Promise.all(this.#lab.nodes.map(work));
  }

  /** Each node has a lock of its own, as on two machines. */
  async #restore(node: LabNode, input: string, ...flags: readonly string[]): Promise<void> {
    await node.run([`iptables-${this.#flavour}-restore`, '--counters', ...flags], {
      input,
      env: { XTABLES_LOCKFILE: join(node.directory, 'xtables.lock') },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lab[Symbol.asyncDispose]();
  }
}

/** As the lab's pods are known to Weft. */
const localPods = (node: LabNode): readonly LocalPod[] =>
  node.pods.map((pod) => ({
    namespace: 'lab',
    address: pod.address4!,
    device: pod.hostInterface,
  }));
