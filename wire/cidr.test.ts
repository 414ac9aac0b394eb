import test from 'ava';
import fc from 'fast-check';
import { AddressError, formatAddress, parseAddress, parseIpv4, toIpv4, toIpv6 } from './address.ts';
import {
  cidrContains,
  cidrOf,
  cidrsEqual,
  cidrsOverlap,
  formatCidr,
  lastOf,
  parseCidr,
} from './cidr.ts';

const blocks: readonly [text: string, last: string][] = [
  ['0.0.0.0/0', '255.255.255.255'],
  ['128.0.0.0/1', '255.255.255.255'],
  ['10.244.0.0/16', '10.244.255.255'],
  ['10.244.1.0/24', '10.244.1.255'],
  ['10.244.1.254/31', '10.244.1.255'],
  ['255.255.255.255/32', '255.255.255.255'],
  ['::/0', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['fd00:10:244::/56', 'fd00:10:244:ff:ffff:ffff:ffff:ffff'],
  ['fd00:10:244:1::/64', 'fd00:10:244:1:ffff:ffff:ffff:ffff'],
  ['::1/128', '::1'],
];

for (const [text, last] of blocks) {
  test(`${text} ends with ${last}`, (t) => {
    const block = parseCidr(text);
    t.is(formatCidr(block), text);
    t.is(formatAddress(lastOf(block)), last);
    t.true(cidrContains(block, block.base));
    t.true(cidrContains(block, lastOf(block)));
    t.true(cidrsEqual(block, cidrOf(block.base, block.length)));
  });
}

const refused: readonly [text: string, why: RegExp][] = [
  ['10.244.0.0', /not a CIDR/],
  ['10.244.0.0/', /not a CIDR/],
  ['/24', /not a CIDR/],
  ['10.244.0.0/024', /not a CIDR/],
  ['10.244.0.0/+4', /not a CIDR/],
  ['10.244.0.0/-1', /not a CIDR/],
  ['10.244.0.0/24 ', /not a CIDR/],
  ['10.244.0.0/24\n', /not a CIDR/],
  ['10.244.0.0/24/24', /not a CIDR/],
  ['10.244.0.0/33', /impossible prefix length/],
  ['10.244.0.0/999', /impossible prefix length/],
  ['::/129', /impossible prefix length/],
  ['10.244.0/24', /not an IP address/],
  ['fe80::%eth0/64', /not a CIDR/],
  ['10.244.1.1/24', /host bits set; the block is 10\.244\.1\.0\/24/],
  ['fd00::1/64', /host bits set; the block is fd00::\/64/],
];

for (const [text, why] of refused) {
  test(`${JSON.stringify(text)} is no block`, (t) => {
    t.throws(() => parseCidr(text), { instanceOf: AddressError, message: why });
  });
}

for (const length of [-1, 33, 1.5, Number.NaN]) {
  test(`no IPv4 block has a prefix of ${length}`, (t) => {
    t.throws(() => cidrOf(parseIpv4('10.0.0.0'), length), { instanceOf: RangeError });
  });
}

const pairs: readonly [a: string, b: string, overlap: boolean][] = [
  ['10.244.0.0/16', '10.244.1.0/24', true],
  ['10.244.1.0/24', '10.244.1.0/24', true],
  ['10.244.1.0/24', '10.244.2.0/24', false],
  ['10.244.1.0/25', '10.244.1.128/25', false],
  ['0.0.0.0/0', '255.255.255.255/32', true],
  ['fd00::/8', 'fd00:1::/64', true],
  ['fd00:1::/64', 'fd00:1:0:1::/64', false],
  ['0.0.0.0/0', '::/0', false],
];

for (const [a, b, overlap] of pairs) {
  test(`${a} and ${b} ${overlap ? '' : 'do not '}overlap`, (t) => {
    t.is(cidrsOverlap(parseCidr(a), parseCidr(b)), overlap);
    t.is(cidrsOverlap(parseCidr(b), parseCidr(a)), overlap);
  });
}

test('one before and one after a block are outside; so is the other family', (t) => {
  const block = parseCidr('10.244.1.0/24');
  t.false(cidrContains(block, parseAddress('10.244.0.255')));
  t.false(cidrContains(block, parseAddress('10.244.2.0')));
  t.false(cidrContains(block, parseAddress('::10.244.1.1')));
  t.false(cidrContains(parseCidr('::/0'), parseAddress('10.244.1.1')));
});

test('an address is in a block if their first bits are the same', (t) => {
  const bitsOf = (value: bigint, width: number): string => value.toString(2).padStart(width, '0');
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 0xffffffff }),
      fc.integer({ min: 0, max: 0xffffffff }),
      fc.nat(32),
      (a, b, length) => {
        // Near ones, too: chance alone would hardly ever find a common prefix.
        const near = length < 32 ? (a ^ (b >>> length)) >>> 0 : a;
        const same = (x: number): boolean =>
          bitsOf(BigInt(a), 32).slice(0, length) === bitsOf(BigInt(x), 32).slice(0, length);
        const block = cidrOf(toIpv4(a), length);
        t.is(cidrContains(block, toIpv4(b)), same(b));
        t.is(cidrContains(block, toIpv4(near)), same(near));
      },
    ),
    { numRuns: 300 },
  );
  const wide = fc.bigInt({ min: 0n, max: (1n << 128n) - 1n });
  fc.assert(
    fc.property(wide, wide, fc.nat(128), (a, b, length) => {
      const near = a ^ (b >> BigInt(length));
      const block = cidrOf(toIpv6(a), length);
      t.is(
        cidrContains(block, toIpv6(near)),
        bitsOf(a, 128).slice(0, length) === bitsOf(near, 128).slice(0, length),
      );
    }),
    { numRuns: 300 },
  );
});
