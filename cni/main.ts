/** The CNI plugin as a program. It runs on Bun, which starts in a fifth of Node's time. */
import { ask } from './ask.ts';
import { cleanUp } from './clean-up.ts';
import { STDIN_LIMIT_BYTES } from './json.ts';
import { handle } from './plugin.ts';

async function readStdin(): Promise<Uint8Array | null> {
  if ((process.env['CNI_COMMAND'] ?? '') === '') {
    const { isatty } = await import('node:tty');
    if (isatty(0)) return null;
  }
  return await Bun.stdin.slice(0, STDIN_LIMIT_BYTES + 1).bytes();
}

const { stdout, stderr, exitCode } = await handle(process.env, await readStdin(), { ask, cleanUp });
// process.stdout takes longer to load than everything else together.
if (stdout !== '') console.log(stdout.trimEnd());
// console.error would colour it.
if (stderr !== '') await Bun.write(Bun.stderr, stderr);
process.exit(exitCode);
