import test from 'ava';
import { type Look, Timeline } from './timeline.ts';

const NONE = { networkPolicies: new Map(), clusterNetworkPolicies: new Map(), services: new Map() };
const BASE: Look = {
  forwarding: true,
  reasons: [],
  lease: '10.244.1.0-24',
  peers: ['10.244.2.0-24'],
  objects: NONE,
  drops: { ttl: 3 },
};
const policies = (...names: readonly string[]): Look['objects'] => ({
  ...NONE,
  networkPolicies: new Map(names.map((it) => [it, { name: it } as never])),
});

const TABLE: readonly [string, Partial<Look>, Partial<Look>, readonly string[]][] = [
  ['nothing', {}, {}, []],
  ['a peer comes', {}, { peers: ['10.244.2.0-24', '10.244.3.0-24'] }, ['peer 10.244.3.0-24 came']],
  ['a peer goes', {}, { peers: [] }, ['peer 10.244.2.0-24 went']],
  ['the first list of peers', { peers: null }, {}, []],
  ['the lease is lost', {}, { lease: null }, ['lease 10.244.1.0-24 is not held any more']],
  ['another lease', {}, { lease: '10.244.9.0-24' }, ['lease holds 10.244.9.0-24']],
  [
    'no packets',
    {},
    { forwarding: false, reasons: ['no subnet leased'] },
    ['node no packets go through: no subnet leased'],
  ],
  ['the first list of objects', { objects: null }, { objects: policies('shop/web') }, []],
  ['a policy', {}, { objects: policies('shop/web') }, ['policy NetworkPolicy shop/web came']],
  [
    'the same policies, listed again',
    { objects: policies('shop/web') },
    { objects: policies('shop/web') },
    [],
  ],
  [
    'many at once',
    {},
    { objects: policies(...Array.from({ length: 11 }, (_, i) => `shop/p${i}`)) },
    ['policy 11 changes of NetworkPolicy'],
  ],
  [
    'drops begin',
    {},
    { drops: { ttl: 4, vni: 1 } },
    ['drops drops begin: ttl', 'drops drops begin: vni'],
  ],
];
for (const [name, before, after, told] of TABLE) {
  test(`told: ${name}`, (t) => {
    const timeline = new Timeline('n1');
    timeline.look({ ...BASE, ...before }, 0);
    const first = timeline.events.length;
    timeline.look({ ...BASE, ...after }, 1000);
    t.deepEqual(
      timeline.events.slice(first).map(({ kind, text }) => `${kind} ${text}`),
      told,
    );
  });
}

test('drops that go on are told once, and again after a minute of quiet', (t) => {
  const timeline = new Timeline('n1');
  const at = (seconds: number, ttl: number) =>
    timeline.look({ ...BASE, drops: { ttl } }, seconds * 1000);
  at(0, 0);
  for (let i = 1; i < 100; i++) at(i, i);
  const begun = () => timeline.events.filter(({ kind }) => kind === 'drops').length;
  t.is(begun(), 1);
  at(200, 99);
  at(201, 100);
  t.is(begun(), 2);
});

test('the newest five hundred are kept', (t) => {
  const timeline = new Timeline('n1');
  for (let i = 0; i < 2000; i++) timeline.look({ ...BASE, lease: `${i}` }, i);
  t.is(timeline.events.length, 500);
  t.is(timeline.events.at(-1)?.text, 'holds 1999');
});
