/**
 * The daemon is killed while a runtime adds and deletes pods, again and again; it comes back to what is
 * true. A failed ADD is followed by a DEL, as runtimes do; every DEL has to succeed, daemon or not.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { IpamCheckMessage, IpamMessage } from '../../daemon/messages.ts';
import { createNamespace, deleteNamespace } from '../../linux/netns.ts';
import { type Running, collect, poll } from '../../linux/program.ts';
import { type Lab, type LabNode, createLab, reaches } from '../lab/lab.ts';
import { labPrefix } from '../lab/run.ts';
import type { CniContainer, CniExecError } from '../lab/runtime.ts';
import { logOf, settled, statusOf, WEFT, within } from '../overlay/pair.ts';
import { tracesOn } from './traces.ts';

const ROUNDS = 20;
/** Each is added and deleted once a round: 200 verbs. */
const CONTAINERS = 100;
const AT_ONCE = 20;

const seed = Number(process.env['WEFT_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
let state = seed;
/** Mulberry32: 0..1. */
function random(): number {
  state = (state + 0x6d2b79f5) | 0;
  let it = Math.imul(state ^ (state >>> 15), 1 | state);
  it = (it + Math.imul(it ^ (it >>> 7), 61 | it)) ^ it;
  return ((it ^ (it >>> 14)) >>> 0) / 2 ** 32;
}

let lab: Lab;
let node: LabNode;
let daemon: Running;

test.before(async () => {
  lab = await createLab({ nodes: 1, prefix: `${labPrefix()}k` });
  node = lab.nodes[0]!;
  daemon = await node.startDaemon();
  await node.installPlugin();
});
test.after.always(() => lab?.[Symbol.asyncDispose]());

const ask = async <T>(...args: string[]): Promise<T> => {
  const { stdout } = await collect([WEFT, ...args, '-o', 'json', `--state-dir=${node.stateDir}`], {
    netns: node.netns,
  });
  return JSON.parse(stdout) as T;
};

/** Of pods: a new daemon has the device in another state, and a TAP of its own. */
const traces = async (): Promise<string[]> =>
  (await tracesOn(node)).filter((it) => !/^weft0(-gso)? /.test(it));

async function killAndRestart(): Promise<void> {
  await daemon.stop('SIGKILL');
  daemon = await node.startDaemon();
}

/** Nothing of any pod: no address, interface, route, pin or tombstone. */
async function leavesNothing(t: ExecutionContext, empty: readonly string[]): Promise<void> {
  await poll(async () => {
    const { used } = await ask<IpamMessage>('ipam', 'show');
    return used === 0 ? true : undefined;
  }, within(10_000)).catch(() => 'compared below');
  t.deepEqual((await ask<IpamMessage>('ipam', 'show')).attachments, []);
  t.deepEqual(await ask<IpamCheckMessage>('ipam', 'check'), { attachments: 0, problems: [] });
  t.deepEqual(await traces(), empty);
  const deleted = join(node.stateDir, 'deleted');
  t.deepEqual(existsSync(deleted) ? readdirSync(deleted) : [], []);
}

test.serial(`killed ${ROUNDS} times during 200 verbs, ${AT_ONCE} at a time`, async (t) => {
  t.timeout(300_000);
  t.log(`WEFT_SEED=${seed}`);
  const namespaces = Array.from({ length: CONTAINERS }, (_, i) => lab.netnsOf(`k${i}`));
  for (const it of namespaces) await createNamespace(it);
  const empty = await traces();
  const counts = { added: 0, refused: 0, deleted: 0 };
  for (let round = 0; round < ROUNDS; round++) {
    const waiting = namespaces.map((netns, i): CniContainer => ({
      containerId: `r${round}c${i}`,
      netns: `/run/netns/${netns}`,
      args: `IgnoreUnknown=1;K8S_POD_NAMESPACE=crash;K8S_POD_NAME=r${round}c${i}`,
    }));
    let done = 0;
    const killAt = Math.floor(random() * CONTAINERS * 2);
    let killed: Promise<void> | null = null;
    const step = (): void => {
      if (done++ === killAt) killed = killAndRestart();
    };
    const addresses = new Set<string>();
    const worker = async (): Promise<void> => {
      for (let it = waiting.pop(); it !== undefined; it = waiting.pop()) {
        try {
          const { ips } = await node.runtime.add(it);
          counts.added++;
          for (const { address } of ips!) addresses.add(address);
        } catch (error) {
          // The runtime of the lab has followed it with a DEL, which would have been thrown instead.
          const { error: said } = error as CniExecError;
          t.true(said !== null && [11, 103].includes(said.code), (error as Error).message);
          counts.refused++;
        }
        step();
        await node.runtime.delete(it);
        counts.deleted++;
        step();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    await (killed ?? killAndRestart());
    await leavesNothing(t, empty);
    for (const netns of namespaces) {
      if (round % 5 > 0) break;
      const { stdout } = await collect(['ip', '-brief', 'link'], { netns });
      t.regex(stdout, /^lo [^\n]*\n$/, `only lo is left in ${netns}`);
    }
  }
  t.log(JSON.stringify(counts));
  t.is(counts.deleted, ROUNDS * CONTAINERS);
  t.true(counts.added > 0);
  await Promise.all(namespaces.map(deleteNamespace));
});

test.serial('killed while pods run: they keep addresses and connections', async (t) => {
  const a = await node.addPod('n1a');
  const b = await node.addPod('n1b');
  const before = await ask<IpamMessage>('ipam', 'show');
  await killAndRestart();
  t.deepEqual((await ask<IpamMessage>('ipam', 'show')).attachments, before.attachments);
  for (const address of b.addresses) await reaches(a, address);
  t.deepEqual((await ask<IpamCheckMessage>('ipam', 'check')).problems, []);
});

for (const [title, damage] of [
  ['cut short', (text: string) => text.slice(0, text.length / 2)],
  ['empty', () => ''],
  ['of something else', () => '{"version":1,"attachments":{"__proto__":[]}}\n'],
] as const) {
  test.serial(`a file of pods ${title}: kept aside, and made anew from the host`, async (t) => {
    const path = join(node.stateDir, 'pods.json');
    const before = await ask<IpamMessage>('ipam', 'show');
    t.true(before.used >= 2);
    await daemon.stop('SIGKILL');
    const damaged = damage(readFileSync(path, 'utf8'));
    writeFileSync(path, damaged);
    const said = logOf(node).length;
    daemon = await node.startDaemon();
    const lines = logOf(node).slice(said);
    const loud = lines.find((it) => it.msg.includes('cannot be read'));
    t.is(readFileSync(String(loud?.['keptAs']), 'utf8'), damaged);
    const after = await ask<IpamMessage>('ipam', 'show');
    const byId = (it: IpamMessage) =>
      it.attachments.toSorted((x, y) => x.containerId.localeCompare(y.containerId));
    t.deepEqual(byId(after), byId(before), 'namespaces and all');
    t.deepEqual((await ask<IpamCheckMessage>('ipam', 'check')).problems, []);
    const [a, b] = node.pods;
    for (const address of b!.addresses) await reaches(a!, address);
    // And none is given twice.
    const pod = await node.addPod('n1c');
    t.false([a, b].some((it) => it!.address4 === pod.address4 || it!.address6 === pod.address6));
    await node.deletePod(pod);
  });
}

test.serial(
  'a reboot: namespaces, devices, routes, rules and tables gone, files kept',
  async (t) => {
    await daemon.stop('SIGKILL');
    for (const pod of node.pods) await deleteNamespace(pod.netns);
    for (const command of [
      'ip link del weft0',
      'ip route flush table 157',
      'ip -6 route flush table 157',
      'nft flush ruleset',
      'ip rule add pref 0 lookup local',
      'ip -6 rule add pref 0 lookup local',
    ]) {
      await node.run(command.split(' '));
    }
    for (const family of ['-4', '-6']) {
      for (const pref of ['91', '92', '93', '96', '97', '98']) {
        await node.run(['ip', family, 'rule', 'del', 'pref', pref]);
      }
    }
    const lease = (await lab.store.leases())[0]!;
    daemon = await node.startDaemon();
    const { lease: own, pods } = await statusOf(node);
    t.is(own!.subnet, lease.subnet4, 'the same subnet');
    t.is(pods, 0);
    const freed = logOf(node).filter((it) => it.msg === 'freed what was left of a pod');
    t.true(freed.length >= 2);
    // The runtime comes back and deletes what it remembers.
    for (const pod of node.pods) {
      await node.runtime.delete({ containerId: pod.name, netns: `/run/netns/${pod.netns}` });
    }
    t.deepEqual(await ask<IpamCheckMessage>('ipam', 'check'), { attachments: 0, problems: [] });
    const pod = await node.addPod('n1z');
    await reaches(pod, node.underlay4!);
    await node.deletePod(pod);
    t.is((await settled(node))['host.spoofedSource'], 0);
  },
);

test.serial('a DEL without a daemon: the address is free when it is back', async (t) => {
  const pod = await node.addPod('n1d');
  await daemon.stop();
  await node.deletePod(pod);
  t.false((await node.run(['ip', 'link'])).includes(pod.hostInterface));
  const refused = await t.throwsAsync<CniExecError>(() =>
    node.runtime.add({ containerId: 'late', netns: '/run/netns/absent' }),
  );
  t.is(refused?.error?.code, 11);
  daemon = await node.startDaemon();
  t.is((await ask<IpamMessage>('ipam', 'show')).used, 0);
  t.deepEqual(readdirSync(join(node.stateDir, 'deleted')), []);
});
