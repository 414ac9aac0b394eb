import test from 'ava';
import { formatAddress, parseAddress } from '../wire/address.ts';
import { parseCidr } from '../wire/cidr.ts';
import { nodeAddressesOf } from './node-addresses.ts';

const state = (
  address: string,
  scope: 'global' | 'link' | 'host' = 'global',
  tentative = false,
) => ({
  address: parseAddress(address),
  scope,
  tentative,
});

test('global addresses of all interfaces, once each, in order', (t) => {
  const states = [
    state('127.0.0.1', 'host'),
    state('::1', 'host'),
    state('192.0.2.1'),
    state('2001:db8::2'),
    state('10.0.0.7'),
    state('192.0.2.1'),
    state('fe80::1', 'link'),
    state('169.254.9.9', 'link'),
    state('2001:db8::1'),
    state('2001:db8::9', 'global', true),
    state('10.96.0.10'),
    state('10.244.1.0'),
  ];
  t.deepEqual(
    nodeAddressesOf(states, [parseCidr('10.96.0.0/12')]).map((it) => formatAddress(it)),
    ['10.0.0.7', '10.244.1.0', '192.0.2.1', '2001:db8::1', '2001:db8::2'],
  );
});
