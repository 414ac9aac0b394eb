/**
 * The page for operators, and the few questions it asks: GET only, and nothing changes anything.
 *
 * A browser sends what any web page tells it to. So the Host must be the address that is listened on (else
 * a name of somebody's could lead here), another page's Origin is refused, and scripts come from here alone.
 * On loopback whoever is on this machine may look; elsewhere only who has the token: `/?token=...` once,
 * a cookie afterwards.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { replaceFile } from '../linux/files.ts';
import { type IpAddress, formatAddress } from '../wire/address.ts';
import { cidrContains, parseCidr } from '../wire/cidr.ts';
import { ApiError, type ApiRoute, createLimitedServer, listen, listenerOf } from './api.ts';
import { isSameSecret } from './cluster-token.ts';
import { type PageFiles, readPageFiles } from './page-files.ts';

const COOKIE = 'weft-page';
const LOOPBACK4 = parseCidr('127.0.0.0/8');
const LOOPBACK6 = parseCidr('::1/128');
const TOKEN = /^[0-9a-f]{64}$/;

export const isLoopback = (address: IpAddress): boolean =>
  cidrContains(LOOPBACK4, address) || cidrContains(LOOPBACK6, address);

const isEverywhere = (address: IpAddress): boolean =>
  address === 0 || formatAddress(address) === '::';

export const urlHost = (text: string): string => (text.includes(':') ? `[${text}]` : text);

/** The token that a file only root reads holds; made at the first start. */
export async function pageToken(path: string): Promise<string> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
  if (TOKEN.test(text.trim())) return text.trim();
  const token = randomBytes(32).toString('hex');
  await replaceFile(path, `${token}\n`, 0o600);
  return token;
}

export interface PageOptions {
  readonly address: IpAddress;
  readonly port: number;
  /** Null: nobody is asked for one. */
  readonly token: string | null;
  readonly routes: readonly ApiRoute[];
  readonly onError: (error: unknown) => void;
}

type Asked = Pick<IncomingMessage, 'method' | 'url' | 'headers'> & {
  readonly socket: Pick<IncomingMessage['socket'], 'localAddress'>;
};

/** Names under which this page may be asked for. */
function hostsOf({ address, port }: PageOptions, localAddress: string | undefined): string[] {
  const names = [urlHost(formatAddress(address))];
  if (isLoopback(address)) names.push('localhost');
  if (isEverywhere(address) && localAddress !== undefined) {
    const own = localAddress.replace(/^::ffff:(?=\d+\.)/, '');
    names.push(urlHost(own));
    if (own === '127.0.0.1' || own === '::1') names.push('localhost');
  }
  // A browser leaves out the port of http.
  return names.flatMap((it) => (port === 80 ? [it, `${it}:80`] : [`${it}:${port}`]));
}

const cookieOf = (header: string | undefined): string =>
  new RegExp(`(?:^|;\\s*)${COOKIE}=([0-9a-f]{64})(?:;|$)`).exec(header ?? '')?.[1] ?? '';

/** @throws ApiError */
export function refuseForeign(options: PageOptions, asked: Asked): void {
  const { method, headers, socket } = asked;
  const host = headers.host?.toLowerCase() ?? '';
  if (!hostsOf(options, socket.localAddress).includes(host)) {
    throw new ApiError(421, 'ERR_HOST', 'the page is not known by this name');
  }
  if (headers.origin !== undefined && headers.origin !== `http://${host}`) {
    throw new ApiError(403, 'ERR_ORIGIN', 'another page asks, and is not answered');
  }
  const site = headers['sec-fetch-site'];
  const isOurs = site === undefined || site === 'same-origin' || site === 'none';
  // A link to the page itself is followed from anywhere; nothing else of it is.
  if (!isOurs && headers['sec-fetch-mode'] !== 'navigate') {
    throw new ApiError(403, 'ERR_ORIGIN', 'another page asks, and is not answered');
  }
  if (method !== 'GET' && method !== 'HEAD') {
    throw new ApiError(405, 'ERR_METHOD', `${method} does not apply here`);
  }
}

/** The right cookie, or no token is wanted. */
const mayLook = ({ token }: PageOptions, { headers }: Asked): boolean =>
  token === null || isSameSecret(cookieOf(headers.cookie), token);

const policyOf = (importMapHash: string): string =>
  [
    "default-src 'none'",
    `script-src 'self' 'sha256-${importMapHash}'`,
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ');

function say(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' });
  response.end(`${text}\n`);
}

/** Until it is disposed of. @throws when the address cannot be listened on */
export async function openPage(options: PageOptions): Promise<AsyncDisposable> {
  let reading: Promise<PageFiles> | null = null;
  const { token, onError } = options;
  const askApi = listenerOf({
    routes: options.routes,
    onError,
    refuse: (request) => {
      if (!mayLook(options, request)) {
        throw new ApiError(401, 'ERR_PAGE_TOKEN', 'the token is missing or wrong');
      }
    },
  });
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    response.setHeader('x-content-type-options', 'nosniff');
    response.setHeader('referrer-policy', 'no-referrer');
    response.setHeader('cross-origin-resource-policy', 'same-origin');
    response.setHeader('cache-control', 'no-store');
    try {
      refuseForeign(options, request);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      say(response, error.status, error.message);
      return;
    }
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://weft');
    if (pathname.startsWith('/v1/')) {
      askApi(request, response);
      return;
    }
    const given = searchParams.get('token');
    if (pathname === '/' && token !== null && given !== null && isSameSecret(given, token)) {
      response.setHeader('set-cookie', `${COOKIE}=${token}; HttpOnly; SameSite=Strict; Path=/`);
      response.writeHead(303, { location: '/' }).end();
      return;
    }
    if (!mayLook(options, request)) {
      say(
        response,
        401,
        'Open /?token=TOKEN; the token is in the file page-token of the state directory',
      );
      return;
    }
    reading ??= readPageFiles();
    const { files, importMapHash } = await reading;
    const file = files.get(pathname);
    if (file === undefined) {
      say(response, 404, 'there is nothing here');
      return;
    }
    response.writeHead(200, {
      'content-type': file.type,
      'content-length': file.body.length,
      'content-security-policy': policyOf(importMapHash),
      'cross-origin-opener-policy': 'same-origin',
    });
    response.end(file.body);
  };
  const server = createLimitedServer((request, response) => {
    answer(request, response).catch((error: unknown) => {
      reading = null;
      onError(error);
      response.destroy();
    });
  });
  return await listen(server, { host: formatAddress(options.address), port: options.port });
}
