import test from 'ava';
import { MemoryStore } from '../store/memory.ts';
import { formatAddress } from '../wire/address.ts';
import { formatCidr } from '../wire/cidr.ts';
import { NetworkConfigError, parseNetworkConfig, readNetworkConfig } from './config.ts';

const VXLAN = { Type: 'vxlan' };
const V6 = { EnableIPv4: false, EnableIPv6: true };

/** One line per family: network, subnet length, first and last base. */
function summary(fields: object): string {
  const { ipv4, ipv6 } = parseNetworkConfig(JSON.stringify({ Backend: VXLAN, ...fields }));
  return [ipv4, ipv6]
    .flatMap((family) =>
      family === null
        ? []
        : `${formatCidr(family.network)} /${family.subnetLength} ` +
          `${formatAddress(family.min)} ${formatAddress(family.max)}`,
    )
    .join(', ');
}

const good: readonly (readonly [string, object, string])[] = [
  [
    '/16: /24 each, the first left out',
    { Network: '10.244.0.0/16' },
    '10.244.0.0/16 /24 10.244.1.0 10.244.255.0',
  ],
  ['/22 still gives /24', { Network: '10.1.4.0/22' }, '10.1.4.0/22 /24 10.1.5.0 10.1.7.0'],
  ['/23: a quarter each', { Network: '10.1.4.0/23' }, '10.1.4.0/23 /25 10.1.4.128 10.1.5.128'],
  ['/28 is the smallest', { Network: '10.0.0.0/28' }, '10.0.0.0/28 /30 10.0.0.4 10.0.0.12'],
  ['/0 is the largest', { Network: '0.0.0.0/0' }, '0.0.0.0/0 /24 0.0.1.0 255.255.255.0'],
  [
    'a length and bounds of its own',
    { Network: '10.0.0.0/8', SubnetLen: 20, SubnetMin: '10.10.0.0', SubnetMax: '10.99.0.0' },
    '10.0.0.0/8 /20 10.10.0.0 10.99.0.0',
  ],
  [
    'nulls and zeros mean absent, as to flannel',
    { Network: '10.0.0.0/16', SubnetLen: 0, SubnetMin: null, IPv6Network: null },
    '10.0.0.0/16 /24 10.0.1.0 10.0.255.0',
  ],
  [
    'dual stack',
    { Network: '10.0.0.0/16', EnableIPv6: true, IPv6Network: 'fd00:1::/48' },
    '10.0.0.0/16 /24 10.0.1.0 10.0.255.0, fd00:1::/48 /64 fd00:1:0:1:: fd00:1:0:ffff::',
  ],
  ['IPv6 alone', { ...V6, IPv6Network: 'fd00::/62' }, 'fd00::/62 /64 fd00:0:0:1:: fd00:0:0:3::'],
  [
    'a small IPv6 network: a quarter each',
    { ...V6, IPv6Network: 'fd00::/124' },
    'fd00::/124 /126 fd00::4 fd00::c',
  ],
  [
    'an IPv6 network that is not enabled is left out',
    { Network: '10.0.0.0/16', IPv6Network: 'nonsense' },
    '10.0.0.0/16 /24 10.0.1.0 10.0.255.0',
  ],
  [
    '__proto__ is a field like any other',
    JSON.parse('{"Network":"10.0.0.0/16","__proto__":{"EnableIPv4":false}}') as object,
    '10.0.0.0/16 /24 10.0.1.0 10.0.255.0',
  ],
];
for (const [title, fields, expected] of good) {
  test(title, (t) => t.is(summary(fields), expected));
}

const parse = (Backend: object) =>
  parseNetworkConfig(JSON.stringify({ Network: '10.0.0.0/16', Backend }));

test('backend fields, and their defaults', (t) => {
  t.like(parse(VXLAN), { vni: 1, port: 8472, mtuBytes: null, directRouting: false });
  t.like(
    parse({ Type: 'VXLAN', VNI: 4096, Port: 4789, MTU: 9000, DirectRouting: true, GBP: true }),
    { vni: 4096, port: 4789, mtuBytes: 9000, directRouting: true },
  );
});

const bad: readonly (readonly [string, string, RegExp])[] = [
  ['not JSON', '{"Network":', /not JSON/],
  ['not an object', '[]', /it is wrong/],
  ['null', 'null', /it is wrong/],
  ['10 MB', ' '.repeat(10_000_000), /characters/],
  ...(
    [
      ['no network', {}, /^Network is missing.*EnableIPv4/],
      ['network not a block', { Network: '10.0.0.0' }, /^Network: "10.0.0.0" is not a CIDR/],
      ['host bits', { Network: '10.0.0.1/16' }, /^Network.*host bits.*10\.0\.0\.0\/16/],
      ['wrong family', { Network: 'fd00::/48' }, /^Network fd00::\/48 is not of IPv4/],
      ['wrong type', { Network: 10 }, /^Network is wrong/],
      ['too small', { Network: '10.0.0.0/29' }, /too small; use \/28/],
      [
        'subnets of two addresses',
        { Network: '10.0.0.0/16', SubnetLen: 31 },
        /SubnetLen.*18 to 30/,
      ],
      ['less than four subnets', { Network: '10.0.0.0/16', SubnetLen: 17 }, /SubnetLen.*18 to 30/],
      ['negative length', { Network: '10.0.0.0/16', SubnetLen: -1 }, /SubnetLen/],
      ['fraction', { Network: '10.0.0.0/16', SubnetLen: 24.5 }, /SubnetLen/],
      ['min outside', { Network: '10.0.0.0/16', SubnetMin: '10.1.0.0' }, /SubnetMin.*outside/],
      ['min not a base', { Network: '10.0.0.0/16', SubnetMin: '10.0.1.1' }, /SubnetMin.*base/],
      ['max not a base', { Network: '10.0.0.0/16', SubnetMax: '10.0.1.1' }, /SubnetMax.*base/],
      [
        'min above max',
        { Network: '10.0.0.0/16', SubnetMin: '10.0.9.0', SubnetMax: '10.0.8.0' },
        /SubnetMin lies above/,
      ],
      ['IPv6 without a network', { ...V6 }, /^IPv6Network is missing/],
      ['IPv6 length', { ...V6, IPv6Network: 'fd00::/48', IPv6SubnetLen: 127 }, /IPv6SubnetLen/],
      ['IPv6 with a zone', { ...V6, IPv6Network: 'fe80::%eth0/64' }, /IPv6Network/],
      ['no family at all', { EnableIPv4: false }, /both false/],
      [
        'another backend',
        { Network: '10.0.0.0/16', Backend: { Type: 'udp' } },
        /Backend.Type is "udp"/,
      ],
      ['no backend', { Network: '10.0.0.0/16', Backend: null }, /Backend.Type is missing/],
      ['VNI', { Network: '10.0.0.0/16', Backend: { ...VXLAN, VNI: 2 ** 24 } }, /Backend.VNI/],
      ['port', { Network: '10.0.0.0/16', Backend: { ...VXLAN, Port: 65_536 } }, /Backend.Port/],
      ['MTU', { Network: '10.0.0.0/16', Backend: { ...VXLAN, MTU: 100 } }, /Backend.MTU/],
    ] as const
  ).map(
    ([title, fields, message]) =>
      [title, JSON.stringify({ Backend: VXLAN, ...fields }), message] as const,
  ),
];
for (const [title, text, message] of bad) {
  test(`refused: ${title}`, (t) => {
    t.throws(() => parseNetworkConfig(text), { instanceOf: NetworkConfigError, message });
  });
}

test('a missing key says what to put there', async (t) => {
  using store = new MemoryStore();
  await t.throwsAsync(readNetworkConfig(store, '/net'), {
    instanceOf: NetworkConfigError,
    message: /\/net\/config is missing.*"Type":"vxlan"/,
  });
  await store.commit({ kind: 'create', key: '/net/config', value: '{}', leaseId: null });
  await t.throwsAsync(readNetworkConfig(store, '/net'), { message: /^\/net\/config: Backend/ });
});
