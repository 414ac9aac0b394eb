/**
 * What has happened to flows and packets on this node lately, with names: the rings of the workers
 * (overlay/event-ring.ts) are emptied into a history of fixed size, and questions are answered from it.
 *
 *     worker's ring ──read──▶ history (the newest 65,536) ──query──▶ FlowMessage
 *
 * Names are looked up when an event is read, because a pod may be gone when somebody asks; why policy
 * denied is explained when somebody asks, by the policies as they are then.
 */
import { tcpFlagsText, protocolName } from '../wire/protocol-names.ts';
import { randomUUID } from 'node:crypto';
import type { ObjectSet, Pod, Protocol } from '../objects/types.ts';
import {
  EVENT_BEGAN,
  EVENT_BYTES,
  EVENT_DESTINATION,
  EVENT_FLAGS,
  EVENT_FORM,
  EVENT_KIND,
  EVENT_OTHER,
  EVENT_OTHER_PORT,
  EVENT_PORTS,
  EVENT_REASON,
  EVENT_SOURCE,
  EVENT_TIME,
  EVENT_WORDS,
  FORM_OUT,
  FORM_REPLY,
} from '../overlay/event-ring.ts';
import { FLOW_SERVICE } from '../overlay/flow-layout.ts';
import type { Dataplane } from '../overlay/types.ts';
import { type Surroundings, referenceVerdict } from '../policy/reference.ts';
import { addressOfWords, AddressError, type IpAddress, formatAddress } from '../wire/address.ts';
import { type Cidr, cidrContains, parseCidr } from '../wire/cidr.ts';
import { Drop, type DropName, dropNames } from '../wire/drop-reason.ts';

import { TCP_ACK, TCP_SYN } from '../wire/tcp.ts';

import { ApiError } from './api.ts';
import { endsOf } from './endpoints.ts';
import type { FlowLines, FlowLinesHead } from './flow-lines.ts';
import { FlowCounts, type FlowSummary } from './flow-summary.ts';
import type { FlowEndMessage, FlowMessage, FlowsMessage } from './messages.ts';
import { type Names, type ServiceName, remembered } from './names.ts';

/** Events that are remembered, 128 bytes each and their names. */
const HISTORY = 65_536;
export const READ_EVERY_MS = 100;
/** An explanation is not looked for again. */
const EXPLAINED_MS = 500;
const CHANGED_SINCE = 'the policies have changed since, and allow it now';
const LIMIT_DEFAULT = 1000;
const LIMIT_MAX = 10_000;

const withPorts = (protocol: string): Protocol | null =>
  protocol === 'TCP' || protocol === 'UDP' || protocol === 'SCTP' ? protocol : null;

/** Who had the addresses of an event when it was read. */
export interface Named {
  readonly source: Pod | null;
  readonly destination: Pod | null;
  readonly backend: Pod | null;
  readonly sourceNode: string | null;
  readonly destinationNode: string | null;
  readonly service: ServiceName | null;
}

/** One event, its words read. */
export interface FlowEvent {
  readonly sequence: number;
  readonly timeMs: number;
  readonly reason: DropName | null;
  readonly isOut: boolean;
  readonly isReply: boolean;
  readonly family: number;
  readonly protocol: string;
  /** IANA's. */
  readonly protocolNumber: number;
  readonly tcpFlags: number;
  readonly source: IpAddress | null;
  readonly destination: IpAddress | null;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly backend: IpAddress | null;
  readonly backendPort: number;
  readonly outerSource: IpAddress | null;
  readonly bytes: number;
}

function eventAt(words: Int32Array, times: Float64Array, at: number, sequence: number): FlowEvent {
  const form = words[at + EVENT_FORM]!;
  const family = (form >>> 8) & 0xff;
  const number = (form >>> 16) & 0xff;
  const flags = words[at + EVENT_FLAGS]!;
  const ports = words[at + EVENT_PORTS]!;
  const began = words[at + EVENT_KIND] === EVENT_BEGAN;
  const ofService = began && (flags & FLOW_SERVICE) !== 0;
  const reason = words[at + EVENT_REASON]!;
  return {
    sequence,
    timeMs: times[(at + EVENT_TIME) >>> 1]!,
    reason: reason === Drop.none ? null : (dropNames[reason] as DropName),
    isOut: (form & FORM_OUT) !== 0,
    isReply: (form & FORM_REPLY) !== 0,
    family,
    protocol: protocolName(number) ?? String(number),
    protocolNumber: number,
    tcpFlags: form >>> 24,
    source: addressOfWords(words, at + EVENT_SOURCE, family),
    destination: addressOfWords(words, at + EVENT_DESTINATION, family),
    sourcePort: ports >>> 16,
    destinationPort: ports & 0xffff,
    backend: ofService ? addressOfWords(words, at + EVENT_OTHER, family) : null,
    backendPort: words[at + EVENT_OTHER_PORT]!,
    outerSource: began ? null : addressOfWords(words, at + EVENT_OTHER, flags),
    bytes: words[at + EVENT_BYTES]!,
  };
}

/** What is asked of the history; every part that is there must hold. */
export interface FlowFilter {
  /** Events after this one (FlowsMessage.next), or all. */
  readonly after: number;
  /** Milliseconds since 1970. */
  readonly sinceMs: number;
  readonly verdict: 'forwarded' | 'dropped' | null;
  readonly reason: string | null;
  readonly from: EndFilter | null;
  readonly to: EndFilter | null;
  /** Either end. */
  readonly with: EndFilter | null;
  readonly service: { readonly namespace: string; readonly name: string } | null;
  readonly protocol: string | null;
  readonly port: number | null;
  readonly limit: number;
}

const ALL: FlowFilter = {
  after: 0,
  sinceMs: 0,
  verdict: null,
  reason: null,
  from: null,
  to: null,
  with: null,
  service: null,
  protocol: null,
  port: null,
  limit: Infinity,
};

type EndFilter = (address: IpAddress | null, pod: Pod | null, node: string | null) => boolean;

/**
 * `namespace/pod`, `namespace/`, an address, a block, or a node's name.
 * @throws ApiError
 */
export function endFilter(text: string): EndFilter {
  const [, namespace, name] = /^([a-z0-9.-]+)\/([a-z0-9.*-]*)$/.exec(text) ?? [];
  if (namespace !== undefined && !/^[0-9.]+$/.test(namespace)) {
    return (_, pod) =>
      pod?.metadata.namespace === namespace && (name === '' || pod.metadata.name === name);
  }
  let block: Cidr | null = null;
  try {
    block = parseCidr(text.includes('/') ? text : `${text}/${text.includes(':') ? 128 : 32}`);
  } catch (error) {
    if (!(error instanceof AddressError)) throw error;
  }
  if (block !== null) {
    const wanted = block;
    return (address) => address !== null && cidrContains(wanted, address);
  }
  if (/^[a-z0-9.-]+$/.test(text)) return (_, pod, node) => pod === null && node === text;
  throw new ApiError(
    400,
    'ERR_FILTER',
    `"${text.slice(0, 100)}" is no NAMESPACE/POD, NAMESPACE/, address, block or node`,
  );
}

/** `90`, `30s`, `5m`, `2h`, in milliseconds. @throws ApiError */
export function durationMs(text: string): number {
  const [, count, unit] = /^(\d{1,9})(ms|s|m|h|d)?$/.exec(text) ?? [];
  const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
  if (count === undefined) {
    throw new ApiError(400, 'ERR_FILTER', `"${text.slice(0, 40)}" is no time: 30s, 5m, 2h`);
  }
  return Number(count) * units[(unit ?? 's') as keyof typeof units];
}

/** @throws ApiError */
export function flowFilter(query: URLSearchParams, nowMs: number): FlowFilter {
  const refuse = (name: string, wanted: string): never => {
    const given = (query.get(name) ?? '').slice(0, 40);
    throw new ApiError(400, 'ERR_FILTER', `${name}: "${given}" is not ${wanted}`);
  };
  const numberOf = (name: string, least: number, most: number): number | null => {
    const text = query.get(name);
    if (text === null) return null;
    const value = Number(text);
    return Number.isInteger(value) && value >= least && value <= most
      ? value
      : refuse(name, `${least}..${most}`);
  };
  const end = (name: string): EndFilter | null => {
    const text = query.get(name);
    return text === null ? null : endFilter(text);
  };
  const verdict = query.get('verdict');
  const isDeny = verdict === 'deny' || verdict === 'dropped';
  if (verdict !== null && !isDeny && verdict !== 'allow' && verdict !== 'forwarded') {
    refuse('verdict', 'allow or deny');
  }
  const reason = query.get('reason');
  if (reason !== null && !(dropNames as readonly string[]).includes(reason)) {
    refuse('reason', 'a drop reason');
  }
  const [, namespace, name] =
    /^([a-z0-9.-]+)\/([a-z0-9.-]+)$/.exec(query.get('service') ?? '') ?? [];
  if (query.has('service') && name === undefined) refuse('service', 'NAMESPACE/NAME');
  const since = query.get('since');
  return {
    after: numberOf('after', 0, Number.MAX_SAFE_INTEGER) ?? 0,
    sinceMs: since === null ? 0 : nowMs - durationMs(since),
    verdict: verdict === null ? null : isDeny ? 'dropped' : 'forwarded',
    reason,
    from: end('from'),
    to: end('to'),
    with: end('with'),
    service: name === undefined ? null : { namespace: namespace!, name },
    protocol: query.get('protocol')?.toUpperCase().replace('V6', 'v6') ?? null,
    port: numberOf('port', 0, 65535),
    limit: numberOf('limit', 1, LIMIT_MAX) ?? LIMIT_DEFAULT,
  };
}

/** A new flow that was let through, or a packet that a policy denied. */
export interface PolicyEvent {
  readonly source: IpAddress;
  /** The endpoint of a Service's flow, or the frontend where none was chosen. */
  readonly destination: IpAddress;
  readonly protocol: Protocol | 'other';
  /** IANA's. */
  readonly protocolNumber: number;
  readonly port: number;
  /** What was asked, when a Service gave it the destination; else null. */
  readonly frontend: { readonly address: IpAddress; readonly port: number } | null;
  readonly isFrontend: boolean;
  readonly isOut: boolean;
  readonly isDenied: boolean;
  /** Milliseconds since 1970. */
  readonly timeMs: number;
  /** Who had the addresses then. */
  readonly sourcePod: Pod | null;
  readonly destinationPod: Pod | null;
  /** For people; the source's port is left out. */
  readonly told: Pick<FlowMessage, 'source' | 'destination' | 'service' | 'protocol'>;
}

export interface FlowLogOptions {
  readonly node: string;
  /** As things are at this moment. */
  readonly names: () => Names;
  /** What policies are explained from; null: none are known. */
  readonly policies: () => { readonly objects: ObjectSet; readonly around: Surroundings } | null;
  /**
   * Asked before events are read; what it gives is told of each, and may take the event, or null where no
   * policy was asked. Null: nobody wants them.
   */
  readonly watch?: () => ((event: () => PolicyEvent | null) => void) | null;
  readonly history?: number;
}

export class FlowLog {
  readonly #options: FlowLogOptions;
  readonly #size: number;
  readonly #words: Int32Array<ArrayBuffer>;
  readonly #times: Float64Array;
  readonly #named: (Named | undefined)[];
  /** Events that were ever read: the number of the next one. */
  #count = 0;
  #lost = 0;
  readonly #run = randomUUID();
  /** Many events have one reason. */
  readonly #explained = new Map<string, string | null>();
  #explainedAtMs = -Infinity;
  #arrived = Promise.withResolvers<void>();
  readonly #node: string;
  /** The events of one batch have one time. */
  #timeMs = Number.NaN;
  #time = '';

  constructor(options: FlowLogOptions) {
    this.#options = options;
    this.#node = JSON.stringify(options.node);
    this.#size = options.history ?? HISTORY;
    this.#words = new Int32Array(this.#size * EVENT_WORDS);
    this.#times = new Float64Array(this.#words.buffer);
    this.#named = Array.from({ length: this.#size });
  }

  /** Takes what the workers have written since the last call. */
  read(dataplane: Pick<Dataplane, 'readEvents'>): void {
    const before = this.#count;
    const watcher = this.#options.watch?.() ?? null;
    let names: Names | null = null;
    this.#lost = dataplane.readEvents((ring, from) => {
      names ??= this.#options.names();
      const slot = this.#count % this.#size;
      const at = slot * EVENT_WORDS;
      for (let i = 0; i < EVENT_WORDS; i++) this.#words[at + i] = ring[from + i]!;
      const event = this.#event(this.#count);
      const named = this.#nameAll(names, event);
      this.#named[slot] = named;
      watcher?.(() => this.#policyEvent(event, named));
      this.#count++;
    });
    if (this.#count === before) return;
    this.#arrived.resolve();
    this.#arrived = Promise.withResolvers();
  }

  get lost(): number {
    return this.#lost;
  }

  /** The newest `limit` that the filter lets through, oldest first. */
  query(filter: FlowFilter): FlowsMessage {
    const [flows, next] = this.#each(filter, (event, named) => this.#message(event, named));
    return { ...this.#head(next), flows };
  }

  /** The same, as lines of JSON. */
  lines(filter: FlowFilter): FlowLines {
    const [lines, next] = this.#each(filter, (event, named) => this.#line(event, named));
    return { ...this.#head(next), lines: Buffer.from(lines.join('')) };
  }

  /** What the newest `limit` since then come to. */
  summary(sinceMs: number, limit: number): FlowSummary {
    const counts = new FlowCounts<FlowEvent>({
      because: (event, named) => this.#because(event, named),
      tell: (event, named) => this.#message(event, named),
    });
    this.#each({ ...ALL, sinceMs, limit }, (event, named) => counts.take(event, named));
    return counts.summary;
  }

  #head(next: number): FlowLinesHead {
    return { node: this.#options.node, next, run: this.#run, lost: this.#lost };
  }

  /** @returns what is made of each, oldest first, and where the next question goes on */
  #each<T>(
    filter: FlowFilter,
    make: (event: FlowEvent, named: Named) => T,
  ): readonly [readonly T[], number] {
    const made: T[] = [];
    const oldest = Math.max(this.#count - this.#size, filter.after);
    // Who follows wants what comes next; who looks back, the newest.
    const forward = filter.after > 0;
    let next = this.#count;
    for (let i = 0; i < this.#count - oldest; i++) {
      const sequence = forward ? oldest + i : this.#count - 1 - i;
      const event = this.#event(sequence);
      const named = this.#named[sequence % this.#size]!;
      if (!forward && event.timeMs < filter.sinceMs - READ_EVERY_MS) break;
      if (!matches(filter, event, named)) continue;
      made.push(make(event, named));
      if (made.length >= filter.limit) {
        if (forward) next = sequence + 1;
        break;
      }
    }
    if (!forward) made.reverse();
    return [made, next];
  }

  /** As `lines`, but waits for one to come for `waitMs` at most. */
  async follow(filter: FlowFilter, waitMs: number): Promise<FlowLines> {
    const end = performance.now() + waitMs;
    for (let after = filter.after; ;) {
      const found = this.lines({ ...filter, after });
      const leftMs = end - performance.now();
      if (found.lines.length > 0 || leftMs <= 0) return found;
      after = found.next;
      const waiting = Promise.withResolvers<void>();
      const timer = setTimeout(() => waiting.resolve(), leftMs);
      await Promise.race([waiting.promise, this.#arrived.promise]);
      clearTimeout(timer);
      if (performance.now() >= end) return this.lines({ ...filter, after });
    }
  }

  /** What policies have let through or denied since then, oldest first. */
  seen(sinceMs: number): readonly PolicyEvent[] {
    const found: PolicyEvent[] = [];
    for (let i = Math.max(this.#count - this.#size, 0); i < this.#count; i++) {
      const event = this.#event(i);
      if (event.timeMs < sinceMs) continue;
      const it = this.#policyEvent(event, this.#named[i % this.#size]!);
      if (it !== null) found.push(it);
    }
    return found;
  }

  #policyEvent(event: FlowEvent, named: Named): PolicyEvent | null {
    const { reason, source, destination, backend } = event;
    const isDenied = reason === 'policyEgress' || reason === 'policyIngress';
    if ((reason !== null && !isDenied) || source === null || destination === null) return null;
    // Of a flow that went on when policies changed: perhaps an answer, and no beginning.
    const isTcp = event.protocol === 'TCP';
    if (event.isReply) return null;
    if (isDenied && isTcp && (event.tcpFlags & (TCP_SYN | TCP_ACK)) !== TCP_SYN) return null;
    const told = this.#message(event, named, null);
    const isFrontend = backend === null && named.service !== null && named.destination === null;
    const protocol = withPorts(event.protocol);
    return {
      source,
      destination: backend ?? destination,
      protocol: protocol ?? 'other',
      protocolNumber: event.protocolNumber,
      port: protocol === null ? 0 : backend === null ? event.destinationPort : event.backendPort,
      frontend: backend === null ? null : { address: destination, port: event.destinationPort },
      isFrontend,
      isOut: event.isOut,
      isDenied,
      timeMs: event.timeMs,
      sourcePod: named.source,
      destinationPod: backend === null ? named.destination : named.backend,
      told: {
        source: { ...told.source, port: null },
        destination: told.destination,
        service: told.service,
        protocol: told.protocol,
      },
    };
  }

  #event(sequence: number): FlowEvent {
    const at = (sequence % this.#size) * EVENT_WORDS;
    return eventAt(this.#words, this.#times, at, sequence);
  }

  #nameAll(names: Names, event: FlowEvent): Named {
    const { source, destination, backend, destinationPort } = event;
    const pod = (it: IpAddress | null): Pod | null => (it === null ? null : names.pod(it));
    const node = (it: IpAddress | null): string | null => (it === null ? null : names.node(it));
    return {
      source: pod(source),
      destination: pod(destination),
      backend: pod(backend),
      sourceNode: node(source),
      destinationNode: node(destination),
      service:
        destination === null
          ? null
          : names.service(withPorts(event.protocol), destination, destinationPort),
    };
  }

  #message(event: FlowEvent, named: Named, because = this.#because(event, named)): FlowMessage {
    const { reason, isOut, protocol, tcpFlags, bytes, timeMs } = event;
    const ported = withPorts(protocol) !== null;
    const { service } = named;
    return {
      sequence: event.sequence,
      time: new Date(timeMs).toISOString(),
      node: this.#options.node,
      verdict: reason === null ? 'forwarded' : 'dropped',
      reason,
      direction: isOut ? 'egress' : 'ingress',
      isReply: event.isReply,
      protocol,
      tcpFlags: tcpFlagsText(tcpFlags),
      source: endMessage(
        event.source,
        ported ? event.sourcePort : null,
        named.source,
        named.sourceNode,
      ),
      destination: endMessage(
        event.destination,
        ported ? event.destinationPort : null,
        named.destination,
        named.destinationNode,
      ),
      service,
      backend:
        event.backend === null
          ? null
          : endMessage(event.backend, event.backendPort, named.backend, null),
      outerSource: event.outerSource === null ? null : formatAddress(event.outerSource),
      bytes,
      because,
    };
  }

  /** As JSON.stringify would write it, at a quarter of what it takes to make a message and write that. */
  #line(event: FlowEvent, named: Named): string {
    const { reason, isOut, protocol, tcpFlags, timeMs, backend, outerSource, bytes } = event;
    const ported = withPorts(protocol) !== null;
    if (timeMs !== this.#timeMs) {
      this.#timeMs = timeMs;
      this.#time = new Date(timeMs).toISOString();
    }
    const because = this.#because(event, named);
    const { source, destination, service } = named;
    const { sourceNode, destinationNode } = named;
    const sourcePort = ported ? event.sourcePort : null;
    const destinationPort = ported ? event.destinationPort : null;
    const from = endJson(event.source, sourcePort, source, sourceNode);
    const to = endJson(event.destination, destinationPort, destination, destinationNode);
    const chosen =
      backend === null ? 'null' : endJson(backend, event.backendPort, named.backend, null);
    return (
      `{"flow":{"sequence":${event.sequence},"time":"${this.#time}","node":${this.#node}` +
      `,"verdict":"${reason === null ? 'forwarded' : 'dropped'}","reason":${textJson(reason)}` +
      `,"direction":"${isOut ? 'egress' : 'ingress'}","isReply":${event.isReply}` +
      `,"protocol":"${protocol}","tcpFlags":"${tcpFlagsText(tcpFlags)}"` +
      `,"source":${from},"destination":${to}` +
      `,"service":${service === null ? 'null' : serviceJson(service)},"backend":${chosen}` +
      `,"outerSource":${textJson(outerSource === null ? null : formatAddress(outerSource))}` +
      `,"bytes":${bytes},"because":${because === null ? 'null' : JSON.stringify(because)}}}\n`
    );
  }

  /** The policy and rule behind a denial, as they are now; on the way to a Service, of any endpoint. */
  #because(event: FlowEvent, named: Named): string | null {
    const { reason, source, destination, protocol, sourcePort, destinationPort } = event;
    if (reason !== 'policyEgress' && reason !== 'policyIngress') return null;
    const now = performance.now();
    if (now - this.#explainedAtMs > EXPLAINED_MS) {
      this.#explained.clear();
      this.#explainedAtMs = now;
    }
    const asked = event.isReply ? `reply ${sourcePort}` : destinationPort;
    const key = `${source} ${destination} ${protocol} ${asked}`;
    let because = this.#explained.get(key);
    if (because === undefined) {
      because = this.#explain(event, named);
      this.#explained.set(key, because);
    }
    return because;
  }

  #explain(event: FlowEvent, named: Named): string | null {
    const { source, destination, protocol, sourcePort, destinationPort } = event;
    const policies = this.#options.policies();
    if (policies === null || source === null || destination === null) return null;
    const { objects, around } = policies;
    if (event.isReply) {
      const flow = {
        from: destination,
        to: source,
        protocol: withPorts(protocol) ?? ('other' as const),
        port: sourcePort,
      };
      const { verdict, because } = referenceVerdict(objects, flow, around);
      return verdict === 'deny' ? `an answer: ${because}` : CHANGED_SINCE;
    }
    const asked = {
      source,
      destination,
      protocol: withPorts(protocol) ?? ('other' as const),
      port: destinationPort,
      isFrontend: named.service !== null && named.destination === null,
    };
    for (const { to, port } of endsOf(objects, asked, named.service)) {
      const flow = { from: source, to, protocol: asked.protocol, port };
      const { verdict, because } = referenceVerdict(objects, flow, around);
      if (verdict === 'deny') return because;
    }
    return CHANGED_SINCE;
  }
}

function endMessage(
  address: IpAddress | null,
  port: number | null,
  pod: Pod | null,
  node: string | null,
): FlowEndMessage {
  return {
    address: address === null ? null : formatAddress(address),
    port,
    namespace: pod?.metadata.namespace ?? null,
    pod: pod?.metadata.name ?? null,
    node: pod === null ? node : pod.nodeName || null,
  };
}

/** Of text that needs no escapes. */
const textJson = (text: string | null): string => (text === null ? 'null' : `"${text}"`);

/** What a pod's or Service's names come to in JSON, after what differs from event to event. */
const podTails = new WeakMap<Pod, string>();
const serviceTexts = new WeakMap<ServiceName, string>();

function endJson(
  address: IpAddress | null,
  port: number | null,
  pod: Pod | null,
  node: string | null,
): string {
  const text = textJson(address === null ? null : formatAddress(address));
  const start = `{"address":${text},"port":${port}`;
  if (pod === null) {
    return `${start},"namespace":null,"pod":null,"node":${JSON.stringify(node)}}`;
  }
  return start + remembered(podTails, pod, () => tailOf(pod));
}

const tailOf = ({ metadata: { namespace, name }, nodeName }: Pod): string =>
  `,${JSON.stringify({ namespace, pod: name, node: nodeName || null }).slice(1)}`;

const serviceJson = (service: ServiceName): string =>
  remembered(serviceTexts, service, () => JSON.stringify(service));

function matches(filter: FlowFilter, event: FlowEvent, named: Named): boolean {
  const { reason, source, destination } = event;
  const { service } = named;
  const ofSource = (it: EndFilter): boolean => it(source, named.source, named.sourceNode);
  const ofDestination = (it: EndFilter): boolean =>
    it(destination, named.destination, named.destinationNode) ||
    (event.backend !== null && it(event.backend, named.backend, null));
  return (
    event.timeMs >= filter.sinceMs &&
    (filter.verdict === null || filter.verdict === (reason === null ? 'forwarded' : 'dropped')) &&
    (filter.reason === null || filter.reason === reason) &&
    (filter.protocol === null || filter.protocol === event.protocol) &&
    (filter.port === null ||
      filter.port === event.destinationPort ||
      filter.port === event.backendPort) &&
    (filter.from === null || ofSource(filter.from)) &&
    (filter.to === null || ofDestination(filter.to)) &&
    (filter.with === null || ofSource(filter.with) || ofDestination(filter.with)) &&
    (filter.service === null ||
      (service?.namespace === filter.service.namespace && service.name === filter.service.name))
  );
}
