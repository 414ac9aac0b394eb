/** Questions to the daemon that served the page. */
import type { ErrorMessage } from '../daemon/messages.ts';

export class AskError extends Error {
  override readonly name = 'AskError';
  readonly code = 'ERR_ASK';
}

/** @throws AskError in words for the reader */
export async function ask<T>(path: string, signal?: AbortSignal): Promise<T> {
  const response = await fetch(path, signal === undefined ? {} : { signal }).catch(
    (cause: unknown) => {
      throw new AskError('the daemon does not answer', { cause });
    },
  );
  const said: unknown = await response.json().catch((cause: unknown) => {
    throw new AskError(`the daemon answers ${response.status} and nothing else`, { cause });
  });
  if (response.ok) return said as T;
  const { error } = said as Partial<ErrorMessage>;
  throw new AskError(error?.message ?? `the daemon answers ${response.status}`);
}
