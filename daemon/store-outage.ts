/** Whether etcd answers those of the daemon's parts that follow it, and since when not. */
export class StoreOutage {
  readonly #failures = new Map<string, Error>();
  #since: string | null = null;

  /** @param error  null: it answers `part` again */
  tell(part: string, error: Error | null): void {
    if (error === null) this.#failures.delete(part);
    else this.#failures.set(part, error);
    if (this.#failures.size === 0) this.#since = null;
    else this.#since ??= new Date().toISOString();
  }

  /** RFC 3339, of the first failure. */
  get current(): { readonly since: string; readonly message: string } | null {
    const [error] = this.#failures.values();
    if (error === undefined || this.#since === null) return null;
    return { since: this.#since, message: error.message };
  }
}
