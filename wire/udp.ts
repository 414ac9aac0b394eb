/** UDP header (RFC 768). */
export const PROTOCOL_UDP = 17;
export const UDP_HEADER_BYTES = 8;
export const UDP_CHECKSUM = 6;

export const readDestinationPort = (view: DataView, at: number): number => view.getUint16(at + 2);
export const readUdpLength = (view: DataView, at: number): number => view.getUint16(at + 4);
