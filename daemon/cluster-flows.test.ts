import test from 'ava';
import type { NodeLease } from '../ipam/types.ts';
import { parseIpv4 } from '../wire/address.ts';
import { poll } from '../linux/program.ts';
import { ApiError, type ApiRoute, StreamAnswer } from './api.ts';
import { type AskOptions, NodeAbsentError } from './cluster-api.ts';
import { ClusterFlows, NewestFlows, flowsOf } from './cluster-flows.ts';
import { flowLinesText, linesOf, parseLine } from './flow-lines.ts';
import type { FlowMessage, FlowsMessage } from './messages.ts';
import { OtherNodes } from './other-nodes.ts';

const flow = (node: string, sequence: number, second: number): FlowMessage =>
  ({
    node,
    sequence,
    time: `2026-01-01T00:00:${String(second).padStart(2, '0')}.000Z`,
    verdict: 'forwarded',
    protocol: 'TCP',
    tcpFlags: '',
    source: {},
    destination: {},
  }) as unknown as FlowMessage;

test('the newest of all nodes, oldest first, whatever the order in which they answer', (t) => {
  const newest = new NewestFlows(3);
  newest.take([flow('n2', 0, 9), flow('n2', 1, 30)]);
  newest.take([1, 2, 3, 4, 5].map((it) => flow('n3', it, it)));
  newest.take([flow('n1', 8, 20), flow('n1', 9, 20)]);
  t.deepEqual(
    newest.all.map(({ node, sequence }) => `${node} ${sequence}`),
    ['n1 8', 'n1 9', 'n2 1'],
  );
});

test('what another node sends is looked at', (t) => {
  t.is(flowsOf({ flows: [flow('n2', 0, 1)] })!.length, 1);
  for (const it of [null, 5, {}, { flows: 'x' }, { flows: [null] }, { flows: [{ time: 5 }] }]) {
    t.is(flowsOf(it), null);
  }
});

const lease = (n: number): NodeLease =>
  ({ key: `10.244.${n}.0-24`, publicIp4: parseIpv4(`192.0.2.${n}`), publicIp6: null }) as NodeLease;

function nodes(
  answers: Readonly<Record<string, unknown>>,
  obstacle: string | null = null,
  peers: readonly NodeLease[] | null = [2, 3, 10].map(lease),
) {
  const asked: string[] = [];
  const others = new OtherNodes({
    api: {
      obstacle,
      ask: <T>({ key }: NodeLease, path: string): Promise<T> => {
        asked.push(`${key} ${path}`);
        const it = answers[key];
        return it instanceof Error ? Promise.reject(it) : Promise.resolve(it as T);
      },
    },
    peers: () => peers,
    names: () => (key) => `node of ${key}`,
  });
  return { others, asked };
}

const ANSWERS = {
  '10.244.2.0-24': { node: 'n2' },
  '10.244.3.0-24': new NodeAbsentError('no answer within 3 s'),
  '10.244.10.0-24': new ApiError(404, 'ERR_NO_ROUTE', 'there is nothing here'),
};

test('all are asked; who does not answer is named', async (t) => {
  const { others } = nodes(ANSWERS);
  const taken: unknown[] = [];
  const absent = await others.askAll('/v1/x', (it) => taken.push(it) > 0);
  t.deepEqual(taken, [{ node: 'n2' }]);
  t.deepEqual(absent, [
    'node of 10.244.3.0-24: no answer within 3 s',
    'node of 10.244.10.0-24: it refuses: there is nothing here',
  ]);
  t.deepEqual(await others.askAll('/v1/x', () => false, [lease(2)]), [
    'n2: its answer is not understood',
  ]);
});

test('where none can be asked, that is one line', async (t) => {
  const { others, asked } = nodes(ANSWERS, 'nodes are not asked, --cluster-port is 0');
  const absent = await others.askAll('/v1/x', () => true);
  t.deepEqual(absent, ['the other nodes: nodes are not asked, --cluster-port is 0']);
  t.deepEqual(asked, []);
  const unlisted = nodes(ANSWERS, null, null).others;
  t.deepEqual(await unlisted.askAll('/v1/x', () => true), [
    'the other nodes: their leases in etcd have not been listed yet',
  ]);
  const alone = nodes(ANSWERS, 'nodes are not asked, --cluster-port is 0', []).others;
  t.deepEqual(await alone.askAll('/v1/x', () => true), []);
});

test('chosen by name, lease or address, and own; names are asked for once', async (t) => {
  const { others, asked } = nodes(ANSWERS);
  const chosen = async (...names: readonly string[]) => {
    const { own, peers, unknown } = await others.choose(names, (it) => it === 'own');
    return [own, peers.map(({ key }) => key), unknown];
  };
  const [second, third, tenth] = Object.keys(ANSWERS) as [string, string, string];
  t.deepEqual(await chosen(), [true, [second, third, tenth], []]);
  t.deepEqual(await chosen('own'), [true, [], []]);
  t.deepEqual(await chosen(third, '192.0.2.10'), [false, [third, tenth], []]);
  t.deepEqual(asked, []);
  t.deepEqual(await chosen('n2', 'own'), [true, [second], []]);
  t.is(asked.length, 3);
  t.deepEqual(await chosen('n2'), [false, [second], []]);
  t.is(asked.length, 3);
  t.deepEqual(await chosen('n9'), [false, [], ['n9']]);
});

/** A cluster whose nodes tell a flow each, and then nothing more. */
function cluster() {
  const state = { peers: [] as readonly NodeLease[], obstacle: null as string | null };
  const told = async (node: string, query: URLSearchParams): Promise<FlowsMessage> => {
    const isFirst = !query.has('after');
    if (!isFirst) await new Promise((resolve) => setTimeout(resolve, 20));
    const flows = isFirst ? [flow(node, 0, 1)] : [];
    return { node, flows, next: 1, run: 'a', lost: 0 };
  };
  const others = new OtherNodes({
    api: {
      get obstacle() {
        return state.obstacle;
      },
      ask: async <T>({ key }: NodeLease, path: string, { read }: AskOptions<T>): Promise<T> => {
        const { pathname, searchParams } = new URL(path, 'http://weft');
        const message = await told(`of ${key}`, searchParams);
        if (read === undefined || pathname !== '/v1/flows/lines') return message as T;
        return read(Buffer.from(flowLinesText(linesOf(message))));
      },
    },
    peers: () => state.peers,
    names: () => (key) => `of ${key}`,
  });
  const errors: unknown[] = [];
  const routes = new ClusterFlows({
    node: 'n1',
    isOwn: (name) => name === 'own',
    observation: {
      recent: () => [flow('n1', 0, 1)],
      flowLines: async (query) => linesOf(await told('n1', query)),
    },
    others,
    onError: (error) => errors.push(error),
  }).routes();
  return { state, errors, follow: routes.find(({ path }) => path.endsWith('/follow'))! };
}

async function open(route: ApiRoute, query = '') {
  const stream = await route.answer({
    parts: {},
    query: new URLSearchParams(query),
    body: undefined,
  });
  if (!(stream instanceof StreamAnswer)) throw new Error('it is no stream');
  const closed = new AbortController();
  const lines: string[] = [];
  stream.begin({
    write: (bytes) => {
      for (const line of Buffer.from(bytes).toString().trimEnd().split('\n')) {
        const it = parseLine(line)!;
        lines.push('flow' in it ? it.flow.node : `${it.node} ${it.note}`);
      }
      return true;
    },
    end: () => closed.abort(),
    closed: closed.signal,
  });
  const all = (...wanted: readonly string[]): Promise<true> =>
    poll(
      () => Promise.resolve(wanted.every((it) => lines.includes(it)) ? true : undefined),
      AbortSignal.timeout(10_000),
    );
  return { lines, all, close: () => closed.abort(), closed: closed.signal };
}

test('followed: nodes that come are picked up, those that go are told', async (t) => {
  const { state, errors, follow } = cluster();
  state.peers = [lease(2)];
  const { all, lines, close } = await open(follow);
  await all('n1', 'of 10.244.2.0-24');
  state.peers = [lease(2), lease(3)];
  await all('of 10.244.3.0-24');
  state.peers = [lease(3)];
  await all('of 10.244.2.0-24 does not answer (its lease has ended); waiting for it');
  state.peers = [lease(3), lease(2)];
  await all('of 10.244.2.0-24 answers again');
  close();
  t.is(lines.length, 5);
  t.deepEqual(errors, []);
});

test('followed: only nodes that were named, and nobody where none can be asked', async (t) => {
  const { state, follow } = cluster();
  state.peers = [lease(2), lease(3)];
  const one = await open(follow, 'node=192.0.2.3');
  await one.all('of 10.244.3.0-24');
  one.close();
  t.deepEqual(one.lines, ['of 10.244.3.0-24']);
  state.obstacle = 'nodes are not asked, --cluster-port is 0';
  const own = await open(follow);
  await own.all('n1', 'the other nodes are missing: nodes are not asked, --cluster-port is 0');
  state.obstacle = null;
  await own.all('of 10.244.2.0-24', 'of 10.244.3.0-24');
  own.close();
  t.is(own.lines.length, 4);
  await t.throwsAsync(open(follow, 'node=n9'), { code: 'ERR_FILTER', message: /"n9"/ });
});

test('followed by few at a time', async (t) => {
  const { follow } = cluster();
  const eight = await Promise.all(Array.from({ length: 8 }, () => open(follow)));
  await t.throwsAsync(open(follow), { code: 'ERR_BUSY' });
  eight[0]!.close();
  const again = await poll(() => open(follow).catch(() => undefined), AbortSignal.timeout(10_000));
  for (const it of [...eight, again]) it.close();
});
