/**
 * Two nodes with Weft, pods that ask and answer, and Kubernetes objects that come and go one by one: as
 * files of a directory on each node, or applied to the first node's daemon, which puts them into etcd.
 */
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { askDaemon } from '../../daemon/api-client.ts';
import { type Running, poll } from '../../linux/program.ts';
import { peersKnown, within } from '../overlay/pair.ts';
import { type Lab, type LabNode, type LabPod, createLab } from './lab.ts';
import { Prober } from './prober.ts';
import { labPrefix } from './run.ts';
import type { Question } from './traffic/probe.ts';

export type ObjectsFrom = 'a directory' | 'etcd';

/** As a manifest has it. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
  };
  readonly [more: string]: unknown;
}

export const netpol = (name: string, spec: object): Manifest => ({
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { name, namespace: 'default' },
  spec,
});

export const service = (name: string, clusterIPs: readonly string[], spec: object): Manifest => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name, namespace: 'default' },
  spec: {
    clusterIP: clusterIPs[0],
    clusterIPs,
    ipFamilies: clusterIPs.map((it) => (it.includes(':') ? 'IPv6' : 'IPv4')),
    ipFamilyPolicy: clusterIPs.length === 2 ? 'RequireDualStack' : 'SingleStack',
    ...spec,
  },
});

/** Of the Service; the port has no name. */
export const slice = (
  name: string,
  serviceName: string,
  endpoints: readonly object[],
  ports: readonly object[] = [{ protocol: 'UDP', port: 8080 }],
  addressType: 'IPv4' | 'IPv6' = 'IPv4',
): Manifest => ({
  apiVersion: 'discovery.k8s.io/v1',
  kind: 'EndpointSlice',
  metadata: { name, namespace: 'default', labels: { 'kubernetes.io/service-name': serviceName } },
  addressType,
  endpoints,
  ports,
});

const fileOf = ({ kind, metadata }: Manifest): string =>
  `${kind}.${metadata.namespace ?? ''}.${metadata.name}.json`.toLowerCase();

export const RANGES = '--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112';

/** A question every so often; it is in effect since the first of so many answers that say so. */
const EVERY_MS = 20;
const IN_A_ROW = 3;
const EFFECT_WITHIN_MS = 8_000;

/** A pod, and who asks and answers in it. */
export interface LabClient {
  readonly pod: LabPod;
  readonly prober: Prober;
}

export class Cluster implements AsyncDisposable {
  readonly lab: Lab;
  readonly nodes: readonly [LabNode, LabNode];
  readonly directories: readonly string[];
  daemons: readonly Running[] = [];
  #from: ObjectsFrom = 'a directory';
  readonly #present = new Map<string, Manifest>();

  private constructor(lab: Lab) {
    this.lab = lab;
    this.nodes = lab.nodes as unknown as readonly [LabNode, LabNode];
    this.directories = this.nodes.map((node) => join(node.directory, 'objects'));
  }

  static async open(
    suffix: string,
    from: ObjectsFrom = 'a directory',
    ...flags: readonly string[]
  ): Promise<Cluster> {
    const lab = await createLab({ nodes: 2, prefix: `${labPrefix()}${suffix}` });
    try {
      const cluster = new Cluster(lab);
      for (const directory of cluster.directories) await mkdir(directory);
      await cluster.start(from, ...flags);
      for (const node of cluster.nodes) await node.installPlugin();
      return cluster;
    } catch (error) {
      await lab[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The daemons, anew if they run. */
  async start(from: ObjectsFrom, ...flags: readonly string[]): Promise<void> {
    await this.clear();
    this.#from = from;
    await Promise.all(this.daemons.map((it) => it.stop()));
    this.daemons = await Promise.all(
      this.nodes.map((node, i) => {
        const objects = from === 'etcd' ? [] : [`--objects=${this.directories[i]!}`];
        return node.startDaemon([RANGES, ...objects, ...flags]);
      }),
    );
    for (const node of this.nodes) await peersKnown(node);
  }

  /** In namespace default. @param labels  `app=web,tier=front` */
  async addPod(
    node: 0 | 1,
    name: string,
    labels: string,
    ports: readonly number[] = [],
  ): Promise<LabClient> {
    const pod = await this.nodes[node].addPod(name, {
      args: `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=${name};K8S_POD_LABELS=${labels}`,
    });
    return { pod, prober: await Prober.start(pod, this.lab.directory, ports) };
  }

  /** A client on the first node, web and a database on the second, and Service `web`, port 80 to 8080. */
  async addShop(vip: string): Promise<Readonly<Record<'client' | 'web' | 'db', LabClient>>> {
    const client = await this.addPod(0, 'client', 'app=client');
    const web = await this.addPod(1, 'web', 'app=web', [8080]);
    const db = await this.addPod(1, 'db', 'app=db', [8080]);
    const endpoint = { addresses: [web.pod.address4!], conditions: { ready: true } };
    await this.put(
      service('web', [vip], { ports: [{ protocol: 'TCP', port: 80, targetPort: 8080 }] }),
      slice('web-1', 'web', [endpoint], [{ protocol: 'TCP', port: 8080 }]),
    );
    return { client, web, db };
  }

  /** Creates or replaces them. */
  async put(...objects: readonly Manifest[]): Promise<void> {
    for (const it of objects) this.#present.set(fileOf(it), it);
    if (this.#from === 'etcd') {
      const body = { documents: objects, set: 'lab', dryRun: false };
      await askDaemon(this.nodes[0].stateDir, 'POST', '/v1/objects', body);
      return;
    }
    for (const directory of this.directories) {
      for (const it of objects) {
        const path = join(directory, fileOf(it));
        await writeFile(`${path}.new`, JSON.stringify(it));
        await rename(`${path}.new`, path);
      }
    }
  }

  async remove(...objects: readonly Manifest[]): Promise<void> {
    for (const it of objects) this.#present.delete(fileOf(it));
    if (this.#from === 'etcd') {
      const names = objects.map(({ kind, metadata: { name, namespace = '' } }) => ({
        kind,
        namespace,
        name,
      }));
      const body = { objects: names, set: null, dryRun: false };
      await askDaemon(this.nodes[0].stateDir, 'POST', '/v1/objects/delete', body);
      return;
    }
    for (const directory of this.directories) {
      for (const it of objects) await rm(join(directory, fileOf(it)), { force: true });
    }
  }

  /** Removes all that was put. */
  async clear(): Promise<void> {
    if (this.#present.size > 0) await this.remove(...this.#present.values());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.lab[Symbol.asyncDispose]();
  }
}

/** Asks until it answers so. @returns what it said last, so or not */
export async function answerOf(
  prober: Prober,
  question: Omit<Question, 'id' | 'timeoutMs'>,
  pattern: RegExp,
  timeoutMs = 500,
): Promise<string> {
  let got = '';
  await poll(async () => {
    got = await prober.ask({ ...question, timeoutMs });
    return pattern.test(got) ? true : undefined;
  }, within(EFFECT_WITHIN_MS)).catch(() => undefined);
  return got;
}

/**
 * Makes the change, and asks again and again meanwhile, each time as a new flow.
 * @returns ms from the beginning of the change to the first question that was answered so
 * @throws Error unless that comes within seconds
 */
export async function effectMs(
  prober: Prober,
  question: Omit<Question, 'id'>,
  pattern: RegExp,
  change: () => Promise<void>,
): Promise<number> {
  const asked: { readonly atMs: number; readonly got: Promise<string> }[] = [];
  const startMs = performance.now();
  const sinceMs = (): number => performance.now() - startMs;
  const asking = setInterval(() => {
    asked.push({ atMs: sinceMs(), got: prober.ask(question) });
  }, EVERY_MS);
  try {
    await change();
    let row: number[] = [];
    let last = '';
    for (let i = 0; sinceMs() < EFFECT_WITHIN_MS; i++) {
      while (asked[i] === undefined) await sleep(EVERY_MS);
      last = await asked[i]!.got;
      row = pattern.test(last) ? [...row, asked[i]!.atMs] : [];
      if (row.length === IN_A_ROW) return Math.round(row[0]!);
    }
    throw new Error(`not ${pattern} within ${EFFECT_WITHIN_MS} ms but "${last}"`);
  } finally {
    clearInterval(asking);
    await Promise.all(asked.map((it) => it.got));
  }
}
