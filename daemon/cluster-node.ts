/**
 * This node among the others: what it tells of itself, what it asks them, and both joined into one picture
 * of the cluster. Nodes are asked when somebody looks, and not more often than every two seconds.
 */
import type { NodeLease } from '../ipam/types.ts';
import { nameOf } from '../objects/types.ts';
import type { Dataplane } from '../overlay/types.ts';
import { ApiError, type ApiRoute } from './api.ts';
import { ClusterApi } from './cluster-api.ts';
import { ClusterFlows } from './cluster-flows.ts';
import { DropRates } from './drop-rates.ts';
import { type ExplainInputs, explain } from './explain.ts';
import { type FlowSummary, joinSummaries } from './flow-summary.ts';
import { foremost } from './links.ts';
import {
  type ClusterMessage,
  type ClusterNodeMessage,
  type ClusterShadowMessage,
  type LinkMessage,
  type NodeMessage,
  type RateMessage,
  type ShadowMessage,
  leaseMessage,
} from './messages.ts';
import type { Observation, View } from './observe.ts';
import { type Answered, OtherNodes, eachOf } from './other-nodes.ts';
import { joinShadows, shadowOf } from './shadow-join.ts';
import { type Look, Timeline } from './timeline.ts';

const LOOK_EVERY_MS = 1_000;
/** Rates of five minutes, one every two seconds. */
const RATE_EVERY_MS = 2_000;
const RATES = 150;
/** What the service map and the list of drops speak of. */
const SUMMARY_SINCE_MS = 5 * 60_000;
const SUMMARY_FLOWS = 10_000;
/** In times of what it took: a hundredth of a processor, at most. */
const SUMMARY_PAUSE = 100;
/** An answer serves all who ask within this time. */
const FRESH_MS = 2_000;
const TIMELINE_MAX = 500;
/** Of more nodes, less is told of the minutes before. */
const MANY_NODES = 50;
const RATES_OF_MANY = 30;

export type NodeState = Omit<NodeMessage, 'links' | 'rates' | 'edges' | 'drops' | 'timeline'>;

export interface ClusterNodeOptions {
  readonly port: number;
  readonly state: () => NodeState;
  readonly view: () => View;
  /** Null: nothing is known of policies and Services. */
  readonly inputs: () => Omit<ExplainInputs, 'around'> | null;
  /** Null before the first list. */
  readonly peers: () => readonly NodeLease[] | null;
  readonly dataplane: () => Pick<Dataplane, 'counters'> | null;
  /** Somebody looks at them. */
  readonly links: () => readonly LinkMessage[];
  readonly observation: Observation;
  /** Others may ask them too. */
  readonly routes: readonly ApiRoute[];
  readonly onError: (error: unknown) => void;
  readonly onProblem: (error: Error | null) => void;
}

const NO_PEERS: readonly NodeLease[] = [];
const DROP = 'drop.';

/** What a rate is made of. */
interface Sums {
  readonly timeMs: number;
  readonly outBytes: number;
  readonly inBytes: number;
  readonly drops: number;
}

function rateOf(before: Sums, after: Sums): RateMessage {
  const seconds = (after.timeMs - before.timeMs) / 1000;
  const perSecond = (field: 'outBytes' | 'inBytes' | 'drops'): number =>
    Math.max(Math.round((after[field] - before[field]) / seconds), 0);
  return {
    timeMs: after.timeMs,
    outBytes: perSecond('outBytes'),
    inBytes: perSecond('inBytes'),
    drops: perSecond('drops'),
  };
}

/** The same answer for all who ask while it is being made, and for a while after. */
function shared<T>(make: () => T | Promise<T>, freshMs: number): () => Promise<T> {
  let madeAtMs = -Infinity;
  let current: Promise<T> | null = null;
  return () => {
    if (current === null || performance.now() - madeAtMs > freshMs) {
      madeAtMs = performance.now();
      const made = Promise.resolve().then(make);
      current = made;
      made.then(
        () => (madeAtMs = performance.now()),
        () => current === made && (current = null),
      );
    }
    return current;
  };
}

const NOTHING: FlowSummary = { edges: [], drops: [] };

/** What this node and its peers told, joined. @param own  null: no lease yet */
export function joinCluster(
  timeMs: number,
  own: { readonly lease: NodeLease | null; readonly answer: NodeMessage },
  peers: readonly { readonly lease: NodeLease; readonly answered: Answered<NodeMessage> }[],
): ClusterMessage {
  const ratesMax = peers.length > MANY_NODES ? RATES_OF_MANY : RATES;
  const nodes: ClusterNodeMessage[] = [];
  const summaries: FlowSummary[] = [];
  const timeline: NodeMessage['timeline'][number][] = [];
  const add = (lease: NodeLease | null, isOwn: boolean, answered: Answered<NodeMessage>): void => {
    const named = lease === null ? { ...NO_LEASE, own: isOwn } : leaseMessage(lease, isOwn);
    if ('problem' in answered) {
      nodes.push({ ...named, name: named.key, answer: null, problem: answered.problem });
      return;
    }
    const { edges, drops, timeline: events, links, rates, ...state } = answered.answer;
    const answer = { ...state, links: foremost(links), rates: rates.slice(-ratesMax) };
    nodes.push({ ...named, name: answer.node, answer, problem: null });
    summaries.push({ edges, drops });
    timeline.push(...events);
  };
  add(own.lease, true, { answer: own.answer });
  for (const { lease, answered } of peers) add(lease, false, answered);
  const [first, ...others] = nodes;
  return {
    time: new Date(timeMs).toISOString(),
    node: own.answer.node,
    nodes: [first!, ...others.sort((a, b) => a.name.localeCompare(b.name, 'en', NUMERIC))],
    ...(summaries.length === 0 ? NOTHING : joinSummaries(summaries)),
    timeline: timeline
      .sort((a, b) => (a.time < b.time ? 1 : a.time > b.time ? -1 : 0))
      .slice(0, TIMELINE_MAX),
  };
}

const NUMERIC = { numeric: true } as const;
const NO_LEASE = {
  key: '',
  subnet: null,
  ipv6Subnet: null,
  publicIp: null,
  publicIpv6: null,
  vtepMac: null,
  vtepMacV6: null,
  reserved: false,
  endsInS: null,
};

export class ClusterNode implements AsyncDisposable {
  readonly #options: ClusterNodeOptions;
  readonly #timeline: Timeline;
  readonly #dropRates = new DropRates();
  readonly #rates: RateMessage[] = [];
  readonly #timer: NodeJS.Timeout;
  #summary: FlowSummary = NOTHING;
  #summaryUntilMs = -Infinity;
  readonly #whole = shared(() => this.#askAll(), FRESH_MS);
  #sums: Sums | null = null;
  /** Of its own routes and those it was given. */
  readonly api: ClusterApi;
  readonly others: OtherNodes;
  readonly #flows: ClusterFlows;

  constructor(options: ClusterNodeOptions) {
    this.#options = options;
    const { port, onError, onProblem } = options;
    const peers = (): readonly NodeLease[] => options.peers() ?? NO_PEERS;
    const routes = [...options.routes, ...this.#ownRoutes()];
    this.api = new ClusterApi({ port, routes, peers, onError, onProblem });
    const { observation } = options;
    const names = () => observation.nodeNames();
    this.others = new OtherNodes({ api: this.api, peers: options.peers, names });
    const { node } = options.state();
    const isOwn = (name: string): boolean =>
      name === 'own' || name === node || name === options.view().lease?.key;
    this.#flows = new ClusterFlows({ node, isOwn, observation, others: this.others, onError });
    this.#timeline = new Timeline(options.state().node);
    this.#timer = setInterval(() => this.#look(), LOOK_EVERY_MS).unref();
  }

  /** The node's own addresses are those of this lease, and stand. */
  update(lease: NodeLease): void {
    this.api.update(lease);
  }

  #look(): void {
    const { state, view, peers, dataplane } = this.#options;
    const { forwarding, reasons, lease } = state();
    const counters = dataplane()?.counters() ?? {};
    const drops = Object.entries(counters).filter(([name]) => name.startsWith(DROP));
    const byReason = Object.fromEntries(
      drops.map(([name, count]) => [name.slice(DROP.length), count]),
    );
    const look: Look = {
      forwarding,
      reasons,
      lease: lease && lease.key,
      peers: peers()?.map(({ key }) => key) ?? null,
      objects: view().objects,
      drops: byReason,
    };
    const timeMs = Date.now();
    this.#timeline.look(look, timeMs);
    this.#dropRates.look(byReason, performance.now());
    const sums = {
      timeMs,
      outBytes: counters['udpSentBytes'] ?? 0,
      inBytes: counters['udpBytes'] ?? 0,
      drops: drops.reduce((sum, [, count]) => sum + count, 0),
    };
    if (this.#sums !== null) {
      // A little early, so that a timer that came a moment too soon does not wait for the next.
      if (timeMs - this.#sums.timeMs < RATE_EVERY_MS - LOOK_EVERY_MS / 2) return;
      this.#rates.push(rateOf(this.#sums, sums));
      if (this.#rates.length > RATES) this.#rates.shift();
    }
    this.#sums = sums;
  }

  /** By reason, of the last minute. */
  get dropsPerSecond(): Readonly<Record<string, number>> {
    return this.#dropRates.perSecond;
  }

  /** Of many flows it takes long, on a processor that may carry packets: then it is made less often. */
  #summarize(): FlowSummary {
    const startMs = performance.now();
    if (startMs < this.#summaryUntilMs) return this.#summary;
    const sinceMs = Date.now() - SUMMARY_SINCE_MS;
    this.#summary = this.#options.observation.summary(sinceMs, SUMMARY_FLOWS);
    const tookMs = performance.now() - startMs;
    this.#summaryUntilMs = startMs + Math.max(FRESH_MS, tookMs * SUMMARY_PAUSE);
    return this.#summary;
  }

  #own(): NodeMessage {
    return {
      ...this.#options.state(),
      links: this.#options.links(),
      rates: this.#rates,
      ...this.#summarize(),
      timeline: this.#timeline.events,
    };
  }

  async #askAll(): Promise<ClusterMessage> {
    const { others } = this;
    const told: { readonly lease: NodeLease; readonly answered: Answered<NodeMessage> }[] = [];
    await eachOf(others.peers, async (lease) => {
      told.push({ lease, answered: await others.answerOf<NodeMessage>(lease, '/v1/node') });
    });
    const answer = this.#own();
    return joinCluster(Date.now(), { lease: this.#options.view().lease, answer }, told);
  }

  async #shadows(): Promise<ClusterShadowMessage> {
    const found: ShadowMessage[] = [];
    const take = (answer: unknown): boolean => {
      const shadow = shadowOf(answer);
      if (shadow !== null) found.push(shadow);
      return shadow !== null;
    };
    const absent = await this.others.askAll('/v1/shadow', take);
    return joinShadows(this.#options.observation.shadow.status(), found, absent);
  }

  #ownRoutes(): readonly ApiRoute[] {
    return [
      { method: 'GET', path: '/v1/node', answer: () => this.#own() },
      {
        method: 'GET',
        path: '/v1/explain',
        answer: ({ query }) => {
          const inputs = this.#options.inputs();
          if (inputs === null) {
            throw new ApiError(503, 'ERR_NOT_READY', 'policies and Services are not known here');
          }
          const { nodeName, nodeAddresses } = inputs;
          const subjects = new Set(this.#options.view().own.map(nameOf));
          return explain({ ...inputs, around: { nodeName, nodeAddresses, subjects } }, query);
        },
      },
    ];
  }

  /** For who asks on this machine: other nodes would ask in a circle. */
  routes(): readonly ApiRoute[] {
    return [
      ...this.#ownRoutes(),
      { method: 'GET', path: '/v1/cluster', answer: () => this.#whole() },
      { method: 'GET', path: '/v1/cluster/shadow', answer: () => this.#shadows() },
      ...this.#flows.routes(),
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.api[Symbol.asyncDispose]();
  }
}
