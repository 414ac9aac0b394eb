/**
 * Policies that are tried beside those in force: each new flow, and each that a policy denied, is asked of
 * both, and where they differ is remembered. Nothing is enforced. One candidate for the cluster, in etcd;
 * each node asks about what it sees, with the tables that it would have.
 *
 *     etcd `<prefix>/weft/shadow` -> candidate -> compile -> table
 *     flow log's events ---------------------------------> asked -> differences
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import {
  type ObjectSet,
  type Pod,
  type WeftObject,
  PROTOCOL_NUMBERS,
  nameOf,
} from '../objects/types.ts';
import { PolicyCompiler } from '../policy/compile.ts';
import { type Surroundings, explainFlow } from '../policy/reference.ts';
import { EGRESS, INGRESS, createPolicyLookup } from '../policy/table.ts';
import { type Store, StoreError } from '../store/store.ts';
import { type IpAddress, addressBytes } from '../wire/address.ts';
import { ApiError, type ApiRoute } from './api.ts';
import { endsOf } from './endpoints.ts';
import type { PolicyEvent } from './flow-log.ts';
import type { PolicyChangeMessage, ShadowMessage } from './messages.ts';
import { withInterfaces } from './object-store.ts';
import { backendOf, changeMessage, withPolicies } from './policy-diff.ts';
import { kindKey } from './flow-kinds.ts';
import { checked, documentsSchema, policiesOf } from './what-if.ts';

/** Less than etcd takes. */
const VALUE_CHARS_MAX = 1 << 20;
/** Kinds of flow whose verdicts are remembered, and of these those that differ. */
const KINDS_MAX = 20_000;
const DIFFERENCES_MAX = 5_000;
/** Of each tenth of a second. */
const BUDGET_MS = 5;
/** So many are asked about also where others have the processor. */
const EVENTS_MIN = 16;
/** The candidate is compiled again when objects have changed, so often at most. */
const COMPILE_EVERY_MS = 1_000;
/** And takes no more than this part of the time. */
const COMPILE_SHARE = 0.05;

export const shadowKey = (prefix: string): string => `${prefix}/weft/shadow`;

const candidateSchema = z.object({
  documents: documentsSchema,
  replace: z.boolean(),
  startedAt: z.iso.datetime(),
});
const requestSchema = candidateSchema.omit({ startedAt: true });

interface Candidate {
  readonly policies: readonly WeftObject[];
  readonly replace: boolean;
  readonly startedAt: string;
}

/** What somebody wrote. @throws ApiError unless all of it is valid */
export function candidateOf(value: string): Candidate {
  if (value.length > VALUE_CHARS_MAX) {
    throw new ApiError(413, 'ERR_BODY', `it has more than ${VALUE_CHARS_MAX} characters`);
  }
  let body: unknown;
  try {
    body = JSON.parse(value);
  } catch (cause) {
    throw new ApiError(400, 'ERR_BODY', 'it is not JSON', { cause });
  }
  const { documents, replace, startedAt } = checked(candidateSchema, body);
  return { policies: policiesOf(documents), replace, startedAt };
}

/** What the daemon knows at this moment. */
interface ShadowView {
  readonly objects: ObjectSet | null;
  readonly own: readonly Pod[];
  readonly nodeAddresses: readonly IpAddress[];
}

export interface ShadowOptions {
  readonly node: string;
  readonly view: () => ShadowView;
  readonly now?: () => number;
}

/** What was compiled, and of what. */
interface Compiled {
  readonly view: ShadowView;
  readonly around: Surroundings;
  readonly real: ObjectSet;
  readonly shadow: ObjectSet;
}

type Difference = Omit<PolicyChangeMessage, 'count' | 'firstSeen' | 'lastSeen'>;

interface Counted {
  /** Null: both say the same. */
  readonly difference: Difference | null;
  count: number;
  firstMs: number;
  lastMs: number;
}

const isSameView = (a: ShadowView, b: ShadowView): boolean =>
  a.own === b.own &&
  a.nodeAddresses === b.nodeAddresses &&
  a.objects?.pods === b.objects?.pods &&
  a.objects?.namespaces === b.objects?.namespaces &&
  a.objects?.nodes === b.objects?.nodes &&
  a.objects?.services === b.objects?.services &&
  a.objects?.endpointSlices === b.objects?.endpointSlices &&
  a.objects?.networkPolicies === b.objects?.networkPolicies &&
  a.objects?.clusterNetworkPolicies === b.objects?.clusterNetworkPolicies;

/** One candidate, and what was seen of it. */
class Trial {
  readonly candidate: Candidate;
  readonly #options: ShadowOptions;
  readonly #now: () => number;
  readonly #compiler = new PolicyCompiler();
  readonly #arena = new DataView(new ArrayBuffer(32));
  readonly #bytes = new Uint8Array(this.#arena.buffer);
  readonly #lookup = createPolicyLookup(this.#arena);
  #compiled: Compiled | null = null;
  #compileAtMs = -Infinity;
  /** Kinds of flow that the tables of now were asked about. */
  readonly #known = new Map<string, Counted>();
  readonly #differences = new Map<string, Counted>();
  failure: string | null = null;
  asked = 0;
  /** Not asked about: there was no time, or there are too many kinds. */
  skipped = 0;
  /** Differences beyond those that are remembered. */
  untold = 0;

  constructor(candidate: Candidate, options: ShadowOptions) {
    this.candidate = candidate;
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /** What takes the events of one tick; null before anything can be asked. */
  tick(): ((event: () => PolicyEvent | null) => void) | null {
    this.#compile();
    if (this.#compiled === null) return null;
    const endMs = this.#now() + BUDGET_MS;
    let events = 0;
    return (event) => {
      if (events++ >= EVENTS_MIN && this.#now() >= endMs) {
        this.skipped++;
        return;
      }
      const it = event();
      if (it !== null) this.#take(this.#compiled!, it);
    };
  }

  get differences(): readonly PolicyChangeMessage[] {
    return Array.from(this.#differences.values(), ({ difference, count, firstMs, lastMs }) => ({
      ...difference!,
      count,
      firstSeen: new Date(firstMs).toISOString(),
      lastSeen: new Date(lastMs).toISOString(),
    }));
  }

  #compile(): void {
    const view = this.#options.view();
    if (view.objects === null) return;
    if (this.#compiled !== null && isSameView(this.#compiled.view, view)) return;
    const startMs = this.#now();
    if (startMs < this.#compileAtMs) return;
    try {
      const { node: nodeName } = this.#options;
      const { nodeAddresses, own } = view;
      const around = { nodeName, nodeAddresses, subjects: new Set(own.map(nameOf)) };
      const real = withInterfaces(view.objects);
      const shadow = withPolicies(real, this.candidate.policies, this.candidate.replace);
      this.#lookup.install(this.#compiler.compile({ objects: shadow, ...around }));
      this.#compiled = { view, around, real, shadow };
      this.failure = null;
    } catch (error) {
      // The tables before, if there are any, go on.
      this.failure = (error as Error).message;
    }
    this.#known.clear();
    const tookMs = this.#now() - startMs;
    this.#compileAtMs = startMs + Math.max(COMPILE_EVERY_MS, tookMs / COMPILE_SHARE);
  }

  #take(compiled: Compiled, event: PolicyEvent): void {
    const key = `${kindKey(event)} ${event.isDenied}`;
    let known = this.#known.get(key);
    if (known === undefined) {
      if (this.#known.size >= KINDS_MAX) {
        this.skipped++;
        return;
      }
      const difference = this.#differenceOf(compiled, event);
      const fresh: Counted = { difference, count: 0, firstMs: event.timeMs, lastMs: 0 };
      known = difference === null ? fresh : this.#remembered(key, fresh);
      this.#known.set(key, known);
    }
    this.asked++;
    known.count++;
    known.lastMs = event.timeMs;
  }

  /** The same kind may have differed before, with other tables: it goes on counting. */
  #remembered(key: string, fresh: Counted): Counted {
    const before = this.#differences.get(key);
    const it = before === undefined ? fresh : { ...before, difference: fresh.difference };
    if (before === undefined && this.#differences.size >= DIFFERENCES_MAX) this.untold++;
    else this.#differences.set(key, it);
    return it;
  }

  /** What this node alone would do otherwise: it decides for its own pods. */
  #differenceOf({ real, shadow, around }: Compiled, event: PolicyEvent): Difference | null {
    const { source, protocol, told } = event;
    const before = event.isDenied ? 'deny' : 'allow';
    for (const { to, port } of endsOf(real, event, told.service)) {
      if (typeof port === 'string') continue;
      const directions = this.#askedOf(source, to, protocol, port);
      const after = directions.some(({ isAllowed }) => !isAllowed) ? 'deny' : 'allow';
      if (before === after) continue;
      const flow = { from: source, to, protocol, port };
      const wanted = new Set(directions.map(({ name }) => name));
      const because = (objects: ObjectSet, answer: 'allow' | 'deny'): string => {
        const reasons = explainFlow(objects, flow, around);
        const own = (['egress', 'ingress'] as const).filter((it) => wanted.has(it));
        const found = own.filter((it) => reasons[it].answer === answer);
        const text = found.map((it) => reasons[it].because).join('; ');
        return text === '' ? 'the policies in force have changed since' : text;
      };
      const pod = event.isFrontend ? podAt(real, to) : event.destinationPod;
      const owners = new Map(pod === null ? [] : [[to, nameOf(pod)]]);
      const {
        count: _,
        firstSeen: __,
        lastSeen: ___,
        ...difference
      } = changeMessage(
        { ...event, count: 0, firstMs: 0, lastMs: 0 },
        backendOf(event, to, port, owners),
        { verdict: before, because: because(real, before) },
        { verdict: after, because: because(shadow, after) },
      );
      return difference;
    }
    return null;
  }

  #askedOf(
    source: IpAddress,
    destination: IpAddress,
    protocol: PolicyEvent['protocol'],
    port: number,
  ): readonly { readonly name: 'egress' | 'ingress'; readonly isAllowed: boolean }[] {
    const is4 = typeof source === 'number';
    this.#bytes.set(addressBytes(source), 0);
    this.#bytes.set(addressBytes(destination), 16);
    const number = protocol === 'other' ? 1 : PROTOCOL_NUMBERS[protocol];
    const ends = [
      ['egress', EGRESS, 0, 16],
      ['ingress', INGRESS, 16, 0],
    ] as const;
    return ends.flatMap(([name, direction, selfAt, peerAt]) => {
      const subject = this.#lookup.subjectOf(selfAt, is4);
      if (subject === -1) return [];
      const isAllowed = this.#lookup.allows(direction, subject, selfAt, peerAt, is4, number, port);
      return [{ name, isAllowed }];
    });
  }
}

function podAt(objects: ObjectSet, address: IpAddress): Pod | null {
  for (const pod of objects.pods.values()) if (pod.podIPs.includes(address)) return pod;
  return null;
}

/** Races lost in a row before we give up. */
const RACES = 5;

export class Shadow {
  readonly #options: ShadowOptions;
  #trial: Trial | null = null;
  /** Why what is in etcd is ignored. */
  #problem: string | null = null;
  #revision = 0;

  constructor(options: ShadowOptions) {
    this.#options = options;
  }

  /** For FlowLogOptions.watch. */
  tick(): ((event: () => PolicyEvent | null) => void) | null {
    return this.#trial?.tick() ?? null;
  }

  /** What is in etcd now; null: nothing. What is not valid ends the trial before it, and is told. */
  use(value: string | null): void {
    this.#trial = null;
    this.#problem = null;
    if (value === null) return;
    try {
      this.#trial = new Trial(candidateOf(value), this.#options);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#problem = error.message;
    }
  }

  get problem(): string | null {
    return this.#problem;
  }

  /** Until the signal is aborted. @param tell  of what is ignored, and why */
  async follow(
    store: Store,
    prefix: string,
    signal: AbortSignal,
    tell: (problem: string) => void,
  ): Promise<void> {
    const key = shadowKey(prefix);
    for await (const { entries } of store.watch(key, { signal })) {
      const entry = entries.get(key);
      const revision = entry?.modRevision ?? 0;
      if (revision === this.#revision) continue;
      this.#revision = revision;
      this.use(entry?.value ?? null);
      if (this.#problem !== null) tell(this.#problem);
    }
  }

  status(): ShadowMessage {
    const trial = this.#trial;
    return {
      node: this.#options.node,
      trial: trial && {
        startedAt: trial.candidate.startedAt,
        policies: trial.candidate.policies.map((it) =>
          `${it.kind} ${nameOf(it)}`.replace(' /', ' '),
        ),
        replace: trial.candidate.replace,
        asked: trial.asked,
        skipped: trial.skipped,
        untold: trial.untold,
      },
      problem: this.#problem ?? trial?.failure ?? null,
      changes: trial?.differences ?? [],
    };
  }

  /** For all nodes. @throws ApiError, StoreError */
  async start(store: Store, prefix: string, body: unknown): Promise<ShadowMessage> {
    const { documents, replace } = checked(requestSchema, body);
    const startedAt = new Date().toISOString();
    const value = JSON.stringify({ documents, replace, startedAt });
    candidateOf(value);
    await this.#write(store, prefix, value);
    // The watch brings it, to this node too.
    for (let i = 0; i < 40 && this.#trial?.candidate.startedAt !== startedAt; i++) await sleep(50);
    return this.status();
  }

  /** For all nodes. @throws StoreError, ApiError */
  async stop(store: Store, prefix: string): Promise<ShadowMessage> {
    const last = this.status();
    await this.#write(store, prefix, null);
    return last;
  }

  async #write(store: Store, prefix: string, value: string | null): Promise<void> {
    const key = shadowKey(prefix);
    for (let race = 0; race < RACES; race++) {
      const entry = await store.get(key);
      if (value === null && entry === null) return;
      const modRevision = entry?.modRevision ?? 0;
      const revision = await store.commit(
        value === null
          ? { kind: 'delete', key, modRevision }
          : entry === null
            ? { kind: 'create', key, value, leaseId: null }
            : { kind: 'replace', key, value, leaseId: null, modRevision },
      );
      if (revision !== null) return;
    }
    throw new ApiError(409, 'ERR_CONFLICT', 'others change the shadow policies at the same time');
  }

  routes(store: () => Store, prefix: string): readonly ApiRoute[] {
    const asking = async <T>(work: (it: Store) => Promise<T>): Promise<T> => {
      try {
        return await work(store());
      } catch (cause) {
        if (!(cause instanceof StoreError)) throw cause;
        throw new ApiError(503, cause.code, cause.message, { cause });
      }
    };
    const path = '/v1/shadow';
    return [
      {
        method: 'PUT',
        path,
        answer: ({ body }) => asking((it) => this.start(it, prefix, body)),
      },
      { method: 'DELETE', path, answer: () => asking((it) => this.stop(it, prefix)) },
    ];
  }
}
