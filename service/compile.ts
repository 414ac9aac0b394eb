/**
 * Services and their endpoints become the table that the packet path reads. What one Service comes to is
 * kept, and made anew only when the Service, its slices or its pods are other objects; the table is put
 * together from these pieces in the order of the Services' names.
 */
import {
  EMPTY_OBJECTS,
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
  PodSelection,
  type PortEndpoints,
  type ServiceEndpoint,
  resolveEndpoints,
  updateSlices,
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
  NODE_PORT,
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
  /** Addresses of a Service without ports: they have no rows. */
  readonly portless: readonly IpAddress[];
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

/** Where it would be reached if it had ports. */
function addressesOf(service: Service, place: Place): readonly IpAddress[] {
  const port: ServicePort = { name: '', protocol: 'TCP', port: 0, targetPort: 0, nodePort: 0 };
  const families = new Set(service.clusterIPs.map(familyOf));
  return [...families].flatMap((family) =>
    claimsOf(service, port, family, place).map(({ address }) => address),
  );
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
      (claim.isRestricted ? RESTRICTED : 0) |
      (claim.isNodePort ? NODE_PORT : 0);
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
    portless: served && service.ports.length === 0 ? addressesOf(service, place) : [],
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
  sameItems(a.portless, b.portless) &&
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
  #objects: ObjectSet = EMPTY_OBJECTS;
  readonly #slices = new Map<string, readonly EndpointSlice[]>();
  readonly #selection = new PodSelection();
  /** The Services' names, sorted. */
  #order: readonly string[] = [];
  readonly #pieces = new Map<string, Piece>();
  #taken: ReadonlyMap<IpAddress, string> = new Map();
  #claims: Claims | null = null;
  #result: CompiledServices | null = null;

  /** @param generation  the last one that somebody may still remember; the first table has the next */
  constructor(generation = 0) {
    this.#generation = generation;
  }

  /** The same table as before while nothing in it has changed. */
  compile(inputs: ServiceInputs): CompiledServices {
    const { objects } = inputs;
    const { services, pods, nodes } = objects;
    const before = this.#objects;
    this.#objects = objects;
    const servicesChanged = services !== before.services;
    const podsChanged = pods !== before.pods;
    const moved = changedNodes(before.nodes, nodes);
    const owners = updateSlices(this.#slices, before.endpointSlices, objects.endpointSlices);
    const selection = this.#selection.update(objects, this.#slices, owners);
    if (servicesChanged) this.#order = this.#sortedNames(services);
    const place = this.#placeOf(inputs);
    // Nodes' addresses are in the table whether or not there are endpoints on them.
    const isElsewhere = place !== this.#place || moved.size > 0;
    this.#place = place;

    const onlySlicesChanged = !servicesChanged && !podsChanged && !isElsewhere;
    if (onlySlicesChanged && owners.size === 0 && this.#result !== null) return this.#result;

    let isChanged = isElsewhere;
    for (const name of this.#pieces.keys()) {
      if (!servicesChanged) break;
      if (!services.has(name)) isChanged = this.#pieces.delete(name);
    }
    for (const name of onlySlicesChanged ? owners : this.#order) {
      const service = services.get(name);
      if (service === undefined) continue;
      const [slices, selected] = [this.#slices.get(name), selection.get(name)];
      const old = this.#pieces.get(name);
      if (
        old?.service === service &&
        old.place === place &&
        !isOn(moved, slices, selected) &&
        sameItems(old.slices, slices) &&
        sameItems(old.pods, selected)
      ) {
        continue;
      }
      const piece = makePiece(service, slices, selected, nodes, place);
      this.#pieces.set(name, piece);
      if (old === undefined || !sayTheSame(old, piece)) isChanged = true;
    }

    const pieces = this.#order.map((name) => this.#pieces.get(name)!);
    // Which frontends there are does not depend on their endpoints.
    let isReshaped = isElsewhere || (servicesChanged && isChanged);
    if (isReshaped || podsChanged) {
      const taken = takenAddresses(pieces, pods);
      if (!sameItems([...taken].flat(), [...this.#taken].flat())) isReshaped = true;
      this.#taken = taken;
    }
    if (this.#claims === null || isReshaped) {
      this.#claims = claimFrontends(pieces, place, nodes, this.#taken);
      isChanged = true;
    }
    if (this.#result === null || isChanged) {
      this.#generation += 1;
      this.#result = layOut(pieces, this.#claims, this.#generation);
    }
    return this.#result;
  }

  #sortedNames(services: ObjectSet['services']): readonly string[] {
    // Nearly sorted already: most are as they were.
    const names = this.#order.filter((name) => services.has(name));
    const known = new Set(names);
    for (const name of services.keys()) if (!known.has(name)) names.push(name);
    return names.sort((a, b) => (a < b ? -1 : 1));
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
  pieces: readonly Piece[],
  pods: ObjectSet['pods'],
): ReadonlyMap<IpAddress, string> {
  const claimed = new Set<IpAddress>();
  for (const { rows, portless } of pieces) {
    for (const { address, isNodePort } of rows) if (!isNodePort) claimed.add(address);
    for (const address of portless) claimed.add(address);
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
    const [a, b, c, d] = wordsOf(address);
    const mask = this.#slots.length - 1;
    let slot = hashOf(family === 0, a, b, c, d, family) & mask;
    for (; this.#slots[slot] !== -1; slot = (slot + 1) & mask) {
      const at = this.#slots[slot]! * ADDRESS_WORDS;
      if (this.#words[at + ADDRESS_FAMILY] === family && sameAddress(this.#words, at, a, b, c, d)) {
        return;
      }
    }
    const at = this.#count * ADDRESS_WORDS;
    this.#words.set([a, b, c, d], at);
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

const sameAddress = (
  words: Uint32Array,
  at: number,
  a: number,
  b: number,
  c: number,
  d: number,
): boolean => words[at] === a && words[at + 1] === b && words[at + 2] === c && words[at + 3] === d;

/** Who has which frontend, and what else does not depend on endpoints. */
interface Claims
  extends
    Pick<ServiceTable, 'frontendSlots' | 'addresses' | 'addressSlots' | 'networks'>,
    Pick<CompiledServices, 'steered' | 'problems'> {
  /** Those whose health is asked for, as places in the list of pieces. */
  readonly healthChecked: readonly number[];
}

function claimFrontends(
  pieces: readonly Piece[],
  place: Place,
  nodes: ObjectSet['nodes'],
  taken: ReadonlyMap<IpAddress, string>,
): Claims {
  let rowCount = 0;
  let otherCount = 0;
  for (const piece of pieces) {
    rowCount += piece.rows.length;
    otherCount += piece.leftAlone.length + piece.portless.length;
  }
  const nodesByAddress = new Map<IpAddress, string>();
  for (const address of place.nodeAddresses) nodesByAddress.set(address, `Node ${place.nodeName}`);
  for (const node of nodes.values()) {
    for (const address of node.addresses) nodesByAddress.set(address, describeObject(node));
  }
  const addressTable = new AddressTable(nodesByAddress.size + taken.size + otherCount + rowCount);
  for (const address of nodesByAddress.keys()) addressTable.add(address, MEANS_LEFT_ALONE);
  for (const address of taken.keys()) addressTable.add(address, MEANS_LEFT_ALONE);
  for (const { leftAlone } of pieces) {
    for (const address of leftAlone) addressTable.add(address, MEANS_LEFT_ALONE);
  }
  for (const { portless } of pieces) {
    for (const address of portless) addressTable.add(address, MEANS_SERVICE);
  }

  const frontends = new FrontendSlots(rowCount);
  const steered: SteeredFrontend[] = [];
  const problems: string[] = [];
  const healthChecked: number[] = [];
  const healthCheckPorts = new Set<number>();
  for (const [i, piece] of pieces.entries()) {
    const { service } = piece;
    const told = new Set<string>(piece.problems);
    for (const [row, claimed] of piece.rows.entries()) {
      const { address, isNodePort, isExternal, protocol, port } = claimed;
      const holder = isNodePort
        ? undefined
        : (taken.get(address) ?? (isExternal ? undefined : nodesByAddress.get(address)));
      const other = frontends.claim(piece, row, holder !== undefined);
      if (holder !== undefined) {
        told.add(
          `${describeObject(service)}: ${formatAddress(address)} is ${holder}'s; ` +
            `the Service is not served there`,
        );
        continue;
      }
      if (!isNodePort) addressTable.add(address, MEANS_SERVICE);
      if (other === null) {
        if (isExternal) steered.push({ protocol, address, port });
      } else if (other !== piece) {
        told.add(
          `${describeObject(service)}: ${formatRow(claimed)} is ` +
            `${describeObject(other.service)}'s already; it stays there`,
        );
      }
    }
    problems.push(...told);
    if (piece.healthCheck === null) continue;
    const { port } = piece.healthCheck;
    if (healthCheckPorts.has(port)) {
      problems.push(
        `${describeObject(service)}: health check node port ${port} is another Service's; ` +
          `load balancers are told nothing of this one`,
      );
    } else {
      healthCheckPorts.add(port);
      healthChecked.push(i);
    }
  }
  return {
    frontendSlots: frontends.slots,
    ...addressTable.finish(),
    networks: networkWords(place.serviceNetworks),
    steered,
    problems,
    healthChecked,
  };
}

/** Frontends by hash. Rows come in the order in which they will stand in the table. */
class FrontendSlots {
  readonly slots: Int32Array;
  readonly #owners: { readonly piece: Piece; readonly at: number }[] = [];

  constructor(count: number) {
    this.slots = slotsFor(count);
  }

  /**
   * @param isRefused  it is counted, and nobody gets it
   * @returns          whose it is already, or null: it was free
   */
  claim(piece: Piece, row: number, isRefused: boolean): Piece | null {
    const at = row * FRONTEND_WORDS;
    const own = this.#owners.push({ piece, at }) - 1;
    if (isRefused) return null;
    const words = piece.frontends;
    const key = words[at + FRONTEND_KEY]!;
    const [a, b, c, d] = [words[at]!, words[at + 1]!, words[at + 2]!, words[at + 3]!];
    const mask = this.slots.length - 1;
    let slot = hashOf((key & FAMILY6) === 0, a, b, c, d, key) & mask;
    for (; this.slots[slot] !== -1; slot = (slot + 1) & mask) {
      const other = this.#owners[this.slots[slot]!]!;
      if (
        other.piece.frontends[other.at + FRONTEND_KEY] === key &&
        sameAddress(other.piece.frontends, other.at, a, b, c, d)
      ) {
        return other.piece;
      }
    }
    this.slots[slot] = own;
    return null;
  }
}

const networkWords = (networks: readonly Cidr[]): Uint32Array =>
  Uint32Array.from(
    networks.flatMap((block) => [
      ...wordsOf(block.base),
      ...wordsOf(lastOf(block)),
      block.family === 4 ? 0 : FAMILY6,
    ]),
  );

function layOut(
  pieces: readonly Piece[],
  { frontendSlots, addresses, addressSlots, networks, ...claims }: Claims,
  generation: number,
): CompiledServices {
  const total = { frontends: 0, backends: 0, members: 0, sources: 0 };
  for (const piece of pieces) {
    total.frontends += piece.frontends.length;
    total.backends += piece.backends.length;
    total.members += piece.members.length;
    total.sources += piece.sources.length;
  }
  const frontends = new Uint32Array(total.frontends);
  const backends = new Uint32Array(total.backends);
  const members = new Uint32Array(total.members);
  const sources = new Uint32Array(total.sources);
  const at = { frontends: 0, backends: 0, members: 0, sources: 0 };
  for (const piece of pieces) {
    frontends.set(piece.frontends, at.frontends);
    backends.set(piece.backends, at.backends);
    members.set(piece.members, at.members);
    sources.set(piece.sources, at.sources);
    const end = at.frontends + piece.frontends.length;
    for (let index = at.frontends; index < end; index += FRONTEND_WORDS) {
      frontends[index + FRONTEND_BACKENDS]! += at.backends / BACKEND_WORDS;
      frontends[index + FRONTEND_INSIDE]! += at.members;
      frontends[index + FRONTEND_OUTSIDE]! += at.members;
      frontends[index + FRONTEND_SOURCES]! += at.sources / SOURCE_WORDS;
    }
    at.frontends = end;
    at.backends += piece.backends.length;
    at.members += piece.members.length;
    at.sources += piece.sources.length;
  }
  return {
    table: {
      generation,
      backends,
      frontends,
      members,
      sources,
      frontendSlots,
      addresses,
      addressSlots,
      networks,
    },
    steered: claims.steered,
    healthChecks: claims.healthChecked.map((i) => pieces[i]!.healthCheck!),
    problems: claims.problems,
  };
}

const PROTOCOL_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(PROTOCOL_NUMBERS).map(([name, number]) => [number, name]),
);

/** `10.96.0.1 port 80/TCP` */
const formatRow = ({ address, port, protocol }: Row): string =>
  `${formatAddress(address)} port ${port}/${PROTOCOL_NAMES.get(protocol)}`;
