/**
 * What runs inside the pods of `weft check`, by itself:
 *
 *     check-echo.ts serve                  answers on CHECK_PORT, prints `ready`, ends when its stdin does
 *     check-echo.ts tcp ADDRESS BYTES      sends so many, and reads as many back
 *     check-echo.ts udp ADDRESS BYTES      the same in one datagram, sent again when it is lost
 *
 * Who asks prints a line, and ends with exit code 0 when what came back is what was sent.
 */
import { randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { type Socket, connect, createServer } from 'node:net';

/** Of a pod that serves, TCP and UDP. */
export const CHECK_PORT = 8477;

const SILENT_MS = 3000;
const DATAGRAM_AGAIN_MS = 500;
const CONNECTIONS_MAX = 64;
/** How questions and answers begin: an answer is not answered, so that no two who serve talk for ever. */
const QUESTION = 0x3f;
const ANSWER = 0x21;

function answerConnection(socket: Socket): void {
  // Who went away, or says nothing, is none of ours.
  socket.on('error', () => socket.destroy());
  socket.setTimeout(SILENT_MS, () => socket.destroy());
  socket.pipe(socket);
}

async function serve(): Promise<void> {
  const tcp = createServer({ allowHalfOpen: true }, answerConnection);
  tcp.maxConnections = CONNECTIONS_MAX;
  for (const type of ['udp4', 'udp6'] as const) {
    const udp = createSocket({ type, ipv6Only: type === 'udp6' });
    udp.on('message', (message, { port, address }) => {
      if (message[0] !== QUESTION) return;
      message[0] = ANSWER;
      udp.send(message, port, address);
    });
    // Without IPv6 there is one family only; and an answer that cannot be sent is one that is lost.
    udp.on('error', () => 'who asks says that nothing came back');
    udp.bind(CHECK_PORT);
  }
  // Of both families, where there are two.
  tcp.listen(CHECK_PORT);
  await once(tcp, 'listening');
  process.stdin.on('end', () => process.exit()).resume();
  process.stdout.write('ready\n');
}

/** @returns in how many milliseconds @throws Error that says what went wrong */
async function askTcp(address: string, bytes: number): Promise<number> {
  const sent = randomBytes(bytes);
  const startMs = performance.now();
  const socket = connect({ host: address, port: CHECK_PORT, timeout: SILENT_MS });
  socket.on('timeout', () => {
    const what = socket.connecting ? 'no connection' : 'nothing more came back';
    socket.destroy(new Error(`${what} within ${SILENT_MS / 1000} s`));
  });
  socket.end(sent);
  const pieces: Buffer[] = [];
  let got = 0;
  for await (const piece of socket as AsyncIterable<Buffer>) {
    pieces.push(piece);
    got += piece.length;
    if (got > bytes) break;
  }
  if (got !== bytes) throw new Error(`${got} of ${bytes} bytes came back`);
  if (!Buffer.concat(pieces).equals(sent)) throw new Error('other bytes came back');
  return performance.now() - startMs;
}

/** @throws Error that says what went wrong */
async function askUdp(address: string, bytes: number): Promise<number> {
  const sent = randomBytes(Math.max(bytes, 1));
  sent[0] = QUESTION;
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  socket.on('message', resolve).on('error', reject);
  // Connected, so that an answer from another address is none.
  socket.connect(CHECK_PORT, address);
  await Promise.race([once(socket, 'connect'), promise]);
  let sentMs = 0;
  const send = (): void => {
    sentMs = performance.now();
    socket.send(sent);
  };
  send();
  const again = setInterval(send, DATAGRAM_AGAIN_MS);
  const given = setTimeout(
    () => reject(new Error(`nothing came back within ${SILENT_MS / 1000} s`)),
    SILENT_MS,
  );
  try {
    const got = await promise;
    if (got[0] !== ANSWER || !got.subarray(1).equals(sent.subarray(1))) {
      throw new Error('other bytes came back');
    }
    return performance.now() - sentMs;
  } finally {
    clearInterval(again);
    clearTimeout(given);
    socket.close();
  }
}

if (import.meta.main) {
  const [verb, address = '', bytes = '0'] = process.argv.slice(2);
  if (verb === 'serve') {
    await serve();
  } else {
    const ask = verb === 'tcp' ? askTcp : askUdp;
    try {
      process.stdout.write(`${(await ask(address, Number(bytes))).toFixed(1)} ms\n`);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      process.stdout.write(`${code === 'ECONNREFUSED' ? 'refused' : message}\n`);
      process.exitCode = 1;
    }
  }
}
