/**
 * What may pass, and as what: a packet's flow is looked up, and where there is none it is decided about
 * once, by Services first and policy then, because policy sees the backend. What was decided is kept for
 * both directions; a change of policy makes it be decided again at its next packet.
 * Runs per packet: no await, no allocation, no throw.
 *
 *     parse ─▶ find ─┬─ hit ──▶ decided under another policy? ask again ──▶ advance ─▶ translate
 *                    └─ miss ─▶ Service: backend ─▶ egress, ingress policy ─▶ insert ─▶ translate
 *
 * A pod's rules are asked where the pod is: its egress rules for what comes out of the TUN, its ingress
 * rules for what goes to it, wherever from. Packets that concern no pod of this node and no Service pass
 * untracked.
 * @see RFC 5382, RFC 4787 (behaviour of translators), RFC 5508 (ICMP); test/packets/flows.test.ts
 */
import type { Arena } from '../linux/arena.ts';
import { EGRESS, INGRESS, type PolicyLookup } from '../policy/table.ts';
import {
  BACKEND_NONE,
  BACKEND_NOT_LOCAL,
  BACKEND_PORT,
  BACKEND_WORDS,
  FRONTEND_NONE,
  FRONTEND_UNALLOCATED,
  FRONTEND_UNUSED_PORT,
  type ServiceLookup,
} from '../service/table.ts';
import { Drop } from '../wire/drop-reason.ts';
import { mix } from '../wire/flow-key.ts';
import { ICMP_HEADER_BYTES } from '../wire/icmp.ts';
import { IPV4_HEADER_BYTES, checkIpv4 } from '../wire/ipv4.ts';
import { IPV6_HEADER_BYTES } from '../wire/ipv6.ts';
import { PROTOCOL_SCTP } from '../wire/sctp.ts';
import { PROTOCOL_TCP, TCP_ACK, TCP_SYN } from '../wire/tcp.ts';
import { PROTOCOL_UDP } from '../wire/udp.ts';
import {
  FLOW_ASSURED,
  FLOW_DEADLINE_S,
  FLOW_DST_ORIG,
  FLOW_DST_ORIG_HIGH,
  FLOW_DST_REPLY,
  FLOW_DST_REPLY_HIGH,
  FLOW_EGRESS,
  FLOW_FLAGS,
  FLOW_GENERATION,
  FLOW_INGRESS,
  FLOW_KIND,
  FLOW_PORTS_ORIG,
  FLOW_PORTS_REPLY,
  FLOW_SERVICE,
  FLOW_SERVICE_GENERATION,
  FLOW_SRC_ORIG,
  FLOW_SRC_ORIG_HIGH,
  FLOW_SRC_REPLY,
  FLOW_SRC_REPLY_HIGH,
  FLOW_TRANSLATED,
  FLOW_WORDS,
  type FlowTable,
  KIND_AFFINITY,
  KIND_FRAGMENT,
} from './flow-table.ts';
import type { EventWriter } from './event-ring.ts';
import type { HeldFragments } from './held-fragments.ts';
import { type Packet, createPacket, parsePacket } from './packet.ts';
import type { Peers } from './peers.ts';
import type { Rejects } from './rejects.ts';
import { createTranslate, swapPorts } from './translate.ts';

/** Version 4, a header of five words. */
const PLAIN_IPV4 = 0x45;
/** Source ports that the node lends: below those that Linux gives its own sockets. */
const PORT_FIRST = 1024;
const PORT_COUNT = 30_000 - PORT_FIRST;
/** So many ports are tried before a new flow is refused. */
const PORT_TRIES = 128;

export interface Flows {
  /**
   * A packet that came out of the TUN.
   * @param unfinished  its transport checksum is the pseudo-header's sum only
   */
  readonly outbound: (ip: number, end: number, unfinished: boolean) => Drop;
  /** A packet from a peer, on its way into the TUN. */
  readonly inbound: (ip: number, end: number, unfinished: boolean) => Drop;
  /** Packets of a batch are told before they are decided about (FlowTable.expect4). */
  readonly isLarge: () => boolean;
  /** @param ip  whose header is whole, and was checked or will be */
  readonly expect: (ip: number, end: number) => void;
  readonly fetch: () => void;
  /** An ICMP error of our own making, about a packet as it is after translation. */
  readonly ownError: (ip: number, end: number) => void;
  /** The packet dropped last is a later fragment, and the first of its datagram has not come. */
  readonly isEarly: () => boolean;
  /** The packet dropped last is an answer in a flow that policy denies. */
  readonly isReply: () => boolean;
  readonly packet: Packet;
}

export interface FlowsOptions {
  readonly table: FlowTable;
  readonly policy: PolicyLookup;
  readonly services: ServiceLookup;
  readonly rejects: Rejects;
  /** Established flows go on whatever a new policy says of them. */
  readonly loose: boolean;
  /** Where early fragments wait, of each way; null: they are dropped. */
  readonly heldOut: HeldFragments | null;
  readonly heldIn: HeldFragments | null;
  /** Told of each flow that begins. */
  readonly events?: EventWriter | null;
}

export function createFlows(arena: Arena, peers: Peers, options: FlowsOptions): Flows {
  const { view } = arena;
  const { table, policy, services, rejects, loose, heldOut, heldIn } = options;
  const events = options.events ?? null;
  const { words, draft } = table;
  const translate = createTranslate(view);
  const packet = createPacket();
  const quote = createPacket();
  /** Addresses that stand in no packet. */
  const fromAt = arena.take(16, 'address of a flow');
  const toAt = arena.take(16, 'address of a backend');
  const hostAt = arena.take(16, 'address of this node');

  let early = false;
  let reply = false;
  let isOutward = true;

  function isEarly(): boolean {
    return early;
  }

  function isReply(): boolean {
    return reply;
  }

  function outbound(ip: number, end: number, unfinished: boolean): Drop {
    return decide(ip, end, true, unfinished);
  }

  function inbound(ip: number, end: number, unfinished: boolean): Drop {
    return decide(ip, end, false, unfinished);
  }

  function expect(ip: number, end: number): void {
    const version = view.getUint8(ip) >>> 4;
    // What is rare finds its flow without.
    if (version === 4 && view.getUint8(ip) === PLAIN_IPV4 && end - ip >= IPV4_HEADER_BYTES + 4) {
      const ports = view.getInt32(ip + IPV4_HEADER_BYTES);
      const protocol = view.getUint8(ip + 9);
      table.expect4(view.getInt32(ip + 12), view.getInt32(ip + 16), ports, protocol);
    } else if (version === 6 && end - ip >= IPV6_HEADER_BYTES + 4) {
      const ports = view.getInt32(ip + IPV6_HEADER_BYTES);
      table.expect6(ip + 8, ip + 24, ports, view.getUint8(ip + 6));
    }
  }

  function decide(ip: number, end: number, isOut: boolean, unfinished: boolean): Drop {
    early = false;
    reply = false;
    isOutward = isOut;
    // Flows of before a restart wait, untouched, for those who can decide about them again.
    if (!peers.current().policyReady) return Drop.noPolicy;
    const form = parsePacket(view, packet, ip, end, false);
    if (form !== Drop.none) return form;
    if (packet.isIcmpError && !packet.isLater) {
      const ref = findQuoted(packet);
      if (ref >= 0) return relate(ref);
    }
    early = packet.isLater && !recallFragment();
    if (early) return Drop.fragment;
    const ref = find(packet.sourceAt, packet.destinationAt, packet.ports, packet.protocol);
    if (ref >= 0 && isCurrent(ref)) {
      const verdict = decideAgain(ref);
      // A flow that is denied now stays, and is asked about at each packet: without it, what the other
      // end still sends would begin a flow of its own, the other way, and the answers to that would pass.
      if (verdict === Drop.none) return pass(ref, unfinished);
      reply = (ref & 1) !== 0;
      return verdict;
    }
    return decideNew(isOut, unfinished);
  }

  function find(sourceAt: number, destinationAt: number, ports: number, protocol: number): number {
    return packet.is4
      ? table.find4(view.getInt32(sourceAt), view.getInt32(destinationAt), ports, protocol)
      : table.find6(sourceAt, destinationAt, ports, protocol);
  }

  /** False: the flow ends here, and the packet begins another. */
  function isCurrent(ref: number): boolean {
    if ((ref & 1) !== 0) return true;
    const e = (ref >>> 1) * FLOW_WORDS;
    if (
      packet.protocol === PROTOCOL_TCP &&
      (packet.flags & (TCP_SYN | TCP_ACK)) === TCP_SYN &&
      (words[e + FLOW_FLAGS]! & FLOW_ASSURED) !== 0 &&
      table.isClosing(ref)
    ) {
      table.remove(ref);
      return false;
    }
    if ((words[e + FLOW_FLAGS]! & FLOW_SERVICE) === 0) return true;
    const { generation } = peers.current().services;
    if (words[e + FLOW_SERVICE_GENERATION] === generation) return true;
    // A connection stays with its backend, which ends it itself; what has none to end it moves on.
    const isConnection =
      packet.protocol !== PROTOCOL_UDP && (words[e + FLOW_FLAGS]! & FLOW_ASSURED) !== 0;
    if (!isConnection && !isBackendUsable(e)) {
      table.remove(ref);
      return false;
    }
    words[e + FLOW_SERVICE_GENERATION] = generation;
    return true;
  }

  function isBackendUsable(e: number): boolean {
    const { is4 } = packet;
    copyAddress(fromAt, e + FLOW_DST_ORIG, e + FLOW_DST_ORIG_HIGH);
    const isOfPod = (words[e + FLOW_FLAGS]! & FLOW_EGRESS) !== 0;
    const frontend = frontendOf(fromAt, words[e + FLOW_PORTS_ORIG]! & 0xffff, isOfPod);
    if (frontend < 0) return false;
    copyAddress(toAt, e + FLOW_SRC_REPLY, e + FLOW_SRC_REPLY_HIGH);
    return services.usable(frontend, toAt, is4, words[e + FLOW_PORTS_REPLY]! >>> 16) >= 0;
  }

  /**
   * A pod of ours that asks another node for a node port is served here: every node would give it the same
   * endpoints, and from the underlay that node could not believe a pod's address.
   */
  function frontendOf(at: number, port: number, isOfPod: boolean): number {
    const { is4, protocol } = packet;
    const frontend = services.frontendOf(at, is4, protocol, port);
    if (frontend !== FRONTEND_NONE || !isOfPod) return frontend;
    if (!(is4 ? peers.isPeer4(at) : peers.isPeer6(at))) return frontend;
    const { nodes4, nodes6 } = peers.current();
    const nodes = is4 ? nodes4 : nodes6;
    if (nodes.length === 0) return frontend;
    for (let i = 0; i < (is4 ? 1 : 4); i++) view.setUint32(hostAt + 4 * i, nodes[i]!);
    const own = services.frontendOf(hostAt, is4, protocol, port);
    return own >= 0 && services.isNodePort(own) ? own : FRONTEND_NONE;
  }

  /** From the table into the arena. */
  function copyAddress(at: number, low: number, high: number): void {
    if (packet.is4) {
      view.setInt32(at, words[low]!);
      return;
    }
    for (let i = 0; i < 3; i++) view.setInt32(at + 4 * i, words[high + i]!);
    view.setInt32(at + 12, words[low]!);
  }

  /** Where the policy has changed since. */
  function decideAgain(ref: number): Drop {
    const e = (ref >>> 1) * FLOW_WORDS;
    const { generation } = peers.current().policy;
    if (words[e + FLOW_GENERATION] === generation || loose) return Drop.none;
    const flags = words[e + FLOW_FLAGS]!;
    if ((flags & (FLOW_EGRESS | FLOW_INGRESS)) !== 0) {
      copyAddress(fromAt, e + FLOW_SRC_ORIG, e + FLOW_SRC_ORIG_HIGH);
      copyAddress(toAt, e + FLOW_SRC_REPLY, e + FLOW_SRC_REPLY_HIGH);
      const port = words[e + FLOW_PORTS_REPLY]! >>> 16;
      const verdict = ask(
        (flags & FLOW_EGRESS) !== 0,
        (flags & FLOW_INGRESS) !== 0,
        fromAt,
        toAt,
        port,
      );
      if (verdict !== Drop.none) return verdict;
    }
    words[e + FLOW_GENERATION] = generation;
    return Drop.none;
  }

  function ask(egress: boolean, ingress: boolean, from: number, to: number, port: number): Drop {
    const { is4, protocol } = packet;
    if (egress) {
      const subject = policy.subjectOf(from, is4);
      if (subject < 0) return Drop.noPolicy;
      if (!policy.allows(EGRESS, subject, from, to, is4, protocol, port)) return Drop.policyEgress;
    }
    if (ingress) {
      const subject = policy.subjectOf(to, is4);
      if (subject < 0) return Drop.noPolicy;
      if (!policy.allows(INGRESS, subject, to, from, is4, protocol, port)) {
        return Drop.policyIngress;
      }
    }
    return Drop.none;
  }

  function pass(ref: number, unfinished: boolean): Drop {
    const e = (ref >>> 1) * FLOW_WORDS;
    if (!packet.isLater) table.advance(ref, packet.flags);
    if (packet.isFragment && !packet.isLater) {
      rememberFragment();
      (isOutward ? heldOut : heldIn)?.open(packet);
    }
    if ((words[e + FLOW_FLAGS]! & FLOW_TRANSLATED) === 0) return Drop.none;
    if (!translate.apply(packet, words, e, ref & 1, unfinished)) return Drop.fragment;
    // This thread may have slept for so long that the entry is another flow's by now.
    return packet.isFragment || table.isStill(ref) ? Drop.none : Drop.flowConflict;
  }

  function decideNew(isOut: boolean, unfinished: boolean): Drop {
    const { is4, sourceAt, destinationAt, protocol } = packet;
    const hasPorts = isWithPorts(protocol);
    const port = packet.ports & 0xffff;
    let frontend = -1;
    let to = destinationAt;
    let toPort = port;
    if (isOut) {
      frontend = frontendOf(destinationAt, port, isPod(sourceAt));
      if (frontend === FRONTEND_UNALLOCATED) return Drop.unallocated;
      if (frontend === FRONTEND_UNUSED_PORT) return reject(Drop.unusedPort);
      if (frontend >= 0) {
        const backend = chooseBackend(frontend);
        if (backend === BACKEND_NONE) return reject(Drop.noEndpoints);
        if (backend === BACKEND_NOT_LOCAL) return Drop.noLocalEndpoint;
        if (backend < 0) return Drop.sourceRange;
        const { backends } = peers.current().services;
        for (let i = 0; i < (is4 ? 1 : 4); i++) {
          view.setUint32(toAt + 4 * i, backends[backend * BACKEND_WORDS + i]!);
        }
        to = toAt;
        toPort = backends[backend * BACKEND_WORDS + BACKEND_PORT]!;
      }
    }
    const egress = isOut && isPod(sourceAt);
    const ingress = isPod(to);
    if (!egress && !ingress && frontend < 0) return Drop.none;
    const verdict = ask(egress, ingress, sourceAt, to, hasPorts ? toPort : 0);
    if (verdict !== Drop.none) return verdict;
    // ICMP other than echo has no flow: errors about nothing known, and whatever else pods say.
    if (packet.isIcmpError) return Drop.none;
    const owner = ownerOf(egress ? sourceAt : to);
    const ref =
      frontend < 0
        ? insertPlain(egress, ingress, owner)
        : insertService(frontend, egress, ingress, toPort, owner);
    if (ref < 0) return Drop.flowConflict;
    events?.began(words, (ref >>> 1) * FLOW_WORDS, isOut, packet.end - packet.ip);
    return pass(ref, unfinished);
  }

  function isWithPorts(protocol: number): boolean {
    return protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP || protocol === PROTOCOL_SCTP;
  }

  function isPod(at: number): boolean {
    return packet.is4 ? peers.isPod4(at) : peers.isPod6(at);
  }

  /** Of a pod, or of this node itself. */
  function isInside(at: number): boolean {
    return packet.is4
      ? peers.isOverlay4(at) || peers.isHost4(at)
      : peers.isOverlay6(at) || peers.isHost6(at);
  }

  function ownerOf(at: number): number {
    return packet.is4
      ? mix(0, view.getInt32(at))
      : mix(mix(view.getInt32(at + 4), view.getInt32(at + 8)), view.getInt32(at + 12));
  }

  function reject(drop: Drop): Drop {
    rejects.reject(packet);
    return drop;
  }

  function chooseBackend(frontend: number): number {
    const { is4, sourceAt, destinationAt, ports, protocol } = packet;
    const inside = isInside(sourceAt);
    const timeoutS = services.affinityS(frontend);
    if (timeoutS === 0) {
      const hash = is4
        ? table.hash4(view.getInt32(sourceAt), view.getInt32(destinationAt), ports, protocol)
        : table.hash6(sourceAt, destinationAt, ports, protocol);
      return services.pick(frontend, sourceAt, inside, hash);
    }
    // The client's address, and the frontend's port and protocol.
    const key = (protocol << 16) | (ports & 0xffff);
    const known = find(sourceAt, destinationAt, key, KIND_AFFINITY);
    if (known >= 0) {
      const e = (known >>> 1) * FLOW_WORDS;
      copyAddress(toAt, e + FLOW_SRC_REPLY, e + FLOW_SRC_REPLY_HIGH);
      const backend = services.usable(frontend, toAt, is4, words[e + FLOW_PORTS_REPLY]!);
      if (backend >= 0) {
        words[e + FLOW_DEADLINE_S] = table.nowS() + timeoutS;
        return backend;
      }
      table.remove(known);
    }
    const hash = is4 ? mix(0, view.getInt32(sourceAt)) : ownerOf(sourceAt);
    const backend = services.pick(frontend, sourceAt, inside, hash);
    if (backend < 0) return backend;
    openDraft(KIND_AFFINITY, key, 0);
    const { backends } = peers.current().services;
    const at = backend * BACKEND_WORDS;
    if (is4) draft[FLOW_SRC_REPLY] = backends[at]!;
    else {
      for (let i = 0; i < 3; i++) draft[FLOW_SRC_REPLY_HIGH + i] = backends[at + i]!;
      draft[FLOW_SRC_REPLY] = backends[at + 3]!;
    }
    draft[FLOW_PORTS_REPLY] = backends[at + BACKEND_PORT]!;
    draft[FLOW_DEADLINE_S] = table.nowS() + timeoutS;
    table.insert(ownerOf(sourceAt));
    return backend;
  }

  /** The packet's own tuple, and nothing of the answers'. */
  function openDraft(protocol: number, ports: number, flags: number): void {
    const { is4, sourceAt, destinationAt } = packet;
    draft[FLOW_KIND] = protocol | ((is4 ? 4 : 6) << 8);
    draft[FLOW_PORTS_ORIG] = ports;
    draft[FLOW_FLAGS] = flags;
    const { policy: rules, services: known } = peers.current();
    draft[FLOW_GENERATION] = rules.generation;
    draft[FLOW_SERVICE_GENERATION] = known.generation;
    draftAddress(FLOW_SRC_ORIG, FLOW_SRC_ORIG_HIGH, sourceAt);
    draftAddress(FLOW_DST_ORIG, FLOW_DST_ORIG_HIGH, destinationAt);
    draft[FLOW_SRC_REPLY] = 0;
    draft[FLOW_DST_REPLY] = 0;
    draft[FLOW_PORTS_REPLY] = 0;
    for (let i = 0; i < 6; i++) draft[FLOW_SRC_REPLY_HIGH + i] = 0;
  }

  function draftAddress(low: number, high: number, at: number): void {
    if (packet.is4) {
      draft[low] = view.getInt32(at);
      for (let i = 0; i < 3; i++) draft[high + i] = 0;
      return;
    }
    for (let i = 0; i < 3; i++) draft[high + i] = view.getInt32(at + 4 * i);
    draft[low] = view.getInt32(at + 12);
  }

  function flagsOf(egress: boolean, ingress: boolean): number {
    return (egress ? FLOW_EGRESS : 0) | (ingress ? FLOW_INGRESS : 0);
  }

  function insertPlain(egress: boolean, ingress: boolean, owner: number): number {
    const { sourceAt, destinationAt, ports, protocol } = packet;
    openDraft(protocol, ports, flagsOf(egress, ingress));
    draftAddress(FLOW_SRC_REPLY, FLOW_SRC_REPLY_HIGH, destinationAt);
    draftAddress(FLOW_DST_REPLY, FLOW_DST_REPLY_HIGH, sourceAt);
    draft[FLOW_PORTS_REPLY] = swapPorts(ports);
    return table.insert(owner);
  }

  /** To the backend at `toAt`, with another source where answers would not come back to us otherwise. */
  function insertService(
    frontend: number,
    egress: boolean,
    ingress: boolean,
    toPort: number,
    owner: number,
  ): number {
    const { is4, sourceAt, ports, protocol } = packet;
    const isOverlay = is4 ? peers.isOverlay4(sourceAt) : peers.isOverlay6(sourceAt);
    const hidden =
      services.hidesSource(frontend, isInside(sourceAt)) ||
      isSame(sourceAt, toAt) ||
      (!isOverlay && !ingress);
    openDraft(protocol, ports, flagsOf(egress, ingress) | FLOW_SERVICE | FLOW_TRANSLATED);
    draftAddress(FLOW_SRC_REPLY, FLOW_SRC_REPLY_HIGH, toAt);
    if (hidden) draftNode();
    else draftAddress(FLOW_DST_REPLY, FLOW_DST_REPLY_HIGH, sourceAt);
    let sourcePort = ports >>> 16;
    let step = mix(0x9e37, ports ^ view.getInt32(sourceAt)) >>> 0;
    if (hidden) sourcePort = PORT_FIRST + (step % PORT_COUNT);
    for (let i = 0; i < PORT_TRIES; i++) {
      draft[FLOW_PORTS_REPLY] = (toPort << 16) | sourcePort;
      const ref = table.insert(owner);
      if (ref >= 0) return ref;
      step = (Math.imul(step, 0x9e3779b1) + 1) >>> 0;
      sourcePort = PORT_FIRST + (step % PORT_COUNT);
    }
    return -1;
  }

  /** The answers' destination is the node's own address in the overlay. */
  function draftNode(): void {
    const { own4, own6 } = peers.current();
    if (packet.is4) {
      draft[FLOW_DST_REPLY] = own4[0]!;
      return;
    }
    for (let i = 0; i < 3; i++) draft[FLOW_DST_REPLY_HIGH + i] = own6[i]!;
    draft[FLOW_DST_REPLY] = own6[3]!;
  }

  function isSame(a: number, b: number): boolean {
    for (let i = 0; i < (packet.is4 ? 4 : 16); i += 4) {
      if (view.getInt32(a + i) !== view.getInt32(b + i)) return false;
    }
    return true;
  }

  /** What a datagram's first fragment shows is kept for the others, which show no ports. */
  function rememberFragment(): void {
    const { sourceAt, protocol, ports, fragmentId } = packet;
    const known = find(sourceAt, packet.destinationAt, fragmentId, KIND_FRAGMENT);
    if (known >= 0) table.remove(known);
    openDraft(KIND_FRAGMENT, fragmentId, 0);
    draft[FLOW_PORTS_REPLY] = ports;
    draft[FLOW_SRC_REPLY] = protocol;
    table.insert(ownerOf(sourceAt));
  }

  function recallFragment(): boolean {
    const { sourceAt, destinationAt, fragmentId } = packet;
    const ref = find(sourceAt, destinationAt, fragmentId, KIND_FRAGMENT);
    if (ref < 0) return false;
    const e = (ref >>> 1) * FLOW_WORDS;
    packet.ports = words[e + FLOW_PORTS_REPLY]!;
    packet.protocol = words[e + FLOW_SRC_REPLY]!;
    return true;
  }

  /** The flow that an ICMP error is about: the quoted packet went the other way. */
  function findQuoted(error: Packet): number {
    const at = error.transport + ICMP_HEADER_BYTES;
    const version = at < error.end ? view.getUint8(at) >>> 4 : 0;
    if (version !== (error.is4 ? 4 : 6)) return -1;
    const left = error.end - at;
    if (left < (error.is4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES)) return -1;
    // A quote is cut short: only its lengths of headers can be held against it.
    if (error.is4 && checkIpv4(view, at, at + 0xffff) !== Drop.none) return -1;
    if (error.is4 && (view.getUint8(at) & 15) << 2 > left) return -1;
    if (parsePacket(view, quote, at, error.end, true) !== Drop.none || quote.isLater) return -1;
    return find(quote.destinationAt, quote.sourceAt, swapPorts(quote.ports), quote.protocol);
  }

  function relate(ref: number): Drop {
    const e = (ref >>> 1) * FLOW_WORDS;
    if ((words[e + FLOW_FLAGS]! & FLOW_TRANSLATED) !== 0) {
      translate.applyToError(packet, quote, words, e, ref & 1);
    }
    return Drop.none;
  }

  function ownError(ip: number, end: number): void {
    if (parsePacket(view, packet, ip, end, false) !== Drop.none || !packet.isIcmpError) return;
    const ref = findQuoted(packet);
    if (ref >= 0) relate(ref);
  }

  return {
    outbound,
    inbound,
    isLarge: table.isLarge,
    expect,
    fetch: table.fetch,
    ownError,
    isEarly,
    isReply,
    packet,
  };
}
