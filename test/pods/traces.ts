/** What a node has because of its pods, to be compared before and after. */
import type { LabNode } from '../lab/lab.ts';

const LISTS = [
  'ip -brief link',
  'ip -4 route show table all',
  'ip -6 route show table all',
  'ip neighbor show nud permanent',
  'tc qdisc show',
  // Without counters. With it the tables of iptables-nft.
  'nft --stateless list ruleset',
];

/** Every line of every list, sorted: the order says when, not what. */
export async function tracesOn(node: LabNode): Promise<string[]> {
  const texts = await Promise.all(LISTS.map((it) => node.run(it.split(' '))));
  const lines = texts.join('\n').split(/\n|\{|\}|,/);
  return lines
    .map((it) => it.trim())
    .filter((it) => it !== '')
    .toSorted();
}
