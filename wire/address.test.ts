import test from 'ava';
import fc from 'fast-check';
import { IPv6, collapseIPv6Number } from 'ip-num';
import {
  AddressError,
  addressOfWords,
  addressOrNull,
  familyOf,
  formatAddress,
  ipv6Words,
  parseAddress,
  parseIpv4,
  parseIpv6,
  toIpv4,
  toIpv6,
} from './address.ts';

const parsed: readonly [text: string, value: number | bigint, canonical?: string][] = [
  ['0.0.0.0', 0],
  ['10.244.1.2', 0x0af40102],
  ['127.0.0.1', 0x7f000001],
  ['255.255.255.255', 0xffffffff],
  ['::', 0n],
  ['::1', 1n],
  ['fd00:10:244::', 0xfd0000100244n << 80n],
  ['2001:db8::2:1', (0x20010db8n << 96n) | 0x20001n],
  ['ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', (1n << 128n) - 1n],
  // RFC 5952 section 4: lower case, no leading zeros, the first of the longest runs of zeros.
  ['2001:DB8::1', (0x20010db8n << 96n) | 1n, '2001:db8::1'],
  ['2001:0db8:0:0:0:0:0:1', (0x20010db8n << 96n) | 1n, '2001:db8::1'],
  ['2001:db8:0:0:1:0:0:1', (0x20010db8n << 96n) | (1n << 48n) | 1n, '2001:db8::1:0:0:1'],
  ['2001:0:0:1:0:0:0:1', (0x2001n << 112n) | (1n << 64n) | 1n, '2001:0:0:1::1'],
  ['1:0:2:3:4:5:6:7', 0x00010000000200030004000500060007n, '1:0:2:3:4:5:6:7'],
  ['64:ff9b::192.0.2.33', (0x64ff9bn << 96n) | 0xc0000221n, '64:ff9b::c000:221'],
];

for (const [text, value, canonical = text] of parsed) {
  test(`${text} is ${value} and written ${canonical}`, (t) => {
    const address = parseAddress(text);
    const plain: number | bigint = address;
    t.is(plain, value);
    t.is(familyOf(address), typeof value === 'number' ? 4 : 6);
    t.is(formatAddress(address), canonical);
  });
}

const refused = [
  '',
  ' ',
  '10.0.0',
  '10.0.0.0.0',
  '10.0.0.256',
  '10.0.0.01',
  '0x0a000001',
  '10.0.0.1 ',
  '10.0.0.1\n',
  '10.0.0.0/24',
  '167772161',
  ':',
  ':::',
  '1::2::3',
  '1:2:3:4:5:6:7',
  '1:2:3:4:5:6:7:8:9',
  '12345::',
  'g::',
  'fe80::1%eth0',
  'fe80::1%25',
  '::1/128',
  '[::1]',
  'example.org',
];

for (const text of refused) {
  test(`${JSON.stringify(text)} is no address`, (t) => {
    t.throws(() => parseAddress(text), { instanceOf: AddressError, code: 'ERR_ADDRESS' });
    t.throws(() => parseIpv4(text), { instanceOf: AddressError });
    t.throws(() => parseIpv6(text), { instanceOf: AddressError });
  });
}

test('one family is not taken for the other', (t) => {
  t.throws(() => parseIpv4('::1'), { instanceOf: AddressError });
  t.throws(() => parseIpv6('127.0.0.1'), { instanceOf: AddressError });
  t.is(parseIpv4('127.0.0.1'), toIpv4(0x7f000001));
  t.is(parseIpv6('::1'), toIpv6(1n));
});

for (const value of [-1, 2 ** 32, 1.5, Number.NaN, Infinity]) {
  test(`${value} is no IPv4 address`, (t) => {
    t.throws(() => toIpv4(value), { instanceOf: RangeError });
  });
}

for (const value of [-1n, 1n << 128n]) {
  test(`${value} is no IPv6 address`, (t) => {
    t.throws(() => toIpv6(value), { instanceOf: RangeError });
  });
}

test('words of an IPv6 address, most significant first', (t) => {
  t.deepEqual(
    [...ipv6Words(parseIpv6('fd00:1:2:3:4:5:6:7'))],
    [0xfd000001, 0x00020003, 0x00040005, 0x00060007],
  );
});

test('every IPv4 address is read as it is written', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0xffffffff }), (value) => {
      t.is(parseAddress(formatAddress(toIpv4(value))) as number, value);
    }),
  );
});

test('every IPv6 address is written as the URL standard writes it, and read back', (t) => {
  const word = fc.oneof(fc.constant(0n), fc.bigInt({ min: 0n, max: 0xffffn }));
  fc.assert(
    fc.property(fc.array(word, { minLength: 8, maxLength: 8 }), (words) => {
      const value = words.reduce((sum, part) => (sum << 16n) | part, 0n);
      const text = formatAddress(toIpv6(value));
      t.is(parseAddress(text) as bigint, value);
      // URL hosts are RFC 5952's text (https://url.spec.whatwg.org/#concept-ipv6-serializer).
      const long = words.map((part) => part.toString(16)).join(':');
      t.is(text, new URL(`http://[${long}]/`).hostname.slice(1, -1));
    }),
    { numRuns: 300 },
  );
});

test("IPv6 text is ip-num's", (t) => {
  // Zero groups in any pattern are what the short form depends on.
  const group = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff }));
  fc.assert(
    fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), (groups) => {
      const value = groups.reduce((sum, it) => (sum << 16n) | BigInt(it), 0n);
      const reference = collapseIPv6Number(IPv6.fromBigInt(value).toString());
      t.is(formatAddress(toIpv6(value)), reference);
    }),
    { numRuns: 2_000 },
  );
});

for (const text of ['10.244.1.2', '255.255.255.255', 'fd00:1::ffff:ffff', '::']) {
  test(`${text} as words and back`, (t) => {
    const address = parseAddress(text);
    const words = typeof address === 'number' ? [address] : ipv6Words(address);
    const memory = Int32Array.from([-1, ...words, -1]);
    t.is(addressOfWords(memory, 1, familyOf(address)), address);
    t.is(addressOfWords(memory, 1, 0), null);
    t.is(addressOrNull(text), address);
    t.is(addressOrNull(`${text}x`), null);
  });
}
