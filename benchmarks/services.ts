/**
 * `npm run bench:services`: what Services and policies cost. Two nodes, a client and a server; the same
 * daemon with a small set of objects (10 Services, 10 policies) and a large one (10,000 Services of 10
 * endpoints, 1,000 policies, 5,000 pods) in turns, and without flows at all (`--max-flows=0`).
 *
 *   connect   TCP connections to a Service, one after the other, microseconds
 *   bulk      TCP to the server's address for a second, Gb/s
 *   change    from a written manifest to its effect on packets of the other node, milliseconds
 */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type Running, poll } from '../linux/program.ts';
import { type Lab, type LabPod, createLab } from '../test/lab/lab.ts';
import { Prober } from '../test/lab/prober.ts';
import { bulkTcp } from '../test/lab/traffic/traffic.ts';
import { newTable } from './report.ts';

const VIP = '10.96.255.10';
const CONNECT = join(import.meta.dirname, '../test/lab/traffic/tcp-connect.ts');
const PORT = 9000;
const PROBE_PORT = 9001;
/** No answer in this time is none; TCP asks again after a second. */
const SILENCE_MS = 400;
/** An answer is one whenever it comes: ask again soon. */
const ANSWER_MS = 20;
/** Of 10 ms, in a second, of both daemons. */
const IDLE_TICKS = 4;
const QUIET_SECONDS = 2;

interface Sizes {
  readonly services: number;
  readonly endpoints: number;
  readonly policies: number;
  readonly pods: number;
}
const SMALL: Sizes = { services: 10, endpoints: 10, policies: 10, pods: 50 };
const LARGE: Sizes = { services: 10_000, endpoints: 10, policies: 1000, pods: 5000 };

const podAddress = (i: number): string => `10.244.${100 + ((i >> 8) % 100)}.${i & 255 || 1}`;

/** Objects of other nodes, a Service whose endpoint is the server, and policies that select both pods. */
function objectsOf(sizes: Sizes, server: LabPod): readonly object[] {
  const items: object[] = [];
  for (let i = 0; i < sizes.pods; i++) {
    items.push({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        namespace: `team-${i % 100}`,
        name: `pod-${i}`,
        labels: { app: `app-${i % 50}`, tier: `tier-${i % 3}` },
      },
      spec: { nodeName: `other-${i >> 8}` },
      status: { phase: 'Running', podIP: podAddress(i), podIPs: [{ ip: podAddress(i) }] },
    });
  }
  const slice = (name: string, addresses: readonly string[], port: number): object => ({
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: {
      namespace: 'lab',
      name: `${name}-1`,
      labels: { 'kubernetes.io/service-name': name },
    },
    addressType: 'IPv4',
    ports: [{ name: '', protocol: 'TCP', port }],
    endpoints: addresses.map((it) => ({ addresses: [it], conditions: { ready: true } })),
  });
  const service = (name: string, clusterIP: string, targetPort: number): object => ({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { namespace: 'lab', name },
    spec: { clusterIP, clusterIPs: [clusterIP], ports: [{ port: 80, targetPort }] },
  });
  items.push(service('target', VIP, PORT), slice('target', [server.address4!], PORT));
  for (let i = 0; i < sizes.services - 1; i++) {
    const name = `service-${i}`;
    items.push(
      service(name, `10.97.${i >> 8}.${i & 255}`, 8080),
      slice(
        name,
        Array.from({ length: sizes.endpoints }, (_, e) => podAddress(i * 7 + e)),
        8080,
      ),
    );
  }
  for (let i = 0; i < sizes.policies; i++) {
    items.push({
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      // Every other one selects the pods that are measured.
      metadata: { namespace: i % 2 === 0 ? 'lab' : `team-${i % 100}`, name: `policy-${i}` },
      spec: {
        podSelector: {},
        policyTypes: ['Ingress', 'Egress'],
        ingress: [
          {
            from: [
              { namespaceSelector: {}, podSelector: { matchLabels: { app: `app-${i % 50}` } } },
              { ipBlock: { cidr: `10.${i % 200}.0.0/16` } },
              { podSelector: {} },
            ],
            ports: [{ port: 1000 + i }, { port: PORT }, { port: 5201 }],
          },
        ],
        egress: [{ to: [{ podSelector: {} }] }],
      },
    });
  }
  return items;
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
const percentile = (values: readonly number[], share: number): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * share)] ?? Number.NaN;

class Bench {
  readonly #lab: Lab;
  readonly #directories: readonly string[];
  #daemons: readonly Running[] = [];

  constructor(lab: Lab) {
    this.#lab = lab;
    this.#directories = lab.nodes.map((node) => join(node.directory, 'objects'));
  }

  get pods(): readonly [LabPod, LabPod] {
    const [a, b] = this.#lab.nodes;
    return [a!.pods[0]!, b!.pods[0]!];
  }

  async start(): Promise<void> {
    for (const directory of this.#directories) await mkdir(directory, { recursive: true });
    await this.restart([]);
    await this.#lab.attachPods();
  }

  async restart(flags: readonly string[]): Promise<void> {
    await Promise.all(this.#daemons.map((it) => it.stop()));
    this.#daemons = await Promise.all(
      this.#lab.nodes.map((node, i) =>
        node.startDaemon([`--objects=${this.#directories[i]!}`, ...flags]),
      ),
    );
  }

  async write(name: string, objects: readonly object[]): Promise<void> {
    const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
    for (const directory of this.#directories) {
      await writeFile(join(directory, `.${name}`), text);
      await rename(join(directory, `.${name}`), join(directory, `${name}.json`));
    }
  }

  /** Until the daemons have nothing to do: what was written is read, and the garbage of it gone. */
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

  async connects(
    count: number,
    address: string,
    port: number,
  ): Promise<{ p50: number; p99: number }> {
    const [client] = this.pods;
    const words = ['ask', `${count}`, address, `${port}`];
    return JSON.parse(await client.run([process.execPath, CONNECT, ...words])) as {
      p50: number;
      p99: number;
    };
  }

  async bulk(seconds: number): Promise<number> {
    const [client, server] = this.pods;
    const { bitsPerSecond } = await bulkTcp(client, server, server.address4!, { seconds });
    return bitsPerSecond / 1e9;
  }

  async residentMiB(): Promise<number> {
    const each = await Promise.all(
      this.#daemons.map(({ pid }) => readFile(`/proc/${pid}/status`, 'utf8')),
    );
    return Math.max(...each.map((it) => Number(/VmRSS:\s+(\d+)/.exec(it)![1]) / 1024));
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      json: { type: 'string' },
      rounds: { type: 'string', default: '3' },
      connects: { type: 'string', default: '2000' },
      changes: { type: 'string', default: '40' },
    },
  });
  await using lab = await createLab({
    nodes: 2,
    podsPerNode: 1,
    families: 4,
    underlay: 'direct',
  });
  const bench = new Bench(lab);
  await bench.start();
  const [client, server] = bench.pods;
  await server.start([process.execPath, CONNECT, 'serve', `${PORT}`], {
    ready: { line: /^ready$/ },
  });
  const own = await Prober.start(client, lab.directory, []);
  await Prober.start(server, lab.directory, [PROBE_PORT]);
  const results: Record<string, number[]> = {};
  const note = (name: string, value: number): void => {
    (results[name] ??= []).push(value);
    process.stderr.write(`${name} ${value.toFixed(2)}\n`);
  };
  const serves = async (): Promise<true | undefined> => {
    const got = await own.ask({ protocol: 'TCP', address: VIP, port: 80, timeoutMs: 500 });
    return got === '' ? true : undefined;
  };
  const rounds = Number(values.rounds);
  for (let round = 0; round < rounds; round++) {
    for (const [name, sizes] of [
      ['small', SMALL],
      ['large', LARGE],
      ['large', LARGE],
      ['small', SMALL],
    ] as const) {
      await bench.write('set', objectsOf(sizes, server));
      await poll(serves, AbortSignal.timeout(60_000));
      await bench.settled();
      const { p50, p99 } = await bench.connects(Number(values.connects), VIP, 80);
      note(`connect.${name}.p50`, p50);
      note(`connect.${name}.p99`, p99);
      note(`bulk.${name}`, await bench.bulk(1));
      note(`resident.${name}`, await bench.residentMiB());
    }
  }
  // One policy more or less: the client may not, and may again, ask the server's other port.
  const gate = (isOpen: boolean): object => ({
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { namespace: 'lab', name: 'gate' },
    spec: {
      podSelector: {},
      policyTypes: ['Ingress'],
      ingress: isOpen ? [{ ports: [{ port: PROBE_PORT }] }] : [],
    },
  });
  for (const [name, sizes] of [
    ['small', SMALL],
    ['large', LARGE],
  ] as const) {
    await bench.write('set', objectsOf(sizes, server));
    await poll(serves, AbortSignal.timeout(60_000));
    await bench.settled();
    for (let i = 0; i < Number(values.changes); i++) {
      const isOpen = i % 2 === 0;
      const begin = performance.now();
      await bench.write('gate', [gate(isOpen)]);
      let askedMs: number;
      for (;;) {
        askedMs = performance.now();
        const got = await own.ask({
          protocol: 'TCP',
          address: server.address4!,
          port: PROBE_PORT,
          timeoutMs: isOpen ? ANSWER_MS : SILENCE_MS,
        });
        if (got.startsWith(`${PROBE_PORT}`) === isOpen) break;
        if (performance.now() - begin > 10_000) throw new Error('a change took no effect in 10 s');
      }
      // A denial was in effect when it was asked for; a permission when it was answered.
      if (isOpen) askedMs = performance.now();
      note(`change.${name}`, askedMs - begin);
    }
  }
  await bench.write('gate', [gate(true)]);
  for (let round = 0; round < rounds; round++) {
    for (const [name, flags] of [
      ['tracked', []],
      ['untracked', ['--max-flows=0']],
      ['untracked', ['--max-flows=0']],
      ['tracked', []],
    ] as const) {
      await bench.restart(flags);
      await poll(
        async () => ((await bench.bulk(1)) > 0 ? true : undefined),
        AbortSignal.timeout(20_000),
      );
      note(`bulk.${name}`, await bench.bulk(2));
    }
  }
  const table = newTable(['', 'median', 'p99', 'runs']);
  for (const [name, all] of Object.entries(results)) {
    table.push([name, median(all).toFixed(2), percentile(all, 0.99).toFixed(2), all.length]);
  }
  console.log(table.toString());
  const ratio = (a: string, b: string): string =>
    (median(results[a] ?? []) / median(results[b] ?? [])).toFixed(3);
  console.log(`connect p50, large of small: ${ratio('connect.large.p50', 'connect.small.p50')}`);
  console.log(`bulk, large of small: ${ratio('bulk.large', 'bulk.small')}`);
  console.log(`bulk, tracked of untracked: ${ratio('bulk.tracked', 'bulk.untracked')}`);
  if (values.json !== undefined) await writeFile(values.json, JSON.stringify(results, null, 2));
}

await main();
