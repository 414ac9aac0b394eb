/**
 * Verified traffic between two pods. Every byte and every datagram's place is compared.
 *
 *     exchange.ts serve                            both ports, both families; prints `ready`
 *     exchange.ts tcp ADDRESS BYTES [on-signal]    both ends send BYTES at once
 *     exchange.ts udp ADDRESS BYTES COUNT SEGMENTS so many datagrams, so many in one send, come back in order
 *     exchange.ts all ADDRESS...                   20 MB each way, then datagrams that come back in order:
 *                                                  small and large, alone and many in one send
 *
 * With `on-signal`, the client prints `flowing` after BYTES, and goes on until BYTES more than it had
 * sent when SIGUSR1 came. A client prints a line of JSON for each part.
 */
import { createHash } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { type Socket, connect, createServer } from 'node:net';
import { SystemCallError } from '../../linux/errno.ts';
import { errno, setsockopt, addressOf } from '../../linux/libc.ts';
import { SOL_UDP, UDP_SEGMENT } from '../../linux/udp.ts';
import { receive, send, udpSender } from '../lab/traffic/socket.ts';

const TCP_PORT = 7000;
const UDP_PORT = 7001;
const SERVER_BYTES = 20_000_000;
const DIGEST_BYTES = 32;
const ALL_BYTES = 20_000_000;
/** Bytes, how many in all, how many in one send. */
const ALL_DATAGRAMS = [
  [1, 64, 1],
  [1, 320, 32],
  [1350, 64, 1],
  [1350, 320, 32],
] as const;

/** No multiple of any segment size: bytes that come in a wrong place are other bytes. */
const pattern = Buffer.from(
  Uint8Array.from({ length: 65_521 }, (_, i) => (i * 31 + (i >> 8) * 7) & 0xff),
);

/** `bytes` of the pattern, more as long as `goOn` says so. */
function* stream(bytes: () => number): Generator<Buffer> {
  for (let sent = 0; sent < bytes();) {
    const piece = pattern.subarray(0, Math.min(pattern.length, bytes() - sent));
    yield piece;
    sent += piece.length;
  }
}

const digestOf = (bytes: number): Buffer => {
  const hash = createHash('sha256');
  for (const piece of stream(() => bytes)) hash.update(piece);
  return hash.digest();
};

/** A request's first line says how much the server is to send back. */
async function answer(socket: Socket): Promise<void> {
  const hash = createHash('sha256');
  const sending = Promise.withResolvers<void>();
  let asked = false;
  const ended = (async () => {
    for await (const piece of socket as AsyncIterable<Buffer>) {
      let rest = piece;
      if (!asked) {
        asked = true;
        const bytes = piece.readUInt32BE(0);
        rest = piece.subarray(4);
        void (async () => {
          for (const out of stream(() => bytes)) if (!socket.write(out)) await drained(socket);
          sending.resolve();
        })();
      }
      hash.update(rest);
    }
  })();
  await ended;
  await sending.promise;
  socket.end(hash.digest());
}

const drained = (socket: Socket): Promise<void> =>
  new Promise((resolve) => {
    socket.once('drain', resolve);
    socket.once('close', resolve);
  });

function serve(): void {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    answer(socket).catch((error: unknown) => {
      // The client says what is missing; its end of the story is the one that counts.
      process.stderr.write(`${String(error)}\n`);
    });
  });
  const echo = createSocket({ type: 'udp6', recvBufferSize: 1 << 20, sendBufferSize: 1 << 20 });
  echo.on('message', (message, from) => echo.send(message, from.port, from.address));
  echo.bind(UDP_PORT, '::', () => {
    server.listen(TCP_PORT, '::', () => process.stdout.write('ready\n'));
  });
}

async function tcp(address: string, bytes: number, onSignal: boolean): Promise<unknown> {
  let wanted = onSignal ? Infinity : bytes;
  let sent = 0;
  const back = onSignal ? SERVER_BYTES : bytes;
  process.on('SIGUSR1', () => (wanted = sent + bytes));
  const socket = connect({ host: address, port: TCP_PORT, allowHalfOpen: true });
  const received = createHash('sha256');
  const tail: Buffer[] = [];
  let got = 0;
  const reading = (async () => {
    for await (const piece of socket as AsyncIterable<Buffer>) {
      const body = Math.max(0, Math.min(piece.length, back - got));
      received.update(piece.subarray(0, body));
      if (body < piece.length) tail.push(piece.subarray(body));
      got += piece.length;
    }
  })();
  const first = Buffer.alloc(4);
  first.writeUInt32BE(back);
  socket.write(first);
  let said = false;
  for (const piece of stream(() => wanted)) {
    sent += piece.length;
    if (!socket.write(piece)) await drained(socket);
    if (socket.destroyed) break;
    if (onSignal && !said && sent > bytes) {
      said = true;
      process.stdout.write('flowing\n');
    }
  }
  socket.end();
  await reading;
  return {
    sent,
    received: got - DIGEST_BYTES,
    intact: received.digest().equals(digestOf(back)) && Buffer.concat(tail).equals(digestOf(sent)),
  };
}

function udp(address: string, bytes: number, count: number, segments: number): unknown {
  const fd = udpSender(address, UDP_PORT);
  const setting = (level: number, name: number, words: readonly number[]): void => {
    const cells = Int32Array.from(words);
    const shared = new Int32Array(new SharedArrayBuffer(cells.byteLength));
    shared.set(cells);
    if (setsockopt(fd, level, name, addressOf(shared.buffer), cells.byteLength) < 0) {
      throw new SystemCallError('setting up a socket', errno());
    }
  };
  // SO_RCVTIMEO of 2 s.
  setting(1, 20, [2, 0, 0, 0]);
  if (segments > 1) setting(SOL_UDP, UDP_SEGMENT, [bytes]);
  const out = new Uint8Array(new SharedArrayBuffer(bytes * segments));
  const back = new Uint8Array(new SharedArrayBuffer(bytes + 1));
  let received = 0;
  let wrong = 0;
  const at = (number: number, i: number): number =>
    i === 0 ? number & 0xff : i === 1 ? (number >> 8) & 0xff : (number * 7 + i * 31) & 0xff;
  for (let number = 0; number < count; number += segments) {
    for (let s = 0; s < segments; s++) {
      for (let i = 0; i < bytes; i++) out[s * bytes + i] = at(number + s, i);
    }
    send(fd, addressOf(out.buffer), out.length, 0);
    for (let s = 0; s < segments; s++) {
      const length = receive(fd, addressOf(back.buffer), back.length, 0);
      if (length < 0) return { sent: number + segments, received, wrong };
      received++;
      if (length !== bytes || back.subarray(0, bytes).some((it, i) => it !== at(number + s, i))) {
        wrong++;
      }
    }
  }
  return { sent: Math.ceil(count / segments) * segments, received, wrong };
}

const [mode, ...words] = process.argv.slice(2);
const print = (result: unknown): boolean => process.stdout.write(`${JSON.stringify(result)}\n`);
if (mode === 'serve') {
  serve();
} else if (mode === 'tcp') {
  print(await tcp(words[0]!, Number(words[1]), words[2] === 'on-signal'));
  process.exit(0);
} else if (mode === 'udp') {
  const [bytes, count, segments] = words.slice(1).map(Number);
  print(udp(words[0]!, bytes!, count!, segments!));
  process.exit(0);
} else {
  for (const address of words) {
    print({ tcp: await tcp(address, ALL_BYTES, false) });
    for (const [bytes, count, segments] of ALL_DATAGRAMS) {
      print({ bytes, segments, udp: udp(address, bytes, count, segments) });
    }
  }
  process.exit(0);
}
