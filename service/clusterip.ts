/**
 * What the API server fills in where there is none: cluster IPs, node ports. Pure; who applies a Service
 * says what is taken. The same Service gets the same address in an empty cluster each time.
 */
import {
  type Family,
  type IpAddress,
  familyOf,
  formatAddress,
  parseAddress,
} from '../wire/address.ts';
import { type Cidr, cidrContains, formatCidr, lastOf } from '../wire/cidr.ts';
import { toIpv4, toIpv6 } from '../wire/address.ts';
import { scramble } from './table.ts';

export type AllocationCode =
  | 'ERR_CLUSTER_IP'
  | 'ERR_CLUSTER_IP_TAKEN'
  | 'ERR_IP_FAMILY'
  | 'ERR_SERVICE_NETWORK_FULL'
  | 'ERR_NODE_PORT'
  | 'ERR_NODE_PORT_TAKEN'
  | 'ERR_NODE_PORTS_FULL';

/** The Service as it was written cannot be applied. */
export class AllocationError extends Error {
  override readonly name = 'AllocationError';
  readonly code: AllocationCode;

  constructor(code: AllocationCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export const NODE_PORT_MIN = 30000;
export const NODE_PORT_MAX = 32767;

/** A Service as it was written: other fields are kept as they are. */
export interface RawService {
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly spec?: {
    readonly type?: string;
    readonly clusterIP?: string;
    readonly clusterIPs?: readonly string[];
    readonly ipFamilies?: readonly string[];
    readonly ipFamilyPolicy?: string;
    readonly externalTrafficPolicy?: string;
    readonly healthCheckNodePort?: number;
    readonly allocateLoadBalancerNodePorts?: boolean;
    readonly ports?: readonly {
      readonly port: number;
      readonly protocol?: string;
      readonly nodePort?: number;
    }[];
  };
}

const nameOf = ({ metadata }: RawService): string =>
  `${metadata.namespace ?? 'default'}/${metadata.name}`;

/** FNV-1a, and one step that lets every character reach every bit. */
function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (const character of text) hash = Math.imul(hash ^ character.codePointAt(0)!, 0x01000193);
  return scramble(hash) >>> 0;
}

const familyText = (family: Family): string => `IPv${family}`;

const offsetBy = (base: IpAddress, offset: number): IpAddress =>
  typeof base === 'number' ? toIpv4(base + offset) : toIpv6(base + BigInt(offset));

/**
 * The first addresses (16 at least, 256 at most) are given last, as Kubernetes does: whoever writes a
 * cluster IP by hand takes one of these.
 */
function freeAddress(network: Cidr, taken: ReadonlySet<IpAddress>, name: string): IpAddress {
  // Neither the network's own address nor IPv4's broadcast address.
  const size = Math.min(Number(BigInt(lastOf(network)) - BigInt(network.base)) + 1, 2 ** 31);
  const end = network.family === 4 ? size - 1 : size;
  const band = Math.min(Math.max(16, Math.floor(size / 16)), 256);
  const first = band < end ? band : 1;
  const start = hashText(name);
  const search = (from: number, to: number): IpAddress | null => {
    const count = to - from;
    for (let i = 0; i < count; i++) {
      const address = offsetBy(network.base, from + ((start + i) % count));
      if (!taken.has(address)) return address;
    }
    return null;
  };
  const found = search(first, end) ?? search(1, first);
  if (found === null) {
    throw new AllocationError(
      'ERR_SERVICE_NETWORK_FULL',
      `all addresses of ${formatCidr(network)} are taken; Service ${name} gets none`,
    );
  }
  return found;
}

/** The families that are asked for, in order. @throws AllocationError */
function familiesFor(
  service: RawService,
  given: readonly IpAddress[],
  networks: readonly Cidr[],
): readonly Family[] {
  const { ipFamilyPolicy: policy = 'SingleStack', ipFamilies = [] } = service.spec ?? {};
  const name = nameOf(service);
  const refuse = (why: string): never => {
    throw new AllocationError('ERR_IP_FAMILY', `Service ${name}: ${why}`);
  };
  if (!['SingleStack', 'PreferDualStack', 'RequireDualStack'].includes(policy)) {
    refuse(`ipFamilyPolicy "${policy}" is unknown`);
  }
  const wanted = ipFamilies.map((text): Family => {
    if (text === 'IPv4') return 4;
    return text === 'IPv6' ? 6 : refuse(`IP family "${text}" is unknown`);
  });
  for (const families of [wanted, given.map(familyOf)]) {
    if (new Set(families).size !== families.length) refuse('two of one IP family');
    if (families.length > 1 && policy === 'SingleStack') {
      refuse('two IP families need ipFamilyPolicy PreferDualStack or RequireDualStack');
    }
  }
  given.forEach((address, i) => {
    if (wanted[i] !== undefined && wanted[i] !== familyOf(address)) {
      refuse(`${formatAddress(address)} is not ${familyText(wanted[i])}, as ipFamilies has it`);
    }
  });
  const served = [...new Set(networks.map(({ family }) => family))];
  if (served.length === 0) refuse('there is no Service network; set one for cluster IPs');
  const order = [...new Set([...given.map(familyOf), ...wanted, ...served])];
  const lacking = [...given.map(familyOf), ...wanted].find((family) => !served.includes(family));
  if (lacking !== undefined) refuse(`there is no ${familyText(lacking)} Service network`);
  if (policy === 'SingleStack') return order.slice(0, 1);
  if (policy === 'RequireDualStack' && served.length < 2) {
    refuse(
      `there is no ${familyText(served[0] === 4 ? 6 : 4)} Service network, and it requires both`,
    );
  }
  return order;
}

/** @throws AllocationError */
function givenAddresses(service: RawService): readonly IpAddress[] {
  const { clusterIP = '', clusterIPs = [] } = service.spec ?? {};
  const refuse = (why: string, options?: ErrorOptions): never => {
    throw new AllocationError('ERR_CLUSTER_IP', `Service ${nameOf(service)}: ${why}`, options);
  };
  if (clusterIP !== '' && clusterIPs.length > 0 && clusterIPs[0] !== clusterIP) {
    refuse(`clusterIP ${clusterIP} is not the first of clusterIPs`);
  }
  const texts = clusterIPs.length > 0 ? clusterIPs : [clusterIP].filter((text) => text !== '');
  return texts.map((text) => {
    try {
      return parseAddress(text);
    } catch (cause) {
      return refuse((cause as Error).message, { cause });
    }
  });
}

const isHeadless = ({ spec }: RawService): boolean =>
  spec?.clusterIP === 'None' || spec?.clusterIPs?.[0] === 'None';

/**
 * The Service with its cluster IPs: those that it was written with, and one for each family that it lacks.
 * Headless and ExternalName ones have none.
 * @param taken     others' cluster IPs, not this Service's own
 * @param networks  the first one's family is that of a Service that asks for none
 * @throws AllocationError
 */
export function allocateClusterIps<S extends RawService>(
  service: S,
  taken: ReadonlySet<IpAddress>,
  networks: readonly Cidr[],
): S {
  const { spec = {} } = service;
  if (spec.type === 'ExternalName') return service;
  if (isHeadless(service)) {
    return { ...service, spec: { ...spec, clusterIP: 'None', clusterIPs: ['None'] } };
  }
  const name = nameOf(service);
  const given = givenAddresses(service);
  const families = familiesFor(service, given, networks);
  for (const address of given) {
    const text = formatAddress(address);
    if (!networks.some((network) => cidrContains(network, address))) {
      throw new AllocationError(
        'ERR_CLUSTER_IP',
        `Service ${name}: ${text} is outside of the Service networks ` +
          `(${networks.map(formatCidr).join(', ')}); leave it out to be given one`,
      );
    }
    if (taken.has(address)) {
      throw new AllocationError(
        'ERR_CLUSTER_IP_TAKEN',
        `Service ${name}: ${text} is another Service's; leave it out to be given one`,
      );
    }
  }
  const clusterIPs = families.map((family) => {
    const own = given.find((address) => familyOf(address) === family);
    if (own !== undefined) return formatAddress(own);
    const network = networks.find((it) => it.family === family)!;
    return formatAddress(freeAddress(network, taken, name));
  });
  return {
    ...service,
    spec: {
      ...spec,
      clusterIP: clusterIPs[0]!,
      clusterIPs,
      ipFamilies: families.map(familyText),
      ipFamilyPolicy: spec.ipFamilyPolicy ?? 'SingleStack',
    },
  };
}

/**
 * A node port for `name`.
 * @param wanted  0: any that is free
 * @param taken   others'
 * @throws AllocationError
 */
export function allocateNodePort(name: string, wanted: number, taken: ReadonlySet<number>): number {
  const range = `${NODE_PORT_MIN}..${NODE_PORT_MAX}`;
  if (wanted !== 0) {
    if (!Number.isInteger(wanted) || wanted < NODE_PORT_MIN || wanted > NODE_PORT_MAX) {
      throw new AllocationError(
        'ERR_NODE_PORT',
        `Service ${name}: node port ${wanted} is outside ${range}; leave it out to be given one`,
      );
    }
    if (taken.has(wanted)) {
      throw new AllocationError(
        'ERR_NODE_PORT_TAKEN',
        `Service ${name}: node port ${wanted} is another's; leave it out to be given one`,
      );
    }
    return wanted;
  }
  const count = NODE_PORT_MAX - NODE_PORT_MIN + 1;
  const start = hashText(name);
  for (let i = 0; i < count; i++) {
    const port = NODE_PORT_MIN + ((start + i) % count);
    if (!taken.has(port)) return port;
  }
  throw new AllocationError(
    'ERR_NODE_PORTS_FULL',
    `all node ports (${range}) are taken; Service ${name} gets none`,
  );
}

/**
 * The Service with its node ports, and its health check node port under externalTrafficPolicy Local. Ports
 * that differ in protocol only share a number.
 * @param taken  others' node ports and health check node ports, whatever their protocol
 * @throws AllocationError
 */
export function allocateNodePorts<S extends RawService>(service: S, taken: ReadonlySet<number>): S {
  const { spec = {} } = service;
  const isLoadBalancer = spec.type === 'LoadBalancer';
  if (spec.type !== 'NodePort' && !isLoadBalancer) return service;
  const name = nameOf(service);
  const used = new Set(taken);
  const own = new Map<number, number>();
  const written = spec.ports ?? [];
  for (const { port, nodePort = 0 } of written) {
    if (nodePort === 0) continue;
    allocateNodePort(name, nodePort, taken);
    own.set(port, own.get(port) ?? nodePort);
    used.add(nodePort);
  }
  const isWithout = isLoadBalancer && spec.allocateLoadBalancerNodePorts === false;
  const ports = written.map((it) => {
    if ((it.nodePort ?? 0) !== 0 || isWithout) return it;
    const protocolOf = (port: { readonly protocol?: string }): string => port.protocol ?? 'TCP';
    const shared = own.get(it.port);
    const isShared =
      shared !== undefined &&
      !written.some((other) => other.nodePort === shared && protocolOf(other) === protocolOf(it));
    const nodePort = isShared ? shared : allocateNodePort(`${name}:${it.port}`, 0, used);
    own.set(it.port, nodePort);
    used.add(nodePort);
    return { ...it, nodePort };
  });
  if (!isLoadBalancer || spec.externalTrafficPolicy !== 'Local') {
    return { ...service, spec: { ...spec, ports } };
  }
  const { healthCheckNodePort = 0 } = spec;
  const others = healthCheckNodePort === 0 ? used : new Set([...taken, ...own.values()]);
  return {
    ...service,
    spec: {
      ...spec,
      ports,
      healthCheckNodePort: allocateNodePort(`${name}:health`, healthCheckNodePort, others),
    },
  };
}
