/**
 * `weft trace --live`: one packet is sent from the pod's own network namespace, and what becomes of it, and
 * of the answer, is captured on this node, and on the one where it arrives (trace-watches.ts).
 */
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Attachment, NodeLease } from '../ipam/types.ts';
import { type IpAddress, formatAddress } from '../wire/address.ts';
import { cidrContains } from '../wire/cidr.ts';
import { Drop } from '../wire/drop-reason.ts';
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6, isIcmpError } from '../wire/icmp.ts';
import { TCP_ACK, TCP_RST, TCP_SYN } from '../wire/tcp.ts';
import { PROTOCOL_UDP } from '../wire/udp.ts';
import { ApiError, type ApiRoute } from './api.ts';
import type { CapturedPacket, Captures } from './capture.ts';
import type { LiveTraceMessage, SightingMessage, TraceWatchMessage } from './messages.ts';
import type { Answered, OtherNodes } from './other-nodes.ts';
import { probePacket, sendFrom } from './probe-packet.ts';
import {
  MARK_AFTER,
  MARK_FIRST,
  type Probe,
  joinSightings,
  sightingOf,
  sightingsOf,
  transportAt,
  watchProbe,
} from './probe-watch.ts';
import { FAR_ADDRESSES_MAX } from './trace-watches.ts';
import { type Traces, traceQuestion } from './trace.ts';

export interface LiveTracesOptions {
  /** What this node is called. */
  readonly node: string;
  readonly traces: Traces;
  readonly captures: Captures;
  /** Of this node. */
  readonly attachments: () => readonly Attachment[];
  readonly others: Pick<OtherNodes, 'answerOf' | 'nameOf' | 'peers'>;
}

/** A node on which the packet may arrive, and whether it watches for it. */
interface FarWatch {
  readonly peer: NodeLease;
  readonly armed: Answered<TraceWatchMessage>;
}

/** An answer within a cluster takes milliseconds; the first packet to a neighbour may wait for ARP. */
const ANSWER_WITHIN_MS = 1500;
/** Nodes that have endpoints of a Service, one of which is chosen. */
const FAR_NODES_MAX = 16;

/** Null: it is no answer. */
function answerIn({ stored, is }: CapturedPacket, source: IpAddress): string | null {
  if (is.destination !== source) return null;
  const at = transportAt(stored, 0);
  if (is.protocol === PROTOCOL_ICMP || is.protocol === PROTOCOL_ICMPV6) {
    const type = stored[at] ?? 0;
    if (!isIcmpError(type)) return 'echo reply';
    return `ICMP error type ${type} code ${stored[at + 1] ?? 0}`;
  }
  if (is.protocol === PROTOCOL_UDP) return 'datagram';
  const flags = stored[at + 13] ?? 0;
  if ((flags & TCP_RST) !== 0) return 'RST';
  return (flags & (TCP_SYN | TCP_ACK)) === (TCP_SYN | TCP_ACK) ? 'SYN-ACK' : null;
}

export class LiveTraces {
  readonly #options: LiveTracesOptions;

  constructor(options: LiveTracesOptions) {
    this.#options = options;
  }

  routes(): readonly ApiRoute[] {
    return [{ method: 'POST', path: '/v1/trace/live', answer: ({ query }) => this.#answer(query) }];
  }

  /** @throws ApiError */
  async #answer(query: URLSearchParams): Promise<LiveTraceMessage> {
    const { traces, captures, attachments } = this.#options;
    const question = traceQuestion(query);
    if (question.protocol === 'SCTP') {
      throw new ApiError(400, 'ERR_TRACE', 'SCTP is not sent: trace it without --live');
    }
    const protocol = question.protocol === 'other' ? 'ICMP' : question.protocol;
    const { trace, source, destination, port, targets } = traces.resolve(question);
    const attachment = attachments().find(
      ({ address4, address6 }) => address4 === source || address6 === source,
    );
    if (attachment === undefined || attachment.netns === '') {
      throw new ApiError(
        409,
        'ERR_TRACE',
        `pod ${trace.from} has no network namespace that is known on this node: ask its own node`,
      );
    }
    const mark = randomInt(MARK_FIRST, MARK_AFTER);
    const packet = probePacket({ source, destination, protocol, sourcePort: mark, port });
    const probe: Probe = { source, protocol, mark };
    const far = await this.#arm(probe, targets);
    const seen: SightingMessage[] = [];
    let arrivesAt: IpAddress | null = null;
    let answer: string | null = null;
    let isDropped = false;
    let startMs = Date.now();
    const settled = new AbortController();
    const take = (it: CapturedPacket, comment: string): void => {
      const atMs = Math.max(0, Math.round((it.timeMs - startMs) * 1000) / 1000);
      seen.push({ ...sightingOf(it, comment, this.#options.node), atMs });
      if (it.is.source === source) arrivesAt ??= it.is.destination;
      isDropped ||= it.reason !== Drop.none;
      // What is said after a drop is the drop's.
      if (!isDropped) answer ??= answerIn(it, source);
      if (isDropped || answer !== null) settled.abort();
    };
    try {
      using _watch = watchProbe(captures, probe, take);
      startMs = Date.now();
      try {
        sendFrom(attachment.netns, attachment.netnsId, destination, packet);
      } catch (cause) {
        const message = `the packet cannot be sent from pod ${trace.from}: ${(cause as Error).message}`;
        throw new ApiError(409, 'ERR_TRACE', message, { cause });
      }
      await sleep(ANSWER_WITHIN_MS, undefined, { signal: settled.signal }).catch(
        () => 'there is an end of it already',
      );
    } catch (error) {
      await this.#fetch(far, null);
      throw error;
    }
    const there = await this.#fetch(far, arrivesAt);
    const all = joinSightings(seen, there.seen, formatAddress(source));
    return { trace, seen: all, absent: there.absent, answer, outcome: outcomeOf(all, answer) };
  }

  #peerOf(address: IpAddress): NodeLease | null {
    const blocks = ({ subnet4, subnet6 }: NodeLease) => [subnet4, subnet6];
    const holds = (it: NodeLease): boolean =>
      blocks(it).some((block) => block !== null && cidrContains(block, address));
    return this.#options.others.peers.find(holds) ?? null;
  }

  /** Asks the nodes on which it may arrive to watch for it, before it is sent. */
  async #arm(
    { source, protocol, mark }: Probe,
    targets: readonly IpAddress[],
  ): Promise<readonly FarWatch[]> {
    const { others } = this.#options;
    const found = Map.groupBy(targets, (it) => this.#peerOf(it));
    found.delete(null);
    const asked = [...found] as [NodeLease, readonly IpAddress[]][];
    return await Promise.all(
      asked.map(async ([peer, addresses], i): Promise<FarWatch> => {
        if (i >= FAR_NODES_MAX) {
          const problem = `it was not asked to watch: more than ${FAR_NODES_MAX} nodes have endpoints`;
          return { peer, armed: { problem } };
        }
        const query = new URLSearchParams({ protocol, mark: String(mark) });
        query.set('source', formatAddress(source));
        for (const it of addresses.slice(0, FAR_ADDRESSES_MAX)) {
          query.append('destination', formatAddress(it));
        }
        const path = `/v1/trace/watch?${query.toString()}`;
        return { peer, armed: await others.answerOf<TraceWatchMessage>(peer, path) };
      }),
    );
  }

  /** What was seen where it arrived. All watches end. */
  async #fetch(
    watches: readonly FarWatch[],
    arrivesAt: IpAddress | null,
  ): Promise<Pick<LiveTraceMessage, 'seen' | 'absent'>> {
    const { others } = this.#options;
    const chosen = arrivesAt === null ? null : this.#peerOf(arrivesAt);
    const found = await Promise.all(
      watches.map(async ({ peer, armed }) => {
        if ('problem' in armed) return { peer, got: armed };
        const id = (armed.answer as Partial<TraceWatchMessage> | null)?.id ?? '';
        const path = `/v1/trace/watch/${encodeURIComponent(id)}`;
        return { peer, got: await others.answerOf<unknown>(peer, path) };
      }),
    );
    const there = found.find(({ peer }) => peer.key === chosen?.key);
    if (there === undefined) return { seen: [], absent: [] };
    const name = others.nameOf(there.peer);
    if ('problem' in there.got) return { seen: [], absent: [`${name}: ${there.got.problem}`] };
    const seen = sightingsOf(there.got.answer);
    return seen === null
      ? { seen: [], absent: [`${name}: its answer is not understood`] }
      : { seen: seen.map((it) => ({ ...it, node: name })), absent: [] };
  }
}

function outcomeOf(
  seen: readonly SightingMessage[],
  answer: string | null,
): LiveTraceMessage['outcome'] {
  if (answer !== null)
    return answer === 'RST' || answer.startsWith('ICMP') ? 'refused' : 'answered';
  if (seen.some(({ reason }) => reason !== null)) return 'dropped';
  return seen.length === 0 ? 'not seen' : 'no answer';
}
