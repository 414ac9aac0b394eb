/** What if the policies were others: the daemon's side of `weft policy diff`, and its routes. */
import { Worker } from 'node:worker_threads';
import { z } from 'zod';
import { isIgnored, parseObjects } from '../objects/parse.ts';
import {
  type ObjectSet,
  type Pod,
  type Protocol,
  type WeftObject,
  nameOf,
} from '../objects/types.ts';
import type { Surroundings } from '../policy/reference.ts';
import { AddressError, type IpAddress, formatAddress, parseAddress } from '../wire/address.ts';
import { ApiError, type ApiRoute } from './api.ts';
import { type PolicyEvent, durationMs } from './flow-log.ts';
import type { FlowEndMessage, FlowQuestion, PolicyDiffMessage } from './messages.ts';
import type { Names } from './names.ts';
import { type Diff, type DiffTask, type SeenFlow, isPolicy } from './policy-diff.ts';

/** As much as a request holds besides. */
const DOCUMENTS_MAX = 5_000;
const FLOWS_MAX = 20_000;
/** Sooner than who asks gives up. */
const DIFF_WITHIN_MS = 12_000;
const DIFF_MEMORY_MIB = 1024;

export interface WhatIfOptions {
  /** With this node's own pods; null before the first full list. */
  readonly objects: () => ObjectSet | null;
  readonly around: () => Pick<Surroundings, 'nodeName' | 'nodeAddresses'>;
  readonly names: () => Names;
  readonly seen: (sinceMs: number) => readonly PolicyEvent[];
}

const question = z.object({
  source: z.string().max(64),
  destination: z.string().max(64),
  protocol: z.int().min(0).max(255),
  port: z.int().min(0).max(65_535),
  count: z.int().min(1),
  firstSeen: z.iso.datetime(),
  lastSeen: z.iso.datetime(),
});
export const documentsSchema = z.array(z.record(z.string(), z.unknown())).max(DOCUMENTS_MAX);
const diffSchema = z.object({
  documents: documentsSchema,
  replace: z.boolean(),
  flows: z.array(question).max(FLOWS_MAX).nullable(),
  since: z.string().max(40).nullable(),
});

const PORTED: Readonly<Record<number, Protocol>> = { 6: 'TCP', 17: 'UDP', 132: 'SCTP' };

/** @throws ApiError */
export function checked<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const text = z.prettifyError(parsed.error).replaceAll(/\s*\n\s*/g, ' ');
  throw new ApiError(400, 'ERR_BODY', `the request is malformed: ${text.slice(0, 1000)}`);
}

/** Policies, each checked as if it were applied. @throws ApiError that names the first that is not valid */
export function policiesOf(
  raws: readonly Readonly<Record<string, unknown>>[],
): readonly WeftObject[] {
  return raws.map((raw, i) => {
    const { objects, problems } = parseObjects(JSON.stringify(raw), `object ${i + 1}`);
    const [object] = objects;
    const problem = problems.find((it) => !isIgnored(it));
    if (object !== undefined && objects.length === 1 && problem === undefined && isPolicy(object)) {
      return object;
    }
    const {
      object: name,
      field,
      reason,
    } = problem ?? {
      object: '',
      field: '',
      reason: 'it is no policy',
    };
    const text = [name || `object ${i + 1}`, field, reason].filter(Boolean).join(': ');
    throw new ApiError(422, 'ERR_OBJECT', `nothing was compared: ${text}`);
  });
}

/** The same for flows of one kind. */
export const kindKey = ({ source, destination, protocol, port, told }: PolicyEvent): string => {
  const text = (address: IpAddress): string => formatAddress(address);
  const service = told.service === null ? '' : `${told.service.namespace}/${told.service.name}`;
  return `${text(source)} ${text(destination)} ${told.protocol} ${protocol} ${port} ${service}`;
};

/** The pod that had the address then has it still; or it was nobody's, and is. */
const isOwner = (names: Names, address: IpAddress, pod: Pod | null): boolean => {
  const now = names.pod(address);
  return (now === null ? null : nameOf(now)) === (pod === null ? null : nameOf(pod));
};

/** One for all of one kind. @returns also how many kinds are of pods that are gone */
export function kindsOf(
  events: readonly PolicyEvent[],
  names: Names,
): { readonly flows: readonly SeenFlow[]; readonly gone: number } {
  const kinds = new Map<string, { event: PolicyEvent; count: number; lastMs: number }>();
  const gone = new Set<string>();
  for (const event of events) {
    const key = kindKey(event);
    const known = kinds.get(key);
    if (known !== undefined) {
      known.count++;
      known.lastMs = event.timeMs;
    } else if (
      isOwner(names, event.source, event.sourcePod) &&
      isOwner(names, event.destination, event.destinationPod)
    ) {
      kinds.set(key, { event, count: 1, lastMs: event.timeMs });
    } else gone.add(key);
  }
  const flows = Array.from(kinds.values(), ({ event, count, lastMs }) => {
    const { source, destination, protocol, port, isFrontend, told, timeMs } = event;
    const firstMs = timeMs;
    return { source, destination, protocol, port, isFrontend, told, count, firstMs, lastMs };
  });
  for (const key of kinds.keys()) gone.delete(key);
  return { flows, gone: gone.size };
}

/** A flow of a capture, with the names of now. @throws ApiError */
function seenOf(it: FlowQuestion, names: Names): SeenFlow {
  let source: IpAddress;
  let destination: IpAddress;
  try {
    source = parseAddress(it.source);
    destination = parseAddress(it.destination);
  } catch (cause) {
    if (!(cause instanceof AddressError)) throw cause;
    throw new ApiError(400, 'ERR_BODY', `a flow has no address: ${cause.message}`, { cause });
  }
  const ported = PORTED[it.protocol] ?? null;
  const end = (address: IpAddress, port: number | null): FlowEndMessage => {
    const pod = names.pod(address);
    return {
      address: formatAddress(address),
      port,
      namespace: pod?.metadata.namespace ?? null,
      pod: pod?.metadata.name ?? null,
      node: pod === null ? names.node(address) : pod.nodeName || null,
    };
  };
  const service = names.service(ported, destination, it.port);
  return {
    source,
    destination,
    protocol: ported ?? 'other',
    port: ported === null ? 0 : it.port,
    isFrontend: service !== null && names.pod(destination) === null,
    told: {
      source: end(source, null),
      destination: end(destination, ported === null ? null : it.port),
      service,
      protocol: ported ?? String(it.protocol),
    },
    count: it.count,
    firstMs: Date.parse(it.firstSeen),
    lastMs: Date.parse(it.lastSeen),
  };
}

/** On a thread of its own. @throws ApiError 503 when it takes too long, or too much memory */
async function diffApart(task: DiffTask): Promise<Diff> {
  const worker = new Worker(new URL('policy-diff-worker.ts', import.meta.url), {
    workerData: task,
    name: 'weft-policy-diff',
    resourceLimits: { maxOldGenerationSizeMb: DIFF_MEMORY_MIB },
  });
  const { promise, resolve, reject } = Promise.withResolvers<Diff>();
  const late = setTimeout(
    () => reject(new ApiError(503, 'ERR_TOO_LARGE', 'it takes too long; ask about less (--since)')),
    DIFF_WITHIN_MS,
  );
  worker.once('message', resolve);
  worker.once('error', (cause: NodeJS.ErrnoException) => {
    const { code } = cause;
    reject(
      code === 'ERR_WORKER_OUT_OF_MEMORY'
        ? new ApiError(503, 'ERR_TOO_LARGE', 'it takes too much memory', { cause })
        : cause,
    );
  });
  worker.once('exit', (code) => reject(new Error(`the comparison ended with exit code ${code}`)));
  try {
    return await promise;
  } finally {
    clearTimeout(late);
    await worker.terminate();
  }
}

export class WhatIf {
  readonly #options: WhatIfOptions;
  #isBusy = false;

  constructor(options: WhatIfOptions) {
    this.#options = options;
  }

  /** @throws ApiError */
  async diff(body: unknown): Promise<PolicyDiffMessage> {
    const request = checked(diffSchema, body);
    const policies = policiesOf(request.documents);
    const objects = this.#options.objects();
    if (objects === null) {
      throw new ApiError(503, 'ERR_NOT_READY', 'policies have not been listed yet');
    }
    if (this.#isBusy) {
      throw new ApiError(429, 'ERR_BUSY', 'another comparison runs; ask again when it is done');
    }
    this.#isBusy = true;
    try {
      const names = this.#options.names();
      const sinceMs = request.since === null ? 0 : Date.now() - durationMs(request.since);
      const { flows, gone } =
        request.flows === null
          ? kindsOf(this.#options.seen(sinceMs), names)
          : { flows: request.flows.map((it) => seenOf(it, names)), gone: 0 };
      const around: Surroundings = { ...this.#options.around(), subjects: 'all' };
      const { replace } = request;
      const diff = await diffApart({ objects, policies, replace, around, flows });
      return { ...diff, gone };
    } finally {
      this.#isBusy = false;
    }
  }

  routes(): readonly ApiRoute[] {
    return [
      {
        method: 'POST',
        path: '/v1/policy/diff',
        answer: async ({ body }) => await this.diff(body),
      },
    ];
  }
}
