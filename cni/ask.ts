/**
 * One question to the daemon through its socket, with Bun's fetch: Node's http would take longer to load
 * than the daemon takes to answer.
 */
import type { CniRequest } from '../daemon/messages.ts';
import { CniCode } from '../wire/cni.ts';
import { CniFailure, DaemonAwayError } from './errors.ts';

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such socket',
  ECONNREFUSED: 'nobody listens there',
  ECONNRESET: 'it closed before it had answered',
  EACCES: 'permission denied',
};

/** @throws DaemonAwayError; CniFailure (internal) when what answers does not speak HTTP */
export async function ask(
  socket: string,
  request: CniRequest,
  withinMs: number,
): Promise<{ status: number; text: string }> {
  try {
    const response = await Bun.fetch('http://weft/v1/cni', {
      unix: socket,
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(request),
      redirect: 'error',
      signal: AbortSignal.timeout(withinMs),
    });
    return { status: response.status, text: await response.text() };
  } catch (cause) {
    const { name, code, message } = cause as { name?: string; code?: unknown; message?: string };
    if (code === 'Malformed_HTTP_Response' || code === 'UnexpectedRedirect') {
      const msg = `what answers at ${socket} is not the weft daemon; name its socket`;
      throw new CniFailure(CniCode.internal, msg, code, { cause });
    }
    const late = name === 'TimeoutError' ? `no answer within ${withinMs / 1000} s` : undefined;
    const why = late ?? REASONS[String(code)] ?? message ?? String(cause);
    throw new DaemonAwayError(why, { cause });
  }
}
