import test from 'ava';
import { protocolName, tcpFlagsText } from './protocol-names.ts';

for (const [number, name] of [
  [1, 'ICMP'],
  [6, 'TCP'],
  [17, 'UDP'],
  [58, 'ICMPv6'],
  [132, 'SCTP'],
  [0, null],
  [47, null],
] as const) {
  test(`protocol ${number}`, (t) => t.is(protocolName(number), name));
}

// RFC 9293 section 3.1.
for (const [bits, text] of [
  [0x00, ''],
  [0x02, 'SYN'],
  [0x12, 'SYN,ACK'],
  [0x14, 'RST,ACK'],
  [0x19, 'FIN,PSH,ACK'],
  [0xc2, 'SYN'],
] as const) {
  test(`TCP flags 0x${bits.toString(16)}`, (t) => t.is(tcpFlagsText(bits), text));
}
