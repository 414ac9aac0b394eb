/**
 * Two nodes with the real daemon and one pod each, for many rows of a table:
 *
 *     n1p1 --- n1 (weft) ======= VXLAN ======= n2 (weft) --- n2p1
 *
 * Daemons come and go; lease, device and pods stay.
 */
import { readFile, readFileSync } from 'node:fs';
import { get } from 'node:http';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ExecutionContext } from 'ava';
import type { IpamMessage, StatusMessage } from '../../daemon/messages.ts';
import { writeSysctls } from '../../linux/netns.ts';
import { type Running, collect, poll } from '../../linux/program.ts';
import {
  type Lab,
  type LabHost,
  type LabNode,
  type LabOptions,
  type LabPod,
  createLab,
  reaches,
} from '../lab/lab.ts';
import { labPrefix } from '../lab/run.ts';

export const WEFT = join(import.meta.dirname, '..', '..', 'bin', 'weft');
export const EXCHANGE = [process.execPath, join(import.meta.dirname, 'exchange.ts')];

export const within = (ms: number): AbortSignal => AbortSignal.timeout(ms);
export const stateDirOf = (node: LabNode): string => `--state-dir=${join(node.directory, 'state')}`;

export interface Pair extends AsyncDisposable {
  readonly lab: Lab;
  readonly nodes: readonly [LabNode, LabNode];
  readonly pods: readonly [LabPod, LabPod];
  readonly daemons: [Running, Running];
  /** Ends both daemons and starts them anew. Flags: of the first, and of the second if they differ. */
  restart(first: readonly string[], second?: readonly string[]): Promise<void>;
}

/** A lab whose nodes have each other as peers, and whose pods answer exchanges. */
export async function createPair(
  options: Omit<LabOptions, 'nodes' | 'prefix'>,
  suffix: string,
  first: readonly string[] = [],
  second = first,
): Promise<Pair> {
  const lab = await createLab({ nodes: 2, prefix: `${labPrefix()}${suffix}`, ...options });
  try {
    const nodes = lab.nodes as unknown as readonly [LabNode, LabNode];
    const start = async (flags: readonly (readonly string[])[]): Promise<[Running, Running]> => {
      const daemons = await Promise.all(nodes.map((node, i) => node.startDaemon(flags[i])));
      for (const node of nodes) await peersKnown(node);
      return daemons as [Running, Running];
    };
    const daemons = await start([first, second]);
    await lab.attachPods();
    const pods = lab.pods as unknown as readonly [LabPod, LabPod];
    for (const pod of pods) {
      // Whatever the machine's default: BBR takes long to believe that a loss has ended.
      await writeSysctls({ 'net.ipv4.tcp_congestion_control': 'reno' }, pod.netns);
      await pod.start([...EXCHANGE, 'serve'], { ready: { line: /^ready$/ } });
    }
    const pair: Pair = {
      lab,
      nodes,
      pods,
      daemons,
      async restart(one, other = one) {
        await Promise.all(pair.daemons.map((it) => it.stop()));
        const next = await start([one, other]);
        pair.daemons.splice(0, 2, ...next);
      },
      [Symbol.asyncDispose]: () => lab[Symbol.asyncDispose](),
    };
    return pair;
  } catch (error) {
    await lab[Symbol.asyncDispose]();
    throw error;
  }
}

const ask = <T>(node: LabNode, path: string): Promise<T> =>
  new Promise((resolve, reject) => {
    get({ socketPath: join(node.stateDir, 'weft.sock'), path, agent: false }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (piece: string) => (text += piece));
      answer.on('end', () => resolve(JSON.parse(text) as T));
    }).on('error', reject);
  });

/** What `weft status -o json` prints. */
export const statusOf = (node: LabNode): Promise<StatusMessage> => ask(node, '/v1/status');

/** The node's pods and their addresses. */
export const ipamOf = (node: LabNode): Promise<IpamMessage> => ask(node, '/v1/ipam');

/** Ready, with a peer. */
export const peersKnown = (node: LabNode): Promise<StatusMessage> =>
  poll(async () => {
    const status = await statusOf(node);
    return status.ready && status.peers.length > 0 ? status : undefined;
  }, within(20_000));

export type Counters = StatusMessage['counters'];

/** What the counters are once nothing moves any more. */
export async function settled(node: LabNode): Promise<Counters> {
  let last = '';
  return await poll(async () => {
    const { counters } = await statusOf(node);
    const text = JSON.stringify(counters);
    if (text === last) return counters;
    last = text;
    return undefined;
  }, within(20_000));
}

export const dropsOf = (counters: Counters): Record<string, number> =>
  Object.fromEntries(
    Object.entries(counters)
      .filter(([name, count]) => name.startsWith('drop.') && count > 0)
      .map(([name, count]) => [name.slice(5), count]),
  );

const EGRESS = ['notOurSource', 'noPeer', 'multicast', 'martian', 'offloadHeader'];
const SENDING = ['sendQueueFull', 'sendFailed'];
const IN_KERNEL = ['receiveQueueFull', 'tunQueueFull'];
/** Counted at more than one stage; of the others no test of the sums has any. */
const AMBIGUOUS = ['ipHeader', 'noPod', 'tooBig', 'notForwarding', 'tunDown', 'tunWriteFailed'];

/** The three sums of overlay/counters.ts; no drops but those `allowed`. */
export function addsUp(
  t: ExecutionContext,
  what: string,
  counters: Counters,
  allowed: readonly string[] = ['multicast'],
): void {
  const drops = dropsOf(counters);
  const sum = (isOne: (name: string) => boolean): number =>
    Object.entries(drops).reduce((all, [name, count]) => (isOne(name) ? all + count : all), 0);
  const one = (name: string): number => counters[name]!;
  t.deepEqual(
    Object.keys(drops).filter((name) => !allowed.includes(name)),
    [],
    `${what}: ${JSON.stringify(drops)}`,
  );
  const out = one('tunPackets') - one('egressAccepted') - sum((it) => EGRESS.includes(it));
  const sent = one('egressDatagrams') - one('udpSentDatagrams') - sum((it) => SENDING.includes(it));
  // Found too big at the one stage or at the other.
  const tooBig = drops['tooBig'] ?? 0;
  t.true(out >= 0 && sent >= 0 && out + sent === tooBig, `${what}: ${out} + ${sent} of ${tooBig}`);
  const elsewhere = new Set([...EGRESS, ...SENDING, ...IN_KERNEL, ...AMBIGUOUS]);
  t.is(one('udpDatagrams'), one('tunDelivered') + sum((it) => !elsewhere.has(it)), `${what}: in`);
  const back = one('localDelivered') + one('hostDelivered');
  t.true(back <= one('egressAccepted'), `${what}: ${back} of ${one('egressAccepted')} went back`);
}

export interface TcpResult {
  readonly sent: number;
  readonly received: number;
  /** Both directions, byte by byte. */
  readonly intact: boolean;
}

export interface UdpResult {
  readonly sent: number;
  readonly received: number;
  /** Damaged, or out of order. */
  readonly wrong: number;
}

/** Both ends send so many bytes at once. @throws unless it ends in time */
export async function exchangeTcp(
  from: LabHost,
  address: string,
  bytes: number,
  ms = 20_000,
): Promise<TcpResult> {
  const words = ['tcp', address, `${bytes}`];
  return JSON.parse(await from.run([...EXCHANGE, ...words], { signal: within(ms) })) as TcpResult;
}

interface Part {
  readonly tcp?: TcpResult;
  readonly udp?: UdpResult;
  readonly bytes?: number;
  readonly segments?: number;
}

/** TCP both ways and datagrams of every kind, to each address: all arrive, whole and in order. */
export async function exchangeAll(t: ExecutionContext, from: LabHost, to: LabPod): Promise<void> {
  const text = await from.run([...EXCHANGE, 'all', ...to.addresses], { signal: within(30_000) });
  const parts = text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Part);
  t.true(parts.length >= 2 * to.addresses.length);
  for (const { tcp, udp, bytes, segments } of parts) {
    if (tcp !== undefined) t.like(tcp, { received: tcp.sent, intact: true }, 'TCP');
    else
      t.like(udp, { received: udp!.sent, wrong: 0 }, `UDP, ${segments} of ${bytes} bytes at once`);
  }
}

export interface Flowing {
  /** Sends the rest, and checks the whole. */
  finish(ms: number): Promise<TcpResult>;
}

/** A TCP connection that sends until it is told to finish. Returned when megabytes have gone. */
export async function startTcp(from: LabHost, address: string): Promise<Flowing> {
  const client = await from.start([...EXCHANGE, 'tcp', address, '20000000', 'on-signal'], {
    ready: { line: /^flowing$/ },
  });
  return {
    async finish(ms) {
      process.kill(client.pid, 'SIGUSR1');
      const ended = await Promise.race([
        client.exited,
        poll(async () => undefined, within(ms), 100).catch(() => 'too slow' as const),
      ]);
      if (ended !== 0) {
        await client.stop('SIGKILL');
        throw new Error(`a TCP connection from ${from.name} ended with ${ended} in ${ms} ms`);
      }
      return JSON.parse(client.output().trim().split('\n').at(-1) ?? '') as TcpResult;
    },
  };
}

interface LogLine {
  readonly msg: string;
  readonly time: string;
  readonly [field: string]: unknown;
}

export const logOf = (node: LabNode): LogLine[] =>
  readFileSync(node.daemonLog, 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as LogLine);

/** Resident memory, bytes. */
export async function residentBytes({ pid }: Running): Promise<number> {
  const text = await promisify(readFile)(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(text)![1]) * 1024;
}

export async function allReach(pair: Pair): Promise<void> {
  const [a, b] = pair.pods;
  for (const address of b.addresses) await reaches(a, address);
  for (const address of a.addresses) await reaches(b, address);
}

/** The counter of the nft guard. */
export async function fromPods(node: LabNode): Promise<number> {
  const { stdout } = await collect(['nft', 'list', 'counter', 'inet', 'weft', 'vxlan_from_pod'], {
    netns: node.netns,
  });
  return Number(/packets (\d+)/.exec(stdout)?.[1]);
}
