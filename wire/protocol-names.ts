/** Protocols and TCP flags as people write them. */
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6 } from './icmp.ts';
import { PROTOCOL_SCTP } from './sctp.ts';
import { PROTOCOL_TCP, TCP_ACK, TCP_FIN, TCP_PSH, TCP_RST, TCP_SYN } from './tcp.ts';
import { PROTOCOL_UDP } from './udp.ts';

const PROTOCOLS: Readonly<Record<number, string>> = {
  [PROTOCOL_ICMP]: 'ICMP',
  [PROTOCOL_TCP]: 'TCP',
  [PROTOCOL_UDP]: 'UDP',
  [PROTOCOL_ICMPV6]: 'ICMPv6',
  [PROTOCOL_SCTP]: 'SCTP',
};
const TCP_FLAGS = [
  ['SYN', TCP_SYN],
  ['FIN', TCP_FIN],
  ['RST', TCP_RST],
  ['PSH', TCP_PSH],
  ['ACK', TCP_ACK],
] as const;

/** Null: none of those that pods use. @param protocol  IANA's number */
export const protocolName = (protocol: number): string | null => PROTOCOLS[protocol] ?? null;

/** `SYN,ACK` */
export const tcpFlagsText = (bits: number): string =>
  TCP_FLAGS.filter(([, bit]) => (bits & bit) !== 0)
    .map(([name]) => name)
    .join(',');
