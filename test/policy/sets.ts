/**
 * Policy sets, each a manifest, for pods that are asked about with real packets (truth.test.ts).
 *
 *     namespace x (team: red)    x/a on n1 (app: a, tier: web)    x/c on n2 (app: c, tier: db)
 *     namespace y (team: blue)   y/b on n1 (app: b, tier: web)    y/d on n2 (app: d, tier: db)
 *
 * Every pod has the container ports `http` (TCP 80), `alt` (TCP 81) and `dns` (UDP 80).
 */

export const NAMESPACES = `
apiVersion: v1
kind: Namespace
metadata: { name: x, labels: { team: red } }
---
apiVersion: v1
kind: Namespace
metadata: { name: y, labels: { team: blue } }
`;

/** spec of a NetworkPolicy in namespace x, unless it says otherwise. */
const policy = (name: string, spec: string, namespace = 'x'): string => `
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: ${name}, namespace: ${namespace} }
spec: ${spec}
`;

const cluster = (name: string, spec: string): string => `
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: ${name} }
spec: ${spec}
`;

export const SETS: readonly (readonly [string, string])[] = [
  ['no policy at all', ''],
  ['ingress: [] isolates', policy('p', '{ podSelector: {}, ingress: [] }')],
  ['policyTypes missing: ingress only', policy('p', '{ podSelector: {} }')],
  [
    'policyTypes missing, egress rules: both',
    policy('p', '{ podSelector: {}, egress: [{ to: [{ podSelector: {} }] }] }'),
  ],
  ['egress isolation alone', policy('p', '{ podSelector: {}, policyTypes: [Egress] }')],
  ['a rule {} allows all', policy('p', '{ podSelector: {}, ingress: [{}] }')],
  [
    'an empty from is any peer, ports count',
    policy('p', '{ podSelector: {}, ingress: [{ from: [], ports: [{ port: 80 }] }] }'),
  ],
  [
    "podSelector alone is the policy's namespace",
    policy('p', '{ podSelector: {}, ingress: [{ from: [{ podSelector: {} }] }] }'),
  ],
  [
    'namespaceSelector alone is all of its pods',
    policy(
      'p',
      '{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: { matchLabels: { team: blue } } }] }] }',
    ),
  ],
  [
    'both in one entry: and',
    policy(
      'p',
      '{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: { matchLabels: { team: blue } }, podSelector: { matchLabels: { tier: db } } }] }] }',
    ),
  ],
  [
    'two entries: or',
    policy(
      'p',
      '{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: { matchLabels: { team: blue } } }, { podSelector: { matchLabels: { tier: db } } }] }] }',
    ),
  ],
  [
    'namespaceSelector {} is every namespace',
    policy('p', '{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: {} }] }] }'),
  ],
  [
    'In',
    policy(
      'p',
      '{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: {}, podSelector: { matchExpressions: [{ key: app, operator: In, values: [a, d] }] } }] }] }',
    ),
  ],
  [
    'NotIn',
    policy(
      'p',
      '{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: {}, podSelector: { matchExpressions: [{ key: app, operator: NotIn, values: [a, d] }] } }] }] }',
    ),
  ],
  [
    'Exists',
    policy(
      'p',
      '{ podSelector: { matchExpressions: [{ key: tier, operator: Exists }] }, ingress: [] }',
    ),
  ],
  [
    'DoesNotExist',
    policy(
      'p',
      '{ podSelector: { matchExpressions: [{ key: nothing, operator: DoesNotExist }] }, ingress: [] }',
    ),
  ],
  [
    'kubernetes.io/metadata.name',
    policy(
      'p',
      '{ podSelector: {}, ingress: [{ from: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: y } } }] }] }',
    ),
  ],
  [
    'a peer that nobody is',
    policy(
      'p',
      '{ podSelector: {}, ingress: [{ from: [{ podSelector: { matchLabels: { app: nobody } } }] }] }',
    ),
  ],
  [
    'one port',
    policy('p', '{ podSelector: {}, ingress: [{ ports: [{ protocol: TCP, port: 81 }] }] }'),
  ],
  [
    'protocol defaults to TCP',
    policy('p', '{ podSelector: {}, ingress: [{ ports: [{ port: 80 }] }] }'),
  ],
  [
    'a protocol without a port',
    policy('p', '{ podSelector: {}, ingress: [{ ports: [{ protocol: UDP }] }] }'),
  ],
  [
    'SCTP only isolates the others',
    policy('p', '{ podSelector: {}, ingress: [{ ports: [{ protocol: SCTP, port: 80 }] }] }'),
  ],
  [
    'endPort is inclusive',
    policy('p', '{ podSelector: {}, ingress: [{ ports: [{ port: 70, endPort: 80 }] }] }'),
  ],
  [
    'a range beyond',
    policy('p', '{ podSelector: {}, ingress: [{ ports: [{ port: 81, endPort: 90 }] }] }'),
  ],
  ['a named port', policy('p', '{ podSelector: {}, ingress: [{ ports: [{ port: alt }] }] }')],
  [
    'a named port of the other protocol',
    policy('p', '{ podSelector: {}, ingress: [{ ports: [{ protocol: UDP, port: alt }] }] }'),
  ],
  [
    'a named port on the way out',
    policy(
      'p',
      '{ podSelector: {}, policyTypes: [Egress], egress: [{ ports: [{ port: http }, { protocol: UDP, port: dns }] }] }',
    ),
  ],
  [
    'egress and ingress must both allow',
    policy(
      'out',
      '{ podSelector: {}, policyTypes: [Egress], egress: [{ to: [{ namespaceSelector: {} }], ports: [{ port: 80 }] }] }',
    ) + policy('in', '{ podSelector: {}, ingress: [{ ports: [{ port: 81 }] }] }', 'y'),
  ],
  [
    'the union of two policies',
    policy('one', '{ podSelector: {}, ingress: [{ ports: [{ port: 80 }] }] }') +
      policy('two', '{ podSelector: {}, ingress: [{ ports: [{ port: 81 }] }] }'),
  ],
  [
    'ipBlock matches pods too',
    policy(
      'p',
      '{ podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: 10.244.0.0/16 } }, { ipBlock: { cidr: "fd00:10:244::/56" } }] }] }',
    ),
  ],
  [
    'except subtracts within its entry',
    policy(
      'p',
      '{ podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: 0.0.0.0/0, except: [10.244.0.0/16] } }] }] }',
    ),
  ],
  [
    'ipBlock on the way out',
    policy(
      'p',
      '{ podSelector: {}, policyTypes: [Egress], egress: [{ to: [{ ipBlock: { cidr: 10.244.0.0/16 } }] }] }',
    ),
  ],
  [
    'Admin Deny goes before a policy that allows',
    policy('p', '{ podSelector: {}, ingress: [{}] }') +
      cluster(
        'c',
        '{ tier: Admin, priority: 10, subject: { namespaces: { matchLabels: { team: red } } }, ingress: [{ action: Deny, from: [{ namespaces: { matchLabels: { team: blue } } }] }] }',
      ),
  ],
  [
    'Admin Accept goes before isolation',
    policy('p', '{ podSelector: {}, ingress: [] }') +
      cluster(
        'c',
        '{ tier: Admin, priority: 10, subject: { namespaces: {} }, ingress: [{ action: Accept, from: [{ pods: { namespaceSelector: {}, podSelector: { matchLabels: { tier: db } } } }] }] }',
      ),
  ],
  [
    'Pass leaves it to policies, a lower priority number wins',
    policy('p', '{ podSelector: {}, ingress: [{ ports: [{ port: 80 }] }] }') +
      cluster(
        'first',
        '{ tier: Admin, priority: 1, subject: { namespaces: {} }, ingress: [{ action: Pass, from: [{ namespaces: { matchLabels: { team: blue } } }] }] }',
      ) +
      cluster(
        'second',
        '{ tier: Admin, priority: 2, subject: { namespaces: {} }, ingress: [{ action: Deny, from: [{ namespaces: {} }] }] }',
      ),
  ],
  [
    'Baseline counts where no policy isolates',
    policy('p', '{ podSelector: { matchLabels: { app: a } }, ingress: [{}] }') +
      cluster(
        'c',
        '{ tier: Baseline, priority: 5, subject: { namespaces: {} }, ingress: [{ action: Deny, from: [{ namespaces: {} }] }] }',
      ),
  ],
];
