/**
 * Every verb against the real daemon, as libcni would call it: what a pod has afterwards, what is refused,
 * and that nothing on the host has changed then. One node whose pool has four IPv4 addresses.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { IpamMessage } from '../../daemon/messages.ts';
import { createNamespace } from '../../linux/netns.ts';
import { type Output, collect, poll, run } from '../../linux/program.ts';
import { CNI_VERSIONS } from '../../wire/cni.ts';
import { type Lab, type LabNode, addressIn, createLab, reaches } from '../lab/lab.ts';
import { labPrefix } from '../lab/run.ts';
import type { CniErrorMessage, CniResult } from '../lab/runtime.ts';
import { WEFT } from '../overlay/pair.ts';
import { tracesOn } from './traces.ts';

let lab: Lab;
let node: LabNode;
let address: (index: number) => string;

test.before(async () => {
  lab = await createLab({ nodes: 1, prefix: `${labPrefix()}v` });
  node = lab.nodes[0]!;
  await using first = await node.startDaemon();
  const { subnet4 } = await node.subnetFile();
  address = (index) => addressIn(subnet4!, index);
  await first.stop();
  await node.startDaemon([`--pod-reserved=${address(6)}-${address(254)}`]);
  await node.installPlugin();
});
test.after.always(() => lab?.[Symbol.asyncDispose]());

interface Call {
  readonly command: string;
  readonly version?: string;
  readonly id?: string;
  /** Path; of a namespace of this name unless given. */
  readonly netns?: string;
  readonly ifname?: string;
  readonly args?: string;
  readonly config?: object;
}

async function call(it: Call): Promise<Output> {
  const { command, version = '1.1.0', id = 'c', ifname = 'eth0', args = '' } = it;
  return await collect([join(node.cniBinDir, 'weft-cni')], {
    netns: node.netns,
    env: {
      CNI_COMMAND: command,
      CNI_CONTAINERID: id,
      CNI_NETNS: it.netns ?? `/run/netns/${lab.netnsOf(id)}`,
      CNI_IFNAME: ifname,
      CNI_ARGS: args,
      CNI_PATH: node.cniBinDir,
    },
    input: JSON.stringify({
      cniVersion: version,
      name: 'weft',
      type: 'weft-cni',
      socket: join(node.stateDir, 'weft.sock'),
      ...it.config,
    }),
  });
}

async function does(t: ExecutionContext, it: Call): Promise<CniResult> {
  const { exitCode, stdout, stderr } = await call(it);
  t.is(exitCode, 0, stdout + stderr);
  return (stdout === '' ? {} : JSON.parse(stdout)) as CniResult;
}

/** And the host is as it was. */
async function refuses(t: ExecutionContext, it: Call, code: number, msg: RegExp): Promise<void> {
  const before = await tracesOn(node);
  const { exitCode, stdout } = await call(it);
  t.is(exitCode, 1, stdout);
  const error = JSON.parse(stdout) as CniErrorMessage;
  t.is(error.code, code, error.msg);
  t.regex(error.msg, msg);
  t.is(error.cniVersion, it.version ?? '1.1.0');
  t.deepEqual(await tracesOn(node), before);
}

const used = async (): Promise<number> => {
  const argv = [WEFT, 'ipam', 'show', '-o', 'json', `--state-dir=${node.stateDir}`];
  return (JSON.parse(await node.run(argv)) as IpamMessage).used;
};

for (const version of CNI_VERSIONS) {
  test.serial(`${version}: ADD, CHECK, DEL, and DEL again`, async (t) => {
    const id = `v${version.replaceAll('.', '')}`;
    await createNamespace(lab.netnsOf(id));
    const result = await does(t, { command: 'ADD', version, id });
    t.is(result.cniVersion, version);
    const [host, inside] = result.interfaces!;
    t.regex(host!.name, /^weftp[0-9a-v]{10}$/);
    t.is(inside!.name, 'eth0');
    t.is(inside!.sandbox, `/run/netns/${lab.netnsOf(id)}`);
    t.is(inside!.mtu, version === '1.1.0' ? 1430 : undefined);
    t.deepEqual(
      result.ips!.map((it) => it.version),
      version < '1' ? ['4', '6'] : [undefined, undefined],
    );
    t.deepEqual(
      result.routes!.map((it) => `${it.dst} ${it.gw}`),
      ['0.0.0.0/0 169.254.1.1', '::/0 fe80::1'],
    );
    if (version !== '0.3.1') {
      await does(t, { command: 'CHECK', version, id, config: { prevResult: result } });
    }
    await does(t, { command: 'DEL', version, id, config: { prevResult: result } });
    await does(t, { command: 'DEL', version, id });
    t.is(await used(), 0);
  });
}

test.serial('what a pod has: loopback, MTU, offloads, quiet', async (t) => {
  const id = 'look';
  const netns = lab.netnsOf(id);
  await createNamespace(netns);
  await does(t, { command: 'ADD', id });
  const inside = async (...argv: string[]): Promise<string> =>
    (await collect(argv, { netns })).stdout;
  t.regex(await inside('ip', 'link', 'show', 'lo'), /UP/);
  t.regex(await inside('ip', 'link', 'show', 'eth0'), /mtu 1430/);
  t.regex(await inside('ip', 'route'), /^default via 169\.254\.1\.1 dev eth0/m);
  const features = await inside('ethtool', '-k', 'eth0');
  for (const it of [
    'tcp-segmentation-offload',
    'tx-checksumming',
    'generic-segmentation-offload',
  ]) {
    t.regex(features, new RegExp(`^${it}: on`, 'm'));
  }
  t.is((await inside('cat', '/proc/sys/net/ipv6/conf/eth0/accept_ra')).trim(), '0');
  t.false((await inside('ip', '-6', 'addr')).includes('tentative'), 'usable at once');
  await does(t, { command: 'DEL', id });
});

test.serial(
  'a pod is in etcd with its labels, until it goes; what was applied counts',
  async (t) => {
    const id = 'Labelled_1';
    await createNamespace(lab.netnsOf(id));
    const weft = (command: string, ...args: string[]): Promise<string> =>
      node.run([WEFT, command, ...args, `--state-dir=${node.stateDir}`]);
    const shows = (pattern: RegExp): Promise<string> =>
      poll(async () => {
        const pods = await weft('get', 'po', '-A');
        return pattern.test(pods) ? pods : undefined;
      }, AbortSignal.timeout(10_000));
    const args = 'K8S_POD_LABELS=app=web,tier=a';
    const config = { args: { cni: { labels: [{ key: 'app', value: 'db' }] } } };
    const result = await does(t, { command: 'ADD', id, args, config });
    const addresses = result.ips!.map((it) => it.address.replace(/\/.*/, '')).join(',');
    const pods = await shows(/^default +labelled-1 /m);
    t.true(pods.includes(addresses), pods);
    t.regex(pods, /app=db,tier=a|tier=a,app=db/);
    const file = join(node.stateDir, 'pod.json');
    const metadata = { name: 'labelled-1', labels: { app: 'cache' } };
    await writeFile(file, JSON.stringify({ apiVersion: 'v1', kind: 'Pod', metadata }));
    t.is(await weft('apply', '-f', file), 'Pod default/labelled-1 created\n');
    t.true((await shows(/app=cache/)).includes(addresses));
    await weft('delete', '-f', file);
    await shows(/app=db/);
    await does(t, { command: 'DEL', id });
    await shows(/^none$/m);
  },
);

test.serial('a second interface leaves the default route to the first', async (t) => {
  const id = 'two';
  await createNamespace(lab.netnsOf(id));
  await does(t, { command: 'ADD', id });
  await does(t, { command: 'ADD', id, ifname: 'net1' });
  const { stdout } = await collect(['ip', 'route'], { netns: lab.netnsOf(id) });
  t.deepEqual(stdout.match(/^default.*dev \S+/gm)?.length, 1, stdout);
  t.is(await used(), 2);
  for (const ifname of ['net1', 'eth0']) await does(t, { command: 'DEL', id, ifname });
});

test.serial('asked for: an address of each family, and an Ethernet address', async (t) => {
  const id = 'asked';
  await createNamespace(lab.netnsOf(id));
  const { subnet6 } = await node.subnetFile();
  const six = addressIn(subnet6!, 77);
  const runtimeConfig = { ips: [`${address(4)}/24`, six], mac: '02:00:00:00:00:aa' };
  const { ips, interfaces } = await does(t, { command: 'ADD', id, config: { runtimeConfig } });
  t.deepEqual(
    ips!.map((it) => it.address),
    [`${address(4)}/32`, `${six}/128`],
  );
  t.is(interfaces![1]!.mac, '02:00:00:00:00:aa');
  await createNamespace(lab.netnsOf('other'));
  for (const [ip, msg] of [
    [address(4), /in use by/],
    [address(9), /reserved/],
    [address(0), /./],
    ['192.0.2.1', /./],
  ] as const) {
    const config = { runtimeConfig: { ips: [ip] } };
    await refuses(t, { command: 'ADD', id: 'other', config }, 102, msg);
  }
  await does(t, { command: 'DEL', id });
});

test.serial('refused, with nothing changed', async (t) => {
  const id = 'c';
  await createNamespace(lab.netnsOf(id));
  const hosts = `/proc/${process.pid}/ns/net`;
  for (const [what, code, msg] of [
    [{ netns: '/run/netns/absent' }, 4, /\/run\/netns\/absent/],
    [{ netns: '/etc/passwd' }, 4, /namespace/],
    [{ netns: '/dev/null' }, 4, /namespace/],
    [{ netns: '/run/netns/../../etc/passwd' }, 4, /CNI_NETNS/],
    [{ netns: `/run/netns/${node.netns}` }, 4, /host's own/],
    [{ netns: hosts, ifname: 'lo' }, 100, /lo/],
    [{ ifname: 'lo' }, 100, /lo/],
    [{ ifname: '../x' }, 4, /CNI_IFNAME/],
    [{ ifname: 'a;reboot' }, 4, /CNI_IFNAME/],
    [{ ifname: 'a'.repeat(16) }, 4, /CNI_IFNAME/],
    [{ id: '../../x', netns: `/run/netns/${lab.netnsOf(id)}` }, 4, /CNI_CONTAINERID/],
    [{ id: '$(reboot)', netns: `/run/netns/${lab.netnsOf(id)}` }, 4, /CNI_CONTAINERID/],
    [{ id: 'x'.repeat(300), netns: `/run/netns/${lab.netnsOf(id)}` }, 4, /CNI_CONTAINERID/],
    [{ config: { runtimeConfig: { mac: '01:00:5e:00:00:01' } } }, 7, /01:00:5e:00:00:01/],
    [{ config: { ipam: { type: 'host-local' } } }, 2, /ipam/],
  ] as readonly (readonly [Partial<Call>, number, RegExp])[]) {
    await refuses(t, { command: 'ADD', id, ...what }, code, msg);
  }
  t.is(await used(), 0);
});

test.serial('CHECK finds what is no longer as it was', async (t) => {
  const id = 'check';
  const netns = lab.netnsOf(id);
  await createNamespace(netns);
  const prevResult = await does(t, { command: 'ADD', id });
  const check = { command: 'CHECK', id, config: { prevResult } };
  await does(t, check);
  await collect(['ip', 'addr', 'flush', 'dev', 'eth0'], { netns });
  await refuses(t, check, 101, /has not the address/);
  await does(t, { command: 'DEL', id });
  await refuses(t, check, 3, /no interface eth0 of ours/);
});

test.serial('all addresses in use: ADD and STATUS say so, with the numbers', async (t) => {
  const ids = ['p1', 'p2', 'p3', 'p4', 'p5'];
  for (const it of ids) await createNamespace(lab.netnsOf(it));
  await does(t, { command: 'STATUS' });
  const given = await Promise.all(ids.slice(0, 4).map((id) => does(t, { command: 'ADD', id })));
  t.deepEqual(
    given.map((it) => it.ips![0]!.address).toSorted(),
    [2, 3, 4, 5].map((it) => `${address(it)}/32`),
  );
  await refuses(t, { command: 'ADD', id: 'p5' }, 11, /\b4\b.*\b249\b|\b249\b.*\b4\b/s);
  await refuses(t, { command: 'STATUS' }, 50, /in use or reserved/);
  // What is freed is given again, and works.
  await does(t, { command: 'DEL', id: 'p2' });
  await does(t, { command: 'STATUS' });
  const { ips } = await does(t, { command: 'ADD', id: 'p5' });
  t.is(ips![0]!.address, given[1]!.ips![0]!.address);
  await reaches(node, ips![0]!.address.replace('/32', ''));
});

test.serial('GC frees what the runtime does not know, of its own network', async (t) => {
  const ids = ['p1', 'p3', 'p4', 'p5'];
  t.is(await used(), 4);
  const valid = (kept: readonly string[]): object => ({
    'cni.dev/valid-attachments': kept.map((it) => ({ containerID: it, ifname: 'eth0' })),
  });
  const config = { name: 'another', ...valid([]) };
  await does(t, { command: 'GC', config });
  t.is(await used(), 4, "another network's is not ours");
  await does(t, { command: 'GC', config: valid(['p1']) });
  t.is(await used(), 1);
  for (const id of ids) await does(t, { command: 'DEL', id });
  t.is(await used(), 0);
});

test.serial('weft ipam: who has an address, and what does not agree', async (t) => {
  const id = 'p1';
  const { ips } = await does(t, { command: 'ADD', id });
  const own = ips![0]!.address.replace('/32', '');
  const ipam = (...words: string[]): Promise<Output> =>
    collect([WEFT, 'ipam', ...words, `--state-dir=${node.stateDir}`], { netns: node.netns });
  const shown = await ipam('show', '--ip', own);
  t.is(shown.exitCode, 0);
  t.true(shown.stdout.includes(`${id}/eth0`), shown.stdout);
  // Which of the four the pod got depends on the order in which the tests before gave theirs back.
  const free = [2, 3, 4, 5].map((it) => address(it)).find((it) => it !== own)!;
  const nobody = await ipam('show', '--ip', free);
  t.is(nobody.exitCode, 1);
  t.is(nobody.stderr, `weft: no pod of this node has the address ${free}\n`);
  t.is((await ipam('check')).exitCode, 0);
  // In the pod's namespace, where the daemon mends nothing.
  await run(['ip', 'addr', 'del', `${own}/32`, 'dev', 'eth0'], { netns: lab.netnsOf(id) });
  const check = await ipam('check');
  t.is(check.exitCode, 1);
  t.regex(check.stdout, new RegExp(`${own}.*has not the address ${own}`));
  await does(t, { command: 'DEL', id });
});
