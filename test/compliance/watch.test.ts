/**
 * A watch through everything that happens to connections. Re-listing is put off to beyond the test's end,
 * so that an event which the stream lost stays lost.
 *
 *     writer ───────────────> etcd <─── proxy <─── watcher
 */
import { randomUUID } from 'node:crypto';
import { Etcd3 } from 'etcd3';
import test from 'ava';
import { unlessAborted } from '../../store/abort.ts';
import { openEtcd } from '../../store/etcd.ts';
import { MemoryStore } from '../../store/memory.ts';
import type { Store, StoreEntry } from '../../store/store.ts';
import { type EtcdServer, startEtcd } from '../lab/etcd.ts';
import { startProxy } from '../lab/proxy.ts';

const NEVER_MS = 2 ** 31 - 1;

let server: EtcdServer;
test.before(async () => {
  server = await startEtcd();
});
test.after.always(() => server.stop());

/**
 * `count` keys that stay, each with its number as value, and as many that are deleted again. No event is
 * made good by a later one: a lost one stays visible.
 */
async function write(store: Store, prefix: string, from: number, count: number): Promise<void> {
  const one = async (i: number): Promise<void> => {
    const gone = `${prefix}/gone-${i}`;
    const modRevision = await store.commit({ kind: 'create', key: gone, value: '', leaseId: null });
    const key = `${prefix}/${i}`;
    await store.commit({ kind: 'create', key, value: String(i), leaseId: null });
    await store.commit({ kind: 'delete', key: gone, modRevision: modRevision! });
  };
  for (let at = from; at < from + count; at += 50) {
    await Promise.all(Array.from({ length: 50 }, (_, i) => one(at + i)));
  }
}

/** The latest view of a prefix, and a promise of one that satisfies a condition. */
function follow(store: Store, prefix: string) {
  const stop = new AbortController();
  const interruptions: (string | null)[] = [];
  let entries: ReadonlyMap<string, StoreEntry> = new Map();
  let changed = Promise.withResolvers<void>();
  const tell = (): void => {
    changed.resolve();
    changed = Promise.withResolvers();
  };
  const reading = (async () => {
    for await (const view of store.watch(`${prefix}/`, {
      signal: stop.signal,
      relistEveryMs: NEVER_MS,
      onInterruption: (error) => {
        interruptions.push(error?.code ?? null);
        tell();
      },
    })) {
      entries = view.entries;
      tell();
    }
  })();
  return {
    interruptions,
    get entries() {
      return entries;
    },
    async until(isReached: () => boolean, timeoutMs = 30_000): Promise<void> {
      const signal = AbortSignal.timeout(timeoutMs);
      while (!isReached()) {
        await unlessAborted(changed.promise, signal);
      }
    },
    async [Symbol.asyncDispose]() {
      stop.abort();
      await reading;
    },
  };
}

const isComplete = (entries: ReadonlyMap<string, StoreEntry>, prefix: string, count: number) =>
  entries.size === count &&
  Array.from({ length: count }, (_, i) => entries.get(`${prefix}/${i}`)?.value).every(
    (value, i) => value === String(i),
  );

test('cut again and again while it catches up on thousands of writes: no event is lost', async (t) => {
  const prefix = `/${randomUUID()}`;
  await using proxy = await startProxy(server.port);
  using writer = openEtcd({ endpoints: [server.endpoint] });
  using watcher = openEtcd({ endpoints: [`http://127.0.0.1:${proxy.port}`] });
  await using view = follow(watcher, prefix);
  await write(writer, prefix, 0, 50);
  await view.until(() => isComplete(view.entries, prefix, 50));

  // Thousands of events behind a line that stands still, then caught up with in pieces. etcd sends up to
  // 1000 revisions in one message of some 75 kB: a piece holds one and part of the next.
  proxy.pause();
  await write(writer, prefix, 50, 1500);
  t.is(view.entries.size, 50);
  proxy.cutEvery(100_000);
  proxy.cut();
  proxy.resume();
  await write(writer, prefix, 1550, 450);
  await view.until(() => proxy.cuts >= 3);
  proxy.cutEvery(0);
  await view.until(() => isComplete(view.entries, prefix, 2000));
  t.is(view.interruptions.at(-1), null);
  t.true(view.interruptions.includes('ERR_STORE_UNREACHABLE'));
});

test('compacted while it was cut off: it lists again, and sees what was deleted', async (t) => {
  const prefix = `/${randomUUID()}`;
  // Of its own: compaction is for all keys.
  await using server = await startEtcd();
  await using proxy = await startProxy(server.port);
  using writer = openEtcd({ endpoints: [server.endpoint] });
  using watcher = openEtcd({ endpoints: [`http://127.0.0.1:${proxy.port}`] });
  await using view = follow(watcher, prefix);
  const key = `${prefix}/deleted-meanwhile`;
  const modRevision = await writer.commit({ kind: 'create', key, value: '', leaseId: null });
  await view.until(() => view.entries.size === 1);

  proxy.pause();
  await writer.commit({ kind: 'delete', key, modRevision: modRevision! });
  await write(writer, prefix, 0, 100);
  const { revision } = await writer.list(prefix);
  const admin = new Etcd3({ hosts: server.endpoint });
  await admin.kv.compact({ revision: String(revision), physical: true });
  admin.close();
  proxy.cut();
  proxy.resume();
  await view.until(() => isComplete(view.entries, prefix, 100));
  await write(writer, prefix, 100, 50);
  await view.until(() => isComplete(view.entries, prefix, 150));
  t.is(view.interruptions.at(-1), null);
});

test('etcd killed and started again on its data', async (t) => {
  const prefix = `/${randomUUID()}`;
  const first = await startEtcd();
  using store = openEtcd({ endpoints: [first.endpoint], callTimeoutMs: 1000 });
  await using view = follow(store, prefix);
  await write(store, prefix, 0, 50);
  await view.until(() => isComplete(view.entries, prefix, 50));
  await first.kill();
  await view.until(() => view.interruptions.length > 0);
  t.true(isComplete(view.entries, prefix, 50), 'what is known stays known');
  const second = await startEtcd({ dataDir: first.dataDir, port: first.port });
  try {
    await view.until(() => view.interruptions.at(-1) === null);
    await write(store, prefix, 50, 50);
    await view.until(() => isComplete(view.entries, prefix, 100));
  } finally {
    await second.stop();
    await first.stop();
  }
});

test('unreachable at first: nothing is handed out before the first full list', async (t) => {
  const prefix = `/${randomUUID()}`;
  await using proxy = await startProxy(server.port);
  proxy.pause();
  using watcher = openEtcd({
    endpoints: [`http://127.0.0.1:${proxy.port}`],
    callTimeoutMs: 500,
  });
  let count = 0;
  const stop = new AbortController();
  const interrupted = Promise.withResolvers<void>();
  const reading = (async () => {
    for await (const view of watcher.watch(`${prefix}/`, {
      signal: stop.signal,
      onInterruption: () => interrupted.resolve(),
    })) {
      count += 1 + view.entries.size;
      stop.abort();
    }
  })();
  await interrupted.promise;
  t.is(count, 0);
  proxy.resume();
  await reading;
  t.is(count, 1);
});

test('a call ends by its deadline when etcd stands still, and the next works', async (t) => {
  await using paused = await startEtcd();
  using store = openEtcd({ endpoints: [paused.endpoint], callTimeoutMs: 1500 });
  await store.get('/a');
  await paused.pause();
  await t.throwsAsync(store.get('/a'), { code: 'ERR_STORE_UNREACHABLE' });
  const reason = new Error('no longer wanted');
  await t.throwsAsync(store.get('/a', abortSoon(reason)), { is: reason });
  paused.resume();
  for (;;) {
    try {
      t.is(await store.get('/a'), null);
      return;
    } catch (error) {
      t.like(error, { code: 'ERR_STORE_UNREACHABLE' });
    }
  }
});

function abortSoon(reason: Error): AbortSignal {
  const controller = new AbortController();
  setImmediate(() => controller.abort(reason));
  return controller.signal;
}

test('one of two endpoints is dead: reads still answer', async (t) => {
  using store = openEtcd({ endpoints: ['http://127.0.0.1:1', server.endpoint] });
  for (let i = 0; i < 20; i++) await t.notThrowsAsync(store.get('/a'));
});

test('options that contradict each other are named', (t) => {
  for (const [options, message] of [
    [{ endpoints: [] }, /no etcd endpoint/],
    [{ endpoints: ['127.0.0.1:2379'] }, /not http/],
    [{ endpoints: ['http://a:1', 'https://b:1'] }, /mix/],
    [{ endpoints: ['http://a:1'], tls: { ca: Buffer.from('') } }, /http:\/\//],
    [{ endpoints: ['https://a:1'], tls: { cert: Buffer.from('') } }, /needs its key/],
  ] as const) {
    t.throws(() => openEtcd(options), { code: 'ERR_ETCD_OPTIONS', message });
  }
});

test('memory: cut streams and compaction', async (t) => {
  const store = new MemoryStore();
  await using view = follow(store, '/m');
  await write(store, '/m', 0, 50);
  store.cutStreams();
  await write(store, '/m', 50, 50);
  await view.until(() => isComplete(view.entries, '/m', 100));
  store.cutStreams();
  await write(store, '/m', 100, 50);
  store.compact();
  await view.until(() => isComplete(view.entries, '/m', 150));
  store.failNext();
  await t.throwsAsync(store.get('/m/1'), { code: 'ERR_STORE_UNREACHABLE' });
});

test('periodic re-listing mends what no event told', async (t) => {
  const store = new MemoryStore();
  const stop = new AbortController();
  let lists = 0;
  const list = store.list.bind(store);
  store.list = async (...args) => {
    lists++;
    return await list(...args);
  };
  for await (const { entries } of store.watch('/r/', { signal: stop.signal, relistEveryMs: 10 })) {
    t.is(entries.size, 0);
    if (lists >= 3) stop.abort();
  }
  t.true(lists >= 3);
});
