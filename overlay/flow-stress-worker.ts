/**
 * Inserts, removes and looks up flows as fast as it can: as a thread beside others, for a number of rounds;
 * as a process, until it is killed. For flow-memory.test.ts.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { bootTimeS } from '../linux/clock.ts';
import { type FlowMemory, openFlowMemory } from './flow-memory.ts';
import {
  FLOW_DST_ORIG,
  FLOW_DST_REPLY,
  FLOW_KIND,
  FLOW_PORTS_ORIG,
  FLOW_PORTS_REPLY,
  FLOW_SRC_ORIG,
  FLOW_SRC_REPLY,
  FLOW_WORDS,
  type FlowTable,
  createFlowTable,
} from './flow-table.ts';

export interface StressOrder {
  readonly memory: FlowMemory;
  readonly index: number;
  readonly rounds: number;
  readonly nowS: number;
}

export interface StressResult {
  readonly wrong: number;
  readonly lost: number;
  /** Lookups of what other workers insert and remove that were hits. */
  readonly shared: number;
}

const TCP = 6;
const PORTS = 0x10000050;
const FLAGS = [0x02, 0x12, 0x10, 0x11, 0x04] as const;
const OWN = 400;
const SHARED = 600;

function insertFlow(table: FlowTable, source: number): number {
  const { draft } = table;
  draft[FLOW_KIND] = TCP | (4 << 8);
  draft[FLOW_PORTS_ORIG] = PORTS;
  draft[FLOW_PORTS_REPLY] = (PORTS << 16) | (PORTS >>> 16);
  draft[FLOW_SRC_ORIG] = draft[FLOW_DST_REPLY] = source;
  draft[FLOW_DST_ORIG] = draft[FLOW_SRC_REPLY] = 7;
  return table.insert(source % 50);
}

/** Its own flows are as it left them; of those that all touch, a hit is of the tuple asked for. */
function stress(table: FlowTable, index: number, rounds: number): StressResult {
  const { words } = table;
  const own = new Uint8Array(OWN);
  let [wrong, lost, shared] = [0, 0, 0];
  const hold = (ref: number, source: number): void => {
    const at = (ref >>> 1) * FLOW_WORDS;
    const isRight = words[at + FLOW_SRC_ORIG] === source && words[at + FLOW_PORTS_ORIG] === PORTS;
    if (!isRight && table.isStill(ref)) wrong++;
  };
  for (let i = 0; i < rounds; i++) {
    const which = Math.floor(Math.random() * OWN);
    const source = (index + 1) * 100_000 + which;
    let ref = table.find4(source, 7, PORTS, TCP);
    // A chain that has changed while this thread was kept from running may end early.
    if (ref < 0) ref = table.find4(source, 7, PORTS, TCP);
    if (ref >= 0 !== (own[which] === 1)) lost++;
    if (ref < 0) insertFlow(table, source);
    else if (which % 3 === 0) table.advance(ref, FLAGS[i % 4]!);
    else table.remove(ref);
    own[which] = ref < 0 || which % 3 === 0 ? 1 : 0;

    const common = Math.floor(Math.random() * SHARED);
    const found = table.find4(common, 7, PORTS, TCP);
    if (found >= 0) {
      shared++;
      hold(found, common);
      if (i % 3 === 0) table.remove(found);
      else table.advance(found | (i & 1), FLAGS[i % FLAGS.length]!);
    } else {
      insertFlow(table, common);
    }
  }
  return { wrong, lost, shared };
}

const view = new DataView(new ArrayBuffer(64));
if (parentPort === null) {
  const [path, maxFlows] = process.argv.slice(2);
  const table = createFlowTable(view, openFlowMemory(path!, Number(maxFlows)));
  table.setNow(bootTimeS());
  process.send!('begun');
  // The pipe to the parent is written before the first round, not between rounds.
  setImmediate(() => {
    for (let next = 0; ; next = (next + 1) % 5000) {
      const ref = insertFlow(table, next);
      table.advance(ref, FLAGS[next % 4]!);
      if (next % 3 === 0) table.remove(ref);
    }
  });
} else {
  const { memory, index, rounds, nowS } = workerData as StressOrder;
  const table = createFlowTable(view, memory);
  table.setNow(nowS);
  parentPort.postMessage(stress(table, index, rounds));
}
