/** Which addresses rules tell apart: of pods and nodes in hash tables, all others in ranges. */
import { type Cidr, lastOf } from '../wire/cidr.ts';
import { Partition } from './partition.ts';
import type { Claim, Matches, Peers } from './peers.ts';
import { ADDRESS4_WORDS, ADDRESS6_WORDS } from './table.ts';

/** Addresses of both families in ranges that no block tells apart: IPv4's first, then IPv6's. */
export class Ranges {
  readonly starts4: readonly bigint[];
  readonly starts6: readonly bigint[];
  readonly words4: Uint32Array;
  readonly words6: Uint32Array;
  readonly partition: Partition;

  constructor(atoms: ReadonlyMap<string, Matches>) {
    const starts = { 4: new Set([0n]), 6: new Set([0n]) };
    const endOf = (block: Cidr): bigint =>
      BigInt(block.family === 4 ? lastOf(block) : lastOf(block)) + 1n;
    for (const { atom } of atoms.values()) {
      if (atom.kind !== 'block') continue;
      for (const block of [atom.cidr, ...atom.except]) {
        starts[block.family].add(BigInt(block.base)).add(endOf(block));
      }
    }
    starts[4].delete(1n << 32n);
    starts[6].delete(1n << 128n);
    const sorted = (some: Set<bigint>): bigint[] => [...some].sort((a, b) => (a < b ? -1 : 1));
    this.starts4 = sorted(starts[4]);
    this.starts6 = sorted(starts[6]);
    this.words4 = Uint32Array.from(this.starts4, Number);
    this.words6 = Uint32Array.from(
      this.starts6.flatMap((it) => [96n, 64n, 32n, 0n].map((by) => it >> by)),
      (it) => Number(it & 0xffffffffn),
    );
    const count = this.starts4.length + this.starts6.length;
    this.partition = new Partition(count);
    const indexes = {
      4: new Map(this.starts4.map((it, i) => [it, i])),
      6: new Map(this.starts6.map((it, i) => [it, this.starts4.length + i])),
    };
    const ends = { 4: this.starts4.length, 6: count };
    const span = (block: Cidr): readonly [number, number] => [
      indexes[block.family].get(BigInt(block.base))!,
      indexes[block.family].get(endOf(block)) ?? ends[block.family],
    ];
    for (const { atom, index } of atoms.values()) {
      if (atom.kind !== 'block') continue;
      this.partition.begin(index);
      const except = atom.except.map((it) => span(it)).sort(([a], [b]) => a - b);
      let [at, end] = span(atom.cidr);
      // Exceptions lie within the block, and may lie within each other.
      for (const [from, to] of [...except, [end, end] as const]) {
        for (; at < from; at++) this.partition.add(at);
        if (to > at) at = to;
      }
    }
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
    return low - 1 + (is4 ? 0 : this.starts4.length);
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
    const { starts4, starts6, words4, words6 } = ranges;
    const ranges4 = starts4.flatMap((_, i) => [words4[i]!, this.#classOf(outside, classOf[i]!)]);
    const ranges6 = starts6.flatMap((_, i) => [
      ...words6.subarray(4 * i, 4 * i + 4),
      this.#classOf(outside, classOf[starts4.length + i]!),
    ]);
    this.ranges4 = Uint32Array.from(ranges4);
    this.ranges6 = Uint32Array.from(ranges6);
    const count4 = claims.filter(({ words }) => words.length === 1).length;
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
