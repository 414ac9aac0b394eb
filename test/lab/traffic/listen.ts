/** `listen.ts IFACE`: prints `ready`, then each packet on the link, from its IP header on, as a line of hexadecimal. */
import { writeSync } from 'node:fs';
import { SystemCallError } from '../../../linux/errno.ts';
import { addressOf, bindSocket, errno, recv, socket } from '../../../linux/libc.ts';
import { openNetlink } from '../../../linux/netlink.ts';
import { findLink } from '../../../linux/rtnetlink.ts';

const AF_PACKET = 17;
/** Without the link's header. */
const SOCK_DGRAM = 2;
const ETH_P_ALL = 3;
const PACKET_BYTES = 65_536;

const [iface = ''] = process.argv.slice(2);
using netlink = openNetlink();
const link = findLink(netlink, iface);
if (link === null) throw new Error(`no interface ${iface}`);
const fd = socket(AF_PACKET, SOCK_DGRAM, 0);
// struct sockaddr_ll { u16 family; be16 protocol; int index; ... }
const name = new DataView(new SharedArrayBuffer(20));
name.setUint16(0, AF_PACKET, true);
name.setUint16(2, ETH_P_ALL);
name.setInt32(4, link.index, true);
if (fd < 0 || bindSocket(fd, addressOf(name.buffer), 20) < 0) {
  throw new SystemCallError('opening a packet socket', errno());
}
const packet = new SharedArrayBuffer(PACKET_BYTES);
writeSync(1, 'ready\n');
for (;;) {
  const bytes = recv(fd, addressOf(packet), PACKET_BYTES, 0);
  if (bytes < 0) throw new SystemCallError('receiving a packet', errno());
  writeSync(1, `${Buffer.from(packet, 0, bytes).toString('hex')}\n`);
}
