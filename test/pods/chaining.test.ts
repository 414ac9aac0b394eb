/**
 * Debian's portmap and bandwidth chained behind our plugin, so with iptables, tc and the host's connection
 * tracking in the way that packets take through the daemon:
 *
 *     outside (etcd) ---+--- n1 (weft): web, other     hostPort HOST_PORT of n1 is web's POD_PORT
 *                       +--- n2 (weft): remote
 */
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type Running, poll } from '../../linux/program.ts';
import { type Lab, LabHost, type LabNode, type LabPod, addressIn, createLab } from '../lab/lab.ts';
import { labPrefix } from '../lab/run.ts';
import { bulkTcp } from '../lab/traffic/traffic.ts';
import { peersKnown, within } from '../overlay/pair.ts';
import { tracesOn } from './traces.ts';

const HOST_PORT = 8080;
const POD_PORT = 80;
const WHO = [process.execPath, join(import.meta.dirname, '..', 'lab', 'traffic', 'who.ts')];

interface Answer {
  readonly name: string;
  readonly client: string;
}

let lab: Lab;
let n1: LabNode;
let n2: LabNode;
let outside: LabHost;
let web: LabPod;
let other: LabPod;
let remote: LabPod;
let daemons: Running[];

const mapped = ['tcp', 'udp'].map((protocol) => ({
  hostPort: HOST_PORT,
  containerPort: POD_PORT,
  protocol,
}));

const addWeb = (): Promise<LabPod> => n1.addPod('web', { runtimeConfig: { portMappings: mapped } });

async function startDaemons(flags: readonly string[]): Promise<void> {
  daemons = await Promise.all([n1, n2].map((node) => node.startDaemon(flags)));
  for (const node of [n1, n2]) await peersKnown(node);
}

const serve = (host: LabHost, port: number): Promise<Running> =>
  host.start([...WHO, 'serve', host.name, `${port}`], { ready: { line: /^ready$/ } });

test.before(async () => {
  lab = await createLab({ nodes: 2, prefix: `${labPrefix()}p` });
  [n1, n2] = lab.nodes as [LabNode, LabNode];
  outside = new LabHost('outside', lab.netnsOf('etcd'));
  await startDaemons(['--ip-masq']);
  for (const node of [n1, n2]) {
    await node.addDebianPlugins('portmap', 'bandwidth');
    await node.installPlugin();
  }
  web = await addWeb();
  other = await n1.addPod('other');
  remote = await n2.addPod('remote');
  await serve(web, POD_PORT);
});
test.after.always(async () => lab?.[Symbol.asyncDispose]());

const answersOf = async (from: LabHost, targets: string[], port: number): Promise<unknown[]> =>
  JSON.parse(await from.run([...WHO, 'ask', ...targets, `${port}`])) as unknown[];

/** Underlay addresses. */
const addressesOf = (node: LabNode): string[] => [node.underlay4!, node.underlay6!];

/** Every address of the node that a pod may see in place of a client's. */
async function nodesOwn(node: LabNode): Promise<string[]> {
  const { subnet4, subnet6 } = await node.subnetFile();
  return [...addressesOf(node), addressIn(subnet4!, 0), addressIn(subnet6!, 0)];
}

const familyOf = (address: string): 4 | 6 => (address.includes(':') ? 6 : 4);

interface Case {
  readonly from: () => LabHost;
  readonly to: () => string[];
  /** The client's address as the pod sees it, one of these. */
  readonly seen: () => string[] | Promise<string[]>;
}

const cases: [string, Case][] = [
  [
    'from another host of the underlay',
    { from: () => outside, to: () => addressesOf(n1), seen: () => ['172.31.0.254', 'fd31::254'] },
  ],
  ['from the node itself', { from: () => n1, to: () => addressesOf(n1), seen: () => nodesOwn(n1) }],
  [
    // portmap masquerades what comes from the loopback address.
    'from the node itself, by 127.0.0.1',
    { from: () => n1, to: () => ['127.0.0.1'], seen: () => nodesOwn(n1) },
  ],
  [
    'from the other node',
    { from: () => n2, to: () => addressesOf(n1), seen: () => addressesOf(n2) },
  ],
  [
    'from a pod of the same node',
    { from: () => other, to: () => addressesOf(n1), seen: () => other.addresses },
  ],
  [
    // Outside of the overlay, so masqueraded by its node (--ip-masq).
    'from a pod of another node',
    { from: () => remote, to: () => addressesOf(n1), seen: () => addressesOf(n2) },
  ],
  [
    // portmap masquerades it, or the pod would answer itself directly.
    'from the pod itself',
    { from: () => web, to: () => addressesOf(n1), seen: () => nodesOwn(n1) },
  ],
];

async function answersAs(t: ExecutionContext, { from, to, seen }: Case): Promise<void> {
  const targets = to().flatMap((address) => [`tcp/${address}`, `udp/${address}`]);
  const answers = await answersOf(from(), targets, HOST_PORT);
  for (const [i, target] of targets.entries()) {
    const { name, client } = answers[i] as Answer;
    t.is(name, 'web', `${target}: ${JSON.stringify(answers[i])}`);
    const allowed = (await seen()).filter((it) => familyOf(it) === familyOf(target));
    t.true(allowed.includes(client), `${target} sees ${client}, not ${allowed.join(' or ')}`);
  }
}

for (const [title, each] of cases) {
  test.serial(`a hostPort ${title}`, (t) => answersAs(t, each));
}
