/** The network configuration on stdin (CNI specification, sections 1 and 4), checked for form. */
import {
  type CniCommand,
  type CniVersion,
  CNI_VERSIONS,
  CONTAINER_ID,
  CniCode,
  INTERFACE_NAME,
  NAMED_PORTS_MAX,
  NETWORK_NAME,
  type NamedContainerPort,
  PORT_NAME,
  PORT_PROTOCOLS,
} from '../wire/cni.ts';
import { familyOf, ipsComplaint, isMacText, withoutLength } from './addresses.ts';
import { isLabel } from './environment.ts';
import { CniFailure, quote } from './errors.ts';
import { type JsonObject, isObject, isStringArray } from './json.ts';

export const DEFAULT_SOCKET = '/var/lib/weft/weft.sock';

/** The first version that has the command. */
const SINCE: Readonly<Partial<Record<CniCommand, CniVersion>>> = {
  CHECK: '0.4.0',
  GC: '1.1.0',
  STATUS: '1.1.0',
};

/** What `dns` may hold; a result repeats it. */
export interface Dns {
  readonly nameservers?: readonly string[];
  readonly domain?: string;
  readonly search?: readonly string[];
  readonly options?: readonly string[];
}

export interface Configuration {
  readonly network: string;
  /** The daemon's socket. */
  readonly socket: string;
  /** Null: none was asked for. */
  readonly ips: readonly string[] | null;
  readonly mac: string | null;
  /** Of args.cni. */
  readonly labels: Readonly<Record<string, string>>;
  readonly ports: readonly NamedContainerPort[];
  readonly dns: Dns;
  /** CHECK: of prevResult's interface, addresses without lengths. */
  readonly previous: { readonly ips: readonly string[]; readonly mac: string | null };
  /** GC: the attachments that the runtime still knows. */
  readonly valid: readonly { readonly containerId: string; readonly ifname: string }[];
}

type Complain = (what: string) => void;

/** The version that this answer is written in. @throws CniFailure (incompatibleVersion, invalidConfig) */
export function versionOf(config: JsonObject, command: CniCommand): CniVersion {
  const asked = config['cniVersion'];
  if (typeof asked !== 'string') {
    const is = asked === undefined ? 'is missing' : `is ${quote(asked)}, not a version`;
    throw new CniFailure(CniCode.invalidConfig, `the network configuration: cniVersion ${is}`);
  }
  const version = CNI_VERSIONS.find((it) => it === asked);
  const since = SINCE[command] ?? CNI_VERSIONS[0];
  if (version !== undefined && CNI_VERSIONS.indexOf(version) >= CNI_VERSIONS.indexOf(since)) {
    return version;
  }
  const has = version === undefined ? CNI_VERSIONS.join(', ') : `${since} and later`;
  throw new CniFailure(
    CniCode.incompatibleVersion,
    `the network configuration has cniVersion ${quote(asked)}; weft-cni does ${command} in ${has}`,
  );
}

function readSocket(config: JsonObject, complain: Complain): string {
  const socket = config['socket'] ?? DEFAULT_SOCKET;
  // sun_path holds 108 bytes with the closing zero.
  const fits = typeof socket === 'string' && /^\/[^\0]+$/.test(socket);
  if (fits && new TextEncoder().encode(socket).length <= 107) return socket;
  complain(`socket is ${quote(socket)}, not an absolute path of at most 107 bytes`);
  return '';
}

function readDns(config: JsonObject, complain: Complain): Dns {
  const dns = config['dns'] ?? {};
  const known = isObject(dns) ? dns : {};
  if (!isObject(dns)) complain(`dns is ${quote(dns)}, not an object`);
  const lists = ['nameservers', 'search', 'options'] as const;
  const found: { -readonly [K in keyof Dns]: Dns[K] } = {};
  for (const key of lists) {
    const value = known[key] ?? [];
    if (!isStringArray(value)) complain(`dns.${key} is not a list of strings`);
    else if (value.length > 0) found[key] = value;
  }
  const domain = known['domain'] ?? '';
  if (typeof domain !== 'string') complain('dns.domain is not a string');
  else if (domain !== '') found.domain = domain;
  return found;
}

/** One of the places where a runtime may ask for addresses; `where` is its name. */
function readAsked(place: unknown, where: string, complain: Complain) {
  const known = isObject(place) ? place : {};
  if (place !== undefined && place !== null && !isObject(place)) complain(`${where} is no object`);
  const ips = known['ips'] ?? null;
  if (ips !== null && !isStringArray(ips)) complain(`${where}.ips is not a list of strings`);
  const texts = isStringArray(ips) && ips.length > 0 ? ips : null;
  const wrong = ipsComplaint(texts ?? []);
  if (wrong !== null) complain(`${where}.ips: ${wrong}`);
  const mac = known['mac'] ?? '';
  const isMac = typeof mac === 'string' && (mac === '' || isMacText(mac));
  if (!isMac) complain(`${where}.mac is ${quote(mac)}, not a unicast Ethernet address`);
  return {
    ips: texts?.map((it) => withoutLength(it)) ?? null,
    mac: isMac && mac !== '' ? mac : null,
  };
}

/** CONVENTIONS.md, args.cni.labels: `[{"key": "app", "value": "web"}]`. */
function readLabels(place: unknown, complain: Complain): Configuration['labels'] {
  const list = (isObject(place) ? place['labels'] : null) ?? [];
  if (!Array.isArray(list)) {
    complain('args.cni.labels is not a list');
    return {};
  }
  const labels = new Map<string, string>();
  for (const [i, it] of list.entries()) {
    const { key, value } = isObject(it) ? it : {};
    if (!isLabel(key, value)) complain(`args.cni.labels[${i}] is not a label {key, value}`);
    else if (labels.has(String(key))) complain(`args.cni.labels has ${quote(key)} twice`);
    else labels.set(String(key), String(value));
  }
  return Object.fromEntries(labels);
}

/** args.cni.ports, Weft's own: `[{"name": "http", "containerPort": 8080, "protocol": "TCP"}]`. */
function readPorts(place: unknown, complain: Complain): Configuration['ports'] {
  const list = (isObject(place) ? place['ports'] : null) ?? [];
  if (!Array.isArray(list) || list.length > NAMED_PORTS_MAX) {
    complain(`args.cni.ports is not a list of at most ${NAMED_PORTS_MAX}`);
    return [];
  }
  const ports = new Map<string, NamedContainerPort>();
  for (const [i, it] of list.entries()) {
    const { name, containerPort, protocol: given = 'TCP' } = isObject(it) ? it : {};
    const protocol = PORT_PROTOCOLS.find((one) => one === given);
    const isPort =
      typeof name === 'string' &&
      PORT_NAME.test(name) &&
      typeof containerPort === 'number' &&
      Number.isInteger(containerPort) &&
      containerPort >= 1 &&
      containerPort <= 65_535;
    if (!isPort || protocol === undefined) {
      complain(`args.cni.ports[${i}] is not a port {name, containerPort, protocol}`);
    } else if (ports.has(`${name} ${protocol}`)) {
      complain(`args.cni.ports has ${quote(name)} of ${protocol} twice`);
    } else ports.set(`${name} ${protocol}`, { name, containerPort, protocol });
  }
  return [...ports.values()];
}

/**
 * Of the result of an ADD, the container's interface, and its addresses. What plugins after us added is
 * theirs: other interfaces, and addresses on them.
 */
function readPrevious(config: JsonObject, ifname: string, complain: Complain) {
  const none = { ips: [], mac: null };
  const result = config['prevResult'];
  if (!isObject(result)) {
    complain(result === undefined ? 'prevResult is missing' : 'prevResult is not an object');
    return none;
  }
  const interfaces = result['interfaces'] ?? [];
  const ips = result['ips'] ?? [];
  const areObjects = (list: unknown): list is JsonObject[] =>
    Array.isArray(list) && list.every((it) => isObject(it));
  if (!areObjects(interfaces)) complain('prevResult.interfaces is not a list of objects');
  if (!areObjects(ips)) complain('prevResult.ips is not a list of objects');
  if (!areObjects(interfaces) || !areObjects(ips)) return none;
  const index = interfaces.findIndex((it) => it['name'] === ifname && Boolean(it['sandbox']));
  const addresses = ips
    .filter((it) => it['interface'] === index || typeof it['interface'] !== 'number')
    .map((it) => it['address']);
  const wrong = addresses.find((it) => typeof it !== 'string' || familyOf(it) === null);
  if (wrong !== undefined) complain(`prevResult.ips has ${quote(wrong)}, not an IP address`);
  const mac = interfaces[index]?.['mac'] ?? '';
  const isMac = typeof mac === 'string' && (mac === '' || isMacText(mac));
  if (!isMac) complain(`prevResult's mac is ${quote(mac)}, not a unicast Ethernet address`);
  return {
    ips: addresses.filter((it) => typeof it === 'string').map((it) => withoutLength(it)),
    mac: isMac && mac !== '' ? mac : null,
  };
}

/** A list that cannot be read is an error and never an empty one, which would remove everything. */
function readValid(config: JsonObject, complain: Complain): Configuration['valid'] {
  const key = 'cni.dev/valid-attachments';
  const list = config[key];
  if (list === undefined) {
    complain(`${key} is missing`);
    return [];
  }
  // Go's nil slice.
  if (list === null) return [];
  if (!Array.isArray(list)) {
    complain(`${key} is not a list`);
    return [];
  }
  return list.flatMap((it: unknown, i) => {
    const { containerID, ifname } = isObject(it) ? it : {};
    if (
      typeof containerID === 'string' &&
      CONTAINER_ID.test(containerID) &&
      typeof ifname === 'string' &&
      INTERFACE_NAME.test(ifname)
    ) {
      return [{ containerId: containerID, ifname }];
    }
    complain(`${key}[${i}] is not {containerID, ifname}`);
    return [];
  });
}

/**
 * DEL and GC look only at what they need: what ADD would refuse must not keep a pod from being removed.
 * @param ifname  the container's interface
 * @throws CniFailure (invalidConfig) that names everything that is wrong; (unsupportedField) for `ipam`
 */
export function readConfiguration(
  config: JsonObject,
  command: CniCommand,
  ifname: string,
): Configuration {
  const complaints: string[] = [];
  const complain: Complain = (what) => void complaints.push(what);
  const network = config['name'];
  if (network === undefined) complain('name is missing');
  else if (typeof network !== 'string' || !NETWORK_NAME.test(network)) {
    complain(`name is ${quote(network)}, not the name of a network`);
  }
  const { type } = config;
  if (typeof type !== 'string' || type === '') {
    complain(
      type === undefined ? 'type is missing' : `type is ${quote(type)}, not a plugin's name`,
    );
  }
  const socket = readSocket(config, complain);
  const isAdd = command === 'ADD';
  const args = isAdd ? (config['args'] ?? undefined) : undefined;
  if (args !== undefined && !isObject(args)) complain('args is no object');
  const byCapability = readAsked(
    isAdd ? config['runtimeConfig'] : undefined,
    'runtimeConfig',
    complain,
  );
  const ofCni = isObject(args) ? args['cni'] : undefined;
  const byArgs = readAsked(ofCni, 'args.cni', complain);
  const labels = readLabels(ofCni, complain);
  const ports = readPorts(ofCni, complain);
  const dns = isAdd ? readDns(config, complain) : {};
  if (isAdd && (config['prevResult'] ?? null) !== null) {
    complain('prevResult is there, but weft-cni can only be the first plugin of its list');
  }
  const previous =
    command === 'CHECK' ? readPrevious(config, ifname, complain) : { ips: [], mac: null };
  const valid = command === 'GC' ? readValid(config, complain) : [];
  if (complaints.length > 0) {
    throw new CniFailure(
      CniCode.invalidConfig,
      `the network configuration: ${complaints.join('; ')}`,
    );
  }
  const ipam = config['ipam'] ?? {};
  const isEmpty = isObject(ipam) && Object.keys(ipam).length === 0;
  if (!isEmpty && command !== 'DEL' && command !== 'GC') {
    throw new CniFailure(
      CniCode.unsupportedField,
      `the network configuration has ipam: ${quote(ipam)}; the weft daemon gives the addresses, leave it out`,
    );
  }
  return {
    network: String(network),
    socket,
    ips: byCapability.ips ?? byArgs.ips,
    mac: byCapability.mac ?? byArgs.mac,
    labels,
    ports,
    dns,
    previous,
    valid,
  };
}
