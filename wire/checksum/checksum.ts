/**
 * The Internet checksum (RFC 1071): the 16-bit ones' complement sum that IP, TCP, UDP and ICMP carry
 * inverted. A sum is kept as a number 0..0xffff in network order's value, so that header words read
 * with DataView's big-endian getters are added to it as they are, and partial sums may be added up
 * (to below 2^32) before they are handed on as `initial`.
 */
import { CHECKSUM_WASM_BASE64 } from './wasm.ts';

/**
 * @param at       byte offset in the memory; any alignment
 * @param length   in bytes, below 512 KiB; an odd last byte is padded with zero
 * @param initial  what to start from: 0, or any uint32
 * @returns        the folded sum, not inverted; a checksum field holds `~sum & 0xffff`, and a packet
 *                 summed with its checksum in place gives 0xffff
 */
export type Checksum = (at: number, length: number, initial: number) => number;

/**
 * The SIMD kernel over `memory`, which must be shared. It sees the same bytes as every view of it.
 * @throws WebAssembly.LinkError if the memory is not shared
 */
export function createChecksum(memory: WebAssembly.Memory): Checksum {
  const module = new WebAssembly.Module(Buffer.from(CHECKSUM_WASM_BASE64, 'base64'));
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  return exports['sum'] as Checksum;
}

/** The slow twin: the definition, byte by byte. Tests hold the kernel to it. */
export function checksumReference(bytes: Uint8Array, initial = 0): number {
  let sum = initial;
  for (let i = 0; i < bytes.length; i++) sum += i % 2 === 0 ? bytes[i]! * 256 : bytes[i]!;
  while (sum > 0xffff) sum = (sum % 0x10000) + Math.floor(sum / 0x10000);
  return sum;
}
