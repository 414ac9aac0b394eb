import test from 'ava';
import * as fc from 'fast-check';
import { parseIpv4, parseIpv6, toIpv4, toIpv6 } from '../wire/address.ts';
import { CONTAINER_ID, INTERFACE_NAME, NETWORK_NAME } from '../wire/cni.ts';
import { localMac, parseMac } from '../wire/mac.ts';
import { type HostAttachment, formatAlias, parseAlias } from './attachment-alias.ts';

const ID = '3f1c5a'.padEnd(64, '0');
const attachment: HostAttachment = {
  containerId: ID,
  ifname: 'eth0',
  network: 'weft',
  address4: parseIpv4('10.244.1.2'),
  address6: parseIpv6('fd00::2'),
  mac: parseMac('02:00:00:00:00:05'),
  pod: { namespace: 'default', name: 'web-0' },
};
const TEXT = `weft1 ${ID} eth0 weft 10.244.1.2 fd00::2 02:00:00:00:00:05 default/web-0`;

const written: readonly (readonly [string, Partial<HostAttachment>, string])[] = [
  ['everything', {}, TEXT],
  ['IPv4 alone', { address6: null }, TEXT.replace('fd00::2', '-')],
  ['IPv6 alone', { address4: null }, TEXT.replace('10.244.1.2', '-')],
  ['no pod', { pod: null }, TEXT.replace('default/web-0', '-')],
  ['no network known', { network: '' }, TEXT.replace(' weft ', ' - ')],
  [
    'a pod that is none',
    { pod: { namespace: 'default', name: 'web 0\n' } },
    TEXT.replace('default/web-0', '-'),
  ],
];
for (const [title, fields, text] of written) {
  test(`alias: ${title}`, (t) => t.is(formatAlias({ ...attachment, ...fields }), text));
}

const fitted: readonly (readonly [string, Partial<HostAttachment>, kept: readonly string[]])[] = [
  ['a long pod', { pod: { namespace: 'n'.repeat(63), name: 'p'.repeat(253) } }, ['network']],
  [
    'the longest pod that fits',
    { pod: { namespace: 'n', name: 'p'.repeat(135) } },
    ['network', 'pod'],
  ],
  ['a byte more', { pod: { namespace: 'n', name: 'p'.repeat(136) } }, ['network']],
  ['a long network as well', { containerId: 'c'.repeat(128), network: 'n'.repeat(128) }, []],
];
for (const [title, fields, kept] of fitted) {
  test(`what does not fit is left out whole: ${title}`, (t) => {
    const whole = { ...attachment, ...fields };
    const text = formatAlias(whole);
    t.true(text.length <= 255);
    t.deepEqual(parseAlias(text), {
      ...whole,
      network: kept.includes('network') ? whole.network : '',
      pod: kept.includes('pod') ? whole.pod : null,
    });
  });
}

test('255 bytes are not one too many', (t) => {
  t.is(formatAlias({ ...attachment, pod: { namespace: 'n', name: 'p'.repeat(135) } }).length, 255);
});

const refused: readonly (readonly [string, string])[] = [
  ['empty', ''],
  ['somebody else’s', 'uplink to rack 7'],
  ['another version', TEXT.replace('weft1', 'weft2')],
  ['a field short', TEXT.replace(' default/web-0', '')],
  ['a field more', `${TEXT} x`],
  ['two spaces', TEXT.replace(' eth0', '  eth0')],
  ['a space behind', `${TEXT} `],
  ['a line end', `${TEXT}\n`],
  ['no address', TEXT.replace('10.244.1.2 fd00::2', '- -')],
  ['families exchanged', TEXT.replace('10.244.1.2 fd00::2', 'fd00::2 10.244.1.2')],
  ['a longer form', TEXT.replace('fd00::2', 'fd00:0::2')],
  ['a zone', TEXT.replace('fd00::2', 'fe80::2%eth0')],
  ['upper case', TEXT.replace('fd00::2', 'FD00::2')],
  ['a group address', TEXT.replace('02:00:00', '03:00:00')],
  ['no Ethernet address', TEXT.replace('02:00:00:00:00:05', '-')],
  ['a path for a container', TEXT.replace(ID, '../../etc')],
  ['a path for an interface', TEXT.replace('eth0', 'a/b')],
  ['a pod without a namespace', TEXT.replace('default/', '')],
  ['a path for a pod', TEXT.replace('web-0', '../x')],
  ['__proto__ for a container', TEXT.replace(ID, '__proto__')],
  ['longer than an alias can be', TEXT.replace('web-0', 'w'.repeat(200))],
];
for (const [title, text] of refused) {
  test(`no alias of ours: ${title}`, (t) => t.is(parseAlias(text), null));
}

const named = (pattern: RegExp) => fc.stringMatching(pattern, { size: 'max' });
const anything: fc.Arbitrary<HostAttachment> = fc
  .record({
    containerId: named(CONTAINER_ID),
    ifname: named(INTERFACE_NAME),
    network: named(NETWORK_NAME),
    address4: fc.option(fc.integer({ min: 0, max: 0xffffffff }).map(toIpv4)),
    address6: fc.option(fc.bigInt({ min: 0n, max: 2n ** 128n - 1n }).map(toIpv6)),
    mac: fc.uint8Array({ minLength: 6, maxLength: 6 }).map(localMac),
    pod: fc.option(
      fc.record({
        namespace: named(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/),
        name: named(/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/),
      }),
    ),
  })
  .filter(({ address4, address6 }) => address4 !== null || address6 !== null);

test('what is written is read back, less what was left out', (t) => {
  fc.assert(
    fc.property(anything, (whole) => {
      const text = formatAlias(whole);
      const back = parseAlias(text);
      if (text.length > 255 || back === null) return false;
      const { network, pod, ...rest } = back;
      const { network: wholeNetwork, pod: wholePod, ...wholeRest } = whole;
      t.deepEqual(rest, wholeRest);
      if (network === '') return pod === null;
      if (network !== wholeNetwork) return false;
      return pod === null || (pod.name === wholePod?.name && pod.namespace === wholePod.namespace);
    }),
  );
});

test('whatever the text, it is read or refused, and never thrown at', (t) => {
  const word = fc.oneof(fc.string(), fc.constantFrom(...TEXT.split(' '), '-', '__proto__'));
  fc.assert(
    fc.property(fc.array(word, { maxLength: 9 }), (words) => {
      const text = words.join(' ');
      const parsed = parseAlias(text);
      return parsed === null || formatAlias(parsed) === text;
    }),
  );
  t.pass();
});
