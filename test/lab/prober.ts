/** Questions to a probe (traffic/probe.ts) that runs in a namespace of the lab. */
import { type Socket, connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { LabHost } from './lab.ts';
import type { ProbeAnswer, Question } from './traffic/probe.ts';

export class Prober implements Disposable {
  readonly host: LabHost;
  readonly #socket: Socket;
  readonly #waiting = new Map<number, (got: string) => void>();
  #next = 0;

  private constructor(host: LabHost, socket: Socket) {
    this.host = host;
    this.#socket = socket;
    createInterface({ input: socket }).on('line', (line) => {
      const { id, got } = JSON.parse(line) as ProbeAnswer;
      this.#waiting.get(id)?.(got);
      this.#waiting.delete(id);
    });
  }

  /** Listens on the ports, and is ready. Ends with the lab. */
  static async start(host: LabHost, directory: string, ports: readonly number[]): Promise<Prober> {
    const path = join(directory, `${host.name}.probe`);
    const program = join(import.meta.dirname, 'traffic', 'probe.ts');
    await host.start([process.execPath, program, path, ...ports.map(String)], {
      ready: { line: /^ready$/ },
    });
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve).once('error', reject);
    });
    return new Prober(host, socket);
  }

  /** @returns what was answered, `refused`, or `nothing` */
  ask(question: Omit<Question, 'id'>): Promise<string> {
    const id = this.#next++;
    const { promise, resolve } = Promise.withResolvers<string>();
    this.#waiting.set(id, resolve);
    this.#socket.write(`${JSON.stringify({ ...question, id })}\n`);
    return promise;
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}
