/**
 * `tcp-connect.ts serve PORT` takes connections and ends them; `tcp-connect.ts ask COUNT ADDRESS PORT` makes
 * so many, one after the other, and prints how long each took to stand, microseconds: {"p50","p99"}.
 */
import { once } from 'node:events';
import { connect, createServer } from 'node:net';

const [verb, ...words] = process.argv.slice(2);
if (verb === 'serve') {
  createServer((socket) => {
    socket.on('error', () => socket.destroy()).resume();
    socket.end();
  }).listen(Number(words[0]), '::', () => process.stdout.write('ready\n'));
} else {
  const [count, address, port] = words;
  const times: number[] = [];
  for (let i = 0; i < Number(count); i++) {
    const begin = process.hrtime.bigint();
    const socket = connect({ host: address!, port: Number(port), noDelay: true });
    await once(socket, 'connect');
    times.push(Number(process.hrtime.bigint() - begin) / 1000);
    // The other end closes first, and keeps what remains of it: ports here do not run out.
    socket.resetAndDestroy();
  }
  times.sort((a, b) => a - b);
  const at = (share: number): number => times[Math.floor(times.length * share)]!;
  process.stdout.write(`${JSON.stringify({ p50: at(0.5), p99: at(0.99) })}\n`);
}
