/**
 * Notices that something has changed on this host that we may have to mend: interfaces, addresses,
 * routes, rules, nft tables. What it was is not looked at: a pass over the whole host will tell.
 * Our own changes are noticed too, and cost one pass that finds nothing to do.
 */
import { NETLINK_NETFILTER, NFTABLES_GROUP, openNetlink } from '../linux/netlink.ts';
import { RouteGroup } from '../linux/rtnetlink.ts';

export interface HostWatch extends Disposable {
  /** Whether anything has changed since the last call. */
  readonly changed: () => boolean;
}

export function openHostWatch(): HostWatch {
  const sockets = [
    openNetlink({ groups: Object.values(RouteGroup) }),
    openNetlink({ protocol: NETLINK_NETFILTER, groups: [NFTABLES_GROUP] }),
  ];
  return {
    // Each is emptied, whatever another said.
    changed: () => sockets.map((it) => it.drain()).includes(true),
    [Symbol.dispose]: () => {
      for (const it of sockets) it[Symbol.dispose]();
    },
  };
}
