/**
 * Connections that are held and talk all the while. `steady.ts serve PORT` prints `ready` and sends back
 * what comes. `steady.ts hold PORT ADDRESS...` opens a connection for each address, says something on each
 * every 10 ms, and prints `steady` when all have been answered. After SIGUSR1 it prints a line of JSON,
 * an object for each connection, and ends.
 */
import { type Socket, connect, createServer } from 'node:net';

const EVERY_MS = 10;
/** For what was sent last to come back: TCP tries again after as long as it has already waited. */
const LAST_MS = 60_000;

export interface Held {
  /** Not closed, not reset. */
  readonly alive: boolean;
  /** The longest time without an answer. */
  readonly gapMs: number;
  /** All that was sent came back, in order. */
  readonly intact: boolean;
}

const [verb, port = '', ...addresses] = process.argv.slice(2);

function serve(): void {
  const server = createServer({ noDelay: true }, (socket) => {
    // A client that went away is none of ours.
    socket.on('error', () => socket.destroy());
    socket.pipe(socket);
  });
  server.listen(Number(port), '::', () => process.stdout.write('ready\n'));
}

class Connection {
  readonly #socket: Socket;
  #sent = 0;
  #received = 0;
  #lastMs = performance.now();
  #gapMs = 0;
  #alive = true;
  #intact = true;

  constructor(address: string) {
    this.#socket = connect({ host: address, port: Number(port), noDelay: true });
    this.#socket.on('data', (piece) => this.#take(piece));
    this.#socket.on('error', () => (this.#alive = false)).on('close', () => (this.#alive = false));
  }

  get isAnswered(): boolean {
    return this.#received > 0;
  }

  /** Nothing is under way. */
  get isQuiet(): boolean {
    return this.#received === this.#sent;
  }

  say(): void {
    this.#socket.write(Uint8Array.of(this.#sent++ & 0xff));
  }

  #take(piece: Buffer): void {
    const nowMs = performance.now();
    if (this.#received > 0) this.#gapMs = Math.max(this.#gapMs, nowMs - this.#lastMs);
    this.#lastMs = nowMs;
    for (const byte of piece) if (byte !== (this.#received++ & 0xff)) this.#intact = false;
  }

  report(): Held {
    const intact = this.#intact && this.isQuiet;
    return { alive: this.#alive, gapMs: Math.round(this.#gapMs), intact };
  }
}

function hold(): void {
  const connections = addresses.map((address) => new Connection(address));
  let said = false;
  const talk = setInterval(() => {
    for (const it of connections) it.say();
    if (said || !connections.every((it) => it.isAnswered)) return;
    said = true;
    process.stdout.write('steady\n');
  }, EVERY_MS);
  process.once('SIGUSR1', () => {
    clearInterval(talk);
    const deadline = performance.now() + LAST_MS;
    const finish = setInterval(() => {
      if (!connections.every((it) => it.isQuiet) && performance.now() < deadline) return;
      clearInterval(finish);
      const reports = JSON.stringify(connections.map((it) => it.report()));
      process.stdout.write(`${reports}\n`, () => process.exit());
    }, EVERY_MS);
  });
}

if (verb === 'serve') serve();
else hold();
