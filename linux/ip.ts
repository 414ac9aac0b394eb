/** Links, addresses and routes, through iproute2: reads as JSON, writes as one batch. */
import { run } from './command.ts';

export interface IpAddressEntry {
  readonly family: 'inet' | 'inet6';
  readonly local: string;
  readonly prefixlen: number;
  readonly scope: string;
  readonly deprecated?: boolean;
  readonly temporary?: boolean;
}

export interface IpLink {
  readonly ifindex: number;
  readonly ifname: string;
  readonly flags: readonly string[];
  readonly mtu: number;
  /** What made it: `tun`, `veth`; absent for hardware. */
  readonly linkinfo?: { readonly info_kind?: string };
  readonly addr_info: readonly IpAddressEntry[];
}

export interface IpRoute {
  /** `default`, an address, or a block. */
  readonly dst: string;
  readonly dev?: string;
  readonly gateway?: string;
  readonly prefsrc?: string;
  readonly metric?: number;
  readonly flags?: readonly string[];
}

async function ipJson<T>(args: readonly string[]): Promise<readonly T[]> {
  const text = (await run('ip', ['-json', ...args])).trim();
  // Iproute2 prints nothing at all, or one empty object, where there is nothing to list.
  const entries = text === '' ? [] : (JSON.parse(text) as T[]);
  return entries.filter((it) => Object.keys(it as object).length > 0);
}

/** Every link with its addresses. */
export const listLinks = (): Promise<readonly IpLink[]> => ipJson(['-details', 'address', 'show']);

/** Routes of the main table that match `selector`, such as `default` or `proto 157`. */
export const listRoutes = (
  family: 4 | 6,
  selector: readonly string[],
): Promise<readonly IpRoute[]> => ipJson([`-${family}`, 'route', 'show', ...selector]);

/** Runs the commands in order in one process and stops at the first that fails. */
export async function ipBatch(commands: readonly string[]): Promise<void> {
  if (commands.length > 0) await run('ip', ['-batch', '-'], `${commands.join('\n')}\n`);
}
