/**
 * TCP ping-pong with `tcp-echo.ts`: `tcp-ping.ts ADDRESS PORT BYTES SECONDS`. Prints one line of JSON:
 * rounds, and the 50th and 99th percentile of the whole round trip in microseconds.
 */
import { messageBuffer, receive, send, tcpConnection } from './socket.ts';

const [address, port, bytes, seconds] = process.argv.slice(2);
const WARM_UP_ROUNDS = 200;
const length = Number(bytes);
const fd = tcpConnection(address!, Number(port));
const buffer = messageBuffer(length);
const samples = new Float64Array(1 << 20);

function round(): void {
  let sent = 0;
  while (sent < length) {
    const count = send(fd, buffer, length - sent, 0);
    if (count <= 0) throw new Error(`connection to ${address} broke while sending`);
    sent += count;
  }
  let received = 0;
  while (received < length) {
    const count = receive(fd, buffer, length - received, 0);
    if (count <= 0) throw new Error(`connection to ${address} broke while receiving`);
    received += count;
  }
}

for (let i = 0; i < WARM_UP_ROUNDS; i++) round();
let rounds = 0;
const end = performance.now() + Number(seconds) * 1000;
for (let last = performance.now(); last < end && rounds < samples.length;) {
  round();
  const now = performance.now();
  samples[rounds++] = (now - last) * 1000;
  last = now;
}
const sorted = samples.subarray(0, rounds).sort();
const percentile = (share: number): number => sorted[Math.floor((rounds - 1) * share)]!;
const p50Us = percentile(0.5);
const p99Us = percentile(0.99);
process.stdout.write(`${JSON.stringify({ rounds, p50Us, p99Us })}\n`);
