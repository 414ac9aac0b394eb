/**
 * The daemon's configuration: one table of options, from which the flags, the WEFT_* environment, the
 * keys of `--config FILE`, `--print-config`, the help texts and docs/daemon.md come. Every source gives
 * text; one `parse` an option turns it into a value; nothing else reads the environment.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { hostname } from 'node:os';
import { type AddressRange, parseAddressRange } from '../ipam/address-range.ts';
import type { Offloads } from '../overlay/types.ts';
import {
  type IpAddress,
  type Ipv4,
  type Ipv6,
  parseAddress,
  parseIpv4,
  parseIpv6,
} from '../wire/address.ts';
import {
  type Cidr,
  type Cidr4,
  type Cidr6,
  cidrsOverlap,
  formatCidr,
  parseCidr,
} from '../wire/cidr.ts';
import { didYouMean } from '../objects/nearest.ts';

/** Loaded where there is a file to read or to print: pods wait for a daemon that starts. */
const yaml = (): typeof import('yaml') => createRequire(import.meta.url)('yaml');

/** What the operator asked for cannot be done as written. One line; nothing on the host was touched. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly code = 'ERR_CONFIG';
}

type Kind = 'string' | 'list' | 'boolean' | 'number';

export interface Option<T> {
  readonly kind: Kind;
  /** The default, as text; '' is "not set". */
  readonly text: string;
  /** What the default means, where the text does not say it. */
  readonly textMeans?: string;
  readonly parse: (text: string) => T;
  readonly description: string;
  readonly secret?: true;
}

const option = <T>(it: Option<T>): Option<T> => it;

/** '' is null, anything else goes through `parse`. */
const optional =
  <T>(parse: (text: string) => T) =>
  (text: string): T | null =>
    text === '' ? null : parse(text);

function parseBoolean(text: string): boolean {
  if (text === 'true') return true;
  if (text === 'false') return false;
  throw new ConfigError(`"${text}" is neither true nor false`);
}

const parseInteger =
  (from: number, to: number) =>
  (text: string): number => {
    if (!/^[0-9]{1,10}$/.test(text) || Number(text) < from || Number(text) > to) {
      throw new ConfigError(`"${text}" is not a whole number in ${from}..${to}`);
    }
    return Number(text);
  };

const matching =
  (pattern: RegExp, meaning: string) =>
  (text: string): string => {
    if (!pattern.test(text)) throw new ConfigError(`"${text}" is not ${meaning}`);
    return text;
  };

const parseList = (text: string): readonly string[] =>
  text
    .split(',')
    .map((it) => it.trim())
    .filter((it) => it !== '');

function parseEndpoints(text: string): readonly string[] {
  return parseList(text).map((endpoint) => {
    const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined;
    if (url === undefined || !['http:', 'https:'].includes(url.protocol) || url.host === '') {
      throw new ConfigError(`"${endpoint}" is not an http:// or https:// URL`);
    }
    if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') {
      // Not repeated: it may hold a password.
      throw new ConfigError('an endpoint is scheme, host and port only');
    }
    if (url.pathname !== '/') throw new ConfigError(`"${endpoint}" has a path; none is used`);
    return url.origin;
  });
}

/** The kernel's rules for interface names (dev_valid_name), and none that reads as a flag. */
const interfaceName = matching(
  /^(?!-)(?!\.{1,2}$)[^\s/:\p{Cc}]{1,15}$/u,
  'an interface name (at most 15 characters; no "/", ":" or space)',
);

/** A name, or an address that the interface has. */
function parseInterface(text: string): string | IpAddress {
  try {
    return parseAddress(text);
  } catch (cause) {
    try {
      return interfaceName(text);
    } catch {
      throw new ConfigError(`"${text}" is neither an interface name nor an address`, { cause });
    }
  }
}

function parseNetwork4(text: string): Cidr4 {
  const block = parseCidr(text);
  if (block.family !== 4) throw new ConfigError(`"${text}" is not an IPv4 block`);
  if (block.length < 1 || block.length > 28) {
    throw new ConfigError(`"${text}" leaves no room for subnets; use a length in 1..28`);
  }
  return block;
}

function parseNetwork6(text: string): Cidr6 {
  const block = parseCidr(text);
  if (block.family !== 6) throw new ConfigError(`"${text}" is not an IPv6 block`);
  if (block.length < 1 || block.length > 62) {
    throw new ConfigError(`"${text}" leaves no room for /64 subnets; use a length in 1..62`);
  }
  return block;
}

function parseClusterIpRange(text: string): readonly Cidr[] {
  const blocks = parseList(text).map((it) => parseCidr(it));
  for (const family of [4, 6]) {
    const [, second] = blocks.filter((it) => it.family === family);
    if (second !== undefined) {
      throw new ConfigError(`"${formatCidr(second)}" is a second IPv${family} block`);
    }
  }
  for (const block of blocks) {
    if (block.length < 8 || block.length > (block.family === 4 ? 30 : 126)) {
      throw new ConfigError(`"${formatCidr(block)}" is no block to give addresses from`);
    }
  }
  return blocks;
}

/** Every rung, as operators write it, and the one it stands on. */
const RUNGS: Readonly<
  Record<keyof Offloads, { readonly name: string; readonly needs: keyof Offloads | null }>
> = {
  tunTso: { name: 'tun-tso', needs: null },
  tunUso: { name: 'tun-uso', needs: 'tunTso' },
  tunnelGso: { name: 'tunnel-gso', needs: 'tunTso' },
  udpGso: { name: 'udp-gso', needs: null },
  udpGro: { name: 'udp-gro', needs: null },
  batch: { name: 'batch', needs: null },
  coalesce: { name: 'coalesce', needs: 'tunTso' },
};
const rungs = Object.keys(RUNGS) as readonly (keyof Offloads)[];
const rungNames = rungs.map((it) => RUNGS[it].name);

function parseRung(name: string): keyof Offloads {
  const rung = rungs.find((it) => RUNGS[it].name === name);
  if (rung !== undefined) return rung;
  const guess = didYouMean(name, ['auto', 'none', ...rungNames]);
  throw new ConfigError(`"${name}" is not an offload${guess}`);
}

/**
 * `auto`, `none`, rungs to use (`batch,udp-gso`), or rungs to leave out of auto (`-tun-uso`). What
 * stands on a rung that is left out goes with it; a rung named without the one it stands on is an error.
 */
export function parseOffloads(text: string): Offloads {
  const items = text.split(',').map((it) => it.trim());
  if (items.length > 1 && (items.includes('auto') || items.includes('none'))) {
    throw new ConfigError('"auto" and "none" stand alone');
  }
  const leaveOut = items.every((it) => it.startsWith('-'));
  if (!leaveOut && items.some((it) => it.startsWith('-'))) {
    throw new ConfigError(`"${text}" mixes rungs to use with rungs to leave out`);
  }
  const used = new Set(text === 'auto' || leaveOut ? rungs : []);
  if (text !== 'auto' && text !== 'none') {
    for (const item of items) {
      if (leaveOut) used.delete(parseRung(item.slice(1)));
      else used.add(parseRung(item));
    }
  }
  for (const rung of rungs) {
    const { name, needs } = RUNGS[rung];
    if (needs === null || !used.has(rung) || used.has(needs)) continue;
    if (!leaveOut) throw new ConfigError(`"${name}" needs "${RUNGS[needs].name}"`);
    used.delete(rung);
  }
  const offloads = Object.fromEntries(rungs.map((it) => [it, used.has(it)]));
  return offloads as unknown as Offloads;
}

export const offloadName = (rung: keyof Offloads): string => RUNGS[rung].name;

/** `tun-tso, batch`; the names of the rungs in use, or `none`. */
export const formatOffloads = (offloads: Offloads): string =>
  rungs
    .filter((it) => offloads[it])
    .map((it) => RUNGS[it].name)
    .join(', ') || 'none';

const ESTABLISHED = ['strict', 'loose'] as const;

function parseEstablished(text: string): (typeof ESTABLISHED)[number] {
  const found = ESTABLISHED.find((it) => it === text);
  if (found !== undefined) return found;
  throw new ConfigError(`"${text}" is not one of ${ESTABLISHED.join(', ')}`);
}

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

function parseLogLevel(text: string): LogLevel {
  const level = LOG_LEVELS.find((it) => it === text);
  if (level !== undefined) return level;
  throw new ConfigError(`"${text}" is not one of ${LOG_LEVELS.join(', ')}`);
}

const absolutePath = matching(/^\/[^\0]*$/, 'an absolute path');
/** The state directory is removed file by file and made mode 0700: never a system directory. */
function parseStateDir(text: string): string {
  const path = absolutePath(text).replace(/\/+$/, '');
  if (['', '/etc', '/root', '/run', '/tmp', '/usr', '/var', '/var/lib'].includes(path)) {
    throw new ConfigError(`"${text}" is a directory of the system; give Weft one of its own`);
  }
  // sun_path holds 108 bytes with the closing zero; the API's socket lies in this directory.
  if (Buffer.byteLength(path) > 90) throw new ConfigError(`"${text}" is longer than 90 bytes`);
  return path;
}

/** `127.0.0.1:8476`, `[::1]:8476`. */
function parseEndpoint(text: string): { readonly address: IpAddress; readonly port: number } {
  const [, bracketed, plain, port = ''] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? [];
  const address = bracketed ?? plain;
  if (address === undefined) {
    throw new ConfigError(`"${text}" is no address and port, as 127.0.0.1:8476`);
  }
  return { address: parseAddress(address), port: parseInteger(1, 65_535)(port) };
}

/** Every option, in the order help and docs show. `parse('')` of an unset default must not throw. */
export const OPTIONS = {
  etcdEndpoints: option({
    kind: 'list',
    text: '',
    textMeans: 'the daemon runs an etcd of its own on loopback',
    parse: parseEndpoints,
    description: 'etcd endpoints, comma separated',
  }),
  etcdPrefix: option({
    kind: 'string',
    text: '/coreos.com/network',
    parse: (text) => matching(/^\/[^\0\s]*[^\0\s/]$/, 'a key prefix such as /a/b')(text),
    description: 'etcd prefix of the network config and the subnets',
  }),
  etcdCafile: option({
    kind: 'string',
    text: '',
    parse: optional(absolutePath),
    description: 'certificate authority that signs the etcd servers',
  }),
  etcdCertfile: option({
    kind: 'string',
    text: '',
    parse: optional(absolutePath),
    description: 'client certificate for etcd',
  }),
  etcdKeyfile: option({
    kind: 'string',
    text: '',
    parse: optional(absolutePath),
    description: 'private key of the client certificate',
  }),
  etcdUsername: option({
    kind: 'string',
    text: '',
    parse: optional(String),
    description: 'etcd user',
  }),
  etcdPassword: option({
    kind: 'string',
    text: '',
    parse: optional(String),
    description: "the etcd user's password; prefer the environment or the file to the flag",
    secret: true,
  }),
  network: option({
    kind: 'string',
    text: '10.244.0.0/16',
    parse: optional(parseNetwork4),
    description: 'overlay IPv4 network, first written into an etcd of our own; "" for none',
  }),
  ipv6Network: option({
    kind: 'string',
    text: '',
    textMeans: 'no inner IPv6',
    parse: optional(parseNetwork6),
    description: 'overlay IPv6 network, first written into an etcd of our own',
  }),
  iface: option({
    kind: 'string',
    text: '',
    textMeans: 'the interface of the default route',
    parse: optional(parseInterface),
    description: 'underlay interface, by name or by an address it has',
  }),
  publicIp: option({
    kind: 'string',
    text: '',
    textMeans: "the interface's",
    parse: optional((text): Ipv4 => parseIpv4(text)),
    description: 'IPv4 address under which peers reach this node',
  }),
  publicIpv6: option({
    kind: 'string',
    text: '',
    textMeans: "the interface's",
    parse: optional((text): Ipv6 => parseIpv6(text)),
    description: 'IPv6 address under which peers reach this node',
  }),
  nodeName: option({
    kind: 'string',
    text: '',
    textMeans: 'the host name',
    parse: (text) =>
      matching(
        /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/,
        'a node name (lower-case letters, digits, "-" and ".")',
      )(text === '' ? hostname().toLowerCase() : text),
    description: "this node's name in logs and status",
  }),
  tunName: option({
    kind: 'string',
    text: 'weft0',
    parse: interfaceName,
    description: 'name of the TUN interface',
  }),
  workers: option({
    kind: 'number',
    text: '1',
    parse: parseInteger(1, 64),
    description: 'packet threads, each with a TUN queue and a socket of its own',
  }),
  offloads: option({
    kind: 'list',
    text: 'auto',
    parse: parseOffloads,
    description: `auto, none, rungs to use, or rungs to leave out of auto (-name): ${rungNames.join(', ')}`,
  }),
  directRouting: option({
    kind: 'boolean',
    text: '',
    textMeans: 'Backend.DirectRouting of the network config',
    parse: optional(parseBoolean),
    description: 'reach peers on the same link by plain routes, without VXLAN',
  }),
  ipMasq: option({
    kind: 'boolean',
    text: 'false',
    parse: parseBoolean,
    description: 'masquerade what leaves the overlay network',
  }),
  podReserved: option({
    kind: 'list',
    text: '',
    parse: (text): readonly AddressRange[] => parseList(text).map(parseAddressRange),
    description: 'addresses no pod gets: single ones, blocks, or ranges (10.244.1.2-10.244.1.9)',
  }),
  objects: option({
    kind: 'string',
    text: '',
    parse: optional(absolutePath),
    description: 'directory of manifests: Services, policies, and what they speak of',
  }),
  serviceClusterIpRange: option({
    kind: 'list',
    text: '10.96.0.0/12',
    parse: parseClusterIpRange,
    description: 'blocks from which Services get addresses, at most one of each family',
  }),
  externalIpBlocks: option({
    kind: 'list',
    text: '',
    textMeans: 'externalIPs of Services are ignored',
    parse: (text): readonly Cidr[] => parseList(text).map(parseCidr),
    description: 'blocks in which Services may claim externalIPs',
  }),
  maxFlows: option({
    kind: 'number',
    text: '262144',
    parse: parseInteger(0, 4_194_304),
    description:
      'flows that are tracked at the same time, 128 bytes each; 0: no Services and no policies, an overlay only',
  }),
  established: option({
    kind: 'string',
    text: 'strict',
    parse: parseEstablished,
    description:
      'what a changed policy does to flows that were allowed: strict ends them, loose does not',
  }),
  flowEvents: option({
    kind: 'boolean',
    text: 'true',
    parse: parseBoolean,
    description: 'tell of flows that begin and packets that are dropped (weft flows)',
  }),
  flowFile: option({
    kind: 'string',
    text: '/run/weft/flows',
    parse: absolutePath,
    description: 'where flows outlive a restart of the daemon; on a tmpfs',
  }),
  subnetFile: option({
    kind: 'string',
    text: '/run/flannel/subnet.env',
    parse: absolutePath,
    description: 'where the subnet, the network and the MTU are written for others to read',
  }),
  subnetLeaseTtl: option({
    kind: 'number',
    text: '86400',
    parse: parseInteger(10, 31_536_000),
    description: 'seconds for which the subnet is leased, and for which etcd may be away',
  }),
  subnetLeaseRenewMargin: option({
    kind: 'number',
    text: '60',
    parse: parseInteger(1, 1439),
    description: 'minutes before its end at which the subnet lease is renewed; at most half of it',
  }),
  healthzIp: option({
    kind: 'string',
    text: '0.0.0.0',
    parse: (text): IpAddress => parseAddress(text),
    description: 'address on which health and metrics are told',
  }),
  probeInterval: option({
    kind: 'number',
    text: '30',
    parse: parseInteger(0, 3600),
    description:
      'seconds between two probes of each peer by ICMP echo; 0: only when asked or the page is looked at',
  }),
  healthzPort: option({
    kind: 'number',
    text: '0',
    textMeans: 'off',
    parse: parseInteger(0, 65_535),
    description: 'port of /livez, /healthz, /readyz and /metrics',
  }),
  clusterPort: option({
    kind: 'number',
    text: '8475',
    parse: parseInteger(0, 65_535),
    description:
      "port on which daemons ask one another, on the overlay's own addresses; 0: they do not",
  }),
  uiListen: option({
    kind: 'string',
    text: '127.0.0.1:8476',
    parse: optional(parseEndpoint),
    description: 'address and port of the page on the cluster; "" for none',
  }),
  stateDir: option({
    kind: 'string',
    text: '/var/lib/weft',
    parse: parseStateDir,
    description: "what outlives a restart, the API's socket, and our own etcd's files",
  }),
  logLevel: option({
    kind: 'string',
    text: 'info',
    parse: parseLogLevel,
    description: `least level that is logged: ${LOG_LEVELS.join(', ')}`,
  }),
} as const;

export type OptionName = keyof typeof OPTIONS;
export type Config = {
  readonly [Name in OptionName]: ReturnType<(typeof OPTIONS)[Name]['parse']>;
};
export type Origin = 'flag' | 'environment' | 'file' | 'default';

/** What one source gave for an option. */
interface Given {
  readonly origin: Origin;
  /** As an operator finds it: `--workers`, `WEFT_WORKERS`, `/etc/weft.yaml:3`. */
  readonly place: string;
  readonly text: string;
}

export interface ResolvedConfig {
  readonly config: Config;
  readonly given: Readonly<Record<OptionName, Given>>;
}

export const optionNames = Object.keys(OPTIONS) as readonly OptionName[];
/** `etcdCafile` -> `etcd-cafile`. */
export const flagOf = (name: OptionName): string =>
  name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
/** `etcdCafile` -> `WEFT_ETCD_CAFILE`. */
export const variableOf = (name: OptionName): string =>
  `WEFT_${flagOf(name).replaceAll('-', '_').toUpperCase()}`;

const byFlag = new Map(optionNames.map((name) => [flagOf(name), name]));

const inPlace = (name: OptionName, { origin, place }: Given): string =>
  origin === 'file' ? `${place}: ${flagOf(name)}` : place;

/** A file an operator named. @throws ConfigError with the reason, in one line */
function readNamedFile(path: string, place: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw new ConfigError(`${place}: ${path} cannot be read (${reason})`, { cause });
  }
}

/** The YAML file's keys and values, as text. @throws ConfigError naming file and line */
function parseFile(path: string, source: string): Map<OptionName, Given> {
  const { LineCounter, isMap, isScalar, isSeq, parseDocument } = yaml();
  const lines = new LineCounter();
  const document = parseDocument(source, { lineCounter: lines, prettyErrors: false });
  const at = (offset: number): string => `${path}:${lines.linePos(offset).line}`;
  const [broken] = document.errors;
  if (broken !== undefined) throw new ConfigError(`${at(broken.pos[0])}: ${broken.message}`);
  const given = new Map<OptionName, Given>();
  if (document.contents === null) return given;
  if (!isMap(document.contents)) throw new ConfigError(`${path}: not a mapping of options`);
  for (const { key, value } of document.contents.items) {
    const flag = isScalar(key) ? String(key.value) : '';
    const place = at(isScalar(key) ? (key.range?.[0] ?? 0) : 0);
    const name = byFlag.get(flag);
    if (name === undefined) {
      throw new ConfigError(
        `${place}: unknown key "${flag}"${didYouMean(flag, [...byFlag.keys()])}`,
      );
    }
    const items = isSeq(value) ? value.items : [value];
    if (isSeq(value) && OPTIONS[name].kind !== 'list') {
      throw new ConfigError(`${place}: ${flag} takes one value, not a list`);
    }
    if (!items.every((it) => it === null || isScalar(it))) {
      throw new ConfigError(`${place}: ${flag} takes ${OPTIONS[name].kind} values only`);
    }
    // `source` keeps the text as written: a YAML 1.2 number or boolean is parsed once, by the table.
    const texts = items.map((it) => {
      if (!isScalar(it) || it.value === null) return '';
      return typeof it.value === 'string' ? it.value : (it.source ?? JSON.stringify(it.value));
    });
    given.set(name, { origin: 'file', place, text: texts.join(',') });
  }
  return given;
}

/**
 * Every option's value: flag before environment before file before default.
 * @param flags        by option name, as text; absent = not given
 * @param environment  the process's, read here and nowhere else
 * @throws ConfigError in one line that names the place: `--workers: "x" is not a whole number in 1..64`
 */
export function resolveConfig(
  flags: Readonly<Partial<Record<OptionName, string>>>,
  environment: Readonly<Record<string, string | undefined>>,
  configFile: string | undefined,
): ResolvedConfig {
  const filePath = configFile ?? environment['WEFT_CONFIG'] ?? '';
  const filePlace = configFile === undefined ? 'WEFT_CONFIG' : '--config';
  const inFile =
    filePath === ''
      ? new Map<OptionName, Given>()
      : parseFile(filePath, readNamedFile(filePath, filePlace));
  const config: Partial<Record<OptionName, unknown>> = {};
  const given: Partial<Record<OptionName, Given>> = {};
  for (const name of optionNames) {
    const flag = flags[name];
    const variable = environment[variableOf(name)];
    let it: Given | undefined;
    if (flag !== undefined) it = { origin: 'flag', place: `--${flagOf(name)}`, text: flag };
    else if (variable !== undefined) {
      it = { origin: 'environment', place: variableOf(name), text: variable };
    } else it = inFile.get(name);
    it ??= { origin: 'default', place: `--${flagOf(name)}`, text: OPTIONS[name].text };
    try {
      config[name] = OPTIONS[name].parse(it.text);
    } catch (cause) {
      throw new ConfigError(`${inPlace(name, it)}: ${(cause as Error).message}`, { cause });
    }
    given[name] = it;
  }
  const resolved = { config: config as Config, given: given as Record<OptionName, Given> };
  checkTogether(resolved);
  return resolved;
}

/** What no single option can see. Reads the named files, so that a wrong path fails here. */
function checkTogether({ config, given }: ResolvedConfig): void {
  const refuse = (name: OptionName, why: string): never => {
    throw new ConfigError(`${inPlace(name, given[name])}: ${why}`);
  };
  const pairs = [
    ['etcdCertfile', 'etcdKeyfile'],
    ['etcdUsername', 'etcdPassword'],
  ] as const;
  for (const [a, b] of pairs) {
    if (config[a] !== null && config[b] === null) refuse(a, `needs --${flagOf(b)} too`);
    if (config[b] !== null && config[a] === null) refuse(b, `needs --${flagOf(a)} too`);
  }
  for (const name of ['etcdCafile', 'etcdCertfile', 'etcdKeyfile'] as const) {
    const path = config[name];
    if (path !== null) readNamedFile(path, inPlace(name, given[name]));
  }
  const isPlain = config.maxFlows === 0 || config.etcdEndpoints.length > 0;
  const pods = [config.network, config.ipv6Network].filter((it) => it !== null);
  for (const services of isPlain ? [] : config.serviceClusterIpRange) {
    const pod = pods.find((it) => cidrsOverlap(it, services));
    if (pod === undefined) continue;
    const block = formatCidr(services);
    refuse('serviceClusterIpRange', `${block} overlaps the overlay network ${formatCidr(pod)}`);
  }
  if (config.etcdEndpoints.length === 0) {
    for (const name of ['etcdCafile', 'etcdCertfile', 'etcdUsername'] as const) {
      if (config[name] !== null) refuse(name, 'needs --etcd-endpoints too');
    }
    if (config.network === null && config.ipv6Network === null) {
      refuse('network', 'an overlay needs --network or --ipv6-network');
    }
    return;
  }
  for (const name of ['network', 'ipv6Network'] as const) {
    // As printed by --print-config, say: it asks for nothing.
    if (given[name].text === OPTIONS[name].text) continue;
    refuse(
      name,
      'is for an etcd of our own; with --etcd-endpoints the network is in the key ' +
        `${config.etcdPrefix}/config`,
    );
  }
}

const ORIGIN_NAMES: Readonly<Record<Origin, (name: OptionName, given: Given) => string>> = {
  flag: (name) => `flag --${flagOf(name)}`,
  environment: (name) => `environment ${variableOf(name)}`,
  file: (_, given) => `file ${given.place}`,
  default: (name) => {
    const means = (OPTIONS[name] as Option<unknown>).textMeans;
    return means === undefined ? 'default' : `default: ${means}`;
  },
};

/** YAML that `--config` reads back, with each value's origin as a comment. Secrets are left out. */
export function printConfig({ given }: ResolvedConfig): string {
  const { stringify } = yaml();
  return optionNames
    .map((name) => {
      const it = given[name];
      const origin = ORIGIN_NAMES[it.origin](name, it);
      if ((OPTIONS[name] as Option<unknown>).secret && it.text !== '') {
        return `# ${flagOf(name)}: (not shown)  # ${origin}`;
      }
      const bare = it.text !== '' && ['number', 'boolean'].includes(OPTIONS[name].kind);
      const written = bare ? it.text : stringify(it.text, { lineWidth: 0 }).trimEnd();
      return `${flagOf(name)}: ${written}  # ${origin}`;
    })
    .join('\n');
}
