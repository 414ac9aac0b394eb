import { mkdtempSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { replaceFile } from '../linux/files.ts';
import { parseObjects } from '../objects/parse.ts';
import { objectSetOf } from '../objects/set.ts';
import {
  EMPTY_OBJECTS,
  type Namespace,
  type NetworkPolicy,
  type ObjectSet,
} from '../objects/types.ts';
import { PolicyCompiler } from '../policy/compile.ts';
import { RetainedFile, readRetained, retainedText } from './retained-policies.ts';

const root = mkdtempSync(join(tmpdir(), 'weft-retained-'));
test.after.always(() => rm(root, { recursive: true }));
let files = 0;
const fresh = (): string => join(root, `${files++}.json`);

const POD = `
apiVersion: v1
kind: Pod
metadata: { name: a, namespace: x, labels: { app: web } }
status: { podIP: 10.244.1.2 }`;
const NAMESPACE = `
apiVersion: v1
kind: Namespace
metadata: { name: x, labels: { team: a } }
status: { phase: Terminating }`;
const POLICY = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: p, namespace: x }
spec:
  podSelector: { matchExpressions: [{ key: app, operator: In, values: [web] }] }
  policyTypes: [Egress, Ingress]
  ingress:
    - from:
        - ipBlock: { cidr: 10.0.0.0/8, except: [10.1.0.0/16] }
        - ipBlock: { cidr: "fd00::/8" }
        - podSelector: {}
        - namespaceSelector: { matchLabels: { team: a } }
          podSelector: {}
      ports: [{ port: 80, endPort: 90 }, { port: http, protocol: SCTP }, { protocol: UDP }]
    - {}
  egress: [{ to: [{ namespaceSelector: {} }] }]`;
const setOf = (...texts: readonly string[]): ObjectSet => {
  const { objects, problems } = parseObjects(texts.join('\n---'), 'x');
  if (problems.length > 0) throw new Error(JSON.stringify(problems));
  return objectSetOf(objects);
};
const retainedIn = ({ namespaces, networkPolicies }: ObjectSet): (Namespace | NetworkPolicy)[] => [
  ...namespaces.values(),
  ...networkPolicies.values(),
];
const inputsOf = (objects: ObjectSet) => ({
  objects,
  subjects: new Set(['x/a']),
  nodeName: 'n1',
  nodeAddresses: [],
});
const never = (error: Error): void => {
  throw error;
};

test('what is written is what is read', async (t) => {
  const path = fresh();
  const set = setOf(NAMESPACE, POLICY);
  await replaceFile(path, retainedText(retainedIn(set)), 0o600);
  const { before, reason } = await readRetained(path);
  t.is(reason, '');
  t.deepEqual(before?.namespaces, set.namespaces);
  t.deepEqual(before?.networkPolicies, set.networkPolicies);
});

test('a compiler that begins with the file goes on where the other was', async (t) => {
  const path = fresh();
  const first = new PolicyCompiler();
  const file = new RetainedFile(path, [], never);
  file.keep(first.retained);
  await file.idle();
  t.throws(() => statSync(path), { code: 'ENOENT' }, 'nothing retained, nothing written');
  const isolating = first.compile(inputsOf(setOf(POD, NAMESPACE, POLICY)));
  const kept = first.compile(inputsOf(setOf(POD)));
  t.deepEqual(kept, isolating, 'policy and Namespace are deleted, the pod lives');
  file.keep(first.retained);
  await file.idle();
  t.is(statSync(path).mode & 0o777, 0o600);

  const { before } = await readRetained(path);
  const second = new PolicyCompiler(before);
  const { generation: _, ...tables } = second.compile(inputsOf(setOf(POD)));
  t.like(isolating, tables);
  second.compile(inputsOf(setOf()));
  const again = new RetainedFile(path, first.retained, never);
  again.keep(second.retained);
  await again.idle();
  t.is(readFileSync(path, 'utf8'), '[]\n', 'the last pod is gone');
});

test('none is none', async (t) => {
  t.deepEqual(await readRetained(fresh()), { before: EMPTY_OBJECTS, reason: '' });
});

for (const [title, text] of [
  ['cut short', retainedText(retainedIn(setOf(NAMESPACE, POLICY))).slice(0, 100)],
  ['empty', ''],
  ['another shape', '7'],
  ['an object alone', '{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}}'],
  ['a policy that is not valid', retainedText(retainedIn(setOf(POLICY))).replace('"In"', '"Im"')],
] as const) {
  test(`a file that is ${title} is said, and Terminating namespaces are isolated`, async (t) => {
    const path = fresh();
    writeFileSync(path, text);
    const { before, reason } = await readRetained(path);
    t.is(before, null);
    t.not(reason, '');
    const compiler = new PolicyCompiler(before);
    compiler.compile(inputsOf(setOf(POD, NAMESPACE)));
    t.is(compiler.retained.length, 2);
  });
}

test('a file that cannot be read is said', async (t) => {
  const path = fresh();
  await mkdir(path);
  t.deepEqual(await readRetained(path), { before: null, reason: 'cannot be read (EISDIR)' });
});

test('only the latest is written, and a write that failed is tried again', async (t) => {
  const path = fresh();
  const errors: string[] = [];
  const texts: string[] = [];
  let isFull = true;
  const file = new RetainedFile(
    path,
    [],
    ({ message }) => errors.push(message),
    async (_, text) => {
      await Promise.resolve();
      if (isFull) throw new Error('ENOSPC');
      texts.push(text);
    },
  );
  const all = retainedIn(setOf(NAMESPACE, POLICY));
  file.keep(all);
  await file.idle();
  t.deepEqual(errors, ['ENOSPC']);
  isFull = false;
  file.keep(all);
  file.keep([]);
  file.keep(all.slice(0, 1));
  await file.idle();
  file.keep(all.slice(0, 1));
  await file.idle();
  t.is(texts.at(-1), retainedText(all.slice(0, 1)));
  t.true(texts.length <= 2);
});
