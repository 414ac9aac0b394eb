/**
 * Objects from etcd: what was applied, and the pods that nodes have attached, as one set; and several
 * sources as one.
 */
import { shown } from '../ipam/lease-codec.ts';
import {
  type Kind,
  type ObjectProblem,
  type ObjectSet,
  type ObjectSource,
  type Pod,
  type WeftObject,
  describeObject,
  nameOf,
} from '../objects/types.ts';
import { isIgnored, parseObjects } from '../objects/parse.ts';
import type { Listing, Store, StoreEntry, StoreError } from '../store/store.ts';
import {
  INTERFACE_OF,
  objectsPrefix,
  parseObjectKey,
  parsePodKey,
  podsPrefix,
} from './object-keys.ts';

/** The whole list of what is wrong now, whenever it changes. Must not throw. */
export type OnProblems = (problems: readonly ObjectProblem[]) => void;

/** etcd takes 1.5 MiB unless it is told otherwise; no object of ours comes near. */
const VALUE_CHARS_MAX = 2 << 20;

type ObjectOf<K extends Kind> = Extract<WeftObject, { readonly kind: K }>;
const isKind = <K extends Kind>(object: WeftObject, kind: K): object is ObjectOf<K> =>
  object.kind === kind;

/** One key as it was last read. */
interface Held {
  readonly entry: StoreEntry;
  /** The last that was valid; while none ever was, what stands in for it, or null. */
  readonly object: WeftObject | null;
  readonly wasValid: boolean;
  readonly problems: readonly ObjectProblem[];
}

/** @param whose  what the object must be to stand under its key; null: nothing can stand there */
function decode(
  entry: StoreEntry,
  before: Held | undefined,
  whose: (object: WeftObject) => boolean,
): Held {
  const place = shown(entry.key);
  const refuse = (reason: string, object = '', field = ''): Held => ({
    entry,
    object: before?.object ?? null,
    wasValid: before?.wasValid ?? false,
    problems: [{ place, object, field, reason }],
  });
  if (entry.value.length > VALUE_CHARS_MAX) return refuse('it is larger than 2 MiB');
  // YAML would take what is no JSON.
  try {
    JSON.parse(entry.value);
  } catch {
    return refuse('it is no JSON');
  }
  const { objects, problems, standIns } = parseObjects(entry.value, place);
  const [object] = objects;
  const told = problems.map((it) => ({ ...it, place }));
  if (problems.some((it) => !isIgnored(it))) {
    if (before?.wasValid === true) return { ...before, entry, problems: told };
    const standIn = standIns.find(whose) ?? null;
    return { entry, object: standIn, wasValid: false, problems: told };
  }
  if (object === undefined || objects.length > 1) return refuse('it holds not one object');
  if (!whose(object))
    return refuse('its kind, namespace or name is not that of the key', describeObject(object));
  return { entry, object, wasValid: true, problems: told };
}

/** What the keys below one prefix say; an entry that did not change is not read again. */
class Folder {
  #held = new Map<string, Held>();
  readonly #whose: (key: string) => ((object: WeftObject) => boolean) | null;

  constructor(whose: (key: string) => ((object: WeftObject) => boolean) | null) {
    this.#whose = whose;
  }

  /** The kinds of which an object has changed, come or gone. */
  read({ entries }: Listing): ReadonlySet<Kind> {
    const changed = new Set<Kind>();
    const held = new Map<string, Held>();
    for (const [key, entry] of entries) {
      const before = this.#held.get(key);
      const now = before?.entry === entry ? before : this.#decode(entry, before);
      held.set(key, now);
      for (const it of [before?.object, now.object]) {
        if (before?.object !== now.object && it) changed.add(it.kind);
      }
    }
    for (const [key, { object }] of this.#held) {
      if (!held.has(key) && object !== null) changed.add(object.kind);
    }
    this.#held = held;
    return changed;
  }

  #decode(entry: StoreEntry, before: Held | undefined): Held {
    const whose = this.#whose(entry.key);
    if (whose !== null) return decode(entry, before, whose);
    const place = shown(entry.key);
    const problem = { place, object: '', field: '', reason: 'no object has such a key' };
    return { entry, object: null, wasValid: false, problems: [problem] };
  }

  *objects<K extends Kind>(kind: K): Generator<ObjectOf<K>> {
    for (const { object } of this.#held.values()) {
      if (object !== null && isKind(object, kind)) yield object;
    }
  }

  /** The oldest first. */
  newestLast(): readonly WeftObject[] {
    return [...this.#held.values()]
      .toSorted((a, b) => a.entry.createRevision - b.entry.createRevision)
      .flatMap(({ object }) => object ?? []);
  }

  problems(): readonly ObjectProblem[] {
    return [...this.#held.values()].flatMap(({ problems }) => problems);
  }
}

/**
 * A pod that was applied, and attached on a node: metadata and spec are the operator's, where it runs and
 * with which addresses is the node's to say.
 */
function mergePod(applied: Pod, attached: Pod): Pod {
  const { nodeName, podIPs, phase } = attached;
  const ready = applied.phase === 'Running' ? applied.ready : attached.ready;
  return { ...applied, nodeName, podIPs, phase, ready, hostNetwork: false };
}

/** Pods of which nothing was applied: all that is said of them is their node's, and may be a moment old. */
const attachedOnly = new WeakSet<Pod>();

/** Pods of which somebody applied something: labels and ports are his word. */
const appliedPods = new WeakSet<Pod>();

/** The same two give the same one again. */
class PodMerger {
  readonly #merged = new WeakMap<Pod, { readonly applied: Pod; readonly pod: Pod }>();

  merge(own: Pod, attached: Pod): Pod {
    const known = this.#merged.get(attached);
    if (known?.applied === own) return known.pod;
    const pod = mergePod(own, attached);
    appliedPods.add(pod);
    this.#merged.set(attached, { applied: own, pod });
    return pod;
  }
}

const byName = <T extends WeftObject>(objects: Iterable<T>): ReadonlyMap<string, T> => {
  const map = new Map<string, T>();
  for (const it of objects) map.set(nameOf(it), it);
  return map;
};

export interface EtcdSourceOptions {
  /** Told when the view may have fallen behind (why), and null when it is current again. */
  readonly onInterruption?: (error: StoreError | null) => void;
}

export function etcdSource(
  store: Store,
  prefix: string,
  onProblems: OnProblems,
  { onInterruption }: EtcdSourceOptions = {},
): ObjectSource {
  return {
    watch: (signal) => watchEtcd(store, prefix, tellChanges(onProblems), signal, onInterruption),
  };
}

async function* watchEtcd(
  store: Store,
  prefix: string,
  onProblems: OnProblems,
  signal: AbortSignal,
  onInterruption: EtcdSourceOptions['onInterruption'],
): AsyncGenerator<ObjectSet, void, undefined> {
  const applied = new Folder((key) => {
    const name = parseObjectKey(prefix, key);
    if (name === null) return null;
    return ({ kind, metadata }) =>
      kind === name.kind && metadata.namespace === name.namespace && metadata.name === name.name;
  });
  const attached = new Folder((key) => {
    const name = parsePodKey(prefix, key);
    if (name === null) return null;
    return (pod) =>
      pod.kind === 'Pod' &&
      pod.nodeName === name.nodeName &&
      pod.metadata.namespace === name.namespace &&
      pod.metadata.name === name.name;
  });
  const merger = new PodMerger();
  const podsOf = (): ReadonlyMap<string, Pod> => {
    const pods = new Map<string, Pod>();
    for (const it of applied.objects('Pod')) pods.set(nameOf(it), it);
    // A pod of this name may still be in the name of a node that is gone: the newest counts.
    const newest = new Map<string, Pod>();
    for (const it of attached.newestLast()) if (it.kind === 'Pod') newest.set(nameOf(it), it);
    for (const [name, it] of newest) {
      const own = pods.get(name);
      if (own === undefined) attachedOnly.add(it);
      pods.set(name, own === undefined ? it : merger.merge(own, it));
    }
    return pods;
  };
  const options = { signal, ...(onInterruption && { onInterruption }) };
  const listings = latestOf(
    [objectsPrefix(prefix), podsPrefix(prefix)].map(
      (it) => (stop: AbortSignal) => store.watch(it, { ...options, signal: stop }),
    ),
    signal,
  );
  let before = null as ObjectSet | null;
  for await (const [objects, pods] of listings) {
    const changed = new Set([...applied.read(objects!), ...attached.read(pods!)]);
    onProblems([...applied.problems(), ...attached.problems()]);
    if (before !== null && changed.size === 0) continue;
    const renew = <K extends Kind>(kind: K, old: ReadonlyMap<string, ObjectOf<K>> | undefined) =>
      old !== undefined && !changed.has(kind) ? old : byName(applied.objects(kind));
    before = {
      namespaces: renew('Namespace', before?.namespaces),
      pods: before !== null && !changed.has('Pod') ? before.pods : podsOf(),
      nodes: renew('Node', before?.nodes),
      services: renew('Service', before?.services),
      endpointSlices: renew('EndpointSlice', before?.endpointSlices),
      networkPolicies: renew('NetworkPolicy', before?.networkPolicies),
      clusterNetworkPolicies: renew('ClusterNetworkPolicy', before?.clusterNetworkPolicies),
    };
    yield before;
  }
}

/** Passes the list on when it is another one. */
function tellChanges(onProblems: OnProblems): OnProblems {
  let told = '[]';
  return (problems) => {
    const text = JSON.stringify(problems);
    if (text === told) return;
    told = text;
    onProblems(problems);
  };
}

/**
 * Several sources as one; complete when all are. Of objects of one name the earlier source's counts, and
 * the other is a problem; but a Pod without addresses and one that has them are one pod (see mergePod).
 */
export function combine(
  sources: readonly ObjectSource[],
  onProblems: OnProblems = () => undefined,
): ObjectSource {
  return { watch: (signal) => watchAll(sources, tellChanges(onProblems), signal) };
}

async function* watchAll(
  sources: readonly ObjectSource[],
  onProblems: OnProblems,
  signal: AbortSignal,
): AsyncGenerator<ObjectSet, void, undefined> {
  const merger = new PodMerger();
  const mergers = {
    namespaces: new MapMerger<ObjectOf<'Namespace'>>(),
    pods: new MapMerger<Pod>((first, second) =>
      attachedOnly.has(second) || (first.podIPs.length === 0 && second.podIPs.length > 0)
        ? merger.merge(first, second)
        : null,
    ),
    nodes: new MapMerger<ObjectOf<'Node'>>(),
    services: new MapMerger<ObjectOf<'Service'>>(),
    endpointSlices: new MapMerger<ObjectOf<'EndpointSlice'>>(),
    networkPolicies: new MapMerger<ObjectOf<'NetworkPolicy'>>(),
    clusterNetworkPolicies: new MapMerger<ObjectOf<'ClusterNetworkPolicy'>>(),
  };
  const watches = sources.map((it) => (stop: AbortSignal) => it.watch(stop));
  for await (const sets of latestOf(watches, signal)) {
    const merged: ObjectSet = {
      namespaces: mergers.namespaces.merge(sets.map((it) => it.namespaces)),
      pods: mergers.pods.merge(sets.map((it) => it.pods)),
      nodes: mergers.nodes.merge(sets.map((it) => it.nodes)),
      services: mergers.services.merge(sets.map((it) => it.services)),
      endpointSlices: mergers.endpointSlices.merge(sets.map((it) => it.endpointSlices)),
      networkPolicies: mergers.networkPolicies.merge(sets.map((it) => it.networkPolicies)),
      clusterNetworkPolicies: mergers.clusterNetworkPolicies.merge(
        sets.map((it) => it.clusterNetworkPolicies),
      ),
    };
    onProblems(Object.values(mergers).flatMap((it) => it.problems));
    yield merged;
  }
}

/** Remembers what it merged last: the same maps give the same map. */
class MapMerger<T extends WeftObject> {
  readonly #join: (first: T, second: T) => T | null;
  #maps: readonly ReadonlyMap<string, T>[] = [];
  #merged: ReadonlyMap<string, T> = new Map();
  problems: readonly ObjectProblem[] = [];

  constructor(join: (first: T, second: T) => T | null = () => null) {
    this.#join = join;
  }

  merge(maps: readonly ReadonlyMap<string, T>[]): ReadonlyMap<string, T> {
    const isSame = maps.length === this.#maps.length && maps.every((it, i) => it === this.#maps[i]);
    if (isSame) return this.#merged;
    this.#maps = maps;
    this.problems = [];
    const filled = maps.filter((it) => it.size > 0);
    this.#merged = filled.length < 2 ? (filled[0] ?? new Map()) : this.#mergeAll(filled);
    return this.#merged;
  }

  #mergeAll(maps: readonly ReadonlyMap<string, T>[]): ReadonlyMap<string, T> {
    const merged = new Map<string, T>();
    const problems: ObjectProblem[] = [];
    for (const [name, object] of maps.flatMap((it) => [...it])) {
      const first = merged.get(name);
      const joined = first === undefined ? object : this.#join(first, object);
      if (joined !== null) merged.set(name, joined);
      else {
        const text = describeObject(object);
        const reason = 'it is in two places; the one in the directory counts';
        problems.push({ place: 'etcd', object: text, field: '', reason });
      }
    }
    this.problems = problems;
    return merged;
  }
}

/**
 * The set with this node's pods as the node knows them now, which etcd says a moment later: what was
 * applied for them stays theirs, and their addresses are nobody else's.
 * @param own  from podsOfAttachments
 */
export function withOwnPods(set: ObjectSet, own: readonly Pod[]): ObjectSet {
  if (own.length === 0) return set;
  const known = joined.get(set.pods);
  if (known?.own === own) return { ...set, pods: known.pods };
  const pods = new Map(set.pods);
  const taken = new Set(own.flatMap(({ podIPs }) => podIPs));
  const names = new Set(own.map(nameOf));
  for (const [name, pod] of set.pods) {
    if (names.has(name) || pod.hostNetwork || !pod.podIPs.some((it) => taken.has(it))) continue;
    pods.set(name, { ...pod, podIPs: pod.podIPs.filter((it) => !taken.has(it)) });
  }
  for (const pod of own) {
    const other = set.pods.get(nameOf(pod));
    const isAlone = other === undefined || attachedOnly.has(other);
    pods.set(nameOf(pod), isAlone ? pod : overlay(other, pod));
  }
  joined.set(set.pods, { own, pods });
  return { ...set, pods };
}

/** The same two give the same map again: most changes are of other kinds. */
const joined = new WeakMap<
  ObjectSet['pods'],
  { readonly own: readonly Pod[]; readonly pods: ObjectSet['pods'] }
>();
const overlays = new PodMerger();

/** Unchanged where the set says the same already. */
function overlay(known: Pod, own: Pod): Pod {
  const isSame =
    known.nodeName === own.nodeName &&
    known.phase === own.phase &&
    !known.hostNetwork &&
    known.podIPs.length === own.podIPs.length &&
    known.podIPs.every((it, i) => it === own.podIPs[i]);
  if (!isSame) return overlays.merge(known, own);
  appliedPods.add(known);
  return known;
}

const heirs = new WeakMap<Pod, { readonly first: Pod; readonly pod: Pod }>();

/** What was applied for a pod holds for its other interfaces as well. @param set  from withOwnPods */
export function withInterfaces(set: ObjectSet): ObjectSet {
  let pods = inherited.get(set.pods);
  if (pods === undefined) {
    pods = podsWithInterfaces(set);
    inherited.set(set.pods, pods);
  }
  return pods === set.pods ? set : { ...set, pods };
}

/** The same map gives the same map again: most changes are of other kinds. */
const inherited = new WeakMap<ObjectSet['pods'], ObjectSet['pods']>();

function podsWithInterfaces(set: ObjectSet): ObjectSet['pods'] {
  let pods: Map<string, Pod> | null = null;
  for (const [key, pod] of set.pods) {
    const { namespace, name, annotations } = pod.metadata;
    if (!Object.hasOwn(annotations, INTERFACE_OF)) continue;
    const first = set.pods.get(`${namespace}/${annotations[INTERFACE_OF]}`);
    // One that was applied for itself has its own.
    if (first === undefined || !appliedPods.has(first) || appliedPods.has(pod)) continue;
    let heir = heirs.get(pod);
    if (heir?.first !== first) {
      const metadata = { ...first.metadata, name, annotations };
      heir = { first, pod: { ...pod, metadata, ports: first.ports } };
      heirs.set(pod, heir);
    }
    pods ??= new Map(set.pods);
    pods.set(key, heir.pod);
  }
  return pods ?? set.pods;
}

/**
 * The latest of each, as soon as each has given one; then after every change. What comes while the reader
 * is busy comes as one. Ends when the signal is aborted; throws what one of them throws.
 */
async function* latestOf<T>(
  watches: readonly ((signal: AbortSignal) => AsyncIterable<T>)[],
  signal: AbortSignal,
): AsyncGenerator<readonly T[], void, undefined> {
  const ending = new AbortController();
  const stop = AbortSignal.any([signal, ending.signal]);
  const latest = new Map<number, T>();
  let changed = Promise.withResolvers<void>();
  const notify = (): void => changed.resolve();
  stop.addEventListener('abort', notify, { once: true });
  const pumps = watches.map(async (watch, i) => {
    for await (const it of watch(stop)) {
      latest.set(i, it);
      notify();
    }
  });
  const failure = Promise.withResolvers<never>();
  failure.promise.catch(() => 'thrown below, or nobody reads any more');
  for (const pump of pumps) pump.catch((error: unknown) => failure.reject(error as Error));
  if (watches.length === 0) notify();
  try {
    while (!stop.aborted) {
      await Promise.race([changed.promise, failure.promise]);
      if (stop.aborted) return;
      changed = Promise.withResolvers();
      if (latest.size === watches.length) yield watches.map((_, i) => latest.get(i)!);
    }
  } finally {
    ending.abort();
    await Promise.allSettled(pumps);
  }
}
