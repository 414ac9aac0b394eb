/**
 * Other addresses and ports into a packet, its checksums carried along (RFC 1624, equation 3).
 * Runs per packet: no await, no allocation, no throw.
 *
 * A transport checksum is either finished, or, where a device was to finish it, the folded sum of the
 * pseudo-header (overlay/pseudo-header.ts): then addresses count and ports do not.
 */
import { PROTOCOL_ICMPV6 } from '../wire/icmp.ts';
import { PROTOCOL_SCTP, finishSctp } from '../wire/sctp.ts';
import { PROTOCOL_TCP, TCP_CHECKSUM } from '../wire/tcp.ts';
import { PROTOCOL_UDP, UDP_CHECKSUM } from '../wire/udp.ts';
import {
  FLOW_DST_ORIG,
  FLOW_DST_ORIG_HIGH,
  FLOW_DST_REPLY,
  FLOW_DST_REPLY_HIGH,
  FLOW_PORTS_ORIG,
  FLOW_PORTS_REPLY,
  FLOW_SRC_ORIG,
  FLOW_SRC_ORIG_HIGH,
  FLOW_SRC_REPLY,
  FLOW_SRC_REPLY_HIGH,
} from './flow-table.ts';
import type { Packet } from './packet.ts';
import { fold } from './pseudo-header.ts';

const ICMP_CHECKSUM = 2;

export interface Translate {
  /**
   * To what the flow entry at `entry` says of packets in `direction`: to its answers' source, from its
   * answers' destination; and back.
   * @param unfinished  the transport checksum is
   * @returns false where that cannot be: a port within an SCTP fragment, whose checksum covers the rest
   */
  readonly apply: (
    packet: Packet,
    words: Int32Array,
    entry: number,
    direction: number,
    unfinished: boolean,
  ) => boolean;
  /**
   * An ICMP error of that direction, about a packet of the other one, which `quote` describes. What
   * comes from a router on the way keeps that source.
   */
  readonly applyToError: (
    error: Packet,
    quote: Packet,
    words: Int32Array,
    entry: number,
    direction: number,
  ) => void;
}

export const swapPorts = (ports: number): number => (ports << 16) | (ports >>> 16);

export function createTranslate(view: DataView): Translate {
  /** Of all words that changed since it was set to 0: ~old + new, not folded. */
  let delta = 0;

  function put(at: number, word: number): void {
    const old = view.getInt32(at);
    if (old === word) return;
    delta += (~old >>> 16) + (~old & 0xffff) + (word >>> 16) + (word & 0xffff);
    view.setInt32(at, word);
  }

  function putAddress(
    at: number,
    is4: boolean,
    words: Int32Array,
    low: number,
    high: number,
  ): void {
    if (is4) {
      put(at, words[low]!);
      return;
    }
    for (let i = 0; i < 3; i++) put(at + 4 * i, words[high + i]!);
    put(at + 12, words[low]!);
  }

  /** What a packet of `direction` has as its source, once translated. */
  function putSource(at: number, is4: boolean, words: Int32Array, e: number, d: number): void {
    if (d === 0) putAddress(at, is4, words, e + FLOW_DST_REPLY, e + FLOW_DST_REPLY_HIGH);
    else putAddress(at, is4, words, e + FLOW_DST_ORIG, e + FLOW_DST_ORIG_HIGH);
  }

  function putDestination(at: number, is4: boolean, words: Int32Array, e: number, d: number): void {
    if (d === 0) putAddress(at, is4, words, e + FLOW_SRC_REPLY, e + FLOW_SRC_REPLY_HIGH);
    else putAddress(at, is4, words, e + FLOW_SRC_ORIG, e + FLOW_SRC_ORIG_HIGH);
  }

  function portsOf(words: Int32Array, entry: number, direction: number): number {
    return swapPorts(words[entry + (direction === 0 ? FLOW_PORTS_REPLY : FLOW_PORTS_ORIG)]!);
  }

  /** Adds what changed to a finished checksum field. */
  function adjust(at: number): void {
    view.setUint16(at, ~fold((~view.getUint16(at) & 0xffff) + fold(delta)) & 0xffff);
  }

  function apply(
    packet: Packet,
    words: Int32Array,
    entry: number,
    direction: number,
    unfinished: boolean,
  ): boolean {
    const { is4, ip, transport, protocol } = packet;
    const hasPorts =
      !packet.isLater &&
      (protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP || protocol === PROTOCOL_SCTP);
    const ports = portsOf(words, entry, direction);
    const changesPorts = hasPorts && view.getInt32(transport) !== ports;
    if (changesPorts && protocol === PROTOCOL_SCTP && packet.isFragment) return false;
    delta = 0;
    putSource(packet.sourceAt, is4, words, entry, direction);
    putDestination(packet.destinationAt, is4, words, entry, direction);
    if (is4) adjust(ip + 10);
    if (packet.isLater) return true;
    const ofAddresses = delta;
    if (changesPorts) put(transport, ports);
    if (protocol === PROTOCOL_SCTP) {
      if (changesPorts) finishSctp(view, transport, packet.end);
      return true;
    }
    let field = 0;
    if (protocol === PROTOCOL_TCP) field = transport + TCP_CHECKSUM;
    else if (protocol === PROTOCOL_UDP) field = transport + UDP_CHECKSUM;
    else if (protocol === PROTOCOL_ICMPV6 && !is4) field = transport + ICMP_CHECKSUM;
    if (field === 0) return true;
    if (unfinished) {
      view.setUint16(field, fold(view.getUint16(field) + fold(ofAddresses)));
    } else if (protocol !== PROTOCOL_UDP || view.getUint16(field) !== 0) {
      adjust(field);
      // RFC 768: a computed zero is sent as all ones.
      if (protocol === PROTOCOL_UDP && view.getUint16(field) === 0) view.setUint16(field, 0xffff);
    }
    return true;
  }

  function isSame(a: number, b: number, is4: boolean): boolean {
    for (let i = 0; i < (is4 ? 4 : 16); i += 4) {
      if (view.getInt32(a + i) !== view.getInt32(b + i)) return false;
    }
    return true;
  }

  function applyToError(
    error: Packet,
    quote: Packet,
    words: Int32Array,
    entry: number,
    direction: number,
  ): void {
    const { is4 } = error;
    delta = 0;
    // A router on the way speaks for itself; the end that the packet was for has another name here.
    if (isSame(error.sourceAt, quote.destinationAt, is4)) {
      putSource(error.sourceAt, is4, words, entry, direction);
    }
    putDestination(error.destinationAt, is4, words, entry, direction);
    if (is4) {
      adjust(error.ip + 10);
      // ICMP's checksum covers no addresses of its own header.
      delta = 0;
    }
    const before = delta;
    delta = 0;
    // The quoted packet went the other way: its source is where the error goes.
    putDestination(quote.sourceAt, is4, words, entry, direction);
    putSource(quote.destinationAt, is4, words, entry, direction);
    // What an IPv4 header's sum loses its checksum gains.
    if (is4) adjust(quote.ip + 10);
    const ofQuote = is4 ? 0 : delta;
    delta = 0;
    const { protocol, transport } = quote;
    const hasPorts =
      protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP || protocol === PROTOCOL_SCTP;
    if (hasPorts) put(transport, swapPorts(portsOf(words, entry, direction)));
    // Of the transport checksum quoted nobody makes use: it covers what is not there.
    delta += before + ofQuote;
    adjust(error.transport + ICMP_CHECKSUM);
  }

  return { apply, applyToError };
}
