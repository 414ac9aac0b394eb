/** Traffic between hosts of the lab, measured. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Running, collect } from '../../../linux/program.ts';
import type { LabHost } from '../lab.ts';
import type { Received } from './udp-stream.ts';

const program = (name: string): string[] => [process.execPath, join(import.meta.dirname, name)];

export interface PingResult {
  readonly sent: number;
  readonly received: number;
  /** Null: nothing came back. */
  readonly rttMs: number | null;
}

export interface PingOptions {
  /** 1 unless given. */
  readonly count?: number;
  /** ICMP payload, bytes; 56 unless given. The IP packet has 28 (IPv4) or 48 (IPv6) more. */
  readonly bytes?: number;
  /** Forbid fragmentation on the way and here. */
  readonly dontFragment?: boolean;
  /** Source address, one of the host's own. */
  readonly source?: string;
}

/** @returns what came back within a second each; a loss is a result, not an error */
export async function ping(
  from: LabHost,
  to: string,
  options: PingOptions = {},
): Promise<PingResult> {
  const { count = 1, bytes = 56, dontFragment = false, source } = options;
  const output = await collect(
    [
      ...'ping -n -q -W 1 -i 0.05'.split(' '),
      `-c${count}`,
      `-s${bytes}`,
      ...(dontFragment ? ['-M', 'do'] : []),
      ...(source === undefined ? [] : ['-I', source]),
      to,
    ],
    { netns: from.netns },
  );
  const counts = /(\d+) packets transmitted, (\d+) received/.exec(output.stdout);
  // A datagram larger than the local MTU is refused before it is sent.
  if (counts === null && !/message too long/i.test(output.stderr)) {
    throw new Error(
      `ping ${to} from ${from.name}: ${output.stderr.trim() || output.stdout.trim()}`,
    );
  }
  const rtt = /rtt min\/avg\/max\/mdev = [\d.]+\/([\d.]+)\//.exec(output.stdout);
  return {
    sent: Number(counts?.[1] ?? 0),
    received: Number(counts?.[2] ?? 0),
    rttMs: rtt === null ? null : Number(rtt[1]),
  };
}

const IPERF_PORT = 5201;

export interface BulkOptions {
  /** Whole seconds; 1 unless given. */
  readonly seconds?: number;
  /** Ends after so many bytes in all instead, such as '32M'. */
  readonly amount?: string;
  readonly streams?: number;
  /** The server sends. */
  readonly reverse?: boolean;
}

export interface BulkResult {
  /** What the receiver got. */
  readonly bitsPerSecond: number;
  readonly bytes: number;
  readonly retransmits: number;
}

/**
 * Bulk TCP, to a server of its own: iperf3's listens anew after each test and resets who comes between.
 * @throws Error with iperf3's words when it fails
 */
export async function bulkTcp(
  from: LabHost,
  to: LabHost,
  address: string,
  options: BulkOptions = {},
): Promise<BulkResult> {
  const { seconds = 1, amount, streams = 1, reverse = false } = options;
  await using _server = await to.start(['iperf3', '-s', '-1', `-p${IPERF_PORT}`, '--forceflush'], {
    ready: { line: /Server listening/ },
  });
  const output = await collect(
    [
      ...'iperf3 -J --connect-timeout 5000'.split(' '),
      `-p${IPERF_PORT}`,
      amount === undefined ? `-t${seconds}` : `-n${amount}`,
      `-P${streams}`,
      '-c',
      address,
      ...(reverse ? ['-R'] : []),
    ],
    { netns: from.netns, signal: AbortSignal.timeout((seconds + 20) * 1000) },
  );
  const answer = JSON.parse(output.stdout) as {
    error?: string;
    end?: {
      sum_sent: { retransmits?: number };
      sum_received: { bits_per_second: number; bytes: number };
    };
  };
  if (answer.error !== undefined || answer.end?.sum_received === undefined) {
    throw new Error(`iperf3 from ${from.name} to ${address}: ${answer.error ?? output.stderr}`);
  }
  return {
    bitsPerSecond: answer.end.sum_received.bits_per_second,
    bytes: answer.end.sum_received.bytes,
    retransmits: answer.end.sum_sent.retransmits ?? 0,
  };
}

const SINK_PORT = 9000;
const ECHO_PORT = 9001;

export interface DatagramResult {
  readonly packets: number;
  readonly packetsPerSecond: number;
}

/** One thread sends as fast as it can; counted is what the other's one thread receives. */
export async function blastUdp(
  from: LabHost,
  to: LabHost,
  address: string,
  options: { readonly bytes: number; readonly seconds: number },
): Promise<DatagramResult> {
  const sink = await to.start(
    [...program('udp-sink.ts'), address, `${SINK_PORT}`, `${options.seconds}`],
    { ready: { line: /^ready$/ } },
  );
  await using blast = await from.start([
    ...program('udp-blast.ts'),
    address,
    `${SINK_PORT}`,
    `${options.bytes}`,
  ]);
  await sink.exited;
  await blast.stop('SIGKILL');
  const result = lastLine(sink) as { packets: number; seconds: number };
  const { packets, seconds } = result;
  return { packets, packetsPerSecond: packets === 0 ? 0 : packets / seconds };
}

/**
 * Ping-pong's two ends each have a processor of their own, as on two machines: on one processor the
 * kernel would hand a message over without waking anything, which no network can do.
 */
const pinned = (processor: number): string[] =>
  availableParallelism() < 2 ? [] : ['taskset', '-c', `${processor}`];

/** Sends back what comes, for any number of ping-pongs. */
export const startEcho = (host: LabHost, address: string): Promise<Running> =>
  host.start([...pinned(1), ...program('tcp-echo.ts'), address, `${ECHO_PORT}`], {
    ready: { line: /^ready$/ },
  });

export interface PingPongResult {
  readonly rounds: number;
  /** Of the whole round trip, microseconds. */
  readonly p50Us: number;
  readonly p99Us: number;
}

/** TCP ping-pong of `bytes` with a host that has an echo. */
export async function pingPong(
  from: LabHost,
  address: string,
  options: { readonly bytes?: number; readonly seconds: number },
): Promise<PingPongResult> {
  const { bytes = 64, seconds } = options;
  const text = await from.run(
    [...pinned(0), ...program('tcp-ping.ts'), address, `${ECHO_PORT}`, `${bytes}`, `${seconds}`],
    { signal: AbortSignal.timeout((seconds + 20) * 1000) },
  );
  return JSON.parse(text) as PingPongResult;
}

function lastLine(running: Running): unknown {
  const lines = running.output().trim().split('\n');
  try {
    return JSON.parse(lines.at(-1) ?? '');
  } catch (cause) {
    throw new Error(`a traffic program ended without its result: ${lines.join(' / ')}`, { cause });
  }
}

export interface StreamResult {
  readonly sent: number;
  readonly lost: number;
  /** The most that were lost in a row. */
  readonly longestGap: number;
}

/** Numbered datagrams at a steady rate, for whole seconds. */
export async function streamUdp(
  from: LabHost,
  to: LabHost,
  address: string,
  options: { readonly port: number; readonly packetsPerSecond: number; readonly seconds: number },
): Promise<StreamResult> {
  const { port, packetsPerSecond, seconds } = options;
  const receiver = await to.start([...program('udp-stream.ts'), 'receive', address, `${port}`], {
    ready: { line: /^ready$/ },
  });
  const words = ['send', address, `${port}`, `${packetsPerSecond}`, `${seconds}`];
  const { sent } = JSON.parse(await from.run([...program('udp-stream.ts'), ...words])) as {
    sent: number;
  };
  // It waits for a first one for ever.
  const ended = await Promise.race([receiver.exited, sleep(5000, 'late' as const)]);
  if (ended === 'late') {
    await receiver.stop('SIGKILL');
    return { sent, lost: sent, longestGap: sent };
  }
  const { received, lastNumber, longestGap } = lastLine(receiver) as Received;
  const tail = sent - 1 - lastNumber;
  return { sent, lost: sent - received, longestGap: Math.max(longestGap, tail) };
}
