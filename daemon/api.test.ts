import { execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, statSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { request } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { askDaemon } from './api-client.ts';
import { Answer, ApiError, type ApiRoute, listenOnSocket } from './api.ts';

const dir = mkdtempSync(join(tmpdir(), 'weft-api-'));
const path = join(dir, 'weft.sock');
const failures: unknown[] = [];
const routes: ApiRoute[] = [
  { method: 'GET', path: '/v1/things', answer: () => ['a'] },
  {
    method: 'GET',
    path: '/v1/things/:name',
    answer: ({ parts, query }) => [parts['name'], query.get('q')],
  },
  { method: 'DELETE', path: '/v1/things/:name', answer: () => undefined },
  { method: 'POST', path: '/v1/echo', answer: ({ body }) => body },
  { method: 'GET', path: '/v1/teapot', answer: () => new Answer(418, { short: true }) },
  {
    method: 'GET',
    path: '/v1/denied',
    answer: () => {
      throw new ApiError(409, 'ERR_X', 'no');
    },
  },
  {
    method: 'GET',
    path: '/v1/broken',
    answer: () => {
      throw new TypeError('secret detail');
    },
  },
  { method: 'GET', path: '/v1/late', answer: () => Promise.reject(new TypeError('secret detail')) },
];
let server: AsyncDisposable;
test.before(async () => {
  // Left by a daemon that was killed.
  writeFileSync(path, '');
  server = await listenOnSocket(path, { routes, onError: (error) => failures.push(error) });
});
test.after.always(async () => {
  await server[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

const ask = (method: string, at: string): Promise<[number, unknown]> =>
  new Promise((resolve, reject) => {
    const asking = request({ socketPath: path, method, path: at }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.on('end', () => {
        resolve([response.statusCode!, text === '' ? null : (JSON.parse(text) as unknown)]);
      });
    });
    asking.on('error', reject).end();
  });

const error = (code: string, message: string) => ({ error: { code, message } });
const internal = error('ERR_INTERNAL', 'the daemon failed; see its log');
const nothing = error('ERR_NO_ROUTE', 'there is nothing here');

for (const [method, at, status, body] of [
  ['GET', '/v1/things', 200, ['a']],
  [
    'GET',
    '/v1/things/10.5.52.0-24%26fd00%3A5%3A%3A-64?q=1',
    200,
    ['10.5.52.0-24&fd00:5::-64', '1'],
  ],
  ['DELETE', '/v1/things/a', 204, null],
  ['GET', '/v1/teapot', 418, { short: true }],
  ['GET', '/v1/denied', 409, error('ERR_X', 'no')],
  ['GET', '/v1/broken', 500, internal],
  ['GET', '/v1/late', 500, internal],
  ['GET', '/', 404, nothing],
  ['GET', '/v1/things/a/b', 404, nothing],
  ['GET', '/v1/things/%', 404, nothing],
  ['GET', '/v1/x/../../../etc/passwd', 404, nothing],
  ['POST', '/v1/things', 405, error('ERR_METHOD', 'POST does not apply here')],
] as const) {
  test(`${method} ${at}`, async (t) => {
    t.deepEqual(await ask(method, at), [status, body]);
  });
}

test('only the owner may open the socket', (t) => {
  t.is(statSync(path).mode & 0o777, 0o600);
});

test('a failure without a name of its own goes to the log', async (t) => {
  await ask('GET', '/v1/broken');
  t.true(failures.some((it) => it instanceof TypeError && it.message === 'secret detail'));
});

test('the client gives answers and throws errors by their code', async (t) => {
  t.deepEqual(await askDaemon(dir, 'GET', '/v1/things'), ['a']);
  t.is(await askDaemon(dir, 'DELETE', '/v1/things/a'), undefined);
  await t.throwsAsync(askDaemon(dir, 'GET', '/v1/denied'), { code: 'ERR_X', message: 'no' });
  await t.throwsAsync(askDaemon('/nope', 'GET', '/'), { code: 'ERR_DAEMON_ABSENT' });
});

test('closing waits for no one who says nothing', async (t) => {
  const other = join(dir, 'other.sock');
  const listening = await listenOnSocket(other, { routes, onError: () => undefined });
  const silent = connect(other);
  await new Promise((resolve) => silent.once('connect', resolve));
  const closed = new Promise((resolve) => silent.once('close', resolve));
  await listening[Symbol.asyncDispose]();
  await closed;
  t.pass();
});

/** Run as somebody else: prints what an answer's status is, or the error's code. */
const STRANGER = `
  const asking = require('node:http').get({ socketPath: process.argv[1], path: '/v1/things' });
  asking.on('response', (it) => console.log(it.statusCode)).on('error', (it) => console.log(it.code));`;

test.serial('another user gets no answer, whatever the mode of the socket', async (t) => {
  if (process.getuid?.() !== 0) {
    t.log('not tested: only root can ask as another user');
    t.pass();
    return;
  }
  const nobody = 65_534;
  const asked = async (): Promise<string> => {
    const { stdout } = await promisify(execFile)(process.execPath, ['-e', STRANGER, path], {
      uid: nobody,
      gid: nobody,
    });
    return stdout.trim();
  };
  t.is(await asked(), 'EACCES');
  chmodSync(dir, 0o755);
  chmodSync(path, 0o666);
  failures.length = 0;
  t.regex(await asked(), /^(EPIPE|ECONNRESET)$/);
  t.like(failures[0], { code: 'ERR_PEER', message: `user ${nobody} was refused on ${path}` });
  t.deepEqual(await ask('GET', '/v1/things'), [200, ['a']]);
  chmodSync(path, 0o600);
  chmodSync(dir, 0o700);
});

test('a body is JSON and has its limit', async (t) => {
  const post = (body: string | Buffer): Promise<number> =>
    new Promise((resolve, reject) => {
      const asking = request({ socketPath: path, method: 'POST', path: '/v1/echo' }, (response) => {
        response.resume().on('end', () => resolve(response.statusCode!));
      });
      asking.on('error', reject).end(body);
    });
  t.is(await post('{"a":[1]}'), 200);
  t.is(await post(''), 204);
  t.is(await post('{"a":'), 400);
  t.is(await post(Buffer.alloc((4 << 20) + 1, 0x20)), 413);
});
