/** The benchmark's results as a table, as JSON and as a chart. Pure. */
import Table from 'cli-table3';
import type { CniFigures } from './cni.ts';
import type { Measure, Sample } from './measures.ts';
import { type Variant, VARIANTS } from './setting.ts';

/** One measure: every variant's samples, and those of its baseline that stood beside `plain`'s. */
export interface Row {
  readonly measure: Omit<Measure, 'take'>;
  readonly samples: Readonly<Record<Variant, readonly Sample[]>>;
  readonly besidePlain: readonly Sample[];
}

/** Of Weft's daemons while they carried bulk TCP between nodes. */
export interface DaemonReport {
  readonly rssBytes: number;
  /** User time / (user + system time), 0..1; null when they did nothing. */
  readonly userShare: number | null;
}

export interface Report {
  readonly rows: readonly Row[];
  readonly daemon: DaemonReport | null;
}

const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** NaN of none. @param share  0..1 */
export const percentile = (values: readonly number[], share: number): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * share)] ?? Number.NaN;

/** Of an even number, the mean of the two in the middle; NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const [low, high] = [sorted[(sorted.length - 1) >> 1], sorted[sorted.length >> 1]];
  return low === undefined || high === undefined ? Number.NaN : (low + high) / 2;
}

const valuesOf = (samples: readonly Sample[]): number[] => samples.map((sample) => sample.value);

/** The variant's mean over the baseline's that was measured next to it; null when either is missing. */
export function ratioOf(row: Row, variant: Variant): number | null {
  const { baseline } = row.measure;
  if (baseline === null) return null;
  const own = row.samples[variant];
  const beside = variant === 'plain' && row.besidePlain.length > 0;
  const base = beside ? row.besidePlain : row.samples[baseline];
  if (own.length === 0 || base.length === 0) return null;
  return mean(valuesOf(own)) / mean(valuesOf(base));
}

/** Three significant digits. */
export const digits = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);

/** `5.31 (5.20..5.42)`: mean and spread. */
function cell(values: readonly number[]): string {
  if (values.length === 0) return '';
  if (values.length === 1) return digits(values[0]!);
  return `${digits(mean(values))} (${digits(Math.min(...values))}..${digits(Math.max(...values))})`;
}

const ratioCell = (ratio: number | null): string => (ratio === null ? '' : `${ratio.toFixed(2)}x`);

export const newTable = (head: string[]): InstanceType<typeof Table> =>
  new Table({ head, style: { head: [], border: [], compact: true } });

/** Of the variants, those that were measured. */
const shownIn = (rows: readonly Row[]): Variant[] =>
  VARIANTS.filter((variant) => rows.some((row) => row.samples[variant].length > 0));

const pick = (row: Row, variant: Variant, choose: (sample: Sample) => number | undefined): string =>
  cell(row.samples[variant].map(choose).filter((value) => value !== undefined));

/** The rows of one baseline. Variants without a sample have no column. */
function formatValues(rows: readonly Row[], baseline: Variant): string {
  const shown = shownIn(rows);
  const compared = shown.filter((variant) =>
    rows.some((row) => variant !== baseline && ratioOf(row, variant) !== null),
  );
  const values = newTable([
    'mean (min..max)',
    'mode',
    'unit',
    ...shown,
    ...compared.map((variant) => `${variant}/${baseline}`),
  ]);
  for (const row of rows) {
    const { label, mode, unit, kind } = row.measure;
    const columns = shown.map((variant) => pick(row, variant, ({ value }) => value));
    const ratios = compared.map((variant) => ratioCell(ratioOf(row, variant)));
    values.push([label, mode, unit, ...columns, ...ratios]);
    if (kind === 'pingPong') {
      const tails = shown.map((variant) => pick(row, variant, ({ p99 }) => p99));
      values.push([label.replace('p50', 'p99'), mode, unit, ...tails, ...compared.map(() => '')]);
    }
  }
  return values.toString();
}

function formatCpu(rows: readonly Row[]): string {
  const shown = shownIn(rows);
  const table = newTable(['CPU seconds per Gb', 'mode', ...shown]);
  for (const row of rows) {
    const { label, mode } = row.measure;
    const columns = shown.map((variant) => pick(row, variant, (it) => it.cpuSecondsPerGb));
    table.push([label, mode, ...columns]);
  }
  return table.toString();
}

const CNI_LINES: readonly (readonly [label: string, choose: (figures: CniFigures) => number])[] = [
  ['ADD p50, ms', (it) => it.p50Ms],
  ['ADD p99, ms', (it) => it.p99Ms],
  ['longest ADD, ms', (it) => it.maxMs],
  ['ADDs per second', (it) => it.addsPerSecond],
  ['CPU ms of an ADD: plugin', (it) => it.cpuMs.plugin],
  ['  daemon', (it) => it.cpuMs.daemon],
  ['  what the daemon starts', (it) => it.cpuMs.daemonPrograms],
  ['DEL p50, ms', (it) => it.deleteP50Ms],
  ['DEL p99, ms', (it) => it.deleteP99Ms],
  ['DELs per second', (it) => it.deletesPerSecond],
];

/** Pods added and deleted: nothing stands beside them. */
function formatCni(rows: readonly Row[]): string {
  const table = newTable(['pods, by the plugin', ...rows.map(({ measure }) => measure.label)]);
  for (const [label, choose] of CNI_LINES) {
    const columns = rows.map((row) => pick(row, 'weft', ({ cni }) => cni && choose(cni)));
    table.push([label, ...columns]);
  }
  return table.toString();
}

const BASELINES = ['kernel', 'veth'] as const;

/** A table of values for each baseline, one of CPU, one of pods added, and a line on the daemons. */
export function formatTables(report: Report): string {
  const parts: string[] = [];
  const add = (rows: readonly Row[], format: (rows: readonly Row[]) => string): void => {
    if (shownIn(rows).length > 0) parts.push(format(rows));
  };
  const where = (wanted: (measure: Row['measure']) => boolean): Row[] =>
    report.rows.filter(({ measure }) => wanted(measure));
  for (const baseline of BASELINES) {
    const rows = where((it) => it.baseline === baseline);
    add(rows, (it) => formatValues(it, baseline));
  }
  add(
    where(({ kind }) => kind === 'bulkTcp'),
    formatCpu,
  );
  add(
    where(({ kind }) => kind === 'cni'),
    formatCni,
  );
  if (report.daemon !== null) {
    const { rssBytes, userShare } = report.daemon;
    const share = userShare === null ? 'none' : `${(userShare * 100).toFixed(1)} %`;
    parts.push(
      `weft daemon: ${(rssBytes / 2 ** 20).toFixed(0)} MiB resident; user mode's share of its CPU under bulk load: ${share}`,
    );
  }
  return parts.join('\n');
}

/** Weft, and under its own name what it is compared with. */
export type Comparison<Name extends Variant = Variant> = {
  readonly [name in 'weft' | Name]: number | null;
} & { readonly ratio: number | null };

/** Over all rows: means of the rows' means, and their quotient. */
function compare<Name extends Variant>(rows: readonly Row[], baseline: Name): Comparison<Name> {
  const over = (variant: Variant): number | null => {
    const means = rows
      .filter((row) => row.samples[variant].length > 0)
      .map((row) => mean(valuesOf(row.samples[variant])));
    return means.length === 0 ? null : mean(means);
  };
  const [weft, base] = [over('weft'), over(baseline)];
  const ratio = weft === null || base === null ? null : weft / base;
  return { weft, [baseline]: base, ratio } as Comparison<Name>;
}

/** Over all runs: their means, and of the longest ADD the longest. */
function cniOf(rows: readonly Row[]): CniFigures | null {
  const all = rows.flatMap(({ samples }) => samples.weft.flatMap(({ cni }) => cni ?? []));
  if (all.length === 0) return null;
  const over = (choose: (it: CniFigures) => number): number => mean(all.map(choose));
  return {
    adds: all.reduce((sum, it) => sum + it.adds, 0),
    p50Ms: over((it) => it.p50Ms),
    p99Ms: over((it) => it.p99Ms),
    maxMs: Math.max(...all.map((it) => it.maxMs)),
    addsPerSecond: over((it) => it.addsPerSecond),
    deleteP50Ms: over((it) => it.deleteP50Ms),
    deleteP99Ms: over((it) => it.deleteP99Ms),
    deletesPerSecond: over((it) => it.deletesPerSecond),
    cpuMs: {
      plugin: over((it) => it.cpuMs.plugin),
      daemon: over((it) => it.cpuMs.daemon),
      daemonPrograms: over((it) => it.cpuMs.daemonPrograms),
    },
  };
}

export interface JsonReport {
  readonly bulkTcp: {
    readonly offload: Comparison<'kernel'>;
    readonly wire: Comparison<'kernel'>;
  };
  readonly udp64: Comparison<'kernel'>;
  readonly udp1400: Comparison<'kernel'>;
  readonly pingPongP50: Comparison<'kernel'>;
  /** One stream. */
  readonly localTcp: Comparison<'veth'>;
  readonly localTcp8: Comparison<'veth'>;
  readonly localUdp64: Comparison<'veth'>;
  /** Ten callers at once. */
  readonly cniAdd: CniFigures | null;
  readonly cniAddAlone: CniFigures | null;
  readonly floors: readonly Floor[];
  readonly daemon: DaemonReport | null;
  readonly measures: readonly object[];
}

/** Units: Gb/s, thousands of packets a second, microseconds of the whole round trip. */
export function toJson(report: Report): JsonReport {
  const named = (prefix: string): Row[] =>
    report.rows.filter(({ measure: { name } }) => name === prefix || name.startsWith(`${prefix}.`));
  const figures = {
    bulkTcp: {
      offload: compare(named('bulkTcp.offload'), 'kernel'),
      wire: compare(named('bulkTcp.wire'), 'kernel'),
    },
    udp64: compare(named('udp64'), 'kernel'),
    udp1400: compare(named('udp1400'), 'kernel'),
    pingPongP50: compare(named('pingPong'), 'kernel'),
    localTcp: compare(named('localTcp.1'), 'veth'),
    localTcp8: compare(named('localTcp.8'), 'veth'),
    localUdp64: compare(named('localUdp64'), 'veth'),
    cniAdd: cniOf(named('cniAdd.10')),
    cniAddAlone: cniOf(named('cniAdd.alone')),
  };
  return {
    ...figures,
    floors: floors(figures),
    daemon: report.daemon,
    measures: report.rows.map((row) => ({
      name: row.measure.name,
      mode: row.measure.mode,
      unit: row.measure.unit,
      better: row.measure.better,
      baseline: row.measure.baseline,
      ratios: Object.fromEntries(VARIANTS.map((variant) => [variant, ratioOf(row, variant)])),
      samples: row.samples,
      baselineBesidePlain: row.besidePlain,
    })),
  };
}

export interface Floor {
  readonly name: string;
  /** A ratio, or in the unit that the name gives. */
  readonly value: number | null;
  readonly met: boolean | null;
}

const atLeast = (name: string, value: number | null, limit: number): Floor => ({
  name: `${name} >= ${limit}`,
  value,
  met: value === null ? null : value >= limit,
});

const atMost = (name: string, value: number | null, limit: number, unit = ''): Floor => ({
  name: `${name} <= ${limit}${unit}`,
  value,
  met: value === null ? null : value <= limit,
});

/** What Weft must reach: ratios, and times of its own; null where it was not measured. */
function floors(json: Omit<JsonReport, 'floors' | 'daemon' | 'measures'>): Floor[] {
  return [
    atLeast('bulk TCP, offload', json.bulkTcp.offload.ratio, 0.5),
    atLeast('bulk TCP, wire', json.bulkTcp.wire.ratio, 0.5),
    atLeast('UDP 64 B', json.udp64.ratio, 0.6),
    atMost('round trip p50', json.pingPongP50.ratio, 2),
    atLeast('local TCP, of a routed veth pair', json.localTcp.ratio, 0.45),
    atMost('10 ADDs at once, p50', json.cniAdd?.p50Ms ?? null, 120, ' ms'),
    atMost('10 ADDs at once, p99', json.cniAdd?.p99Ms ?? null, 400, ' ms'),
  ];
}

const COLOURS: Readonly<Record<Variant, string>> = {
  weft: '#2a6fdb',
  kernel: '#555555',
  veth: '#b5b5b5',
  plain: '#8fb8f5',
};

const escapeXml = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

/** Bars of each variant's ratio to what the row is compared with, whose line is at 1. */
export function toSvg(report: Report): string {
  const rows = report.rows.filter(({ measure }) => measure.baseline !== null);
  const barOf = (row: Row, variant: Variant): number | null =>
    variant === row.measure.baseline ? null : ratioOf(row, variant);
  const shown = VARIANTS.filter((variant) => rows.some((row) => barOf(row, variant) !== null));
  const [left, top, width, bar, gap] = [310, 44, 480, 13, 14];
  const group = shown.length * bar + gap;
  const largest = Math.max(
    1,
    ...rows.flatMap((row) => shown.map((variant) => barOf(row, variant) ?? 0)),
  );
  const x = (ratio: number): number => Math.round((ratio / largest) * width);
  const height = top + rows.length * group + 10;
  const parts = shown.map((variant, i) => {
    const at = left + i * 90;
    return `<rect x="${at}" y="10" width="12" height="12" fill="${COLOURS[variant]}"/><text x="${at + 17}" y="20">${variant}</text>`;
  });
  for (const [i, row] of rows.entries()) {
    const y = top + i * group;
    const { better, baseline } = row.measure;
    const note = better === 'less' ? ', less is better' : '';
    const beside = baseline === 'kernel' ? row.measure.mode : 'beside veth';
    const label = `${row.measure.label}, ${beside}${note}`;
    parts.push(`<text x="${left - 8}" y="${y + bar}" text-anchor="end">${escapeXml(label)}</text>`);
    for (const [j, variant] of shown.entries()) {
      const ratio = barOf(row, variant);
      if (ratio === null) continue;
      const barY = y + j * bar;
      parts.push(
        `<rect x="${left}" y="${barY}" width="${x(ratio)}" height="${bar - 2}" fill="${COLOURS[variant]}"/>`,
        `<text x="${left + x(ratio) + 4}" y="${barY + bar - 3}" font-size="10">${ratio.toFixed(2)}</text>`,
      );
    }
  }
  const line = left + x(1);
  parts.push(
    `<line x1="${line}" y1="${top - 6}" x2="${line}" y2="${height - 8}" stroke="#555555" stroke-dasharray="3 3"/>`,
    `<text x="${line}" y="${top - 9}" text-anchor="middle" font-size="10">kernel VXLAN, or veth = 1</text>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${left + width + 60}" height="${height}" font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n${parts.join('\n')}\n</svg>\n`;
}
