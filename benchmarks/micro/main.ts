/** `npm run bench:micro`: the benchmarks of this folder, and a table of what a call of each costs. */
import { writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { formatMicroTable, summarize } from './table.ts';
import { type Runner, type Sample, findBenchmarks, startRunner } from './runner.ts';

const USAGE = `npm run bench:micro -- [options] [NAME...]
  NAME          only benchmarks whose name contains it; all unless given
  --json FILE   every round's samples too
  --rounds N    25 unless given
  --beside DIR  the same benchmarks of another checkout in between, and the ratio of the two`;

const ROUND_MS = 15;
const WARM_UP_MS = 600;
const ROOT = resolve(import.meta.dirname, '../..');

/** @throws Error in one line that says what is wrong */
async function main(argv: readonly string[]): Promise<void> {
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      rounds: { type: 'string', default: '25' },
      beside: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return;
  }
  const rounds = Number(values.rounds);
  if (!(Number.isInteger(rounds) && rounds > 0)) throw new Error('--rounds must be 1 or more');
  const all = await findBenchmarks();
  const chosen = all.filter(
    ({ name }) => positionals.length === 0 || positionals.some((text) => name.includes(text)),
  );
  if (chosen.length === 0) {
    throw new Error(`no such benchmark; there are ${all.map(({ name }) => name).join(', ')}`);
  }
  const roots = values.beside === undefined ? [ROOT] : [ROOT, resolve(values.beside)];
  const turns: { readonly runner: Runner; readonly samples: Sample[] }[] = [];
  for (const benchmark of chosen) {
    process.stderr.write(`\r\u001B[Kwarming up ${benchmark.name}`);
    for (const root of roots) {
      const runner = await startRunner(root, benchmark, ROUND_MS, WARM_UP_MS);
      turns.push({ runner, samples: [] });
    }
  }
  for (let round = 1; round <= rounds; round++) {
    process.stderr.write(`\r\u001B[Kround ${round} of ${rounds}`);
    for (const { runner, samples } of turns) samples.push(await runner.round());
  }
  process.stderr.write('\r\u001B[K');
  await Promise.all(turns.map(({ runner }) => runner.stop()));
  const rows = chosen.map((benchmark, i) => {
    const [own, beside] = turns.slice(i * roots.length, (i + 1) * roots.length);
    return summarize(benchmark, own!.samples, beside?.samples ?? null);
  });
  console.log(formatMicroTable(rows));
  if (values.json !== undefined) {
    await writeFile(values.json, `${JSON.stringify(rows, null, 2)}\n`);
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`bench:micro: ${(error as Error).message}\n`);
  // The threads of other benchmarks wait for turns that will not come.
  process.exit(1);
}
