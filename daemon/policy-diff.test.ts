import test from 'ava';
import { parseObjects } from '../objects/parse.ts';
import { mergeSets, objectSetOf } from '../objects/set.ts';
import type { ObjectSet, WeftObject } from '../objects/types.ts';
import { NOWHERE } from '../policy/reference.ts';
import { NAMESPACES, SETS } from '../test/policy/sets.ts';
import { formatAddress, parseAddress } from '../wire/address.ts';
import type { PolicyChangeMessage } from './messages.ts';
import { type SeenFlow, diffPolicies, isPolicy, withPolicies } from './policy-diff.ts';

const objectsOf = (yaml: string): readonly WeftObject[] => {
  const { objects, problems } = parseObjects(yaml, 'test');
  if (problems.length > 0) throw new Error(JSON.stringify(problems));
  return objects;
};
const setOf = (yaml: string): ObjectSet => mergeSets([objectSetOf(objectsOf(yaml))]);

const pod = (namespace: string, name: string, address: string, tier: string): string => `
---
apiVersion: v1
kind: Pod
metadata: { namespace: ${namespace}, name: ${name}, labels: { app: ${name}, tier: ${tier} } }
spec:
  nodeName: n1
  containers: [{ name: c, ports: [{ name: http, containerPort: 80 }, { name: dns, containerPort: 80, protocol: UDP }] }]
status: { phase: Running, podIP: ${address}, podIPs: [{ ip: ${address} }] }`;

const PODS = [
  ['x', 'a', '10.244.1.1', 'web'],
  ['y', 'b', '10.244.1.2', 'web'],
  ['x', 'c', '10.244.2.1', 'db'],
  ['y', 'd', '10.244.2.2', 'db'],
] as const;
const CLUSTER = `${NAMESPACES}${PODS.map(([namespace, name, address, tier]) => pod(namespace, name, address, tier)).join('')}
---
apiVersion: v1
kind: Service
metadata: { namespace: x, name: db }
spec: { clusterIP: 10.96.0.10, selector: { app: c }, ports: [{ name: sql, port: 5432, targetPort: 80 }] }`;

const addressOf = (name: string): string => PODS.find(([, it]) => it === name)?.[2] ?? name;

interface Seen {
  readonly from: string;
  readonly to: string;
  readonly port?: number;
  readonly protocol?: SeenFlow['protocol'];
  /** A frontend was asked, and no endpoint chosen. */
  readonly isFrontend?: boolean;
  /** Through Service x/db. */
  readonly isService?: boolean;
}

function seen(it: Seen): SeenFlow {
  const { from, to, port = 80, protocol = 'TCP', isFrontend = false } = it;
  const end = (name: string) => ({
    address: addressOf(name),
    port: null,
    namespace: null,
    pod: name,
    node: null,
  });
  const isService = it.isService ?? isFrontend;
  return {
    source: parseAddress(addressOf(from)),
    destination: parseAddress(addressOf(to)),
    protocol,
    port: protocol === 'other' ? 0 : port,
    isFrontend,
    told: {
      source: end(from),
      destination: end(to),
      service: isService ? { namespace: 'x', name: 'db', port: 'sql' } : null,
      protocol,
    },
    count: 1,
    firstMs: 0,
    lastMs: 1000,
  };
}

const brief = ({ source, destination, backend, before, after }: PolicyChangeMessage): string =>
  `${source.pod} > ${destination.pod}${backend === null ? '' : ` (${backend.namespace}/${backend.pod}:${backend.port})`}: ${before} -> ${after}`;

const ISOLATED = `
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: x, name: closed }
spec: { podSelector: { matchLabels: { app: c } }, ingress: [] }`;
const OPENED = `
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: x, name: closed }
spec: { podSelector: { matchLabels: { app: c } }, ingress: [{ from: [{ podSelector: { matchLabels: { app: a } } }], ports: [{ port: 80 }] }] }`;
const EGRESS = `
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: x, name: a-sends-nothing }
spec: { podSelector: { matchLabels: { app: a } }, policyTypes: [Egress] }`;
const TIER = `
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: no-web }
spec:
  tier: Admin
  priority: 1
  subject: { namespaces: {} }
  ingress: [{ action: Deny, from: [{ pods: { namespaceSelector: {}, podSelector: { matchLabels: { tier: web } } } }] }]`;

const CASES: readonly {
  readonly title: string;
  readonly before?: string;
  readonly given: string;
  readonly replace?: boolean;
  readonly flows: readonly Seen[];
  readonly changes: readonly string[];
}[] = [
  {
    title: 'newly denied, by ingress of the destination',
    given: ISOLATED,
    flows: [
      { from: 'a', to: 'c' },
      { from: 'a', to: 'd' },
    ],
    changes: ['a > c: allow -> deny'],
  },
  {
    title: 'newly denied, by egress of the source',
    given: EGRESS,
    flows: [
      { from: 'a', to: 'c' },
      { from: 'b', to: 'c' },
      { from: 'a', to: '192.0.2.1' },
    ],
    changes: ['a > c: allow -> deny', 'a > 192.0.2.1: allow -> deny'],
  },
  {
    title: 'newly allowed: the policy of the name is replaced',
    before: ISOLATED,
    given: OPENED,
    flows: [
      { from: 'a', to: 'c' },
      { from: 'b', to: 'c' },
      { from: 'a', to: 'c', port: 81 },
    ],
    changes: ['a > c: deny -> allow'],
  },
  {
    title: 'added: the others stay',
    before: ISOLATED,
    given: EGRESS,
    flows: [
      { from: 'b', to: 'c' },
      { from: 'a', to: 'd' },
    ],
    changes: ['a > d: allow -> deny'],
  },
  {
    title: '--replace: the others go',
    before: ISOLATED,
    given: EGRESS,
    replace: true,
    flows: [
      { from: 'b', to: 'c' },
      { from: 'a', to: 'd' },
    ],
    changes: ['b > c: deny -> allow', 'a > d: allow -> deny'],
  },
  {
    title: 'a tier of the cluster',
    given: TIER,
    flows: [
      { from: 'a', to: 'c', protocol: 'UDP' },
      { from: 'c', to: 'd' },
    ],
    changes: ['a > c: allow -> deny'],
  },
  {
    title: 'without ports: rules that have ports match nothing',
    given: OPENED,
    flows: [{ from: 'a', to: 'c', protocol: 'other' }],
    changes: ['a > c: allow -> deny'],
  },
  {
    title: 'through a Service: the endpoint that was chosen counts, not the frontend',
    given: ISOLATED,
    flows: [{ from: 'a', to: 'c', isService: true }],
    changes: ['a > c (x/c:80): allow -> deny'],
  },
  {
    title: 'denied on the way to a Service: its endpoints are asked',
    before: ISOLATED,
    given: OPENED,
    flows: [{ from: 'a', to: '10.96.0.10', port: 5432, isFrontend: true }],
    changes: ['a > 10.96.0.10 (x/c:80): deny -> allow'],
  },
  {
    title: 'the same answer for another reason is no change',
    before: ISOLATED,
    given: EGRESS,
    flows: [{ from: 'a', to: 'c' }],
    changes: [],
  },
];
for (const { title, before = '', given, replace = false, flows, changes } of CASES) {
  test(`diff: ${title}`, (t) => {
    const diff = diffPolicies({
      objects: setOf(CLUSTER + before),
      policies: objectsOf(given),
      replace,
      around: NOWHERE,
      flows: flows.map(seen),
    });
    t.deepEqual(diff.changes.map(brief), changes);
    t.is(diff.asked, flows.length);
  });
}

test('both reasons are given', (t) => {
  const { changes } = diffPolicies({
    objects: setOf(CLUSTER + ISOLATED),
    policies: objectsOf(OPENED),
    replace: false,
    around: NOWHERE,
    flows: [seen({ from: 'a', to: 'c' })],
  });
  t.like(changes[0], {
    beforeBecause: 'NetworkPolicy x/closed isolates pod x/c for ingress; no rule allows it',
    firstSeen: '1970-01-01T00:00:00.000Z',
    lastSeen: '1970-01-01T00:00:01.000Z',
  });
  t.regex(changes[0]!.afterBecause, /allowed by NetworkPolicy x\/closed ingress rule 1/);
});

const ENDS = [...PODS.map(([, name]) => name), '192.0.2.1', '10.244.9.9'];
const ALL: readonly SeenFlow[] = ENDS.flatMap((from) =>
  ENDS.flatMap((to) =>
    (['TCP', 'UDP', 'other'] as const).flatMap((protocol) =>
      [80, 81].map((port) => seen({ from, to, port, protocol })),
    ),
  ),
);
const keyOf = ({ source, destination, protocol, ...it }: PolicyChangeMessage): string =>
  `${source.pod} ${destination.pod} ${protocol} ${it.before} ${it.after}`;
const mirrored = ({ before: after, after: before, ...it }: PolicyChangeMessage) => ({
  ...it,
  before,
  after,
});

test('every set against itself: nothing changes; against the next: what the way back takes back', (t) => {
  const sets = SETS.map(([, yaml]) => objectsOf(yaml).filter(isPolicy));
  const cluster = setOf(CLUSTER);
  for (const [i, policies] of sets.entries()) {
    const objects = withPolicies(cluster, policies, true);
    const common = { around: NOWHERE, flows: ALL };
    for (const replace of [true, false]) {
      const { changes } = diffPolicies({ ...common, objects, policies, replace });
      t.deepEqual(changes, [], SETS[i]![0]);
    }
    const next = sets[(i + 1) % sets.length]!;
    const there = diffPolicies({ ...common, objects, policies: next, replace: true });
    const back = diffPolicies({
      ...common,
      objects: withPolicies(cluster, next, true),
      policies,
      replace: true,
    });
    t.deepEqual(back.changes.map(mirrored).map(keyOf), there.changes.map(keyOf), SETS[i]![0]);
  }
  t.true(ALL.length > 200 && formatAddress(ALL[0]!.source) === '10.244.1.1');
});
