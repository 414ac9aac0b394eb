/**
 * Traces, and whether they tell the truth: what is traced is asked of real pods too.
 *
 *     n1: default/a asks     n2: default/b and n1: default/c answer at 8080, behind Service web (port 80)
 */
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { LiveTraceMessage, TraceMessage } from '../../daemon/messages.ts';
import { collect } from '../../linux/program.ts';
import { Cluster, answerOf, netpol, service } from '../lab/cluster.ts';
import type { LabNode } from '../lab/lab.ts';
import type { Prober } from '../lab/prober.ts';

const WEFT = join(import.meta.dirname, '..', '..', 'bin', 'weft');
const VIP = '10.96.0.10';

let cluster: Cluster;
let a: Prober;
let b: string;
let c: string;
let b6: string;

test.before(async () => {
  cluster = await Cluster.open('tr');
  ({ prober: a } = await cluster.addPod(0, 'a', 'app=client'));
  const { pod } = await cluster.addPod(1, 'b', 'app=web', [8080]);
  b = pod.address4!;
  b6 = pod.address6!;
  c = (await cluster.addPod(0, 'c', 'app=web', [8080])).pod.address4!;
  const ports = [{ name: 'tcp', protocol: 'TCP', port: 80, targetPort: 8080 }];
  await cluster.put(service('web', [VIP], { selector: { app: 'web' }, ports }));
  await answerOf(a, { protocol: 'TCP', address: VIP, port: 80 }, / [bc]$/);
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

async function trace(node: LabNode, ...words: readonly string[]) {
  const argv = [WEFT, 'trace', `--state-dir=${node.stateDir}`, '-o', 'json', ...words];
  const { stdout, stderr, exitCode } = await collect(argv, { netns: node.netns });
  if (stdout === '') throw new Error(stderr);
  const message = JSON.parse(stdout) as TraceMessage;
  return { message, exitCode };
}

/** The stages of each path, `n1 egress`, the last with its reason. */
const pathsOf = ({ paths }: TraceMessage): string[] =>
  paths.map(({ stages }) =>
    stages.map(({ stage, reason }) => stage + (reason === null ? '' : `:${reason}`)).join(' '),
  );

const fromA = (to: string, port: number) => [
  '--from',
  'default/a',
  '--to',
  to,
  ...(port === 0 ? [] : ['--port', String(port)]),
];
const nodesOf = ({ paths }: TraceMessage): string =>
  [...new Set(paths.flatMap(({ stages }) => stages.map(({ node }) => node)))].join(' ');

async function isAnswered(t: ExecutionContext, address: string, port: number, expected: RegExp) {
  t.regex(await answerOf(a, { protocol: 'TCP', address, port }, expected), expected);
}

test.serial('to a pod of the other node, from both nodes alike', async (t) => {
  for (const node of cluster.nodes) {
    const { message, exitCode } = await trace(node, ...fromA('default/b', 8080));
    t.is(exitCode, 0);
    t.deepEqual(pathsOf(message), ['pod tun egress route receive ingress pod']);
    t.is(nodesOf(message), 'n1 n2');
    t.true(message.arrives);
    const [{ stages } = { stages: [] }] = message.paths;
    t.regex(
      stages.find(({ stage }) => stage === 'route')!.text,
      /by VXLAN to node n2 at 172\.31\./,
    );
  }
});

test.serial('to a pod of the same node, to nobody, and out of the overlay', async (t) => {
  const [node] = cluster.nodes;
  for (const [to, paths, exitCode] of [
    ['default/c', 'pod tun egress route ingress pod', 0],
    [c.replace(/\d+$/, '200'), 'pod tun egress route pod:noPod', 1],
    ['10.244.255.9', 'pod tun egress route:noPeer', 1],
    ['198.51.100.1', 'pod tun egress route', 0],
    ['10.96.9.9', 'pod tun service:unallocated', 1],
  ] as const) {
    const traced = await trace(node, ...fromA(to, 8080));
    t.deepEqual(pathsOf(traced.message), [paths], to);
    t.is(traced.exitCode, exitCode, to);
  }
});

test.serial('through a Service: a path for each endpoint', async (t) => {
  const [node] = cluster.nodes;
  for (const to of ['default/web', 'service/default/web', VIP]) {
    const { message, exitCode } = await trace(node, ...fromA(to, 80));
    t.is(exitCode, 0);
    t.deepEqual(
      message.paths.map(({ backend }) => String(backend)).toSorted(),
      [`${b}:8080 (pod default/b)`, `${c}:8080 (pod default/c)`].toSorted(),
    );
  }
  const unused = await trace(node, ...fromA('default/web', 81));
  t.deepEqual(pathsOf(unused.message), ['pod tun service:unusedPort']);
});

test.serial('what policy denies, with the reason, as real packets meet it', async (t) => {
  const denyIngress = netpol('no-entry', {
    podSelector: { matchLabels: { app: 'web' } },
    ingress: [],
  });
  const denyEgress = netpol('no-exit', {
    podSelector: { matchLabels: { app: 'client' } },
    policyTypes: ['Egress'],
    egress: [{ to: [{ ipBlock: { cidr: `${c}/32` } }] }],
  });
  await cluster.put(denyIngress);
  await isAnswered(t, b, 8080, /^nothing/);
  for (const node of cluster.nodes) {
    const { message, exitCode } = await trace(node, ...fromA('default/b', 8080));
    t.is(exitCode, 1);
    t.deepEqual(pathsOf(message), ['pod tun egress route receive ingress:policyIngress']);
    const { node: where, text } = message.paths[0]!.stages.at(-1)!;
    t.is(where, 'n2');
    t.regex(text, /NetworkPolicy default\/no-entry isolates pod default\/b/);
  }
  await cluster.remove(denyIngress);
  await isAnswered(t, b, 8080, / b$/);
  await cluster.put(denyEgress);
  await isAnswered(t, b, 8080, /^nothing/);
  const { message, exitCode } = await trace(cluster.nodes[0], ...fromA('default/web', 80));
  t.is(exitCode, 1);
  t.deepEqual(
    pathsOf(message).toSorted(),
    ['pod tun service egress route ingress pod', 'pod tun service egress:policyEgress'].toSorted(),
  );
  await cluster.remove(denyEgress);
  await isAnswered(t, b, 8080, / b$/);
});

async function live(node: LabNode, ...words: readonly string[]) {
  const argv = [WEFT, 'trace', '--live', `--state-dir=${node.stateDir}`, '-o', 'json', ...words];
  const { stdout, stderr, exitCode } = await collect(argv, { netns: node.netns });
  if (stdout === '') throw new Error(stderr);
  return { ...(JSON.parse(stdout) as LiveTraceMessage), exitCode };
}

for (const [name, to, port, protocol, outcome, answer, nodes] of [
  ['TCP to the other node', () => 'default/b', 8080, 'TCP', 'answered', 'SYN-ACK', 'n1 n2 n2 n1'],
  ['TCP to the same node', () => 'default/c', 8080, 'TCP', 'answered', 'SYN-ACK', 'n1 n1'],
  ['TCP to a closed port', () => 'default/b', 9, 'TCP', 'refused', 'RST', 'n1 n2 n2 n1'],
  ['TCP through a Service', () => 'default/web', 80, 'TCP', 'answered', 'SYN-ACK', ''],
  ['a port that the Service has not', () => 'default/web', 81, 'TCP', 'dropped', null, ''],
  ['UDP', () => 'default/b', 8080, 'UDP', 'answered', 'datagram', 'n1 n2 n2 n1'],
  [
    'UDP to a closed port',
    () => 'default/b',
    9,
    'UDP',
    'refused',
    'ICMP error type 3 code 3',
    'n1 n2 n2 n1',
  ],
  ['an echo', () => 'default/b', 0, 'ICMP', 'answered', 'echo reply', 'n1 n2 n2 n1'],
  ['nobody', () => c.replace(/\d+$/, '200'), 80, 'TCP', 'dropped', null, ''],
  ['TCP over IPv6', () => b6, 8080, 'TCP', 'answered', 'SYN-ACK', 'n1 n2 n2 n1'],
  ['an echo over IPv6', () => b6, 0, 'ICMP', 'answered', 'echo reply', 'n1 n2 n2 n1'],
] as const) {
  test.serial(`live: ${name}`, async (t) => {
    const got = await live(cluster.nodes[0], ...fromA(to(), port), '--protocol', protocol);
    const what = JSON.stringify(got.seen);
    t.is(got.outcome, outcome, what);
    t.is(got.answer, answer, what);
    t.is(got.exitCode, outcome === 'answered' ? 0 : 1);
    t.is(got.seen[0]!.direction, 'egress');
    t.deepEqual(got.absent, []);
    // The pod may be seen to end what it knows nothing of.
    t.true(
      got.seen
        .map(({ node }) => node)
        .join(' ')
        .startsWith(nodes),
      what,
    );
  });
}

test.serial('live: what policy denies, here and there', async (t) => {
  const denyIngress = netpol('no-entry', {
    podSelector: { matchLabels: { app: 'web' } },
    ingress: [],
  });
  const denyEgress = netpol('no-exit', {
    podSelector: { matchLabels: { app: 'client' } },
    policyTypes: ['Egress'],
    egress: [],
  });
  await cluster.put(denyIngress);
  await isAnswered(t, b, 8080, /^nothing/);
  const there = await live(cluster.nodes[0], ...fromA('default/b', 8080));
  t.is(there.outcome, 'dropped');
  t.deepEqual(
    there.seen.map(({ node, reason }) => [node, reason]),
    [
      ['n1', null],
      ['n2', 'policyIngress'],
    ],
  );
  t.is(there.seen[0]!.text, 'forwarded egress');
  t.regex(there.seen[1]!.text, /NetworkPolicy default\/no-entry isolates pod default\/b/);
  t.is(there.trace.paths[0]!.stages.at(-1)!.reason, 'policyIngress');
  await cluster.remove(denyIngress);
  await isAnswered(t, b, 8080, / b$/);
  await cluster.put(denyEgress);
  await isAnswered(t, b, 8080, /^nothing/);
  const here = await live(cluster.nodes[0], ...fromA('default/b', 8080));
  t.is(here.outcome, 'dropped');
  t.regex(here.seen[0]!.text, /^dropped: policyEgress, NetworkPolicy default\/no-exit isolates/);
  await cluster.remove(denyEgress);
  await isAnswered(t, b, 8080, / b$/);
  const other = await collect(
    [
      WEFT,
      'trace',
      '--live',
      `--state-dir=${cluster.nodes[1].stateDir}`,
      ...fromA('default/b', 80),
    ],
    { netns: cluster.nodes[1].netns },
  );
  t.regex(other.stderr, /no network namespace that is known on this node: ask its own node/);
});

test.serial('people read it, and what is asked wrong is refused', async (t) => {
  const [node] = cluster.nodes;
  const weft = [WEFT, 'trace', `--state-dir=${node.stateDir}`];
  const text = await node.run([...weft, ...fromA('default/b', 8080)]);
  t.regex(text, /^default\/a > \S+:8080 \(pod default\/b\) TCP$/m);
  t.regex(text, /^n2 +ingress +ok +no policy selects pod default\/b for ingress$/m);
  t.regex(text, /^arrives$/m);
  for (const [words, message] of [
    [fromA('default/nobody', 1), /there is no pod or Service default\/nobody/],
    [fromA('default/b', 0), /say which port/],
    [fromA('default/b', 70_000), /port: "70000"/],
    [['--from', 'default/x', '--to', b, '--port', '1'], /there is no pod default\/x/],
    [['--from', 'default/a'], /--to/],
  ] as const) {
    const { stderr, exitCode } = await collect([...weft, ...words], { netns: node.netns });
    t.regex(stderr, message);
    t.is(exitCode, 2);
  }
});

test.serial('live: the other node does not answer: said, and this node goes on', async (t) => {
  await cluster.daemons[1]!.stop();
  const [node] = cluster.nodes;
  const argv = [WEFT, 'trace', '--live', `--state-dir=${node.stateDir}`];
  const { stderr, stdout, exitCode } = await collect([...argv, ...fromA('default/b', 8080)], {
    netns: node.netns,
  });
  t.is(exitCode, 1);
  t.regex(stderr, /^weft: not watched on n2: (ECONN|no answer)/);
  t.regex(stdout, /^n1 +[\d.]+ ms +egress/m);
  t.regex(stdout, /no answer: it went on from where it was seen last/);
});
