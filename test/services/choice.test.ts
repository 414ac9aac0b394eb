/**
 * Which endpoints answer whom: those about to end, topology, traffic policies; and what a load balancer is told
 * about a node.
 *
 *     zone z1: n1: default/a (client), default/e1        zone z2: n2: default/b (client), default/e2
 *     out (etcd's host)
 */
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { words } from '../../linux/ip.ts';
import { type Running, poll } from '../../linux/program.ts';
import { Cluster, type Manifest, answerOf, service, slice } from '../lab/cluster.ts';
import { LabHost, type LabPod } from '../lab/lab.ts';
import { Prober } from '../lab/prober.ts';
import type { Held } from '../lab/traffic/steady.ts';
import { within } from '../overlay/pair.ts';

const STEADY = [process.execPath, join(import.meta.dirname, '..', 'lab', 'traffic', 'steady.ts')];
const VIPS = ['10.96.0.50', 'fd00:10:96::50'] as const;
const PORTS = [
  { name: 'web', protocol: 'TCP', port: 8080 },
  { name: 'steady', protocol: 'TCP', port: 7030 },
] as const;
const LOAD_BALANCER = '203.0.113.50';
const HEALTH_PORT = 32_150;
const QUESTIONS = 16;
const SILENCE_MS = 700;

interface Member {
  readonly pod: LabPod;
  readonly prober: Prober;
}
type Name = 'a' | 'b' | 'e1' | 'e2';

let cluster: Cluster;
let outside: Prober;
const members = new Map<Name, Member>();

test.before(async () => {
  cluster = await Cluster.open('ch');
  for (const [name, node] of [
    ['a', 0],
    ['b', 1],
    ['e1', 0],
    ['e2', 1],
  ] as const) {
    const isServer = name.startsWith('e');
    const member = await cluster.addPod(node, name, `pod=${name}`, isServer ? [8080] : []);
    if (isServer) {
      await member.pod.start([...STEADY, 'serve', '7030'], { ready: { line: /^ready$/ } });
    }
    members.set(name, member);
  }
  const host = new LabHost('outside', cluster.lab.netnsOf('etcd'));
  // Linux drops answers from an address to which it knows no way (rp_filter 2).
  for (const node of cluster.nodes) await node.apply(words`route add default via 172.31.0.254`);
  outside = await Prober.start(host, cluster.lab.directory, []);
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const zoneLabels = (name: 'n1' | 'n2', zone: string): Manifest => ({
  apiVersion: 'v1',
  kind: 'Node',
  metadata: { name, labels: { 'topology.kubernetes.io/zone': zone } },
});

/** What an EndpointSlice says of an endpoint, beside its address and its node. */
type Said = Readonly<Record<string, unknown>>;
const ready: Said = { conditions: { ready: true } };
const ending: Said = { conditions: { ready: false, serving: true, terminating: true } };
const ended: Said = { conditions: { ready: false, serving: false, terminating: true } };
const forZone = (name: string): Said => ({ ...ready, hints: { forZones: [{ name }] } });
const forNode = (name: string): Said => ({ ...ready, hints: { forNodes: [{ name }] } });

const slicesOf = (endpoints: Partial<Record<'e1' | 'e2', Said>>): readonly Manifest[] =>
  ([4, 6] as const).map((family) =>
    slice(
      `web-${family}`,
      'web',
      Object.entries(endpoints).map(([name, said]) => {
        const { pod } = members.get(name as Name)!;
        const address = family === 4 ? pod.address4! : pod.address6!;
        return { addresses: [address], nodeName: pod.node.name, ...said };
      }),
      PORTS,
      `IPv${family}`,
    ),
  );

const web = (more: object = {}): Manifest =>
  service('web', VIPS, {
    ports: [
      { name: 'web', protocol: 'TCP', port: 80, targetPort: 8080 },
      { name: 'steady', protocol: 'TCP', port: 7030, targetPort: 7030 },
    ],
    ...more,
  });

/** Asks often: the names of those who answered, or what came instead. */
async function askOften(from: 'a' | 'b', address: string): Promise<string> {
  const { prober } = members.get(from)!;
  const question = { protocol: 'TCP', address, port: 80, timeoutMs: SILENCE_MS } as const;
  const answers = await Promise.all(Array.from({ length: QUESTIONS }, () => prober.ask(question)));
  return [...new Set(answers.map((it) => it.split(' ').at(-1) ?? ''))].toSorted().join(' ');
}

async function answers(t: ExecutionContext, expected: Record<'a' | 'b', string>): Promise<void> {
  for (const from of ['a', 'b'] as const) {
    for (const address of VIPS) {
      let got = '';
      await poll(async () => {
        got = await askOften(from, address);
        return got === expected[from] ? true : undefined;
      }, within(8_000)).catch(() => undefined);
      t.is(got, expected[from], `${from} asks ${address}`);
    }
  }
}

interface Row {
  readonly title: string;
  readonly endpoints: Partial<Record<'e1' | 'e2', Said>>;
  readonly spec?: object;
  readonly a: string;
  readonly b: string;
}

const local = { internalTrafficPolicy: 'Local' };

const ROWS: readonly Row[] = [
  { title: 'all that are ready', endpoints: { e1: ready, e2: ready }, a: 'e1 e2', b: 'e1 e2' },
  {
    title: 'one that is about to end, beside one that is ready',
    endpoints: { e1: ending, e2: ready },
    a: 'e2',
    b: 'e2',
  },
  {
    title: 'only such as are about to end and still serve',
    endpoints: { e1: ending, e2: ending },
    a: 'e1 e2',
    b: 'e1 e2',
  },
  {
    title: 'of these, not one that serves no more',
    endpoints: { e1: ending, e2: ended },
    a: 'e1',
    b: 'e1',
  },
  { title: 'none that serves', endpoints: { e1: ended }, a: 'refused', b: 'refused' },
  {
    title: 'hints for zones',
    endpoints: { e1: forZone('z1'), e2: forZone('z2') },
    a: 'e1',
    b: 'e2',
  },
  {
    title: 'hints for zones, crosswise',
    endpoints: { e1: forZone('z2'), e2: forZone('z1') },
    a: 'e2',
    b: 'e1',
  },
  {
    title: 'a hint that one of them lacks',
    endpoints: { e1: forZone('z1'), e2: ready },
    a: 'e1 e2',
    b: 'e1 e2',
  },
  {
    title: 'hints for nodes',
    endpoints: { e1: forNode('n1'), e2: forNode('n2') },
    a: 'e1',
    b: 'e2',
  },
  {
    title: 'PreferClose',
    endpoints: { e1: ready, e2: ready },
    spec: { trafficDistribution: 'PreferClose' },
    a: 'e1',
    b: 'e2',
  },
  {
    title: 'PreferSameNode',
    endpoints: { e1: ready, e2: ready },
    spec: { trafficDistribution: 'PreferSameNode' },
    a: 'e1',
    b: 'e2',
  },
  {
    title: 'PreferSameNode, and this node has none',
    endpoints: { e2: ready },
    spec: { trafficDistribution: 'PreferSameNode' },
    a: 'e2',
    b: 'e2',
  },
  {
    title: 'internalTrafficPolicy Local',
    endpoints: { e1: ready, e2: ready },
    spec: local,
    a: 'e1',
    b: 'e2',
  },
  {
    title: 'internalTrafficPolicy Local, and this node has none: silence',
    endpoints: { e2: ready },
    spec: local,
    a: 'nothing',
    b: 'e2',
  },
  {
    title: 'internalTrafficPolicy Local, and what this node has is about to end',
    endpoints: { e1: ending, e2: ready },
    spec: local,
    a: 'e1',
    b: 'e2',
  },
  {
    title: 'internalTrafficPolicy Local, no endpoint anywhere: refused',
    endpoints: {},
    spec: local,
    a: 'refused',
    b: 'refused',
  },
];

for (const { title, endpoints, spec = {}, a, b } of ROWS) {
  test.serial(title, async (t) => {
    // So that no answer is one of the row before.
    await cluster.put(web(), ...slicesOf({}));
    await answers(t, { a: 'refused', b: 'refused' });
    await cluster.put(
      zoneLabels('n1', 'z1'),
      zoneLabels('n2', 'z2'),
      web(spec),
      ...slicesOf(endpoints),
    );
    await answers(t, { a, b });
  });
}

async function finish(holding: Running): Promise<readonly Held[]> {
  process.kill(holding.pid, 'SIGUSR1');
  await holding.exited;
  return JSON.parse(holding.output().trim().split('\n').at(-1) ?? '') as Held[];
}

test.serial('a connection stays with its endpoint while that is about to end', async (t) => {
  await cluster.put(web(), ...slicesOf({ e1: ready }));
  await answers(t, { a: 'e1', b: 'e1' });
  const holding = await Promise.all(
    (['a', 'b'] as const).map((name) =>
      members.get(name)!.pod.start([...STEADY, 'hold', '7030', ...VIPS], {
        ready: { line: /^steady$/ },
      }),
    ),
  );
  await cluster.put(...slicesOf({ e1: ending }));
  await answers(t, { a: 'e1', b: 'e1' });
  await cluster.put(...slicesOf({ e1: ending, e2: ready }));
  await answers(t, { a: 'e2', b: 'e2' });
  await cluster.put(...slicesOf({ e2: ready }));
  await answers(t, { a: 'e2', b: 'e2' });
  for (const it of holding) {
    const held = await finish(it);
    t.is(held.length, 2);
    for (const one of held) t.like(one, { alive: true, intact: true });
  }
});

/** Over the underlay, as a load balancer asks. */
async function healthOf(address: string): Promise<{ status: number; body: unknown } | null> {
  const script = `
    const url = process.argv[1];
    fetch(url).then(
      async (it) => console.log(JSON.stringify({ status: it.status, body: await it.json() })),
      () => console.log('null'),
    );`;
  const host = address.includes(':') ? `[${address}]` : address;
  const url = `http://${host}:${HEALTH_PORT}/`;
  const text = await outside.host.run([process.execPath, '-e', script, url]);
  return JSON.parse(text) as { status: number; body: unknown } | null;
}

test.serial(
  'externalTrafficPolicy Local: a load balancer is told which node has ready endpoints, and only those with endpoints answer',
  async (t) => {
    const balanced = {
      ...web({
        type: 'LoadBalancer',
        externalTrafficPolicy: 'Local',
        healthCheckNodePort: HEALTH_PORT,
        ports: [{ name: 'web', protocol: 'TCP', port: 80, targetPort: 8080, nodePort: 30_150 }],
      }),
      status: { loadBalancer: { ingress: [{ ip: LOAD_BALANCER, ipMode: 'VIP' }] } },
    };
    // For each node: who answers there, and how many ready endpoints it has.
    for (const [endpoints, ...nodes] of [
      [slicesOf({ e2: ready }), [null, 0], ['e2', 1]],
      [slicesOf({ e1: ready }), ['e1', 1], [null, 0]],
      // It is to get no more, but gets what still comes.
      [slicesOf({ e1: ready, e2: ending }), ['e1', 1], ['e2', 0]],
    ] as const) {
      await cluster.put(balanced, ...endpoints);
      for (const [i, node] of cluster.nodes.entries()) {
        const [name, localEndpoints] = nodes[i]!;
        await outside.host.apply(words`route replace ${LOAD_BALANCER}/32 via ${node.underlay4!}`);
        const question = { protocol: 'TCP', address: LOAD_BALANCER, port: 80 } as const;
        const expected = name === null ? /^nothing$/ : new RegExp(`^8080 172.31.0.254 ${name}$`);
        t.regex(await answerOf(outside, question, expected, SILENCE_MS), expected, node.name);
        for (const address of [node.underlay4!, node.underlay6!]) {
          const status = localEndpoints > 0 ? 200 : 503;
          const found = await poll(async () => {
            const health = await healthOf(address);
            return health?.status === status ? health : undefined;
          }, within(8_000));
          t.deepEqual(found.body, {
            service: { namespace: 'default', name: 'web' },
            localEndpoints,
            serviceProxyHealthy: true,
          });
        }
      }
    }
  },
);
