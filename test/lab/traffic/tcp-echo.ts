/** Sends back what comes, one connection after the other: `tcp-echo.ts ADDRESS PORT`. Prints `ready`. */
import { close } from '../../../linux/libc.ts';
import { accept, messageBuffer, receive, send, tcpListener } from './socket.ts';

const [address, port] = process.argv.slice(2);
const ROOM = 65536;
const listener = tcpListener(address!, Number(port));
const buffer = messageBuffer(ROOM);
process.stdout.write('ready\n');
for (;;) {
  const fd = accept(listener);
  for (;;) {
    const length = receive(fd, buffer, ROOM, 0);
    if (length <= 0 || send(fd, buffer, length, 0) !== length) break;
  }
  close(fd);
}
