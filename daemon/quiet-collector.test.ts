import test from 'ava';
import { openLog } from './log.ts';
import { QuietCollector } from './quiet-collector.ts';

const MIB = 2 ** 20;

test('garbage of changes goes when it is quiet, once; a little is left to the engine', async (t) => {
  let used = 0;
  let collected = 0;
  let looked = Promise.withResolvers<void>();
  using collector = new QuietCollector({
    log: openLog('fatal', 'n1'),
    quietMs: 20,
    usedBytes: () => {
      // After all of this look.
      setImmediate(looked.resolve);
      return used;
    },
    collect: () => {
      collected++;
      used = Math.min(used, 40 * MIB);
    },
  });
  for (const [changes, usedBefore, collectedAfter] of [
    [5, 60 * MIB, 1],
    [1, 45 * MIB, 1],
    [2, 70 * MIB, 2],
    // The engine has collected.
    [1, 10 * MIB, 2],
    [1, 21 * MIB, 2],
    [1, 23 * MIB, 3],
  ] as const) {
    looked = Promise.withResolvers();
    used = usedBefore;
    for (let i = 0; i < changes; i++) collector.changed();
    await looked.promise;
    t.is(collected, collectedAfter, `${usedBefore / MIB} MiB`);
  }
});
