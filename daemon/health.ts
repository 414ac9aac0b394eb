/**
 * The questions of those who watch a node, over TCP and open to everybody who reaches the port: is the
 * process to be restarted (`/livez`), does it forward (`/healthz`), is it ready for changes (`/readyz`),
 * and its numbers (`/metrics`).
 */
import { readTable } from '../linux/nft.ts';
import type { Dataplane } from '../overlay/types.ts';
import { formatAddress } from '../wire/address.ts';
import { Answer, type ApiRoute, listenOnTcp } from './api.ts';
import { type Config, ConfigError } from './config.ts';
import type { ObjectsStatus } from './messages.ts';
import type { Reading } from './metrics.ts';
import { HOST_COUNTERS, NFT_FAMILY, NFT_TABLE } from './ruleset.ts';

export interface Check {
  readonly name: string;
  /** Null: it passes. */
  readonly reason: string | null;
}

/** What readiness is made of. */
export interface Readiness {
  /** Null: it runs; else what its start waits for. */
  readonly packetPath: string | null;
  /** Of the lease; null: held. */
  readonly lease: string | null;
  readonly arePeersKnown: boolean;
  readonly isHostApplied: boolean;
  readonly hostProblem: string | null;
  readonly areObjectsKnown: boolean;
  readonly objectFailure: string | null;
  /** Null: etcd answers, or has not been heard of yet. */
  readonly store: string | null;
  /** Null: etcd has been heard of; else what the start waits for. */
  readonly firstAnswer: string | null;
}

/** Each step of the start needs the ones before it. */
const startSteps = (it: Readiness): readonly Check[] => [
  { name: 'packet-path', reason: it.packetPath },
  { name: 'lease', reason: it.lease },
  { name: 'peers', reason: it.arePeersKnown ? null : 'peers have not been listed yet' },
  { name: 'host', reason: it.isHostApplied ? null : 'routes and rules are not set yet' },
  {
    name: 'objects',
    reason: it.areObjectsKnown ? null : 'policies and Services have not been listed yet',
  },
];

const prefixed = (text: string, reason: string | null): string | null =>
  reason === null ? null : `${text}: ${reason}`;

/** What may go wrong afterwards, and while packets are forwarded. */
const troubles = (it: Readiness): readonly Check[] => [
  {
    name: 'objects',
    reason: prefixed('policies and Services stay as they were', it.objectFailure),
  },
  { name: 'host', reason: prefixed('host state', it.hostProblem) },
  { name: 'store', reason: prefixed('etcd', it.store) },
];

/** Why a node is not ready, one line each: of the start only what it waits for now. */
export function reasonsOf(readiness: Readiness): readonly string[] {
  const waiting = startSteps(readiness).find(({ reason }) => reason !== null);
  return [...(waiting === undefined ? [] : [waiting]), ...troubles(readiness)]
    .map(({ reason }) => reason)
    .filter((reason) => reason !== null);
}

/** Every check once, by name, whatever others say. */
export function checksOf(readiness: Readiness): readonly Check[] {
  const found = new Map<string, string | null>();
  const asked = { name: 'store', reason: readiness.firstAnswer };
  for (const { name, reason } of [...startSteps(readiness), ...troubles(readiness), asked]) {
    found.set(name, found.get(name) ?? reason);
  }
  return Array.from(found, ([name, reason]) => ({ name, reason }));
}

/** A worker that gives no sign of life for so long carries no packets. */
const SILENT_MS_MAX = 5_000;

/** Etcd, the lease and the host have no part in it: a restart mends none of them. */
export function livenessOf(dataplane: Pick<Dataplane, 'silentMs'> | null): readonly Check[] {
  const silentMs = dataplane?.silentMs() ?? 0;
  const reason =
    silentMs > SILENT_MS_MAX
      ? `a packet worker has not answered for ${Math.round(silentMs / 1000)} s`
      : null;
  return [
    // Who reads this got an answer from it.
    { name: 'main-thread', reason: null },
    { name: 'packet-path', reason },
  ];
}

/** As Kubernetes' components answer `?verbose`; reasons come from etcd too: no control character. */
export function verboseText(question: string, checks: readonly Check[]): string {
  const lines = checks.map(({ name, reason }) =>
    reason === null
      ? `[+]${name} ok`
      : `[-]${name} failed: ${reason.replaceAll(/\p{Cc}+/gu, ' ').trim()}`,
  );
  const isGood = checks.every((it) => it.reason === null);
  return [...lines, `${question} check ${isGood ? 'passed' : 'failed'}`, ''].join('\n');
}

export interface HealthSubject {
  readonly forwarding: () => boolean;
  readonly readiness: () => Readiness;
  readonly objects: () => ObjectsStatus | null;
  readonly dataplane: () => Pick<Dataplane, 'silentMs'> | null;
  /** Without what nft counts. */
  readonly reading: () => Reading;
}

const TEXT = 'text/plain; charset=utf-8';
/** A program is run for the host's counters: not for each who asks. */
const HOST_COUNTERS_MS = 5_000;

/** Packets that the nft table refused, as `host.…`. */
function hostCounters(): () => Promise<Readonly<Record<string, number>>> {
  let askedMs = -Infinity;
  let last: Promise<Readonly<Record<string, number>>> = Promise.resolve({});
  const read = async (): Promise<Readonly<Record<string, number>>> => {
    const table = await readTable(NFT_FAMILY, NFT_TABLE);
    return Object.fromEntries(
      Object.entries(HOST_COUNTERS).map(([name, counter]) => [name, table?.counters[counter] ?? 0]),
    );
  };
  return () => {
    const nowMs = performance.now();
    if (nowMs - askedMs >= HOST_COUNTERS_MS) {
      askedMs = nowMs;
      // Nobody is told 0 where nothing is known.
      last = read().catch(() => ({}));
    }
    return last;
  };
}

export function healthRoutes(subject: HealthSubject): readonly ApiRoute[] {
  const readHost = hostCounters();
  const summary = (path: string, isGood: () => boolean, checks: () => readonly Check[]) => ({
    method: 'GET' as const,
    path,
    answer: ({ query }: { readonly query: URLSearchParams }): Answer => {
      const good = isGood();
      const status = good ? 200 : 503;
      if (query.has('verbose')) {
        return new Answer(status, verboseText(path.slice(1), checks()), TEXT);
      }
      const reasons = reasonsOf(subject.readiness());
      const objects = subject.objects();
      const counts = objects && { ...objects, problems: objects.problems.length };
      const body = { status: good ? 'ok' : 'unavailable', ready: reasons.length === 0, reasons };
      return new Answer(status, { ...body, objects: counts });
    },
  });
  return [
    summary('/healthz', subject.forwarding, () => [
      { name: 'forwarding', reason: subject.forwarding() ? null : 'packets are not forwarded' },
    ]),
    summary(
      '/readyz',
      () => reasonsOf(subject.readiness()).length === 0,
      () => checksOf(subject.readiness()),
    ),
    {
      method: 'GET',
      path: '/livez',
      answer: ({ query }): Answer => {
        const checks = livenessOf(subject.dataplane());
        const isGood = checks.every((it) => it.reason === null);
        const text = verboseText('livez', checks);
        return new Answer(isGood ? 200 : 503, !isGood || query.has('verbose') ? text : 'ok', TEXT);
      },
    },
    {
      method: 'GET',
      path: '/metrics',
      answer: async (): Promise<Answer> => {
        // Loaded when the first one asks: pods wait for a daemon that starts.
        const { formatMetrics } = await import('./metrics.ts');
        const reading = subject.reading();
        const counters = reading.forwarding
          ? { ...reading.counters, ...(await readHost()) }
          : reading.counters;
        const { text, type } = await formatMetrics({ ...reading, counters });
        return new Answer(200, text, type);
      },
    },
  ];
}

/** @throws ConfigError when the port cannot be had; null: none is asked for */
export async function listenForHealth(
  { healthzIp, healthzPort }: Pick<Config, 'healthzIp' | 'healthzPort'>,
  subject: HealthSubject,
  onError: (error: unknown) => void,
): Promise<AsyncDisposable | null> {
  if (healthzPort === 0) return null;
  const host = formatAddress(healthzIp);
  try {
    return await listenOnTcp(host, healthzPort, { routes: healthRoutes(subject), onError });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new ConfigError(`--healthz-port: cannot listen on ${host} ${healthzPort} (${code})`, {
      cause,
    });
  }
}
