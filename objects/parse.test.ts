import test from 'ava';
import * as fc from 'fast-check';
import { parseAddress } from '../wire/address.ts';
import { parseCidr } from '../wire/cidr.ts';
import { isIgnored, parseObjects } from './parse.ts';
import type {
  ClusterNetworkPolicy,
  EndpointSlice,
  Namespace,
  NetworkPolicy,
  Node,
  Pod,
  Service,
  WeftObject,
} from './types.ts';

const API_VERSIONS: Readonly<Record<string, string>> = {
  EndpointSlice: 'discovery.k8s.io/v1',
  NetworkPolicy: 'networking.k8s.io/v1',
  ClusterNetworkPolicy: 'policy.networking.k8s.io/v1alpha2',
};

/** `kind` named x, and the rest of it as YAML from line 4 on. */
const documentOf = (kind: string, rest: string): string =>
  `apiVersion: ${API_VERSIONS[kind] ?? 'v1'}\nkind: ${kind}\nmetadata: { name: x }\n${rest}\n`;

/** The only object of a text that has no problems. */
function only<T extends WeftObject>(kind: T['kind'], rest: string): T {
  const { objects, problems } = parseObjects(documentOf(kind, rest), 'x.yaml');
  if (problems.length > 0 || objects.length !== 1) throw new Error(JSON.stringify(problems));
  return objects[0] as T;
}

const EVERYTHING = { matchLabels: {}, matchExpressions: [] };
const ANY = { peers: [], ports: [] };
const web = { matchLabels: { app: 'web' }, matchExpressions: [] };
const spec = (text: string): string => `spec: { ${text} }`;

const policies: readonly (readonly [string, rest: string, Partial<NetworkPolicy>])[] = [
  ['no spec isolates all pods', '', { podSelector: EVERYTHING, policyTypes: ['Ingress'] }],
  ['policyTypes: Ingress always', spec('podSelector: {}'), { policyTypes: ['Ingress'] }],
  ['policyTypes: null is absent', spec('policyTypes: null'), { policyTypes: ['Ingress'] }],
  ['policyTypes: empty is absent', spec('policyTypes: []'), { policyTypes: ['Ingress'] }],
  [
    'policyTypes: Egress if there are egress rules',
    spec('egress: [{}]'),
    { policyTypes: ['Ingress', 'Egress'], egress: [ANY] },
  ],
  ['policyTypes: no egress rule, no Egress', spec('egress: []'), { policyTypes: ['Ingress'] }],
  [
    'policyTypes: as given',
    spec('policyTypes: [Egress], egress: []'),
    { policyTypes: ['Egress'], egress: [] },
  ],
  ['ingress: [] has no rule', spec('ingress: []'), { ingress: [] }],
  ['a rule {} allows all', spec('ingress: [{}]'), { ingress: [ANY] }],
  ['empty from is any peer', spec('ingress: [{ from: [] }]'), { ingress: [ANY] }],
  ['from: null is any peer', spec('ingress: [{ from: null, ports: null }]'), { ingress: [ANY] }],
  [
    'absent selectors are not empty ones',
    spec('ingress: [{ from: [{ podSelector: {} }, { namespaceSelector: {} }] }]'),
    {
      ingress: [
        {
          peers: [
            { podSelector: EVERYTHING, namespaceSelector: null },
            { podSelector: null, namespaceSelector: EVERYTHING },
          ],
          ports: [],
        },
      ],
    },
  ],
  [
    'both selectors in one entry',
    spec(
      'egress: [{ to: [{ podSelector: { matchLabels: { app: web } }, namespaceSelector: { matchExpressions: [{ key: a, operator: In, values: [b] }] } }] }]',
    ),
    {
      egress: [
        {
          peers: [
            {
              podSelector: web,
              namespaceSelector: {
                matchLabels: {},
                matchExpressions: [{ key: 'a', operator: 'In', values: ['b'] }],
              },
            },
          ],
          ports: [],
        },
      ],
    },
  ],
  [
    'ipBlock',
    spec(
      'ingress: [{ from: [{ ipBlock: { cidr: 10.0.0.0/8, except: [10.1.0.0/16] } }, { ipBlock: { cidr: "fd00::/8" } }] }]',
    ),
    {
      ingress: [
        {
          peers: [
            { ipBlock: { cidr: parseCidr('10.0.0.0/8'), except: [parseCidr('10.1.0.0/16')] } },
            { ipBlock: { cidr: parseCidr('fd00::/8'), except: [] } },
          ],
          ports: [],
        },
      ],
    },
  ],
  [
    'a block whose host bits are set, as an API server lets it pass',
    spec('ingress: [{ from: [{ ipBlock: { cidr: 10.1.2.3/8 } }] }]'),
    {
      ingress: [{ peers: [{ ipBlock: { cidr: parseCidr('10.0.0.0/8'), except: [] } }], ports: [] }],
    },
  ],
  [
    'ports: protocol is TCP; a number, a name, a range, none',
    spec(
      'ingress: [{ ports: [{ port: 80 }, { port: http, protocol: UDP }, { port: 1, endPort: 65535, protocol: SCTP }, { protocol: UDP }, {}, { port: 80, endPort: 80 }] }]',
    ),
    {
      ingress: [
        {
          peers: [],
          ports: [
            { protocol: 'TCP', port: 80, endPort: null },
            { protocol: 'UDP', port: 'http', endPort: null },
            { protocol: 'SCTP', port: 1, endPort: 65_535 },
            { protocol: 'UDP', port: null, endPort: null },
            { protocol: 'TCP', port: null, endPort: null },
            { protocol: 'TCP', port: 80, endPort: 80 },
          ],
        },
      ],
    },
  ],
];

for (const [name, rest, expected] of policies) {
  test(`NetworkPolicy: ${name}`, (t) => {
    t.like(only<NetworkPolicy>('NetworkPolicy', rest), expected);
  });
}

const subject = 'tier: Admin, priority: 0, subject: { namespaces: {} }';
const rule = (text: string): string => spec(`${subject}, egress: [{ action: Deny, ${text} }]`);
const all: ClusterNetworkPolicy['subject'] = {
  type: 'namespaces',
  namespaceSelector: EVERYTHING,
};
const cluster: readonly (readonly [string, rest: string, Partial<ClusterNetworkPolicy>])[] = [
  [
    'no rules',
    spec(subject),
    { tier: 'Admin', priority: 0, subject: all, ingress: [], egress: [] },
  ],
  [
    'pods of namespaces',
    spec(
      'tier: Baseline, priority: 1000, subject: { pods: { podSelector: { matchLabels: { app: web } } } }',
    ),
    {
      tier: 'Baseline',
      priority: 1000,
      subject: { type: 'pods', namespaceSelector: EVERYTHING, podSelector: web },
    },
  ],
  [
    'nodes and networks',
    rule('name: a, to: [{ nodes: {} }, { networks: [10.0.0.0/8, "::/0"] }]'),
    {
      egress: [
        {
          name: 'a',
          action: 'Deny',
          peers: [
            { type: 'nodes', nodeSelector: EVERYTHING },
            { type: 'networks', networks: [parseCidr('10.0.0.0/8'), parseCidr('::/0')] },
          ],
          ports: [],
        },
      ],
    },
  ],
  [
    'a peer of a later version',
    rule('to: [{ moons: {} }, { domainNames: [a.example] }, {}]'),
    {
      egress: [
        {
          name: '',
          action: 'Deny',
          peers: [{ type: 'unknown' }, { type: 'unknown' }, { type: 'unknown' }],
          ports: [],
        },
      ],
    },
  ],
  [
    'networks and nodes are no ingress peers',
    spec(
      `${subject}, ingress: [{ action: Accept, from: [{ networks: [10.0.0.0/8] }, { nodes: {} }] }]`,
    ),
    {
      ingress: [
        {
          name: '',
          action: 'Accept',
          peers: [{ type: 'unknown' }, { type: 'unknown' }],
          ports: [],
        },
      ],
    },
  ],
  [
    'ports: a number, a range, a name, a later version',
    rule(
      'to: [{ namespaces: {} }], protocols: [{ tcp: { destinationPort: { number: 80 } } }, { udp: { destinationPort: { range: { start: 1, end: 2 } } } }, { destinationNamedPort: http }, { sctp: { moons: 1 } }, { icmp: {} }]',
    ),
    {
      egress: [
        {
          name: '',
          action: 'Deny',
          peers: [all],
          ports: [
            { protocol: 'TCP', range: { start: 80, end: 80 }, portName: '', unknown: false },
            { protocol: 'UDP', range: { start: 1, end: 2 }, portName: '', unknown: false },
            { protocol: null, range: null, portName: 'http', unknown: false },
            { protocol: 'SCTP', range: null, portName: '', unknown: true },
            { protocol: null, range: null, portName: '', unknown: true },
          ],
        },
      ],
    },
  ],
];

for (const [name, rest, expected] of cluster) {
  test(`ClusterNetworkPolicy: ${name}`, (t) => {
    t.like(only<ClusterNetworkPolicy>('ClusterNetworkPolicy', rest), expected);
  });
}

const one = 'ports: [{ port: 80 }]';
const services: readonly (readonly [string, rest: string, Partial<Service>])[] = [
  [
    'defaults',
    spec(one),
    {
      type: 'ClusterIP',
      clusterIPs: [],
      headless: false,
      ports: [{ name: '', protocol: 'TCP', port: 80, targetPort: 80, nodePort: 0 }],
      selector: null,
      externalIPs: [],
      loadBalancerIPs: [],
      loadBalancerSourceRanges: [],
      sessionAffinity: 'None',
      affinityTimeoutS: 10_800,
      internalTrafficPolicy: 'Cluster',
      externalTrafficPolicy: 'Cluster',
      healthCheckNodePort: 0,
      trafficDistribution: '',
      publishNotReadyAddresses: false,
    },
  ],
  [
    'clusterIP alone',
    spec(`clusterIP: 10.96.0.1, ${one}`),
    { clusterIPs: [parseAddress('10.96.0.1')] },
  ],
  [
    'clusterIPs of both families',
    spec(`clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00::1"], ${one}`),
    { clusterIPs: [parseAddress('10.96.0.1'), parseAddress('fd00::1')] },
  ],
  ['None is headless, and needs no ports', spec('clusterIP: None'), { headless: true, ports: [] }],
  ["'' has none yet", spec(`clusterIP: "", ${one}`), { headless: false, clusterIPs: [] }],
  ['clusterIPs: [None]', spec('clusterIPs: [None]'), { headless: true, clusterIPs: [] }],
  [
    'ExternalName',
    spec('type: ExternalName, externalName: a.example.'),
    { type: 'ExternalName', clusterIPs: [], ports: [] },
  ],
  [
    'targetPort: a name, a number, 0 and empty',
    spec(
      'ports: [{ name: a, port: 1, targetPort: http }, { name: b, port: 2, targetPort: 8080 }, { name: c, port: 3, targetPort: 0 }, { name: d, port: 3, protocol: UDP, targetPort: "" }]',
    ),
    {
      ports: [
        { name: 'a', protocol: 'TCP', port: 1, targetPort: 'http', nodePort: 0 },
        { name: 'b', protocol: 'TCP', port: 2, targetPort: 8080, nodePort: 0 },
        { name: 'c', protocol: 'TCP', port: 3, targetPort: 3, nodePort: 0 },
        { name: 'd', protocol: 'UDP', port: 3, targetPort: 3, nodePort: 0 },
      ],
    },
  ],
  ['selector', spec(`selector: { app: web }, ${one}`), { selector: { app: 'web' } }],
  ['an empty selector selects nothing', spec(`selector: {}, ${one}`), { selector: null }],
  [
    'affinity',
    spec(
      `sessionAffinity: ClientIP, sessionAffinityConfig: { clientIP: { timeoutSeconds: 86400 } }, ${one}`,
    ),
    { sessionAffinity: 'ClientIP', affinityTimeoutS: 86_400 },
  ],
  [
    'PreferClose is PreferSameZone',
    spec(`trafficDistribution: PreferClose, ${one}`),
    { trafficDistribution: 'PreferSameZone' },
  ],
  [
    'source ranges, with spaces',
    spec(`loadBalancerSourceRanges: [" 10.0.0.0/8 "], ${one}`),
    { loadBalancerSourceRanges: [parseCidr('10.0.0.0/8')] },
  ],
  [
    "the load balancer's addresses: VIP only",
    `${spec(`type: LoadBalancer, ${one}`)}\nstatus: { loadBalancer: { ingress: [{ ip: 192.0.2.1 }, { ip: 192.0.2.2, ipMode: Proxy }, { hostname: a.example }, { ip: 192.0.2.3, ipMode: VIP }] } }`,
    { loadBalancerIPs: [parseAddress('192.0.2.1'), parseAddress('192.0.2.3')] },
  ],
];

for (const [name, rest, expected] of services) {
  test(`Service: ${name}`, (t) => {
    t.like(only<Service>('Service', rest), expected);
  });
}

test("Service: another proxy's label stays for service/ to see", (t) => {
  const key = 'service.kubernetes.io/service-proxy-name';
  const text = documentOf('Service', spec(one)).replace(
    'name: x',
    `name: x, labels: { ${key}: other }`,
  );
  t.is(parseObjects(text, 'x').objects[0]?.metadata.labels[key], 'other');
});

test('EndpointSlice: absent conditions, ports, hints', (t) => {
  const text = `addressType: IPv4
endpoints:
- addresses: [10.0.0.1]
- addresses: [10.0.0.2]
  conditions: { ready: false, serving: null, terminating: true }
  nodeName: n1
  zone: a
  hints: { forZones: [{ name: a }], forNodes: [{ name: n1 }] }
ports: [{}, { name: http, port: 80, protocol: UDP }]`;
  const slice = only<EndpointSlice>('EndpointSlice', text);
  const none = { nodeName: '', zone: '', hintsForZones: [], hintsForNodes: [] };
  t.deepEqual(slice.endpoints, [
    {
      addresses: [parseAddress('10.0.0.1')],
      ready: true,
      serving: true,
      terminating: false,
      ...none,
    },
    {
      addresses: [parseAddress('10.0.0.2')],
      ready: false,
      serving: true,
      terminating: true,
      nodeName: 'n1',
      zone: 'a',
      hintsForZones: ['a'],
      hintsForNodes: ['n1'],
    },
  ]);
  t.deepEqual(slice.ports, [
    { name: '', protocol: 'TCP', port: 0 },
    { name: 'http', protocol: 'UDP', port: 80 },
  ]);
  t.is(slice.serviceName, '');
});

const readiness: readonly (readonly [
  string,
  status: string,
  phase: Pod['phase'],
  ready: boolean,
])[] = [
  ['none', '{}', 'Pending', false],
  ['an address alone: it was written by hand', '{ podIP: 10.0.0.1 }', 'Running', true],
  ['Running, no conditions', '{ phase: Running }', 'Running', true],
  ['Ready', '{ phase: Running, conditions: [{ type: Ready, status: "True" }] }', 'Running', true],
  [
    'not Ready',
    '{ phase: Running, conditions: [{ type: Ready, status: "False" }] }',
    'Running',
    false,
  ],
  [
    'other conditions',
    '{ phase: Running, conditions: [{ type: X, status: "True" }] }',
    'Running',
    false,
  ],
  ['Succeeded', '{ phase: Succeeded, podIP: 10.0.0.1 }', 'Succeeded', false],
];
for (const [name, status, phase, ready] of readiness) {
  test(`Pod: status ${name}`, (t) => {
    t.like(only<Pod>('Pod', `status: ${status}`), { phase, ready, terminating: false });
  });
}

test('Pod: addresses, and the ports of containers that stay', (t) => {
  const text = `spec:
  nodeName: n1
  containers: [{ name: a, ports: [{ name: http, containerPort: 80 }] }]
  initContainers:
  - { name: b, restartPolicy: Always, ports: [{ containerPort: 81, protocol: UDP }] }
  - { name: c, ports: [{ containerPort: 82 }] }
status: { podIP: 10.0.0.1, podIPs: [{ ip: 10.0.0.1 }, { ip: "fd00::1" }] }`;
  t.like(only<Pod>('Pod', text), {
    nodeName: 'n1',
    hostNetwork: false,
    ports: [
      { name: 'http', containerPort: 80, protocol: 'TCP' },
      { name: '', containerPort: 81, protocol: 'UDP' },
    ],
    podIPs: [parseAddress('10.0.0.1'), parseAddress('fd00::1')],
  });
});

test('Node: its addresses and blocks', (t) => {
  const text = `spec: { podCIDR: 10.244.1.0/24 }
status: { addresses: [{ type: Hostname, address: n1 }, { type: InternalIP, address: 192.0.2.1 }, { type: ExternalIP, address: n1.example }] }`;
  t.like(only<Node>('Node', text), {
    addresses: [parseAddress('192.0.2.1')],
    podCidrs: [parseCidr('10.244.1.0/24')],
  });
});

test('Namespace: its name is a label; deletion is Terminating', (t) => {
  const active = only<Namespace>('Namespace', '');
  t.is(active.phase, 'Active');
  t.deepEqual(active.metadata.labels, { 'kubernetes.io/metadata.name': 'x' });
  t.is(only<Namespace>('Namespace', 'status: { phase: Terminating }').phase, 'Terminating');
  const deleted = parseObjects(
    'apiVersion: v1\nkind: Namespace\nmetadata: { name: x, deletionTimestamp: "2030-01-01T00:00:00Z" }',
    'x',
  );
  t.like(deleted.objects[0], { phase: 'Terminating' });
});

const np = (rest: string): string => documentOf('NetworkPolicy', rest);
const from = (text: string): string => np(spec(`ingress: [{ from: [${text}] }]`));
const allow = (text: string): string => np(spec(`ingress: [{ ports: [${text}] }]`));
const cnp = (rest: string): string => documentOf('ClusterNetworkPolicy', rest);
const svc = (text: string): string => documentOf('Service', spec(text));
const slice = (text: string): string => documentOf('EndpointSlice', text);
const named = (metadata: string): string => `apiVersion: v1\nkind: Pod\nmetadata: ${metadata}\n`;
const many = (count: number, text: string): string =>
  Array.from({ length: count }, () => text).join();
const peer = 'spec.ingress[0].from[0]';
const ports = 'spec.ingress[0].ports[0]';

/** `line field: reason` */
const wrong: readonly (readonly [string, text: string, ...problems: string[]])[] = [
  ['not a mapping', 'hello', '1 : must be a Kubernetes object, is "hello"'],
  ['no kind', 'a: 1', '1 kind: is missing: every object says its apiVersion and kind'],
  [
    'a later version',
    np('').replace('/v1', '/v2'),
    '1 apiVersion: must be networking.k8s.io/v1, is "networking.k8s.io/v2"',
  ],
  ['broken YAML', 'kind: Pod\n\tx: [', /./.source],
  [
    'a key twice',
    `${documentOf('Pod', '')}spec: {}\nspec: {}`,
    '6 : is not YAML: "spec" stands twice',
  ],
  ['no name', named('{}'), '3 metadata.name: is missing'],
  ['no metadata', 'apiVersion: v1\nkind: Pod', '1 metadata: is missing'],
  [
    'a name',
    named('{ name: "../x" }'),
    '3 metadata.name: "../x" is not a name (a-z, 0-9, "-" and ".": RFC 1123 subdomain)',
  ],
  [
    'a namespace',
    named('{ name: x, namespace: a.b }'),
    `3 metadata.namespace: "a.b" is not a namespace's name (RFC 1123 label)`,
  ],
  [
    'a label that is a number',
    named('{ name: x, labels: { a: 1 } }'),
    '3 metadata.labels.a: must be a text, is 1; put it in quotes',
  ],
  [
    "a label's key",
    named('{ name: x, labels: { __proto__: a } }'),
    '3 metadata.labels.__proto__: "__proto__" is not a key of labels',
  ],
  [
    "a label's value",
    named('{ name: x, labels: { a/b: "c d" } }'),
    '3 metadata.labels["a/b"]: "c d" is not a value of labels',
  ],
  [
    'labels that are a list',
    named('{ name: x, labels: [] }'),
    '3 metadata.labels: must be a mapping, is a list',
  ],
  [
    'a peer of nothing',
    from('{}'),
    `4 ${peer}: must have podSelector, namespaceSelector or ipBlock`,
  ],
  [
    'a peer of an unknown field',
    from('{ moons: {} }'),
    `4 ${peer}.moons: is an unknown field`,
    `4 ${peer}: must have podSelector, namespaceSelector or ipBlock`,
  ],
  [
    'ipBlock and a selector',
    from('{ ipBlock: { cidr: 10.0.0.0/8 }, podSelector: {} }'),
    `4 ${peer}: ipBlock stands alone: podSelector and namespaceSelector go into another entry`,
  ],
  [
    'except outside',
    from('{ ipBlock: { cidr: 10.0.0.0/8, except: [11.0.0.0/16] } }'),
    `4 ${peer}.ipBlock.except[0]: 11.0.0.0/16 is not a part of 10.0.0.0/8`,
  ],
  [
    'except is the whole',
    from('{ ipBlock: { cidr: 10.0.0.0/8, except: [10.0.0.0/8] } }'),
    `4 ${peer}.ipBlock.except[0]: 10.0.0.0/8 is not a part of 10.0.0.0/8`,
  ],
  [
    'except of the other family',
    from('{ ipBlock: { cidr: "::/0", except: [10.0.0.0/8] } }'),
    `4 ${peer}.ipBlock.except[0]: 10.0.0.0/8 is not a part of ::/0`,
  ],
  ['no cidr', from('{ ipBlock: {} }'), `4 ${peer}.ipBlock.cidr: is missing`],
  [
    'an address for a block',
    from('{ ipBlock: { cidr: 10.0.0.1 } }'),
    `4 ${peer}.ipBlock.cidr: "10.0.0.1" is not a CIDR block`,
  ],
  [
    'a prefix length',
    from('{ ipBlock: { cidr: 10.0.0.0/33 } }'),
    `4 ${peer}.ipBlock.cidr: "10.0.0.0/33" has an impossible prefix length`,
  ],
  [
    'a mapped block',
    from('{ ipBlock: { cidr: "::ffff:10.0.0.0/104" } }'),
    `4 ${peer}.ipBlock.cidr: "::ffff:10.0.0.0/104" is an IPv4-mapped block; write it as IPv4`,
  ],
  [
    'an operator',
    from('{ podSelector: { matchExpressions: [{ key: a, operator: Is }] } }'),
    `4 ${peer}.podSelector.matchExpressions[0].operator: must be "In" or "NotIn" or "Exists" or "DoesNotExist", is "Is"`,
  ],
  [
    'In without values',
    from('{ podSelector: { matchExpressions: [{ key: a, operator: In }] } }'),
    `4 ${peer}.podSelector.matchExpressions[0].values: In needs values`,
  ],
  [
    'Exists with values',
    from('{ podSelector: { matchExpressions: [{ key: a, operator: Exists, values: [b] }] } }'),
    `4 ${peer}.podSelector.matchExpressions[0].values: Exists takes no values`,
  ],
  ['endPort alone', allow('{ endPort: 80 }'), `4 ${ports}.endPort: needs a numeric port`],
  [
    'endPort of a name',
    allow('{ port: http, endPort: 80 }'),
    `4 ${ports}.endPort: needs a numeric port`,
  ],
  [
    'endPort below port',
    allow('{ port: 80, endPort: 79 }'),
    `4 ${ports}.endPort: must be at least port 80, is 79`,
  ],
  ['port 0', allow('{ port: 0 }'), `4 ${ports}.port: must be at least 1, is 0`],
  ['port 65536', allow('{ port: 65536 }'), `4 ${ports}.port: must be at most 65535, is 65536`],
  [
    'a port in quotes',
    allow('{ port: "80" }'),
    `4 ${ports}.port: "80" is not a port name (at most 15 of a-z, 0-9 and single "-", with a letter)`,
  ],
  [
    'a protocol',
    allow('{ protocol: tcp }'),
    `4 ${ports}.protocol: must be "TCP" or "UDP" or "SCTP", is "tcp"`,
  ],
  [
    'a policy type',
    np(spec('policyTypes: [ingress]')),
    '4 spec.policyTypes[0]: must be "Ingress" or "Egress", is "ingress"',
  ],
  [
    'rules that are a mapping',
    np(spec('ingress: {}')),
    '4 spec.ingress: must be a list, is a mapping',
  ],
  [
    'two at once',
    allow('{ port: 0, protocol: x }'),
    `4 ${ports}.protocol: must be "TCP" or "UDP" or "SCTP", is "x"`,
    `4 ${ports}.port: must be at least 1, is 0`,
  ],
  [
    'egres: it would have allowed everything',
    np(spec('podSelector: {}, egres: []')),
    '4 spec.egres: is an unknown field; is egress meant?',
  ],
  ['spec twice, nearly', np('specs: {}'), '4 specs: is an unknown field; is spec meant?'],
  [
    'a namespace that would be the default one',
    np('').replace('name: x', 'name: x, nameSpace: y'),
    '3 metadata.nameSpace: is an unknown field; is namespace meant?',
  ],
  [
    "a rule's",
    np(spec('ingress: [{ form: [] }]')),
    '4 spec.ingress[0].form: is an unknown field; is from meant?',
  ],
  [
    "a selector's",
    from('{ podSelector: { matchLabel: { app: web } } }'),
    `4 ${peer}.podSelector.matchLabel: is an unknown field; is matchLabels meant?`,
  ],
  [
    "a block's",
    from('{ ipBlock: { cidr: 10.0.0.0/8, exept: [10.1.0.0/16] } }'),
    `4 ${peer}.ipBlock.exept: is an unknown field; is except meant?`,
  ],
  [
    "a port's: of two each",
    allow('{ port: 80, endport: 90, colour: red }'),
    `4 ${ports}.endport: is an unknown field; is endPort meant?`,
    `4 ${ports}.colour: is an unknown field`,
  ],
  ['no spec', cnp(''), '1 spec: is missing'],
  [
    'a tier',
    cnp(spec('tier: admin, priority: 0, subject: { namespaces: {} }')),
    '4 spec.tier: must be "Admin" or "Baseline", is "admin"',
  ],
  [
    'no priority',
    cnp(spec('tier: Admin, subject: { namespaces: {} }')),
    '4 spec.priority: is missing',
  ],
  [
    'priority 1001',
    cnp(spec('tier: Admin, priority: 1001, subject: { namespaces: {} }')),
    '4 spec.priority: must be at most 1000, is 1001',
  ],
  [
    'an unknown subject',
    cnp(spec('tier: Admin, priority: 0, subject: { moons: {} }')),
    '4 spec.subject: must have namespaces or pods',
  ],
  [
    'a field of the spec',
    cnp(spec(`${subject}, ingres: []`)),
    '4 spec.ingres: is an unknown field; is ingress meant?',
  ],
  [
    'a field of a rule',
    cnp(rule('to: [{ nodes: {} }], protocol: []')),
    '4 spec.egress[0].protocol: is an unknown field; is protocols meant?',
  ],
  [
    'a peer of nearly a known field is no later version',
    cnp(rule('to: [{ network: [10.0.0.0/8] }]')),
    '4 spec.egress[0].to[0].network: is an unknown field; is networks meant?',
  ],
  [
    'an unknown field beside a known one',
    cnp(rule('to: [{ nodes: {}, moons: {} }]')),
    '4 spec.egress[0].to[0].moons: is an unknown field',
  ],
  [
    'a destination port of nearly a known field',
    cnp(rule('to: [{ nodes: {} }], protocols: [{ tcp: { destinationPort: { numbr: 80 } } }]')),
    '4 spec.egress[0].protocols[0].tcp.destinationPort.numbr: is an unknown field; is number meant?',
  ],
  [
    'two subjects',
    cnp(spec('tier: Admin, priority: 0, subject: { namespaces: {}, pods: { podSelector: {} } }')),
    '4 spec.subject: must have one of namespaces, pods, not all of them',
  ],
  [
    '26 rules',
    cnp(spec(`${subject}, egress: [${many(26, '{ action: Pass, to: [{ nodes: {} }] }')}]`)),
    '4 spec.egress: must have at most 25 entries, has 26',
  ],
  ['no peers', cnp(rule('to: []')), '4 spec.egress[0].to: must have at least 1 entries, has 0'],
  [
    'an action',
    cnp(spec(`${subject}, ingress: [{ action: Allow, from: [{ namespaces: {} }] }]`)),
    '4 spec.ingress[0].action: must be "Accept" or "Deny" or "Pass", is "Allow"',
  ],
  [
    'a range of one',
    cnp(
      rule(
        'to: [{ namespaces: {} }], protocols: [{ tcp: { destinationPort: { range: { start: 1, end: 1 } } } }]',
      ),
    ),
    '4 spec.egress[0].protocols[0].tcp.destinationPort.range.end: must be more than start 1',
  ],
  [
    'port names of networks',
    cnp(rule('to: [{ networks: [10.0.0.0/8] }], protocols: [{ destinationNamedPort: http }]')),
    '4 spec.egress[0].protocols[0]: nodes and networks have no port names',
  ],
  ['no ports', svc('{}').replace('{ {} }', '{}'), '4 spec.ports: must have at least one port'],
  [
    'a nameless port of two',
    svc('ports: [{ port: 1 }, { name: a, port: 2 }]'),
    '4 spec.ports[0].name: is missing: one of several ports has a name',
  ],
  [
    'a name twice',
    svc('ports: [{ name: a, port: 1 }, { name: a, port: 2 }]'),
    "4 spec.ports[1].name: is the same as ports[0]'s",
  ],
  [
    'a port twice',
    svc('ports: [{ name: a, port: 1 }, { name: b, port: 1 }]'),
    "4 spec.ports[1].port: is the same as ports[0]'s",
  ],
  [
    'a node port',
    svc('ports: [{ port: 1, nodePort: 30000 }]'),
    '4 spec.ports[0].nodePort: is not for ClusterIP',
  ],
  [
    'two of a family',
    svc(`clusterIPs: [10.0.0.1, 10.0.0.2], ${one}`),
    '4 spec.clusterIPs: must have at most one address of each family',
  ],
  [
    'clusterIP is another',
    svc(`clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2], ${one}`),
    '4 spec.clusterIPs: must begin with clusterIP',
  ],
  [
    'a loopback address',
    svc(`clusterIP: 127.0.0.1, ${one}`),
    '4 spec.clusterIP: "127.0.0.1" is no address of a pod or Service (127.0.0.0/8)',
  ],
  [
    'headless NodePort',
    svc(`type: NodePort, clusterIP: None, ${one}`),
    '4 spec.clusterIP: "None" is not for NodePort',
  ],
  [
    'ExternalName without one',
    svc('type: ExternalName'),
    '4 spec.externalName: "" is not a DNS name',
  ],
  [
    'a timeout',
    svc(
      `sessionAffinity: ClientIP, sessionAffinityConfig: { clientIP: { timeoutSeconds: 86401 } }, ${one}`,
    ),
    '4 spec.sessionAffinityConfig.clientIP.timeoutSeconds: must be at most 86400, is 86401',
  ],
  [
    'a type',
    svc(`type: Cluster, ${one}`),
    '4 spec.type: must be "ClusterIP" or "NodePort" or "LoadBalancer" or "ExternalName", is "Cluster"',
  ],
  [
    'an endpoint of the other family',
    slice('addressType: IPv6\nendpoints: [{ addresses: [10.0.0.1] }]'),
    '5 endpoints[0].addresses[0]: is not IPv6',
  ],
  [
    'an endpoint on loopback',
    slice('addressType: IPv4\nendpoints: [{ addresses: [127.0.0.1] }]'),
    '5 endpoints[0].addresses[0]: "127.0.0.1" is no address of a pod or Service (127.0.0.0/8)',
  ],
  [
    'an endpoint without address',
    slice('addressType: IPv4\nendpoints: [{ addresses: [] }]'),
    '5 endpoints[0].addresses: must have at least 1 entries, has 0',
  ],
  [
    'another kind',
    'apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: x }',
    '1 : ignored: weft reads Namespace, Pod, Node, Service, EndpointSlice, NetworkPolicy, ClusterNetworkPolicy only',
  ],
  [
    'a slice of names',
    slice('addressType: FQDN\nendpoints: []'),
    '4 addressType: ignored: names have no address to send to',
  ],
];

for (const [name, text, ...expected] of wrong) {
  test(`problem: ${name}`, (t) => {
    const { objects, problems } = parseObjects(text, 'x.yaml');
    t.deepEqual(objects, []);
    if (expected[0] === '.') {
      t.regex(problems[0]?.reason ?? '', /^is not YAML: /);
      return;
    }
    t.deepEqual(
      problems.map(
        ({ place, field, reason }) => `${place.replace('x.yaml:', '')} ${field}: ${reason}`,
      ),
      expected,
    );
  });
}

test('problems say whose they are', (t) => {
  const objectOf = (text: string): string | undefined =>
    parseObjects(text, 'x').problems[0]?.object;
  t.is(objectOf(from('{}')), 'NetworkPolicy default/x');
  t.is(objectOf(cnp('')), 'ClusterNetworkPolicy x');
  t.is(objectOf(named('{ name: a, namespace: b, labels: [] }')), 'Pod b/a');
  t.is(objectOf(named('{}')), 'Pod');
  t.is(objectOf('a: 1'), '');
});

test('what is of no interest is no failure', (t) => {
  const [ignored] = parseObjects('apiVersion: apps/v1\nkind: Deployment', 'x').problems;
  t.true(ignored !== undefined && isIgnored(ignored));
  const [failed] = parseObjects(from('{}'), 'x').problems;
  t.false(failed === undefined || isIgnored(failed));
});

const slips: readonly (readonly [kind: string, rest: string, ...ignored: string[]])[] = [
  ['Service', 'spec: { ports: [{ port: 80 }], ipFamilyPolicy: SingleStack, loadBalancerIP: "" }'],
  [
    'Service',
    'spec: { clusterIp: 10.0.0.1, selctor: {}, ports: [{ port: 80, tagetPort: 81 }] }',
    'spec.clusterIp: ignored: is an unknown field; is clusterIP meant?',
    'spec.selctor: ignored: is an unknown field; is selector meant?',
    'spec.ports[0].tagetPort: ignored: is an unknown field; is targetPort meant?',
  ],
  [
    'Pod',
    'spec: { nodename: n, nodeSelector: {}, hostname: h, hostPID: true, containers: [{ args: [], port: [] }] }',
    'spec.nodename: ignored: is an unknown field; is nodeName meant?',
    'spec.containers[0].port: ignored: is an unknown field; is ports meant?',
  ],
  ['Pod', 'status: { hostIP: 10.0.0.1, hostIPs: [], startTime: x, qosClass: y }'],
];

for (const [kind, rest, ...ignored] of slips) {
  test(`${kind} ${rest} is read, with what was probably meant`, (t) => {
    const { objects, problems } = parseObjects(documentOf(kind, rest), 'x');
    t.is(objects.length, 1);
    t.true(problems.every(isIgnored));
    t.deepEqual(
      problems.map(({ field, reason }) => `${field}: ${reason}`),
      ignored,
    );
  });
}

const DENY_ALL = { name: '', action: 'Deny', peers: [{ type: 'unknown' }], ports: [] };
const standIns: readonly (readonly [string, text: string, expected: object | null])[] = [
  [
    'of the pods that it selects, without its rules',
    np(spec('podSelector: { matchLabels: { app: web } }, ingress: [{}], egres: []')),
    { podSelector: web, policyTypes: ['Ingress', 'Egress'], ingress: [], egress: [] },
  ],
  [
    'of all pods of the namespace, where its selector is wrong',
    np(spec('podSelector: { matchLabel: {} }, ingress: [{}]')),
    { podSelector: EVERYTHING, ingress: [] },
  ],
  ['none, if its namespace may be another', np('').replace('x }', 'x, nameSpace: y }'), null],
  ['none of what is no policy', svc('ports: [{ port: 0 }]'), null],
  [
    'an Accept that is wrong is out, a Deny matches all, the others stay',
    cnp(
      spec(
        `${subject}, ingress: [{ action: Accept, form: [] }, { action: Deny, from: [{ namespace: {} }] }, { action: Pass, from: [{ namespaces: {} }] }]`,
      ),
    ),
    {
      tier: 'Admin',
      ingress: [
        DENY_ALL,
        {
          name: '',
          action: 'Pass',
          peers: [{ type: 'namespaces', namespaceSelector: EVERYTHING }],
          ports: [],
        },
      ],
    },
  ],
  ['none, without a subject', cnp(spec('tier: Admin, priority: 0, subject: { pod: {} }')), null],
];

for (const [name, text, expected] of standIns) {
  test(`what stands in for a policy that is not valid: ${name}`, (t) => {
    const parsed = parseObjects(text, 'x');
    t.deepEqual(parsed.objects, []);
    if (expected === null) t.deepEqual(parsed.standIns, []);
    else t.like(parsed.standIns[0], expected);
  });
}

test('several documents: each has its own lines, and a wrong one leaves the others', (t) => {
  const text = `# first\n---\n${documentOf('Pod', '')}---\n${from('{}')}---\n# nothing\n---\n${documentOf('Node', '')}`;
  const { objects, problems, unidentified } = parseObjects(text, 'a.yaml');
  t.deepEqual(
    objects.map(({ kind }) => kind),
    ['Pod', 'Node'],
  );
  t.is(problems[0]?.place, 'a.yaml:11');
  t.false(unidentified);
});

test('lists: of anything, of one kind, and in lists', (t) => {
  const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'a' } };
  const names = (value: unknown): readonly string[] =>
    parseObjects(JSON.stringify(value), 'x').objects.map(({ metadata }) => metadata.name);
  const list = { apiVersion: 'v1', kind: 'List', items: [pod] };
  t.deepEqual(names(list), ['a']);
  t.deepEqual(names({ apiVersion: 'v1', kind: 'PodList', items: [{ metadata: { name: 'b' } }] }), [
    'b',
  ]);
  t.deepEqual(names({ ...list, items: [list, pod] }), ['a', 'a']);
  t.deepEqual(names([pod, pod]), ['a', 'a']);
  t.deepEqual(names({ ...list, items: null }), []);
});

test("lists: a problem's line is its item's", (t) => {
  const item = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 1 } };
  const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: [item] }, null, 1);
  const [problem] = parseObjects(text, 'x.json').problems;
  t.is(problem?.place, 'x.json:9');
  t.is(problem?.field, 'metadata.name');
});

test('documents hand out the text as it was', (t) => {
  const text = documentOf('Pod', 'spec: { colour: red }');
  const { documents, objects } = parseObjects(text, 'x');
  t.is(documents[0]?.object, objects[0]);
  t.deepEqual(documents[0]?.raw, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'x' },
    spec: { colour: 'red' },
  });
});

test('merged keys count, as they do for kubectl', (t) => {
  const text = `${documentOf('NetworkPolicy', '')}x: &x { policyTypes: [Egress] }\nspec: { <<: *x }\n`;
  t.like(parseObjects(text, 'x').objects[0], { policyTypes: ['Egress'] });
});

const deep = (open: string, close: string, count: number): string =>
  `${open.repeat(count)}${close.repeat(count)}`;
const bomb = Array.from(
  { length: 30 },
  (_, at) => `a${at}: &a${at} [${at === 0 ? 'x' : many(9, `*a${at - 1}`)}]`,
).join('\n');
const hostile: readonly (readonly [string, string])[] = [
  ['nothing', ''],
  ['spaces', '   \n\n'],
  [
    'a value of 10 MB',
    JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata: { name: 'x'.repeat(1e7) } }),
  ],
  ['a kind of 10 MB', JSON.stringify({ apiVersion: 'v1', kind: 'x'.repeat(1e7) })],
  ['lists in lists', deep('[', ']', 100_000)],
  ['lists in lists, left open', '['.repeat(100_000)],
  ['lists in lists of an object', `${documentOf('Pod', '')}x: ${deep('[', ']', 5000)}`],
  ['blocks in blocks', Array.from({ length: 3000 }, (_, at) => `${' '.repeat(at)}a:`).join('\n')],
  [
    'JSON in JSON',
    `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"x":${deep('[', ']', 100_000)}}`,
  ],
  ['aliases of aliases', `${documentOf('Pod', '')}${bomb}`],
  ['an alias of itself', `${documentOf('Pod', '')}x: &x [*x, *x]`],
  ['an alias of nothing', `${documentOf('Pod', '')}x: *y`],
  ['a merge of itself', `${documentOf('Pod', '')}x: &x { <<: *x }`],
  ['a merge of a text', `${documentOf('Pod', '')}<<: hello`],
  [
    'a list of lists of lists',
    JSON.stringify({
      kind: 'List',
      items: [
        {
          kind: 'List',
          items: [
            { kind: 'List', items: [{ kind: 'List', items: [{ kind: 'List', items: [1] }] }] },
          ],
        },
      ],
    }),
  ],
  ['a kind of Object.prototype', '{"apiVersion":"v1","kind":"constructor"}'],
  ['a list of Object.prototype', '{"apiVersion":"v1","kind":"constructorList","items":[{}]}'],
  ['a prototype', '{"__proto__":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}}'],
  [
    'aliases without end',
    `${documentOf('Pod', '')}a: &a x\n${Array.from({ length: 10_000 }, (_, at) => `b${at}: *a`).join('\n')}`,
  ],
  [
    'keys without end',
    `${documentOf('Pod', '')}${Array.from({ length: 30_000 }, (_, at) => `b${at}: &a${at} x`).join('\n')}`,
  ],
  ['JSON of 10 MB that breaks off', `{"kind":"${'x'.repeat(1e7)}`],
  ['YAML of 10 MB', `kind: ${'x'.repeat(1e7)}`],
  ['an unknown tag', 'apiVersion: v1\nkind: !!js/function Pod'],
  ['a key that is a mapping', '? { a: b }\n: c'],
];

for (const [name, text] of hostile) {
  test(`does not crash or pollute: ${name}`, (t) => {
    const { objects, problems } = parseObjects(text, 'x');
    const safe = objects.every(({ kind }) => kind === 'Pod');
    t.true(safe);
    for (const { reason, object } of problems) t.true(reason.length + object.length < 1000, reason);
    t.is(({} as Record<string, unknown>)['kind'], undefined);
  });
}

test('no text throws', (t) => {
  const word = fc.constantFrom(
    'kind: ',
    'List',
    'Pod',
    'Service',
    'apiVersion: v1',
    '\n',
    '  ',
    '- ',
    '{',
    '}',
    '[',
    ']',
    '"',
    ': ',
    '&a ',
    '*a',
    '<<: ',
    '---\n',
    'metadata',
    'name: x',
    'spec',
    'items:',
    'null',
    '0x10',
    '!!',
    '|',
    '?',
  );
  fc.assert(
    fc.property(
      fc.array(fc.oneof(word, fc.string({ maxLength: 4 })), { maxLength: 40 }),
      (words) => {
        parseObjects(words.join(''), 'x');
        return true;
      },
    ),
    { numRuns: 500 },
  );
  t.pass();
});

test('any JSON in the place of a field is an object or a problem', (t) => {
  const kinds = [
    'Namespace',
    'Pod',
    'Node',
    'Service',
    'EndpointSlice',
    'NetworkPolicy',
    'ClusterNetworkPolicy',
  ];
  const fields = ['spec', 'status', 'endpoints', 'ports', 'addressType'];
  fc.assert(
    fc.property(
      fc.constantFrom(...kinds),
      fc.constantFrom(...fields),
      fc.jsonValue(),
      (kind, field, value) => {
        const text = JSON.stringify({
          apiVersion: API_VERSIONS[kind] ?? 'v1',
          kind,
          metadata: { name: 'x' },
          [field]: value,
        });
        const { objects, problems } = parseObjects(text, 'x');
        return objects.length === 1 || problems.length > 0;
      },
    ),
    { numRuns: 500 },
  );
  t.pass();
});

test('10,000 Services and their slices as JSON', (t) => {
  const items = Array.from({ length: 10_000 }, (_, at) => [
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: `s${at}`, labels: { app: `a${at}` } },
      spec: {
        clusterIP: `10.96.${at >> 8}.${at & 255}`,
        selector: { app: `a${at}` },
        ports: [{ port: 80 }],
      },
    },
    {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { name: `s${at}`, labels: { 'kubernetes.io/service-name': `s${at}` } },
      addressType: 'IPv4',
      endpoints: [{ addresses: [`10.244.${at >> 8}.${at & 255}`], conditions: { ready: true } }],
      ports: [{ port: 8080 }],
    },
  ]).flat();
  const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
  const start = performance.now();
  const { objects, problems } = parseObjects(text, 'x');
  const elapsedMs = performance.now() - start;
  t.log(`${Math.round(elapsedMs)} ms`);
  t.is(objects.length, 20_000);
  t.deepEqual(problems, []);
});

test('a file and aliases that are too many name the limit', (t) => {
  const reasonsOf = (text: string) =>
    parseObjects(text, 'x.yaml').problems.map((it) => `${it.place} ${it.reason}`);
  t.deepEqual(reasonsOf('#'.repeat(8 * 1024 * 1024 + 1)), [
    'x.yaml is longer than 8388608 characters; write it as JSON',
  ]);
  t.deepEqual(reasonsOf(`x: &x y\nlist: [${many(1001, '*x')}]`), [
    'x.yaml:2 is not YAML: has more than 1000 aliases',
  ]);
  t.deepEqual(reasonsOf(bomb), [
    'x.yaml:1 is not YAML: its aliases, followed through each other, are more than 100',
  ]);
});

test('a text of nothing but errors has problems like any other', (t) => {
  const { objects, problems } = parseObjects(']'.repeat(256 * 1024), 'x');
  t.deepEqual(objects, []);
  t.true(problems.length > 0);
});
