/**
 * Sets of objects: from a list, and from several sets. Level, not edge, and cheap to compare all the same:
 * a map that has not changed is the very map of the set before, and so is a whole set.
 */
import { NAMESPACE_NAME_LABEL } from './schema.ts';
import {
  EMPTY_OBJECTS,
  type Kind,
  type Namespace,
  type ObjectSet,
  type WeftObject,
  nameOf,
} from './types.ts';

type MapName = keyof ObjectSet;
type ObjectOf<K extends MapName> = ObjectSet[K] extends ReadonlyMap<string, infer T> ? T : never;

const MAPS: Readonly<Record<Kind, MapName>> = {
  Namespace: 'namespaces',
  Pod: 'pods',
  Node: 'nodes',
  Service: 'services',
  EndpointSlice: 'endpointSlices',
  NetworkPolicy: 'networkPolicies',
  ClusterNetworkPolicy: 'clusterNetworkPolicies',
};
const NAMESPACED = ['pods', 'services', 'endpointSlices', 'networkPolicies'] as const;

/** `after`, or `before` if it holds the same objects in the same order. */
function sameMap<T>(
  before: ReadonlyMap<string, T>,
  after: ReadonlyMap<string, T>,
): ReadonlyMap<string, T> {
  if (before === after) return before;
  if (before.size !== after.size) return after;
  const others = before.entries();
  for (const [key, value] of after) {
    const { value: other } = others.next();
    if (other?.[0] !== key || other[1] !== value) return after;
  }
  return before;
}

/** `after` with every map of `before` that is equal to its own; `before` if all are. */
function sameSet(before: ObjectSet, after: ObjectSet): ObjectSet {
  const set: ObjectSet = {
    namespaces: sameMap(before.namespaces, after.namespaces),
    pods: sameMap(before.pods, after.pods),
    nodes: sameMap(before.nodes, after.nodes),
    services: sameMap(before.services, after.services),
    endpointSlices: sameMap(before.endpointSlices, after.endpointSlices),
    networkPolicies: sameMap(before.networkPolicies, after.networkPolicies),
    clusterNetworkPolicies: sameMap(before.clusterNetworkPolicies, after.clusterNetworkPolicies),
  };
  return Object.values(MAPS).every((name) => set[name] === before[name]) ? before : set;
}

/**
 * The last of a kind and name wins.
 * @param before  the set that was made last: its maps are kept where nothing has changed
 */
export function objectSetOf(
  objects: Iterable<WeftObject>,
  before: ObjectSet = EMPTY_OBJECTS,
): ObjectSet {
  const set: Record<MapName, Map<string, WeftObject>> = {
    namespaces: new Map(),
    pods: new Map(),
    nodes: new Map(),
    services: new Map(),
    endpointSlices: new Map(),
    networkPolicies: new Map(),
    clusterNetworkPolicies: new Map(),
  };
  for (const it of objects) set[MAPS[it.kind]].set(nameOf(it), it);
  // Each map holds the objects of its kind: MAPS says so.
  return sameSet(before, set as unknown as ObjectSet);
}

/** With other objects of one kind, of two with one name the last; the very set, if they are the same. */
export function withKind(set: ObjectSet, kind: Kind, objects: Iterable<WeftObject>): ObjectSet {
  const after = new Map<string, WeftObject>();
  for (const it of objects) after.set(nameOf(it), it);
  const before: ReadonlyMap<string, WeftObject> = set[MAPS[kind]];
  return sameMap(before, after) === before ? set : { ...set, [MAPS[kind]]: after };
}

/** With these instead of objects of the kind that have their names and are there; the last of a name counts. */
export function withChanged(set: ObjectSet, kind: Kind, objects: readonly WeftObject[]): ObjectSet {
  if (objects.length === 0) return set;
  const after = new Map<string, WeftObject>();
  // As an iterator does it, but without an array for each.
  set[MAPS[kind]].forEach((it, name) => after.set(name, it));
  for (const it of objects) after.set(nameOf(it), it);
  return { ...set, [MAPS[kind]]: after };
}

/** A Namespace object that says what is true of it anyway: its name, as a label. */
export function withNameLabel(namespace: Namespace): Namespace {
  const { metadata } = namespace;
  if (
    Object.hasOwn(metadata.labels, NAMESPACE_NAME_LABEL) &&
    metadata.labels[NAMESPACE_NAME_LABEL] === metadata.name
  ) {
    return namespace;
  }
  const labels = { ...metadata.labels, [NAMESPACE_NAME_LABEL]: metadata.name };
  return { ...namespace, metadata: { ...metadata, labels } };
}

/** The Namespace of objects whose own nobody has given. */
const implied = (name: string): Namespace => ({
  kind: 'Namespace',
  metadata: { name, namespace: '', labels: { [NAMESPACE_NAME_LABEL]: name }, annotations: {} },
  phase: 'Active',
});

const isImplied = ({ metadata, phase }: Namespace): boolean =>
  phase === 'Active' &&
  Object.keys(metadata.labels).length === 1 &&
  Object.keys(metadata.annotations).length === 0;

/**
 * One set of several; of two objects of a kind and name the later set's wins. Every namespace that has an
 * object has a Namespace, and every Namespace the label of its name.
 * @param before  what was made of these sets last: objects and maps are kept where nothing has changed
 */
export function mergeSets(
  sets: readonly ObjectSet[],
  before: ObjectSet = EMPTY_OBJECTS,
): ObjectSet {
  const merged = <K extends MapName>(name: K): ReadonlyMap<string, ObjectOf<K>> => {
    const maps = sets
      .map((set) => set[name] as ReadonlyMap<string, ObjectOf<K>>)
      .filter((map) => map.size > 0);
    return maps.length === 1 ? maps[0]! : new Map(maps.flatMap((map) => [...map]));
  };
  const set: ObjectSet = {
    namespaces: new Map(),
    pods: merged('pods'),
    nodes: merged('nodes'),
    services: merged('services'),
    endpointSlices: merged('endpointSlices'),
    networkPolicies: merged('networkPolicies'),
    clusterNetworkPolicies: merged('clusterNetworkPolicies'),
  };
  const namespaces = new Map<string, Namespace>();
  for (const [key, it] of merged('namespaces')) namespaces.set(key, withNameLabel(it));
  for (const name of NAMESPACED) {
    for (const { metadata } of set[name].values()) {
      const key = `/${metadata.namespace}`;
      if (namespaces.has(key)) continue;
      const known = before.namespaces.get(key);
      const kept = known !== undefined && isImplied(known);
      namespaces.set(key, kept ? known : implied(metadata.namespace));
    }
  }
  return sameSet(before, { ...set, namespaces });
}
