/**
 * Who stands behind a Service's port: from its EndpointSlices, or, where a Service with a selector has
 * none, from the pods that it selects, for a bare-metal cluster has no controller that would list them.
 */
import type {
  Endpoint,
  EndpointSlice,
  ObjectSet,
  Pod,
  Protocol,
  Service,
  ServicePort,
} from '../objects/types.ts';
import { type Family, type IpAddress, familyOf } from '../wire/address.ts';

/** One address and port that may serve. */
export interface ServiceEndpoint extends Omit<Endpoint, 'addresses'> {
  readonly address: IpAddress;
  /** 1..65535 */
  readonly port: number;
}

/** A Service's slices, by `namespace/name` of the Service. */
export function slicesByService(
  slices: Iterable<EndpointSlice>,
): ReadonlyMap<string, readonly EndpointSlice[]> {
  const by = new Map<string, EndpointSlice[]>();
  for (const slice of slices) {
    if (slice.serviceName === '') continue;
    const key = `${slice.metadata.namespace}/${slice.serviceName}`;
    const list = by.get(key);
    if (list === undefined) by.set(key, [slice]);
    else list.push(slice);
  }
  return by;
}

/** Pods that may be endpoints, by namespace. */
export function podsByNamespace(pods: Iterable<Pod>): ReadonlyMap<string, readonly Pod[]> {
  const by = new Map<string, Pod[]>();
  for (const pod of pods) {
    if (pod.phase === 'Succeeded' || pod.phase === 'Failed' || pod.podIPs.length === 0) continue;
    const list = by.get(pod.metadata.namespace);
    if (list === undefined) by.set(pod.metadata.namespace, [pod]);
    else list.push(pod);
  }
  return by;
}

/** @param family of the frontend; an address translator has both ends of one */
export function endpointsOf(
  service: Service,
  port: ServicePort,
  family: Family,
  slices: readonly EndpointSlice[],
  pods: readonly Pod[],
  objects: ObjectSet,
): readonly ServiceEndpoint[] {
  if (slices.length === 0 && service.selector !== null) {
    return pods.flatMap((pod) => endpointOfPod(service, port, family, pod, objects));
  }
  const byAddress = new Map<string, ServiceEndpoint>();
  for (const slice of slices) {
    if ((slice.addressType === 'IPv4' ? 4 : 6) !== family) continue;
    for (const { name, protocol, port: number } of slice.ports) {
      if (name !== port.name || protocol !== port.protocol || number === 0) continue;
      for (const { addresses, ...endpoint } of slice.endpoints) {
        // All addresses of one entry are fungible: the first stands for it.
        const [address] = addresses;
        if (address === undefined) continue;
        byAddress.set(`${address} ${number}`, { ...endpoint, address, port: number });
      }
    }
  }
  return [...byAddress.values()];
}

function endpointOfPod(
  service: Service,
  { targetPort, protocol }: ServicePort,
  family: Family,
  pod: Pod,
  objects: ObjectSet,
): readonly ServiceEndpoint[] {
  const { labels } = pod.metadata;
  for (const [key, value] of Object.entries(service.selector!)) {
    if (!Object.hasOwn(labels, key) || labels[key] !== value) return [];
  }
  const port = typeof targetPort === 'number' ? targetPort : namedPort(pod, targetPort, protocol);
  const address = pod.podIPs.find((it) => familyOf(it) === family);
  if (port === null || address === undefined) return [];
  const node = objects.nodes.get(`/${pod.nodeName}`);
  return [
    {
      address,
      port,
      ready: service.publishNotReadyAddresses || (pod.ready && !pod.terminating),
      serving: pod.ready,
      terminating: pod.terminating,
      nodeName: pod.nodeName,
      zone: node?.metadata.labels['topology.kubernetes.io/zone'] ?? '',
      hintsForZones: [],
      hintsForNodes: [],
    },
  ];
}

const namedPort = (pod: Pod, name: string, protocol: Protocol): number | null =>
  pod.ports.find((it) => it.name === name && it.protocol === protocol)?.containerPort ?? null;
