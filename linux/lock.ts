/**
 * A lock that a process holds by an open file and loses with its life, however it ends. Flock and not a
 * file with a process number in it: a number says nothing across PID namespaces, or after a restart.
 */
import { closeSync, openSync } from 'node:fs';
import { EAGAIN, SystemCallError } from './errno.ts';
import { errno, flock } from './libc.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;

/** The lock on `path`, made if it is absent; null while another open file holds it. */
export function tryLock(path: string): Disposable | null {
  const fd = openSync(path, 'a', 0o600);
  if (flock(fd, LOCK_EX | LOCK_NB) === 0) return { [Symbol.dispose]: () => closeSync(fd) };
  const number = errno();
  closeSync(fd);
  if (number === EAGAIN) return null;
  throw new SystemCallError(`locking ${path}`, number);
}
