/** TCP header (RFC 9293 section 3.1). */
export const PROTOCOL_TCP = 6;
export const TCP_HEADER_BYTES = 20;
export const TCP_CHECKSUM = 16;

export const TCP_FIN = 0x01;
export const TCP_SYN = 0x02;
export const TCP_RST = 0x04;
export const TCP_PSH = 0x08;
export const TCP_ACK = 0x10;
export const TCP_CWR = 0x80;

/** Source port in the upper half, destination port in the lower; UDP and SCTP have theirs there too. */
export const readPorts = (view: DataView, at: number): number => view.getUint32(at);
export const readSequence = (view: DataView, at: number): number => view.getUint32(at + 4);
export const readAcknowledgement = (view: DataView, at: number): number => view.getUint32(at + 8);
export const readDataOffsetBytes = (view: DataView, at: number): number =>
  (view.getUint8(at + 12) >>> 4) << 2;
export const readTcpFlags = (view: DataView, at: number): number => view.getUint8(at + 13);
