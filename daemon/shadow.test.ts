import test from 'ava';
import { parseObjects } from '../objects/parse.ts';
import { mergeSets, objectSetOf } from '../objects/set.ts';
import { MemoryStore } from '../store/memory.ts';
import { parseIpv4 } from '../wire/address.ts';
import type { PolicyEvent } from './flow-log.ts';
import { Shadow, candidateOf, shadowKey } from './shadow.ts';

const CLUSTER = mergeSets([
  objectSetOf(
    parseObjects(
      ['web 10.244.1.5', 'db 10.244.1.7']
        .map((it) => it.split(' '))
        .map(
          ([name, ip]) => `
apiVersion: v1
kind: Pod
metadata: { namespace: shop, name: ${name}, labels: { app: ${name} } }
spec: { nodeName: n1 }
status: { phase: Running, podIP: ${ip}, podIPs: [{ ip: ${ip} }] }`,
        )
        .join('\n---\n'),
      'pods.yaml',
    ).objects,
  ),
]);
const OWN = [...CLUSTER.pods.values()];
const NODE_ADDRESSES = [parseIpv4('192.0.2.1')];

const CLOSED = {
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { namespace: 'shop', name: 'closed' },
  spec: { podSelector: { matchLabels: { app: 'db' } }, ingress: [] },
};
const valueOf = (...documents: readonly object[]): string =>
  JSON.stringify({ documents, replace: false, startedAt: '2026-01-01T00:00:00Z' });

const end = (pod: string, port: number | null) => ({
  address: null,
  port,
  namespace: 'shop',
  pod,
  node: null,
});
const event = (port = 80, more: Partial<PolicyEvent> = {}): PolicyEvent => ({
  source: parseIpv4('10.244.1.5'),
  destination: parseIpv4('10.244.1.7'),
  protocol: 'TCP',
  protocolNumber: 6,
  port,
  frontend: null,
  isFrontend: false,
  isOut: true,
  isDenied: false,
  timeMs: 1000,
  sourcePod: OWN[0]!,
  destinationPod: OWN[1]!,
  told: { source: end('web', null), destination: end('db', port), service: null, protocol: 'TCP' },
  ...more,
});

function open() {
  const clock = { ms: 0 };
  let objects = CLUSTER;
  const view = () => ({ objects, own: OWN, nodeAddresses: NODE_ADDRESSES });
  const shadow = new Shadow({ node: 'n1', view, now: () => clock.ms });
  const policies = (...raws: readonly object[]): void => {
    const { objects: given } = parseObjects(JSON.stringify(raws[0] ?? {}), 'p.json');
    objects = {
      ...CLUSTER,
      networkPolicies: objectSetOf(raws.length === 0 ? [] : given).networkPolicies,
    };
  };
  return { shadow, clock, policies };
}

test('what the policies in force allow and the tried ones do not, counted', (t) => {
  const { shadow } = open();
  t.is(shadow.tick(), null);
  shadow.use(valueOf(CLOSED));
  const take = shadow.tick()!;
  take(() => event());
  take(() => event(80, { timeMs: 5000 }));
  take(() => null);
  const { changes, trial } = shadow.status();
  t.is(trial!.asked, 2);
  t.is(changes.length, 1);
  t.like(changes[0], {
    before: 'allow',
    after: 'deny',
    beforeBecause:
      'no policy selects pod shop/web for egress; no policy selects pod shop/db for ingress',
    afterBecause: 'NetworkPolicy shop/closed isolates pod shop/db for ingress; no rule allows it',
    count: 2,
    firstSeen: '1970-01-01T00:00:01.000Z',
    lastSeen: '1970-01-01T00:00:05.000Z',
  });
  shadow.use(null);
  t.deepEqual(shadow.status(), { node: 'n1', trial: null, problem: null, changes: [] });
});

test('the very policies in force: no difference', (t) => {
  const { shadow, policies } = open();
  policies(CLOSED);
  shadow.use(valueOf(CLOSED));
  const take = shadow.tick()!;
  take(() => event(80, { isDenied: true }));
  take(() => event(80, { source: parseIpv4('10.244.1.7'), destination: parseIpv4('10.244.1.5') }));
  t.is(shadow.status().trial!.asked, 2);
  t.deepEqual(shadow.status().changes, []);
});

test('objects that change are followed, no sooner than in a second', (t) => {
  const { shadow, clock, policies } = open();
  shadow.use(
    valueOf({
      ...CLOSED,
      metadata: { namespace: 'shop', name: 'other' },
      spec: { podSelector: { matchLabels: { app: 'web' } }, policyTypes: ['Ingress'] },
    }),
  );
  shadow.tick();
  policies(CLOSED);
  // In force, and denied; the candidate is what is in force and one more.
  clock.ms = 500;
  shadow.tick()!(() => event(80, { isDenied: true }));
  t.is(shadow.status().changes.length, 1);
  clock.ms = 1500;
  shadow.tick()!(() => event(81, { isDenied: true }));
  t.is(shadow.status().changes.length, 1);
});

test('a tick has its budget: what comes beyond is counted, and not even looked at', (t) => {
  const { shadow, clock } = open();
  shadow.use(valueOf(CLOSED));
  const take = shadow.tick()!;
  for (let i = 0; i < 20; i++) take(() => event());
  clock.ms = 6;
  take(() => {
    throw new Error('looked at');
  });
  t.like(shadow.status().trial, { asked: 20, skipped: 1 });
});

test('kinds of flow and differences are remembered up to a number', (t) => {
  const { shadow } = open();
  shadow.use(valueOf(CLOSED));
  const take = shadow.tick()!;
  for (let port = 1; port <= 20_100; port++) take(() => event(port));
  const { changes, trial } = shadow.status();
  t.is(changes.length, 5_000);
  t.like(trial, { asked: 20_000, skipped: 100, untold: 15_000 });
});

const REFUSED: readonly (readonly [string, string, RegExp])[] = [
  ['no JSON', '{', /not JSON/],
  ['another shape', '{"documents":{}}', /malformed/],
  ['a prototype', '{"__proto__":{"documents":[]}}', /malformed/],
  ['too long', `"${'x'.repeat(1 << 20)}"`, /more than 1048576 characters/],
  [
    'no policy',
    valueOf({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'a' } }),
    /it is no policy/,
  ],
  [
    'a policy that is not valid',
    valueOf({ ...CLOSED, spec: { ingress: 1 } }),
    /NetworkPolicy shop\/closed: spec/,
  ],
];
for (const [title, value, reason] of REFUSED) {
  test(`in etcd stands ${title}: ignored, and told`, (t) => {
    t.throws(() => candidateOf(value), { message: reason });
    const { shadow } = open();
    shadow.use(valueOf(CLOSED));
    shadow.use(value);
    t.is(shadow.tick(), null);
    t.regex(shadow.status().problem!, reason);
  });
}

test('started, replaced and stopped for all nodes, through etcd', async (t) => {
  using store = new MemoryStore();
  const stop = new AbortController();
  const nodes = [open().shadow, open().shadow] as const;
  const told: string[] = [];
  const following = nodes.map((it) =>
    it.follow(store, '/weft-test', stop.signal, (problem) => told.push(problem)),
  );
  const until = async (isSo: () => boolean): Promise<void> => {
    for (let i = 0; i < 100 && !isSo(); i++) await new Promise((go) => setTimeout(go, 10));
  };
  const status = await nodes[0].start(store, '/weft-test', { documents: [CLOSED], replace: true });
  t.like(status.trial, { policies: ['NetworkPolicy shop/closed'], replace: true });
  await until(() => nodes[1].status().trial !== null);
  t.truthy(nodes[1].status().trial);
  await t.throwsAsync(nodes[0].start(store, '/weft-test', { documents: [{}], replace: true }), {
    code: 'ERR_OBJECT',
  });
  t.truthy(nodes[0].status().trial);

  const entry = await store.get(shadowKey('/weft-test'));
  const { key, modRevision } = entry!;
  await store.commit({ kind: 'replace', key, value: 'nonsense', leaseId: null, modRevision });
  await until(() => told.length === 2);
  t.deepEqual(told, ['it is not JSON', 'it is not JSON']);

  await nodes[1].stop(store, '/weft-test');
  await until(() => nodes.every((it) => it.status().problem === null));
  t.deepEqual(
    nodes.map((it) => it.status().problem),
    [null, null],
  );
  stop.abort();
  await Promise.allSettled(following);
});
