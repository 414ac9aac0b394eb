import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import test from 'ava';
import { HealthCheckServers } from './health-checks.ts';

/** One that nobody has at the moment. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

const check = (port: number, localEndpoints: number) => ({
  port,
  namespace: 'default',
  name: 'web',
  localEndpoints,
});

for (const [name, localEndpoints, healthy, status] of [
  ['endpoints and healthy', 2, true, 200],
  ['no endpoints', 0, true, 503],
  ['not healthy', 2, false, 503],
] as const) {
  test(`answers: ${name}`, async (t) => {
    await using servers = new HealthCheckServers();
    const port = await freePort();
    t.deepEqual(await servers.update([check(port, localEndpoints)], healthy), []);
    for (const host of ['127.0.0.1', '[::1]']) {
      const response = await fetch(`http://${host}:${port}/healthz`);
      t.is(response.status, status);
      t.is(response.headers.get('x-load-balancing-endpoint-weight'), String(localEndpoints));
      t.is(response.headers.get('content-type'), 'application/json');
      t.deepEqual(await response.json(), {
        service: { namespace: 'default', name: 'web' },
        localEndpoints,
        serviceProxyHealthy: healthy,
      });
    }
  });
}

test('what changes is answered at once, what is gone is closed, what comes back is open', async (t) => {
  await using servers = new HealthCheckServers();
  const port = await freePort();
  const status = async (): Promise<number> => (await fetch(`http://127.0.0.1:${port}`)).status;
  await servers.update([check(port, 1)], true);
  t.is(await status(), 200);
  const updating = servers.update([check(port, 0)], true);
  t.is(await status(), 503);
  await updating;
  await servers.update([], true);
  await t.throwsAsync(status());
  await Promise.all([
    servers.update([check(port, 1)], true),
    servers.update([], true),
    servers.update([check(port, 3)], true),
  ]);
  t.is(await status(), 200);
});

test("another's port is a problem, and is tried again", async (t) => {
  const other = createServer().listen(0);
  await once(other, 'listening');
  const { port } = other.address() as AddressInfo;
  const free = await freePort();
  await using servers = new HealthCheckServers();
  const problems = await servers.update([check(port, 1), check(free, 1)], true);
  t.is(problems.length, 1);
  t.regex(
    problems[0]!,
    /^Service default\/web: health check node port \d+ cannot be opened \(.*EADDRINUSE/,
  );
  t.is((await fetch(`http://127.0.0.1:${free}`)).status, 200, 'the others are served');
  other.close();
  await once(other, 'close');
  t.deepEqual(await servers.update([check(port, 1), check(free, 1)], true), []);
  t.is((await fetch(`http://127.0.0.1:${port}`)).status, 200);
});

for (const [name, sent] of [
  ['says nothing', ''],
  ['stops in the middle of its headers', 'GET / HTTP/1.1\r\nhost: x\r\nx-a'],
] as const) {
  test(`a client that ${name} is cut off, and others are served meanwhile`, async (t) => {
    await using servers = new HealthCheckServers(200);
    const port = await freePort();
    await servers.update([check(port, 1)], true);
    const client = connect(port, '127.0.0.1');
    await once(client, 'connect');
    client.write(sent);
    t.is((await fetch(`http://127.0.0.1:${port}`)).status, 200);
    client.resume();
    const cut = once(client, 'close').then(() => 'cut off');
    t.is(await Promise.race([cut, delay(5_000, 'still there')]), 'cut off');
  });
}

test('a client that never closes its side does not keep the port', async (t) => {
  const servers = new HealthCheckServers();
  const port = await freePort();
  await servers.update([check(port, 1)], true);
  const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  client.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n');
  const [answer] = (await once(client, 'data')) as [Buffer];
  t.regex(String(answer), /^HTTP\/1\.1 200 OK\r\n/);
  await servers[Symbol.asyncDispose]();
  await t.throwsAsync(fetch(`http://127.0.0.1:${port}`));
  client.destroy();
});
