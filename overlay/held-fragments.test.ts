import test from 'ava';
import { createArena } from '../linux/arena.ts';
import { VNET_HEADER_BYTES } from '../linux/tun.ts';
import * as build from '../test/packets/build.ts';
import { Drop } from '../wire/drop-reason.ts';
import { Counter, createCounters } from './counters.ts';
import { createHeldFragments } from './held-fragments.ts';
import { createPacket, parsePacket } from './packet.ts';

const fragment = (id: number, fragmentOffset: number, destination = '10.244.2.2'): Buffer =>
  build.ip(
    { source: '10.244.1.2', destination, id, fragmentOffset, moreFragments: fragmentOffset === 0 },
    build.UDP,
    build.payloadOf(64, id + fragmentOffset),
  );

function createBench() {
  const arena = createArena(4 << 20);
  const counters = createCounters();
  const held = createHeldFragments(arena, counters, Counter.egressAccepted);
  const at = arena.take(1 << 16, 'packet') + 128;
  const packet = createPacket();
  /** As it came from the TUN. */
  const lay = (bytes: Buffer): void => {
    arena.bytes.fill(0, at, at + VNET_HEADER_BYTES);
    arena.bytes.set(bytes, at + VNET_HEADER_BYTES);
    const ip = at + VNET_HEADER_BYTES;
    parsePacket(arena.view, packet, ip, ip + bytes.length, false);
  };
  const keep = (bytes: Buffer): boolean => {
    lay(bytes);
    counters[Counter.egressAccepted]!++;
    return held.keep(packet, at, bytes.length);
  };
  const takeAll = (first: Buffer): Buffer[] => {
    lay(first);
    held.open(packet);
    // What is sent on the way may lie where the first one lay.
    arena.bytes.fill(0xa5, at, at + 200);
    const taken: Buffer[] = [];
    for (let next = held.next(); next >= 0; next = held.next()) {
      const ip = next + VNET_HEADER_BYTES;
      taken.push(Buffer.from(arena.bytes.subarray(ip, ip + held.bytes())));
    }
    return taken;
  };
  return { counters, held, keep, takeAll };
}

test('those of the datagram whose first one comes, and no others', (t) => {
  const { keep, takeAll } = createBench();
  const [second, third] = [fragment(7, 8), fragment(7, 16)];
  const others = [fragment(8, 8), fragment(7, 8, '10.244.2.3')];
  for (const it of [third, ...others, second]) t.true(keep(it));
  const taken = takeAll(fragment(7, 0));
  const sorted = (all: readonly Buffer[]): string[] =>
    all.map((it) => it.toString('hex')).toSorted();
  t.deepEqual(sorted(taken), sorted([second, third]));
  t.deepEqual(takeAll(fragment(7, 0)), [], 'once');
  t.deepEqual(takeAll(fragment(8, 0)), [others[0]!]);
});

test('who waits longest gives way, and is counted', (t) => {
  const { counters, keep, takeAll } = createBench();
  for (let id = 0; id < 40; id++) t.true(keep(fragment(id, 8)));
  t.is(counters[Drop.fragment], 8);
  t.is(counters[Counter.egressAccepted], 32);
  t.is(takeAll(fragment(0, 0)).length, 0);
  t.is(takeAll(fragment(39, 0)).length, 1);
});

test('what was taken stays where it is until it has been sent', (t) => {
  const { held, keep, takeAll } = createBench();
  for (let id = 0; id < 32; id++) keep(fragment(id, 8));
  for (let id = 0; id < 32; id++) t.is(takeAll(fragment(id, 0)).length, 1);
  t.false(keep(fragment(50, 8)));
  held.settle();
  t.true(keep(fragment(50, 8)));
});

test('one that goes nowhere in the end is no longer counted as accepted', (t) => {
  const { counters, held, keep, takeAll } = createBench();
  keep(fragment(1, 8));
  takeAll(fragment(1, 0));
  held.spoil(Drop.policyEgress);
  t.is(counters[Counter.egressAccepted], 0);
  t.is(counters[Drop.policyEgress], 1);
});

test('larger than a jumbo frame: not kept', (t) => {
  const { keep } = createBench();
  t.false(
    keep(
      build.ip(
        { source: '10.244.1.2', destination: '10.244.2.2', fragmentOffset: 8 },
        build.UDP,
        build.payloadOf(9300),
      ),
    ),
  );
});
