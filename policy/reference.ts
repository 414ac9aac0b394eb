/**
 * What NetworkPolicy and ClusterNetworkPolicy say, as their documentation says it, one flow at a time, and
 * why. Slow and plain: the compiled tables are held to it, and the operator's commands take their reasons
 * from it.
 */
import { matchesSelector } from '../objects/labels.ts';
import {
  type ClusterNetworkPolicy,
  type ClusterPeer,
  type ClusterPolicyPort,
  type ClusterPolicyRule,
  type Labels,
  type NetworkPolicy,
  type NetworkPolicyPeer,
  type NetworkPolicyPort,
  type Node,
  type ObjectSet,
  type Pod,
  type Protocol,
  nameOf,
} from '../objects/types.ts';
import { type Family, type IpAddress, familyOf, formatAddress } from '../wire/address.ts';
import { cidrContains } from '../wire/cidr.ts';

/** A pod, by `nameOf`, or an address. */
export type End = string | IpAddress;

export interface Flow {
  readonly from: End;
  /** After Service translation. */
  readonly to: End;
  readonly protocol: Protocol | 'other';
  /** Of the destination; a name is looked up on the destination pod; 0 for protocols without ports. */
  readonly port: number | string;
}

export type Answer = 'allow' | 'deny';

export interface Verdict {
  readonly ingress: Answer;
  readonly egress: Answer;
  /** Allow if both do. */
  readonly verdict: Answer;
  /** The directions that deny, or both, each with the policy and the rule that decided. */
  readonly because: string;
}

/** What a daemon knows besides the objects. */
export interface Surroundings {
  /** This node, and addresses of it that no object tells; they are nobody else's, whatever pods claim. */
  readonly nodeName: string;
  readonly nodeAddresses: readonly IpAddress[];
  /** Pods of this node: an address that another pod claims too is theirs. */
  readonly subjects: ReadonlySet<string> | 'all';
}

/** Of files alone: each pod is asked on its own node. */
export const NOWHERE: Surroundings = { nodeName: '', nodeAddresses: [], subjects: 'all' };

/** The question names what is not there. */
export class PolicyQueryError extends Error {
  readonly code = 'ERR_POLICY_QUERY';
}

type Direction = 'ingress' | 'egress';

/** Who is at one end of a flow. Pods of the host's network are their node. */
interface Party {
  readonly address: IpAddress;
  readonly pod: Pod | null;
  readonly nodeName: string | null;
}

export interface Decision {
  readonly answer: Answer;
  readonly because: string;
}

/** What is looked up again and again, of one set of objects. */
interface Index {
  readonly owners: ReadonlyMap<IpAddress, Party>;
  readonly policies: ReadonlyMap<string, readonly NetworkPolicy[]>;
  readonly admin: readonly ClusterNetworkPolicy[];
  readonly baseline: readonly ClusterNetworkPolicy[];
}

const indexes = new WeakMap<ObjectSet, { readonly around: Surroundings; readonly index: Index }>();

const hasTraffic = (pod: Pod): boolean => pod.phase !== 'Succeeded' && pod.phase !== 'Failed';
const byName = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Of two that claim an address: the node itself, its pods, other pods, of these who stays, then nodes. */
function ownersOf(objects: ObjectSet, around: Surroundings): Map<IpAddress, Party> {
  const claims: { rank: number; name: string; party: Party }[] = [];
  for (const address of around.nodeAddresses) {
    claims.push({ rank: 0, name: '', party: { address, pod: null, nodeName: around.nodeName } });
  }
  for (const [name, pod] of objects.pods) {
    if (!hasTraffic(pod)) continue;
    const isSubject = around.subjects === 'all' || around.subjects.has(name);
    for (const address of pod.podIPs) {
      if (pod.hostNetwork) {
        claims.push({ rank: 6, name, party: { address, pod: null, nodeName: pod.nodeName } });
      } else {
        const rank = 1 + (isSubject ? 0 : 2) + (pod.terminating ? 1 : 0);
        claims.push({ rank, name, party: { address, pod, nodeName: null } });
      }
    }
  }
  for (const node of objects.nodes.values()) {
    const { name } = node.metadata;
    for (const address of node.addresses) {
      claims.push({ rank: 5, name, party: { address, pod: null, nodeName: name } });
    }
  }
  claims.sort((a, b) => a.rank - b.rank || byName(a.name, b.name));
  const owners = new Map<IpAddress, Party>();
  for (const { party } of claims) {
    if (!owners.has(party.address)) owners.set(party.address, party);
  }
  return owners;
}

function indexOf(objects: ObjectSet, around: Surroundings): Index {
  const known = indexes.get(objects);
  if (known?.around === around) return known.index;
  const policies = Map.groupBy(objects.networkPolicies.values(), (it) => it.metadata.namespace);
  for (const list of policies.values()) {
    list.sort((a, b) => byName(a.metadata.name, b.metadata.name));
  }
  const tiers = [...objects.clusterNetworkPolicies.values()].sort(
    (a, b) => a.priority - b.priority || byName(a.metadata.name, b.metadata.name),
  );
  const index: Index = {
    owners: ownersOf(objects, around),
    policies,
    admin: tiers.filter(({ tier }) => tier === 'Admin'),
    baseline: tiers.filter(({ tier }) => tier === 'Baseline'),
  };
  indexes.set(objects, { around, index });
  return index;
}

/** A Namespace that nobody has given has its name as a label all the same. */
const namespaceLabels = (objects: ObjectSet, name: string): Labels => ({
  ...objects.namespaces.get(`/${name}`)?.metadata.labels,
  'kubernetes.io/metadata.name': name,
});

/** @throws PolicyQueryError if there is no such pod */
function podNamed(objects: ObjectSet, name: string): Pod {
  const pod = objects.pods.get(name);
  if (pod === undefined) throw new PolicyQueryError(`there is no pod ${name}`);
  return pod;
}

const addressesOf = (objects: ObjectSet, end: End): readonly IpAddress[] => {
  if (typeof end !== 'string') return [end];
  const pod = podNamed(objects, end);
  return hasTraffic(pod) ? pod.podIPs : [];
};

/** The addresses that a flow has: the destination's first of a family that the source has too. */
export function addressesOfFlow(
  objects: ObjectSet,
  from: End,
  to: End,
): { readonly source: IpAddress; readonly destination: IpAddress } | null {
  const sources = new Map<Family, IpAddress>();
  for (const it of addressesOf(objects, from)) sources.set(familyOf(it), it);
  for (const destination of addressesOf(objects, to)) {
    const source = sources.get(familyOf(destination));
    if (source !== undefined) return { source, destination };
  }
  return null;
}

/** The number of the destination's port; 0, which no rule with ports matches, where it has none of the name. */
export function portNumber(
  objects: ObjectSet,
  to: End,
  protocol: Flow['protocol'],
  port: number | string,
  around: Surroundings = NOWHERE,
): number {
  if (protocol === 'other') return 0;
  if (typeof port === 'number') return port;
  const pod =
    typeof to === 'string' ? podNamed(objects, to) : indexOf(objects, around).owners.get(to)?.pod;
  return pod?.ports.find((it) => it.name === port && it.protocol === protocol)?.containerPort ?? 0;
}

const describe = ({ address, pod, nodeName }: Party): string => {
  if (pod !== null) return `pod ${nameOf(pod)}`;
  return nodeName === null ? formatAddress(address) : `node ${nodeName}`;
};

function selects(
  objects: ObjectSet,
  policy: ClusterPeer,
  pod: Pod,
): policy is Extract<ClusterPeer, { type: 'namespaces' | 'pods' }> {
  if (policy.type !== 'namespaces' && policy.type !== 'pods') return false;
  const labels = namespaceLabels(objects, pod.metadata.namespace);
  if (!matchesSelector(policy.namespaceSelector, labels)) return false;
  return policy.type === 'namespaces' || matchesSelector(policy.podSelector, pod.metadata.labels);
}

function matchesPeer(
  objects: ObjectSet,
  peer: NetworkPolicyPeer,
  namespace: string,
  { address, pod }: Party,
): boolean {
  if (peer.ipBlock !== undefined) {
    const { cidr, except } = peer.ipBlock;
    return cidrContains(cidr, address) && !except.some((it) => cidrContains(it, address));
  }
  if (pod === null) return false;
  const inNamespace =
    peer.namespaceSelector === null
      ? pod.metadata.namespace === namespace
      : matchesSelector(peer.namespaceSelector, namespaceLabels(objects, pod.metadata.namespace));
  return (
    inNamespace &&
    (peer.podSelector === null || matchesSelector(peer.podSelector, pod.metadata.labels))
  );
}

const hasPort = (pod: Pod | null, name: string, protocol: string, port: number): boolean =>
  pod?.ports.some(
    (it) => it.name === name && it.protocol === protocol && it.containerPort === port,
  ) ?? false;

function matchesPort(
  rule: NetworkPolicyPort,
  protocol: Flow['protocol'],
  port: number,
  destination: Party,
): boolean {
  if (rule.protocol !== protocol) return false;
  if (rule.port === null) return true;
  if (typeof rule.port === 'string') return hasPort(destination.pod, rule.port, protocol, port);
  return port >= rule.port && port <= (rule.endPort ?? rule.port);
}

function matchesClusterPeer(
  objects: ObjectSet,
  peer: ClusterPeer,
  action: ClusterPolicyRule['action'],
  { address, pod, nodeName }: Party,
): boolean {
  switch (peer.type) {
    case 'unknown':
      return action !== 'Accept';
    case 'networks':
      return peer.networks.some((it) => cidrContains(it, address));
    case 'nodes': {
      if (nodeName === null) return false;
      const node: Node | undefined = objects.nodes.get(`/${nodeName}`);
      return matchesSelector(peer.nodeSelector, node?.metadata.labels ?? {});
    }
    default:
      return pod !== null && selects(objects, peer, pod);
  }
}

function matchesClusterPort(
  rule: ClusterPolicyPort,
  action: ClusterPolicyRule['action'],
  protocol: Flow['protocol'],
  port: number,
  destination: Party,
): boolean {
  if (rule.unknown) return action !== 'Accept';
  if (protocol === 'other') return false;
  if (rule.protocol !== null && rule.protocol !== protocol) return false;
  if (rule.portName !== '') return hasPort(destination.pod, rule.portName, protocol, port);
  return rule.range === null || (port >= rule.range.start && port <= rule.range.end);
}

/** One direction of one flow, asked of the pod `self`. */
interface Question {
  readonly direction: Direction;
  readonly self: Party & { readonly pod: Pod };
  readonly peer: Party;
  readonly destination: Party;
  readonly protocol: Flow['protocol'];
  readonly port: number;
}

/** The first rule that matches; Pass, or null for none, leaves it to whoever comes next. */
function decideByTier(
  objects: ObjectSet,
  tier: readonly ClusterNetworkPolicy[],
  { direction, self, peer, destination, protocol, port }: Question,
): { action: ClusterPolicyRule['action']; because: string } | null {
  for (const policy of tier) {
    if (!selects(objects, policy.subject, self.pod)) continue;
    for (const [at, rule] of policy[direction].entries()) {
      const isUnknown =
        rule.peers.some(({ type }) => type === 'unknown') ||
        rule.ports.some(({ unknown }) => unknown);
      const action = rule.action === 'Pass' && isUnknown ? 'Deny' : rule.action;
      if (!rule.peers.some((it) => matchesClusterPeer(objects, it, action, peer))) continue;
      const isPort =
        rule.ports.length === 0 ||
        rule.ports.some((it) => matchesClusterPort(it, action, protocol, port, destination));
      if (!isPort) continue;
      const which = rule.name === '' ? `rule ${at + 1}` : `rule "${rule.name}"`;
      return {
        action,
        because: `ClusterNetworkPolicy ${policy.metadata.name} (${policy.tier}) ${direction} ${which}`,
      };
    }
  }
  return null;
}

/** Null: no policy isolates the pod in this direction. */
function decideByNetworkPolicy(
  objects: ObjectSet,
  index: Index,
  { direction, self, peer, destination, protocol, port }: Question,
): Decision | null {
  const { namespace, labels } = self.pod.metadata;
  const type = direction === 'ingress' ? 'Ingress' : 'Egress';
  const isolating = (index.policies.get(namespace) ?? []).filter(
    (it) => it.policyTypes.includes(type) && matchesSelector(it.podSelector, labels),
  );
  if (isolating.length === 0) return null;
  if (peer.pod === self.pod) {
    return { answer: 'allow', because: `a pod always reaches itself (${direction})` };
  }
  for (const policy of isolating) {
    for (const [at, rule] of policy[direction].entries()) {
      const isPeer =
        rule.peers.length === 0 ||
        rule.peers.some((it) => matchesPeer(objects, it, namespace, peer));
      const isPort =
        rule.ports.length === 0 ||
        rule.ports.some((it) => matchesPort(it, protocol, port, destination));
      if (!isPeer || !isPort) continue;
      const name = `NetworkPolicy ${nameOf(policy)}`;
      return { answer: 'allow', because: `allowed by ${name} ${direction} rule ${at + 1}` };
    }
  }
  const names = isolating.map((it) => nameOf(it));
  const some = names.length > 3 ? [...names.slice(0, 3), `${names.length - 3} more`] : names;
  const [are, policies] =
    names.length === 1 ? ['isolates', 'NetworkPolicy'] : ['isolate', 'NetworkPolicies'];
  return {
    answer: 'deny',
    because: `${policies} ${some.join(', ')} ${are} ${describe(self)} for ${direction}; no rule allows it`,
  };
}

function decide(objects: ObjectSet, index: Index, around: Surroundings, it: Question): Decision {
  const { self, peer, direction } = it;
  const isLocal = around.subjects !== 'all' && around.subjects.has(nameOf(self.pod));
  const ownNode = isLocal ? around.nodeName : self.pod.nodeName;
  if (peer.nodeName !== null && peer.nodeName === ownNode && ownNode !== '') {
    return {
      answer: 'allow',
      because: `a pod and its own node always reach each other (${direction})`,
    };
  }
  const admin = decideByTier(objects, index.admin, it);
  if (admin?.action === 'Accept') {
    return { answer: 'allow', because: `accepted by ${admin.because}` };
  }
  if (admin?.action === 'Deny') return { answer: 'deny', because: `denied by ${admin.because}` };
  const passed = admin === null ? '' : ` (passed by ${admin.because})`;
  const decision = decideByNetworkPolicy(objects, index, it);
  if (decision !== null) return { ...decision, because: `${decision.because}${passed}` };
  const baseline = decideByTier(objects, index.baseline, it);
  if (baseline?.action === 'Accept') {
    return { answer: 'allow', because: `accepted by ${baseline.because}${passed}` };
  }
  if (baseline?.action === 'Deny') {
    return { answer: 'deny', because: `denied by ${baseline.because}${passed}` };
  }
  const because = `no policy selects ${describe(self)} for ${direction}`;
  if (baseline !== null) {
    return { answer: 'allow', because: `passed by ${baseline.because}, and nobody else decides` };
  }
  const asked = [...index.admin, ...index.baseline].some(
    (policy) => policy[direction].length > 0 && selects(objects, policy.subject, self.pod),
  );
  const unmatched = `no NetworkPolicy isolates ${describe(self)} for ${direction}, and no ClusterNetworkPolicy rule matches`;
  return { answer: 'allow', because: `${asked ? unmatched : because}${passed}` };
}

const endText = (end: End): string => (typeof end === 'string' ? `pod ${end}` : formatAddress(end));

function whyNoFlow(objects: ObjectSet, { from, to }: Flow): string {
  for (const end of [from, to]) {
    if (typeof end !== 'string' || addressesOf(objects, end).length > 0) continue;
    const pod = podNamed(objects, end);
    return hasTraffic(pod)
      ? `pod ${end} has no address`
      : `pod ${end} is ${pod.phase} and has no traffic`;
  }
  return `${endText(from)} and ${endText(to)} have no addresses of one family`;
}

/**
 * Both directions of a flow, and a remark on its port where there is one.
 * @throws PolicyQueryError if an end names a pod that is not there
 */
export function explainFlow(
  objects: ObjectSet,
  flow: Flow,
  around: Surroundings = NOWHERE,
): { readonly egress: Decision; readonly ingress: Decision; readonly remark: string } {
  const index = indexOf(objects, around);
  const pair = addressesOfFlow(objects, flow.from, flow.to);
  if (pair === null) {
    const denial: Decision = { answer: 'deny', because: whyNoFlow(objects, flow) };
    return { egress: denial, ingress: denial, remark: '' };
  }
  const partyOf = (end: End, address: IpAddress): Party => {
    if (typeof end === 'string') {
      const pod = podNamed(objects, end);
      return pod.hostNetwork
        ? { address, pod: null, nodeName: pod.nodeName }
        : { address, pod, nodeName: null };
    }
    return index.owners.get(address) ?? { address, pod: null, nodeName: null };
  };
  const source = partyOf(flow.from, pair.source);
  const destination = partyOf(flow.to, pair.destination);
  const { protocol } = flow;
  const port = portNumber(objects, flow.to, protocol, flow.port, around);
  const ask = (direction: Direction, self: Party, peer: Party): Decision => {
    const { pod } = self;
    if (pod === null) {
      const because = `${describe(self)} is no pod and has no ${direction} policy`;
      return { answer: 'allow', because };
    }
    const question = { direction, self: { ...self, pod }, peer, destination, protocol, port };
    return decide(objects, index, around, question);
  };
  const isUnnamed = typeof flow.port === 'string' && port === 0 && protocol !== 'other';
  return {
    egress: ask('egress', source, destination),
    ingress: ask('ingress', destination, source),
    remark: isUnnamed
      ? `${describe(destination)} has no ${protocol} port named "${flow.port}", so no rule with ports matches`
      : '',
  };
}

/**
 * May this flow begin? Answers to it then pass by themselves.
 * @throws PolicyQueryError if an end names a pod that is not there
 */
export function referenceVerdict(
  objects: ObjectSet,
  flow: Flow,
  around: Surroundings = NOWHERE,
): Verdict {
  const { egress, ingress, remark } = explainFlow(objects, flow, around);
  const decisions = [egress, ingress];
  const denials = decisions.filter(({ answer }) => answer === 'deny');
  const reasons = (denials.length > 0 ? denials : decisions).map(({ because }) => because);
  if (remark !== '') reasons.push(remark);
  return {
    ingress: ingress.answer,
    egress: egress.answer,
    verdict: denials.length === 0 ? 'allow' : 'deny',
    because: [...new Set(reasons)].join('; '),
  };
}
