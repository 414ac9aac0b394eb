import test from 'ava';
import { BitSets } from './bit-sets.ts';

test('each set is kept once, the empty one first, however many there are', (t) => {
  const sets = new BitSets(2);
  const set = new Uint32Array(2);
  t.is(sets.intern(set), 0);
  const offsets: number[] = [];
  for (let i = 1; i <= 1000; i++) {
    set.set([i % 10, i]);
    offsets.push(sets.intern(set));
  }
  t.deepEqual(
    offsets,
    Array.from(offsets, (_, i) => 2 * (i + 1)),
  );
  set.set([7, 707]);
  t.is(sets.intern(set), 2 * 707);
  const all = sets.all();
  t.deepEqual([...all.subarray(2 * 707, 2 * 708)], [7, 707]);
  t.is(all.length, 2 * 1001);
});

test('sets of one hash are told apart', (t) => {
  const sets = new BitSets(2);
  const seen = new Set<number>();
  // As many as let some hashes of 32 bits be the same: five pairs, on the average.
  const count = 200_000;
  for (let i = 0; i < count; i++) {
    seen.add(sets.intern(Uint32Array.of(Math.imul(i, 0x85ebca6b), Math.imul(i ^ 1, 0xc2b2ae35))));
  }
  t.is(seen.size, count);
});
