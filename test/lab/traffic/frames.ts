/** `frames.ts IFACE HEX...`: puts whole Ethernet frames on a link, as they are (packet(7)). */
import { SystemCallError } from '../../../linux/errno.ts';
import { addressOf, bindSocket, close, errno, send, socket } from '../../../linux/libc.ts';
import { findLink } from '../../../linux/rtnetlink.ts';
import { openNetlink } from '../../../linux/netlink.ts';

const AF_PACKET = 17;
const SOCK_RAW = 3;

const [iface = '', ...frames] = process.argv.slice(2);
using netlink = openNetlink();
const link = findLink(netlink, iface);
if (link === null) throw new Error(`no interface ${iface}`);
const fd = socket(AF_PACKET, SOCK_RAW, 0);
// struct sockaddr_ll { u16 family; u16 protocol; int index; ... }
const name = new DataView(new SharedArrayBuffer(20));
name.setUint16(0, AF_PACKET, true);
name.setInt32(4, link.index, true);
if (fd < 0 || bindSocket(fd, addressOf(name.buffer), 20) < 0) {
  throw new SystemCallError('opening a packet socket', errno());
}
for (const hex of frames) {
  const bytes = Buffer.from(hex, 'hex');
  const shared = new Uint8Array(new SharedArrayBuffer(bytes.length));
  shared.set(bytes);
  if (send(fd, addressOf(shared.buffer), bytes.length, 0) < 0) {
    throw new SystemCallError('sending a frame', errno());
  }
}
close(fd);
