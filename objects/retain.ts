/**
 * A namespace that is deleted loses its objects in any order, and its pods may outlive its policies by
 * their grace period: what a policy denied stays denied as long as a pod that it selects lives.
 */
import { matchesSelector } from './labels.ts';
import type { NetworkPolicy, ObjectSet, Pod } from './types.ts';

const lives = ({ phase }: Pod): boolean => phase !== 'Succeeded' && phase !== 'Failed';

/**
 * `after` with the policies of `before` that were deleted too early. Only a policy that is gone comes
 * back, one that changed does not; and it goes for good with its last pod, or when its namespace is not
 * Terminating any more.
 * @param before  what this returned last
 * @param after   what the sources say now
 * @returns       `after` itself if there is nothing to keep
 */
export function retainPolicies(before: ObjectSet, after: ObjectSet): ObjectSet {
  if (before.networkPolicies === after.networkPolicies) return after;
  const gone = [...before.networkPolicies].filter(
    ([key, { metadata }]) =>
      !after.networkPolicies.has(key) &&
      after.namespaces.get(`/${metadata.namespace}`)?.phase === 'Terminating',
  );
  if (gone.length === 0) return after;
  const kept = gone.filter(([, policy]) => hasPods(policy, after));
  if (kept.length === 0) return after;
  const networkPolicies = new Map([...after.networkPolicies, ...kept]);
  return { ...after, networkPolicies };
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
