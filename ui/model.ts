/** What the page makes of the daemon's answers, without a browser. */
import type {
  ClusterMessage,
  ClusterNodeMessage,
  EchoesMessage,
  FlowEndMessage,
  FlowMessage,
  LinkMessage,
} from '../daemon/messages.ts';

const PREFIXES = ['', 'k', 'M', 'G', 'T'];

/** 1234567 bytes a second: `9.88 Mb/s`. */
export function bitRate(bytesPerSecond: number): string {
  let value = bytesPerSecond * 8;
  let prefix = 0;
  while (value >= 1000 && prefix < PREFIXES.length - 1) {
    value /= 1000;
    prefix++;
  }
  return `${prefix === 0 ? Math.round(value) : value.toPrecision(3)} ${PREFIXES[prefix]}b/s`;
}

/** 90061 seconds: `1 d 1 h`. */
export function duration(seconds: number | null): string {
  if (seconds === null) return 'for ever';
  const parts: readonly [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'min'],
    [Math.floor(seconds) % 60, 's'],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first === -1) return '0 s';
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(' ');
}

/** The clock's time, as it is at the reader's. */
export const clock = (time: string): string =>
  new Date(time).toLocaleTimeString('en-GB', { hour12: false });

export const endName = ({ namespace, pod, node, address }: FlowEndMessage): string =>
  pod === null ? (node ?? address ?? '') : `${namespace}/${pod}`;

export const withPort = (end: FlowEndMessage): string =>
  end.port === null ? endName(end) : `${endName(end)}:${end.port}`;

export function destinationText({ destination, service, backend }: FlowMessage): string {
  if (service === null) return withPort(destination);
  const asked = `${service.namespace}/${service.name}:${service.port}`;
  return backend === null ? asked : `${asked} → ${withPort(backend)}`;
}

export const flowKey = ({ node, sequence, time }: FlowMessage): string =>
  `${node} ${sequence} ${time}`;

/** The newest `limit` of both, each once, oldest first. */
export function joinFlows(
  known: readonly FlowMessage[],
  found: readonly FlowMessage[],
  limit: number,
): readonly FlowMessage[] {
  const seen = new Set(known.map(flowKey));
  const fresh = found.filter((it) => !seen.has(flowKey(it)));
  if (fresh.length === 0) return known;
  const all = [...known, ...fresh];
  const isSorted = (known.at(-1)?.time ?? '') <= fresh[0]!.time;
  if (!isSorted) all.sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
  return all.slice(-limit);
}

const lossOf = ({ overlay }: LinkMessage): number =>
  overlay === null ? 0 : (overlay.sent - overlay.received) / overlay.sent;
const roundTripOf = ({ overlay }: LinkMessage): number => overlay?.avgMs ?? Infinity;
const bytesPerS = ({ traffic }: LinkMessage): number =>
  (traffic?.sentBytesPerS ?? 0) + (traffic?.receivedBytesPerS ?? 0);

/** Of all that a node measures, the one that is worst; null: it measures none. */
export function worstLink(links: readonly LinkMessage[]): LinkMessage | null {
  let worst: LinkMessage | null = null;
  for (const it of links) {
    if (it.overlay === null) continue;
    const isWorse =
      worst === null ||
      lossOf(it) > lossOf(worst) ||
      (lossOf(it) === lossOf(worst) && roundTripOf(it) > roundTripOf(worst));
    if (isWorse) worst = it;
  }
  return worst;
}

/** As `weft peers` has it: the mean round trip, and what was lost. */
export function echoesText(echoes: EchoesMessage | null): string {
  if (echoes === null) return 'not measured yet';
  const { sent, received, avgMs } = echoes;
  const lost = Math.round((100 * (sent - received)) / sent);
  const roundTrip = avgMs === null ? 'no answer' : `${avgMs.toFixed(2)} ms`;
  return lost === 0 ? roundTrip : `${roundTrip}, ${lost} % lost`;
}

export const linkGrade = (link: LinkMessage): 'good' | 'warn' | 'bad' => {
  const loss = lossOf(link);
  if (link.overlay?.silent === true || loss > 0.2) return 'bad';
  return loss > 0 ? 'warn' : 'good';
};

/** A link, from the node that told of it. */
export interface LinkRow {
  readonly id: string;
  readonly from: string;
  readonly to: string;
  readonly link: LinkMessage;
}

/** Of all links those that lose most, then the busiest, in the order of the nodes; and how many there are. */
export function linkRows(
  nodes: readonly ClusterNodeMessage[],
  limit: number,
): { readonly rows: readonly LinkRow[]; readonly total: number } {
  const names = new Map(nodes.map(({ key, name }) => [key, name]));
  const all = nodes.flatMap(({ name, answer }) =>
    (answer?.links ?? []).map((link) => ({
      id: `${name} ${link.key}`,
      from: name,
      to: names.get(link.key) ?? link.key,
      link,
    })),
  );
  const sorted = all.toSorted(
    (a, b) => lossOf(b.link) - lossOf(a.link) || bytesPerS(b.link) - bytesPerS(a.link),
  );
  const foremost = new Set(sorted.slice(0, limit));
  return { rows: all.filter((it) => foremost.has(it)), total: all.length };
}

const SLOT_S = 2;
/** A rate that is older says nothing of the slot. */
const STALE_MS = 6_000;

/**
 * Seconds, and bits a second out and in, of all nodes together, for the chart. A rate speaks of the time
 * before it; each slot takes a node's first that comes after it.
 */
export function clusterRates(
  nodes: readonly ClusterNodeMessage[],
): readonly [number[], number[], number[]] {
  const told = nodes.map(({ answer }) => answer?.rates ?? []).filter((it) => it.length > 0);
  const first = Math.min(...told.map((it) => it[0]!.timeMs));
  // What not all nodes have told yet waits.
  const last = Math.min(...told.map((it) => it.at(-1)!.timeMs));
  const columns: [number[], number[], number[]] = [[], [], []];
  if (told.length === 0) return columns;
  const next = told.map(() => 0);
  for (let slot = Math.ceil(first / 1000 / SLOT_S) * SLOT_S; slot * 1000 <= last; slot += SLOT_S) {
    let [sent, received] = [0, 0];
    for (const [i, rates] of told.entries()) {
      while (next[i]! < rates.length - 1 && rates[next[i]!]!.timeMs < slot * 1000)
        next[i] = next[i]! + 1;
      const { timeMs, outBytes, inBytes } = rates[next[i]!]!;
      if (Math.abs(timeMs - slot * 1000) > STALE_MS) continue;
      sent += outBytes;
      received += inBytes;
    }
    columns[0].push(slot);
    columns[1].push(sent * 8);
    columns[2].push(received * 8);
  }
  return columns;
}

export interface GraphNode {
  readonly id: string;
  readonly label: string;
  readonly kind: 'workload' | 'service' | 'node' | 'outside' | 'bad';
}

export interface GraphEdge {
  readonly source: string;
  readonly target: string;
  readonly grade: 'good' | 'warn' | 'bad';
  /** Relative to others; 1 and more. */
  readonly weight: number;
}

export interface Graph {
  readonly nodes: readonly GraphNode[];
  readonly edges: readonly GraphEdge[];
}

const isWorse = (a: GraphEdge['grade'], b: GraphEdge['grade']): boolean =>
  ['good', 'warn', 'bad'].indexOf(a) > ['good', 'warn', 'bad'].indexOf(b);

/** One edge for both directions, in the worse one's grade. */
export function nodeGraph({ nodes }: ClusterMessage): Graph {
  const keys = new Set(nodes.map(({ key }) => key));
  const edges = new Map<string, GraphEdge>();
  for (const { key, answer } of nodes) {
    for (const link of answer?.links ?? []) {
      if (!keys.has(link.key)) continue;
      const [source, target] = key < link.key ? [key, link.key] : [link.key, key];
      const grade = linkGrade(link);
      const known = edges.get(`${source} ${target}`);
      if (known !== undefined && !isWorse(grade, known.grade)) continue;
      edges.set(`${source} ${target}`, { source, target, grade, weight: 1 });
    }
  }
  return {
    nodes: nodes.map(({ key, name, answer }) => ({
      id: key,
      label: name,
      kind: answer?.forwarding === true ? 'node' : 'bad',
    })),
    edges: [...edges.values()],
  };
}

export function serviceGraph({ edges }: ClusterMessage): Graph {
  const nodes = new Map<string, GraphNode>();
  const drawn = edges.map(({ from, to, forwarded, dropped }): GraphEdge => {
    for (const { kind, name } of [from, to]) {
      nodes.set(`${kind} ${name}`, { id: `${kind} ${name}`, label: name, kind });
    }
    return {
      source: `${from.kind} ${from.name}`,
      target: `${to.kind} ${to.name}`,
      grade: dropped === 0 ? 'good' : forwarded === 0 ? 'bad' : 'warn',
      weight: 1 + Math.log10(1 + forwarded + dropped),
    };
  });
  return { nodes: [...nodes.values()], edges: drawn };
}
