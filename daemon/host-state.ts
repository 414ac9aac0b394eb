/**
 * What we want of the host, what it has, and the difference: the TUN's addresses, MTU and routes, direct
 * routes to peers, the rules that steer pods' packets, kernel settings, and the nft table. What belongs
 * to a pod is in pod-host.ts. Level-triggered: the same few lines serve the start, a new peer, and an
 * operator who flushed the routes. `desiredHost` and `planHost` are pure.
 */
import type { SteeredFrontend } from '../service/compile.ts';
import {
  type Command,
  type InterfaceAddress,
  type InterfaceAddresses,
  type Route,
  type Rule,
  apply,
  listAddresses,
  listRoutes,
  listRules,
  words,
} from '../linux/ip.ts';
import { type NftTable, applyRuleset, readTable } from '../linux/nft.ts';
import { readSysctl, writeSysctl } from '../linux/sysctl.ts';
import type { NetworkConfig, NodeLease } from '../ipam/types.ts';
import { type IpAddress, formatAddress, parseAddress } from '../wire/address.ts';
import { type Cidr, cidrOf, formatCidr } from '../wire/cidr.ts';
import { isDirect } from './overlay-state.ts';
import {
  NFT_FAMILY,
  NFT_TABLE,
  type Pin,
  type Ruleset,
  deleteTable,
  pinElement,
  rulesetOf,
  steeredElement,
} from './ruleset.ts';
import { readSysctlRecord, writeSysctlRecord } from './state-dir.ts';
import {
  OUR_PROTOCOL,
  POD_TABLE,
  STEERING_TABLE,
  onLinkBlocks,
  planRules,
  removeRules,
} from './steering.ts';
import type { Underlay } from './underlay.ts';

export interface HostInputs {
  readonly tunName: string;
  readonly mtuBytes: number;
  readonly network: Pick<NetworkConfig, 'ipv4' | 'ipv6' | 'port'>;
  readonly lease: Pick<NodeLease, 'subnet4' | 'subnet6'>;
  readonly underlay: Underlay;
  readonly ipMasq: boolean;
  readonly directRouting: boolean;
  /** The others; null before the first full list, when no route is taken away. */
  readonly peers: readonly NodeLease[] | null;
  readonly pins: readonly Pin[];
  /** Null: a plain overlay. */
  readonly services: HostServices | null;
}

export interface HostServices {
  /** Blocks of cluster addresses: the host's own packets for them go into the TUN. */
  readonly networks: readonly Cidr[];
  readonly steered: readonly SteeredFrontend[];
}

interface DesiredRoute {
  readonly to: Cidr;
  /** Null: main. */
  readonly table: number | null;
  /** Null: the table has no answer (`throw`), the next rule is asked. */
  readonly dev: string | null;
  readonly via: IpAddress | null;
  readonly src: IpAddress | null;
}

interface Sysctl {
  readonly path: string;
  readonly value: string;
  /** Set only where the host says so of others at the same moment. */
  readonly onlyIf?: Readonly<Record<string, string>>;
  /** The host's, not our device's: its former value is recorded, and restored by cleanup. */
  readonly global: boolean;
}

export interface DesiredHost {
  readonly tunName: string;
  readonly mtuBytes: number;
  readonly addresses: readonly IpAddress[];
  readonly routes: readonly DesiredRoute[];
  /** False: routes that are not wanted may still be needed; leave them. */
  readonly complete: boolean;
  /** Whose packets are steered into the TUN. */
  readonly subnet4: Cidr | null;
  readonly subnet6: Cidr | null;
  /** And what nft has marked. */
  readonly steersMarked: boolean;
  readonly sysctls: readonly Sysctl[];
  readonly ruleset: Ruleset;
}

export interface ActualHost {
  readonly links: readonly InterfaceAddresses[];
  /** Ours, of all tables but the pods'. */
  readonly routes4: readonly Route[];
  readonly routes6: readonly Route[];
  /** Everybody's. */
  readonly rules4: readonly Rule[];
  readonly rules6: readonly Rule[];
  readonly sysctls: Readonly<Record<string, string | null>>;
  readonly table: Pick<NftTable, 'comment' | 'rules'> | null;
}

export interface HostPlan {
  /** For iproute2, in order; then the rules of each family. */
  readonly ip: readonly Command[];
  readonly rules4: readonly Command[];
  readonly rules6: readonly Command[];
  readonly sysctls: readonly Sysctl[];
  readonly ruleset: string | null;
}

/** The host cannot be brought to what is wanted. */
export class HostStateError extends Error {
  override readonly name = 'HostStateError';
  readonly code = 'ERR_HOST_STATE';
}

const ours = (path: string, value: string): Sysctl => ({ path, value, global: false });

function desiredSysctls(inputs: HostInputs): readonly Sysctl[] {
  const { tunName: tun, network, underlay } = inputs;
  const forwarding6 = 'net/ipv6/conf/all/forwarding';
  const acceptRa = `net/ipv6/conf/${underlay.iface}/accept_ra`;
  return [
    // A router ignores router advertisements (RFC 4861 section 6.2.8), and the kernel drops the default
    // route it has from one: 2 means accept them all the same. Before the next line, hence first.
    ...(network.ipv6 === null
      ? []
      : [
          {
            path: acceptRa,
            value: '2',
            onlyIf: { [forwarding6]: '0', [acceptRa]: '1' },
            global: true,
          },
          { path: forwarding6, value: '1', global: true },
        ]),
    ...(network.ipv4 === null ? [] : [{ path: 'net/ipv4/ip_forward', value: '1', global: true }]),
    // Of both families. A pod's packet for a socket of the node would be given to that socket before it is
    // routed, and as we route it into the TUN the kernel would drop it (ip_forward: skb->sk).
    { path: 'net/ipv4/ip_early_demux', value: '0', global: true },
    // What the packet path writes may come from the host's own addresses: ICMP errors and clients that a
    // Service hides from `.0`, answers of node ports from whichever was asked.
    ours(`net/ipv4/conf/${tun}/accept_local`, '1'),
    // Answers of peers reached by direct routes come in another way than requests go out.
    ours(`net/ipv4/conf/${tun}/rp_filter`, '2'),
    // Answers to a connection that a hostPort's NAT took from 127.0.0.1 come back this way. The packet
    // path itself writes nothing from or to 127/8.
    ours(`net/ipv4/conf/${tun}/route_localnet`, '1'),
    // Packets between pods come and go by the same device: no shorter way exists.
    ours(`net/ipv4/conf/${tun}/send_redirects`, '0'),
    ours(`net/ipv6/conf/${tun}/addr_gen_mode`, '1'),
    ours(`net/ipv6/conf/${tun}/accept_ra`, '0'),
  ];
}

/** Straight to the peer's address, for its subnets, where the packet path leaves them to the host. */
function directRoutes({ underlay, directRouting, peers }: HostInputs): readonly DesiredRoute[] {
  return (peers ?? []).flatMap((peer) =>
    (
      [
        [4, peer.subnet4, peer.publicIp4],
        [6, peer.subnet6, peer.publicIp6],
      ] as const
    ).flatMap(([family, to, via]) =>
      to !== null && via !== null && isDirect(peer, family, underlay, directRouting)
        ? [{ to, table: null, dev: underlay.iface, via, src: null }]
        : [],
    ),
  );
}

export function desiredHost(inputs: HostInputs): DesiredHost {
  const { tunName, network, lease, underlay } = inputs;
  const networks = [
    [network.ipv4?.network, lease.subnet4],
    [network.ipv6?.network, lease.subnet6],
  ] as const;
  const routes: DesiredRoute[] = [];
  const addresses: IpAddress[] = [];
  for (const [to, subnet] of networks) {
    if (to === undefined || subnet === null) continue;
    addresses.push(subnet.base);
    routes.push(
      { to, table: null, dev: tunName, via: null, src: subnet.base },
      ...onLinkBlocks(subnet.family).map((it) => ({
        to: it,
        table: STEERING_TABLE,
        dev: null,
        via: null,
        src: null,
      })),
      {
        to: cidrOf(subnet.base, 0),
        table: STEERING_TABLE,
        dev: tunName,
        via: null,
        src: null,
      },
    );
    for (const it of inputs.services?.networks ?? []) {
      if (it.family !== subnet.family) continue;
      routes.push({ to: it, table: null, dev: tunName, via: null, src: subnet.base });
    }
  }
  routes.push(...directRoutes(inputs));
  return {
    tunName,
    mtuBytes: inputs.mtuBytes,
    addresses,
    routes,
    complete: inputs.peers !== null,
    subnet4: network.ipv4 === null ? null : lease.subnet4,
    subnet6: network.ipv6 === null ? null : lease.subnet6,
    steersMarked: inputs.services !== null,
    sysctls: desiredSysctls(inputs),
    ruleset: rulesetOf({
      tunName,
      iface: underlay.iface,
      port: network.port,
      ipMasq: inputs.ipMasq,
      network4: network.ipv4?.network ?? null,
      network6: network.ipv6?.network ?? null,
      subnet4: lease.subnet4,
      subnet6: lease.subnet6,
      pins: inputs.pins,
      steered: inputs.services?.steered ?? null,
    }),
  };
}

/** `ip` writes a host's route without its length. */
function destinationOf(route: Route, family: 4 | 6): string {
  if (route.dst === 'default') return family === 4 ? '0.0.0.0/0' : '::/0';
  const [address = '', length] = route.dst.split('/');
  return formatCidr(cidrOf(parseAddress(address), Number(length ?? (family === 4 ? 32 : 128))));
}

const lengthOf = (address: IpAddress): number => (typeof address === 'number' ? 32 : 128);

const protocol = ['proto', String(OUR_PROTOCOL)];
const inTable = (table: number | null): readonly string[] =>
  table === null ? [] : ['table', String(table)];
const tableOf = (route: Route): number | null =>
  route.table === undefined || route.table === 'main' ? null : Number(route.table);
/** IPv6 shows lo as the device of a route that has none. */
const deviceOf = (route: Route): string | null =>
  route.type === undefined ? (route.dev ?? null) : null;

function deleteRoute(family: 4 | 6, route: Route): Command {
  const type = route.type === undefined ? [] : [route.type];
  const device = deviceOf(route);
  const dev = device === null ? [] : ['dev', device];
  const to = destinationOf(route, family);
  return ['route', 'del', ...type, to, ...dev, ...inTable(tableOf(route)), ...protocol];
}

const sameAddress = (text: string | undefined, address: IpAddress | null): boolean =>
  text === undefined ? address === null : address !== null && parseAddress(text) === address;

/** One address, and not the block around it: the overlay's route is ours to set. */
const isAddress = (it: InterfaceAddress, address: IpAddress): boolean =>
  sameAddress(it.local, address) && it.prefixlen === lengthOf(address);

function planRoutes(
  desired: DesiredHost,
  actual: ActualHost,
): { add: Command[]; remove: Command[] } {
  const add: Command[] = [];
  const remove: Command[] = [];
  for (const family of [4, 6] as const) {
    const wanted = desired.routes.filter((it) => it.to.family === family);
    const present = (family === 4 ? actual.routes4 : actual.routes6).map((route) => ({
      route,
      to: destinationOf(route, family),
    }));
    const matches = (want: DesiredRoute, { route, to }: (typeof present)[number]): boolean =>
      to === formatCidr(want.to) &&
      tableOf(route) === want.table &&
      deviceOf(route) === want.dev &&
      sameAddress(route.gateway, want.via) &&
      sameAddress(route.prefsrc, want.src);
    for (const want of wanted) {
      if (present.some((it) => matches(want, it))) continue;
      const via = want.via === null ? [] : ['via', formatAddress(want.via)];
      const src = want.src === null ? [] : ['src', formatAddress(want.src)];
      const to = want.dev === null ? ['throw', formatCidr(want.to)] : [formatCidr(want.to)];
      const dev = want.dev === null ? [] : ['dev', want.dev];
      const table = inTable(want.table);
      add.push(['route', 'replace', ...to, ...via, ...dev, ...table, ...protocol, ...src]);
    }
    if (!desired.complete) continue;
    for (const it of present) {
      // A route that differs only in its way was just replaced in place: IPv4 and IPv6 keep one each.
      const isSame = (want: DesiredRoute): boolean =>
        formatCidr(want.to) === it.to && want.table === tableOf(it.route);
      if (wanted.some(isSame)) continue;
      remove.push(deleteRoute(family, it.route));
    }
  }
  return { add, remove };
}

/**
 * The difference. Order: the link, addresses, routes that need them as source; then what is not wanted,
 * routes before the addresses they lean on.
 * @throws HostStateError when the TUN is not there
 */
export function planHost(desired: DesiredHost, actual: ActualHost): HostPlan {
  const { tunName } = desired;
  const tun = actual.links.find((it) => it.ifname === tunName);
  if (tun === undefined) {
    throw new HostStateError(`interface ${tunName} is gone: pods reach no other node`);
  }
  const ip: Command[] = [];
  if (tun.mtu !== desired.mtuBytes) ip.push(words`link set dev ${tunName} mtu ${desired.mtuBytes}`);
  if (!tun.flags.includes('UP')) ip.push(words`link set dev ${tunName} up`);
  // Link-local addresses are the kernel's affair.
  const present = tun.addr_info.filter((it) => it.scope !== 'link');
  for (const address of desired.addresses) {
    if (present.some((it) => isAddress(it, address))) continue;
    const to = `${formatAddress(address)}/${lengthOf(address)}`;
    const nodad = typeof address === 'number' ? [] : ['nodad'];
    ip.push([...words`address replace ${to} dev ${tunName}`, ...nodad]);
  }
  const routes = planRoutes(desired, actual);
  ip.push(...routes.add, ...routes.remove);
  for (const it of present) {
    if (!desired.addresses.some((a) => isAddress(it, a)))
      ip.push(words`address del ${it.local}/${it.prefixlen} dev ${tunName}`);
  }
  const { ruleset } = desired;
  const current = actual.table?.comment === ruleset.comment && actual.table.rules === ruleset.rules;
  return {
    ip,
    rules4: planRules(desired.subnet4, tunName, desired.steersMarked, actual.rules4),
    rules6: planRules(desired.subnet6, tunName, desired.steersMarked, actual.rules6),
    sysctls: desired.sysctls.filter((it) => {
      const conditions = Object.entries(it.onlyIf ?? {});
      const value = actual.sysctls[it.path] ?? null;
      // A kernel without IPv6 has no such settings for the TUN, and needs none.
      if (value === it.value || (value === null && !it.global)) return false;
      return conditions.every(([path, condition]) => actual.sysctls[path] === condition);
    }),
    ruleset: current ? null : ruleset.text,
  };
}

const ourRoutes = async (family: 4 | 6): Promise<Route[]> =>
  (await listRoutes({ family, table: 'all' })).filter(
    (it) => it.protocol === String(OUR_PROTOCOL) && tableOf(it) !== POD_TABLE,
  );

interface HostReading extends ActualHost {
  readonly table: NftTable | null;
}

export async function readHost(sysctlPaths: readonly string[]): Promise<HostReading> {
  const [links, routes4, routes6, rules4, rules6, table, values] = await Promise.all([
    listAddresses(),
    ourRoutes(4),
    ourRoutes(6),
    listRules({ family: 4 }),
    listRules({ family: 6 }),
    readTable(NFT_FAMILY, NFT_TABLE),
    Promise.all(sysctlPaths.map(async (path) => [path, await readSysctl(path)] as const)),
  ]);
  const sysctls = Object.fromEntries(values);
  return { links, routes4, routes6, rules4, rules6, table, sysctls };
}

async function applySysctls(sysctls: readonly Sysctl[], stateDir: string): Promise<void> {
  const record = { ...(await readSysctlRecord(stateDir)) };
  for (const { path, global } of sysctls) {
    const former = await readSysctl(path);
    if (global && former !== null && !Object.hasOwn(record, path)) record[path] = former;
  }
  // On disk before the first change: a crash in between must not lose what was.
  if (sysctls.some((it) => it.global)) await writeSysctlRecord(stateDir, record);
  for (const { path, value } of sysctls) {
    try {
      await writeSysctl(path, value);
    } catch (cause) {
      throw new HostStateError(`${path} cannot be set to ${value}: packets take no way`, { cause });
    }
  }
}

/** What is not as it should be, changing nothing: a line each. @throws HostStateError */
export async function compareHost(inputs: HostInputs): Promise<readonly string[]> {
  const desired = desiredHost(inputs);
  const plan = planHost(desired, await readHost(desired.sysctls.map((it) => it.path)));
  return [
    ...plan.ip.map((it) => `missing: ip ${it.join(' ')}`),
    ...plan.rules4.map((it) => `missing: ip ${it.join(' ')}`),
    ...plan.rules6.map((it) => `missing: ip -6 ${it.join(' ')}`),
    ...plan.sysctls.map((it) => `sysctl ${it.path} is not ${it.value}`),
    ...(plan.ruleset === null ? [] : [`nft table ${NFT_FAMILY} ${NFT_TABLE} is not as it was set`]),
  ];
}

export interface HostResult {
  /** What was changed, for the log. */
  readonly plan: HostPlan;
  /** The elements of the sets `pods4` and `pods6` as they are now, as nft writes them. */
  readonly pinned: ReadonlySet<string>;
  /** Those of `services4` and `services6`, as steeredElement has them. */
  readonly steered: ReadonlySet<string>;
}

/** Brings the host to what is wanted. */
export async function reconcileHost(inputs: HostInputs, stateDir: string): Promise<HostResult> {
  const desired = desiredHost(inputs);
  const actual = await readHost(desired.sysctls.map((it) => it.path));
  const plan = planHost(desired, actual);
  await applySysctls(plan.sysctls, stateDir);
  // The guard stands before the first route leads anywhere.
  if (plan.ruleset !== null) await applyRuleset(plan.ruleset);
  await apply(plan.ip);
  await apply(plan.rules4, { family: 4 });
  await apply(plan.rules6, { family: 6 });
  const isNew = plan.ruleset !== null;
  const pinned = isNew ? inputs.pins.map((it) => pinElement(it)) : pinnedIn(actual.table);
  const steered = isNew
    ? (inputs.services?.steered ?? []).map(steeredElement)
    : steeredIn(actual.table);
  return { plan, pinned: new Set(pinned), steered: new Set(steered) };
}

const pinnedIn = (table: NftTable | null): string[] =>
  ['pods4', 'pods6'].flatMap((set) =>
    (table?.sets[set] ?? []).flatMap(([iface, mac, address]) =>
      iface === undefined || mac === undefined || address === undefined
        ? []
        : [pinElement({ iface, mac, address })],
    ),
  );

/** As nft writes them where it knows their names. */
const PROTOCOLS: Readonly<Record<string, string>> = { tcp: '6', udp: '17', sctp: '132' };

export const steeredIn = (table: Pick<NftTable, 'sets'> | null): string[] =>
  ['services4', 'services6'].flatMap((set) =>
    (table?.sets[set] ?? []).flatMap(([protocol = '', address, port]) =>
      address === undefined || port === undefined
        ? []
        : [
            `${PROTOCOLS[protocol] ?? protocol} . ${formatAddress(parseAddress(address))} . ${port}`,
          ],
    ),
  );

/** Takes everything away that reconcileHost and the packet path ever made; gives what was there. */
export async function removeHost(tunName: string, stateDir: string): Promise<readonly string[]> {
  const record = Object.entries(await readSysctlRecord(stateDir));
  const actual = await readHost(record.map(([path]) => path));
  const removed: string[] = [];
  const commands: Command[] = [];
  for (const [family, rules] of [
    [4, removeRules(actual.rules4)],
    [6, removeRules(actual.rules6)],
  ] as const) {
    await apply(rules, { family });
    if (rules.length > 0) removed.push(`IPv${family} rules`);
  }
  for (const [family, routes] of [
    [4, actual.routes4],
    [6, actual.routes6],
  ] as const) {
    for (const route of routes) {
      commands.push(deleteRoute(family, route));
      const table = tableOf(route) === null ? '' : ` table ${route.table}`;
      const dev = deviceOf(route) === null ? '' : ` dev ${deviceOf(route)}`;
      removed.push(`route ${destinationOf(route, family)}${dev}${table}`);
    }
  }
  const tun = actual.links.find((it) => it.ifname === tunName);
  // Whatever else has that name is not ours.
  if (tun?.linkinfo?.info_kind === 'tun') {
    commands.push(words`link del dev ${tunName}`);
    removed.push(`interface ${tunName}`);
  }
  await apply(commands);
  if (actual.table !== null) {
    await applyRuleset(deleteTable);
    removed.push(`nft table ${NFT_FAMILY} ${NFT_TABLE}`);
  }
  // In reverse: forwarding goes off before the advertisements' setting that made it bearable.
  for (const [path, former] of record.toReversed()) {
    const value = actual.sysctls[path];
    if (value === null || value === undefined || value === former) continue;
    await writeSysctl(path, former);
    removed.push(`${path} = ${value} (again ${former})`);
  }
  return removed;
}
