import test from 'ava';
import type { Echo } from '../linux/echo.ts';
import { parseIpv4 } from '../wire/address.ts';
import { EchoHistory } from './echo-history.ts';

const TARGET = { kind: 'overlay', address: parseIpv4('10.244.2.0'), mtuBytes: 1450 } as const;

/** `.` answered after a millisecond, `x` not, `-` refused; a digit: so many minutes nothing. */
function historyOf(text: string): EchoHistory {
  const history = new EchoHistory();
  let nowMs = 0;
  for (const it of text) {
    if (/\d/.test(it)) nowMs += Number(it) * 60_000;
    else history.add(echoOf(it), (nowMs += 2_000));
  }
  return history;
}

const echoOf = (it: string): Echo =>
  it === '.'
    ? { kind: 'answered', roundTripMs: 1 }
    : it === 'x'
      ? { kind: 'silent' }
      : { kind: 'refused', reason: 'no route' };

for (const [what, text, received, sent, silent] of [
  ['nothing yet', '', 0, 0, false],
  ['some of a few', '.x.', 2, 3, false],
  ['four in a row lost', '.xxxx', 1, 5, false],
  ['five are silence', '.xxxxx', 1, 6, true],
  ['refused ones too', '.xx-xx', 1, 6, true],
  ['silence that is over counts no more', '..xxxxx.', 1, 1, false],
  ['the last thirty', `x${'.'.repeat(30)}`, 30, 30, false],
  ['after a short pause', 'x4.', 1, 2, false],
  ['after a long pause', 'x6.', 1, 1, false],
] as const) {
  test(`echoes: ${what}`, (t) => {
    t.like(historyOf(text).message(TARGET), {
      sent,
      received,
      silent,
      avgMs: received === 0 ? null : 1,
    });
  });
}

test('why the last was refused, and not the one before', (t) => {
  t.is(historyOf('.-').message(TARGET).problem, 'no route');
  t.is(historyOf('-.').message(TARGET).problem, null);
});
