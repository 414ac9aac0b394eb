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
import type { StatusMessage } from '../../daemon/messages.ts';
import { Cluster } from '../lab/cluster.ts';
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

test('one token, made once, of 32 random bytes', (t) => {
  t.regex(token, /^[0-9a-f]{64}$/);
});

test('a node is answered by its peer', async (t) => {
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
  test(`refused: ${who}`, async (t) => {
    t.regex(await ask(from(), options()), refused);
  });
}

test('a pod that takes the address of its node gets no answer', async (t) => {
  await a.run(['ip', 'address', 'add', `${zeros[0]}/32`, 'dev', 'lo']);
  const got = await ask(a, { host: zeros[1], localAddress: zeros[0], ...bearer(token) });
  t.regex(got, /^none /);
});
