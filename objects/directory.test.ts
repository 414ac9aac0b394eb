import { execFileSync } from 'node:child_process';
import {
  appendFile,
  mkdir,
  mkdtemp,
  rename,
  rm,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { type DirectoryTimes, directorySource } from './directory.ts';
import { type ObjectProblem, type ObjectSet, describeObject } from './types.ts';

const TIMES: DirectoryTimes = { settleMs: 20, graceMs: 300, rereadEveryMs: 1000 };
/** Long after a change of which nothing is to be seen. */
const NOTHING_MS = 120;

interface Context {
  dir: string;
}
const test = anyTest as TestFn<Context>;

test.beforeEach(async (t) => {
  t.context.dir = await mkdtemp(join(tmpdir(), 'weft-objects-'));
});
test.afterEach.always((t) => rm(t.context.dir, { recursive: true, force: true }));

const pod = (name: string, label = 'a'): string =>
  `apiVersion: v1\nkind: Pod\nmetadata: { name: ${name}, labels: { v: "${label}" } }\n`;
const pods = (...names: readonly string[]): string => names.map((it) => pod(it)).join('---\n');

/** Reads on in the background; `sets` are all that came. */
class Watched {
  readonly sets: ObjectSet[] = [];
  problems: readonly ObjectProblem[] = [];
  readonly #stopping = new AbortController();
  readonly #reading: Promise<void>;

  constructor(dir: string) {
    const source = directorySource(dir, (problems) => (this.problems = problems), TIMES);
    this.#reading = this.#read(source.watch(this.#stopping.signal));
  }

  get names(): string {
    const set = this.sets.at(-1);
    return set === undefined ? 'nothing' : [...set.pods.values()].map(describePod).join(' ');
  }

  async until(t: ExecutionContext, names: string): Promise<void> {
    const end = performance.now() + 5000;
    while (this.names !== names && performance.now() < end) await sleep(5);
    t.is(this.names, names, JSON.stringify(this.problems));
  }

  async untilProblem(t: ExecutionContext, pattern: RegExp): Promise<void> {
    const text = () =>
      this.problems.map((it) => `${it.place} ${it.object} ${it.reason}`).join('; ');
    const end = performance.now() + 5000;
    while (!pattern.test(text()) && performance.now() < end) await sleep(5);
    t.regex(text(), pattern);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#reading;
  }

  async #read(sets: AsyncIterable<ObjectSet>): Promise<void> {
    for await (const set of sets) this.sets.push(set);
  }
}

const describePod = (
  it: ObjectSet['pods'] extends ReadonlyMap<string, infer T> ? T : never,
): string =>
  `${describeObject(it).replace('Pod default/', '')}${it.metadata.labels['v'] === 'a' ? '' : '!'}`;

test('files in order of their names, of the wanted kinds, the last object counts', async (t) => {
  const { dir } = t.context;
  await writeFile(join(dir, 'b.yml'), pods('b', 'd'));
  await writeFile(join(dir, 'a.yaml'), pods('a'));
  await writeFile(
    join(dir, 'c.json'),
    JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'd' } }),
  );
  await writeFile(join(dir, '.hidden.yaml'), pods('hidden'));
  await writeFile(join(dir, 'x.txt'), pods('txt'));
  await mkdir(join(dir, 'dir.yaml'));
  execFileSync('mkfifo', [join(dir, 'pipe.yaml')]);
  await using watched = new Watched(dir);
  await watched.until(t, 'a b d!');
  t.is(watched.sets.length, 1);
  await watched.untilProblem(t, /^b\.yml Pod default\/d stands in c\.json again/);
});

test('an empty directory is a complete set; none is not', async (t) => {
  const { dir } = t.context;
  await using watched = new Watched(join(dir, 'later'));
  await watched.untilProblem(t, /cannot be read \(ENOENT\)/);
  t.is(watched.sets.length, 0);
  await mkdir(join(dir, 'later'));
  await watched.until(t, '');
  await watched.untilProblem(t, /^$/);
});

test('a file that comes, changes and goes', async (t) => {
  const { dir } = t.context;
  await using watched = new Watched(dir);
  await watched.until(t, '');
  await writeFile(join(dir, 'a.yaml'), pods('a'));
  await watched.until(t, 'a');
  await writeFile(join(dir, 'a.yaml'), pod('a', 'b'));
  await watched.until(t, 'a!');
  await rm(join(dir, 'a.yaml'));
  await watched.until(t, '');
});

test('what has not changed is the same object, in the same map', async (t) => {
  const { dir } = t.context;
  await writeFile(join(dir, 'a.yaml'), pods('a', 'b'));
  await writeFile(join(dir, 'n.yaml'), 'apiVersion: v1\nkind: Node\nmetadata: { name: n }');
  await using watched = new Watched(dir);
  await watched.until(t, 'a b');
  await writeFile(join(dir, 'a.yaml'), `${pod('a')}---\n${pod('b', 'b')}`);
  await watched.until(t, 'a b!');
  const [before, after] = watched.sets;
  t.is(after?.pods.get('default/a'), before?.pods.get('default/a'));
  t.not(after?.pods.get('default/b'), before?.pods.get('default/b'));
  t.is(after?.nodes, before?.nodes);
});

test('an object that stands in a later file, too, changes there', async (t) => {
  const { dir } = t.context;
  await writeFile(join(dir, 'a.yaml'), pods('x', 'y'));
  await writeFile(join(dir, 'b.yaml'), pods('x'));
  await using watched = new Watched(dir);
  await watched.until(t, 'x y');
  // Of what changes in the first file only y counts.
  await writeFile(join(dir, 'a.yaml'), `${pod('x', 'b')}---\n${pod('y', 'b')}`);
  await watched.until(t, 'x y!');
  await writeFile(join(dir, 'b.yaml'), pod('x', 'b'));
  await watched.until(t, 'x! y!');
  await writeFile(join(dir, 'b.yaml'), pod('x'));
  await watched.until(t, 'x y!');
  await rm(join(dir, 'b.yaml'));
  await watched.until(t, 'x! y!');
});

test('written again as it was: no new set', async (t) => {
  const { dir } = t.context;
  await writeFile(join(dir, 'a.yaml'), pods('a'));
  await using watched = new Watched(dir);
  await watched.until(t, 'a');
  await writeFile(join(dir, 'a.yaml'), `# a comment\n${pods('a')}`);
  await sleep(NOTHING_MS);
  t.is(watched.sets.length, 1);
});

const slips: readonly (readonly [string, text: string, problem: RegExp, names: string])[] = [
  ['not YAML', 'kind: [', /is not YAML/, 'a b'],
  ['empty', '', /is empty/, 'a b'],
  [
    'an object not valid',
    `${pod('a', 'c d')}---\n${pod('b', 'b')}`,
    /Pod default\/a "c d" is not/,
    'b! a',
  ],
  ['no name', `${pod('a', 'b')}---\n${pod('{}')}`, /a\.yaml:7 Pod must be/, 'a! b'],
];
for (const [name, text, problem, names] of slips) {
  test(`a slip keeps what was good: ${name}`, async (t) => {
    const path = join(t.context.dir, 'a.yaml');
    await writeFile(path, pods('a', 'b'));
    await using watched = new Watched(t.context.dir);
    await watched.until(t, 'a b');
    await writeFile(path, text);
    await watched.untilProblem(t, problem);
    await watched.until(t, names);
    await sleep(TIMES.graceMs + NOTHING_MS);
    await watched.until(t, names);
    await writeFile(path, pods('a', 'b'));
    await watched.until(t, 'a b');
    await watched.untilProblem(t, /^$/);
  });
}

test('not valid from the start: left out and told', async (t) => {
  await writeFile(join(t.context.dir, 'a.yaml'), `${pod('a', 'c d')}---\n${pod('b')}`);
  await using watched = new Watched(t.context.dir);
  await watched.until(t, 'b');
  await watched.untilProblem(t, /^a\.yaml:3 Pod default\/a/);
});

test('a policy not valid from the start denies, until it is mended', async (t) => {
  const path = join(t.context.dir, 'a.yaml');
  const policy = (field: string): string =>
    `apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: p }\nspec: { ${field}: [{}] }`;
  const rules = (): number =>
    watched.sets.at(-1)?.networkPolicies.get('default/p')?.egress.length ?? -1;
  await writeFile(path, policy('egres'));
  await using watched = new Watched(t.context.dir);
  await watched.untilProblem(t, /egres/);
  await watched.until(t, '');
  t.is(rules(), 0);
  await writeFile(path, policy('egress'));
  await watched.untilProblem(t, /^$/);
  t.is(rules(), 1);
  await writeFile(path, policy('egres'));
  await watched.untilProblem(t, /egres/);
  t.is(rules(), 1, 'what was valid before');
});

test('a file half-written in place loses nothing: truncated, then piece by piece', async (t) => {
  const path = join(t.context.dir, 'a.yaml');
  await writeFile(path, pods('a', 'b', 'c'));
  await using watched = new Watched(t.context.dir);
  await watched.until(t, 'a b c');
  await truncate(path);
  for (const piece of [pod('a'), '---\n', pod('b', 'b'), '---\n', pod('c')]) {
    await sleep(60);
    await appendFile(path, piece);
  }
  await watched.until(t, 'a b! c');
  t.true(watched.sets.every(({ pods }) => pods.size === 3));
});

test('a file that an editor moves away and writes anew loses nothing', async (t) => {
  const path = join(t.context.dir, 'a.yaml');
  await writeFile(path, pods('a', 'b'));
  await using watched = new Watched(t.context.dir);
  await watched.until(t, 'a b');
  await rename(path, `${path}~`);
  await sleep(100);
  await writeFile(path, `${pod('a')}---\n${pod('b', 'b')}`);
  await watched.until(t, 'a b!');
  t.true(watched.sets.every(({ pods }) => pods.size === 2));
});

test('renamed into place', async (t) => {
  const path = join(t.context.dir, 'a.yaml');
  await writeFile(path, pods('a', 'b'));
  await using watched = new Watched(t.context.dir);
  await watched.until(t, 'a b');
  await writeFile(`${path}.new`, pods('b'));
  await rename(`${path}.new`, path);
  await watched.until(t, 'b');
});

test('a ConfigMap, whose ..data is another directory each time', async (t) => {
  const { dir } = t.context;
  const put = async (version: string, text: string): Promise<void> => {
    await mkdir(join(dir, version));
    await writeFile(join(dir, version, 'a.yaml'), text);
    await symlink(version, join(dir, '..data_tmp'));
    await rename(join(dir, '..data_tmp'), join(dir, '..data'));
  };
  await put('..1', pods('a', 'b'));
  await symlink(join('..data', 'a.yaml'), join(dir, 'a.yaml'));
  await using watched = new Watched(dir);
  await watched.until(t, 'a b');
  await put('..2', pods('a', 'c'));
  await rm(join(dir, '..1'), { recursive: true });
  await watched.until(t, 'a c');
  t.is(watched.sets.length, 2);
});

test('a link to a file elsewhere, of which no event tells', async (t) => {
  const { dir } = t.context;
  await mkdir(join(dir, 'watched'));
  await writeFile(join(dir, 'elsewhere'), pods('a'));
  await symlink(join(dir, 'elsewhere'), join(dir, 'watched', 'a.yaml'));
  await using watched = new Watched(join(dir, 'watched'));
  await watched.until(t, 'a');
  await writeFile(join(dir, 'elsewhere'), pod('a', 'b'));
  await watched.until(t, 'a!');
});

test('the same behind so many others that not all are looked at together', async (t) => {
  const { dir } = t.context;
  await mkdir(join(dir, 'watched'));
  const others = Array.from({ length: 80 }, (_, i) => `o${String(i).padStart(2, '0')}`);
  for (const it of others) await writeFile(join(dir, 'watched', `${it}.yaml`), pods(it));
  await writeFile(join(dir, 'elsewhere'), pods('z'));
  await symlink(join(dir, 'elsewhere'), join(dir, 'watched', 'z.yaml'));
  await using watched = new Watched(join(dir, 'watched'));
  await watched.until(t, [...others, 'z'].join(' '));
  for (const label of ['b', 'a']) {
    await writeFile(join(dir, 'elsewhere'), pod('z', label));
    await watched.until(t, [...others, label === 'a' ? 'z' : 'z!'].join(' '));
  }
});

test('a directory that is taken away keeps its objects; another in its place counts', async (t) => {
  const dir = join(t.context.dir, 'd');
  await mkdir(dir);
  await writeFile(join(dir, 'a.yaml'), pods('a'));
  await using watched = new Watched(dir);
  await watched.until(t, 'a');
  await rename(dir, `${dir}.old`);
  await watched.untilProblem(t, /cannot be read \(ENOENT\)/);
  await watched.until(t, 'a');
  await mkdir(dir);
  await writeFile(join(dir, 'b.yaml'), pods('b'));
  await watched.until(t, 'b');
  await writeFile(join(dir, 'b.yaml'), pod('b', 'b'));
  await watched.until(t, 'b!');
});

test('not UTF-8', async (t) => {
  await writeFile(join(t.context.dir, 'a.yaml'), Uint8Array.of(0x61, 0xff));
  await using watched = new Watched(t.context.dir);
  await watched.untilProblem(t, /is not UTF-8/);
  await watched.until(t, '');
});

test('ends when it is told to', async (t) => {
  const stopping = new AbortController();
  const source = directorySource(t.context.dir, () => {}, TIMES);
  let ends = 0;
  for await (const _ of source.watch(stopping.signal)) {
    ends++;
    stopping.abort();
  }
  t.is(ends, 1);
  for await (const _ of source.watch(AbortSignal.abort())) t.fail();
});
