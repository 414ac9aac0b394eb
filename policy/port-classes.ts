/** Which ports rules tell apart, and rules' ports as sets of bits. */
import type { Row } from './matrix.ts';
import type { Group, Port } from './peers.ts';
import type { NamedPort, Rule } from './rules.ts';
import { EGRESS, INGRESS, PORTS, classOfPort } from './table.ts';

/** Ports that no rule tells apart, and what they are in sets of bits. */
export class PortClasses {
  readonly starts: Uint32Array;
  readonly words: number;
  /** What the names that egress rules use mean on a group's pods: the same number, the same ports. */
  readonly portsOfGroup: Int32Array;
  readonly #ports: (readonly Port[])[] = [[]];
  readonly #bits: Uint32Array;
  readonly full: Uint32Array;

  constructor(rows: readonly Row[], groups: readonly Group[]) {
    const starts = [0, PORTS, 2 * PORTS];
    const mark = (protocol: number, start: number, end: number): void => {
      starts.push(protocol * PORTS + start, protocol * PORTS + end + 1);
    };
    const names = new Set<string>();
    for (const { direction, rules, hasNames, ports } of rows) {
      for (const { ranges, named } of rules) {
        for (const { protocol, start, end } of ranges) mark(protocol, start, end);
        if (direction === EGRESS) for (const { name } of named) names.add(name);
      }
      if (direction === INGRESS && hasNames) {
        for (const { protocol, number } of ports) mark(protocol, number, number);
      }
    }
    this.portsOfGroup = new Int32Array(groups.length);
    if (names.size > 0) this.#nameGroups(groups, names, mark);
    // No port comes after the last.
    this.starts = Uint32Array.from(starts)
      .sort()
      .filter((it, i, all) => it !== all[i - 1] && it !== 3 * PORTS);
    this.words = (this.starts.length >>> 5) + 1;
    this.full = new Uint32Array(this.words).fill(0xffffffff);
    this.#bits = new Uint32Array(this.words);
  }

  #nameGroups(
    groups: readonly Group[],
    names: ReadonlySet<string>,
    mark: (protocol: number, start: number, end: number) => void,
  ): void {
    const numbers = new Map<string, number>([['', 0]]);
    for (const { index, ports, portsKey } of groups) {
      if (portsKey === '') continue;
      let number = numbers.get(portsKey);
      if (number === undefined) {
        const used = ports.filter(({ name }) => names.has(name));
        const key = used.length === 0 ? '' : ` ${JSON.stringify(used)}`;
        number = numbers.get(key);
        if (number === undefined) {
          number = this.#ports.push(used) - 1;
          numbers.set(key, number);
        }
        numbers.set(portsKey, number);
        for (const it of used) mark(it.protocol, it.number, it.number);
      }
      this.portsOfGroup[index] = number;
    }
  }

  portsOf(number: number): readonly Port[] {
    return this.#ports[number]!;
  }

  #addRange(protocol: number, start: number, end: number): void {
    const first = classOfPort(this.starts, protocol * PORTS + start);
    const last = classOfPort(this.starts, protocol * PORTS + end);
    for (let w = first >>> 5; w <= last >>> 5; w++) {
      const from = w === first >>> 5 ? -1 << (first & 31) : -1;
      const to = w === last >>> 5 ? -1 >>> (31 - (last & 31)) : -1;
      this.#bits[w]! |= from & to;
    }
  }

  /**
   * @param ports  the destination's
   * @returns until the next call
   */
  bitsOf({ isAnyPort, ranges, named }: Rule, ports: readonly Port[]): Uint32Array {
    if (isAnyPort) return this.full;
    this.#bits.fill(0);
    for (const { protocol, start, end } of ranges) this.#addRange(protocol, start, end);
    if (named.length === 0) return this.#bits;
    for (const port of ports) {
      if (!named.some((it) => isNamed(it, port))) continue;
      this.#addRange(port.protocol, port.number, port.number);
    }
    return this.#bits;
  }
}

const isNamed = ({ name, protocol }: NamedPort, port: Port): boolean =>
  name === port.name && (protocol === null || protocol === port.protocol);
