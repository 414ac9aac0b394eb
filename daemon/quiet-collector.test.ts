import test from 'ava';
import { openLog } from './log.ts';
import { QuietCollector } from './quiet-collector.ts';

const MIB = 2 ** 20;

test('garbage of a large set goes when it is quiet, once; what is less is left to the engine', async (t) => {
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
    [5, 100 * MIB, 1],
    [1, 100 * MIB, 1],
    [2, 110 * MIB, 2],
    // The engine has collected.
    [1, 10 * MIB, 2],
    [1, 73 * MIB, 2],
    [1, 75 * MIB, 3],
  ] as const) {
    looked = Promise.withResolvers();
    used = usedBefore;
    for (let i = 0; i < changes; i++) collector.changed();
    await looked.promise;
    t.is(collected, collectedAfter, `${usedBefore / MIB} MiB`);
  }
});
