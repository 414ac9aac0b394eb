import test from 'ava';
import fc from 'fast-check';
import {
  type Endpoint,
  type ObjectSet,
  type Service,
  type WeftObject,
  EMPTY_OBJECTS,
} from '../objects/types.ts';
import { type IpAddress, formatAddress, parseAddress } from '../wire/address.ts';
import { parseCidr } from '../wire/cidr.ts';
import { createAsker, endpointText } from '../test/services/ask.ts';
import {
  endpointOf,
  nodeOf,
  objectsOf,
  podOf,
  portOf,
  serviceOf,
  sliceOf,
} from '../test/services/build.ts';
import { type ServiceInputs, ServiceCompiler } from './compile.ts';
import { type Connection, referenceBackends } from './reference.ts';

const NODES = [
  nodeOf('n1', ['192.0.2.1', '2001:db8::1'], 'zone-a'),
  nodeOf('n2', ['192.0.2.2', '2001:db8::2'], 'zone-b'),
  nodeOf('n3', ['192.0.2.3'], 'zone-a'),
];
const NETWORKS = [parseCidr('10.96.0.0/16'), parseCidr('fd00:96::/112')];

const inputsOf = (objects: readonly WeftObject[], rest: Partial<ServiceInputs> = {}) => ({
  objects: objectsOf([...NODES, ...objects]),
  nodeName: 'n1',
  nodeAddresses: [parseAddress('192.0.2.1'), parseAddress('2001:db8::1')],
  serviceNetworks: NETWORKS,
  externalIpBlocks: [parseCidr('198.51.100.0/24')],
  ...rest,
});

const [HERE, ELSEWHERE] = [{ nodeName: 'n1' }, { nodeName: 'n2' }];
const NOT_READY = { ready: false, serving: false };
const ENDING = { ready: false, serving: true, terminating: true };

/** `10.96.0.1:80/UDP from 10.244.0.9`; TCP unless it says; from outside `203.0.113.9` unless it says. */
function connectionOf(text: string): Connection {
  const match = /^\[?(.*?)\]?:(\d+)(?:\/(\w+))?(?: from (\S+))?$/.exec(text)!;
  const [, address, port, protocol = 'TCP', source] = match;
  return {
    address: parseAddress(address!),
    port: Number(port),
    protocol: protocol as Connection['protocol'],
    source: parseAddress(source ?? (address!.includes(':') ? '2001:db8:f::9' : '203.0.113.9')),
    isInside: source?.startsWith('10.244.') ?? false,
  };
}

const VIP = '10.96.0.1';
const INSIDE = `${VIP}:80 from 10.244.0.9`;
const LOCAL_LB: Partial<Service> = {
  type: 'LoadBalancer',
  externalTrafficPolicy: 'Local',
  loadBalancerIPs: [parseAddress('198.51.100.7')],
  externalIPs: [parseAddress('198.51.100.8')],
  ports: [portOf(80, { nodePort: 30080 })],
};
const CLUSTER_LB: Partial<Service> = { ...LOCAL_LB, externalTrafficPolicy: 'Cluster' };
const one = (rest: Partial<Service>, ...endpoints: readonly Endpoint[]): readonly WeftObject[] => [
  serviceOf('web', [VIP], rest),
  sliceOf('web-1', 'web', endpoints),
];
const TWO = [endpointOf('10.244.1.5', HERE), endpointOf('10.244.2.5', ELSEWHERE)];
const [LOCAL_TEXT, REMOTE_TEXT] = ['10.244.1.5:8080', '10.244.2.5:8080'];
const BOTH = [LOCAL_TEXT, REMOTE_TEXT];

const cases: readonly [
  name: string,
  objects: readonly WeftObject[],
  connection: string,
  outcomes: readonly string[],
][] = [
  ['ready endpoints', one({}, ...TWO), INSIDE, BOTH],
  [
    'not one that is not ready',
    one({}, TWO[0]!, endpointOf('10.244.2.5', NOT_READY)),
    INSIDE,
    [LOCAL_TEXT],
  ],
  [
    'not one that ends while others are ready',
    one({}, TWO[0]!, endpointOf('10.244.2.5', ENDING)),
    INSIDE,
    [LOCAL_TEXT],
  ],
  [
    'those that end and serve, if none is ready',
    one({}, endpointOf('10.244.1.5', ENDING), endpointOf('10.244.2.5', NOT_READY)),
    INSIDE,
    [LOCAL_TEXT],
  ],
  ['no endpoint', one({}), INSIDE, ['no endpoint']],
  ['none that is ready', one({}, endpointOf('10.244.1.5', NOT_READY)), INSIDE, ['no endpoint']],
  ['no slice at all', [serviceOf('web', [VIP])], INSIDE, ['no endpoint']],
  ['an unused port', one({}, ...TWO), `${VIP}:81`, ['unused port']],
  ['an unused protocol', one({}, ...TWO), `${VIP}:80/UDP`, ['unused port']],
  ['a Service without ports', one({ ports: [] }), INSIDE, ['unused port']],
  [
    'a Service without ports, another proxy’s',
    one({
      ports: [],
      metadata: {
        ...serviceOf('web', [VIP]).metadata,
        labels: { 'service.kubernetes.io/service-proxy-name': 'other' },
      },
    }),
    INSIDE,
    ['no frontend'],
  ],
  ['an unallocated address', one({}, ...TWO), '10.96.3.4:80', ['unallocated']],
  ['an unallocated IPv6 address', one({}, ...TWO), '[fd00:96::7]:80', ['unallocated']],
  ['elsewhere', one({}, ...TWO), '10.97.0.1:80', ['no frontend']],

  ['internal Local', one({ internalTrafficPolicy: 'Local' }, ...TWO), INSIDE, [LOCAL_TEXT]],
  [
    'internal Local, none here',
    one({ internalTrafficPolicy: 'Local' }, TWO[1]!),
    INSIDE,
    ['not local'],
  ],
  [
    'internal Local, none anywhere',
    one({ internalTrafficPolicy: 'Local' }),
    INSIDE,
    ['no endpoint'],
  ],
  [
    'internal Local, one here ends',
    one(
      { internalTrafficPolicy: 'Local' },
      endpointOf('10.244.1.5', { ...ENDING, ...HERE }),
      TWO[1]!,
    ),
    INSIDE,
    [LOCAL_TEXT],
  ],
  [
    'internal Local, one here is not ready',
    one({ internalTrafficPolicy: 'Local' }, endpointOf('10.244.1.5', NOT_READY), TWO[1]!),
    INSIDE,
    ['not local'],
  ],
  [
    'internal Local says nothing of external addresses',
    one({ ...CLUSTER_LB, internalTrafficPolicy: 'Local' }, ...TWO),
    '198.51.100.7:80',
    BOTH,
  ],

  ['node port', one(CLUSTER_LB, ...TWO), '192.0.2.1:30080', BOTH],
  ["another node's node port", one(CLUSTER_LB, ...TWO), '192.0.2.2:30080', ['no frontend']],
  ['the port of the Service at a node', one(CLUSTER_LB, ...TWO), '192.0.2.1:80', ['no frontend']],
  [
    'node ports of ClusterIP Services',
    one({ ports: [portOf(80, { nodePort: 30080 })] }, ...TWO),
    '192.0.2.1:30080',
    ['no frontend'],
  ],
  ['load balancer IP', one(CLUSTER_LB, ...TWO), '198.51.100.7:80', BOTH],
  ['its node port there', one(CLUSTER_LB, ...TWO), '198.51.100.7:30080', ['unused port']],
  ['external IP', one(CLUSTER_LB, ...TWO), '198.51.100.8:80', BOTH],
  [
    'external IP in no block',
    one({ externalIPs: [parseAddress('8.8.8.8')] }, ...TWO),
    '8.8.8.8:80',
    ['no frontend'],
  ],
  ['external Local: node port', one(LOCAL_LB, ...TWO), '192.0.2.1:30080', [LOCAL_TEXT]],
  ['external Local: load balancer IP', one(LOCAL_LB, ...TWO), '198.51.100.7:80', [LOCAL_TEXT]],
  ['external Local: external IP', one(LOCAL_LB, ...TWO), '198.51.100.8:80', [LOCAL_TEXT]],
  ['external Local, none here', one(LOCAL_LB, TWO[1]!), '198.51.100.7:80', ['not local']],
  ['external Local, none anywhere', one(LOCAL_LB), '198.51.100.7:80', ['no endpoint']],
  [
    'external Local, from inside',
    one(LOCAL_LB, TWO[1]!),
    '198.51.100.7:80 from 10.244.0.9',
    [REMOTE_TEXT],
  ],
  ['external Local says nothing of cluster IPs', one(LOCAL_LB, ...TWO), INSIDE, BOTH],

  [
    'in the source ranges',
    one({ ...CLUSTER_LB, loadBalancerSourceRanges: [parseCidr('203.0.113.0/24')] }, TWO[0]!),
    '198.51.100.7:80',
    [LOCAL_TEXT],
  ],
  [
    'outside of the source ranges',
    one({ ...CLUSTER_LB, loadBalancerSourceRanges: [parseCidr('203.0.112.0/24')] }, TWO[0]!),
    '198.51.100.7:80',
    ['source refused'],
  ],
  [
    'outside of them, from inside',
    one({ ...CLUSTER_LB, loadBalancerSourceRanges: [parseCidr('203.0.112.0/24')] }, TWO[0]!),
    '198.51.100.7:80 from 10.244.0.9',
    [LOCAL_TEXT],
  ],
  [
    'outside of them, node port',
    one({ ...CLUSTER_LB, loadBalancerSourceRanges: [parseCidr('203.0.112.0/24')] }, TWO[0]!),
    '192.0.2.1:30080',
    [LOCAL_TEXT],
  ],
  [
    'source ranges of the other family only',
    one({ ...CLUSTER_LB, loadBalancerSourceRanges: [parseCidr('2001:db8::/32')] }, TWO[0]!),
    '198.51.100.7:80',
    ['source refused'],
  ],

  [
    'PreferSameZone',
    one(
      { trafficDistribution: 'PreferSameZone' },
      ...TWO,
      endpointOf('10.244.3.5', { nodeName: 'n3' }),
    ),
    INSIDE,
    [LOCAL_TEXT, '10.244.3.5:8080'],
  ],
  [
    'PreferSameZone, none',
    one({ trafficDistribution: 'PreferSameZone' }, TWO[1]!),
    INSIDE,
    [REMOTE_TEXT],
  ],
  [
    "PreferSameZone by the endpoint's own zone",
    one(
      { trafficDistribution: 'PreferSameZone' },
      TWO[0]!,
      endpointOf('10.244.2.5', { nodeName: 'n2', zone: 'zone-a' }),
    ),
    INSIDE,
    BOTH,
  ],
  [
    'PreferSameNode',
    one(
      { trafficDistribution: 'PreferSameNode' },
      ...TWO,
      endpointOf('10.244.3.5', { nodeName: 'n3' }),
    ),
    INSIDE,
    [LOCAL_TEXT],
  ],
  [
    'PreferSameNode, none: the zone',
    one(
      { trafficDistribution: 'PreferSameNode' },
      TWO[1]!,
      endpointOf('10.244.3.5', { nodeName: 'n3' }),
    ),
    INSIDE,
    ['10.244.3.5:8080'],
  ],
  [
    'zone hints',
    one(
      {},
      endpointOf('10.244.1.5', { hintsForZones: ['zone-b'] }),
      endpointOf('10.244.2.5', { hintsForZones: ['zone-a'] }),
    ),
    INSIDE,
    [REMOTE_TEXT],
  ],
  [
    'zone hints, one has none',
    one({}, TWO[0]!, endpointOf('10.244.2.5', { hintsForZones: ['zone-a'] })),
    INSIDE,
    BOTH,
  ],
  [
    'zone hints, one that is not ready has none',
    one(
      {},
      endpointOf('10.244.1.5', NOT_READY),
      endpointOf('10.244.2.5', { hintsForZones: ['zone-a'] }),
      endpointOf('10.244.2.6', { hintsForZones: ['zone-b'] }),
    ),
    INSIDE,
    [REMOTE_TEXT],
  ],
  [
    'zone hints, none for this zone',
    one(
      {},
      endpointOf('10.244.1.5', { hintsForZones: ['zone-c'] }),
      endpointOf('10.244.2.5', { hintsForZones: ['zone-b'] }),
    ),
    INSIDE,
    BOTH,
  ],
  [
    'node hints before zone hints',
    one(
      {},
      endpointOf('10.244.1.5', { hintsForZones: ['zone-a'], hintsForNodes: ['n2'] }),
      endpointOf('10.244.2.5', { hintsForZones: ['zone-b'], hintsForNodes: ['n1'] }),
    ),
    INSIDE,
    [REMOTE_TEXT],
  ],
  [
    'hints say nothing of Local',
    one(
      { internalTrafficPolicy: 'Local' },
      endpointOf('10.244.1.5', { ...HERE, hintsForZones: ['zone-b'] }),
      endpointOf('10.244.2.5', { hintsForZones: ['zone-a'] }),
    ),
    INSIDE,
    [LOCAL_TEXT],
  ],

  ['headless', one({ headless: true, clusterIPs: [] }, ...TWO), INSIDE, ['unallocated']],
  ['ExternalName', one({ type: 'ExternalName', clusterIPs: [] }, ...TWO), INSIDE, ['unallocated']],
  [
    "another proxy's",
    [
      serviceOf('web', [VIP], {}, { 'service.kubernetes.io/service-proxy-name': 'x' }),
      sliceOf('web-1', 'web', TWO),
    ],
    INSIDE,
    ['no frontend'],
  ],
  [
    "another proxy's, a port that it has not",
    [serviceOf('web', [VIP], {}, { 'service.kubernetes.io/service-proxy-name': 'x' })],
    `${VIP}:81`,
    ['no frontend'],
  ],

  [
    'IPv6',
    [
      serviceOf('web', [VIP, 'fd00:96::1']),
      sliceOf('web-4', 'web', TWO),
      sliceOf('web-6', 'web', [endpointOf('fd00:244::5')]),
    ],
    '[fd00:96::1]:80',
    ['[fd00:244::5]:8080'],
  ],
  [
    'IPv4 beside it',
    [
      serviceOf('web', [VIP, 'fd00:96::1']),
      sliceOf('web-4', 'web', TWO),
      sliceOf('web-6', 'web', [endpointOf('fd00:244::5')]),
    ],
    INSIDE,
    BOTH,
  ],
  [
    'IPv6 node port',
    [
      serviceOf('web', ['fd00:96::1'], CLUSTER_LB),
      sliceOf('web-6', 'web', [endpointOf('fd00:244::5')]),
    ],
    '[2001:db8::1]:30080',
    ['[fd00:244::5]:8080'],
  ],
  [
    'no IPv4 node port of an IPv6 Service',
    [
      serviceOf('web', ['fd00:96::1'], CLUSTER_LB),
      sliceOf('web-6', 'web', [endpointOf('fd00:244::5')]),
    ],
    '192.0.2.1:30080',
    ['no frontend'],
  ],
  [
    'UDP and TCP of one port: UDP',
    [
      serviceOf('dns', [VIP], {
        ports: [portOf(53, { name: 'tcp' }), portOf(53, { name: 'udp', protocol: 'UDP' })],
      }),
      sliceOf('dns-1', 'dns', TWO, [
        { name: 'tcp', protocol: 'TCP', port: 5353 },
        { name: 'udp', protocol: 'UDP', port: 5354 },
      ]),
    ],
    `${VIP}:53/UDP`,
    ['10.244.1.5:5354', '10.244.2.5:5354'],
  ],
  [
    'UDP and TCP of one port: TCP',
    [
      serviceOf('dns', [VIP], {
        ports: [portOf(53, { name: 'tcp' }), portOf(53, { name: 'udp', protocol: 'UDP' })],
      }),
      sliceOf('dns-1', 'dns', TWO, [
        { name: 'tcp', protocol: 'TCP', port: 5353 },
        { name: 'udp', protocol: 'UDP', port: 5354 },
      ]),
    ],
    `${VIP}:53/TCP`,
    ['10.244.1.5:5353', '10.244.2.5:5353'],
  ],
  [
    'SCTP',
    [
      serviceOf('s', [VIP], { ports: [portOf(9, { protocol: 'SCTP' })] }),
      sliceOf('s-1', 's', TWO, [{ name: '', protocol: 'SCTP', port: 99 }]),
    ],
    `${VIP}:9/SCTP`,
    ['10.244.1.5:99', '10.244.2.5:99'],
  ],
  [
    'a slice of another port name',
    [
      serviceOf('web', [VIP], { ports: [portOf(80, { name: 'http' })] }),
      sliceOf('web-1', 'web', TWO),
    ],
    INSIDE,
    ['no endpoint'],
  ],
  [
    'a slice of another namespace',
    [serviceOf('web', [VIP]), sliceOf('other/web-1', 'web', TWO)],
    INSIDE,
    ['no endpoint'],
  ],
  [
    'a slice of all ports',
    [
      serviceOf('web', [VIP]),
      sliceOf('web-1', 'web', TWO, [{ name: '', protocol: 'TCP', port: 0 }]),
    ],
    INSIDE,
    ['no endpoint'],
  ],
  [
    'an endpoint in two slices',
    [...one({}, ...TWO), sliceOf('web-2', 'web', [endpointOf('10.244.1.5', NOT_READY)])],
    INSIDE,
    BOTH,
  ],

  [
    'pods by selector',
    [
      serviceOf('web', [VIP], {
        selector: { app: 'web' },
        ports: [portOf(80, { targetPort: 8080 })],
      }),
      podOf('a', ['10.244.1.5'], { app: 'web' }),
      podOf('b', ['10.244.2.5'], { app: 'web', x: 'y' }),
      podOf('c', ['10.244.2.6'], { app: 'x' }),
      podOf('other/d', ['10.244.2.7'], { app: 'web' }),
    ],
    INSIDE,
    BOTH,
  ],
  [
    'pods by selector: a named port of each',
    [
      serviceOf('web', [VIP], {
        selector: { app: 'web' },
        ports: [portOf(80, { targetPort: 'http' })],
      }),
      podOf(
        'a',
        ['10.244.1.5'],
        { app: 'web' },
        {
          ports: [
            { name: 'http', protocol: 'UDP', containerPort: 1 },
            { name: 'http', protocol: 'TCP', containerPort: 8080 },
          ],
        },
      ),
      podOf(
        'b',
        ['10.244.2.5'],
        { app: 'web' },
        { ports: [{ name: 'http', protocol: 'TCP', containerPort: 9 }] },
      ),
      podOf('c', ['10.244.2.6'], { app: 'web' }),
    ],
    INSIDE,
    [LOCAL_TEXT, '10.244.2.5:9'],
  ],
  [
    'pods by selector: not ready, ended, without an address',
    [
      serviceOf('web', [VIP], {
        selector: { app: 'web' },
        ports: [portOf(80, { targetPort: 8080 })],
      }),
      podOf('a', ['10.244.1.5'], { app: 'web' }),
      podOf('b', ['10.244.2.5'], { app: 'web' }, { ready: false }),
      podOf('c', ['10.244.2.6'], { app: 'web' }, { phase: 'Succeeded' }),
      podOf('d', [], { app: 'web' }),
      podOf('e', ['10.244.2.7'], { app: 'web' }, { terminating: true }),
    ],
    INSIDE,
    [LOCAL_TEXT],
  ],
  [
    'pods by selector: those that end, if there is no other',
    [
      serviceOf('web', [VIP], {
        selector: { app: 'web' },
        ports: [portOf(80, { targetPort: 8080 })],
      }),
      podOf('a', ['10.244.1.5'], { app: 'web' }, { terminating: true }),
    ],
    INSIDE,
    [LOCAL_TEXT],
  ],
  [
    'pods by selector: not ready ones published',
    [
      serviceOf('web', [VIP], {
        selector: { app: 'web' },
        publishNotReadyAddresses: true,
        ports: [portOf(80, { targetPort: 8080 })],
      }),
      podOf('a', ['10.244.1.5'], { app: 'web' }, { ready: false }),
      podOf('b', ['10.244.2.5'], { app: 'web' }, { terminating: true }),
    ],
    INSIDE,
    BOTH,
  ],
  [
    'pods by selector: the network of their node',
    [
      serviceOf('web', [VIP], {
        selector: { app: 'web' },
        ports: [portOf(80, { targetPort: 8080 })],
      }),
      podOf('a', [], { app: 'web' }, { hostNetwork: true, nodeName: 'n2' }),
    ],
    INSIDE,
    ['192.0.2.2:8080'],
  ],
  [
    'slices come before the selector',
    [
      serviceOf('web', [VIP], { selector: { app: 'web' } }),
      podOf('a', ['10.244.9.9'], { app: 'web' }),
      sliceOf('web-1', 'web', TWO),
    ],
    INSIDE,
    BOTH,
  ],
  [
    'an empty selector',
    [serviceOf('web', [VIP], { selector: {} }), podOf('a', ['10.244.9.9'], {})],
    INSIDE,
    ['no endpoint'],
  ],

  [
    'two Services of one address: the first',
    [
      serviceOf('b', [VIP]),
      sliceOf('b-1', 'b', [TWO[1]!]),
      serviceOf('a', [VIP]),
      sliceOf('a-1', 'a', [TWO[0]!]),
    ],
    INSIDE,
    [LOCAL_TEXT],
  ],
  [
    "a cluster IP that is a node's",
    [serviceOf('web', ['192.0.2.2']), sliceOf('web-1', 'web', TWO)],
    '192.0.2.2:80',
    ['no frontend'],
  ],
  [
    "a cluster IP that is a pod's",
    [...one({}, ...TWO), podOf('p', [VIP], {})],
    INSIDE,
    ['no frontend'],
  ],
  [
    "a cluster IP that was an ended pod's",
    [...one({}, ...TWO), podOf('p', [VIP], {}, { phase: 'Failed' })],
    INSIDE,
    BOTH,
  ],
  [
    'a cluster IP outside of the Service networks',
    [serviceOf('web', ['8.8.8.8']), sliceOf('web-1', 'web', TWO)],
    '8.8.8.8:80',
    ['no frontend'],
  ],
];

for (const [name, objects, connection, expected] of cases) {
  test(name, (t) => {
    const { table } = new ServiceCompiler().compile(inputsOf(objects));
    t.deepEqual(createAsker(table).outcomes(connectionOf(connection)), [...expected].sort());
    const reference = referenceBackends(inputsOf(objects), connectionOf(connection));
    t.deepEqual(outcomeTexts(reference), [...expected].sort(), 'and so says the slow twin');
  });
}

const outcomeTexts = (outcome: ReturnType<typeof referenceBackends>): readonly string[] =>
  typeof outcome === 'string'
    ? [outcome]
    : outcome.map(({ address, port }) => endpointText(address, port)).sort();

const pick = <const T>(...items: readonly T[]) => fc.constantFrom(...items);
const address = (...texts: readonly string[]) => pick(...texts.map((it) => parseAddress(it)));
const some = <T>(item: fc.Arbitrary<T>, maxLength: number) => fc.array(item, { maxLength });

const VIPS = ['10.96.0.1', '10.96.0.2', '198.51.100.7', '192.0.2.1', '8.8.8.8', '10.244.1.1'];
const VIPS6 = ['fd00:96::1', 'fd00:96::2', '2001:db8::1'];
const ENDPOINTS = [1, 2, 3, 4, 5, 6].map((i) => `10.244.1.${i}`).concat('fd00:244::1');
const labels = fc.record({ app: pick('a', 'a', 'b') });
const protocol = pick('TCP', 'TCP', 'TCP', 'UDP');

const anyService = fc
  .record({
    name: pick('a', 'b', 'c', 'other/a'),
    clusterIPs: fc.tuple(
      pick('10.96.0.3', '10.96.0.4', '10.96.0.5', ...VIPS),
      fc.option(pick(...VIPS6), { nil: undefined }),
    ),
    proxy: pick({}, {}, {}, {}, { 'service.kubernetes.io/service-proxy-name': 'x' }),
    rest: fc.record(
      {
        type: pick('ClusterIP', 'NodePort', 'LoadBalancer'),
        headless: pick(false, false, false, true),
        ports: fc.uniqueArray(
          fc.record({
            name: pick('', '', 'x'),
            protocol,
            port: pick(80, 81),
            targetPort: pick<number | string>(8080, 'http'),
            nodePort: pick(0, 80, 30080),
          }),
          { minLength: 0, maxLength: 2, selector: (it) => it.name },
        ),
        selector: fc.option(labels),
        externalIPs: some(address(...VIPS, ...VIPS6), 1),
        loadBalancerIPs: some(address(...VIPS, ...VIPS6), 1),
        loadBalancerSourceRanges: some(
          pick(parseCidr('203.0.113.0/24'), parseCidr('198.18.0.0/15'), parseCidr('fd00::/8')),
          1,
        ),
        internalTrafficPolicy: pick('Cluster', 'Local'),
        externalTrafficPolicy: pick('Cluster', 'Local'),
        trafficDistribution: pick('', 'PreferSameZone', 'PreferSameNode'),
        publishNotReadyAddresses: fc.boolean(),
      },
      { requiredKeys: ['ports'] },
    ),
  })
  .map(({ name, clusterIPs: [first, second], proxy, rest }) =>
    serviceOf(name, second === undefined ? [first] : [first, second], rest, proxy),
  );

const anyEndpoint = fc
  .record({
    address: pick(...ENDPOINTS),
    rest: fc.record(
      {
        ready: pick(true, true, false),
        serving: fc.boolean(),
        terminating: fc.boolean(),
        nodeName: pick('n1', 'n2', 'n3', ''),
        zone: pick('', 'zone-a', 'zone-b'),
        hintsForZones: some(pick('zone-a', 'zone-b'), 1),
        hintsForNodes: some(pick('n1', 'n2'), 1),
      },
      { requiredKeys: [] },
    ),
  })
  .map(({ address, rest }) => endpointOf(address, rest));

const anySlice = fc
  .record({
    name: pick('s1', 's2', 's3', 's4', 'other/s1'),
    service: pick('a', 'b', 'c'),
    endpoints: fc.array(anyEndpoint, { minLength: 1, maxLength: 6 }),
    ports: fc.array(
      fc.record({ name: pick('', '', 'x'), protocol, port: pick(0, 8080, 8080, 8081) }),
      {
        minLength: 1,
        maxLength: 2,
      },
    ),
  })
  .map(({ name, service, endpoints, ports }) => {
    const slice = sliceOf(name, service, endpoints, ports);
    const is4 = slice.addressType === 'IPv4';
    const ofFamily = endpoints.filter((it) => (typeof it.addresses[0] === 'number') === is4);
    return { ...slice, endpoints: ofFamily };
  });

const anyPod = fc
  .record({
    name: pick('p1', 'p2', 'p3', 'other/p1'),
    labels,
    podIP: pick(...ENDPOINTS, VIPS[0]!),
    rest: fc.record(
      {
        nodeName: pick('n1', 'n2', 'n4'),
        ports: some(
          fc.record({ name: pick('http', 'x'), containerPort: pick(8080, 8081), protocol }),
          2,
        ),
        phase: pick('Running', 'Succeeded'),
        ready: fc.boolean(),
        terminating: fc.boolean(),
      },
      { requiredKeys: [] },
    ),
  })
  .map(({ name, labels, podIP, rest }) => podOf(name, [podIP], labels, rest));

const anyConnections = fc.array(
  fc
    .record({
      to: address(...VIPS, ...VIPS.slice(0, 3), '10.96.9.9', '192.0.2.2', ...VIPS6),
      isInside: fc.boolean(),
      protocol,
      port: pick(80, 80, 81, 30080),
      isNear: fc.boolean(),
    })
    .map(({ to, isNear, ...rest }) => {
      const sources = typeof to === 'number' ? ['203.0.113.9', '198.51.9.9'] : ['fd01::9', '::9'];
      return { ...rest, address: to, source: parseAddress(sources[isNear ? 0 : 1]!) };
    }),
  { minLength: 1, maxLength: 4 },
);

const anyNode = pick(
  nodeOf('n2', ['192.0.2.2'], 'zone-a'),
  nodeOf('n3', ['192.0.2.3', '10.96.0.2'], 'zone-b'),
  nodeOf('n1', ['192.0.2.1'], 'zone-b'),
  nodeOf('n4', ['10.244.2.9']),
);

/** A few states of few objects, which come and go, and take each other's place by name. */
const anyStates = fc
  .tuple(
    fc.array(anyService, { minLength: 2, maxLength: 5 }),
    fc.array(anySlice, { maxLength: 6 }),
    fc.array(anyPod, { maxLength: 6 }),
    some(anyNode, 2),
  )
  .map((all): readonly WeftObject[] => all.flat())
  .chain((universe) =>
    fc.array(
      fc
        .array(pick(true, true, true, false), {
          minLength: universe.length,
          maxLength: universe.length,
        })
        .map((isThere) => universe.filter((_, i) => isThere[i])),
      { minLength: 1, maxLength: 5 },
    ),
  );

/** To each address and port of each Service, from inside and from outside. */
const connectionsTo = (objects: ObjectSet, nodeAddresses: readonly IpAddress[]): Connection[] =>
  [...objects.services.values()].flatMap(({ clusterIPs, loadBalancerIPs, externalIPs, ports }) =>
    ports.flatMap(({ protocol, port, nodePort }) =>
      [
        ...[...clusterIPs, ...loadBalancerIPs, ...externalIPs].map((to) => [to, port] as const),
        ...nodeAddresses.map((to) => [to, nodePort] as const),
      ].flatMap(([address, port]) =>
        [true, false].map((isInside) => ({
          address,
          port,
          protocol,
          isInside,
          source: parseAddress(typeof address === 'number' ? '203.0.113.9' : 'fd01::9'),
        })),
      ),
    ),
  );

/** As sources hand them out: a map that has not changed is the same. */
function sameWhereEqual(before: ObjectSet, now: ObjectSet): ObjectSet {
  const entries = Object.entries(now).map(([kind, map]: [string, ReadonlyMap<string, unknown>]) => {
    const old: ReadonlyMap<string, unknown> = before[kind as keyof ObjectSet];
    const isEqual = old.size === map.size && [...map].every(([name, it]) => old.get(name) === it);
    return [kind, isEqual ? old : map];
  });
  return { ...now, ...(Object.fromEntries(entries) as Partial<ObjectSet>) };
}

const anyPlace = fc.record({
  serviceNetworks: pick([], NETWORKS),
  externalIpBlocks: pick([], [parseCidr('198.51.100.0/24'), parseCidr('192.0.2.0/24')]),
});

test('the table says what the slow twin says, after every change', (t) => {
  const met = new Map<string, number>();
  const seed = Date.now() & 0x7fffffff;
  t.log(`seed ${seed}`);
  fc.assert(
    fc.property(anyStates, anyPlace, anyConnections, (states, place, connections) => {
      const compiler = new ServiceCompiler();
      let objects = EMPTY_OBJECTS;
      let generation = 0;
      for (const state of states) {
        const inputs = inputsOf(state, place);
        objects = sameWhereEqual(objects, inputs.objects);
        const { table, ...rest } = compiler.compile({ ...inputs, objects });
        t.true(table.generation >= generation);
        generation = table.generation;
        const { table: fresh, ...freshRest } = new ServiceCompiler(generation - 1).compile(inputs);
        t.deepEqual(table, fresh, 'no matter how it came to be');
        t.deepEqual(rest, freshRest);
        const asker = createAsker(table);
        for (const connection of [
          ...connections,
          ...connectionsTo(objects, inputs.nodeAddresses),
        ]) {
          const expected = outcomeTexts(referenceBackends(inputs, connection));
          t.deepEqual(asker.outcomes(connection), expected);
          const kind = expected[0]!.includes(':') ? `${expected.length} endpoints` : expected[0]!;
          met.set(kind, (met.get(kind) ?? 0) + 1);
        }
      }
    }),
    { numRuns: 400, seed },
  );
  t.log(
    [...met]
      .sort(([, a], [, b]) => b - a)
      .map(([kind, count]) => `${kind} ${count}`)
      .join(', '),
  );
});

const hashes = Array.from({ length: 10_000 }, (_, i) => Math.imul(i + 1, 0x9e3779b1) ^ (i << 7));
const tenEndpoints = Array.from({ length: 10 }, (_, i) => endpointOf(`10.244.${i}.5`));
const askerOf = (objects: readonly WeftObject[], rest: Partial<ServiceInputs> = {}) =>
  createAsker(new ServiceCompiler().compile(inputsOf(objects, rest)).table);

test('a lost endpoint moves its own flows and no others, and its flows spread over the rest', (t) => {
  const to = connectionOf(INSIDE);
  const [before, after] = [
    askerOf(one({}, ...tenEndpoints)),
    askerOf(one({}, ...tenEndpoints.slice(1))),
  ];
  const moved = new Map<string, number>();
  for (const hash of hashes) {
    const [was, is] = [before.pick(to, hash), after.pick(to, hash)];
    if (was === '10.244.0.5:8080') moved.set(is, (moved.get(is) ?? 0) + 1);
    else t.is(is, was);
  }
  t.is(moved.size, 9);
  t.true(Math.min(...moved.values()) > 70 && Math.max(...moved.values()) < 160, [...moved].join());
});

for (const count of [2, 10, 100]) {
  test(`flows spread evenly over ${count} endpoints`, (t) => {
    const endpoints = Array.from({ length: count }, (_, i) => endpointOf(`10.244.0.${i}`));
    const asker = askerOf(one({}, ...endpoints));
    const found = new Map<string, number>();
    const frontend = asker.frontendOf(connectionOf(INSIDE));
    // Hashes close together, as those of ports that count up.
    for (let hash = 0; hash < 100_000; hash++) {
      const backend = String(asker.lookup.pick(frontend, 16, true, hash));
      found.set(backend, (found.get(backend) ?? 0) + 1);
    }
    t.is(found.size, count);
    const share = 100_000 / count;
    // Five times the standard deviation of a fair draw.
    const slack = 5 * Math.sqrt(share);
    for (const flows of found.values())
      t.true(Math.abs(flows - share) < slack, `${flows} of ${share}`);
  });
}

test('the same hash gets the same endpoint on every node, and after a restart', (t) => {
  const to = connectionOf(INSIDE);
  const here = askerOf(one({}, ...tenEndpoints));
  const there = askerOf([...one({}, ...tenEndpoints.toReversed()), serviceOf('a', ['10.96.0.9'])], {
    nodeName: 'n2',
    nodeAddresses: [parseAddress('192.0.2.2')],
  });
  for (const hash of hashes.slice(0, 1000)) t.is(here.pick(to, hash), there.pick(to, hash));
  t.is(here.pick(to, 12345), '10.244.4.5:8080', 'a change of this moves all flows of all clusters');
});

const usables: readonly [
  name: string,
  rest: Partial<Service>,
  endpoint: Partial<Endpoint>,
  to: string,
  isUsable: boolean,
][] = [
  ['ready', {}, {}, INSIDE, true],
  ['ending, though others are ready', {}, ENDING, INSIDE, true],
  ['not ready', {}, NOT_READY, INSIDE, false],
  [
    'far, though others are near',
    { trafficDistribution: 'PreferSameNode' },
    ELSEWHERE,
    INSIDE,
    true,
  ],
  ['elsewhere, internal Local', { internalTrafficPolicy: 'Local' }, ELSEWHERE, INSIDE, false],
  ['here, internal Local', { internalTrafficPolicy: 'Local' }, HERE, INSIDE, true],
  [
    'ending here, internal Local',
    { internalTrafficPolicy: 'Local' },
    { ...ENDING, ...HERE },
    INSIDE,
    true,
  ],
  [
    'elsewhere, external Local: chosen for clients inside',
    LOCAL_LB,
    ELSEWHERE,
    '198.51.100.7:80',
    true,
  ],
];

for (const [name, rest, endpoint, to, isUsable] of usables) {
  test(`usable: ${name}`, (t) => {
    const others = [endpointOf('10.244.1.1', HERE), endpointOf('10.244.3.1', ELSEWHERE)];
    const asker = askerOf(one(rest, ...others, endpointOf('10.244.2.5', endpoint)));
    const [address, to_] = [parseAddress('10.244.2.5'), connectionOf(to)];
    t.is(asker.usable(to_, address, 8080), isUsable ? '10.244.2.5:8080' : null);
    t.is(asker.usable(to_, address, 8081), null, 'another port');
    t.is(asker.usable(to_, parseAddress('10.244.2.6'), 8080), null, 'another address');
    t.is(asker.usable(to_, parseAddress('::10.244.2.5'), 8080), null, 'another family');
  });
}

const hidden: readonly [name: string, rest: Partial<Service>, to: string, hides: boolean][] = [
  ['cluster IP', CLUSTER_LB, `${VIP}:80`, false],
  ['node port', CLUSTER_LB, '192.0.2.1:30080', true],
  ['load balancer IP', CLUSTER_LB, '198.51.100.7:80', true],
  ['external IP', CLUSTER_LB, '198.51.100.8:80', true],
  ['load balancer IP, from inside', CLUSTER_LB, '198.51.100.7:80 from 10.244.0.9', false],
  ['node port, Local', LOCAL_LB, '192.0.2.1:30080', false],
  ['load balancer IP, Local', LOCAL_LB, '198.51.100.7:80', false],
];

for (const [name, rest, to, hides] of hidden) {
  test(`source hidden: ${name}`, (t) => {
    const asker = askerOf(one(rest, ...TWO));
    const connection = connectionOf(to);
    const frontend = asker.frontendOf(connection);
    t.is(asker.lookup.hidesSource(frontend, connection.isInside), hides);
    t.is(asker.lookup.isNodePort(frontend), name.startsWith('node port'));
  });
}

test('affinity is per Service', (t) => {
  const asker = askerOf([
    serviceOf('a', ['10.96.0.1'], { sessionAffinity: 'ClientIP', affinityTimeoutS: 600 }),
    serviceOf('b', ['10.96.0.2'], { affinityTimeoutS: 600 }),
  ]);
  t.is(asker.lookup.affinityS(asker.frontendOf(connectionOf('10.96.0.1:80'))), 600);
  t.is(asker.lookup.affinityS(asker.frontendOf(connectionOf('10.96.0.2:80'))), 0);
});

const problemCases: readonly [objects: readonly WeftObject[], problem: string][] = [
  [
    [serviceOf('b', [VIP]), serviceOf('a', [VIP])],
    "Service default/b: 10.96.0.1 port 80/TCP is Service default/a's already; it stays there",
  ],
  [
    [serviceOf('a', ['192.0.2.2'])],
    'Service default/a: cluster IP 192.0.2.2 is outside of the Service networks ' +
      '(10.96.0.0/16, fd00:96::/112); it is not served',
  ],
  [
    [serviceOf('a', [VIP]), podOf('p', [VIP], {})],
    "Service default/a: 10.96.0.1 is Pod default/p's; the Service is not served there",
  ],
  [
    [serviceOf('a', [VIP]), nodeOf('n9', [VIP])],
    "Service default/a: 10.96.0.1 is Node n9's; the Service is not served there",
  ],
  [
    [serviceOf('a', [VIP], { externalIPs: [parseAddress('8.8.8.8')] })],
    'Service default/a: external IP 8.8.8.8 is in no block that is allowed; it is not served',
  ],
  [
    ['a', 'b'].map((name, i) =>
      serviceOf(name, [`10.96.0.${i + 1}`], {
        type: 'LoadBalancer',
        externalTrafficPolicy: 'Local',
        healthCheckNodePort: 31000,
      }),
    ),
    "Service default/b: health check node port 31000 is another Service's; " +
      'load balancers are told nothing of this one',
  ],
];

for (const [objects, problem] of problemCases) {
  test(`problem: ${problem}`, (t) => {
    t.deepEqual(new ServiceCompiler().compile(inputsOf(objects)).problems, [problem]);
  });
}

test('what the host must steer: node ports, load balancer and external IPs that are served', (t) => {
  const rest = {
    ...CLUSTER_LB,
    externalIPs: [parseAddress('198.51.100.8'), parseAddress('8.8.8.8')],
  };
  const { steered } = new ServiceCompiler().compile(inputsOf(one(rest, ...TWO)));
  t.deepEqual(
    steered.map(({ protocol, address, port }) => `${protocol} ${endpointText(address, port)}`),
    ['6 198.51.100.7:80', '6 198.51.100.8:80', '6 192.0.2.1:30080'],
  );
});

test('health checks count the ready endpoints of this node, a pod of both families once', (t) => {
  const rest = { ...LOCAL_LB, healthCheckNodePort: 31000 };
  const { healthChecks } = new ServiceCompiler().compile(
    inputsOf([
      serviceOf('web', [VIP, 'fd00:96::1'], rest),
      sliceOf('web-4', 'web', [...TWO, endpointOf('10.244.1.6', { ...ENDING, ...HERE })]),
      sliceOf('web-6', 'web', [endpointOf('fd00:244::5', HERE)]),
    ]),
  );
  t.deepEqual(healthChecks, [
    { port: 31000, namespace: 'default', name: 'web', localEndpoints: 1 },
  ]);
});

test('the generation grows with changes of the table, and not with others', (t) => {
  const compiler = new ServiceCompiler(7);
  const first = inputsOf(one({}, ...TWO));
  t.is(compiler.compile(first).table.generation, 8);
  t.is(compiler.compile(inputsOf(one({}, ...TWO))).table.generation, 8, 'other objects, the same');
  t.is(compiler.compile(inputsOf(one({}, TWO[0]!))).table.generation, 9, 'an endpoint fewer');
  t.is(compiler.compile(inputsOf([])).table.generation, 10, 'no Service');
  const noted = { ...NODES[0]!, podCidrs: [parseCidr('10.244.1.0/24')] };
  const nodes = { ...first, objects: objectsOf([noted], first.objects) };
  t.is(compiler.compile(first).table.generation, 11);
  t.is(compiler.compile(nodes).table.generation, 11, 'a change of a node that means nothing here');
});

const manyServices = (count: number, perService: number): WeftObject[] =>
  Array.from({ length: count }, (_, i) => [
    serviceOf(`s${i}`, [
      formatAddress(parseAddress(`10.${96 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`)),
    ]),
    sliceOf(
      `s${i}-1`,
      `s${i}`,
      Array.from({ length: perService }, (_, j) =>
        endpointOf(`10.${128 + (j & 63)}.${(i >> 8) & 255}.${i & 255}`, { nodeName: `n${j % 3}` }),
      ),
    ),
  ]).flat();

test('10,000 Services of 10 endpoints: after one slice has changed as if compiled at first', (t) => {
  const compiler = new ServiceCompiler();
  const inputs = inputsOf(manyServices(10_000, 10));
  const started = performance.now();
  const { table } = compiler.compile(inputs);
  const firstMs = performance.now() - started;
  t.is(table.backends.length, 100_000 * 8);
  const slice = sliceOf('s77-1', 's77', [endpointOf('10.244.0.77')]);
  const next = { ...inputs, objects: objectsOf([slice], inputs.objects) };
  const changed = performance.now();
  const after = compiler.compile(next);
  const changedMs = performance.now() - changed;
  t.log(`first ${firstMs.toFixed(0)} ms, then ${changedMs.toFixed(1)} ms`);
  t.is(after.table.generation, 2);
  t.is(after.table.backends.length, 100_000 * 8 - 9 * 8);
  t.deepEqual(
    { ...after, table: { ...after.table, generation: 1 } },
    new ServiceCompiler().compile(next),
  );
});
