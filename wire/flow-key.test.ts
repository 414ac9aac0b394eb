import test from 'ava';
import { mix } from './flow-key.ts';

const rows: readonly [name: string, wordOf: (i: number) => number][] = [
  ['addresses in a row', (i) => 0x0af40100 + i],
  ['subnets in a row', (i) => (10 << 24) + (i << 8)],
  ['destination ports in a row', (i) => (40000 << 16) | i],
  ['source ports in a row', (i) => (32768 + i) << 16],
  ['even source ports, as Linux picks them', (i) => ((32768 + 2 * i) << 16) | 443],
  ['odd source ports', (i) => ((32769 + 2 * i) << 16) | 443],
  ['source ports 64 apart', (i) => ((1024 + 64 * i) << 16) | 443],
  ['flow labels in a row', (i) => 0x60000 + i],
];

for (const [name, wordOf] of rows) {
  for (const queues of [2, 4, 16, 64]) {
    test(`${name} are spread over ${queues} queues`, (t) => {
      const flows = 512;
      const counts = Array.from({ length: queues }, () => 0);
      for (let i = 0; i < flows; i++) counts[mix(0x1234567, wordOf(i)) & (queues - 1)]!++;
      const mean = flows / queues;
      // Five standard deviations of a fair throw.
      const slack = 5 * Math.sqrt(mean);
      for (const [queue, count] of counts.entries()) {
        t.true(Math.abs(count - mean) <= slack, `queue ${queue} has ${count} of ${flows}`);
      }
    });
  }
}

test('the order of words counts', (t) => {
  t.not(mix(mix(0, 1), 2), mix(mix(0, 2), 1));
});

test('a hash is an int32, which a field holds without a box', (t) => {
  for (let i = 0; i < 1000; i++) {
    const hash = mix(i, 0xdeadbeef * i);
    t.is(hash, hash | 0);
  }
});
