/** The host's programs that the daemon runs, and what to install when one is missing. */
import { accessSync, constants } from 'node:fs';

const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * The full path, or null. Npm puts the packages' programs first into PATH, and one of them is another
 * `nft`: those are not the host's.
 */
export function findProgram(name: string): string | null {
  const dirs = (process.env['PATH'] ?? SYSTEM_PATH).split(':');
  for (const dir of dirs.filter((it) => !it.endsWith('node_modules/.bin'))) {
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

const DEBIAN_PACKAGES = { ip: 'iproute2', nft: 'nftables', etcd: 'etcd-server' } as const;
type ProgramName = keyof typeof DEBIAN_PACKAGES;

export class MissingProgramError extends Error {
  override readonly name = 'MissingProgramError';
  readonly code = 'ERR_MISSING_PROGRAM';
}

/** @throws MissingProgramError that says how to install it */
export function requireProgram(name: ProgramName, otherwise = ''): void {
  if (findProgram(name) !== null) return;
  throw new MissingProgramError(
    `${name} is not installed; run: apt-get install ${DEBIAN_PACKAGES[name]}${otherwise}`,
  );
}
