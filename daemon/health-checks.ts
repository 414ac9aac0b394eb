/**
 * Health check node ports: a load balancer outside asks each node whether it has endpoints of a Service
 * whose external traffic policy is Local, and sends to those that say yes. Answers are kube-proxy's.
 */
import type { ServerResponse } from 'node:http';
import type { HealthCheck } from '../service/compile.ts';
import { createLimitedServer, listen } from './api.ts';

export class HealthCheckServers implements AsyncDisposable {
  readonly #headersMs: number;
  /** What is asked for, by port. */
  #wanted: ReadonlyMap<number, HealthCheck> = new Map();
  #serviceProxyHealthy = false;
  readonly #listening = new Map<number, AsyncDisposable>();
  /** Ends when all updates so far have been carried out. */
  #last: Promise<readonly string[]> = Promise.resolve([]);

  /** @param headersMs  how long a client may take to say what it asks */
  constructor(headersMs = 5_000) {
    this.#headersMs = headersMs;
  }

  /**
   * Answers say the new state at once; ports are opened and closed in the order of the calls, and those
   * that could not be opened are tried again by the next one.
   * @returns  what is wrong: ports that others have
   */
  update(
    healthChecks: readonly HealthCheck[],
    serviceProxyHealthy: boolean,
  ): Promise<readonly string[]> {
    this.#wanted = new Map(healthChecks.map((it) => [it.port, it]));
    this.#serviceProxyHealthy = serviceProxyHealthy;
    this.#last = this.#last.then(() => this.#reconcile());
    return this.#last;
  }

  async #reconcile(): Promise<readonly string[]> {
    const surplus = [...this.#listening].filter(([port]) => !this.#wanted.has(port));
    for (const [port] of surplus) this.#listening.delete(port);
    await Promise.all(surplus.map(([, listening]) => listening[Symbol.asyncDispose]()));
    const missing = [...this.#wanted.values()].filter(({ port }) => !this.#listening.has(port));
    const problems = await Promise.all(missing.map((it) => this.#open(it)));
    return problems.filter((problem) => problem !== null);
  }

  async #open({ port, namespace, name }: HealthCheck): Promise<string | null> {
    const server = createLimitedServer((request, response) => {
      request.resume();
      this.#answer(port, response);
    }, this.#headersMs);
    try {
      this.#listening.set(port, await listen(server, { port }));
      return null;
    } catch (error) {
      return (
        `Service ${namespace}/${name}: health check node port ${port} cannot be opened ` +
        `(${(error as Error).message}); load balancers take this node for one without endpoints`
      );
    }
  }

  #answer(port: number, response: ServerResponse): void {
    const wanted = this.#wanted.get(port);
    const localEndpoints = wanted?.localEndpoints ?? 0;
    const body = JSON.stringify({
      service: { namespace: wanted?.namespace ?? '', name: wanted?.name ?? '' },
      localEndpoints,
      serviceProxyHealthy: this.#serviceProxyHealthy,
    });
    response.writeHead(localEndpoints > 0 && this.#serviceProxyHealthy ? 200 : 503, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      'x-content-type-options': 'nosniff',
      'X-Load-Balancing-Endpoint-Weight': localEndpoints,
      // Who asks comes again after seconds.
      connection: 'close',
    });
    response.end(body);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.update([], false);
  }
}
