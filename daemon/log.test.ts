import test from 'ava';
import pico from 'picocolors';
import { formatLine } from './log.ts';

const plain = pico.createColors(false);
const record = (more: object): string =>
  JSON.stringify({
    name: 'weft',
    hostname: 'h',
    pid: 1,
    node: 'n1',
    level: 30,
    msg: 'lease held',
    time: '2026-01-02T03:04:05.678Z',
    v: 0,
    ...more,
  });

for (const [title, line, readable] of [
  ['message', record({}), '03:04:05.678 INFO  lease held'],
  [
    'fields, quoted where they have spaces',
    record({ subnet: '10.244.3.0/24', why: 'a b', n: 3 }),
    '03:04:05.678 INFO  lease held  subnet=10.244.3.0/24 why="a b" n=3',
  ],
  ['level', record({ level: 50 }), '03:04:05.678 ERROR lease held'],
  ['unknown level', record({ level: 35 }), '03:04:05.678 35    lease held'],
  [
    'error',
    record({ err: { stack: 'Error: x\n    at y' } }),
    '03:04:05.678 INFO  lease held\nError: x\n    at y',
  ],
  [
    'message that drives a terminal',
    record({ msg: 'a\u001b[2Jb\nc' }),
    '03:04:05.678 INFO  a\\x1b[2Jb\\nc',
  ],
  ['not JSON', 'plain \u0007text', 'plain \\x07text'],
  ['JSON, but no record', '{"a":1}', '{"a":1}'],
  ['null', 'null', 'null'],
] as const) {
  test(`readable: ${title}`, (t) => {
    t.is(formatLine(line, plain), readable);
  });
}
