/**
 * Numbered datagrams at a steady rate, of which none may be missing. `numbered.ts serve PORT` prints `ready` and
 * sends back what comes. `numbered.ts send PORT ADDRESS...` sends one to each address every 5 ms, from one
 * socket each, and prints `steady` when each has answered. After SIGUSR1 it prints a line of JSON, an
 * object for each address, and ends.
 */
import { type Socket, createSocket } from 'node:dgram';

/** What comes while the receiver does not run for a third of a second fits into its queue. */
const EVERY_MS = 5;
/** What was sent last gets so long to come back. */
const LAST_MS = 1_000;

export interface Numbered {
  readonly address: string;
  readonly sent: number;
  /** Sent, and did not come back. */
  readonly missing: number;
}

class Stream {
  readonly #address: string;
  readonly #socket: Socket;
  readonly #outstanding = new Set<number>();
  #sent = 0;

  constructor(address: string, port: number) {
    this.#address = address;
    this.#socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    this.#socket.on('message', (message) => this.#outstanding.delete(message.readUInt32BE()));
    // Refused once is missing once.
    this.#socket.on('error', () => undefined);
    this.#socket.connect(port, address);
  }

  get isAnswered(): boolean {
    return this.#outstanding.size < this.#sent;
  }

  send(): void {
    const number = this.#sent++;
    this.#outstanding.add(number);
    const message = Buffer.alloc(4);
    message.writeUInt32BE(number);
    this.#socket.send(message);
  }

  report(): Numbered {
    return { address: this.#address, sent: this.#sent, missing: this.#outstanding.size };
  }
}

function serve(port: number): void {
  const socket = createSocket('udp6', (message, { address, port: theirs }) =>
    socket.send(message, theirs, address),
  );
  socket.on('error', () => undefined);
  socket.bind(port, () => process.stdout.write('ready\n'));
}

function send(port: number, addresses: readonly string[]): void {
  const streams = addresses.map((address) => new Stream(address, port));
  let said = false;
  // Connecting takes a moment.
  setTimeout(() => {
    const talk = setInterval(() => {
      for (const it of streams) it.send();
      if (said || !streams.every((it) => it.isAnswered)) return;
      said = true;
      process.stdout.write('steady\n');
    }, EVERY_MS);
    process.once('SIGUSR1', () => {
      clearInterval(talk);
      setTimeout(() => {
        const reports = JSON.stringify(streams.map((it) => it.report()));
        process.stdout.write(`${reports}\n`, () => process.exit());
      }, LAST_MS);
    });
  }, 100);
}

if (import.meta.main) {
  const [verb, port, ...addresses] = process.argv.slice(2);
  if (verb === 'serve') serve(Number(port));
  else send(Number(port), addresses);
}
