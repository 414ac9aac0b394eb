/** Whose an address is: the objects of one moment, looked up by address. */
import {
  EMPTY_OBJECTS,
  type ObjectSet,
  type Pod,
  type Protocol,
  type Service,
} from '../objects/types.ts';
import { type IpAddress, formatAddress } from '../wire/address.ts';
import { type Cidr, cidrContains } from '../wire/cidr.ts';

/** A node and what of the overlay is its own. */
export interface NamedNode {
  readonly name: string;
  /** Underlay addresses, and `.0` of its subnets. */
  readonly addresses: readonly IpAddress[];
  readonly subnets: readonly Cidr[];
}

export interface ServiceName {
  readonly namespace: string;
  readonly name: string;
  /** The port's name, or its number. */
  readonly port: string;
}

export interface Names {
  readonly pod: (address: IpAddress) => Pod | null;
  /** The node whose own address this is. */
  readonly node: (address: IpAddress) => string | null;
  /** The node that leases the address. */
  readonly nodeOf: (address: IpAddress) => string | null;
  readonly service: (
    protocol: Protocol | null,
    address: IpAddress,
    port: number,
  ) => ServiceName | null;
}

const hasTraffic = ({ phase, hostNetwork }: Pod): boolean =>
  !hostNetwork && phase !== 'Succeeded' && phase !== 'Failed';

function podsByAddress(pods: Iterable<Pod>): ReadonlyMap<IpAddress, Pod> {
  const found = new Map<IpAddress, Pod>();
  for (const pod of pods) {
    if (hasTraffic(pod)) for (const it of pod.podIPs) found.set(it, pod);
  }
  return found;
}

const frontendKey = (protocol: Protocol, address: IpAddress | '', port: number): string =>
  `${protocol} ${address === '' ? '' : formatAddress(address)} ${port}`;

function servicesByFrontend(services: Iterable<Service>): ReadonlyMap<string, ServiceName> {
  const found = new Map<string, ServiceName>();
  for (const { metadata, clusterIPs, externalIPs, loadBalancerIPs, ports } of services) {
    for (const { protocol, port, name, nodePort } of ports) {
      const named = {
        namespace: metadata.namespace,
        name: metadata.name,
        port: name === '' ? String(port) : name,
      };
      for (const it of [...clusterIPs, ...externalIPs, ...loadBalancerIPs]) {
        found.set(frontendKey(protocol, it, port), named);
      }
      // On every node's address.
      if (nodePort !== 0) found.set(frontendKey(protocol, '', nodePort), named);
    }
  }
  return found;
}

/** The maps of a set that did not change are not made again. */
const podMaps = new WeakMap<ObjectSet['pods'], ReadonlyMap<IpAddress, Pod>>();
const serviceMaps = new WeakMap<ObjectSet['services'], ReadonlyMap<string, ServiceName>>();

/** A Map or a WeakMap. */
interface Known<K, V> {
  readonly get: (key: K) => V | undefined;
  readonly set: (key: K, value: V) => unknown;
}

/** What is known of `key`, made when it is asked for at first. */
export function remembered<K, V>(known: Known<K, V>, key: K, make: () => V): V {
  let value = known.get(key);
  if (value === undefined) {
    value = make();
    known.set(key, value);
  }
  return value;
}

/** @param objects  null: none are known */
export function createNames(objects: ObjectSet | null, nodes: readonly NamedNode[]): Names {
  const { pods: allPods, services: allServices } = objects ?? EMPTY_OBJECTS;
  const pods = remembered(podMaps, allPods, () => podsByAddress(allPods.values()));
  const services = remembered(serviceMaps, allServices, () =>
    servicesByFrontend(allServices.values()),
  );
  const owners = new Map<IpAddress, string>();
  for (const { name, addresses } of nodes) for (const it of addresses) owners.set(it, name);
  return {
    pod: (address) => pods.get(address) ?? null,
    node: (address) => owners.get(address) ?? null,
    nodeOf: (address) =>
      nodes.find(({ subnets }) => subnets.some((it) => cidrContains(it, address)))?.name ?? null,
    service: (protocol, address, port) =>
      protocol === null
        ? null
        : (services.get(frontendKey(protocol, address, port)) ??
          services.get(frontendKey(protocol, '', port)) ??
          null),
  };
}
