/**
 * The operator's commands on two nodes with the real daemon:
 *
 *     n1p1 --- n1 (weft) ======= VXLAN ======= n2 (weft) --- n2p1
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { CheckResult } from '../../daemon/check-result.ts';
import type { PeersMessage, StatusMessage } from '../../daemon/messages.ts';
import { type Running, collect, poll, run } from '../../linux/program.ts';
import type { LabNode } from '../lab/lab.ts';
import { type Pair, WEFT, createPair, ipamOf, stateDirOf, within } from '../overlay/pair.ts';

const CUT =
  'table inet cut {\n chain in {\n type filter hook input priority -10\n udp dport 8472 drop\n}\n}\n';

let pair: Pair;
test.before(async () => {
  pair = await createPair({ families: 'dual' }, 'o', ['--probe-interval=1']);
});
test.after.always(async () => {
  await pair?.[Symbol.asyncDispose]();
});

const weft = (node: LabNode, ...args: string[]) =>
  collect([WEFT, ...args, stateDirOf(node)], { netns: node.netns });
const asJson = async <T>(node: LabNode, ...args: string[]): Promise<T> =>
  JSON.parse((await weft(node, ...args, '-o', 'json')).stdout) as T;

test.serial(
  'weft peers --probe: both ways answer, in both families, up to their MTU',
  async (t) => {
    const [n1] = pair.nodes;
    const { stdout, stderr, exitCode } = await weft(n1, 'peers', '--probe', '-o', 'json');
    t.is(exitCode, 0, stdout + stderr);
    const { peers, problem } = JSON.parse(stdout) as PeersMessage;
    t.is(problem, null);
    t.is(peers.length, 1);
    const { probe, nextHop, pathMtuBytes, direct } = peers[0]!;
    t.truthy(nextHop);
    t.is(pathMtuBytes, 1500);
    t.false(direct);
    t.deepEqual(
      probe!.links.map((it) => [it.kind, it.sent - it.received, it.pathMtuBytes]),
      [
        ['underlay', 0, 1500],
        ['underlay', 0, 1500],
        ['overlay', 0, 1430],
        ['overlay', 0, 1430],
      ],
    );
    for (const it of probe!.links)
      t.true(it.sent >= 10 && it.minMs! > 0 && it.maxMs! >= it.avgMs!, it.address);
    t.log(probe!.links.map((it) => `${it.address} ${it.avgMs} ms`).join(', '));
  },
);

test.serial('a tunnel that is cut is a finding, and gone when it is mended', async (t) => {
  const [n1, n2] = pair.nodes;
  const findings = async (wanted: boolean) =>
    poll(async () => {
      const status = await asJson<StatusMessage>(n1, 'status');
      const has = status.findings.some((it) => it.code === 'tunnel-silent');
      return has === wanted ? status : undefined;
    }, within(20_000));
  await findings(false);
  await n2.run(['nft', '-f', '-'], { input: CUT });
  const status = await findings(true);
  t.true(status.forwarding);
  t.is((await weft(n1, 'peers', '--probe')).exitCode, 1);
  t.is((await weft(n1, 'status', '--brief')).exitCode, 1);
  await n2.run(['nft', 'delete', 'table', 'inet', 'cut']);
  await findings(false);
  // Echoes that were lost meanwhile are remembered a little longer.
  let last = '';
  const isWell = async (): Promise<true | undefined> => {
    const { stdout, exitCode } = await weft(n1, 'status', '--brief');
    last = stdout;
    return exitCode === 0 ? true : undefined;
  };
  t.true(await poll(isWell, within(60_000)).catch(() => false), last);
});

test.serial('weft check: everything is tried, and nothing is left', async (t) => {
  const [n1] = pair.nodes;
  const before = await ipamOf(n1);
  const { stdout, stderr, exitCode } = await weft(n1, 'check');
  t.log(stdout);
  t.is(exitCode, 0, stdout + stderr);
  for (const line of [
    /^ok +the daemon answers: n1,/m,
    /^ok +etcd answers/m,
    /^ok +interface, routes, rules and nft table/m,
    /^ok +.* answers through the tunnel/m,
    /^ok +.* gets packets of full size: 1430 bytes/m,
    /^ok +a pod reaches another one of this node/m,
    /^ok +a pod reaches the node of/m,
    /^skipped +pods of other nodes: no other node runs weft check --serve$/m,
    / 0 failed, /,
  ]) {
    t.regex(stdout, line);
  }
  t.deepEqual(await ipamOf(n1), before);
});

test.serial('weft check: what fails is named, with what to do', async (t) => {
  const [n1, n2] = pair.nodes;
  await n2.run(['nft', '-f', '-'], { input: CUT });
  const { results } = await asJson<{ results: readonly CheckResult[] }>(n1, 'check');
  await n2.run(['nft', 'delete', 'table', 'inet', 'cut']);
  const failures = results.filter((it) => it.result === 'failed');
  t.is(failures.length, 2, JSON.stringify(failures));
  t.regex(failures[0]!.name, /answers through the tunnel$/);
  t.regex(failures[0]!.remedy!, /UDP port 8472/);
  t.regex(failures[1]!.name, /^a pod reaches the node of/);
});

/** On the second node; stopped as by ^C. */
const serving = (node: LabNode): Promise<Running> =>
  node.start([WEFT, 'check', '--serve', stateDirOf(node)], {
    ready: { line: /^pod weft-check\/n2 answers at .*, port 8477 of TCP and UDP$/ },
  });
const DENY_ALL = {
  apiVersion: 'policy.networking.k8s.io/v1alpha2',
  kind: 'ClusterNetworkPolicy',
  metadata: { name: 'nothing-to-checks' },
  spec: {
    tier: 'Admin',
    priority: 1,
    subject: {
      namespaces: { matchLabels: { 'kubernetes.io/metadata.name': 'weft-check' } },
    },
    ingress: [{ name: 'none', action: 'Deny', from: [{ namespaces: {} }] }],
  },
};

test.serial(
  'weft check: a pod of another node is asked, and is gone when its command ends',
  async (t) => {
    const [n1, n2] = pair.nodes;
    const before = await ipamOf(n2);
    await using served = await serving(n2);
    const { stdout, exitCode } = await weft(n1, 'check');
    t.log(stdout);
    t.is(exitCode, 0, stdout);
    for (const what of [
      'ping to',
      'a TCP connection to',
      'a datagram to',
      'packets of 1430 bytes to',
      '8 MiB by TCP to',
    ]) {
      // Both families.
      t.regex(stdout, new RegExp(`^ok +${what} the pod of n2: 10\\.\\S+ .*, fd00:\\S+ `, 'm'));
    }
    const again = await weft(n2, 'check', '--serve');
    t.is(again.exitCode, 1);
    t.regex(again.stderr, /serves a pod already, weft-check\/n2/);
    t.is(await served.stop('SIGINT'), 0);
    t.deepEqual(await ipamOf(n2), before);
  },
);

test.serial('weft check: a policy that is in the way is named', async (t) => {
  const [n1, n2] = pair.nodes;
  const put = (verb: string) =>
    run([WEFT, verb, '-f', '-', stateDirOf(n1)], {
      netns: n1.netns,
      input: JSON.stringify(DENY_ALL),
    });
  await using served = await serving(n2);
  await put('apply');
  const denied = await poll(async () => {
    const { results } = await asJson<{ results: readonly CheckResult[] }>(n1, 'check');
    const failures = results.filter((it) => it.result === 'failed');
    return failures.length === 0 ? undefined : failures;
  }, within(60_000));
  await put('delete');
  t.deepEqual(
    denied.map((it) => it.name),
    [
      'ping to the pod of n2',
      'a TCP connection to the pod of n2',
      'a datagram to the pod of n2',
      'packets of 1430 bytes to the pod of n2',
      '8 MiB by TCP to the pod of n2',
    ],
  );
  for (const it of denied) t.regex(it.detail, /; on n2: .*nothing-to-checks.*\(policyIngress\)$/);
  t.is(await served.stop(), 0);
});

test.serial('weft check --serve: what a killed one left is taken away by the next', async (t) => {
  const [, n2] = pair.nodes;
  const before = await ipamOf(n2);
  await (await serving(n2)).stop('SIGKILL');
  const left = await ipamOf(n2);
  t.is(left.used, before.used + 1);
  const { netns } = left.attachments.find((it) => it.pod === 'weft-check/n2')!;
  await poll(async () => (existsSync(netns) ? undefined : true), within(10_000));
  await using next = await serving(n2);
  t.is((await ipamOf(n2)).used, before.used + 1);
  await next.stop();
  t.deepEqual(await ipamOf(n2), before);
});

test.serial('weft check: without a daemon it says so', async (t) => {
  const [n1] = pair.nodes;
  const { stdout, exitCode } = await collect([WEFT, 'check', '--state-dir=/nonexistent'], {
    netns: n1.netns,
  });
  t.is(exitCode, 1);
  t.regex(stdout, /^failed +the daemon answers: no weft daemon answers/m);
});

test.serial('weft bugreport: of a node that runs, without the password it was given', async (t) => {
  const [n1] = pair.nodes;
  const file = join(n1.directory, 'report.tar.gz');
  const argv = ['bugreport', '-w', file, `--log-file=${n1.daemonLog}`, '-o', 'json'];
  const { stdout, stderr, exitCode } = await collect([WEFT, ...argv, stateDirOf(n1)], {
    netns: n1.netns,
    env: {
      WEFT_ETCD_ENDPOINTS: pair.lab.store.endpoint,
      WEFT_ETCD_USERNAME: 'root',
      WEFT_ETCD_PASSWORD: 'planted-password',
    },
  });
  t.is(exitCode, 0, stderr);
  const { failures } = JSON.parse(stdout) as { failures: readonly string[] };
  t.deepEqual(failures, []);
  const all = await run(['tar', '--extract', '--to-stdout', '--file', file]);
  t.false(all.includes('planted-password'));
  for (const it of ['table inet weft', 'default dev weft0', '"ready": true', '# flag --iface']) {
    t.true(all.includes(it), it);
  }
});
