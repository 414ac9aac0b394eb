/** Sets of bits of one size, each kept once: thousands are made one after the other, of which few differ. */
export class BitSets {
  readonly #words: number;
  /** One behind the other, `#count` of them. */
  #all: Uint32Array;
  #count = 0;
  /** Of a hash, the set that came last, and of that the one before with the same. */
  readonly #newest = new Map<number, number>();
  readonly #older: number[] = [];

  /** @param words  of each set */
  constructor(words: number) {
    this.#words = words;
    this.#all = new Uint32Array(16 * words);
    // Offset 0.
    this.intern(new Uint32Array(words));
  }

  /** @returns the set's offset, in words; 0 is the empty one's. The array may be used again. */
  intern(set: Uint32Array): number {
    const words = this.#words;
    const hash = hashOf(set);
    const newest = this.#newest.get(hash) ?? -1;
    for (let it = newest; it !== -1; it = this.#older[it]!) {
      if (this.#isAt(it * words, set)) return it * words;
    }
    const offset = this.#count * words;
    if (offset === this.#all.length) {
      const more = new Uint32Array(2 * offset);
      more.set(this.#all);
      this.#all = more;
    }
    this.#all.set(set, offset);
    this.#newest.set(hash, this.#count++);
    this.#older.push(newest);
    return offset;
  }

  /** All of them, by their offsets. */
  all(): Uint32Array {
    return this.#all.slice(0, this.#count * this.#words);
  }

  #isAt(offset: number, set: Uint32Array): boolean {
    for (let w = 0; w < set.length; w++) if (this.#all[offset + w] !== set[w]) return false;
    return true;
  }
}

function hashOf(set: Uint32Array): number {
  let hash = 0;
  for (let w = 0; w < set.length; w++) {
    hash = Math.imul(hash ^ set[w]!, 0x9e3779b1);
    hash ^= hash >>> 15;
  }
  return hash;
}
