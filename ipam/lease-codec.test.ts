import test from 'ava';
import { parseIpv4, parseIpv6 } from '../wire/address.ts';
import { formatCidr } from '../wire/cidr.ts';
import { parseMac } from '../wire/mac.ts';
import { toVni } from '../wire/vxlan.ts';
import { parseNetworkConfig } from './config.ts';
import {
  decodeEntry,
  decodeSubnetKey,
  encodeLeaseValue,
  encodeSubnetKey,
  readOwner,
  shown,
} from './lease-codec.ts';

const dual = parseNetworkConfig(
  JSON.stringify({
    Network: '10.5.0.0/16',
    EnableIPv6: true,
    IPv6Network: 'fd00:5::/48',
    Backend: { Type: 'vxlan', VNI: 70_000 },
  }),
);
const ipv4Only = { ...dual, ipv6: null, vni: toVni(1) };

const KEY = '10.5.52.0-24';
/** As flannel writes it, in a cluster of one family and of two. */
const VALUE =
  '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",' +
  '"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}';
const DUAL_VALUE =
  '{"PublicIP":"192.168.64.3","PublicIPv6":"2001:db8::3","BackendType":"vxlan",' +
  '"BackendData":{"VNI":70000,"VtepMAC":"c6:d2:32:6f:8f:44"},' +
  '"BackendV6Data":{"VNI":70000,"VtepMAC":"c6:d2:32:6f:8f:45"}}';

const vtep = { vni: toVni(1), mac: parseMac('c6:d2:32:6f:8f:44') };

test("flannel's entry decodes to a lease, and encodes to the same letters", (t) => {
  const { lease, problem } = decodeEntry(KEY, VALUE, false, ipv4Only);
  t.is(problem, null);
  t.deepEqual(lease, {
    key: KEY,
    subnet4: { family: 4, base: parseIpv4('10.5.52.0'), length: 24 },
    subnet6: null,
    publicIp4: parseIpv4('192.168.64.3'),
    publicIp6: null,
    vtep4: vtep,
    vtep6: null,
    reserved: false,
  });
  t.is(encodeSubnetKey(lease!), KEY);
  t.is(encodeLeaseValue(lease!), VALUE);
});

test('dual stack too', (t) => {
  const key = '10.5.52.0-24&fd00:5:0:34::-64';
  const { lease } = decodeEntry(key, DUAL_VALUE, false, dual);
  t.is(formatCidr(lease!.subnet6!), 'fd00:5:0:34::/64');
  t.is(lease!.publicIp6, parseIpv6('2001:db8::3'));
  t.is(lease!.vtep6!.mac, parseMac('c6:d2:32:6f:8f:45'));
  t.is(encodeSubnetKey(lease!), key);
  t.is(encodeLeaseValue(lease!), DUAL_VALUE);
});

const keys: readonly (readonly [string, string | null])[] = [
  ['10.5.52.0-24', '10.5.52.0/24 -'],
  ['10.5.52.0-24&fd00:5::-64', '10.5.52.0/24 fd00:5::/64'],
  ['0.0.0.0-0&fd00:5::-64', '- fd00:5::/64'],
  ['0.0.0.0-0', null],
  ['10.5.52.1-24', null],
  ['10.5.52.0-33', null],
  ['10.5.052.0-24', null],
  ['10.5.52.0/24', null],
  ['10.5.52.0-24 ', null],
  ['x10.5.52.0-24', null],
  ['10.5.52.0-24&fd00-5---64', null],
  ['10.5.52.0-24&fe80::%eth0-64', null],
  ['10.5.52.0-24&10.6.0.0-24', null],
  ['fd00:5::-64', null],
  ['../config', null],
  ['__proto__', null],
  ['', null],
  ['$(reboot)-24', null],
];
for (const [key, expected] of keys) {
  test(`key ${JSON.stringify(key)}`, (t) => {
    const pair = decodeSubnetKey(key);
    const text = (
      block: typeof pair extends null ? never : Parameters<typeof formatCidr>[0] | null,
    ) => (block === null ? '-' : formatCidr(block));
    t.is(pair && `${text(pair.subnet4)} ${text(pair.subnet6)}`, expected);
  });
}

/** VALUE with some fields changed; undefined takes one away. */
const but = (changes: object): string => JSON.stringify({ ...JSON.parse(VALUE), ...changes });

const accepted: readonly (readonly [string, string])[] = [
  ['without a VNI, as old flannel', but({ BackendData: { VtepMAC: 'c6:d2:32:6f:8f:44' } })],
  ['with fields that we do not know', but({ Extra: { __proto__: 1 }, BackendV6Data: null })],
  ['capital letters in the MAC', but({ BackendData: { VNI: 1, VtepMAC: 'C6:D2:32:6F:8F:44' } })],
  ['no PublicIPv6 at all', but({ PublicIPv6: undefined })],
];
for (const [title, value] of accepted) {
  test(`accepted: ${title}`, (t) => {
    t.like(decodeEntry(KEY, value, false, ipv4Only), { problem: null, lease: { vtep4: vtep } });
  });
}

test('a VNI that flannel has cut to 16 bits is the network’s', (t) => {
  const value = but({ BackendData: { VNI: 70_000 % 65_536, VtepMAC: 'c6:d2:32:6f:8f:44' } });
  t.is(decodeEntry(KEY, value, false, dual).lease!.vtep4!.vni, dual.vni);
});

test('a family that the network lacks is left out', (t) => {
  const { lease, subnets } = decodeEntry('10.5.52.0-24&fd00:5::-64', DUAL_VALUE, false, ipv4Only);
  t.is(lease!.subnet6, null);
  t.truthy(subnets!.subnet6, 'but is still known as occupied');
});

test('a reservation need not name a backend yet; a lease must', (t) => {
  const value = '{"PublicIP":"192.168.64.3"}';
  t.like(decodeEntry(KEY, value, true, ipv4Only).lease, { vtep4: null, reserved: true });
  t.is(decodeEntry(KEY, value, false, ipv4Only).lease, null);
});

const hostile: readonly (readonly [string, string, string, RegExp])[] = [
  ['key that is no subnet', '../../etc/passwd', VALUE, /key is not a subnet/],
  ['outside the network', '10.6.0.0-24', VALUE, /outside the network/],
  ['larger than the network', '10.0.0.0-8', VALUE, /outside the network/],
  ['broken JSON', KEY, '{"PublicIP":', /not JSON/],
  ['empty', KEY, '', /not JSON/],
  ['no object', KEY, '[1]', /expected object/],
  ['null', KEY, 'null', /expected object/],
  ['10 MB', KEY, `"${'x'.repeat(10_000_000)}"`, /10000002 characters/],
  ['10 MB of brackets', KEY, '['.repeat(10_000_000), /characters/],
  ['deep brackets', KEY, '['.repeat(4000), /not JSON/],
  ['only __proto__', KEY, `{"__proto__":${VALUE}}`, /neither PublicIP nor/],
  ['number for an address', KEY, but({ PublicIP: 3_232_251_907 }), /PublicIP: /],
  ['shell characters', KEY, but({ PublicIP: '1.2.3.4;reboot' }), /PublicIP "1\.2\.3\.4;reboot"/],
  ['a name', KEY, but({ PublicIP: 'example.org' }), /PublicIP/],
  ['loopback', KEY, but({ PublicIP: '127.0.0.1' }), /PublicIP/],
  ['multicast', KEY, but({ PublicIP: '239.1.1.1' }), /PublicIP/],
  ['broadcast', KEY, but({ PublicIP: '255.255.255.255' }), /PublicIP/],
  ['inside the tunnel', KEY, but({ PublicIP: '10.5.9.9' }), /lies inside 10\.5\.0\.0\/16/],
  ['zone', KEY, but({ PublicIPv6: 'fe80::1%eth0' }), /PublicIPv6/],
  ['IPv6 multicast', KEY, but({ PublicIPv6: 'ff02::1' }), /PublicIPv6/],
  ['IPv6 loopback', KEY, but({ PublicIPv6: '::1' }), /PublicIPv6/],
  ['no address', KEY, but({ PublicIP: '0.0.0.0' }), /neither/],
  ['another backend', KEY, but({ BackendType: 'host-gw' }), /BackendType "host-gw"/],
  ['no backend', KEY, but({ BackendType: undefined }), /BackendType missing/],
  ['backend as text', KEY, but({ BackendData: 'x' }), /BackendData/],
  ['no MAC', KEY, but({ BackendData: { VNI: 1 } }), /BackendData/],
  ['group MAC', KEY, but({ BackendData: { VtepMAC: '01:00:5e:00:00:01' } }), /VtepMAC/],
  ['zero MAC', KEY, but({ BackendData: { VtepMAC: '00:00:00:00:00:00' } }), /VtepMAC/],
  ['short MAC', KEY, but({ BackendData: { VtepMAC: 'c6:d2' } }), /VtepMAC "c6:d2"/],
  [
    'VNI too large',
    KEY,
    but({ BackendData: { VNI: 2 ** 24, VtepMAC: 'c6:d2:32:6f:8f:44' } }),
    /VNI/,
  ],
  ['VNI negative', KEY, but({ BackendData: { VNI: -1, VtepMAC: 'c6:d2:32:6f:8f:44' } }), /VNI/],
  ['VNI a fraction', KEY, but({ BackendData: { VNI: 1.5, VtepMAC: 'c6:d2:32:6f:8f:44' } }), /VNI/],
  ['MAC of the other family only', KEY, but({ BackendData: undefined }), /VtepMAC/],
];
for (const [title, key, value, problem] of hostile) {
  test(`ignored: ${title}`, (t) => {
    const decoded = decodeEntry(key, value, false, ipv4Only);
    t.is(decoded.lease, null);
    t.regex(decoded.problem!, problem);
    t.true(decoded.problem!.length < 200);
    t.notRegex(decoded.problem!, /[^\x20-\x7e]/);
  });
}

test('what is shown to people has no controls and an end', (t) => {
  t.is(shown('a\u001b[31m\nb\u2028'), '"a\\u001b[31m\\nb?"');
  t.is(shown('x'.repeat(1000)).length, 62);
});

test('the owner is known even if the rest is of no use', (t) => {
  t.is(readOwner('{"PublicIP":"192.168.64.3","BackendType":7}'), null);
  t.is(readOwner(but({ BackendType: 'udp' }))!.publicIp4, parseIpv4('192.168.64.3'));
  t.is(
    decodeEntry(KEY, but({ BackendType: 'udp' }), false, ipv4Only).owner.publicIp4,
    parseIpv4('192.168.64.3'),
  );
});
