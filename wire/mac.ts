/** Ethernet addresses as the control plane holds them: a 48-bit integer. */
import type { Branded } from './brand.ts';
import { AddressError } from './address.ts';

export type Mac = Branded<number, 'Mac'>;

/** @throws RangeError unless `value` is an integer in 0 .. 2^48 - 1 */
export function toMac(value: number): Mac {
  if (!Number.isInteger(value) || value < 0 || value >= 2 ** 48) {
    throw new RangeError(`not a 48-bit Ethernet address: ${value}`);
  }
  return value as Mac;
}

/** Six colon-separated bytes, as flannel writes VtepMAC. @throws AddressError */
export function parseMac(text: string): Mac {
  if (!/^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/.test(text)) {
    throw new AddressError(`"${text}" is not an Ethernet address`);
  }
  return toMac(Number.parseInt(text.replaceAll(':', ''), 16));
}

export const formatMac = (mac: Mac): string =>
  mac
    .toString(16)
    .padStart(12, '0')
    .replaceAll(/..(?=.)/g, '$&:');

/** A unicast address: the group bit (lowest of the first byte) is clear, and it is not all zeros. */
export const isUnicastMac = (mac: Mac): boolean => mac !== 0 && Math.floor(mac / 2 ** 40) % 2 === 0;

/** The same six random bytes, made a locally administered unicast address (IEEE 802: bits 1 and 0). */
export function localMac(random: Uint8Array): Mac {
  let value = (random[0]! & 0xfc) | 0x02;
  for (let i = 1; i < 6; i++) value = value * 256 + random[i]!;
  return toMac(value);
}

/** As on the wire: six bytes. */
export function macBytes(mac: Mac): Uint8Array {
  const view = new DataView(new ArrayBuffer(6));
  view.setUint16(0, Math.floor(mac / 2 ** 32));
  view.setUint32(2, mac % 2 ** 32);
  return new Uint8Array(view.buffer);
}
