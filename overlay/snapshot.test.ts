import test from 'ava';
import { parseAddress } from '../wire/address.ts';
import { type Cidr4, type Cidr6, parseCidr } from '../wire/cidr.ts';
import { parseMac } from '../wire/mac.ts';
import { toVni } from '../wire/vxlan.ts';
import {
  HOP_ADDRESS,
  HOP_ADDRESS_LENGTH,
  HOP_BYTES,
  HOP_FAMILY,
  HOP_MTU,
  PEERS_MAX,
  PLAIN_OVERLAY,
  SnapshotError,
  compileSnapshot,
} from './snapshot.ts';
import type { OverlayState, Peer } from './types.ts';

function peerOf(
  name: string,
  subnet4: string | null,
  subnet6: string | null,
  ...addresses: string[]
): Peer {
  const address = parseAddress(addresses[0] ?? '192.0.2.9');
  const hop = { address, mac: parseMac('02:00:00:00:00:0a') };
  return {
    name,
    subnet4: subnet4 === null ? null : (parseCidr(subnet4) as Cidr4),
    subnet6: subnet6 === null ? null : (parseCidr(subnet6) as Cidr6),
    nextHop4: subnet4 === null ? null : hop,
    nextHop6: subnet6 === null ? null : hop,
    direct4: false,
    direct6: false,
    addresses: addresses.map((text) => parseAddress(text)),
  };
}

const stateOf = (...peers: readonly Peer[]): OverlayState => ({
  ...PLAIN_OVERLAY,
  vni: toVni(7),
  subnet4: parseCidr('10.244.1.0/24') as Cidr4,
  subnet6: null,
  mac: parseMac('02:11:22:33:44:55'),
  mtuBytes: 1450,
  forwarding: true,
  network4: parseCidr('10.244.0.0/16') as Cidr4,
  network6: null,
  pods: [],
  peers,
});

const unspaced = (hex: string): string => hex.replaceAll(' ', '');

const compile = (...peers: readonly Peer[]) => compileSnapshot(stateOf(...peers), 8472, 1);

const refused: readonly [name: string, peers: readonly Peer[], why: RegExp][] = [
  [
    'the same subnet twice',
    [peerOf('a', '10.244.2.0/24', null), peerOf('b', '10.244.2.0/24', null)],
    /subnets 10\.244\.2\.0\/24 of . and 10\.244\.2\.0\/24 of . overlap/,
  ],
  [
    'one within another',
    [peerOf('a', '10.244.2.128/25', null), peerOf('b', '10.244.0.0/16', null)],
    /10\.244\.0\.0\/16 of b and 10\.244\.2\.128\/25 of a overlap/,
  ],
  [
    'one within another, and one between',
    [
      peerOf('a', '10.0.0.0/8', null),
      peerOf('b', '10.1.0.0/24', null),
      peerOf('c', '10.2.0.0/24', null),
    ],
    /overlap/,
  ],
  [
    'IPv6 subnets',
    [peerOf('a', null, 'fd00:2::/64'), peerOf('b', null, 'fd00::/16')],
    /fd00::\/16 of b and fd00:2::\/64 of a overlap/,
  ],
  [
    'two underlay addresses of one family',
    [peerOf('a', '10.244.2.0/24', null, '192.0.2.1', '192.0.2.2')],
    /a has two underlay addresses of one family/,
  ],
];

for (const [name, peers, why] of refused) {
  test(`refused: ${name}`, (t) => {
    t.throws(() => compile(...peers), { instanceOf: SnapshotError, message: why });
  });
}

test('as many peers as the arena has room for, and one more', (t) => {
  const peers = Array.from({ length: PEERS_MAX + 1 }, (_, i) =>
    peerOf(`peer ${i}`, `10.${i >> 8}.${i & 255}.0/24`, null),
  );
  t.is(compile(...peers.slice(1)).ranges4.length, 3 * PEERS_MAX);
  t.throws(() => compile(...peers), { instanceOf: SnapshotError, message: /8193 peers/ });
});

test('neighbouring subnets do not overlap, in whatever order they come', (t) => {
  const { ranges4 } = compile(
    peerOf('c', '10.244.3.0/24', null),
    peerOf('a', '10.244.2.0/25', null),
    peerOf('b', '10.244.2.128/25', null),
  );
  t.deepEqual(
    [...ranges4],
    [0x0af40200, 0x0af4027f, 1, 0x0af40280, 0x0af402ff, 2, 0x0af40300, 0x0af403ff, 0],
  );
});

test('a peer of both underlay families', (t) => {
  const { sources, allSources4, allSources6 } = compile(
    peerOf('a', '10.244.2.0/24', 'fd00:2::/64', '192.0.2.2', '2001:db8::2'),
  );
  t.deepEqual([...sources], [0xc0000202, 0x20010db8, 0, 0, 2]);
  t.deepEqual([...allSources4], [0xc0000202]);
  t.deepEqual([...allSources6], [0x20010db8, 0, 0, 2]);
});

test('a next hop: headers as they are sent, the address as the kernel takes it', (t) => {
  const { hops } = compile(
    peerOf('a', '10.244.2.0/24', null, '192.0.2.2'),
    peerOf('b', null, 'fd00:3::/64', '2001:db8::3'),
  );
  const view = new DataView(hops.buffer);
  const hex = (from: number, bytes: number) =>
    Buffer.from(hops.buffer).toString('hex', from, from + bytes);
  t.is(hops.length, 4 * HOP_BYTES);
  t.is(hex(0, 22), unspaced('0800000000000700 02000000000a 021122334455 0800'));
  t.is(view.getUint32(HOP_FAMILY, true), 4);
  t.is(view.getUint32(HOP_ADDRESS_LENGTH, true), 16);
  t.is(hex(HOP_ADDRESS, 16), unspaced('0200 2118 c0000202 0000000000000000'));
  t.is(view.getUint32(HOP_MTU, true), 1450);
  t.is(hex(HOP_BYTES, HOP_BYTES), '00'.repeat(HOP_BYTES), 'no next hop for IPv6');
  const b6 = 3 * HOP_BYTES;
  t.is(hex(b6 + 20, 2), '86dd');
  t.is(view.getUint32(b6 + HOP_FAMILY, true), 6);
  t.is(view.getUint32(b6 + HOP_ADDRESS_LENGTH, true), 28);
  t.is(
    hex(b6 + HOP_ADDRESS, 28),
    unspaced('0a00 2118 00000000 20010db8000000000000000000000003 00000000'),
  );
});

test('pods in order; those of an earlier lease and the node itself are passed over', (t) => {
  const texts = [
    '10.244.1.9',
    '10.244.1.200',
    '10.244.2.5',
    'fd00:9::5',
    '10.244.1.0',
    'fd00:1::200',
    '10.244.1.2',
    'fd00:1::',
    'fd00:1::2',
  ];
  const state = { ...stateOf(), subnet6: parseCidr('fd00:1::/64') as Cidr6 };
  const pods = texts.map((text) => parseAddress(text));
  const { pods4, pods6 } = compileSnapshot({ ...state, pods }, 8472, 1);
  t.deepEqual([...pods4], [0x0af40102, 0x0af40109, 0x0af401c8]);
  t.deepEqual([...pods6], [0xfd000001, 0, 0, 2, 0xfd000001, 0, 0, 0x200]);
  const without = compileSnapshot({ ...state, subnet4: null, subnet6: null, pods }, 8472, 1);
  t.is(without.pods4.length + without.pods6.length, 0);
});

test("the host's own addresses in order, by family", (t) => {
  const texts = ['192.0.2.9', '2001:db8::9', '10.0.0.1', '2001:db8::1'];
  const nodeAddresses = texts.map((text) => parseAddress(text));
  const { nodes4, nodes6 } = compileSnapshot({ ...stateOf(), nodeAddresses }, 8472, 1);
  t.deepEqual([...nodes4], [0x0a000001, 0xc0000209]);
  t.deepEqual([...nodes6], [0x20010db8, 0, 0, 1, 0x20010db8, 0, 0, 9]);
});

test("a path's MTU below the TUN's counts, one above does not", (t) => {
  const state = stateOf(
    peerOf('a', '10.244.2.0/24', null, '192.0.2.2'),
    peerOf('b', '10.244.3.0/24', null, '192.0.2.3'),
  );
  const narrow = parseAddress('192.0.2.2');
  const { hops } = compileSnapshot(state, 8472, 1, (address) => (address === narrow ? 1300 : 9000));
  const view = new DataView(hops.buffer);
  t.is(view.getUint32(HOP_MTU, true), 1300);
  t.is(view.getUint32(2 * HOP_BYTES + HOP_MTU, true), 1450);
});
