/** docs/daemon.md says what the table of options says. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { type Option, OPTIONS, flagOf, optionNames, variableOf } from './config.ts';

function optionsTable(): string {
  const rows = optionNames.map((name) => {
    const { text, textMeans, description }: Option<unknown> = OPTIONS[name];
    const shown = text === '' ? (textMeans ?? 'none') : `\`${text}\``;
    const meaning = text !== '' && textMeans !== undefined ? `${shown} (${textMeans})` : shown;
    return `| \`--${flagOf(name)}\` | \`${variableOf(name)}\` | ${meaning} | ${description} |`;
  });
  return ['| flag | environment | default | what it is |', '|---|---|---|---|', ...rows].join('\n');
}

/** The cells, however wide a formatter made them. */
const cells = (table: string | undefined): string | undefined =>
  table
    ?.trim()
    .replaceAll(/-{3,}/g, '---')
    .replaceAll(/ *\| */g, '|');

test('the options of docs/daemon.md are those of the table', (t) => {
  const page = readFileSync(join(import.meta.dirname, '..', 'docs', 'daemon.md'), 'utf8');
  const found = /<!-- options -->\n\n?([^]*?)\n?<!-- \/options -->/.exec(page)?.[1];
  t.is(cells(found), cells(optionsTable()), 'put this between the marks of docs/daemon.md');
});
