import test from 'ava';
import { VXLAN_HEADER_BYTES, hasVni, readVni, toVni, writeVxlan } from './vxlan.ts';

const AT = 5;

const rows: readonly [name: string, vni: number, hex: string][] = [
  ['VNI 0', 0, '0800000000000000'],
  ["flannel's VNI 1", 1, '0800000000000100'],
  ['all three bytes', 0x123456, '0800000012345600'],
  ['the largest VNI', 0xffffff, '08000000ffffff00'],
];

for (const [name, vni, hex] of rows) {
  test(`header of ${name}`, (t) => {
    const bytes = Buffer.alloc(32, 0xa5);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    writeVxlan(view, AT, vni);
    t.is(bytes.toString('hex', AT, AT + VXLAN_HEADER_BYTES), hex);
    t.is(readVni(view, AT), vni);
    t.true(hasVni(view, AT));
    bytes.fill(0xa5, AT, AT + VXLAN_HEADER_BYTES);
    t.deepEqual(bytes, Buffer.alloc(32, 0xa5), 'nothing else is written');
  });
}

const received: readonly [name: string, hex: string, hasVni: boolean, vni: number][] = [
  ['I flag clear', '0000000000000700', false, 7],
  ['all flags but I', 'f700000000000700', false, 7],
  ['all flags', 'ff00000000000700', true, 7],
  ['reserved bits set', '08ffffff000007ff', true, 7],
];

for (const [name, hex, expected, vni] of received) {
  test(`received: ${name}`, (t) => {
    const bytes = Buffer.from(`a5${hex}`, 'hex');
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    t.is(hasVni(view, 1), expected);
    t.is(readVni(view, 1), vni);
  });
}

for (const value of [-1, 0x1000000, 1.5, Number.NaN]) {
  test(`${value} is no VNI`, (t) => {
    t.throws(() => toVni(value), { instanceOf: RangeError });
  });
}
