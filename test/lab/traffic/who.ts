/**
 * Who answers, and whom it sees. `who.ts serve NAME PORT` prints `ready` and answers each TCP connection
 * and each datagram with NAME and the client's address. `who.ts ask PROTOCOL/ADDRESS... PORT` prints, as
 * one JSON array, what each said; an error's text instead where nothing did within two seconds.
 */
import { createSocket } from 'node:dgram';
import { connect, createServer } from 'node:net';

const TIMEOUT_MS = 2000;

/** IPv4 clients of a socket for both families come as ::ffff:192.0.2.1. */
const plain = (address = ''): string => address.replace('::ffff:', '');

function serve(name: string, port: number): void {
  const answer = (address?: string): string => JSON.stringify({ name, client: plain(address) });
  const tcp = createServer((socket) => {
    // A client that went away is none of ours.
    socket.on('error', () => socket.destroy());
    socket.end(answer(socket.remoteAddress));
  });
  const udp = createSocket('udp6', (_, from) =>
    udp.send(answer(from.address), from.port, from.address),
  );
  udp.bind(port, () => tcp.listen(port, '::', () => process.stdout.write('ready\n')));
}

function askTcp(address: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = connect({ host: address, port, timeout: TIMEOUT_MS });
    socket.setEncoding('utf8').on('data', (piece: string) => (text += piece));
    socket.on('end', () => resolve(text)).on('error', reject);
    socket.on('timeout', () => socket.destroy(new Error('nothing')));
  });
}

/** Connected, so that an answer from another address is none. */
function askUdp(address: string, port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    const timer = setTimeout(() => reject(new Error('nothing')), TIMEOUT_MS);
    socket.on('error', reject).on('message', (message) => {
      clearTimeout(timer);
      socket.close();
      resolve(message.toString());
    });
    socket.connect(port, address, () => socket.send('?'));
  });
}

async function ask(target: string, port: number): Promise<unknown> {
  const [protocol, address = ''] = target.split('/');
  try {
    return JSON.parse(await (protocol === 'tcp' ? askTcp : askUdp)(address, port));
  } catch (error) {
    return (error as Error).message;
  }
}

const [verb, ...rest] = process.argv.slice(2);
const port = Number(rest.pop());
if (verb === 'serve') {
  serve(rest[0]!, port);
} else {
  const answers = await Promise.all(rest.map((target) => ask(target, port)));
  process.stdout.write(`${JSON.stringify(answers)}\n`, () => process.exit());
}
