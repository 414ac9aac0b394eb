/**
 * Services and their endpoints become the table that the packet path reads. What one Service comes to is
 * kept, and made anew only when the Service, its slices or its pods are other objects; the table is put
 * together from these pieces in the order of the Services' names.
 */
import {
  type EndpointSlice,
  type ObjectSet,
  type Pod,
  type Service,
  type ServicePort,
  PROTOCOL_NUMBERS,
  describeObject,
} from '../objects/types.ts';
import {
  type Family,
  type IpAddress,
  familyOf,
  formatAddress,
  ipv6Words,
} from '../wire/address.ts';
import { type Cidr, cidrContains, formatCidr, lastOf } from '../wire/cidr.ts';
import {
  type PodsByService,
  type PortEndpoints,
  type ServiceEndpoint,
  type SlicesByService,
  podsByService,
  resolveEndpoints,
  slicesByService,
  zoneOf,
} from './endpoints.ts';
import {
  ADDRESS_FAMILY,
  ADDRESS_MEANING,
  ADDRESS_WORDS,
  BACKEND_FLAGS,
  BACKEND_ID,
  BACKEND_LOCAL,
  BACKEND_PORT,
  BACKEND_SEED,
  BACKEND_WORDS,
  EMPTY_SERVICE_TABLE,
  FAMILY6,
  FRONTEND_AFFINITY_S,
  FRONTEND_BACKENDS,
  FRONTEND_BACKENDS_COUNT,
  FRONTEND_FLAGS,
  FRONTEND_INSIDE,
  FRONTEND_INSIDE_COUNT,
  FRONTEND_KEY,
  FRONTEND_OUTSIDE,
  FRONTEND_OUTSIDE_COUNT,
  FRONTEND_SOURCES,
  FRONTEND_SOURCES_COUNT,
  FRONTEND_WORDS,
  HIDES_SOURCE,
  INSIDE_NOT_LOCAL,
  MEANS_LEFT_ALONE,
  MEANS_SERVICE,
  NETWORK_FAMILY,
  NETWORK_LAST,
  NETWORK_WORDS,
  ONLY_LOCAL,
  OUTSIDE_NOT_LOCAL,
  RESTRICTED,
  SOURCE_WORDS,
  type ServiceTable,
  frontendKey,
  hashOf,
} from './table.ts';

/** Services with it are another proxy's. */
const PROXY_NAME_LABEL = 'service.kubernetes.io/service-proxy-name';

export interface ServiceInputs {
  readonly objects: ObjectSet;
  readonly nodeName: string;
  /** Node ports are served on these. */
  readonly nodeAddresses: readonly IpAddress[];
  /** Where cluster IPs come from. None: wherever they are. */
  readonly serviceNetworks: readonly Cidr[];
  /** External IPs are served within these only: whoever may write a Service could claim any address. */
  readonly externalIpBlocks: readonly Cidr[];
}

/** What the host must steer into the TUN, since it is not in a Service network. */
export interface SteeredFrontend {
  readonly protocol: number;
  readonly address: IpAddress;
  readonly port: number;
}

export interface HealthCheck {
  /** The Service's healthCheckNodePort. */
  readonly port: number;
  readonly namespace: string;
  readonly name: string;
  /** Ready ones of this node. */
  readonly localEndpoints: number;
}

export interface CompiledServices {
  readonly table: ServiceTable;
  readonly steered: readonly SteeredFrontend[];
  readonly healthChecks: readonly HealthCheck[];
  /** What is not served, and why. */
  readonly problems: readonly string[];
}

/** What holds for all Services; another one makes all pieces anew. */
interface Place {
  readonly nodeName: string;
  readonly zone: string;
  readonly nodeAddresses: readonly IpAddress[];
  readonly serviceNetworks: readonly Cidr[];
  readonly externalIpBlocks: readonly Cidr[];
}

/** A row of `frontends`, before it is known where its lists come to stand. */
interface Row {
  readonly address: IpAddress;
  readonly port: number;
  readonly protocol: number;
  readonly isNodePort: boolean;
  readonly isExternal: boolean;
}

interface Piece {
  readonly place: Place;
  readonly service: Service;
  readonly slices: readonly EndpointSlice[] | undefined;
  readonly pods: readonly Pod[] | undefined;
  /** One for each FRONTEND_WORDS of `frontends`. */
  readonly rows: readonly Row[];
  /** Their places count from this piece's own first backend, member and source. */
  readonly frontends: Uint32Array;
  readonly backends: Uint32Array;
  readonly members: Uint32Array;
  readonly sources: Uint32Array;
  readonly leftAlone: readonly IpAddress[];
  readonly healthCheck: HealthCheck | null;
  readonly problems: readonly string[];
}

const isLeftAlone = (service: Service): boolean =>
  service.type === 'ExternalName' ||
  service.headless ||
  service.metadata.labels[PROXY_NAME_LABEL] !== undefined;

const wordsOf = (address: IpAddress): readonly [number, number, number, number] =>
  typeof address === 'number' ? [address, 0, 0, 0] : ipv6Words(address);

const hashAddress = (address: IpAddress, key: number): number =>
  hashOf(typeof address === 'number', ...wordsOf(address), key);

const compareAddresses = (a: IpAddress, b: IpAddress): number => (a < b ? -1 : a > b ? 1 : 0);

const takesNew = ({ ready }: ServiceEndpoint): boolean => ready;
const isEnding = ({ serving, terminating }: ServiceEndpoint): boolean => serving && terminating;

/** Ready ones; if there is none, those that still answer while they end. */
function eligible(endpoints: readonly ServiceEndpoint[]): readonly ServiceEndpoint[] {
  const ready = endpoints.filter(takesNew);
  return ready.length > 0 ? ready : endpoints.filter(isEnding);
}

/**
 * Those near this node, where that is asked for and there are any. Hints are the word of whoever wrote the
 * slices, and come before where the endpoints are; they count only if all ready endpoints have them.
 */
function near(
  ready: readonly ServiceEndpoint[],
  { trafficDistribution }: Service,
  { nodeName, zone }: Place,
): readonly ServiceEndpoint[] {
  const ways: ((endpoint: ServiceEndpoint) => boolean)[] = [];
  if (ready.every(({ hintsForNodes }) => hintsForNodes.length > 0)) {
    ways.push(({ hintsForNodes }) => hintsForNodes.includes(nodeName));
  }
  if (zone !== '' && ready.every(({ hintsForZones }) => hintsForZones.length > 0)) {
    ways.push(({ hintsForZones }) => hintsForZones.includes(zone));
  }
  if (trafficDistribution === 'PreferSameNode') {
    ways.push((endpoint) => endpoint.nodeName === nodeName);
  }
  if (trafficDistribution !== '' && zone !== '') ways.push((endpoint) => endpoint.zone === zone);
  for (const isNear of ways) {
    const some = ready.filter(isNear);
    if (some.length > 0) return some;
  }
  return ready;
}

interface Claim {
  readonly address: IpAddress;
  readonly port: number;
  readonly isNodePort: boolean;
  readonly isExternal: boolean;
  readonly isRestricted: boolean;
}

/** The addresses and ports at which a Service is reached for one of its ports, in one family. */
function claimsOf(
  service: Service,
  port: ServicePort,
  family: Family,
  place: Place,
): readonly Claim[] {
  const { type, loadBalancerSourceRanges } = service;
  const claims: Claim[] = [];
  const claim = (addresses: readonly IpAddress[], rest: Omit<Claim, 'address'>): void => {
    for (const address of addresses) {
      if (familyOf(address) === family) claims.push({ address, ...rest });
    }
  };
  const external = { port: port.port, isNodePort: false, isExternal: true, isRestricted: false };
  claim(service.clusterIPs.filter(isServed(place.serviceNetworks)), {
    ...external,
    isExternal: false,
  });
  if (type === 'LoadBalancer') {
    const isRestricted = loadBalancerSourceRanges.length > 0;
    claim(service.loadBalancerIPs, { ...external, isRestricted });
  }
  claim(service.externalIPs.filter(isAllowed(place.externalIpBlocks)), external);
  if ((type === 'LoadBalancer' || type === 'NodePort') && port.nodePort !== 0) {
    claim(place.nodeAddresses, { ...external, port: port.nodePort, isNodePort: true });
  }
  return claims;
}

const isAllowed =
  (blocks: readonly Cidr[]) =>
  (address: IpAddress): boolean =>
    blocks.some((block) => cidrContains(block, address));

const isServed = (networks: readonly Cidr[]): ((address: IpAddress) => boolean) =>
  networks.length === 0 ? () => true : isAllowed(networks);

function outsideProblems(service: Service, place: Place): readonly string[] {
  const name = describeObject(service);
  return [
    ...service.clusterIPs
      .filter((address) => !isServed(place.serviceNetworks)(address))
      .map(
        (address) =>
          `${name}: cluster IP ${formatAddress(address)} is outside of the Service networks ` +
          `(${place.serviceNetworks.map(formatCidr).join(', ')}); it is not served`,
      ),
    ...service.externalIPs
      .filter((address) => !isAllowed(place.externalIpBlocks)(address))
      .map(
        (address) =>
          `${name}: external IP ${formatAddress(address)} is in no block that is allowed; ` +
          `it is not served`,
      ),
  ];
}

function healthCheckOf(
  service: Service,
  found: readonly PortEndpoints[],
  { nodeName }: Place,
): HealthCheck | null {
  const { type, externalTrafficPolicy, healthCheckNodePort, metadata } = service;
  if (type !== 'LoadBalancer' || externalTrafficPolicy !== 'Local' || healthCheckNodePort === 0) {
    return null;
  }
  const count = (family: Family): number =>
    new Set(
      found
        .filter((it) => it.family === family)
        .flatMap(({ endpoints }) => endpoints)
        .filter((it) => it.ready && it.nodeName === nodeName)
        .map(({ address }) => address),
    ).size;
  return {
    port: healthCheckNodePort,
    namespace: metadata.namespace,
    name: metadata.name,
    // A pod of both families is one endpoint.
    localEndpoints: Math.max(count(4), count(6)),
  };
}

/** Numbers, laid out as in the table, of one Service. */
class PieceWriter {
  readonly rows: Row[] = [];
  readonly frontends: number[] = [];
  readonly backends: number[] = [];
  readonly members: number[] = [];
  readonly sources: number[] = [];

  /** @returns where in `members` they stand */
  list(chosen: readonly ServiceEndpoint[], all: readonly ServiceEndpoint[]): number {
    const at = this.members.length;
    if (chosen.length === all.length) for (let i = 0; i < all.length; i++) this.members.push(i);
    else {
      const places = new Map(all.map((endpoint, i) => [endpoint, i]));
      for (const endpoint of chosen) this.members.push(places.get(endpoint)!);
    }
    return at;
  }

  backend({ address, port, nodeName }: ServiceEndpoint, ownName: string): void {
    const at = this.backends.length;
    const seed = hashAddress(address, port) >>> 0;
    this.backends.push(...wordsOf(address), 0, 0, 0, 0);
    this.backends[at + BACKEND_PORT] = port;
    this.backends[at + BACKEND_ID] = seed;
    this.backends[at + BACKEND_SEED] = seed;
    this.backends[at + BACKEND_FLAGS] = nodeName === ownName ? BACKEND_LOCAL : 0;
  }
}

function writePort(
  writer: PieceWriter,
  service: Service,
  { port, family, endpoints }: PortEndpoints,
  place: Place,
): void {
  const claims = claimsOf(service, port, family, place);
  if (claims.length === 0) return;
  // In an order of their own, so that it does not matter how they came to be known.
  const all = endpoints
    .filter((it) => takesNew(it) || isEnding(it))
    .sort((a, b) => compareAddresses(a.address, b.address) || a.port - b.port);
  const firstBackend = writer.backends.length / BACKEND_WORDS;
  for (const endpoint of all) writer.backend(endpoint, place.nodeName);
  const cluster = eligible(all);
  const chosen =
    cluster.every(takesNew) && cluster.length > 0 ? near(cluster, service, place) : cluster;
  const local = eligible(all.filter(({ nodeName }) => nodeName === place.nodeName));
  const clusterAt = writer.list(chosen, all);
  const localAt = writer.list(local, all);

  const firstSource = writer.sources.length / SOURCE_WORDS;
  const ranges = service.loadBalancerSourceRanges.filter((range) => range.family === family);
  for (const range of ranges) {
    writer.sources.push(...wordsOf(range.base), ...wordsOf(lastOf(range)));
  }
  const protocol = PROTOCOL_NUMBERS[port.protocol];
  for (const claim of claims) {
    const policy = claim.isExternal ? service.externalTrafficPolicy : service.internalTrafficPolicy;
    const isLocalOutside = policy === 'Local';
    // Who is inside reaches external addresses as if they were the cluster's own.
    const isLocalInside = isLocalOutside && !claim.isExternal;
    const noneLocal = local.length === 0 && chosen.length > 0;
    const row = Array.from({ length: FRONTEND_WORDS }, () => 0);
    for (const [i, word] of wordsOf(claim.address).entries()) row[i] = word;
    row[FRONTEND_KEY] = frontendKey(family === 4, protocol, claim.port);
    row[FRONTEND_FLAGS] =
      (noneLocal && isLocalInside ? INSIDE_NOT_LOCAL : 0) |
      (noneLocal && isLocalOutside ? OUTSIDE_NOT_LOCAL : 0) |
      (isLocalInside ? ONLY_LOCAL : 0) |
      (claim.isExternal && policy === 'Cluster' ? HIDES_SOURCE : 0) |
      (claim.isRestricted ? RESTRICTED : 0);
    row[FRONTEND_AFFINITY_S] =
      service.sessionAffinity === 'ClientIP' ? service.affinityTimeoutS : 0;
    row[FRONTEND_BACKENDS] = firstBackend;
    row[FRONTEND_BACKENDS_COUNT] = all.length;
    row[FRONTEND_INSIDE] = isLocalInside ? localAt : clusterAt;
    row[FRONTEND_INSIDE_COUNT] = isLocalInside ? local.length : chosen.length;
    row[FRONTEND_OUTSIDE] = isLocalOutside ? localAt : clusterAt;
    row[FRONTEND_OUTSIDE_COUNT] = isLocalOutside ? local.length : chosen.length;
    row[FRONTEND_SOURCES] = firstSource;
    row[FRONTEND_SOURCES_COUNT] = ranges.length;
    writer.frontends.push(...row);
    const { address, isNodePort, isExternal } = claim;
    writer.rows.push({ address, port: claim.port, protocol, isNodePort, isExternal });
  }
}

function makePiece(
  service: Service,
  slices: readonly EndpointSlice[] | undefined,
  pods: readonly Pod[] | undefined,
  nodes: ObjectSet['nodes'],
  place: Place,
): Piece {
  const writer = new PieceWriter();
  const served = !isLeftAlone(service);
  const found = served ? resolveEndpoints(service, slices, pods, nodes) : [];
  for (const some of found) writePort(writer, service, some, place);
  return {
    place,
    service,
    slices,
    pods,
    rows: writer.rows,
    frontends: Uint32Array.from(writer.frontends),
    backends: Uint32Array.from(writer.backends),
    members: Uint32Array.from(writer.members),
    sources: Uint32Array.from(writer.sources),
    leftAlone: served ? [] : service.clusterIPs,
    healthCheck: served ? healthCheckOf(service, found, place) : null,
    problems: served ? outsideProblems(service, place) : [],
  };
}

const sameItems = (a: readonly unknown[] | undefined, b: readonly unknown[] | undefined): boolean =>
  a === b ||
  (a !== undefined && b !== undefined && a.length === b.length && a.every((it, i) => it === b[i]));

const sameWords = (a: Uint32Array, b: Uint32Array): boolean => {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
};

/** Of one Service, and they come to the same. */
const sayTheSame = (a: Piece, b: Piece): boolean =>
  sameWords(a.frontends, b.frontends) &&
  sameWords(a.backends, b.backends) &&
  sameWords(a.members, b.members) &&
  sameWords(a.sources, b.sources) &&
  sameItems(a.leftAlone, b.leftAlone) &&
  sameItems(a.problems, b.problems) &&
  a.healthCheck?.port === b.healthCheck?.port &&
  a.healthCheck?.localEndpoints === b.healthCheck?.localEndpoints;

const sameBlocks = (a: readonly Cidr[], b: readonly Cidr[]): boolean =>
  sameItems(a.map(formatCidr), b.map(formatCidr));

/** The names of those that have become others, as far as it matters here. */
function changedNodes(a: ObjectSet['nodes'], b: ObjectSet['nodes']): ReadonlySet<string> {
  const names = new Set<string>();
  if (a === b) return names;
  for (const key of new Set([...a.keys(), ...b.keys()])) {
    const [old, now] = [a.get(key), b.get(key)];
    const isSame =
      zoneOf(old) === zoneOf(now) && sameItems(old?.addresses ?? [], now?.addresses ?? []);
    if (!isSame) names.add(key.slice(1));
  }
  return names;
}

const isOn = (
  names: ReadonlySet<string>,
  slices: readonly EndpointSlice[] | undefined,
  pods: readonly Pod[] | undefined,
): boolean =>
  names.size > 0 &&
  (slices?.some(({ endpoints }) => endpoints.some(({ nodeName }) => names.has(nodeName))) ===
    true ||
    pods?.some(({ nodeName }) => names.has(nodeName)) === true);

/** Open addressing over rows of words; half of the slots stay empty. */
const slotsFor = (count: number): Int32Array =>
  new Int32Array(2 ** Math.ceil(Math.log2(2 * count + 2))).fill(-1);

export class ServiceCompiler {
  #generation: number;
  #place: Place | null = null;
  #inputs: ObjectSet | null = null;
  #slices: SlicesByService = new Map();
  #pods: PodsByService = new Map();
  #order: readonly string[] = [];
  #pieces = new Map<string, Piece>();
  #taken: ReadonlyMap<IpAddress, string> = new Map();
  #result: CompiledServices = {
    table: EMPTY_SERVICE_TABLE,
    steered: [],
    healthChecks: [],
    problems: [],
  };

  /** @param generation  the last one that somebody may still remember; the first table has the next */
  constructor(generation = 0) {
    this.#generation = generation;
  }

  /** The same table as before while nothing in it has changed. */
  compile(inputs: ServiceInputs): CompiledServices {
    const { objects } = inputs;
    const before = this.#inputs;
    const place = this.#placeOf(inputs);
    const moved = changedNodes(before?.nodes ?? new Map(), objects.nodes);
    // Nodes' addresses are in the table whether or not there are endpoints on them.
    let isChanged = place !== this.#place || moved.size > 0;
    const servicesChanged = objects.services !== before?.services;
    const slicesChanged = objects.endpointSlices !== before?.endpointSlices;
    const podsChanged = objects.pods !== before?.pods;
    if (slicesChanged) this.#slices = slicesByService(objects.endpointSlices);
    if (servicesChanged || slicesChanged || podsChanged) {
      this.#pods = podsByService(objects.services, this.#slices, objects.pods);
    }
    if (servicesChanged) {
      // Nearly sorted already: most names are as they were.
      const names = this.#order.filter((name) => objects.services.has(name));
      const known = new Set(names);
      for (const name of objects.services.keys()) if (!known.has(name)) names.push(name);
      names.sort((a, b) => (a < b ? -1 : 1));
      if (names.length !== this.#order.length) isChanged = true;
      this.#order = names;
    }
    const pieces = new Map<string, Piece>();
    for (const name of this.#order) {
      const service = objects.services.get(name)!;
      const [slices, pods] = [this.#slices.get(name), this.#pods.get(name)];
      const old = this.#pieces.get(name);
      if (
        old !== undefined &&
        old.service === service &&
        old.place === place &&
        !isOn(moved, slices, pods) &&
        sameItems(old.slices, slices) &&
        sameItems(old.pods, pods)
      ) {
        pieces.set(name, old);
        continue;
      }
      const piece = makePiece(service, slices, pods, objects.nodes, place);
      pieces.set(name, piece);
      if (old === undefined || !sayTheSame(old, piece)) isChanged = true;
    }
    this.#pieces = pieces;
    if (isChanged || podsChanged) {
      const taken = takenAddresses(pieces.values(), objects.pods);
      if (!sameItems([...taken].flat(), [...this.#taken].flat())) isChanged = true;
      this.#taken = taken;
    }
    this.#place = place;
    this.#inputs = objects;
    if (isChanged || this.#result.table === EMPTY_SERVICE_TABLE) {
      this.#generation += 1;
      this.#result = assemble(
        [...pieces.values()],
        place,
        objects.nodes,
        this.#taken,
        this.#generation,
      );
    }
    return this.#result;
  }

  /** The one before, if it says the same. */
  #placeOf(inputs: ServiceInputs): Place {
    const { objects, nodeName, nodeAddresses, serviceNetworks, externalIpBlocks } = inputs;
    const zone = zoneOf(objects.nodes.get(`/${nodeName}`));
    const before = this.#place;
    if (
      before !== null &&
      before.nodeName === nodeName &&
      before.zone === zone &&
      sameItems(before.nodeAddresses, nodeAddresses) &&
      sameBlocks(before.serviceNetworks, serviceNetworks) &&
      sameBlocks(before.externalIpBlocks, externalIpBlocks)
    ) {
      return before;
    }
    return { nodeName, zone, nodeAddresses, serviceNetworks, externalIpBlocks };
  }
}

/** Of the addresses that Services claim, those that pods have: it is theirs that is meant. */
function takenAddresses(
  pieces: Iterable<Piece>,
  pods: ObjectSet['pods'],
): ReadonlyMap<IpAddress, string> {
  const claimed = new Set<IpAddress>();
  for (const { rows } of pieces) {
    for (const { address, isNodePort } of rows) if (!isNodePort) claimed.add(address);
  }
  const taken = new Map<IpAddress, string>();
  if (claimed.size === 0) return taken;
  for (const pod of pods.values()) {
    if (pod.hostNetwork || pod.phase === 'Succeeded' || pod.phase === 'Failed') continue;
    for (const address of pod.podIPs) {
      if (claimed.has(address)) taken.set(address, describeObject(pod));
    }
  }
  return taken;
}

/** Known addresses, each once: the first meaning that is given stays. */
class AddressTable {
  readonly #slots: Int32Array;
  readonly #words: Uint32Array;
  #count = 0;

  constructor(count: number) {
    this.#slots = slotsFor(count);
    this.#words = new Uint32Array(count * ADDRESS_WORDS);
  }

  add(address: IpAddress, meaning: number): void {
    const family = typeof address === 'number' ? 0 : FAMILY6;
    const words = wordsOf(address);
    const mask = this.#slots.length - 1;
    let slot = hashOf(family === 0, ...words, family) & mask;
    for (; this.#slots[slot] !== -1; slot = (slot + 1) & mask) {
      const at = this.#slots[slot]! * ADDRESS_WORDS;
      if (
        this.#words[at + ADDRESS_FAMILY] === family &&
        words.every((word, i) => word === this.#words[at + i])
      ) {
        return;
      }
    }
    const at = this.#count * ADDRESS_WORDS;
    this.#words.set(words, at);
    this.#words[at + ADDRESS_FAMILY] = family;
    this.#words[at + ADDRESS_MEANING] = meaning;
    this.#slots[slot] = this.#count++;
  }

  finish(): Pick<ServiceTable, 'addresses' | 'addressSlots'> {
    return {
      addresses: this.#words.slice(0, this.#count * ADDRESS_WORDS),
      addressSlots: this.#slots,
    };
  }
}

function assemble(
  pieces: readonly Piece[],
  place: Place,
  nodes: ObjectSet['nodes'],
  taken: ReadonlyMap<IpAddress, string>,
  generation: number,
): CompiledServices {
  const total = { frontends: 0, backends: 0, members: 0, sources: 0 };
  let leftAloneCount = 0;
  for (const piece of pieces) {
    total.frontends += piece.frontends.length;
    total.backends += piece.backends.length;
    total.members += piece.members.length;
    total.sources += piece.sources.length;
    leftAloneCount += piece.leftAlone.length;
  }
  const frontends = new Uint32Array(total.frontends);
  const backends = new Uint32Array(total.backends);
  const members = new Uint32Array(total.members);
  const sources = new Uint32Array(total.sources);
  const at = { frontends: 0, backends: 0, members: 0, sources: 0 };
  const rowCount = total.frontends / FRONTEND_WORDS;
  const frontendSlots = slotsFor(rowCount);
  const mask = frontendSlots.length - 1;

  const nodesByAddress = new Map<IpAddress, string>();
  for (const address of place.nodeAddresses) nodesByAddress.set(address, `Node ${place.nodeName}`);
  for (const node of nodes.values()) {
    for (const address of node.addresses) nodesByAddress.set(address, describeObject(node));
  }
  const addressTable = new AddressTable(
    nodesByAddress.size + taken.size + leftAloneCount + rowCount,
  );
  for (const address of nodesByAddress.keys()) addressTable.add(address, MEANS_LEFT_ALONE);
  for (const address of taken.keys()) addressTable.add(address, MEANS_LEFT_ALONE);
  for (const { leftAlone } of pieces) {
    for (const address of leftAlone) addressTable.add(address, MEANS_LEFT_ALONE);
  }

  const owners: Piece[] = [];
  const steered: SteeredFrontend[] = [];
  const healthChecks: HealthCheck[] = [];
  const healthCheckPorts = new Set<number>();
  const problems: string[] = [];
  for (const piece of pieces) {
    frontends.set(piece.frontends, at.frontends);
    backends.set(piece.backends, at.backends);
    members.set(piece.members, at.members);
    sources.set(piece.sources, at.sources);
    const told = new Set<string>();
    let index = at.frontends;
    for (const row of piece.rows) {
      frontends[index + FRONTEND_BACKENDS]! += at.backends / BACKEND_WORDS;
      frontends[index + FRONTEND_INSIDE]! += at.members;
      frontends[index + FRONTEND_OUTSIDE]! += at.members;
      frontends[index + FRONTEND_SOURCES]! += at.sources / SOURCE_WORDS;
      owners.push(piece);
      const holder = row.isNodePort
        ? undefined
        : (taken.get(row.address) ??
          (row.isExternal ? undefined : nodesByAddress.get(row.address)));
      if (holder === undefined) {
        const other = claim(index);
        if (other === null) {
          if (row.isExternal) {
            const { protocol, address, port } = row;
            steered.push({ protocol, address, port });
          }
        } else if (other !== piece) {
          told.add(
            `${describeObject(piece.service)}: ${formatRow(row)} is ` +
              `${describeObject(other.service)}'s already; it stays there`,
          );
        }
        if (!row.isNodePort) addressTable.add(row.address, MEANS_SERVICE);
      } else {
        told.add(
          `${describeObject(piece.service)}: ${formatAddress(row.address)} is ${holder}'s; ` +
            `the Service is not served there`,
        );
      }
      index += FRONTEND_WORDS;
    }
    at.frontends += piece.frontends.length;
    at.backends += piece.backends.length;
    at.members += piece.members.length;
    at.sources += piece.sources.length;
    problems.push(...piece.problems, ...told);
    if (piece.healthCheck !== null) {
      const { port } = piece.healthCheck;
      if (healthCheckPorts.has(port)) {
        problems.push(
          `${describeObject(piece.service)}: health check node port ${port} is another Service's; ` +
            `load balancers are told nothing of this one`,
        );
      } else {
        healthCheckPorts.add(port);
        healthChecks.push(piece.healthCheck);
      }
    }
  }

  /** @returns whose it is already, or null: it was free */
  function claim(index: number): Piece | null {
    const key = frontends[index + FRONTEND_KEY]!;
    const [a, b, c, d] = [
      frontends[index]!,
      frontends[index + 1]!,
      frontends[index + 2]!,
      frontends[index + 3]!,
    ];
    let slot = hashOf((key & FAMILY6) === 0, a, b, c, d, key) & mask;
    for (; frontendSlots[slot] !== -1; slot = (slot + 1) & mask) {
      const other = frontendSlots[slot]! * FRONTEND_WORDS;
      if (
        frontends[other + FRONTEND_KEY] === key &&
        frontends[other] === a &&
        frontends[other + 1] === b &&
        frontends[other + 2] === c &&
        frontends[other + 3] === d
      ) {
        return owners[frontendSlots[slot]!]!;
      }
    }
    frontendSlots[slot] = index / FRONTEND_WORDS;
    return null;
  }

  const networks = Uint32Array.from(
    place.serviceNetworks.flatMap((block) => {
      const row = Array.from({ length: NETWORK_WORDS }, () => 0);
      for (const [i, word] of wordsOf(block.base).entries()) row[i] = word;
      for (const [i, word] of wordsOf(lastOf(block)).entries()) row[NETWORK_LAST + i] = word;
      row[NETWORK_FAMILY] = block.family === 4 ? 0 : FAMILY6;
      return row;
    }),
  );
  return {
    table: {
      generation,
      backends,
      frontends,
      members,
      sources,
      frontendSlots,
      networks,
      ...addressTable.finish(),
    },
    steered,
    healthChecks,
    problems,
  };
}

const PROTOCOL_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(PROTOCOL_NUMBERS).map(([name, number]) => [number, name]),
);

/** `10.96.0.1 port 80/TCP` */
const formatRow = ({ address, port, protocol }: Row): string =>
  `${formatAddress(address)} port ${port}/${PROTOCOL_NAMES.get(protocol)}`;
