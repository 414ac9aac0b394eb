/** The documentation says what there is. */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join, posix } from 'node:path';
import test from 'ava';
import { createCounters, sumCounters } from '../overlay/counters.ts';
import { docPages } from '../scripts/doc-pages.ts';
import { dropNames } from '../wire/drop-reason.ts';
import { DROP_TEXTS } from '../wire/drop-texts.ts';

const HOUSE = join(import.meta.dirname, '..');
const read = (path: string): string => readFileSync(join(HOUSE, path), 'utf8');

test('every counter has its row in docs/packet-path.md', (t) => {
  const page = read('docs/packet-path.md');
  const names = Object.keys(sumCounters([createCounters()]));
  const rows = new Set(Array.from(page.matchAll(/^\| `(\w+)`/gm), ([, name]) => name));
  for (const name of names) {
    if (!name.startsWith('drop.')) t.true(rows.delete(name), `${name} has no row`);
  }
  t.true(rows.has('batch'), 'the rungs of offloads are rows too');
});

test('every drop reason, and those of the kernel, have a text', (t) => {
  const expected = [...dropNames.slice(1), 'receiveQueueFull', 'tunQueueFull'];
  t.deepEqual(Object.keys(DROP_TEXTS), expected);
});

test('pages that are made from the code are as the code is', async (t) => {
  for (const [path, text] of await docPages()) {
    t.true(existsSync(join(HOUSE, path)) && read(path) === text, `${path} is stale: npm run docs`);
  }
});

const pages = [
  'README.md',
  'CONTRIBUTING.md',
  ...readdirSync(join(HOUSE, 'docs'))
    .filter((it) => it.endsWith('.md'))
    .map((it) => `docs/${it}`),
];

/** As GitHub makes them of headings. */
const anchorsOf = (page: string): readonly string[] =>
  Array.from(page.matchAll(/^#+ (.*)$/gm), ([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );

/** Links of a page that lead nowhere. */
function brokenLinks(path: string): string[] {
  const broken: string[] = [];
  for (const [, target = ''] of read(path).matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^https?:/.test(target)) continue;
    const [file = '', anchor] = target.split('#');
    const to = file === '' ? path : posix.join(posix.dirname(path), file);
    const isThere = existsSync(join(HOUSE, to));
    if (!isThere || (anchor !== undefined && !anchorsOf(read(to)).includes(anchor))) {
      broken.push(`${path}: ${target}`);
    }
  }
  return broken;
}

test('links lead somewhere', (t) => {
  t.deepEqual(pages.flatMap(brokenLinks), []);
});

test('README names every page of docs/', (t) => {
  const readme = read('README.md');
  for (const path of pages)
    if (path.startsWith('docs/')) t.true(readme.includes(`(${path})`), path);
});
