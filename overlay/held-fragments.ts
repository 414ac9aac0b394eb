/**
 * Fragments that came before the first one of their datagram, which alone shows where they may go. A few
 * wait for it; who waits longest gives way.
 * Runs per packet: no await, no allocation, no throw.
 *
 * While it waits a fragment counts as accepted (`accepted`, a counter); what becomes of it in the end is
 * counted then.
 */
import type { Arena } from '../linux/arena.ts';
import { VNET_HEADER_BYTES } from '../linux/tun.ts';
import { Drop } from '../wire/drop-reason.ts';
import { Counter, DROPS_IN } from './counters.ts';
import type { Packet } from './packet.ts';

const SLOTS = 32;
/** As much as before each packet that is read from the TUN. */
const HEADROOM = 128;
/** A jumbo frame's. */
const BYTES_MAX = 9216;
const SLOT_BYTES = HEADROOM + VNET_HEADER_BYTES + BYTES_MAX;

export interface HeldFragments {
  /** Copies it, from the vnet header at `at` on. @returns false: it is too large */
  readonly keep: (packet: Packet, at: number, bytes: number) => boolean;
  /** Those of the datagram of `packet`, its first fragment, are to be taken from now on. */
  readonly open: (packet: Packet) => void;
  /** Offset of the vnet header of the next one, which is free again when another is kept; -1: no more. */
  readonly next: () => number;
  /** Of the one taken last. */
  readonly bytes: () => number;
  /** The one taken last went nowhere after all. */
  readonly spoil: (drop: Drop) => void;
  /** What was taken has been sent. */
  readonly settle: () => void;
}

export function createHeldFragments(
  arena: Arena,
  counters: Float64Array,
  accepted: number,
): HeldFragments {
  const { view } = arena;
  const memory = arena.bytes;
  const at = arena.take(SLOTS * SLOT_BYTES, 'early fragments');
  const lengths = new Int32Array(SLOTS);
  const ids = new Int32Array(SLOTS);
  /** Taken, and perhaps still waiting to be sent. */
  const isTaken = new Uint8Array(SLOTS);
  const isIn = accepted === Counter.tunDelivered;
  let turn = 0;
  let held = 0;
  /** The datagram asked for: its addresses are copied here, its first fragment may be gone by then. */
  const keyAt = arena.take(32, 'addresses of a datagram');
  let keyBytes = 0;
  let keyId = 0;
  let place = SLOTS;
  let taken = 0;

  function packetAt(slot: number): number {
    return at + slot * SLOT_BYTES + HEADROOM;
  }

  function freeSlot(): number {
    for (let i = 0; i < SLOTS; i++) {
      turn = (turn + 1) % SLOTS;
      if (isTaken[turn] === 0) return turn;
    }
    return -1;
  }

  function keep(packet: Packet, from: number, bytes: number): boolean {
    if (bytes > BYTES_MAX) return false;
    const slot = freeSlot();
    if (slot < 0) return false;
    if (lengths[slot] !== 0) {
      spoil(Drop.fragment);
      held--;
    }
    const to = packetAt(slot);
    memory.copyWithin(to, from, from + VNET_HEADER_BYTES + bytes);
    lengths[slot] = bytes;
    ids[slot] = packet.fragmentId;
    held++;
    return true;
  }

  function open(packet: Packet): void {
    place = held === 0 ? SLOTS : 0;
    if (held === 0) return;
    keyId = packet.fragmentId;
    keyBytes = packet.is4 ? 8 : 32;
    for (let i = 0; i < keyBytes; i += 4) {
      view.setInt32(keyAt + i, view.getInt32(packet.sourceAt + i));
    }
  }

  function isOfDatagram(slot: number): boolean {
    if (lengths[slot] === 0 || ids[slot] !== keyId) return false;
    const ip = packetAt(slot) + VNET_HEADER_BYTES;
    const is4 = view.getUint8(ip) >>> 4 === 4;
    if (is4 !== (keyBytes === 8)) return false;
    const addresses = ip + (is4 ? 12 : 8);
    for (let i = 0; i < keyBytes; i += 4) {
      if (view.getInt32(addresses + i) !== view.getInt32(keyAt + i)) return false;
    }
    return true;
  }

  function next(): number {
    for (; place < SLOTS; place++) {
      if (!isOfDatagram(place)) continue;
      taken = lengths[place]!;
      lengths[place] = 0;
      isTaken[place] = 1;
      held--;
      return packetAt(place++);
    }
    return -1;
  }

  function spoil(drop: Drop): void {
    counters[accepted]!--;
    counters[drop]!++;
    if (isIn) counters[DROPS_IN + drop]!++;
  }

  function settle(): void {
    isTaken.fill(0);
  }

  function bytes(): number {
    return taken;
  }

  return { keep, open, next, bytes, spoil, settle };
}
