/**
 * The far side of `weft trace --live`: another node asks to watch for its one probe to a pod of ours, sends it,
 * and fetches what was seen. Nothing changes but what this node looks at: one probe at a time, between
 * addresses that are given, known by a port that nobody else gives out, and for some seconds.
 */
import { randomUUID } from 'node:crypto';
import type { NodeLease } from '../ipam/types.ts';
import { type IpAddress, addressOrNull, familyOf } from '../wire/address.ts';
import { cidrContains } from '../wire/cidr.ts';
import { ApiError, type ApiRoute } from './api.ts';
import type { CapturedPacket, Captures } from './capture.ts';
import type { SightingMessage, TraceWatchMessage, TraceWatchedMessage } from './messages.ts';
import {
  MARK_AFTER,
  MARK_FIRST,
  type Probe,
  SIGHTINGS_MAX,
  sightingOf,
  watchProbe,
} from './probe-watch.ts';

/** Longer than who asks takes to arm, to send and to wait for the answer. */
const WATCH_MS = 8_000;
/** It takes two of the node's four captures; the others are for its own operators. */
const WATCHES_MAX = 1;
/** Endpoints of one Service on this node. */
export const FAR_ADDRESSES_MAX = 16;

export interface TraceWatchesOptions {
  readonly node: string;
  readonly captures: Pick<Captures, 'watch'>;
  /** Our own; null: none yet. */
  readonly lease: () => NodeLease | null;
}

interface Watch {
  readonly seen: SightingMessage[];
  readonly end: () => void;
}

const refusal = (message: string): ApiError => new ApiError(400, 'ERR_TRACE', message);

export class TraceWatches {
  readonly #options: TraceWatchesOptions;
  readonly #watches = new Map<string, Watch>();

  constructor(options: TraceWatchesOptions) {
    this.#options = options;
  }

  /** For other nodes alone. */
  routes(): readonly ApiRoute[] {
    return [
      { method: 'GET', path: '/v1/trace/watch', answer: ({ query }) => this.#begin(query) },
      {
        method: 'GET',
        path: '/v1/trace/watch/:id',
        answer: ({ parts }) => this.#end(parts['id'] ?? ''),
      },
    ];
  }

  /** @throws ApiError */
  #begin(query: URLSearchParams): TraceWatchMessage {
    const { node, captures } = this.#options;
    const { probe, destinations } = this.#question(query);
    if (this.#watches.size >= WATCHES_MAX) {
      throw new ApiError(429, 'ERR_BUSY', 'it watches for another live trace at this moment');
    }
    const seen: SightingMessage[] = [];
    const isAsked = ({ was, is }: CapturedPacket): boolean =>
      [was.source, was.destination, is.source, is.destination].some(
        (it) => it !== null && destinations.includes(it),
      );
    const watching = watchProbe(captures, probe, (packet, comment) => {
      // Of an ICMP error the other end is who sends it; it quotes the probe.
      const isError = probe.protocol !== 'ICMP' && packet.is.sourcePort === 0;
      if (seen.length >= SIGHTINGS_MAX || !(isAsked(packet) || isError)) return;
      seen.push(sightingOf(packet, comment, node));
    });
    const id = randomUUID();
    const late = setTimeout(() => this.#end(id), WATCH_MS).unref();
    const end = (): void => {
      clearTimeout(late);
      watching[Symbol.dispose]();
    };
    this.#watches.set(id, { seen, end });
    return { node, id };
  }

  /** @throws ApiError */
  #end(id: string): TraceWatchedMessage {
    const watch = this.#watches.get(id);
    if (watch === undefined) {
      throw new ApiError(404, 'ERR_TRACE', 'it does not watch for that live trace any more');
    }
    this.#watches.delete(id);
    watch.end();
    return { node: this.#options.node, seen: watch.seen };
  }

  /** One probe, from an address of another node to some of ours. @throws ApiError */
  #question(query: URLSearchParams): {
    readonly probe: Probe;
    readonly destinations: readonly IpAddress[];
  } {
    const [source, ...others] = query.getAll('source').map(addressOrNull);
    const destinations = query.getAll('destination').map(addressOrNull);
    const protocol = query.get('protocol');
    const mark = Number(query.get('mark'));
    const isProtocol = protocol === 'TCP' || protocol === 'UDP' || protocol === 'ICMP';
    if (!isProtocol) throw refusal('protocol: it is not TCP, UDP or ICMP');
    if (!Number.isInteger(mark) || mark < MARK_FIRST || mark >= MARK_AFTER) {
      throw refusal(`mark: it is not ${MARK_FIRST}..${MARK_AFTER - 1}`);
    }
    if (source === undefined || source === null || others.length > 0 || this.#isOwn(source)) {
      throw refusal('source: it is not one address of another node');
    }
    const isTarget = (it: IpAddress | null): it is IpAddress =>
      it !== null && familyOf(it) === familyOf(source) && this.#isOwn(it);
    const count = destinations.length;
    if (count === 0 || count > FAR_ADDRESSES_MAX || !destinations.every(isTarget)) {
      throw refusal(`destination: it is not 1..${FAR_ADDRESSES_MAX} addresses of this node`);
    }
    return { probe: { source, protocol, mark }, destinations };
  }

  #isOwn(address: IpAddress): boolean {
    const lease = this.#options.lease();
    const blocks = [lease?.subnet4 ?? null, lease?.subnet6 ?? null];
    return blocks.some((it) => it !== null && cidrContains(it, address));
  }
}
