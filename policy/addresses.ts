/** Which addresses rules tell apart: of pods and nodes in hash tables, all others in ranges. */
import { type Cidr, lastOf } from '../wire/cidr.ts';
import { Partition } from './partition.ts';
import type { Claim, Matches, Peers } from './peers.ts';
import { ADDRESS4_WORDS, ADDRESS6_WORDS } from './table.ts';

/** How many of the sorted come before the value. */
function countBefore<T extends number | bigint>(sorted: ArrayLike<T>, value: T): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

const END4 = 2 ** 32;
const END6 = 1n << 128n;

/** Addresses of both families in ranges that no block tells apart: IPv4's first, then IPv6's. */
export class Ranges {
  /** Where they start. */
  readonly words4: Uint32Array;
  /** The same, four words each. */
  readonly words6: Uint32Array;
  readonly partition: Partition;
  readonly #starts6: readonly bigint[];

  constructor(atoms: ReadonlyMap<string, Matches>) {
    const starts4 = [0];
    const starts6 = new Set([0n]);
    for (const { atom } of atoms.values()) {
      if (atom.kind !== 'block') continue;
      for (const block of [atom.cidr, ...atom.except]) {
        if (block.family === 4) starts4.push(block.base, lastOf(block) + 1);
        else starts6.add(block.base).add(lastOf(block) + 1n);
      }
    }
    starts6.delete(END6);
    this.words4 = Uint32Array.from(
      Float64Array.from(starts4)
        .sort()
        .filter((it, i, all) => it !== all[i - 1] && it !== END4),
    );
    this.#starts6 = [...starts6].sort((a, b) => (a < b ? -1 : 1));
    this.words6 = Uint32Array.from(
      this.#starts6.flatMap((it) => [96n, 64n, 32n, 0n].map((by) => it >> by)),
      (it) => Number(it & 0xffffffffn),
    );
    this.partition = new Partition(this.words4.length + this.#starts6.length);
    for (const { atom, index } of atoms.values()) {
      if (atom.kind !== 'block') continue;
      this.partition.begin(index);
      let at = this.#firstOf(atom.cidr);
      const end = this.#endOf(atom.cidr);
      if (atom.except.length > 0) {
        const except = atom.except.map((it) => [this.#firstOf(it), this.#endOf(it)] as const);
        // Exceptions lie within the block, and may lie within each other.
        for (const [from, to] of except.sort(([a], [b]) => a - b)) {
          for (; at < from; at++) this.partition.add(at);
          if (to > at) at = to;
        }
      }
      for (; at < end; at++) this.partition.add(at);
    }
  }

  #firstOf(block: Cidr): number {
    if (block.family === 4) return countBefore(this.words4, block.base);
    return this.words4.length + countBefore(this.#starts6, block.base);
  }

  /** The first that comes after the block. */
  #endOf(block: Cidr): number {
    if (block.family === 4) return countBefore(this.words4, lastOf(block) + 1);
    return this.words4.length + countBefore(this.#starts6, lastOf(block) + 1n);
  }

  /** The range that holds the address. */
  indexOf(words: Uint32Array): number {
    const is4 = words.length === 1;
    const table = is4 ? this.words4 : this.words6;
    const stride = words.length;
    let low = 1;
    let high = table.length / stride;
    while (low < high) {
      const middle = (low + high) >>> 1;
      let i = 0;
      while (i < stride - 1 && table[middle * stride + i] === words[i]) i++;
      if (table[middle * stride + i]! <= words[i]!) low = middle + 1;
      else high = middle;
    }
    return low - 1 + (is4 ? 0 : this.words4.length);
  }
}

const capacityFor = (count: number): number => {
  let capacity = 1;
  while (capacity < 2 * count + 1) capacity *= 2;
  return capacity;
};

/**
 * Arrays that the next compilation uses again, unless they went into a table: thousands of pages that are taken
 * anew for every change make the engine look through all it has.
 */
export class Scratch {
  readonly #arrays = new Map<string, Uint32Array>();

  zeros(name: string, length: number): Uint32Array {
    const known = this.#arrays.get(name);
    if (known?.length === length) return known.fill(0);
    const made = new Uint32Array(length);
    this.#arrays.set(name, made);
    return made;
  }

  /** They are no longer ours to change. */
  release(arrays: readonly unknown[]): void {
    for (const [name, it] of this.#arrays) if (arrays.includes(it)) this.#arrays.delete(name);
  }
}

/** Every address's class: of its owner's group and of its range. */
export class Addresses {
  readonly addresses4: Uint32Array;
  readonly addresses6: Uint32Array;
  readonly ranges4: Uint32Array;
  readonly ranges6: Uint32Array;
  /** Of each class: those of its group and of its range. */
  readonly groupClasses: number[] = [];
  readonly rangeClasses: number[] = [];
  readonly groups: Partition;
  readonly ranges: Ranges;
  readonly #numbers = new Map<number, number>();

  constructor({ claims, groups }: Peers, ranges: Ranges, partition: Partition, scratch: Scratch) {
    this.groups = partition;
    this.ranges = ranges;
    const outside = partition.classOf[groups[0]!.index]!;
    const { classOf } = ranges.partition;
    const { words4, words6 } = ranges;
    this.ranges4 = new Uint32Array(2 * words4.length);
    for (let i = 0; i < words4.length; i++) {
      this.ranges4[2 * i] = words4[i]!;
      this.ranges4[2 * i + 1] = this.#classOf(outside, classOf[i]!);
    }
    const count = words6.length / 4;
    this.ranges6 = new Uint32Array(5 * count);
    for (let i = 0; i < count; i++) {
      this.ranges6.set(words6.subarray(4 * i, 4 * i + 4), 5 * i);
      this.ranges6[5 * i + 4] = this.#classOf(outside, classOf[words4.length + i]!);
    }
    let count4 = 0;
    for (const { words } of claims) if (words.length === 1) count4++;
    this.addresses4 = scratch.zeros('addresses4', capacityFor(count4) * ADDRESS4_WORDS);
    const count6 = claims.length - count4;
    this.addresses6 = scratch.zeros('addresses6', capacityFor(count6) * ADDRESS6_WORDS);
    const owners4 = scratch.zeros('owners4', this.addresses4.length / ADDRESS4_WORDS);
    const owners6 = scratch.zeros('owners6', this.addresses6.length / ADDRESS6_WORDS);
    for (let i = 0; i < claims.length; i++) {
      const claim = claims[i]!;
      const { words, group } = claim;
      const is4 = words.length === 1;
      const slot = this.#slotOf(claim);
      const owners = is4 ? owners4 : owners6;
      const owner = owners[slot]!;
      if (owner !== 0 && !isBefore(claim, claims[owner - 1]!)) continue;
      owners[slot] = i + 1;
      const range = classOf[ranges.indexOf(words)]!;
      const table = is4 ? this.addresses4 : this.addresses6;
      const at = slot * (is4 ? ADDRESS4_WORDS : ADDRESS6_WORDS);
      for (let w = 0; w < words.length; w++) table[at + w] = words[w]!;
      const after = at + words.length;
      table[after] = this.#classOf(partition.classOf[group!.index]!, range) + 1;
      table[after + 1] = claim.node;
      table[after + 2] = claim.subject + 1;
    }
  }

  get classes(): number {
    return this.groupClasses.length;
  }

  #classOf(group: number, range: number): number {
    const key = group * this.ranges.partition.classes + range;
    const known = this.#numbers.get(key);
    if (known !== undefined) return known;
    this.#numbers.set(key, this.groupClasses.length);
    this.rangeClasses.push(range);
    return this.groupClasses.push(group) - 1;
  }

  /** The address's own, or the free one that it would get. */
  #slotOf({ words, hash }: Claim): number {
    const [a = 0, b = 0, c = 0, d = 0] = words;
    if (words.length === 1) {
      const table = this.addresses4;
      const mask = table.length / ADDRESS4_WORDS - 1;
      for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
        const at = slot * ADDRESS4_WORDS;
        if (table[at + 1] === 0 || table[at] === a) return slot;
      }
    }
    const table = this.addresses6;
    const mask = table.length / ADDRESS6_WORDS - 1;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const at = slot * ADDRESS6_WORDS;
      if (table[at + 4] === 0) return slot;
      if (table[at] === a && table[at + 1] === b && table[at + 2] === c && table[at + 3] === d) {
        return slot;
      }
    }
  }

  /** The class of an address that the subject has itself; -1 if it is somebody else's. */
  ownClass(claim: Claim, subject: number): number {
    const slot = this.#slotOf(claim);
    const [table, at] =
      claim.words.length === 1
        ? [this.addresses4, slot * ADDRESS4_WORDS + 1]
        : [this.addresses6, slot * ADDRESS6_WORDS + 4];
    return table[at + 2] === subject + 1 ? table[at]! - 1 : -1;
  }
}

const isBefore = (a: Claim, b: Claim): boolean =>
  a.rank < b.rank || (a.rank === b.rank && a.name < b.name);
