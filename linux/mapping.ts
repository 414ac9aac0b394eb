/**
 * Files as memory that threads share and that outlives the process. Each thread maps for itself: one
 * address may have one ArrayBuffer only. A mapping stays until the process ends, because an ArrayBuffer
 * whose pages are gone is a crash and not an exception.
 */
import koffi from 'koffi';
import { ENOSPC, SystemCallError } from './errno.ts';
import { addressOf, errno, fallocate, madvise, mmap } from './libc.ts';

const PROT_NONE = 0;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
/** Linux 6.1. */
const MADV_COLLAPSE = 25;
const MAP_FAILED = -1;
/** As an unsigned pointer. */
const MAP_FAILED_UNSIGNED = 2 ** 64;

/** Of x86-64, and of arm64 with pages of 4 KiB. */
export const HUGE_PAGE_BYTES = 2 ** 21;

function map(at: number, bytes: number, protection: number, flags: number, fd: number): number {
  const address = mmap(at, bytes, protection, flags, fd, 0);
  if (address === MAP_FAILED || address >= MAP_FAILED_UNSIGNED - 4096) {
    throw new SystemCallError(`mapping ${bytes} bytes`, errno());
  }
  return address;
}

/**
 * The file's first `bytes` as memory, where huge pages may be.
 * @throws SystemCallError
 */
export function mapShared(fd: number, bytes: number): ArrayBuffer {
  const room = map(
    0,
    bytes + HUGE_PAGE_BYTES,
    PROT_NONE,
    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
    -1,
  );
  const aligned = Math.ceil(room / HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES;
  return koffi.view(map(aligned, bytes, PROT_READ_WRITE, MAP_SHARED | MAP_FIXED, fd), bytes);
}

/**
 * Makes huge pages of a part of what mapShared gave, whatever the system's setting for them: table walks
 * are most of what a random access costs in tens of megabytes. Other mappings of the file get them with
 * their next access.
 * @param offset  in the buffer; both are multiples of HUGE_PAGE_BYTES
 * @returns       false where the kernel has none to give, or is older than 6.1: it stays as it was
 */
export function collapse(buffer: ArrayBuffer, offset: number, bytes: number): boolean {
  return madvise(addressOf(buffer) + offset, bytes, MADV_COLLAPSE) === 0;
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
