/** SCTP common header and first chunk (RFC 9260 sections 3.1 and 3.2). */
export const PROTOCOL_SCTP = 132;
export const SCTP_HEADER_BYTES = 12;
const SCTP_CHECKSUM = 8;

/** Type of the first chunk; of a packet without chunks, which no peer sends, 255. */
export const readFirstChunk = (view: DataView, at: number, end: number): number =>
  at + SCTP_HEADER_BYTES < end ? view.getUint8(at + SCTP_HEADER_BYTES) : 255;

/** CRC32c by bytes, reflected polynomial 0x82f63b78 (RFC 9260 appendix A). */
const CRC = Int32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  return crc;
});

/** Writes the checksum of the packet from `at` to `end`: it covers ports, but no addresses. */
export function finishSctp(view: DataView, at: number, end: number): void {
  view.setUint32(at + SCTP_CHECKSUM, 0);
  let crc = -1;
  for (let p = at; p < end; p++) crc = CRC[(crc ^ view.getUint8(p)) & 255]! ^ (crc >>> 8);
  view.setUint32(at + SCTP_CHECKSUM, ~crc >>> 0, true);
}
