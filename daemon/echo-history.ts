/** What became of the last echoes along one way to a peer, whoever wanted them sent. */
import type { Echo } from '../linux/echo.ts';
import { type IpAddress, formatAddress } from '../wire/address.ts';
import type { LinkProbeMessage } from './messages.ts';

const REMEMBERED = 30;
/** So many in a row without answer are silence. */
const SILENT_AFTER = 5;
/** After a longer pause, what was before says nothing any more. */
const PAUSE_MAX_MS = 300_000;

export interface Target {
  readonly kind: 'underlay' | 'overlay';
  readonly address: IpAddress;
  /** Packets up to this size are expected to pass. */
  readonly mtuBytes: number;
}

const rounded = (ms: number): number => Math.round(ms * 1000) / 1000;

export class EchoHistory {
  #echoes: Echo[] = [];
  #lastMs = -Infinity;
  /** The largest packet that was answered; null when none was, or none was tried. */
  pathMtuBytes: number | null = null;

  /** An outage that is over is no loss of what came after it: with its end, the history begins anew. */
  add(echo: Echo, nowMs: number): void {
    const isBack = echo.kind === 'answered' && this.isSilent;
    if (isBack || nowMs - this.#lastMs > PAUSE_MAX_MS) this.clear();
    this.#lastMs = nowMs;
    this.#echoes.push(echo);
    if (this.#echoes.length > REMEMBERED) this.#echoes.shift();
  }

  clear(): void {
    this.#echoes = [];
  }

  get isSilent(): boolean {
    const last = this.#echoes.slice(-SILENT_AFTER);
    return last.length === SILENT_AFTER && last.every(({ kind }) => kind !== 'answered');
  }

  message({ kind, address, mtuBytes }: Target): LinkProbeMessage {
    const times = this.#echoes.flatMap((it) => (it.kind === 'answered' ? [it.roundTripMs] : []));
    const last = this.#echoes.at(-1);
    const isNone = times.length === 0;
    return {
      kind,
      address: formatAddress(address),
      sent: this.#echoes.length,
      received: times.length,
      silent: this.isSilent,
      minMs: isNone ? null : rounded(Math.min(...times)),
      avgMs: isNone ? null : rounded(times.reduce((sum, it) => sum + it, 0) / times.length),
      maxMs: isNone ? null : rounded(Math.max(...times)),
      pathMtuBytes: this.pathMtuBytes,
      expectedMtuBytes: mtuBytes,
      problem: last?.kind === 'refused' ? last.reason : null,
    };
  }
}
