import test from 'ava';
import { checksumReference } from './checksum/checksum.ts';
import { Drop, dropNames } from './drop-reason.ts';
import {
  checkIpv4,
  finishIpv4Header,
  fragmentOffsetBytes,
  isFragment,
  sumIpv4Header,
} from './ipv4.ts';
import { checkIpv6, readTrafficClass } from './ipv6.ts';

/** The packet stands at an odd offset, between bytes that would mislead. */
const AT = 3;
function viewOf(hex: string): { view: DataView; end: number } {
  const bytes = Buffer.concat([
    Buffer.alloc(AT, 0x45),
    Buffer.from(hex, 'hex'),
    Buffer.alloc(64, 0x45),
  ]);
  return {
    view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
    end: AT + hex.length / 2,
  };
}

const ipv4 = (first: string, total: string): string =>
  `${first}00${total}000100004011b8610a0000010a000002`;

const rows4: readonly [name: string, hex: string, drop: Drop][] = [
  ['header alone', ipv4('45', '0014'), Drop.none],
  ['payload', `${ipv4('45', '0018')}01020304`, Drop.none],
  ['padding behind', `${ipv4('45', '0014')}0000`, Drop.none],
  ['options', `${ipv4('46', '0018')}01010100`, Drop.none],
  ['nothing', '', Drop.truncated],
  ['19 bytes', ipv4('45', '0014').slice(2), Drop.truncated],
  ['version 6', ipv4('65', '0014'), Drop.ipHeader],
  ['version 0', ipv4('05', '0014'), Drop.ipHeader],
  ['header length 16', ipv4('44', '0014'), Drop.ipHeader],
  ['header length 0', ipv4('40', '0014'), Drop.ipHeader],
  ['options behind the end', ipv4('46', '0018'), Drop.ipHeader],
  ['total length within the header', ipv4('45', '0013'), Drop.ipHeader],
  ['total length within the options', `${ipv4('46', '0014')}01010100`, Drop.ipHeader],
  ['total length one too many', ipv4('45', '0015'), Drop.ipHeader],
  ['total length 65535', ipv4('45', 'ffff'), Drop.ipHeader],
];

for (const [name, hex, drop] of rows4) {
  test(`IPv4: ${name}: ${dropNames[drop]}`, (t) => {
    const { view, end } = viewOf(hex);
    t.is(checkIpv4(view, AT, end), drop);
  });
}

const ipv6 = (first: string, payload: string, next: string): string =>
  `${first}000000${payload}${next}40${'fd'.repeat(16)}${'fe'.repeat(16)}`;

const rows6: readonly [name: string, hex: string, drop: Drop][] = [
  ['header alone', ipv6('60', '0000', '3b'), Drop.none],
  ['payload', `${ipv6('60', '0004', '11')}01020304`, Drop.none],
  ['padding behind', `${ipv6('60', '0000', '11')}0000`, Drop.none],
  ['nothing', '', Drop.truncated],
  ['39 bytes', ipv6('60', '0000', '11').slice(2), Drop.truncated],
  ['version 4', ipv6('40', '0000', '11'), Drop.ipHeader],
  ['payload one too many', ipv6('60', '0001', '11'), Drop.ipHeader],
  ['payload 65535', ipv6('60', 'ffff', '11'), Drop.ipHeader],
  ['jumbogram', `${ipv6('60', '0000', '00')}3b00c20400010000`, Drop.ipHeader],
];

for (const [name, hex, drop] of rows6) {
  test(`IPv6: ${name}: ${dropNames[drop]}`, (t) => {
    const { view, end } = viewOf(hex);
    t.is(checkIpv6(view, AT, end), drop);
  });
}

test('IPv4 header checksum: as in the well-known example, b861', (t) => {
  const { view } = viewOf('450000730000400040110000c0a80001c0a800c7');
  finishIpv4Header(view, AT);
  t.is(view.getUint16(AT + 10), 0xb861);
  t.is(sumIpv4Header(view, AT), 0xffff);
  view.setUint8(AT + 8, 63);
  t.not(sumIpv4Header(view, AT), 0xffff);
});

test('IPv4 header checksum: equals the reference, of the largest header of the largest words', (t) => {
  const { view } = viewOf(`4f${'ff'.repeat(59)}`);
  const header = new Uint8Array(view.buffer, view.byteOffset + AT, 60);
  t.is(sumIpv4Header(view, AT), checksumReference(header));
  finishIpv4Header(view, AT);
  t.is(checksumReference(header), 0xffff);
});

const fragments: readonly [name: string, word: string, fragment: boolean, offset: number][] = [
  ['whole', '0000', false, 0],
  ['whole, DF', '4000', false, 0],
  ['whole, reserved bit', '8000', false, 0],
  ['first', '2000', true, 0],
  ['middle', '2001', true, 8],
  ['last', '1fff', true, 65528],
];

for (const [name, word, fragment, offset] of fragments) {
  test(`IPv4 fragment: ${name}`, (t) => {
    const { view } = viewOf(`450000140001${word}`);
    t.is(isFragment(view, AT), fragment);
    t.is(fragmentOffsetBytes(view, AT), offset);
  });
}

test('IPv6 traffic class stands across two bytes', (t) => {
  const { view } = viewOf('6b9fffff');
  t.is(readTrafficClass(view, AT), 0xb9);
});
