import test from 'ava';
import { hashName, kubeProxyRules } from './kube-proxy.ts';
import { changedPolicies, policyRules, policySets } from './policy-agent.ts';
import { SMALL, churn, gate, objectsOf, switched } from './service-objects.ts';

const SERVER = '10.244.202.2';
const CLIENT = { namespace: 'lab', address: '10.244.201.2', device: 'pod1' };
const objects = objectsOf(SMALL, SERVER);

const linesOf = (text: string, part: string): string[] =>
  text.split('\n').filter((it) => it.includes(part));
/** Without the comments by which the agent knows its rules. */
const bodies = (lines: readonly string[]): string[] =>
  lines.map((it) => it.replace(/-m comment --comment "cali:[\w-]{16}" /, ''));

test("chains have the names that kube-proxy's have", (t) => {
  t.is(hashName('default/kubernetes:httpstcp'), 'NPX46M4PTMTKRN6Y');
  t.is(hashName('kube-system/kube-dns:dnsudp'), 'TCOU7JCQXEZGVUNU');
});

test('a Service is one rule, its endpoints share what is left', (t) => {
  const text = kubeProxyRules(objects);
  t.is(linesOf(text, 'lab/service-3 cluster IP').length, 2);
  const name = `KUBE-SVC-${hashName('lab/service-3tcp')}`;
  const shares = linesOf(text, `-A ${name} `).flatMap(
    (it) => /--probability ([\d.]+)/.exec(it)?.[1] ?? [],
  );
  t.deepEqual(
    shares,
    Array.from({ length: 9 }, (_, i) => (1 / (10 - i)).toFixed(10)),
  );
  t.is(linesOf(text, 'DNAT').length, 8 * 10 + 2);
});

test('a rule goes only to a chain that is declared before', (t) => {
  for (const text of [kubeProxyRules(objects), policyRules([...objects, gate(true)], [CLIENT])]) {
    const kernels = ['RETURN', 'ACCEPT', 'DROP', 'REJECT', 'MARK', 'MASQUERADE', 'DNAT'];
    const known = new Set(kernels);
    for (const line of text.split('\n')) {
      if (line.startsWith(':')) known.add(line.slice(1).split(' ')[0]!);
      const target = / -[jg] (\S+)/.exec(line)?.[1];
      if (target !== undefined) t.true(known.has(target), line);
    }
  }
});

test('a partial sync writes the portals of all and the chains of one', (t) => {
  for (const [isOn, portals, dnats, refused] of [
    [true, 11, 1, 0],
    [false, 10, 0, 1],
  ] as const) {
    const text = kubeProxyRules([...objects, ...switched(isOn, SERVER)], new Set(['switch']));
    t.is(
      linesOf(text, '-A KUBE-SERVICES').filter((it) => it.includes('cluster IP')).length,
      portals,
    );
    t.is(linesOf(text, 'DNAT').length, dnats);
    t.is(linesOf(text, 'has no endpoints').length, refused);
    t.deepEqual(linesOf(text, '-A PREROUTING'), []);
  }
});

test('above a thousand endpoints they have no comments', (t) => {
  const many = objectsOf({ ...SMALL, services: 200 }, SERVER);
  t.deepEqual(linesOf(kubeProxyRules(many), ' -> '), []);
  t.is(linesOf(kubeProxyRules(objects), ' -> ').length, 8 * 10 + 2);
});

test("only policies of this node's pods have chains", (t) => {
  const text = policyRules(objects, [CLIENT]);
  // Five of the set and the stream's; the stream's has no egress.
  t.is(linesOf(text, ':cali-pi-').length, 6);
  t.is(linesOf(text, ':cali-po-').length, 5);
  t.deepEqual(linesOf(policyRules(objects, []), ':cali-pi-'), []);
});

test('a policy is a rule for each peer, all its ports in one', (t) => {
  const first = linesOf(policyRules(objects, [CLIENT]), '1000,9000,5201');
  t.is(first.length, 3);
  t.deepEqual(
    bodies(first.filter((it) => it.includes(' -s ')))[0]!
      .split(' ')
      .slice(2),
    [
      ...'-p tcp -m multiport --destination-ports 1000,9000,5201'.split(' '),
      ...'-s 10.0.0.0/16 -j MARK --set-xmark 0x10000/0x10000'.split(' '),
    ],
  );
});

test('a change writes the chain of one policy', (t) => {
  for (const [policy, rules] of [
    [gate(true), 2],
    [gate(false), 0],
    [churn(3, 7), 2],
  ] as const) {
    const text = changedPolicies([policy]);
    t.is(linesOf(text, ':').filter((it) => it.startsWith(':')).length, 1);
    t.is(linesOf(text, '-A ').length, rules);
  }
});

test('a set has the pods that its selector finds', (t) => {
  const text = policySets(objects, [CLIENT], [CLIENT]);
  // app-0, app-2... app-8 of all namespaces, one pod each, and all of the namespace.
  t.is(linesOf(text, 'create').length, 6);
  t.is(linesOf(text, CLIENT.address).length, 1);
  t.is(linesOf(text, 'add').length, 6);
});
