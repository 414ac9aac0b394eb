/** Members 0..size-1 parted into classes that none of the sets given so far tells apart. */
export class Partition {
  readonly classOf: Int32Array;
  /** The class that each one was parted from, and by which set; -1 for those of the beginning. */
  readonly #parents: number[] = [];
  readonly #causes: number[] = [];
  /** The round in which a class was parted, and into what; or, negative, made. */
  readonly #rounds: number[] = [];
  readonly #parts: number[] = [];
  #round = 0;
  #cause = -1;

  /** @param initial  classes to begin with, from 0 */
  constructor(size: number, initial?: Int32Array) {
    this.classOf = initial === undefined ? new Int32Array(size) : Int32Array.from(initial);
    const classes = this.classOf.reduce((most, it) => Math.max(most, it), 0) + 1;
    for (let i = 0; i < classes; i++) this.#addClass(-1, -1);
  }

  get classes(): number {
    return this.#parents.length;
  }

  #addClass(parent: number, cause: number): number {
    this.#causes.push(cause);
    this.#rounds.push(0);
    this.#parts.push(0);
    return this.#parents.push(parent) - 1;
  }

  /** The next set, whose members come by `add`. */
  begin(cause: number): void {
    this.#round++;
    this.#cause = cause;
  }

  /** A member that comes twice has come once. */
  add(member: number): void {
    const old = this.classOf[member]!;
    const round = this.#rounds[old]!;
    if (round === -this.#round) return;
    if (round !== this.#round) {
      const part = this.#addClass(old, this.#cause);
      this.#rounds[part] = -this.#round;
      this.#rounds[old] = this.#round;
      this.#parts[old] = part;
    }
    this.classOf[member] = this.#parts[old]!;
  }

  /** Of each class: how many of itself, if it has members, and of the classes parted from it have any, or heirs. */
  heirs(): Int32Array {
    const heirs = new Int32Array(this.classes);
    for (let i = 0; i < this.classOf.length; i++) heirs[this.classOf[i]!] = 1;
    for (let it = heirs.length - 1; it >= 0; it--) {
      const parent = this.#parents[it]!;
      if (heirs[it]! > 0 && parent !== -1) heirs[parent]!++;
    }
    return heirs;
  }

  /** The class that this one was parted from, of a lower number; -1: it was there at the beginning. */
  parentOf(it: number): number {
    return this.#parents[it]!;
  }

  /** The set by which it was parted: its members are in that one and in those that its parent's are in. */
  causeOf(it: number): number {
    return this.#causes[it]!;
  }

  /** The sets that a class's members are in, in the order they came. */
  causesOf(it: number): number[] {
    const causes: number[] = [];
    for (let at = it; this.#parents[at] !== -1; at = this.#parents[at]!) {
      causes.push(this.#causes[at]!);
    }
    return causes.toReversed();
  }

  /** The class that this one was at the beginning. */
  rootOf(it: number): number {
    let at = it;
    while (this.#parents[at] !== -1) at = this.#parents[at]!;
    return at;
  }
}
