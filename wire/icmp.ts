/** ICMP (RFC 792, RFC 1191) and ICMPv6 (RFC 4443) errors that an overlay returns to a pod. */
export const PROTOCOL_ICMP = 1;
export const PROTOCOL_ICMPV6 = 58;
export const ICMP_HEADER_BYTES = 8;

export const ICMP_UNREACHABLE = 3;
/** Host unreachable. */
export const ICMP_CODE_HOST = 1;
/** Port unreachable (RFC 792). */
export const ICMP_CODE_PORT = 3;
/** Fragmentation needed and DF set; bytes 6..7 carry the next hop's MTU (RFC 1191 section 4). */
export const ICMP_CODE_TOO_BIG = 4;

export const ICMPV6_UNREACHABLE = 1;
/** Address unreachable (RFC 4443 section 3.1). */
export const ICMPV6_CODE_ADDRESS = 3;
/** Port unreachable (RFC 4443 section 3.1). */
export const ICMPV6_CODE_PORT = 4;
/** Packet too big; bytes 4..7 carry the MTU (RFC 4443 section 3.2). */
export const ICMPV6_TOO_BIG = 2;

export const ICMP_ECHO_REPLY = 0;
export const ICMP_ECHO = 8;
export const ICMPV6_ECHO = 128;
export const ICMPV6_ECHO_REPLY = 129;
/** Of an echo or its reply. */
export const readEchoId = (view: DataView, at: number): number => view.getUint16(at + 4);

/** Errors are never answered with errors (RFC 1122 section 3.2.2). */
export const isIcmpError = (type: number): boolean =>
  type === 3 || type === 4 || type === 5 || type === 11 || type === 12;
/** ICMPv6 types below 128 are errors (RFC 4443 section 2.1). */
export const isIcmpv6Error = (type: number): boolean => type < 128;
