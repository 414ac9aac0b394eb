import test from 'ava';
import { LinkHistory } from './links.ts';

const TABLE: readonly [string, (it: LinkHistory) => void, number, object][] = [
  ['nothing asked', () => undefined, 0, { rttMs: null, sent: 0, answered: 0 }],
  ['still on its way', (it) => it.ask(1, 0), 500, { rttMs: null, sent: 0, answered: 0 }],
  ['lost', (it) => it.ask(1, 0), 1500, { rttMs: null, sent: 1, answered: 0 }],
  [
    'too late is lost',
    (it) => {
      it.ask(1, 0);
      it.answered(1, 1200);
    },
    1500,
    { rttMs: null, sent: 1, answered: 0 },
  ],
  [
    'the median, twice answered or never asked aside',
    (it) => {
      for (const [number, rtt] of [0.5, 90, 0.75].entries()) {
        it.ask(number, number * 10);
        it.answered(number, number * 10 + rtt);
        it.answered(number, number * 10 + 99);
      }
      it.answered(77, 0);
    },
    1500,
    { rttMs: 0.75, sent: 3, answered: 3 },
  ],
];
for (const [name, work, nowMs, expected] of TABLE) {
  test(`link: ${name}`, (t) => {
    const history = new LinkHistory();
    work(history);
    t.deepEqual(history.message('k', nowMs), { key: 'k', ...expected } as never);
  });
}
