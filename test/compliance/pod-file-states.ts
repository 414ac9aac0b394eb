/** States that say which one they are; each from its number alone (pod-file.test.ts). */
import type { PoolState } from '../../ipam/pod-pool.ts';
import { toIpv4 } from '../../wire/address.ts';
import { toMac } from '../../wire/mac.ts';

const BASE = 0x0af40000;

/** Between 0 and 200 attachments, so that the file grows and shrinks: some 50 kB at most. */
export function stateNumbered(number: number): PoolState {
  return {
    attachments: Array.from({ length: (number * 37) % 201 }, (_, i) => ({
      containerId: `c${number}-${i}`,
      ifname: 'eth0',
      network: 'weft',
      netns: `/run/netns/cni-${number}-${i}`,
      netnsId: `4:${number}`,
      address4: toIpv4(BASE + 2 + i),
      address6: null,
      mac: toMac(0x020000000000 + i),
      pod: { namespace: 'default', name: `web-${i}` },
    })),
    // The number itself, as an address.
    turn4: { next: toIpv4(number), freed: [] },
    turn6: { next: null, freed: [] },
  };
}

export const numberOf = ({ turn4 }: PoolState): number => turn4.next ?? 0;
