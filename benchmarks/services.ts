/**
 * `npm run bench:services`: what Services and policies cost, Weft's beside kube-proxy's rules on kernel VXLAN,
 * by turns in one run, with a small set of objects (10 Services, 10 policies) and a large one (10,000 Services
 * of 10 endpoints, 1,000 policies, 5,000 pods); and Weft without flows at all
 * (`--max-flows=0`), and without events of them (`--flow-events=false`).
 *
 *   load      from the objects, or rules, to the first answer of a Service of the set, milliseconds
 *   connect   TCP connections to a Service, one after the other, microseconds
 *   bulk      TCP to the server's address for a second, Gb/s
 *   change    from a written policy to its effect on packets of the other node, milliseconds
 *   turn      the same for the only endpoint of a Service
 *   rate      with `--rate N`: the same while N other policies change each second, and of a stream of numbered
 *             datagrams the lost ones, in thousandths; beside it, both while nothing else changes
 */
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { poll } from '../linux/program.ts';
import { bulkTcp } from '../test/lab/traffic/traffic.ts';
import { changeMs, turnMs, underRate } from './changes.ts';
import { median, newTable, percentile } from './report.ts';
import {
  CONNECT,
  FLAVOURS,
  type Flavour,
  type Ground,
  KernelGround,
  WeftGround,
} from './service-grounds.ts';
import { CHURN, LARGE, SMALL, type Sizes, VIP, churn, gate, objectsOf } from './service-objects.ts';
import type { PolicyObject } from './service-objects.ts';

const USAGE = `npm run bench:services -- [options]
  --rounds N          of small, large, large, small; 3 unless given
  --connects N        connections in each; 2000 unless given
  --changes N         of one policy, and of one Service, for each size; 40 unless given
  --rate N            policies changed a second, for --seconds, with each set; none unless given
  --seconds N         10 unless given
  --iptables FLAVOUR  ${FLAVOURS.join(' or ')}; ${FLAVOURS[0]} unless given
  --json FILE         all results`;

const LOADED_MS = 300_000;

const SETS = { small: SMALL, large: LARGE } as const;
type SetName = keyof typeof SETS;

class Results {
  readonly #all: Record<string, number[]> = {};

  note(name: string, value: number): void {
    (this.#all[name] ??= []).push(value);
    process.stderr.write(`${name} ${value.toFixed(2)}\n`);
  }

  ratio(a: string, b: string): string {
    return (median(this.#all[a] ?? []) / median(this.#all[b] ?? [])).toFixed(3);
  }

  /** Of all measures that both have, with both sets. */
  comparisons(): readonly string[] {
    const lines: string[] = [];
    for (const name of Object.keys(this.#all)) {
      const measure = /^weft\.(.*)\bsmall\b(.*)$/.exec(name)?.slice(1);
      // Losses are nought as a rule, and have no ratio.
      if (measure === undefined || /lost|longestGap|written/.test(name)) continue;
      const of = (ground: string, set: SetName): string => `${ground}.${measure.join(set)}`;
      const kernel = [of('kernel', 'small'), of('kernel', 'large')] as const;
      const weft = [of('weft', 'small'), of('weft', 'large')] as const;
      if (![...kernel, ...weft].every((it) => it in this.#all)) continue;
      lines.push(
        `${measure.join('').replaceAll(/\.+/g, ' ').trim()}: large of small, ` +
          `weft ${this.ratio(weft[1], weft[0])}, kernel ${this.ratio(kernel[1], kernel[0])}; ` +
          `weft of kernel, small ${this.ratio(weft[0], kernel[0])}, large ${this.ratio(weft[1], kernel[1])}`,
      );
    }
    if ('weft.bulk.untracked' in this.#all) {
      const bulkOf = (name: string): string => this.ratio('weft.bulk.tracked', `weft.bulk.${name}`);
      lines.push(
        `bulk: tracked of untracked ${bulkOf('untracked')}, of tracked without events ${bulkOf('silent')}`,
        `connect p50: with events of without ${this.ratio('weft.connect.tracked.p50', 'weft.connect.silent.p50')}`,
      );
    }
    return lines;
  }

  toString(): string {
    const table = newTable(['', 'median', 'p99', 'runs']);
    for (const [name, values] of Object.entries(this.#all)) {
      const row = [median(values), percentile(values, 0.99)].map((it) => it.toFixed(2));
      table.push([name, ...row, values.length]);
    }
    return table.toString();
  }

  toJSON(): object {
    return this.#all;
  }
}

const answers = (ground: Ground, sizes: Sizes) => async (): Promise<true | undefined> => {
  const question = { protocol: 'TCP', address: sizes.markerVip, port: 80, timeoutMs: 500 } as const;
  return (await ground.prober.ask(question)) === '' ? true : undefined;
};

/** @returns milliseconds until a Service that only this set has answers */
async function load(
  ground: Ground,
  sizes: Sizes,
  policies: readonly PolicyObject[] = [],
): Promise<number> {
  await ground.clear();
  await ground.settled();
  const objects = objectsOf(sizes, ground.server.address4!);
  const write = ground.prepare(objects, [gate(false), ...policies]);
  const begin = performance.now();
  await write();
  await poll(answers(ground, sizes), AbortSignal.timeout(LOADED_MS), 5);
  const ms = performance.now() - begin;
  await ground.settled();
  return ms;
}

async function connects(ground: Ground, count: number): Promise<{ p50: number; p99: number }> {
  const words = ['ask', `${count}`, VIP, '80'];
  const text = await ground.client.run([process.execPath, CONNECT, ...words]);
  return JSON.parse(text) as { p50: number; p99: number };
}

async function bulk({ client, server }: Ground, seconds: number): Promise<number> {
  const { bitsPerSecond } = await bulkTcp(client, server, server.address4!, { seconds });
  return bitsPerSecond / 1e9;
}

/** A B B A, so that a drift of the machine falls on all alike. */
const thereAndBack = <T>(items: readonly T[]): readonly T[] => [...items, ...items.toReversed()];

interface Options {
  readonly rounds: number;
  readonly connects: number;
  readonly changes: number;
  /** A second; 0: not measured. */
  readonly rate: number;
  readonly seconds: number;
  readonly flavour: Flavour;
  readonly json: string | undefined;
}

/** @throws Error in one line that says which option is wrong */
function parseOptions(argv: readonly string[]): Options | 'help' {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      help: { type: 'boolean', default: false },
      json: { type: 'string' },
      rounds: { type: 'string', default: '3' },
      connects: { type: 'string', default: '2000' },
      changes: { type: 'string', default: '40' },
      rate: { type: 'string', default: '0' },
      seconds: { type: 'string', default: '10' },
      iptables: { type: 'string', default: FLAVOURS[0] },
    },
  });
  if (values.help) return 'help';
  const flavour = FLAVOURS.find((it) => it === values.iptables);
  if (flavour === undefined) throw new Error(`--iptables is one of ${FLAVOURS.join(', ')}`);
  const count = (name: 'rounds' | 'connects' | 'changes' | 'rate' | 'seconds'): number => {
    const value = Number(values[name]);
    if (!Number.isSafeInteger(value) || value < 0) throw new Error(`--${name} is a number`);
    return value;
  };
  return {
    rounds: count('rounds'),
    connects: count('connects'),
    changes: count('changes'),
    rate: count('rate'),
    seconds: count('seconds'),
    flavour,
    json: values.json,
  };
}

/** With each set: while nothing else changes, and while other policies do. */
async function measureRate(
  grounds: readonly Ground[],
  { rate, seconds }: Options,
  results: Results,
): Promise<void> {
  const others = Array.from({ length: CHURN }, (_, i) => churn(i, i));
  for (const name of ['small', 'large'] as const) {
    for (const ground of grounds) await load(ground, SETS[name], others);
    for (const perSecond of [0, rate]) {
      for (const ground of grounds) {
        const {
          changeMs: times,
          changesPerSecond,
          stream,
        } = await underRate(ground, perSecond, seconds);
        const prefix = `${ground.name}.rate${perSecond}.${name}`;
        for (const ms of times) results.note(`${prefix}.change`, ms);
        if (perSecond > 0) results.note(`${prefix}.written`, changesPerSecond);
        results.note(`${prefix}.lost`, (stream.lost / stream.sent) * 1000);
        results.note(`${prefix}.longestGap`, stream.longestGap);
        await ground.settled();
      }
    }
  }
}

async function main(options: Options): Promise<void> {
  await using weft = await WeftGround.create();
  await using kernel = await KernelGround.create(options.flavour);
  const grounds = [weft, kernel] as const;
  const results = new Results();
  let loaded: SetName | null = null;
  const loadAll = async (name: SetName): Promise<void> => {
    if (loaded === name) return;
    for (const ground of grounds) {
      results.note(`${ground.name}.load.${name}`, await load(ground, SETS[name]));
    }
    loaded = name;
  };
  for (let round = 0; round < options.rounds; round++) {
    for (const name of thereAndBack(['small', 'large'] as const)) {
      await loadAll(name);
      for (const ground of thereAndBack(grounds)) {
        const { p50, p99 } = await connects(ground, options.connects);
        results.note(`${ground.name}.connect.${name}.p50`, p50);
        results.note(`${ground.name}.connect.${name}.p99`, p99);
        results.note(`${ground.name}.bulk.${name}`, await bulk(ground, 1));
      }
      results.note(`weft.resident.${name}`, await weft.residentMiB());
    }
  }
  for (const name of ['small', 'large'] as const) {
    await loadAll(name);
    for (const [measure, take] of [
      ['change', changeMs],
      ['turn', turnMs],
    ] as const) {
      for (const ground of thereAndBack(grounds)) {
        await Promise.all(grounds.map((it) => it.settled()));
        for (let i = 0; i < options.changes / 2; i++) {
          results.note(`${ground.name}.${measure}.${name}`, await take(ground, i % 2 === 0));
        }
        // The next one's first change is one, too.
        if (Math.ceil(options.changes / 2) % 2 === 1) await take(ground, false);
      }
    }
  }
  if (options.rate > 0) await measureRate(grounds, options, results);
  for (let round = 0; round < options.rounds; round++) {
    for (const [name, flags] of thereAndBack([
      ['tracked', []],
      ['silent', ['--flow-events=false']],
      ['untracked', ['--max-flows=0']],
    ] as const)) {
      await weft.restart(flags);
      await poll(
        async () => ((await bulk(weft, 1)) > 0 ? true : undefined),
        AbortSignal.timeout(20_000),
      );
      // The tracked one reads the whole set anew, on the processors that carry the packets.
      await weft.settled();
      results.note(`weft.bulk.${name}`, await bulk(weft, 2));
      if (name === 'untracked') continue;
      const { p50 } = await connects(weft, options.connects);
      results.note(`weft.connect.${name}.p50`, p50);
    }
  }
  console.log(`iptables-${options.flavour}`);
  console.log(results.toString());
  for (const line of results.comparisons()) console.log(line);
  if (options.json !== undefined) await writeFile(options.json, JSON.stringify(results, null, 2));
}

if (process.getuid?.() !== 0) {
  process.stderr.write('npm run bench:services needs root, for it makes network namespaces\n');
  process.exitCode = 1;
} else {
  let options: Options | 'help';
  try {
    options = parseOptions(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`bench:services: ${(error as Error).message}\n`);
    process.exit(2);
  }
  if (options === 'help') console.log(USAGE);
  else await main(options);
}
