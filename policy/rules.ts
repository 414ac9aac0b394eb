/**
 * Policies as the compiler reads them: both kinds become ordered rules of atoms (who) and ports (what).
 * What a later version of Kubernetes may add fails closed here: Accept matches nobody by it, Deny and
 * Pass everybody.
 */
import { matchesSelector } from '../objects/labels.ts';
import type {
  ClusterNetworkPolicy,
  ClusterPeer,
  ClusterPolicyRule,
  LabelSelector,
  Labels,
  NetworkPolicy,
  NetworkPolicyRule,
  Protocol,
} from '../objects/types.ts';
import { type Cidr, formatCidr } from '../wire/cidr.ts';

/** One thing that tells addresses apart. Atoms of one key match the same. */
export type Atom =
  | {
      readonly kind: 'pods';
      readonly key: string;
      /** Only pods of this one; null: of those that the selector matches. */
      readonly namespace: string | null;
      readonly inNamespace: (labels: Labels) => boolean;
      readonly isPod: (labels: Labels) => boolean;
    }
  | { readonly kind: 'nodes'; readonly key: string; readonly isNode: (labels: Labels) => boolean }
  | {
      readonly kind: 'block';
      readonly key: string;
      readonly cidr: Cidr;
      readonly except: readonly Cidr[];
    };

/** Index into the port classes of the table; null: whatever the named port has. */
export type ProtocolIndex = 0 | 1 | 2;
export const PROTOCOL_INDEX: Readonly<Record<Protocol, ProtocolIndex>> = {
  TCP: 0,
  UDP: 1,
  SCTP: 2,
};

export interface PortRange {
  readonly protocol: ProtocolIndex;
  readonly start: number;
  readonly end: number;
}

export interface NamedPort {
  readonly protocol: ProtocolIndex | null;
  readonly name: string;
}

export interface Rule {
  readonly action: 'Accept' | 'Deny' | 'Pass';
  readonly isAnyPeer: boolean;
  readonly atoms: readonly Atom[];
  readonly isAnyPort: boolean;
  readonly ranges: readonly PortRange[];
  /** Of the destination pod. */
  readonly named: readonly NamedPort[];
}

/** Ingress, then egress: by the numbers of table.ts. Null: this direction is not the policy's. */
export interface PolicyRules {
  /** Its own, while the policy stays the same object. */
  readonly id: number;
  readonly directions: readonly [readonly Rule[] | null, readonly Rule[] | null];
  readonly selects: (namespaceLabels: Labels, podLabels: Labels) => boolean;
}

/** The same text for the same meaning, as far as order goes. */
const selectorKey = ({ matchLabels, matchExpressions }: LabelSelector): string =>
  JSON.stringify([
    Object.entries(matchLabels).sort(([a], [b]) => (a < b ? -1 : 1)),
    matchExpressions.map(({ key, operator, values }) => [key, operator, ...values]),
  ]);

function matcherOf(selector: LabelSelector): (labels: Labels) => boolean {
  if (selector.matchExpressions.length > 0) return (labels) => matchesSelector(selector, labels);
  const wanted = Object.entries(selector.matchLabels);
  return (labels) => {
    for (const [key, value] of wanted) {
      if (!Object.hasOwn(labels, key) || labels[key] !== value) return false;
    }
    return true;
  };
}

const ANYTHING = (): boolean => true;

function podsAtom(
  namespace: string | null,
  namespaceSelector: LabelSelector | null,
  podSelector: LabelSelector | null,
): Atom {
  const inNamespace = namespaceSelector === null ? null : selectorKey(namespaceSelector);
  const isPod = podSelector === null ? null : selectorKey(podSelector);
  return {
    kind: 'pods',
    key: JSON.stringify(['pods', namespace, inNamespace, isPod]),
    namespace,
    inNamespace: namespaceSelector === null ? ANYTHING : matcherOf(namespaceSelector),
    isPod: podSelector === null ? ANYTHING : matcherOf(podSelector),
  };
}

const blockAtom = (cidr: Cidr, except: readonly Cidr[]): Atom => ({
  kind: 'block',
  key: `block ${formatCidr(cidr)} ${except.map((it) => formatCidr(it)).join(' ')}`,
  cidr,
  except,
});

let ids = 0;

function networkPolicyRule({ peers, ports }: NetworkPolicyRule, namespace: string): Rule {
  const named: NamedPort[] = [];
  const ranges: PortRange[] = [];
  for (const { protocol, port, endPort } of ports) {
    const index = PROTOCOL_INDEX[protocol];
    if (typeof port === 'string') named.push({ protocol: index, name: port });
    else if (port === null) ranges.push({ protocol: index, start: 0, end: 65535 });
    else ranges.push({ protocol: index, start: port, end: endPort ?? port });
  }
  return {
    action: 'Accept',
    isAnyPeer: peers.length === 0,
    atoms: peers.map((it) =>
      it.ipBlock === undefined
        ? podsAtom(
            it.namespaceSelector === null ? namespace : null,
            it.namespaceSelector,
            it.podSelector,
          )
        : blockAtom(it.ipBlock.cidr, it.ipBlock.except),
    ),
    isAnyPort: ports.length === 0,
    ranges,
    named,
  };
}

export function rulesOfNetworkPolicy(policy: NetworkPolicy): PolicyRules {
  const { namespace } = policy.metadata;
  const rules = (type: 'Ingress' | 'Egress', list: readonly NetworkPolicyRule[]) =>
    policy.policyTypes.includes(type) ? list.map((it) => networkPolicyRule(it, namespace)) : null;
  const isPod = matcherOf(policy.podSelector);
  return {
    id: ids++,
    directions: [rules('Ingress', policy.ingress), rules('Egress', policy.egress)],
    selects: (_, podLabels) => isPod(podLabels),
  };
}

function clusterAtoms(peer: ClusterPeer): readonly Atom[] {
  switch (peer.type) {
    case 'namespaces':
      return [podsAtom(null, peer.namespaceSelector, null)];
    case 'pods':
      return [podsAtom(null, peer.namespaceSelector, peer.podSelector)];
    case 'nodes':
      return [
        {
          kind: 'nodes',
          key: `nodes ${selectorKey(peer.nodeSelector)}`,
          isNode: matcherOf(peer.nodeSelector),
        },
      ];
    case 'networks':
      return peer.networks.map((it) => blockAtom(it, []));
    default:
      return [];
  }
}

function clusterRule({ action, peers, ports }: ClusterPolicyRule): Rule {
  const named: NamedPort[] = [];
  const ranges: PortRange[] = [];
  for (const { protocol, range, portName, unknown } of ports) {
    const index = protocol === null ? null : PROTOCOL_INDEX[protocol];
    if (unknown) continue;
    if (portName !== '') named.push({ protocol: index, name: portName });
    else {
      const { start, end } = range ?? { start: 0, end: 65535 };
      const protocols: readonly ProtocolIndex[] = index === null ? [0, 1, 2] : [index];
      for (const each of protocols) ranges.push({ protocol: each, start, end });
    }
  }
  const failsClosed = action !== 'Accept';
  const isUnknown =
    peers.some(({ type }) => type === 'unknown') || ports.some(({ unknown }) => unknown);
  return {
    // What it would have passed on, nobody knows.
    action: action === 'Pass' && isUnknown ? 'Deny' : action,
    isAnyPeer: failsClosed && peers.some(({ type }) => type === 'unknown'),
    atoms: peers.flatMap((it) => clusterAtoms(it)),
    isAnyPort: ports.length === 0 || (failsClosed && ports.some(({ unknown }) => unknown)),
    ranges,
    named,
  };
}

export function rulesOfClusterPolicy({
  subject,
  ingress,
  egress,
}: ClusterNetworkPolicy): PolicyRules {
  const rules = (list: readonly ClusterPolicyRule[]) =>
    list.length === 0 ? null : list.map((it) => clusterRule(it));
  const [atom] = clusterAtoms(subject);
  return {
    id: ids++,
    directions: [rules(ingress), rules(egress)],
    selects:
      atom?.kind === 'pods'
        ? (namespaceLabels, podLabels) => atom.inNamespace(namespaceLabels) && atom.isPod(podLabels)
        : () => false,
  };
}
