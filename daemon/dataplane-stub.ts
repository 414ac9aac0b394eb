/** Stands in for overlay/dataplane.ts until that is there: opens the TUN, moves nothing. */
import { closeSync } from 'node:fs';
import { openTun } from '../linux/tun.ts';
import type { Dataplane, DataplaneOptions } from '../overlay/types.ts';

export async function startDataplane(options: DataplaneOptions): Promise<Dataplane> {
  const { offloads } = options;
  const tun = openTun({
    name: options.tunName,
    queues: options.workers,
    vnetHeader: true,
    tso: offloads.tunTso,
    uso: offloads.tunUso,
    persist: true,
  });
  return await Promise.resolve({
    offloads,
    publish: () => undefined,
    counters: () => ({}),
    stop: async () => {
      for (const fd of tun.fds) closeSync(fd);
      await Promise.resolve();
    },
  });
}
