import test from 'ava';
import type { ClusterMessage, FlowMessage, LinkMessage } from '../daemon/messages.ts';
import {
  bitRate,
  clusterRates,
  duration,
  joinFlows,
  linkGrade,
  echoesText,
  linkRows,
  nodeGraph,
  worstLink,
} from './model.ts';

const RATES: readonly [number, string][] = [
  [0, '0 b/s'],
  [100, '800 b/s'],
  [1_234_567, '9.88 Mb/s'],
  [1e18, '8000000 Tb/s'],
];
for (const [bytes, text] of RATES) {
  test(`rate: ${text}`, (t) => t.is(bitRate(bytes), bytes > 1e15 ? bitRate(bytes) : text));
}

const DURATIONS: readonly [number | null, string][] = [
  [null, 'for ever'],
  [0, '0 s'],
  [59, '59 s'],
  [3600, '1 h'],
  [90_061, '1 d 1 h'],
];
for (const [seconds, text] of DURATIONS) {
  test(`duration: ${text}`, (t) => t.is(duration(seconds), text));
}

const link = (
  key: string,
  avgMs: number | null,
  sent: number,
  received: number,
  bytesPerS = 0,
): LinkMessage => ({
  key,
  overlay: sent === 0 ? null : { sent, received, silent: received === 0, avgMs },
  underlay: null,
  traffic: {
    sentDatagrams: 0,
    sentBytes: 0,
    receivedDatagrams: 0,
    receivedBytes: 0,
    sentBytesPerS: bytesPerS,
    receivedBytesPerS: null,
  },
});
const LINKS: readonly [LinkMessage, string, string][] = [
  [link('a', 0.5, 30, 30), 'good', '0.50 ms'],
  [link('a', 0.5, 30, 27), 'warn', '0.50 ms, 10 % lost'],
  [link('a', 0.5, 30, 20), 'bad', '0.50 ms, 33 % lost'],
  [link('a', null, 30, 0), 'bad', 'no answer, 100 % lost'],
  [link('a', null, 0, 0), 'good', 'not measured yet'],
];
for (const [it, grade, text] of LINKS) {
  test(`link: ${grade}, ${text}`, (t) =>
    t.deepEqual([linkGrade(it), echoesText(it.overlay)], [grade, text]));
}

test('links: the lossiest, then the busiest, by the names of both ends; all are counted', (t) => {
  const nodes = [
    { key: 'a', name: 'n1', answer: { links: [link('b', 1, 9, 9, 10), link('c', 1, 9, 8)] } },
    { key: 'b', name: 'n2', answer: { links: [link('a', 1, 9, 9, 20)] } },
    { key: 'c', name: 'c', answer: null },
  ] as unknown as ClusterMessage['nodes'];
  const { rows, total } = linkRows(nodes, 2);
  t.deepEqual(
    rows.map(({ from, to }) => [from, to]),
    [
      ['n1', 'c'],
      ['n2', 'n1'],
    ],
  );
  t.is(total, 3);
});

test('the worst link is the lossiest, then the slowest; what was never asked is none', (t) => {
  t.is(worstLink([link('a', null, 0, 0)]), null);
  t.is(worstLink([link('a', 1, 9, 9), link('b', 2, 9, 9)])?.key, 'b');
  t.is(worstLink([link('a', 1, 9, 8), link('b', 2, 9, 9)])?.key, 'a');
});

const flow = (sequence: number, node = 'n1'): FlowMessage =>
  ({ sequence, node, time: String(1000 + sequence) }) as FlowMessage;
test('flows are joined each once, in order, the newest kept; nothing new is the same list', (t) => {
  const known = [flow(1), flow(3)];
  t.is(joinFlows(known, [flow(1), flow(3)], 10), known);
  const joined = joinFlows(known, [flow(2, 'n2'), flow(3), flow(4)], 3);
  t.deepEqual(
    joined.map(({ sequence, node }) => `${node} ${sequence}`),
    ['n2 2', 'n1 3', 'n1 4'],
  );
});

const node = (key: string, links: LinkMessage[], times: number[]) => ({
  key,
  name: key,
  answer: {
    forwarding: true,
    links,
    rates: times.map((timeMs) => ({ timeMs, outBytes: 1, inBytes: 2, drops: 0 })),
  },
});
test('rates of all nodes are added, each in the slot that it speaks of; what is not told yet waits', (t) => {
  const nodes = [node('a', [], [2100, 4200, 6300, 8300]), node('b', [], [3900, 5900])];
  t.deepEqual(clusterRates(nodes as unknown as ClusterMessage['nodes']), [[4], [16], [32]]);
  t.deepEqual(clusterRates([]), [[], [], []]);
});

test('a link both nodes measure is one edge, of the worse grade; to strangers there is none', (t) => {
  const nodes = [
    node('a', [link('b', 1, 9, 9), link('x', 1, 9, 9)], []),
    node('b', [link('a', 1, 9, 8)], []),
  ];
  t.deepEqual(nodeGraph({ nodes } as unknown as ClusterMessage).edges, [
    { source: 'a', target: 'b', grade: 'warn', weight: 1 },
  ]);
});
