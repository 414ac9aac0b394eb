/** What a scenario of `weft check` has found. */
export interface CheckResult {
  readonly name: string;
  readonly result: 'ok' | 'failed' | 'skipped';
  /** What was found, or why it was skipped. */
  readonly detail: string;
  /** What to do; of those that failed. */
  readonly remedy: string | null;
}

export type Finding = Omit<CheckResult, 'name'>;

export const ok = (detail: string): Finding => ({ result: 'ok', detail, remedy: null });
export const failed = (detail: string, remedy: string): Finding => ({
  result: 'failed',
  detail,
  remedy,
});
export const skipped = (detail: string): Finding => ({ result: 'skipped', detail, remedy: null });
