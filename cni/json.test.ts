import test from 'ava';
import fc from 'fast-check';
import { CniFailure } from './errors.ts';
import { STDIN_LIMIT_BYTES, parseStdin } from './json.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const nested = (depth: number): string => `{"a":${'['.repeat(depth)}${']'.repeat(depth)}}`;

for (const [title, input, message] of [
  ['empty', '', 'is empty'],
  ['only space', ' \n', 'is not JSON'],
  ['cut short', '{"name":"we', 'is not JSON'],
  ['a comma too many', '{"a":1,}', 'is not JSON'],
  ['an escape at the end', '{"a\\', 'is not JSON'],
  ['a list', '[]', 'is not a JSON object'],
  ['null', 'null', 'is not a JSON object'],
  ['not UTF-8', new Uint8Array([0x7b, 0xff, 0x7d]), 'is not JSON'],
  ['a key twice', '{"a":1,"b":{"a":1},"a":2}', 'has the key "a" twice'],
  ['a key twice, once escaped', String.raw`{"a":1,"\u0061":2}`, 'has the key "a" twice'],
  ['a key twice, deep', '{"x":[{"a":1},{"a":1,"a":2}]}', 'has the key "a" twice'],
  ['__proto__', '{"__proto__":{"socket":"/x"}}', 'has the key "__proto__"'],
  ['__proto__, deep and escaped', String.raw`{"a":[{"\u005f_proto__":1}]}`, '"__proto__"'],
  ['nested too deep', nested(32), 'is nested deeper than 32'],
  ['nested far too deep', '['.repeat(STDIN_LIMIT_BYTES), 'is nested deeper than 32'],
  ['too large', ' '.repeat(STDIN_LIMIT_BYTES + 1), 'is larger than 1048576 bytes'],
  ['10 MB', `{"a":"${'x'.repeat(1e7)}"}`, 'is larger than 1048576 bytes'],
  ['an endless string', `"${'a'.repeat(STDIN_LIMIT_BYTES - 1)}`, 'is not JSON'],
] as const) {
  test(`refused: ${title}`, (t) => {
    const stdin = typeof input === 'string' ? bytes(input) : input;
    const error = t.throws(() => parseStdin(stdin), { instanceOf: CniFailure });
    t.is(error.cniCode, 6);
    t.true(error.message.startsWith('the network configuration on stdin '));
    t.true(error.message.includes(message), error.message);
    t.true(error.message.length < 400);
  });
}

test('taken: what is nested as deep as it may be, and a key once in each object', (t) => {
  t.notThrows(() => parseStdin(bytes(nested(31))));
  const text = String.raw`{"a":{"a":[{"a":"\":{,"},{"a":null}]},"b":"a\\"}`;
  t.deepEqual(parseStdin(bytes(text)), JSON.parse(text));
});

test('reads what JSON.parse reads, unless it refuses', (t) => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 4 })), (value) => {
      const text = JSON.stringify(value);
      if (text.includes('__proto__')) return;
      t.deepEqual(parseStdin(bytes(text)), JSON.parse(text));
    }),
  );
});

test('random text is refused in one way', (t) => {
  const texts = fc.string({
    unit: fc.constantFrom(...String.raw`{}[]",:\ a1`.split('')),
    maxLength: 30,
  });
  fc.assert(
    fc.property(texts, (text) => {
      try {
        t.is(typeof parseStdin(bytes(text)), 'object');
      } catch (error) {
        t.true(error instanceof CniFailure, text);
      }
    }),
  );
});
