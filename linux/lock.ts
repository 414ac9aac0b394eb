/**
 * A lock that a process holds by an open file and loses with its life, however it ends. Flock and not a
 * file with a process number in it: a number says nothing across PID namespaces, or after a restart.
 */
import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';

const LOCK_EX = 2;
const LOCK_NB = 4;
const EWOULDBLOCK = 11;

const flock = koffi.load('libc.so.6').func('int flock(int fd, int operation)') as (
  fd: number,
  operation: number,
) => number;

/** The lock on `path`, made if it is absent; null while another process holds it. */
export function tryLock(path: string): Disposable | null {
  const fd = openSync(path, 'a', 0o600);
  if (flock(fd, LOCK_EX | LOCK_NB) === 0) return { [Symbol.dispose]: () => closeSync(fd) };
  const errno = koffi.errno();
  closeSync(fd);
  if (errno === EWOULDBLOCK) return null;
  throw new Error(`flock ${path}: errno ${errno}`);
}
