/**
 * `weft check --serve`: a pod that stays and answers, until it is told to end; and what `weft check` of other
 * nodes asks such pods. They are found as objects, as all pods are: no node has another one make a pod.
 */
import { readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { INTERFACE_OF } from './object-keys.ts';
import { addressOrNull, formatAddress } from '../wire/address.ts';
import { type CheckResult, type Finding, failed, ok, skipped } from './check-result.ts';
import { CHECK_PORT } from './check-echo.ts';
import { type CheckPod, addCheckPod, removeCheckPod } from './check-pod.ts';
import type {
  IpamMessage,
  ObjectsMessage,
  StatusMessage,
  TraceMessage,
  TraceStage,
} from './messages.ts';
import type { Ask } from './object-commands.ts';

const NAMESPACE = 'weft-check';
/** A node has one. */
const CONTAINER_ID = 'weft-check-serve';
const ECHO = [
  process.execPath,
  '--disable-warning=ExperimentalWarning',
  join(import.meta.dirname, 'check-echo.ts'),
];
const SMALL_BYTES = 1000;
const BULK_BYTES = 8 << 20;

/** The pod cannot be made, or is gone before its time. */
export class ServeError extends Error {
  override readonly name = 'ServeError';
  readonly code = 'ERR_CHECK_SERVE';
}

interface ServedPod {
  readonly node: string;
  readonly addresses: readonly string[];
}

/** An object of etcd, by what is needed of it; null: it is none of ours, or not well made. */
function servedPod(raw: ObjectsMessage['items'][number]): ServedPod | null {
  const { metadata, spec, status } = raw as {
    metadata?: { annotations?: Record<string, unknown> };
    spec?: { nodeName?: unknown };
    status?: { podIPs?: unknown };
  };
  if (typeof spec?.nodeName !== 'string' || !Array.isArray(status?.podIPs)) return null;
  if (metadata?.annotations?.[INTERFACE_OF] !== undefined) return null;
  const addresses = (status.podIPs as readonly { ip?: unknown }[]).flatMap((it) => {
    const address = typeof it?.ip === 'string' ? addressOrNull(it.ip) : null;
    return address === null ? [] : [formatAddress(address)];
  });
  return { node: spec.nodeName, addresses };
}

async function servedPods(ask: Ask): Promise<readonly ServedPod[]> {
  const { items } = await ask<ObjectsMessage>('GET', `/v1/objects/pods?namespace=${NAMESPACE}`);
  return items.map(servedPod).filter((it) => it !== null);
}

interface Way {
  readonly containerId: string;
  readonly to: string;
  readonly protocol: 'ICMP' | 'TCP' | 'UDP';
}

/** The first stage that drops it, as this node knows both ends; null: none does. */
async function obstacle(way: Way, ask: Ask): Promise<TraceStage | null> {
  const query = new URLSearchParams({
    from: `default/${way.containerId}`,
    to: way.to,
    protocol: way.protocol,
    ...(way.protocol === 'ICMP' ? {} : { port: String(CHECK_PORT) }),
  });
  try {
    const { paths } = await ask<TraceMessage>('GET', `/v1/trace?${query.toString()}`);
    return paths[0]?.stages.find((it) => it.outcome === 'dropped') ?? null;
  } catch {
    // It does not know one of the two: nothing can be told beside the failure itself.
    return null;
  }
}

/** @param remedy  where nothing that this node knows is in the way, policies among it */
export async function failedOn(way: Way, ask: Ask, text: string, remedy: string): Promise<Finding> {
  const stage = await obstacle(way, ask);
  if (stage === null) return failed(text, remedy);
  return failed(
    `${text}; on ${stage.node}: ${stage.text} (${stage.reason})`,
    'if it should pass, change what is named: a policy, else what weft status shows there',
  );
}

interface Attempt {
  readonly address: string;
  readonly isDone: boolean;
  readonly text: string;
}

type Run = (address: string) => Promise<Omit<Attempt, 'address'>>;

/** Of all addresses at once. */
async function attempts(addresses: readonly string[], run: Run): Promise<readonly Attempt[]> {
  return await Promise.all(
    addresses.map(async (address) => ({ address, ...(await run(address)) })),
  );
}

const textOf = ({ address, text }: Attempt): string => `${address} ${text}`;

export const pingArgv = (address: string, ...more: readonly string[]): readonly string[] => [
  'ping',
  '-n',
  '-q',
  '-c',
  '3',
  '-i',
  '0.2',
  '-W',
  '1',
  ...more,
  address,
];

/** From that of our own pod to those that other nodes serve; each result as it is there. */
export async function* ofServedPods(
  { node, overlay }: Pick<StatusMessage, 'node' | 'overlay'>,
  own: CheckPod,
  containerId: string,
  ask: Ask,
  signal: AbortSignal,
): AsyncGenerator<CheckResult> {
  const name = 'pods of other nodes';
  let served: readonly ServedPod[];
  try {
    served = (await servedPods(ask)).filter((it) => it.node !== node);
  } catch (error) {
    yield { name, ...skipped(`they cannot be listed: ${(error as Error).message}`) };
    return;
  }
  if (served.length === 0) {
    yield { name, ...skipped('no other node runs weft check --serve') };
    return;
  }
  const hasFamily = (address: string): boolean =>
    own.addresses.some((it) => it.includes(':') === address.includes(':'));
  const mtuBytes = own.mtuBytes;
  const ping = async (address: string, ...more: readonly string[]) => {
    const { isDone, text } = await own.run(pingArgv(address, ...more));
    const [, averageMs] = /= [\d.]+\/([\d.]+)\//.exec(text) ?? [];
    return { isDone, text: isDone ? `${averageMs} ms` : 'silent' };
  };
  const echo = (protocol: 'tcp' | 'udp', bytes: number) => (address: string) =>
    own.run([...ECHO, protocol, address, String(bytes)]);
  const firewall = `does a firewall between drop UDP port ${overlay?.port}?`;
  const scenarios: readonly (readonly [string, Way['protocol'], Run, string])[] = [
    ['ping to', 'ICMP', (address) => ping(address), `${firewall} weft peers --probe`],
    ['a TCP connection to', 'TCP', echo('tcp', SMALL_BYTES), `${firewall} weft peers --probe`],
    ['a datagram to', 'UDP', echo('udp', SMALL_BYTES), `${firewall} weft peers --probe`],
    [
      `packets of ${mtuBytes} bytes to`,
      'ICMP',
      (address) => {
        const headers = address.includes(':') ? 48 : 28;
        return ping(address, '-M', 'do', '-s', String(mtuBytes - headers));
      },
      'set MTU in the network config, or mend the way between the nodes: weft peers --probe',
    ],
    [
      `${BULK_BYTES >> 20} MiB by TCP to`,
      'TCP',
      echo('tcp', BULK_BYTES),
      'look for drops here and there: weft status; and at the way between: weft peers --probe',
    ],
  ];
  for (const pod of served) {
    const addresses = pod.addresses.filter(hasFamily);
    const name = `the pod of ${pod.node}`;
    if (addresses.length === 0) {
      yield { name, ...skipped('it has no address of a family of ours') };
      continue;
    }
    for (const [what, protocol, run, remedy] of scenarios) {
      const made = await attempts(addresses, run);
      signal.throwIfAborted();
      yield { name: `${what} ${name}`, ...(await findingOf(made, protocol, remedy)) };
    }
  }

  async function findingOf(
    made: readonly Attempt[],
    protocol: Way['protocol'],
    remedy: string,
  ): Promise<Finding> {
    const first = made.find((it) => !it.isDone);
    if (first === undefined) return ok(made.map(textOf).join(', '));
    const way = { containerId, to: first.address, protocol };
    return await failedOn(way, ask, made.map(textOf).join(', '), remedy);
  }
}

/** Of a process that has ended, the number may be another one's. */
async function isThere(netns: string): Promise<boolean> {
  try {
    return (await readlink(netns)) !== (await readlink('/proc/self/ns/net'));
  } catch {
    return false;
  }
}

export interface Serving {
  readonly pod: string;
  readonly addresses: readonly string[];
  readonly port: number;
}

const PUBLISHED_WITHIN_MS = 10_000;
const PUBLISHED_LOOK_MS = 100;

/**
 * Until the signal is aborted; nothing is left then.
 * @param onServing  the other nodes can know the pod
 * @throws ServeError; what the daemon answers
 */
export async function serveCheckPod(
  ask: Ask,
  signal: AbortSignal,
  onServing: (serving: Serving) => Promise<void>,
): Promise<void> {
  const { node } = await ask<StatusMessage>('GET', '/v1/status');
  const { attachments } = await ask<IpamMessage>('GET', '/v1/ipam');
  const earlier = attachments.find((it) => it.containerId === CONTAINER_ID);
  if (earlier !== undefined) {
    if (await isThere(earlier.netns)) {
      throw new ServeError(
        `this node serves a pod already, ${earlier.pod}; end that command first`,
      );
    }
    // Its command was killed.
    await removeCheckPod(CONTAINER_ID, ask);
  }
  await using pod = await addCheckPod(
    {
      containerId: CONTAINER_ID,
      pod: { namespace: NAMESPACE, name: node },
      holder: [...ECHO, 'serve'],
    },
    ask,
    signal,
  );
  const isPublished = async (): Promise<boolean> =>
    (await servedPods(ask)).some((it) => pod.addresses.every((own) => it.addresses.includes(own)));
  const untilMs = performance.now() + PUBLISHED_WITHIN_MS;
  while (!signal.aborted && !(await isPublished())) {
    if (performance.now() > untilMs) {
      throw new ServeError(
        `the pod is not told to the other nodes within ${PUBLISHED_WITHIN_MS / 1000} s: weft status`,
      );
    }
    await sleep(PUBLISHED_LOOK_MS);
  }
  if (signal.aborted) return;
  await onServing({ pod: `${NAMESPACE}/${node}`, addresses: pod.addresses, port: CHECK_PORT });
  const aborted = new Promise<'aborted'>((resolve) => {
    if (signal.aborted) resolve('aborted');
    signal.addEventListener('abort', () => resolve('aborted'), { once: true });
  });
  if ((await Promise.race([aborted, pod.ended])) !== 'aborted') {
    throw new ServeError('what answers in the pod has ended; the pod is taken away');
  }
}
