import { readFile } from 'node:fs/promises';
import test from 'ava';
import { Drop, dropNames } from './drop-reason.ts';

test('each reason stands at its own number: counters are found by it', (t) => {
  dropNames.forEach((name, index) => t.is(Drop[name], index as Drop, name));
  t.is(dropNames[0], 'none');
});

test('the documentation says of each reason what to do', async (t) => {
  const page = await readFile(new URL('../docs/packet-path.md', import.meta.url), 'utf8');
  const rows = [...page.matchAll(/^\| `(\w+)` /gm)].map((match) => match[1]);
  t.deepEqual(
    dropNames.slice(1).filter((name) => !rows.includes(name)),
    [],
  );
});
