/**
 * The packets of one probe (probe-packet.ts), as a node sees them: it, its answer, and ICMP errors about either. A
 * probe is known by its mark, the source port or the identifier of an echo.
 */
import { z } from 'zod';
import type { CaptureFilter } from '../overlay/capture-ring.ts';
import { type IpAddress, formatAddress } from '../wire/address.ts';
import { Drop, dropNames } from '../wire/drop-reason.ts';
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6, isIcmpError } from '../wire/icmp.ts';
import { IPV6_HEADER_BYTES } from '../wire/ipv6.ts';
import { PROTOCOL_TCP } from '../wire/tcp.ts';
import { PROTOCOL_UDP } from '../wire/udp.ts';
import { type CapturedPacket, type Captures, rangeOf } from './capture.ts';
import type { SightingMessage } from './messages.ts';

/** What an ICMP error quotes is in it. */
const SNAP_BYTES = 256;
/** Below those that Linux gives out by itself, and above those that Weft lends (docs/packet-path.md). */
export const MARK_FIRST = 30_000;
export const MARK_AFTER = 32_768;
/** That one probe leaves, at most: answers that are sent again are among them. */
export const SIGHTINGS_MAX = 32;

export interface Probe {
  readonly source: IpAddress;
  readonly protocol: 'TCP' | 'UDP' | 'ICMP';
  /** MARK_FIRST..MARK_AFTER - 1 */
  readonly mark: number;
}

const filterOf = (source: IpAddress, protocol: number, port: number | null): CaptureFilter => ({
  outer: false,
  snapBytes: SNAP_BYTES,
  protocol,
  port,
  verdict: null,
  ends: [[rangeOf(source)]],
});

/** The transport header's offset in a packet, IPv6 without extension headers. */
export const transportAt = (packet: Uint8Array, ip: number): number =>
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

/** Until it is disposed of; of the node's captures it takes two, one for an echo. @throws ApiError */
export function watchProbe(
  captures: Pick<Captures, 'watch'>,
  { source, protocol, mark }: Probe,
  take: (packet: CapturedPacket, comment: string) => void,
): Disposable {
  const isEcho = protocol === 'ICMP';
  const icmp = typeof source === 'number' ? PROTOCOL_ICMP : PROTOCOL_ICMPV6;
  const opened = new DisposableStack();
  try {
    opened.use(
      captures.watch(filterOf(source, icmp, null), (it, comment) => {
        if (isAbout(it.stored, isEcho, mark)) take(it, comment);
      }),
    );
    const number = protocol === 'TCP' ? PROTOCOL_TCP : PROTOCOL_UDP;
    if (!isEcho) opened.use(captures.watch(filterOf(source, number, mark), take));
  } catch (error) {
    opened.dispose();
    throw error;
  }
  return opened;
}

/** @param comment  what was decided */
export const sightingOf = (
  { isOut, is, reason }: CapturedPacket,
  comment: string,
  node: string,
): SightingMessage => ({
  node,
  atMs: null,
  direction: isOut ? 'egress' : 'ingress',
  source: is.source === null ? null : formatAddress(is.source),
  destination: is.destination === null ? null : formatAddress(is.destination),
  reason: reason === Drop.none ? null : dropNames[reason]!,
  text: comment,
});

const text = z.string().max(1000);
const watchedSchema = z.object({
  seen: z
    .array(
      z.object({
        node: text,
        atMs: z.null(),
        direction: z.enum(['egress', 'ingress']),
        source: text.nullable(),
        destination: text.nullable(),
        reason: text.nullable(),
        text,
      }),
    )
    .max(SIGHTINGS_MAX),
});

/** What another node has sent. @returns null: it is no such answer */
export const sightingsOf = (answer: unknown): readonly SightingMessage[] | null =>
  watchedSchema.safeParse(answer).data?.seen ?? null;

/**
 * Of two nodes, whose clocks are not compared: each node's in its own order, and there after it left here, and
 * before the answer came here.
 * @param source  the pod's address, to which answers go
 */
export function joinSightings(
  here: readonly SightingMessage[],
  there: readonly SightingMessage[],
  source: string,
): readonly SightingMessage[] {
  const isAnswer = (it: SightingMessage): boolean => it.destination === source;
  const until = (list: readonly SightingMessage[], more: number): number => {
    const at = list.findIndex(isAnswer);
    return at === -1 ? list.length : at + more;
  };
  const [left, answered] = [until(here, 0), until(there, 1)];
  return [
    ...here.slice(0, left),
    ...there.slice(0, answered),
    ...here.slice(left),
    ...there.slice(answered),
  ];
}
