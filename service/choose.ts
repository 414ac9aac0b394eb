/**
 * Which of a Service's endpoints a node may send new flows to. Pure; the packet path only picks among them.
 * @see Kubernetes: "Virtual IPs and Service Proxies", "Topology Aware Routing", KEP-1669 (terminating)
 */
import type { Service } from '../objects/types.ts';
import type { ServiceEndpoint } from './endpoints.ts';

export interface NodePlace {
  readonly nodeName: string;
  /** Label topology.kubernetes.io/zone of the Node; '' if it has none. */
  readonly zone: string;
}

/** The ready ones; if there is none, those that still serve while they end. */
export function usable(endpoints: readonly ServiceEndpoint[]): readonly ServiceEndpoint[] {
  const ready = endpoints.filter((it) => it.ready);
  return ready.length > 0 ? ready : endpoints.filter((it) => it.serving && it.terminating);
}

const localTo = (
  endpoints: readonly ServiceEndpoint[],
  { nodeName }: NodePlace,
): readonly ServiceEndpoint[] => endpoints.filter((it) => it.nodeName === nodeName);

/** Those that topology prefers; all, where that would be nobody. */
function near(
  { trafficDistribution }: Service,
  endpoints: readonly ServiceEndpoint[],
  place: NodePlace,
): readonly ServiceEndpoint[] {
  const narrow = (isNear: (it: ServiceEndpoint) => boolean): readonly ServiceEndpoint[] | null => {
    const some = endpoints.filter(isNear);
    return some.length > 0 ? some : null;
  };
  // Hints count only where every endpoint has them.
  const haveNodes = endpoints.every((it) => it.hintsForNodes.length > 0);
  const haveZones = endpoints.every((it) => it.hintsForZones.length > 0);
  const { nodeName, zone } = place;
  const byNode = haveNodes ? narrow((it) => it.hintsForNodes.includes(nodeName)) : null;
  const byZone = haveZones && zone !== '' ? narrow((it) => it.hintsForZones.includes(zone)) : null;
  const hinted = byNode ?? byZone;
  if (hinted !== null) return hinted;
  const ownNode =
    trafficDistribution === 'PreferSameNode' ? narrow((it) => it.nodeName === nodeName) : null;
  const ownZone =
    trafficDistribution !== '' && zone !== '' ? narrow((it) => it.zone === zone) : null;
  return ownNode ?? ownZone ?? endpoints;
}

/** What a frontend has: where to send, and whether there would be others elsewhere. */
export interface Choice {
  readonly endpoints: readonly ServiceEndpoint[];
  /** Nobody here, somebody elsewhere: what comes is dropped and not refused. */
  readonly isElsewhere: boolean;
}

export function choose(
  service: Service,
  endpoints: readonly ServiceEndpoint[],
  place: NodePlace,
  policy: 'Cluster' | 'Local',
): Choice {
  const all = usable(endpoints);
  if (policy === 'Cluster') {
    return { endpoints: all.length === 0 ? all : near(service, all, place), isElsewhere: false };
  }
  const local = usable(localTo(endpoints, place));
  return { endpoints: local, isElsewhere: local.length === 0 && all.length > 0 };
}
