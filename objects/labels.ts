/** Label selectors, with metav1.LabelSelector's meaning: every requirement must hold. */
import type { LabelSelector, Labels } from './types.ts';

/** A key is there only as the object's own: `constructor` is a key as any other. */
const valueOf = (labels: Labels, key: string): string | undefined =>
  Object.hasOwn(labels, key) ? labels[key] : undefined;

export function matchesSelector(selector: LabelSelector, labels: Labels): boolean {
  for (const [key, wanted] of Object.entries(selector.matchLabels)) {
    if (valueOf(labels, key) !== wanted) return false;
  }
  return selector.matchExpressions.every((it) => holds(it, valueOf(labels, it.key)));
}

/** NotIn and DoesNotExist hold where the key is absent. */
function holds(
  { operator, values }: LabelSelector['matchExpressions'][number],
  value: string | undefined,
): boolean {
  if (operator === 'Exists') return value !== undefined;
  if (operator === 'DoesNotExist') return value === undefined;
  const isListed = value !== undefined && values.includes(value);
  return operator === 'In' ? isListed : !isListed;
}
