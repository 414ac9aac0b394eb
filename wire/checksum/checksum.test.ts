import { readFile } from 'node:fs/promises';
import test from 'ava';
import fc from 'fast-check';
import { compileChecksum } from '../../scripts/build-wasm.ts';
import { checksumReference, createChecksum } from './checksum.ts';

const memory = new WebAssembly.Memory({ initial: 4, maximum: 4, shared: true });
const bytes = new Uint8Array(memory.buffer);
const checksum = createChecksum(memory);

/** The kernel's sum of `content` laid at `at`, among bytes that would show if it read one of them. */
function sumAt(at: number, content: Uint8Array, initial = 0): number {
  bytes.fill(0xa5);
  bytes.set(content, at);
  return checksum(at, content.length, initial);
}

const packets: readonly [name: string, hex: string, sum: number][] = [
  ['RFC 1071 section 3, example', '0001f203f4f5f6f7', 0xddf2],
  ['nothing', '', 0],
  ['zeros only', '000000000000', 0],
  ['negative zero stays', 'ffff', 0xffff],
  ['carry folds twice', 'ffff0001ffff', 0x0001],
  ['odd last byte is the high one', '000112', 0x1201],
  ['IPv4 header, its checksum b861 in place', '45000073000040004011b861c0a80001c0a800c7', 0xffff],
  ['the same with the field zero', '450000730000400040110000c0a80001c0a800c7', 0x479e],
];

for (const [name, hex, expected] of packets) {
  test(name, (t) => {
    const content = Buffer.from(hex, 'hex');
    t.is(checksumReference(content), expected, 'reference');
    t.is(sumAt(64, content), expected, 'kernel');
    t.is(sumAt(65, content), expected, 'kernel, odd address');
  });
}

const initials: readonly [name: string, initial: number, expected: number][] = [
  ['is added', 0x0001, 0x0003],
  ['carries around', 0xfffe, 0x0001],
  ['may be unfolded', 0x0001_0001, 0x0004],
  ['may use all 32 bits', 0xffff_ffff, 0x0002],
];

for (const [name, initial, expected] of initials) {
  test(`an initial sum ${name}`, (t) => {
    const content = Buffer.from('0002', 'hex');
    t.is(checksumReference(content, initial), expected, 'reference');
    t.is(sumAt(64, content, initial), expected, 'kernel');
  });
}

test('every length to 300 at every alignment equals the reference', (t) => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 300, maxLength: 300 }),
      fc.integer({ min: 0, max: 0xffffffff }),
      (content, initial) => {
        for (let length = 0; length <= content.length; length++) {
          const expected = checksumReference(content.subarray(0, length), initial);
          for (let alignment = 0; alignment < 16; alignment++) {
            bytes.fill(0xa5, 0, 512);
            bytes.set(content.subarray(0, length), 64 + alignment);
            if (checksum(64 + alignment, length, initial) !== expected) {
              throw new Error(`length ${length}, alignment ${alignment}`);
            }
          }
        }
      },
    ),
    { numRuns: 10 },
  );
  t.pass();
});

test('long packets of any bytes equal the reference', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 0xffff }),
      fc.integer({ min: 0, max: 15 }),
      fc.integer({ min: 0, max: 0xff }),
      (length, at, seed) => {
        const content = Uint8Array.from({ length }, (_, i) => (i * 167 + seed) & 0xff);
        return sumAt(at, content) === checksumReference(content);
      },
    ),
    { numRuns: 60 },
  );
  t.pass();
});

test('the longest sum of the largest words does not overflow', (t) => {
  bytes.fill(0xff);
  t.is(checksum(0, bytes.length, 0xffffffff), 0xffff);
  const wide = new WebAssembly.Memory({ initial: 8, maximum: 8, shared: true });
  new Uint8Array(wide.buffer).fill(0xff);
  t.is(createChecksum(wide)(0, 8 * 65536 - 16, 0), 0xffff);
});

test('bytes up to the last of the memory are read, none behind it', (t) => {
  bytes.fill(0);
  bytes[bytes.length - 1] = 0x12;
  for (let length = 1; length <= 130; length++) {
    const expected = length % 2 === 1 ? 0x1200 : 0x0012;
    t.is(checksum(bytes.length - length, length, 0), expected, `length ${length}`);
  }
});

test('the largest arena links: the module declares the largest maximum there is', (t) => {
  t.notThrows(() =>
    createChecksum(new WebAssembly.Memory({ initial: 1, maximum: 65536, shared: true })),
  );
});

test('an unshared memory is refused', (t) => {
  t.throws(() => createChecksum(new WebAssembly.Memory({ initial: 1, maximum: 1 })), {
    instanceOf: WebAssembly.LinkError,
  });
});

test('wasm.ts is what sum.ts compiles to', async (t) => {
  t.is(await readFile(new URL('wasm.ts', import.meta.url), 'utf8'), await compileChecksum());
});
