/** Single crafted packets, sent by raw-socket: what no socket of the kernel's would send. */
import { once } from 'node:events';
import test from 'ava';
import raw from 'raw-socket';
import { checksumReference } from '../../wire/checksum/checksum.ts';
import { readHeaderBytes } from '../../wire/ipv4.ts';

const ECHO_REQUEST = 8;
const ECHO_REPLY = 0;

/** ICMP echo (RFC 792): type, code, checksum, identifier, sequence number, and a text. */
function echoRequest(text: string): Buffer {
  const packet = Buffer.concat([
    Buffer.from([ECHO_REQUEST, 0, 0, 0, 0, 1, 0, 1]),
    Buffer.from(text),
  ]);
  packet.writeUInt16BE(~checksumReference(packet) & 0xffff, 2);
  return packet;
}

test('an echo request made by hand is answered by the kernel', async (t) => {
  if (process.getuid!() !== 0) {
    t.log('not root: a raw socket cannot be opened');
    t.pass();
    return;
  }
  t.timeout(10_000);
  const text = `weft ${process.pid}`;
  const socket = raw.createSocket({ protocol: raw.Protocol.ICMP });
  try {
    const request = echoRequest(text);
    const sent = await new Promise<number>((resolve, reject) => {
      socket.send(request, 0, request.length, '127.0.0.1', (error, bytes) =>
        error === null || error === undefined ? resolve(bytes) : reject(error),
      );
    });
    t.is(sent, request.length);
    // The socket sees every ICMP packet of this machine: the request on its way in, and others' too.
    for (;;) {
      const [packet] = (await once(socket, 'message')) as [Buffer];
      const message = packet.subarray(
        readHeaderBytes(new DataView(packet.buffer, packet.byteOffset), 0),
      );
      if (message[0] !== ECHO_REPLY || message.subarray(8).toString() !== text) continue;
      t.is(checksumReference(message), 0xffff);
      break;
    }
  } finally {
    socket.close();
  }
});
