import test from 'ava';
import {
  countLines,
  cutLines,
  flowLinesText,
  lineOf,
  linesOf,
  parseFlowLines,
  parseLine,
} from './flow-lines.ts';
import type { FlowMessage, FollowedMessage } from './messages.ts';

const flow = (sequence: number): FlowMessage =>
  ({
    node: 'n2',
    sequence,
    time: '',
    verdict: 'forwarded',
    protocol: 'TCP',
    tcpFlags: '',
    source: {},
    destination: {},
  }) as FlowMessage;
const HEAD = { node: 'n2', next: 9, run: 'a', lost: 3 };

test('what one node writes, another one hands on as it is', (t) => {
  const written = linesOf({ ...HEAD, flows: [flow(7), flow(8)] });
  t.is(written.lines.toString(), lineOf({ flow: flow(7) }) + lineOf({ flow: flow(8) }));
  t.deepEqual(parseFlowLines(Buffer.from(flowLinesText(written))), written);
  const none = linesOf({ ...HEAD, flows: [] });
  t.deepEqual(parseFlowLines(Buffer.from(flowLinesText(none))), none);
});

const head = JSON.stringify(HEAD);
const REFUSED: readonly (readonly [string, string])[] = [
  ['nothing', ''],
  ['no JSON', 'x\n'],
  ['null', 'null\n'],
  ['a head alone, cut off', head],
  ['a line that is cut off, which would run into the next one', `${head}\n{"flow":{`],
  ['no node', '{"next":9,"run":"a","lost":3}\n'],
  ['a place that is none', '{"node":"n2","next":"9","run":"a","lost":3}\n'],
  ['a run that is none', '{"node":"n2","next":9,"run":null,"lost":3}\n'],
  ['a count that is none', '{"node":"n2","next":9,"run":"a"}\n'],
];
for (const [title, text] of REFUSED) {
  test(`refused of another node: ${title}`, (t) => {
    t.throws(() => parseFlowLines(Buffer.from(text)), { instanceOf: SyntaxError });
  });
}

const LINES: readonly (readonly [string, string, FollowedMessage | null])[] = [
  ['a flow', `{"flow":${JSON.stringify(flow(1))}}`, { flow: flow(1) }],
  ['a note', '{"node":"n2","note":"answers again"}', { node: 'n2', note: 'answers again' }],
  ['half a line', '{"flow":{', null],
  ['null', 'null', null],
  ['a number', '7', null],
  ['a flow without its ends', '{"flow":{"node":"n2","sequence":1,"time":""}}', null],
  ['a flow whose end is null', JSON.stringify({ flow: { ...flow(1), source: null } }), null],
  ['a flow of no protocol', JSON.stringify({ flow: { ...flow(1), protocol: 6 } }), null],
  ['a flow that is null', '{"flow":null}', null],
  ['a note of nobody', '{"note":"answers again"}', null],
];
for (const [title, line, message] of LINES) {
  test(`a line: ${title}`, (t) => {
    t.deepEqual(parseLine(line), message);
  });
}

test('cut into whole lines, as many together as fit', (t) => {
  const cut = (text: string, bytes: number): string[] =>
    [...cutLines(Buffer.from(text), bytes)].map(String);
  t.deepEqual(cut('', 4), []);
  t.deepEqual(cut('a\nb\nc\n', 4), ['a\nb\n', 'c\n']);
  t.deepEqual(cut('a\nb\nc\n', 5), ['a\nb\n', 'c\n']);
  t.deepEqual(cut('a\nb\nc\n', 6), ['a\nb\nc\n']);
  t.deepEqual(cut('longer\nb\n', 4), ['longer\n', 'b\n']);
  t.deepEqual(cut('b\nlonger\nb\nc\n', 4), ['b\n', 'longer\n', 'b\nc\n']);
  t.is(countLines(Buffer.from('')), 0);
  t.is(countLines(Buffer.from('a\n\nb\n')), 3);
});
