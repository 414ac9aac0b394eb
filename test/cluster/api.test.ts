/**
 * Daemons ask one another, and nobody else is answered.
 *
 *     n1 (weft, .0) ======= VXLAN ======= n2 (weft, .0)
 *      default/a                           default/b
 */
import type { RequestOptions } from 'node:http';
import { join } from 'node:path';
import test from 'ava';
import { poll } from '../../linux/program.ts';
import { askDaemon } from '../../daemon/api-client.ts';
import type {
  ClusterFlowsMessage,
  ClusterMessage,
  ExplainMessage,
  StatusMessage,
} from '../../daemon/messages.ts';
import { Cluster, netpol } from '../lab/cluster.ts';
import { type LabHost, type LabPod, addressIn } from '../lab/lab.ts';
import { within } from '../overlay/pair.ts';

const GET = [process.execPath, join(import.meta.dirname, 'get.ts')];
const PORT = 8475;
const TOKEN_KEY = '/coreos.com/network/weft/cluster-token';

let cluster: Cluster;
let a: LabPod;
let b: LabPod;
let token: string;
/** `.0` of each node. */
let zeros: readonly [string, string];

test.before(async () => {
  cluster = await Cluster.open('ca', 'etcd');
  ({ pod: a } = await cluster.addPod(0, 'a', 'app=a'));
  ({ pod: b } = await cluster.addPod(1, 'b', 'app=b'));
  token = (await cluster.lab.store.ctl(['get', TOKEN_KEY, '--print-value-only'])).trim();
  const subnets = await Promise.all(cluster.nodes.map((it) => it.subnetFile()));
  zeros = subnets.map(({ subnet4 }) => addressIn(subnet4!, 0)) as unknown as [string, string];
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const ask = (host: LabHost, options: RequestOptions): Promise<string> =>
  host.run([...GET, JSON.stringify({ port: PORT, path: '/v1/status', ...options })]);
const bearer = (it: string) => ({ headers: { authorization: `Bearer ${it}` } });

test.serial('one token, made once, of 32 random bytes', (t) => {
  t.regex(token, /^[0-9a-f]{64}$/);
});

test.serial('a node is answered by its peer', async (t) => {
  const answer = await poll(async () => {
    const got = await ask(cluster.nodes[0], { host: zeros[1], ...bearer(token) });
    return got.startsWith('200 ') ? got : undefined;
  }, within(5000));
  t.is((JSON.parse(answer.slice(4)) as StatusMessage).node, 'n2');
});

const REFUSALS: readonly [string, () => LabHost, () => RequestOptions, RegExp][] = [
  ['no token', () => cluster.nodes[0], () => ({ host: zeros[1] }), /^401 .*ERR_CLUSTER_TOKEN/],
  [
    'a wrong token',
    () => cluster.nodes[0],
    () => ({ host: zeros[1], ...bearer('0'.repeat(64)) }),
    /^401 .*ERR_CLUSTER_TOKEN/,
  ],
  [
    'a token cut short',
    () => cluster.nodes[0],
    () => ({ host: zeros[1], ...bearer(token.slice(1)) }),
    /^401 .*ERR_CLUSTER_TOKEN/,
  ],
  [
    'a change',
    () => cluster.nodes[0],
    () => ({ host: zeros[1], method: 'POST', path: '/v1/objects', ...bearer(token) }),
    /^405 /,
  ],
  [
    'what is of this machine alone',
    () => cluster.nodes[0],
    () => ({ host: zeros[1], path: '/v1/ipam', ...bearer(token) }),
    /^404 /,
  ],
  [
    'a question that would go in a circle',
    () => cluster.nodes[0],
    () => ({ host: zeros[1], path: '/v1/cluster/flows/follow', ...bearer(token) }),
    /^404 /,
  ],
  [
    'a capture',
    () => cluster.nodes[0],
    () => ({ host: zeros[1], path: '/v1/capture', ...bearer(token) }),
    /^404 /,
  ],
  [
    'a watch that is not for one probe to a pod there',
    () => cluster.nodes[0],
    () => ({
      host: zeros[1],
      path: `/v1/trace/watch?protocol=TCP&mark=30000&source=${a.address4}&destination=${a.address4}`,
      ...bearer(token),
    }),
    /^400 .*ERR_TRACE/,
  ],
  ['a pod, its own node', () => a, () => ({ host: zeros[0], ...bearer(token) }), /^none /],
  ['a pod, another node', () => a, () => ({ host: zeros[1], ...bearer(token) }), /^none /],
  ['a pod, the other way', () => b, () => ({ host: zeros[0], ...bearer(token) }), /^none /],
  [
    'the node itself',
    () => cluster.nodes[1],
    () => ({ host: zeros[1], ...bearer(token) }),
    /^none /,
  ],
  [
    'by the underlay address, where nothing listens',
    () => cluster.nodes[0],
    () => ({ host: cluster.nodes[1].underlay4!, ...bearer(token) }),
    /^none /,
  ],
];
for (const [who, from, options, refused] of REFUSALS) {
  test.serial(`refused: ${who}`, async (t) => {
    t.regex(await ask(from(), options()), refused);
  });
}

test.serial('a pod that takes the address of its node gets no answer', async (t) => {
  await a.run(['ip', 'address', 'add', `${zeros[0]}/32`, 'dev', 'lo']);
  const got = await ask(a, { host: zeros[1], localAddress: zeros[0], ...bearer(token) });
  t.regex(got, /^none /);
});

const daemon = <T>(path: string): Promise<T> =>
  askDaemon<T>(cluster.nodes[0].stateDir, 'GET', path);

test.serial(
  'the cluster as one node sees it: both answer, linked, with subnets and seconds left',
  async (t) => {
    const found = await poll(async () => {
      const it = await daemon<ClusterMessage>('/v1/cluster');
      const links = it.nodes.flatMap(({ answer }) => answer?.links ?? []);
      return links.length === 2 && links.every(({ overlay }) => (overlay?.received ?? 0) > 0)
        ? it
        : undefined;
    }, within(15_000));
    t.deepEqual(
      found.nodes.map(({ name, own, problem }) => [name, own, problem]),
      [
        ['n1', true, null],
        ['n2', false, null],
      ],
    );
    for (const { key, answer } of found.nodes) {
      t.is(answer!.lease!.key, key);
      t.true(answer!.lease!.endsInS! > 80_000);
      t.true(answer!.links[0]!.overlay!.avgMs! < 1000);
    }
    t.true(found.timeline.some(({ node, kind }) => node === 'n2' && kind === 'lease'));
  },
);

test.serial(
  'denied connections: seen by all nodes, explained, on the map and among the drops',
  async (t) => {
    const allow = netpol('b', {
      podSelector: { matchLabels: { app: 'b' } },
      ingress: [{ from: [{ podSelector: { matchLabels: { app: 'nobody' } } }] }],
    });
    await cluster.put(allow);
    const explained = await poll(async () => {
      const it = await daemon<ExplainMessage>('/v1/explain?from=default/a&to=default/b&port=80');
      return it.verdict === 'deny' ? it : undefined;
    }, within(8000));
    t.regex(explained.steps.map(({ because }) => because).join(), /default\/b/);
    await ask(a, { host: b.address4!, port: 80 });
    const drop = await poll(async () => {
      const { drops, edges } = await daemon<ClusterMessage>('/v1/cluster');
      const edge = edges.find(
        ({ from, to }) => from.name === 'default/a' && to.name === 'default/b',
      );
      return edge === undefined || edge.dropped === 0
        ? undefined
        : drops.find(({ reason }) => reason === 'policyIngress');
    }, within(8000));
    t.regex(drop.because!, /default\/b/);
    t.is(drop.last.node, 'n2');
    const { flows, absent } = await daemon<ClusterFlowsMessage>(
      '/v1/cluster/flows?verdict=deny&to=default/b',
    );
    t.deepEqual(absent, []);
    t.true(flows.length > 0 && flows.every(({ node }) => node === 'n2'));
    const { timeline } = await daemon<ClusterMessage>('/v1/cluster');
    t.true(timeline.some(({ text }) => text === 'NetworkPolicy default/b came'));
  },
);

test.serial('a node that does not answer is shown as such', async (t) => {
  await cluster.daemons[1]!.stop();
  const gone = await poll(async () => {
    const { nodes } = await daemon<ClusterMessage>('/v1/cluster');
    return nodes.find(({ answer }) => answer === null);
  }, within(10_000));
  t.regex(gone.problem!, /no answer within|ECONN|EHOST/);
  t.is(gone.publicIp, cluster.nodes[1].underlay4);
});
