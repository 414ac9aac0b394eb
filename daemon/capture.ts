/**
 * Captures of packets: what the workers copy into their rings becomes a pcapng file for each client that
 * asks, as long as it reads. Packets are what Weft decided about, with what it decided as their comment;
 * or, with `outer`, the datagrams between nodes.
 */
import { type Pod, type Protocol, nameOf } from '../objects/types.ts';
import {
  CAPTURE_BYTES,
  CAPTURE_FLAGS,
  CAPTURE_IS,
  CAPTURE_MASK,
  CAPTURE_OUT,
  CAPTURE_OUTER,
  CAPTURE_OUTER_ADDRESS,
  CAPTURE_OUTER_FORM,
  CAPTURE_OUTER_PORTS,
  CAPTURE_RANGES_MAX,
  CAPTURE_REASON,
  CAPTURE_STORED,
  CAPTURE_TIME,
  CAPTURE_WAS,
  CAPTURE_WORDS,
  CLOCK_APART_MS,
  type CaptureFilter,
  type CaptureRange,
  ENDS_DESTINATION,
  ENDS_FORM,
  ENDS_PORTS,
  ENDS_SOURCE,
} from '../overlay/capture-ring.ts';
import type { CaptureRings } from '../overlay/types.ts';
import { type Surroundings, explainFlow } from '../policy/reference.ts';
import {
  addressOfWords,
  type IpAddress,
  AddressError,
  addressBytes,
  formatAddress,
  ipv6Words,
  parseAddress,
} from '../wire/address.ts';
import { type Cidr, cidrContains, lastOf } from '../wire/cidr.ts';
import { Drop, dropNames } from '../wire/drop-reason.ts';
import {
  ETHERNET_HEADER_BYTES,
  ETHERTYPE_IPV4,
  ETHERTYPE_IPV6,
  writeEthernet,
} from '../wire/ethernet.ts';
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6 } from '../wire/icmp.ts';
import { IPV4_DONT_FRAGMENT, IPV4_HEADER_BYTES, finishIpv4Header } from '../wire/ipv4.ts';
import { IPV6_HEADER_BYTES } from '../wire/ipv6.ts';
import {
  LINKTYPE_ETHERNET,
  LINKTYPE_RAW,
  pcapngHeader,
  pcapngPacket,
  pcapngStatistics,
} from '../wire/pcapng.ts';
import { PROTOCOL_SCTP } from '../wire/sctp.ts';
import { PROTOCOL_TCP } from '../wire/tcp.ts';
import { PROTOCOL_UDP, UDP_HEADER_BYTES } from '../wire/udp.ts';
import { ApiError, type ApiRoute, StreamAnswer } from './api.ts';
import { durationMs } from './flow-log.ts';
import { CAPTURE_ID, type CaptureMessage } from './messages.ts';
import type { NamedNode, Names } from './names.ts';
import type { View } from './observe.ts';
import { VERSION } from './version.ts';

/** While somebody captures; and so much of each worker a time: the rest waits, or is lost and counted. */
const READ_EVERY_MS = 20;
const READ_BYTES = 1 << 20;
const SNAP_BYTES_MAX = 65535;
const OUTER_TTL = 64;

const PROTOCOL_NAMES: Readonly<Record<string, number>> = {
  ICMP: PROTOCOL_ICMP,
  TCP: PROTOCOL_TCP,
  UDP: PROTOCOL_UDP,
  ICMPV6: PROTOCOL_ICMPV6,
  SCTP: PROTOCOL_SCTP,
};

export interface CapturesOptions {
  /** The interface that the files name. */
  readonly interfaceName: string;
  /** Null: no packets are carried yet. */
  readonly rings: () => CaptureRings | null;
  readonly node: string;
  readonly view: () => View;
  readonly names: () => Names;
  readonly nodes: () => readonly NamedNode[];
  /** Our own underlay addresses, one of each family. */
  readonly underlay: () => readonly IpAddress[];
}

/** One packet, as a worker copied it. */
export interface CapturedPacket {
  readonly timeMs: number;
  readonly mask: number;
  readonly reason: Drop;
  readonly isOut: boolean;
  readonly isOuter: boolean;
  readonly was: Ends;
  readonly is: Ends;
  readonly bytes: number;
  readonly stored: Uint8Array;
  readonly outer: OuterEnds | null;
}

interface Ends {
  readonly protocol: number;
  readonly source: IpAddress | null;
  readonly destination: IpAddress | null;
  readonly sourcePort: number;
  readonly destinationPort: number;
}

/** The other node, and what of the outer headers is known. */
interface OuterEnds {
  readonly address: IpAddress;
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly ecn: number;
}

function endsAt(words: Int32Array, at: number): Ends {
  const form = words[at + ENDS_FORM]!;
  const ports = words[at + ENDS_PORTS]!;
  return {
    protocol: form & 0xff,
    source: addressOfWords(words, at + ENDS_SOURCE, form >>> 8),
    destination: addressOfWords(words, at + ENDS_DESTINATION, form >>> 8),
    sourcePort: ports >>> 16,
    destinationPort: ports & 0xffff,
  };
}

/** A copy: the ring's room is the worker's again soon. */
function packetAt(ring: Int32Array, at: number): CapturedPacket {
  const flags = ring[at + CAPTURE_FLAGS]!;
  const outerForm = ring[at + CAPTURE_OUTER_FORM]!;
  const address = addressOfWords(ring, at + CAPTURE_OUTER_ADDRESS, outerForm >>> 8);
  const ports = ring[at + CAPTURE_OUTER_PORTS]!;
  return {
    timeMs: new Float64Array(ring.buffer, (at + CAPTURE_TIME) * 4, 1)[0]!,
    mask: ring[at + CAPTURE_MASK]!,
    reason: ring[at + CAPTURE_REASON]! as Drop,
    isOut: (flags & CAPTURE_OUT) !== 0,
    isOuter: (flags & CAPTURE_OUTER) !== 0,
    was: endsAt(ring, at + CAPTURE_WAS),
    is: endsAt(ring, at + CAPTURE_IS),
    bytes: ring[at + CAPTURE_BYTES]!,
    stored: new Uint8Array(
      ring.buffer,
      (at + CAPTURE_WORDS) * 4,
      ring[at + CAPTURE_STORED],
    ).slice(),
    outer:
      address === null
        ? null
        : {
            address,
            sourcePort: ports >>> 16,
            destinationPort: ports & 0xffff,
            ecn: outerForm & 3,
          },
  };
}

const withPorts = (protocol: number): Protocol | null =>
  protocol === PROTOCOL_TCP
    ? 'TCP'
    : protocol === PROTOCOL_UDP
      ? 'UDP'
      : protocol === PROTOCOL_SCTP
        ? 'SCTP'
        : null;

const endText = (address: IpAddress, port: number, protocol: number): string => {
  if (withPorts(protocol) === null) return formatAddress(address);
  return typeof address === 'number'
    ? `${formatAddress(address)}:${port}`
    : `[${formatAddress(address)}]:${port}`;
};

const wordsOf = (address: IpAddress): readonly number[] =>
  typeof address === 'number' ? [address] : ipv6Words(address);
export const rangeOf = (first: IpAddress, last: IpAddress = first): CaptureRange => ({
  first: wordsOf(first),
  last: wordsOf(last),
});
const blockRange = (block: Cidr): CaptureRange => rangeOf(block.base, lastOf(block));

/** What is asked: a filter, and when to end. */
interface CaptureQuestion {
  readonly filter: CaptureFilter;
  /** Null: until the client goes. */
  readonly count: number | null;
  readonly durationMs: number | null;
}

/** Who takes the packets. */
interface Taker {
  /** @returns false: it did not take it, and it is lost */
  readonly take: (packet: CapturedPacket, comment: string) => boolean;
  readonly end: (counts: CaptureMessage) => void;
}

class Session {
  readonly id: string;
  readonly slot: number;
  readonly question: CaptureQuestion;
  readonly taker: Taker;
  readonly startedMs = Date.now() - CLOCK_APART_MS;
  readonly lostBefore: number;
  captured = 0;
  /** The client did not take them in time. */
  refused = 0;
  timer: NodeJS.Timeout | null = null;

  constructor(
    id: string,
    slot: number,
    question: CaptureQuestion,
    taker: Taker,
    lostBefore: number,
  ) {
    this.id = id;
    this.slot = slot;
    this.question = question;
    this.taker = taker;
    this.lostBefore = lostBefore;
  }
}

export class Captures implements Disposable {
  readonly #options: CapturesOptions;
  /** By slot. */
  readonly #sessions = new Map<number, Session>();
  #nextId = 1;
  #nextSlot = 0;
  #timer: NodeJS.Timeout | null = null;
  #around: { readonly view: View; readonly around: Surroundings } | null = null;

  constructor(options: CapturesOptions) {
    this.#options = options;
  }

  routes(): readonly ApiRoute[] {
    return [
      { method: 'GET', path: '/v1/capture', answer: ({ query }) => this.#begin(query) },
      {
        method: 'DELETE',
        path: '/v1/capture/:id',
        answer: ({ parts }) => this.#endNamed(parts['id'] ?? ''),
      },
    ];
  }

  [Symbol.dispose](): void {
    for (const it of this.#sessions.values()) this.#end(it);
  }

  /** @throws ApiError */
  #begin(query: URLSearchParams): StreamAnswer {
    const question = this.#question(query);
    // Refused now, while the answer has a status.
    this.#freeSlot();
    const id = String(this.#nextId++);
    const { outer, snapBytes } = question.filter;
    const { interfaceName } = this.#options;
    return new StreamAnswer('application/x-pcapng', { [CAPTURE_ID]: id }, (outlet) => {
      const linkType = outer ? LINKTYPE_ETHERNET : LINKTYPE_RAW;
      outlet.write(pcapngHeader(linkType, snapBytes, interfaceName, `weft ${VERSION}`));
      const session = this.#open(id, question, {
        take: (packet, comment) => outlet.write(this.#block(packet, snapBytes, comment)),
        end: ({ captured, lost }) => {
          const statistics = { received: BigInt(captured + lost), dropped: BigInt(lost) };
          outlet.write(pcapngStatistics(BigInt(Date.now()) * 1_000_000n, statistics));
          outlet.end();
        },
      });
      outlet.closed.addEventListener('abort', () => this.#end(session), { once: true });
    });
  }

  /** Until it is disposed of: what was copied by then is taken. @throws ApiError */
  watch(
    filter: CaptureFilter,
    take: (packet: CapturedPacket, comment: string) => void,
  ): Disposable {
    const id = String(this.#nextId++);
    const session = this.#open(
      id,
      { filter, count: null, durationMs: null },
      {
        take: (packet, comment) => {
          take(packet, comment);
          return true;
        },
        end: () => {},
      },
    );
    return {
      [Symbol.dispose]: () => {
        this.#read();
        this.#end(session);
      },
    };
  }

  /** @throws ApiError */
  #open(id: string, question: CaptureQuestion, taker: Taker): Session {
    const { rings, slot } = this.#freeSlot();
    this.#nextSlot = (slot + 1) % rings.slots;
    const session = new Session(id, slot, question, taker, rings.lost(slot));
    this.#sessions.set(slot, session);
    rings.begin(slot, question.filter);
    if (question.durationMs !== null) {
      session.timer = setTimeout(() => this.#end(session), question.durationMs);
    }
    this.#timer ??= setInterval(() => this.#read(), READ_EVERY_MS);
    return session;
  }

  /** @throws ApiError */
  #freeSlot(): { readonly rings: CaptureRings; readonly slot: number } {
    const rings = this.#options.rings();
    if (rings === null) {
      throw new ApiError(503, 'ERR_NOT_READY', 'the packet path has not started yet');
    }
    // The one that was free the longest: packets for its last session have been read.
    for (let i = 0; i < rings.slots; i++) {
      const slot = (this.#nextSlot + i) % rings.slots;
      if (!this.#sessions.has(slot)) return { rings, slot };
    }
    throw new ApiError(
      409,
      'ERR_CAPTURES',
      `${rings.slots} captures run on this node already: end one of them first`,
    );
  }

  /** @throws ApiError */
  #endNamed(id: string): CaptureMessage {
    const session = [...this.#sessions.values()].find((it) => it.id === id);
    if (session === undefined) {
      throw new ApiError(404, 'ERR_NO_CAPTURE', 'that capture has ended already');
    }
    this.#read();
    return this.#end(session);
  }

  #end(session: Session): CaptureMessage {
    const { slot, taker, captured } = session;
    const counts = { captured, lost: this.#lost(session) };
    if (this.#sessions.get(slot) === session) {
      this.#options.rings()?.end(slot);
      this.#sessions.delete(slot);
      if (session.timer !== null) clearTimeout(session.timer);
      taker.end(counts);
    }
    if (this.#sessions.size === 0 && this.#timer !== null) {
      clearInterval(this.#timer);
      this.#timer = null;
    }
    return counts;
  }

  #lost({ slot, lostBefore, refused }: Session): number {
    return (this.#options.rings()?.lost(slot) ?? lostBefore) - lostBefore + refused;
  }

  #read(): void {
    const packets: CapturedPacket[] = [];
    this.#options.rings()?.read(READ_BYTES, (ring, at) => packets.push(packetAt(ring, at)));
    if (packets.length === 0) return;
    // Each worker's are in order, and two workers' may be one connection's.
    packets.sort((a, b) => a.timeMs - b.timeMs);
    const names = this.#options.names();
    const view = this.#options.view();
    for (const packet of packets) {
      let comment: string | null = null;
      for (const session of this.#sessions.values()) {
        const isAsked =
          ((packet.mask >>> session.slot) & 1) !== 0 &&
          packet.isOuter === session.question.filter.outer &&
          packet.timeMs >= session.startedMs;
        if (!isAsked) continue;
        comment ??= this.#comment(packet, names, view);
        this.#hand(session, packet, comment);
      }
    }
  }

  #hand(session: Session, packet: CapturedPacket, comment: string): void {
    if (!session.taker.take(packet, comment)) {
      session.refused++;
      return;
    }
    session.captured++;
    if (session.captured === session.question.count) this.#end(session);
  }

  #block(packet: CapturedPacket, snapBytes: number, comment: string): Uint8Array {
    const frame = packet.isOuter ? this.#frame(packet) : packet.stored;
    return pcapngPacket({
      timeNs: BigInt(Math.round(packet.timeMs * 1000)) * 1000n,
      packet: frame.subarray(0, snapBytes),
      bytes: packet.bytes + frame.length - packet.stored.length,
      direction: packet.isOut ? 'out' : 'in',
      comment,
    });
  }

  /** What was decided, in a line. */
  #comment(packet: CapturedPacket, names: Names, view: View): string {
    const { reason, isOut, isOuter, was, is } = packet;
    if (reason !== Drop.none)
      return `dropped: ${dropNames[reason]}${this.#why(packet, names, view)}`;
    if (isOuter) return isOut ? 'sent to a peer' : 'accepted from a peer';
    const way = `forwarded ${isOut ? 'egress' : 'ingress'}`;
    if (was.destination === null || is.destination === null) return way;
    const protocol = withPorts(is.protocol);
    const service = (address: IpAddress | null, port: number): string | null => {
      const found = address === null ? null : names.service(protocol, address, port);
      return found && `${found.namespace}/${found.name}`;
    };
    if (was.destination !== is.destination || was.destinationPort !== is.destinationPort) {
      const name = service(was.destination, was.destinationPort);
      const to = endText(is.destination, is.destinationPort, is.protocol);
      if (name !== null) return `${way}, flow of Service ${name} -> ${to}`;
    }
    if (was.source !== null && (was.source !== is.source || was.sourcePort !== is.sourcePort)) {
      const name = service(is.source, is.sourcePort);
      const from = endText(was.source, was.sourcePort, is.protocol);
      if (name !== null) return `${way}, answer of Service ${name} from ${from}`;
    }
    return way;
  }

  /** The policy and rule behind a denial, as they are now. */
  #why({ reason, is, outer }: CapturedPacket, names: Names, view: View): string {
    if (outer !== null) return `, from ${formatAddress(outer.address)}`;
    const isEgress = reason === Drop.policyEgress;
    if ((!isEgress && reason !== Drop.policyIngress) || is.source === null) return '';
    const protocol = withPorts(is.protocol);
    const service = names.service(protocol, is.destination!, is.destinationPort);
    if (service !== null) return `, to an endpoint of Service ${service.namespace}/${service.name}`;
    const { objects } = view;
    if (objects === null) return '';
    const decision = explainFlow(
      objects,
      {
        from: is.source,
        to: is.destination!,
        protocol: protocol ?? 'other',
        port: is.destinationPort,
      },
      this.#surroundings(view),
    )[isEgress ? 'egress' : 'ingress'];
    return decision.answer === 'deny'
      ? `, ${decision.because}`
      : ', by policies that changed since';
  }

  /** The same object while the view is: what is looked up by it is kept. */
  #surroundings(view: View): Surroundings {
    const known = this.#around?.view;
    if (known?.own !== view.own || known.nodeAddresses !== view.nodeAddresses) {
      const subjects = new Set(view.own.map(nameOf));
      const { nodeAddresses } = view;
      this.#around = { view, around: { nodeName: this.#options.node, nodeAddresses, subjects } };
    }
    return this.#around!.around;
  }

  /** The datagram with outer Ethernet, IP and UDP headers before it, which the kernel makes. */
  #frame({ stored, bytes, isOut, outer }: CapturedPacket): Uint8Array {
    if (outer === null) return stored;
    const is4 = typeof outer.address === 'number';
    const own = this.#options.underlay().find((it) => (typeof it === 'number') === is4);
    const other = addressBytes(outer.address);
    const ours = own === undefined ? new Uint8Array(other.length) : addressBytes(own);
    const ipBytes = is4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES;
    const udp = ETHERNET_HEADER_BYTES + ipBytes;
    const headers = udp + UDP_HEADER_BYTES;
    const frame = new Uint8Array(headers + stored.length);
    const view = new DataView(frame.buffer);
    const ip = ETHERNET_HEADER_BYTES;
    writeEthernet(view, 0, 0, 0, is4 ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6);
    const udpBytes = Math.min(UDP_HEADER_BYTES + bytes, 65535);
    if (is4) {
      view.setUint16(ip, 0x4500 | outer.ecn);
      view.setUint16(ip + 2, Math.min(ipBytes + udpBytes, 65535));
      view.setUint16(ip + 6, IPV4_DONT_FRAGMENT);
      view.setUint8(ip + 8, OUTER_TTL);
      view.setUint8(ip + 9, PROTOCOL_UDP);
      frame.set(isOut ? ours : other, ip + 12);
      frame.set(isOut ? other : ours, ip + 16);
      finishIpv4Header(view, ip);
    } else {
      view.setUint32(ip, 0x60000000 | (outer.ecn << 20));
      view.setUint16(ip + 4, udpBytes);
      view.setUint8(ip + 6, PROTOCOL_UDP);
      view.setUint8(ip + 7, OUTER_TTL);
      frame.set(isOut ? ours : other, ip + 8);
      frame.set(isOut ? other : ours, ip + 24);
    }
    view.setUint16(udp, outer.sourcePort);
    view.setUint16(udp + 2, outer.destinationPort);
    view.setUint16(udp + 4, udpBytes);
    frame.set(stored, headers);
    return frame;
  }

  /** @throws ApiError */
  #question(query: URLSearchParams): CaptureQuestion {
    const number = (name: string, least: number, most: number): number | null => {
      const text = query.get(name);
      if (text === null) return null;
      const value = Number(text);
      if (text !== '' && Number.isInteger(value) && value >= least && value <= most) return value;
      throw refusal(`${name}: "${text.slice(0, 40)}" is not ${least}..${most}`);
    };
    const pods = query.getAll('pod');
    if (pods.length > 2) throw refusal('pod: two at most, then what goes between them is captured');
    const peer = query.get('peer');
    const duration = query.get('duration');
    return {
      filter: {
        outer: query.get('outer') === 'true',
        snapBytes: number('snaplen', 1, SNAP_BYTES_MAX) ?? SNAP_BYTES_MAX,
        protocol: protocolOf(query.get('protocol')),
        port: number('port', 0, 65535),
        verdict: verdictOf(query.get('verdict'), query.get('reason')),
        ends: [
          ...pods.map((it) => this.#podRanges(it)),
          ...(peer === null ? [] : [this.#peerRanges(peer)]),
        ],
      },
      count: number('count', 1, Number.MAX_SAFE_INTEGER),
      durationMs: duration === null ? null : Math.min(durationMs(duration), 2 ** 31 - 1),
    };
  }

  /** @throws ApiError */
  #podRanges(name: string): readonly CaptureRange[] {
    const { own, objects } = this.#options.view();
    const wanted = name.includes('/') ? name : `default/${name}`;
    const pod: Pod | undefined =
      own.find((it) => nameOf(it) === wanted) ?? objects?.pods.get(wanted);
    if (pod === undefined) throw refusal(`there is no pod ${wanted.slice(0, 100)}`);
    if (pod.podIPs.length === 0) throw refusal(`pod ${wanted} has no address yet`);
    return pod.podIPs.map((it) => rangeOf(it));
  }

  /** @throws ApiError */
  #peerRanges(text: string): readonly CaptureRange[] {
    let address: IpAddress | null = null;
    try {
      address = parseAddress(text);
    } catch (error) {
      if (!(error instanceof AddressError)) throw error;
    }
    const nodes = this.#options.nodes();
    const node = nodes.find(
      ({ name, addresses, subnets }) =>
        name === text ||
        (address !== null &&
          (addresses.includes(address) || subnets.some((it) => cidrContains(it, address)))),
    );
    if (node !== undefined) {
      const ranges = [...node.subnets.map(blockRange), ...node.addresses.map((it) => rangeOf(it))];
      return ranges.slice(0, CAPTURE_RANGES_MAX);
    }
    if (address !== null) return [rangeOf(address)];
    const known = nodes.map(({ name }) => name).join(', ');
    throw refusal(`no node is called "${text.slice(0, 100)}"; there are ${known}`);
  }
}

const refusal = (message: string): ApiError => new ApiError(400, 'ERR_FILTER', message);

/** @throws ApiError */
function protocolOf(text: string | null): number | null {
  if (text === null) return null;
  const upper = text.toUpperCase();
  const named = Object.hasOwn(PROTOCOL_NAMES, upper) ? PROTOCOL_NAMES[upper]! : undefined;
  const number = named ?? (/^\d{1,3}$/.test(text) ? Number(text) : 256);
  if (number <= 255) return number;
  const names = Object.keys(PROTOCOL_NAMES).join(', ');
  throw refusal(`protocol: "${text.slice(0, 40)}" is none of ${names}, and no number 0..255`);
}

/** @throws ApiError */
function verdictOf(verdict: string | null, reason: string | null): CaptureFilter['verdict'] {
  if (reason !== null && reason !== 'any') {
    const found = dropNames.indexOf(reason as keyof typeof Drop);
    if (found > 0) return found as Drop;
    throw refusal(`reason: "${reason.slice(0, 40)}" is no drop reason, and not "any"`);
  }
  if (reason === 'any' || verdict === 'dropped' || verdict === 'deny') return 'dropped';
  if (verdict === null) return null;
  if (verdict === 'forwarded' || verdict === 'allow') return 'forwarded';
  throw refusal(`verdict: "${verdict.slice(0, 40)}" is neither forwarded nor dropped`);
}
