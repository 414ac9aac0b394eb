/** `subnet.env`: what CNI plugins and scripts of flannel clusters read, and what a restart reuses. */
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import {
  AddressError,
  formatAddress,
  parseIpv4,
  parseIpv6,
  toIpv4,
  toIpv6,
} from '../wire/address.ts';
import { type Cidr, type Cidr4, type Cidr6, cidrOf, formatCidr } from '../wire/cidr.ts';
import type { SubnetPair } from './lease-codec.ts';
import type { NetworkConfig, NodeLease } from './types.ts';

export interface SubnetFile {
  readonly network: NetworkConfig;
  readonly lease: Pick<NodeLease, 'subnet4' | 'subnet6'>;
  readonly mtuBytes: number;
  readonly ipMasq: boolean;
}

/** Renamed into place; the folder is made if missing. @throws the file system's error */
export async function writeSubnetFile(path: string, content: SubnetFile): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const unfinished = `${path}.${process.pid}`;
  await writeFile(unfinished, formatSubnetFile(content), { mode: 0o644, flush: true });
  await rename(unfinished, path);
}

/** The subnets it names; null if the file is missing or says nothing usable. */
export async function readSubnetFile(path: string): Promise<SubnetPair | null> {
  let content: string;
  try {
    content = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  const subnet4 = blockOf(content, 'FLANNEL_SUBNET', parseIpv4);
  const subnet6 = blockOf(content, 'FLANNEL_IPV6_SUBNET', parseIpv6);
  return subnet4 === null && subnet6 === null ? null : { subnet4, subnet6 };
}

function formatSubnetFile({ network, lease, mtuBytes, ipMasq }: SubnetFile): string {
  const lines: string[] = [];
  const { subnet4, subnet6 } = lease;
  if (network.ipv4 !== null && subnet4 !== null) {
    lines.push(`FLANNEL_NETWORK=${formatCidr(network.ipv4.network)}`);
    lines.push(`FLANNEL_SUBNET=${formatAddress(toIpv4(subnet4.base + 1))}/${subnet4.length}`);
  }
  if (network.ipv6 !== null && subnet6 !== null) {
    lines.push(`FLANNEL_IPV6_NETWORK=${formatCidr(network.ipv6.network)}`);
    lines.push(`FLANNEL_IPV6_SUBNET=${formatAddress(toIpv6(subnet6.base + 1n))}/${subnet6.length}`);
  }
  lines.push(`FLANNEL_MTU=${mtuBytes}`, `FLANNEL_IPMASQ=${ipMasq}`);
  return `${lines.join('\n')}\n`;
}

/** The block that the first host's address `.1/length` stands in. The file is read, never executed. */
function blockOf(content: string, name: string, parse: typeof parseIpv4): Cidr4 | null;
function blockOf(content: string, name: string, parse: typeof parseIpv6): Cidr6 | null;
function blockOf(
  content: string,
  name: string,
  parse: typeof parseIpv4 | typeof parseIpv6,
): Cidr | null {
  const match = new RegExp(`^${name}=([0-9a-f:.]+)/([0-9]{1,3})$`, 'm').exec(content);
  if (match === null) return null;
  try {
    return cidrOf(parse(match[1]!), Number(match[2]));
  } catch (error) {
    if (error instanceof AddressError || error instanceof RangeError) return null;
    throw error;
  }
}
