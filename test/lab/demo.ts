/**
 * `npm run demo`: three nodes, two pods each and an etcd, in network namespaces of their own. Shows
 * leases and peers, pings every pair of pods over both families, measures between nodes, applies an
 * example application with Services and policies, asks who reaches whom, and stays up until Ctrl-C. With `--exit` it ends by itself; its exit code is 0 only if all is well.
 */
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import Table from 'cli-table3';
import colours from 'picocolors';
import { type Lab, type LabHost, type LabNode, addressIn, createLab, reaches } from './lab.ts';
import { type Answers, REPORT_ALLOWS, SHOP_ALLOWS, Shop } from './shop.ts';
import { bulkTcp } from './traffic/traffic.ts';

const USAGE = `npm run demo -- [options]
  --exit              end when everything has been shown; exit code 0 only if all is well
  --dataplane NAME    weft (default), or kernel: Linux's own VXLAN as flannel sets it up`;

const mark = (ok: boolean): string => (ok ? colours.green('✓') : colours.red('✗'));
const say = (text = ''): void => console.log(text);
const complain = (text: string): void => void process.stderr.write(`${text}\n`);

const newTable = (head: string[]): InstanceType<typeof Table> =>
  new Table({
    head: head.map((text) => colours.bold(text)),
    style: { head: [], border: [], compact: true },
  });

/** Failures so far; the first few are told in full, for the rest the tables suffice. */
let failures = 0;
const TOLD_IN_FULL = 4;

function fail(why: string): void {
  failures++;
  if (failures <= TOLD_IN_FULL) complain(why);
}

/** How long a first ping may take: a peer's lease has to be seen. Once one failed, none waits long. */
const patienceMs = (): number => (failures === 0 ? 10_000 : 1000);

async function step<T>(what: string, work: () => Promise<T>): Promise<T> {
  const begin = performance.now();
  try {
    const result = await work();
    const seconds = ((performance.now() - begin) / 1000).toFixed(1);
    say(`${mark(true)} ${what} ${colours.dim(`${seconds} s`)}`);
    return result;
  } catch (error) {
    say(`${mark(false)} ${what}`);
    throw error;
  }
}

async function answers(from: LabHost, address: string): Promise<boolean> {
  try {
    await reaches(from, address, patienceMs());
    return true;
  } catch (error) {
    fail((error as Error).message);
    return false;
  }
}

/** One node's leases and, asked host to host through the overlay, which peers answer. */
async function showLeases(lab: Lab): Promise<void> {
  const table = newTable(['node', 'underlay', 'leased subnets', 'VTEP', 'MTU', 'peers']);
  const leases = await lab.store.leases();
  for (const node of lab.nodes) {
    const { mtuBytes } = await node.subnetFile();
    const own = leases.find(({ lease }) => lease.PublicIP === node.underlay4);
    const peers = lab.nodes.filter((peer) => peer !== node);
    const known = await Promise.all(
      peers.map(async (peer) => {
        const { subnet4, subnet6 } = await peer.subnetFile();
        const hosts = [subnet4, subnet6].filter((subnet) => subnet !== null);
        const heard = await Promise.all(hosts.map((subnet) => answers(node, addressIn(subnet, 0))));
        return `${peer.name} ${heard.map(mark).join('')}`;
      }),
    );
    if (own === undefined) fail(`${node.name} has no lease in etcd`);
    table.push([
      node.name,
      [node.underlay4, node.underlay6].join('\n'),
      [own?.subnet4, own?.subnet6].join('\n'),
      own?.lease.BackendData?.VtepMAC ?? mark(false),
      mtuBytes,
      known.join('\n'),
    ]);
  }
  say(`\n${colours.bold('Leases in etcd, and peers that answer')} (IPv4, IPv6)`);
  say(table.toString());
}

async function showPings(lab: Lab): Promise<void> {
  const { pods } = lab;
  const table = newTable(['from \\ to', ...pods.map((pod) => pod.name)]);
  let pairs = 0;
  for (const from of pods) {
    const cells = await Promise.all(
      pods.map(async (to) => {
        if (to === from) return '';
        pairs++;
        const heard = await Promise.all(to.addresses.map((address) => answers(from, address)));
        return heard.map(mark).join(' ');
      }),
    );
    table.push([`${from.name} ${from.address4}`, ...cells]);
  }
  say(`\n${colours.bold('Ping, every pair of pods')} (IPv4, IPv6; ${pairs} pairs)`);
  say(table.toString());
}

/** What else a pod reaches, through the daemon all of it: its own node, another, and a host outside. */
async function showWaysOut(lab: Lab): Promise<void> {
  const [pod] = lab.pods;
  const [own, another] = lab.nodes;
  const table = newTable(['from', 'to', 'address', '']);
  const rows = [
    ['its own node', own!.underlay4!],
    ['another node', another!.underlay4!],
    ["etcd's host, outside", new URL(lab.store.endpoint).hostname],
  ] as const;
  for (const [what, address] of rows) {
    table.push([pod!.name, what, address, mark(await answers(pod!, address))]);
  }
  say(`\n${colours.bold('Out of the overlay')}, masqueraded where it leaves the node`);
  say(table.toString());
}

async function showBulk(lab: Lab): Promise<void> {
  const [first, second, third] = lab.nodes.map((node) => node.pods[0]!);
  const neighbour = lab.nodes[0]!.pods[1]!;
  const table = newTable(['TCP by iperf3, 1 s', 'address', 'Gb/s', '']);
  for (const [from, to] of [
    [first!, neighbour],
    [first!, second!],
    [second!, third!],
  ] as const) {
    for (const address of to.addresses) {
      try {
        const { bitsPerSecond } = await bulkTcp(from, to, address);
        if (bitsPerSecond === 0) fail(`${to.name} received nothing`);
        const speed = (bitsPerSecond / 1e9).toFixed(2);
        table.push([`${from.name} -> ${to.name}`, address, speed, mark(bitsPerSecond > 0)]);
      } catch (error) {
        fail((error as Error).message);
        table.push([`${from.name} -> ${to.name}`, address, '', mark(false)]);
      }
    }
  }
  say(`\n${colours.bold('Throughput')}, on one node and between nodes`);
  say(table.toString());
}

function showAnswers(answers: Answers, wrong: readonly string[]): void {
  const names = [...answers.values()].flatMap((said) => [...said.keys()]);
  const targets = [...new Set(names)];
  const table = newTable(['from \\ to', ...targets]);
  for (const [from, said] of answers) {
    table.push([from, ...targets.map((to) => (said.has(to) ? said.get(to)! : ''))]);
  }
  say(table.toString());
  for (const it of wrong) fail(`not as the policies have it: ${it}`);
}

/** deploy/example: three tiers, their Services, and who may speak to whom; then one policy more. */
async function showShop(lab: Lab): Promise<void> {
  const shop = await step('pods web, api, db and a client', () => Shop.open(lab));
  const printed = await step('weft apply -f deploy/example/shop.yaml', () =>
    shop.apply('shop.yaml'),
  );
  say(colours.dim(printed.trimEnd()));
  say(`\n${colours.bold('Who reaches whom')}, by real connections to the Services`);
  const before = await shop.becomes(SHOP_ALLOWS);
  showAnswers(before.answers, before.wrong);
  await step('weft apply -f deploy/example/report.yaml', () =>
    shop.apply('report.yaml', '--set=report'),
  );
  say(`\n${colours.bold('After the change')}: web may ask the database too`);
  const after = await shop.becomes(REPORT_ALLOWS);
  showAnswers(after.answers, after.wrong);
}

async function showLogs(lab: Lab): Promise<void> {
  for (const node of lab.nodes.filter(({ dataplane }) => dataplane === 'weft')) {
    const lines = (await readFile(node.daemonLog, 'utf8')).trimEnd().split('\n');
    complain(`\n${node.name}, the end of its daemon's log:\n${lines.slice(-8).join('\n')}`);
  }
}

/** The page listens in the node's namespace, where a browser of this machine has to be started. */
function sayWhatToAsk(lab: Lab): void {
  const [{ netns, stateDir }] = lab.nodes as readonly [LabNode, ...LabNode[]];
  const weft = `ip netns exec ${netns} bin/weft`;
  say(`\nThe page:      http://127.0.0.1:8476/ on ${netns}:`);
  say(`  ip netns exec ${netns} chromium --no-sandbox http://127.0.0.1:8476/`);
  say('Ask the node:');
  say(`  ${weft} status --state-dir=${stateDir}`);
  say(`  ${weft} get networkpolicies -n shop --state-dir=${stateDir}`);
  say(
    `  curl -s --unix-socket ${stateDir}/weft.sock 'http://weft/v1/explain?from=default/client&to=service/shop/db&port=5432'\n`,
  );
}

/** The lab removes itself on the same signals, and sends them once more: hence no `once` here. */
async function untilInterrupted(): Promise<void> {
  // A promise alone does not keep the process alive.
  const alive = setInterval(() => {}, 2 ** 30);
  await new Promise((resolve) => {
    process.on('SIGINT', resolve);
    process.on('SIGTERM', resolve);
  });
  clearInterval(alive);
}

async function main(dataplane: 'weft' | 'kernel', exit: boolean): Promise<void> {
  const name = dataplane === 'weft' ? 'Weft' : 'kernel VXLAN';
  say(`${colours.bold(name)}: three nodes, two pods each and an etcd, all in network namespaces\n`);
  await using lab = await step('underlay and etcd', () => createLab({ nodes: 3, podsPerNode: 2 }));
  await step(`${name} on ${lab.nodes.map((node) => node.name).join(', ')}`, async () => {
    if (dataplane === 'weft')
      await Promise.all(lab.nodes.map((node) => node.startDaemon(['--ip-masq'])));
    else for (const node of lab.nodes) await node.startKernelVxlan();
  });
  const how = dataplane === 'weft' ? ', attached by the CNI plugin' : '';
  await step(`two pods on each${how}`, () => lab.attachPods());
  await showLeases(lab);
  await showPings(lab);
  if (dataplane === 'weft') await showWaysOut(lab);
  await showBulk(lab);
  if (dataplane === 'weft') await showShop(lab);
  const verdict = failures === 0 ? 'all is well' : `${failures} failures: see ✗ above`;
  say(`\n${mark(failures === 0)} ${verdict}`);
  if (failures > 0) await showLogs(lab);
  if (exit) return;
  say(`\nEnter a pod:   ip netns exec ${lab.pods[0]!.netns} sh`);
  say(`  and try      ping ${lab.pods.at(-1)!.address4}`);
  say(`Enter a node:  ip netns exec ${lab.nodes[0]!.netns} sh`);
  say(`Logs:          ${lab.directory}`);
  if (dataplane === 'weft') sayWhatToAsk(lab);
  say('Ctrl-C ends the demo and removes all of it.');
  await untilInterrupted();
  say('\nremoved');
}

async function start(): Promise<number> {
  let values: { exit: boolean; dataplane: string; help: boolean };
  try {
    ({ values } = parseArgs({
      options: {
        exit: { type: 'boolean', default: false },
        dataplane: { type: 'string', default: 'weft' },
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    complain(`demo: ${(error as Error).message}`);
    return 2;
  }
  const { exit, dataplane, help } = values;
  if (help) {
    say(USAGE);
    return 0;
  }
  if (dataplane !== 'weft' && dataplane !== 'kernel') {
    complain(`demo: --dataplane "${dataplane}" is neither weft nor kernel`);
    return 2;
  }
  if (process.getuid?.() !== 0) {
    complain('npm run demo needs root, for it makes network namespaces');
    return 1;
  }
  try {
    await main(dataplane, exit);
  } catch (error) {
    complain(`demo: ${(error as Error).message}`);
    return 1;
  }
  return failures === 0 ? 0 : 1;
}

process.exitCode = await start();
