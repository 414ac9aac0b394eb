/**
 * `weft trace --live`: one packet is sent from the pod's own network namespace, and what becomes of it, and
 * of the answer, is captured on this node. The far side is not watched: an answer is the proof.
 */
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Attachment } from '../ipam/types.ts';
import type { CaptureFilter } from '../overlay/capture-ring.ts';
import { Drop, dropNames } from '../wire/drop-reason.ts';
import { type IpAddress, formatAddress } from '../wire/address.ts';
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6, isIcmpError } from '../wire/icmp.ts';
import { IPV6_HEADER_BYTES } from '../wire/ipv6.ts';
import { PROTOCOL_TCP, TCP_ACK, TCP_RST, TCP_SYN } from '../wire/tcp.ts';
import { PROTOCOL_UDP } from '../wire/udp.ts';
import { ApiError, type ApiRoute } from './api.ts';
import { type CapturedPacket, type Captures, rangeOf } from './capture.ts';
import type { LiveTraceMessage, SightingMessage } from './messages.ts';
import { probePacket, sendFrom } from './probe-packet.ts';
import { type Traces, traceQuestion } from './trace.ts';

export interface LiveTracesOptions {
  readonly traces: Traces;
  readonly captures: Captures;
  /** Of this node. */
  readonly attachments: () => readonly Attachment[];
}

/** An answer within a cluster takes milliseconds; the first packet to a neighbour may wait for ARP. */
const ANSWER_WITHIN_MS = 1500;
/** What an ICMP error quotes is in it. */
const SNAP_BYTES = 256;
/** Below those that Linux gives out by itself, and above those that Weft lends (docs/packet-path.md). */
const PORT_FIRST = 30_000;
const PORT_AFTER = 32_768;

const filterOf = (source: IpAddress, protocol: number, port: number | null): CaptureFilter => ({
  outer: false,
  snapBytes: SNAP_BYTES,
  protocol,
  port,
  verdict: null,
  ends: [[rangeOf(source)]],
});

/** The transport header's offset in a packet, IPv6 without extension headers. */
const transportAt = (packet: Uint8Array, ip: number): number =>
  ip + ((packet[ip] ?? 0) >>> 4 === 4 ? ((packet[ip] ?? 0) & 15) << 2 : IPV6_HEADER_BYTES);

const u16 = (packet: Uint8Array, at: number): number =>
  ((packet[at] ?? 0) << 8) | (packet[at + 1] ?? 0);

/** Is it about the probe: an echo with its identifier, or an error that quotes its ports? */
function isAbout(packet: Uint8Array, isEcho: boolean, mark: number): boolean {
  const at = transportAt(packet, 0);
  if (!isIcmpError(packet[at] ?? 0)) return isEcho && u16(packet, at + 4) === mark;
  const quoted = transportAt(packet, at + 8);
  return u16(packet, isEcho ? quoted + 4 : quoted) === mark;
}

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
    const { trace, source, destination, port } = traces.resolve(question);
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
    const mark = randomInt(PORT_FIRST, PORT_AFTER);
    const packet = probePacket({ source, destination, protocol, sourcePort: mark, port });
    const seen: SightingMessage[] = [];
    let answer: string | null = null;
    let drop: CapturedPacket | null = null;
    let startMs = Date.now();
    const settled = new AbortController();
    const take = (it: CapturedPacket, comment: string): void => {
      const isIcmp = it.is.protocol === PROTOCOL_ICMP || it.is.protocol === PROTOCOL_ICMPV6;
      if (isIcmp && !isAbout(it.stored, protocol === 'ICMP', mark)) return;
      seen.push({
        atMs: Math.max(0, Math.round((it.timeMs - startMs) * 1000) / 1000),
        direction: it.isOut ? 'egress' : 'ingress',
        source: it.is.source === null ? null : formatAddress(it.is.source),
        destination: it.is.destination === null ? null : formatAddress(it.is.destination),
        reason: it.reason === Drop.none ? null : dropNames[it.reason]!,
        text: comment,
      });
      if (it.reason === Drop.none) answer ??= answerIn(it, source);
      else drop ??= it;
      if (answer !== null || drop !== null) settled.abort();
    };
    const icmp = typeof source === 'number' ? PROTOCOL_ICMP : PROTOCOL_ICMPV6;
    {
      using _errors = captures.watch(filterOf(source, icmp, null), take);
      using _own =
        protocol === 'ICMP'
          ? null
          : captures.watch(
              filterOf(source, protocol === 'TCP' ? PROTOCOL_TCP : PROTOCOL_UDP, mark),
              take,
            );
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
    }
    return { trace, seen, answer, outcome: outcomeOf(seen, answer, drop !== null) };
  }
}

function outcomeOf(
  seen: readonly SightingMessage[],
  answer: string | null,
  isDropped: boolean,
): LiveTraceMessage['outcome'] {
  if (isDropped) return 'dropped';
  const isRefusal = answer === 'RST' || answer?.startsWith('ICMP');
  if (answer !== null) return isRefusal ? 'refused' : 'answered';
  return seen.length === 0 ? 'not seen' : 'no answer';
}
