/** What the packet path is told, and what it tells. Plain values: they cross to the workers by copy. */
import type { PolicyTable } from '../policy/table.ts';
import type { ServiceTable } from '../service/table.ts';
import type { IpAddress, Ipv4, Ipv6 } from '../wire/address.ts';
import type { Cidr4, Cidr6 } from '../wire/cidr.ts';
import type { Mac } from '../wire/mac.ts';
import type { DropName } from '../wire/drop-reason.ts';
import type { Vni } from '../wire/vxlan.ts';
import type { CaptureFilter } from './capture-ring.ts';

/** Where packets of one inner family go: the peer's underlay address and its end point's address. */
export interface NextHop {
  readonly address: IpAddress;
  readonly mac: Mac;
}

/** Another node. Its packets are accepted from `addresses` only, with inner sources in its subnets only. */
export interface Peer {
  /** For people: the lease's key. */
  readonly name: string;
  readonly subnet4: Cidr4 | null;
  readonly subnet6: Cidr6 | null;
  readonly nextHop4: NextHop | null;
  readonly nextHop6: NextHop | null;
  /**
   * Its subnet of this family is reached by the host's own routes, without VXLAN: what is for it goes
   * back to the host, and the host may hand us what comes from it.
   */
  readonly direct4: boolean;
  readonly direct6: boolean;
  /** At most one of each family. */
  readonly addresses: readonly IpAddress[];
}

/** Everything the packet path decides by. Published whole, never patched. */
export interface OverlayState {
  readonly vni: Vni;
  /** Our own subnets: the only inner sources we send to peers, the only inner destinations we accept. */
  readonly subnet4: Cidr4 | null;
  readonly subnet6: Cidr6 | null;
  readonly mac: Mac;
  /** Largest inner packet, bytes, of the TUN. A peer's learned path MTU may be smaller. */
  readonly mtuBytes: number;
  /**
   * False while the node's lease is not ours: nothing goes to peers or comes from them. What stays on
   * this host, or leaves it for elsewhere, goes on: the addresses are still here.
   */
  readonly forwarding: boolean;
  /** The overlay networks: what lies outside of them is the host's to route. */
  readonly network4: Cidr4 | null;
  readonly network6: Cidr6 | null;
  /**
   * Addresses that a pod has now, in any order and as often as they come. Those outside of our subnets,
   * left from an earlier lease, and the node's own count for nothing.
   */
  readonly pods: readonly IpAddress[];
  readonly peers: readonly Peer[];
  /** Addresses that this host's interfaces have; the pods' and `.0` of our subnets are not among them. */
  readonly nodeAddresses: readonly IpAddress[];
  /**
   * False before policies and Services were listed for the first time: nothing is forwarded to pods or
   * from them. True where there are none to list.
   */
  readonly policyReady: boolean;
  /** Swapped when it has changed: the same object is not copied to the workers again. */
  readonly policy: PolicyTable;
  readonly services: ServiceTable;
}

/** How far the packet path may climb; each is tested at start and dropped if the kernel cannot do it. */
export interface Offloads {
  /** Vnet header on the TUN with checksum and TCP segmentation offload. */
  readonly tunTso: boolean;
  /** UDP segmentation offload on the TUN (Linux 6.2). Needs tunTso. */
  readonly tunUso: boolean;
  /**
   * Large TCP packets leave as one tunnel packet that the kernel or the network device segments
   * (Linux 6.17; IPv4 underlay). Needs tunTso, and a host that forwards.
   */
  readonly tunnelGso: boolean;
  /** Many datagrams in one send (UDP_SEGMENT). */
  readonly udpGso: boolean;
  /** Many datagrams in one receive (UDP_GRO). */
  readonly udpGro: boolean;
  /** Many messages per system call (sendmmsg, recvmmsg), and many packets per wake-up. */
  readonly batch: boolean;
  /** Inner segments are merged into large packets before they go to the TUN. Needs tunTso. */
  readonly coalesce: boolean;
}

export interface DataplaneOptions {
  readonly tunName: string;
  /** One thread, TUN queue and receiving socket each; 1..64. */
  readonly workers: number;
  /** Our underlay addresses; sockets are bound to them. At least one. */
  readonly underlay4: Ipv4 | null;
  readonly underlay6: Ipv6 | null;
  /** Outer UDP destination port, ours and the peers'. */
  readonly port: number;
  readonly offloads: Offloads;
  /** Null: no flows are tracked, and neither Services nor policy count for anything. */
  readonly flows: {
    /** A file on a tmpfs, so that flows outlive the process; null: they end with it. */
    readonly path: string | null;
    /** Entries, 1..4194304; 128 bytes each and 16 of index. */
    readonly maxFlows: number;
    /** Established flows go on whatever a changed policy says of them. */
    readonly loose: boolean;
  } | null;
  /** Whether `readEvents` has anything to hand out. */
  readonly events: boolean;
  /** Told once per event, never per packet: a rung that was dropped, a worker that died. */
  readonly report: (event: DataplaneEvent) => void;
}

export type DataplaneEvent =
  | { readonly kind: 'offload-off'; readonly offload: keyof Offloads; readonly reason: string }
  | { readonly kind: 'path-mtu'; readonly peer: string; readonly mtuBytes: number }
  | { readonly kind: 'worker-failed'; readonly worker: number; readonly error: Error };

/**
 * VXLAN datagrams that the kernel took for a peer, and those that came from it, with their bytes, without outer
 * IP and UDP headers. One that came unsegmented from the same machine is one. What goes to a direct peer is
 * not among them.
 */
export interface PeerTraffic {
  readonly sentDatagrams: number;
  readonly sentBytes: number;
  readonly receivedDatagrams: number;
  readonly receivedBytes: number;
}

export interface Dataplane {
  /** The rungs in use: after the start-up tests, and less those given up since. */
  readonly offloads: Offloads;
  /** @throws SnapshotError; the state published before stays in force */
  publish(state: OverlayState): void;
  /**
   * Stops the use of the tunnel TAP: what it writes does not arrive. The host's firewall may drop it
   * on its way through, which the packet path cannot see; compare the counter `tunnelWrites` with
   * what leaves the host.
   */
  withdrawTunnelGso(reason: string): void;
  /** Sums over workers, by name: packets and bytes in and out, and one counter per drop reason. */
  counters(): Readonly<Record<string, number>>;
  /** Of each drop reason, packets from peers; the rest of `drop.…` was on its way out. */
  dropsIn(): Readonly<Partial<Record<DropName, number>>>;
  /** Of each peer of the state published last, by its name; it only grows while the peer is there. */
  peerTraffic(): ReadonlyMap<string, PeerTraffic>;
  /** Of what was published, and of what every worker decides by. Equal but for moments. */
  generations(): { readonly published: number; readonly installed: number };
  /**
   * How long the slowest worker has owed a sign of life, in milliseconds; 0: none does. When all have
   * answered the last question, a new one is put to them, for the next call to tell.
   */
  silentMs(): number;
  /**
   * Hands out what has happened to flows and packets since the last call (event-ring.ts): the record at
   * `at` of `ring` is good until `take` returns.
   * @returns  events that were never written, since the start: the rings were full
   */
  readEvents(take: (ring: Int32Array, at: number) => void): number;
  readonly captures: CaptureRings;
  stop(): Promise<void>;
}

/** Copies of packets, while somebody captures (capture-ring.ts). */
export interface CaptureRings {
  /** So many captures may run side by side, each in a slot of its own: 0, 1 ... */
  readonly slots: number;
  begin(slot: number, filter: CaptureFilter): void;
  end(slot: number): void;
  /** As readEvents; about `bytesMax` of each worker at most. The record may be for several slots. */
  read(bytesMax: number, take: (ring: Int32Array, at: number) => void): void;
  /** Packets for the slot that found a ring full, since the start. */
  lost(slot: number): number;
}
