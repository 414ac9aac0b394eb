/** Many flow events in few lines: who speaks to whom, and what is dropped why. */
import type {
  DropMessage,
  EdgeMessage,
  FlowEndMessage,
  FlowMessage,
  PlaceMessage,
} from './messages.ts';

const EDGES_MAX = 400;
const DROPS_MAX = 100;

/** A Deployment's pods are one: `web-7d9c5b8f6d-x2k9p` is `web`. */
const workloadOf = (pod: string): string =>
  pod.replace(/-[bcdf-hj-np-tv-z2456789]{8,10}-[bcdf-hj-np-tv-z2456789]{5}$/, '');

function placeOf({ namespace, pod, node, address }: FlowEndMessage): PlaceMessage {
  if (pod !== null) return { kind: 'workload', name: `${namespace}/${workloadOf(pod)}` };
  if (node !== null) return { kind: 'node', name: node };
  return { kind: 'outside', name: address ?? 'no packet' };
}

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

const most = (edges: Map<string, EdgeMessage>): readonly EdgeMessage[] =>
  [...edges.values()]
    .sort((a, b) => b.forwarded + b.dropped - a.forwarded - a.dropped)
    .slice(0, EDGES_MAX);
const worst = (drops: Map<string, DropMessage>): readonly DropMessage[] =>
  [...drops.values()].sort((a, b) => b.count - a.count).slice(0, DROPS_MAX);

/** Edges go from who asks to the Service, and from the Service to the endpoint. */
export function summarize(flows: readonly FlowMessage[]): FlowSummary {
  const edges = new Map<string, EdgeMessage>();
  const drops = new Map<string, DropMessage>();
  for (const flow of flows) {
    const { verdict, reason, because, source, destination, service, backend } = flow;
    if (reason !== null) countDrop(drops, { reason, because, count: 1, last: flow });
    if (source.address === null || destination.address === null) continue;
    const counts =
      verdict === 'forwarded' ? { forwarded: 1, dropped: 0 } : { forwarded: 0, dropped: 1 };
    const from = placeOf(source);
    if (service === null) {
      countEdge(edges, { from, to: placeOf(destination), ...counts });
      continue;
    }
    const to: PlaceMessage = { kind: 'service', name: `${service.namespace}/${service.name}` };
    countEdge(edges, { from, to, ...counts });
    if (backend !== null) countEdge(edges, { from: to, to: placeOf(backend), ...counts });
  }
  return { edges: most(edges), drops: worst(drops) };
}

/** What several nodes told, as if one had. */
export function joinSummaries(summaries: readonly FlowSummary[]): FlowSummary {
  const edges = new Map<string, EdgeMessage>();
  const drops = new Map<string, DropMessage>();
  for (const it of summaries) {
    for (const edge of it.edges) countEdge(edges, edge);
    for (const drop of it.drops) countDrop(drops, drop);
  }
  return { edges: most(edges), drops: worst(drops) };
}
