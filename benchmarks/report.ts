/** The benchmark's results as a table, as JSON and as a chart. Pure. */
import Table from 'cli-table3';
import type { Measure, Sample } from './measures.ts';
import { type Variant, VARIANTS } from './setting.ts';

/** One measure: every variant's samples, and those of kernel VXLAN that stood beside `plain`'s. */
export interface Row {
  readonly measure: Pick<Measure, 'name' | 'label' | 'mode' | 'unit' | 'better' | 'kind'>;
  readonly samples: Readonly<Record<Variant, readonly Sample[]>>;
  readonly besidePlain: readonly Sample[];
}

/** Of Weft's daemons while they carried bulk TCP. */
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

const valuesOf = (samples: readonly Sample[]): number[] => samples.map((sample) => sample.value);

/** The variant's mean over kernel VXLAN's that was measured next to it; null when either is missing. */
export function ratioOf(row: Row, variant: Variant): number | null {
  const own = row.samples[variant];
  const beside = variant === 'plain' && row.besidePlain.length > 0;
  const kernel = beside ? row.besidePlain : row.samples.kernel;
  if (own.length === 0 || kernel.length === 0) return null;
  return mean(valuesOf(own)) / mean(valuesOf(kernel));
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

/** A table of values, one of CPU, and a line on the daemons. Variants without a sample have no column. */
export function formatTables(report: Report): string {
  const shown = VARIANTS.filter((variant) =>
    report.rows.some((row) => row.samples[variant].length > 0),
  );
  const compared = shown.filter((variant) => variant !== 'kernel');
  const values = newTable([
    'mean (min..max)',
    'mode',
    'unit',
    ...shown,
    ...compared.map((variant) => `${variant}/kernel`),
  ]);
  const cpu = newTable(['CPU seconds per Gb', 'mode', ...shown]);
  for (const row of report.rows) {
    const { measure } = row;
    const columns = shown.map((variant) => cell(valuesOf(row.samples[variant])));
    const ratios = compared.map((variant) => ratioCell(ratioOf(row, variant)));
    values.push([measure.label, measure.mode, measure.unit, ...columns, ...ratios]);
    const pick = (choose: (sample: Sample) => number | undefined): string[] =>
      shown.map((variant) =>
        cell(row.samples[variant].map(choose).filter((value) => value !== undefined)),
      );
    if (measure.kind === 'bulkTcp') {
      cpu.push([measure.label, measure.mode, ...pick((sample) => sample.cpuSecondsPerGb)]);
    }
    if (measure.kind === 'pingPong') {
      const tails = pick((sample) => sample.p99);
      values.push([
        measure.label.replace('p50', 'p99'),
        measure.mode,
        measure.unit,
        ...tails,
        ...compared.map(() => ''),
      ]);
    }
  }
  const parts = [values.toString()];
  if (cpu.length > 0) parts.push(cpu.toString());
  if (report.daemon !== null) {
    const { rssBytes, userShare } = report.daemon;
    const share = userShare === null ? 'none' : `${(userShare * 100).toFixed(1)} %`;
    parts.push(
      `weft daemon: ${(rssBytes / 2 ** 20).toFixed(0)} MiB resident; user mode's share of its CPU under bulk load: ${share}`,
    );
  }
  return parts.join('\n');
}

export interface Comparison {
  readonly weft: number | null;
  readonly kernel: number | null;
  readonly ratio: number | null;
}

/** Over all rows of one kind: means of the rows' means, and their quotient. */
function compare(rows: readonly Row[]): Comparison {
  const over = (variant: Variant): number | null => {
    const means = rows
      .filter((row) => row.samples[variant].length > 0)
      .map((row) => mean(valuesOf(row.samples[variant])));
    return means.length === 0 ? null : mean(means);
  };
  const [weft, kernel] = [over('weft'), over('kernel')];
  return { weft, kernel, ratio: weft === null || kernel === null ? null : weft / kernel };
}

export interface JsonReport {
  readonly bulkTcp: { readonly offload: Comparison; readonly wire: Comparison };
  readonly udp64: Comparison;
  readonly udp1400: Comparison;
  readonly pingPongP50: Comparison;
  readonly daemon: DaemonReport | null;
  readonly measures: readonly object[];
}

/** Units: Gb/s, thousands of packets a second, microseconds of the whole round trip. */
export function toJson(report: Report): JsonReport {
  const rows = (wanted: (row: Row) => boolean): Comparison => compare(report.rows.filter(wanted));
  return {
    bulkTcp: {
      offload: rows(({ measure }) => measure.kind === 'bulkTcp' && measure.mode === 'offload'),
      wire: rows(({ measure }) => measure.kind === 'bulkTcp' && measure.mode === 'wire'),
    },
    udp64: rows(({ measure }) => measure.name === 'udp64'),
    udp1400: rows(({ measure }) => measure.name === 'udp1400'),
    pingPongP50: rows(({ measure }) => measure.name === 'pingPong'),
    daemon: report.daemon,
    measures: report.rows.map((row) => ({
      name: row.measure.name,
      mode: row.measure.mode,
      unit: row.measure.unit,
      better: row.measure.better,
      ratios: Object.fromEntries(VARIANTS.map((variant) => [variant, ratioOf(row, variant)])),
      samples: row.samples,
      kernelBesidePlain: row.besidePlain,
    })),
  };
}

export interface Floor {
  readonly name: string;
  readonly ratio: number | null;
  readonly met: boolean | null;
}

const atLeast = (name: string, { ratio }: Comparison, limit: number): Floor => ({
  name: `${name} >= ${limit.toFixed(1)}`,
  ratio,
  met: ratio === null ? null : ratio >= limit,
});

/** What Weft must reach against kernel VXLAN; null where it was not measured. */
export function floors(json: JsonReport): Floor[] {
  const { ratio } = json.pingPongP50;
  return [
    atLeast('bulk TCP, offload', json.bulkTcp.offload, 0.5),
    atLeast('bulk TCP, wire', json.bulkTcp.wire, 0.5),
    atLeast('UDP 64 B', json.udp64, 0.6),
    { name: 'round trip p50 <= 2.0', ratio, met: ratio === null ? null : ratio <= 2 },
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

/** Bars of each variant's ratio to kernel VXLAN, whose line is at 1. */
export function toSvg(report: Report): string {
  const shown = VARIANTS.filter(
    (variant) => variant !== 'kernel' && report.rows.some((row) => ratioOf(row, variant) !== null),
  );
  const [left, top, width, bar, gap] = [310, 44, 480, 13, 14];
  const group = shown.length * bar + gap;
  const largest = Math.max(
    1,
    ...report.rows.flatMap((row) => shown.map((variant) => ratioOf(row, variant) ?? 0)),
  );
  const x = (ratio: number): number => Math.round((ratio / largest) * width);
  const height = top + report.rows.length * group + 10;
  const parts = shown.map((variant, i) => {
    const at = left + i * 90;
    return `<rect x="${at}" y="10" width="12" height="12" fill="${COLOURS[variant]}"/><text x="${at + 17}" y="20">${variant}</text>`;
  });
  for (const [i, row] of report.rows.entries()) {
    const y = top + i * group;
    const note = row.measure.better === 'less' ? ', less is better' : '';
    const label = `${row.measure.label}, ${row.measure.mode}${note}`;
    parts.push(`<text x="${left - 8}" y="${y + bar}" text-anchor="end">${escapeXml(label)}</text>`);
    for (const [j, variant] of shown.entries()) {
      const ratio = ratioOf(row, variant);
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
    `<text x="${line}" y="${top - 9}" text-anchor="middle" font-size="10">kernel VXLAN = 1</text>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${left + width + 60}" height="${height}" font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n${parts.join('\n')}\n</svg>\n`;
}
