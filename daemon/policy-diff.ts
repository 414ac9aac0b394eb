/**
 * What if: which flows that were seen would be let through, or denied, with other policies. Each flow is
 * asked of both sets in both directions, its node's and the other's, after its Service's translation.
 */
import { withKind } from '../objects/set.ts';
import { type ObjectSet, type WeftObject, nameOf } from '../objects/types.ts';
import type { Flow, Surroundings, Verdict } from '../policy/reference.ts';
import { type IpAddress, formatAddress } from '../wire/address.ts';
import type { FlowMessage, PolicyChangeMessage } from './messages.ts';
import { endsOf } from './endpoints.ts';
import { PolicyOracle } from './policy-oracle.ts';

/** Flows of one kind: from whom, to whom, protocol and port. */
export interface SeenFlow {
  readonly source: IpAddress;
  /** The endpoint of a Service's flow, or the frontend where none was chosen. */
  readonly destination: IpAddress;
  readonly protocol: Flow['protocol'];
  readonly port: number;
  /** It is a frontend: any endpoint may be chosen. */
  readonly isFrontend: boolean;
  /** As the first was told; ports of the source are left out. */
  readonly told: Pick<FlowMessage, 'source' | 'destination' | 'service' | 'protocol'>;
  readonly count: number;
  /** Milliseconds since 1970. */
  readonly firstMs: number;
  readonly lastMs: number;
}

/** Structured clone can carry it to a worker. */
export interface DiffTask {
  readonly objects: ObjectSet;
  /** NetworkPolicy and ClusterNetworkPolicy alone. */
  readonly policies: readonly WeftObject[];
  readonly replace: boolean;
  readonly around: Surroundings;
  readonly flows: readonly SeenFlow[];
}

export const isPolicy = ({ kind }: WeftObject): boolean =>
  kind === 'NetworkPolicy' || kind === 'ClusterNetworkPolicy';

/**
 * The set with these policies besides its own, by kind and name in their place.
 * @param replace  in place of all that it has
 */
export function withPolicies(
  objects: ObjectSet,
  policies: readonly WeftObject[],
  replace: boolean,
): ObjectSet {
  let set = objects;
  for (const [kind, known] of [
    ['NetworkPolicy', objects.networkPolicies],
    ['ClusterNetworkPolicy', objects.clusterNetworkPolicies],
  ] as const) {
    const given = policies.filter((it) => it.kind === kind);
    set = withKind(set, kind, [...(replace ? [] : known.values()), ...given]);
  }
  return set;
}

export interface Diff {
  readonly changes: readonly PolicyChangeMessage[];
  /** Flows that were asked about. */
  readonly asked: number;
}

const iso = (ms: number): string => new Date(ms).toISOString();

export function changeMessage(
  { told, count, firstMs, lastMs }: SeenFlow,
  backend: PolicyChangeMessage['backend'],
  before: Pick<Verdict, 'verdict' | 'because'>,
  after: Pick<Verdict, 'verdict' | 'because'>,
): PolicyChangeMessage {
  return {
    ...told,
    backend,
    before: before.verdict,
    beforeBecause: before.because,
    after: after.verdict,
    afterBecause: after.because,
    count,
    firstSeen: iso(firstMs),
    lastSeen: iso(lastMs),
  };
}

/** @throws PolicyMismatchError */
export function diffPolicies({ objects, policies, replace, around, flows }: DiffTask): Diff {
  const before = new PolicyOracle(objects, around);
  const after = new PolicyOracle(withPolicies(objects, policies, replace), around);
  const owners = new Map<IpAddress, string>();
  for (const pod of before.objects.pods.values()) {
    if (!pod.hostNetwork) for (const it of pod.podIPs) owners.set(it, nameOf(pod));
  }
  const changes: PolicyChangeMessage[] = [];
  for (const flow of flows) {
    for (const { to, port } of endsOf(before.objects, flow, flow.told.service)) {
      const asked = { from: flow.source, to, protocol: flow.protocol, port };
      const was = before.verdictOf(asked);
      const is = after.verdictOf(asked);
      if (was.verdict === is.verdict) continue;
      changes.push(changeMessage(flow, backendOf(flow, to, port, owners), was, is));
    }
  }
  return { changes, asked: flows.length };
}

/** Of a Service's flow: the endpoint that the change is of. */
export function backendOf(
  { told: { service }, protocol }: Pick<SeenFlow, 'told' | 'protocol'>,
  to: IpAddress,
  port: number | string,
  owners: ReadonlyMap<IpAddress, string>,
): PolicyChangeMessage['backend'] {
  if (service === null) return null;
  const [namespace = null, pod = null] = owners.get(to)?.split('/') ?? [];
  return {
    address: formatAddress(to),
    port: protocol === 'other' || typeof port === 'string' ? null : port,
    namespace,
    pod,
    node: null,
  };
}
