/** Flows outlive the process, however it ends; what is not sound or not ours does not. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import {
  type FlowMemory,
  FlowMemoryError,
  closeFlowMemory,
  flowStats,
  listFlows,
  openFlowMemory,
  openStore,
  collapseFlows,
  sweepFlows,
} from './flow-memory.ts';
import {
  FLOW_DEADLINE_S,
  FLOW_DST_ORIG,
  FLOW_DST_REPLY,
  FLOW_FOLLOWING,
  FLOW_GENERATION,
  FLOW_HASH_ORIG,
  FLOW_KIND,
  FLOW_NEXT_ORIG,
  FLOW_OWNER,
  FLOW_PORTS_ORIG,
  FLOW_PORTS_REPLY,
  FLOW_SRC_ORIG,
  FLOW_SRC_REPLY,
  FLOW_STATE,
  FLOW_VERSION,
  FLOW_WORDS,
  type FlowTable,
  createFlowTable,
} from './flow-table.ts';
import { HEADER_HIGH_WATER, HEADER_IN_USE, HEADER_LAYOUT } from './flow-store.ts';
import type { StressOrder, StressResult } from './flow-stress-worker.ts';

const TCP = 6;
const ACK = 0x10;
const MAX_FLOWS = 4096;
const FIXTURE = new URL('flow-stress-worker.ts', import.meta.url);

const nowS = (): number => Math.floor(Number(readFileSync('/proc/uptime', 'latin1').split(' ')[0]));

function place(): { path: string; [Symbol.dispose]: () => void } {
  const directory = mkdtempSync('/dev/shm/weft-flows-');
  return {
    // Made by whoever opens the memory, as /run/weft is.
    path: `${directory}/weft/flows`,
    [Symbol.dispose]: () => rmSync(directory, { recursive: true }),
  };
}

function tableOf(memory: FlowMemory): FlowTable {
  const table = createFlowTable(new DataView(new ArrayBuffer(64)), memory);
  table.setNow(nowS());
  return table;
}

function insertFlow(table: FlowTable, i: number): number {
  const { draft } = table;
  draft[FLOW_KIND] = TCP | (4 << 8);
  draft[FLOW_PORTS_ORIG] = 0x10000050;
  draft[FLOW_PORTS_REPLY] = 0x00501000;
  draft[FLOW_SRC_ORIG] = draft[FLOW_DST_REPLY] = i;
  draft[FLOW_DST_ORIG] = draft[FLOW_SRC_REPLY] = 7;
  const ref = table.insert(i % 10);
  table.advance(ref, ACK);
  return ref;
}

const findFlow = (table: FlowTable, i: number): number => table.find4(i, 7, 0x10000050, TCP);
const findReply = (table: FlowTable, i: number): number => table.find4(7, i, 0x00501000, TCP);

/** Every structure says the same of every entry. @returns flows in use, or what does not agree */
function examine(memory: FlowMemory): number | string {
  const { words, header, heads, counts, lists } = openStore(memory);
  const used = new Set<number>();
  const free = new Set<number>();
  for (let entry = 0; entry < header[HEADER_HIGH_WATER]!; entry++) {
    ((words[entry * FLOW_WORDS + FLOW_VERSION]! & 1) === 1 ? used : free).add(entry);
  }
  if (used.size !== header[HEADER_IN_USE]) return `${used.size} in use`;
  const tuples = new Set<string>();
  const chained = new Set<number>();
  for (const [head, first] of heads.entries()) {
    for (let ref = first; ref >= 0;) {
      const at = (ref >>> 1) * FLOW_WORDS;
      if (chained.has(ref)) return `${ref} twice in chains`;
      if (!used.has(ref >>> 1)) return `${ref} in a chain and free`;
      if ((words[at + FLOW_HASH_ORIG + (ref & 1)]! & (heads.length - 1)) !== head) {
        return `${ref} in another's chain`;
      }
      chained.add(ref);
      tuples.add(
        [FLOW_SRC_ORIG, FLOW_DST_ORIG]
          .map((word) => words[at + word + 2 * (ref & 1)])
          .concat(words[at + FLOW_PORTS_ORIG + (ref & 1)])
          .join(),
      );
      ref = words[at + FLOW_NEXT_ORIG + (ref & 1)]!;
    }
  }
  if (chained.size !== used.size * 2) return `${chained.size} references`;
  if (tuples.size !== chained.size) return `${tuples.size} tuples of ${chained.size} references`;
  const listed = new Set<number>();
  for (const [owner, count] of counts.entries()) {
    let found = 0;
    for (const first of [lists[owner * 4]!, lists[owner * 4 + 2]!]) {
      for (let entry = first; entry >= 0; entry = words[entry * FLOW_WORDS + FLOW_FOLLOWING]!) {
        if (listed.has(entry)) return `${entry} twice in lists`;
        if (words[entry * FLOW_WORDS + FLOW_OWNER] !== owner) return `${entry} of another owner`;
        listed.add(entry);
        found++;
      }
    }
    if (found !== count) return `owner ${owner} has ${found}, not ${count}`;
  }
  return listed.size === used.size ? used.size : `${listed.size} in lists`;
}

test('flows go on after a restart, to be decided again', (t) => {
  using at = place();
  const first = openFlowMemory(at.path, MAX_FLOWS);
  const before = tableOf(first);
  before.draft[FLOW_GENERATION] = 3;
  for (let i = 0; i < 100; i++) insertFlow(before, i);
  before.remove(findFlow(before, 40));
  const hash = before.hash4(1, 2, 3, TCP);
  closeFlowMemory(first);
  t.is(statSync(at.path).mode & 0o777, 0o600);

  const second = openFlowMemory(at.path, MAX_FLOWS);
  const after = tableOf(second);
  t.is(examine(second), 99);
  t.is(after.hash4(1, 2, 3, TCP), hash, 'the key is kept');
  for (let i = 0; i < 100; i++) t.is(findReply(after, i) >= 0, i !== 40);
  t.is(after.words[(findFlow(after, 5) >>> 1) * FLOW_WORDS + FLOW_GENERATION], -1);
  const [listed] = [...listFlows(second)];
  t.like(listed, { protocol: TCP, family: 4, state: 'established', replied: false });
  t.true(listed!.secondsLeft > 290 && listed!.secondsLeft <= 300);
  closeFlowMemory(second);
});

test('the oldest are the oldest after a restart too', (t) => {
  using at = place();
  const first = openFlowMemory(at.path, 64);
  const before = tableOf(first);
  for (let i = 0; i < 40; i++) insertFlow(before, i * 10);
  before.remove(findFlow(before, 0));
  // Into an entry that is anywhere.
  for (let i = 40; i < 65; i++) insertFlow(before, i * 10);
  closeFlowMemory(first);
  const second = openFlowMemory(at.path, 64);
  const after = tableOf(second);
  insertFlow(after, 650);
  insertFlow(after, 660);
  t.deepEqual(
    [1, 2, 3, 64].map((i) => findFlow(after, i * 10) >= 0),
    [false, false, true, true],
  );
  closeFlowMemory(second);
});

const spoils: readonly [name: string, word: number, value: number][] = [
  ['half a tuple', FLOW_SRC_ORIG, 12345],
  ['no family', FLOW_KIND, TCP],
  ['another hash', FLOW_HASH_ORIG, 1],
  ['no such state', FLOW_STATE, 99],
  ['no such owner', FLOW_OWNER, 4096],
  ['a deadline out of reach', FLOW_DEADLINE_S, 2 ** 31 - 1],
  ['a deadline that has passed', FLOW_DEADLINE_S, 0],
];

for (const [name, word, value] of spoils) {
  test(`an entry is not believed: ${name}`, (t) => {
    using at = place();
    const first = openFlowMemory(at.path, MAX_FLOWS);
    const before = tableOf(first);
    for (let i = 0; i < 10; i++) insertFlow(before, i);
    before.words[(findFlow(before, 4) >>> 1) * FLOW_WORDS + word] = value;
    closeFlowMemory(first);
    const second = openFlowMemory(at.path, MAX_FLOWS);
    t.is(examine(second), 9);
    t.is(findFlow(tableOf(second), 4), -1);
    closeFlowMemory(second);
  });
}

const remakes: readonly [name: string, change: (path: string) => void, maxFlows?: number][] = [
  ['another size', () => undefined, MAX_FLOWS * 2],
  ['cut off', (path) => writeFileSync(path, 'short')],
  ['open to others', (path) => chmodSync(path, 0o644)],
  [
    'another layout',
    (path) => {
      const fd = openSync(path, 'r+');
      writeSync(fd, Uint8Array.of(99), 0, 1, HEADER_LAYOUT * 4);
      closeSync(fd);
    },
  ],
  [
    'another boot',
    (path) => {
      const fd = openSync(path, 'r+');
      writeSync(fd, new Uint8Array(16), 0, 16, 8 * 4);
      closeSync(fd);
    },
  ],
  [
    'a symbolic link',
    (path) => {
      rmSync(path);
      writeFileSync(`${path}.victim`, 'untouched', { mode: 0o600 });
      symlinkSync(`${path}.victim`, path);
    },
  ],
];

for (const [name, change, maxFlows = MAX_FLOWS] of remakes) {
  test(`made anew: ${name}`, (t) => {
    using at = place();
    const first = openFlowMemory(at.path, MAX_FLOWS);
    insertFlow(tableOf(first), 1);
    closeFlowMemory(first);
    change(at.path);
    const second = openFlowMemory(at.path, maxFlows);
    t.is(examine(second), 0);
    t.true(statSync(at.path).isFile());
    t.is(statSync(at.path).mode & 0o777, 0o600);
    if (name === 'a symbolic link') t.is(readFileSync(`${at.path}.victim`, 'utf8'), 'untouched');
    t.true(insertFlow(tableOf(second), 1) >= 0);
    closeFlowMemory(second);
  });
}

test('two processes do not share it', (t) => {
  using at = place();
  const memory = openFlowMemory(at.path, MAX_FLOWS);
  const error = t.throws(() => openFlowMemory(at.path, MAX_FLOWS), {
    instanceOf: FlowMemoryError,
  });
  t.is(error.code, 'ERR_FLOWS_BUSY');
  closeFlowMemory(memory);
  t.throws(() => openFlowMemory(at.path, 0), { code: 'ERR_FLOWS_SIZE' });
});

test('a process may die in the middle of anything', async (t) => {
  using at = place();
  let survived = 0;
  for (let round = 0; round < 6; round++) {
    const child = fork(FIXTURE, [at.path, String(MAX_FLOWS)]);
    await once(child, 'message');
    await sleep(20 + round * 13);
    child.kill('SIGKILL');
    await once(child, 'exit');
    const memory = openFlowMemory(at.path, MAX_FLOWS);
    const flows = examine(memory);
    t.is(typeof flows, 'number', String(flows));
    survived += Number(flows);
    const table = tableOf(memory);
    t.true(insertFlow(table, 1_000_000 + round) >= 0);
    closeFlowMemory(memory);
  }
  t.true(survived > 1000, `${survived} flows`);
});

test('workers insert, remove and look up at once', async (t) => {
  using at = place();
  const memory = openFlowMemory(at.path, MAX_FLOWS);
  const workers = [0, 1, 2, 3].map((index) => {
    const workerData: StressOrder = { memory, index, rounds: 60_000, nowS: nowS() };
    return new Worker(FIXTURE, { workerData });
  });
  const running = workers.map(async (worker) => (await once(worker, 'message')) as [StressResult]);
  const sweeping = setInterval(() => sweepFlows(memory, 100), 1);
  const results = (await Promise.all(running)).flat();
  clearInterval(sweeping);
  for (const { wrong, lost, shared } of results) {
    t.is(wrong, 0, 'a hit has the tuple that was asked for');
    t.is(lost, 0, 'what only one worker touches is there as it left it');
    t.true(shared > 1000);
  }
  t.is(typeof examine(memory), 'number', String(examine(memory)));
  const { inserted, removed, flows } = flowStats(memory);
  t.is(inserted - removed, flows);
  closeFlowMemory(memory);
});

test('huge pages are put under what is in use, and nothing moves', (t) => {
  using at = place();
  const count = 100_000;
  const memory = openFlowMemory(at.path, count);
  const table = tableOf(memory);
  t.true(collapseFlows(memory), 'an empty table has nothing in use');
  for (let i = 0; i < count; i++) insertFlow(table, i);
  // Another worker's mapping of the same file.
  const other = tableOf({ ...memory });
  const found = (it: FlowTable): number => {
    let count4 = 0;
    for (let i = 0; i < count; i++) if (it.find4(i, 7, 0x10000050, TCP) >= 0) count4++;
    return count4;
  };
  t.is(found(other), count);
  let turns = 1;
  while (!collapseFlows(memory)) turns++;
  t.is(found(table), count);
  t.is(found(other), count);
  const pages = readFileSync('/proc/self/smaps', 'latin1').matchAll(
    /^ShmemPmdMapped: +(\d+) kB$/gm,
  );
  const hugeKib = [...pages].reduce((sum, [, kib]) => sum + Number(kib), 0);
  t.log(`${hugeKib} KiB in huge pages, of two mappings of ${memory.bytes >> 10} KiB`);
  t.is(hugeKib > 0, turns > 1, 'all that can be, or none where the kernel gives none');
  closeFlowMemory(memory);
});
