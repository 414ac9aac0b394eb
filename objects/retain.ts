/**
 * A namespace that is deleted loses its objects in any order, and its pods may outlive its policies by
 * their grace period: what a policy denied stays denied as long as a pod that it selects lives.
 */
import { matchesSelector } from './labels.ts';
import type { Namespace, NetworkPolicy, ObjectSet, Pod } from './types.ts';

const lives = ({ phase }: Pod): boolean => phase !== 'Succeeded' && phase !== 'Failed';

/**
 * `after` with the policies of `before` that were deleted too early, and their Namespaces. Only a policy
 * that is gone comes back, one that changed does not; and it goes for good with its last pod, or when its
 * namespace is not Terminating any more. A Namespace that was Terminating when it was last seen still is.
 * @param before  what this returned last
 * @param after   what the sources say now
 * @returns       `after` itself if there is nothing to keep
 */
export function retainPolicies(before: ObjectSet, after: ObjectSet): ObjectSet {
  if (before.networkPolicies === after.networkPolicies) return after;
  const kept: [string, NetworkPolicy][] = [];
  const namespaces = new Map<string, Namespace>();
  // Thousands that stay, at each change: no pair is made of any.
  before.networkPolicies.forEach((policy, key) => {
    if (after.networkPolicies.has(key)) return;
    const namespaceKey = `/${policy.metadata.namespace}`;
    const now = after.namespaces.get(namespaceKey);
    const namespace = now ?? before.namespaces.get(namespaceKey);
    if (namespace?.phase !== 'Terminating' || !hasPods(policy, after)) return;
    kept.push([key, policy]);
    if (now === undefined) namespaces.set(namespaceKey, namespace);
  });
  if (kept.length === 0) return after;
  return {
    ...after,
    networkPolicies: new Map([...after.networkPolicies, ...kept]),
    namespaces:
      namespaces.size === 0 ? after.namespaces : new Map([...after.namespaces, ...namespaces]),
  };
}

/** What `retainPolicies` has added, each policy with its Namespace. */
export function retainedObjects(
  kept: ObjectSet,
  after: ObjectSet,
): readonly (Namespace | NetworkPolicy)[] {
  if (kept.networkPolicies === after.networkPolicies) return [];
  const policies = [...kept.networkPolicies].flatMap(([key, it]) =>
    after.networkPolicies.has(key) ? [] : [it],
  );
  const names = new Set(policies.map(({ metadata }) => `/${metadata.namespace}`));
  return [...[...names].flatMap((name) => kept.namespaces.get(name) ?? []), ...policies];
}

/** Where it was lost what to retain: in each Terminating namespace everything stays denied. */
export function denyTerminating(set: ObjectSet): ObjectSet {
  const networkPolicies = new Map<string, NetworkPolicy>();
  for (const { metadata, phase } of set.namespaces.values()) {
    if (phase !== 'Terminating') continue;
    const name = 'policies-that-were-lost';
    networkPolicies.set(`${metadata.name}/${name}`, {
      kind: 'NetworkPolicy',
      metadata: { name, namespace: metadata.name, labels: {}, annotations: {} },
      podSelector: { matchLabels: {}, matchExpressions: [] },
      policyTypes: ['Ingress', 'Egress'],
      ingress: [],
      egress: [],
    });
  }
  return { ...set, networkPolicies };
}

const hasPods = ({ metadata, podSelector }: NetworkPolicy, { pods }: ObjectSet): boolean =>
  pods
    .values()
    .some(
      (pod) =>
        pod.metadata.namespace === metadata.namespace &&
        lives(pod) &&
        matchesSelector(podSelector, pod.metadata.labels),
    );
