/**
 * What `GET /metrics` tells: one table of metrics, from which the answer, docs/metrics.md and the tests of
 * dashboard and alerts come. All is read when somebody asks; counters lie in shared memory until then.
 * Labels are few and bounded: drop reasons, offloads, checks, peers; never pods.
 */
import { readdirSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import { Counter, Gauge, Registry } from 'prom-client';
import type { Offloads, PeerTraffic } from '../overlay/types.ts';
import type { Family } from '../wire/address.ts';
import { type DropName, dropNames } from '../wire/drop-reason.ts';
import { offloadName } from './config.ts';
import type { Check } from './health.ts';
import type { ObjectsStatus } from './messages.ts';

/** What a node knows of one way to another one, of late. */
export interface PeerProbe {
  /** The peer's node, by name. */
  readonly node: string;
  readonly way: 'underlay' | 'overlay';
  readonly family: Family;
  /** Null: nothing came back. */
  readonly roundTripMs: number | null;
  /** Of what was sent of late, the part that did not come back; 0..1. */
  readonly lossRatio: number;
}

/** The daemon at the moment of a question. */
export interface Reading {
  readonly node: string;
  readonly version: string;
  readonly startedAtMs: number;
  readonly forwarding: boolean;
  readonly checks: readonly Check[];
  /** Seconds; Infinity: a reservation; null: none is held. */
  readonly leaseLeftS: number | null;
  readonly peers: number;
  /** Of the peers that were asked (--probe-interval). */
  readonly probes: readonly PeerProbe[];
  /** Of each peer, by its node's name. */
  readonly peerTraffic: readonly (PeerTraffic & { readonly node: string })[];
  readonly pods: number;
  readonly objects: Pick<ObjectsStatus, 'policies' | 'services' | 'problems'> | null;
  readonly workers: number;
  /** 0: no flows are tracked. */
  readonly maxFlows: number;
  /** Null before the packet path runs, as what follows. */
  readonly offloads: Offloads | null;
  /** As `weft status` has them. */
  readonly counters: Readonly<Record<string, number>> | null;
  readonly dropsIn: Readonly<Partial<Record<DropName, number>>> | null;
  readonly generations: { readonly published: number; readonly installed: number } | null;
  readonly eventsLost: number;
}

interface Sample {
  readonly labels?: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Metric {
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly help: string;
  readonly labels: readonly string[];
  /** Empty: not known now, and left out. */
  readonly read: (reading: Reading) => readonly Sample[];
}

const one = (value: number | null | undefined): readonly Sample[] =>
  value === null || value === undefined ? [] : [{ value }];
const flag = (value: boolean): readonly Sample[] => one(value ? 1 : 0);

const counted =
  (name: string) =>
  ({ counters }: Reading): readonly Sample[] =>
    one(counters?.[name]);

/** One counter for each value of a label. */
const countedBy =
  (label: string, names: Readonly<Record<string, string>>) =>
  ({ counters }: Reading): readonly Sample[] =>
    Object.entries(names).flatMap(([text, name]) => {
      const value = counters?.[name];
      return value === undefined ? [] : [{ labels: { [label]: text }, value }];
    });

const DIRECTION = 'direction';
const eitherWay = (egress: string, ingress: string) => countedBy(DIRECTION, { egress, ingress });

/** Before a worker read them: the TUN's queue is on the way out, a socket's on the way in. */
const KERNEL_DROPS = { receiveQueueFull: 'ingress', tunQueueFull: 'egress' } as const;

function drops({ counters, dropsIn }: Reading): readonly Sample[] {
  if (counters === null) return [];
  const all = (reason: string): number => Math.max(counters[`drop.${reason}`] ?? 0, 0);
  const samples: Sample[] = [];
  for (const reason of dropNames) {
    if (reason === 'none') continue;
    const ingress = dropsIn?.[reason] ?? 0;
    samples.push(
      { labels: { reason, direction: 'egress' }, value: Math.max(all(reason) - ingress, 0) },
      { labels: { reason, direction: 'ingress' }, value: ingress },
    );
  }
  for (const [reason, direction] of Object.entries(KERNEL_DROPS)) {
    samples.push({ labels: { reason, direction }, value: all(reason) });
  }
  return samples;
}

function hostDrops({ counters }: Reading): readonly Sample[] {
  return Object.entries(counters ?? {}).flatMap(([name, value]) =>
    name.startsWith('host.') ? [{ labels: { reason: name.slice('host.'.length) }, value }] : [],
  );
}

const isOk = (name: string, checks: readonly Check[]): readonly Sample[] =>
  checks.filter((it) => it.name === name).flatMap((it) => flag(it.reason === null));

const PROBE_LABELS = ['peer', 'way', 'family'];
const probeLabels = ({ node, way, family }: PeerProbe) => ({
  peer: node,
  way,
  family: `ipv${family}`,
});

/** One series for each peer and direction. */
const perPeer =
  (egress: keyof PeerTraffic, ingress: keyof PeerTraffic) =>
  ({ peerTraffic }: Reading): readonly Sample[] =>
    peerTraffic.flatMap((it) => [
      { labels: { peer: it.node, [DIRECTION]: 'egress' }, value: it[egress] },
      { labels: { peer: it.node, [DIRECTION]: 'ingress' }, value: it[ingress] },
    ]);

export const METRICS: readonly Metric[] = [
  {
    name: 'weft_build_info',
    type: 'gauge',
    help: 'Always 1; the labels say which version runs on which node.',
    labels: ['version', 'node', 'nodejs'],
    read: ({ version, node }) => [
      { labels: { version, node, nodejs: process.versions.node }, value: 1 },
    ],
  },
  {
    name: 'weft_forwarding',
    type: 'gauge',
    help: '1 while packets of pods go to other nodes and come from them (GET /healthz).',
    labels: [],
    read: ({ forwarding }) => flag(forwarding),
  },
  {
    name: 'weft_ready',
    type: 'gauge',
    help: '1 while nothing stands in the way of the next change (GET /readyz).',
    labels: [],
    read: ({ checks }) => flag(checks.every((it) => it.reason === null)),
  },
  {
    name: 'weft_check_ok',
    type: 'gauge',
    help: '1 while a check of GET /readyz?verbose passes.',
    labels: ['check'],
    read: ({ checks }) =>
      checks.map(({ name, reason }) => ({
        labels: { check: name },
        value: reason === null ? 1 : 0,
      })),
  },
  {
    name: 'weft_store_up',
    type: 'gauge',
    help: '1 while etcd answers.',
    labels: [],
    read: ({ checks }) => isOk('store', checks),
  },
  {
    name: 'weft_lease_held',
    type: 'gauge',
    help: "1 while this node's subnet is its own.",
    labels: [],
    read: ({ leaseLeftS }) => flag(leaseLeftS !== null),
  },
  {
    name: 'weft_lease_left_seconds',
    type: 'gauge',
    help: "Until this node's subnet may be another's unless the lease is renewed; +Inf: a reservation.",
    labels: [],
    read: ({ leaseLeftS }) => one(leaseLeftS),
  },
  {
    name: 'weft_peers',
    type: 'gauge',
    help: 'Other nodes that hold a subnet.',
    labels: [],
    read: ({ peers }) => one(peers),
  },
  {
    name: 'weft_peer_round_trip_seconds',
    type: 'gauge',
    help: 'To a peer and back, outside of the tunnel (underlay) and through it (overlay): mean of the last echoes.',
    labels: PROBE_LABELS,
    read: ({ probes }) =>
      probes.flatMap((it) =>
        it.roundTripMs === null ? [] : [{ labels: probeLabels(it), value: it.roundTripMs / 1000 }],
      ),
  },
  {
    name: 'weft_peer_loss_ratio',
    type: 'gauge',
    help: 'Of the last echoes sent to a peer, the part that was not answered.',
    labels: PROBE_LABELS,
    read: ({ probes }) => probes.map((it) => ({ labels: probeLabels(it), value: it.lossRatio })),
  },
  {
    name: 'weft_peer_datagrams_total',
    type: 'counter',
    help: 'VXLAN datagrams that the kernel took for a peer (egress), and those that came from it (ingress).',
    labels: ['peer', DIRECTION],
    read: perPeer('sentDatagrams', 'receivedDatagrams'),
  },
  {
    name: 'weft_peer_bytes_total',
    type: 'counter',
    help: 'Their bytes, without outer IP and UDP headers.',
    labels: ['peer', DIRECTION],
    read: perPeer('sentBytes', 'receivedBytes'),
  },
  {
    name: 'weft_pods',
    type: 'gauge',
    help: 'Interfaces that pods have on this node.',
    labels: [],
    read: ({ pods }) => one(pods),
  },
  {
    name: 'weft_policies',
    type: 'gauge',
    help: 'NetworkPolicies and ClusterNetworkPolicies that are known.',
    labels: [],
    read: ({ objects }) => one(objects?.policies),
  },
  {
    name: 'weft_services',
    type: 'gauge',
    help: 'Services that are known.',
    labels: [],
    read: ({ objects }) => one(objects?.services),
  },
  {
    name: 'weft_object_problems',
    type: 'gauge',
    help: 'What is wrong with objects, a line each in `weft status`.',
    labels: [],
    read: ({ objects }) => one(objects?.problems.length),
  },
  {
    name: 'weft_workers',
    type: 'gauge',
    help: 'Packet threads.',
    labels: [],
    read: ({ workers }) => one(workers),
  },
  {
    name: 'weft_offload_in_use',
    type: 'gauge',
    help: 'Whether a rung of the ladder of offloads is in use (docs/packet-path.md).',
    labels: ['offload'],
    read: ({ offloads }) =>
      Object.entries(offloads ?? {}).map(([rung, inUse]) => ({
        labels: { offload: offloadName(rung as keyof Offloads) },
        value: inUse ? 1 : 0,
      })),
  },
  {
    name: 'weft_snapshot_generation',
    type: 'gauge',
    help: 'State that was published to the packet path, and state that every worker decides by.',
    labels: ['state'],
    read: ({ generations }) =>
      Object.entries(generations ?? {}).map(([state, value]) => ({ labels: { state }, value })),
  },
  {
    name: 'weft_tun_packets_total',
    type: 'counter',
    help: 'Packets read from the TUN, large ones as one (egress); inner packets from peers delivered to it (ingress).',
    labels: [DIRECTION],
    read: eitherWay('tunPackets', 'tunDelivered'),
  },
  {
    name: 'weft_tun_bytes_total',
    type: 'counter',
    help: 'Their bytes.',
    labels: [DIRECTION],
    read: eitherWay('tunBytes', 'tunDeliveredBytes'),
  },
  {
    name: 'weft_tun_writes_total',
    type: 'counter',
    help: 'System calls that delivered packets from peers to the TUN: merged segments share one.',
    labels: [],
    read: counted('tunWrites'),
  },
  {
    name: 'weft_egress_accepted_packets_total',
    type: 'counter',
    help: 'Of the packets read from the TUN, those sent on their way.',
    labels: [],
    read: counted('egressAccepted'),
  },
  {
    name: 'weft_delivered_packets_total',
    type: 'counter',
    help: 'Of these, given back to this host: for a pod or the node itself (local), or to be routed on (host).',
    labels: ['to'],
    read: countedBy('to', { local: 'localDelivered', host: 'hostDelivered' }),
  },
  {
    name: 'weft_delivered_bytes_total',
    type: 'counter',
    help: 'Their bytes.',
    labels: ['to'],
    read: countedBy('to', { local: 'localDeliveredBytes', host: 'hostDeliveredBytes' }),
  },
  {
    name: 'weft_underlay_datagrams_total',
    type: 'counter',
    help: 'VXLAN datagrams that the kernel took (egress) or handed over (ingress).',
    labels: [DIRECTION],
    read: eitherWay('udpSentDatagrams', 'udpDatagrams'),
  },
  {
    name: 'weft_underlay_bytes_total',
    type: 'counter',
    help: 'Their bytes, without outer IP and UDP headers.',
    labels: [DIRECTION],
    read: eitherWay('udpSentBytes', 'udpBytes'),
  },
  {
    name: 'weft_underlay_calls_total',
    type: 'counter',
    help: 'System calls that sent or received datagrams; datagrams by calls is the size of a batch.',
    labels: [DIRECTION],
    read: eitherWay('udpSends', 'udpReceives'),
  },
  {
    name: 'weft_tunnel_writes_total',
    type: 'counter',
    help: 'Large packets that left whole by the tunnel TAP; their datagrams are sent without a call of their own.',
    labels: [],
    read: counted('tunnelWrites'),
  },
  {
    name: 'weft_drops_total',
    type: 'counter',
    help: 'Packets that went nowhere, by reason (docs/drop-reasons.md); ingress: from a peer, egress: all others.',
    labels: ['reason', DIRECTION],
    read: drops,
  },
  {
    name: 'weft_host_drops_total',
    type: 'counter',
    help: "Packets that this host's nft table refused, by counter, since it was made.",
    labels: ['reason'],
    read: hostDrops,
  },
  {
    name: 'weft_policy_verdicts_total',
    type: 'counter',
    help: 'allowed: flows that began. denied_egress, denied_ingress: packets that policy refused, as none of their flows is kept.',
    labels: ['verdict'],
    read: (reading) =>
      reading.maxFlows === 0
        ? []
        : countedBy('verdict', {
            allowed: 'flows.new',
            denied_egress: 'drop.policyEgress',
            denied_ingress: 'drop.policyIngress',
          })(reading),
  },
  {
    name: 'weft_flows',
    type: 'gauge',
    help: 'Flows in the table, those included whose time is over and that were not swept yet.',
    labels: [],
    read: counted('flows'),
  },
  {
    name: 'weft_flows_max',
    type: 'gauge',
    help: 'Flows that the table has room for (--max-flows).',
    labels: [],
    read: ({ maxFlows }) => one(maxFlows),
  },
  {
    name: 'weft_flows_new_total',
    type: 'counter',
    help: 'Flows that began.',
    labels: [],
    read: counted('flows.new'),
  },
  {
    name: 'weft_flows_evicted_total',
    type: 'counter',
    help: 'Flows that were given up because the table was full.',
    labels: [],
    read: counted('flows.evicted'),
  },
  {
    name: 'weft_flows_expired_total',
    type: 'counter',
    help: 'Flows whose time was over.',
    labels: [],
    read: counted('flows.expired'),
  },
  {
    name: 'weft_events_lost_total',
    type: 'counter',
    help: 'Flows and drops that `weft flows` cannot show: they came faster than they were read.',
    labels: [],
    read: ({ eventsLost }) => one(eventsLost),
  },
  {
    name: 'weft_icmp_errors_total',
    type: 'counter',
    help: 'ICMP errors returned to senders.',
    labels: [],
    read: counted('icmpErrors'),
  },
  {
    name: 'weft_wakeups_total',
    type: 'counter',
    help: 'Turns of the packet loops.',
    labels: [],
    read: counted('wakeups'),
  },
  {
    name: 'weft_main_thread_active_seconds_total',
    type: 'counter',
    help: 'Time in which the main thread, which carries no packets, did not wait; a rate near 1 means it is stuck.',
    labels: [],
    read: () => one(performance.eventLoopUtilization().active / 1000),
  },
  {
    name: 'process_cpu_seconds_total',
    type: 'counter',
    help: 'Processor time of the daemon, all threads.',
    labels: [],
    read: () => {
      const { user, system } = process.cpuUsage();
      return one((user + system) / 1e6);
    },
  },
  {
    name: 'process_resident_memory_bytes',
    type: 'gauge',
    help: 'Memory of the daemon that is in RAM.',
    labels: [],
    read: () => one(process.memoryUsage.rss()),
  },
  {
    name: 'process_open_fds',
    type: 'gauge',
    help: 'File descriptors that the daemon has open.',
    labels: [],
    read: () => one(readdirSync('/proc/self/fd').length),
  },
  {
    name: 'process_start_time_seconds',
    type: 'gauge',
    help: 'When the daemon began, seconds since 1970.',
    labels: [],
    read: ({ startedAtMs }) => one(startedAtMs / 1000),
  },
];

/** In Prometheus's text format. */
export async function formatMetrics(
  reading: Reading,
  metrics: readonly Metric[] = METRICS,
): Promise<{ readonly text: string; readonly type: string }> {
  const registry = new Registry();
  for (const { name, type, help, labels, read } of metrics) {
    const samples = read(reading);
    // Without labels an empty one would say 0.
    if (samples.length === 0) continue;
    const options = { name, help, labelNames: [...labels], registers: [registry] };
    if (type === 'counter') {
      const counter = new Counter(options);
      for (const { labels: of = {}, value } of samples) counter.inc(of, value);
    } else {
      const gauge = new Gauge(options);
      for (const { labels: of = {}, value } of samples) gauge.set(of, value);
    }
  }
  return { text: await registry.metrics(), type: registry.contentType };
}
