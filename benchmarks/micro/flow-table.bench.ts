import { randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';
import { collapseFlows, openFlowMemory } from '../../overlay/flow-memory.ts';
import {
  FLOW_DST_ORIG,
  FLOW_DST_REPLY,
  FLOW_KIND,
  FLOW_PORTS_ORIG,
  FLOW_PORTS_REPLY,
  FLOW_SRC_ORIG,
  FLOW_SRC_REPLY,
  FLOW_WORDS,
  createFlowTable,
} from '../../overlay/flow-table.ts';
import { bench } from './runner.ts';

const TCP = 6;
const ACK = 0x10;
const NOW_S = 1000;
const BATCH = 32;

let sink = 0;

/** Of flow `i`: reckoned and not read from memory, as a packet's would be in the cache. */
const sourceOf = (i: number): number => Math.imul(i + 1, 0x9e3779b1);
const destinationOf = (i: number): number => Math.imul(i + 1, 0x85ebca6b);
const portsOf = (i: number): number => Math.imul(i + 1, 0xc2b2ae35);

function createFlows(count: number, family: 4 | 6) {
  const view = new DataView(new SharedArrayBuffer(64));
  // As the daemon has it: a file in memory, of which no page is left when this process ends.
  const path = `/dev/shm/weft-bench-${randomUUID()}`;
  const memory = openFlowMemory(path, count);
  rmSync(path);
  const table = createFlowTable(view, memory);
  table.setNow(NOW_S);
  table.draft[FLOW_KIND] = TCP | (family << 8);
  for (let i = 0; i < count; i++) insertFlow(table, i);
  while (!collapseFlows(memory));
  return { view, table };
}

type Table = ReturnType<typeof createFlowTable>;

function insertFlow(table: Table, i: number): number {
  const { draft } = table;
  const ports = portsOf(i);
  draft[FLOW_SRC_ORIG] = sourceOf(i);
  draft[FLOW_DST_ORIG] = destinationOf(i);
  draft[FLOW_SRC_REPLY] = destinationOf(i);
  draft[FLOW_DST_REPLY] = sourceOf(i);
  draft[FLOW_PORTS_ORIG] = ports;
  draft[FLOW_PORTS_REPLY] = (ports << 16) | (ports >>> 16);
  return table.insert(i);
}

for (const [count, step] of [
  [1000, 617],
  [1_000_000, 618_033],
] as const) {
  /** In an order that no cache foresees, and without a branch, which would be guessed wrong. */
  const after = (i: number): number => {
    const over = i + step - count;
    return over + (count & (over >> 31));
  };
  bench(`flowTable.find4.${count}`, {
    setup: () => createFlows(count, 4),
    run: ({ table }, n) => {
      for (let k = 0, i = 0; k < n; k++, i = after(i)) {
        sink ^= table.find4(sourceOf(i), destinationOf(i), portsOf(i), TCP);
      }
    },
  });
  // As packets come, some dozens together.
  bench(`flowTable.findBatch4.${count}`, {
    setup: () => createFlows(count, 4),
    run: ({ table }, n) => {
      for (let k = 0, i = 0; k < n; k += BATCH) {
        const first = i;
        if (table.isLarge()) {
          for (let b = 0; b < BATCH; b++, i = after(i)) {
            table.expect4(sourceOf(i), destinationOf(i), portsOf(i), TCP);
          }
          table.fetch();
        }
        i = first;
        for (let b = 0; b < BATCH; b++, i = after(i)) {
          sink ^= table.find4(sourceOf(i), destinationOf(i), portsOf(i), TCP);
        }
      }
    },
  });
  bench(`flowTable.find6.${count}`, {
    setup: () => createFlows(count, 6),
    run: ({ view, table }, n) => {
      for (let k = 0, i = 0; k < n; k++, i = after(i)) {
        view.setInt32(12, sourceOf(i));
        view.setInt32(28, destinationOf(i));
        sink ^= table.find6(0, 16, portsOf(i), TCP);
      }
    },
  });
  bench(`flowTable.findAdvance4.${count}`, {
    setup: () => createFlows(count, 4),
    run: ({ table }, n) => {
      for (let k = 0, i = 0; k < n; k++, i = after(i)) {
        const ref = table.find4(sourceOf(i), destinationOf(i), portsOf(i), TCP);
        table.advance(ref, ACK);
      }
    },
  });
}

bench('flowTable.insertRemove4', {
  setup: () => createFlows(1000, 4),
  run: ({ table }, n) => {
    for (let k = 0; k < n; k++) table.remove(insertFlow(table, 1000 + k));
  },
});

/** Each insertion into a table that is full costs another flow. */
bench('flowTable.insertFull4.100000', {
  setup: () => createFlows(100_000, 4),
  run: ({ table }, n) => {
    for (let k = 0; k < n; k++) sink ^= insertFlow(table, 100_000 + k);
    sink ^= table.words[FLOW_WORDS]!;
  },
});

/** What the hash is of it. */
bench('flowTable.hash4', {
  setup: () => createFlows(1, 4),
  run: ({ table }, n) => {
    for (let i = 0; i < n; i++) sink ^= table.hash4(sourceOf(i), destinationOf(i), portsOf(i), TCP);
  },
});
