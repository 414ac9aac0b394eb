/**
 * A stream of numbered datagrams at a steady rate. `udp-stream.ts receive ADDRESS PORT` prints `ready`, and
 * when nothing has come for a second after the first, `{"received","lastNumber","longestGap"}`, the gap in
 * datagrams; `udp-stream.ts send ADDRESS PORT RATE SECONDS` prints `{"sent"}` when it ends.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { addressOf } from '../../../linux/libc.ts';
import { receive, send, udpReceiver, udpSender } from './socket.ts';

const BYTES = 64;
const QUIET_MS = 1000;
const EVERY_MS = 1;

export interface Received {
  /** Each number once. */
  readonly received: number;
  readonly lastNumber: number;
  /** The most numbers missing in a row. */
  readonly longestGap: number;
}

const [verb, address, port, rate, seconds] = process.argv.slice(2);
const message = new DataView(new SharedArrayBuffer(BYTES));
const at = addressOf(message.buffer);

if (verb === 'receive') {
  const fd = udpReceiver(address!, Number(port), QUIET_MS);
  process.stdout.write('ready\n');
  while (receive(fd, at, BYTES, 0) < 0);
  const numbers = new Set<number>();
  do numbers.add(message.getUint32(0));
  while (receive(fd, at, BYTES, 0) >= 0);
  const sorted = [...numbers].toSorted((a, b) => a - b);
  let [lastNumber, longestGap] = [-1, 0];
  for (const number of sorted) {
    longestGap = Math.max(longestGap, number - lastNumber - 1);
    lastNumber = number;
  }
  const result: Received = { received: sorted.length, lastNumber, longestGap };
  process.stdout.write(`${JSON.stringify(result)}\n`);
} else {
  const fd = udpSender(address!, Number(port));
  const perMs = Number(rate) / 1000;
  const begin = performance.now();
  let sent = 0;
  for (;;) {
    const passedMs = performance.now() - begin;
    if (passedMs > Number(seconds) * 1000) break;
    // One late turn of the clock is made up for at once, so that the rate holds.
    for (const due = Math.floor(passedMs * perMs); sent < due; sent++) {
      message.setUint32(0, sent);
      send(fd, at, BYTES, 0);
    }
    await sleep(EVERY_MS);
  }
  process.stdout.write(`${JSON.stringify({ sent })}\n`);
}
