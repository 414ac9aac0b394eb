import test from 'ava';
import { AddressError, toIpv4, toIpv6 } from '../wire/address.ts';
import { formatAddressRange, mergeRanges, parseAddressRange } from './address-range.ts';

const read: readonly (readonly [text: string, range: string])[] = [
  ['10.244.1.2-10.244.1.9', '10.244.1.2-10.244.1.9'],
  ['10.244.1.2-10.244.1.2', '10.244.1.2'],
  ['10.244.1.2', '10.244.1.2'],
  ['10.244.1.16/28', '10.244.1.16-10.244.1.31'],
  ['0.0.0.0/0', '0.0.0.0-255.255.255.255'],
  ['fd00:5::/120', 'fd00:5::-fd00:5::ff'],
  ['fd00:5::1-fd00:5::A', 'fd00:5::1-fd00:5::a'],
  ['::1', '::1'],
];
for (const [text, range] of read) {
  test(`range ${text}`, (t) => {
    const { first, last } = parseAddressRange(text);
    t.is(formatAddressRange(first, last), range);
  });
}

for (const text of [
  '',
  '-',
  '10.0.0.9-10.0.0.2',
  '10.0.0.1-fd00::1',
  '10.0.0.1-10.0.0.2-10.0.0.3',
  '10.0.0.1 - 10.0.0.2',
  '10.0.0.1-',
  '-10.0.0.1',
  '10.0.0.1/24',
  '10.0.0.0/24-10.0.1.0/24',
  '10.0.0.1-5',
  'fe80::1%eth0',
]) {
  test(`no range: "${text}"`, (t) => {
    t.throws(() => parseAddressRange(text), { instanceOf: AddressError });
  });
}

const merged: readonly (readonly [string, readonly string[], string])[] = [
  ['none', [], ''],
  ['outside, below and above', ['10.0.0.0/24', '10.0.2.0/24'], ''],
  ['the other family', ['fd00::/64'], ''],
  ['clipped at both ends', ['10.0.0.0/16'], '10.0.1.0-10.0.1.255'],
  ['apart, put in order', ['10.0.1.9', '10.0.1.5-10.0.1.7'], '10.0.1.5-10.0.1.7 10.0.1.9'],
  ['touching', ['10.0.1.5', '10.0.1.6'], '10.0.1.5-10.0.1.6'],
  ['one within another', ['10.0.1.0/28', '10.0.1.3', '10.0.1.4'], '10.0.1.0-10.0.1.15'],
  ['overlapping', ['10.0.1.4-10.0.1.8', '10.0.1.2-10.0.1.5'], '10.0.1.2-10.0.1.8'],
];
for (const [title, ranges, expected] of merged) {
  test(`merged: ${title}`, (t) => {
    const within = { first: 0x0a000100n, last: 0x0a0001ffn };
    const spans = mergeRanges(4, ranges.map(parseAddressRange), within);
    const text = spans.map(({ first, last }) =>
      formatAddressRange(toIpv4(Number(first)), toIpv4(Number(last))),
    );
    t.is(text.join(' '), expected);
  });
}

test('a whole IPv6 subnet and more', (t) => {
  const within = { first: 2n, last: 2n ** 64n - 1n };
  t.deepEqual(mergeRanges(6, [parseAddressRange('::/0')], within), [within]);
  t.is(formatAddressRange(toIpv6(within.last), toIpv6(within.last)), '::ffff:ffff:ffff:ffff');
});
