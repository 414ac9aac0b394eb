/**
 * The daemon's API: HTTP with JSON over the unix socket `<state dir>/weft.sock`, mode 0600, and the
 * health check over TCP. A route is a method, a path pattern and a function; what it throws as ApiError
 * becomes the answer. The socket is the permission: root, and who runs the daemon, may do everything,
 * and nobody else gets an answer, whatever the file's mode has become.
 */
import { chmod, rm } from 'node:fs/promises';
import {
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
  createServer,
} from 'node:http';
import type { Socket } from 'node:net';
import { peerUid } from '../linux/peer.ts';
import type { ErrorMessage } from './messages.ts';

export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly code: string;
  readonly status: number;

  constructor(status: number, code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
    this.code = code;
  }
}

export interface ApiRequest {
  /** The pattern's named parts, decoded. */
  readonly parts: Readonly<Record<string, string | undefined>>;
  readonly query: URLSearchParams;
  /** What was sent, as JSON; undefined when nothing was. */
  readonly body: unknown;
}

export interface ApiRoute {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** `/v1/leases/:key`: a part after a colon matches one segment. */
  readonly path: string;
  /** The answer's body; undefined is 204. */
  readonly answer: (request: ApiRequest) => unknown;
}

/** An answer with a status of its own. */
export class Answer {
  readonly status: number;
  readonly body: unknown;
  /** Null: the body is sent as JSON; else it is text of this type. */
  readonly textType: string | null;

  constructor(status: number, body: unknown, textType: string | null = null) {
    this.status = status;
    this.body = body;
    this.textType = textType;
  }
}

/** Where an answer goes that comes bit by bit. */
export interface Outlet {
  /** @returns false where it was not taken: the reader is too slow, or gone */
  readonly write: (bytes: Uint8Array) => boolean;
  readonly end: () => void;
  /** Aborted when nobody reads any more. */
  readonly closed: AbortSignal;
}

/** An answer that goes on until it is ended, or its reader goes away. */
export class StreamAnswer {
  readonly contentType: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly begin: (outlet: Outlet) => void;

  constructor(
    contentType: string,
    headers: Readonly<Record<string, string>>,
    begin: (outlet: Outlet) => void,
  ) {
    this.contentType = contentType;
    this.headers = headers;
    this.begin = begin;
  }
}

/** So much waits for a reader that does not read. */
const WAITING_BYTES_MAX = 4 << 20;

function stream(response: ServerResponse, { contentType, headers, begin }: StreamAnswer): void {
  const closed = new AbortController();
  response.once('close', () => closed.abort());
  response.writeHead(200, {
    'content-type': contentType,
    'cache-control': 'no-store',
    ...headers,
  });
  response.flushHeaders();
  begin({
    write: (bytes) => {
      if (closed.signal.aborted || response.writableEnded) return false;
      if (response.writableLength + bytes.length > WAITING_BYTES_MAX) return false;
      response.write(bytes);
      return true;
    },
    end: () => response.end(),
    closed: closed.signal,
  });
}

function matchPath(pattern: string, path: string): Record<string, string> | null {
  const wanted = pattern.split('/');
  const given = path.split('/');
  if (wanted.length !== given.length) return null;
  const parts: Record<string, string> = {};
  for (const [i, want] of wanted.entries()) {
    const it = given[i]!;
    if (want.startsWith(':')) {
      try {
        parts[want.slice(1)] = decodeURIComponent(it);
      } catch {
        // A stray "%" names nothing.
        return null;
      }
    } else if (want !== it) return null;
  }
  return parts;
}

/** @throws ApiError when it is larger than BODY_BYTES_MAX, or not JSON */
async function readBody(request: IncomingMessage): Promise<unknown> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of request as AsyncIterable<Buffer>) {
    bytes += piece.length;
    if (bytes > BODY_BYTES_MAX) {
      throw new ApiError(413, 'ERR_BODY', `more than ${BODY_BYTES_MAX} bytes were sent`);
    }
    pieces.push(piece);
  }
  if (bytes === 0) return undefined;
  try {
    return JSON.parse(Buffer.concat(pieces).toString('utf8'));
  } catch (cause) {
    throw new ApiError(400, 'ERR_BODY', `not JSON: ${(cause as Error).message}`, { cause });
  }
}

function send(
  response: ServerResponse,
  status: number,
  body: unknown,
  textType: string | null = null,
): void {
  let text = textType === null ? `${JSON.stringify(body)}\n` : String(body);
  if (body === undefined) text = '';
  response.writeHead(body === undefined ? 204 : status, {
    'content-type': textType ?? 'application/json',
    'x-content-type-options': 'nosniff',
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
  });
  response.end(text);
}

async function answer(
  { routes, onError, refuse }: ListenOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  try {
    refuse?.(request);
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://weft');
    const matches = routes.flatMap((route) => {
      const parts = matchPath(route.path, pathname);
      return parts === null ? [] : [{ route, parts }];
    });
    if (matches.length === 0) throw new ApiError(404, 'ERR_NO_ROUTE', 'there is nothing here');
    const match = matches.find(({ route }) => route.method === request.method);
    if (match === undefined) {
      throw new ApiError(405, 'ERR_METHOD', `${request.method} does not apply here`);
    }
    const body = await readBody(request);
    const result = await match.route.answer({ parts: match.parts, query: searchParams, body });
    if (result instanceof StreamAnswer) stream(response, result);
    else if (result instanceof Answer) send(response, result.status, result.body, result.textType);
    else send(response, 200, result);
  } catch (error) {
    let status = 500;
    let { code, message } = { code: 'ERR_INTERNAL', message: 'the daemon failed; see its log' };
    if (error instanceof ApiError) ({ status, code, message } = error);
    else onError(error);
    send(response, status, { error: { code, message } } satisfies ErrorMessage);
  }
}

/** A list of what a runtime still has (CNI GC) is the largest. */
const BODY_BYTES_MAX = 4 << 20;

export interface ListenOptions {
  readonly routes: readonly ApiRoute[];
  /** A route failed in a way it does not name. */
  readonly onError: (error: unknown) => void;
  /** Before anything else of a request is looked at. @throws ApiError */
  readonly refuse?: (request: IncomingMessage) => void;
}

/**
 * Slow and half-open clients: none holds a connection without asking something.
 * @param headersMs  how long a client may take to say what it asks; what it sends besides, twice that
 */
export function createLimitedServer(onRequest: RequestListener, headersMs = 5_000): Server {
  const server = createServer(
    {
      requestTimeout: 2 * headersMs,
      headersTimeout: headersMs,
      keepAliveTimeout: headersMs,
      connectionsCheckingInterval: headersMs,
      maxHeaderSize: 8_192,
    },
    onRequest,
  );
  server.maxConnections = 128;
  return server;
}

export const listenerOf =
  (options: ListenOptions): RequestListener =>
  (request, response) =>
    void answer(options, request, response);

const serverOf = (options: ListenOptions): Server => createLimitedServer(listenerOf(options));

/** Until it is disposed of. Without a host: on all addresses, of both families where there are both. */
export async function listen(
  server: Server,
  where: { readonly path: string } | { readonly host?: string; readonly port: number },
): Promise<AsyncDisposable> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(where, () => {
      server.off('error', reject);
      resolve();
    });
  });
  return {
    [Symbol.asyncDispose]: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      // An answer on its way may still arrive; who asks slowly gets none.
      const late = setTimeout(() => server.closeAllConnections(), 500);
      await closed;
      clearTimeout(late);
    },
  };
}

/**
 * On a unix socket that only its owner can open; it is gone when the listening ends. The caller holds
 * the state directory's lock.
 */
export async function listenOnSocket(
  path: string,
  options: ListenOptions,
): Promise<AsyncDisposable> {
  // Left by a daemon that was killed; a living one would hold the lock.
  await rm(path, { force: true });
  // The directory is 0700, so nobody gets in before the mode is set.
  const server = serverOf(options);
  server.prependListener('connection', (socket: Socket) => {
    const uid = peerUid(socket);
    if (uid !== 0 && uid !== process.geteuid?.()) {
      options.onError(new ApiError(403, 'ERR_PEER', `user ${uid} was refused on ${path}`));
      socket.destroy();
    }
  });
  const listening = await listen(server, { path });
  await chmod(path, 0o600);
  return listening;
}

/** On TCP, for the health check. */
export const listenOnTcp = (
  host: string,
  port: number,
  options: ListenOptions,
): Promise<AsyncDisposable> => listen(serverOf(options), { host, port });
