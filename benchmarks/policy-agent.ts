/**
 * NetworkPolicies as Calico's agent writes them with iptables: chains for the pods of this node only, one
 * chain for each policy and direction that selects any of them, IP sets for the pods that a selector finds.
 *
 *     FORWARD -> cali-FORWARD -> cali-from-wl-dispatch -> cali-fw-<device> -> cali-po-<policy>...
 *                             -> cali-to-wl-dispatch   -> cali-tw-<device> -> cali-pi-<policy>...
 *
 * What belongs to a connection is accepted before any policy is asked; the first policy that admits a packet
 * ends the search. A change of a policy rewrites that policy's chains alone.
 */
import { createHash } from 'node:crypto';
import type {
  ClusterObject,
  Peer,
  PodObject,
  PolicyObject,
  PolicyPort,
} from './service-objects.ts';

export interface LocalPod {
  readonly namespace: string;
  readonly address: string;
  /** Its interface on the node. */
  readonly device: string;
}

/** What a policy that admits a packet leaves on it. */
const ACCEPT = '0x10000/0x10000';
/** What a policy that leaves the decision to the next tier would. */
const PASS = '0x20000/0x20000';

const shortHash = (text: string): string =>
  createHash('sha256').update(text).digest('base64url').slice(0, 16);

/** A rule with the comment by which the agent knows it again. */
const rule = (chain: string, body: string): string =>
  `-A ${chain} -m comment --comment "cali:${shortHash(chain + body)}" ${body}`;

type PodPeer = Extract<Peer, { podSelector: unknown }>;

const setOf = (peer: PodPeer, namespace: string): string => {
  const where = peer.namespaceSelector === undefined ? namespace : '';
  return `cali40s:${shortHash(JSON.stringify([where, peer.podSelector]))}`;
};

type Direction = 'Ingress' | 'Egress';
type Rules = readonly {
  readonly peers?: readonly Peer[];
  readonly ports?: readonly PolicyPort[];
}[];

const rulesOf = ({ spec }: PolicyObject, direction: Direction): Rules =>
  direction === 'Ingress'
    ? (spec.ingress ?? []).map(({ from, ...rest }) => (from ? { peers: from, ...rest } : rest))
    : (spec.egress ?? []).map(({ to, ...rest }) => (to ? { peers: to, ...rest } : rest));

const chainOf = ({ metadata }: PolicyObject, direction: Direction): string =>
  `cali-p${direction === 'Ingress' ? 'i' : 'o'}-${shortHash(`${metadata.namespace}/${metadata.name}`)}`;

function portMatches(ports: readonly PolicyPort[] | undefined): readonly string[] {
  if (ports === undefined) return [''];
  return (['TCP', 'UDP'] as const).flatMap((protocol) => {
    const own = ports.filter((it) => (it.protocol ?? 'TCP') === protocol).map((it) => it.port);
    if (own.length === 0) return [];
    const name = protocol.toLowerCase();
    return [`-p ${name} -m multiport --destination-ports ${own.join(',')} `];
  });
}

function peerMatches(
  peers: readonly Peer[] | undefined,
  namespace: string,
  direction: Direction,
): readonly string[] {
  if (peers === undefined) return [''];
  const [short, long] = direction === 'Ingress' ? ['-s', 'src'] : ['-d', 'dst'];
  return peers.map((peer) =>
    'ipBlock' in peer
      ? `${short} ${peer.ipBlock.cidr} `
      : `-m set --match-set ${setOf(peer, namespace)} ${long} `,
  );
}

/** One rule for each peer and protocol that marks, and one that ends the search. */
function policyChain(policy: PolicyObject, direction: Direction): readonly string[] {
  const chain = chainOf(policy, direction);
  const lines = [`:${chain} - [0:0]`];
  for (const { peers, ports } of rulesOf(policy, direction)) {
    for (const port of portMatches(ports)) {
      for (const peer of peerMatches(peers, policy.metadata.namespace, direction)) {
        lines.push(
          rule(chain, `${port}${peer}-j MARK --set-xmark ${ACCEPT}`),
          rule(chain, `-m mark --mark ${ACCEPT} -j RETURN`),
        );
      }
    }
  }
  return lines;
}

const selects = (policy: PolicyObject, pod: LocalPod): boolean =>
  policy.metadata.namespace === pod.namespace;

function podChain(
  chain: string,
  policies: readonly PolicyObject[],
  direction: Direction,
): readonly string[] {
  const lines = [
    `:${chain} - [0:0]`,
    rule(chain, '-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT'),
    rule(chain, '-m conntrack --ctstate INVALID -j DROP'),
    rule(chain, '-j MARK --set-xmark 0x0/0x10000'),
  ];
  const own = policies.filter((it) => it.spec.policyTypes.includes(direction));
  if (own.length === 0) return [...lines, rule(chain, `-j MARK --set-xmark ${ACCEPT}`)];
  lines.push(rule(chain, '-j MARK --set-xmark 0x0/0x20000'));
  for (const policy of own) {
    lines.push(
      rule(chain, `-m mark --mark 0x0/0x20000 -j ${chainOf(policy, direction)}`),
      rule(chain, `-m mark --mark ${ACCEPT} -j RETURN`),
    );
  }
  return [...lines, rule(chain, `-m mark ! --mark ${PASS} -j DROP`)];
}

const byName = (a: PolicyObject, b: PolicyObject): number =>
  a.metadata.name < b.metadata.name ? -1 : 1;

const restore = (lines: readonly string[]): string =>
  ['*filter', ...lines, 'COMMIT', ''].join('\n');

/** @returns text for iptables-restore, to be loaded into tables without rules */
export function policyRules(
  objects: readonly ClusterObject[],
  localPods: readonly LocalPod[],
): string {
  const policies = objects
    .filter((it) => it.kind === 'NetworkPolicy')
    .filter((it) => localPods.some((pod) => selects(it, pod)))
    .toSorted(byName);
  const dispatch = (direction: Direction): readonly string[] => {
    const [to, option] =
      direction === 'Ingress' ? (['to', '-o'] as const) : (['from', '-i'] as const);
    const chain = `cali-${to}-wl-dispatch`;
    const lines = [`:${chain} - [0:0]`];
    for (const { device } of localPods) {
      lines.push(rule(chain, `${option} ${device} -g cali-${to[0]}w-${device}`));
    }
    return [...lines, rule(chain, '-j DROP')];
  };
  const main = 'cali-FORWARD';
  const lines = [
    ':cali-FORWARD - [0:0]',
    ...policies.flatMap((it) => it.spec.policyTypes.flatMap((type) => policyChain(it, type))),
    ...localPods.flatMap((pod) => {
      const own = policies.filter((it) => selects(it, pod));
      return [
        ...podChain(`cali-fw-${pod.device}`, own, 'Egress'),
        ...podChain(`cali-tw-${pod.device}`, own, 'Ingress'),
      ];
    }),
    ...dispatch('Egress'),
    ...dispatch('Ingress'),
    rule(main, '-j MARK --set-xmark 0x0/0x30000'),
    rule(main, '-i pod+ -j cali-from-wl-dispatch'),
    rule(main, '-o pod+ -j cali-to-wl-dispatch'),
    rule('FORWARD', '-j cali-FORWARD'),
    rule('FORWARD', `-m mark --mark ${ACCEPT} -j ACCEPT`),
  ];
  // A chain is declared before a rule goes to it.
  const isChain = (line: string): boolean => line.startsWith(':');
  return restore([...lines.filter(isChain), ...lines.filter((it) => !isChain(it))]);
}

/** The chains of these policies anew: @returns text for iptables-restore, which empties what is declared */
export const changedPolicies = (policies: readonly PolicyObject[]): string =>
  restore(policies.flatMap((it) => it.spec.policyTypes.flatMap((type) => policyChain(it, type))));

/** Sets that the policies' peers name. @returns text for ipset-restore */
export function policySets(
  objects: readonly ClusterObject[],
  localPods: readonly LocalPod[],
  pods: readonly LocalPod[],
): string {
  const remote = objects.filter((it): it is PodObject => it.kind === 'Pod');
  const members = new Map<string, readonly string[]>();
  for (const policy of objects) {
    if (policy.kind !== 'NetworkPolicy' || !localPods.some((it) => selects(policy, it))) continue;
    const { namespace } = policy.metadata;
    for (const type of policy.spec.policyTypes) {
      for (const peer of rulesOf(policy, type).flatMap((it) => it.peers ?? [])) {
        if ('ipBlock' in peer || members.has(setOf(peer, namespace))) continue;
        const labels = Object.entries(peer.podSelector.matchLabels ?? {});
        const anywhere = peer.namespaceSelector !== undefined;
        members.set(setOf(peer, namespace), [
          ...remote
            .filter(({ metadata }) => anywhere || metadata.namespace === namespace)
            .filter(({ metadata }) =>
              labels.every(([key, value]) => metadata.labels?.[key] === value),
            )
            .map(({ status }) => status.podIP),
          // The pods that are measured have no labels.
          ...pods
            .filter((it) => labels.length === 0 && (anywhere || it.namespace === namespace))
            .map((it) => it.address),
        ]);
      }
    }
  }
  return [...members]
    .flatMap(([name, addresses]) => [
      `create ${name} hash:net family inet maxelem 1048576`,
      ...[...new Set(addresses)].map((it) => `add ${name} ${it}`),
    ])
    .concat('')
    .join('\n');
}
