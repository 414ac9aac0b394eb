/**
 * Who answers, and whom it sees. `who.ts serve NAME PORT` prints `ready` and answers each TCP connection
 * and each datagram with NAME, the client's address and the number of bytes that came, in as many bytes.
 * `who.ts ask BYTES PROTOCOL/ADDRESS... PORT` sends so many and prints, as one JSON array, what each said;
 * an error's text instead where nothing did within three seconds.
 */
import { createSocket } from 'node:dgram';
import { connect, createServer } from 'node:net';

const TIMEOUT_MS = 3000;
/** Larger datagrams may be too big for a path of which nothing is known yet: they are sent again. */
const SMALL_BYTES = 1000;
const AGAIN_MS = 300;

/** IPv4 clients of a socket for both families come as ::ffff:192.0.2.1. */
const plain = (address = ''): string => address.replace('::ffff:', '');

function serve(name: string, port: number): void {
  const answer = (bytes: number, address?: string): string =>
    JSON.stringify({ name, client: plain(address), bytes }).padEnd(bytes);
  const tcp = createServer({ allowHalfOpen: true }, (socket) => {
    let bytes = 0;
    socket.on('data', (piece) => (bytes += piece.length));
    socket.on('end', () => socket.end(answer(bytes, socket.remoteAddress)));
    // A client that went away is none of ours.
    socket.on('error', () => socket.destroy());
  });
  const udp = createSocket('udp6', (message, { address, port: theirs }) =>
    udp.send(answer(message.length, address), theirs, address),
  );
  udp.bind(port, () => tcp.listen(port, '::', () => process.stdout.write('ready\n')));
}

function askTcp(address: string, port: number, bytes: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = connect({ host: address, port, timeout: TIMEOUT_MS });
    socket.setEncoding('utf8').on('data', (piece: string) => (text += piece));
    socket.on('end', () => resolve(text)).on('error', reject);
    socket.on('timeout', () => socket.destroy(new Error('nothing')));
    socket.end(Buffer.alloc(bytes));
  });
}

/** Connected, so that an answer from another address is none. */
function askUdp(address: string, port: number, bytes: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    const send = (): void => socket.send(Buffer.alloc(bytes));
    const again = bytes > SMALL_BYTES ? setInterval(send, AGAIN_MS) : undefined;
    const timer = setTimeout(() => reject(new Error('nothing')), TIMEOUT_MS);
    socket.on('error', (error: NodeJS.ErrnoException) => {
      // The path turned out to be narrower: the next one is cut accordingly.
      if (error.code !== 'EMSGSIZE') reject(error);
    });
    socket.on('message', (message) => {
      clearTimeout(timer);
      clearInterval(again);
      socket.close();
      resolve(message.toString());
    });
    socket.connect(port, address, send);
  });
}

async function ask(target: string, port: number, bytes: number): Promise<unknown> {
  const [protocol, address = ''] = target.split('/');
  try {
    return JSON.parse(await (protocol === 'tcp' ? askTcp : askUdp)(address, port, bytes));
  } catch (error) {
    return (error as Error).message;
  }
}

const [verb, first = '', ...rest] = process.argv.slice(2);
const port = Number(rest.pop());
if (verb === 'serve') {
  serve(first, port);
} else {
  const answers = await Promise.all(rest.map((target) => ask(target, port, Number(first))));
  process.stdout.write(`${JSON.stringify(answers)}\n`, () => process.exit());
}
