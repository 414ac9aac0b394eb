/**
 * Counts datagrams: `udp-sink.ts ADDRESS PORT SECONDS`. Prints `ready`, then, SECONDS after a tenth of
 * a second of warm-up that the first datagram begins, one line of JSON: packets, bytes and seconds.
 */
import { messageBuffer, receive, udpReceiver } from './socket.ts';

const [address, port, seconds] = process.argv.slice(2);
const ROOM = 65536;
const WARM_UP_MS = 100;
const fd = udpReceiver(address!, Number(port), 3000);
const buffer = messageBuffer(ROOM);
process.stdout.write('ready\n');

let packets = 0;
let bytes = 0;
let begin = 0;
let now = 0;
if (receive(fd, buffer, ROOM, 0) >= 0) {
  begin = performance.now() + WARM_UP_MS;
  while (performance.now() < begin && receive(fd, buffer, ROOM, 0) >= 0);
  begin = performance.now();
  const end = begin + Number(seconds) * 1000;
  for (;;) {
    const length = receive(fd, buffer, ROOM, 0);
    if (length < 0) break;
    packets++;
    bytes += length;
    // The clock costs a tenth of a receive: once in 16.
    if ((packets & 15) === 0 && performance.now() >= end) break;
  }
  now = performance.now();
}
process.stdout.write(`${JSON.stringify({ packets, bytes, seconds: (now - begin) / 1000 })}\n`);
