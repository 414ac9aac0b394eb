/**
 * What operators see of flows, with real daemons and connections: `weft flows` tells what was let through
 * and what was denied, by whom and why; and goes on when the daemon starts anew.
 *
 *     n1: default/client        n2: default/web, default/db
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import type { FlowMessage } from '../../daemon/messages.ts';
import { poll } from '../../linux/program.ts';
import { Cluster, type LabClient, RANGES, answerOf, netpol } from '../lab/cluster.ts';
import { within } from '../overlay/pair.ts';

const WEFT = join(import.meta.dirname, '..', '..', 'bin', 'weft');
const VIP = '10.96.0.40';
const SEEN_WITHIN_MS = 5_000;

let cluster: Cluster;
let client: LabClient;
let web: LabClient;
let db: LabClient;

test.before(async () => {
  cluster = await Cluster.open('ob', 'etcd');
  ({ client, web, db } = await cluster.addShop(VIP));
  await cluster.put(
    netpol('db-closed', { podSelector: { matchLabels: { app: 'db' } }, ingress: [] }),
    netpol('client-8080', {
      podSelector: { matchLabels: { app: 'client' } },
      policyTypes: ['Egress'],
      egress: [{ ports: [{ protocol: 'TCP', port: 8080 }] }],
    }),
  );
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const weft = (node: 0 | 1, ...args: readonly string[]): Promise<string> => {
  const { stateDir } = cluster.nodes[node];
  return cluster.nodes[node].run([WEFT, ...args, `--state-dir=${stateDir}`]);
};

/** The first that the question finds, within seconds. */
const seen = async (node: 0 | 1, ...args: readonly string[]): Promise<FlowMessage> =>
  await poll(async () => {
    const found = JSON.parse(await weft(node, 'flows', '-o', 'json', ...args)) as FlowMessage[];
    return found.at(-1);
  }, within(SEEN_WITHIN_MS));

const tcp = (address: string, port: number) => ({ protocol: 'TCP', address, port }) as const;

test.serial('allowed: on both nodes, with names', async (t) => {
  const got = await answerOf(client.prober, tcp(web.pod.address4!, 8080), /^8080 /);
  t.regex(got, /^8080 /);
  for (const node of [0, 1] as const) {
    t.like(await seen(node, '--verdict', 'allow', '--to', 'default/web'), {
      node: cluster.nodes[node].name,
      verdict: 'forwarded',
      reason: null,
      direction: node === 0 ? 'egress' : 'ingress',
      protocol: 'TCP',
      source: { namespace: 'default', pod: 'client', node: 'n1' },
      destination: { namespace: 'default', pod: 'web', port: 8080, node: 'n2' },
      because: null,
    });
  }
});

test.serial('denied by egress of the sender: on its node, and nowhere else', async (t) => {
  t.is(await answerOf(client.prober, tcp(web.pod.address4!, 9999), /^nothing$/), 'nothing');
  t.like(await seen(0, '--verdict', 'deny', '--port', '9999'), {
    verdict: 'dropped',
    reason: 'policyEgress',
    tcpFlags: 'SYN',
    source: { pod: 'client' },
    destination: { pod: 'web', port: 9999 },
    because:
      'NetworkPolicy default/client-8080 isolates pod default/client for egress; no rule allows it',
  });
  t.is(await weft(1, 'flows', '--port', '9999'), '');
});

test.serial(
  'denied by ingress of the receiver: sent on one node, dropped on the other',
  async (t) => {
    t.is(await answerOf(client.prober, tcp(db.pod.address4!, 8080), /^nothing$/), 'nothing');
    t.like(await seen(1, '--reason', 'policyIngress', '--from', 'default/client'), {
      node: 'n2',
      reason: 'policyIngress',
      source: { pod: 'client' },
      destination: { pod: 'db', port: 8080 },
      because:
        'NetworkPolicy default/db-closed isolates pod default/db for ingress; no rule allows it',
    });
    t.like(await seen(0, '--to', 'default/db'), { verdict: 'forwarded', node: 'n1' });
  },
);

test.serial('through a Service: what was asked, and the backend', async (t) => {
  t.regex(await answerOf(client.prober, tcp(VIP, 80), /^8080 /), /^8080 /);
  t.like(await seen(0, '--service', 'default/web'), {
    verdict: 'forwarded',
    destination: { address: VIP, port: 80, pod: null },
    service: { namespace: 'default', name: 'web', port: '80' },
    backend: { address: web.pod.address4, port: 8080, pod: 'web' },
  });
  const line = await weft(0, 'flows', '--service', 'default/web', '--last', '1');
  t.regex(line, /^\S+ n1 default\/client:\d+ -> service\/default\/web:80 -> default\/web:8080 TCP/);
});

test.serial('followed: as they happen, and past a restart of the daemon', async (t) => {
  const node = cluster.nodes[0];
  const logFile = join(cluster.lab.directory, 'followed');
  const args = ['--follow', '-o', 'jsonl', '--to=default/web', `--state-dir=${node.stateDir}`];
  const following = await node.start([WEFT, 'flows', ...args], { logFile });
  const output = (): string => readFileSync(logFile, 'utf8');
  const said = (text: string, from = 0): Promise<true> =>
    poll(() => Promise.resolve(output().includes(text, from) ? true : undefined), within(20_000));
  // Until it follows, and sees one.
  const asking = setInterval(() => {
    void client.prober.ask({ ...tcp(web.pod.address4!, 8080), timeoutMs: 500 });
  }, 300);
  try {
    await said('"port":8080');
    await cluster.daemons[0]!.stop();
    await said('the daemon does not answer');
    await node.startDaemon([RANGES]);
    await said('the daemon has started anew');
    await said('"port":8080', output().indexOf('started anew'));
  } finally {
    clearInterval(asking);
  }
  t.is(await following.stop('SIGINT'), 0);
});

test.serial('a question that is none: exit code 2 and the reason', async (t) => {
  for (const [args, reason] of [
    [['--verdict', 'maybe'], /verdict: "maybe" is not allow or deny/],
    [['--from', 'a b'], /"a b" is no NAMESPACE\/POD/],
    [['--follow', '-o', 'json'], /say jsonl/],
    [['--sinze', '5m'], /did you mean/],
  ] as const) {
    const error = await t.throwsAsync(weft(0, 'flows', ...args));
    t.regex(error.message, reason);
  }
});
