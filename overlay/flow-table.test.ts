/** The flow table against a naive twin, and what it gives up when it is full. */
import test from 'ava';
import {
  type FlowMemory,
  flowStats,
  listFlows,
  openFlowMemory,
  sweepFlows,
} from './flow-memory.ts';
import {
  FLOW_ASSURED,
  FLOW_DEADLINE_S,
  FLOW_DST_ORIG,
  FLOW_FLAGS,
  FLOW_KIND,
  FLOW_PORTS_ORIG,
  FLOW_SRC_ORIG,
  FLOW_SRC_ORIG_HIGH,
  FLOW_WORDS,
  type FlowTable,
  KIND_AFFINITY,
  KIND_FRAGMENT,
  createFlowTable,
} from './flow-table.ts';

const TCP = 6;
const UDP = 17;
const SYN = 0x02;
const ACK = 0x10;
const SYN_ACK = SYN | ACK;
const NOW_S = 1000;

/** Words: source (4), destination (4; IPv4 in the last of each), ports. */
interface Tuple {
  readonly family: 4 | 6;
  readonly source: readonly number[];
  readonly destination: readonly number[];
  readonly ports: number;
}

const turned = ({ family, source, destination, ports }: Tuple): Tuple => ({
  family,
  source: destination,
  destination: source,
  ports: (ports << 16) | (ports >>> 16),
});

const tuple4 = (source: number, destination: number, ports: number): Tuple => ({
  family: 4,
  source: [0, 0, 0, source | 0],
  destination: [0, 0, 0, destination | 0],
  ports: ports | 0,
});

const view = new DataView(new ArrayBuffer(64));

function open(maxFlows: number): { table: FlowTable; memory: FlowMemory } {
  const memory = openFlowMemory(null, maxFlows);
  const table = createFlowTable(view, memory);
  table.setNow(NOW_S);
  return { table, memory };
}

function writeDraft(draft: Int32Array, tuple: Tuple, direction: number): void {
  draft[FLOW_PORTS_ORIG + direction] = tuple.ports;
  draft[FLOW_SRC_ORIG + 2 * direction] = tuple.source[3]!;
  draft[FLOW_DST_ORIG + 2 * direction] = tuple.destination[3]!;
  for (let i = 0; i < 3; i++) {
    draft[FLOW_SRC_ORIG_HIGH + 6 * direction + i] = tuple.source[i]!;
    draft[FLOW_SRC_ORIG_HIGH + 3 + 6 * direction + i] = tuple.destination[i]!;
  }
}

function insert(
  table: FlowTable,
  protocol: number,
  orig: Tuple,
  owner: number,
  reply = turned(orig),
): number {
  table.draft[FLOW_KIND] = protocol | (orig.family << 8);
  writeDraft(table.draft, orig, 0);
  writeDraft(table.draft, reply, 1);
  return table.insert(owner);
}

function writeAddresses({ source, destination }: Tuple): void {
  for (let i = 0; i < 4; i++) {
    view.setInt32(4 * i, source[i]!);
    view.setInt32(16 + 4 * i, destination[i]!);
  }
}

function find(table: FlowTable, protocol: number, tuple: Tuple): number {
  const { source, destination, ports } = tuple;
  if (tuple.family === 4) return table.find4(source[3]!, destination[3]!, ports, protocol);
  writeAddresses(tuple);
  return table.find6(0, 16, ports, protocol);
}

function expect(table: FlowTable, protocol: number, tuple: Tuple): void {
  const { source, destination, ports } = tuple;
  if (tuple.family === 4) table.expect4(source[3]!, destination[3]!, ports, protocol);
  else {
    writeAddresses(tuple);
    table.expect6(0, 16, ports, protocol);
  }
}

test('a flow is found by both of its tuples, of its own protocol and family only', (t) => {
  const { table } = open(16);
  const orig = tuple4(0x0a000001, 0x0a000002, 0x12340050);
  const reply = tuple4(0x0a000003, 0x0a000001, 0x1f901234);
  const ref = insert(table, TCP, orig, 7, reply);
  t.is(ref & 1, 0);
  t.is(find(table, TCP, orig), ref);
  t.is(find(table, TCP, reply), ref | 1);
  t.is(find(table, UDP, orig), -1);
  t.is(find(table, TCP, turned(orig)), -1);
  t.is(find(table, TCP, { ...orig, family: 6 }), -1);
  table.remove(ref);
  t.is(find(table, TCP, orig), -1);
  t.is(find(table, TCP, reply), -1);
});

test('another flow with the reply tuple refuses, one with the orig tuple is the answer', (t) => {
  const { table } = open(16);
  const [client, service, backend] = [1, 2, 3];
  const first = insert(
    table,
    TCP,
    tuple4(client, service, 0x10000050),
    0,
    tuple4(backend, client, 0x00501000),
  );
  t.is(insert(table, TCP, tuple4(client, service, 0x10000050), 0, tuple4(9, 9, 9)), first);
  t.is(insert(table, TCP, tuple4(backend, client, 0x00501000), 0, tuple4(9, 9, 9)), first | 1);
  t.is(
    insert(table, TCP, tuple4(client, 4, 0x10000050), 0, tuple4(backend, client, 0x00501000)),
    -1,
  );
  t.is(insert(table, UDP, tuple4(client, service, 0x10000050), 0), 2, 'of another protocol');
});

test('a flow to itself has one tuple, an entry that is no flow has one too', (t) => {
  const { table, memory } = open(16);
  const self = insert(table, TCP, tuple4(5, 5, 0x00500050), 0);
  t.is(find(table, TCP, tuple4(5, 5, 0x00500050)), self);
  table.draft[FLOW_DEADLINE_S] = NOW_S + 77;
  const affinity = insert(table, KIND_AFFINITY, tuple4(6, 7, 80), 0, tuple4(8, 0, 8080));
  t.is(table.words[(affinity >>> 1) * FLOW_WORDS + FLOW_DEADLINE_S], NOW_S + 77);
  t.is(find(table, KIND_AFFINITY, tuple4(8, 0, 8080)), -1);
  const second = insert(table, KIND_AFFINITY, tuple4(9, 7, 80), 0, tuple4(8, 0, 8080));
  t.true(second >= 0, 'two clients have the same backend');
  const fragment = insert(table, KIND_FRAGMENT, tuple4(6, 7, 4242), 0);
  t.is(table.words[(fragment >>> 1) * FLOW_WORDS + FLOW_DEADLINE_S], NOW_S + 30);
  for (const ref of [self, affinity, second, fragment]) table.remove(ref);
  t.is(flowStats(memory).flows, 0);
});

test('whose time is over is not found, and makes room for the same tuple', (t) => {
  const { table, memory } = open(16);
  const orig = tuple4(1, 2, 3);
  const ref = insert(table, UDP, orig, 0);
  table.setNow(NOW_S + 29);
  t.is(find(table, UDP, orig), ref);
  table.setNow(NOW_S + 30);
  t.is(find(table, UDP, orig), -1);
  t.is(flowStats(memory).flows, 1);
  const next = insert(table, UDP, orig, 0);
  t.not(next, ref);
  t.is(find(table, UDP, orig), next);
  t.like(flowStats(memory), { flows: 1, inserted: 2, expired: 1 });
  t.is(sweepFlows(memory, 100, NOW_S + 59), 0);
  t.is(sweepFlows(memory, 100, NOW_S + 60), 1);
  t.is(flowStats(memory).flows, 0);
});

/** A generator that can be started again: https://en.wikipedia.org/wiki/Linear_congruential_generator */
function randomOf(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

interface TwinFlow {
  readonly keys: readonly string[];
  readonly ref: number;
  deadlineS: number;
  steps: number;
}

const keyOf = (protocol: number, tuple: Tuple): string => JSON.stringify([protocol, tuple]);

test('it does what a map does, whoever is expected', (t) => {
  const seed = (Math.random() * 2 ** 32) >>> 0;
  t.log(`seed ${seed}`);
  const random = randomOf(seed);
  const { table, memory } = open(2048);
  const twin = new Map<string, TwinFlow>();
  let nowS = NOW_S;
  const tupleOf = (): Tuple => ({
    family: random(2) === 0 ? 4 : 6,
    source: [0, 0, 0, random(6)],
    destination: [0, 0, 0, random(6)],
    ports: (random(3) << 16) | random(3),
  });
  const twinOf = (key: string): TwinFlow | undefined => {
    const found = twin.get(key);
    return found !== undefined && found.deadlineS > nowS ? found : undefined;
  };
  const forget = (flow: TwinFlow | undefined) => {
    for (const key of flow?.keys ?? []) twin.delete(key);
  };
  let hits = 0;
  const coming: Tuple[] = [];
  for (let i = 0; i < 60_000; i++) {
    if (coming.length === 0) {
      // Some are not expected, some that are do not come, and some come in another order.
      const told = Array.from({ length: 1 + random(12) }, tupleOf);
      for (const it of told) if (random(8) > 0) expect(table, UDP, it);
      if (random(8) > 0) table.fetch();
      coming.push(...told.filter(() => random(8) > 0), tupleOf());
      if (random(8) === 0) coming.reverse();
    }
    const orig = coming.shift()!;
    const key = keyOf(UDP, orig);
    const known = twinOf(key);
    const expected = known === undefined ? -1 : known.ref | known.keys.indexOf(key);
    const found = find(table, UDP, orig);
    if (found !== expected) t.fail(`step ${i}: ${found} for ${expected}, ${key}`);
    if (found >= 0) hits++;
    switch (random(4)) {
      case 0: {
        const reply = random(2) === 0 ? turned(orig) : { ...tupleOf(), family: orig.family };
        const replyKey = keyOf(UDP, reply);
        const blocked = twinOf(replyKey) !== undefined && replyKey !== key;
        const ref = insert(table, UDP, orig, random(5), reply);
        if (known !== undefined) {
          if (ref !== expected) t.fail(`step ${i}: inserted ${ref} for ${expected}`);
        } else {
          forget(twin.get(key));
          if (!blocked) forget(twin.get(replyKey));
          if (blocked !== ref < 0) t.fail(`step ${i}: inserted ${ref}, blocked ${blocked}`);
          if (!blocked) {
            const flow = {
              keys: [...new Set([key, replyKey])],
              ref,
              deadlineS: nowS + 30,
              steps: 0,
            };
            for (const one of flow.keys) twin.set(one, flow);
          }
        }
        break;
      }
      case 1:
        if (known !== undefined) {
          table.advance(found, 0);
          if ((found & 1) === 1) known.steps = Math.max(known.steps, 2);
          else known.steps = known.steps < 2 ? 1 : 3;
          known.deadlineS = nowS + (known.steps === 3 ? 120 : 30);
        }
        break;
      case 2:
        if (known !== undefined && random(3) === 0) {
          table.remove(found);
          forget(known);
        }
        break;
      default:
        if (random(60) === 0) table.setNow((nowS += random(20)));
    }
  }
  t.true(hits > 5000, `${hits} hits`);
  sweepFlows(memory, 4096, nowS);
  const left = new Set([...twin.values()].filter(({ deadlineS }) => deadlineS > nowS));
  t.is(flowStats(memory).flows, left.size);
  t.is([...listFlows(memory, nowS)].length, left.size);
});

/** Flow `i` of `owner`, whose tuples nobody else has. */
const flowOf = (owner: number, i: number): Tuple => tuple4(owner, 0x0b000000 + i, 0x10000050);

test('who floods a full table loses its own, the others keep all of theirs', (t) => {
  const { table, memory } = open(1000);
  const quiet = [1, 2, 3, 4, 5];
  for (const owner of quiet) {
    for (let i = 0; i < 100; i++) insert(table, TCP, flowOf(owner, i), owner);
  }
  for (let i = 0; i < 20_000; i++) insert(table, TCP, flowOf(99, i), 99);
  for (const owner of quiet) {
    for (let i = 0; i < 100; i++) t.true(find(table, TCP, flowOf(owner, i)) >= 0);
  }
  const { flows, evicted } = flowStats(memory);
  t.true(flows > 980 && flows <= 1000, `${flows} flows`);
  t.is(evicted, 20_500 - flows);
  t.is(find(table, TCP, flowOf(99, 0)), -1);
  t.true(find(table, TCP, flowOf(99, 19_999)) >= 0, 'its newest are there');
});

test('of one owner those go first that are not assured, then the oldest', (t) => {
  const { table } = open(64);
  const assured = [0, 10, 20];
  for (let i = 0; i < 64; i++) {
    const ref = insert(table, UDP, flowOf(1, i), 1);
    if (!assured.includes(i)) continue;
    for (const direction of [0, 1, 0]) table.advance(ref | direction, 0);
    t.is(table.words[(ref >>> 1) * FLOW_WORDS + FLOW_FLAGS]! & FLOW_ASSURED, FLOW_ASSURED);
  }
  const isThere = (i: number): boolean => find(table, UDP, flowOf(1, i)) >= 0;
  insert(table, UDP, flowOf(1, 64), 1);
  t.deepEqual([0, 1, 2].map(isThere), [true, false, true]);
  for (let i = 65; i < 65 + 9; i++) insert(table, UDP, flowOf(1, i), 1);
  t.deepEqual([0, 9, 10, 11, 12].map(isThere), [true, false, true, false, true]);
  for (let i = 0; i < 61; i++) {
    const ref = insert(table, UDP, flowOf(2, i), 1);
    for (const direction of [0, 1, 0]) table.advance(ref | direction, 0);
  }
  t.deepEqual(assured.map(isThere), [true, true, true]);
  insert(table, UDP, flowOf(2, 99), 1);
  t.deepEqual(assured.map(isThere), [false, true, true], 'all are assured: the oldest');
});

test('a full table lets those go first whose time is over', (t) => {
  const { table, memory } = open(64);
  for (let i = 0; i < 64; i++) insert(table, i < 32 ? TCP : UDP, flowOf(1, i), 1);
  for (let i = 0; i < 32; i++) table.advance(find(table, TCP, flowOf(1, i)), SYN);
  table.setNow(NOW_S + 40);
  for (let i = 64; i < 64 + 32; i++) insert(table, TCP, flowOf(2, i), 2);
  t.like(flowStats(memory), { flows: 64, expired: 32, evicted: 0 });
});

test('half open connections go, those that were opened stay', (t) => {
  const { table } = open(128);
  for (let i = 0; i < 10; i++) {
    const ref = insert(table, TCP, flowOf(1, i), 1);
    table.advance(ref, SYN);
    table.advance(ref | 1, SYN_ACK);
    table.advance(ref, ACK);
  }
  for (let i = 100; i < 1100; i++) table.advance(insert(table, TCP, flowOf(1, i), 1), SYN);
  for (let i = 0; i < 10; i++) t.true(find(table, TCP, flowOf(1, i)) >= 0, `${i}`);
});

test('tuples that share their low bits spread evenly over the chains', (t) => {
  const { table } = open(1 << 14);
  const buckets = new Int32Array(1 << 12);
  const count = buckets.length * 8;
  for (let i = 0; i < count; i++) {
    buckets[table.hash4(i << 16, 0x0a000001, i << 20, TCP) & (buckets.length - 1)]!++;
  }
  // Poisson of mean 8: above 30 is once in 10^9.
  t.true(Math.max(...buckets) < 30, `${Math.max(...buckets)} in a bucket`);
  t.true(buckets.filter((n) => n === 0).length < 20);
  const other = open(1 << 14).table;
  t.not(table.hash4(1, 2, 3, TCP), other.hash4(1, 2, 3, TCP), 'another key');
  t.not(table.hash6(0, 16, 3, TCP), other.hash6(0, 16, 3, TCP), 'another key');
});

test('tuples chosen to share a chain under one key are spread by another', (t) => {
  const [known, other] = [open(1 << 14).table, open(1 << 14).table];
  const mask = (1 << 12) - 1;
  const chosen: number[] = [];
  for (let i = 0; chosen.length < 64; i++) {
    if ((known.hash4(0x0a000001, 0x0a000002, i, TCP) & mask) === 0) chosen.push(i);
  }
  const chains = new Set(
    chosen.map((ports) => other.hash4(0x0a000001, 0x0a000002, ports, TCP) & mask),
  );
  // Of 64 in 4,096 chains, more than eight pairs that meet are once in 10^6.
  t.true(chains.size > 56, `${chains.size} chains`);
});

test('a million flows fit', (t) => {
  const { table, memory } = open(1_000_000);
  for (let i = 0; i < 1_000_000; i++) insert(table, TCP, tuple4(i, 7, i), i & 255);
  t.like(flowStats(memory), { flows: 1_000_000, evicted: 0 });
  let found = 0;
  for (let i = 0; i < 1_000_000; i += 97) if (find(table, TCP, tuple4(i, 7, i)) >= 0) found++;
  t.is(found, Math.ceil(1_000_000 / 97));
});

test('to expect flows, known ones and others, more than it takes, changes nothing', (t) => {
  const { table } = open(20_000);
  t.false(table.isLarge());
  for (let i = 0; i < 20_000; i++) insert(table, TCP, tuple4(i, 7, i), i & 255);
  t.true(table.isLarge());
  const found = (): number[] =>
    Array.from({ length: 400 }, (_, i) => find(table, TCP, tuple4(19_800 + i, 7, 19_800 + i)));
  const before = found();
  t.is(before.filter((ref) => ref >= 0).length, 200);
  table.fetch();
  for (let i = 0; i < 200; i++) table.expect4(19_900 + i, 7, 19_900 + i, TCP);
  table.expect6(0, 16, 5, TCP);
  table.fetch();
  t.deepEqual(found(), before);
});

test('who was kept from running does nothing to the flow that has the entry by now', (t) => {
  const { table, memory } = open(64);
  const slow = createFlowTable(view, memory);
  slow.setNow(NOW_S);
  const orig = flowOf(1, 0);
  insert(table, TCP, orig, 1);
  const ref = find(slow, TCP, orig);
  t.true(slow.isStill(ref));
  table.remove(ref);
  t.false(slow.isStill(ref));
  t.is(find(table, TCP, orig), -1);
  let i = 1;
  for (let taken = -1; taken !== ref; i++) {
    if (taken >= 0) table.remove(taken);
    taken = insert(table, TCP, flowOf(1, i), 1);
  }
  t.true(i > 1000, `taken again after ${i}`);
  const words = table.words.slice((ref >>> 1) * FLOW_WORDS, ((ref >>> 1) + 1) * FLOW_WORDS);
  slow.advance(ref, SYN);
  slow.remove(ref);
  t.false(slow.isStill(ref));
  t.deepEqual(table.words.slice((ref >>> 1) * FLOW_WORDS, ((ref >>> 1) + 1) * FLOW_WORDS), words);
  t.is(find(table, TCP, flowOf(1, i - 1)), ref);
});
