/** Where flows to a Service may end: policies see endpoints, clients ask frontends. */
import { type ObjectSet, type Service, type ServicePort, nameOf } from '../objects/types.ts';
import { type End, type Flow, portNumber } from '../policy/reference.ts';
import { type IpAddress, familyOf } from '../wire/address.ts';
import type { ServiceName } from './names.ts';

/** One flow, or one for each endpoint of a Service. */
export interface Target {
  readonly end: End;
  readonly port: number | string;
}

/** The ready endpoints; or why there are none. */
export function endpointsOf(
  objects: ObjectSet,
  service: Service,
  protocol: Flow['protocol'],
  port: number | string,
): readonly Target[] | string {
  const servicePort = service.ports.find(
    (it) => it.protocol === protocol && (it.port === port || it.name === port),
  );
  if (servicePort === undefined) return `has no ${protocol} port ${port}: it is rejected`;
  const targets = slicesOf(objects, service, servicePort) ?? podsOf(objects, service, servicePort);
  return targets.length === 0 ? 'has no ready endpoint: it is rejected' : targets;
}

/** Null: there are no slices. */
function slicesOf(
  objects: ObjectSet,
  { metadata }: Service,
  { name, protocol }: ServicePort,
): readonly Target[] | null {
  const slices = [...objects.endpointSlices.values()].filter(
    (it) => it.serviceName === metadata.name && it.metadata.namespace === metadata.namespace,
  );
  if (slices.length === 0) return null;
  return slices.flatMap(({ endpoints, ports }) => {
    const found = ports.find((it) => it.name === name && it.protocol === protocol);
    if (found === undefined) return [];
    return endpoints
      .filter(({ ready }) => ready)
      .map(({ addresses }) => ({ end: addresses[0]!, port: found.port }));
  });
}

function podsOf(
  objects: ObjectSet,
  service: Service,
  { protocol, targetPort }: ServicePort,
): readonly Target[] {
  const { selector, metadata } = service;
  if (selector === null) return [];
  const wanted = Object.entries(selector);
  return [...objects.pods.values()]
    .filter(
      (pod) =>
        pod.metadata.namespace === metadata.namespace &&
        pod.podIPs.length > 0 &&
        (pod.ready || service.publishNotReadyAddresses) &&
        !pod.terminating &&
        pod.phase !== 'Succeeded' &&
        pod.phase !== 'Failed' &&
        wanted.every(
          ([key, value]) =>
            Object.hasOwn(pod.metadata.labels, key) && pod.metadata.labels[key] === value,
        ),
    )
    .map((pod) => ({
      end: nameOf(pod),
      port: portNumber(objects, nameOf(pod), protocol, targetPort),
    }))
    .filter(({ port }) => port !== 0);
}

interface Asked {
  readonly source: IpAddress;
  readonly destination: IpAddress;
  readonly protocol: Flow['protocol'];
  readonly port: number;
  /** The destination is a frontend: no endpoint was chosen. */
  readonly isFrontend: boolean;
}

/** The flow's destination; of a frontend, all endpoints that have an address of its family. */
export function endsOf(
  objects: ObjectSet,
  { source, destination, protocol, port, isFrontend }: Asked,
  named: ServiceName | null,
): readonly { readonly to: IpAddress; readonly port: number | string }[] {
  if (!isFrontend || named === null) return [{ to: destination, port }];
  const service = objects.services.get(`${named.namespace}/${named.name}`);
  const asked = service?.ports.find(
    (it) => it.protocol === protocol && (it.name === named.port || `${it.port}` === named.port),
  );
  if (service === undefined || asked === undefined) return [];
  const endpoints = endpointsOf(objects, service, protocol, asked.port);
  if (typeof endpoints === 'string') return [];
  return endpoints.flatMap((it) => {
    const addresses =
      typeof it.end === 'string' ? (objects.pods.get(it.end)?.podIPs ?? []) : [it.end];
    const to = addresses.find((address) => familyOf(address) === familyOf(source));
    return to === undefined ? [] : [{ to, port: it.port }];
  });
}
