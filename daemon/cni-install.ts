/**
 * `weft cni install` and `uninstall`: the plugin as one file in the runtime's directory of plugins, and
 * the network configuration that names it. A runtime takes a node for ready as soon as the configuration
 * is there; so it comes last and goes first, and not before the daemon can carry packets.
 */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access, chmod, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../linux/program.ts';
import type { CniVersion } from '../wire/cni.ts';
import { DaemonAbsentError, askDaemon } from './api-client.ts';
import type { StatusMessage } from './messages.ts';
import { stateFiles } from './state-dir.ts';

const PLUGIN = 'weft-cni';
const CONFLIST = '10-weft.conflist';
const HOUSE = join(import.meta.dirname, '..');
const POLL_MS = 200;
const FLAGS = ['--no-env-file', '--config=/dev/null', '--tsconfig-override=/dev/null'] as const;

/** The plugin is not installed; what was there before is untouched. */
export class CniInstallError extends Error {
  override readonly name = 'CniInstallError';
  readonly code = 'ERR_CNI_INSTALL';
}

export interface Directories {
  /** Where the runtime looks for plugins, absolute. */
  readonly binDir: string;
  /** Where the runtime looks for network configurations, absolute. */
  readonly confDir: string;
}

export interface InstallOptions extends Directories {
  readonly stateDir: string;
  readonly cniVersion: CniVersion;
  readonly networkName: string;
  /** For how long to wait for the daemon to become ready. */
  readonly waitMs: number;
}

/** @throws CniInstallError with the daemon's reasons; DaemonAbsentError */
async function waitUntilReady(stateDir: string, waitMs: number, signal: AbortSignal) {
  const deadline = performance.now() + waitMs;
  for (;;) {
    let absent: DaemonAbsentError | undefined;
    let reasons: readonly string[] = [];
    try {
      const status = await askDaemon<StatusMessage>(stateDir, 'GET', '/v1/status');
      if (status.ready) return;
      ({ reasons } = status);
    } catch (error) {
      if (!(error instanceof DaemonAbsentError)) throw error;
      absent = error;
    }
    if (performance.now() + POLL_MS > deadline) {
      if (absent !== undefined) throw absent;
      throw new CniInstallError(
        `the daemon is not ready, so a pod would get no network: ${reasons.join('; ')}; ` +
          'mend it, or wait for it with --wait SECONDS',
      );
    }
    await sleep(POLL_MS, undefined, { signal });
  }
}

/**
 * The line by which the kernel starts the plugin. Bun must not take its options from the environment,
 * nor code, variables or paths of modules from the directory in which the runtime happens to be; and
 * `env -S` is needed because the kernel hands over all that follows the program as one argument.
 * @throws CniInstallError when the kernel or `env -S` would read it as something else
 */
export function shebangOf(bun: string): string {
  const line = `#!/usr/bin/env -S -u BUN_OPTIONS ${bun} ${FLAGS.join(' ')}`;
  if (!/^\/[\w./@+:,-]+$/.test(bun)) {
    throw new CniInstallError(
      `${bun} cannot stand in a file's first line; move Weft to a path of letters, digits and "-_.@+:,"`,
    );
  }
  // BINPRM_BUF_SIZE is 256, and the line has an end.
  if (line.length > 254) {
    throw new CniInstallError(
      `${bun} is too long for a file's first line by ${line.length - 254} bytes; move Weft to a shorter path`,
    );
  }
  return line;
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'EACCES' || code === 'ENOTDIR') return false;
    throw error;
  }
}

/** Of one processor the package that runs on all of its kind (no AVX2). */
const bunPath = (): string =>
  join(
    HOUSE,
    'node_modules/@oven',
    `bun-linux-${process.arch === 'arm64' ? 'aarch64' : 'x64-baseline'}`,
    'bin/bun',
  );

/** The plugin's source as one executable text. */
async function bundle(signal: AbortSignal): Promise<string> {
  const bun = bunPath();
  const shebang = shebangOf(bun);
  if (!(await isExecutable(bun))) {
    throw new CniInstallError(`${bun} is missing; run: sh ${join(HOUSE, 'scripts/setup')}`);
  }
  const argv = [bun, 'build', ...FLAGS, '--target=bun', '--minify', join(HOUSE, 'cni/main.ts')];
  const script = await run(argv, { env: { BUN_OPTIONS: '' }, signal });
  return `${shebang}\n${script}`;
}

/** What an install that was killed left: runtimes do not look at it, and nobody else removes it. */
async function removeNascent(dir: string, name: string): Promise<void> {
  for (const it of await readdir(dir)) {
    const isNascent = it.startsWith(`.${name}.`) && /\.[0-9a-f]{8}$/.test(it);
    if (isNascent) await rm(join(dir, it), { force: true });
  }
}

/**
 * Whole or not at all, also when the machine stops in between.
 * @param check  looks at the new file before it takes the name
 */
async function place(
  dir: string,
  name: string,
  text: string,
  mode: number,
  check: (path: string) => Promise<unknown>,
): Promise<string> {
  const path = join(dir, name);
  const fresh = join(dir, `.${name}.${randomBytes(4).toString('hex')}`);
  try {
    const file = await open(fresh, 'wx', 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    // Not by open, whose mode the umask narrows.
    await chmod(fresh, mode);
    await check(fresh);
    await rename(fresh, path);
  } finally {
    await rm(fresh, { force: true });
  }
  const directory = await open(dir);
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
  return path;
}

/** The runtime's network configuration list; others' plugins are in it if they are installed. */
export function conflist(
  { cniVersion, networkName, stateDir }: InstallOptions,
  others: { readonly portmap: boolean; readonly bandwidth: boolean },
): string {
  const plugins = [
    {
      type: PLUGIN,
      socket: stateFiles(stateDir).socket,
      capabilities: { ips: true, mac: true },
    },
    ...(others.portmap
      ? [{ type: 'portmap', capabilities: { portMappings: true }, snat: true }]
      : []),
    ...(others.bandwidth ? [{ type: 'bandwidth', capabilities: { bandwidth: true } }] : []),
  ];
  return `${JSON.stringify({ cniVersion, name: networkName, plugins }, null, 2)}\n`;
}

/**
 * @returns what it did, one line each
 * @throws CniInstallError, DaemonAbsentError; nothing is half there then
 */
export async function installCni(
  options: InstallOptions,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const { binDir, confDir, stateDir, waitMs } = options;
  const script = await bundle(signal);
  await waitUntilReady(stateDir, waitMs, signal);
  for (const dir of [binDir, confDir]) await mkdir(dir, { recursive: true, mode: 0o755 });
  await removeNascent(binDir, PLUGIN);
  await removeNascent(confDir, CONFLIST);
  const plugin = await place(binDir, PLUGIN, script, 0o755, async (path) => {
    try {
      await run([path], { env: { CNI_COMMAND: 'VERSION' }, signal });
    } catch (cause) {
      signal.throwIfAborted();
      throw new CniInstallError(`the plugin does not start in ${binDir}`, { cause });
    }
  });
  const [portmap, bandwidth] = await Promise.all(
    ['portmap', 'bandwidth'].map((it) => isExecutable(join(binDir, it))),
  );
  const others = { portmap: portmap!, bandwidth: bandwidth! };
  const config = await place(confDir, CONFLIST, conflist(options, others), 0o600, async () =>
    signal.throwIfAborted(),
  );
  const lines = [`wrote ${plugin}`, `wrote ${config}`];
  for (const [name, isThere] of Object.entries(others)) {
    if (!isThere) lines.push(`${name} is not in ${binDir}, and so not in the list`);
  }
  const first = (await readdir(confDir))
    .filter((it) => /\.(?:conf|conflist|json)$/.test(it))
    .sort()[0];
  if (first !== undefined && first !== CONFLIST) {
    lines.push(`runtimes take the first configuration of ${confDir}, which is ${first}: remove it`);
  }
  return lines;
}

/** @returns the files that it removed */
export async function uninstallCni({ binDir, confDir }: Directories): Promise<readonly string[]> {
  const removed: string[] = [];
  for (const [dir, name] of [
    [confDir, CONFLIST],
    [binDir, PLUGIN],
  ] as const) {
    const path = join(dir, name);
    try {
      await removeNascent(dir, name);
      await rm(path);
      removed.push(path);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error;
    }
  }
  return removed;
}
