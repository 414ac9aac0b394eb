/** Network namespaces: by name (/run/netns) with the sysctls inside them, and by the path of a file. */
import { closeSync, constants, fstatSync, openSync, statSync } from 'node:fs';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { addressOf, fstatfs, ioctl } from './libc.ts';
import { ProgramError, run } from './program.ts';

const NSFS_MAGIC = 0x6e736673;
/** ioctl_nsfs(2) */
const NS_GET_NSTYPE = 0xb703;
const CLONE_NEWNET = 0x40000000;
/** struct statfs begins with its type; 120 bytes on 64-bit machines. */
const STATFS_BYTES = 128;

/** A sysctl that is not there or does not take the value. */
export class SysctlError extends Error {
  readonly code = 'ERR_SYSCTL';
}

/** A path that leads to no network namespace: nothing can be attached or removed there. */
export class NamespaceError extends Error {
  readonly code = 'ERR_NETNS';
  /** There is nothing at that path: the namespace, if there was one, is gone by that name. */
  readonly absent: boolean;

  constructor(path: string, why: string, absent: boolean, cause?: unknown) {
    super(`${path} is no network namespace (${why}); nothing is done there`, { cause });
    this.absent = absent;
  }
}

/** Loopback is up in the new namespace. @throws ProgramError if the name is taken */
export async function createNamespace(name: string): Promise<void> {
  await run(['ip', 'netns', 'add', name]);
  await run(['ip', '-n', name, 'link', 'set', 'lo', 'up']);
}

/** Its devices go with the last process inside. A name that is not there is fine. */
export async function deleteNamespace(name: string): Promise<void> {
  try {
    await run(['ip', 'netns', 'delete', name]);
  } catch (error) {
    if (!(error instanceof ProgramError) || (await listNamespaces()).includes(name)) throw error;
  }
}

export async function listNamespaces(): Promise<string[]> {
  try {
    return await readdir('/run/netns');
  } catch (error) {
    // The directory comes with the first named namespace.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** `net.ipv4.ip_forward` -> /proc/sys/net/ipv4/ip_forward; a slash stands for a dot inside a name. */
function sysctlPath(key: string): string {
  if (!/^[a-z0-9_]+([./][A-Za-z0-9_@:/.-]+)+$/.test(key) || key.split(/[./]/).includes('')) {
    throw new SysctlError(`"${key}" is not a sysctl; nothing was read or set`);
  }
  const swapped = key.replaceAll(/[./]/g, (mark) => (mark === '.' ? '/' : '.'));
  return `/proc/sys/${swapped}`;
}

/** @throws SysctlError */
export async function readSysctl(key: string, netns?: string): Promise<string> {
  const path = sysctlPath(key);
  try {
    const text = await (netns === undefined
      ? readFile(path, 'utf8')
      : run(['cat', path], { netns }));
    return text.trimEnd();
  } catch (cause) {
    throw new SysctlError(`sysctl ${key} cannot be read`, { cause });
  }
}

/** Sets each; a namespace's are set by a process inside it. @throws SysctlError naming the first refused */
export async function writeSysctls(
  values: Readonly<Record<string, string | number>>,
  netns?: string,
): Promise<void> {
  await Promise.all(
    Object.entries(values).map(async ([key, value]) => {
      const path = sysctlPath(key);
      try {
        await (netns === undefined
          ? writeFile(path, `${value}`)
          : run(['tee', path], { netns, input: `${value}` }));
      } catch (cause) {
        throw new SysctlError(`sysctl ${key} does not take ${value}; it stays as it is`, { cause });
      }
    }),
  );
}

/** A network namespace held by an open file: it lives, and is the same one, until the file is closed. */
export interface NamespaceFile extends Disposable {
  readonly fd: number;
  /** `device:inode`, which no other namespace has while this one lives. */
  readonly id: string;
}

const idOf = (file: { readonly dev: number; readonly ino: number }): string =>
  `${file.dev}:${file.ino}`;

/** `/run/netns/x`, `/proc/7/ns/net`, or where a container runtime keeps it. @throws NamespaceError */
export function openNamespace(path: string): NamespaceFile {
  const fd = openFile(path);
  // The file system first: an ioctl means something else to every other kind of file.
  const why = !isNsfs(fd)
    ? 'a file of another kind'
    : ioctl(fd, NS_GET_NSTYPE, 0) !== CLONE_NEWNET
      ? 'a namespace of another kind'
      : null;
  if (why !== null) {
    closeSync(fd);
    throw new NamespaceError(path, why, false);
  }
  return { fd, id: idOf(fstatSync(fd)), [Symbol.dispose]: () => closeSync(fd) };
}

function openFile(path: string): number {
  try {
    // Without waiting, should it be a pipe. Node.js adds O_CLOEXEC.
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const { code = 'no code' } = cause as NodeJS.ErrnoException;
    throw new NamespaceError(path, code, code === 'ENOENT', cause);
  }
}

function isNsfs(fd: number): boolean {
  const view = new DataView(new SharedArrayBuffer(STATFS_BYTES));
  return fstatfs(fd, addressOf(view.buffer)) === 0 && view.getUint32(0, true) === NSFS_MAGIC;
}

/** The `id` of the namespace that this thread is in. */
export const ownNamespaceId = (): string => idOf(statSync('/proc/thread-self/ns/net'));
