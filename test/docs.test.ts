/** The documentation says what there is. */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { dropNames } from '../wire/drop-reason.ts';
import { dropMeaning } from '../wire/drop-meaning.ts';
import { createCounters, sumCounters } from '../overlay/counters.ts';

const page = readFileSync(new URL('../docs/packet-path.md', import.meta.url), 'utf8');
const inKernel = ['drop.receiveQueueFull', 'drop.tunQueueFull'];

test('every counter and drop reason has its row in docs/packet-path.md', (t) => {
  const names = [...Object.keys(sumCounters([createCounters()])), ...inKernel];
  const rows = new Set(Array.from(page.matchAll(/^\| `(\w+)`/gm), ([, name]) => name));
  for (const name of names) t.true(rows.delete(name.replace('drop.', '')), `${name} has no row`);
  t.true(rows.has('batch'), 'the rungs of offloads are rows too');
});

test('a drop reason means on the page what it means in the answer of `weft status`', (t) => {
  const section = page.slice(page.indexOf('### Drop reasons'));
  const rows = section.matchAll(/^\| `(\w+)` +\| [^|]+ \| ([^|]+) \| ([^|]+) \|$/gm);
  let count = 0;
  for (const [, name = '', meaning = '', remedy = ''] of rows) {
    t.deepEqual(dropMeaning(name), { meaning: meaning.trim(), remedy: remedy.trim() }, name);
    count += 1;
  }
  t.is(count, dropNames.length - 1 + inKernel.length);
});
