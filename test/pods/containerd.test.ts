/**
 * containerd, runc and `ctr run --cni`, as they come with Debian, on two nodes:
 *
 *     n1: a, a2 (containers) --- n1 (weft) ======= VXLAN ======= n2 (weft) --- n2: b (container)
 *                                      etcd: a host of the underlay
 *
 * Each container has busybox's httpd, which knows its container's name.
 */
import { readFile } from 'node:fs/promises';
import test, { type ExecutionContext } from 'ava';
import type { AttachmentMessage } from '../../daemon/messages.ts';
import { poll, run } from '../../linux/program.ts';
import { cidrContains, parseCidr } from '../../wire/cidr.ts';
import { parseAddress } from '../../wire/address.ts';
import { type Containerd, startContainerd } from '../lab/containerd.ts';
import { type Lab, type LabNode, createLab, reaches } from '../lab/lab.ts';
import { labPrefix } from '../lab/run.ts';
import { ipamOf, peersKnown, within } from '../overlay/pair.ts';
import { tracesOn } from './traces.ts';

const SERVE = ['sh', '-c', 'echo $0 >/www/name; echo ready; exec httpd -f -h /www'];

interface Container {
  readonly id: string;
  readonly node: LabNode;
  readonly containerd: Containerd;
}

let lab: Lab;
const containerds = new Map<LabNode, Containerd>();

async function startContainer(node: LabNode, id: string): Promise<Container> {
  const containerd = containerds.get(node)!;
  await containerd.run(id, [...SERVE, id]);
  return { id, node, containerd };
}

/** What the daemon has for the container. */
async function attachmentOf({ id, node, containerd }: Container): Promise<AttachmentMessage> {
  const { attachments } = await ipamOf(node);
  return attachments.find((it) => it.containerId === containerd.containerId(id))!;
}

const addressesOf = ({ address, ipv6Address }: AttachmentMessage): string[] => [
  address!,
  ipv6Address!,
];

const isIn = (subnet: string, address: string): boolean =>
  cidrContains(parseCidr(subnet), parseAddress(address));

test.before(async () => {
  lab = await createLab({ nodes: 2, prefix: `${labPrefix()}c` });
  for (const node of lab.nodes) {
    // The host of the underlay knows no way back to a pod.
    await node.startDaemon(['--ip-masq']);
    await node.addDebianPlugins('portmap', 'bandwidth', 'loopback');
    await node.installPlugin();
    containerds.set(node, await startContainerd(node));
  }
  for (const node of lab.nodes) await peersKnown(node);
});
test.after.always(async () => lab?.[Symbol.asyncDispose]());

let a: Container;
let a2: Container;
let b: Container;

test.serial("a container has an address of its node's subnet in both families", async (t) => {
  const [n1, n2] = lab.nodes;
  [a, a2, b] = await Promise.all([
    startContainer(n1!, 'a'),
    startContainer(n1!, 'a2'),
    startContainer(n2!, 'b'),
  ]);
  const all = new Set<string>();
  for (const container of [a, a2, b]) {
    const { subnet, ipv6Subnet } = await ipamOf(container.node);
    const { address, ipv6Address } = await attachmentOf(container);
    t.true(isIn(subnet!, address!), `${address} in ${subnet}`);
    t.true(isIn(ipv6Subnet!, ipv6Address!), `${ipv6Address} in ${ipv6Subnet}`);
    // Debian's static busybox now and then ends without a word in here: what it says is asked until it says it.
    const { stdout } = await poll(async () => {
      const said = await container.containerd.exec(container.id, ['ip', 'addr']);
      return said.exitCode === 0 && said.stdout !== '' ? said : undefined;
    }, within(10_000));
    t.true(stdout.includes(`inet ${address}/32 scope global eth0`), stdout);
    t.true(stdout.includes(`inet6 ${ipv6Address}/128 scope global`), stdout);
    all.add(address!).add(ipv6Address!);
  }
  t.is(all.size, 6);
});

async function pings(t: ExecutionContext, from: Container, address: string): Promise<void> {
  const argv = ['ping', '-c', '1', '-W', '2', address];
  const { exitCode, stdout, stderr } = await from.containerd.exec(from.id, argv);
  t.is(exitCode, 0, `${from.id} -> ${address}: ${stdout}${stderr}`);
}

/** The name that a web server gives. By nc: Debian's static busybox ends wget with SIGSEGV in here. */
function fetchName(from: Container, address: string): Promise<string> {
  return poll(async () => {
    const script = "printf 'GET /name HTTP/1.0\\r\\n\\r\\n' | nc -w 2 $0 80";
    const { exitCode, stdout } = await from.containerd.exec(from.id, ['sh', '-c', script, address]);
    return exitCode === 0 && stdout !== '' ? stdout.trim().split('\n').at(-1) : undefined;
  }, within(10_000));
}

for (const [title, pair] of [
  ['on one node', () => [a, a2]],
  ['from node to node', () => [a, b]],
  ['and back', () => [b, a2]],
  ['to itself', () => [a, a]],
] as const) {
  test.serial(`containers reach each other ${title}`, async (t) => {
    const [from, to] = pair() as [Container, Container];
    for (const address of addressesOf(await attachmentOf(to))) {
      await pings(t, from, address);
      t.is(await fetchName(from, address), to.id, address);
    }
  });
}

test.serial('containers reach the underlay, and their nodes reach them', async (t) => {
  const [n1, n2] = lab.nodes;
  const outside = ['172.31.0.254', 'fd31::254'];
  const addresses = [n1!, n2!].flatMap((it) => [it.underlay4!, it.underlay6!]);
  for (const address of [...addresses, ...outside]) await pings(t, a, address);
  for (const address of addressesOf(await attachmentOf(a))) {
    for (const node of lab.nodes) await reaches(node, address);
  }
});

test.serial('a container that goes gives its address back and leaves nothing', async (t) => {
  const node = lab.nodes[0]!;
  const { containerd } = a;
  const before = { traces: await tracesOn(node), ipam: await ipamOf(node) };
  const gone = await startContainer(node, 'gone');
  const { address, hostInterface } = await attachmentOf(gone);
  const meanwhile = await tracesOn(node);
  for (const trace of [address!, hostInterface]) {
    t.true(JSON.stringify(meanwhile).includes(trace), trace);
  }
  await containerd.remove('gone');
  t.deepEqual(await tracesOn(node), before.traces);
  t.deepEqual(await ipamOf(node), before.ipam);
});

test.serial('a container that ends by itself (--rm) does so too', async (t) => {
  const node = lab.nodes[0]!;
  const before = { traces: await tracesOn(node), ipam: await ipamOf(node) };
  const { address } = await attachmentOf(b);
  const said = await a.containerd.runOnce('once', ['ping', '-c', '1', '-W', '2', address!]);
  t.regex(said, /1 packets received/);
  t.deepEqual(await tracesOn(node), before.traces);
  t.deepEqual(await ipamOf(node), before.ipam);
});

test.serial('ten containers at once', async (t) => {
  const node = lab.nodes[1]!;
  const { containerd } = b;
  const before = { traces: await tracesOn(node), ipam: await ipamOf(node) };
  const ids = Array.from({ length: 10 }, (_, i) => `many${i}`);
  const many = await Promise.all(ids.map((id) => startContainer(node, id)));
  const addresses = await Promise.all(many.map(async (it) => addressesOf(await attachmentOf(it))));
  t.is(new Set(addresses.flat()).size, 20);
  const [first] = many;
  for (const address of addresses.flat()) {
    await pings(t, first!, address);
    await pings(t, a, address);
  }
  await Promise.all(ids.map((id) => containerd.remove(id)));
  t.deepEqual(await tracesOn(node), before.traces);
  t.deepEqual(await ipamOf(node), before.ipam);
});

test.serial('a lab that ends while containers run leaves nothing', async (t) => {
  const running = [a, a2, b].map((it) => it.containerd.namespace);
  const before = lab.traces();
  for (const name of running)
    t.true(
      before.some((it) => it.endsWith(`/${name}`)),
      `cgroup ${name}`,
    );
  await lab[Symbol.asyncDispose]();
  t.deepEqual(lab.traces(), []);
  const mounts = await readFile('/proc/mounts', 'utf8');
  t.false(mounts.includes(lab.directory));
  const shims = await run(['ps', '-eo', 'args']);
  for (const name of running) t.false(shims.includes(name));
});
