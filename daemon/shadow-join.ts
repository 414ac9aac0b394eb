/** What all nodes found of the policies that are tried, as one answer. */
import { z } from 'zod';
import type { ClusterShadowMessage, PolicyChangeMessage, ShadowMessage } from './messages.ts';

const text = z.string().max(4000);
const end = z.object({
  address: text.nullable(),
  port: z.number().nullable(),
  namespace: text.nullable(),
  pod: text.nullable(),
  node: text.nullable(),
});
const verdict = z.enum(['allow', 'deny']);
const shadowSchema = z.object({
  node: text,
  trial: z
    .object({
      startedAt: text,
      policies: z.array(text),
      replace: z.boolean(),
      asked: z.number(),
      skipped: z.number(),
      untold: z.number(),
    })
    .nullable(),
  problem: text.nullable(),
  changes: z.array(
    z.object({
      source: end,
      destination: end,
      service: z.object({ namespace: text, name: text, port: text }).nullable(),
      protocol: text,
      backend: end.nullable(),
      before: verdict,
      beforeBecause: text,
      after: verdict,
      afterBecause: text,
      count: z.number(),
      firstSeen: text,
      lastSeen: text,
    }),
  ),
});

/** What another node has sent. @returns null: it is no such answer */
export const shadowOf = (answer: unknown): ShadowMessage | null =>
  shadowSchema.safeParse(answer).data ?? null;

/** The same for a change that two nodes found, the one before a Service's translation and the other after. */
function changeKey({ source, destination, backend, protocol, before, after }: PolicyChangeMessage) {
  const { address, port } = backend ?? destination;
  return `${source.address} ${address} ${protocol} ${port} ${before} ${after}`;
}

const both = (a: string, b: string): string => (a.includes(b) ? a : `${a}; ${b}`);

/**
 * Each change once: as the node of the source tells it, which knows what was asked, else as the first that tells
 * it. Others add their reasons.
 */
export function joinChanges(
  found: readonly Pick<ShadowMessage, 'node' | 'changes'>[],
): readonly PolicyChangeMessage[] {
  const all = found.flatMap(({ node, changes }) => changes.map((change) => ({ node, change })));
  const tellers = new Map<string, string>();
  for (const { node, change } of all) {
    const key = changeKey(change);
    if (!tellers.has(key) || change.source.node === node) tellers.set(key, node);
  }
  const reasons = Map.groupBy(all, ({ change }) => changeKey(change));
  return all.flatMap(({ node, change }) => {
    const key = changeKey(change);
    if (tellers.get(key) !== node) return [];
    const rest = reasons.get(key)!.filter((it) => it.node !== node);
    const told = [change, ...rest.map((it) => it.change)];
    const beforeBecause = told.map((it) => it.beforeBecause).reduce(both);
    const afterBecause = told.map((it) => it.afterBecause).reduce(both);
    return [{ ...change, beforeBecause, afterBecause }];
  });
}

/** @param absent  who did not answer, a line each */
export function joinShadows(
  own: ShadowMessage,
  others: readonly ShadowMessage[],
  absent: readonly string[],
): ClusterShadowMessage {
  const { node, trial } = own;
  const isSame = (it: ShadowMessage): boolean => it.trial?.startedAt === trial?.startedAt;
  const found = [own, ...others.filter(isSame)];
  const problems = [own, ...others].flatMap((it) => [
    ...(it.problem === null ? [] : [`${it.node}: ${it.problem}`]),
    ...(isSame(it) ? [] : [`${it.node}: it tries other policies, or none yet`]),
  ]);
  const sum = (field: 'asked' | 'skipped' | 'untold'): number =>
    found.reduce((all, it) => all + (it.trial?.[field] ?? 0), 0);
  return {
    node,
    trial: trial && {
      ...trial,
      asked: sum('asked'),
      skipped: sum('skipped'),
      untold: sum('untold'),
    },
    changes: joinChanges(found),
    problems: [...problems, ...absent],
  };
}
