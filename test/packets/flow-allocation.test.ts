/** The flow table allocates nothing: four million packets bring about no garbage collection but a few. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import type { FlowAllocationResult } from './flow-allocation-worker.ts';

/** Compilation in the background brings about some, whatever the length. */
const COLLECTIONS_MAX = 5;

test('no garbage: flows looked up, inserted, advanced, removed and given up', async (t) => {
  const worker = new Worker(new URL('flow-allocation-worker.ts', import.meta.url));
  const [result] = (await once(worker, 'message')) as [FlowAllocationResult];
  t.log(result);
  t.true(result.hits > 100_000);
  t.true(result.collections <= COLLECTIONS_MAX, `${result.collections} garbage collections`);
});
