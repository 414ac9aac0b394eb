/**
 * What store/store.ts promises, of both stores: the one in memory and real etcd.
 * Each case gets a prefix of its own, so that all share one server.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { openEtcd } from '../../store/etcd.ts';
import { MemoryStore } from '../../store/memory.ts';
import { type Listing, type Store, StoreError } from '../../store/store.ts';
import { type EtcdServer, startEtcd } from '../lab/etcd.ts';

let server: EtcdServer;
test.before(async () => {
  server = await startEtcd();
});
test.after.always(() => server.stop());

const stores: readonly (readonly [string, () => Store])[] = [
  ['memory', () => new MemoryStore()],
  ['etcd', () => openEtcd({ endpoints: [server.endpoint] })],
];

type Case = (t: ExecutionContext, store: Store, prefix: string) => Promise<void>;
const cases: readonly (readonly [string, Case])[] = [
  [
    'a missing key is null, an empty prefix an empty map',
    async (t, store, prefix) => {
      t.is(await store.get(`${prefix}/a`), null);
      t.is((await store.list(`${prefix}/`)).entries.size, 0);
    },
  ],
  [
    'create makes a key once',
    async (t, store, prefix) => {
      const key = `${prefix}/a`;
      const revision = await store.commit({ kind: 'create', key, value: 'one', leaseId: null });
      t.is(await store.commit({ kind: 'create', key, value: 'two', leaseId: null }), null);
      t.deepEqual(await store.get(key), {
        key,
        value: 'one',
        createRevision: revision!,
        modRevision: revision!,
        leaseId: null,
      });
    },
  ],
  [
    'replace and delete want the revision they name',
    async (t, store, prefix) => {
      const key = `${prefix}/a`;
      const first = (await store.commit({ kind: 'create', key, value: '1', leaseId: null }))!;
      const second = await store.commit({
        kind: 'replace',
        key,
        value: '2',
        leaseId: null,
        modRevision: first,
      });
      t.true(second! > first);
      for (const stale of [
        { kind: 'replace', key, value: '3', leaseId: null, modRevision: first } as const,
        { kind: 'delete', key, modRevision: first } as const,
      ]) {
        t.is(await store.commit(stale), null);
      }
      const entry = await store.get(key);
      t.like(entry, { value: '2', createRevision: first, modRevision: second! });
      t.not(await store.commit({ kind: 'delete', key, modRevision: second! }), null);
      t.is(await store.get(key), null);
      t.is(
        await store.commit({
          kind: 'replace',
          key,
          value: '4',
          leaseId: null,
          modRevision: second!,
        }),
        null,
        'replace does not bring a deleted key back',
      );
    },
  ],
  [
    'a list holds what is below the prefix, and only that',
    async (t, store, prefix) => {
      for (const key of ['/s/a', '/s/b', '/s', '/sa', '/t/a']) {
        await store.commit({ kind: 'create', key: prefix + key, value: key, leaseId: null });
      }
      const { entries, revision } = await store.list(`${prefix}/s/`);
      t.deepEqual([...entries.keys()].sort(), [`${prefix}/s/a`, `${prefix}/s/b`]);
      t.true([...entries.values()].every((entry) => entry.modRevision <= revision));
    },
  ],
  [
    'a lease takes its keys along when it is revoked; twice is no error',
    async (t, store, prefix) => {
      const key = `${prefix}/a`;
      const { leaseId, ttlMs } = await store.grant(60_000);
      t.is(ttlMs, 60_000);
      await store.commit({ kind: 'create', key, value: '', leaseId });
      t.is((await store.get(key))!.leaseId, leaseId);
      await store.revoke(leaseId);
      t.is(await store.get(key), null);
      await t.notThrowsAsync(store.revoke(leaseId));
    },
  ],
  [
    'replace moves a key to another lease, or to none',
    async (t, store, prefix) => {
      const key = `${prefix}/a`;
      const [one, two] = [await store.grant(60_000), await store.grant(60_000)];
      let modRevision = (await store.commit({
        kind: 'create',
        key,
        value: '',
        leaseId: one.leaseId,
      }))!;
      for (const [leaseId, ended] of [
        [two.leaseId, one],
        [null, two],
      ] as const) {
        modRevision = (await store.commit({
          kind: 'replace',
          key,
          value: '',
          leaseId,
          modRevision,
        }))!;
        await store.revoke(ended.leaseId);
        t.is((await store.get(key))!.leaseId, leaseId);
      }
    },
  ],
  [
    'a lease that nobody renews ends, and not before its time',
    async (t, store, prefix) => {
      const startMs = performance.now();
      const { leaseId, ttlMs } = await store.grant(1);
      await store.commit({ kind: 'create', key: `${prefix}/a`, value: '', leaseId });
      const signal = AbortSignal.timeout(10_000);
      for (;;) {
        const entry = await store.get(`${prefix}/a`, signal);
        if (entry === null) break;
        await delay(50, undefined, { signal });
      }
      t.true(performance.now() - startMs >= ttlMs);
      const error = await t.throwsAsync(
        store.commit({ kind: 'create', key: `${prefix}/b`, value: '', leaseId }),
        { instanceOf: StoreError },
      );
      t.is(error.code, 'ERR_STORE_REFUSED');
    },
  ],
  [
    'values keep every character, and 1 MB',
    async (t, store, prefix) => {
      for (const value of ['', '{"__proto__":{"a":1}}', '\0é\u{1f9f5}\n', 'x'.repeat(1_000_000)]) {
        const key = `${prefix}/${value.length}`;
        await store.commit({ kind: 'create', key, value, leaseId: null });
        t.true((await store.get(key))!.value === value);
      }
    },
  ],
  [
    'an aborted call rejects with the reason',
    async (t, store, prefix) => {
      const reason = new Error('enough');
      const signal = AbortSignal.abort(reason);
      for (const call of [
        () => store.get(prefix, signal),
        () => store.list(prefix, signal),
        () => store.grant(1000, signal),
        () => store.revoke('1', signal),
        () => store.commit({ kind: 'delete', key: prefix, modRevision: 1 }, signal),
      ]) {
        t.is(await t.throwsAsync(call), reason);
      }
    },
  ],
  [
    'a watch gives the list first, then the map after each change, and ends with the signal',
    async (t, store, prefix) => {
      const stop = new AbortController();
      const key = `${prefix}/s/a`;
      const other = `${prefix}/s/b`;
      await store.commit({ kind: 'create', key: other, value: 'still', leaseId: null });
      const views = store.watch(`${prefix}/s/`, { signal: stop.signal })[Symbol.asyncIterator]();
      const first = (await views.next()).value as Listing;
      t.deepEqual([...first.entries.keys()], [other]);

      const { leaseId } = await store.grant(60_000);
      const created = (await store.commit({ kind: 'create', key, value: '1', leaseId }))!;
      const second = (await views.next()).value as Listing;
      t.is(second.entries.get(key)!.value, '1');
      t.is(second.revision, created);
      t.is(second.entries.get(other), first.entries.get(other), 'the unchanged is the same object');
      t.is(first.entries.size, 1, 'what was handed out stays as it was');

      await store.commit({ kind: 'create', key: `${prefix}/elsewhere`, value: '', leaseId: null });
      await store.revoke(leaseId);
      const third = (await views.next()).value as Listing;
      t.deepEqual([...third.entries.keys()], [other]);

      const end = views.next();
      stop.abort();
      t.true((await end).done);
    },
  ],
  [
    'a watch of nothing still says so at once',
    async (t, store, prefix) => {
      for await (const { entries } of store.watch(`${prefix}/`, {
        signal: AbortSignal.timeout(10_000),
      })) {
        t.is(entries.size, 0);
        return;
      }
      t.fail('it ended without a word');
    },
  ],
  [
    'a slow reader gets many changes as one map',
    async (t, store, prefix) => {
      const stop = new AbortController();
      const views = store.watch(`${prefix}/`, { signal: stop.signal })[Symbol.asyncIterator]();
      await views.next();
      for (let i = 0; i < 100; i++) {
        await store.commit({ kind: 'create', key: `${prefix}/${i}`, value: '', leaseId: null });
      }
      let count = 0;
      for (let size = 0; size < 100; count++) {
        size = ((await views.next()).value as Listing).entries.size;
        await delay(20);
      }
      t.true(count < 50, `${count} maps for 100 changes`);
      stop.abort();
    },
  ],
];

for (const [name, open] of stores) {
  for (const [title, run] of cases) {
    test(`${name}: ${title}`, async (t) => {
      using store = open();
      await run(t, store, `/${randomUUID()}`);
    });
  }
}
