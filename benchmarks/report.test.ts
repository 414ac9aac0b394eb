import test from 'ava';
import { type CniFigures, figuresOf, percentile } from './cni.ts';
import { MEASURES, QUICK, type Sample } from './measures.ts';
import { type Row, formatTables, ratioOf, toJson, toSvg } from './report.ts';
import type { Variant } from './setting.ts';

const sample = (value: number): Sample => ({ value });

type Values = Partial<Record<Variant, readonly number[]>>;

function row(name: string, values: Values, besidePlain: readonly number[] = []): Row {
  const measure = MEASURES.find((each) => each.name === name)!;
  const of = (variant: Variant): Sample[] => (values[variant] ?? []).map(sample);
  return {
    measure,
    samples: { weft: of('weft'), kernel: of('kernel'), veth: of('veth'), plain: of('plain') },
    besidePlain: besidePlain.map(sample),
  };
}

/** A hundred ADDs of 1 to 100 ms, and as many DELs of half that. */
const cni = figuresOf({
  add: {
    ms: Array.from({ length: 100 }, (_, i) => 100 - i),
    wholeMs: 2000,
    cpuMs: { plugin: 1200, daemon: 500, daemonPrograms: 300 },
  },
  delete: {
    ms: Array.from({ length: 100 }, (_, i) => (100 - i) / 2),
    wholeMs: 1000,
    cpuMs: { plugin: 1000, daemon: 400, daemonPrograms: 300 },
  },
});
const slowCni = { ...cni, p50Ms: 150, p99Ms: 301, maxMs: 500 };

function cniRow(name: string, figures: readonly CniFigures[]): Row {
  const weft = figures.map((each): Sample => ({ value: each.p50Ms, cni: each }));
  return { ...row(name, {}), samples: { weft, kernel: [], veth: [], plain: [] } };
}

const report = {
  rows: [
    row(
      'bulkTcp.offload.1.forward',
      { weft: [4, 6], kernel: [10, 10], veth: [20], plain: [1, 2] },
      [10, 20],
    ),
    row('bulkTcp.offload.8.reverse', { weft: [9], kernel: [10] }),
    row('bulkTcp.wire.1.forward', { weft: [1], kernel: [4] }),
    row('pingPong', { weft: [150, 170], kernel: [80, 80] }),
    row('udp64', { kernel: [70] }),
    row('localTcp.1', { weft: [8], veth: [20], plain: [1] }, [5]),
    row('localTcp.8', { weft: [10], veth: [20] }),
    cniRow('cniAdd.10', [cni, slowCni]),
    cniRow('cniAdd.alone', []),
  ],
  daemon: { rssBytes: 100 * 2 ** 20, userShare: 0.125 },
};

test('ratios are of means to what the measure is compared with, and of plain to the runs beside it', (t) => {
  const ratios: [string, Variant, number | null][] = [
    ['bulkTcp.offload.1.forward', 'weft', 0.5],
    ['bulkTcp.offload.1.forward', 'veth', 2],
    ['bulkTcp.offload.1.forward', 'plain', 0.1],
    ['bulkTcp.offload.8.reverse', 'veth', null],
    ['udp64', 'weft', null],
    ['localTcp.1', 'weft', 0.4],
    ['localTcp.1', 'plain', 0.2],
    ['localTcp.1', 'kernel', null],
    ['cniAdd.10', 'weft', null],
  ];
  for (const [name, variant, ratio] of ratios) {
    const found = report.rows.find(({ measure }) => measure.name === name)!;
    t.is(ratioOf(found, variant), ratio, `${name} ${variant}`);
  }
});

test('percentiles are by nearest rank', (t) => {
  t.deepEqual(
    [0, 0.5, 0.99, 1].map((share) => percentile([30, 10, 20], share)),
    [10, 20, 30, 30],
  );
  t.deepEqual(cni, {
    adds: 100,
    p50Ms: 50,
    p99Ms: 99,
    maxMs: 100,
    addsPerSecond: 50,
    deleteP50Ms: 25,
    deleteP99Ms: 49.5,
    deletesPerSecond: 100,
    cpuMs: { plugin: 12, daemon: 5, daemonPrograms: 3 },
  });
});

test('JSON gives weft, what it is compared with, and their ratio, by name', (t) => {
  const json = toJson(report);
  t.deepEqual(json.bulkTcp.offload, { weft: 7, kernel: 10, ratio: 0.7 });
  t.deepEqual(json.bulkTcp.wire, { weft: 1, kernel: 4, ratio: 0.25 });
  t.deepEqual(json.pingPongP50, { weft: 160, kernel: 80, ratio: 2 });
  t.deepEqual(json.udp64, { weft: null, kernel: 70, ratio: null });
  t.deepEqual(json.localTcp, { weft: 8, veth: 20, ratio: 0.4 });
  t.deepEqual(json.localTcp8, { weft: 10, veth: 20, ratio: 0.5 });
  t.deepEqual(json.localUdp64, { weft: null, veth: null, ratio: null });
});

test('JSON gives of pods added the means over the runs, and the longest', (t) => {
  const { cniAdd, cniAddAlone } = toJson(report);
  t.deepEqual(cniAdd, { ...cni, adds: 200, p50Ms: 100, p99Ms: 200, maxMs: 500 });
  t.is(cniAddAlone, null);
});

test('floors: met, missed and not measured', (t) => {
  t.deepEqual(
    toJson(report).floors.map(({ name, value, met }) => [name, value, met]),
    [
      ['bulk TCP, offload >= 0.5', 0.7, true],
      ['bulk TCP, wire >= 0.5', 0.25, false],
      ['UDP 64 B >= 0.6', null, null],
      ['round trip p50 <= 2', 2, true],
      ['local TCP, of a routed veth pair >= 0.45', 0.4, false],
      ['10 ADDs at once, p50 <= 120 ms', 100, true],
      ['10 ADDs at once, p99 <= 400 ms', 200, true],
    ],
  );
});

test('the tables show mean, spread and ratio; the chart one bar for each ratio', (t) => {
  const text = formatTables(report);
  t.regex(text, /TCP 1 stream -> +│ offload │ Gb\/s +│ 5\.00 \(4\.00\.\.6\.00\) │ 10\.0/);
  t.regex(text, /0\.50x/);
  t.regex(text, /local TCP 1 stream +│ offload │ Gb\/s │ 8\.00 │ 20\.0 │ 1\.00  │ 0\.40x/);
  t.regex(text, /pods, by the plugin +│ 10 at once/);
  t.regex(text, /ADD p50, ms +│ 100 \(50\.0\.\.150\)/);
  t.regex(text, /100 MiB resident; .*12\.5 %/);
  t.false(toSvg(report).includes('10 at once'));
  const bars = toSvg(report).match(/height="11"/g);
  t.is(bars?.length, 9);
});

test('a table without a sample is left out, and so is a column', (t) => {
  const text = formatTables({ rows: [row('localTcp.1', { weft: [8] })], daemon: null });
  t.true(text.includes('weft'));
  for (const absent of ['kernel', 'ADD']) t.false(text.includes(absent), absent);
  t.regex(text.split('\n')[1]!, /unit │ weft │$/);
});

test('measures have unique names, and the quick ones exist', (t) => {
  const names = new Set(MEASURES.map(({ name }) => name));
  t.is(names.size, MEASURES.length);
  t.deepEqual(
    [...QUICK].filter((name) => !names.has(name)),
    [],
  );
});
