/**
 * Where objects are in etcd:
 *
 *     <prefix>/objects/<plural>/<namespace or ->/<name>       what was applied: one key an object, raw JSON
 *     <prefix>/pods/<node>/<namespace>/<name>                 CNI's pods, on an etcd lease of their node
 *     <prefix>/allocations/clusterip/<address>                namespace/name of the Service that has it
 *     <prefix>/allocations/nodeport/<port>                    the same
 */
import { isDnsLabel, isDnsSubdomain } from '../objects/names.ts';
import type { Kind } from '../objects/types.ts';

export interface KindNames {
  readonly kind: Kind;
  /** Lower case, as in the key. */
  readonly plural: string;
  /** What else `weft get` and `weft delete` take. */
  readonly others: readonly string[];
  readonly isNamespaced: boolean;
}

/** In the order in which they are applied and listed. */
export const KINDS: readonly KindNames[] = [
  {
    kind: 'Namespace',
    plural: 'namespaces',
    others: ['namespace', 'ns'],
    isNamespaced: false,
  },
  {
    kind: 'Node',
    plural: 'nodes',
    others: ['node', 'no'],
    isNamespaced: false,
  },
  {
    kind: 'ClusterNetworkPolicy',
    plural: 'clusternetworkpolicies',
    others: ['clusternetworkpolicy', 'cnp'],
    isNamespaced: false,
  },
  {
    kind: 'NetworkPolicy',
    plural: 'networkpolicies',
    others: ['networkpolicy', 'netpol'],
    isNamespaced: true,
  },
  {
    kind: 'Pod',
    plural: 'pods',
    others: ['pod', 'po'],
    isNamespaced: true,
  },
  {
    kind: 'Service',
    plural: 'services',
    others: ['service', 'svc'],
    isNamespaced: true,
  },
  {
    kind: 'EndpointSlice',
    plural: 'endpointslices',
    others: ['endpointslice', 'eps'],
    isNamespaced: true,
  },
];

/** Any of its names, in any case; null: there is no such kind. */
export function kindOf(text: string): KindNames | null {
  const name = text.toLowerCase();
  return KINDS.find(({ plural, others }) => plural === name || others.includes(name)) ?? null;
}

export const namesOf = (kind: Kind): KindNames => KINDS.find((it) => it.kind === kind)!;

export const objectsPrefix = (prefix: string): string => `${prefix}/objects/`;
export const podsPrefix = (prefix: string): string => `${prefix}/pods/`;
export const nodePodsPrefix = (prefix: string, nodeName: string): string =>
  `${podsPrefix(prefix)}${nodeName}/`;

export interface ObjectName {
  readonly kind: Kind;
  /** '' for objects of the cluster. */
  readonly namespace: string;
  readonly name: string;
}

export const objectKey = (prefix: string, { kind, namespace, name }: ObjectName): string =>
  `${objectsPrefix(prefix)}${namesOf(kind).plural}/${namespace === '' ? '-' : namespace}/${name}`;

/** Null: no object can have this key. */
export function parseObjectKey(prefix: string, key: string): ObjectName | null {
  const start = objectsPrefix(prefix);
  if (!key.startsWith(start)) return null;
  const [plural, namespace, name, ...rest] = key.slice(start.length).split('/');
  const names = KINDS.find((it) => it.plural === plural);
  if (names === undefined || namespace === undefined || name === undefined || rest.length > 0) {
    return null;
  }
  if (names.isNamespaced ? !isDnsLabel(namespace) : namespace !== '-') return null;
  if (!isDnsSubdomain(name)) return null;
  return { kind: names.kind, namespace: namespace === '-' ? '' : namespace, name };
}

export interface CniPodName {
  readonly nodeName: string;
  readonly namespace: string;
  readonly name: string;
}

export function parsePodKey(prefix: string, key: string): CniPodName | null {
  const start = podsPrefix(prefix);
  if (!key.startsWith(start)) return null;
  const [nodeName, namespace, name, ...rest] = key.slice(start.length).split('/');
  if (nodeName === undefined || namespace === undefined || name === undefined) return null;
  if (rest.length > 0 || !isDnsSubdomain(nodeName)) return null;
  return isDnsLabel(namespace) && isDnsSubdomain(name) ? { nodeName, namespace, name } : null;
}

/** Of a Pod that is another interface of a pod: the name of the one that is the pod's. */
export const INTERFACE_OF = 'weft.io/interface-of';
