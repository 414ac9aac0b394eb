import test from 'ava';
import { findBenchmarks, startRunner } from './runner.ts';
import { formatMicroTable, summarize } from './table.ts';

const ROOT = new URL('../..', import.meta.url).pathname;

for (const benchmark of await findBenchmarks()) {
  test(`${benchmark.name} runs`, async (t) => {
    const runner = await startRunner(ROOT, benchmark, 0.01, 1);
    const { nsPerCall } = await runner.round();
    await runner.stop();
    t.true(nsPerCall > 0);
  });
}

test('a row has the median, and its share of a packet and of each byte', (t) => {
  const samples = [40, 10, 20].map((nsPerCall) => ({ nsPerCall, heapBytesPerCall: null }));
  const beside = [80, 40, 10].map((nsPerCall) => ({ nsPerCall, heapBytesPerCall: 0 }));
  const row = summarize({ name: 'x', packets: 4, bytes: 60 }, samples, beside);
  t.is(row.nsPerCall.median, 20);
  t.is(row.nsPerPacket, 5);
  t.is(row.gigabytesPerSecond, 3);
  t.is(row.heapBytesPerCall, null);
  t.is(row.ratio, 0.5);
  t.regex(
    formatMicroTable([row]),
    /x +│ 20\.0 +│ 10\.0\.\.20\.0 +│ 5\.00 +│ 3\.00 +│ collected +│ 0\.50x/,
  );
});
