/**
 * The slow twin of compile.ts and table.ts: what may happen to a new connection, asked of the objects
 * each time. Shares no code with them, so that a slip of one is not one of both.
 */
import type { Endpoint, ObjectSet, Pod, Service, ServicePort } from '../objects/types.ts';
import { type IpAddress, familyOf } from '../wire/address.ts';
import { cidrContains } from '../wire/cidr.ts';
import type { ServiceInputs } from './compile.ts';

export interface Connection {
  readonly source: IpAddress;
  /** The source is a pod or a node. */
  readonly isInside: boolean;
  readonly address: IpAddress;
  readonly protocol: 'TCP' | 'UDP' | 'SCTP';
  readonly port: number;
}

export interface Target {
  readonly address: IpAddress;
  readonly port: number;
}

export type Outcome =
  | 'no frontend'
  | 'unused port'
  | 'unallocated'
  | 'source refused'
  | 'no endpoint'
  | 'not local'
  /** One of these. */
  | readonly Target[];

type Way = 'cluster' | 'load balancer' | 'external' | 'node port';

interface Candidate extends Target {
  readonly ready: boolean;
  readonly ending: boolean;
  readonly nodeName: string;
  readonly zone: string;
  readonly hintsForZones: readonly string[];
  readonly hintsForNodes: readonly string[];
}

const zoneLabelOf = (objects: ObjectSet, nodeName: string): string =>
  objects.nodes.get(`/${nodeName}`)?.metadata.labels['topology.kubernetes.io/zone'] ?? '';

const isServed = (service: Service): boolean =>
  !service.headless &&
  service.type !== 'ExternalName' &&
  !('service.kubernetes.io/service-proxy-name' in service.metadata.labels);

function podOf(objects: ObjectSet, address: IpAddress): Pod | undefined {
  return [...objects.pods.values()].find(
    (pod) =>
      !pod.hostNetwork &&
      pod.phase !== 'Succeeded' &&
      pod.phase !== 'Failed' &&
      pod.podIPs.includes(address),
  );
}

const isNode = ({ objects, nodeAddresses }: ServiceInputs, address: IpAddress): boolean =>
  nodeAddresses.includes(address) ||
  [...objects.nodes.values()].some((node) => node.addresses.includes(address));

/** The ways in which a Service answers at an address. */
function waysOf(
  inputs: ServiceInputs,
  service: Service,
  address: IpAddress,
  isPod: boolean,
): readonly Way[] {
  const { serviceNetworks, externalIpBlocks, nodeAddresses } = inputs;
  const family = familyOf(address);
  if (!isServed(service) || !service.clusterIPs.some((it) => familyOf(it) === family)) return [];
  const ways: Way[] = [];
  const within = serviceNetworks.some((block) => cidrContains(block, address));
  if (
    service.clusterIPs.includes(address) &&
    (serviceNetworks.length === 0 || within) &&
    !isPod &&
    !isNode(inputs, address)
  ) {
    ways.push('cluster');
  }
  if (service.type === 'LoadBalancer' && service.loadBalancerIPs.includes(address) && !isPod) {
    ways.push('load balancer');
  }
  if (
    service.externalIPs.includes(address) &&
    externalIpBlocks.some((block) => cidrContains(block, address)) &&
    !isPod
  ) {
    ways.push('external');
  }
  if (
    (service.type === 'LoadBalancer' || service.type === 'NodePort') &&
    nodeAddresses.includes(address)
  ) {
    ways.push('node port');
  }
  return ways;
}

function candidatesOf(
  objects: ObjectSet,
  service: Service,
  port: ServicePort,
  family: 4 | 6,
): readonly Candidate[] {
  const { namespace, name } = service.metadata;
  const slices = [...objects.endpointSlices.values()]
    .filter((it) => it.metadata.namespace === namespace && it.serviceName === name)
    .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  const listed: { endpoint: Endpoint; port: number }[] = [];
  for (const slice of slices) {
    for (const it of slice.ports) {
      if (it.name !== port.name || it.protocol !== port.protocol || it.port === 0) continue;
      for (const endpoint of slice.endpoints) listed.push({ endpoint, port: it.port });
    }
  }
  const { selector } = service;
  if (slices.length === 0 && selector !== null && Object.keys(selector).length > 0) {
    // Of two that have one address the first by name counts, however they came to be known.
    const pods = [...objects.pods.values()].sort((x, y) =>
      x.metadata.name < y.metadata.name ? -1 : 1,
    );
    for (const pod of pods) {
      if (pod.metadata.namespace !== namespace) continue;
      if (pod.phase === 'Succeeded' || pod.phase === 'Failed') continue;
      if (Object.keys(selector).some((key) => pod.metadata.labels[key] !== selector[key])) continue;
      const number =
        typeof port.targetPort === 'number'
          ? port.targetPort
          : pod.ports.find((it) => it.name === port.targetPort && it.protocol === port.protocol)
              ?.containerPort;
      if (number === undefined) continue;
      listed.push({
        port: number,
        endpoint: {
          addresses:
            pod.hostNetwork && pod.podIPs.length === 0
              ? (objects.nodes.get(`/${pod.nodeName}`)?.addresses ?? [])
              : pod.podIPs,
          ready: service.publishNotReadyAddresses || (pod.ready && !pod.terminating),
          serving: pod.ready,
          terminating: pod.terminating,
          nodeName: pod.nodeName,
          zone: '',
          hintsForZones: [],
          hintsForNodes: [],
        },
      });
    }
  }
  const found: Candidate[] = [];
  for (const { endpoint, port } of listed) {
    for (const address of endpoint.addresses) {
      if (familyOf(address) !== family) continue;
      const candidate = {
        address,
        port,
        ready: endpoint.ready,
        ending: endpoint.serving && endpoint.terminating,
        nodeName: endpoint.nodeName,
        zone: endpoint.zone || zoneLabelOf(objects, endpoint.nodeName),
        hintsForZones: endpoint.hintsForZones,
        hintsForNodes: endpoint.hintsForNodes,
      };
      const i = found.findIndex((it) => it.address === address && it.port === port);
      const other = found[i];
      if (other === undefined) found.push(candidate);
      else if (!other.ready && (candidate.ready || (candidate.ending && !other.ending))) {
        found[i] = candidate;
      }
    }
  }
  return found;
}

/** @returns what pick may choose of `candidates`; empty where it may choose none */
function chosenOf(
  { objects, nodeName }: ServiceInputs,
  { trafficDistribution }: Service,
  candidates: readonly Candidate[],
  isLocal: boolean,
): readonly Candidate[] {
  const within = isLocal ? candidates.filter((it) => it.nodeName === nodeName) : candidates;
  const ready = within.filter((it) => it.ready);
  if (ready.length === 0) return within.filter((it) => it.ending);
  if (isLocal) return ready;
  const zone = zoneLabelOf(objects, nodeName);
  const preferences: readonly (readonly Candidate[])[] = [
    ready.every((it) => it.hintsForNodes.length > 0)
      ? ready.filter((it) => it.hintsForNodes.includes(nodeName))
      : [],
    ready.every((it) => it.hintsForZones.length > 0)
      ? ready.filter((it) => zone !== '' && it.hintsForZones.includes(zone))
      : [],
    trafficDistribution === 'PreferSameNode' ? ready.filter((it) => it.nodeName === nodeName) : [],
    trafficDistribution === '' ? [] : ready.filter((it) => zone !== '' && it.zone === zone),
  ];
  return preferences.find((some) => some.length > 0) ?? ready;
}

export function referenceBackends(inputs: ServiceInputs, connection: Connection): Outcome {
  const { objects } = inputs;
  const { source, isInside, address, protocol } = connection;
  const services = [...objects.services.entries()]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([, service]) => service);
  const isPod = podOf(objects, address) !== undefined;
  for (const service of services) {
    // Of two ports that meet at one address, as a load balancer's and a node port, the first listed has it.
    const ways = waysOf(inputs, service, address, isPod);
    const meant = service.ports
      .filter((it) => it.protocol === protocol)
      .flatMap((port) => ways.map((way) => ({ port, way })))
      .find(
        ({ port, way }) =>
          (way === 'node port' ? port.nodePort || null : port.port) === connection.port,
      );
    if (meant !== undefined) {
      const { port, way } = meant;
      const ranges = service.loadBalancerSourceRanges;
      if (
        way === 'load balancer' &&
        !isInside &&
        ranges.length > 0 &&
        !ranges.some((range) => cidrContains(range, source))
      ) {
        return 'source refused';
      }
      const candidates = candidatesOf(objects, service, port, familyOf(address));
      const policy =
        way === 'cluster' ? service.internalTrafficPolicy : service.externalTrafficPolicy;
      const isLocal = policy === 'Local' && (way === 'cluster' || !isInside);
      const chosen = chosenOf(inputs, service, candidates, isLocal);
      if (chosen.length > 0) return chosen.map(({ address, port }) => ({ address, port }));
      return chosenOf(inputs, service, candidates, false).length > 0 ? 'not local' : 'no endpoint';
    }
  }
  const isClaimed = services.some((service) =>
    waysOf(inputs, service, address, false).some((way) => way !== 'node port'),
  );
  const isLeftAlone =
    isNode(inputs, address) ||
    (isPod && isClaimed) ||
    services.some((it) => !isServed(it) && it.clusterIPs.includes(address));
  if (isLeftAlone) return 'no frontend';
  if (isClaimed) return 'unused port';
  return inputs.serviceNetworks.some((block) => cidrContains(block, address))
    ? 'unallocated'
    : 'no frontend';
}
