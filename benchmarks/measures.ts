/** What the side-by-side benchmark measures, and with what. */
import { readFile } from 'node:fs/promises';
import { blastUdp, bulkTcp, pingPong } from '../test/lab/traffic/traffic.ts';
import { type Mode, MODES, type Setting } from './setting.ts';

export interface Sample {
  /** In the measure's unit. */
  readonly value: number;
  /** Busy seconds of all processors for each gigabit received; bulk only. */
  readonly cpuSecondsPerGb?: number;
  /** 99th percentile, ping-pong only. */
  readonly p99?: number;
}

export interface Measure {
  /** Unique: `bulkTcp.offload.8.reverse`. */
  readonly name: string;
  readonly label: string;
  readonly mode: Mode;
  readonly unit: 'Gb/s' | 'k packets/s' | 'us';
  readonly better: 'more' | 'less';
  readonly kind: 'bulkTcp' | 'udp' | 'pingPong';
  readonly take: (setting: Setting, seconds: number) => Promise<Sample>;
}

/** proc(5): user, nice, system, irq and softirq of all processors, in ticks of 10 ms. */
async function busySeconds(): Promise<number> {
  const line = (await readFile('/proc/stat', 'utf8')).split('\n', 1)[0]!;
  const [user, nice, system, , , irq, softirq] = line.split(/\s+/).slice(1).map(Number);
  return (user! + nice! + system! + irq! + softirq!) / 100;
}

function bulk(mode: Mode, streams: number, reverse: boolean): Measure {
  const way = reverse ? 'reverse' : 'forward';
  return {
    name: `bulkTcp.${mode}.${streams}.${way}`,
    label: `TCP ${streams} stream${streams > 1 ? 's' : ''} ${reverse ? '<-' : '->'}`,
    mode,
    unit: 'Gb/s',
    better: 'more',
    kind: 'bulkTcp',
    async take(setting, seconds) {
      const { client, server } = setting;
      const before = await busySeconds();
      const result = await bulkTcp(client, server, server.address4!, {
        seconds: Math.max(1, Math.round(seconds)),
        streams,
        reverse,
      });
      const busy = (await busySeconds()) - before;
      return {
        value: result.bitsPerSecond / 1e9,
        cpuSecondsPerGb: busy / ((result.bytes * 8) / 1e9),
      };
    },
  };
}

const datagrams = (bytes: number): Measure => ({
  name: `udp${bytes}`,
  label: `UDP ${bytes} B received`,
  mode: 'offload',
  unit: 'k packets/s',
  better: 'more',
  kind: 'udp',
  async take({ client, server }, seconds) {
    const result = await blastUdp(client, server, server.address4!, { bytes, seconds });
    return { value: result.packetsPerSecond / 1000 };
  },
});

const roundTrip: Measure = {
  name: 'pingPong',
  label: 'TCP round trip 64 B p50',
  mode: 'offload',
  unit: 'us',
  better: 'less',
  kind: 'pingPong',
  async take({ client, server }, seconds) {
    const { p50Us, p99Us } = await pingPong(client, server.address4!, { bytes: 64, seconds });
    return { value: p50Us, p99: p99Us };
  },
};

/** Ordered by mode, so that the wire is changed once. */
export const MEASURES: readonly Measure[] = MODES.flatMap((mode) => [
  bulk(mode, 1, false),
  bulk(mode, 1, true),
  bulk(mode, 8, false),
  bulk(mode, 8, true),
  ...(mode === 'offload' ? [datagrams(64), datagrams(1400), roundTrip] : []),
]);

/** Both stream counts and both ways, in half the runs. */
export const QUICK: ReadonlySet<string> = new Set([
  ...MODES.flatMap((mode) => [`bulkTcp.${mode}.1.forward`, `bulkTcp.${mode}.8.reverse`]),
  'udp64',
  'udp1400',
  'pingPong',
]);
