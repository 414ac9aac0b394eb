/**
 * A run of the lab and its traces on the host: a directory `<tmp>/weft-lab-<prefix>-<id>` whose
 * run.json names the process that owns it, network namespaces `<prefix>-<id>-*`, and cgroups of the same
 * names for containers. The directory is there before the first namespace and goes after the last, so that whatever a killed process
 * leaves can be found, named and removed by the next.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';

/** An earlier run died and its traces are still on the host. The message names them and the remedy. */
export class LabLeftoverError extends Error {
  readonly code = 'ERR_LAB_LEFTOVER';
}

export interface Run {
  readonly prefix: string;
  /** `<prefix>-<id>`: what every namespace of the run begins with, followed by a dash. */
  readonly name: string;
  /** The run's directory: logs, etcd's files, daemons' state. */
  readonly directory: string;
}

interface Owner {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: tells the owner from a later process with its number. */
  readonly startTime: string;
}

const NETNS = '/run/netns';
const CGROUPS = '/sys/fs/cgroup';
const directoryPrefix = 'weft-lab-';

/** LAB_PREFIX lets runs of several users live side by side. @throws RangeError */
export function labPrefix(): string {
  const prefix = process.env['LAB_PREFIX'] ?? 'weft';
  if (!/^[a-z][a-z0-9]{0,8}$/.test(prefix)) {
    throw new RangeError(`LAB_PREFIX "${prefix}" must be 1 to 9 lower-case letters and digits`);
  }
  return prefix;
}

function startTimeOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ESRCH') return null;
    throw error;
  }
}

/**
 * Starts a run of this process. It ends with `removeRun`, or with the process: at exit, by an
 * uncaught exception, SIGINT, SIGTERM or SIGHUP.
 * @throws LabLeftoverError when a dead run of the same prefix left something
 */
export function openRun(prefix: string): Run {
  const left = leftovers(prefix);
  if (left.length > 0) {
    const traces = left.flatMap((run) => tracesOf(run)).join(', ');
    throw new LabLeftoverError(
      `a lab that died left ${traces}; remove them with: LAB_PREFIX=${prefix} node test/lab/clean.ts`,
    );
  }
  const name = `${prefix}-${randomBytes(3).toString('hex')}`;
  const directory = join(tmpdir(), `${directoryPrefix}${name}`);
  const owner: Owner = { pid: process.pid, startTime: startTimeOf(process.pid)! };
  const nascent = mkdtempSync(join(tmpdir(), `.${directoryPrefix}`));
  writeFileSync(join(nascent, 'run.json'), JSON.stringify(owner));
  renameSync(nascent, directory);
  const run = { prefix, name, directory };
  atExit(run);
  return run;
}

const open = new Set<Run>();

function atExit(run: Run): void {
  if (open.size === 0) {
    process.once('exit', () => {
      for (const each of open) removeRun(each);
    });
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(signal, () => {
        for (const each of open) removeRun(each);
        process.kill(process.pid, signal);
      });
    }
  }
  open.add(run);
}

/** Namespaces of the run that exist now. */
export function namespacesOf(run: Run): string[] {
  if (!existsSync(NETNS)) return [];
  return readdirSync(NETNS).filter((name) => name.startsWith(`${run.name}-`));
}

/** Of containers, which have network namespaces without a name: paths, in all hierarchies. */
function cgroupsOf(run: Run): string[] {
  if (!existsSync(CGROUPS)) return [];
  // Version 2 alone has them at the top; version 1 below each controller.
  const tops = [CGROUPS, ...directoriesIn(CGROUPS)];
  return tops.flatMap((top) =>
    directoriesIn(top).filter((path) => basename(path).startsWith(`${run.name}-`)),
  );
}

const directoriesIn = (path: string): string[] =>
  ifThere(() => readdirSync(path, { withFileTypes: true }), [])
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(path, entry.name));

/** Inner ones first: the order in which they can be removed. */
const withInner = (cgroup: string): string[] => [
  ...directoriesIn(cgroup).flatMap(withInner),
  cgroup,
];

function pidsInCgroups(cgroups: readonly string[]): number[] {
  const texts = cgroups
    .flatMap(withInner)
    .map((path) => ifThere(() => readFileSync(join(path, 'cgroup.procs'), 'utf8'), ''));
  return texts.flatMap((text) => text.split('\n').filter((line) => line !== '')).map(Number);
}

/** @returns `absent` when it went meanwhile */
function ifThere<T>(read: () => T, absent: T): T {
  try {
    return read();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENODEV') return absent;
    throw error;
  }
}

const pidsOf = (run: Run): number[] => [
  ...new Set([...pidsIn(namespacesOf(run)), ...pidsInCgroups(cgroupsOf(run))]),
];

/** What there is of the run on this host, in words. */
export function tracesOf(run: Run): string[] {
  const namespaces = namespacesOf(run).map((name) => `namespace ${name}`);
  const pids = pidsOf(run).map((pid) => `process ${pid}`);
  const rest = [...cgroupsOf(run), ...(existsSync(run.directory) ? [run.directory] : [])];
  return [...namespaces, ...pids, ...rest];
}

/** Runs of this prefix whose owner is gone, by their directories and by their namespaces. */
export const leftovers = (prefix: string): Run[] =>
  deadRuns().filter((run) => run.prefix === prefix);

/** The same of this prefix and all that begin with it, as tests have them. */
export const leftoversOfTests = (prefix: string): Run[] =>
  deadRuns().filter((run) => run.prefix.startsWith(prefix));

function deadRuns(): Run[] {
  const namespaces = existsSync(NETNS) ? readdirSync(NETNS) : [];
  const directories = readdirSync(tmpdir())
    .filter((entry) => entry.startsWith(directoryPrefix))
    .map((entry) => `${entry.slice(directoryPrefix.length)}-`);
  const runs = new Map<string, Run>();
  for (const entry of [...namespaces, ...directories]) {
    const [, name, prefix] = /^(([a-z][a-z0-9]*)-[0-9a-f]{6})-/.exec(entry) ?? [];
    if (name === undefined) continue;
    const directory = join(tmpdir(), `${directoryPrefix}${name}`);
    runs.set(name, { prefix: prefix!, name, directory });
  }
  return [...runs.values()].filter((run) => !hasOwner(run));
}

function hasOwner(run: Run): boolean {
  const path = join(run.directory, 'run.json');
  if (!existsSync(path)) return false;
  const owner = JSON.parse(readFileSync(path, 'utf8')) as Owner;
  return startTimeOf(owner.pid) === owner.startTime;
}

/** Processes that live in one of the namespaces, by the namespace's inode. */
function pidsIn(namespaces: readonly string[]): number[] {
  const inodes = new Set(namespaces.map((name) => `net:[${statSync(join(NETNS, name)).ino}]`));
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .filter((pid) => {
      try {
        return inodes.has(readlinkSync(`/proc/${pid}/ns/net`));
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        // It ended meanwhile, or is beyond our sight: then it is none that we started.
        if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES') return false;
        throw error;
      }
    })
    .map(Number);
}

/**
 * Ends the processes in the run's namespaces and cgroups, then removes these and the directory.
 * Synchronous, so that it works while the process exits. Removing twice is fine.
 */
export function removeRun(run: Run): void {
  open.delete(run);
  const namespaces = namespacesOf(run);
  const deadline = Date.now() + 10_000;
  for (let pids = pidsOf(run); pids.length > 0; pids = pidsOf(run)) {
    if (Date.now() > deadline) {
      throw new Error(`processes ${pids.join(', ')} of ${run.name} do not end`);
    }
    for (const pid of pids) kill(pid);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
  }
  for (const cgroup of cgroupsOf(run).flatMap(withInner))
    ifThere(() => rmdirSync(cgroup), undefined);
  for (const name of namespaces) execFileSync('ip', ['netns', 'delete', name]);
  rmSync(run.directory, { recursive: true, force: true });
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
