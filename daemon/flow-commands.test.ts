import test from 'ava';
import pico from 'picocolors';
import { ApiError } from './api.ts';
import { DaemonAbsentError } from './api-client.ts';
import { flowLine, followCluster } from './flow-commands.ts';
import type { FlowEndMessage, FlowMessage, FollowedMessage } from './messages.ts';

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

const at = (node: string, sequence: number, second: number): FollowedMessage => ({
  flow: { ...FLOW, node, sequence, time: `2026-01-01T00:00:0${second}.000Z` },
});

/** Streams in turn, in pieces of a few bytes; then the signal is aborted. */
async function follow(streams: readonly (readonly FollowedMessage[] | Error)[], query = '') {
  const stop = new AbortController();
  const asked: string[] = [];
  const said: string[] = [];
  const seen: string[] = [];
  const following = followCluster({
    query: new URLSearchParams(query),
    open: (path) => {
      const stream = streams[asked.length];
      asked.push(decodeURIComponent(path));
      if (stream === undefined) stop.abort();
      if (stream === undefined || stream instanceof Error) {
        return Promise.reject(stream ?? new DaemonAbsentError('aborted'));
      }
      const text = stream.map((it) => `${JSON.stringify(it)}\n`).join('');
      const pieces = [...(text.match(/[^]{1,7}/g) ?? []), '{"flow": {"cut o'];
      return Promise.resolve(ReadableStream.from(pieces) as AsyncIterable<string>);
    },
    say: (line) => void said.push(line),
    signal: stop.signal,
  });
  for await (const { node, sequence } of following) seen.push(`${node} ${sequence}`);
  return { asked, said, seen };
}

test('the stream of all nodes, and what is said of them', async (t) => {
  const { asked, said, seen } = await follow(
    [[at('n1', 5, 1), { node: 'n2', note: 'answers again' }, at('n2', 0, 1)]],
    'verdict=deny&node=n1&node=n2&since=5m',
  );
  t.deepEqual(seen, ['n1 5', 'n2 0']);
  t.deepEqual(said, ['n2 answers again', 'the daemon does not answer; waiting for it']);
  t.is(asked[0], '/v1/cluster/flows/follow?verdict=deny&node=n1&node=n2&since=5m');
});

test('a line that is not understood is told, and the rest is read', async (t) => {
  const broken = { flow: { node: 'n2', sequence: 7 } } as unknown as FollowedMessage;
  const { said, seen } = await follow([[at('n1', 5, 1), broken, at('n2', 8, 1)]]);
  t.deepEqual(seen, ['n1 5', 'n2 8']);
  t.is(said[0], 'a line is not understood, and left out');
});

test('past a restart of the daemon: nothing twice, nothing lost', async (t) => {
  const { asked, said, seen } = await follow([
    [at('n1', 7, 1), at('n2', 3, 2)],
    new DaemonAbsentError('gone'),
    // The daemon here counts anew; the other node goes on, and tells again what was told.
    [at('n2', 3, 2), at('n2', 4, 3), at('n1', 0, 4)],
  ]);
  t.deepEqual(seen, ['n1 7', 'n2 3', 'n2 4', 'n1 0']);
  t.deepEqual(said, [
    'the daemon does not answer; waiting for it',
    'the daemon has started anew; flows that began meanwhile may be missing',
    'the daemon does not answer; waiting for it',
  ]);
  t.is(asked[0], '/v1/cluster/flows/follow?');
  t.regex(asked[2]!, /since=\d+s$/);
});

test('no daemon at the start, or a wrong question: told, not waited for', async (t) => {
  await t.throwsAsync(follow([new DaemonAbsentError('no weft daemon answers')]), {
    code: 'ERR_DAEMON_ABSENT',
  });
  await t.throwsAsync(follow([new ApiError(400, 'ERR_FILTER', 'no')]), { code: 'ERR_FILTER' });
});
