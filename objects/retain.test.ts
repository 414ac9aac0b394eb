import test from 'ava';
import { parseObjects } from './parse.ts';
import { denyTerminating, retainPolicies, retainedObjects } from './retain.ts';
import { objectSetOf } from './set.ts';
import type { ObjectSet } from './types.ts';

const POLICY = { apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy' };

/** `ns:Terminating pod:app=web policy:p:app=web`: one namespace, called x. */
function setOf(text: string): ObjectSet {
  const items = text.split(' ').map((word) => {
    const [kind, ...rest] = word.split(':');
    const labels = Object.fromEntries(
      (rest.at(-1) ?? '').split(',').flatMap((it) => (it.includes('=') ? [it.split('=')] : [])),
    ) as unknown;
    const [first] = rest;
    switch (kind) {
      case 'ns':
        return {
          apiVersion: 'v1',
          kind: 'Namespace',
          metadata: { name: 'x' },
          status: { phase: first },
        };
      case 'policy':
        return {
          ...POLICY,
          metadata: { name: first, namespace: 'x' },
          spec: { podSelector: { matchLabels: labels } },
        };
      default:
        return {
          apiVersion: 'v1',
          kind: 'Pod',
          metadata: { name: 'pod', namespace: kind === 'other' ? 'y' : 'x', labels },
          status: { phase: kind === 'done' ? 'Succeeded' : 'Running' },
        };
    }
  });
  const { objects, problems } = parseObjects(JSON.stringify(items), 'x');
  if (problems.length > 0) throw new Error(JSON.stringify(problems));
  return objectSetOf(objects);
}

const cases: readonly (readonly [string, before: string, after: string, policies: string])[] = [
  ['deleted before its pods', 'policy:p', 'ns:Terminating pod', '/p'],
  ['not Terminating', 'policy:p', 'ns:Active pod', ''],
  ['nobody says what the namespace is', 'policy:p', 'pod', ''],
  ['no pods', 'policy:p', 'ns:Terminating', ''],
  ['only pods that are done', 'policy:p', 'ns:Terminating done', ''],
  ["another namespace's pod", 'policy:p', 'ns:Terminating other', ''],
  ['selects the pod', 'policy:p:app=web', 'ns:Terminating pod:app=web', '/p'],
  ['selects another pod', 'policy:p:app=web', 'ns:Terminating pod:app=db', ''],
  ['its namespace went with it', 'ns:Terminating policy:p', 'pod', '/p'],
  ['its namespace was Active, and went with it', 'ns:Active policy:p', 'pod', ''],
  ['one of two', 'policy:p policy:q', 'ns:Terminating pod policy:q', '/q /p'],
];

for (const [name, before, after, expected] of cases) {
  test(name, (t) => {
    const kept = retainPolicies(setOf(before), setOf(after));
    t.is([...kept.networkPolicies.keys()].map((it) => it.replace('x/', '/')).join(' '), expected);
  });
}

test('from step to step: kept until the last pod is gone', (t) => {
  const first = setOf('ns:Terminating pod policy:p');
  const second = retainPolicies(first, setOf('ns:Terminating pod'));
  const third = retainPolicies(second, setOf('ns:Terminating pod'));
  t.is(third.networkPolicies.get('x/p'), first.networkPolicies.get('x/p'));
  const fourth = setOf('ns:Terminating');
  t.is(retainPolicies(third, fourth), fourth);
});

test('a Namespace that vanishes before its pods ends nothing; one that is made anew does', (t) => {
  const first = setOf('ns:Terminating pod policy:p');
  const second = retainPolicies(first, setOf('pod'));
  const third = retainPolicies(second, setOf('pod'));
  t.deepEqual([...third.networkPolicies.keys()], ['x/p']);
  t.is(third.namespaces.get('/x')?.phase, 'Terminating');
  const anew = setOf('ns:Active pod');
  t.is(retainPolicies(third, anew), anew);
});

test('what is retained: the policy, and the Namespace that says so', (t) => {
  const first = setOf('ns:Terminating pod policy:p policy:q');
  const after = setOf('pod policy:q');
  const kept = retainPolicies(first, after);
  t.deepEqual(retainedObjects(kept, after), [
    first.namespaces.get('/x')!,
    first.networkPolicies.get('x/p')!,
  ]);
  t.deepEqual(retainedObjects(after, after), []);
});

test('what was retained is lost: pods of Terminating namespaces are isolated', (t) => {
  const after = setOf('ns:Terminating pod');
  const kept = retainPolicies(denyTerminating(after), after);
  t.is(kept.networkPolicies.size, 1);
  const active = setOf('ns:Active pod');
  t.is(retainPolicies(denyTerminating(active), active), active);
});

test('a policy that changed is the new one', (t) => {
  const after = setOf('ns:Terminating pod policy:p:app=web');
  t.is(retainPolicies(setOf('policy:p'), after), after);
});
