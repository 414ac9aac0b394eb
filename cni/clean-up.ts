/**
 * DEL without a daemon. The host's interface carries its owner in its alias, and goes; with it goes the
 * container's end. The address is the daemon's: an empty file `deleted/<containerId>@<ifname>` beside its
 * socket tells it at its next start that nobody uses it any more.
 */
import { isObject } from './json.ts';

const WITHIN_MS = 10_000;
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * The interfaces whose alias is `weft1 <containerId> <ifname> …`.
 * @param links  what `ip -json link show` printed
 */
export function interfacesOf(links: string, containerId: string, ifname: string): string[] {
  const list: unknown = links.trim() === '' ? [] : JSON.parse(links);
  if (!Array.isArray(list)) throw new TypeError('ip printed no list');
  return list.flatMap((it: unknown) => {
    if (!isObject(it)) return [];
    const { ifname: name, ifalias: alias } = it;
    if (typeof name !== 'string' || typeof alias !== 'string') return [];
    const [mark, id, inside] = alias.split(' ');
    return mark === 'weft1' && id === containerId && inside === ifname ? [name] : [];
  });
}

/** @throws Error with what it said */
function ip(env: Readonly<Record<string, string | undefined>>, ...args: readonly string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(['ip', ...args], {
    stdin: 'ignore',
    env: { PATH, ...env },
    timeout: WITHIN_MS,
  });
  const decoder = new TextDecoder();
  if (exitCode === 0) return decoder.decode(stdout);
  throw new Error(decoder.decode(stderr).trim() || `ip ended by ${exitCode ?? 'a signal'}`);
}

const messageOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);

/** @returns what is left all the same, one line each */
export async function cleanUp(
  socket: string,
  containerId: string,
  ifname: string,
): Promise<readonly string[]> {
  const left: string[] = [];
  try {
    const links = ip(process.env, '-json', '-details', 'link', 'show');
    for (const name of interfacesOf(links, containerId, ifname)) {
      try {
        ip(process.env, 'link', 'delete', 'dev', name);
      } catch (error) {
        // Its other end, or the namespace around that, can go at the same moment.
        if (!messageOf(error).includes('Cannot find device')) {
          left.push(`interface ${name} (${messageOf(error)})`);
        }
      }
    }
  } catch (error) {
    left.push(`the host's interface of ${containerId} ${ifname} (${messageOf(error)})`);
  }
  // Loaded here and not at every start.
  const { existsSync, mkdirSync, writeFileSync } = await import('node:fs');
  const stateDir = socket.slice(0, socket.lastIndexOf('/'));
  const file = `${stateDir}/deleted/${containerId}@${ifname}`;
  try {
    // A daemon that has never run has given out no address.
    if (existsSync(stateDir === '' ? '/' : stateDir)) {
      mkdirSync(`${stateDir}/deleted`, { recursive: true, mode: 0o700 });
      writeFileSync(file, '', { mode: 0o600 });
    }
  } catch (error) {
    left.push(`its address, because ${file} cannot be written (${messageOf(error)})`);
  }
  return left;
}
