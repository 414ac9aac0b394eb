import test from 'ava';
import {
  type HealthSubject,
  type Readiness,
  checksOf,
  healthRoutes,
  livenessOf,
  reasonsOf,
  verboseText,
} from './health.ts';
import { Answer } from './api.ts';

const GOOD: Readiness = {
  packetPath: null,
  lease: null,
  arePeersKnown: true,
  isHostApplied: true,
  hostProblem: null,
  areObjectsKnown: true,
  objectFailure: null,
  store: null,
  firstAnswer: null,
};
const STARTING: Readiness = {
  ...GOOD,
  packetPath: 'no network config read yet',
  lease: 'no subnet leased',
  arePeersKnown: false,
  isHostApplied: false,
  areObjectsKnown: false,
  firstAnswer: 'no network config read yet',
};

for (const [title, change, reasons, failed] of [
  ['all is well', {}, [], []],
  [
    'the start waits for etcd: one reason, all checks',
    STARTING,
    ['no network config read yet'],
    ['packet-path', 'lease', 'peers', 'host', 'objects', 'store'],
  ],
  ['etcd is away', { store: 'no answer' }, ['etcd: no answer'], ['store']],
  [
    'the lease is lost and etcd away',
    { lease: 'lease k is lost: late', store: 'no answer' },
    ['lease k is lost: late', 'etcd: no answer'],
    ['lease', 'store'],
  ],
  ['the host is broken', { hostProblem: 'nft failed' }, ['host state: nft failed'], ['host']],
  [
    'objects cannot be compiled',
    { objectFailure: 'too many' },
    ['policies and Services stay as they were: too many'],
    ['objects'],
  ],
] as const) {
  test(`readiness: ${title}`, (t) => {
    const readiness = { ...GOOD, ...change };
    t.deepEqual(reasonsOf(readiness), reasons);
    const checks = checksOf(readiness);
    t.deepEqual(
      checks.filter((it) => it.reason !== null).map((it) => it.name),
      failed,
    );
    const names = ['packet-path', 'lease', 'peers', 'host', 'objects', 'store'];
    t.deepEqual(
      checks.map((it) => it.name),
      names,
    );
  });
}

test('lines are those of Kubernetes, and no control character gets through', (t) => {
  t.is(
    verboseText('readyz', [
      { name: 'store', reason: null },
      { name: 'lease', reason: 'no\n[+]lease ok\u001b[2J' },
    ]),
    '[+]store ok\n[-]lease failed: no [+]lease ok [2J\nreadyz check failed\n',
  );
});

for (const [silentMs, isAlive] of [
  [null, true],
  [0, true],
  [5_000, true],
  [5_001, false],
] as const) {
  test(`a worker is silent for ${silentMs} ms: ${isAlive ? 'alive' : 'dead'}`, (t) => {
    const dataplane = silentMs === null ? null : { silentMs: () => silentMs };
    t.is(
      livenessOf(dataplane).every((it) => it.reason === null),
      isAlive,
    );
  });
}

function ask(readiness: Readiness, path: string, silentMs = 0): Answer {
  const subject: HealthSubject = {
    forwarding: () => readiness.lease === null,
    readiness: () => readiness,
    objects: () => null,
    dataplane: () => ({ silentMs: () => silentMs }),
    reading: () => {
      throw new Error('nobody asks for it');
    },
  };
  const { pathname, searchParams: query } = new URL(path, 'http://weft');
  const route = healthRoutes(subject).find((it) => it.path === pathname)!;
  return route.answer({ parts: {}, query, body: undefined }) as Answer;
}

for (const [title, readiness, path, status, body] of [
  ['etcd away', { ...GOOD, store: 'gone' }, '/livez', 200, 'ok'],
  ['etcd away', { ...GOOD, store: 'gone' }, '/healthz', 200, null],
  [
    'etcd away',
    { ...GOOD, store: 'gone' },
    '/readyz?verbose',
    503,
    '[+]packet-path ok\n[+]lease ok\n[+]peers ok\n[+]host ok\n[+]objects ok\n' +
      '[-]store failed: etcd: gone\nreadyz check failed\n',
  ],
  [
    'starting',
    STARTING,
    '/livez?verbose',
    200,
    '[+]main-thread ok\n[+]packet-path ok\nlivez check passed\n',
  ],
  ['starting', STARTING, '/healthz', 503, null],
  ['the lease is lost', { ...GOOD, lease: 'lost' }, '/livez', 200, 'ok'],
] as const) {
  test(`${path} while ${title}: ${status}`, (t) => {
    const answer = ask(readiness, path);
    t.is(answer.status, status);
    if (body !== null) t.is(answer.body, body);
  });
}

test('/livez while a worker is stuck: 503, and why', (t) => {
  const answer = ask(GOOD, '/livez', 61_000);
  t.is(answer.status, 503);
  t.regex(
    String(answer.body),
    /^\[-\]packet-path failed: a packet worker has not answered for 61 s$/m,
  );
});
