/**
 * One block of memory that JavaScript, the SIMD checksum and the kernel all see in place: a shared
 * WebAssembly memory that never grows, so that neither its address nor its views ever change.
 */
import { addressOf } from './libc.ts';

const PAGE_BYTES = 65536;

export interface Arena {
  readonly memory: WebAssembly.Memory;
  readonly view: DataView;
  readonly bytes: Uint8Array;
  /** The same bytes as native words, for structures of the kernel's. */
  readonly words: Uint32Array;
  /** Address of byte 0; constant. */
  readonly address: number;
  /** Takes `bytes` of room, aligned to 64; for set-up only. @returns its offset @throws RangeError when full */
  readonly take: (bytes: number, name: string) => number;
  /** Writes the 64-bit address of byte `offset` at `at` (a multiple of 4). Allocates nothing. */
  readonly setPointer: (at: number, offset: number) => void;
}

export function createArena(bytes: number): Arena {
  const pages = Math.ceil(bytes / PAGE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const address = addressOf(memory.buffer);
  const words = new Uint32Array(memory.buffer);
  const low = address % 2 ** 32;
  const high = Math.floor(address / 2 ** 32);
  // The first line stays unused, so that offset 0 never means a packet.
  let used = 64;

  return {
    memory,
    view: new DataView(memory.buffer),
    bytes: new Uint8Array(memory.buffer),
    words,
    address,
    take: (size, name) => {
      const at = used;
      used = (used + size + 63) & ~63;
      if (used > pages * PAGE_BYTES)
        throw new RangeError(`arena is full at "${name}" (${used} bytes)`);
      return at;
    },
    setPointer: (at, offset) => {
      const sum = low + offset;
      const carry = sum > 0xffffffff ? 1 : 0;
      words[at >>> 2] = sum;
      words[(at >>> 2) + 1] = high + carry;
    },
  };
}
