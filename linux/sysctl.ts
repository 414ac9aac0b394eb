/** Kernel settings, by their path below /proc/sys: `net/ipv4/conf/weft0/rp_filter`. */
import { readFile, writeFile } from 'node:fs/promises';

const ROOT = '/proc/sys';

/** Null when the kernel, or the interface it belongs to, does not have it. */
export async function readSysctl(path: string): Promise<string | null> {
  try {
    return (await readFile(`${ROOT}/${path}`, 'utf8')).trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

export async function writeSysctl(path: string, value: string): Promise<void> {
  await writeFile(`${ROOT}/${path}`, value);
}
