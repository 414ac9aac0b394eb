/** Blocking sockets for traffic programs: as little as possible between the loop and the kernel. */
import koffi from 'koffi';
import { SystemCallError } from '../../../linux/errno.ts';
import {
  addressOf,
  bindSocket,
  connect as connectSocket,
  errno,
  setsockopt,
  socket,
} from '../../../linux/libc.ts';
import { SOCKADDR_BYTES, writeSockaddr } from '../../../linux/udp.ts';
import { parseAddress } from '../../../wire/address.ts';

const libc = koffi.load(null);

type Transfer = (fd: number, address: number, bytes: number, flags: number) => number;
export const send = libc.func('intptr_t send(int, uintptr_t, uintptr_t, int)') as Transfer;
export const receive = libc.func('intptr_t recv(int, uintptr_t, uintptr_t, int)') as Transfer;
const listen = libc.func('int listen(int, int)') as (fd: number, backlog: number) => number;
const acceptSocket = libc.func('int accept4(int, uintptr_t, uintptr_t, int)') as Transfer;

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_RCVTIMEO = 20;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;

const BUFFER_BYTES = 4 << 20;

const scratch = new DataView(new SharedArrayBuffer(64));
const scratchAddress = addressOf(scratch.buffer);

function check(result: number, what: string): number {
  if (result < 0) throw new SystemCallError(what, errno());
  return result;
}

function setInt(fd: number, level: number, name: number, value: number): void {
  scratch.setInt32(0, value, true);
  check(setsockopt(fd, level, name, scratchAddress, 4), `socket option ${name}`);
}

function open(address: string, type: number): number {
  const family = address.includes(':') ? AF_INET6 : AF_INET;
  const fd = check(socket(family, type, 0), 'socket');
  setInt(fd, SOL_SOCKET, SO_SNDBUFFORCE, type === SOCK_DGRAM ? BUFFER_BYTES : 1 << 18);
  if (type === SOCK_DGRAM) setInt(fd, SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES);
  else setInt(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  return fd;
}

const name = (address: string, port: number): [number, number] => {
  scratch.setUint8(SOCKADDR_BYTES, 0);
  return [scratchAddress, writeSockaddr(scratch, 0, parseAddress(address), port)];
};

/** A datagram socket bound to the address; a receive that waits longer than the limit gives -1. */
export function udpReceiver(address: string, port: number, timeoutMs: number): number {
  const fd = open(address, SOCK_DGRAM);
  scratch.setBigInt64(0, BigInt(Math.floor(timeoutMs / 1000)), true);
  scratch.setBigInt64(8, BigInt((timeoutMs % 1000) * 1000), true);
  check(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, scratchAddress, 16), 'SO_RCVTIMEO');
  check(bindSocket(fd, ...name(address, port)), `bind ${address} ${port}`);
  return fd;
}

export function udpSender(address: string, port: number): number {
  const fd = open(address, SOCK_DGRAM);
  check(connectSocket(fd, ...name(address, port)), `connect ${address} ${port}`);
  return fd;
}

export function tcpListener(address: string, port: number): number {
  const fd = open(address, SOCK_STREAM);
  setInt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  check(bindSocket(fd, ...name(address, port)), `bind ${address} ${port}`);
  check(listen(fd, 16), 'listen');
  return fd;
}

/** The next connection; it inherits the listener's TCP_NODELAY. */
export const accept = (fd: number): number => check(acceptSocket(fd, 0, 0, 0), 'accept');

export function tcpConnection(address: string, port: number): number {
  const fd = open(address, SOCK_STREAM);
  check(connectSocket(fd, ...name(address, port)), `connect ${address} ${port}`);
  return fd;
}

/** Room for one message, and its address for `send` and `receive`. */
export function messageBuffer(bytes: number): number {
  const buffer = new SharedArrayBuffer(bytes);
  kept.push(buffer);
  return addressOf(buffer);
}
/** Nothing else refers to them: the kernel knows only their addresses. */
const kept: SharedArrayBuffer[] = [];
