/** The host's own programs: argument arrays and standard input, never a shell. */
import { spawn } from 'node:child_process';

/** Debian's package for a program, for the error of a machine that lacks it. */
const PACKAGES: Readonly<Record<string, string>> = {
  ip: 'iproute2',
  nft: 'nftables',
  etcd: 'etcd-server',
};

/** A program is missing, or says no: `message` holds its own words. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly code: 'ERR_COMMAND_MISSING' | 'ERR_COMMAND_FAILED';

  constructor(code: CommandError['code'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export function missingCommand(program: string, cause?: unknown): CommandError {
  const mend = PACKAGES[program] === undefined ? '' : `; run: apt-get install ${PACKAGES[program]}`;
  return new CommandError('ERR_COMMAND_MISSING', `${program} is not installed${mend}`, { cause });
}

/** Runs to its end; gives what it wrote to stdout. @throws CommandError */
export async function run(program: string, args: readonly string[], input = ''): Promise<string> {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const written = { out: '', err: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (written.out += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (written.err += text));
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  // A program that ends without reading its input closes the pipe; its status tells why.
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  let status: number | null;
  try {
    status = await ended;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') throw missingCommand(program, cause);
    throw new CommandError('ERR_COMMAND_FAILED', `${program} did not start`, { cause });
  }
  if (status === 0) return written.out;
  const said = written.err.trim() || `status ${status ?? 'unknown (ended by a signal)'}`;
  throw new CommandError('ERR_COMMAND_FAILED', `${program} ${args.join(' ')}: ${said}`);
}
