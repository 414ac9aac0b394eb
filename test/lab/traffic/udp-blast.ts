/** Sends datagrams as fast as one thread can, until it is ended: `udp-blast.ts ADDRESS PORT BYTES`. */
import { messageBuffer, send, udpSender } from './socket.ts';

const [address, port, bytes] = process.argv.slice(2);
const fd = udpSender(address!, Number(port));
const length = Number(bytes);
const buffer = messageBuffer(length);
// An error is a lost datagram (no buffer, or an ICMP answer), which the receiver's count shows.
for (;;) send(fd, buffer, length, 0);
