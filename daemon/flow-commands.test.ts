import test from 'ava';
import pico from 'picocolors';
import { DaemonAbsentError } from './api-client.ts';
import { flowLine, followFlows } from './flow-commands.ts';
import type { FlowEndMessage, FlowMessage, FlowsMessage } from './messages.ts';

const NO_COLORS = pico.createColors(false);

const end = (address: string, port: number | null, pod: string | null = null): FlowEndMessage => ({
  address,
  port,
  namespace: pod === null ? null : 'shop',
  pod,
  node: null,
});

const FLOW: FlowMessage = {
  sequence: 0,
  time: '2026-01-01T00:00:00.000Z',
  node: 'n1',
  verdict: 'forwarded',
  reason: null,
  direction: 'egress',
  protocol: 'TCP',
  isReply: false,
  tcpFlags: '',
  source: end('10.244.1.5', 4000, 'web'),
  destination: end('10.244.2.7', 5432, 'db'),
  service: null,
  backend: null,
  outerSource: null,
  bytes: 60,
  because: null,
};
const START = '2026-01-01T00:00:00.000Z n1 ';

const LINES: readonly [string, Partial<FlowMessage>, string][] = [
  ['pod to pod', {}, 'shop/web:4000 -> shop/db:5432 TCP forwarded'],
  [
    'through a Service',
    {
      destination: end('10.96.0.10', 5432),
      service: { namespace: 'shop', name: 'db', port: 'sql' },
      backend: end('10.244.2.7', 5432, 'db'),
    },
    'shop/web:4000 -> service/shop/db:sql -> shop/db:5432 TCP forwarded',
  ],
  [
    'denied',
    {
      verdict: 'dropped',
      reason: 'policyEgress',
      tcpFlags: 'SYN',
      because: 'NetworkPolicy shop/closed has no rule',
    },
    'shop/web:4000 -> shop/db:5432 TCP SYN dropped policyEgress: NetworkPolicy shop/closed has no rule',
  ],
  [
    'a node, IPv6, no ports',
    {
      protocol: 'ICMPv6',
      source: { ...end('fd00::1', null), node: 'n2' },
      destination: end('fd00::2', null),
    },
    'node/n2 -> fd00::2 ICMPv6 forwarded',
  ],
  [
    'IPv6 with a port',
    { destination: end('fd00::2', 80) },
    'shop/web:4000 -> [fd00::2]:80 TCP forwarded',
  ],
  [
    'no packet at all, from a stranger',
    {
      verdict: 'dropped',
      reason: 'outerSource',
      source: { ...end('', null), address: null },
      destination: { ...end('', null), address: null },
      protocol: '0',
      outerSource: '192.0.2.9',
    },
    '? -> ? 0 dropped outerSource (from 192.0.2.9)',
  ],
  [
    'a name that would paint the terminal',
    { source: end('10.244.1.5', 4000, 'w\u001B[2Jeb\u009B') },
    'shop/w?[2Jeb?:4000 -> shop/db:5432 TCP forwarded',
  ],
];
for (const [title, flow, line] of LINES) {
  test(`one line: ${title}`, (t) => {
    t.is(flowLine({ ...FLOW, ...flow }, NO_COLORS), START + line);
  });
}

test('colours, where they are wanted', (t) => {
  const dropped = flowLine({ ...FLOW, verdict: 'dropped' }, pico.createColors(true));
  t.true(dropped.includes('\u001B[31mdropped'));
});

const answer = (sequences: readonly number[], next: number, run = 'a', lost = 0): FlowsMessage => ({
  flows: sequences.map((sequence) => ({ ...FLOW, sequence })),
  next,
  run,
  lost,
});

/** Answers in turn, then ends. @returns sequences, what was said, and what was asked */
async function follow(
  answers: readonly (FlowsMessage | Error)[],
  query: Readonly<Record<string, string>> = {},
) {
  const stop = new AbortController();
  const asked: string[] = [];
  const said: string[] = [];
  const seen: number[] = [];
  const following = followFlows({
    query,
    ask: (path) => {
      const it = answers[asked.length];
      asked.push(decodeURIComponent(path));
      if (it === undefined) stop.abort();
      return it === undefined || it instanceof Error
        ? Promise.reject(it ?? new DaemonAbsentError('aborted'))
        : Promise.resolve(it);
    },
    say: (line) => void said.push(line),
    signal: stop.signal,
  });
  for await (const { sequence } of following) seen.push(sequence);
  return { asked, said, seen };
}

test('follows from now, each question where the one before ended', async (t) => {
  const { asked, said, seen } = await follow([answer([], 7), answer([7, 8], 9), answer([], 9)], {
    verdict: 'deny',
  });
  t.deepEqual(seen, [7, 8]);
  t.deepEqual(said, []);
  t.deepEqual(asked, [
    '/v1/flows?verdict=deny&since=0s&limit=10000',
    '/v1/flows?verdict=deny&after=7&wait=10s&limit=10000',
    '/v1/flows?verdict=deny&after=9&wait=10s&limit=10000',
    '/v1/flows?verdict=deny&after=9&wait=10s&limit=10000',
  ]);
});

test('a daemon that starts anew: waited for, told, and followed from its first event', async (t) => {
  const { asked, said, seen } = await follow([
    answer([5], 6),
    new DaemonAbsentError('gone'),
    new DaemonAbsentError('gone'),
    answer([], 9, 'b'),
    answer([0, 1], 2, 'b'),
  ]);
  t.deepEqual(seen, [5, 0, 1]);
  t.deepEqual(said, [
    'the daemon does not answer; waiting for it',
    'the daemon has started anew; flows that began meanwhile may be missing',
  ]);
  t.is(asked[4], '/v1/flows?limit=10000');
  t.is(asked[5], '/v1/flows?after=2&wait=10s&limit=10000');
});

test('a daemon that was busy for a while, and events that were lost', async (t) => {
  const { said } = await follow([
    answer([], 6),
    new DaemonAbsentError('no answer in time'),
    answer([], 6),
    answer([], 9, 'a', 3),
  ]);
  t.deepEqual(said, [
    'the daemon does not answer; waiting for it',
    'the daemon answers again',
    '3 events came faster than they could be read, and are lost',
  ]);
});

test('no daemon at the start: told, not waited for', async (t) => {
  await t.throwsAsync(follow([new DaemonAbsentError('no weft daemon answers')]), {
    code: 'ERR_DAEMON_ABSENT',
  });
});
