import test from 'ava';
import type { NetworkConfig, NodeLease } from '../ipam/types.ts';
import { PLAIN_OVERLAY } from '../overlay/snapshot.ts';
import { formatAddress, parseIpv4, parseIpv6, toIpv4, toIpv6 } from '../wire/address.ts';
import { type Cidr4, type Cidr6, parseCidr } from '../wire/cidr.ts';
import { formatMac, parseMac } from '../wire/mac.ts';
import { toVni } from '../wire/vxlan.ts';
import {
  UnderlayError,
  isDirect,
  overlayMtu,
  overlayState,
  publicAddresses,
  refuseOverlap,
  refuseServiceOverlap,
} from './overlay-state.ts';

const cidr4 = (text: string): Cidr4 => parseCidr(text) as Cidr4;
const cidr6 = (text: string): Cidr6 => parseCidr(text) as Cidr6;
const v4 = parseIpv4('192.0.2.1');
const v6 = parseIpv6('fd31::1');
const mac4 = parseMac('02:00:00:00:00:04');
const mac6 = parseMac('02:00:00:00:00:06');
const ours = parseMac('02:00:00:00:00:01');
const vni = toVni(1);

const ipv4 = { network: cidr4('10.244.0.0/16'), subnetLength: 24, min: toIpv4(0), max: toIpv4(0) };
const ipv6 = {
  network: cidr6('fd00:10:244::/56'),
  subnetLength: 64,
  min: toIpv6(0n),
  max: toIpv6(0n),
};
const network = (more: Partial<NetworkConfig> = {}): NetworkConfig => ({
  ipv4,
  ipv6,
  vni,
  port: 8472,
  mtuBytes: null,
  directRouting: false,
  ...more,
});
const lease: NodeLease = {
  key: '10.244.2.0-24&fd00:10:244:2::-64',
  subnet4: cidr4('10.244.2.0/24'),
  subnet6: cidr6('fd00:10:244:2::/64'),
  publicIp4: v4,
  publicIp6: v6,
  vtep4: { mac: mac4, vni },
  vtep6: { mac: mac6, vni },
  reserved: false,
};
const both = { ipv4: true, ipv6: true };
const here = { ...PLAIN_OVERLAY, pods: [], underlay: { onLink: [] }, directRouting: false };
const otherVni = { mac: mac4, vni: toVni(2) };

for (const [title, peer, reach, hop4, hop6] of [
  ['each family in its own', {}, both, '192.0.2.1 04', 'fd31::1 06'],
  ['peer without IPv6 underlay', { publicIp6: null }, both, '192.0.2.1 04', '192.0.2.1 06'],
  ['peer without IPv4 underlay', { publicIp4: null }, both, 'fd31::1 04', 'fd31::1 06'],
  ['we have no IPv6 socket', {}, { ...both, ipv6: false }, '192.0.2.1 04', '192.0.2.1 06'],
  ['we have no IPv4 socket', {}, { ...both, ipv4: false }, 'fd31::1 04', 'fd31::1 06'],
  ['no underlay in common', { publicIp6: null }, { ...both, ipv4: false }, null, null],
  ['IPv4 subnet only', { subnet6: null, vtep6: null }, both, '192.0.2.1 04', null],
  ['IPv6 subnet only', { subnet4: null, vtep4: null }, both, null, 'fd31::1 06'],
  ['no end point for IPv4', { vtep4: null }, both, null, 'fd31::1 06'],
  ['another VNI', { vtep4: otherVni }, both, null, 'fd31::1 06'],
] as const) {
  test(`next hop: ${title}`, (t) => {
    const state = overlayState({
      network: network(),
      mac: ours,
      mtuBytes: 1430,
      lease,
      held: true,
      peers: [{ ...lease, ...peer }],
      reach,
      ...here,
    });
    const [it] = state.peers;
    const text = (hop: typeof it extends infer _ ? NonNullable<typeof it>['nextHop4'] : never) =>
      hop && `${formatAddress(hop.address)} ${formatMac(hop.mac).slice(-2)}`;
    t.is(text(it!.nextHop4), hop4);
    t.is(text(it!.nextHop6), hop6);
  });
}

test('packets are accepted from every address of the peer, whichever way we send', (t) => {
  const inputs = { network: network(), mac: ours, mtuBytes: 1450, lease, held: true, ...here };
  const reach = { ipv4: true, ipv6: false };
  const state = overlayState({ ...inputs, peers: [lease], reach });
  t.deepEqual(state.peers[0]!.addresses, [v4, v6]);
});

test('a lost lease stops forwarding and changes nothing else', (t) => {
  const inputs = {
    network: network(),
    mac: ours,
    mtuBytes: 1450,
    lease,
    peers: [lease],
    reach: both,
    ...here,
  };
  const held = overlayState({ ...inputs, held: true });
  const lost = overlayState({ ...inputs, held: false });
  t.deepEqual(lost, { ...held, forwarding: false });
});

test('what the node has: its networks, and its pods as they are', (t) => {
  const pods = [parseIpv4('10.244.2.7'), parseIpv6('fd00:10:244:2::7')];
  const state = (more: Partial<NetworkConfig>) =>
    overlayState({
      network: network(more),
      mac: ours,
      mtuBytes: 1450,
      lease,
      held: true,
      peers: [],
      reach: both,
      ...here,
      pods,
    });
  t.like(state({}), { network4: ipv4.network, network6: ipv6.network, pods });
  t.is(state({ ipv6: null }).network6, null);
  t.is(state({ ipv4: null }).network4, null);
});

const link4 = cidr4('192.0.2.0/24');
const link6 = cidr6('fd31::/64');
for (const [title, peer, onLink, directRouting, direct4, direct6] of [
  ['a peer on our link', {}, [link4, link6], true, true, true],
  ['not asked for', {}, [link4, link6], false, false, false],
  ['on our link in IPv4 only', {}, [link4], true, true, false],
  ['on our link in IPv6 only', {}, [link6], true, false, true],
  ['behind a router', {}, [cidr4('192.0.3.0/24')], true, false, false],
  ['no IPv6 address', { publicIp6: null }, [link4, link6], true, true, false],
  ['no IPv4 subnet', { subnet4: null, vtep4: null }, [link4, link6], true, false, true],
] as const) {
  test(`direct: ${title}`, (t) => {
    const to = { ...lease, ...peer };
    const underlay = { onLink };
    t.is(isDirect(to, 4, underlay, directRouting), direct4);
    t.is(isDirect(to, 6, underlay, directRouting), direct6);
    const state = overlayState({
      network: network(),
      mac: ours,
      mtuBytes: 1450,
      lease,
      held: true,
      peers: [to],
      ...here,
      reach: both,
      underlay,
      directRouting,
    });
    t.like(state.peers[0], { direct4, direct6 });
  });
}

const no = null;
for (const [title, families, underlay, named, expected4, expected6] of [
  ['dual stack', { ipv4, ipv6 }, [v4, v6], [no, no], v4, v6],
  ['inner IPv4 only', { ipv4, ipv6: no }, [v4, v6], [no, no], v4, no],
  ['inner IPv6 only', { ipv4: no, ipv6 }, [v4, v6], [no, no], no, v6],
  ['inner IPv6 over an IPv4 underlay', { ipv4: no, ipv6 }, [v4, no], [no, no], v4, no],
  ['inner IPv4 over an IPv6 underlay', { ipv4, ipv6: no }, [no, v6], [no, no], no, v6],
  ['named by the operator', { ipv4, ipv6: no }, [v4, v6], [v4, v6], v4, v6],
] as const) {
  test(`public addresses: ${title}`, (t) => {
    const [address4, address6] = underlay;
    const [publicIp, publicIpv6] = named;
    const chosen = publicAddresses(families, { address4, address6 }, { publicIp, publicIpv6 });
    t.deepEqual(chosen, { publicIp4: expected4, publicIp6: expected6 });
  });
}

for (const [title, config, below, publicIp6, mtu] of [
  ['IPv4 underlay', {}, 1500, no, 1450],
  ['IPv6 underlay in use', {}, 1500, v6, 1430],
  ["operator's MTU instead of the interface's", { mtuBytes: 9000 }, 1500, no, 8950],
  ['loopback', {}, 65_536, no, 65_486],
  ['more than an IP packet can be', {}, 70_000, no, 65_535],
  ['least for inner IPv6', {}, 1330, no, 1280],
  ['less, without inner IPv6', { ipv6: null }, 1329, no, 1279],
] as const) {
  test(`MTU: ${title}`, (t) => {
    const underlay = { mtuBytes: below, iface: 'eth0' };
    t.is(overlayMtu(network(config), underlay, { publicIp4: v4, publicIp6 }), mtu);
  });
}

for (const [title, config, below] of [
  ['too small for inner IPv6', {}, 1329],
  ['too small for anything', { ipv6: null }, 600],
  ["operator's too small", { mtuBytes: 100 }, 1500],
] as const) {
  test(`MTU refused: ${title}`, (t) => {
    const underlay = { mtuBytes: below, iface: 'eth0' };
    const addresses = { publicIp4: v4, publicIp6: null };
    t.throws(() => overlayMtu(network(config), underlay, addresses), { instanceOf: UnderlayError });
  });
}

test('an overlay that contains our own underlay address is refused', (t) => {
  const inside = { iface: 'eth0', address4: parseIpv4('10.244.7.7'), address6: null };
  t.throws(() => refuseOverlap(network(), inside), {
    instanceOf: UnderlayError,
    message: /10\.244\.0\.0\/16 contains 10\.244\.7\.7 of interface eth0/,
  });
  t.notThrows(() => refuseOverlap(network(), { ...inside, address4: v4 }));
});

for (const [title, block, message] of [
  ['apart from both', '10.96.0.0/12', null],
  [
    'around the pods',
    '10.0.0.0/8',
    /10.0.0.0\/8 overlaps the overlay network 10.244.0.0\/16: name/,
  ],
  ['within them', 'fd00:10:244:7::/112', /overlaps the overlay network fd00:10:244::\/56/],
  ['around the underlay', '192.0.0.0/16', /contains 192.0.2.1 of interface eth0: peers there/],
] as const) {
  test(`a Service network ${title}`, (t) => {
    const underlay = { address4: v4, address6: null, iface: 'eth0' };
    const refuse = () => refuseServiceOverlap([parseCidr(block)], network(), underlay);
    if (message === null) t.notThrows(refuse);
    else t.throws(refuse, { instanceOf: UnderlayError, message });
  });
}
