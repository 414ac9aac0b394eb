/** Seeded mutation of packets, for fuzzing: small, fast, and the same again for the same seed. */

export type Random = (below: number) => number;

/** Marsaglia's xorshift32: enough for choosing what to break. @returns integers 0 .. below - 1 */
export function createRandom(seed: number): Random {
  let state = seed | 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

const INTERESTING = [0, 1, 4, 6, 7, 8, 0x0f, 0x10, 0x40, 0x45, 0x4f, 0x60, 0x7f, 0x80, 0xfe, 0xff];

/**
 * Changes up to eight things of the `bytes` long packet at the start of `room`: a bit, a byte, a 16-bit
 * word near what stands there, two bytes exchanged, a piece of another packet, the length.
 * @returns its new length, at most that of `room`
 */
export function mutate(room: Uint8Array, bytes: number, random: Random, other: Uint8Array): number {
  let length = bytes;
  for (let changes = random(8); changes >= 0; changes--) {
    // Headers are where decisions are made.
    const at = random(4) === 0 ? random(length + 1) : random(Math.min(length + 1, 90));
    switch (random(10)) {
      case 0:
        length = random(length + 1);
        break;
      case 1:
        length = Math.min(room.length, length + random(40));
        break;
      case 2:
      case 3:
        if (at < length) room[at]! ^= 1 << random(8);
        break;
      case 4:
        if (at < length) room[at] = random(256);
        break;
      case 5:
        if (at < length) room[at] = INTERESTING[random(INTERESTING.length)]!;
        break;
      case 6:
        if (at + 1 < length) {
          const word = room[at]! * 256 + room[at + 1]! + random(5) - 2;
          room[at] = word >> 8;
          room[at + 1] = word;
        }
        break;
      case 7: {
        const to = random(Math.max(length, 1));
        if (at < length) [room[at], room[to]] = [room[to]!, room[at]!];
        break;
      }
      case 8: {
        const count = Math.min(random(40), length - at, other.length - at);
        for (let i = 0; i < count; i++) room[at + i] = other[at + i]!;
        break;
      }
      default:
        // As it is.
        break;
    }
  }
  return length;
}
