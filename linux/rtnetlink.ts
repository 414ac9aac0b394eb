/**
 * Interfaces, addresses, routes and neighbours over netlink (rtnetlink(7), include/uapi/linux/rtnetlink.h,
 * if_link.h, if_addr.h, neighbour.h), of the namespace that the socket was opened for. Each function is
 * one request of some microseconds, where an `ip` process costs milliseconds.
 */
import {
  type Family,
  type IpAddress,
  addressBytes,
  familyOf,
  formatAddress,
  toIpv4,
  toIpv6,
} from '../wire/address.ts';
import { type Cidr, cidrOf, formatCidr } from '../wire/cidr.ts';
import { type Mac, macBytes, toMac } from '../wire/mac.ts';
import { EEXIST, ENODEV, ENOENT, ESRCH } from './errno.ts';
import {
  type Attribute,
  type Netlink,
  type NetlinkReply,
  NLM_F_CREATE,
  NLM_F_EXCL,
  NLM_F_REPLACE,
  NetlinkError,
  encode,
  native16,
  native32,
  readAttributes,
  readText,
} from './netlink.ts';

/** Multicast groups of NETLINK_ROUTE: what `drain` is told of (enum rtnetlink_groups). */
export const RouteGroup = {
  links: 1,
  addresses4: 5,
  routes4: 7,
  rules4: 8,
  addresses6: 9,
  routes6: 11,
  rules6: 19,
} as const;

const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const RTM_GETLINK = 18;
const RTM_SETLINK = 19;
const RTM_NEWADDR = 20;
const RTM_GETADDR = 22;
const RTM_NEWROUTE = 24;
const RTM_DELROUTE = 25;
const RTM_GETROUTE = 26;
const RTM_NEWNEIGH = 28;
const RTM_GETNEIGH = 30;
const RTM_GETNSID = 90;

const IFINFO_BYTES = 16;
const IFF_UP = 1;
const IFLA_ADDRESS = 1;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_LINK = 5;
const IFLA_LINKINFO = 18;
const IFLA_IFALIAS = 20;
const IFLA_GROUP = 27;
const IFLA_NET_NS_FD = 28;
const IFLA_EXT_MASK = 29;
const IFLA_LINK_NETNSID = 37;
const IFLA_INFO_KIND = 1;
const IFLA_INFO_DATA = 2;
const VETH_INFO_PEER = 1;
const RTEXT_FILTER_SKIP_STATS = 1 << 3;

const IFADDR_BYTES = 8;
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;
const IFA_FLAGS = 8;
const IFA_F_NODAD = 0x02;
const IFA_F_TENTATIVE = 0x40;

const RTMSG_BYTES = 12;
const RTA_DST = 1;
const RTA_OIF = 4;
const RTA_GATEWAY = 5;
const RTA_PRIORITY = 6;
const RTA_PREFSRC = 7;
const RTA_TABLE = 15;
const RTA_VIA = 18;
const RTNH_F_ONLINK = 4;
const RTM_F_CLONED = 0x200;
const RT_TABLE_COMPAT = 252;

const NDMSG_BYTES = 12;
const NDA_DST = 1;
const NDA_LLADDR = 2;
const NDA_IFINDEX = 8;
const NUD_PERMANENT = 0x80;

const NETNSA_NSID = 1;
const NETNSA_FD = 3;

const AF_INET = 2;
const AF_INET6 = 10;

/** In the kernel's order: RTN_UNSPEC, RTN_UNICAST... */
const ROUTE_TYPES = [
  'unspec',
  'unicast',
  'local',
  'broadcast',
  'anycast',
  'multicast',
  'blackhole',
  'unreachable',
  'prohibit',
  'throw',
  'nat',
  'xresolve',
] as const;
export type RouteType = (typeof ROUTE_TYPES)[number];

const SCOPES = { global: 0, site: 200, link: 253, host: 254, nowhere: 255 } as const;
export type Scope = keyof typeof SCOPES;

const SCOPE_NAMES = new Map<number, Scope>(
  Object.entries(SCOPES).map(([name, number]) => [number, name as Scope]),
);
const scopeOf = (number: number): Scope => SCOPE_NAMES.get(number) ?? 'global';

const afOf = (family: Family): number => (family === 4 ? AF_INET : AF_INET6);

function readAddress(view: DataView): IpAddress {
  return view.byteLength === 4
    ? toIpv4(view.getUint32(0))
    : toIpv6((view.getBigUint64(0) << 64n) | view.getBigUint64(8));
}

/** Null where the kernel gave none. */
const addressOrNull = (view: DataView | undefined): IpAddress | null =>
  view === undefined ? null : readAddress(view);

const numberOrNull = (view: DataView | undefined): number | null =>
  view === undefined ? null : view.getInt32(0, true);

/** Null unless it is an Ethernet address: tunnels have an IP address there, or nothing. */
const macOrNull = (view: DataView | undefined): Mac | null =>
  view?.byteLength === 6 ? toMac(view.getUint16(0) * 2 ** 32 + view.getUint32(2)) : null;

/** False where `work` failed for the reason `number`: what it should change is so already. */
function unless(number: number, work: () => unknown): boolean {
  try {
    work();
    return true;
  } catch (error) {
    if (error instanceof NetlinkError && error.errno === number) return false;
    throw error;
  }
}

export interface LinkState {
  readonly index: number;
  readonly name: string;
  /** Set up by an operator (IFF_UP); whether it has carrier is another matter. */
  readonly up: boolean;
  readonly mtuBytes: number;
  readonly mac: Mac | null;
  /** `veth`, `tun`, `bridge`; null: a network device. */
  readonly kind: string | null;
  readonly alias: string;
  /** Index of a veth's other end, in the other end's namespace; null: there is none. */
  readonly peerIndex: number | null;
  /** What this namespace calls the other end's (see `namespaceIdOf`); null: it is the same. */
  readonly peerNamespaceId: number | null;
  /** 0 unless it was put into one. */
  readonly group: number;
}

/** struct ifinfomsg */
function linkHeader(index: number, flags = 0, change = 0): Uint8Array {
  const view = new DataView(new ArrayBuffer(IFINFO_BYTES));
  view.setInt32(4, index, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, change, true);
  return new Uint8Array(view.buffer);
}

function readLink({ body }: NetlinkReply): LinkState {
  const found = readAttributes(body, IFINFO_BYTES);
  const info = found.get(IFLA_LINKINFO);
  const kind = info === undefined ? undefined : readAttributes(info, 0).get(IFLA_INFO_KIND);
  const alias = found.get(IFLA_IFALIAS);
  return {
    index: body.getInt32(4, true),
    name: readText(found.get(IFLA_IFNAME)!),
    up: (body.getUint32(8, true) & IFF_UP) !== 0,
    mtuBytes: found.get(IFLA_MTU)!.getUint32(0, true),
    mac: macOrNull(found.get(IFLA_ADDRESS)),
    kind: kind === undefined ? null : readText(kind),
    alias: alias === undefined ? '' : readText(alias),
    peerIndex: numberOrNull(found.get(IFLA_LINK)),
    peerNamespaceId: numberOrNull(found.get(IFLA_LINK_NETNSID)),
    group: found.get(IFLA_GROUP)?.getUint32(0, true) ?? 0,
  };
}

const withoutCounters: Attribute = [IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS];

/** @throws NetlinkError */
export function listLinks(nl: Netlink): LinkState[] {
  const body = encode(linkHeader(0), [withoutCounters]);
  const replies = nl.dump({ type: RTM_GETLINK, body, what: 'listing interfaces' });
  return replies.filter(({ type }) => type === RTM_NEWLINK).map(readLink);
}

/** Null: there is no such interface. @throws NetlinkError */
export function findLink(nl: Netlink, name: string): LinkState | null {
  const body = encode(linkHeader(0), [[IFLA_IFNAME, name], withoutCounters]);
  const replies: NetlinkReply[] = [];
  unless(ENODEV, () => {
    replies.push(...nl.request({ type: RTM_GETLINK, body, what: `looking for ${name}` }));
  });
  const [reply] = replies;
  return reply === undefined ? null : readLink(reply);
}

export interface VethEnd {
  /** At most 15 characters. */
  readonly name: string;
  readonly mtuBytes: number;
  readonly mac: Mac;
}

export interface NewVeth extends VethEnd {
  readonly alias: string;
  readonly up: boolean;
  readonly group?: number;
}

/** Comes down: the kernel cannot set up an end that has no other yet. */
export interface VethPeer extends VethEnd {
  /** Where it is to live from its first moment. */
  readonly netnsFd: number;
}

function newEnd(end: VethEnd, up: boolean, attributes: readonly Attribute[]): Uint8Array {
  const flags = up ? IFF_UP : 0;
  return encode(linkHeader(0, flags, flags), [
    [IFLA_IFNAME, end.name],
    [IFLA_MTU, end.mtuBytes],
    [IFLA_ADDRESS, macBytes(end.mac)],
    ...attributes,
  ]);
}

/**
 * Makes both ends, or none. The alias needs a second request; a link whose creator died in between has
 * none.
 * @returns the near end; its `peerIndex` is the far one's, in the far namespace
 * @throws NetlinkError, EEXIST when one of the names is taken
 */
export function createVeth(nl: Netlink, veth: NewVeth, peer: VethPeer): LinkState {
  const farEnd = newEnd(peer, false, [[IFLA_NET_NS_FD, peer.netnsFd]]);
  nl.request({
    type: RTM_NEWLINK,
    flags: NLM_F_CREATE | NLM_F_EXCL,
    body: newEnd(veth, veth.up, [
      [IFLA_GROUP, veth.group],
      [
        IFLA_LINKINFO,
        [
          [IFLA_INFO_KIND, 'veth'],
          [IFLA_INFO_DATA, [[VETH_INFO_PEER, farEnd]]],
        ],
      ],
    ]),
    what: `making the veth ${veth.name} with ${peer.name}`,
  });
  const link = findLink(nl, veth.name);
  if (link === null) throw new NetlinkError(`finding the veth ${veth.name} just made`, ENODEV);
  if (veth.alias === '') return link;
  try {
    setLink(nl, link.index, { alias: veth.alias });
  } catch (error) {
    deleteLink(nl, link.index);
    throw error;
  }
  return { ...link, alias: veth.alias };
}

export interface LinkChange {
  readonly up?: boolean;
  readonly mtuBytes?: number;
  readonly mac?: Mac;
  /** Empty: without an alias. */
  readonly alias?: string;
  readonly group?: number;
}

/** @throws NetlinkError */
export function setLink(nl: Netlink, index: number, change: LinkChange): void {
  const { up, mac, alias } = change;
  nl.request({
    type: RTM_SETLINK,
    body: encode(linkHeader(index, up === true ? IFF_UP : 0, up === undefined ? 0 : IFF_UP), [
      [IFLA_MTU, change.mtuBytes],
      [IFLA_ADDRESS, mac === undefined ? undefined : macBytes(mac)],
      // The kernel keeps the bytes as they are, so without a zero byte.
      [IFLA_IFALIAS, alias === undefined ? undefined : new TextEncoder().encode(alias)],
      [IFLA_GROUP, change.group],
    ]),
    what: `changing interface ${index}`,
  });
}

/** A veth's other end goes with it. @returns false if it was not there @throws NetlinkError */
export function deleteLink(nl: Netlink, index: number): boolean {
  const body = linkHeader(index);
  return unless(ENODEV, () =>
    nl.request({ type: RTM_DELLINK, body, what: `deleting interface ${index}` }),
  );
}

/**
 * Deletes all of a group at once: the kernel waits for its readers once, not once for each link.
 * @param group  not 0, where everything is that was put nowhere else
 * @returns false if there was none
 * @throws NetlinkError
 */
export function deleteLinkGroup(nl: Netlink, group: number): boolean {
  const body = encode(linkHeader(0), [[IFLA_GROUP, group]]);
  return unless(ENODEV, () =>
    nl.request({ type: RTM_DELLINK, body, what: `deleting the interfaces of group ${group}` }),
  );
}

export interface AddressState {
  readonly index: number;
  readonly address: IpAddress;
  readonly length: number;
  readonly scope: Scope;
  /** IPv6: not usable until nobody has answered for it, or for ever if somebody has (RFC 4862). */
  readonly tentative: boolean;
}

/** struct ifaddrmsg */
function addressHeader(index: number, af = 0, length = 0, flags = 0, scope = 0): Uint8Array {
  const header = Uint8Array.of(af, length, flags, scope, 0, 0, 0, 0);
  header.set(native32(index), 4);
  return header;
}

/** Of one interface, or of all. @throws NetlinkError */
export function listAddresses(nl: Netlink, index?: number): AddressState[] {
  const body = addressHeader(index ?? 0);
  let replies: NetlinkReply[] = [];
  unless(ENODEV, () => {
    replies = nl.dump({ type: RTM_GETADDR, body, what: 'listing addresses' });
  });
  const states: AddressState[] = [];
  for (const { type, body } of replies) {
    const found = readAttributes(body, IFADDR_BYTES);
    // The address of a point-to-point interface is the other end's.
    const address = found.get(IFA_LOCAL) ?? found.get(IFA_ADDRESS);
    if (type !== RTM_NEWADDR || address === undefined) continue;
    const flags = found.get(IFA_FLAGS)?.getUint32(0, true) ?? body.getUint8(2);
    states.push({
      index: body.getUint32(4, true),
      address: readAddress(address),
      length: body.getUint8(1),
      scope: scopeOf(body.getUint8(3)),
      tentative: (flags & IFA_F_TENTATIVE) !== 0,
    });
  }
  return index === undefined ? states : states.filter((state) => state.index === index);
}

export interface NewAddress {
  readonly index: number;
  readonly address: IpAddress;
  readonly length: number;
  readonly scope?: 'global' | 'link';
  /** IPv6: usable at once, whoever else has it. */
  readonly noDad?: boolean;
}

/** One that is there already is fine. @throws NetlinkError */
export function addAddress(nl: Netlink, added: NewAddress): void {
  const { index, address, length, scope = 'global', noDad = false } = added;
  const bytes = addressBytes(address);
  const af = afOf(familyOf(address));
  nl.request({
    type: RTM_NEWADDR,
    flags: NLM_F_CREATE | NLM_F_REPLACE,
    body: encode(addressHeader(index, af, length, noDad ? IFA_F_NODAD : 0, SCOPES[scope]), [
      [IFA_LOCAL, bytes],
      [IFA_ADDRESS, bytes],
    ]),
    what: `adding ${formatAddress(address)}/${length} to interface ${index}`,
  });
}

export interface RouteState {
  readonly to: Cidr;
  readonly type: RouteType;
  /** Null: it leads to no interface, or to several. */
  readonly index: number | null;
  /** The next hop, of either family. */
  readonly via: IpAddress | null;
  /** The source address that the node's own packets take. */
  readonly src: IpAddress | null;
  readonly scope: Scope;
  /** Who made it: 2 the kernel, 3 `ip` unless told otherwise, 4 whoever boots the machine. */
  readonly protocol: number;
  /** The lower wins. */
  readonly metric: number;
}

/** struct rtmsg; the table stands in an attribute, for those above 255. */
function routeHeader(
  af: number,
  length = 0,
  protocol = 0,
  scope = 0,
  type = 0,
  flags = 0,
): Uint8Array {
  const header = Uint8Array.of(af, length, 0, 0, 0, protocol, scope, type, 0, 0, 0, 0);
  header.set(native32(flags), 8);
  return header;
}

const RTMSG_TABLE = 4;

/** A table that never held a route is empty. @throws NetlinkError */
export function listRoutes(
  nl: Netlink,
  { family, table }: { readonly family: Family; readonly table: number },
): RouteState[] {
  const body = encode(routeHeader(afOf(family)), [[RTA_TABLE, table]]);
  let replies: NetlinkReply[] = [];
  unless(ENOENT, () => {
    replies = nl.dump({ type: RTM_GETROUTE, body, what: `listing the routes of table ${table}` });
  });
  const states: RouteState[] = [];
  for (const { type, body } of replies) {
    const found = readAttributes(body, RTMSG_BYTES);
    const cloned = (body.getUint32(8, true) & RTM_F_CLONED) !== 0;
    // A kernel without strict checks gives those of every table.
    if (type !== RTM_NEWROUTE || cloned || found.get(RTA_TABLE)?.getUint32(0, true) !== table)
      continue;
    const via = found.get(RTA_VIA);
    const to = addressOrNull(found.get(RTA_DST)) ?? (family === 4 ? toIpv4(0) : toIpv6(0n));
    states.push({
      to: cidrOf(to, body.getUint8(1)),
      type: ROUTE_TYPES[body.getUint8(7)] ?? 'unspec',
      index: numberOrNull(found.get(RTA_OIF)),
      via:
        via === undefined
          ? addressOrNull(found.get(RTA_GATEWAY))
          : readAddress(new DataView(via.buffer, via.byteOffset + 2, via.byteLength - 2)),
      src: addressOrNull(found.get(RTA_PREFSRC)),
      scope: scopeOf(body.getUint8(6)),
      protocol: body.getUint8(5),
      metric: found.get(RTA_PRIORITY)?.getUint32(0, true) ?? 0,
    });
  }
  return states;
}

export interface RouteSpec {
  readonly to: Cidr;
  readonly table: number;
  /** Unicast unless given. */
  readonly type?: RouteType;
  readonly index?: number;
  /** The next hop; of the other family as well. */
  readonly via?: IpAddress;
  readonly src?: IpAddress;
  /** As `ip` has it unless given: host for local, link for what has no next hop, else global. */
  readonly scope?: Scope;
  readonly protocol: number;
  /** IPv6 makes 1024 of 0. */
  readonly metric?: number;
  /** The next hop is on the link, whether or not an address of ours says so. */
  readonly onlink?: boolean;
}

function defaultScope({ type = 'unicast', via }: Partial<RouteSpec>): Scope {
  switch (type) {
    case 'local':
    case 'nat':
      return 'host';
    case 'broadcast':
    case 'multicast':
    case 'anycast':
      return 'link';
    case 'unicast':
      return via === undefined ? 'link' : 'global';
    default:
      return 'global';
  }
}

type RouteMatch = Pick<RouteSpec, 'to' | 'table'> & Partial<RouteSpec>;

function routeBody(route: RouteMatch, type: RouteType, scope: Scope): Uint8Array {
  const { to, table, via, src } = route;
  const sameFamily = via !== undefined && familyOf(via) === to.family;
  const header = routeHeader(
    afOf(to.family),
    to.length,
    route.protocol ?? 0,
    SCOPES[scope],
    ROUTE_TYPES.indexOf(type),
    route.onlink === true ? RTNH_F_ONLINK : 0,
  );
  header[RTMSG_TABLE] = table < 256 ? table : RT_TABLE_COMPAT;
  return encode(header, [
    [RTA_TABLE, table],
    [RTA_DST, addressBytes(to.base)],
    [RTA_OIF, route.index],
    [RTA_GATEWAY, sameFamily ? addressBytes(via) : undefined],
    [
      RTA_VIA,
      via === undefined || sameFamily
        ? undefined
        : Uint8Array.of(...native16(afOf(familyOf(via))), ...addressBytes(via)),
    ],
    [RTA_PREFSRC, src === undefined ? undefined : addressBytes(src)],
    [RTA_PRIORITY, route.metric],
  ]);
}

/**
 * In place of the route to the same block with the same metric, if there is one; with `unlessPresent` that
 * one stays.
 * @returns false if one stayed
 * @throws NetlinkError
 */
export function replaceRoute(
  nl: Netlink,
  route: RouteSpec,
  { unlessPresent = false }: { readonly unlessPresent?: boolean } = {},
): boolean {
  const request = {
    type: RTM_NEWROUTE,
    flags: NLM_F_CREATE | (unlessPresent ? NLM_F_EXCL : NLM_F_REPLACE),
    body: routeBody(route, route.type ?? 'unicast', route.scope ?? defaultScope(route)),
    what: `setting the route to ${formatCidr(route.to)} in table ${route.table}`,
  };
  if (unlessPresent) return unless(EEXIST, () => nl.request(request));
  nl.request(request);
  return true;
}

/** What is left out matches anything. @returns false if there is none @throws NetlinkError */
export function deleteRoute(nl: Netlink, route: RouteMatch): boolean {
  return unless(ESRCH, () =>
    nl.request({
      type: RTM_DELROUTE,
      body: routeBody(route, route.type ?? 'unspec', route.scope ?? 'nowhere'),
      what: `deleting the route to ${formatCidr(route.to)} in table ${route.table}`,
    }),
  );
}

export interface NeighborState {
  readonly index: number;
  readonly address: IpAddress;
  /** Null: not known yet, or it did not answer. */
  readonly mac: Mac | null;
  readonly permanent: boolean;
}

/** struct ndmsg */
function neighborHeader(index: number, af = 0, state = 0): Uint8Array {
  const header = Uint8Array.of(af, 0, 0, 0, 0, 0, 0, 0, state, 0, 0, 0);
  header.set(native32(index), 4);
  return header;
}

/** Of one interface, or of all. @throws NetlinkError */
export function listNeighbors(nl: Netlink, index?: number): NeighborState[] {
  const body = encode(neighborHeader(0), [[NDA_IFINDEX, index]]);
  const states: NeighborState[] = [];
  for (const { type, body: reply } of nl.dump({
    type: RTM_GETNEIGH,
    body,
    what: 'listing neighbours',
  })) {
    const found = readAttributes(reply, NDMSG_BYTES);
    const address = found.get(NDA_DST);
    if (type !== RTM_NEWNEIGH || address === undefined) continue;
    states.push({
      index: reply.getInt32(4, true),
      address: readAddress(address),
      mac: macOrNull(found.get(NDA_LLADDR)),
      permanent: (reply.getUint16(8, true) & NUD_PERMANENT) !== 0,
    });
  }
  return index === undefined ? states : states.filter((state) => state.index === index);
}

/** From now on, without asking: NUD_PERMANENT. @throws NetlinkError */
export function replaceNeighbor(
  nl: Netlink,
  {
    index,
    address,
    mac,
  }: { readonly index: number; readonly address: IpAddress; readonly mac: Mac },
): void {
  nl.request({
    type: RTM_NEWNEIGH,
    flags: NLM_F_CREATE | NLM_F_REPLACE,
    body: encode(neighborHeader(index, afOf(familyOf(address)), NUD_PERMANENT), [
      [NDA_DST, addressBytes(address)],
      [NDA_LLADDR, macBytes(mac)],
    ]),
    what: `setting the neighbour ${formatAddress(address)} of interface ${index}`,
  });
}

/**
 * What this namespace calls the other: a veth's `peerNamespaceId`. Null while no interface of the one has
 * its peer in the other and was reported.
 * @throws NetlinkError
 */
export function namespaceIdOf(nl: Netlink, netnsFd: number): number | null {
  const [reply] = nl.request({
    type: RTM_GETNSID,
    body: encode(new Uint8Array(4), [[NETNSA_FD, netnsFd]]),
    what: 'asking for the number of a namespace',
  });
  // struct rtgenmsg is one byte, padded.
  const id =
    reply === undefined ? null : numberOrNull(readAttributes(reply.body, 4).get(NETNSA_NSID));
  return id === null || id < 0 ? null : id;
}
