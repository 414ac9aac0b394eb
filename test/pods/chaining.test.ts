/**
 * Debian's portmap and bandwidth chained behind our plugin, so with iptables, tc and the host's connection
 * tracking in the way that packets take through the daemon:
 *
 *     outside (etcd) ---+--- n1 (weft): web, other     hostPort HOST_PORT of n1 is web's POD_PORT
 *                       +--- n2 (weft): remote
 */
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { words } from '../../linux/ip.ts';
import type { Running } from '../../linux/program.ts';
import { formatCidr } from '../../wire/cidr.ts';
import { type Lab, LabHost, type LabNode, type LabPod, addressIn, createLab } from '../lab/lab.ts';
import { labPrefix } from '../lab/run.ts';
import { bulkTcp } from '../lab/traffic/traffic.ts';
import { peersKnown, settled } from '../overlay/pair.ts';
import { tracesOn } from './traces.ts';

const HOST_PORT = 8080;
const POD_PORT = 80;
const WHO = [process.execPath, join(import.meta.dirname, '..', 'lab', 'traffic', 'who.ts')];

interface Answer {
  readonly name: string;
  readonly client: string;
  readonly bytes: number;
}

let lab: Lab;
let n1: LabNode;
let n2: LabNode;
let outside: LabHost;
let web: LabPod;
let other: LabPod;
let remote: LabPod;
let daemons: Running[];
let webServer: Running;

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

/** The pod with the hostPort, and what serves in it. */
async function startWeb(): Promise<void> {
  web = await addWeb();
  webServer = await serve(web, POD_PORT);
}

/** The server first: it would keep the namespace alive, without a name by which it could be found. */
async function deleteWeb(): Promise<void> {
  await webServer.stop();
  await n1.deletePod(web);
}

test.before(async () => {
  lab = await createLab({ nodes: 2, prefix: `${labPrefix()}p` });
  [n1, n2] = lab.nodes as [LabNode, LabNode];
  outside = new LabHost('outside', lab.netnsOf('etcd'));
  await startDaemons(['--ip-masq']);
  for (const node of [n1, n2]) {
    await node.addDebianPlugins('portmap', 'bandwidth');
    await node.installPlugin();
  }
  await startWeb();
  other = await n1.addPod('other');
  remote = await n2.addPod('remote');
});
test.after.always(async () => lab?.[Symbol.asyncDispose]());

/** TCP and UDP to each address. @returns by `protocol/address`, an error's text where nobody answered */
async function ask(
  from: LabHost,
  addresses: readonly string[],
  port: number,
  bytes = 1,
): Promise<Map<string, Answer | string>> {
  const targets = addresses.flatMap((address) => [`tcp/${address}`, `udp/${address}`]);
  const text = await from.run([...WHO, 'ask', `${bytes}`, ...targets, `${port}`]);
  const answers = JSON.parse(text) as (Answer | string)[];
  return new Map(targets.map((target, i) => [target, answers[i]!]));
}

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

const FROM_ANOTHER = 'from a pod of another node';
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
    FROM_ANOTHER,
    { from: () => remote, to: () => addressesOf(n1), seen: () => addressesOf(n2) },
  ],
  [
    // portmap masquerades it, or the pod would answer itself directly.
    'from the pod itself',
    { from: () => web, to: () => addressesOf(n1), seen: () => nodesOwn(n1) },
  ],
];

/** More than a packet holds: a large one of TCP, many fragments of UDP. */
const LARGE_BYTES = 40_000;

async function answers(
  t: ExecutionContext,
  { from, to, seen }: Case,
  { name = 'web', port = HOST_PORT } = {},
): Promise<void> {
  const allowed = await seen();
  for (const bytes of [1, LARGE_BYTES]) {
    for (const [target, answer] of await ask(from(), to(), port, bytes)) {
      t.like(answer, { name, bytes }, `${bytes} bytes to ${target}: ${JSON.stringify(answer)}`);
      if (typeof answer === 'string') continue;
      const { client } = answer;
      const right = allowed.filter((it) => familyOf(it) === familyOf(target));
      t.true(right.includes(client), `${target} sees ${client}, not ${right.join(' or ')}`);
    }
  }
}

for (const [title, each] of cases) {
  test.serial(`a hostPort ${title}`, (t) => answers(t, each));
}

test.serial('a pod that goes takes its hostPort along', async (t) => {
  await deleteWeb();
  const before = await tracesOn(n1);
  t.deepEqual(
    before.filter((it) => it.includes(`${HOST_PORT}`)),
    [],
  );
  await startWeb();
  t.true((await tracesOn(n1)).some((it) => it.includes(`${HOST_PORT}`)));
  await answers(t, cases[0]![1]);
  await deleteWeb();
  t.deepEqual(await tracesOn(n1), before);
  for (const [target, answer] of await ask(outside, addressesOf(n1), HOST_PORT)) {
    t.is(typeof answer, 'string', target);
  }
  await startWeb();
});

test.serial('to the outside, masqueraded: by the address of the node', async (t) => {
  await serve(outside, POD_PORT);
  const to = (): string[] => ['172.31.0.254', 'fd31::254'];
  const from = (): LabHost => other;
  const seen = (): string[] => addressesOf(n1);
  await answers(t, { from, to, seen }, { name: 'outside', port: POD_PORT });
});

test.serial('a limit of bandwidth holds in both directions', async (t) => {
  const limit = 20_000_000;
  const burst = 2_000_000;
  const bandwidth = {
    ingressRate: limit,
    ingressBurst: burst,
    egressRate: limit,
    egressBurst: burst,
  };
  const before = await tracesOn(n1);
  const slow = await n1.addPod('slow', { runtimeConfig: { bandwidth } });
  for (const reverse of [false, true]) {
    const options = { reverse, seconds: 2 };
    const { bitsPerSecond } = await bulkTcp(remote, slow, slow.address4!, options);
    t.log(bitsPerSecond);
    t.true(bitsPerSecond < 1.5 * limit, `${bitsPerSecond} bit/s, reverse: ${reverse}`);
  }
  await n1.deletePod(slow);
  t.deepEqual(await tracesOn(n1), before);
});

test.serial('without masquerading: by its own address', async (t) => {
  await Promise.all(daemons.map((it) => it.stop()));
  await startDaemons([]);
  for (const node of [n1, n2]) {
    const { subnet4, subnet6 } = await node.subnetFile();
    await outside.apply(
      words`route add ${formatCidr(subnet4!)} via ${node.underlay4!}`,
      words`route add ${formatCidr(subnet6!)} via ${node.underlay6!}`,
    );
  }
  const to = (): string[] => ['172.31.0.254', 'fd31::254'];
  const from = (): LabHost => other;
  const seen = (): string[] => other.addresses;
  await answers(t, { from, to, seen }, { name: 'outside', port: POD_PORT });
});

for (const [title, each] of cases) {
  if (title === FROM_ANOTHER) continue;
  test.serial(`without masquerading, a hostPort ${title}`, (t) => answers(t, each));
}

test.serial(
  'without masquerading, a pod of another node is not believed in plain packets',
  async (t) => {
    const before = await settled(n1);
    for (const [target, answer] of await ask(remote, addressesOf(n1), HOST_PORT)) {
      t.is(typeof answer, 'string', target);
    }
    const after = await settled(n1);
    t.true(after['drop.notOurSource']! - before['drop.notOurSource']! >= 4);
  },
);
