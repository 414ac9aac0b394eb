/** One benchmark's thread: warms up, says so, and runs a round whenever it is told to. */
import { getHeapStatistics } from 'node:v8';
import { parentPort, workerData } from 'node:worker_threads';
import { type Sample, type WorkerOrder, declaredBenchmarks } from './runner.ts';

const { file, name, roundMs, warmUpMs } = workerData as WorkerOrder;
await import(file);
const benchmark = declaredBenchmarks().get(name);
if (benchmark === undefined) throw new Error(`${file} declares no benchmark ${name}`);
const { run, setup } = benchmark;
const state = setup();

const heapBytes = (): number => getHeapStatistics().used_heap_size;

/** Milliseconds of `n` calls. */
function time(n: number): number {
  const begin = performance.now();
  const own = run(state, n);
  return own ?? performance.now() - begin;
}

/** Calls in a round, grown until it is long enough, and again as the compiler makes them faster. */
let calls = 1;

/** Stable: three rounds in a row within a twentieth of the fastest, or the time is up. */
function warmUp(): void {
  const end = performance.now() + warmUpMs;
  let fastest = Infinity;
  let stable = 0;
  while (stable < 3 && performance.now() < end) {
    const perCall = time(calls) / calls;
    if (perCall * calls < roundMs / 2) {
      calls *= 2;
      stable = 0;
    } else {
      stable = perCall > fastest * 0.95 && perCall < fastest * 1.05 ? stable + 1 : 0;
    }
    fastest = Math.min(fastest, perCall);
  }
}

function round(): Sample {
  const before = heapBytes();
  const ms = time(calls);
  const grown = heapBytes() - before;
  return { nsPerCall: (ms * 1e6) / calls, heapBytesPerCall: grown < 0 ? null : grown / calls };
}

warmUp();
parentPort!.on('message', () => parentPort!.postMessage(round()));
parentPort!.postMessage(null);
