/** The host's programs that the daemon runs, and what to install when one is missing. */
import { findProgram } from '../linux/find-program.ts';

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
