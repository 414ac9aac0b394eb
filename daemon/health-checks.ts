/**
 * spec.healthCheckNodePort: a load balancer outside asks each node whether it has endpoints of a Service
 * whose externalTrafficPolicy is Local, and sends to those that have. As kube-proxy answers it.
 */
import { type ApiRoute, Answer, listenOnTcp } from './api.ts';
import type { HealthCheck } from './objects.ts';

interface Served {
  check: HealthCheck;
  readonly listening: Promise<AsyncDisposable | null>;
}

export class HealthCheckServers implements AsyncDisposable {
  readonly #onProblem: (problem: string, cause: Error) => void;
  readonly #isHealthy: () => boolean;
  readonly #served = new Map<number, Served>();

  constructor(
    /** This node carries Services' traffic as it should. */
    isHealthy: () => boolean,
    onProblem: (problem: string, cause: Error) => void,
  ) {
    this.#isHealthy = isHealthy;
    this.#onProblem = onProblem;
  }

  /** From now on these are answered, and no others. */
  update(checks: readonly HealthCheck[]): void {
    const wanted = new Map(checks.map((it) => [it.port, it]));
    for (const [port, served] of this.#served) {
      if (wanted.has(port)) continue;
      this.#served.delete(port);
      void this.#close(served);
    }
    for (const [port, check] of wanted) {
      const served = this.#served.get(port);
      if (served === undefined) {
        this.#served.set(port, { check, listening: this.#listen(check) });
      } else {
        served.check = check;
      }
    }
  }

  async #listen({ port, namespace, name }: HealthCheck): Promise<AsyncDisposable | null> {
    const answer = (): Answer => {
      const { localEndpoints = 0 } = this.#served.get(port)?.check ?? {};
      const serviceProxyHealthy = this.#isHealthy();
      const body = { service: { namespace, name }, localEndpoints, serviceProxyHealthy };
      return new Answer(localEndpoints > 0 && serviceProxyHealthy ? 200 : 503, body);
    };
    const routes: ApiRoute[] = ['/', '/healthz'].map((path) => ({ method: 'GET', path, answer }));
    const problem = `Service ${namespace}/${name}: spec.healthCheckNodePort ${port} is not answered`;
    const onError = (error: unknown): void => this.#onProblem(problem, error as Error);
    try {
      return await listenOnTcp('::', port, { routes, onError });
    } catch (error) {
      onError(error);
      // Tried again when the Service changes next.
      this.#served.delete(port);
      return null;
    }
  }

  async #close({ listening }: Served): Promise<void> {
    await (await listening)?.[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const all = [...this.#served.values()];
    this.#served.clear();
    await Promise.all(all.map((it) => this.#close(it)));
  }
}
