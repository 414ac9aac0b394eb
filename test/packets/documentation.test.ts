import { readFile } from 'node:fs/promises';
import test from 'ava';
import { dropNames } from '../../wire/drop-reason.ts';

test('docs/packet-path.md says of each drop reason what to do', async (t) => {
  const page = await readFile(new URL('../../docs/packet-path.md', import.meta.url), 'utf8');
  const described = new Set([...page.matchAll(/^\| `(\w+)` /gm)].map((match) => match[1]));
  t.deepEqual(
    dropNames.slice(1).filter((name) => !described.has(name)),
    [],
  );
});
