import test from 'ava';
import { createSharedParts } from './shared-parts.ts';

const part = (value: number, length = 4) => ({
  generation: value,
  name: `part ${value}`,
  words: new Uint32Array(length).fill(value),
  bytes: Uint8Array.of(value, value + 1, value + 2),
  none: Uint32Array.of(),
});

test('a part in shared memory is the part: numbers, texts, arrays of every kind', (t) => {
  const { place } = createSharedParts(() => 0);
  const mixed = {
    ...part(7),
    signed: Int32Array.of(-1, 2),
    short: Uint16Array.of(65535),
    real: Float64Array.of(0.5),
    // A view into the middle of something larger.
    middle: new Uint8Array(16).fill(9).subarray(3, 5),
  };
  const placed = place('a', mixed, 1);
  t.deepEqual({ ...placed }, mixed);
  t.true(placed.words.buffer instanceof SharedArrayBuffer);
  t.is(placed.words.buffer, placed.real.buffer);
  for (const it of [placed.words, placed.bytes, placed.signed, placed.short, placed.real]) {
    t.is(it.byteOffset % 64, 0);
  }
});

test('the same object is not copied again', (t) => {
  const { place } = createSharedParts(() => 0);
  const same = part(1);
  const placed = place('a', same, 1);
  t.is(place('a', same, 2), placed);
  t.not(place('b', same, 2).words.buffer, placed.words.buffer);
  t.not(place('a', part(1), 3), placed);
});

test('a buffer is written again when every worker has what came after it, and not before', (t) => {
  let installed = 0;
  const { place } = createSharedParts(() => installed);
  const bufferOf = (value: number, generation: number) =>
    place('a', part(value), generation).words.buffer;
  const first = bufferOf(1, 1);
  const second = bufferOf(2, 2);
  t.not(second, first);
  installed = 1;
  const third = bufferOf(3, 3);
  t.false([first, second].includes(third), 'one worker reads generation 1');
  installed = 2;
  t.is(bufferOf(4, 4), first);
  installed = 4;
  const fifth = bufferOf(5, 5);
  t.true([second, third].includes(fifth));
  t.not(fifth, first, 'generation 4 has it');
});

test('what stays for many generations is in use in all of them', (t) => {
  let installed = 0;
  const { place } = createSharedParts(() => installed);
  const lasting = part(1);
  const { words } = place('policy', lasting, 1);
  for (let generation = 1; generation <= 100; generation++) {
    t.is(place('policy', lasting, generation).words, words);
    t.not(place('peers', part(generation), generation).words.buffer, words.buffer);
    t.is(words[0], 1);
    installed = generation;
  }
});

test('memory does not grow with publications, nor with sizes that were', (t) => {
  let installed = 0;
  const { place, bytes } = createSharedParts(() => installed);
  for (let generation = 1; generation <= 1000; generation++) {
    place('a', part(generation, 1000), generation);
    installed = Math.max(generation - 3, 0);
  }
  t.true(bytes() <= 6 * 8192, `${bytes()}`);
  for (let generation = 1001; generation <= 1100; generation++) {
    place('a', part(generation, generation * 1000), generation);
    installed = generation - 1;
  }
  const largest = 8 << 20;
  t.true(bytes() <= 8 * largest, `${bytes()}`);
});

test('nothing in it needs no memory to speak of', (t) => {
  const { place, bytes } = createSharedParts(() => 0);
  t.deepEqual({ ...place('a', { generation: 3 }, 1) }, { generation: 3 });
  t.is(bytes(), 4096);
});
