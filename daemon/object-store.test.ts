/** Objects from a store in memory: levels, in any order, whatever somebody wrote. */
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import {
  EMPTY_OBJECTS,
  type ObjectProblem,
  type ObjectSet,
  type ObjectSource,
  type Pod,
} from '../objects/types.ts';
import { MemoryStore } from '../store/memory.ts';
import { parseIpv4 } from '../wire/address.ts';
import { combine, etcdSource, withInterfaces, withOwnPods } from './object-store.ts';

const pod = (
  name: string,
  ip: string | null,
  labels: Record<string, string> = {},
  node = 'n1',
) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { namespace: 'default', name, labels },
  spec: ip === null ? {} : { nodeName: node },
  status: ip === null ? {} : { phase: 'Running', podIP: ip, podIPs: [{ ip }] },
});
const namespace = (name: string, labels: Record<string, string> = {}) => ({
  apiVersion: 'v1',
  kind: 'Namespace',
  metadata: { name, labels },
});
const policy = (name: string, spec: unknown = { podSelector: {} }) => ({
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { namespace: 'default', name },
  spec,
});

const POLICY = '/p/objects/networkpolicies/default/deny';
const NAMESPACE = '/p/objects/namespaces/-/web';
const APPLIED = '/p/objects/pods/default/a';
const ATTACHED = '/p/pods/n1/default/a';

/** A reader that takes sets as they come; `next` waits for one that `isSo`. */
function read(t: ExecutionContext, source: ObjectSource) {
  const stop = new AbortController();
  t.teardown(() => stop.abort());
  let latest: ObjectSet | null = null;
  let count = 0;
  const reading = (async () => {
    for await (const set of source.watch(stop.signal)) {
      latest = set;
      count++;
    }
  })();
  const next = async (isSo: (set: ObjectSet) => boolean): Promise<ObjectSet> => {
    for (let i = 0; i < 400; i++) {
      const set = latest;
      if (set !== null && isSo(set)) return set;
      await sleep(5);
    }
    throw new Error('it never came to be');
  };
  const end = async (): Promise<void> => {
    stop.abort();
    await reading;
  };
  return { next, end, count: () => count };
}

function setUp(t: ExecutionContext) {
  const store = new MemoryStore();
  let problems: readonly ObjectProblem[] = [];
  const source = etcdSource(store, '/p', (now) => (problems = now));
  const put = async (key: string, value: unknown): Promise<void> => {
    const text = typeof value === 'string' ? value : JSON.stringify(value);
    const entry = await store.get(key);
    await store.commit(
      entry === null
        ? { kind: 'create', key, value: text, leaseId: null }
        : { kind: 'replace', key, value: text, leaseId: null, modRevision: entry.modRevision },
    );
  };
  const remove = async (key: string): Promise<void> => {
    const { modRevision } = (await store.get(key))!;
    await store.commit({ kind: 'delete', key, modRevision });
  };
  return { store, source, put, remove, problems: () => problems, ...read(t, source) };
}

test('the whole set first, and the same maps and objects as long as they are the same', async (t) => {
  const { put, next, remove } = setUp(t);
  const empty = await next(() => true);
  t.is(empty.pods.size, 0);
  await put(NAMESPACE, namespace('web', { a: 'b' }));
  await put(POLICY, policy('deny'));
  const first = await next((it) => it.networkPolicies.size === 1);
  t.is(first.namespaces.get('/web')!.metadata.labels['a'], 'b');
  await put(POLICY, policy('deny', { podSelector: { matchLabels: { a: 'b' } } }));
  const second = await next((it) => it.networkPolicies !== first.networkPolicies);
  t.is(second.namespaces, first.namespaces);
  t.is(second.pods, first.pods);
  await remove(NAMESPACE);
  t.is((await next((it) => it.namespaces.size === 0)).networkPolicies, second.networkPolicies);
});

for (const [title, value, field] of [
  ['no JSON', '{', ''],
  ['a field', policy('deny', { podSelector: { matchLabels: 1 } }), 'spec.podSelector.matchLabels'],
  ['another name', policy('other'), ''],
  ['a list', '[]', ''],
  ['10 MB', `"${'x'.repeat(10 << 20)}"`, ''],
  ['__proto__', '{"__proto__":{"kind":"Pod"}}', 'kind'],
] as const) {
  test(`a slip keeps the last good object, and is told until it is mended: ${title}`, async (t) => {
    const { put, next, problems } = setUp(t);
    await put(POLICY, policy('deny'));
    const good = await next((it) => it.networkPolicies.size === 1);
    await put(POLICY, value);
    await put(NAMESPACE, namespace('web'));
    const after = await next((it) => it.namespaces.size === 1);
    t.is(after.networkPolicies.get('default/deny'), good.networkPolicies.get('default/deny'));
    t.is(problems()[0]?.field, field);
    t.regex(problems()[0]!.place, /networkpolicies\/default\/deny/);
    await put(POLICY, policy('deny', { podSelector: {}, policyTypes: ['Egress'] }));
    await next((it) => it.networkPolicies.get('default/deny')?.policyTypes[0] === 'Egress');
    t.deepEqual(problems(), []);
  });
}

test('a policy that never was valid isolates its pods, and is told until it is mended', async (t) => {
  const { put, next, problems } = setUp(t);
  await put(POLICY, policy('deny', { podSelector: {}, ingress: [{}], egres: [] }));
  const set = await next((it) => it.networkPolicies.size === 1);
  t.like(set.networkPolicies.get('default/deny'), {
    policyTypes: ['Ingress', 'Egress'],
    ingress: [],
  });
  t.is(problems()[0]?.field, 'spec.egres');
  await put(POLICY, policy('deny', { podSelector: {}, ingress: [{}] }));
  await next((it) => it.networkPolicies.get('default/deny')?.ingress.length === 1);
  t.deepEqual(problems(), []);
});

test('a field that was probably meant is told, and the object counts', async (t) => {
  const { put, next, problems } = setUp(t);
  await put(NAMESPACE, { ...namespace('web'), statuss: {} });
  await next((it) => it.namespaces.size === 1);
  t.is(problems()[0]?.field, 'statuss');
});

for (const [title, key, value] of [
  ['another kind', '/p/objects/pods/default/deny', policy('deny')],
  ['another namespace', '/p/objects/networkpolicies/web/deny', policy('deny')],
  ['another name', '/p/objects/networkpolicies/default/x', policy('deny')],
  ['no such kind', '/p/objects/secrets/default/x', policy('deny')],
  ['too long a key', '/p/objects/networkpolicies/default/deny/x', policy('deny')],
  ['a namespace in the cluster', '/p/objects/namespaces/default/web', namespace('web')],
  ['a path', '/p/objects/networkpolicies/../deny', policy('deny')],
  ['two at once', POLICY, [policy('deny'), policy('deny')]],
  ["another node's pod", '/p/pods/n2/default/a', pod('a', '10.244.1.2')],
  ['a policy for a pod', ATTACHED, policy('a')],
  ['an object of no kind', POLICY, { __proto__: null }],
] as const) {
  test(`a key that contradicts its object is a problem: ${title}`, async (t) => {
    const { put, next, problems } = setUp(t);
    await put(key, value);
    await put(NAMESPACE, namespace('web'));
    const set = await next((it) => it.namespaces.size === 1);
    t.is(problems().length, 1);
    t.is(set.networkPolicies.size + set.pods.size, 0);
  });
}

test('an attached pod has the labels that were applied for it, and its own addresses', async (t) => {
  const { put, next, remove } = setUp(t);
  await put(ATTACHED, pod('a', '10.244.1.2', { own: '1' }));
  const alone = (await next((it) => it.pods.size === 1)).pods.get('default/a')!;
  t.deepEqual(alone.metadata.labels, { own: '1' });
  await put(APPLIED, {
    ...pod('a', null, { app: 'web' }),
    spec: { containers: [{ name: 'c', ports: [{ name: 'http', containerPort: 80 }] }] },
  });
  const merged = (await next((it) => it.pods.get('default/a') !== alone)).pods.get('default/a')!;
  t.deepEqual(merged.metadata.labels, { app: 'web' });
  t.deepEqual(merged.podIPs, [parseIpv4('10.244.1.2')]);
  t.deepEqual([merged.nodeName, merged.phase, merged.ready], ['n1', 'Running', true]);
  t.is(merged.ports[0]!.name, 'http');
  await put('/p/pods/n1/default/b', pod('b', '10.244.1.3'));
  const more = await next((it) => it.pods.size === 2);
  t.is(more.pods.get('default/a'), merged);
  await remove(ATTACHED);
  const left = await next((it) => it.pods.get('default/a') !== merged);
  t.deepEqual(left.pods.get('default/a')!.podIPs, []);
});

test('of two nodes that have a pod of one name the later counts', async (t) => {
  const { put, next } = setUp(t);
  await put('/p/pods/n2/default/a', pod('a', '10.244.2.2', {}, 'n2'));
  await put(ATTACHED, pod('a', '10.244.1.2'));
  await put(NAMESPACE, namespace('web'));
  const { pods } = await next((it) => it.namespaces.size === 1);
  t.is(pods.get('default/a')!.nodeName, 'n1');
});

const podOf = (name: string, ip: string | null, labels = {}): Pod => ({
  kind: 'Pod',
  metadata: { namespace: 'default', name, labels, annotations: {} },
  nodeName: 'n1',
  hostNetwork: false,
  ports: [],
  podIPs: ip === null ? [] : [parseIpv4(ip)],
  phase: 'Running',
  ready: true,
  terminating: false,
});

/** A source that gives what it is told. */
function manual() {
  let changed = Promise.withResolvers<void>();
  let latest: ObjectSet | null = null;
  const give = (set: ObjectSet): void => {
    latest = set;
    changed.resolve();
  };
  const source: ObjectSource = {
    async *watch(signal) {
      signal.addEventListener('abort', () => changed.resolve());
      while (!signal.aborted) {
        await changed.promise;
        changed = Promise.withResolvers();
        if (!signal.aborted && latest !== null) yield latest;
      }
    },
  };
  return { source, give };
}
const podSet = (...pods: Pod[]): ObjectSet => ({
  ...EMPTY_OBJECTS,
  pods: new Map(pods.map((it) => [`default/${it.metadata.name}`, it])),
});

test('combined sources are complete when all are, and the first one counts', async (t) => {
  const [directory, etcd] = [manual(), manual()];
  let problems: readonly ObjectProblem[] = [];
  const both = combine([directory.source, etcd.source], (now) => (problems = now));
  const { next, end, count } = read(t, both);
  etcd.give(podSet(podOf('a', '10.244.1.2'), podOf('b', '10.244.1.3')));
  await sleep(20);
  t.is(count(), 0);
  const named = podOf('a', null, { app: 'web' });
  const own = podOf('b', '10.244.9.9');
  directory.give(podSet(named, own));
  const { pods } = await next(() => true);
  t.deepEqual(pods.get('default/a')!.metadata.labels, { app: 'web' });
  t.deepEqual(pods.get('default/a')!.podIPs, [parseIpv4('10.244.1.2')]);
  t.is(pods.get('default/b'), own);
  t.deepEqual(
    problems.map(({ object }) => object),
    ['Pod default/b'],
  );
  const alone = podSet(own);
  directory.give(alone);
  etcd.give(EMPTY_OBJECTS);
  const last = await next((it) => it.pods.size === 1);
  t.is(last.pods, alone.pods);
  t.deepEqual(problems, []);
  await end();
});

test('no sources are a complete, empty set; a source that fails fails all', async (t) => {
  const none = read(t, combine([]));
  t.is((await none.next(() => true)).pods.size, 0);
  await none.end();
  const broken: ObjectSource = {
    // eslint-disable-next-line require-yield
    async *watch() {
      await Promise.resolve();
      throw new TypeError('a defect');
    },
  };
  await t.throwsAsync(
    async () => {
      const all = combine([broken, manual().source]).watch(new AbortController().signal);
      for await (const _ of all) t.fail();
    },
    { message: 'a defect' },
  );
});

test("this node's pods are known at once, and their addresses are nobody else's", (t) => {
  const applied = podOf('a', null, { app: 'web' });
  const thief = podOf('thief', '10.244.1.2', { app: 'db' });
  const set = podSet(applied, thief);
  const own = podOf('a', '10.244.1.2', { own: '1' });
  const { pods } = withOwnPods(set, [own, podOf('new', '10.244.1.4')]);
  t.deepEqual(pods.get('default/a')!.metadata.labels, { app: 'web' });
  t.deepEqual(pods.get('default/a')!.podIPs, own.podIPs);
  t.deepEqual(pods.get('default/thief')!.podIPs, []);
  t.is(pods.size, 3);
  t.is(withOwnPods(set, [own]).pods.get('default/a'), pods.get('default/a'));
  t.is(withOwnPods(set, []), set);
});

test('what etcd says of an own pod alone is not believed before what the node knows', async (t) => {
  const { put, next } = setUp(t);
  await put(ATTACHED, pod('a', '10.244.1.2', { old: '1' }));
  const set = await next((it) => it.pods.size === 1);
  const own = podOf('a', '10.244.1.2', { app: 'web' });
  t.is(withOwnPods(set, [own]).pods.get('default/a'), own);
});

test('what was applied for a pod reaches its other interfaces, here and on other nodes', async (t) => {
  const { put, next } = setUp(t);
  const second = (name: string, ip: string, of = 'a') => {
    const raw = pod(name, ip, { runtime: '1' });
    return { ...raw, metadata: { ...raw.metadata, annotations: { 'weft.io/interface-of': of } } };
  };
  await put(ATTACHED, pod('a', '10.244.1.2', { runtime: '1' }));
  await put('/p/pods/n1/default/a-eth1', second('a-eth1', '10.244.1.3'));
  const plain = await next((it) => it.pods.size === 2);
  t.is(withInterfaces(plain), plain, 'nothing was applied');
  await put(APPLIED, {
    ...pod('a', null, { app: 'web' }),
    spec: { containers: [{ name: 'c', ports: [{ name: 'http', containerPort: 80 }] }] },
  });
  const set = await next((it) => it.pods.get('default/a') !== plain.pods.get('default/a'));
  const { pods } = withInterfaces(set);
  const other = pods.get('default/a-eth1')!;
  t.deepEqual(other.metadata.labels, { app: 'web' });
  t.is(other.metadata.name, 'a-eth1');
  t.is(other.ports[0]!.name, 'http');
  t.deepEqual(other.podIPs, [parseIpv4('10.244.1.3')]);
  t.is(withInterfaces(set).pods.get('default/a-eth1'), other, 'the same again');

  const own = podOf('a', '10.244.1.9');
  const ownSecond = podOf('a-eth1', '10.244.1.10');
  const annotated = {
    ...ownSecond,
    metadata: { ...ownSecond.metadata, annotations: { 'weft.io/interface-of': 'a' } },
  };
  const here = withInterfaces(withOwnPods(set, [own, annotated])).pods;
  t.deepEqual(here.get('default/a-eth1')!.metadata.labels, { app: 'web' });
  t.deepEqual(here.get('default/a-eth1')!.podIPs, [parseIpv4('10.244.1.10')]);

  await put('/p/objects/pods/default/a-eth1', pod('a-eth1', null, { app: 'db' }));
  const apart = await next(
    (it) => it.pods.get('default/a-eth1') !== set.pods.get('default/a-eth1'),
  );
  t.deepEqual(withInterfaces(apart).pods.get('default/a-eth1')!.metadata.labels, { app: 'db' });
});
