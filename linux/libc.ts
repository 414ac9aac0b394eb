/**
 * The C library, by FFI. Pointers are plain numbers (48 bits suffice in user space): BigInt would cost
 * an allocation and twice the time. A pointer that changes from call to call would be boxed anew each
 * time, so callers on the packet path pass constant addresses and change what stands there.
 *
 * Every function returns -1 on failure; `errno()` then says why, until the next call on this thread.
 */
import koffi from 'koffi';

const libc = koffi.load(null);

type Call<A extends number[]> = (...args: A) => number;

function bind<A extends number[]>(prototype: string): Call<A> {
  return libc.func(prototype) as Call<A>;
}

export const errno = (): number => koffi.errno();

/** The address of an array buffer that never moves: a WebAssembly memory's, or a shared one's. */
export const addressOf = (buffer: ArrayBufferLike): number =>
  Number(koffi.address(new Uint8Array(buffer)));

export const close = bind<[fd: number]>('int close(int)');
export const flock = bind<[fd: number, operation: number]>('int flock(int, int)');
export const ioctl = bind<[fd: number, request: number, argument: number]>(
  'int ioctl(int, unsigned long, uintptr_t)',
);
export const readv = bind<[fd: number, iovecs: number, count: number]>(
  'intptr_t readv(int, uintptr_t, int)',
);
export const writev = bind<[fd: number, iovecs: number, count: number]>(
  'intptr_t writev(int, uintptr_t, int)',
);
export const poll = bind<[fds: number, count: number, timeoutMs: number]>(
  'int poll(uintptr_t, unsigned long, int)',
);
export const socket = bind<[domain: number, type: number, protocol: number]>(
  'int socket(int, int, int)',
);
export const bindSocket = bind<[fd: number, address: number, bytes: number]>(
  'int bind(int, uintptr_t, uint32_t)',
);
export const connect = bind<[fd: number, address: number, bytes: number]>(
  'int connect(int, uintptr_t, uint32_t)',
);
export const setsockopt = bind<
  [fd: number, level: number, name: number, value: number, bytes: number]
>('int setsockopt(int, int, int, uintptr_t, uint32_t)');
export const getsockopt = bind<
  [fd: number, level: number, name: number, value: number, bytes: number]
>('int getsockopt(int, int, int, uintptr_t, uintptr_t)');
export const getsockname = bind<[fd: number, address: number, bytes: number]>(
  'int getsockname(int, uintptr_t, uintptr_t)',
);
export const send = bind<[fd: number, at: number, bytes: number, flags: number]>(
  'intptr_t send(int, uintptr_t, uintptr_t, int)',
);
export const recv = bind<[fd: number, at: number, bytes: number, flags: number]>(
  'intptr_t recv(int, uintptr_t, uintptr_t, int)',
);
export const sendmsg = bind<[fd: number, message: number, flags: number]>(
  'intptr_t sendmsg(int, uintptr_t, int)',
);
export const sendmmsg = bind<[fd: number, messages: number, count: number, flags: number]>(
  'int sendmmsg(int, uintptr_t, unsigned int, int)',
);
export const recvmmsg = bind<
  [fd: number, messages: number, count: number, flags: number, timeout: number]
>('int recvmmsg(int, uintptr_t, unsigned int, int, uintptr_t)');
export const eventfd = bind<[initial: number, flags: number]>('int eventfd(unsigned int, int)');
export const schedYield = bind<[]>('int sched_yield()');
export const clockGettime = bind<[clock: number, at: number]>('int clock_gettime(int, uintptr_t)');
export const setns = bind<[fd: number, type: number]>('int setns(int, int)');
export const mmap = bind<
  [at: number, bytes: number, protection: number, flags: number, fd: number, offset: number]
>('uintptr_t mmap(uintptr_t, uintptr_t, int, int, int, intptr_t)');
export const madvise = bind<[at: number, bytes: number, advice: number]>(
  'int madvise(uintptr_t, uintptr_t, int)',
);
/** Makes the file longer where it is too short; all of it then has pages. */
export const fallocate = bind<[fd: number, mode: number, offset: number, bytes: number]>(
  'int fallocate(int, int, intptr_t, intptr_t)',
);
export const fstatfs = bind<[fd: number, at: number]>('int fstatfs(int, uintptr_t)');
/** Ends the process from any thread; process.abort() is the main thread's only. */
export const abort = bind<[]>('void abort()');

/** An option that is an int. @returns false if the kernel does not take it */
export function setOption(fd: number, level: number, name: number, value: number): boolean {
  const cell = new Int32Array(new SharedArrayBuffer(4));
  cell[0] = value;
  return setsockopt(fd, level, name, addressOf(cell.buffer), 4) === 0;
}
