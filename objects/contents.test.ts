import test from 'ava';
import { contentsOf, readContents } from './contents.ts';

const service = (name: string): string =>
  `apiVersion: v1\nkind: Service\nmetadata: { name: ${name} }\nspec: { ports: [{ port: 80 }] }\n`;
/** More than is read in place. */
const LARGE = [
  ...Array.from({ length: 1000 }, (_, i) => service(`service-${i}`)),
  'kind: Service',
  'apiVersion: v1\nkind: Namespace\nmetadata: { name: a, labels: { a: 1 } }',
].join('---\n');
const never = new AbortController().signal;

test('a large file says what it would say if it were small', async (t) => {
  const apart = readContents(LARGE, 'large.yaml', never);
  t.true(apart instanceof Promise);
  const contents = await apart;
  t.is(contents.entries.length, 1000);
  t.deepEqual(contents, contentsOf(LARGE, 'large.yaml'));
});

test('equal digests, equal documents', (t) => {
  const digests = (text: string): readonly string[] =>
    contentsOf(text, 'x').entries.map(({ digest }) => digest);
  const [a, b, other] = digests([service('a'), service('a'), service('b')].join('---\n'));
  t.is(a, b);
  t.not(a, other);
});

for (const [what, limits, signal, reason] of [
  ['memory', { heapMib: 4, seconds: 60 }, never, /memory limit/],
  ['time', { heapMib: 1024, seconds: 0.001 }, never, /takes more than 0.001 s/],
  ['the daemon ends', { heapMib: 1024, seconds: 60 }, AbortSignal.abort(), /no longer wanted/],
] as const) {
  test(`a file that takes too much is a problem of that file alone: ${what}`, async (t) => {
    const { entries, problems, unidentified } = await readContents(LARGE, 'x', signal, limits);
    t.deepEqual(entries, []);
    t.true(unidentified);
    t.is(problems.length, 1);
    t.regex(problems[0]!.reason, reason);
  });
}
