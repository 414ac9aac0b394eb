/**
 * Netlink (netlink(7), include/uapi/linux/netlink.h). The kernel carries a request out within send(2), so
 * all of this is synchronous, and an answer that is not there at once never comes. A message is
 *
 *     [struct nlmsghdr, 16 bytes | the family's header | attributes, each padded to 4 bytes]
 *
 * with numbers in the machine's order, which is little endian on ours.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { EAGAIN, EINTR, EMSGSIZE, ENOBUFS, SystemCallError, describeErrno } from './errno.ts';
import {
  abort,
  addressOf,
  bindSocket,
  errno,
  recv,
  send,
  setOption,
  setns,
  socket,
} from './libc.ts';

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const MSG_TRUNC = 0x20;
const SOL_NETLINK = 270;
const NETLINK_ADD_MEMBERSHIP = 1;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const NETLINK_GET_STRICT_CHK = 12;
const CLONE_NEWNET = 0x40000000;

export const NETLINK_ROUTE = 0;
export const NETLINK_NETFILTER = 12;
/** Of NETLINK_NETFILTER: any change of nftables' tables (NFNLGRP_NFTABLES). */
export const NFTABLES_GROUP = 7;

const NLM_F_REQUEST = 0x01;
const NLM_F_ACK = 0x04;
const NLM_F_DUMP_INTR = 0x10;
const NLM_F_DUMP = 0x300;
/** Of an acknowledgement: the request is not repeated in it; attributes follow. */
const NLM_F_CAPPED = 0x100;
const NLM_F_ACK_TLVS = 0x200;
/** Of a request that makes something. */
export const NLM_F_REPLACE = 0x100;
export const NLM_F_EXCL = 0x200;
export const NLM_F_CREATE = 0x400;

const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const NLMSGERR_ATTR_MSG = 1;
const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;

const NFNL_MSG_BATCH_BEGIN = 16;
const NFNL_MSG_BATCH_END = 17;

const HEADER_BYTES = 16;
const ATTRIBUTE_HEADER_BYTES = 4;
/** The kernel fills up to 32 KiB with one part of a dump. */
const RECEIVE_BYTES = 65536;
const SEND_BYTES = 65536;
/** A dump that something changed meanwhile is read again this often before that is an error. */
const DUMP_ATTEMPTS = 8;

/** The kernel refused a request, which has then changed nothing. */
export class NetlinkError extends Error {
  readonly code = 'ERR_NETLINK';
  readonly errno: number;

  /** @param answer  the kernel's own words, where it has any (extended acknowledgement) */
  constructor(what: string, number: number, answer = '') {
    super(`${what}: ${describeErrno(number)}${answer === '' ? '' : ` (${answer})`}`);
    this.errno = number;
  }
}

/** A number is 32 bits wide, a string ends in a zero byte, a list is nested; undefined is left out. */
export type Attribute = readonly [
  type: number,
  value: number | string | Uint8Array | readonly Attribute[] | undefined,
];

const aligned = (bytes: number): number => (bytes + 3) & ~3;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Numbers of one width as the kernel reads them. */
export const native16 = (value: number): Uint8Array => new Uint8Array(Uint16Array.of(value).buffer);
export const native32 = (value: number): Uint8Array => new Uint8Array(Uint32Array.of(value).buffer);

function payload(value: NonNullable<Attribute[1]>): Uint8Array {
  if (value instanceof Uint8Array) return value;
  if (typeof value === 'number') return native32(value);
  if (typeof value === 'string') return encoder.encode(`${value}\0`);
  return encode(new Uint8Array(0), value);
}

/** A family's header, padded, and the attributes behind it: a message's body, or a nested one. */
export function encode(header: Uint8Array, attributes: readonly Attribute[]): Uint8Array {
  const parts: (readonly [type: number, bytes: Uint8Array])[] = [];
  let size = aligned(header.length);
  for (const [type, value] of attributes) {
    if (value === undefined) continue;
    const bytes = payload(value);
    parts.push([Array.isArray(value) ? type | NLA_F_NESTED : type, bytes]);
    size += aligned(ATTRIBUTE_HEADER_BYTES + bytes.length);
  }
  const body = new Uint8Array(size);
  const view = new DataView(body.buffer);
  body.set(header);
  let at = aligned(header.length);
  for (const [type, bytes] of parts) {
    view.setUint16(at, ATTRIBUTE_HEADER_BYTES + bytes.length, true);
    view.setUint16(at + 2, type, true);
    body.set(bytes, at + ATTRIBUTE_HEADER_BYTES);
    at += aligned(ATTRIBUTE_HEADER_BYTES + bytes.length);
  }
  return body;
}

/** The attributes from `at` on, by type, each as its payload; the last of a type counts. */
export function readAttributes(view: DataView, at: number): ReadonlyMap<number, DataView> {
  const found = new Map<number, DataView>();
  while (at + ATTRIBUTE_HEADER_BYTES <= view.byteLength) {
    const bytes = view.getUint16(at, true);
    if (bytes < ATTRIBUTE_HEADER_BYTES || at + bytes > view.byteLength) break;
    found.set(
      view.getUint16(at + 2, true) & NLA_TYPE_MASK,
      new DataView(
        view.buffer,
        view.byteOffset + at + ATTRIBUTE_HEADER_BYTES,
        bytes - ATTRIBUTE_HEADER_BYTES,
      ),
    );
    at += aligned(bytes);
  }
  return found;
}

/** A string attribute, up to its zero byte if it has one. */
export function readText(view: DataView): string {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const end = bytes.indexOf(0);
  return decoder.decode(end < 0 ? bytes : bytes.subarray(0, end));
}

export interface NetlinkRequest {
  readonly type: number;
  /** NLM_F_CREATE and the like; what every request needs is added. */
  readonly flags?: number;
  /** What follows struct nlmsghdr: see `encode`. */
  readonly body: Uint8Array;
  /** For the error's message: `making the veth pod0`. */
  readonly what: string;
}

export interface NetlinkReply {
  readonly type: number;
  /** What follows struct nlmsghdr. */
  readonly body: DataView;
}

export interface Netlink extends Disposable {
  /** Asks, and returns after the acknowledgement with what came before it. @throws NetlinkError */
  request(request: NetlinkRequest): NetlinkReply[];
  /**
   * For NETLINK_NETFILTER: carries out all or none. Together at most 64 KiB, and at least one.
   * @throws NetlinkError for the first that was refused
   */
  transact(what: string, subsystem: number, requests: readonly NetlinkRequest[]): void;
  /** Asks for a list: all of it as it was at one time. @throws NetlinkError */
  dump(request: NetlinkRequest): NetlinkReply[];
  /**
   * Of a socket with groups, which is for nothing else: whether anything was reported since the last
   * call, or so much that the kernel lost count.
   */
  drain(): boolean;
}

export interface NetlinkOptions {
  /** NETLINK_ROUTE unless given. */
  readonly protocol?: number;
  /** The namespace that the socket speaks of, and keeps alive while it is open; absent: our own. */
  readonly netnsFd?: number;
  /** Multicast groups whose reports `drain` is asked about. */
  readonly groups?: readonly number[];
}

/** Nothing waits between a send and its receives, so all sockets of a thread share the room. */
const room = new Uint8Array(new SharedArrayBuffer(RECEIVE_BYTES + SEND_BYTES));
const roomView = new DataView(room.buffer);
const receiveAddress = addressOf(room.buffer);
const sendAddress = receiveAddress + RECEIVE_BYTES;

/** @throws SystemCallError */
export function openNetlink(options: NetlinkOptions = {}): Netlink {
  const { protocol = NETLINK_ROUTE, netnsFd, groups = [] } = options;
  const open = (): number => openSocket(protocol);
  const fd = netnsFd === undefined ? open() : inNamespace(netnsFd, open);
  // Better messages, shorter answers and filtered lists where the kernel has them (Linux 4.12, 4.20).
  setOption(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1);
  setOption(fd, SOL_NETLINK, NETLINK_CAP_ACK, 1);
  setOption(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1);
  try {
    if (groups.length > 0) join(fd, groups);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  let sequence = 0;
  let closed = false;

  /** Lays a message at `at` of the room for sending. @returns where the next one may stand */
  function put(at: number, { type, body, flags: more = 0 }: NetlinkRequest, flags: number): number {
    const bytes = HEADER_BYTES + body.length;
    roomView.setUint32(RECEIVE_BYTES + at, bytes, true);
    roomView.setUint16(RECEIVE_BYTES + at + 4, type, true);
    roomView.setUint16(RECEIVE_BYTES + at + 6, NLM_F_REQUEST | flags | more, true);
    roomView.setUint32(RECEIVE_BYTES + at + 8, sequence, true);
    roomView.setUint32(RECEIVE_BYTES + at + 12, 0, true);
    room.set(body, RECEIVE_BYTES + at + HEADER_BYTES);
    return at + aligned(bytes);
  }

  function ask(request: NetlinkRequest, flags: number): void {
    sequence = (sequence % 0xffffffff) + 1;
    const bytes = put(0, request, flags);
    if (send(fd, sendAddress, bytes, 0) < 0) throw new NetlinkError(request.what, errno());
  }

  /** Reads up to the acknowledgement or the end of the list. @returns false if it changed meanwhile */
  function receive(what: string, replies: NetlinkReply[]): boolean {
    let consistent = true;
    for (;;) {
      const received = receivePart(fd, what);
      for (let at = 0; at + HEADER_BYTES <= received.byteLength;) {
        const bytes = received.getUint32(at, true);
        if (bytes < HEADER_BYTES || at + bytes > received.byteLength) break;
        const type = received.getUint16(at + 4, true);
        const flags = received.getUint16(at + 6, true);
        const body = new DataView(received.buffer, at + HEADER_BYTES, bytes - HEADER_BYTES);
        // Others are the rest of what was given up.
        const ours = received.getUint32(at + 8, true) === sequence;
        at += aligned(bytes);
        if (!ours) continue;
        if ((flags & NLM_F_DUMP_INTR) !== 0) consistent = false;
        if (type === NLMSG_ERROR || type === NLMSG_DONE) {
          throwUnlessDone(what, type, flags, body);
          return consistent;
        }
        replies.push({ type, body });
      }
    }
  }

  return {
    request: (request) => {
      const replies: NetlinkReply[] = [];
      ask(request, NLM_F_ACK);
      receive(request.what, replies);
      return replies;
    },
    transact: (what, subsystem, requests) => {
      sequence = (sequence % 0xffffffff) + 1;
      // struct nfgenmsg, with the subsystem in network order.
      const body = Uint8Array.of(0, 0, 0, subsystem);
      let at = put(0, { type: NFNL_MSG_BATCH_BEGIN, body, what }, 0);
      // All have one number: the first refusal is an answer to it, or else the last one's acknowledgement.
      requests.forEach((it, i) => {
        at = put(at, it, i === requests.length - 1 ? NLM_F_ACK : 0);
      });
      at = put(at, { type: NFNL_MSG_BATCH_END, body, what }, 0);
      if (send(fd, sendAddress, at, 0) < 0) throw new NetlinkError(what, errno());
      receive(what, []);
    },
    dump: (request) => {
      for (let attempt = 0; attempt < DUMP_ATTEMPTS; attempt++) {
        const replies: NetlinkReply[] = [];
        ask(request, NLM_F_DUMP);
        if (receive(request.what, replies)) return replies;
      }
      throw new NetlinkError(
        request.what,
        EAGAIN,
        `changed while it was read, ${DUMP_ATTEMPTS} times`,
      );
    },
    drain: () => {
      let reported = false;
      for (;;) {
        const number = recv(fd, receiveAddress, RECEIVE_BYTES, MSG_TRUNC) < 0 ? errno() : 0;
        if (number === EAGAIN) return reported;
        if (number === 0 || number === ENOBUFS) reported = true;
        else if (number !== EINTR) {
          throw new SystemCallError('reading what netlink reports', number);
        }
      }
    },
    [Symbol.dispose]: () => {
      if (!closed) closeSync(fd);
      closed = true;
    },
  };
}

function openSocket(protocol: number): number {
  const fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
  if (fd < 0) throw new SystemCallError(`opening a netlink socket (${protocol})`, errno());
  return fd;
}

function join(fd: number, groups: readonly number[]): void {
  // A port first: without one (struct sockaddr_nl, all zeros but the family: any) it is told of nothing.
  const name = new Uint32Array(new SharedArrayBuffer(12));
  name[0] = AF_NETLINK;
  if (bindSocket(fd, addressOf(name.buffer), 12) < 0) {
    throw new SystemCallError('binding a netlink socket', errno());
  }
  for (const group of groups) {
    if (!setOption(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)) {
      throw new SystemCallError(`joining netlink group ${group}`, errno());
    }
  }
}

function receivePart(fd: number, what: string): DataView {
  for (;;) {
    const bytes = recv(fd, receiveAddress, RECEIVE_BYTES, MSG_TRUNC);
    if (bytes > RECEIVE_BYTES) throw new NetlinkError(what, EMSGSIZE);
    if (bytes >= 0) return new DataView(room.slice(0, bytes).buffer);
    const number = errno();
    if (number !== EINTR) throw new NetlinkError(what, number);
  }
}

/** struct nlmsgerr: error, and the request's header, which is repeated in whole unless it was capped. */
function throwUnlessDone(what: string, type: number, flags: number, body: DataView): void {
  const number = body.byteLength < 4 ? 0 : -body.getInt32(0, true);
  if (number === 0) return;
  let answer = '';
  if ((flags & NLM_F_ACK_TLVS) !== 0) {
    const repeated =
      type === NLMSG_DONE
        ? 0
        : (flags & NLM_F_CAPPED) !== 0
          ? HEADER_BYTES
          : aligned(body.getUint32(4, true));
    const text = readAttributes(body, 4 + repeated).get(NLMSGERR_ATTR_MSG);
    if (text !== undefined) answer = readText(text);
  }
  throw new NetlinkError(what, number, answer);
}

/**
 * Runs `work` with this thread in the network namespace: sockets and sysctls that it opens are that
 * namespace's. Only what ends before it returns: a thread or process that it starts stays there, and the
 * rest of an async function runs in our own. If there is no way back, the process ends.
 * @throws SystemCallError when the namespace cannot be entered
 */
export function inNamespace<T>(netnsFd: number, work: () => T): T {
  const own = openSync('/proc/thread-self/ns/net', 'r');
  try {
    if (setns(netnsFd, CLONE_NEWNET) < 0) {
      throw new SystemCallError('entering a network namespace', errno());
    }
    try {
      return work();
    } finally {
      if (setns(own, CLONE_NEWNET) < 0) {
        const why = describeErrno(errno());
        writeSync(
          2,
          `weft: no way back from a network namespace to our own (${why}); ` +
            'the process ends before it mistakes one for the other\n',
        );
        abort();
      }
    }
  } finally {
    closeSync(own);
  }
}
