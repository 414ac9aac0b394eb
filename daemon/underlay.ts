/** The network below: which interface carries the encapsulated packets, and from which addresses. */
import { type InterfaceAddresses, type Route, listAddresses, listRoutes } from '../linux/ip.ts';
import {
  type Ipv4,
  type Ipv6,
  formatAddress,
  parseAddress,
  parseIpv4,
  parseIpv6,
} from '../wire/address.ts';
import { type Cidr, cidrOf } from '../wire/cidr.ts';
import { type Config, ConfigError } from './config.ts';
import { didYouMean } from '../objects/nearest.ts';

export interface Underlay {
  readonly iface: string;
  readonly mtuBytes: number;
  /** What our sockets are bound to. At least one is present. */
  readonly address4: Ipv4 | null;
  readonly address6: Ipv6 | null;
  /** Blocks whose addresses the interface reaches without a router. */
  readonly onLink: readonly Cidr[];
}

/** What the kernel says, as far as the choice depends on it. */
export interface UnderlaySources {
  readonly links: readonly InterfaceAddresses[];
  readonly defaultRoutes4: readonly Route[];
  readonly defaultRoutes6: readonly Route[];
}

type UnderlayConfig = Pick<Config, 'iface' | 'publicIp' | 'publicIpv6' | 'tunName'>;

/** An address that others can reach, the likeliest to stay: not deprecated, rather not temporary. */
function firstOf<A>(
  link: InterfaceAddresses,
  family: 'inet' | 'inet6',
  parse: (text: string) => A,
): A | null {
  const [first] = link.addr_info
    .filter((it) => it.family === family && it.scope === 'global' && !it.deprecated)
    .toSorted((a, b) => Number(a.temporary ?? false) - Number(b.temporary ?? false));
  return first === undefined ? null : parse(first.local);
}

function chooseLink(sources: UnderlaySources, iface: UnderlayConfig['iface']): InterfaceAddresses {
  const { links } = sources;
  if (typeof iface === 'string') {
    const link = links.find((it) => it.ifname === iface);
    if (link !== undefined) return link;
    const names = links.map((it) => it.ifname);
    throw new ConfigError(`--iface: there is no interface "${iface}"${didYouMean(iface, names)}`);
  }
  if (iface !== null) {
    const text = formatAddress(iface);
    const holds = (link: InterfaceAddresses): boolean =>
      link.addr_info.some((it) => parseAddress(it.local) === iface);
    const link = links.find(holds);
    if (link !== undefined) return link;
    throw new ConfigError(`--iface: no interface has the address ${text}`);
  }
  // The kernel lists a family's best default route first.
  for (const { dev } of [...sources.defaultRoutes4, ...sources.defaultRoutes6]) {
    const link = links.find((it) => it.ifname === dev);
    if (link !== undefined) return link;
  }
  throw new ConfigError('--iface: there is no default route to tell the interface; name one');
}

/** @throws ConfigError when the host has no such interface, or the interface no such address */
export function chooseUnderlay(sources: UnderlaySources, config: UnderlayConfig): Underlay {
  const tun = sources.links.find((it) => it.ifname === config.tunName);
  if (tun !== undefined && tun.linkinfo?.info_kind !== 'tun') {
    throw new ConfigError(`--tun-name: ${config.tunName} is there already, and is not a TUN`);
  }
  const link = chooseLink(sources, config.iface);
  const { ifname } = link;
  if (ifname === config.tunName) {
    throw new ConfigError(`--iface: ${ifname} is the overlay's own interface`);
  }
  if (!link.flags.includes('UP')) throw new ConfigError(`--iface: interface ${ifname} is down`);
  const named = typeof config.iface === 'string' ? null : config.iface;
  const address4 = typeof named === 'number' ? named : firstOf(link, 'inet', parseIpv4);
  const address6 = typeof named === 'bigint' ? named : firstOf(link, 'inet6', parseIpv6);
  if (address4 === null && address6 === null) {
    throw new ConfigError(`--iface: interface ${ifname} has no address that peers could reach`);
  }
  if (config.publicIp !== null && address4 === null) {
    throw new ConfigError(`--public-ip: interface ${ifname} has no IPv4 address behind it`);
  }
  if (config.publicIpv6 !== null && address6 === null) {
    throw new ConfigError(`--public-ipv6: interface ${ifname} has no IPv6 address behind it`);
  }
  const onLink = link.addr_info
    .filter((it) => it.scope === 'global')
    .map((it) => cidrOf(parseAddress(it.local), it.prefixlen));
  return { iface: ifname, mtuBytes: link.mtu, address4, address6, onLink };
}

/** A way out: not an `unreachable default`. */
const isDefault = (route: Route): boolean => route.dst === 'default' && route.type === undefined;

export async function readUnderlay(config: UnderlayConfig): Promise<Underlay> {
  const [links, routes4, routes6] = await Promise.all([
    listAddresses(),
    listRoutes({ family: 4 }),
    listRoutes({ family: 6 }),
  ]);
  const defaultRoutes4 = routes4.filter(isDefault);
  const defaultRoutes6 = routes6.filter(isDefault);
  return chooseUnderlay({ links, defaultRoutes4, defaultRoutes6 }, config);
}
