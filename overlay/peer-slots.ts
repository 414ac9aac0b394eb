/**
 * Where the traffic of each peer is counted: a slot of the workers' counters (counters.ts). A peer keeps its slot
 * from one publication to the next, in whichever order peers are published.
 *
 * Only workers write what is counted, so a slot is never set back: who takes over the slot of a peer that is gone
 * begins at what stands there. That is when every worker has installed a generation without the former peer,
 * and none of them counts for it any more; until a slot is wanted, a peer that comes back finds its own.
 */
import {
  PEER_COUNTERS,
  PEER_RECEIVED_BYTES,
  PEER_RECEIVED_DATAGRAMS,
  PEER_SENT_BYTES,
  PEER_SENT_DATAGRAMS,
  PEER_SLOTS,
} from './counters.ts';
import type { PeerTraffic } from './types.ts';

interface Slot {
  readonly index: number;
  /** What stood there when its peer came. */
  readonly before: PeerTraffic;
  /** The last generation that its peer was part of. */
  lastIn: number;
}

export interface PeerSlots {
  /**
   * The slot of each peer, by its name; 0 where all are taken.
   * @param generation  in which they are published; never falls
   */
  readonly assign: (names: readonly string[], generation: number) => Uint16Array;
  /** Of each of these that has a slot. */
  readonly traffic: (names: readonly string[]) => ReadonlyMap<string, PeerTraffic>;
}

/**
 * @param workers    what each of them counts
 * @param installed  the generation that the slowest worker has installed, or a later one
 * @param capacity   slots, 0 among them
 */
export function createPeerSlots(
  workers: readonly Float64Array[],
  installed: () => number,
  capacity = PEER_SLOTS,
): PeerSlots {
  const slots = new Map<string, Slot>();
  /** Of those below, none was ever given back. */
  let unused = 1;

  function take(): number {
    if (unused < capacity) return unused++;
    const least = installed();
    for (const [name, { index, lastIn }] of slots) {
      if (lastIn >= least) continue;
      slots.delete(name);
      return index;
    }
    return 0;
  }

  const read = (index: number): PeerTraffic => {
    const sum = (first: number): number =>
      workers.reduce((total, counters) => total + counters[index * PEER_COUNTERS + first]!, 0);
    return {
      sentDatagrams: sum(PEER_SENT_DATAGRAMS),
      sentBytes: sum(PEER_SENT_BYTES),
      receivedDatagrams: sum(PEER_RECEIVED_DATAGRAMS),
      receivedBytes: sum(PEER_RECEIVED_BYTES),
    };
  };

  return {
    assign: (names, generation) => {
      return Uint16Array.from(names, (name) => {
        let slot = slots.get(name);
        if (slot === undefined) {
          const index = take();
          if (index === 0) return 0;
          slot = { index, before: read(index), lastIn: generation };
          slots.set(name, slot);
        }
        slot.lastIn = generation;
        return slot.index;
      });
    },
    traffic: (names) =>
      new Map(
        names.flatMap((name) => {
          const slot = slots.get(name);
          return slot === undefined ? [] : [[name, since(slot.before, read(slot.index))] as const];
        }),
      ),
  };
}

const since = (before: PeerTraffic, now: PeerTraffic): PeerTraffic => ({
  sentDatagrams: now.sentDatagrams - before.sentDatagrams,
  sentBytes: now.sentBytes - before.sentBytes,
  receivedDatagrams: now.receivedDatagrams - before.receivedDatagrams,
  receivedBytes: now.receivedBytes - before.receivedBytes,
});
