/** Looks up, inserts, removes and advances flows, and counts the garbage collections over it. */
import { PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { parentPort } from 'node:worker_threads';
import { openFlowMemory } from '../../overlay/flow-memory.ts';
import {
  FLOW_DST_ORIG,
  FLOW_DST_REPLY,
  FLOW_KIND,
  FLOW_PORTS_ORIG,
  FLOW_PORTS_REPLY,
  FLOW_SRC_ORIG,
  FLOW_SRC_REPLY,
  createFlowTable,
} from '../../overlay/flow-table.ts';

export interface FlowAllocationResult {
  readonly collections: number;
  readonly hits: number;
}

const [TCP, SYN, ACK] = [6, 0x02, 0x10];
const PORTS = -0x10000050;
const view = new DataView(new SharedArrayBuffer(64));
const table = createFlowTable(view, openFlowMemory(null, 10_000));
const { draft } = table;
table.setNow(1000);

/** Flows of both families that come back, and one in ten that does not: the table fills up. */
function round(count: number): number {
  let hits = 0;
  for (let i = 0; i < count; i++) {
    const source = Math.imul(i % 10 === 0 ? i : i % 8000, 0x9e3779b1);
    const family = (i & 1) === 0 ? 4 : 6;
    view.setInt32(12, source);
    view.setInt32(28, 7);
    let ref = family === 4 ? table.find4(source, 7, PORTS, TCP) : table.find6(0, 16, PORTS, TCP);
    if (ref >= 0) {
      hits++;
    } else {
      draft[FLOW_KIND] = TCP | (family << 8);
      draft[FLOW_PORTS_ORIG] = draft[FLOW_PORTS_REPLY] = PORTS;
      draft[FLOW_SRC_ORIG] = draft[FLOW_DST_REPLY] = source;
      draft[FLOW_DST_ORIG] = draft[FLOW_SRC_REPLY] = 7;
      ref = table.insert(i % 7);
      table.advance(ref, SYN);
      table.advance(ref | 1, SYN | ACK);
    }
    table.advance(ref, ACK);
    if (i % 5 === 1) table.remove(ref);
  }
  return hits;
}

let collections = 0;
const observer = new PerformanceObserver((list) => {
  collections += list.getEntries().length;
});
round(300_000);
// Collections are reported from the event loop: let those of the warm-up come first.
await sleep(10);
observer.observe({ entryTypes: ['gc'] });
await sleep(10);
collections = 0;
const hits = round(4_000_000);
await sleep(10);
observer.disconnect();
const result: FlowAllocationResult = { collections, hits };
parentPort!.postMessage(result);
