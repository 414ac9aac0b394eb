/**
 * What operators see of flows, with real daemons and connections: `weft flows` tells what was let through
 * and what was denied, by whom and why; and goes on when the daemon starts anew.
 *
 *     n1: default/client        n2: default/web, default/db
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { askDaemon } from '../../daemon/api-client.ts';
import type { FlowMessage, LeaseMessage } from '../../daemon/messages.ts';
import { type Output, collect, poll } from '../../linux/program.ts';
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

/** The last that the question finds on this node, within seconds. */
const seen = async (node: 0 | 1, ...args: readonly string[]): Promise<FlowMessage> =>
  await poll(async () => {
    const found = JSON.parse(
      await weft(node, 'flows', '--node=own', '-o', 'json', ...args),
    ) as FlowMessage[];
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
  t.is(await weft(1, 'flows', '--node=own', '--port', '9999'), '');
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
  const line = await weft(0, 'flows', '--service=default/web', '--last=1');
  t.regex(line, /^\S+ n1 default\/client:\d+ -> service\/default\/web:80 -> default\/web:8080 TCP/);
});

test.serial('of all nodes, whichever is asked; --node narrows it', async (t) => {
  const { stateDir } = cluster.nodes[1];
  const { key } = await askDaemon<LeaseMessage>(stateDir, 'GET', '/v1/leases/own');
  const nodesOf = async (node: 0 | 1, ...args: readonly string[]): Promise<string> => {
    const got = await weft(node, 'flows', '-o', 'json', '--to=default/db', ...args);
    const found = JSON.parse(got) as FlowMessage[];
    t.deepEqual(
      found,
      found.toSorted((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0)),
    );
    return [...new Set(found.map((it) => it.node))].toSorted().join();
  };
  for (const node of [0, 1] as const) {
    t.is(await nodesOf(node), 'n1,n2');
    t.is(await nodesOf(node, '--node=own'), `n${node + 1}`);
    t.is(await nodesOf(node, '--node=n2'), 'n2');
    t.is(await nodesOf(node, '--node=n1', '--node=n2'), 'n1,n2');
  }
  t.is(await nodesOf(0, `--node=${key}`), 'n2');
  t.is(await nodesOf(0, `--node=${cluster.nodes[1].underlay4!}`), 'n2');
});

test.serial(
  'followed: all nodes, as they happen, and past the restart of each daemon',
  async (t) => {
    const node = cluster.nodes[0];
    const logFile = join(cluster.lab.directory, 'followed');
    const args = ['--follow', '-o', 'jsonl', '--to=default/web', `--state-dir=${node.stateDir}`];
    const following = await node.start([WEFT, 'flows', ...args], { logFile });
    const output = (): string => readFileSync(logFile, 'utf8');
    const said = (text: string, from = 0): Promise<true> =>
      poll(() => Promise.resolve(output().includes(text, from) ? true : undefined), within(20_000));
    const bothSince = async (text: string): Promise<void> => {
      const from = text === '' ? 0 : output().lastIndexOf(text);
      for (const it of ['"node":"n1","verdict"', '"node":"n2","verdict"']) await said(it, from);
    };
    // Until it follows, and sees one.
    const asking = setInterval(() => {
      void client.prober.ask({ ...tcp(web.pod.address4!, 8080), timeoutMs: 500 });
    }, 300);
    try {
      await bothSince('');
      await cluster.daemons[0]!.stop();
      await said('the daemon does not answer');
      const first = await node.startDaemon([RANGES]);
      await said('the daemon has started anew');
      await bothSince('the daemon has started anew');
      await cluster.daemons[1]!.stop();
      await said('n2 does not answer (');
      cluster.daemons = [first, await cluster.nodes[1].startDaemon([RANGES])];
      await said('n2 has started anew');
      await bothSince('n2 has started anew');
    } finally {
      clearInterval(asking);
    }
    t.is(await following.stop('SIGINT'), 0);
    const told = output()
      .split('\n')
      .filter((it) => it.startsWith('{'))
      .map((it) => JSON.parse(it) as FlowMessage);
    const twice = told.map((it) => `${it.node} ${it.sequence} ${it.time}`);
    t.is(new Set(twice).size, twice.length, 'nothing is told twice');
  },
);

test.serial('a question that is none: exit code 2 and the reason', async (t) => {
  for (const [args, reason] of [
    [['--verdict', 'maybe'], /verdict: "maybe" is not allow or deny/],
    [['--from', 'a b'], /"a b" is no NAMESPACE\/POD/],
    [['--follow', '-o', 'json'], /say jsonl/],
    [['--sinze', '5m'], /did you mean/],
    [['--node', 'n9'], /no node is called "n9"; there are n1, n2/],
    [['--node', 'n9', '--follow'], /no node is called "n9"; there are n1, n2/],
  ] as const) {
    const error = await t.throwsAsync(weft(0, 'flows', ...args));
    t.regex(error.message, reason);
  }
});

test.serial(
  'nodes that do not answer, or cannot be asked, are named; the rest is told',
  async (t) => {
    await cluster.start('etcd');
    const [first, second] = cluster.nodes;
    const seenBy = async (): Promise<Output> => {
      await client.prober.ask({ ...tcp(web.pod.address4!, 8080), timeoutMs: 500 });
      const argv = [WEFT, 'flows', '--to=default/web', `--state-dir=${first.stateDir}`];
      return await collect(argv, { netns: first.netns });
    };
    await poll(async () => {
      const { stdout, stderr } = await seenBy();
      return / n1 /.test(stdout) && / n2 /.test(stdout) && stderr === '' ? true : undefined;
    }, within(20_000));
    await cluster.daemons[1]!.stop();
    const without = await seenBy();
    t.is(without.exitCode, 0);
    t.regex(without.stderr, /^weft: without n2: (ECONN|no answer)/);
    t.regex(without.stdout, / n1 /);
    t.notRegex(without.stdout, / n2 /);
    await second.startDaemon([RANGES]);

    await cluster.daemons[0]!.stop();
    await first.startDaemon([RANGES, '--cluster-port=0']);
    const alone = await poll(async () => {
      const it = await seenBy();
      return / n1 /.test(it.stdout) ? it : undefined;
    }, within(20_000));
    t.is(alone.stderr, 'weft: without the other nodes: nodes are not asked, --cluster-port is 0\n');
    t.notRegex(alone.stdout, / n2 /);
  },
);
