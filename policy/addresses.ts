/** Which addresses rules tell apart: of pods and nodes in hash tables, all others in ranges. */
import { type Cidr, lastOf } from '../wire/cidr.ts';
import { Partition } from './partition.ts';
import type { Claim, Group, Matches, Peers } from './peers.ts';
import { ADDRESS4_WORDS, ADDRESS6_WORDS, RANGE4_WORDS, RANGE6_WORDS } from './table.ts';

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

  /** The range that holds the address, of one word or of four, that is in the array at `at`. */
  indexOf(array: Uint32Array, at: number, words: 1 | 4): number {
    const starts = words === 1 ? this.words4 : this.words6;
    let low = 1;
    let high = starts.length / words;
    while (low < high) {
      const middle = (low + high) >>> 1;
      let w = 0;
      while (w < words - 1 && starts[middle * words + w] === array[at + w]) w++;
      if (starts[middle * words + w]! <= array[at + w]!) low = middle + 1;
      else high = middle;
    }
    return low - 1 + (words === 1 ? 0 : this.words4.length);
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

  /** What is in it is anything. */
  take(name: string, length: number): Uint32Array {
    const known = this.#arrays.get(name);
    if (known?.length === length) return known;
    const made = new Uint32Array(length);
    this.#arrays.set(name, made);
    return made;
  }

  /** The same, of this length or longer: for one whose length changes each time. */
  takeAtLeast(name: string, length: number): Uint32Array {
    const known = this.#arrays.get(name);
    return known !== undefined && known.length >= length ? known : this.take(name, 2 * length);
  }

  /** They are no longer ours to change. */
  release(arrays: readonly unknown[]): void {
    for (const [name, it] of this.#arrays) if (arrays.includes(it)) this.#arrays.delete(name);
  }
}

/**
 * Whose each address of one family is, as the packet path finds it: the same as long as only policies change.
 * Until others are made with the same scratch.
 */
class Owners {
  /** As in table.ts; of each address the class is still to be written. */
  readonly table: Uint32Array;
  /** One for each that is in the table: where, and the owner's group. */
  readonly places: Uint32Array;
  readonly groups: Uint32Array;
  readonly #words: 1 | 4;
  readonly #stride: number;

  constructor(claims: readonly Claim[], words: 1 | 4, scratch: Scratch) {
    this.#words = words;
    this.#stride = words === 1 ? ADDRESS4_WORDS : ADDRESS6_WORDS;
    const capacity = capacityFor(claims.length);
    this.table = scratch.take(`table of owners${words}`, capacity * this.#stride).fill(0);
    /** Of each slot: the claim's number, from 1. */
    const owners = scratch.take(`owners${words}`, capacity).fill(0);
    let count = 0;
    for (const [i, claim] of claims.entries()) {
      const place = this.placeOf(claim);
      const slot = place / this.#stride;
      const owner = owners[slot]!;
      if (owner !== 0 && !isBefore(claim, claims[owner - 1]!)) continue;
      if (owner === 0) count++;
      owners[slot] = i + 1;
      const after = place + words;
      for (let w = 0; w < words; w++) this.table[place + w] = claim.words[w]!;
      this.table[after] = 1;
      this.table[after + 1] = claim.node;
      this.table[after + 2] = claim.subject + 1;
    }
    this.places = new Uint32Array(count);
    this.groups = new Uint32Array(count);
    let at = 0;
    for (let slot = 0; slot < capacity; slot++) {
      const owner = owners[slot]!;
      if (owner === 0) continue;
      this.places[at] = slot * this.#stride;
      this.groups[at++] = claims[owner - 1]!.group!.index;
    }
  }

  /** The address's own, or the free one that it would get. */
  placeOf({ words, hash }: Claim): number {
    const mask = this.table.length / this.#stride - 1;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const place = slot * this.#stride;
      if (this.table[place + this.#words] === 0) return place;
      let w = 0;
      while (w < words.length && this.table[place + w] === words[w]) w++;
      if (w === words.length) return place;
    }
  }
}

/** The owners of both families. */
export interface AllOwners {
  readonly owners4: Owners;
  readonly owners6: Owners;
}

export function ownersOf({ claims }: Peers, scratch: Scratch): AllOwners {
  const claims4 = claims.filter(({ words }) => words.length === 1);
  const claims6 = claims.filter(({ words }) => words.length > 1);
  return { owners4: new Owners(claims4, 1, scratch), owners6: new Owners(claims6, 4, scratch) };
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
  readonly #owners: AllOwners;
  readonly #numbers = new Map<number, number>();

  /** @param outside  the group of all addresses that are nobody's */
  constructor(
    owners: AllOwners,
    outside: Group,
    ranges: Ranges,
    partition: Partition,
    scratch: Scratch,
  ) {
    this.groups = partition;
    this.ranges = ranges;
    this.#owners = owners;
    // The owners' first: what a policy's block parts elsewhere leaves their numbers as they are, and the tables.
    const { owners4, owners6 } = owners;
    this.addresses4 = scratch.take('addresses4', owners4.table.length);
    this.addresses6 = scratch.take('addresses6', owners6.table.length);
    this.#write(this.addresses4, owners4, 1);
    this.#write(this.addresses6, owners6, 4);
    const rest = partition.classOf[outside.index]!;
    const { classOf } = ranges.partition;
    const { words4, words6 } = ranges;
    this.ranges4 = new Uint32Array(RANGE4_WORDS * words4.length);
    for (let i = 0; i < words4.length; i++) {
      this.ranges4[RANGE4_WORDS * i] = words4[i]!;
      this.ranges4[RANGE4_WORDS * i + 1] = this.#classOf(rest, classOf[i]!);
    }
    const count = words6.length / 4;
    this.ranges6 = new Uint32Array(RANGE6_WORDS * count);
    for (let i = 0; i < count; i++) {
      this.ranges6.set(words6.subarray(4 * i, 4 * i + 4), RANGE6_WORDS * i);
      this.ranges6[RANGE6_WORDS * i + 4] = this.#classOf(rest, classOf[words4.length + i]!);
    }
  }

  #write(table: Uint32Array, { table: before, places, groups }: Owners, words: 1 | 4): void {
    table.set(before);
    const { classOf } = this.ranges.partition;
    for (let i = 0; i < places.length; i++) {
      const place = places[i]!;
      const range = classOf[this.ranges.indexOf(table, place, words)]!;
      table[place + words] = this.#classOf(this.groups.classOf[groups[i]!]!, range) + 1;
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

  /** The class of an address that the subject has itself; -1 if it is somebody else's. */
  ownClass(claim: Claim, subject: number): number {
    const { owners4, owners6 } = this.#owners;
    const words = claim.words.length;
    const [table, owners] = words === 1 ? [this.addresses4, owners4] : [this.addresses6, owners6];
    const place = owners.placeOf(claim);
    return table[place + words + 2] === subject + 1 ? table[place + words]! - 1 : -1;
  }
}

const isBefore = (a: Claim, b: Claim): boolean =>
  a.rank < b.rank || (a.rank === b.rank && a.name < b.name);
