/** What can go wrong in the plugin, and how the runtime is told (CNI specification, section 5, "Error"). */
import type { CniCode, CniVersion } from '../wire/cni.ts';

/** The plugin's own refusal, or the daemon's. */
export class CniFailure extends Error {
  override readonly name = 'CniFailure';
  readonly code = 'ERR_CNI';
  readonly cniCode: CniCode;
  /** What the message leaves out; '' for nothing. */
  readonly details: string;

  constructor(cniCode: CniCode, message: string, details = '', options?: ErrorOptions) {
    super(message, options);
    this.cniCode = cniCode;
    this.details = details;
  }
}

/** No daemon answers at the socket: it is not there, refuses, closes half way or takes too long. */
export class DaemonAwayError extends Error {
  override readonly name = 'DaemonAwayError';
  readonly code = 'ERR_DAEMON_AWAY';
}

/** JSON.parse's and others' messages can hold what was read: enough of it, and on one line. */
export const brief = (text: string, limit = 200): string => {
  const line = text.replaceAll(/\s+/g, ' ').trim();
  return line.length > limit ? `${line.slice(0, limit)}...` : line;
};

/** Any value as it can stand in a message. */
export const quote = (value: unknown): string => brief(JSON.stringify(value) ?? 'nothing', 80);

export function formatError(cniVersion: CniVersion, failure: CniFailure): string {
  const { cniCode: code, message: msg, details } = failure;
  return `${JSON.stringify({ cniVersion, code, msg, ...(details === '' ? {} : { details }) }, null, 2)}\n`;
}
