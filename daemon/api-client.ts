/** One question to the daemon on this machine, through its socket. */
import { type IncomingMessage, request } from 'node:http';
import { text as readText } from 'node:stream/consumers';
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

function absence(stateDir: string, cause: NodeJS.ErrnoException): DaemonAbsentError {
  const { code, message } = cause;
  if (code === 'EACCES') {
    return new DaemonAbsentError(`${stateDir} may only be opened by root`, { cause });
  }
  const why = code === 'ENOENT' || code === 'ECONNREFUSED' ? '' : ` (${message})`;
  return new DaemonAbsentError(
    `no weft daemon answers in ${stateDir}${why}; start one, or name its --state-dir`,
    { cause },
  );
}

/**
 * An answer that comes bit by bit: its headers are there, its body is read by the caller.
 * @throws DaemonAbsentError; ApiError with the daemon's own words
 */
export async function openStream(
  stateDir: string,
  path: string,
  signal?: AbortSignal,
): Promise<IncomingMessage> {
  const { socket: socketPath } = stateFiles(stateDir);
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    request({ socketPath, path, signal }, resolve)
      .on('error', (cause) => reject(absence(stateDir, cause)))
      .end();
  });
  if (response.statusCode === 200) return response;
  const { error } = JSON.parse(await readText(response)) as ErrorMessage;
  throw new ApiError(response.statusCode ?? 0, error.code, error.message);
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
    throw absence(stateDir, cause as NodeJS.ErrnoException);
  }
  const said = (answer.text === '' ? undefined : JSON.parse(answer.text)) as unknown;
  if (answer.status < 400) return said as T;
  const { error } = said as ErrorMessage;
  throw new ApiError(answer.status, error.code, error.message);
}
