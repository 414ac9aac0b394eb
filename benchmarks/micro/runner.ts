/**
 * Microbenchmarks of the packet path's modules. A file `x.bench.ts` beside this one declares some:
 *
 *     bench('checksum.1400', { bytes: 1400, setup: () => …, run: (state, n) => { … } });
 *
 * Each runs in a thread of its own: the compiler then sees what it sees in a worker of the daemon, where
 * a module is created once or twice and not by all its neighbours. They take turns, one round each, so
 * that a drift of the machine falls on all alike.
 */
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';

export interface Benchmark<State> {
  /** Packets or datagrams that one call carries; 1. */
  readonly packets?: number;
  /** Bytes that one call carries, where a rate of them means something. */
  readonly bytes?: number;
  /** Makes what `run` needs, once, in the thread it runs in. What it opens, the process's end closes. */
  readonly setup: () => State;
  /**
   * Calls what is measured `n` times; the loop is the benchmark's own, so that it costs no indirect call.
   * @returns milliseconds, of all that it took, where a part does not count; else nothing
   */
  readonly run: (state: State, n: number) => number | void;
}

const declared = new Map<string, Benchmark<unknown>>();

/** @param name  module, dot, case: `segment.tcp4` */
export function bench<State>(name: string, benchmark: Benchmark<State>): void {
  if (declared.has(name)) throw new Error(`two benchmarks are named ${name}`);
  declared.set(name, benchmark as Benchmark<unknown>);
}

/** Declared by the files that this thread has imported. */
export const declaredBenchmarks = (): ReadonlyMap<string, Benchmark<unknown>> => declared;

export interface Sample {
  readonly nsPerCall: number;
  /** Of the JavaScript heap; null where a collection hid it. */
  readonly heapBytesPerCall: number | null;
}

export interface WorkerOrder {
  readonly file: string;
  readonly name: string;
  readonly roundMs: number;
  readonly warmUpMs: number;
}

/** A benchmark, warmed up and waiting for its turns. */
export interface Runner {
  readonly round: () => Promise<Sample>;
  readonly stop: () => Promise<void>;
}

export interface Found {
  readonly name: string;
  readonly file: string;
  readonly packets: number;
  readonly bytes: number | null;
}

/** Of this folder, in the order of files and declarations. */
export async function findBenchmarks(): Promise<Found[]> {
  const found: Found[] = [];
  const folder = new URL('.', import.meta.url);
  const files = readdirSync(folder).filter((file) => file.endsWith('.bench.ts'));
  for (const file of files.toSorted()) {
    const before = new Set(declared.keys());
    await import(new URL(file, folder).href);
    for (const [name, { packets = 1, bytes = null }] of declared) {
      if (!before.has(name)) found.push({ name, file, packets, bytes });
    }
  }
  return found;
}

/**
 * Starts the benchmark's thread and warms it up.
 * @param root  of the checkout whose code is measured
 */
export async function startRunner(
  root: string,
  benchmark: Found,
  roundMs: number,
  warmUpMs: number,
): Promise<Runner> {
  const folder = pathToFileURL(`${root}/benchmarks/micro/`);
  const workerData: WorkerOrder = {
    file: new URL(benchmark.file, folder).href,
    name: benchmark.name,
    roundMs,
    warmUpMs,
  };
  const worker = new Worker(new URL('worker.ts', folder), { workerData });
  await once(worker, 'message');
  return {
    round: async () => {
      const sample = once(worker, 'message');
      worker.postMessage(null);
      return (await sample)[0] as Sample;
    },
    stop: async () => {
      await worker.terminate();
    },
  };
}
