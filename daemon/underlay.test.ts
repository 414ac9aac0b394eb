import test from 'ava';
import type { InterfaceAddress, InterfaceAddresses, Route } from '../linux/ip.ts';
import { formatAddress, parseAddress, parseIpv4, parseIpv6 } from '../wire/address.ts';
import { formatCidr } from '../wire/cidr.ts';
import { ConfigError } from './config.ts';
import { chooseUnderlay } from './underlay.ts';

const address = (text: string, more: Partial<InterfaceAddress> = {}): InterfaceAddress => {
  const [local = '', length] = text.split('/');
  const family = local.includes(':') ? 'inet6' : 'inet';
  return { family, local, prefixlen: Number(length), scope: 'global', ...more };
};
const link = (
  ifname: string,
  addr_info: readonly InterfaceAddress[],
  more: Partial<InterfaceAddresses> = {},
): InterfaceAddresses => ({
  ifindex: 1,
  ifname,
  flags: ['BROADCAST', 'UP', 'LOWER_UP'],
  mtu: 1500,
  operstate: 'UP',
  link_type: 'ether',
  addr_info,
  ...more,
});

const links = [
  link('lo', [address('127.0.0.1/8', { scope: 'host' })], { mtu: 65_536 }),
  link('eth0', [
    address('192.0.2.7/24'),
    address('192.0.2.8/24'),
    address('fd31::9/64', { temporary: true }),
    address('fd31::8/64', { deprecated: true }),
    address('fd31::7/64'),
    address('fe80::7/64', { scope: 'link' }),
  ]),
  link('eth1', [address('198.51.100.7/24')], { mtu: 9000 }),
  link('eth2', [address('fd32::7/64')]),
  link('down0', [address('203.0.113.7/24')], { flags: [] }),
  link('bare0', [address('fe80::1/64', { scope: 'link' })]),
  link('weft0', [address('10.244.1.0/32')], { linkinfo: { info_kind: 'tun' } }),
];
const route = (dev: string): Route => ({ dst: 'default', dev, flags: [] });
const sources = { links, defaultRoutes4: [route('eth1')], defaultRoutes6: [route('eth2')] };
const unset = { iface: null, publicIp: null, publicIpv6: null, tunName: 'weft0' };

for (const [title, config, from, iface, address4, address6] of [
  ['default route', unset, sources, 'eth1', '198.51.100.7', null],
  ['IPv6 default route alone', unset, { ...sources, defaultRoutes4: [] }, 'eth2', null, 'fd32::7'],
  ['by name', { ...unset, iface: 'eth0' }, sources, 'eth0', '192.0.2.7', 'fd31::7'],
  [
    'by address',
    { ...unset, iface: parseAddress('192.0.2.8') },
    sources,
    'eth0',
    '192.0.2.8',
    'fd31::7',
  ],
  [
    'by IPv6 address, even a temporary one',
    { ...unset, iface: parseAddress('fd31::9') },
    sources,
    'eth0',
    '192.0.2.7',
    'fd31::9',
  ],
] as const) {
  test(`underlay: ${title}`, (t) => {
    const underlay = chooseUnderlay(from, config);
    t.is(underlay.iface, iface);
    t.is(underlay.address4 && formatAddress(underlay.address4), address4);
    t.is(underlay.address6 && formatAddress(underlay.address6), address6);
  });
}

test('on link are the blocks of global addresses', (t) => {
  const { onLink, mtuBytes } = chooseUnderlay(sources, { ...unset, iface: 'eth0' });
  t.deepEqual([...new Set(onLink.map(formatCidr))], ['192.0.2.0/24', 'fd31::/64']);
  t.is(mtuBytes, 1500);
});

for (const [title, config, message] of [
  [
    'no such name',
    { ...unset, iface: 'eht0' },
    '--iface: there is no interface "eht0" (did you mean "eth0"?)',
  ],
  [
    'no such address',
    { ...unset, iface: parseAddress('192.0.2.9') },
    '--iface: no interface has the address 192.0.2.9',
  ],
  ['down', { ...unset, iface: 'down0' }, '--iface: interface down0 is down'],
  [
    'no address',
    { ...unset, iface: 'bare0' },
    '--iface: interface bare0 has no address that peers could reach',
  ],
  ['our own TUN', { ...unset, iface: 'weft0' }, "--iface: weft0 is the overlay's own interface"],
  [
    'public IPv4 without one',
    { ...unset, iface: 'eth2', publicIp: parseIpv4('192.0.2.1') },
    '--public-ip: interface eth2 has no IPv4 address behind it',
  ],
  [
    'public IPv6 without one',
    { ...unset, publicIpv6: parseIpv6('fd00::1') },
    '--public-ipv6: interface eth1 has no IPv6 address behind it',
  ],
  [
    'TUN name taken',
    { ...unset, tunName: 'eth0' },
    '--tun-name: eth0 is there already, and is not a TUN',
  ],
] as const) {
  test(`refused: ${title}`, (t) => {
    t.throws(() => chooseUnderlay(sources, config), { instanceOf: ConfigError, message });
  });
}

test('refused: nothing to tell the interface', (t) => {
  const none = { links, defaultRoutes4: [], defaultRoutes6: [] };
  t.throws(() => chooseUnderlay(none, unset), { message: /no default route .*; name one$/ });
});
