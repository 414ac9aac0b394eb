import test from 'ava';
import { NodeAbsentError } from './cluster-api.ts';
import { linesOf } from './flow-lines.ts';
import { followFlows } from './follow-flows.ts';
import type { FlowMessage, FlowsMessage } from './messages.ts';
import { problemOf } from './other-nodes.ts';

const answer = (sequences: readonly number[], next: number, run = 'a', lost = 0): FlowsMessage => ({
  node: 'n2',
  flows: sequences.map((sequence) => ({ sequence }) as FlowMessage),
  next,
  run,
  lost,
});

/** Answers in turn, then ends. @returns sequences, what was said, and what was asked */
async function follow(
  answers: readonly (FlowsMessage | Error)[],
  filters: Readonly<Record<string, string>> = {},
) {
  const stop = new AbortController();
  const asked: string[] = [];
  const said: string[] = [];
  const seen: number[] = [];
  const following = followFlows({
    filters,
    since: () => '0ms',
    ask: (query) => {
      const it = answers[asked.length];
      asked.push(query.toString());
      if (it === undefined) stop.abort();
      return it === undefined || it instanceof Error
        ? Promise.reject(it ?? new NodeAbsentError('aborted'))
        : Promise.resolve(linesOf(it));
    },
    problemOf,
    say: (line) => void said.push(line),
    signal: stop.signal,
    paceMs: 0,
  });
  for await (const lines of following) {
    const flows = lines.toString().trimEnd().split('\n');
    seen.push(...flows.map((it) => (JSON.parse(it) as { flow: FlowMessage }).flow.sequence));
  }
  return { asked, said, seen };
}

test('follows from now, each question where the one before ended', async (t) => {
  const { asked, said, seen } = await follow([answer([], 7), answer([7, 8], 9), answer([], 9)], {
    verdict: 'deny',
  });
  t.deepEqual(seen, [7, 8]);
  t.deepEqual(said, []);
  t.deepEqual(asked, [
    'verdict=deny&since=0ms&limit=10000',
    'verdict=deny&after=7&wait=10s&limit=10000',
    'verdict=deny&after=9&wait=10s&limit=10000',
    'verdict=deny&after=9&wait=10s&limit=10000',
  ]);
});

test('a daemon that starts anew: waited for, told, and followed from its first event', async (t) => {
  const { asked, said, seen } = await follow([
    answer([5], 6),
    new NodeAbsentError('ECONNREFUSED'),
    new NodeAbsentError('ECONNREFUSED'),
    answer([], 9, 'b'),
    answer([0, 1], 2, 'b'),
  ]);
  t.deepEqual(seen, [5, 0, 1]);
  t.deepEqual(said, [
    'does not answer (ECONNREFUSED); waiting for it',
    'has started anew; flows that began meanwhile may be missing',
  ]);
  t.is(asked[4], 'limit=10000');
  t.is(asked[5], 'after=2&wait=10s&limit=10000');
});

test('a daemon that was busy for a while, and events that were lost', async (t) => {
  const { said } = await follow([
    answer([], 6),
    new NodeAbsentError('no answer within 13 s'),
    answer([], 6),
    answer([], 9, 'a', 3),
  ]);
  t.deepEqual(said, [
    'does not answer (no answer within 13 s); waiting for it',
    'answers again',
    'has lost 3 events, which came faster than they could be read',
  ]);
});

test('a node that does not answer at first: told, and waited for from where it was to begin', async (t) => {
  const { asked, said, seen } = await follow([new NodeAbsentError('gone'), answer([1], 2)]);
  t.deepEqual(seen, [1]);
  t.deepEqual(said, ['does not answer (gone); waiting for it', 'answers again']);
  t.deepEqual(asked.slice(0, 2), ['since=0ms&limit=10000', 'since=0ms&limit=10000']);
});

test('what is no absence ends it', async (t) => {
  await t.throwsAsync(follow([new TypeError('a fault of ours')]), { instanceOf: TypeError });
});
