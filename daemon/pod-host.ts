/**
 * What each pod has on the host, and how it comes to it: a veth pair, routes, a neighbour, its pins.
 *
 *     pod's namespace                        host
 *     eth0  10.244.1.2/32  ----------------  weftp...   no IPv4 address, fe80::1
 *     default via 169.254.1.1, fe80::1       10.244.1.2 dev weftp...  (table 157)
 *
 * The host's end answers for 169.254.1.1 by proxy ARP, as it does for whatever the pod might ask: the
 * pod is alone on its link, and all that it sends is routed into the TUN (steering.ts).
 *
 * Level-triggered like the rest of the host's state: from the attachments that should be to the
 * interfaces that are. An interface that somebody deleted is made again, with the same addresses, as
 * long as the pod's namespace is there. Interfaces are ours by name and alias together.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { formatAlias, isAlias, parseAlias } from '../ipam/attachment-alias.ts';
import { type AttachmentKey, addressesOf, keyText } from '../ipam/pod-pool.ts';
import type { Attachment } from '../ipam/types.ts';
import { type Netlink, inNamespace, openNetlink } from '../linux/netlink.ts';
import { NamespaceError, type NamespaceFile, openNamespace } from '../linux/netns.ts';
import { type ElementChange, interfaceKey, openElementWriter } from '../linux/nft-elements.ts';
import {
  type LinkState,
  type NeighborState,
  type RouteSpec,
  type RouteState,
  addAddress,
  createVeth,
  deleteLink,
  deleteLinkGroup,
  deleteRoute,
  findLink,
  listAddresses,
  listLinks,
  listNeighbors,
  listRoutes,
  namespaceIdOf,
  replaceNeighbor,
  replaceRoute,
  setLink,
} from '../linux/rtnetlink.ts';
import {
  type IpAddress,
  addressBytes,
  formatAddress,
  parseAddress,
  parseIpv4,
  parseIpv6,
} from '../wire/address.ts';
import { type Cidr, type Cidr4, type Cidr6, cidrOf, cidrsEqual, formatCidr } from '../wire/cidr.ts';
import { formatMac, macBytes, parseMac } from '../wire/mac.ts';
import { NFT_TABLE, type Pin, POD_INTERFACE_PREFIX, pinElement, pinSet } from './ruleset.ts';
import { OUR_PROTOCOL, POD_TABLE } from './steering.ts';

export const GATEWAY4 = parseIpv4('169.254.1.1');
export const GATEWAY6 = parseIpv6('fe80::1');
/** Of every host end: locally administered, and the letters "weft". */
const GATEWAY_MAC = parseMac('02:77:65:66:74:00');
export const hostMacText = formatMac(GATEWAY_MAC);
const MAIN_TABLE = 254;
/** Routes within a pod are nobody's in particular, as those that `ip` sets. */
const BOOT_PROTOCOL = 3;
/** Interfaces on their way out, to be deleted in one go. */
const DOOMED_GROUP = 0x77656674;

/** The pod cannot have its interface. */
export class PodHostError extends Error {
  override readonly name = 'PodHostError';
  readonly code: 'ERR_NAMESPACE_GONE' | 'ERR_HOST_NAMESPACE' | 'ERR_INTERFACE_EXISTS';

  constructor(code: PodHostError['code'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** What follows from an attachment, once: a pass asks it of every pod. */
const names = new WeakMap<AttachmentKey, string>();
const pins = new WeakMap<Attachment, readonly Pin[]>();

/** 15 characters: the prefix and 50 bits of a digest, in the letters of base 32. */
export function hostInterfaceOf(key: AttachmentKey): string {
  const known = names.get(key);
  if (known !== undefined) return known;
  const digest = createHash('sha256').update(keyText(key)).digest();
  let bits = digest.readUIntBE(0, 6) * 4 + (digest[6]! >>> 6);
  let text = '';
  for (let i = 0; i < 10; i++) {
    text = '0123456789abcdefghijklmnopqrstuv'[bits % 32]! + text;
    bits = Math.floor(bits / 32);
  }
  const name = POD_INTERFACE_PREFIX + text;
  names.set(key, name);
  return name;
}

const hostBlock = (address: IpAddress): Cidr =>
  cidrOf(address, typeof address === 'number' ? 32 : 128);

function pinsOfOne(it: Attachment): readonly Pin[] {
  const known = pins.get(it);
  if (known !== undefined) return known;
  const made = addressesOf(it).map((address) => ({
    family: typeof address === 'number' ? (4 as const) : (6 as const),
    iface: hostInterfaceOf(it),
    mac: formatMac(it.mac),
    address: formatAddress(address),
  }));
  pins.set(it, made);
  return made;
}

export const pinsOf = (attachments: readonly Attachment[]): readonly Pin[] =>
  attachments.flatMap(pinsOfOne);

export interface PodHostInputs {
  readonly attachments: readonly Attachment[];
  readonly subnet4: Cidr4 | null;
  readonly subnet6: Cidr6 | null;
  /** Null: not known yet; no interface is made. */
  readonly mtuBytes: number | null;
}

export interface PodHostResult {
  /** By key: why this attachment is not as it should be. */
  readonly failures: ReadonlyMap<string, Error>;
  /** What was changed, one word group each, for the log. */
  readonly changes: readonly string[];
}

/** An interface of ours on the host. */
export interface PodInterface {
  readonly link: LinkState;
  readonly attachment: ReturnType<typeof parseAlias> & object;
}

const setting = (path: string, value: string): void =>
  writeFileSync(`/proc/sys/net/${path}`, value);

const hasOurName = (link: LinkState): boolean =>
  link.kind === 'veth' && link.name.startsWith(POD_INTERFACE_PREFIX);
const isFinished = (link: LinkState): boolean => hasOurName(link) && isAlias(link.alias);
/** Only we make such a thing, and give it its alias within the same moment. */
const isUnfinished = (link: LinkState): boolean =>
  hasOurName(link) && link.alias === '' && link.mac === GATEWAY_MAC;

/** A kernel without IPv6 has no such settings, and needs none. */
function setting6(path: string, value: string): void {
  try {
    setting(`ipv6/${path}`, value);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

export class PodHost implements Disposable {
  readonly #netlink: Netlink = openNetlink();
  readonly #elements = openElementWriter();
  /** Elements of the nft sets; null: not known. */
  #pinned: Set<string> | null = null;
  /** What was last found, or made, as it should be, with its interface's index; null: not known. */
  #made: Map<Attachment, number> | null = null;

  [Symbol.dispose](): void {
    this.#netlink[Symbol.dispose]();
    this.#elements[Symbol.dispose]();
  }

  /** Our interfaces on the host, by what their aliases say. */
  interfaces(): readonly PodInterface[] {
    return listLinks(this.#netlink).flatMap((link) => {
      const attachment = hasOurName(link) ? parseAlias(link.alias) : null;
      return attachment === null ? [] : [{ link, attachment }];
    });
  }

  /** Where the other end of an interface lives; null where no name leads there. */
  namespaceOf(link: LinkState): { readonly netns: string; readonly netnsId: string } | null {
    for (const netns of namespacePaths()) {
      try {
        using namespace = openNamespace(netns);
        if (namespaceIdOf(this.#netlink, namespace.fd) === link.peerNamespaceId) {
          return { netns, netnsId: namespace.id };
        }
      } catch (error) {
        // It went meanwhile.
        if (!(error instanceof NamespaceError)) throw error;
      }
    }
    return null;
  }

  /** What the table was found to hold, or was made with. */
  pinnedAre(elements: ReadonlySet<string>): void {
    this.#pinned = new Set(elements);
  }

  /**
   * Brings the host to what is wanted. One attachment's failure leaves the others alone.
   * @throws NetlinkError, for the sets too; what was pinned is unknown then
   */
  reconcile(inputs: PodHostInputs): PodHostResult {
    const { attachments } = inputs;
    const failures = new Map<string, Error>();
    const changes: string[] = [];
    this.#made = null;
    this.#removeOthers(attachments, changes);
    // Before the interface: its first packet must pass.
    this.#pin(pinsOf(attachments), changes);
    const links = new Map(listLinks(this.#netlink).map((link) => [link.name, link]));
    // An interface that was down has lost its IPv6 address.
    const gateways = new Set(
      listAddresses(this.#netlink).flatMap((it) => (it.address === GATEWAY6 ? [it.index] : [])),
    );
    const find = (name: string): LinkState | null => links.get(name) ?? null;
    const made = this.#makeInterfaces(inputs, attachments, find, gateways, failures, changes);
    this.#route(inputs, made, changes);
    this.#nameNeighbours(made, changes);
    this.#made = made;
    return { failures, changes };
  }

  /**
   * The same for the attachments that came and went since, without a look at the others: what somebody
   * else changes is found by the next `reconcile`. A pass costs what has changed, not what there is.
   */
  update(inputs: PodHostInputs): PodHostResult {
    const before = this.#made;
    if (before === null) return this.reconcile(inputs);
    const failures = new Map<string, Error>();
    const changes: string[] = [];
    const wanted = new Set(inputs.attachments);
    const gone = [...before].filter(([it]) => !wanted.has(it));
    const fresh = inputs.attachments.filter((it) => !before.has(it));
    this.#made = null;
    this.#remove(
      gone.map(([it, index]) => ({ name: hostInterfaceOf(it), index })),
      changes,
    );
    this.#pin(pinsOf(inputs.attachments), changes);
    const find = (name: string): LinkState | null => findLink(this.#netlink, name);
    const none = new Set<number>();
    const made = this.#makeInterfaces(inputs, fresh, find, none, failures, changes);
    for (const [attachment, index] of made) {
      for (const route of routesOf(inputs, attachment, index)) {
        ifStillThere(() => replaceRoute(this.#netlink, route));
      }
      for (const it of neighboursOf(attachment, index)) {
        ifStillThere(() => replaceNeighbor(this.#netlink, it));
      }
    }
    for (const [it] of gone) before.delete(it);
    for (const [it, index] of made) before.set(it, index);
    this.#made = before;
    return { failures, changes };
  }

  /** What no attachment has, and what a daemon that was killed left unfinished. */
  #removeOthers(attachments: readonly Attachment[], changes: string[]): void {
    const wanted = new Set(attachments.map(hostInterfaceOf));
    const doomed = listLinks(this.#netlink).filter(
      (it) => isUnfinished(it) || (isFinished(it) && !wanted.has(it.name)),
    );
    this.#remove(doomed, changes);
  }

  #remove(doomed: readonly Pick<LinkState, 'name' | 'index'>[], changes: string[]): void {
    if (doomed.length === 0) return;
    for (const { name, index } of doomed) {
      // Its namespace may take it away at any moment.
      ifStillThere(() => setLink(this.#netlink, index, { group: DOOMED_GROUP }));
      changes.push(`-${name}`);
    }
    deleteLinkGroup(this.#netlink, DOOMED_GROUP);
  }

  #pin(pins: readonly Pin[], changes: string[]): void {
    // Without the table there is nothing to change; who makes it anew fills it.
    if (this.#pinned === null) return;
    const present = this.#pinned;
    const wanted = new Map(pins.map((it) => [pinElement(it), it]));
    const add = [...wanted].filter(([text]) => !present.has(text)).map(([, pin]) => pin);
    const remove = [...present].filter((text) => !wanted.has(text)).map(pinOf);
    if (add.length + remove.length === 0) return;
    this.#pinned = null;
    this.#elements.apply(NFT_TABLE, [
      ...remove.map((it) => pinChange('delete', it)),
      ...add.map((it) => pinChange('add', it)),
    ]);
    this.#pinned = new Set(wanted.keys());
    changes.push(`pins +${add.length} -${remove.length}`);
  }

  /**
   * @param gateways indexes of interfaces that have the gateway's address
   * @returns        those that have their interface, with its index
   */
  #makeInterfaces(
    { mtuBytes }: PodHostInputs,
    attachments: readonly Attachment[],
    find: (name: string) => LinkState | null,
    gateways: ReadonlySet<number>,
    failures: Map<string, Error>,
    changes: string[],
  ): Map<Attachment, number> {
    const made = new Map<Attachment, number>();
    for (const attachment of attachments) {
      const name = hostInterfaceOf(attachment);
      try {
        let link = find(name);
        if (link === null && mtuBytes === null) continue;
        if (link === null) {
          link = this.#makeInterface(attachment, mtuBytes!);
          changes.push(`+${name}`);
        } else if (!isFinished(link)) {
          throw new PodHostError(
            'ERR_INTERFACE_EXISTS',
            `interface ${name} on the host is somebody else's`,
          );
        } else {
          this.#mendInterface(attachment, link, mtuBytes, gateways.has(link.index), changes);
        }
        made.set(attachment, link.index);
      } catch (error) {
        failures.set(keyText(attachment), error as Error);
      }
    }
    return made;
  }

  #mendInterface(
    { address6 }: Attachment,
    { name, index, up, mtuBytes: mtuNow }: LinkState,
    mtuBytes: number | null,
    hasGateway: boolean,
    changes: string[],
  ): void {
    if (!up || (mtuBytes !== null && mtuNow !== mtuBytes)) {
      setLink(this.#netlink, index, { up: true, ...(mtuBytes === null ? {} : { mtuBytes }) });
      changes.push(`~${name}`);
    }
    if (address6 !== null && !hasGateway) addGateway6(this.#netlink, index);
  }

  #makeInterface(attachment: Attachment, mtuBytes: number): LinkState {
    const { netns, netnsId, ifname, mac, address6 } = attachment;
    using namespace = openNamespace(netns);
    if (namespace.id !== netnsId) {
      throw new PodHostError(
        'ERR_NAMESPACE_GONE',
        `${netns} is another network namespace than the one that was attached`,
      );
    }
    const name = hostInterfaceOf(attachment);
    const netlink = this.#netlink;
    const link = createVeth(
      netlink,
      { name, mtuBytes, mac: GATEWAY_MAC, alias: '', up: false },
      { name: ifname, mtuBytes, mac, netnsFd: namespace.fd },
    );
    try {
      configureHostEnd(name, address6 !== null);
      setLink(netlink, link.index, { up: true });
      if (address6 !== null) addGateway6(netlink, link.index);
      configurePodEnd(namespace, attachment);
      // Last: without it the interface is unfinished, and made anew.
      setLink(netlink, link.index, { alias: formatAlias(attachment) });
    } catch (error) {
      deleteLink(netlink, link.index);
      throw error;
    }
    return { ...link, up: true };
  }

  #route(inputs: PodHostInputs, made: ReadonlyMap<Attachment, number>, changes: string[]): void {
    const all = [...made].flatMap(([attachment, index]) => routesOf(inputs, attachment, index));
    for (const subnet of [inputs.subnet4, inputs.subnet6]) {
      if (subnet === null) continue;
      const { family } = subnet;
      // What no pod has is not to go round through the overlay's route.
      const rest: RouteSpec = { ...OURS, to: subnet, type: 'unreachable' };
      const wanted = [rest, ...all.filter((it) => it.to.family === family)];
      const present = this.#routes(family);
      const keys = new Set(wanted.map(routeKey));
      const found = new Set(present.map(routeKey));
      for (const route of present) {
        // Before the others are set: IPv6 keeps a second route beside the first.
        if (keys.has(routeKey(route))) continue;
        deleteRoute(this.#netlink, specOf(route));
        changes.push(`-route ${formatAddress(route.to.base)}`);
      }
      for (const route of wanted) {
        if (found.has(routeKey(route))) continue;
        ifStillThere(() => replaceRoute(this.#netlink, route));
        changes.push(`+route ${formatAddress(route.to.base)}`);
      }
    }
  }

  #nameNeighbours(made: ReadonlyMap<Attachment, number>, changes: string[]): void {
    const known = new Set(
      listNeighbors(this.#netlink)
        .filter((it) => it.permanent)
        .map(neighbourKey),
    );
    for (const [attachment, index] of made) {
      for (const it of neighboursOf(attachment, index)) {
        if (known.has(neighbourKey(it))) continue;
        ifStillThere(() => replaceNeighbor(this.#netlink, it));
        changes.push(`+neighbour ${formatAddress(it.address)}`);
      }
    }
  }

  /** Takes everything away that any daemon ever made for pods; gives what was there. */
  removeAll(): readonly string[] {
    const changes: string[] = [];
    this.#removeOthers([], changes);
    const removed = changes.map((it) => `interface ${it.slice(1)}`);
    for (const family of [4, 6] as const) {
      for (const route of this.#routes(family)) {
        if (deleteRoute(this.#netlink, specOf(route))) {
          removed.push(`route ${formatCidr(route.to)} table ${POD_TABLE}`);
        }
      }
    }
    return removed;
  }

  #routes(family: 4 | 6): RouteState[] {
    return listRoutes(this.#netlink, { family, table: POD_TABLE }).filter(
      (it) => it.protocol === OUR_PROTOCOL,
    );
  }

  /**
   * What is not as ADD made it, one line each; empty when all is well.
   * @throws NamespaceError when the namespace cannot be opened
   */
  check(attachment: Attachment): readonly string[] {
    const { netns, netnsId, ifname, mac } = attachment;
    const problems: string[] = [];
    const name = hostInterfaceOf(attachment);
    const link = findLink(this.#netlink, name);
    if (link === null) problems.push(`the host has no interface ${name}`);
    else if (!link.up) problems.push(`interface ${name} on the host is down`);
    using namespace = openNamespace(netns);
    if (namespace.id !== netnsId) return [...problems, `${netns} is another namespace now`];
    using inside = openNetlink({ netnsFd: namespace.fd });
    const own = findLink(inside, ifname);
    if (own === null) return [...problems, `the container has no interface ${ifname}`];
    if (!own.up) problems.push(`interface ${ifname} is down`);
    if (own.mac !== mac) {
      const has = own.mac === null ? 'none' : formatMac(own.mac);
      problems.push(`interface ${ifname} has the Ethernet address ${has}, not ${formatMac(mac)}`);
    }
    const present = listAddresses(inside, own.index);
    for (const address of addressesOf(attachment)) {
      const text = formatAddress(address);
      if (!present.some((it) => it.address === address)) {
        problems.push(`interface ${ifname} has not the address ${text}`);
      }
      const family = typeof address === 'number' ? 4 : 6;
      const isRouted = this.#routes(family).some(
        (it) => it.index === link?.index && cidrsEqual(it.to, hostBlock(address)),
      );
      if (!isRouted) problems.push(`the host has no route to ${text}`);
      const ways = listRoutes(inside, { family, table: MAIN_TABLE });
      if (!ways.some((it) => it.index === own.index && it.to.length === 0)) {
        // A second interface leaves the default route to the first.
        if (!ways.some((it) => it.to.length === 0)) problems.push(`no IPv${family} default route`);
      }
    }
    return problems;
  }
}

/** Named namespaces, then those of processes. */
function namespacePaths(): readonly string[] {
  const list = (dir: string): string[] => (existsSync(dir) ? readdirSync(dir) : []);
  return [
    ...list('/run/netns').map((it) => `/run/netns/${it}`),
    ...list('/proc')
      .filter((it) => /^\d+$/.test(it))
      .map((it) => `/proc/${it}/ns/net`),
  ];
}

/** The interface `ifname` is there in the container already. @throws NamespaceError, PodHostError */
export function refuseExisting(namespace: NamespaceFile, ifname: string): void {
  using inside = openNetlink({ netnsFd: namespace.fd });
  if (findLink(inside, ifname) === null) return;
  throw new PodHostError(
    'ERR_INTERFACE_EXISTS',
    `the container has an interface ${ifname} already; nothing was changed`,
  );
}

const addGateway6 = (netlink: Netlink, index: number): void =>
  addAddress(netlink, { index, address: GATEWAY6, length: 128, scope: 'link', noDad: true });

function configureHostEnd(name: string, withIpv6: boolean): void {
  setting(`ipv4/conf/${name}/forwarding`, '1');
  setting(`ipv4/conf/${name}/proxy_arp`, '1');
  // Otherwise the kernel waits up to 0.8 s before it answers for another.
  setting(`ipv4/neigh/${name}/proxy_delay`, '0');
  setting6(`conf/${name}/disable_ipv6`, withIpv6 ? '0' : '1');
  // No address but the gateway's.
  setting6(`conf/${name}/addr_gen_mode`, '1');
  setting6(`conf/${name}/accept_ra`, '0');
  if (withIpv6) setting6(`conf/${name}/forwarding`, '1');
}

function configurePodEnd(namespace: NamespaceFile, attachment: Attachment): void {
  const { ifname, address4, address6 } = attachment;
  inNamespace(namespace.fd, () => {
    setting6(`conf/${ifname}/accept_ra`, '0');
    setting6(`conf/${ifname}/accept_dad`, '0');
    if (address6 !== null) setting6(`conf/${ifname}/disable_ipv6`, '0');
  });
  using inside = openNetlink({ netnsFd: namespace.fd });
  const loopback = findLink(inside, 'lo');
  if (loopback !== null && !loopback.up) setLink(inside, loopback.index, { up: true });
  const { index } = findLink(inside, ifname)!;
  setLink(inside, index, { up: true });
  const main = { table: MAIN_TABLE, index, protocol: BOOT_PROTOCOL } as const;
  if (address4 !== null) {
    addAddress(inside, { index, address: address4, length: 32 });
    replaceRoute(inside, { ...main, to: hostBlock(GATEWAY4), scope: 'link' });
    const all = { ...main, to: cidrOf(GATEWAY4, 0), via: GATEWAY4 };
    replaceRoute(inside, all, { unlessPresent: true });
  }
  if (address6 !== null) {
    addAddress(inside, { index, address: address6, length: 128, noDad: true });
    const all = { ...main, to: cidrOf(GATEWAY6, 0), via: GATEWAY6 };
    replaceRoute(inside, all, { unlessPresent: true });
  }
}

/** An interface, or what is on it, that is gone meanwhile is no failure of ours: the next look will tell. */
function ifStillThere(work: () => void): void {
  try {
    work();
  } catch (error) {
    const { errno } = error as { errno?: number };
    if (errno !== ENODEV && errno !== ESRCH && errno !== ENOENT) throw error;
  }
}
const ENOENT = 2;
const ESRCH = 3;
const ENODEV = 19;

const OURS = { table: POD_TABLE, protocol: OUR_PROTOCOL } as const;

/** By which the node itself and the packet path reach the pod; the node's source is its own address. */
const routesOf = (
  { subnet4, subnet6 }: PodHostInputs,
  attachment: Attachment,
  index: number,
): readonly RouteSpec[] =>
  addressesOf(attachment).flatMap((address): RouteSpec[] => {
    const subnet = typeof address === 'number' ? subnet4 : subnet6;
    if (subnet === null) return [];
    const scope = subnet.family === 4 ? { scope: 'link' as const } : {};
    return [{ ...OURS, to: hostBlock(address), index, src: subnet.base, ...scope }];
  });

/** The pod need not be asked for its Ethernet address, and cannot answer for another's. */
const neighboursOf = (attachment: Attachment, index: number) =>
  addressesOf(attachment).map((address) => ({ index, address, mac: attachment.mac }));

function pinOf(element: string): Pin {
  const [iface = '', mac = '', address = ''] = element.split(' . ');
  const family = address.includes(':') ? 6 : 4;
  return { family, iface: iface.replaceAll('"', ''), mac, address };
}

const pinChange = (verb: ElementChange['verb'], pin: Pin): ElementChange => ({
  verb,
  set: pinSet(pin),
  key: [
    interfaceKey(pin.iface),
    macBytes(parseMac(pin.mac)),
    addressBytes(parseAddress(pin.address)),
  ],
});

const routeKey = ({ to, type = 'unicast', index, src }: RouteSpec | RouteState): string =>
  // The kernel shows lo as the device of an unreachable IPv6 route.
  `${type} ${to.base}/${to.length} ${type === 'unreachable' ? '-' : index} ${src ?? '-'}`;

const specOf = ({ to, type, index, protocol }: RouteState): RouteSpec => ({
  ...OURS,
  protocol,
  to,
  type,
  ...(index === null || type === 'unreachable' ? {} : { index }),
});

const neighbourKey = ({ index, address, mac }: Pick<NeighborState, 'index' | 'address' | 'mac'>) =>
  `${index} ${address} ${mac}`;
