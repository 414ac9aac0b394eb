/** One question to the daemon on this machine, through its socket. */
import { request } from 'node:http';
import { ApiError } from './api.ts';
import type { ErrorMessage } from './messages.ts';
import { stateFiles } from './state-dir.ts';

const ANSWER_WITHIN_MS = 15_000;

/** No daemon answers here. */
export class DaemonAbsentError extends Error {
  override readonly name = 'DaemonAbsentError';
  readonly code = 'ERR_DAEMON_ABSENT';
}

function exchange(
  socketPath: string,
  method: string,
  path: string,
  body: unknown,
  signal: AbortSignal | undefined,
) {
  return new Promise<{ status: number; text: string }>((resolve, reject) => {
    const timeout = ANSWER_WITHIN_MS;
    const asking = request({ socketPath, method, path, timeout, signal }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      response.on('error', reject);
    });
    asking.on('timeout', () => asking.destroy(new Error('no answer in time')));
    asking.on('error', reject);
    if (body === undefined) asking.end();
    else asking.end(JSON.stringify(body));
  });
}

/** @throws DaemonAbsentError; ApiError with the daemon's own words */
export async function askDaemon<T>(
  stateDir: string,
  method: string,
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<T> {
  let answer: { status: number; text: string };
  try {
    answer = await exchange(stateFiles(stateDir).socket, method, path, body, signal);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'EACCES') {
      throw new DaemonAbsentError(`${stateDir} may only be opened by root`, { cause });
    }
    const why = code === 'ENOENT' || code === 'ECONNREFUSED' ? '' : ` (${message})`;
    throw new DaemonAbsentError(
      `no weft daemon answers in ${stateDir}${why}; start one, or name its --state-dir`,
      { cause },
    );
  }
  const said = (answer.text === '' ? undefined : JSON.parse(answer.text)) as unknown;
  if (answer.status < 400) return said as T;
  const { error } = said as ErrorMessage;
  throw new ApiError(answer.status, error.code, error.message);
}
