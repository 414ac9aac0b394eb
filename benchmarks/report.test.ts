import test from 'ava';
import { MEASURES, QUICK } from './measures.ts';
import { type Row, floors, formatTables, ratioOf, toJson, toSvg } from './report.ts';

const sample = (value: number): { value: number } => ({ value });

function row(name: string, weft: number[], kernel: number[], plain: number[] = []): Row {
  const measure = MEASURES.find((each) => each.name === name)!;
  return {
    measure,
    samples: {
      weft: weft.map(sample),
      kernel: kernel.map(sample),
      veth: [],
      plain: plain.map(sample),
    },
    besidePlain: plain.map((value) => sample(value * 10)),
  };
}

const report = {
  rows: [
    row('bulkTcp.offload.1.forward', [4, 6], [10, 10], [1, 2]),
    row('bulkTcp.offload.8.reverse', [9], [10]),
    row('bulkTcp.wire.1.forward', [1], [4]),
    row('pingPong', [150, 170], [80, 80]),
    row('udp64', [], [70]),
  ],
  daemon: { rssBytes: 100 * 2 ** 20, userShare: 0.125 },
};

test('ratios are of means, and of plain to the kernel runs beside it', (t) => {
  t.is(ratioOf(report.rows[0]!, 'weft'), 0.5);
  t.is(ratioOf(report.rows[0]!, 'plain'), 0.1);
  t.is(ratioOf(report.rows[0]!, 'veth'), null);
  t.is(ratioOf(report.rows[4]!, 'weft'), null);
});

test('JSON gives weft, kernel and ratio of each measure', (t) => {
  const json = toJson(report);
  t.deepEqual(json.bulkTcp.offload, { weft: 7, kernel: 10, ratio: 0.7 });
  t.deepEqual(json.bulkTcp.wire, { weft: 1, kernel: 4, ratio: 0.25 });
  t.deepEqual(json.pingPongP50, { weft: 160, kernel: 80, ratio: 2 });
  t.deepEqual(json.udp64, { weft: null, kernel: 70, ratio: null });
});

test('floors: met, missed and not measured', (t) => {
  t.deepEqual(
    floors(toJson(report)).map(({ name, met }) => [name, met]),
    [
      ['bulk TCP, offload >= 0.5', true],
      ['bulk TCP, wire >= 0.5', false],
      ['UDP 64 B >= 0.6', null],
      ['round trip p50 <= 2.0', true],
    ],
  );
});

test('the table shows mean, spread and ratio; the chart one bar for each ratio', (t) => {
  const text = formatTables(report);
  t.regex(text, /TCP 1 stream -> +│ offload │ Gb\/s +│ 5\.00 \(4\.00\.\.6\.00\) │ 10\.0/);
  t.regex(text, /0\.50x/);
  t.regex(text, /100 MiB resident; .*12\.5 %/);
  t.false(text.includes('veth'));
  const bars = toSvg(report).match(/height="11"/g);
  t.is(bars?.length, 5);
});

test('measures have unique names, and the quick ones exist', (t) => {
  const names = new Set(MEASURES.map(({ name }) => name));
  t.is(names.size, MEASURES.length);
  t.deepEqual(
    [...QUICK].filter((name) => !names.has(name)),
    [],
  );
});
