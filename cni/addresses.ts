/**
 * The form of addresses only: they stay text, and the daemon, which gives them out, parses them. (Wire's
 * parsers would triple the time in which the plugin starts.)
 */
export type Family = 4 | 6;

const IPV4 = /^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.(?!$)|$)){4}$/;

/** Of an address, with or without a prefix length (`10.244.1.2`, `fd00::2/64`); null: it is neither. */
export function familyOf(text: string): Family | null {
  const match = /^([0-9a-fA-F:.]{2,45})(?:\/([0-9]{1,3}))?$/.exec(text);
  if (match === null) return null;
  const [, address = '', length = '0'] = match;
  if (IPV4.test(address)) return Number(length) <= 32 ? 4 : null;
  const isIpv6 = address.includes(':') && URL.canParse(`http://[${address}]/`);
  return isIpv6 && Number(length) <= 128 ? 6 : null;
}

export const withoutLength = (text: string): string => text.split('/')[0]!;

/** What is wrong with addresses asked for together, or null. */
export function ipsComplaint(ips: readonly string[]): string | null {
  const families = ips.map((it) => familyOf(it));
  const wrong = families.indexOf(null);
  if (wrong !== -1) return `${JSON.stringify(ips[wrong]!.slice(0, 64))} is not an IP address`;
  if (new Set(families).size !== families.length) return 'asks for two addresses of one family';
  return null;
}

/** Six colon-separated bytes that are a unicast address: group bit clear, not all zeros. */
export const isMacText = (text: string): boolean =>
  /^[0-9a-fA-F][02468aceACE](?::[0-9a-fA-F]{2}){5}$/.test(text) && /[1-9a-fA-F]/.test(text);
