import test from 'ava';
import fc from 'fast-check';
import { parseAddress } from '../wire/address.ts';
import { familyOf, ipsComplaint, isMacText, withoutLength } from './addresses.ts';

for (const [text, family] of [
  ['10.244.1.2', 4],
  ['10.244.1.2/32', 4],
  ['0.0.0.0/0', 4],
  ['fd00::2', 6],
  ['fd00::2/128', 6],
  ['::ffff:10.0.0.1', 6],
  ['10.244.1.2/33', null],
  ['fd00::2/129', null],
  ['10.244.1', null],
  ['10.244.1.256', null],
  ['010.244.1.2', null],
  ['10.244.1.2.', null],
  ['1:2:3:4:5:6:7:8:9', null],
  ['fd00::2%eth0', null],
  ['::1]/[', null],
  ['', null],
] as const) {
  test(`"${text}" is ${family === null ? 'no address' : `of family ${family}`}`, (t) => {
    t.is(familyOf(text), family);
  });
}

test('takes what wire/ takes, and nothing else', (t) => {
  const isAddress = (text: string): boolean => {
    try {
      parseAddress(text);
      return true;
    } catch {
      return false;
    }
  };
  const texts = fc.oneof(
    fc.ipV4(),
    fc.ipV6(),
    fc.stringMatching(/^[0-9a-f:.]{2,20}$/),
    fc.stringMatching(/^[0-9]{1,3}(\.[0-9]{1,3}){3}$/),
  );
  fc.assert(fc.property(texts, (text) => t.is(familyOf(text) !== null, isAddress(text), text)));
});

test('addresses asked for together are of different families', (t) => {
  t.is(ipsComplaint([]), null);
  t.is(ipsComplaint(['10.1.1.1', 'fd00::1/64']), null);
  t.is(ipsComplaint(['fd00::1', 'fd00::2']), 'asks for two addresses of one family');
  t.is(ipsComplaint(['10.1.1.1', 'x']), '"x" is not an IP address');
  t.is(withoutLength('fd00::1/64'), 'fd00::1');
});

for (const [text, is] of [
  ['02:00:00:00:00:01', true],
  ['AA:bb:CC:dd:EE:ff', true],
  ['01:00:00:00:00:01', false],
  ['ff:ff:ff:ff:ff:ff', false],
  ['00:00:00:00:00:00', false],
  ['02-00-00-00-00-01', false],
  ['02:00:00:00:00', false],
] as const) {
  test(`${text} is ${is ? 'a' : 'no'} unicast Ethernet address`, (t) => {
    t.is(isMacText(text), is);
  });
}
