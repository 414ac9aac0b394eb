/**
 * The packet path allocates nothing per packet: ten million datagrams through egress and ingress bring
 * about no garbage collection but a fixed few.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import type { AllocationOrder, AllocationResult } from './allocation-worker.ts';
import { dropsOf, unaccounted } from './wire-harness.ts';

/** Compilation in the background and the test's own last steps bring about some, whatever the length. */
const COLLECTIONS_MAX = 5;

const NO_OFFLOADS = {
  tunTso: false,
  tunUso: false,
  tunnelGso: false,
  udpGso: false,
  udpGro: false,
  batch: false,
  coalesce: false,
} as const;

const rows: readonly [name: string, order: AllocationOrder][] = [
  [
    'ten million datagrams, every offload',
    { datagrams: 10_000_000, warmUpDatagrams: 300_000, offloads: {}, captures: [] },
  ],
  [
    'a million datagrams, each a message',
    {
      datagrams: 1_000_000,
      warmUpDatagrams: 200_000,
      offloads: { udpGso: false, udpGro: false, coalesce: false },
      captures: [],
    },
  ],
  [
    'three hundred thousand, each a system call',
    { datagrams: 300_000, warmUpDatagrams: 50_000, offloads: NO_OFFLOADS, captures: [] },
  ],
  [
    'a million datagrams, captured by those who do not keep up',
    { datagrams: 1_000_000, warmUpDatagrams: 300_000, offloads: {}, captures: [false, true] },
  ],
];

for (const [name, order] of rows) {
  test.serial(`no garbage: ${name}`, async (t) => {
    const worker = new Worker(new URL('allocation-worker.ts', import.meta.url), {
      workerData: order,
    });
    const [result] = (await once(worker, 'message')) as [AllocationResult];
    const { collections, sent, received } = result;
    t.log(`${collections} collections over ${sent['egressDatagrams']} datagrams`);
    t.true(sent['egressDatagrams']! >= order.datagrams);
    t.true(sent['localDelivered']! > 1000 && sent['hostDelivered']! > 1000, 'some go back');
    t.true(received['tunDelivered']! >= order.datagrams * 0.9, 'and nearly all arrive');
    t.deepEqual(dropsOf(sent), {});
    t.deepEqual(dropsOf(received), {});
    t.is(unaccounted(sent), 0);
    t.is(unaccounted(received), 0);
    t.true(collections <= COLLECTIONS_MAX, `${collections} garbage collections`);
  });
}
