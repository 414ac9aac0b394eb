import test from 'ava';
import type { SightingMessage } from './messages.ts';
import { joinSightings } from './probe-watch.ts';

const POD = '10.244.1.5';
const FAR = '10.244.2.7';

/** `n1 >` to the destination, `n1 <` the answer; a word behind it is a drop. */
const sighting = (text: string): SightingMessage => {
  const [node = '', way, reason = null] = text.split(' ');
  const [source, destination] = way === '>' ? [POD, FAR] : [FAR, POD];
  return { node, atMs: null, direction: 'egress', source, destination, reason, text };
};

const CASES: readonly [string, string[], string[], string[]][] = [
  ['answered', ['n1 >', 'n1 <'], ['n2 >', 'n2 <'], ['n1 >', 'n2 >', 'n2 <', 'n1 <']],
  ['no answer', ['n1 >'], ['n2 >'], ['n1 >', 'n2 >']],
  ['dropped there', ['n1 >'], ['n2 > policyIngress'], ['n1 >', 'n2 > policyIngress']],
  ['dropped here', ['n1 > policyEgress'], [], ['n1 > policyEgress']],
  [
    'the answer is lost on the way, and sent again',
    ['n1 >'],
    ['n2 >', 'n2 <', 'n2 <'],
    ['n1 >', 'n2 >', 'n2 <', 'n2 <'],
  ],
  [
    'the pod ends it',
    ['n1 >', 'n1 <', 'n1 >'],
    ['n2 >', 'n2 <', 'n2 >'],
    ['n1 >', 'n2 >', 'n2 <', 'n1 <', 'n1 >', 'n2 >'],
  ],
  ['not watched there', ['n1 >', 'n1 <'], [], ['n1 >', 'n1 <']],
  ['nothing', [], [], []],
];
for (const [title, here, there, all] of CASES) {
  test(`one list of two nodes: ${title}`, (t) => {
    const joined = joinSightings(here.map(sighting), there.map(sighting), POD);
    t.deepEqual(
      joined.map(({ text }) => text),
      all,
    );
  });
}
