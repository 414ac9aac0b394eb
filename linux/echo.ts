/**
 * ICMP echo (RFC 792, RFC 4443 section 4) by raw sockets: whether an address answers, how soon, and up to
 * which size of packet. Packets are never cut: DF is set, and what the kernel remembers of the path is not
 * asked (IP_PMTUDISC_PROBE, ip(7)). The kernel hands us echo replies and nothing else.
 */
import { randomBytes } from 'node:crypto';
import type { Socket } from 'raw-socket';
import { type Family, type IpAddress, formatAddress, parseAddress } from '../wire/address.ts';
import { checksumReference } from '../wire/checksum/checksum.ts';
import {
  ICMP_ECHO,
  ICMP_ECHO_REPLY,
  ICMP_HEADER_BYTES,
  ICMPV6_ECHO,
  ICMPV6_ECHO_REPLY,
  PROTOCOL_ICMPV6,
} from '../wire/icmp.ts';
import { IPV4_HEADER_BYTES } from '../wire/ipv4.ts';
import { IPV6_HEADER_BYTES } from '../wire/ipv6.ts';
import { SOL_IP, SOL_IPV6 } from './udp.ts';

const IP_MTU_DISCOVER = 10;
const IPV6_MTU_DISCOVER = 23;
const IPV6_DONTFRAG = 62;
const PMTUDISC_PROBE = 3;
/** Raw(7): a bit for each type that is not wanted. */
const SOL_RAW = 255;
const ICMP_FILTER = 1;
/** RFC 3542 section 3.2, as Linux has it: a set bit stands for a type that is not wanted. */
const ICMPV6_FILTER = 1;
const ICMPV6_FILTER_BYTES = 32;
/** An answer is ours when it has this. */
const NONCE_BYTES = 16;

const PACKET_BYTES_MAX = 65_535;

/** No echo can be sent from this process. */
export class EchoError extends Error {
  override readonly name = 'EchoError';
  readonly code = 'ERR_ECHO';
}

export type Echo =
  | { readonly kind: 'answered'; readonly roundTripMs: number }
  | { readonly kind: 'silent' }
  /** The kernel did not send it: no route, or larger than the device takes. */
  | { readonly kind: 'refused'; readonly reason: string };

export interface EchoSocket extends Disposable {
  /** @param packetBytes  of the whole IP packet, headers included; raised to the least there is */
  echo(address: IpAddress, packetBytes: number, timeoutMs: number): Promise<Echo>;
}

interface Waiting {
  readonly address: IpAddress;
  readonly nonce: Buffer;
  readonly sentMs: number;
  readonly settle: (echo: Echo) => void;
}

function allowOnlyReplies(socket: Socket, family: Family): void {
  if (family === 4) {
    socket.setOption(SOL_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE);
    socket.setOption(SOL_RAW, ICMP_FILTER, ~(1 << ICMP_ECHO_REPLY) >>> 0);
    return;
  }
  socket.setOption(SOL_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE);
  socket.setOption(SOL_IPV6, IPV6_DONTFRAG, 1);
  const filter = Buffer.alloc(ICMPV6_FILTER_BYTES, 0xff);
  const word = (ICMPV6_ECHO_REPLY >>> 5) * 4;
  new Uint32Array(filter.buffer, filter.byteOffset + word, 1)[0] = ~(1 << (ICMPV6_ECHO_REPLY & 31));
  socket.setOption(PROTOCOL_ICMPV6, ICMPV6_FILTER, filter, filter.length);
}

async function createSocket(family: Family): Promise<Socket> {
  let raw: typeof import('raw-socket');
  try {
    ({ default: raw } = (await import('raw-socket')) as unknown as { default: typeof raw });
  } catch (cause) {
    throw new EchoError('peers are not probed: raw-socket is not built; run: sh scripts/setup', {
      cause,
    });
  }
  let socket: Socket | null = null;
  try {
    socket = raw.createSocket({
      protocol: family === 4 ? raw.Protocol.ICMP : raw.Protocol.ICMPv6,
      addressFamily: family === 4 ? raw.AddressFamily.IPv4 : raw.AddressFamily.IPv6,
      bufferSize: PACKET_BYTES_MAX,
    });
    // Before anything can go wrong with it: an error that nobody listens to ends the process.
    socket.on('error', () => 'echoes that wait for an answer get none');
    allowOnlyReplies(socket, family);
    return socket;
  } catch (cause) {
    socket?.close();
    const { message } = cause as Error;
    const why = /not permitted/i.test(message) ? 'this process lacks CAP_NET_RAW' : message;
    throw new EchoError(`peers are not probed over IPv${family}: ${why}`, { cause });
  }
}

/** Where ICMP begins, or -1 when it is no echo reply. */
function replyAt(packet: Buffer, family: Family): number {
  const at = family === 4 ? ((packet[0] ?? 0) & 15) * 4 : 0;
  const type = family === 4 ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY;
  const isWhole = packet.length >= at + ICMP_HEADER_BYTES + NONCE_BYTES;
  return isWhole && packet[at] === type ? at : -1;
}

/** The kernel writes ICMPv6's checksum itself (RFC 3542 section 3.1). */
function requestOf(family: Family, id: number, sequence: number, nonce: Buffer, bytes: number) {
  const header = family === 4 ? IPV4_HEADER_BYTES : IPV6_HEADER_BYTES;
  const packet = Buffer.alloc(Math.max(bytes - header, ICMP_HEADER_BYTES + NONCE_BYTES));
  packet[0] = family === 4 ? ICMP_ECHO : ICMPV6_ECHO;
  packet.writeUInt16BE(id, 4);
  packet.writeUInt16BE(sequence, 6);
  nonce.copy(packet, ICMP_HEADER_BYTES);
  if (family === 4) packet.writeUInt16BE(~checksumReference(packet) & 0xffff, 2);
  return packet;
}

/** @throws EchoError */
export async function openEcho(family: Family): Promise<EchoSocket> {
  const socket = await createSocket(family);
  const id = process.pid & 0xffff;
  const waiting = new Map<number, Waiting>();
  let sequence = 0;
  let isOpen = true;
  // Nothing that these throw would be caught by anybody.
  socket.on('message', (packet: Buffer, source: string) => {
    const at = replyAt(packet, family);
    if (at === -1 || packet.readUInt16BE(at + 4) !== id) return;
    const it = waiting.get(packet.readUInt16BE(at + 6));
    if (it === undefined) return;
    const nonceAt = at + ICMP_HEADER_BYTES;
    if (!it.nonce.equals(packet.subarray(nonceAt, nonceAt + NONCE_BYTES))) return;
    if (!isSame(source, it.address)) return;
    it.settle({ kind: 'answered', roundTripMs: performance.now() - it.sentMs });
  });
  const end = (): void => {
    isOpen = false;
    for (const it of waiting.values()) it.settle({ kind: 'silent' });
  };
  socket.on('error', end);
  return {
    echo(address, packetBytes, timeoutMs) {
      const { promise, resolve } = Promise.withResolvers<Echo>();
      if (!isOpen) return Promise.resolve({ kind: 'refused', reason: 'the socket is closed' });
      sequence = (sequence + 1) & 0xffff;
      const own = sequence;
      const timer = setTimeout(() => settle({ kind: 'silent' }), timeoutMs);
      const settle = (echo: Echo): void => {
        clearTimeout(timer);
        waiting.delete(own);
        resolve(echo);
      };
      const nonce = randomBytes(NONCE_BYTES);
      const request = requestOf(family, id, own, nonce, packetBytes);
      waiting.set(own, { address, nonce, sentMs: performance.now(), settle });
      socket.send(request, 0, request.length, formatAddress(address), (error) => {
        if (error) settle({ kind: 'refused', reason: error.message });
      });
      return promise;
    },
    [Symbol.dispose]() {
      const wasOpen = isOpen;
      end();
      // It has closed itself after an error.
      if (wasOpen) socket.close();
    },
  };
}

function isSame(text: string, address: IpAddress): boolean {
  try {
    return parseAddress(text) === address;
  } catch {
    // A scope, or no address: not one that we asked.
    return false;
  }
}

/**
 * The largest size that fits, between `low`, which is known to, and `high`; asks `high` first.
 * @param fits  monotonic: what is larger than what does not fit does not fit
 */
export async function largestThatFits(
  low: number,
  high: number,
  fits: (bytes: number) => Promise<boolean>,
): Promise<number> {
  if (high <= low || (await fits(high))) return high;
  let [least, most] = [low, high];
  while (most - least > 1) {
    const middle = (least + most) >>> 1;
    if (await fits(middle)) least = middle;
    else most = middle;
  }
  return least;
}
