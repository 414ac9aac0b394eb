import test from 'ava';
import { AddressError } from './address.ts';
import { formatMac, isUnicastMac, localMac, parseMac, toMac } from './mac.ts';

const parsed: readonly [text: string, value: number, unicast: boolean][] = [
  ['00:00:00:00:00:00', 0, false],
  ['00:00:00:00:00:01', 1, true],
  ['02:00:00:00:00:0a', 0x02000000000a, true],
  ['c6:d2:32:6f:8f:44', 0xc6d2326f8f44, true],
  ['01:00:5e:00:00:01', 0x01005e000001, false],
  ['33:33:00:00:00:01', 0x333300000001, false],
  ['ff:ff:ff:ff:ff:ff', 0xffffffffffff, false],
];

for (const [text, value, unicast] of parsed) {
  test(`${text} is ${value}, ${unicast ? '' : 'not '}unicast`, (t) => {
    t.is(parseMac(text), toMac(value));
    t.is(formatMac(toMac(value)), text);
    t.is(isUnicastMac(toMac(value)), unicast);
  });
}

test('capitals are read, and written small', (t) => {
  t.is(formatMac(parseMac('C6:D2:32:6F:8F:44')), 'c6:d2:32:6f:8f:44');
});

for (const text of [
  '',
  'c6:d2:32:6f:8f',
  'c6:d2:32:6f:8f:44:55',
  'c6-d2-32-6f-8f-44',
  'c6d2326f8f44',
  'c6:d2:32:6f:8f:4',
  'g6:d2:32:6f:8f:44',
  'c6:d2:32:6f:8f:44\n',
  ' c6:d2:32:6f:8f:44',
]) {
  test(`${JSON.stringify(text)} is no Ethernet address`, (t) => {
    t.throws(() => parseMac(text), { instanceOf: AddressError });
  });
}

for (const value of [-1, 2 ** 48, 1.5, Number.NaN]) {
  test(`${value} is no Ethernet address`, (t) => {
    t.throws(() => toMac(value), { instanceOf: RangeError });
  });
}

test('a local address keeps its random bits but the two that say local and unicast', (t) => {
  t.is(formatMac(localMac(Uint8Array.of(0xff, 1, 2, 3, 4, 5))), 'fe:01:02:03:04:05');
  t.is(formatMac(localMac(new Uint8Array(6))), '02:00:00:00:00:00');
});
