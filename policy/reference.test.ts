/** What the documentation of NetworkPolicy and ClusterNetworkPolicy says, line by line, as flows. */
import test from 'ava';
import { parseObjects } from '../objects/parse.ts';
import { mergeSets, objectSetOf } from '../objects/set.ts';
import { type ClusterNetworkPolicy, EMPTY_OBJECTS, type ObjectSet } from '../objects/types.ts';
import { addressBytes, parseAddress } from '../wire/address.ts';
import { PolicyCompiler } from './compile.ts';
import { PolicySizeError } from './matrix.ts';
import { retainPolicies } from '../objects/retain.ts';
import {
  type End,
  type Flow,
  PolicyQueryError,
  addressesOfFlow,
  portNumber,
  referenceVerdict,
} from './reference.ts';
import { EGRESS, INGRESS, type PolicyTable, createPolicyLookup } from './table.ts';

const PODS = `
apiVersion: v1
kind: NamespaceList
items:
  - metadata: { name: x, labels: { ns: x, env: prod } }
  - metadata: { name: y, labels: { ns: y, env: test } }
---
apiVersion: v1
kind: NodeList
items:
  - { metadata: { name: n1, labels: { zone: a } }, status: { addresses: [ { type: InternalIP, address: 192.168.0.1 } ] } }
  - { metadata: { name: n2, labels: { zone: b } }, status: { addresses: [ { type: InternalIP, address: 192.168.0.2 } ] } }
---
apiVersion: v1
kind: PodList
items:
  - metadata: { name: a, namespace: x, labels: { app: a, tier: web } }
    spec: { nodeName: n1, containers: [ { name: c, ports: [ { name: http, containerPort: 80 }, { name: dns, containerPort: 53, protocol: UDP } ] } ] }
    status: { phase: Running, podIPs: [ { ip: 10.1.0.1 }, { ip: "fd00::1" } ] }
  - metadata: { name: b, namespace: x, labels: { app: b } }
    spec: { nodeName: n1, containers: [ { name: c, ports: [ { name: http, containerPort: 8080 } ] } ] }
    status: { phase: Running, podIPs: [ { ip: 10.1.0.2 }, { ip: "fd00::2" } ] }
  - metadata: { name: a, namespace: y, labels: { app: a } }
    spec: { nodeName: n2, containers: [ { name: c, ports: [ { name: http, containerPort: 81 } ] } ] }
    status: { phase: Running, podIPs: [ { ip: 10.1.1.1 } ] }
  - metadata: { name: b, namespace: y, labels: { app: b } }
    spec: { nodeName: n2, containers: [ { name: c } ] }
    status: { phase: Running, podIPs: [ { ip: 10.1.1.2 } ] }
  - metadata: { name: host, namespace: x, labels: { app: a } }
    spec: { nodeName: n1, hostNetwork: true, containers: [ { name: c } ] }
    status: { phase: Running, podIPs: [ { ip: 192.168.0.1 } ] }
  - metadata: { name: done, namespace: x, labels: { app: a } }
    spec: { nodeName: n2, containers: [ { name: c } ] }
    status: { phase: Succeeded, podIPs: [ { ip: 10.1.0.9 } ] }
`;

function objectsOf(...texts: readonly string[]): ObjectSet {
  const objects = texts.flatMap((text) => {
    const { objects: some, problems } = parseObjects(text, 'test');
    if (problems.length > 0) throw new Error(JSON.stringify(problems));
    return some;
  });
  return mergeSets([objectSetOf(objects)]);
}

let policies = 0;
/** Of namespace x; a spec in YAML's short form. */
const np = (spec: string, namespace = 'x'): string => `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: p${policies++}, namespace: ${namespace} }
spec: { ${spec} }
`;
/** Subject: all pods, unless the spec says otherwise. */
const cnp = (tier: string, priority: number, spec: string, subject = 'namespaces: {}'): string => `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: c${policies++} }
spec: { tier: ${tier}, priority: ${priority}, subject: { ${subject} }, ${spec} }
`;

const endOf = (text: string): End => (text.includes('/') ? text : parseAddress(text));
/** `x/a -> y/b TCP 80` */
function flowOf(text: string): Flow {
  const [, from = '', to = '', protocol = '', port = ''] =
    /^(\S+) -> (\S+) (TCP|UDP|SCTP|other) (\S+)$/.exec(text) ?? [];
  const number = /^[0-9]+$/.test(port) ? Number(port) : port;
  return { from: endOf(from), to: endOf(to), protocol: protocol as Flow['protocol'], port: number };
}

const arena = new DataView(new ArrayBuffer(32));
const lookup = createPolicyLookup(arena);
/** What the compiled table says. */
function compiledVerdict(objects: ObjectSet, flow: Flow): string {
  const inputs = { objects, subjects: 'all', nodeName: '', nodeAddresses: [] } as const;
  lookup.install(new PolicyCompiler().compile(inputs));
  const { source, destination } = addressesOfFlow(objects, flow.from, flow.to)!;
  const bytes = new Uint8Array(arena.buffer);
  bytes.set(addressBytes(source), 0);
  bytes.set(addressBytes(destination), 16);
  const is4 = typeof source === 'number';
  const port = portNumber(objects, flow.to, flow.protocol, flow.port);
  const protocol = { TCP: 6, UDP: 17, SCTP: 132, other: 1 }[flow.protocol];
  const passes = (direction: number, selfAt: number, peerAt: number): boolean => {
    const subject = lookup.subjectOf(selfAt, is4);
    return subject === -1 || lookup.allows(direction, subject, selfAt, peerAt, is4, protocol, port);
  };
  return passes(EGRESS, 0, 16) && passes(INGRESS, 16, 0) ? 'allow' : 'deny';
}

type Row = readonly [title: string, policies: readonly string[], flows: Record<string, string>];
const ALL = 'podSelector: {}';
const A = 'podSelector: { matchLabels: { app: a } }';
const from = (peers: string, ports = ''): string =>
  `ingress: [ { from: [ ${peers} ]${ports === '' ? '' : `, ports: [ ${ports} ]`} } ]`;
const to = (peers: string, ports = ''): string =>
  `egress: [ { to: [ ${peers} ]${ports === '' ? '' : `, ports: [ ${ports} ]`} } ]`;
const ports = (text: string): string => `ingress: [ { ports: [ ${text} ] } ]`;

const rows: readonly Row[] = [
  ['no policy', [], { 'x/a -> y/b TCP 80': 'allow', '8.8.8.8 -> x/a other 0': 'allow' }],
  [
    '1: policyTypes missing, no egress rules: ingress alone',
    [np(ALL)],
    { 'y/b -> x/a TCP 80': 'deny', 'x/a -> y/b TCP 80': 'allow' },
  ],
  [
    '1: policyTypes missing, egress rules: both',
    [np(`${ALL}, ${to('{ podSelector: {} }')}`)],
    { 'y/b -> x/a TCP 80': 'deny', 'x/a -> y/b TCP 80': 'deny' },
  ],
  [
    '1: policyTypes Egress, no rules: nothing leaves',
    [np(`${ALL}, policyTypes: [ Egress ]`)],
    { 'x/a -> y/b TCP 80': 'deny', 'y/b -> x/a TCP 80': 'allow', 'x/a -> 8.8.8.8 UDP 53': 'deny' },
  ],
  [
    '2: an empty podSelector is the whole namespace, and that one alone',
    [np(ALL)],
    { 'y/a -> x/b TCP 1': 'deny', 'x/a -> y/a TCP 1': 'allow' },
  ],
  [
    '2: rules of several policies add up',
    [np(ALL), np(`${A}, ${from('{ podSelector: { matchLabels: { app: b } } }')}`)],
    { 'x/b -> x/a TCP 80': 'allow', 'x/a -> x/b TCP 80': 'deny' },
  ],
  [
    '2: egress of the source and ingress of the destination must both allow',
    [
      np(`${ALL}, policyTypes: [ Egress ], ${to('{ namespaceSelector: {} }')}`),
      np(`${ALL}, policyTypes: [ Ingress ]`, 'y'),
    ],
    { 'x/a -> y/a TCP 80': 'deny', 'x/a -> x/b TCP 80': 'allow' },
  ],
  ['3: ingress: [] isolates', [np(`${ALL}, ingress: []`)], { 'x/b -> x/a TCP 80': 'deny' }],
  [
    '3: a rule {} allows all',
    [np(`${ALL}, ingress: [ {} ]`)],
    { '8.8.8.8 -> x/a TCP 80': 'allow', 'y/b -> x/a other 0': 'allow' },
  ],
  [
    '3: empty from is anybody, empty ports any port',
    [np(`${ALL}, ingress: [ { from: [], ports: [ { port: 80 } ] } ]`)],
    { '8.8.8.8 -> x/a TCP 80': 'allow', '8.8.8.8 -> x/a TCP 81': 'deny' },
  ],
  [
    '4: podSelector alone is of the own namespace',
    [np(`${ALL}, ${from('{ podSelector: { matchLabels: { app: a } } }')}`)],
    { 'x/a -> x/b TCP 80': 'allow', 'y/a -> x/b TCP 80': 'deny' },
  ],
  [
    '4: namespaceSelector alone is all pods of those namespaces',
    [np(`${ALL}, ${from('{ namespaceSelector: { matchLabels: { env: test } } }')}`)],
    { 'y/b -> x/a TCP 80': 'allow', 'x/b -> x/a TCP 80': 'deny' },
  ],
  [
    '4: both in one entry: and',
    [
      np(
        `${ALL}, ${from('{ namespaceSelector: { matchLabels: { ns: y } }, podSelector: { matchLabels: { app: a } } }')}`,
      ),
    ],
    { 'y/a -> x/a TCP 80': 'allow', 'y/b -> x/a TCP 80': 'deny', 'x/a -> x/b TCP 80': 'deny' },
  ],
  [
    '4: two entries: or',
    [
      np(
        `${ALL}, ${from('{ namespaceSelector: { matchLabels: { ns: y } } }, { podSelector: { matchLabels: { app: a } } }')}`,
      ),
    ],
    { 'y/b -> x/b TCP 80': 'allow', 'x/a -> x/b TCP 80': 'allow' },
  ],
  [
    '4: {} matches all pods, and nobody else',
    [np(`${ALL}, ${from('{ namespaceSelector: {} }')}`)],
    { 'y/b -> x/a TCP 80': 'allow', '8.8.8.8 -> x/a TCP 80': 'deny' },
  ],
  [
    '4: In and NotIn; NotIn matches where the key is absent',
    [
      np(
        `${ALL}, ${from('{ podSelector: { matchExpressions: [ { key: tier, operator: NotIn, values: [ web ] } ] } }')}`,
      ),
      np(
        `${ALL}, ${from('{ namespaceSelector: { matchExpressions: [ { key: env, operator: In, values: [ test, dev ] } ] } }')}`,
      ),
    ],
    { 'x/b -> x/a TCP 80': 'allow', 'x/a -> x/b TCP 80': 'deny', 'y/a -> x/a TCP 80': 'allow' },
  ],
  [
    '4: Exists',
    [
      np(
        `${ALL}, ${from('{ podSelector: { matchExpressions: [ { key: tier, operator: Exists } ] } }')}`,
      ),
    ],
    { 'x/a -> x/b TCP 80': 'allow', 'x/b -> x/a TCP 80': 'deny' },
  ],
  [
    '4: DoesNotExist',
    [
      np(
        `${ALL}, ${from('{ podSelector: { matchExpressions: [ { key: tier, operator: DoesNotExist } ] } }')}`,
      ),
    ],
    { 'x/a -> x/b TCP 80': 'deny', 'x/b -> x/a TCP 80': 'allow' },
  ],
  [
    '4: kubernetes.io/metadata.name',
    [
      np(
        `${ALL}, ${from('{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: y } } }')}`,
      ),
    ],
    { 'y/b -> x/a TCP 80': 'allow', 'x/b -> x/a TCP 80': 'deny' },
  ],
  [
    "5: ipBlock with its exception; pods' addresses too",
    [np(`${ALL}, ${from('{ ipBlock: { cidr: 10.1.0.0/16, except: [ 10.1.1.2/32 ] } }')}`)],
    {
      'y/a -> x/a TCP 80': 'allow',
      'y/b -> x/a TCP 80': 'deny',
      '10.1.9.9 -> x/a TCP 80': 'allow',
      '8.8.8.8 -> x/a TCP 80': 'deny',
    },
  ],
  [
    '5: an exception takes from its own entry only',
    [
      np(
        `${ALL}, ${from('{ ipBlock: { cidr: 0.0.0.0/0, except: [ 8.0.0.0/8 ] } }, { ipBlock: { cidr: 8.8.8.0/24 } }')}`,
      ),
    ],
    { '8.8.8.8 -> x/a TCP 80': 'allow', '8.8.4.4 -> x/a TCP 80': 'deny' },
  ],
  [
    '5: IPv6 is no part of 0.0.0.0/0',
    [np(`${ALL}, ${from('{ ipBlock: { cidr: "fd00::/64" } }')}`)],
    { 'fd00::2 -> fd00::1 TCP 80': 'allow', '10.1.0.2 -> 10.1.0.1 TCP 80': 'deny' },
  ],
  [
    '6: protocol defaults to TCP',
    [np(`${ALL}, ${ports('{ port: 80 }')}`)],
    { 'y/a -> x/a TCP 80': 'allow', 'y/a -> x/a UDP 80': 'deny', 'y/a -> x/a other 0': 'deny' },
  ],
  [
    '6: no port is every port of the protocol',
    [np(`${ALL}, ${ports('{ protocol: UDP }')}`)],
    { 'y/a -> x/a UDP 1': 'allow', 'y/a -> x/a UDP 65535': 'allow', 'y/a -> x/a TCP 1': 'deny' },
  ],
  [
    '6: SCTP',
    [np(`${ALL}, ${ports('{ protocol: SCTP, port: 7 }')}`)],
    { 'y/a -> x/a SCTP 7': 'allow', 'y/a -> x/a SCTP 8': 'deny' },
  ],
  [
    '6: endPort is inclusive',
    [np(`${ALL}, ${ports('{ port: 80, endPort: 82 }')}`)],
    {
      'y/a -> x/a TCP 79': 'deny',
      'y/a -> x/a TCP 80': 'allow',
      'y/a -> x/a TCP 82': 'allow',
      'y/a -> x/a TCP 83': 'deny',
    },
  ],
  [
    '6: a named port on ingress is what each destination says, by name and protocol',
    [np(`${ALL}, ${ports('{ port: http }, { port: dns }')}`)],
    {
      'y/a -> x/a TCP 80': 'allow',
      'y/a -> x/b TCP 80': 'deny',
      'y/a -> x/b TCP 8080': 'allow',
      'y/a -> x/a TCP 53': 'deny',
      'y/a -> x/a UDP 53': 'deny',
      'y/a -> x/a TCP http': 'allow',
      'y/a -> x/a TCP nothing': 'deny',
    },
  ],
  [
    '6: a named port on egress is what each destination says',
    [np(`${ALL}, policyTypes: [ Egress ], egress: [ { ports: [ { port: http } ] } ]`)],
    {
      'x/a -> x/b TCP 8080': 'allow',
      'x/a -> y/a TCP 81': 'allow',
      'x/a -> y/a TCP 8080': 'deny',
      'x/a -> y/b TCP 80': 'deny',
      'x/a -> 8.8.8.8 TCP 80': 'deny',
    },
  ],
  [
    '7: a rule of SCTP alone isolates TCP',
    [np(`${ALL}, ${ports('{ protocol: SCTP }')}`)],
    { 'y/a -> x/a TCP 80': 'deny' },
  ],
  [
    '7: a rule of UDP alone isolates TCP',
    [np(`${ALL}, ${ports('{ protocol: UDP, port: 53 }')}`)],
    { 'y/a -> x/a TCP 53': 'deny', 'y/a -> x/a UDP 53': 'allow' },
  ],
  [
    '8: the own node always, both ways; other nodes not',
    [np(`${ALL}, policyTypes: [ Ingress, Egress ]`)],
    {
      '192.168.0.1 -> x/a TCP 80': 'allow',
      'x/a -> 192.168.0.1 TCP 10250': 'allow',
      '192.168.0.2 -> x/a TCP 80': 'deny',
      'x/a -> 192.168.0.2 TCP 10250': 'deny',
    },
  ],
  [
    '8: a pod reaches itself',
    [np(`${ALL}, policyTypes: [ Ingress, Egress ]`)],
    { 'x/a -> x/a TCP 80': 'allow', 'fd00::1 -> fd00::1 UDP 1': 'allow' },
  ],
  [
    '8: hostNetwork pods count as their node: no selector matches them, no policy applies to them',
    [
      np(`${ALL}, policyTypes: [ Ingress, Egress ]`),
      np(`${ALL}, ${from('{ podSelector: {} }')}`, 'y'),
    ],
    {
      'x/host -> x/a TCP 80': 'allow',
      '8.8.8.8 -> x/host TCP 80': 'allow',
      'x/host -> y/a TCP 80': 'deny',
    },
  ],
  [
    '11: an empty set of peers denies',
    [np(`${ALL}, ${from('{ podSelector: { matchLabels: { app: nobody } } }')}`)],
    { 'x/b -> x/a TCP 80': 'deny', '8.8.8.8 -> x/a TCP 80': 'deny' },
  ],
  [
    'a pod that is done has its address no more',
    [np(`${ALL}, ${from('{ podSelector: {} }')}`)],
    { '10.1.0.9 -> x/a TCP 80': 'deny' },
  ],
  [
    'Admin denies before NetworkPolicy allows',
    [
      cnp('Admin', 5, 'ingress: [ { action: Deny, from: [ { namespaces: {} } ] } ]'),
      np(`${ALL}, ingress: [ {} ]`),
    ],
    { 'y/a -> x/a TCP 80': 'deny', '8.8.8.8 -> x/a TCP 80': 'allow' },
  ],
  [
    'Admin accepts before NetworkPolicy denies',
    [
      cnp(
        'Admin',
        5,
        'ingress: [ { action: Accept, from: [ { namespaces: {} } ], protocols: [ { tcp: { destinationPort: { number: 80 } } } ] } ]',
      ),
      np(ALL),
    ],
    { 'y/a -> x/a TCP 80': 'allow', 'y/a -> x/a TCP 81': 'deny' },
  ],
  [
    'lower priority wins',
    [
      cnp('Admin', 9, 'ingress: [ { action: Accept, from: [ { namespaces: {} } ] } ]'),
      cnp('Admin', 3, 'ingress: [ { action: Deny, from: [ { namespaces: {} } ] } ]'),
    ],
    { 'y/a -> x/a TCP 80': 'deny' },
  ],
  [
    'rules in order',
    [
      cnp(
        'Admin',
        9,
        'ingress: [ { action: Accept, from: [ { namespaces: { matchLabels: { ns: y } } } ] }, { action: Deny, from: [ { namespaces: {} } ] } ]',
      ),
    ],
    { 'y/a -> x/a TCP 80': 'allow', 'x/b -> x/a TCP 80': 'deny' },
  ],
  [
    'Pass leaves it to NetworkPolicy, past the rest of its tier',
    [
      cnp('Admin', 1, 'ingress: [ { action: Pass, from: [ { namespaces: {} } ] } ]'),
      cnp('Admin', 2, 'ingress: [ { action: Deny, from: [ { namespaces: {} } ] } ]'),
      np(ALL),
    ],
    { 'y/b -> x/a TCP 80': 'deny', 'x/a -> y/b TCP 80': 'allow' },
  ],
  [
    'Baseline decides where no NetworkPolicy isolates',
    [
      cnp('Baseline', 1, 'ingress: [ { action: Deny, from: [ { namespaces: {} } ] } ]'),
      np(`${A}, ingress: [ {} ]`),
    ],
    { 'y/b -> x/a TCP 80': 'allow', 'y/b -> x/b TCP 80': 'deny', '8.8.8.8 -> x/b TCP 80': 'allow' },
  ],
  [
    'an unknown peer: Accept matches nobody',
    [cnp('Admin', 1, 'ingress: [ { action: Accept, from: [ { later: {} } ] } ]'), np(ALL)],
    { 'y/a -> x/a TCP 80': 'deny' },
  ],
  [
    'an unknown peer: Deny matches everybody',
    [cnp('Admin', 1, 'ingress: [ { action: Deny, from: [ { later: {} } ] } ]')],
    { 'y/a -> x/a TCP 80': 'deny', '8.8.8.8 -> x/a other 0': 'deny' },
  ],
  [
    'an unknown peer: Pass denies everybody, as the API has it',
    [
      cnp(
        'Admin',
        1,
        'ingress: [ { action: Pass, from: [ { later: {} } ] }, { action: Accept, from: [ { namespaces: {} } ] } ]',
      ),
    ],
    { 'y/a -> x/a TCP 80': 'deny', '8.8.8.8 -> x/a TCP 80': 'deny' },
  ],
  [
    'the own node is never denied, whatever the tier and peer: probes come from it',
    [
      cnp('Admin', 1, 'ingress: [ { action: Deny, from: [ { namespaces: {} }, { later: {} } ] } ]'),
      cnp('Baseline', 1, 'ingress: [ { action: Deny, from: [ { later: {} } ] } ]'),
      np(ALL),
    ],
    {
      '192.168.0.1 -> x/a TCP 80': 'allow',
      'x/host -> x/a TCP 80': 'allow',
      '192.168.0.2 -> x/a TCP 80': 'deny',
    },
  ],
  [
    'an unknown port: Accept matches none, Deny and Pass deny all',
    [
      cnp(
        'Admin',
        1,
        'ingress: [ { action: Accept, from: [ { namespaces: {} } ], protocols: [ { later: {} } ] } ], egress: [ { action: Deny, to: [ { networks: [ 8.0.0.0/8 ] } ], protocols: [ { later: {} } ] }, { action: Pass, to: [ { networks: [ 9.0.0.0/8 ] } ], protocols: [ { later: {} } ] } ]',
      ),
      np(ALL),
    ],
    {
      'y/a -> x/a TCP 80': 'deny',
      'y/a -> 8.8.8.8 TCP 80': 'deny',
      'y/a -> 9.9.9.9 TCP 80': 'deny',
    },
  ],
  [
    'nodes and networks, on egress; never the own node',
    [
      cnp(
        'Admin',
        1,
        'egress: [ { action: Deny, to: [ { nodes: { matchLabels: { zone: b } } } ] }, { action: Deny, to: [ { networks: [ 192.168.0.1/32, 10.1.1.0/24 ] } ] } ]',
      ),
    ],
    {
      'x/a -> 192.168.0.2 TCP 1': 'deny',
      'y/a -> 192.168.0.2 TCP 1': 'allow',
      'x/a -> 192.168.0.1 TCP 1': 'allow',
      'y/a -> 192.168.0.1 TCP 1': 'deny',
      'x/a -> y/a TCP 1': 'deny',
    },
  ],
  [
    'a pod to itself is subject to it',
    [
      cnp('Admin', 1, 'ingress: [ { action: Deny, from: [ { namespaces: {} } ] } ]'),
      np(`${ALL}, policyTypes: [ Egress ]`),
    ],
    { 'x/a -> x/a TCP 80': 'deny' },
  ],
  [
    'the subject: pods',
    [
      cnp(
        'Admin',
        1,
        'ingress: [ { action: Deny, from: [ { namespaces: {} } ] } ]',
        'pods: { namespaceSelector: { matchLabels: { ns: x } }, podSelector: { matchLabels: { app: a } } }',
      ),
    ],
    { 'y/b -> x/a TCP 80': 'deny', 'y/b -> x/b TCP 80': 'allow', 'x/b -> y/a TCP 80': 'allow' },
  ],
  [
    'a port name of whatever protocol',
    [
      cnp(
        'Admin',
        1,
        'ingress: [ { action: Deny, from: [ { namespaces: {} } ], protocols: [ { destinationNamedPort: dns } ] } ]',
      ),
    ],
    { 'y/b -> x/a UDP 53': 'deny', 'y/b -> x/a TCP 53': 'allow' },
  ],
];

for (const [title, texts, flows] of rows) {
  test(title, (t) => {
    const objects = objectsOf(PODS, ...texts);
    for (const [text, expected] of Object.entries(flows)) {
      const flow = flowOf(text);
      const { verdict, because } = referenceVerdict(objects, flow);
      t.is(verdict, expected as typeof verdict, `${text}: ${because}`);
      t.is(compiledVerdict(objects, flow), expected, `${text}: the compiled table`);
    }
  });
}

const named = (text: string, name: string): string =>
  text.replace(/name: [pc][0-9]+/, `name: ${name}`);
const reasons: readonly [policies: readonly string[], flow: string, because: string][] = [
  [
    [named(np(ALL), 'deny-all')],
    'y/a -> x/a TCP 80',
    'NetworkPolicy x/deny-all isolates pod x/a for ingress; no rule allows it',
  ],
  [
    [named(np(`${ALL}, ingress: [ { ports: [ { port: 1 } ] }, {} ]`), 'some')],
    'y/a -> x/a TCP 80',
    'no policy selects pod y/a for egress; allowed by NetworkPolicy x/some ingress rule 2',
  ],
  [
    [
      named(
        cnp('Admin', 1, 'ingress: [ { name: z, action: Deny, from: [ { namespaces: {} } ] } ]'),
        'y',
      ),
    ],
    'y/a -> x/a TCP 80',
    'denied by ClusterNetworkPolicy y (Admin) ingress rule "z"',
  ],
  [
    [],
    '8.8.8.8 -> x/a TCP 80',
    '8.8.8.8 is no pod and has no egress policy; no policy selects pod x/a for ingress',
  ],
  [
    [],
    'x/a -> 192.168.0.1 TCP 80',
    'a pod and its own node always reach each other (egress); node n1 is no pod and has no ingress policy',
  ],
  [[], 'x/done -> x/a TCP 80', 'pod x/done is Succeeded and has no traffic'],
];
for (const [texts, flow, because] of reasons) {
  test(`because ${because}`, (t) => {
    t.is(referenceVerdict(objectsOf(PODS, ...texts), flowOf(flow)).because, because);
  });
}

test('a pod that is not there is a wrong question', (t) => {
  const flow = flowOf('x/nobody -> x/a TCP 80');
  const error = t.throws(() => referenceVerdict(objectsOf(PODS), flow), {
    instanceOf: PolicyQueryError,
  });
  t.is(error.code, 'ERR_POLICY_QUERY');
});

test('11: a policy deleted in a Terminating namespace keeps denying while its pods live', (t) => {
  const policy = np(ALL);
  const terminating = (set: ObjectSet): ObjectSet => ({
    ...set,
    namespaces: new Map(
      [...set.namespaces].map(([name, it]) => [
        name,
        name === '/x' ? { ...it, phase: 'Terminating' as const } : it,
      ]),
    ),
  });
  const before = objectsOf(PODS, policy);
  const after = terminating(objectsOf(PODS));
  const flow = flowOf('y/a -> x/a TCP 80');
  t.is(referenceVerdict(retainPolicies(before, after), flow).verdict, 'deny');
  t.is(referenceVerdict(retainPolicies(before, objectsOf(PODS)), flow).verdict, 'allow', 'Active');
  const gone = { ...after, pods: new Map() };
  t.is(retainPolicies(before, gone), gone, 'its pods are gone');
});

const inputsOf = (objects: ObjectSet) => ({
  objects,
  subjects: new Set(['x/a', 'x/b']),
  nodeName: 'n1',
  nodeAddresses: [],
});

test('11: labels that change take effect, and the generation grows with verdicts alone', (t) => {
  const compiler = new PolicyCompiler();
  const policy = np(`${ALL}, ${from('{ podSelector: { matchLabels: { app: a } } }')}`);
  const texts = [PODS, policy];
  const first = compiler.compile(inputsOf(objectsOf(...texts)));
  t.is(first.generation, 1);
  const again = compiler.compile(inputsOf(objectsOf(...texts)));
  t.is(again, first, 'the same, of other objects');
  const moved = PODS.replace('{ app: b }', '{ app: a }');
  t.is(compiler.compile(inputsOf(objectsOf(moved, policy))).generation, 2);
  t.is(compiler.compile(inputsOf(objectsOf(...texts))).generation, 3);
});

test('an address that two pods claim is the local one’s, and the node’s own is nobody’s', (t) => {
  const clash = PODS.replace('ip: 10.1.1.1', 'ip: 10.1.0.1').replace(
    'ip: 10.1.1.2',
    'ip: 10.9.9.9',
  );
  const inputs = {
    ...inputsOf(objectsOf(clash, np(ALL))),
    nodeAddresses: [parseAddress('10.9.9.9')],
  };
  lookup.install(new PolicyCompiler().compile(inputs));
  const bytes = new Uint8Array(arena.buffer);
  bytes.set(addressBytes(parseAddress('10.1.0.1')), 0);
  bytes.set(addressBytes(parseAddress('10.9.9.9')), 16);
  t.is(lookup.subjectOf(0, true), 0);
  t.is(lookup.subjectOf(16, true), -1);
  t.true(lookup.allows(INGRESS, 0, 0, 16, true, 6, 80));
});

test('before anything is installed nobody is asked, and nothing passes', (t) => {
  const fresh = createPolicyLookup(arena);
  t.is(fresh.subjectOf(0, true), -1);
  t.is(fresh.subjectOf(0, false), -1);
  t.false(fresh.allows(INGRESS, 0, 0, 16, true, 6, 80));
});

test('a pod of another node that no policy here tells from the rest asks no flow again', (t) => {
  const remote = (name: string, ip: string, namespace = 'y'): string =>
    `apiVersion: v1\nkind: Pod\nmetadata: { name: ${name}, namespace: ${namespace}, labels: { app: a } }\nspec: { nodeName: n2 }\nstatus: { podIP: ${ip} }`;
  const block = np(`${ALL}, ${from('{ ipBlock: { cidr: 10.7.0.0/16 } }')}`);
  const peers = np(`${ALL}, ${from('{ namespaceSelector: { matchLabels: { ns: y } } }')}`);
  for (const [name, policies, ip, grows] of [
    ['no policy', [], '10.7.0.1', 0],
    ['IPv6', [], 'fd77::1', 0],
    ['in a block', [block], '10.7.0.1', 0],
    ['outside of it', [block], '10.9.0.1', 0],
    ['selected by a rule', [peers], '10.7.0.1', 1],
    ['an address that was a node’s', [], '192.168.0.2', 1],
    ["the node's own address", [], '192.168.0.1', 1],
  ] as const) {
    const compiler = new PolicyCompiler();
    const before = compiler.compile(inputsOf(objectsOf(PODS, ...policies)));
    const with_ = compiler.compile(inputsOf(objectsOf(PODS, ...policies, remote('new', ip))));
    t.not(with_, before, name);
    t.is(with_.generation - before.generation, grows, name);
    const after = compiler.compile(inputsOf(objectsOf(PODS, ...policies)));
    t.is(after.generation - with_.generation, grows, `${name}, and back`);
  }
});

test('another block, in which nobody is, leaves who has which address as it stands', (t) => {
  const compiler = new PolicyCompiler();
  const peers = np(`${ALL}, ${from('{ podSelector: {} }')}`);
  const compile = (...blocks: readonly string[]): PolicyTable => {
    const policies = blocks.map((it) => np(`${ALL}, ${from(`{ ipBlock: { cidr: ${it} } }`)}`));
    return compiler.compile(inputsOf(objectsOf(PODS, peers, ...policies)));
  };
  const before = compile('10.7.0.0/16', 'fd77::/32');
  const after = compile('10.8.0.0/16', '10.9.9.0/24', 'fd78::/32', 'fd79::/48');
  t.not(after.ranges4, before.ranges4);
  t.is(after.addresses4, before.addresses4);
  t.is(after.addresses6, before.addresses6);
});

test('policies that a table cannot hold are refused; what comes after is as of a fresh compiler', (t) => {
  const compiler = new PolicyCompiler(EMPTY_OBJECTS, 8);
  const small = compiler.compile(inputsOf(objectsOf(PODS, np(ALL))));
  const blocks = [1, 2, 3, 4, 5].map((i) =>
    named(np(`${ALL}, ${from(`{ ipBlock: { cidr: 10.${i}.0.0/16 } }`)}`), `p${i}`),
  );
  const error = t.throws(() => compiler.compile(inputsOf(objectsOf(PODS, ...blocks))), {
    instanceOf: PolicySizeError,
    message:
      /^policies tell \d+ kinds of pods from \d+ kinds of peers, more than .* stay in force$/,
  });
  t.is(error.code, 'ERR_POLICY_SIZE');
  t.is(compiler.compile(inputsOf(objectsOf(PODS, np(ALL)))), small, 'the generation is the same');
});

test('equal priorities go by name', (t) => {
  const deny = named(
    cnp('Admin', 1, 'ingress: [ { action: Deny, from: [ { namespaces: {} } ] } ]'),
    'a',
  );
  const accept = named(
    cnp('Admin', 1, 'ingress: [ { action: Accept, from: [ { namespaces: {} } ] } ]'),
    'b',
  );
  const objects = objectsOf(PODS, accept, deny);
  const policies: readonly ClusterNetworkPolicy[] = [...objects.clusterNetworkPolicies.values()];
  t.is(policies.length, 2);
  t.is(referenceVerdict(objects, flowOf('y/a -> x/a TCP 80')).verdict, 'deny');
  t.is(compiledVerdict(objects, flowOf('y/a -> x/a TCP 80')), 'deny');
});
