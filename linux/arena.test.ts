import test from 'ava';
import { createArena } from './arena.ts';
import { addressOf } from './libc.ts';

test('what is taken is aligned to cache lines and never overlaps', (t) => {
  const arena = createArena(1 << 16);
  let end = 64;
  for (const bytes of [1, 63, 64, 65, 1000, 4]) {
    const at = arena.take(bytes, 'a piece');
    t.is(at % 64, 0);
    t.true(at >= end, "behind the one before; the first line is nobody's");
    end = at + bytes;
  }
});

test('a full arena says for what there was no room', (t) => {
  const arena = createArena(1 << 16);
  arena.take((1 << 16) - 64, 'everything');
  t.throws(() => arena.take(1, 'one more'), { instanceOf: RangeError, message: /"one more"/ });
});

test('bytes, view and words are the same memory, at the address that the kernel is told', (t) => {
  const arena = createArena(1 << 16);
  const at = arena.take(8, 'a word');
  arena.words[at >>> 2] = 0x04030201;
  t.deepEqual([...arena.bytes.subarray(at, at + 4)], [1, 2, 3, 4]);
  t.is(arena.view.getUint32(at), 0x01020304);
  t.is(arena.address, addressOf(arena.memory.buffer));
});

test('a pointer is the address of an offset, as the kernel reads it', (t) => {
  const arena = createArena(4 << 20);
  const at = arena.take(16, 'pointers');
  for (const offset of [0, 64, 0x1234, (4 << 20) - 1]) {
    arena.words.fill(0xa5a5a5a5, at >>> 2, (at >>> 2) + 4);
    arena.setPointer(at + 4, offset);
    t.is(Number(arena.view.getBigUint64(at + 4, true)), arena.address + offset);
    t.is(arena.words[at >>> 2], 0xa5a5a5a5);
    t.is(arena.words[(at >>> 2) + 3], 0xa5a5a5a5);
  }
});
