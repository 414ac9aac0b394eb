import test from 'ava';
import fc from 'fast-check';
import { parseAddress } from '../wire/address.ts';
import { parseCidr } from '../wire/cidr.ts';
import {
  type RawService,
  AllocationError,
  NODE_PORT_MAX,
  NODE_PORT_MIN,
  allocateClusterIps,
  allocateNodePort,
  allocateNodePorts,
} from './clusterip.ts';

const V4 = parseCidr('10.96.0.0/16');
const V6 = parseCidr('fd00:96::/112');
const raw = (spec: RawService['spec'] = {}, name = 'web'): RawService => ({
  metadata: { name },
  spec,
});
const none: ReadonlySet<never> = new Set<never>();
const ipsOf = (spec: RawService['spec'], networks = [V4, V6], taken: readonly string[] = []) =>
  allocateClusterIps(raw(spec), new Set(taken.map((it) => parseAddress(it))), networks).spec!;

// Of `default/web`, in an empty cluster.
const OWN4 = allocateClusterIps(raw(), none, [V4]).spec!.clusterIP!;
const OWN6 = allocateClusterIps(raw(), none, [V6]).spec!.clusterIP!;

const allocated: readonly [
  name: string,
  spec: RawService['spec'],
  networks: (typeof V4)[],
  ips: string[],
][] = [
  ['any', {}, [V4], [OWN4]],
  ['any, of the first network', {}, [V6, V4], [OWN6]],
  ['what is given', { clusterIP: '10.96.0.10' }, [V4, V6], ['10.96.0.10']],
  ['what is given as a list', { clusterIPs: ['fd00:96::a'] }, [V4, V6], ['fd00:96::a']],
  ['None', { clusterIP: 'None' }, [V4, V6], ['None']],
  ['SingleStack, IPv6', { ipFamilyPolicy: 'SingleStack', ipFamilies: ['IPv6'] }, [V4, V6], [OWN6]],
  ['PreferDualStack', { ipFamilyPolicy: 'PreferDualStack' }, [V4, V6], [OWN4, OWN6]],
  [
    'PreferDualStack, IPv6 first',
    { ipFamilyPolicy: 'PreferDualStack', ipFamilies: ['IPv6'] },
    [V4, V6],
    [OWN6, OWN4],
  ],
  ['PreferDualStack, one network', { ipFamilyPolicy: 'PreferDualStack' }, [V6], [OWN6]],
  ['RequireDualStack', { ipFamilyPolicy: 'RequireDualStack' }, [V4, V6], [OWN4, OWN6]],
  [
    'RequireDualStack, one given',
    { ipFamilyPolicy: 'RequireDualStack', clusterIP: 'fd00:96::a' },
    [V4, V6],
    ['fd00:96::a', OWN4],
  ],
  [
    'RequireDualStack, both given',
    { ipFamilyPolicy: 'RequireDualStack', clusterIPs: ['fd00:96::a', '10.96.0.10'] },
    [V4, V6],
    ['fd00:96::a', '10.96.0.10'],
  ],
];

for (const [name, spec, networks, expected] of allocated) {
  test(`cluster IP: ${name}`, (t) => {
    const { clusterIP, clusterIPs } = ipsOf(spec, networks);
    t.deepEqual(clusterIPs, expected);
    t.is(clusterIP, expected[0]);
  });
}

test('a Service of ExternalName is left as it is', (t) => {
  const service = raw({ type: 'ExternalName' });
  t.is(allocateClusterIps(service, none, [V4]), service);
});

test('other fields are kept', (t) => {
  const service = { apiVersion: 'v1', kind: 'Service', ...raw({ ports: [{ port: 80 }] }) };
  const applied = allocateClusterIps(service, none, [V4]);
  t.deepEqual(
    { ...applied, spec: { ports: applied.spec!.ports } },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'web' },
      spec: { ports: [{ port: 80 }] },
    },
  );
});

const refused: readonly [name: string, code: string, act: () => unknown][] = [
  ['taken', 'ERR_CLUSTER_IP_TAKEN', () => ipsOf({ clusterIP: '10.96.0.10' }, [V4], ['10.96.0.10'])],
  ['outside', 'ERR_CLUSTER_IP', () => ipsOf({ clusterIP: '10.97.0.10' })],
  ['not an address', 'ERR_CLUSTER_IP', () => ipsOf({ clusterIP: 'x' })],
  [
    'clusterIP and clusterIPs differ',
    'ERR_CLUSTER_IP',
    () => ipsOf({ clusterIP: '10.96.0.1', clusterIPs: ['10.96.0.2'] }),
  ],
  ['two families, SingleStack', 'ERR_IP_FAMILY', () => ipsOf({ ipFamilies: ['IPv4', 'IPv6'] })],
  [
    'two addresses, SingleStack',
    'ERR_IP_FAMILY',
    () => ipsOf({ clusterIPs: ['10.96.0.1', 'fd00:96::1'] }),
  ],
  [
    'two of one family',
    'ERR_IP_FAMILY',
    () => ipsOf({ ipFamilyPolicy: 'PreferDualStack', clusterIPs: ['10.96.0.1', '10.96.0.2'] }),
  ],
  [
    'address and family differ',
    'ERR_IP_FAMILY',
    () => ipsOf({ clusterIP: '10.96.0.1', ipFamilies: ['IPv6'] }),
  ],
  [
    'RequireDualStack, one network',
    'ERR_IP_FAMILY',
    () => ipsOf({ ipFamilyPolicy: 'RequireDualStack' }, [V4]),
  ],
  ['a family without a network', 'ERR_IP_FAMILY', () => ipsOf({ ipFamilies: ['IPv6'] }, [V4])],
  ['no network', 'ERR_IP_FAMILY', () => ipsOf({}, [])],
  ['an unknown policy', 'ERR_IP_FAMILY', () => ipsOf({ ipFamilyPolicy: 'Dual' })],
  ['an unknown family', 'ERR_IP_FAMILY', () => ipsOf({ ipFamilies: ['IPv5'] })],
  [
    'full',
    'ERR_SERVICE_NETWORK_FULL',
    () => ipsOf({}, [parseCidr('10.96.0.0/30')], ['10.96.0.1', '10.96.0.2']),
  ],
  ['node port outside', 'ERR_NODE_PORT', () => allocateNodePort('a/b', 29999, none)],
  [
    'node port taken',
    'ERR_NODE_PORT_TAKEN',
    () => allocateNodePort('a/b', 30000, new Set([30000])),
  ],
  [
    'node ports used up',
    'ERR_NODE_PORTS_FULL',
    () =>
      allocateNodePort(
        'a/b',
        0,
        new Set(Array.from({ length: 2768 }, (_, i) => NODE_PORT_MIN + i)),
      ),
  ],
];

for (const [name, code, act] of refused) {
  test(`refused: ${name}`, (t) => {
    t.throws(act, { instanceOf: AllocationError, code });
  });
}

test('a network gives each of its addresses once, the first ones last, and no broadcast address', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 22, max: 30 }), fc.boolean(), (length, is4) => {
      const network = is4
        ? parseCidr(`10.96.0.0/${length}`)
        : parseCidr(`fd00:96::/${length + 96}`);
      const count = 2 ** (32 - length) - (is4 ? 2 : 1);
      const taken = new Set<ReturnType<typeof parseAddress>>();
      for (let i = 0; i < count; i++) {
        const service = allocateClusterIps(raw({}, `s${i}`), taken, [network]);
        taken.add(parseAddress(service.spec!.clusterIP!));
        if (i === 0 && length < 27)
          t.false(taken.has(parseAddress(is4 ? '10.96.0.10' : 'fd00:96::a')));
      }
      t.is(taken.size, count);
      t.false(taken.has(network.base));
      t.throws(() => allocateClusterIps(raw(), taken, [network]), {
        code: 'ERR_SERVICE_NETWORK_FULL',
      });
    }),
    { numRuns: 20 },
  );
});

test('node ports: in range, those given kept, shared by protocols of one port', (t) => {
  const ports = [
    { port: 53, protocol: 'TCP' },
    { port: 53, protocol: 'UDP' },
    { port: 80, nodePort: 30080 },
    { port: 81 },
  ];
  const { spec } = allocateNodePorts(raw({ type: 'NodePort', ports }), new Set([30081]));
  const [tcp, udp, http, other] = spec!.ports!.map((it) => it.nodePort!);
  t.is(tcp, udp);
  t.is(http, 30080);
  t.is(new Set([tcp, http, other]).size, 3);
  for (const port of [tcp!, other!]) t.true(port >= NODE_PORT_MIN && port <= NODE_PORT_MAX);
  t.deepEqual(allocateNodePorts(raw({ type: 'NodePort', ports }), new Set([30081])).spec, spec);
});

test('a load balancer under Local has a health check port of its own', (t) => {
  const spec = { type: 'LoadBalancer', externalTrafficPolicy: 'Local', ports: [{ port: 80 }] };
  const applied = allocateNodePorts(raw(spec), none).spec!;
  t.not(applied.healthCheckNodePort, applied.ports![0]!.nodePort);
  t.true(applied.healthCheckNodePort! >= NODE_PORT_MIN);
  t.deepEqual(allocateNodePorts(raw(applied), none).spec, applied, 'applied again');
  const without = allocateNodePorts(raw({ ...spec, allocateLoadBalancerNodePorts: false }), none);
  t.deepEqual(without.spec!.ports, [{ port: 80 }]);
});

test('ClusterIP Services have no node ports', (t) => {
  const service = raw({ ports: [{ port: 80 }] });
  t.is(allocateNodePorts(service, none), service);
});
