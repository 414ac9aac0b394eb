/** The samples of microbenchmarks, summed up and as a table. Pure. */
import { digits, newTable } from '../report.ts';
import type { Found, Sample } from './runner.ts';

export interface MicroRow {
  readonly name: string;
  /** Of the rounds: quartiles, as a busy machine's slowest round says nothing of the code. */
  readonly nsPerCall: { readonly median: number; readonly low: number; readonly high: number };
  readonly nsPerPacket: number | null;
  readonly gigabytesPerSecond: number | null;
  /** Null where a collection fell into every round. */
  readonly heapBytesPerCall: number | null;
  /** Of the other checkout's; below 1, ours is faster. Each round over its neighbour, the median. */
  readonly ratio: number | null;
  readonly samples: readonly Sample[];
  readonly besideSamples: readonly Sample[] | null;
}

function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) * share)]!;
}

export function summarize(
  { name, packets, bytes }: Pick<Found, 'name' | 'packets' | 'bytes'>,
  samples: readonly Sample[],
  besideSamples: readonly Sample[] | null,
): MicroRow {
  const times = samples.map(({ nsPerCall }) => nsPerCall);
  const median = quantile(times, 0.5);
  const heap = samples.map((sample) => sample.heapBytesPerCall).filter((value) => value !== null);
  const ratios = besideSamples?.map((beside, i) => times[i]! / beside.nsPerCall);
  return {
    name,
    nsPerCall: { median, low: quantile(times, 0.25), high: quantile(times, 0.75) },
    nsPerPacket: packets === 1 ? null : median / packets,
    gigabytesPerSecond: bytes === null ? null : bytes / median,
    heapBytesPerCall: heap.length === 0 ? null : quantile(heap, 0.5),
    ratio: ratios === undefined ? null : quantile(ratios, 0.5),
    samples,
    besideSamples,
  };
}

const orEmpty = (value: number | null): string => (value === null ? '' : digits(value));

/** Below this, what is seen is the measuring itself. */
const HEAP_BYTES_SEEN = 0.5;

export function formatMicroTable(rows: readonly MicroRow[]): string {
  const compared = rows.some(({ ratio }) => ratio !== null);
  const table = newTable([
    'median of a call',
    'ns',
    'quartiles',
    'ns/packet',
    'GB/s',
    'heap bytes',
    ...(compared ? ['ratio'] : []),
  ]);
  for (const row of rows) {
    const { median, low, high } = row.nsPerCall;
    const heap = row.heapBytesPerCall;
    table.push([
      row.name,
      digits(median),
      `${digits(low)}..${digits(high)}`,
      orEmpty(row.nsPerPacket),
      orEmpty(row.gigabytesPerSecond),
      heap === null ? 'collected' : heap < HEAP_BYTES_SEEN ? '0' : digits(heap),
      ...(compared ? [row.ratio === null ? '' : `${row.ratio.toFixed(2)}x`] : []),
    ]);
  }
  return table.toString();
}
