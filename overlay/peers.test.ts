/** Binary searches over flat tables, held to a look through every peer. */
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { addressBytes } from '../test/packets/build.ts';
import { createArena } from '../linux/arena.ts';
import { type IpAddress, toIpv4, toIpv6 } from '../wire/address.ts';
import {
  type Cidr,
  type Cidr4,
  type Cidr6,
  cidrContains,
  cidrOf,
  cidrsOverlap,
  lastOf,
} from '../wire/cidr.ts';
import { parseMac } from '../wire/mac.ts';
import { toVni } from '../wire/vxlan.ts';
import { createPeers } from './peers.ts';
import { HOP_BYTES, HOP_MTU, PLAIN_OVERLAY, compileSnapshot } from './snapshot.ts';
import type { OverlayState, Peer } from './types.ts';

const arena = createArena(2 << 20);
const peers = createPeers(arena);
/** Not a multiple of four: a packet's addresses stand anywhere. */
const at = arena.take(32, 'address') + 1;

function place(address: IpAddress): number {
  arena.bytes.fill(0xff, at - 1, at + 31);
  arena.bytes.set(addressBytes(address), at);
  return at;
}

// Few bits vary, so that blocks touch, and addresses fall into them and next to them.
const address4 = fc
  .tuple(fc.nat(7), fc.nat(255))
  .map(([high, low]) => toIpv4(0x0a000000 + high * 0x20000000 + low * 0x10));
const address6 = fc
  .tuple(fc.nat(3), fc.nat(3), fc.nat(3), fc.nat(255))
  .map(([a, b, c, d]) =>
    toIpv6((BigInt(a) << 126n) | (BigInt(b) << 94n) | (BigInt(c) << 62n) | (BigInt(d) << 4n)),
  );
const block4 = fc.tuple(address4, fc.integer({ min: 3, max: 32 })).map(([a, n]) => cidrOf(a, n));
const block6 = fc.tuple(address6, fc.integer({ min: 2, max: 128 })).map(([a, n]) => cidrOf(a, n));

const MAC = parseMac('02:00:00:00:00:01');

/** Those of `blocks` that do not overlap with one before them. */
function disjoint<C extends Cidr>(blocks: readonly C[]): C[] {
  const kept: C[] = [];
  for (const block of blocks) {
    if (!kept.some((other) => cidrsOverlap(other, block))) kept.push(block);
  }
  return kept;
}

function stateOf(
  own: readonly [Cidr4 | null, Cidr6 | null],
  blocks4: readonly Cidr4[],
  blocks6: readonly Cidr6[],
  sources: readonly (readonly IpAddress[])[],
  networks: readonly [Cidr4 | null, Cidr6 | null] = [null, null],
  pods: readonly IpAddress[] = [],
): OverlayState {
  const count = Math.max(blocks4.length, blocks6.length);
  return {
    ...PLAIN_OVERLAY,
    vni: toVni(1),
    subnet4: own[0],
    subnet6: own[1],
    mac: MAC,
    mtuBytes: 1450,
    forwarding: true,
    network4: networks[0],
    network6: networks[1],
    pods,
    peers: Array.from({ length: count }, (_, i): Peer => ({
      name: `peer ${i}`,
      subnet4: blocks4[i] ?? null,
      subnet6: blocks6[i] ?? null,
      nextHop4: null,
      nextHop6: null,
      direct4: i % 3 === 0,
      direct6: i % 2 === 0,
      addresses: sources[i] ?? [],
    })),
  };
}

/** Where decisions change: the ends of each block, and what is next to them. */
function edgesOf(block: Cidr): IpAddress[] {
  if (block.family === 4) {
    return [block.base - 1, block.base, lastOf(block), lastOf(block) + 1]
      .filter((value) => value >= 0 && value <= 0xffffffff)
      .map((value) => toIpv4(value));
  }
  return [block.base - 1n, block.base, lastOf(block), lastOf(block) + 1n]
    .filter((value) => value >= 0n && value >> 128n === 0n)
    .map((value) => toIpv6(value));
}

function expectSame(t: ExecutionContext, state: OverlayState, asked: readonly IpAddress[]): void {
  const nobody = (address: IpAddress): boolean => BigInt(address) === 0n;
  for (const address of asked) {
    const is4 = typeof address === 'number';
    const p = place(address);
    const contains = (block: Cidr | null): boolean =>
      block !== null && cidrContains(block, address);
    const owner = state.peers.findIndex((peer) => contains(is4 ? peer.subnet4 : peer.subnet6));
    const own = is4 ? state.subnet4 : state.subnet6;
    t.is(is4 ? peers.of4(p) : peers.of6(p), owner);
    t.is(is4 ? peers.isOwn4(p) : peers.isOwn6(p), contains(own));
    t.is(is4 ? peers.isNode4(p) : peers.isNode6(p), own !== null && own.base === address);
    const isPod = contains(own) && own?.base !== address && state.pods.includes(address);
    t.is(is4 ? peers.isPod4(p) : peers.isPod6(p), isPod);
    const network = is4 ? state.network4 : state.network6;
    t.is(is4 ? peers.isOverlay4(p) : peers.isOverlay6(p), contains(network));
    t.is(
      is4 ? peers.isPeer4(p) : peers.isPeer6(p),
      state.peers.some((peer) => peer.addresses.includes(address)),
    );
    state.peers.forEach((peer, i) => {
      const sends = peer.addresses.includes(address) && !nobody(address);
      t.is(is4 ? peers.sendsFrom4(i, p) : peers.sendsFrom6(i, p), sends);
      t.is(peers.isDirect4(i), peer.direct4);
      t.is(peers.isDirect6(i), peer.direct6);
    });
  }
}

test('equal to a look through every peer', (t) => {
  const seed = Date.now() & 0x7fffffff;
  t.log(`seed ${seed}`);
  fc.assert(
    fc.property(
      fc.array(block4, { maxLength: 12 }),
      fc.array(block6, { maxLength: 12 }),
      fc.array(fc.tuple(address4, address6), { maxLength: 12 }),
      fc.array(fc.oneof(address4, address6), { maxLength: 6 }),
      fc.array(fc.oneof(address4, address6), { maxLength: 12 }),
      fc.tuple(fc.option(block4), fc.option(block6)),
      fc.boolean(),
      (some4, some6, sources, asked, some, networks, hasOwn) => {
        const [own4, ...blocks4] = disjoint(some4);
        const [own6, ...blocks6] = disjoint(some6);
        const own = hasOwn ? ([own4 ?? null, own6 ?? null] as const) : ([null, null] as const);
        const edges = [...some4, ...some6, ...networks.filter((it) => it !== null)].flatMap(
          (block) => edgesOf(block),
        );
        // Some that nobody has, some twice, some outside of our subnets.
        const pods = [...some, ...some, ...edges];
        const state = stateOf(own, blocks4, blocks6, sources, networks, pods);
        peers.install(compileSnapshot(state, 8472, 1));
        expectSame(t, state, [...asked, ...edges, ...sources.flat()]);
      },
    ),
    { seed, numRuns: 100 },
  );
});

const ends: readonly [name: string, address: IpAddress][] = [
  ['0.0.0.0', toIpv4(0)],
  ['255.255.255.255', toIpv4(0xffffffff)],
  ['::', toIpv6(0n)],
  ['the last IPv6 address', toIpv6((1n << 128n) - 1n)],
];

for (const [name, address] of ends) {
  test(`a subnet with ${name} in it`, (t) => {
    const all4 = [cidrOf(toIpv4(0), 1), cidrOf(toIpv4(0x80000000), 1)];
    const all6 = [cidrOf(toIpv6(0n), 1), cidrOf(toIpv6(1n << 127n), 1)];
    const state = stateOf([null, null], all4, all6, []);
    peers.install(compileSnapshot(state, 8472, 1));
    expectSame(t, state, [address]);
  });
}

test('without a subnet no address is our own: not even those that stand for none', (t) => {
  const state = stateOf([null, null], [], [], []);
  peers.install(compileSnapshot(state, 8472, 1));
  expectSame(t, state, [toIpv4(0), toIpv4(1), toIpv6(0n), toIpv6(1n), toIpv6(1n << 96n)]);
});

test('as many pods as a subnet of 65,536 addresses has', (t) => {
  const own4 = cidrOf(toIpv4(0x0a000000), 16);
  const own6 = cidrOf(toIpv6(0xfd00n << 112n), 64);
  const others = Array.from({ length: 65_535 }, (_, i) => 65_535 - i);
  const pods = [
    ...others.map((i) => toIpv4(own4.base + i)),
    ...others.map((i) => toIpv6(own6.base + BigInt(2 * i))),
  ];
  peers.install(compileSnapshot(stateOf([own4, own6], [], [], [], [null, null], pods), 8472, 1));
  for (const i of [1, 2, 255, 256, 40_000, 65_534, 65_535]) {
    t.true(peers.isPod4(place(toIpv4(own4.base + i))), `IPv4 ${i}`);
    t.true(peers.isPod6(place(toIpv6(own6.base + BigInt(2 * i)))), `IPv6 ${i}`);
    t.false(peers.isPod6(place(toIpv6(own6.base + BigInt(2 * i + 1)))), `beside IPv6 ${i}`);
  }
  t.false(peers.isPod4(place(own4.base)), "the node's own");
});

test('nobody, before anything is published', (t) => {
  const fresh = createPeers(createArena(2 << 20));
  t.is(fresh.of4(64), -1);
  t.is(fresh.of6(64), -1);
  t.false(fresh.isOwn4(64));
  t.false(fresh.isOwn6(64));
  t.false(fresh.isPod4(64));
  t.false(fresh.isPod6(64));
  t.false(fresh.isOverlay4(64));
  t.false(fresh.isOverlay6(64));
  t.false(fresh.current().forwarding);
});

test('next hops stand at their peers, and a new snapshot forgets what was learned', (t) => {
  const state = stateOf(
    [null, null],
    [cidrOf(toIpv4(0x0a000000), 24), cidrOf(toIpv4(0x0a000100), 24)],
    [],
    [],
  );
  const hop = { address: toIpv4(0xc0000201), mac: MAC };
  const withHops = { ...state, peers: state.peers.map((peer) => ({ ...peer, nextHop4: hop })) };
  peers.install(compileSnapshot(withHops, 8472, 1));
  for (const i of [0, 1]) {
    t.is(peers.atHop(peers.hopOf(i)), i);
    t.is(peers.atHop(peers.hopOf(i) + HOP_BYTES), i);
    t.is(peers.nameOf(i), `peer ${i}`);
  }
  const mtuAt = (peers.hopOf(1) + HOP_MTU) >>> 2;
  t.is(arena.words[mtuAt], 1450);
  arena.words[mtuAt] = 1300;
  peers.install(compileSnapshot(withHops, 8472, 2));
  t.is(arena.words[mtuAt], 1450);
});
