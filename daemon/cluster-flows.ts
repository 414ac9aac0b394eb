/**
 * Flows of the whole cluster: those that were, joined from all nodes; and as they come, each node followed by
 * itself, all written into one stream.
 *
 *     peer's GET /v1/flows/lines?after&wait ──▶ follower ──┐
 *     this node's flow log ───────────────────▶ follower ──┴▶ lines of JSON, as they were written
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NodeLease } from '../ipam/types.ts';
import { ApiError, type ApiRoute, type Outlet, StreamAnswer } from './api.ts';
import { NodeAbsentError } from './cluster-api.ts';
import { durationMs, flowFilter } from './flow-log.ts';
import {
  type FlowLines,
  LINES_TYPE,
  countLines,
  cutLines,
  isFlow,
  lineOf,
  parseFlowLines,
} from './flow-lines.ts';
import { FOLLOW_WAIT_S, followFlows } from './follow-flows.ts';
import type {
  ClusterFlowsMessage,
  FlowMessage,
  FlowsMessage,
  FollowedMessage,
} from './messages.ts';
import type { Observation } from './observe.ts';
import { type OtherNodes, problemOf } from './other-nodes.ts';

const FLOWS_MAX = 10_000;
/** Each costs every node a question that waits. */
const FOLLOWERS_MAX = 8;
/** For nodes that have come. */
const LOOK_EVERY_MS = 1_000;
/** A follower's question: it waits there, and then comes back. */
const FOLLOW_WITHIN_MS = (FOLLOW_WAIT_S + 3) * 1000;
/** What is handed over or refused together. */
const PIECE_BYTES_MAX = 64 << 10;
/** As much as durationMs takes in milliseconds. */
const DURATION_MS_MAX = 999_999_999;

export interface ClusterFlowsOptions {
  readonly node: string;
  /** Does the name mean this node? */
  readonly isOwn: (name: string) => boolean;
  readonly observation: Pick<Observation, 'recent' | 'flowLines'>;
  readonly others: OtherNodes;
  readonly onError: (error: unknown) => void;
}

/** Filters are those of GET /v1/flows; positions are of one node, and not of this question. */
function filtersOf(query: URLSearchParams): Record<string, string> {
  const { after: _, wait: __, node: ___, since: ____, ...filters } = Object.fromEntries(query);
  return filters;
}

const durationText = (ms: number): string =>
  ms > DURATION_MS_MAX ? `${Math.ceil(ms / 1000)}s` : `${Math.round(ms)}ms`;

const byTime = (a: FlowMessage, b: FlowMessage): number =>
  a.time < b.time ? -1 : a.time > b.time ? 1 : a.sequence - b.sequence;

/** The newest of all that are given, with no more than twice as many in memory. */
export class NewestFlows {
  readonly #limit: number;
  #flows: FlowMessage[] = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  take(flows: readonly FlowMessage[]): void {
    this.#flows = this.#flows.concat(flows);
    if (this.#flows.length > 2 * this.#limit) this.#flows = [...this.all];
  }

  /** Oldest first. */
  get all(): readonly FlowMessage[] {
    return this.#flows.toSorted(byTime).slice(-this.#limit);
  }
}

/** What another node has sent. @returns null: it is no such answer */
export function flowsOf(answer: unknown): readonly FlowMessage[] | null {
  const { flows } = (answer ?? {}) as Partial<FlowsMessage>;
  return Array.isArray(flows) && flows.every(isFlow) ? flows : null;
}

export class ClusterFlows {
  readonly #options: ClusterFlowsOptions;
  #followers = 0;

  constructor(options: ClusterFlowsOptions) {
    this.#options = options;
  }

  routes(): readonly ApiRoute[] {
    return [
      { method: 'GET', path: '/v1/cluster/flows', answer: ({ query }) => this.#all(query) },
      {
        method: 'GET',
        path: '/v1/cluster/flows/follow',
        answer: ({ query }) => this.#stream(query),
      },
    ];
  }

  /** @throws ApiError */
  async #chosen(query: URLSearchParams) {
    const { others, isOwn } = this.#options;
    const chosen = await others.choose(query.getAll('node'), isOwn);
    const [unknown] = chosen.unknown;
    if (unknown === undefined) return chosen;
    const { obstacle, peers } = others;
    const known = [this.#options.node, ...peers.map((it) => others.nameOf(it))].join(', ');
    const why = obstacle === null ? '' : `; ${obstacle}`;
    const message = `no node is called "${unknown.slice(0, 100)}"; there are ${known}${why}`;
    throw new ApiError(400, 'ERR_FILTER', message);
  }

  #isOwnAlone(query: URLSearchParams): boolean {
    const names = query.getAll('node');
    return names.length > 0 && names.every((it) => this.#options.isOwn(it));
  }

  /** @throws ApiError */
  async #all(query: URLSearchParams): Promise<ClusterFlowsMessage> {
    const { observation, others } = this.#options;
    const filter = { ...flowFilter(query, Date.now()), after: 0 };
    const { own, peers } = await this.#chosen(query);
    const since = query.get('since');
    const asked = new URLSearchParams({ ...filtersOf(query), ...(since !== null && { since }) });
    const newest = new NewestFlows(Math.min(filter.limit, FLOWS_MAX));
    if (own) newest.take(observation.recent(filter));
    const take = (answer: unknown): boolean => {
      const flows = flowsOf(answer);
      if (flows !== null) newest.take(flows);
      return flows !== null;
    };
    const path = `/v1/flows?${asked.toString()}`;
    const absent = this.#isOwnAlone(query) ? [] : await others.askAll(path, take, peers);
    return { flows: newest.all, absent };
  }

  /** @throws ApiError */
  async #stream(query: URLSearchParams): Promise<StreamAnswer> {
    flowFilter(query, Date.now());
    await this.#chosen(query);
    if (this.#followers >= FOLLOWERS_MAX) {
      const message = `${FOLLOWERS_MAX} others follow the cluster's flows on this node already`;
      throw new ApiError(429, 'ERR_BUSY', message);
    }
    return new StreamAnswer(LINES_TYPE, {}, (outlet) => {
      this.#followers++;
      void this.#follow(query, outlet)
        .catch((error: unknown) => {
          this.#options.onError(error);
          outlet.end();
        })
        .finally(() => this.#followers--);
    });
  }

  /** Until the reader goes away. Nodes that come meanwhile are followed, too. */
  async #follow(query: URLSearchParams, { write, closed }: Outlet): Promise<void> {
    const { node, isOwn, observation, others } = this.#options;
    const names = query.getAll('node');
    const filters = filtersOf(query);
    const startMs = performance.now() - durationMs(query.get('since') ?? '0');
    const since = (): string => durationText(performance.now() - startMs);
    let refused = 0;
    const send = (lines: Buffer): void => {
      if (!write(lines)) refused += countLines(lines);
      else if (refused > 0) {
        const note = `could not hand over ${refused} lines: they are not read fast enough`;
        refused = 0;
        tell({ node, note });
      }
    };
    const tell = (message: FollowedMessage): void => send(Buffer.from(lineOf(message)));
    const failed = Promise.withResolvers<never>();
    const followOne = async (
      name: () => string,
      ask: (asked: URLSearchParams) => Promise<FlowLines>,
    ): Promise<void> => {
      const say = (note: string): void => tell({ node: name(), note });
      const options = { filters, since, ask, problemOf, say, signal: closed };
      for await (const lines of followFlows(options)) {
        for (const piece of cutLines(lines, PIECE_BYTES_MAX)) send(piece);
      }
    };
    const begin: typeof followOne = async (name, ask) => {
      try {
        await followOne(name, ask);
      } catch (error) {
        if (!closed.aborted) failed.reject(error);
      }
    };
    const beginPeer = ({ key }: NodeLease): void => {
      const ask = async (asked: URLSearchParams): Promise<FlowLines> => {
        const peer = others.peers.find((it) => it.key === key);
        if (peer === undefined) throw new NodeAbsentError('its lease has ended');
        return await others.ask(peer, `/v1/flows/lines?${asked.toString()}`, {
          withinMs: FOLLOW_WITHIN_MS,
          signal: closed,
          read: parseFlowLines,
        });
      };
      void begin(() => others.nameOf({ key }), ask);
    };
    const look = async (): Promise<void> => {
      const followed = new Set<string>();
      let seen: readonly NodeLease[] | null = null;
      let obstacle: string | null = null;
      while (!closed.aborted) {
        const { peers } = others;
        if (others.obstacle !== obstacle && !this.#isOwnAlone(query)) {
          ({ obstacle } = others);
          if (obstacle !== null)
            tell({ node: 'the other nodes', note: `are missing: ${obstacle}` });
        }
        if (peers !== seen && others.obstacle === null) {
          seen = peers;
          for (const peer of (await others.choose(names, isOwn)).peers) {
            if (followed.has(peer.key)) continue;
            followed.add(peer.key);
            beginPeer(peer);
          }
        }
        await sleep(LOOK_EVERY_MS, undefined, { signal: closed }).catch(() => 'the reader is gone');
      }
    };
    if (names.length === 0 || names.some(isOwn)) {
      const ask = (asked: URLSearchParams): Promise<FlowLines> => observation.flowLines(asked);
      void begin(() => node, ask);
    }
    await Promise.race([look(), failed.promise]);
  }
}
