/** The host's programs that the daemon runs: where they are, and what to install when they are not. */
import { accessSync, constants } from 'node:fs';

const DEBIAN_PACKAGES = { ip: 'iproute2', nft: 'nftables', etcd: 'etcd-server' } as const;
export type ProgramName = keyof typeof DEBIAN_PACKAGES;

export class MissingProgramError extends Error {
  override readonly name = 'MissingProgramError';
  readonly code = 'ERR_MISSING_PROGRAM';
}

/** The full path of a program in PATH, or null. */
export function findProgram(name: string): string | null {
  for (const dir of (process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin').split(':')) {
    const path = `${dir}/${name}`;
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOENT' && code !== 'EACCES' && code !== 'ENOTDIR') throw error;
    }
  }
  return null;
}

/** @throws MissingProgramError that says how to install it */
export function requireProgram(name: ProgramName, otherwise = ''): void {
  if (findProgram(name) !== null) return;
  throw new MissingProgramError(
    `${name} is not installed; run: apt-get install ${DEBIAN_PACKAGES[name]}${otherwise}`,
  );
}
