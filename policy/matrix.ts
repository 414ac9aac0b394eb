/** What passes: for each row, the pods that the same policies select, and each class of addresses, a set of ports. */
import type { Addresses } from './addresses.ts';
import { Partition } from './partition.ts';
import type { Matches, Port, Subject } from './peers.ts';
import type { PortClasses } from './port-classes.ts';
import type { Rule } from './rules.ts';
import { EGRESS, type INGRESS, SUBJECT_ROW, SUBJECT_SELF, SUBJECT_WORDS } from './table.ts';

/** Entries of the matrix, 1 GiB: pods times peers that are all told apart. */
export const MATRIX_MAX = 2 ** 28;

/** More than a table holds; the earlier one stays in force. */
export class PolicySizeError extends Error {
  readonly code = 'ERR_POLICY_SIZE';
}

/** What the same policies make of one direction, for all the pods that they select. */
export interface Row {
  readonly direction: typeof INGRESS | typeof EGRESS;
  /** Admin's, from networkAt NetworkPolicies', from baselineAt Baseline's. */
  readonly rules: readonly Rule[];
  readonly networkAt: number;
  readonly baselineAt: number;
  readonly isIsolated: boolean;
  /** Some rule has named ports. */
  readonly hasNames: boolean;
  /** The subjects' own: what ingress rules' names mean. */
  readonly ports: readonly Port[];
  readonly subjects: Subject[];
}

/** What passes between the rows' subjects and the classes. */
export class Matrix {
  readonly entries: Uint32Array;
  readonly #rows: readonly Row[];
  readonly #ports: PortClasses;
  readonly #addresses: Addresses;
  readonly #atoms: ReadonlyMap<string, Matches>;
  /** Offset 0: nothing passes. */
  readonly #sets: Uint32Array[];
  readonly #offsets = new Map<string, number>();
  /** Thousands of sets are made one after the other, of which few differ. */
  readonly #scratch: readonly [Uint32Array, Uint32Array, Uint32Array];

  /** @throws PolicySizeError */
  constructor(
    rows: readonly Row[],
    atoms: ReadonlyMap<string, Matches>,
    ports: PortClasses,
    addresses: Addresses,
    most: number,
  ) {
    const size = rows.length * addresses.classes;
    if (size > most) {
      throw new PolicySizeError(
        `policies tell ${rows.length} kinds of pods from ${addresses.classes} kinds of peers, more than ` +
          'a table holds; the policies of before stay in force',
      );
    }
    this.entries = new Uint32Array(size);
    this.#rows = rows;
    this.#ports = ports;
    this.#addresses = addresses;
    this.#atoms = atoms;
    this.#sets = [new Uint32Array(ports.words)];
    const { words } = ports;
    this.#scratch = [new Uint32Array(words), new Uint32Array(words), new Uint32Array(words)];
    this.#offsets.set(this.#sets[0]!.join(), 0);
  }

  portSets(): Uint32Array {
    const { words } = this.#ports;
    const all = new Uint32Array(this.#sets.length * words);
    for (const [i, set] of this.#sets.entries()) all.set(set, i * words);
    return all;
  }

  #classesOfAtoms(): readonly (readonly number[])[] {
    const { classes, groupClasses, rangeClasses, groups, ranges } = this.#addresses;
    const found: number[][] = Array.from(this.#atoms, () => []);
    const ofGroup = new Map<number, readonly number[]>();
    const ofRange = new Map<number, readonly number[]>();
    const causesOf = (
      partition: Partition,
      it: number,
      known: Map<number, readonly number[]>,
    ): readonly number[] => {
      let causes = known.get(it);
      if (causes === undefined) {
        causes = partition.causesOf(it);
        known.set(it, causes);
      }
      return causes;
    };
    for (let i = 0; i < classes; i++) {
      for (const atom of causesOf(groups, groupClasses[i]!, ofGroup)) found[atom]!.push(i);
      for (const atom of causesOf(ranges.partition, rangeClasses[i]!, ofRange)) {
        found[atom]!.push(i);
      }
    }
    return found;
  }

  /** Writes the entries, and where the subjects find theirs. */
  write(subjects: Uint32Array): void {
    const { classes, groupClasses, groups } = this.#addresses;
    const classesOfAtoms = this.#classesOfAtoms();
    const portsOfClass = Int32Array.from(groupClasses, (it) => groups.rootOf(it));
    for (const [i, row] of this.#rows.entries()) {
      const { direction, rules } = row;
      const byPeer = direction === EGRESS && row.hasNames;
      const partition = new Partition(classes, byPeer ? portsOfClass : undefined);
      const forAny: number[] = [];
      for (const [number, { isAnyPeer, atoms }] of rules.entries()) {
        if (isAnyPeer) {
          forAny.push(number);
          continue;
        }
        partition.begin(number);
        for (const { key } of atoms) {
          for (const it of classesOfAtoms[this.#atoms.get(key)!.index]!) partition.add(it);
        }
      }
      const offsets = new Int32Array(2 * partition.classes).fill(-1);
      const offsetOf = (peerClass: number, isSelf: boolean): number => {
        const part = partition.classOf[peerClass]!;
        const at = 2 * part + (isSelf ? 1 : 0);
        if (offsets[at] === -1) {
          const ports = byPeer ? this.#ports.portsOf(partition.rootOf(part)) : row.ports;
          const about = inOrder(partition.causesOf(part), forAny);
          offsets[at] = this.#intern(this.#portSet(row, about, ports, isSelf));
        }
        return offsets[at]!;
      };
      for (let it = 0; it < classes; it++) this.entries[i * classes + it] = offsetOf(it, false);
      for (const { number, claims } of row.subjects) {
        const at = number * SUBJECT_WORDS;
        subjects[at + SUBJECT_ROW + direction] = i * classes;
        for (const claim of claims) {
          const own = this.#addresses.ownClass(claim, number);
          const isIpv6 = claim.words.length > 1;
          const self = at + SUBJECT_SELF + 2 * direction + (isIpv6 ? 1 : 0);
          if (own !== -1) subjects[self] = offsetOf(own, true);
        }
      }
    }
  }

  /** @param set  is used again */
  #intern(set: Uint32Array): number {
    const key = set.join();
    let offset = this.#offsets.get(key);
    if (offset === undefined) {
      offset = (this.#sets.push(set.slice()) - 1) * this.#ports.words;
      this.#offsets.set(key, offset);
    }
    return offset;
  }

  /**
   * @param about  the row's rules that are about this peer or any, in their order
   * @returns until the next call
   */
  #portSet(
    { rules, networkAt, baselineAt, isIsolated }: Row,
    about: readonly number[],
    ports: readonly Port[],
    isSelf: boolean,
  ): Uint32Array {
    const [allowed, open, passed] = this.#scratch;
    allowed.fill(0);
    open.set(this.#ports.full);
    passed.fill(0);
    let isPast = false;
    for (const i of about) {
      if (i >= networkAt && !isPast) {
        isPast = true;
        join(open, passed);
      }
      const rule = rules[i]!;
      const bits = this.#ports.bitsOf(rule, ports);
      if (i >= networkAt && i < baselineAt) {
        for (let w = 0; w < bits.length; w++) allowed[w]! |= bits[w]! & open[w]!;
        continue;
      }
      // Baseline decides for pods that no NetworkPolicy isolates.
      if (i >= baselineAt && isIsolated) break;
      // Nobody comes after Baseline: what it passes, passes.
      const into = rule.action === 'Accept' ? allowed : i < networkAt ? passed : allowed;
      for (let w = 0; w < bits.length; w++) {
        if (rule.action !== 'Deny') into[w]! |= bits[w]! & open[w]!;
        open[w]! &= ~bits[w]!;
      }
    }
    if (!isPast) join(open, passed);
    if (!isIsolated || isSelf) join(allowed, open);
    return allowed;
  }
}

/** Of two lists in ascending order. */
function inOrder(some: readonly number[], others: readonly number[]): readonly number[] {
  if (others.length === 0) return some;
  if (some.length === 0) return others;
  return [...some, ...others].sort((a, b) => a - b);
}

function join(into: Uint32Array, other: Uint32Array): void {
  for (let w = 0; w < into.length; w++) into[w]! |= other[w]!;
}
