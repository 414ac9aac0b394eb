/** Says once what is wrong, as long as it is; again when it is wrong otherwise. */
export class Told<Reason extends string | Error> {
  readonly #warn: (name: string, reason: Reason) => void;
  #told = new Map<string, string>();

  /** @param warn  of each that is new */
  constructor(warn: (name: string, reason: Reason) => void) {
    this.#warn = warn;
  }

  /** @param wrong  all that is wrong now: reasons by what they concern */
  tell(wrong: ReadonlyMap<string, Reason>): void {
    const now = new Map([...wrong].map(([name, reason]) => [name, String(reason)]));
    for (const [name, reason] of wrong) {
      if (this.#told.get(name) !== now.get(name)) this.#warn(name, reason);
    }
    this.#told = now;
  }
}
