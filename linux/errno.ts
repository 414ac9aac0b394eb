/** Error numbers of Linux on x86-64 and arm64 (asm-generic/errno-base.h, asm-generic/errno.h). */
export const EPERM = 1;
export const ENOENT = 2;
export const ESRCH = 3;
export const EINTR = 4;
export const EIO = 5;
export const EAGAIN = 11;
export const EBUSY = 16;
export const EEXIST = 17;
export const ENODEV = 19;
export const EINVAL = 22;
export const ENOSPC = 28;
export const EMSGSIZE = 90;
export const ENOBUFS = 105;

import { getSystemErrorMap } from 'node:util';

/** `EINVAL: invalid argument`, for messages to people. */
export function describeErrno(number: number): string {
  const entry = getSystemErrorMap().get(-number);
  return entry === undefined ? `errno ${number}` : `${entry[0]}: ${entry[1]}`;
}

/** A system call that failed while something was being set up. */
export class SystemCallError extends Error {
  readonly code = 'ERR_SYSTEM_CALL';
  readonly errno: number;

  constructor(what: string, number: number) {
    super(`${what}: ${describeErrno(number)}`);
    this.errno = number;
  }
}
