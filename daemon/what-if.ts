/** What if the policies were others: the daemon's side of `weft policy diff`, and its routes. */
import { Worker } from 'node:worker_threads';
import { z } from 'zod';
import { isIgnored, parseObjects } from '../objects/parse.ts';
import type { ObjectSet, WeftObject } from '../objects/types.ts';
import type { Surroundings } from '../policy/reference.ts';
import { ApiError, type ApiRoute } from './api.ts';
import { joinKinds, newestKinds, presentFlows, seenFlow } from './flow-kinds.ts';
import { durationMs } from './flow-log.ts';
import type { FlowKindMessage, FlowQuestion, PolicyDiffMessage } from './messages.ts';
import type { Names } from './names.ts';
import type { OtherNodes } from './other-nodes.ts';
import { type Diff, type DiffTask, type SeenFlow, isPolicy } from './policy-diff.ts';

/** As much as a request holds besides. */
const DOCUMENTS_MAX = 5_000;
const FLOWS_MAX = 20_000;
/** Of other nodes: of each one, and of all together. */
const KINDS_OF_ONE = 10_000;
const KINDS_OF_ALL = 100_000;
const KINDS_LEAST = 500;
/** Kinds of flow that are asked about. */
const ASKED_MAX = 50_000;
/** Sooner than who asks gives up, who has waited for other nodes before. */
const DIFF_WITHIN_MS = 11_000;
const DIFF_MEMORY_MIB = 1024;

export interface WhatIfOptions {
  /** With this node's own pods; null before the first full list. */
  readonly objects: () => ObjectSet | null;
  readonly around: () => Pick<Surroundings, 'nodeName' | 'nodeAddresses'>;
  readonly names: () => Names;
  /** Of this node. */
  readonly kinds: (sinceMs: number) => readonly FlowKindMessage[];
}

/** Flows to be asked about, and which are not. */
type Gathered = { readonly flows: readonly SeenFlow[] } & Pick<
  PolicyDiffMessage,
  'gone' | 'untold' | 'absent'
>;

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

const podName = z.string().max(400).nullable();
const kindsSchema = z.object({
  kinds: z
    .array(
      question.extend({
        frontend: z
          .object({ address: z.string().max(64), port: z.int().min(0).max(65_535) })
          .nullable(),
        sourcePod: podName,
        destinationPod: podName,
        entered: z.boolean(),
      }),
    )
    .max(KINDS_OF_ONE),
  untold: z.int().min(0),
});

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

/** A flow of a capture. @throws ApiError */
function capturedFlow(it: FlowQuestion, names: Names): SeenFlow {
  const flow = seenFlow(it, names);
  if (flow !== null) return flow;
  const ends = `${it.source} > ${it.destination}`;
  throw new ApiError(400, 'ERR_BODY', `a flow has no address: "${ends}"`);
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

type Others = Pick<OtherNodes, 'askAll' | 'peers'>;
const NOTHING_ELSE = { gone: 0, untold: 0, absent: [] } as const;

export class WhatIf {
  readonly #options: WhatIfOptions;
  #isBusy = false;

  constructor(options: WhatIfOptions) {
    this.#options = options;
  }

  /** What all nodes have seen, each flow once. @throws ApiError */
  async #gather(since: string | null, names: Names, others: Others): Promise<Gathered> {
    const sinceMs = since === null ? 0 : Date.now() - durationMs(since);
    const share = Math.floor(KINDS_OF_ALL / Math.max(others.peers.length, 1));
    const limit = String(Math.min(Math.max(share, KINDS_LEAST), KINDS_OF_ONE));
    const query = new URLSearchParams({ limit, ...(since !== null && { since }) });
    const told = [this.#options.kinds(sinceMs)];
    let untold = 0;
    const absent = await others.askAll(`/v1/flows/kinds?${query.toString()}`, (answer) => {
      const { data } = kindsSchema.safeParse(answer);
      if (data === undefined) return false;
      told.push(data.kinds);
      untold += data.untold;
      return true;
    });
    const newest = newestKinds(joinKinds(told), ASKED_MAX);
    return { ...presentFlows(newest.kinds, names), untold: untold + newest.untold, absent };
  }

  /** @throws ApiError */
  async diff(body: unknown, others: Others): Promise<PolicyDiffMessage> {
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
      const { flows, ...rest } =
        request.flows === null
          ? await this.#gather(request.since, names, others)
          : { ...NOTHING_ELSE, flows: request.flows.map((it) => capturedFlow(it, names)) };
      const around: Surroundings = { ...this.#options.around(), subjects: 'all' };
      const { replace } = request;
      const diff = await diffApart({ objects, policies, replace, around, flows });
      return { ...diff, ...rest };
    } finally {
      this.#isBusy = false;
    }
  }

  routes(others: Others): readonly ApiRoute[] {
    return [
      {
        method: 'POST',
        path: '/v1/policy/diff',
        answer: async ({ body }) => await this.diff(body, others),
      },
    ];
  }
}
