/**
 * 64 lease keepers race for 60 subnets on a real etcd, 200 times, with pauses longer than the TTL: no
 * subnet is ever held twice. How a keeper is paused, and who judges: lease-race.ts.
 */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import { startEtcd } from '../lab/etcd.ts';
import type { RaceResult, RaceTask } from './lease-race.ts';

const ROUNDS = Number(process.env['RACE_ROUNDS'] ?? 200);
const THREADS = 2;

async function race(task: RaceTask): Promise<RaceResult> {
  const worker = new Worker(new URL('lease-race.ts', import.meta.url), { workerData: task });
  try {
    const [result] = (await once(worker, 'message')) as [RaceResult];
    return result;
  } finally {
    await worker.terminate();
  }
}

test(`${ROUNDS} rounds: none is held twice`, async (t) => {
  t.timeout(290_000);
  // In memory: the race is about order, and a disk would only slow it down.
  const dataDir = await mkdtemp('/dev/shm/weft-etcd-');
  const server = await startEtcd({ dataDir });
  const { endpoint } = server;
  const startMs = performance.now();
  try {
    const rounds = Math.ceil(ROUNDS / THREADS);
    const results = await Promise.all(
      Array.from({ length: THREADS }, (_, i) => race({ endpoint, prefix: `/race/${i}`, rounds })),
    );
    const sum = (of: (result: RaceResult) => number): number =>
      results.reduce((total, result) => total + of(result), 0);
    const takeovers = sum((result) => result.takeovers);
    const seconds = Math.round((performance.now() - startMs) / 1000);
    t.log(`${sum((result) => result.rounds)} rounds in ${seconds} s, ${takeovers} takeovers`);
    t.deepEqual(
      results.flatMap((result) => result.faults.slice(0, 5)),
      [],
    );
    t.true(takeovers >= ROUNDS, `only ${takeovers} takeovers: too tame to prove much`);
  } finally {
    await server.stop();
    await rm(dataDir, { recursive: true });
  }
});
