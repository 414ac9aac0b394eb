/** How this node is, as those who watch it are told: by `weft status`, health checks, metrics and other nodes. */
import type { LeaseKeeper } from '../ipam/lease-keeper.ts';
import type { NodeLease } from '../ipam/types.ts';
import { bootTimeMs } from '../linux/clock.ts';
import { readTable } from '../linux/nft.ts';
import type { Dataplane } from '../overlay/types.ts';
import type { ClusterNode, NodeState } from './cluster-node.ts';
import type { Config } from './config.ts';
import { diagnose } from './diagnose.ts';
import type { EtcdChild } from './etcd-child.ts';
import { type HealthSubject, type Readiness, checksOf, reasonsOf } from './health.ts';
import type { HostPasses } from './host-passes.ts';
import { type StatusMessage, addressText, cidrText, leaseMessage } from './messages.ts';
import type { Reading } from './metrics.ts';
import type { NodeObjects } from './node-objects.ts';
import type { Observation } from './observe.ts';
import type { Fixed } from './overlay-state.ts';
import type { PeerProbes } from './peer-probes.ts';
import type { Pods } from './pods.ts';
import { HOST_COUNTERS, NFT_FAMILY, NFT_TABLE } from './ruleset.ts';
import type { StoreOutage } from './store-outage.ts';
import type { Underlay } from './underlay.ts';
import { VERSION } from './version.ts';

/** What the daemon is made of at this moment; null: not there yet. */
export interface NodeParts {
  /** What the start waits for. */
  readonly stage: string;
  readonly etcd: EtcdChild | null;
  readonly fixed: Fixed | null;
  readonly keeper: LeaseKeeper | null;
  readonly dataplane: Dataplane | null;
  readonly peers: readonly NodeLease[] | null;
  readonly pods: Pods | null;
  readonly isHostApplied: boolean;
  readonly isDirectRouting: boolean;
}

export interface NodeStatusOptions {
  readonly config: Config;
  readonly underlay: Underlay;
  readonly parts: () => NodeParts;
  readonly passes: HostPasses;
  readonly objects: NodeObjects;
  readonly outage: StoreOutage;
  readonly observation: Observation;
  readonly probes: PeerProbes;
  readonly cluster: () => ClusterNode;
  /** Rungs that were wanted and do not work here, and why. */
  readonly offloadsGivenUp: ReadonlyMap<string, string>;
}

export class NodeStatus {
  readonly #options: NodeStatusOptions;
  readonly #startedAt = new Date().toISOString();

  constructor(options: NodeStatusOptions) {
    this.#options = options;
  }

  /** The lease is ours, the others are known, and packet path and host know it. */
  get isForwarding(): boolean {
    const { isHostApplied, peers, keeper } = this.#options.parts();
    return (
      isHostApplied &&
      peers !== null &&
      keeper?.state.kind === 'held' &&
      this.#options.objects.areKnown
    );
  }

  /** Why the node is not ready; none: it is. */
  get reasons(): readonly string[] {
    return reasonsOf(this.#readiness());
  }

  /** Seconds that our lease may still be used; null: there is none, or it has no end. */
  get endsInS(): number | null {
    const state = this.#options.parts().keeper?.state;
    if (state?.kind !== 'held' || !Number.isFinite(state.deadlineMs)) return null;
    return Math.round((state.deadlineMs - bootTimeMs()) / 1000);
  }

  /** For those who watch the node. */
  healthSubject(): HealthSubject {
    return {
      forwarding: () => this.isForwarding,
      readiness: () => this.#readiness(),
      objects: () => this.#options.objects.status(),
      dataplane: () => this.#options.parts().dataplane,
      reading: () => this.#reading(),
    };
  }

  /** For other nodes, too. */
  nodeState(): NodeState {
    const { keeper, pods } = this.#options.parts();
    const state = keeper?.state;
    const { reasons } = this;
    return {
      node: this.#options.config.nodeName,
      version: VERSION,
      startedAt: this.#startedAt,
      forwarding: this.isForwarding,
      ready: reasons.length === 0,
      reasons,
      lease: state?.kind === 'held' ? leaseMessage(state.lease, true, this.endsInS) : null,
      pods: pods?.attachments.length ?? 0,
    };
  }

  async message(): Promise<StatusMessage> {
    const { config, underlay, passes, outage, offloadsGivenUp } = this.#options;
    const { etcd, fixed, peers, dataplane, isHostApplied, isDirectRouting } = this.#options.parts();
    const { lease, pods, ...state } = this.nodeState();
    const table = isHostApplied ? await readTable(NFT_FAMILY, NFT_TABLE) : null;
    const refused = Object.fromEntries(
      Object.entries(HOST_COUNTERS).map(([name, counter]) => [name, table?.counters[counter] ?? 0]),
    );
    const status = {
      ...state,
      pid: process.pid,
      etcd: {
        endpoints: etcd === null ? config.etcdEndpoints : [etcd.endpoint],
        own: etcd !== null,
        unreachable: outage.current,
      },
      workers: config.workers,
      host: { applied: isHostApplied, problem: passes.problem?.message ?? null },
      underlay: {
        iface: underlay.iface,
        mtuBytes: underlay.mtuBytes,
        publicIp: addressText(fixed?.addresses.publicIp4 ?? null),
        publicIpv6: addressText(fixed?.addresses.publicIp6 ?? null),
      },
      overlay: fixed && {
        tunName: config.tunName,
        mtuBytes: fixed.mtuBytes,
        vni: fixed.network.vni,
        port: fixed.network.port,
        network: cidrText(fixed.network.ipv4?.network),
        ipv6Network: cidrText(fixed.network.ipv6?.network),
        directRouting: isDirectRouting,
      },
      lease,
      peers: (peers ?? []).map((it) => leaseMessage(it, false)),
      probes: this.#options.probes.findings(),
      pods,
      objects: this.#options.objects.status(),
      offloads: dataplane === null ? null : { ...dataplane.offloads },
      offloadsGivenUp: Object.fromEntries(offloadsGivenUp),
      counters: { ...dataplane?.counters(), ...refused },
      dropsPerSecond: this.#options.cluster().dropsPerSecond,
    };
    return { ...status, findings: diagnose(status) };
  }

  #readiness(): Readiness {
    const { passes, objects, outage } = this.#options;
    const { stage, keeper, dataplane, peers, fixed, isHostApplied } = this.#options.parts();
    const state = keeper?.state;
    let lease = state?.kind === 'held' ? null : 'no subnet leased';
    if (state?.kind === 'lost') {
      lease = `lease ${state.lease.key} is lost: ${state.reason.message}`;
    }
    return {
      packetPath: dataplane === null ? stage : null,
      lease,
      arePeersKnown: peers !== null,
      isHostApplied,
      hostProblem: passes.problem?.message ?? null,
      areObjectsKnown: objects.areKnown,
      objectFailure: objects.failure,
      store: outage.current?.message ?? null,
      firstAnswer: fixed === null ? stage : null,
    };
  }

  #reading(): Reading {
    const { config, observation, probes, objects } = this.#options;
    const { dataplane, keeper, peers, pods } = this.#options.parts();
    const state = keeper?.state;
    const nodeOf = observation.nodeNames();
    return {
      node: config.nodeName,
      version: VERSION,
      startedAtMs: Date.parse(this.#startedAt),
      forwarding: this.isForwarding,
      checks: checksOf(this.#readiness()),
      leaseLeftS: state?.kind === 'held' ? (state.deadlineMs - bootTimeMs()) / 1000 : null,
      peers: peers?.length ?? 0,
      probes: probes.readings(),
      peerTraffic: Array.from(dataplane?.peerTraffic() ?? [], ([key, traffic]) => ({
        node: nodeOf(key),
        ...traffic,
      })),
      pods: pods?.attachments.length ?? 0,
      objects: objects.status(),
      workers: config.workers,
      maxFlows: config.maxFlows,
      offloads: dataplane?.offloads ?? null,
      counters: dataplane?.counters() ?? null,
      dropsIn: dataplane?.dropsIn() ?? null,
      generations: dataplane?.generations() ?? null,
      eventsLost: observation.eventsLost,
    };
  }
}
