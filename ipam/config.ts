/**
 * `<prefix>/config`: flannel's network configuration, with flannel's defaults and limits.
 * Families are computed as 128-bit integers, so that the rules stand here once.
 */
import { z } from 'zod';
import type { Store } from '../store/store.ts';
import { AddressError, parseAddress, toIpv4, toIpv6 } from '../wire/address.ts';
import { type Cidr, cidrContains, formatCidr, lastOf, parseCidr } from '../wire/cidr.ts';
import { VXLAN_DEFAULT_PORT, toVni } from '../wire/vxlan.ts';
import type { NetworkConfig } from './types.ts';

/** The cluster's configuration cannot be used. The message names the field and the way out. */
export class NetworkConfigError extends Error {
  readonly code = 'ERR_NETWORK_CONFIG';
}

const MAX_CHARACTERS = 65_536;

const text = z.string().max(64).nullish();
const integer = z.number().int().nullish();
const flag = z.boolean().nullish();

/** Null means absent, as it does to flannel. Unknown fields are left to whoever knows them. */
const Fields = z.object({
  Network: text,
  SubnetLen: integer,
  SubnetMin: text,
  SubnetMax: text,
  IPv6Network: text,
  IPv6SubnetLen: integer,
  IPv6SubnetMin: text,
  IPv6SubnetMax: text,
  EnableIPv4: flag,
  EnableIPv6: flag,
  Backend: z
    .object({
      Type: z.string().max(64).nullish(),
      VNI: z.number().int().min(0).max(0xffffff).nullish(),
      Port: z.number().int().min(0).max(65_535).nullish(),
      MTU: z.number().int().min(0).max(65_535).nullish(),
      DirectRouting: flag,
    })
    .nullish(),
});

/** @throws NetworkConfigError */
export function parseNetworkConfig(config: string): NetworkConfig {
  const fields = parseFields(config);
  const backend = fields.Backend;
  if (backend?.Type?.toLowerCase() !== 'vxlan') {
    const found = backend?.Type ? `is "${printable(backend.Type)}"` : 'is missing';
    throw new NetworkConfigError(`Backend.Type ${found}; only "vxlan" is spoken here: set it so`);
  }
  const mtuBytes = backend.MTU || null;
  if (mtuBytes !== null && mtuBytes < 576) {
    throw new NetworkConfigError(
      `Backend.MTU ${mtuBytes} is below 576; leave it out to use the interface's`,
    );
  }
  const ipv4 =
    fields.EnableIPv4 === false
      ? null
      : familyNetwork(IPV4, fields.Network, fields.SubnetLen, fields.SubnetMin, fields.SubnetMax);
  const ipv6 =
    fields.EnableIPv6 === true
      ? familyNetwork(
          IPV6,
          fields.IPv6Network,
          fields.IPv6SubnetLen,
          fields.IPv6SubnetMin,
          fields.IPv6SubnetMax,
        )
      : null;
  if (ipv4 === null && ipv6 === null) {
    throw new NetworkConfigError('EnableIPv4 and EnableIPv6 are both false; enable one of them');
  }
  return {
    ipv4:
      ipv4?.network.family === 4
        ? {
            network: ipv4.network,
            subnetLength: ipv4.subnetLength,
            min: toIpv4(Number(ipv4.min)),
            max: toIpv4(Number(ipv4.max)),
          }
        : null,
    ipv6:
      ipv6?.network.family === 6
        ? {
            network: ipv6.network,
            subnetLength: ipv6.subnetLength,
            min: toIpv6(ipv6.min),
            max: toIpv6(ipv6.max),
          }
        : null,
    vni: toVni(backend.VNI ?? 1),
    port: backend.Port || VXLAN_DEFAULT_PORT,
    mtuBytes,
    directRouting: backend.DirectRouting ?? false,
  };
}

/** One try. @throws NetworkConfigError if it is absent or wrong; StoreError */
export async function readNetworkConfig(
  store: Store,
  prefix: string,
  signal?: AbortSignal,
): Promise<NetworkConfig> {
  const key = `${prefix}/config`;
  const entry = await store.get(key, signal);
  if (entry === null) {
    throw new NetworkConfigError(
      `the key ${key} is missing in etcd; put one there, for example ` +
        `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`,
    );
  }
  try {
    return parseNetworkConfig(entry.value);
  } catch (error) {
    if (!(error instanceof NetworkConfigError)) throw error;
    throw new NetworkConfigError(`${key}: ${error.message}`, { cause: error });
  }
}

function parseFields(config: string): z.infer<typeof Fields> {
  if (config.length > MAX_CHARACTERS) {
    throw new NetworkConfigError(
      `it has ${config.length} characters; at most ${MAX_CHARACTERS} make sense`,
    );
  }
  let json: unknown;
  try {
    json = JSON.parse(config);
  } catch (cause) {
    throw new NetworkConfigError('it is not JSON; check quotes and commas', { cause });
  }
  const parsed = Fields.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new NetworkConfigError(`${issue.path.join('.') || 'it'} is wrong: ${issue.message}`, {
    cause: parsed.error,
  });
}

interface Limits {
  readonly family: 4 | 6;
  readonly width: number;
  /** What a node gets when the network is large enough. */
  readonly usualLength: number;
  /** Field names, for messages. */
  readonly names: readonly [network: string, length: string, min: string, max: string];
}

const IPV4: Limits = {
  family: 4,
  width: 32,
  usualLength: 24,
  names: ['Network', 'SubnetLen', 'SubnetMin', 'SubnetMax'],
};
const IPV6: Limits = {
  family: 6,
  width: 128,
  usualLength: 64,
  names: ['IPv6Network', 'IPv6SubnetLen', 'IPv6SubnetMin', 'IPv6SubnetMax'],
};

/**
 * A subnet has at least four addresses, a network at least four subnets, and the first subnet stays
 * unused by default: its base is the network's own address.
 */
function familyNetwork(
  { family, width, usualLength, names }: Limits,
  networkText: string | null | undefined,
  lengthGiven: number | null | undefined,
  minText: string | null | undefined,
  maxText: string | null | undefined,
): { network: Cidr; subnetLength: number; min: bigint; max: bigint } {
  const [networkName, lengthName, minName, maxName] = names;
  if (!networkText) {
    throw new NetworkConfigError(
      `${networkName} is missing; give a CIDR block, or set EnableIPv${family} to false`,
    );
  }
  const network = orExplain(networkName, () => parseCidr(networkText));
  if (network.family !== family) {
    throw new NetworkConfigError(`${networkName} ${formatCidr(network)} is not of IPv${family}`);
  }
  if (network.length > width - 4) {
    throw new NetworkConfigError(
      `${networkName} ${formatCidr(network)} is too small; use /${width - 4} or larger`,
    );
  }
  const subnetLength =
    lengthGiven || (network.length <= usualLength - 2 ? usualLength : network.length + 2);
  if (subnetLength < network.length + 2 || subnetLength > width - 2) {
    throw new NetworkConfigError(
      `${lengthName} ${subnetLength} does not suit ${formatCidr(network)}; ` +
        `use ${network.length + 2} to ${width - 2}`,
    );
  }
  const size = 1n << BigInt(width - subnetLength);
  const bound = (name: string, given: string | null | undefined, byDefault: bigint): bigint => {
    if (!given) return byDefault;
    const address = orExplain(name, () => parseAddress(given));
    if (!cidrContains(network, address)) {
      throw new NetworkConfigError(`${name} ${given} lies outside ${formatCidr(network)}`);
    }
    if (BigInt(address) % size !== 0n) {
      throw new NetworkConfigError(`${name} ${given} is not the base of a /${subnetLength}`);
    }
    return BigInt(address);
  };
  const last = BigInt(network.family === 4 ? lastOf(network) : lastOf(network));
  const min = bound(minName, minText, BigInt(network.base) + size);
  const max = bound(maxName, maxText, last + 1n - size);
  if (min > max) throw new NetworkConfigError(`${minName} lies above ${maxName}; swap them`);
  return { network, subnetLength, min, max };
}

function orExplain<T>(name: string, parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    if (!(cause instanceof AddressError)) throw cause;
    throw new NetworkConfigError(`${name}: ${cause.message}`, { cause });
  }
}

const printable = (value: string): string => JSON.stringify(value).slice(1, -1);
