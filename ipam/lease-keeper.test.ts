/** The keeper over a store in memory and a clock that stands until it is moved. */
import { setImmediate as turn } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { MemoryStore } from '../store/memory.ts';
import { type Change, StoreError } from '../store/store.ts';
import { parseIpv4 } from '../wire/address.ts';
import { parseMac } from '../wire/mac.ts';
import type { Clock } from './clock.ts';
import { type HeldLease, type LeaseKeeperOptions, keepLease } from './lease-keeper.ts';
import { decodeSubnetKey } from './lease-codec.ts';

const HOUR_MS = 3_600_000;
const TTL_MS = 24 * HOUR_MS;
const FENCE_MS = TTL_MS / 500;
const CONFIG = '{"Network":"10.0.0.0/22","Backend":{"Type":"vxlan"}}';
const DUAL =
  '{"Network":"10.0.0.0/22","EnableIPv6":true,"IPv6Network":"fd00::/62","Backend":{"Type":"vxlan"}}';
const MAC = '02:00:00:00:00:01';
const VALUE =
  '{"PublicIP":"192.168.0.1","PublicIPv6":null,"BackendType":"vxlan",' +
  `"BackendData":{"VNI":1,"VtepMAC":"${MAC}"}}`;
const OTHER = VALUE.replace('192.168.0.1', '192.168.0.2');

class TestClock implements Clock {
  nowMs = 1000;
  readonly #sleepers = new Set<{ readonly endMs: number; readonly wake: () => void }>();

  now(): number {
    return this.nowMs;
  }

  async sleep(ms: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const done = Promise.withResolvers<void>();
    const sleeper = { endMs: this.nowMs + ms, wake: done.resolve };
    const abort = (): void => done.reject(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
    this.#sleepers.add(sleeper);
    try {
      await done.promise;
    } finally {
      this.#sleepers.delete(sleeper);
      signal.removeEventListener('abort', abort);
    }
  }

  wakeDue(): void {
    for (const { endMs, wake } of this.#sleepers) if (endMs <= this.nowMs) wake();
  }
}

const gone = (): Promise<never> => Promise.reject(new StoreError('ERR_STORE_UNREACHABLE', 'gone'));

/** Lets everything run that waits for nothing but its turn. */
async function settle(): Promise<void> {
  for (let i = 0; i < 50; i++) await turn();
}

async function setUp(t: ExecutionContext, config: string | null = CONFIG) {
  const clock = new TestClock();
  const store = new MemoryStore(() => clock.nowMs);
  const create = async (key: string, value: string, leaseId: string | null) =>
    (await store.commit({ kind: 'create', key, value, leaseId }))!;
  if (config !== null) await create('/n/config', config, null);
  return {
    clock,
    store,
    create,
    entry: (name: string) => store.get(`/n/subnets/${name}`),
    names: async () =>
      [...(await store.list('/n/subnets/')).entries.keys()].map((k) => k.slice(11)),
    leaseFor: async (ms = TTL_MS) => (await store.grant(ms)).leaseId,
    advance: async (ms: number, stepMs = ms): Promise<void> => {
      const endMs = clock.nowMs + ms;
      while (clock.nowMs < endMs) {
        clock.nowMs = Math.min(endMs, clock.nowMs + stepMs);
        store.expire();
        clock.wakeDue();
        await settle();
      }
    },
    start: (options: Partial<LeaseKeeperOptions> = {}) => {
      const seen: string[] = [];
      const keeper = keepLease({
        store,
        prefix: '/n',
        node: { publicIp4: parseIpv4('192.168.0.1'), publicIp6: null, mac: parseMac(MAC) },
        clock,
        random: () => 0,
        onChange: ({ kind }) => seen.push(kind),
        ...options,
      });
      t.teardown(() => keeper.stop());
      return { keeper, seen };
    },
  };
}

const heldOf = (t: ExecutionContext, state: { kind: string }): HeldLease => {
  t.is(state.kind, 'held');
  return state as HeldLease;
};

test('acquires: flannel’s key and value, a lease, and a deadline before the store’s', async (t) => {
  const { start, entry, clock } = await setUp(t);
  const { keeper } = start();
  t.deepEqual(keeper.state, { kind: 'acquiring', reason: null });
  const held = await keeper.held(AbortSignal.timeout(5000));
  t.is(held.lease.key, '10.0.1.0-24');
  t.is(held.deadlineMs, clock.nowMs + TTL_MS - FENCE_MS);
  t.like(await entry('10.0.1.0-24'), { value: VALUE });
  t.truthy((await entry('10.0.1.0-24'))!.leaseId);
});

const starts: readonly (readonly [
  string,
  { config?: string; entries?: string[]; previous?: string },
  string,
])[] = [
  ['its own entry again', { entries: ['10.0.3.0-24 ours'] }, '10.0.3.0-24'],
  ['its own, though of another backend', { entries: ['10.0.3.0-24 host-gw'] }, '10.0.3.0-24'],
  ['the previous subnet', { previous: '10.0.2.0-24' }, '10.0.2.0-24'],
  [
    'not the previous one if another has it',
    { previous: '10.0.1.0-24', entries: ['10.0.1.0-24 other'] },
    '10.0.2.0-24',
  ],
  [
    'its IPv4 subnet still, when IPv6 has come',
    { config: DUAL, entries: ['10.0.3.0-24 ours'] },
    '10.0.3.0-24&fd00:0:0:1::-64',
  ],
];
for (const [title, { config = CONFIG, entries = [], previous }, expected] of starts) {
  test(`takes ${title}`, async (t) => {
    const { start, create, leaseFor, names } = await setUp(t, config);
    for (const line of entries) {
      const [key, whose] = line.split(' ');
      const value = whose === 'other' ? OTHER : VALUE;
      await create(
        `/n/subnets/${key}`,
        whose === 'host-gw' ? value.replace('vxlan', whose) : value,
        await leaseFor(),
      );
    }
    const { keeper } = start({ previous: previous ? decodeSubnetKey(previous) : null });
    await settle();
    t.is(heldOf(t, keeper.state).lease.key, expected);
    t.true((await names()).includes(expected));
    t.is((await names()).length, 1 + entries.filter((line) => line.endsWith('other')).length);
  });
}

test('renews an hour before the deadline, by a new lease on the same key', async (t) => {
  const { start, advance, entry, clock } = await setUp(t);
  const { keeper, seen } = start();
  await settle();
  const before = (await entry('10.0.1.0-24'))!;
  await advance(TTL_MS - FENCE_MS - HOUR_MS - 1);
  t.deepEqual(await entry('10.0.1.0-24'), before);
  await advance(1);
  const after = (await entry('10.0.1.0-24'))!;
  t.not(after.leaseId, before.leaseId);
  t.is(after.createRevision, before.createRevision);
  t.is(heldOf(t, keeper.state).deadlineMs, clock.nowMs + TTL_MS - FENCE_MS);
  await advance(10 * TTL_MS, HOUR_MS / 4);
  t.deepEqual(new Set(seen), new Set(['held']));
});

test('the state is lost at the deadline, before any timer has run', async (t) => {
  const { start, clock } = await setUp(t);
  const { keeper, seen } = start();
  await settle();
  const { deadlineMs } = heldOf(t, keeper.state);
  clock.nowMs = deadlineMs - 1;
  t.is(keeper.state.kind, 'held');
  clock.nowMs = deadlineMs;
  t.like(keeper.state, { kind: 'lost', reason: { code: 'ERR_LEASE_LOST' } });
  t.deepEqual(seen, ['held']);
});

test('store unreachable for longer than the lease: lost at the deadline, then its own again', async (t) => {
  const { start, advance, store, names } = await setUp(t);
  const { keeper, seen } = start({ previous: decodeSubnetKey('10.0.3.0-24') });
  await settle();
  Object.assign(store, { get: gone, list: gone, commit: gone, grant: gone, revoke: gone });
  await advance(TTL_MS - FENCE_MS - 1000, HOUR_MS / 4);
  t.is(keeper.state.kind, 'held');
  await advance(TTL_MS, HOUR_MS / 4);
  t.like(keeper.state, { kind: 'lost', reason: { code: 'ERR_STORE_UNREACHABLE' } });
  // The class's own methods come back.
  for (const call of Object.keys(store)) Reflect.deleteProperty(store, call);
  t.deepEqual(await names(), [], 'the lease has ended meanwhile');
  await advance(20_000, 1000);
  t.is(heldOf(t, keeper.state).lease.key, '10.0.3.0-24');
  t.deepEqual(
    seen.filter((kind, i) => kind !== seen[i - 1]),
    ['held', 'lost', 'held'],
  );
});

const interferences: readonly (readonly [string, (key: string, modRevision: number) => Change])[] =
  [
    ['deleted', (key, modRevision) => ({ kind: 'delete', key, modRevision })],
    [
      'overwritten',
      (key, modRevision) => ({ kind: 'replace', key, modRevision, value: OTHER, leaseId: null }),
    ],
  ];
for (const [title, change] of interferences) {
  test(`${title} by somebody else: lost at once, and another taken`, async (t) => {
    const { start, advance, store, entry } = await setUp(t);
    const { keeper, seen } = start();
    await settle();
    const before = (await entry('10.0.1.0-24'))!;
    await store.commit(change(before.key, before.modRevision));
    await settle();
    t.is(keeper.state.kind, 'lost');
    t.regex((keeper.state as { reason: Error }).reason.message, new RegExp(title));
    await advance(2000);
    t.is(heldOf(t, keeper.state).lease.key, title === 'deleted' ? '10.0.1.0-24' : '10.0.2.0-24');
    t.deepEqual(seen, ['held', 'lost', 'held']);
  });
}

test('a reservation is taken without a lease, has no deadline, and outlives us', async (t) => {
  const { start, create, advance, entry } = await setUp(t);
  await create('/n/subnets/10.0.3.0-24', '{"PublicIP":"192.168.0.1"}', null);
  const { keeper } = start();
  await settle();
  const held = heldOf(t, keeper.state);
  t.like(held, { deadlineMs: Infinity, lease: { key: '10.0.3.0-24', reserved: true } });
  t.like(await entry('10.0.3.0-24'), { value: VALUE, leaseId: null });
  await advance(10 * TTL_MS, HOUR_MS);
  t.is(keeper.state, held);
  await keeper.release();
  t.is(keeper.state.kind, 'released');
  t.like(await entry('10.0.3.0-24'), { value: VALUE, leaseId: null });
});

test('an operator turns the lease into a reservation: it is held on, without a deadline', async (t) => {
  const { start, advance, store, entry } = await setUp(t);
  const { keeper, seen } = start();
  await settle();
  const { key, value, modRevision } = (await entry('10.0.1.0-24'))!;
  await store.commit({ kind: 'replace', key, value, leaseId: null, modRevision });
  await advance(2 * TTL_MS, HOUR_MS / 4);
  t.like(keeper.state, { kind: 'held', deadlineMs: Infinity, lease: { reserved: true } });
  t.is((await entry('10.0.1.0-24'))!.leaseId, null);
  t.deepEqual(new Set(seen), new Set(['held']));
});

test('release deletes the entry and stays released; stop keeps it', async (t) => {
  const { start, names, advance } = await setUp(t);
  const first = start();
  await settle();
  await first.keeper.stop();
  t.deepEqual(await names(), ['10.0.1.0-24']);
  const second = start();
  await settle();
  await second.keeper.release();
  t.deepEqual(await names(), []);
  await advance(TTL_MS, HOUR_MS);
  t.is(second.keeper.state.kind, 'released');
  await t.throwsAsync(second.keeper.held(AbortSignal.timeout(1000)), { code: 'ERR_LEASE_LOST' });
});

const obstacles: readonly (readonly [string, string | null, string, RegExp])[] = [
  ['no configuration', null, 'ERR_NETWORK_CONFIG', /config is missing/],
  ['a wrong configuration', '{}', 'ERR_NETWORK_CONFIG', /Backend/],
  [
    'no free subnet',
    CONFIG.replace('"Backend"', '"SubnetMax":"10.0.1.0","Backend"'),
    'ERR_LEASE_UNAVAILABLE',
    /all IPv4 subnets are taken/,
  ],
];
for (const [title, config, code, message] of obstacles) {
  test(`${title}: waits, says why, and goes on by itself`, async (t) => {
    const { start, advance, store, create, leaseFor } = await setUp(t, config);
    await create('/n/subnets/10.0.1.0-24', OTHER, await leaseFor(60_000));
    const { keeper } = start();
    await advance(30_000, 1000);
    t.like(keeper.state, { kind: 'acquiring', reason: { code } });
    t.regex((keeper.state as { reason: Error }).reason.message, message);
    const there = await store.get('/n/config');
    const key = '/n/config';
    await store.commit(
      there === null
        ? { kind: 'create', key, value: CONFIG, leaseId: null }
        : { kind: 'replace', key, value: CONFIG, leaseId: null, modRevision: there.modRevision },
    );
    await advance(20_000, 1000);
    t.is(keeper.state.kind, 'held');
  });
}

test('a store that fails at first: waits, says why, and goes on by itself', async (t) => {
  const { start, advance, store } = await setUp(t);
  for (let i = 0; i < 3; i++) store.failNext();
  const { keeper } = start();
  await settle();
  t.like(keeper.state, { kind: 'acquiring', reason: { code: 'ERR_STORE_UNREACHABLE' } });
  await advance(30_000, 1000);
  t.is(keeper.state.kind, 'held');
});

test('an answer that was lost after the change was made costs neither the subnet nor a second one', async (t) => {
  const { start, advance, store, names, entry } = await setUp(t);
  const commit = store.commit.bind(store);
  let losses = 1;
  store.commit = async (...args) => {
    const done = await commit(...args);
    if (losses-- > 0) throw new StoreError('ERR_STORE_UNREACHABLE', 'the answer was lost');
    return done;
  };
  const { keeper, seen } = start();
  await advance(20_000, 1000);
  t.is(keeper.state.kind, 'held');
  t.is((await names()).length, 1);
  const name = (await names())[0]!;
  losses = 2;
  const before = (await entry(name))!;
  await advance(TTL_MS - FENCE_MS - HOUR_MS + 60_000, HOUR_MS / 60);
  const after = (await entry(name))!;
  t.is(after.createRevision, before.createRevision);
  t.not(after.leaseId, before.leaseId);
  t.false(seen.includes('lost'));
  t.is(heldOf(t, keeper.state).lease.key, name);
});

test('two keys of different text for one IPv4 subnet: the later one gives way', async (t) => {
  const { start, store, names, leaseFor } = await setUp(t, DUAL);
  const leaseId = await leaseFor();
  const commit = store.commit.bind(store);
  let raced = false;
  store.commit = async (change, signal) => {
    // Between our list and our create, somebody takes the same IPv4 subnet with another IPv6 half.
    if (!raced && change.kind === 'create') {
      raced = true;
      const key = '/n/subnets/10.0.1.0-24&fd00:0:0:3::-64';
      await commit({ kind: 'create', key, value: OTHER, leaseId });
    }
    return await commit(change, signal);
  };
  const { keeper } = start();
  await settle();
  t.true(raced);
  t.is(heldOf(t, keeper.state).lease.key, '10.0.2.0-24&fd00:0:0:1::-64');
  t.deepEqual(await names(), ['10.0.1.0-24&fd00:0:0:3::-64', '10.0.2.0-24&fd00:0:0:1::-64']);
});
