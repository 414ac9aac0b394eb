/**
 * Weft beside kernel VXLAN, bare veth, and Weft without offloads, on two labs of one shape in one run.
 * Each measure goes A B B A (`weft kernel veth veth kernel weft`), so that a drift of the machine
 * falls on all alike; ratios are of neighbours, absolute numbers are this machine's on this day. Pods
 * of one node are compared with a routed veth pair; pods added and deleted, with limits in milliseconds.
 */
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { MEASURES, type Measure, QUICK, type Sample } from './measures.ts';
import { type DaemonReport, type Row, digits, formatTables, toJson, toSvg } from './report.ts';
import { type Setting, type Variant, VARIANTS, createSetting } from './setting.ts';

const USAGE = `npm run bench -- [options]
  --quick             about a minute: one-second runs, fewer measures, veth and plain on a few
  --json FILE         results: weft, what it is compared with, and their ratio; times of cniAdd
  --plot FILE.svg     a chart of the ratios
  --only TEXT         only measures whose name contains it (bulkTcp.wire, pingPong, local, cniAdd.10...);
                      repeatable
  --variant LIST      of ${VARIANTS.join(',')}; all unless given
  --seconds N         length of one run; 2 unless given, 1 with --quick. cniAdd.10 adds 50 pods for
                      each, cniAdd.alone adds 10
  --daemon-option O   a further option for weft's daemons; repeatable`;

interface Options {
  readonly quick: boolean;
  readonly json: string | undefined;
  readonly plot: string | undefined;
  readonly only: readonly string[];
  readonly variants: readonly Variant[];
  readonly seconds: number;
  readonly daemonOptions: readonly string[];
}

/** @throws Error in one line that says which option is wrong */
function parseOptions(argv: readonly string[]): Options | 'help' {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      quick: { type: 'boolean', default: false },
      json: { type: 'string' },
      plot: { type: 'string' },
      only: { type: 'string', multiple: true, default: [] },
      variant: { type: 'string', default: VARIANTS.join(',') },
      seconds: { type: 'string' },
      'daemon-option': { type: 'string', multiple: true, default: [] },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  const variants = values.variant.split(',').map((name) => {
    const variant = VARIANTS.find((each) => each === name);
    if (variant === undefined)
      throw new Error(`--variant: "${name}" is not ${VARIANTS.join(', ')}`);
    return variant;
  });
  const seconds = Number(values.seconds ?? (values.quick ? 1 : 2));
  if (!(seconds >= 0.1 && seconds <= 60)) throw new Error(`--seconds must be 0.1 to 60`);
  for (const text of values.only) {
    if (!MEASURES.some((measure) => measure.name.includes(text))) {
      throw new Error(
        `--only ${text}: measures are ${MEASURES.map(({ name }) => name).join(', ')}`,
      );
    }
  }
  return {
    quick: values.quick,
    json: values.json,
    plot: values.plot,
    only: values.only,
    variants,
    seconds,
    daemonOptions: values['daemon-option'],
  };
}

/** With --quick, what veth and plain are measured on. */
const BRIEF: ReadonlySet<string> = new Set(['bulkTcp.offload.1.forward', 'udp64', 'pingPong']);

const palindrome = (variants: Variant[]): Variant[] => [...variants, ...variants.toReversed()];

/** Weft, what it is compared with, and between nodes what the wire alone can do. */
function comparedIn(measure: Measure, options: Options): Variant[] {
  const { baseline } = measure;
  if (baseline === null) return ['weft'];
  return baseline === 'kernel' && !options.quick ? ['weft', baseline, 'veth'] : ['weft', baseline];
}

/** The order of one measure's runs. Plain comes in a second pass, for it needs other daemons. */
function orderOf(measure: Measure, options: Options, pass: 1 | 2): Variant[] {
  const { baseline } = measure;
  const brief = BRIEF.has(measure.name);
  let order: Variant[];
  if (pass === 1) {
    order = palindrome(comparedIn(measure, options));
    if (options.quick && brief) order.push('veth');
  } else {
    // What it is compared with runs again only to stand beside it.
    order = options.quick || baseline === null ? [] : palindrome(['plain', baseline]);
    if (options.quick && brief) order.push('plain');
    if (!options.variants.includes('plain')) order = [];
  }
  return order.filter((variant) => options.variants.includes(variant));
}

/** User and system time that the daemons spend while bulk TCP runs over them. */
class DaemonMeter {
  #user = 0;
  #system = 0;
  #rss = 0;

  async around<T>(setting: Setting, work: () => Promise<T>): Promise<T> {
    const before = await setting.daemonUse();
    const result = await work();
    const after = await setting.daemonUse();
    this.#user += after.userTicks - before.userTicks;
    this.#system += after.systemTicks - before.systemTicks;
    this.#rss = Math.max(this.#rss, after.largestRssBytes);
    return result;
  }

  report(): DaemonReport | null {
    if (this.#rss === 0) return null;
    const all = this.#user + this.#system;
    return { rssBytes: this.#rss, userShare: all === 0 ? null : this.#user / all };
  }
}

async function main(options: Options): Promise<void> {
  const measures = MEASURES.filter(({ name }) =>
    options.only.length === 0
      ? !options.quick || QUICK.has(name)
      : options.only.some((text) => name.includes(text)),
  );
  const begin = performance.now();
  const meter = new DaemonMeter();
  const rows = measures.map((measure) => ({
    measure,
    samples: { weft: [], kernel: [], veth: [], plain: [] } as Record<Variant, Sample[]>,
    besidePlain: [] as Sample[],
  }));
  {
    await using setting = await createSetting(options);
    for (const pass of [1, 2] as const) {
      for (const row of rows) {
        const { measure, samples, besidePlain } = row;
        const order = orderOf(measure, options, pass);
        if (order.length === 0) continue;
        await setting.setMode(measure.mode);
        process.stderr.write(`${measure.label}, ${measure.mode}:`);
        // Round trips and datagram rates settle sooner than TCP's window.
        const isShort = measure.kind === 'udp' || measure.kind === 'pingPong';
        const seconds = options.seconds * (isShort ? 0.4 : 1);
        for (const variant of order) {
          await setting.steer(variant);
          const take = (): Promise<Sample> => measure.take(setting, seconds);
          const metered = variant === 'weft' && measure.name.startsWith('bulkTcp');
          const sample = await (metered ? meter.around(setting, take) : take());
          const isBeside = pass === 2 && variant === measure.baseline;
          (isBeside ? besidePlain : samples[variant]).push(sample);
          process.stderr.write(` ${variant} ${sample.value.toFixed(1)}`);
        }
        process.stderr.write('\n');
      }
    }
  }
  const report: { rows: Row[]; daemon: DaemonReport | null } = { rows, daemon: meter.report() };
  const json = toJson(report);
  console.log(formatTables(report));
  for (const { name, value, met } of json.floors) {
    if (value !== null) console.log(`${met === true ? '✓' : '✗'} ${name}: ${digits(value)}`);
  }
  console.log(`took ${((performance.now() - begin) / 1000).toFixed(0)} s`);
  if (options.json !== undefined) {
    await writeFile(options.json, `${JSON.stringify(json, null, 2)}\n`);
  }
  if (options.plot !== undefined) await writeFile(options.plot, toSvg(report));
}

if (process.getuid?.() !== 0) {
  process.stderr.write('npm run bench needs root, for it makes network namespaces\n');
  process.exitCode = 1;
} else {
  let options: Options | 'help';
  try {
    options = parseOptions(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`bench: ${(error as Error).message}\n`);
    process.exit(2);
  }
  if (options === 'help') console.log(USAGE);
  else await main(options);
}
