/**
 * One entry below `<prefix>/subnets/`, key and value, to the letter as flannel writes it:
 *
 *     10.5.52.0-24                    dual stack: 10.5.52.0-24&fd00:5::-64
 *     {"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",
 *      "BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}
 *
 * Anybody who may write to etcd may write here: nothing is believed unchecked, and a text that is shown
 * to people is shortened and made printable first.
 */
import { z } from 'zod';
import {
  AddressError,
  type IpAddress,
  type Ipv4,
  type Ipv6,
  formatAddress,
  parseIpv4,
  parseIpv6,
} from '../wire/address.ts';
import {
  type Cidr,
  type Cidr4,
  type Cidr6,
  cidrContains,
  formatCidr,
  parseCidr,
} from '../wire/cidr.ts';
import { formatMac, isUnicastMac, parseMac } from '../wire/mac.ts';
import { toVni } from '../wire/vxlan.ts';
import type { NetworkConfig, NodeIdentity, NodeLease, Vtep } from './types.ts';

/** Flannel's largest value is some 350 characters long. */
const MAX_VALUE_CHARACTERS = 4096;

export interface SubnetPair {
  readonly subnet4: Cidr4 | null;
  readonly subnet6: Cidr6 | null;
}

export interface PublicAddresses {
  readonly publicIp4: Ipv4 | null;
  readonly publicIp6: Ipv6 | null;
}

/** As much of an entry as could be read. */
export interface DecodedEntry {
  /** From the key: what it occupies, whatever the value says. Null: the key is no subnet. */
  readonly subnets: SubnetPair | null;
  /** Whose it is, even if the rest is of no use to us. */
  readonly owner: PublicAddresses;
  /** Null: `problem` says why. */
  readonly lease: NodeLease | null;
  readonly problem: string | null;
}

/** An IPv6-only node has `0.0.0.0-0` in front, as flannel's key always begins with IPv4. */
export function encodeSubnetKey({ subnet4, subnet6 }: SubnetPair): string {
  const first = subnet4 === null ? '0.0.0.0-0' : keyPart(subnet4);
  return subnet6 === null ? first : `${first}&${keyPart(subnet6)}`;
}

const keyPart = (block: Cidr): string => `${formatAddress(block.base)}-${block.length}`;

/** Null unless it names at least one subnet. */
export function decodeSubnetKey(key: string): SubnetPair | null {
  const match = /^([0-9.]{7,15})-([0-9]{1,2})(?:&([0-9a-f:.]{2,45})-([0-9]{1,3}))?$/.exec(key);
  if (match === null) return null;
  const [, address4, length4, address6, length6] = match;
  try {
    const block4 = parseCidr(`${address4}/${length4}`);
    const block6 = address6 === undefined ? null : parseCidr(`${address6}/${length6}`);
    if (block6?.family === 4) return null;
    const subnet4 = block4.family === 4 && block4.length > 0 ? block4 : null;
    const subnet6 = block6 !== null && block6.length > 0 ? block6 : null;
    if (subnet4 === null && subnet6 === null) return null;
    return { subnet4, subnet6 };
  } catch (error) {
    if (error instanceof AddressError) return null;
    throw error;
  }
}

export function encodeLeaseValue(node: NodeIdentity): string {
  return JSON.stringify({
    PublicIP: node.publicIp4 === null ? '0.0.0.0' : formatAddress(node.publicIp4),
    PublicIPv6: node.publicIp6 === null ? null : formatAddress(node.publicIp6),
    BackendType: 'vxlan',
    ...(node.vtep4 && { BackendData: backendFields(node.vtep4) }),
    ...(node.vtep6 && { BackendV6Data: backendFields(node.vtep6) }),
  });
}

const backendFields = ({ vni, mac }: Vtep) => ({ VNI: vni, VtepMAC: formatMac(mac) });

const Value = z.object({
  PublicIP: z.string().nullish(),
  PublicIPv6: z.string().nullish(),
  BackendType: z.string().nullish(),
  BackendData: z.unknown().optional(),
  BackendV6Data: z.unknown().optional(),
});
const BackendFields = z.object({ VNI: z.number().nullish(), VtepMAC: z.string() });

/** Says what is wrong with an entry; never leaves this file. */
class EntryError extends Error {}

/**
 * @param reserved the key has no etcd lease; then its value need not name a backend yet
 * @param network subnets must lie in it; a family that it lacks is left out of the lease
 */
export function decodeEntry(
  key: string,
  value: string,
  reserved: boolean,
  network: NetworkConfig,
): DecodedEntry {
  const subnets = decodeSubnetKey(key);
  let owner: PublicAddresses = { publicIp4: null, publicIp6: null };
  try {
    if (subnets === null) throw new EntryError('the key is not a subnet');
    const fields = parseValue(value);
    owner = decodeOwner(fields);
    const inside = insideNetwork(subnets, network);
    const { publicIp4, publicIp6 } = owner;
    if (publicIp4 === null && publicIp6 === null) {
      throw new EntryError('it has neither PublicIP nor PublicIPv6');
    }
    for (const address of [publicIp4, publicIp6]) refuseInside(network, address);
    const type = fields.BackendType?.toLowerCase();
    if (type !== 'vxlan' && !(reserved && !type)) {
      throw new EntryError(`BackendType ${shown(fields.BackendType)} is not "vxlan"`);
    }
    const vtep4 = decodeVtep('BackendData', fields.BackendData, network);
    const vtep6 = decodeVtep('BackendV6Data', fields.BackendV6Data, network);
    const reachable =
      (publicIp4 !== null && vtep4 !== null) || (publicIp6 !== null && vtep6 !== null);
    if (!reachable && !reserved) {
      throw new EntryError('no public address has its VtepMAC (BackendData, BackendV6Data)');
    }
    const lease = { key, ...inside, ...owner, vtep4, vtep6, reserved };
    return { subnets, owner, lease, problem: null };
  } catch (error) {
    if (!(error instanceof EntryError)) throw error;
    return { subnets, owner, lease: null, problem: error.message };
  }
}

/** Whose entry it is; null if the value does not say so in good order. */
export function readOwner(value: string): PublicAddresses | null {
  try {
    return decodeOwner(parseValue(value));
  } catch (error) {
    if (error instanceof EntryError) return null;
    throw error;
  }
}

/** For people: at most 60 characters, none of them a control or a quote that is not escaped. */
export function shown(value: unknown): string {
  if (typeof value !== 'string') return value === undefined ? 'missing' : typeof value;
  const short = value.length > 60 ? `${value.slice(0, 57)}...` : value;
  return JSON.stringify(short).replaceAll(/[^\x20-\x7e]/g, '?');
}

function parseValue(value: string): z.infer<typeof Value> {
  if (value.length > MAX_VALUE_CHARACTERS) {
    throw new EntryError(`the value has ${value.length} characters, more than any lease`);
  }
  let json: unknown;
  try {
    json = JSON.parse(value);
  } catch (cause) {
    throw new EntryError('the value is not JSON', { cause });
  }
  const parsed = Value.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new EntryError(`${issue.path.join('.') || 'the value'}: ${issue.message}`);
}

function decodeOwner(fields: z.infer<typeof Value>): PublicAddresses {
  const { PublicIP, PublicIPv6 } = fields;
  return {
    // Flannel's zero address means none.
    publicIp4:
      PublicIP && PublicIP !== '0.0.0.0' ? underlay('PublicIP', PublicIP, parseIpv4) : null,
    publicIp6: PublicIPv6 ? underlay('PublicIPv6', PublicIPv6, parseIpv6) : null,
  };
}

const UNDERLAY_NEVER = ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/3', '::/127', 'ff00::/8'].map(
  parseCidr,
);

/** An address that a datagram may be sent to: neither loopback nor multicast nor a whole segment. */
function underlay<A extends IpAddress>(name: string, text: string, parse: (text: string) => A): A {
  try {
    const address = parse(text);
    if (!UNDERLAY_NEVER.some((block) => cidrContains(block, address))) return address;
  } catch (error) {
    if (!(error instanceof AddressError)) throw error;
  }
  throw new EntryError(`${name} ${shown(text)} is not the address of a node`);
}

/** A tunnel whose outer address lies inside the tunnel would carry itself. */
function refuseInside(network: NetworkConfig, address: IpAddress | null): void {
  for (const family of [network.ipv4, network.ipv6]) {
    if (address !== null && family !== null && cidrContains(family.network, address)) {
      throw new EntryError(
        `the public address ${formatAddress(address)} lies inside ${formatCidr(family.network)}`,
      );
    }
  }
}

function insideNetwork(subnets: SubnetPair, network: NetworkConfig): SubnetPair {
  const subnet4 = network.ipv4 === null ? null : subnets.subnet4;
  const subnet6 = network.ipv6 === null ? null : subnets.subnet6;
  if (subnet4 === null && subnet6 === null) {
    throw new EntryError("it has no subnet of the network's families");
  }
  const outside =
    (subnet4 !== null && !within(network.ipv4!.network, subnet4)) ||
    (subnet6 !== null && !within(network.ipv6!.network, subnet6));
  if (outside) throw new EntryError('its subnet lies outside the network');
  return { subnet4, subnet6 };
}

const within = (outer: Cidr, inner: Cidr): boolean =>
  inner.length >= outer.length && cidrContains(outer, inner.base);

function decodeVtep(name: string, value: unknown, network: NetworkConfig): Vtep | null {
  if (value === undefined || value === null) return null;
  const parsed = BackendFields.safeParse(value);
  if (!parsed.success) throw new EntryError(`${name} has no VtepMAC, or a VNI that is no number`);
  // Old flannel writes no VNI; every flannel keeps only its lower 16 bits here.
  const written = parsed.data.VNI ?? network.vni;
  const vni = written === network.vni % 65_536 ? network.vni : written;
  try {
    const mac = parseMac(parsed.data.VtepMAC);
    if (isUnicastMac(mac)) return { vni: toVni(vni), mac };
  } catch (error) {
    if (error instanceof RangeError) throw new EntryError(`${name}.VNI ${vni} is not a VNI`);
    if (!(error instanceof AddressError)) throw error;
  }
  throw new EntryError(`${name}.VtepMAC ${shown(parsed.data.VtepMAC)} is not a node's MAC address`);
}
