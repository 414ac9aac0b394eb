import { mock } from 'node:test';
import test from 'ava';
import type { NodeLease } from '../ipam/types.ts';
import type { CaptureFilter } from '../overlay/capture-ring.ts';
import { parseIpv4 } from '../wire/address.ts';
import { parseCidr } from '../wire/cidr.ts';
import { Drop } from '../wire/drop-reason.ts';
import type { ApiError } from './api.ts';
import type { CapturedPacket } from './capture.ts';
import type { TraceWatchMessage, TraceWatchedMessage } from './messages.ts';
import { sightingsOf } from './probe-watch.ts';
import { TraceWatches } from './trace-watches.ts';

const SOURCE = '10.244.1.5';
const POD = '10.244.2.7';
const GOOD = { protocol: 'TCP', mark: '30000', source: SOURCE, destination: POD };

function open() {
  const running = new Map<CaptureFilter, (packet: CapturedPacket, comment: string) => void>();
  const watches = new TraceWatches({
    node: 'n2',
    captures: {
      watch: (filter, take) => {
        running.set(filter, take);
        return { [Symbol.dispose]: () => void running.delete(filter) };
      },
    },
    lease: () => ({ subnet4: parseCidr('10.244.2.0/24'), subnet6: null }) as unknown as NodeLease,
  });
  const [begin, end] = watches.routes();
  return {
    running,
    begin: (query: string | Record<string, string>) =>
      begin!.answer({
        parts: {},
        query: new URLSearchParams(query),
        body: undefined,
      }) as TraceWatchMessage,
    end: (id: string) =>
      end!.answer({
        parts: { id },
        query: new URLSearchParams(),
        body: undefined,
      }) as TraceWatchedMessage,
  };
}

const packet = (from: string, to: string): CapturedPacket => {
  const ends = {
    protocol: 6,
    source: parseIpv4(from),
    destination: parseIpv4(to),
    sourcePort: 30_000,
    destinationPort: 80,
  };
  return {
    timeMs: 0,
    mask: 1,
    reason: Drop.none,
    isOut: false,
    isOuter: false,
    was: ends,
    is: ends,
    bytes: 60,
    stored: new Uint8Array(60),
    outer: null,
  };
};

test('one probe, its packets between the addresses, and fetched once', (t) => {
  const { running, begin, end } = open();
  const { node, id } = begin(GOOD);
  t.is(node, 'n2');
  t.deepEqual(
    [...running.keys()].map(({ protocol, port, snapBytes }) => [protocol, port, snapBytes]),
    [
      [1, null, 256],
      [6, 30_000, 256],
    ],
  );
  const [, take] = [...running.values()];
  take!(packet(SOURCE, POD), 'forwarded ingress');
  take!(packet(SOURCE, '10.244.2.8'), 'of somebody else');
  for (let i = 0; i < 100; i++) take!(packet(POD, SOURCE), 'forwarded egress');
  const { seen } = end(id);
  t.is(running.size, 0);
  t.is(seen.length, 32);
  t.like(seen[0], { node: 'n2', atMs: null, source: SOURCE, text: 'forwarded ingress' });
  t.is(seen[1]!.text, 'forwarded egress');
  t.deepEqual(sightingsOf({ seen }), seen);
  t.throws(() => end(id), { code: 'ERR_TRACE' });
});

test('one at a time: the next when it was fetched', (t) => {
  const { begin, end } = open();
  const { id } = begin(GOOD);
  t.is(t.throws<ApiError>(() => begin(GOOD)).status, 429);
  end(id);
  t.notThrows(() => begin({ ...GOOD, protocol: 'ICMP' }));
});

test.serial('it ends by itself, fetched or not', (t) => {
  mock.timers.enable({ apis: ['setTimeout'] });
  try {
    const { running, begin, end } = open();
    const { id } = begin(GOOD);
    mock.timers.tick(7_999);
    t.is(running.size, 2);
    mock.timers.tick(1);
    t.is(running.size, 0);
    t.throws(() => end(id), { code: 'ERR_TRACE' });
    t.notThrows(() => begin(GOOD));
  } finally {
    mock.timers.reset();
  }
});

const REFUSED: readonly [string, string | Record<string, string>, RegExp][] = [
  ['nothing', {}, /protocol/],
  ['all protocols', { ...GOOD, protocol: 'any' }, /protocol/],
  ['a port of a real service', { ...GOOD, mark: '443' }, /mark/],
  ['no port', { ...GOOD, mark: '' }, /mark/],
  ['a block as the source', { ...GOOD, source: '10.244.1.0/24' }, /source/],
  ['our own pod as the source', { ...GOOD, source: '10.244.2.9' }, /source/],
  ['two sources', `${new URLSearchParams(GOOD).toString()}&source=10.244.1.6`, /source/],
  ['no destination', { ...GOOD, destination: '' }, /destination/],
  ['a destination elsewhere', { ...GOOD, destination: '10.244.3.1' }, /destination/],
  ['another family', { ...GOOD, destination: 'fd00::1' }, /destination/],
  [
    'too many destinations',
    `${new URLSearchParams(GOOD).toString()}${'&destination=10.244.2.8'.repeat(16)}`,
    /destination/,
  ],
];
for (const [title, query, message] of REFUSED) {
  test(`refused: ${title}`, (t) => {
    const { running, begin } = open();
    t.throws(() => begin(query), { code: 'ERR_TRACE', message });
    t.is(running.size, 0);
  });
}

test('what another node sends is looked at', (t) => {
  for (const it of [null, {}, { seen: [{}] }, { seen: Array.from({ length: 33 }, () => ({})) }]) {
    t.is(sightingsOf(it), null);
  }
});
