/**
 * Services as kube-proxy's iptables mode writes them for `iptables-restore --noflush`, for Services of one
 * cluster IP each, without node ports, load balancers and session affinity.
 *
 *     nat     PREROUTING, OUTPUT -> KUBE-SERVICES -> KUBE-SVC-x -> KUBE-SEP-x -> DNAT
 *             POSTROUTING        -> KUBE-POSTROUTING, MASQUERADE where KUBE-MARK-MASQ left its mark
 *     filter  FORWARD            -> KUBE-FORWARD; new connections -> KUBE-SERVICES, Services without endpoints
 *
 * Above a thousand endpoints it leaves the comments of single endpoints out, and so does this. Chains that are
 * empty without such Services (external ones, the firewall's) are left out.
 */
import { createHash } from 'node:crypto';
import {
  type ClusterObject,
  POD_NETWORK,
  type ServiceObject,
  type SliceObject,
} from './service-objects.ts';

const LARGE_CLUSTER_ENDPOINTS = 1000;

const BASE32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';

/** The first 16 letters of the hash in RFC 4648 base32, as in the names of kube-proxy's chains. */
export function hashName(text: string): string {
  const hash = createHash('sha256').update(text).digest();
  let name = '';
  for (let bit = 0; bit < 80; bit += 5) {
    const two = (hash[bit >> 3]! << 8) | hash[(bit >> 3) + 1]!;
    name += BASE32[(two >> (11 - (bit & 7))) & 31]!;
  }
  return name;
}

/** Rules of the kernel's own chains; they are added once. */
const FILTER_JUMPS = [
  '-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD',
  '-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
  '-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
];
const FILTER_CHAINS = [':KUBE-SERVICES - [0:0]', ':KUBE-FORWARD - [0:0]'];
const FILTER_RULES = [
  '-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP',
  '-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT',
  '-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
];
const NAT_JUMPS = [
  '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
  '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
  '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
];
const NAT_CHAINS = [
  ':KUBE-SERVICES - [0:0]',
  ':KUBE-NODEPORTS - [0:0]',
  ':KUBE-MARK-MASQ - [0:0]',
  ':KUBE-POSTROUTING - [0:0]',
];
const NAT_RULES = [
  '-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000',
  '-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN',
  '-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000',
  '-A KUBE-POSTROUTING -j MASQUERADE --random-fully',
];

interface Served {
  readonly service: ServiceObject;
  readonly addresses: readonly string[];
}

/**
 * All rules, for tables without any; or those of a partial sync after a change of some Services: their chains,
 * and KUBE-SERVICES of both tables as a whole.
 * @param changed  names of Services
 * @returns text for iptables-restore
 */
export function kubeProxyRules(
  objects: readonly ClusterObject[],
  changed?: ReadonlySet<string>,
): string {
  const slices = new Map<string, SliceObject>();
  for (const it of objects) {
    if (it.kind !== 'EndpointSlice') continue;
    slices.set(it.metadata.labels!['kubernetes.io/service-name']!, it);
  }
  const served: Served[] = [];
  for (const it of objects) {
    if (it.kind !== 'Service') continue;
    const endpoints = slices.get(it.metadata.name)?.endpoints ?? [];
    served.push({ service: it, addresses: endpoints.flatMap((each) => each.addresses) });
  }
  const count = served.reduce((sum, it) => sum + it.addresses.length, 0);
  const isCommented = count <= LARGE_CLUSTER_ENDPOINTS;
  const refusals: string[] = [];
  const chains = [...NAT_CHAINS];
  const portals: string[] = [];
  const rules: string[] = [];
  for (const { service, addresses } of served) {
    const { namespace, name } = service.metadata;
    const address = service.spec.clusterIP;
    for (const { port, targetPort } of service.spec.ports) {
      const full = `${namespace}/${name}`;
      const match = `-m tcp -p tcp -d ${address}/32 --dport ${port}`;
      if (addresses.length === 0) {
        refusals.push(
          `-A KUBE-SERVICES -m comment --comment "${full} has no endpoints" ${match} -j REJECT`,
        );
        continue;
      }
      const chain = `KUBE-SVC-${hashName(`${full}tcp`)}`;
      portals.push(
        `-A KUBE-SERVICES -m comment --comment "${full} cluster IP" ${match} -j ${chain}`,
      );
      if (changed?.has(name) === false) continue;
      chains.push(`:${chain} - [0:0]`);
      const comment = (text: string): string =>
        isCommented ? `-m comment --comment "${text}" ` : '';
      rules.push(
        `-A ${chain} ${comment(`${full} cluster IP`)}${match} ! -s ${POD_NETWORK} -j KUBE-MARK-MASQ`,
      );
      for (const [i, endpoint] of addresses.entries()) {
        const end = `${endpoint}:${targetPort}`;
        const one = `KUBE-SEP-${hashName(`${full}tcp${end}`)}`;
        const left = addresses.length - i;
        const share =
          left === 1 ? '' : `-m statistic --mode random --probability ${(1 / left).toFixed(10)} `;
        chains.push(`:${one} - [0:0]`);
        rules.push(
          `-A ${chain} ${comment(`${full} -> ${end}`)}${share}-j ${one}`,
          `-A ${one} ${comment(full)}-s ${endpoint}/32 -j KUBE-MARK-MASQ`,
          `-A ${one} ${comment(full)}-m tcp -p tcp -j DNAT --to-destination ${end}`,
        );
      }
    }
  }
  const isFirst = changed === undefined;
  return [
    '*filter',
    ...FILTER_CHAINS,
    ...(isFirst ? FILTER_JUMPS : []),
    ...refusals,
    ...FILTER_RULES,
    'COMMIT',
    '*nat',
    ...chains,
    ...(isFirst ? NAT_JUMPS : []),
    ...portals,
    '-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS',
    ...NAT_RULES,
    ...rules,
    'COMMIT',
    '',
  ].join('\n');
}
