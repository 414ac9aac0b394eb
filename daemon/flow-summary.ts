/** Many flow events in few lines: who speaks to whom, and what is dropped why. */
import type { Pod } from '../objects/types.ts';
import { type IpAddress, formatAddress } from '../wire/address.ts';
import type { FlowEvent, Named } from './flow-log.ts';
import type { DropMessage, EdgeMessage, FlowMessage, PlaceMessage } from './messages.ts';
import { type ServiceName, remembered } from './names.ts';

/** What is counted of an event. */
export type CountedEvent = Pick<
  FlowEvent,
  'reason' | 'timeMs' | 'source' | 'destination' | 'backend'
>;

const EDGES_MAX = 400;
const DROPS_MAX = 100;

/** A Deployment's pods are one: `web-7d9c5b8f6d-x2k9p` is `web`. */
const workloadOf = (pod: string): string =>
  pod.replace(/-[bcdf-hj-np-tv-z2456789]{8,10}-[bcdf-hj-np-tv-z2456789]{5}$/, '');

const placeKey = ({ kind, name }: PlaceMessage): string => `${kind} ${name}`;

function countEdge(edges: Map<string, EdgeMessage>, edge: EdgeMessage): void {
  const key = `${placeKey(edge.from)} ${placeKey(edge.to)}`;
  const known = edges.get(key);
  edges.set(
    key,
    known === undefined
      ? edge
      : {
          ...known,
          forwarded: known.forwarded + edge.forwarded,
          dropped: known.dropped + edge.dropped,
        },
  );
}

function countDrop(drops: Map<string, DropMessage>, drop: DropMessage): void {
  const key = `${drop.reason} ${drop.because}`;
  const known = drops.get(key);
  if (known === undefined) drops.set(key, drop);
  else {
    const last = drop.last.time > known.last.time ? drop.last : known.last;
    drops.set(key, { ...known, count: known.count + drop.count, last });
  }
}

export interface FlowSummary {
  readonly edges: readonly EdgeMessage[];
  readonly drops: readonly DropMessage[];
}

const most = (edges: readonly EdgeMessage[]): readonly EdgeMessage[] =>
  edges.toSorted((a, b) => b.forwarded + b.dropped - a.forwarded - a.dropped).slice(0, EDGES_MAX);
const worst = (drops: readonly DropMessage[]): readonly DropMessage[] =>
  drops.toSorted((a, b) => b.count - a.count).slice(0, DROPS_MAX);

interface Counted {
  forwarded: number;
  dropped: number;
}

interface Place {
  readonly message: PlaceMessage;
  readonly to: Map<Place, Counted>;
}

/** Asked for where it is needed: it costs more than all the rest. */
export interface Details<E extends CountedEvent> {
  readonly because: (event: E, named: Named) => string | null;
  readonly tell: (event: E, named: Named) => FlowMessage;
}

/** Counts events, of which there are many, of few places: nothing is written or made anew for each. */
export class FlowCounts<E extends CountedEvent> {
  readonly #details: Details<E>;
  readonly #places = new Map<string, Place>();
  /** The same, by what events know of them. */
  readonly #ofPod = new Map<Pod, Place>();
  readonly #ofService = new Map<ServiceName, Place>();
  readonly #ofAddress = new Map<IpAddress, Place>();
  readonly #drops = new Map<string, { count: number; last: E; named: Named }>();

  constructor(details: Details<E>) {
    this.#details = details;
  }

  /** Edges go from who asks to the Service, and from the Service to the endpoint. */
  take(event: E, named: Named): void {
    const { reason, source, destination, backend } = event;
    const isDropped = reason !== null;
    if (isDropped) this.#countDrop(event, named);
    if (source === null || destination === null) return;
    const from = this.#end(source, named.source, named.sourceNode);
    if (named.service === null) {
      count(from, this.#end(destination, named.destination, named.destinationNode), isDropped);
      return;
    }
    const { service } = named;
    const to = remembered(this.#ofService, service, () =>
      this.#place('service', `${service.namespace}/${service.name}`),
    );
    count(from, to, isDropped);
    if (backend !== null) count(to, this.#end(backend, named.backend, null), isDropped);
  }

  #end(address: IpAddress, pod: Pod | null, node: string | null): Place {
    if (pod !== null) {
      return remembered(this.#ofPod, pod, () => {
        const { namespace, name } = pod.metadata;
        return this.#place('workload', `${namespace}/${workloadOf(name)}`);
      });
    }
    if (node !== null) return this.#place('node', node);
    return remembered(this.#ofAddress, address, () =>
      this.#place('outside', formatAddress(address)),
    );
  }

  #place(kind: PlaceMessage['kind'], name: string): Place {
    const message: PlaceMessage = { kind, name };
    return remembered(this.#places, placeKey(message), () => ({ message, to: new Map() }));
  }

  #countDrop(event: E, named: Named): void {
    const key = `${event.reason} ${this.#details.because(event, named)}`;
    const known = this.#drops.get(key);
    if (known === undefined) this.#drops.set(key, { count: 1, last: event, named });
    else {
      known.count++;
      if (event.timeMs > known.last.timeMs) Object.assign(known, { last: event, named });
    }
  }

  get summary(): FlowSummary {
    const edges = [...this.#places.values()].flatMap(({ message: from, to }) =>
      Array.from(to, ([{ message }, counted]): EdgeMessage => ({ from, to: message, ...counted })),
    );
    const drops = Array.from(this.#drops.values(), ({ count, last, named }): DropMessage => {
      const told = this.#details.tell(last, named);
      return { reason: told.reason ?? '', because: told.because, count, last: told };
    });
    return { edges: most(edges), drops: worst(drops) };
  }
}

function count({ to }: Place, other: Place, isDropped: boolean): void {
  const counted = remembered(to, other, (): Counted => ({ forwarded: 0, dropped: 0 }));
  if (isDropped) counted.dropped++;
  else counted.forwarded++;
}

/** What several nodes told, as if one had. */
export function joinSummaries(summaries: readonly FlowSummary[]): FlowSummary {
  const edges = new Map<string, EdgeMessage>();
  const drops = new Map<string, DropMessage>();
  for (const it of summaries) {
    for (const edge of it.edges) countEdge(edges, edge);
    for (const drop of it.drops) countDrop(drops, drop);
  }
  return { edges: most([...edges.values()]), drops: worst([...drops.values()]) };
}
