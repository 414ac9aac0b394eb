/** `subnet.env`: what CNI plugins and scripts of flannel clusters read, and what a restart reuses. */
import type { Cidr4, Cidr6 } from '../wire/cidr.ts';
import type { NetworkConfig, NodeLease } from './types.ts';

export interface SubnetFile {
  readonly network: NetworkConfig;
  readonly lease: Pick<NodeLease, 'subnet4' | 'subnet6'>;
  readonly mtuBytes: number;
  readonly ipMasq: boolean;
}

/** Renamed into place; the folder is made if missing. @throws the file system's error */
export async function writeSubnetFile(path: string, content: SubnetFile): Promise<void> {
  await Promise.reject(new Error(`not yet: ${path} ${content.mtuBytes}`));
}

/** The subnets it names; null if the file is missing or says nothing usable. */
export async function readSubnetFile(
  path: string,
): Promise<{ readonly subnet4: Cidr4 | null; readonly subnet6: Cidr6 | null } | null> {
  return await Promise.reject(new Error(`not yet: ${path}`));
}
