/**
 * Do two tables say the same of every packet, though other addresses stand in them? A pod that comes on
 * another node, and that no policy here tells from the rest of the world, is no reason to ask about every
 * flow again.
 */
import {
  ADDRESS4_WORDS,
  ADDRESS6_WORDS,
  type PolicyTable,
  RANGE4_WORDS,
  RANGE6_WORDS,
  hash4,
  hash6,
} from './table.ts';

export type PolicyTableContent = Omit<PolicyTable, 'generation'>;

/** What must be equal for classes, nodes and subjects of one to be those of the other. */
const NUMBERED = [
  'ranges4',
  'ranges6',
  'subjects',
  'matrix',
  'portSets',
  'portStarts',
] as const satisfies readonly (keyof PolicyTableContent)[];

/** By a loop: hundreds of thousands of entries are compared at each change. */
export function isEqual(a: Uint32Array, b: Uint32Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Addresses of one family: hashed entries of `words` of address, then class + 1, node, subject + 1. */
interface Family {
  readonly words: 1 | 4;
  readonly stride: number;
  readonly table: (of: PolicyTableContent) => Uint32Array;
  readonly ranges: (of: PolicyTableContent) => Uint32Array;
  readonly rangeStride: number;
}
const FAMILIES: readonly Family[] = [
  {
    words: 1,
    stride: ADDRESS4_WORDS,
    table: (of) => of.addresses4,
    ranges: (of) => of.ranges4,
    rangeStride: RANGE4_WORDS,
  },
  {
    words: 4,
    stride: ADDRESS6_WORDS,
    table: (of) => of.addresses6,
    ranges: (of) => of.ranges6,
    rangeStride: RANGE6_WORDS,
  },
];

const compare = (
  a: Uint32Array,
  at: number,
  b: Uint32Array,
  bAt: number,
  words: number,
): number => {
  for (let i = 0; i < words; i++) if (a[at + i] !== b[bAt + i]) return a[at + i]! - b[bAt + i]!;
  return 0;
};

/** Of the address of `entry` in `from`: its entry in `table`, or -1. */
function find(from: Uint32Array, entry: number, table: Uint32Array, { words, stride }: Family) {
  const [a, b, c, d] = [from[entry]!, from[entry + 1]!, from[entry + 2]!, from[entry + 3]!];
  const mask = table.length / stride - 1;
  let slot = (words === 1 ? hash4(a) : hash6(a, b, c, d)) & mask;
  for (; table[slot * stride + words] !== 0; slot = (slot + 1) & mask) {
    if (compare(from, entry, table, slot * stride, words) === 0) return slot * stride;
  }
  return -1;
}

function rangeClass(from: Uint32Array, entry: number, ranges: Uint32Array, family: Family): number {
  const { words, rangeStride: stride } = family;
  let low = 1;
  let high = ranges.length / stride;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compare(ranges, middle * stride, from, entry, words) <= 0) low = middle + 1;
    else high = middle;
  }
  return ranges[(low - 1) * stride + words]!;
}

/** @param classes  how many both have: entries of a row of the matrix */
export function meanTheSame(
  a: PolicyTableContent,
  b: PolicyTableContent,
  classes: number,
): boolean {
  if (!NUMBERED.every((name) => isEqual(a[name], b[name]))) return false;
  const { matrix } = a;
  const alike = new Map<number, boolean>();
  const areAlike = (one: number, other: number): boolean => {
    if (one === other) return true;
    const key = one * classes + other;
    let found = alike.get(key);
    if (found === undefined) {
      found = true;
      for (let row = 0; row < matrix.length && found; row += classes) {
        found = matrix[row + one] === matrix[row + other];
      }
      alike.set(key, found);
    }
    return found;
  };
  const isWithin = (
    one: PolicyTableContent,
    other: PolicyTableContent,
    family: Family,
  ): boolean => {
    const [from, to] = [family.table(one), family.table(other)];
    const ranges = family.ranges(other);
    const { words, stride } = family;
    for (let entry = 0; entry < from.length; entry += stride) {
      const known = from[entry + words]!;
      if (known === 0) continue;
      const at = find(from, entry, to, family);
      const isFound = at !== -1;
      const itsClass = isFound ? to[at + words]! - 1 : rangeClass(from, entry, ranges, family);
      if (!areAlike(known - 1, itsClass)) return false;
      for (const more of [words + 1, words + 2]) {
        if (from[entry + more] !== (isFound ? to[at + more] : 0)) return false;
      }
    }
    return true;
  };
  return FAMILIES.every((family) => isWithin(a, b, family) && isWithin(b, a, family));
}
