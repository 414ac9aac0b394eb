/** What the side-by-side benchmark measures, and with what. */
import { readFile } from 'node:fs/promises';
import type { LabPod } from '../test/lab/lab.ts';
import { blastUdp, bulkTcp, pingPong } from '../test/lab/traffic/traffic.ts';
import { type CniFigures, loadCni } from './cni.ts';
import { type Mode, MODES, type Setting, type Variant } from './setting.ts';

export interface Sample {
  /** In the measure's unit. */
  readonly value: number;
  /** Busy seconds of all processors for each gigabit received; bulk only. */
  readonly cpuSecondsPerGb?: number;
  /** 99th percentile, ping-pong only. */
  readonly p99?: number;
  /** Of pods added and deleted only. */
  readonly cni?: CniFigures;
}

/** What stands for 1: kernel VXLAN between nodes, a routed veth pair within one; null: a limit in ms. */
export type Baseline = Extract<Variant, 'kernel' | 'veth'> | null;

export interface Measure {
  /** Unique: `bulkTcp.offload.8.reverse`. */
  readonly name: string;
  readonly label: string;
  readonly mode: Mode;
  readonly unit: 'Gb/s' | 'k packets/s' | 'us' | 'ms';
  readonly better: 'more' | 'less';
  readonly kind: 'bulkTcp' | 'udp' | 'pingPong' | 'cni';
  readonly baseline: Baseline;
  readonly take: (setting: Setting, seconds: number) => Promise<Sample>;
}

/** proc(5): user, nice, system, irq and softirq of all processors, in ticks of 10 ms. */
export async function busySeconds(): Promise<number> {
  const line = (await readFile('/proc/stat', 'utf8')).split('\n', 1)[0]!;
  const [user, nice, system, , , irq, softirq] = line.split(/\s+/).slice(1).map(Number);
  return (user! + nice! + system! + irq! + softirq!) / 100;
}

async function takeBulk(
  from: LabPod,
  to: LabPod,
  options: { readonly seconds: number; readonly streams: number; readonly reverse?: boolean },
): Promise<Sample> {
  const before = await busySeconds();
  const seconds = Math.max(1, Math.round(options.seconds));
  const result = await bulkTcp(from, to, to.address4!, { ...options, seconds });
  const busy = (await busySeconds()) - before;
  return {
    value: result.bitsPerSecond / 1e9,
    cpuSecondsPerGb: busy / ((result.bytes * 8) / 1e9),
  };
}

const streamsText = (streams: number): string => `TCP ${streams} stream${streams > 1 ? 's' : ''}`;

const bulk = (mode: Mode, streams: number, reverse: boolean): Measure => ({
  name: `bulkTcp.${mode}.${streams}.${reverse ? 'reverse' : 'forward'}`,
  label: `${streamsText(streams)} ${reverse ? '<-' : '->'}`,
  mode,
  unit: 'Gb/s',
  better: 'more',
  kind: 'bulkTcp',
  baseline: 'kernel',
  take: ({ client, server }, seconds) => takeBulk(client, server, { seconds, streams, reverse }),
});

/** Between two pods of one node. */
const localBulk = (streams: number): Measure => ({
  name: `localTcp.${streams}`,
  label: `local ${streamsText(streams)}`,
  mode: 'offload',
  unit: 'Gb/s',
  better: 'more',
  kind: 'bulkTcp',
  baseline: 'veth',
  take: ({ client, neighbour }, seconds) => takeBulk(client, neighbour, { seconds, streams }),
});

async function takeDatagrams(
  from: LabPod,
  to: LabPod,
  options: { readonly bytes: number; readonly seconds: number },
): Promise<Sample> {
  const { packetsPerSecond } = await blastUdp(from, to, to.address4!, options);
  return { value: packetsPerSecond / 1000 };
}

const datagrams = (bytes: number): Measure => ({
  name: `udp${bytes}`,
  label: `UDP ${bytes} B received`,
  mode: 'offload',
  unit: 'k packets/s',
  better: 'more',
  kind: 'udp',
  baseline: 'kernel',
  take: ({ client, server }, seconds) => takeDatagrams(client, server, { bytes, seconds }),
});

const localDatagrams: Measure = {
  name: 'localUdp64',
  label: 'local UDP 64 B received',
  mode: 'offload',
  unit: 'k packets/s',
  better: 'more',
  kind: 'udp',
  baseline: 'veth',
  take: ({ client, neighbour }, seconds) =>
    takeDatagrams(client, neighbour, { bytes: 64, seconds }),
};

const roundTrip: Measure = {
  name: 'pingPong',
  label: 'TCP round trip 64 B p50',
  mode: 'offload',
  unit: 'us',
  better: 'less',
  kind: 'pingPong',
  baseline: 'kernel',
  async take({ client, server }, seconds) {
    const { p50Us, p99Us } = await pingPong(client, server.address4!, { bytes: 64, seconds });
    return { value: p50Us, p99: p99Us };
  },
};

/** More would not fit into a node's subnet of 256 addresses. */
const MOST_ADDS = 240;

/** Pods added by so many callers at once, and then deleted. */
const addPods = (workers: number, addsPerSecond: number): Measure => ({
  name: `cniAdd.${workers === 1 ? 'alone' : workers}`,
  label: workers === 1 ? 'one at a time' : `${workers} at once`,
  mode: 'offload',
  unit: 'ms',
  better: 'less',
  kind: 'cni',
  baseline: null,
  async take(setting, seconds) {
    const { node, daemonPid } = setting.weftNode;
    const adds = Math.min(Math.max(workers, Math.round(addsPerSecond * seconds)), MOST_ADDS);
    const netns = await setting.spareNamespaces(adds);
    const cni = await loadCni(node, { workers, daemonPid, netns });
    return { value: cni.p50Ms, cni };
  },
});

/** What the mode does not touch, or would only repeat. */
const ONCE: readonly Measure[] = [
  datagrams(64),
  datagrams(1400),
  roundTrip,
  localBulk(1),
  localBulk(8),
  localDatagrams,
  addPods(10, 50),
  addPods(1, 10),
];

/** Ordered by mode, so that the wire is changed once. */
export const MEASURES: readonly Measure[] = MODES.flatMap((mode) => [
  bulk(mode, 1, false),
  bulk(mode, 1, true),
  bulk(mode, 8, false),
  bulk(mode, 8, true),
  ...(mode === 'offload' ? ONCE : []),
]);

/** Both stream counts and both ways, in half the runs; of pods' own paths the shortest. */
export const QUICK: ReadonlySet<string> = new Set([
  ...MODES.flatMap((mode) => [`bulkTcp.${mode}.1.forward`, `bulkTcp.${mode}.8.reverse`]),
  'udp64',
  'udp1400',
  'pingPong',
  'localTcp.1',
  'cniAdd.10',
  'cniAdd.alone',
]);
