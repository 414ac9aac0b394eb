import test from 'ava';
import { parseObjects } from './parse.ts';
import { mergeSets, objectSetOf } from './set.ts';
import { EMPTY_OBJECTS, type WeftObject } from './types.ts';

/** `Pod a/x`, `Node x`, with a label v if one is given. */
function objectsOf(...names: readonly string[]): readonly WeftObject[] {
  const items = names.map((it) => {
    const [kind, path, v = ''] = it.split(' ');
    const [name, namespace] = path!.split('/').toReversed();
    const base = { apiVersion: 'v1', kind, metadata: { name, namespace, labels: { v } } };
    return kind === 'Service' ? { ...base, spec: { clusterIP: 'None' } } : base;
  });
  const { objects, problems } = parseObjects(JSON.stringify(items), 'x');
  if (problems.length > 0) throw new Error(JSON.stringify(problems));
  return objects;
}

test('by kind, by namespace and name; the last one wins', (t) => {
  const [first, node, other, last] = objectsOf('Pod a/x 1', 'Node x', 'Pod b/x', 'Pod a/x 2');
  const set = objectSetOf([first!, node!, other!, last!]);
  t.deepEqual([...set.pods], [
    ['a/x', last],
    ['b/x', other],
  ] as never);
  t.deepEqual([...set.nodes], [['/x', node]] as never);
});

test('nothing is the empty set', (t) => t.is(objectSetOf([]), EMPTY_OBJECTS));

test('what has not changed is the same: set, maps', (t) => {
  const objects = objectsOf('Pod a/x', 'Node x');
  const before = objectSetOf(objects);
  t.is(objectSetOf(objects, before), before);
  const after = objectSetOf([...objects, ...objectsOf('Pod a/y')], before);
  t.not(after.pods, before.pods);
  t.is(after.nodes, before.nodes);
  t.is(after.services, before.services);
  t.not(objectSetOf(objectsOf('Pod a/x', 'Node x'), before).pods, before.pods);
});

const NAME = 'kubernetes.io/metadata.name';

test('every namespace that has an object has a Namespace', (t) => {
  const merged = mergeSets([
    objectSetOf(objectsOf('Pod a/x', 'Node n', 'Namespace c 1')),
    objectSetOf(objectsOf('Service b/x')),
  ]);
  t.deepEqual([...merged.namespaces.keys()].toSorted(), ['/a', '/b', '/c']);
  t.deepEqual(merged.namespaces.get('/a')?.metadata.labels, { [NAME]: 'a' });
  t.deepEqual(merged.namespaces.get('/c')?.metadata.labels, { [NAME]: 'c', v: '1' });
});

test('a Namespace says its name, whatever it was given', (t) => {
  const [given] = objectsOf('Namespace a');
  if (given?.kind !== 'Namespace') throw new Error('no Namespace');
  const lying = { ...given, metadata: { ...given.metadata, labels: { [NAME]: 'b' } } };
  const merged = mergeSets([objectSetOf([lying])]);
  t.deepEqual(merged.namespaces.get('/a')?.metadata.labels, { [NAME]: 'a' });
});

test('of two sets the later wins', (t) => {
  const [first, second] = [objectsOf('Pod a/x 1'), objectsOf('Pod a/x 2')];
  const merged = mergeSets([objectSetOf(first), objectSetOf(second)]);
  t.is(merged.pods.get('a/x'), second[0] as never);
});

test('merged again, what has not changed is the same: set, maps, Namespaces nobody gave', (t) => {
  const [one, two] = [objectSetOf(objectsOf('Pod a/x')), objectSetOf(objectsOf('Node n'))];
  const before = mergeSets([one, two]);
  t.is(mergeSets([one, two], before), before);
  const more = objectSetOf(objectsOf('Node n', 'Node o'), two);
  const after = mergeSets([one, more], before);
  t.is(after.namespaces, before.namespaces);
  t.is(after.pods, one.pods);
  t.is(after.nodes.size, 2);
});
