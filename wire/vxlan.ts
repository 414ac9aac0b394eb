/**
 * VXLAN (RFC 7348 section 5): eight bytes between the outer UDP header and the inner Ethernet frame.
 *
 *     0       8                              31
 *     +-------+------------------------------+
 *     |RRRRIRRR|          reserved           |
 *     +-------+----------------------+-------+
 *     |              VNI             | resvd |
 *     +------------------------------+-------+
 */
import type { Branded } from './brand.ts';

export type Vni = Branded<number, 'Vni'>;

export const VXLAN_HEADER_BYTES = 8;
/** Flannel's and Linux's old default; IANA's is 4789. */
export const VXLAN_DEFAULT_PORT = 8472;
/** The I flag: the VNI is valid. The other seven bits are reserved: zero when sent, ignored on receipt. */
export const VXLAN_FLAGS = 0x08000000;

/** @throws RangeError unless `value` is an integer in 0 .. 2^24 - 1 */
export function toVni(value: number): Vni {
  if (!Number.isInteger(value) || value < 0 || value > 0xffffff) {
    throw new RangeError(`not a 24-bit VNI: ${value}`);
  }
  return value as Vni;
}

export const hasVni = (view: DataView, at: number): boolean => (view.getUint8(at) & 0x08) !== 0;
export const readVni = (view: DataView, at: number): number => view.getUint32(at + 4) >>> 8;

export function writeVxlan(view: DataView, at: number, vni: number): void {
  view.setUint32(at, VXLAN_FLAGS);
  view.setUint32(at + 4, vni << 8);
}
