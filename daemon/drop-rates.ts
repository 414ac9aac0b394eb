/** Packets dropped a second, by reason: of the last minute, or since the first look where that is shorter. */

const OVER_MS = 60_000;

interface Look {
  readonly atMs: number;
  readonly drops: Readonly<Record<string, number>>;
}

export class DropRates {
  readonly #looks: Look[] = [];

  /** @param drops  counted since the start, by reason */
  look(drops: Readonly<Record<string, number>>, atMs: number): void {
    this.#looks.push({ atMs, drops });
    while (this.#looks.length > 2 && atMs - this.#looks[1]!.atMs >= OVER_MS) this.#looks.shift();
  }

  /** Those that are not nought; none before the second look. */
  get perSecond(): Readonly<Record<string, number>> {
    const [first, last] = [this.#looks[0], this.#looks.at(-1)];
    if (first === undefined || last === undefined || first === last) return {};
    const seconds = (last.atMs - first.atMs) / 1000;
    const rates = Object.entries(last.drops).map(([reason, count]) => {
      const more = count - (first.drops[reason] ?? 0);
      return [reason, Math.round((100 * more) / seconds) / 100] as const;
    });
    return Object.fromEntries(rates.filter(([, rate]) => rate > 0));
  }
}
