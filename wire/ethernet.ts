/** Ethernet II header: destination, source, EtherType; no 802.1Q tag (RFC 7348 section 5 allows none inside). */
export const ETHERNET_HEADER_BYTES = 14;
export const ETHERTYPE_IPV4 = 0x0800;
export const ETHERTYPE_IPV6 = 0x86dd;

export const readDestinationHigh = (view: DataView, at: number): number => view.getUint16(at);
export const readDestinationLow = (view: DataView, at: number): number => view.getUint32(at + 2);
export const readEtherType = (view: DataView, at: number): number => view.getUint16(at + 12);

/** A MAC as its first two and last four bytes, so that each half fits an integer. */
export function writeEthernet(
  view: DataView,
  at: number,
  destination: number,
  source: number,
  etherType: number,
): void {
  view.setUint16(at, Math.floor(destination / 2 ** 32));
  view.setUint32(at + 2, destination >>> 0);
  view.setUint16(at + 6, Math.floor(source / 2 ** 32));
  view.setUint32(at + 8, source >>> 0);
  view.setUint16(at + 12, etherType);
}
