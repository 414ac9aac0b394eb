import { mkdtempSync, statSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { type RequestOptions, type IncomingHttpHeaders, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { parseAddress } from '../wire/address.ts';
import type { ApiRoute } from './api.ts';
import { openPage, pageToken, refuseForeign } from './page-server.ts';

const PORT = 18_476;
const TOKEN = 'ab'.repeat(32);
const routes: readonly ApiRoute[] = [{ method: 'GET', path: '/v1/cluster', answer: () => 'all' }];
const failures: unknown[] = [];
const onError = (error: unknown): void => void failures.push(error);
const OPEN = { address: parseAddress('127.0.0.1'), port: PORT, token: null, routes, onError };
const GUARDED = { address: parseAddress('127.0.0.2'), port: PORT, token: TOKEN, routes, onError };

let pages: readonly AsyncDisposable[];
test.before(async () => {
  pages = [await openPage(OPEN), await openPage(GUARDED)];
});
test.after.always(async () => {
  for (const it of pages) await it[Symbol.asyncDispose]();
});

interface Said {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}
const ask = (options: RequestOptions): Promise<Said> =>
  new Promise((resolve, reject) => {
    const asking = request({ host: '127.0.0.1', port: PORT, ...options }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk));
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body }),
      );
    });
    asking.on('error', reject).end();
  });

const OURS = `http://127.0.0.1:${PORT}`;
const CASES: readonly [string, RequestOptions, number][] = [
  ['the page', { path: '/' }, 200],
  ['a question', { path: '/v1/cluster' }, 200],
  ['by the name localhost', { path: '/', headers: { host: `LocalHost:${PORT}` } }, 200],
  ['of the page itself', { path: '/v1/cluster', headers: { origin: OURS } }, 200],
  [
    'a link followed from elsewhere',
    { path: '/', headers: { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' } },
    200,
  ],
  [
    'a name that leads here (DNS rebinding)',
    { path: '/', headers: { host: `evil.test:${PORT}` } },
    421,
  ],
  ['another port', { path: '/', headers: { host: '127.0.0.1' } }, 421],
  ['an address that is not ours', { path: '/', headers: { host: `192.0.2.1:${PORT}` } }, 421],
  ['another origin', { path: '/v1/cluster', headers: { origin: 'http://evil.test' } }, 403],
  [
    'another port of this machine',
    { path: '/v1/cluster', headers: { origin: 'http://127.0.0.1' } },
    403,
  ],
  ['an origin that is hidden', { path: '/v1/cluster', headers: { origin: 'null' } }, 403],
  [
    'a script tag of another page',
    {
      path: '/v1/cluster',
      headers: { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors' },
    },
    403,
  ],
  ['a change', { path: '/v1/cluster', method: 'POST' }, 405],
  ['another method', { path: '/', method: 'OPTIONS' }, 405],
  ['what is for the socket alone', { path: '/v1/objects' }, 404],
  ['a file that is not of the page', { path: '/ui/../package.json' }, 404],
  ['an encoded way out', { path: '/ui/%2e%2e/package.json' }, 404],
  ['a test of the page', { path: '/ui/model.test.ts' }, 404],
];
for (const [name, options, status] of CASES) {
  test(`page, ${status}: ${name}`, async (t) => t.is((await ask(options)).status, status));
}

const AT2 = { host: '127.0.0.2' };
const cookie = (it: string) => ({ headers: { cookie: `a=b; weft-page=${it}` } });
const GUARDED_CASES: readonly [string, RequestOptions, number][] = [
  ['nothing', { ...AT2, path: '/' }, 401],
  ['nothing, asking', { ...AT2, path: '/v1/cluster' }, 401],
  ['a wrong token', { ...AT2, path: `/?token=${'0'.repeat(64)}` }, 401],
  ['a token that is cut short', { ...AT2, path: `/?token=${TOKEN.slice(2)}` }, 401],
  ['the token, asking', { ...AT2, path: `/v1/cluster?token=${TOKEN}` }, 401],
  ['a wrong cookie', { ...AT2, path: '/v1/cluster', ...cookie('0'.repeat(64)) }, 401],
  ['the token', { ...AT2, path: `/?token=${TOKEN}` }, 303],
  ['the cookie', { ...AT2, path: '/', ...cookie(TOKEN) }, 200],
  ['the cookie, asking', { ...AT2, path: '/v1/cluster', ...cookie(TOKEN) }, 200],
];
for (const [name, options, status] of GUARDED_CASES) {
  test(`page with a token, ${status}: ${name}`, async (t) => {
    t.is((await ask(options)).status, status);
  });
}

test('the token becomes a cookie that no script and no other site gets', async (t) => {
  const { headers } = await ask({ ...AT2, path: `/?token=${TOKEN}` });
  t.is(headers.location, '/');
  t.deepEqual(headers['set-cookie'], [`weft-page=${TOKEN}; HttpOnly; SameSite=Strict; Path=/`]);
});

test('everything comes from here, scripts by their name or hash, and nobody frames it', async (t) => {
  const { headers, body } = await ask({ path: '/' });
  const policy = String(headers['content-security-policy']);
  t.regex(policy, /^default-src 'none'; script-src 'self' 'sha256-[^']+'; style-src 'self';/);
  t.regex(policy, /frame-ancestors 'none'/);
  t.is(headers['x-content-type-options'], 'nosniff');
  t.deepEqual([...body.matchAll(/(?:src|href)="(?!\/)/g)], []);
  t.deepEqual([...body.matchAll(/<script(?! type="importmap"| type="module" src=)/g)], []);
  for (const [, path] of body.matchAll(/(?:src|href)="([^"]+)"/g)) {
    t.is((await ask({ path })).status, 200, path);
  }
});

test('sources come as JavaScript, and packages by the import map', async (t) => {
  const { body } = await ask({ path: '/' });
  const map = JSON.parse(/importmap">([^<]+)</.exec(body)![1]!) as {
    imports: Record<string, string>;
  };
  for (const path of [...Object.values(map.imports), '/ui/main.ts']) {
    const { status, headers } = await ask({ path });
    t.is(status, 200, path);
    t.regex(headers['content-type']!, /^text\/javascript/);
  }
  t.notRegex((await ask({ path: '/ui/main.ts' })).body, /import type|: readonly/);
  t.deepEqual(failures, []);
});

test('on every address, the one that was asked is a good name and others are not', (t) => {
  const options = { ...GUARDED, address: parseAddress('0.0.0.0') };
  const asked = (host: string, localAddress: string) => () =>
    refuseForeign(options, {
      method: 'GET',
      url: '/',
      headers: { host: `${host}:${PORT}` },
      socket: { localAddress },
    });
  t.notThrows(asked('192.0.2.1', '::ffff:192.0.2.1'));
  t.throws(asked('192.0.2.2', '192.0.2.1'), { code: 'ERR_HOST' });
  t.throws(asked('localhost', '192.0.2.1'), { code: 'ERR_HOST' });
});

test('the token is made once, for root alone', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'weft-page-'));
  t.teardown(() => rm(dir, { recursive: true }));
  const path = join(dir, 'page-token');
  const token = await pageToken(path);
  t.regex(token, /^[0-9a-f]{64}$/);
  t.is(await pageToken(path), token);
  t.is(statSync(path).mode & 0o777, 0o600);
});
