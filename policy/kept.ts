/**
 * A namespace that is deleted loses its objects in any order: its NetworkPolicies may go while its pods
 * still run. Until the pods are gone, what was denied stays denied.
 */
import type { NetworkPolicy, ObjectSet, Pod } from '../objects/types.ts';

const hasTraffic = ({ phase }: Pod): boolean => phase !== 'Succeeded' && phase !== 'Failed';

/**
 * `now`, with those NetworkPolicies of `before` that were deleted in a Terminating namespace which still
 * has pods. `now` itself where there are none.
 * @param before  what this gave for the set before
 */
export function keepPolicies(before: ObjectSet, now: ObjectSet): ObjectSet {
  if (before.networkPolicies === now.networkPolicies) return now;
  const kept: [string, NetworkPolicy][] = [];
  let inhabited: Set<string> | null = null;
  for (const [name, policy] of before.networkPolicies) {
    if (now.networkPolicies.has(name)) continue;
    const { namespace } = policy.metadata;
    if (now.namespaces.get(`/${namespace}`)?.phase !== 'Terminating') continue;
    inhabited ??= new Set(
      now.pods
        .values()
        .filter(hasTraffic)
        .map(({ metadata }) => metadata.namespace),
    );
    if (inhabited.has(namespace)) kept.push([name, policy]);
  }
  if (kept.length === 0) return now;
  return { ...now, networkPolicies: new Map([...now.networkPolicies, ...kept]) };
}
