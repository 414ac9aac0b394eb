/** Kubernetes objects for tests and benchmarks of Services: what is not said has Kubernetes' default. */
import {
  type Endpoint,
  type EndpointSlice,
  type Labels,
  type Node,
  type ObjectSet,
  type Pod,
  type Service,
  type ServicePort,
  type WeftObject,
  EMPTY_OBJECTS,
  nameOf,
} from '../../objects/types.ts';
import { parseAddress } from '../../wire/address.ts';

/** `namespace/name`; without a namespace `default`. */
function metadataOf(name: string, labels: Labels = {}) {
  const [last, namespace = 'default'] = name.split('/').toReversed();
  return { name: last!, namespace, labels, annotations: {} };
}

const addresses = (texts: readonly string[]) => texts.map((text) => parseAddress(text));

export const portOf = (port: number, rest: Partial<ServicePort> = {}): ServicePort => ({
  name: '',
  protocol: 'TCP',
  port,
  targetPort: port,
  nodePort: 0,
  ...rest,
});

/** One with a cluster IP each of `clusterIPs` and port 80/TCP. */
export const serviceOf = (
  name: string,
  clusterIPs: readonly string[],
  rest: Partial<Service> = {},
  labels: Labels = {},
): Service => ({
  kind: 'Service',
  metadata: metadataOf(name, labels),
  type: 'ClusterIP',
  clusterIPs: addresses(clusterIPs),
  headless: false,
  ports: [portOf(80)],
  selector: null,
  externalIPs: [],
  loadBalancerIPs: [],
  loadBalancerSourceRanges: [],
  sessionAffinity: 'None',
  affinityTimeoutS: 10_800,
  internalTrafficPolicy: 'Cluster',
  externalTrafficPolicy: 'Cluster',
  healthCheckNodePort: 0,
  trafficDistribution: '',
  publishNotReadyAddresses: false,
  ...rest,
});

export const endpointOf = (address: string, rest: Partial<Endpoint> = {}): Endpoint => ({
  addresses: [parseAddress(address)],
  ready: true,
  serving: true,
  terminating: false,
  nodeName: '',
  zone: '',
  hintsForZones: [],
  hintsForNodes: [],
  ...rest,
});

/** Of the Service `service`, all with port 8080/TCP; of the family of its first endpoint. */
export const sliceOf = (
  name: string,
  service: string,
  endpoints: readonly Endpoint[],
  ports: EndpointSlice['ports'] = [{ name: '', protocol: 'TCP', port: 8080 }],
): EndpointSlice => ({
  kind: 'EndpointSlice',
  metadata: metadataOf(name),
  addressType: typeof endpoints[0]?.addresses[0] === 'bigint' ? 'IPv6' : 'IPv4',
  serviceName: service,
  endpoints,
  ports,
});

export const podOf = (
  name: string,
  podIPs: readonly string[],
  labels: Labels,
  rest: Partial<Pod> = {},
): Pod => ({
  kind: 'Pod',
  metadata: metadataOf(name, labels),
  nodeName: 'n1',
  hostNetwork: false,
  ports: [],
  podIPs: addresses(podIPs),
  phase: 'Running',
  ready: true,
  terminating: false,
  ...rest,
});

export const nodeOf = (name: string, texts: readonly string[], zone = ''): Node => ({
  kind: 'Node',
  metadata: {
    name,
    namespace: '',
    labels: zone === '' ? {} : { 'topology.kubernetes.io/zone': zone },
    annotations: {},
  },
  addresses: addresses(texts),
  podCidrs: [],
});

const MAPS = {
  Namespace: 'namespaces',
  Pod: 'pods',
  Node: 'nodes',
  Service: 'services',
  EndpointSlice: 'endpointSlices',
  NetworkPolicy: 'networkPolicies',
  ClusterNetworkPolicy: 'clusterNetworkPolicies',
} as const;

/** Beside those that `before` has; of a kind that does not occur, the map is the same. */
export function objectsOf(
  objects: readonly WeftObject[],
  before: ObjectSet = EMPTY_OBJECTS,
): ObjectSet {
  const changed: Record<string, Map<string, WeftObject>> = {};
  for (const object of objects) {
    const kind = MAPS[object.kind];
    changed[kind] ??= new Map<string, WeftObject>(before[kind]);
    changed[kind].set(nameOf(object), object);
  }
  return { ...before, ...changed };
}
