import test from 'ava';
import { MemoryStore } from '../store/memory.ts';
import { parseIpv4 } from '../wire/address.ts';
import { parseNetworkConfig } from './config.ts';
import { listLeases, releaseLease } from './lease-list.ts';
import { type EntryProblem, watchPeers } from './peers.ts';
import type { NodeLease } from './types.ts';

const network = parseNetworkConfig('{"Network":"10.0.0.0/16","Backend":{"Type":"vxlan"}}');
const valueOf = (address: string, vni = 1): string =>
  JSON.stringify({
    PublicIP: address,
    PublicIPv6: null,
    BackendType: 'vxlan',
    BackendData: { VNI: vni, VtepMAC: '02:00:00:00:00:01' },
  });

async function setUp() {
  const store = new MemoryStore();
  const { leaseId } = await store.grant(3_600_000);
  const stop = new AbortController();
  const problems: EntryProblem[] = [];
  const peers = watchPeers({
    store,
    prefix: '/n',
    network,
    self: { publicIp4: parseIpv4('192.168.0.1'), publicIp6: null },
    signal: stop.signal,
    onProblem: (problem) => problems.push(problem),
  });
  return {
    store,
    stop,
    problems,
    peers,
    /** The keys of the next list. */
    next: async () => ((await peers.next()).value as NodeLease[]).map(({ key }) => key),
    put: async (name: string, value: string, lease: string | null = leaseId) => {
      const key = `/n/subnets/${name}`;
      const before = await store.get(key);
      return await store.commit(
        before === null
          ? { kind: 'create', key, value, leaseId: lease }
          : { kind: 'replace', key, value, leaseId: lease, modRevision: before.modRevision },
      );
    },
    remove: async (name: string) => {
      const { key, modRevision } = (await store.get(`/n/subnets/${name}`))!;
      await store.commit({ kind: 'delete', key, modRevision });
    },
  };
}

test('the others, in order of creation; ours, untaken reservations and bad entries left out', async (t) => {
  const { put, next, problems, stop } = await setUp();
  await put('10.0.9.0-24', valueOf('192.168.0.9'));
  await put('10.0.1.0-24', valueOf('192.168.0.1'));
  await put('10.0.2.0-24', valueOf('192.168.0.2'));
  await put('10.0.3.0-24', '{"PublicIP":"192.168.0.3"}', null);
  await put('10.0.4.0-24', valueOf('192.168.0.4'), null);
  await put('10.0.2.128-25', valueOf('192.168.0.5'));
  await put('10.0.6.0-24', valueOf('192.168.0.6', 7));
  await put('10.0.7.0-24', '{"PublicIP":"192.168.0.7"}');
  await put('$(reboot)\n\u001b[2J', 'x'.repeat(2_000_000));
  t.deepEqual(await next(), ['10.0.9.0-24', '10.0.2.0-24', '10.0.4.0-24']);
  t.deepEqual(
    problems.map(({ key }) => key),
    ['"10.0.2.128-25"', '"10.0.6.0-24"', '"10.0.7.0-24"', '"$(reboot)\\n\\u001b[2J"'],
  );
  t.regex(problems[0]!.reason, /overlaps the earlier entry "10.0.2.0-24"/);
  t.regex(problems[1]!.reason, /VNI 7 is not the network's 1/);
  stop.abort();
});

test('a problem is told once, a renewal tells nothing, a change tells the whole list', async (t) => {
  const { put, remove, next, peers, problems, stop } = await setUp();
  await put('10.0.2.0-24', valueOf('192.168.0.2'));
  await put('10.0.3.0-24', 'junk');
  const first = (await peers.next()).value as NodeLease[];
  await put('10.0.2.0-24', valueOf('192.168.0.2'));
  await put('10.0.3.0-24', 'junk');
  await put('10.0.4.0-24', valueOf('192.168.0.4'));
  const second = (await peers.next()).value as NodeLease[];
  t.deepEqual(
    second.map(({ key }) => key),
    ['10.0.2.0-24', '10.0.4.0-24'],
  );
  t.is(second[0], first[0], 'the unchanged is the same object');
  t.is(problems.length, 1);

  await put('10.0.2.0-24', valueOf('192.168.0.22'));
  const third = (await peers.next()).value as NodeLease[];
  t.is(third[0]!.publicIp4, parseIpv4('192.168.0.22'));

  await put('10.0.3.0-24', valueOf('192.168.0.3'));
  t.deepEqual(await next(), ['10.0.2.0-24', '10.0.3.0-24', '10.0.4.0-24']);
  await put('10.0.3.0-24', 'junk');
  t.deepEqual(await next(), ['10.0.2.0-24', '10.0.4.0-24']);
  t.is(problems.length, 2, 'it went bad again');

  await remove('10.0.2.0-24');
  t.deepEqual(await next(), ['10.0.4.0-24']);
  stop.abort();
  t.true((await peers.next()).done);
});

test('of two that overlap the earlier one counts, and the later one once that is gone', async (t) => {
  const { put, remove, next, stop } = await setUp();
  await put('10.0.2.0-24', valueOf('192.168.0.2'));
  await put('10.0.2.0-23', valueOf('192.168.0.3'));
  t.deepEqual(await next(), ['10.0.2.0-24']);
  await remove('10.0.2.0-24');
  t.deepEqual(await next(), ['10.0.2.0-23']);
  stop.abort();
});

test('nobody else: one empty list', async (t) => {
  const { next, stop } = await setUp();
  t.deepEqual(await next(), []);
  stop.abort();
});

test('list and release, by key or by public address', async (t) => {
  const { put, store } = await setUp();
  await put('10.0.2.0-24', valueOf('192.168.0.2'));
  await put('10.0.3.0-24', valueOf('192.168.0.3'));
  await put('10.0.4.0-24', '{"PublicIP":"192.168.0.4"}', null);
  await put('10.0.5.0-24', 'junk');
  const { leases, problems } = await listLeases(store, '/n', network);
  t.deepEqual(
    leases.map(({ key }) => key),
    ['10.0.2.0-24', '10.0.3.0-24', '10.0.4.0-24'],
  );
  t.deepEqual(problems, [{ key: '"10.0.5.0-24"', reason: 'the value is not JSON' }]);

  for (const [which, expected] of [
    ['192.168.0.2', { kind: 'released', key: '10.0.2.0-24' }],
    ['192.168.0.2', { kind: 'absent' }],
    ['10.0.3.0-24', { kind: 'released', key: '10.0.3.0-24' }],
    ['192.168.0.4', { kind: 'reserved', key: '10.0.4.0-24' }],
    ['10.0.5.0-24', { kind: 'released', key: '10.0.5.0-24' }],
    ['', { kind: 'absent' }],
    ['../config', { kind: 'absent' }],
  ] as const) {
    t.deepEqual(await releaseLease(store, '/n', which), expected, which);
  }
  t.deepEqual(await releaseLease(store, '/n', '10.0.4.0-24', { reservations: true }), {
    kind: 'released',
    key: '10.0.4.0-24',
  });
  t.is((await store.list('/n/subnets/')).entries.size, 0);
});
