/** The other nodes: a checked view of `<prefix>/subnets/`. */
import type { Store, StoreError } from '../store/store.ts';
import { shown } from './lease-codec.ts';
import { isOwnedBy } from './plan.ts';
import { type SubnetEntry, subnetReader, subnetsPrefix } from './subnets.ts';
import type { NetworkConfig, NodeIdentity, NodeLease, Vtep } from './types.ts';

/** An entry that is ignored, and why. */
export interface EntryProblem {
  /** Below `<prefix>/subnets/`, quoted, shortened and made printable: it may be hostile. */
  readonly key: string;
  readonly reason: string;
}

export interface PeersOptions {
  readonly store: Store;
  readonly prefix: string;
  readonly network: NetworkConfig;
  /** Entries with one of our public addresses are ours, and left out. */
  readonly self: Pick<NodeIdentity, 'publicIp4' | 'publicIp6'>;
  readonly signal: AbortSignal;
  /** Once per key, again only when the entry goes bad in another way. */
  readonly onProblem: (problem: EntryProblem) => void;
  /** Told when the view may have fallen behind (why), and null when it is current again. */
  readonly onInterruption?: (error: StoreError | null) => void;
}

/**
 * The whole list of usable others, in order of their creation, at first and after each change of it.
 * A lease is the same object for as long as it says the same. Nothing before the first full list;
 * nothing taken away while the store is unreachable.
 */
export async function* watchPeers(options: PeersOptions): AsyncGenerator<readonly NodeLease[]> {
  const { store, prefix, network, self, signal, onProblem, onInterruption } = options;
  const read = subnetReader(prefix, network);
  const reported = new Map<string, string>();
  let before: readonly NodeLease[] | null = null;
  const watch = { signal, ...(onInterruption && { onInterruption }) };
  for await (const { entries } of store.watch(subnetsPrefix(prefix), watch)) {
    const known = new Map(before?.map((lease) => [lease.key, lease]));
    const peers: NodeLease[] = [];
    const bad = new Set<string>();
    for (const subnet of read(entries.values())) {
      if (isOwnedBy(subnet, self)) continue;
      const reason = problemOf(subnet, network);
      if (reason !== null) {
        bad.add(subnet.key);
        if (reported.get(subnet.key) !== reason) {
          reported.set(subnet.key, reason);
          onProblem({ key: shown(subnet.key), reason });
        }
      } else if (subnet.lease !== null && isReachable(subnet.lease)) {
        const same = known.get(subnet.key);
        peers.push(same && leasesEqual(same, subnet.lease) ? same : subnet.lease);
      }
    }
    for (const key of reported.keys()) if (!bad.has(key)) reported.delete(key);
    const changed =
      before === null ||
      before.length !== peers.length ||
      peers.some((lease, at) => lease !== before![at]);
    before = peers;
    if (changed) yield peers;
  }
}

function problemOf({ problem, lease }: SubnetEntry, network: NetworkConfig): string | null {
  if (lease === null) return problem;
  const stranger = [lease.vtep4, lease.vtep6].find((vtep) => vtep && vtep.vni !== network.vni);
  return stranger ? `its VNI ${stranger.vni} is not the network's ${network.vni}` : null;
}

/** False of a reservation whose node has not come yet. */
const isReachable = (lease: NodeLease): boolean =>
  (lease.publicIp4 !== null && lease.vtep4 !== null) ||
  (lease.publicIp6 !== null && lease.vtep6 !== null);

const leasesEqual = (a: NodeLease, b: NodeLease): boolean =>
  a.publicIp4 === b.publicIp4 &&
  a.publicIp6 === b.publicIp6 &&
  a.reserved === b.reserved &&
  vtepsEqual(a.vtep4, b.vtep4) &&
  vtepsEqual(a.vtep6, b.vtep6);

const vtepsEqual = (a: Vtep | null, b: Vtep | null): boolean =>
  a?.mac === b?.mac && a?.vni === b?.vni;
