/** This node's pods in a store in memory. */
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import type { Attachment } from '../ipam/types.ts';
import type { Pod } from '../objects/types.ts';
import { MemoryStore } from '../store/memory.ts';
import { StoreError } from '../store/store.ts';
import { parseIpv4, parseIpv6 } from '../wire/address.ts';
import { parseMac } from '../wire/mac.ts';
import { parseObjects } from '../objects/parse.ts';
import { podOfAttachment, podsOfAttachments, publishOwnPods, rawPod } from './own-pods.ts';

const attachment = (containerId: string, last: number, more: Partial<Attachment> = {}) =>
  ({
    containerId,
    ifname: 'eth0',
    network: 'weft',
    netns: '/run/netns/a',
    netnsId: '4:1',
    address4: parseIpv4(`10.244.1.${last}`),
    address6: null,
    mac: parseMac('02:00:00:00:00:05'),
    pod: { namespace: 'web', name: `pod-${last}`, labels: { app: 'web' } },
    ...more,
  }) satisfies Attachment;

for (const [title, more, namespace, name] of [
  ['Kubernetes', {}, 'web', 'pod-2'],
  ['a container id', { pod: null }, 'default', 'abc-d.e'],
  ['names that are none', { pod: { namespace: 'A_b.c', name: 'x_Y..-z.' } }, 'a-b-c', 'x-y.z'],
  ['nothing is left', { pod: { namespace: 'x', name: '_' } }, 'x', 'pod'],
] as const) {
  test(`the pod's name: ${title}`, (t) => {
    const { metadata } = podOfAttachment(attachment('ABc_d.-.e', 2, more), 'n1');
    t.deepEqual([metadata.namespace, metadata.name], [namespace, name]);
  });
}

test('the same attachment is the same object, with its labels and addresses', (t) => {
  const one = attachment('a', 2, { address6: parseIpv6('fd00::2') });
  const pod = podOfAttachment(one, 'n1');
  t.is(podOfAttachment(one, 'n1'), pod);
  t.deepEqual(pod.podIPs, [parseIpv4('10.244.1.2'), parseIpv6('fd00::2')]);
  t.deepEqual(pod.metadata.labels, { app: 'web' });
  t.true(pod.ready && pod.phase === 'Running' && pod.nodeName === 'n1');
});

test('named ports that came with the attachment are told to all', (t) => {
  const ports = [{ name: 'dns', containerPort: 53, protocol: 'UDP' }] as const;
  const pod = podOfAttachment(
    attachment('a', 2, { pod: { namespace: 'web', name: 'x', ports } }),
    'n1',
  );
  t.deepEqual(pod.ports, ports);
  const { objects, problems } = parseObjects(JSON.stringify(rawPod(pod)), 'x');
  t.deepEqual(problems, []);
  t.like(objects[0], { ports });
});

test('of a pod with several interfaces the first has the name', (t) => {
  const second = { ...attachment('a', 3), ifname: 'eth1', pod: attachment('a', 2).pod };
  const pods = podsOfAttachments([attachment('a', 2), second, { ...second, ifname: 'Eth1' }], 'n1');
  t.deepEqual(
    pods.map(({ metadata }) => metadata.name),
    ['pod-2', 'pod-2-eth1', 'pod-2-eth1-2'],
  );
  t.deepEqual(pods[1]!.metadata.labels, { app: 'web' });
  t.deepEqual(
    pods.map(({ metadata }) => metadata.annotations['weft.io/interface-of']),
    [undefined, 'pod-2', 'pod-2'],
  );
  t.like(rawPod(pods[1]!)['metadata'], { annotations: { 'weft.io/interface-of': 'pod-2' } });
});

const until = async (t: ExecutionContext, isSo: () => Promise<boolean>): Promise<void> => {
  for (let i = 0; i < 400; i++) {
    if (await isSo()) return;
    await sleep(10);
  }
  t.fail('it never came to be');
};

function setUp(t: ExecutionContext, ttlMs = 60_000) {
  const store = new MemoryStore();
  const state: { pods: readonly Pod[] } = { pods: [] };
  const problems: (string | null)[] = [];
  const options = {
    store,
    prefix: '/p',
    nodeName: 'n1',
    ttlMs,
    pods: () => state.pods,
    onProblem: (error: StoreError | null) => problems.push(error?.message ?? null),
    retryMs: 20,
  };
  const own = publishOwnPods(options);
  t.teardown(() => own.stop());
  const keys = async (): Promise<string> =>
    [...(await store.list('/p/pods/')).entries.keys()].toSorted().join(' ');
  const set = (...attachments: Attachment[]): void => {
    state.pods = podsOfAttachments(attachments, 'n1');
    own.changed();
  };
  return { store, own, set, keys, problems, options };
}

const KEY2 = '/p/pods/n1/web/pod-2';
const KEY3 = '/p/pods/n1/web/pod-3';

test('pods come, change and go', async (t) => {
  const { store, set, keys } = setUp(t);
  set(attachment('a', 2), attachment('b', 3));
  await until(t, async () => (await keys()) === `${KEY2} ${KEY3}`);
  const entry = (await store.get(KEY2))!;
  t.not(entry.leaseId, null);
  t.deepEqual(JSON.parse(entry.value), {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: 'web', name: 'pod-2', labels: { app: 'web' } },
    spec: { nodeName: 'n1' },
    status: { phase: 'Running', podIP: '10.244.1.2', podIPs: [{ ip: '10.244.1.2' }] },
  });
  set(attachment('a', 2, { address4: parseIpv4('10.244.1.9') }));
  await until(t, async () => (await store.get(KEY2))!.value.includes('10.244.1.9'));
  await until(t, async () => (await keys()) === KEY2);
  set();
  await until(t, async () => (await keys()) === '');
});

test('what others did to our keys is mended, and what is not ours stays', async (t) => {
  const { store, set, keys } = setUp(t);
  const other = '/p/pods/n10/web/pod-2';
  await store.commit({ kind: 'create', key: other, value: '{}', leaseId: null });
  await store.commit({ kind: 'create', key: '/p/pods/n1/x/old', value: '{}', leaseId: null });
  set(attachment('a', 2));
  await until(t, async () => (await keys()) === `${KEY2} ${other}`);
  const { modRevision } = (await store.get(KEY2))!;
  await store.commit({ kind: 'delete', key: KEY2, modRevision });
  await until(t, async () => (await store.get(KEY2)) !== null);
  t.is(await keys(), `${KEY2} ${other}`);
});

test('after the store was away everything is put right', async (t) => {
  const { store, set, keys, problems } = setUp(t);
  set(attachment('a', 2));
  await until(t, async () => (await keys()) === KEY2);
  for (let i = 0; i < 3; i++) store.failNext(new StoreError('ERR_STORE_UNREACHABLE', 'gone'));
  set(attachment('b', 3));
  await until(t, () => Promise.resolve(problems.at(-1) === null && problems.length > 1));
  t.is(problems[0], 'gone');
  t.is(await keys(), KEY3);
});

test('a lease that the store forgot is replaced', async (t) => {
  const { store, set, keys } = setUp(t);
  set(attachment('a', 2));
  await until(t, async () => (await keys()) === KEY2);
  await store.revoke((await store.get(KEY2))!.leaseId!);
  t.is(await keys(), '');
  await until(t, async () => (await keys()) === KEY2);
});

test('keys move to a new lease before the old one ends', async (t) => {
  const { store, set, keys } = setUp(t, 1000);
  set(attachment('a', 2));
  await until(t, async () => (await keys()) === KEY2);
  const { leaseId } = (await store.get(KEY2))!;
  for (let i = 0; i < 20; i++) {
    await sleep(100);
    t.is(await keys(), KEY2);
  }
  t.not((await store.get(KEY2))!.leaseId, leaseId);
});

test('stopping keeps them for the next start, releasing takes them back', async (t) => {
  const { own, set, keys, options } = setUp(t);
  set(attachment('a', 2));
  await until(t, async () => (await keys()) === KEY2);
  await own.stop();
  t.is(await keys(), KEY2);
  const next = publishOwnPods(options);
  await next.release();
  t.is(await keys(), '');
});
