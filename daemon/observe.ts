/** What this node's operators see of flows: the log of events, fed while packets are carried, and its routes. */
import type { NodeLease } from '../ipam/types.ts';
import type { ObjectSet, Pod } from '../objects/types.ts';
import type { Dataplane } from '../overlay/types.ts';
import type { Store } from '../store/store.ts';
import type { IpAddress } from '../wire/address.ts';
import { Answer, type ApiRoute } from './api.ts';
import { type FlowLines, LINES_TYPE, flowLinesText } from './flow-lines.ts';
import type { FlowSummary } from './flow-summary.ts';
import { type FlowFilter, FlowLog, READ_EVERY_MS, durationMs, flowFilter } from './flow-log.ts';
import { kindsOf, newestKinds } from './flow-kinds.ts';
import type { FlowKindMessage, FlowKindsMessage, FlowMessage, FlowsMessage } from './messages.ts';
import { type NamedNode, type Names, createNames } from './names.ts';
import { withInterfaces } from './object-store.ts';
import type { OtherNodes } from './other-nodes.ts';
import { Shadow } from './shadow.ts';
import { WhatIf } from './what-if.ts';
import { formatAddress } from '../wire/address.ts';
import { nameOf } from '../objects/types.ts';

/** A question waits no longer than this for something to happen. */
const WAIT_MS_MAX = 25_000;

/** What the daemon knows at this moment. */
export interface View {
  /** With this node's own pods; null before the first full list. */
  readonly objects: ObjectSet | null;
  readonly own: readonly Pod[];
  readonly nodeAddresses: readonly IpAddress[];
  /** Our own, when there is one, and the peers'. */
  readonly lease: NodeLease | null;
  readonly peers: readonly NodeLease[];
}

export interface ObservationOptions {
  readonly node: string;
  readonly view: () => View;
}

const addressesOf = ({ publicIp4, publicIp6, subnet4, subnet6 }: NodeLease): IpAddress[] =>
  [publicIp4, publicIp6, subnet4?.base ?? null, subnet6?.base ?? null].filter((it) => it !== null);

export class Observation {
  readonly #options: ObservationOptions;
  readonly #flows: FlowLog;
  readonly #whatIf: WhatIf;
  readonly shadow: Shadow;

  constructor(options: ObservationOptions) {
    this.#options = options;
    this.shadow = new Shadow({ node: options.node, view: options.view });
    this.#flows = new FlowLog({
      watch: () => this.shadow.tick(),
      node: options.node,
      names: () => this.names(),
      policies: () => {
        const { objects, own, nodeAddresses } = options.view();
        if (objects === null) return null;
        const subjects = new Set(own.map(nameOf));
        return { objects, around: { nodeName: options.node, nodeAddresses, subjects } };
      },
    });
    this.#whatIf = new WhatIf({
      objects: () => {
        const { objects } = options.view();
        return objects && withInterfaces(objects);
      },
      around: () => ({ nodeName: options.node, nodeAddresses: options.view().nodeAddresses }),
      names: () => this.names(),
      kinds: (sinceMs) => this.#seenKinds(sinceMs),
    });
  }

  /** Until it is disposed of. */
  follow(dataplane: Pick<Dataplane, 'readEvents'>): Disposable {
    const timer = setInterval(() => this.#flows.read(dataplane), READ_EVERY_MS);
    return { [Symbol.dispose]: () => clearInterval(timer) };
  }

  /** Events since the start that nobody will see. */
  get eventsLost(): number {
    return this.#flows.lost;
  }

  /** What the newest `limit` since then come to, in milliseconds since 1970. */
  summary(sinceMs: number, limit: number): FlowSummary {
    return this.#flows.summary(sinceMs, limit);
  }

  recent(filter: FlowFilter): readonly FlowMessage[] {
    return this.#flows.query(filter).flows;
  }

  /** As GET /v1/flows/lines is asked; with `wait` it may take as long. @throws ApiError */
  async flowLines(query: URLSearchParams): Promise<FlowLines> {
    const filter = flowFilter(query, Date.now());
    const wait = query.get('wait');
    if (wait === null) return this.#flows.lines(filter);
    return await this.#flows.follow(filter, Math.min(durationMs(wait), WAIT_MS_MAX));
  }

  names(): Names {
    return createNames(this.#options.view().objects, this.nodes());
  }

  /** Leases name no nodes: a Node object that has the address does, else the address is the name. */
  nodes(): readonly NamedNode[] {
    const { objects, nodeAddresses, lease, peers } = this.#options.view();
    const known = new Map<IpAddress, string>();
    for (const { metadata, addresses } of objects?.nodes.values() ?? []) {
      for (const it of addresses) known.set(it, metadata.name);
    }
    const named = (it: NodeLease): string => {
      const addresses = addressesOf(it);
      const name = addresses.map((address) => known.get(address)).find(Boolean);
      return name ?? (addresses[0] === undefined ? it.key : formatAddress(addresses[0]));
    };
    const subnetsOf = ({ subnet4, subnet6 }: NodeLease) =>
      [subnet4, subnet6].filter((it) => it !== null);
    return [
      {
        name: this.#options.node,
        addresses: [...nodeAddresses, ...(lease === null ? [] : addressesOf(lease))],
        subnets: lease === null ? [] : subnetsOf(lease),
      },
      ...peers.map((it) => ({
        name: named(it),
        addresses: addressesOf(it),
        subnets: subnetsOf(it),
      })),
    ];
  }

  /** Of peers, by their leases' keys. */
  nodeNames(): (key: string) => string {
    const { peers } = this.#options.view();
    const [, ...named] = this.nodes();
    const names = new Map(peers.map((it, i) => [it.key, named[i]!.name]));
    return (key) => names.get(key) ?? key;
  }

  /** For this node's operators alone: they cost time, and change what all nodes do. */
  whatIfRoutes(store: () => Store, prefix: string, others: OtherNodes): readonly ApiRoute[] {
    return [...this.#whatIf.routes(others), ...this.shadow.routes(store, prefix)];
  }

  /** @throws ApiError */
  #kinds(query: URLSearchParams): FlowKindsMessage {
    const since = query.get('since');
    const { limit } = flowFilter(query, Date.now());
    const sinceMs = since === null ? 0 : Date.now() - durationMs(since);
    return { node: this.#options.node, ...newestKinds(this.#seenKinds(sinceMs), limit) };
  }

  #seenKinds(sinceMs: number): readonly FlowKindMessage[] {
    const names = this.names();
    const { node } = this.#options;
    return kindsOf(this.#flows.seen(sinceMs), (it) => (names.nodeOf(it) ?? node) === node);
  }

  /** This node's, and what other nodes ask for too. */
  routes(): readonly ApiRoute[] {
    return [
      {
        method: 'GET',
        path: '/v1/flows',
        answer: ({ query }): FlowsMessage => this.#flows.query(flowFilter(query, Date.now())),
      },
      {
        method: 'GET',
        path: '/v1/flows/lines',
        answer: async ({ query }) =>
          new Answer(200, flowLinesText(await this.flowLines(query)), LINES_TYPE),
      },
      {
        method: 'GET',
        path: '/v1/flows/kinds',
        answer: ({ query }): FlowKindsMessage => this.#kinds(query),
      },
      { method: 'GET', path: '/v1/shadow', answer: () => this.shadow.status() },
    ];
  }
}
