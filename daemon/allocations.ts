/**
 * Cluster addresses and node ports of Services: who has which is a key below `<prefix>/allocations/`, made
 * by a create that only one can win. What a Service names itself is claimed too. A claim without a Service
 * is harmless: it goes with the next change of the Service whose name it holds.
 */
import { randomInt } from 'node:crypto';
import type { Store } from '../store/store.ts';
import {
  AddressError,
  type Family,
  type IpAddress,
  formatAddress,
  parseAddress,
  toIpv4,
  toIpv6,
} from '../wire/address.ts';
import { type Cidr, cidrContains, formatCidr } from '../wire/cidr.ts';
import { ApiError } from './api.ts';

export type Json = Readonly<Record<string, unknown>>;
export const isJson = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const jsonOf = (value: unknown): Json => (isJson(value) ? value : {});
const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

/** kube-apiserver's --service-node-port-range. */
const NODE_PORTS = { from: 30_000, to: 32_767 } as const;
/** Of a block, addresses that are looked at; kube-apiserver looks at fewer. */
const BLOCK_ADDRESSES_MAX = 1n << 20n;

export interface ServiceRanges {
  /** At most one of each family; the first is the family of Services that name none. */
  readonly clusterIps: readonly Cidr[];
}

type Claim = 'clusterip' | 'nodeport';
const claimsPrefix = (prefix: string, claim: Claim): string => `${prefix}/allocations/${claim}/`;

interface Holder {
  readonly owner: string;
  readonly modRevision: number;
}

/**
 * Who has what, as it was listed once, and as it was changed here since: for the Services of one request.
 * What others do meanwhile a create notices, and only a create decides.
 */
export class Allocations {
  readonly #store: Store;
  readonly #prefix: string;
  readonly #lists = new Map<Claim, Promise<Map<string, Holder>>>();

  constructor(store: Store, prefix: string) {
    this.#store = store;
    this.#prefix = prefix;
  }

  #holders(claim: Claim): Promise<Map<string, Holder>> {
    const known = this.#lists.get(claim);
    if (known !== undefined) return known;
    const start = claimsPrefix(this.#prefix, claim);
    const list = this.#store.list(start).then(({ entries }) => {
      const holders = new Map<string, Holder>();
      for (const { key, value: owner, modRevision } of entries.values()) {
        holders.set(key.slice(start.length), { owner, modRevision });
      }
      return holders;
    });
    this.#lists.set(claim, list);
    return list;
  }

  async isKnown(claim: Claim, what: string): Promise<boolean> {
    return (await this.#holders(claim)).has(what);
  }

  /** @returns false if it is another's */
  async take(claim: Claim, what: string, owner: string): Promise<boolean> {
    const holders = await this.#holders(claim);
    const key = claimsPrefix(this.#prefix, claim) + what;
    const made = await this.#store.commit({ kind: 'create', key, value: owner, leaseId: null });
    if (made !== null) {
      holders.set(what, { owner, modRevision: made });
      return true;
    }
    const entry = await this.#store.get(key);
    if (entry !== null) {
      holders.set(what, { owner: entry.value, modRevision: entry.modRevision });
    }
    return entry?.value === owner;
  }

  /** Gives back everything of the owner's but what is in `used`. */
  async freeOthers(
    owner: string,
    used: Readonly<Record<Claim, ReadonlySet<string>>>,
  ): Promise<void> {
    for (const claim of ['clusterip', 'nodeport'] as const) {
      const holders = await this.#holders(claim);
      for (const [what, holder] of holders) {
        if (holder.owner !== owner || used[claim].has(what)) continue;
        const key = claimsPrefix(this.#prefix, claim) + what;
        await this.#store.commit({ kind: 'delete', key, modRevision: holder.modRevision });
        holders.delete(what);
      }
    }
  }
}

/** What one Service holds and takes, through one pass. */
class Claims {
  readonly #allocations: Allocations;
  readonly #owner: string;
  readonly #used = { clusterip: new Set<string>(), nodeport: new Set<string>() };

  constructor(allocations: Allocations, owner: string) {
    this.#allocations = allocations;
    this.#owner = owner;
  }

  /** @returns false if it is another's */
  async take(claim: Claim, what: string): Promise<boolean> {
    const isOurs = await this.#allocations.take(claim, what, this.#owner);
    if (isOurs) this.#used[claim].add(what);
    return isOurs;
  }

  /** @throws ApiError 409 */
  async need(claim: Claim, what: string): Promise<void> {
    if (await this.take(claim, what)) return;
    const name = claim === 'clusterip' ? `cluster address ${what}` : `node port ${what}`;
    throw new ApiError(409, 'ERR_ALLOCATED', `${name} of Service ${this.#owner} is another's`);
  }

  /** The first of `candidates` that nobody has; null: all are taken. */
  async any(claim: Claim, candidates: Iterable<string>): Promise<string | null> {
    for (const it of candidates) {
      if (await this.#allocations.isKnown(claim, it)) continue;
      if (await this.take(claim, it)) return it;
    }
    return null;
  }

  freeOthers(): Promise<void> {
    return this.#allocations.freeOthers(this.#owner, this.#used);
  }
}

/** All addresses that a Service can have, from a place of chance on: two that ask at once rarely meet. */
function* addressesOf(block: Cidr): Generator<string> {
  const host = BigInt((block.family === 4 ? 32 : 128) - block.length);
  const all = 1n << host;
  const count = Number(all < BLOCK_ADDRESSES_MAX ? all : BLOCK_ADDRESSES_MAX);
  // Neither the block's own address nor, of IPv4, its broadcast.
  const usable = count - (block.family === 4 && BigInt(count) === all ? 2 : 1);
  if (usable <= 0) return;
  const from = randomInt(usable);
  for (let i = 0; i < usable; i++) {
    const offset = 1 + ((from + i) % usable);
    const address: IpAddress =
      block.family === 4 ? toIpv4(block.base + offset) : toIpv6(block.base + BigInt(offset));
    yield formatAddress(address);
  }
}

function* nodePorts(): Generator<string> {
  const count = NODE_PORTS.to - NODE_PORTS.from + 1;
  const from = randomInt(count);
  for (let i = 0; i < count; i++) yield String(NODE_PORTS.from + ((from + i) % count));
}

function addressOf(text: unknown, owner: string): IpAddress {
  try {
    return parseAddress(String(text));
  } catch (cause) {
    if (!(cause instanceof AddressError)) throw cause;
    throw new ApiError(422, 'ERR_OBJECT', `Service ${owner}: ${cause.message}`, { cause });
  }
}

/** Families in order: spec.ipFamilies, then what ipFamilyPolicy adds. */
function familiesOf(spec: Json, ranges: ServiceRanges, owner: string): readonly Family[] {
  const has = ranges.clusterIps.map(({ family }): Family => family);
  const asked = listOf(spec['ipFamilies']).map((it): Family => (it === 'IPv6' ? 6 : 4));
  const families = asked.length > 0 ? [...asked] : has.slice(0, 1);
  const policy = spec['ipFamilyPolicy'];
  if (policy === 'PreferDualStack' || policy === 'RequireDualStack') {
    families.push(...has.filter((it) => !families.includes(it)));
  }
  const missing = families.find((it) => !has.includes(it));
  if (missing !== undefined || (policy === 'RequireDualStack' && families.length < 2)) {
    throw new ApiError(
      422,
      'ERR_NO_RANGE',
      `Service ${owner} asks for addresses of a family that --service-cluster-ip-range has not`,
    );
  }
  return families;
}

/** @returns the addresses, all claimed */
async function clusterIpsOf(
  claims: Claims,
  spec: Json,
  earlier: Json,
  ranges: ServiceRanges,
  owner: string,
): Promise<readonly string[]> {
  const textsOf = (it: Json): readonly unknown[] => {
    const list = listOf(it['clusterIPs']);
    const one = it['clusterIP'];
    return list.length > 0 ? list : one === undefined || one === null || one === '' ? [] : [one];
  };
  const given = textsOf(spec).map((it) => addressOf(it, owner));
  for (const address of given) {
    if (!ranges.clusterIps.some((it) => cidrContains(it, address))) {
      const blocks = ranges.clusterIps.map(formatCidr).join(', ');
      const text = `Service ${owner}: ${formatAddress(address)} is not in ${blocks}`;
      throw new ApiError(422, 'ERR_OUTSIDE_RANGE', `${text} (--service-cluster-ip-range)`);
    }
  }
  const addresses = given.map((it) => formatAddress(it));
  for (const it of addresses) await claims.need('clusterip', it);
  const families = familiesOf(spec, ranges, owner);
  const before = textsOf(earlier).filter((it) => it !== 'None');
  const familyOf = (text: string): Family => (text.includes(':') ? 6 : 4);
  for (const family of families) {
    if (addresses.some((it) => familyOf(it) === family)) continue;
    // A Service that is applied again keeps what it has.
    const kept = before.map(String).find((it) => familyOf(it) === family);
    if (kept !== undefined && (await claims.take('clusterip', kept))) {
      addresses.push(kept);
      continue;
    }
    const blocks = ranges.clusterIps.filter((it) => it.family === family);
    const address = await claims.any(
      'clusterip',
      (function* () {
        for (const it of blocks) yield* addressesOf(it);
      })(),
    );
    if (address === null) {
      throw new ApiError(409, 'ERR_EXHAUSTED', `no cluster address is left for Service ${owner}`);
    }
    addresses.push(address);
  }
  return addresses;
}

async function nodePortOf(
  claims: Claims,
  given: unknown,
  kept: unknown,
  owner: string,
): Promise<number> {
  if (typeof given === 'number' && given > 0) {
    await claims.need('nodeport', String(given));
    return given;
  }
  if (typeof kept === 'number' && kept > 0 && (await claims.take('nodeport', String(kept)))) {
    return kept;
  }
  const port = await claims.any('nodeport', nodePorts());
  if (port !== null) return Number(port);
  throw new ApiError(409, 'ERR_EXHAUSTED', `no node port is left for Service ${owner}`);
}

/** The port of the earlier Service that is this one: by its name, else by protocol and number. */
function earlierPort(port: Json, earlier: Json): Json {
  const ports = listOf(earlier['ports']).map(jsonOf);
  const protocol = (it: Json): unknown => it['protocol'] ?? 'TCP';
  return (
    ports.find((it) => (it['name'] ?? '') !== '' && it['name'] === port['name']) ??
    ports.find((it) => it['port'] === port['port'] && protocol(it) === protocol(port)) ??
    {}
  );
}

export interface AllocatedService {
  readonly raw: Json;
  /** Gives back what the Service has no more; after it was written. */
  readonly freeOthers: () => Promise<void>;
}

/**
 * The Service with the addresses and ports that it did not name, as kube-apiserver gives them: those it
 * has already if there are any.
 * @param earlier  as it is stored now; null: there is none
 * @throws ApiError (409: taken, or none left; 422: not in the range), StoreError
 */
export async function allocateService(
  allocations: Allocations,
  ranges: ServiceRanges,
  raw: Json,
  earlier: Json | null,
): Promise<AllocatedService> {
  const spec = jsonOf(raw['spec']);
  const before = jsonOf(earlier?.['spec']);
  const { name, namespace = 'default' } = jsonOf(raw['metadata']);
  const owner = `${String(namespace)}/${String(name)}`;
  const claims = new Claims(allocations, owner);
  const freeOthers = (): Promise<void> => claims.freeOthers();
  const type = spec['type'] ?? 'ClusterIP';
  const isHeadless = spec['clusterIP'] === 'None' || listOf(spec['clusterIPs'])[0] === 'None';
  if (type === 'ExternalName' || isHeadless) return { raw, freeOthers };
  const clusterIPs = await clusterIpsOf(claims, spec, before, ranges, owner);
  const whole: Record<string, unknown> = { ...spec, clusterIP: clusterIPs[0], clusterIPs };
  const isBalanced = type === 'LoadBalancer';
  const isWanted =
    type === 'NodePort' || (isBalanced && spec['allocateLoadBalancerNodePorts'] !== false);
  const ports: Json[] = [];
  for (const port of listOf(spec['ports']).map(jsonOf)) {
    const given = port['nodePort'] ?? 0;
    if (!isWanted && given === 0) ports.push(port);
    else {
      const kept = earlierPort(port, before)['nodePort'];
      ports.push({ ...port, nodePort: await nodePortOf(claims, given, kept, owner) });
    }
  }
  whole['ports'] = ports;
  if (isBalanced && spec['externalTrafficPolicy'] === 'Local') {
    const kept = before['healthCheckNodePort'];
    const given = spec['healthCheckNodePort'];
    whole['healthCheckNodePort'] = await nodePortOf(claims, given, kept, owner);
  }
  return { raw: { ...raw, spec: whole }, freeOthers };
}

/** After a Service was deleted. @param owner  `namespace/name` */
export const freeService = (allocations: Allocations, owner: string): Promise<void> =>
  new Claims(allocations, owner).freeOthers();
