/**
 * Asks and answers from within a namespace, by the hundred: `probe.ts SOCKET PORT...` answers TCP
 * connections and datagrams on these ports with `<port> <client's address>`, and takes questions as lines of
 * JSON on the unix socket SOCKET, answered in any order by lines of the same id.
 */
import { createSocket } from 'node:dgram';
import { type Socket, connect, createServer } from 'node:net';
import { createInterface } from 'node:readline';

export interface Question {
  readonly id: number;
  readonly protocol: 'TCP' | 'UDP';
  readonly address: string;
  readonly port: number;
  readonly timeoutMs: number;
  /** The client's port; any unless given. */
  readonly sourcePort?: number;
}

export interface ProbeAnswer {
  readonly id: number;
  /** What came back; `refused` for RST and ICMP, `nothing` for silence. */
  readonly got: string;
}

const plain = (address = ''): string => address.replace('::ffff:', '');

function askTcp({ address, port, timeoutMs, sourcePort }: Question): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const socket = connect({
      host: address,
      port,
      ...(sourcePort === undefined ? {} : { localPort: sourcePort }),
    });
    const timer = setTimeout(() => {
      socket.destroy();
      resolve('nothing');
    }, timeoutMs);
    socket.setEncoding('utf8').on('data', (piece: string) => (text += piece));
    socket.on('error', ({ code }: NodeJS.ErrnoException) => {
      text = code === 'ECONNREFUSED' ? 'refused' : `${code}`;
    });
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(text);
    });
  });
}

/** Connected, so that an answer from another address is none, and ICMP is heard. */
function askUdp({ address, port, timeoutMs, sourcePort }: Question): Promise<string> {
  return new Promise((resolve) => {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    const finish = (got: string): void => {
      clearTimeout(timer);
      socket.close();
      resolve(got);
    };
    const timer = setTimeout(() => finish('nothing'), timeoutMs);
    socket.on('error', ({ code }: NodeJS.ErrnoException) =>
      finish(code === 'ECONNREFUSED' ? 'refused' : `${code}`),
    );
    socket.on('message', (message) => finish(message.toString()));
    const open = (): void => socket.connect(port, address, () => socket.send('?'));
    if (sourcePort === undefined) open();
    else socket.bind(sourcePort, open);
  });
}

function serve(port: number): void {
  createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.end(`${port} ${plain(socket.remoteAddress)}`);
  }).listen(port, '::');
  const udp = createSocket('udp6', (_message, { address, port: theirs }) =>
    udp.send(`${port} ${plain(address)}`, theirs, address),
  );
  // An answer that nobody takes.
  udp.on('error', () => undefined);
  udp.bind(port);
}

function converse(client: Socket): void {
  client.on('error', () => client.destroy());
  createInterface({ input: client }).on('line', (line) => {
    const question = JSON.parse(line) as Question;
    const asked = question.protocol === 'TCP' ? askTcp(question) : askUdp(question);
    void asked.then((got) => client.write(`${JSON.stringify({ id: question.id, got })}\n`));
  });
}

if (import.meta.main) {
  const [path, ...ports] = process.argv.slice(2);
  for (const port of ports) serve(Number(port));
  createServer(converse).listen(path, () => process.stdout.write('ready\n'));
}
