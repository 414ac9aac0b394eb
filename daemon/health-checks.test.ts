import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'ava';
import { HealthCheckServers } from './health-checks.ts';

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, '::', resolve);
  });
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => {
    server.close(resolve);
  });
  return port;
}

test('200 with endpoints here and all well, else 503, with what kube-proxy says', async (t) => {
  let healthy = true;
  const problems: string[] = [];
  await using servers = new HealthCheckServers(
    () => healthy,
    (problem) => problems.push(problem),
  );
  const port = await freePort();
  const check = { port, namespace: 'default', name: 'web' };
  const service = { namespace: 'default', name: 'web' };
  const ask = async (path = '/'): Promise<[number, unknown]> => {
    // It may not listen yet.
    for (;;) {
      try {
        const answer = await fetch(`http://127.0.0.1:${port}${path}`);
        return [answer.status, await answer.json()];
      } catch (error) {
        const { cause } = error as { cause?: { code?: string } };
        if (cause?.code !== 'ECONNREFUSED') throw error;
      }
    }
  };
  servers.update([{ ...check, localEndpoints: 2 }]);
  t.deepEqual(await ask(), [200, { service, localEndpoints: 2, serviceProxyHealthy: true }]);
  t.is((await ask('/healthz'))[0], 200);
  servers.update([{ ...check, localEndpoints: 0 }]);
  t.deepEqual(await ask(), [503, { service, localEndpoints: 0, serviceProxyHealthy: true }]);
  servers.update([{ ...check, localEndpoints: 1 }]);
  healthy = false;
  t.deepEqual(await ask(), [503, { service, localEndpoints: 1, serviceProxyHealthy: false }]);
  t.deepEqual(problems, []);
});

test('a port that somebody has is told, and keeps nothing from the others', async (t) => {
  const taken = createServer();
  await new Promise<void>((resolve) => {
    taken.listen(0, '::', resolve);
  });
  const { port } = taken.address() as AddressInfo;
  const told = Promise.withResolvers<string>();
  await using servers = new HealthCheckServers(
    () => true,
    (problem) => told.resolve(problem),
  );
  servers.update([{ port, namespace: 'default', name: 'web', localEndpoints: 1 }]);
  t.regex(
    await told.promise,
    /^Service default\/web: spec.healthCheckNodePort \d+ is not answered/,
  );
  taken.close();
});
