/**
 * Which endpoints a Service has: those that EndpointSlices list, or, where there is no controller that
 * writes any, those that its selector finds among the pods.
 */
import {
  type EndpointSlice,
  type Node,
  type ObjectSet,
  type Pod,
  type Service,
  type ServicePort,
  nameOf,
} from '../objects/types.ts';
import { type Family, type IpAddress, familyOf } from '../wire/address.ts';

const ZONE_LABEL = 'topology.kubernetes.io/zone';

export interface ServiceEndpoint {
  readonly address: IpAddress;
  readonly port: number;
  /** Takes new connections. */
  readonly ready: boolean;
  /** Answers, whether or not it is about to end. */
  readonly serving: boolean;
  readonly terminating: boolean;
  /** '' when nobody says. */
  readonly nodeName: string;
  readonly zone: string;
  readonly hintsForZones: readonly string[];
  readonly hintsForNodes: readonly string[];
}

/** The endpoints of one port of a Service, of one family: in no order, no address and port twice. */
export interface PortEndpoints {
  readonly port: ServicePort;
  readonly family: Family;
  readonly endpoints: readonly ServiceEndpoint[];
}

export const zoneOf = (node: Node | undefined): string => node?.metadata.labels[ZONE_LABEL] ?? '';

/** By `nameOf` of the Service; in the order of the slices' names, whatever order they are known in. */
export type SlicesByService = ReadonlyMap<string, readonly EndpointSlice[]>;
/** For each Service that has a selector and no slices: the pods that it selects. */
export type PodsByService = ReadonlyMap<string, readonly Pod[]>;

const ownerOf = ({ metadata, serviceName }: EndpointSlice): string =>
  `${metadata.namespace}/${serviceName}`;

const byName = (a: EndpointSlice, b: EndpointSlice): number =>
  a.metadata.name < b.metadata.name ? -1 : 1;

/**
 * Brings `found`, which tells of `before`, to what there is `now`.
 * @returns  the Services whose slices are others than before
 */
export function updateSlices(
  found: Map<string, readonly EndpointSlice[]>,
  before: ObjectSet['endpointSlices'],
  now: ObjectSet['endpointSlices'],
): ReadonlySet<string> {
  const owners = new Set<string>();
  if (before === now) return owners;
  const added: EndpointSlice[] = [];
  for (const [name, slice] of now) {
    const old = before.get(name);
    if (old === slice) continue;
    added.push(slice);
    if (old !== undefined) owners.add(ownerOf(old));
  }
  for (const [name, slice] of before) if (!now.has(name)) owners.add(ownerOf(slice));
  for (const owner of owners) {
    const kept = found.get(owner)?.filter((slice) => now.get(nameOf(slice)) === slice) ?? [];
    if (kept.length === 0) found.delete(owner);
    else found.set(owner, kept);
  }
  for (const slice of added) {
    if (slice.serviceName === '') continue;
    const owner = ownerOf(slice);
    owners.add(owner);
    found.set(owner, [...(found.get(owner) ?? []), slice].sort(byName));
  }
  return owners;
}

const hasTraffic = ({ phase }: Pod): boolean => phase !== 'Succeeded' && phase !== 'Failed';

interface Selecting {
  readonly name: string;
  readonly selector: readonly (readonly [label: string, value: string])[];
}

/** An empty selector selects nobody: so Kubernetes has it for Services. */
const selectorOf = (service: Service | undefined): Selecting['selector'] =>
  Object.entries(service?.selector ?? {});

const byPodName = (a: Pod, b: Pod): number => (a.metadata.name < b.metadata.name ? -1 : 1);

/** Which pods each Service selects, as far as nobody lists its endpoints. */
export class PodSelection {
  /** By namespace, label and value: each waits under one of its labels, so that few are looked at. */
  readonly #selecting = new Map<string, Map<string, Map<string, Selecting[]>>>();
  readonly #found = new Map<string, readonly Pod[]>();
  #services: ObjectSet['services'] = new Map();
  #pods: ObjectSet['pods'] = new Map();

  /** @param owners  Services whose slices are others than at the last call */
  update(
    { services, pods }: Pick<ObjectSet, 'services' | 'pods'>,
    slices: SlicesByService,
    owners: ReadonlySet<string>,
  ): PodsByService {
    const selects = (name: string): boolean =>
      !slices.has(name) && selectorOf(services.get(name)).length > 0;
    if (
      services !== this.#services ||
      [...owners].some((name) => selects(name) !== this.#found.has(name))
    ) {
      this.#selecting.clear();
      this.#found.clear();
      this.#pods = new Map();
      for (const [name, service] of services) {
        if (selects(name)) this.#add(name, service.metadata.namespace, selectorOf(service));
      }
    }
    this.#services = services;
    if (pods !== this.#pods && this.#found.size > 0) this.#take(this.#pods, pods);
    this.#pods = pods;
    return this.#found;
  }

  #add(name: string, namespace: string, selector: Selecting['selector']): void {
    const [label, value] = selector[0]!;
    const labels = getOrAdd(
      this.#selecting,
      namespace,
      () => new Map<string, Map<string, Selecting[]>>(),
    );
    const values = getOrAdd(labels, label, () => new Map<string, Selecting[]>());
    getOrAdd(values, value, () => []).push({ name, selector });
    this.#found.set(name, []);
  }

  #take(before: ObjectSet['pods'], now: ObjectSet['pods']): void {
    const gone = new Set<Pod>();
    const changed = new Set<string>();
    const added = new Map<string, Pod[]>();
    for (const [name, pod] of now) {
      const old = before.get(name);
      if (old === pod) continue;
      if (old !== undefined) gone.add(old);
      for (const service of this.#selectorsOf(pod)) getOrAdd(added, service, () => []).push(pod);
    }
    for (const [name, pod] of before) if (!now.has(name)) gone.add(pod);
    for (const pod of gone) for (const service of this.#selectorsOf(pod)) changed.add(service);
    for (const service of changed.union(new Set(added.keys()))) {
      const kept = this.#found.get(service)!.filter((pod) => !gone.has(pod));
      this.#found.set(service, [...kept, ...(added.get(service) ?? [])].sort(byPodName));
    }
  }

  /** The names of those that select it. */
  #selectorsOf(pod: Pod): readonly string[] {
    const names: string[] = [];
    const { namespace, labels } = pod.metadata;
    const byLabel = this.#selecting.get(namespace);
    if (byLabel === undefined || !hasTraffic(pod)) return names;
    for (const label in labels) {
      if (!Object.hasOwn(labels, label)) continue;
      for (const { name, selector } of byLabel.get(label)?.get(labels[label]!) ?? []) {
        if (selector.every(([key, value]) => labels[key] === value)) names.push(name);
      }
    }
    return names;
  }
}

function getOrAdd<K, V>(map: Map<K, V>, key: K, create: () => V): V {
  let value = map.get(key);
  if (value === undefined) map.set(key, (value = create()));
  return value;
}

/** Chosen, chosen if nobody else is, never. */
const rankOf = ({ ready, serving, terminating }: ServiceEndpoint): number =>
  ready ? 2 : serving && terminating ? 1 : 0;

/** What is listed twice counts as the better of the two; of equal ones the first. */
function withoutDuplicates(endpoints: readonly ServiceEndpoint[]): readonly ServiceEndpoint[] {
  const byPort = new Map<number, Map<IpAddress, ServiceEndpoint>>();
  for (const endpoint of endpoints) {
    let some = byPort.get(endpoint.port);
    if (some === undefined) byPort.set(endpoint.port, (some = new Map()));
    const other = some.get(endpoint.address);
    if (other === undefined || rankOf(endpoint) > rankOf(other)) {
      some.set(endpoint.address, endpoint);
    }
  }
  return [...byPort.values()].flatMap((some) => [...some.values()]);
}

function fromSlices(
  port: ServicePort,
  family: Family,
  slices: readonly EndpointSlice[],
  nodes: ObjectSet['nodes'],
): readonly ServiceEndpoint[] {
  const found: ServiceEndpoint[] = [];
  for (const slice of slices) {
    if ((slice.addressType === 'IPv4' ? 4 : 6) !== family) continue;
    for (const listed of slice.ports) {
      if (listed.name !== port.name || listed.protocol !== port.protocol || listed.port === 0) {
        continue;
      }
      for (const endpoint of slice.endpoints) {
        const { ready, serving, terminating, nodeName, hintsForZones, hintsForNodes } = endpoint;
        const zone = endpoint.zone === '' ? zoneOf(nodes.get(`/${nodeName}`)) : endpoint.zone;
        for (const address of endpoint.addresses) {
          if (familyOf(address) !== family) continue;
          found.push({
            address,
            port: listed.port,
            ready,
            serving,
            terminating,
            nodeName,
            zone,
            hintsForZones,
            hintsForNodes,
          });
        }
      }
    }
  }
  return withoutDuplicates(found);
}

/** 0 when the pod has no container port of this name and protocol. */
const targetPortOf = (pod: Pod, { targetPort, protocol }: ServicePort): number =>
  typeof targetPort === 'number'
    ? targetPort
    : (pod.ports.find((it) => it.name === targetPort && it.protocol === protocol)?.containerPort ??
      0);

/** One that uses its node's network may not have been told its address yet: it is the node's. */
const addressesOf = (pod: Pod, node: Node | undefined): readonly IpAddress[] =>
  pod.hostNetwork && pod.podIPs.length === 0 ? (node?.addresses ?? []) : pod.podIPs;

function fromPods(
  port: ServicePort,
  family: Family,
  { publishNotReadyAddresses }: Service,
  pods: readonly Pod[],
  nodes: ObjectSet['nodes'],
): readonly ServiceEndpoint[] {
  const found: ServiceEndpoint[] = [];
  for (const pod of pods) {
    const { nodeName, ready, terminating } = pod;
    const node = nodes.get(`/${nodeName}`);
    const address = addressesOf(pod, node).find((it) => familyOf(it) === family);
    const number = targetPortOf(pod, port);
    if (address === undefined || number === 0) continue;
    found.push({
      address,
      port: number,
      ready: publishNotReadyAddresses || (ready && !terminating),
      serving: ready,
      terminating,
      nodeName,
      zone: zoneOf(node),
      hintsForZones: [],
      hintsForNodes: [],
    });
  }
  return withoutDuplicates(found);
}

/** The families that a Service has: those of its cluster IPs; of a headless one both. */
export function familiesOf({ clusterIPs }: Service): readonly Family[] {
  const all: readonly Family[] = [4, 6];
  return clusterIPs.length === 0
    ? all
    : all.filter((family) => clusterIPs.some((address) => familyOf(address) === family));
}

/** @param slices  undefined: there are none, and `pods` is what its selector finds */
export function resolveEndpoints(
  service: Service,
  slices: readonly EndpointSlice[] | undefined,
  pods: readonly Pod[] | undefined,
  nodes: ObjectSet['nodes'],
): readonly PortEndpoints[] {
  return service.ports.flatMap((port) =>
    familiesOf(service).map((family) => ({
      port,
      family,
      endpoints:
        slices === undefined
          ? fromPods(port, family, service, pods ?? [], nodes)
          : fromSlices(port, family, slices, nodes),
    })),
  );
}

/** By `nameOf` of the Service. */
export function endpointsOf(objects: ObjectSet): ReadonlyMap<string, readonly PortEndpoints[]> {
  const slices = new Map<string, readonly EndpointSlice[]>();
  updateSlices(slices, new Map(), objects.endpointSlices);
  const pods = new PodSelection().update(objects, slices, new Set());
  return new Map(
    [...objects.services.values()].map((service) => {
      const name = nameOf(service);
      const found = resolveEndpoints(service, slices.get(name), pods.get(name), objects.nodes);
      return [name, found];
    }),
  );
}
