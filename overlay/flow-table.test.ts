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

function find(table: FlowTable, protocol: number, tuple: Tuple): number {
  const { source, destination, ports } = tuple;
  if (tuple.family === 4) return table.find4(source[3]!, destination[3]!, ports, protocol);
  for (let i = 0; i < 4; i++) {
    view.setInt32(4 * i, source[i]!);
    view.setInt32(16 + 4 * i, destination[i]!);
  }
  return table.find6(0, 16, ports, protocol);
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
