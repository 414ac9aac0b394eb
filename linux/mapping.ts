/**
 * Files as memory that threads share and that outlives the process. Each thread maps for itself: one
 * address may have one ArrayBuffer only. A mapping stays until the process ends, because an ArrayBuffer
 * whose pages are gone is a crash and not an exception.
 */
import koffi from 'koffi';
import { ENOSPC, SystemCallError } from './errno.ts';
import { errno, fallocate, mmap } from './libc.ts';

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_FAILED = -1;
/** As an unsigned pointer. */
const MAP_FAILED_UNSIGNED = 2 ** 64;

/**
 * The file's first `bytes` as memory.
 * @throws SystemCallError
 */
export function mapShared(fd: number, bytes: number): ArrayBuffer {
  const address = mmap(0, bytes, PROT_READ_WRITE, MAP_SHARED, fd, 0);
  if (address === MAP_FAILED || address >= MAP_FAILED_UNSIGNED - 4096) {
    throw new SystemCallError(`mapping ${bytes} bytes`, errno());
  }
  return koffi.view(address, bytes);
}

/**
 * Gives the file `bytes` of room now: of a sparse file, a write to a page that the file system has no
 * room for is SIGBUS.
 * @returns false if there is no room @throws SystemCallError
 */
export function reserve(fd: number, bytes: number): boolean {
  if (fallocate(fd, 0, 0, bytes) === 0) return true;
  const number = errno();
  if (number === ENOSPC) return false;
  throw new SystemCallError(`reserving ${bytes} bytes`, number);
}
