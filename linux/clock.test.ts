import { uptime } from 'node:os';
import test from 'ava';
import { bootTimeMs, bootTimeS } from './clock.ts';

test('time since boot, as /proc/uptime has it in hundredths of a second', (t) => {
  const before = uptime();
  const ms = bootTimeMs();
  const s = bootTimeS();
  const after = uptime();
  t.true(ms >= before * 1000 && ms < (after + 0.01) * 1000, `${before} s, ${ms} ms, ${after} s`);
  t.true(s >= Math.floor(before) && s <= after, `${before} s, ${s} s, ${after} s`);
});
