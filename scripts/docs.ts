/** Writes the pages of docs/ that are made from the code. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { docPages } from './doc-pages.ts';

for (const [path, text] of await docPages()) {
  const file = join(import.meta.dirname, '..', path);
  let before = '';
  try {
    before = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  if (before !== text) writeFileSync(file, text);
  process.stdout.write(`${before === text ? 'as it was' : 'written  '}  ${path}\n`);
}
