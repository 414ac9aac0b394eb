/** What is counted for a peer is told of that peer, whichever worker still goes by an older publication. */
import test from 'ava';
import fc from 'fast-check';
import {
  PEER_COUNTERS,
  PEER_RECEIVED_BYTES,
  PEER_RECEIVED_DATAGRAMS,
  PEER_SENT_BYTES,
  PEER_SENT_DATAGRAMS,
  createCounters,
} from './counters.ts';
import { createPeerSlots } from './peer-slots.ts';

const WORKERS = 2;
/** Five peers, of which any may be there: with slot 0, one slot too few. */
const NAMES = ['a', 'b', 'c', 'd', 'e'];
const CAPACITY = 5;

type Step =
  | { readonly kind: 'publish'; readonly names: readonly string[] }
  /** A worker takes up what was published last. */
  | { readonly kind: 'install'; readonly worker: number }
  /** It carries a datagram of each peer that it knows. */
  | { readonly kind: 'carry'; readonly worker: number };

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    fc.record({ kind: fc.constant('publish' as const), names: fc.shuffledSubarray(NAMES) }),
    fc.record({ kind: fc.constant('install' as const), worker: fc.nat(WORKERS - 1) }),
    fc.record({ kind: fc.constant('carry' as const), worker: fc.nat(WORKERS - 1) }),
  ),
  { minLength: 40, maxLength: 60 },
);

interface Worker {
  readonly counters: Float64Array;
  generation: number;
  slots: ReadonlyMap<string, number>;
}

function createWorkers(): readonly Worker[] {
  const counters = Array.from({ length: WORKERS }, createCounters);
  return counters.map((it) => ({ counters: it, generation: 0, slots: new Map<string, number>() }));
}

test('a peer is told what was counted for it since it came, and nothing of another one', (t) => {
  const met = { moved: 0, without: 0 };
  fc.assert(
    fc.property(steps, (all) => {
      const workers = createWorkers();
      const slots = createPeerSlots(
        workers.map((it) => it.counters),
        () => Math.min(...workers.map(({ generation }) => generation)),
        CAPACITY,
      );
      /** Ever counted, by name; and of that, what was counted before the peer got a slot anew. */
      const counted = new Map<string, number>();
      const before = new Map<string, number>();
      let published = { generation: 0, slots: new Map<string, number>() };
      for (const step of all) {
        if (step.kind === 'publish') {
          const generation = published.generation + 1;
          const assigned = slots.assign(step.names, generation);
          const taken = [...assigned].filter((it) => it !== 0);
          if (new Set(taken).size < taken.length) return false;
          const last = published;
          published = { generation, slots: new Map(step.names.map((it, i) => [it, assigned[i]!])) };
          for (const [name, slot] of published.slots) {
            met.without += slot === 0 ? 1 : 0;
            // Who has been there all the time keeps the slot.
            const was = last.slots.get(name) ?? 0;
            if (was !== 0 && was !== slot) return false;
            if (was === 0 && slots.traffic([name]).get(name)?.sentDatagrams === 0) {
              met.moved += (counted.get(name) ?? 0) > 0 ? 1 : 0;
              before.set(name, counted.get(name) ?? 0);
            }
          }
        } else if (step.kind === 'install') {
          Object.assign(workers[step.worker]!, published);
        } else {
          const { counters, slots: known } = workers[step.worker]!;
          for (const [name, slot] of known) {
            const at = slot * PEER_COUNTERS;
            counters[at + PEER_SENT_DATAGRAMS]! += 1;
            counters[at + PEER_SENT_BYTES]! += 10;
            counters[at + PEER_RECEIVED_DATAGRAMS]! += 2;
            counters[at + PEER_RECEIVED_BYTES]! += 30;
            if (slot !== 0) counted.set(name, (counted.get(name) ?? 0) + 1);
          }
        }
        for (const [name, traffic] of slots.traffic([...published.slots.keys()])) {
          const n = (counted.get(name) ?? 0) - (before.get(name) ?? 0);
          const { sentDatagrams, sentBytes, receivedDatagrams, receivedBytes } = traffic;
          const told = [sentDatagrams, sentBytes, receivedDatagrams, receivedBytes];
          if (told.join() !== [n, 10 * n, 2 * n, 30 * n].join()) return false;
        }
      }
      return true;
    }),
    { numRuns: 500 },
  );
  t.true(met.moved > 0 && met.without > 0, 'slots change hands, and run out');
});
