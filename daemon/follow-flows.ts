/** One node's flows as they come, asked of its daemon again and again, wherever it is. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { FlowLines } from './flow-lines.ts';

/** Of one question, until something happens. */
export const FOLLOW_WAIT_S = 10;
const AGAIN_AFTER_MS = 1_000;
/**
 * What happens after a while of nothing is told at once; while much happens, a question this often asks for all
 * of it, since a question costs more than what it brings.
 */
const PACE_MS = 500;
/** Of an answer that may not be all there is. */
const MUCH_BYTES = 1 << 20;
/** The most that the API gives at once. */
const LIMIT_MAX = '10000';

export interface FollowOptions {
  /** Filters, as GET /v1/flows/lines has them. */
  readonly filters: Readonly<Record<string, string>>;
  /** How far back to begin, when it answers for the first time: `30s`. */
  readonly since: () => string;
  readonly ask: (query: URLSearchParams) => Promise<FlowLines>;
  /** Why there is no answer now. @throws what is no such error */
  readonly problemOf: (error: unknown) => string;
  /** What the reader must know besides the flows: what has become of the node. */
  readonly say: (note: string) => void;
  readonly signal: AbortSignal;
  /** Between two questions. */
  readonly paceMs?: number;
}

/**
 * Lines of flows as they come, some together, those of `since` first; until the signal is aborted. A daemon
 * that does not answer is waited for.
 */
export async function* followFlows(options: FollowOptions): AsyncGenerator<Buffer> {
  const { filters, since, ask, problemOf, say, signal, paceMs = PACE_MS } = options;
  let position: Readonly<Record<string, string>> | null = null;
  let run: string | null = null;
  let lost = 0;
  let isAbsent = false;
  while (!signal.aborted) {
    const askedMs = performance.now();
    let message: FlowLines;
    try {
      const from = position ?? { since: since() };
      message = await ask(new URLSearchParams({ ...filters, ...from, limit: LIMIT_MAX }));
    } catch (error) {
      if (signal.aborted) return;
      const problem = problemOf(error);
      if (!isAbsent) say(`does not answer (${problem}); waiting for it`);
      isAbsent = true;
      await sleep(AGAIN_AFTER_MS, undefined, { signal }).catch(() => 'the loop ends');
      continue;
    }
    const isAnother = run !== null && message.run !== run;
    if (isAnother) say('has started anew; flows that began meanwhile may be missing');
    else if (isAbsent) say('answers again');
    isAbsent = false;
    run = message.run;
    if (isAnother) {
      lost = 0;
      // All that the new one has seen.
      position = {};
      continue;
    }
    if (message.lost > lost && position?.['after'] !== undefined) {
      say(`has lost ${message.lost - lost} events, which came faster than they could be read`);
    }
    lost = message.lost;
    if (message.lines.length > 0) yield message.lines;
    if (position !== null && message.lines.length < MUCH_BYTES) {
      const earlyMs = askedMs + paceMs - performance.now();
      if (earlyMs > 0) await sleep(earlyMs, undefined, { signal }).catch(() => 'the loop ends');
    }
    position = { after: String(message.next), wait: `${FOLLOW_WAIT_S}s` };
  }
}
