/** What passes: for each row, the pods that the same policies select, and each class of addresses, a set of ports. */
import type { Addresses, Scratch } from './addresses.ts';
import { BitSets } from './bit-sets.ts';
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
  /** Of ports; the empty one: nothing passes. */
  readonly #sets: BitSets;
  readonly #arrays: Scratch;
  /** One set each. */
  readonly #allowed: Uint32Array;
  readonly #open: Uint32Array;
  readonly #passed: Uint32Array;
  readonly #network: Uint32Array;

  /** @throws PolicySizeError */
  constructor(
    rows: readonly Row[],
    atoms: ReadonlyMap<string, Matches>,
    ports: PortClasses,
    addresses: Addresses,
    arrays: Scratch,
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
    const { words } = ports;
    this.#sets = new BitSets(words);
    this.#arrays = arrays;
    this.#allowed = new Uint32Array(words);
    this.#open = new Uint32Array(words);
    this.#passed = new Uint32Array(words);
    this.#network = new Uint32Array(words);
  }

  portSets(): Uint32Array {
    return this.#sets.all();
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
    const portsOfClass = (): Int32Array => Int32Array.from(groupClasses, (it) => groups.rootOf(it));
    for (let i = 0; i < this.#rows.length; i++) {
      const row = this.#rows[i]!;
      const { direction, rules } = row;
      const byPeer = direction === EGRESS && row.hasNames;
      const partition = new Partition(classes, byPeer ? portsOfClass() : undefined);
      for (let number = 0; number < rules.length; number++) {
        const { isAnyPeer, atoms } = rules[number]!;
        if (isAnyPeer) continue;
        partition.begin(number);
        for (let a = 0; a < atoms.length; a++) {
          const members = classesOfAtoms[this.#atoms.get(atoms[a]!.key)!.index]!;
          for (let m = 0; m < members.length; m++) partition.add(members[m]!);
        }
      }
      const portsOf = (part: number): readonly Port[] =>
        byPeer ? this.#ports.portsOf(partition.rootOf(part)) : row.ports;
      const networkOf = this.#networkOf(row, partition, portsOf);
      const isNetworkAll = row.networkAt === 0 && row.baselineAt === rules.length;
      const offsets = new Int32Array(2 * partition.classes).fill(-1);
      const offsetOf = (peerClass: number, isSelf: boolean): number => {
        const part = partition.classOf[peerClass]!;
        const at = 2 * part + (isSelf ? 1 : 0);
        if (offsets[at] === -1) {
          const about = isNetworkAll ? NONE : partition.causesOf(part);
          const set = this.#portSet(row, about, networkOf(part), portsOf(part), isSelf);
          offsets[at] = this.#sets.intern(set);
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

  /**
   * What NetworkPolicies allow of each part: what they allow of the one from which it was parted, and what the
   * rule does by which it was. None of them comes before another, so each rule is looked at once for a part.
   * @returns of a part that has members, until the next
   */
  #networkOf(
    row: Row,
    partition: Partition,
    portsOf: (part: number) => readonly Port[],
  ): (part: number) => Uint32Array {
    const { rules, networkAt, baselineAt } = row;
    const { words } = this.#ports;
    const forAny = rules.slice(networkAt, baselineAt).filter((it) => it.isAnyPeer);
    const heirs = partition.heirs();
    // Many parts are empty by now: a set only for those that have members, and where two come of one.
    const places = new Int32Array(partition.classes);
    let count = 0;
    for (let part = 0; part < partition.classes; part++) {
      const parent = partition.parentOf(part);
      if (heirs[part] === 0) continue;
      places[part] = parent !== -1 && heirs[parent] === 1 ? places[parent]! : words * count++;
    }
    const sets = this.#arrays.takeAtLeast('network', words * count);
    let lastCause = -1;
    let bits = this.#ports.full;
    for (let part = 0; part < partition.classes; part++) {
      if (heirs[part] === 0) continue;
      const place = places[part]!;
      const parent = partition.parentOf(part);
      if (parent === -1) {
        sets.fill(0, place, place + words);
        for (const rule of forAny) join(sets, place, this.#ports.bitsOf(rule, portsOf(part)));
        lastCause = -1;
        continue;
      }
      const from = places[parent]!;
      if (from !== place) for (let w = 0; w < words; w++) sets[place + w] = sets[from + w]!;
      const cause = partition.causeOf(part);
      if (cause < networkAt || cause >= baselineAt) continue;
      if (cause !== lastCause || rules[cause]!.named.length > 0) {
        bits = this.#ports.bitsOf(rules[cause]!, portsOf(part));
        lastCause = cause;
      }
      join(sets, place, bits);
    }
    const network = this.#network;
    return (part) => {
      const place = places[part]!;
      for (let w = 0; w < words; w++) network[w] = sets[place + w]!;
      return network;
    };
  }

  /**
   * @param about    the row's rules that are about this peer and not any, in their order
   * @param network  what NetworkPolicies allow
   * @returns until the next call
   */
  #portSet(
    { rules, networkAt, baselineAt, isIsolated }: Row,
    about: readonly number[],
    network: Uint32Array,
    ports: readonly Port[],
    isSelf: boolean,
  ): Uint32Array {
    const allowed = this.#allowed;
    const open = this.#open;
    const passed = this.#passed;
    allowed.fill(0);
    open.set(this.#ports.full);
    passed.fill(0);
    /** One after the other, each for what is still open. */
    const decide = (from: number, end: number, pass: Uint32Array): void => {
      let at = 0;
      for (let i = from; i < end; i++) {
        const rule = rules[i]!;
        while (at < about.length && about[at]! < i) at++;
        if (!rule.isAnyPeer && about[at] !== i) continue;
        const bits = this.#ports.bitsOf(rule, ports);
        const into = rule.action === 'Accept' ? allowed : pass;
        for (let w = 0; w < bits.length; w++) {
          if (rule.action !== 'Deny') into[w]! |= bits[w]! & open[w]!;
          open[w]! &= ~bits[w]!;
        }
      }
    };
    decide(0, networkAt, passed);
    join(open, 0, passed);
    for (let w = 0; w < open.length; w++) allowed[w]! |= network[w]! & open[w]!;
    // Baseline decides for pods that no NetworkPolicy isolates. Nobody comes after it: what it passes, passes.
    if (!isIsolated) decide(baselineAt, rules.length, allowed);
    if (!isIsolated || isSelf) join(allowed, 0, open);
    return allowed;
  }
}

const NONE: readonly number[] = [];

function join(into: Uint32Array, at: number, set: Uint32Array): void {
  for (let w = 0; w < set.length; w++) into[at + w]! |= set[w]!;
}
