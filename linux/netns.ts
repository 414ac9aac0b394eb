/** Named network namespaces (/run/netns) and the sysctls inside them. */
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { ProgramError, run } from './program.ts';

/** A sysctl that is not there or does not take the value. */
export class SysctlError extends Error {
  readonly code = 'ERR_SYSCTL';
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
