import test from 'ava';
import type { NodeLease } from '../ipam/types.ts';
import type { InterfaceAddresses, Route, Rule } from '../linux/ip.ts';
import { parseIpv4, parseIpv6, toIpv4, toIpv6 } from '../wire/address.ts';
import { type Cidr4, type Cidr6, parseCidr } from '../wire/cidr.ts';
import { parseMac } from '../wire/mac.ts';
import { toVni } from '../wire/vxlan.ts';
import {
  type ActualHost,
  type HostInputs,
  HostStateError,
  desiredHost,
  planHost,
  steeredIn,
} from './host-state.ts';
import type { SteeredFrontend } from '../service/compile.ts';

const cidr4 = (text: string): Cidr4 => parseCidr(text) as Cidr4;
const cidr6 = (text: string): Cidr6 => parseCidr(text) as Cidr6;

const vtep = { mac: parseMac('02:00:00:00:00:02'), vni: toVni(1) };
const peer = (number: number, publicIp4: string): NodeLease => ({
  key: `10.244.${number}.0-24`,
  subnet4: cidr4(`10.244.${number}.0/24`),
  subnet6: cidr6(`fd00:10:244:${number}::/64`),
  publicIp4: parseIpv4(publicIp4),
  publicIp6: parseIpv6(`fd31::${number}`),
  vtep4: vtep,
  vtep6: vtep,
  reserved: false,
});
const inputs: HostInputs = {
  tunName: 'weft0',
  mtuBytes: 1430,
  network: {
    ipv4: { network: cidr4('10.244.0.0/16'), subnetLength: 24, min: toIpv4(0), max: toIpv4(0) },
    ipv6: {
      network: cidr6('fd00:10:244::/56'),
      subnetLength: 64,
      min: toIpv6(0n),
      max: toIpv6(0n),
    },
    port: 8472,
  },
  lease: { subnet4: cidr4('10.244.1.0/24'), subnet6: cidr6('fd00:10:244:1::/64') },
  underlay: {
    iface: 'eth0',
    mtuBytes: 1500,
    address4: parseIpv4('192.0.2.1'),
    address6: parseIpv6('fd31::1'),
    onLink: [parseCidr('192.0.2.0/24'), parseCidr('fd31::/64')],
  },
  ipMasq: false,
  directRouting: false,
  peers: [peer(2, '192.0.2.2')],
  pins: [],
  services: null,
};

const tun = (more: Partial<InterfaceAddresses> = {}): InterfaceAddresses => ({
  ifindex: 5,
  ifname: 'weft0',
  flags: ['POINTOPOINT', 'NOARP', 'UP', 'LOWER_UP'],
  mtu: 1430,
  operstate: 'UNKNOWN',
  link_type: 'none',
  addr_info: [
    { family: 'inet', local: '10.244.1.0', prefixlen: 32, scope: 'global' },
    { family: 'inet6', local: 'fd00:10:244:1::', prefixlen: 128, scope: 'global' },
    { family: 'inet6', local: 'fe80::1', prefixlen: 64, scope: 'link' },
  ],
  ...more,
});
const ours = { protocol: '157', flags: [] } as const;
const routes4: Route[] = [
  { ...ours, dst: '10.244.0.0/16', dev: 'weft0', prefsrc: '10.244.1.0' },
  { ...ours, dst: 'default', dev: 'weft0', table: '158' },
];
const onLink: Route[] = [
  { ...ours, type: 'throw', dst: 'fe80::/10', dev: 'lo', table: '158' },
  { ...ours, type: 'throw', dst: 'ff00::/8', dev: 'lo', table: '158' },
];
const routes6: Route[] = [
  { ...ours, dst: 'fd00:10:244::/56', dev: 'weft0', prefsrc: 'fd00:10:244:1::' },
  ...onLink,
  { ...ours, dst: 'default', dev: 'weft0', table: '158' },
];
const steered = (src: string, srclen: number): Rule[] => [
  { priority: 91, src: 'all', iif: 'lo', goto: 96, protocol: '157' },
  { priority: 92, src: 'all', iif: 'weft0', goto: 96, protocol: '157' },
  { priority: 93, src, srclen, table: '158', protocol: '157' },
  { priority: 96, src: 'all', table: 'local' },
  { priority: 97, src: 'all', iif: 'lo', table: '157', protocol: '157' },
  { priority: 98, src: 'all', iif: 'weft0', table: '157', protocol: '157' },
];
const settled: ActualHost = {
  links: [tun()],
  routes4,
  routes6,
  rules4: steered('10.244.1.0', 24),
  rules6: steered('fd00:10:244:1::', 64),
  sysctls: {
    'net/ipv6/conf/eth0/accept_ra': '1',
    'net/ipv6/conf/all/forwarding': '1',
    'net/ipv4/ip_forward': '1',
    'net/ipv4/ip_early_demux': '0',
    'net/ipv4/conf/weft0/accept_local': '1',
    'net/ipv4/conf/weft0/rp_filter': '2',
    'net/ipv4/conf/weft0/route_localnet': '1',
    'net/ipv4/conf/weft0/send_redirects': '0',
    'net/ipv6/conf/weft0/addr_gen_mode': '1',
    'net/ipv6/conf/weft0/accept_ra': '0',
  },
  table: desiredHost(inputs).ruleset,
};
const bare: ActualHost = {
  links: [tun({ flags: [], mtu: 1500, addr_info: [] })],
  routes4: [],
  routes6: [],
  rules4: [],
  rules6: [],
  sysctls: {
    ...settled.sysctls,
    'net/ipv4/ip_forward': '0',
    'net/ipv4/ip_early_demux': '1',
    'net/ipv6/conf/all/forwarding': '0',
  },
  table: null,
};
const direct4: Route = {
  dst: '10.244.2.0/24',
  gateway: '192.0.2.2',
  dev: 'eth0',
  protocol: '157',
  flags: [],
};
const direct6: Route = {
  dst: 'fd00:10:244:2::/64',
  gateway: 'fd31::2',
  dev: 'eth0',
  protocol: '157',
  flags: [],
};
const other: Route = { ...direct4, dst: '10.244.9.7' };

for (const [title, more, actual, ip] of [
  ['nothing to do', {}, settled, []],
  [
    'a fresh TUN',
    {},
    bare,
    [
      'link set dev weft0 mtu 1430',
      'link set dev weft0 up',
      'address replace 10.244.1.0/32 dev weft0',
      'address replace fd00:10:244:1::/128 dev weft0 nodad',
      'route replace 10.244.0.0/16 dev weft0 proto 157 src 10.244.1.0',
      'route replace 0.0.0.0/0 dev weft0 table 158 proto 157',
      'route replace fd00:10:244::/56 dev weft0 proto 157 src fd00:10:244:1::',
      'route replace throw fe80::/10 table 158 proto 157',
      'route replace throw ff00::/8 table 158 proto 157',
      'route replace ::/0 dev weft0 table 158 proto 157',
    ],
  ],
  [
    'what is on a link of a pod stays there',
    {},
    { ...settled, routes6: routes6.filter((it) => it.type === undefined) },
    [
      'route replace throw fe80::/10 table 158 proto 157',
      'route replace throw ff00::/8 table 158 proto 157',
    ],
  ],
  [
    'the same block in another table is another route',
    {},
    { ...settled, routes4: [...routes4, { ...ours, dst: '10.244.0.0/16', table: '158' }] },
    ['route del 10.244.0.0/16 table 158 proto 157'],
  ],
  [
    'another subnet than before: new address, route, then the old address goes',
    { lease: { subnet4: cidr4('10.244.3.0/24'), subnet6: inputs.lease.subnet6 } },
    settled,
    [
      'address replace 10.244.3.0/32 dev weft0',
      'route replace 10.244.0.0/16 dev weft0 proto 157 src 10.244.3.0',
      'address del 10.244.1.0/32 dev weft0',
    ],
  ],
  [
    'the right address with a wrong length',
    {},
    {
      ...settled,
      links: [
        tun({
          addr_info: [
            { family: 'inet', local: '10.244.1.0', prefixlen: 24, scope: 'global' },
            tun().addr_info[1]!,
          ],
        }),
      ],
    },
    ['address replace 10.244.1.0/32 dev weft0', 'address del 10.244.1.0/24 dev weft0'],
  ],
  [
    'direct routing: a peer on our link',
    { directRouting: true },
    settled,
    [
      'route replace 10.244.2.0/24 via 192.0.2.2 dev eth0 proto 157',
      'route replace fd00:10:244:2::/64 via fd31::2 dev eth0 proto 157',
    ],
  ],
  [
    'direct routing: a peer behind a router, in IPv4',
    { directRouting: true, peers: [peer(2, '198.51.100.2')] },
    settled,
    ['route replace fd00:10:244:2::/64 via fd31::2 dev eth0 proto 157'],
  ],
  [
    'direct routing: done',
    { directRouting: true },
    { ...settled, routes4: [...routes4, direct4], routes6: [...routes6, direct6] },
    [],
  ],
  [
    'direct routing: the peer moved',
    { directRouting: true, peers: [peer(2, '192.0.2.3')] },
    { ...settled, routes4: [...routes4, direct4], routes6: [...routes6, direct6] },
    ['route replace 10.244.2.0/24 via 192.0.2.3 dev eth0 proto 157'],
  ],
  [
    'direct routing off again, and a host route of ours',
    {},
    { ...settled, routes4: [...routes4, direct4, other] },
    ['route del 10.244.2.0/24 dev eth0 proto 157', 'route del 10.244.9.7/32 dev eth0 proto 157'],
  ],
  [
    'Service networks of families in use, from the node in the overlay',
    {
      network: { ...inputs.network, ipv6: null },
      lease: { ...inputs.lease, subnet6: null },
      services: { networks: [cidr4('10.96.0.0/12'), cidr6('fd00:96::/112')], steered: [] },
    },
    { ...settled, routes6: [], links: [tun({ addr_info: [tun().addr_info[0]!] })] },
    ['route replace 10.96.0.0/12 dev weft0 proto 157 src 10.244.1.0'],
  ],
  [
    'no Services any more',
    {},
    {
      ...settled,
      routes4: [...routes4, { ...ours, dst: '10.96.0.0/12', dev: 'weft0', prefsrc: '10.244.1.0' }],
    },
    ['route del 10.96.0.0/12 dev weft0 proto 157'],
  ],
  [
    'before the first full list no route is taken away',
    { peers: null, directRouting: true },
    { ...settled, routes4: [...routes4, direct4] },
    [],
  ],
] as readonly (readonly [string, Partial<HostInputs>, ActualHost, readonly string[]])[]) {
  test(`iproute2: ${title}`, (t) => {
    const plan = planHost(desiredHost({ ...inputs, ...more }), actual);
    t.deepEqual(
      plan.ip.map((it) => it.join(' ')),
      ip,
    );
  });
}

const set = (actual: ActualHost): string[] =>
  planHost(desiredHost(inputs), actual).sysctls.map((it) => `${it.path}=${it.value}`);

test('kernel settings: only what differs, advertisements before forwarding', (t) => {
  t.deepEqual(set(settled), []);
  t.deepEqual(set(bare), [
    'net/ipv6/conf/eth0/accept_ra=2',
    'net/ipv6/conf/all/forwarding=1',
    'net/ipv4/ip_forward=1',
    'net/ipv4/ip_early_demux=0',
  ]);
  const ignoresRa = { ...bare.sysctls, 'net/ipv6/conf/eth0/accept_ra': '0' };
  t.false(set({ ...bare, sysctls: ignoresRa }).some((it) => it.includes('eth0')));
  const noIpv6 = { ...settled.sysctls, 'net/ipv6/conf/weft0/accept_ra': null };
  t.deepEqual(set({ ...settled, sysctls: noIpv6 }), []);
});

test('no inner IPv6: its forwarding is left alone', (t) => {
  const { sysctls } = desiredHost({ ...inputs, network: { ...inputs.network, ipv6: null } });
  t.false(sysctls.some((it) => it.path === 'net/ipv6/conf/all/forwarding'));
});

test('the table is written when it is absent, changed, or lost a rule', (t) => {
  const desired = desiredHost(inputs);
  const { comment, rules, text } = desired.ruleset;
  const ruleset = (table: ActualHost['table']): string | null =>
    planHost(desired, { ...settled, table }).ruleset;
  t.is(ruleset({ comment, rules }), null);
  t.is(ruleset(null), text);
  t.is(ruleset({ comment: 'x', rules }), text);
  t.is(ruleset({ comment, rules: rules - 1 }), text);
  t.not(desiredHost({ ...inputs, ipMasq: true }).ruleset.comment, comment);
});

test('Services: a table of its own digest, whatever the sets hold', (t) => {
  const port: SteeredFrontend = { protocol: 6, address: parseIpv4('192.0.2.1'), port: 30080 };
  const ruleset = (steered: readonly SteeredFrontend[] | null) =>
    desiredHost({ ...inputs, services: steered && { networks: [], steered } }).ruleset;
  t.is(ruleset([]).comment, ruleset([port]).comment);
  t.not(ruleset([]).comment, ruleset(null).comment);
  t.true(ruleset([port]).text.includes('elements = { 6 . 192.0.2.1 . 30080 }'));
  t.false(ruleset(null).text.includes('services4'));
});

test('elements of the sets of Services as nft shows them: names or numbers, any spelling', (t) => {
  const sets = {
    services4: [
      ['tcp', '192.0.2.1', '30080'],
      ['132', '192.0.2.1', '53'],
    ],
    services6: [['udp', 'FD00:0::1', '53']],
    pods4: [['weftp0', '02:00:00:00:00:01', '10.244.1.2']],
  };
  t.deepEqual(steeredIn({ sets }), [
    '6 . 192.0.2.1 . 30080',
    '132 . 192.0.2.1 . 53',
    '17 . fd00::1 . 53',
  ]);
  t.deepEqual(steeredIn(null), []);
});

test('rules are planned for each family that has a subnet', (t) => {
  const plan = (more: Partial<HostInputs>): readonly number[] => {
    const { rules4, rules6 } = planHost(desiredHost({ ...inputs, ...more }), settled);
    return [rules4.length, rules6.length];
  };
  t.deepEqual(plan({}), [0, 0]);
  t.deepEqual(plan({ network: { ...inputs.network, ipv6: null } }), [0, 7]);
});

test('a TUN that is gone is an error with its consequence', (t) => {
  t.throws(() => planHost(desiredHost(inputs), { ...settled, links: [] }), {
    instanceOf: HostStateError,
    message: 'interface weft0 is gone: pods reach no other node',
  });
});
