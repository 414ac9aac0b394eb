/**
 * What each kind must look like, and what it becomes. null is absent; the value sets are strict, because a
 * rule that is half understood is a hole, and so are the fields of policies: `egres` would be one. Of other
 * kinds a part is read, and the rest left out. Every complaint has the path of its field.
 */
import { z } from 'zod';
import { AddressError, type IpAddress, familyOf, parseAddress } from '../wire/address.ts';
import { type Cidr, cidrContains, cidrOf, formatCidr, parseCidr } from '../wire/cidr.ts';
import { nearestField } from './nearest.ts';
import {
  isAnnotationKey,
  isDnsLabel,
  isDnsSubdomain,
  isLabelKey,
  isLabelValue,
  isPortName,
} from './names.ts';
import type {
  ClusterNetworkPolicy,
  ClusterPeer,
  ClusterPolicyRule,
  ClusterPolicyPort,
  ContainerPort,
  Endpoint,
  EndpointSlice,
  Kind,
  LabelSelector,
  Labels,
  Metadata,
  Namespace,
  NetworkPolicy,
  NetworkPolicyPeer,
  NetworkPolicyPort,
  Node,
  Pod,
  Protocol,
  Service,
  ServicePort,
  WeftObject,
} from './types.ts';

export const NAMESPACE_NAME_LABEL = 'kubernetes.io/metadata.name';
const SERVICE_NAME_LABEL = 'kubernetes.io/service-name';
/** Kubernetes' own limit of all annotations together. */
const MAX_ANNOTATION_CHARACTERS = 256 * 1024;

/** A value in a message: short and printable. */
export function show(value: unknown): string {
  if (typeof value === 'string') {
    return JSON.stringify(value.length > 64 ? `${value.slice(0, 64)}…` : value);
  }
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'a mapping' : `${value as number | boolean | undefined}`;
}

export const isMapping = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

type Issue = Omit<z.core.$ZodRawIssue, 'message'>;

const TYPE_NAMES: Readonly<Record<string, string>> = {
  string: 'a text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  object: 'a mapping',
  array: 'a list',
};

/** What zod finds, in the words of a person. Undefined: the check has its own. */
export function reasonOf(issue: Issue): string | undefined {
  const { input } = issue;
  switch (issue.code) {
    case 'invalid_type': {
      if (input === undefined || input === null) return 'is missing';
      const wanted = TYPE_NAMES[String(issue['expected'])] ?? String(issue['expected']);
      const quotes = wanted === 'a text' && typeof input !== 'object' ? '; put it in quotes' : '';
      return `must be ${wanted}, is ${show(input)}${quotes}`;
    }
    case 'invalid_value':
      if (input === undefined || input === null) return 'is missing';
      return `must be ${(issue['values'] as readonly unknown[]).map(show).join(' or ')}, is ${show(input)}`;
    case 'too_big':
    case 'too_small': {
      const [most, bound] =
        issue.code === 'too_big'
          ? ['at most', String(issue['maximum'])]
          : ['at least', String(issue['minimum'])];
      if (Array.isArray(input)) return `must have ${most} ${bound} entries, has ${input.length}`;
      if (typeof input === 'string') return `must have ${most} ${bound} characters`;
      return `must be ${most} ${bound}, is ${show(input)}`;
    }
    default:
      return undefined;
  }
}

/** Says that something is well-formed but not for us, as opposed to wrong. */
export const IGNORED = 'ignored: ';

type Context = z.core.$RefinementCtx;

const complain = (ctx: Context, message: string, ...path: readonly (string | number)[]): void =>
  ctx.addIssue({ code: 'custom', message, path: [...path] });

/** @param fields  those that there are */
export function unknownField(name: string, fields: readonly string[]): string {
  const meant = nearestField(name, fields);
  return `is an unknown field${meant === '' ? '' : `; is ${meant} meant?`}`;
}

/** Fields that the API has elsewhere or has announced: no slips, though one of them is nearly `pods`. */
const LATER: ReadonlySet<string> = new Set(['nodes', 'networks', 'domainNames']);

/** @param isKnown  whether every field must be one of `shape`'s, and not only those that nearly are */
const withoutSlips = <T extends z.ZodRawShape>(
  shape: T,
  isKnown: (given: Readonly<Record<string, unknown>>) => boolean = () => false,
) =>
  z
    .unknown()
    .superRefine((given, ctx) => {
      if (!isMapping(given)) return;
      const fields = Object.keys(shape);
      const isStrict = isKnown(given);
      for (const name of Object.keys(given)) {
        if (fields.includes(name)) continue;
        if (!isStrict && (LATER.has(name) || nearestField(name, fields) === '')) continue;
        complain(ctx, unknownField(name, fields), name);
      }
    })
    .pipe(z.object(shape));

/** Absent and null are `fallback`. */
const optional = <T extends z.ZodType, const D>(schema: T, fallback: D) =>
  schema.nullish().transform((it): NonNullable<z.output<T>> | D => it ?? fallback);

/** Absent, null and '' are null, as they are one for fields that hold an address or a name. */
const given = <T extends z.ZodType>(schema: T) =>
  z
    .unknown()
    .optional()
    .transform((it) => (it === '' ? null : it))
    .pipe(schema.nullish())
    .transform((it): NonNullable<z.output<T>> | null => it ?? null);

/** The same, for names: '' for none. */
const nameOrEmpty = <T extends z.ZodType<string>>(schema: T) =>
  given(schema).transform((it): string => it ?? '');

const listOf = <T extends z.ZodType>(schema: T, most = Infinity) =>
  (most === Infinity ? z.array(schema) : z.array(schema).max(most))
    .nullish()
    .transform((it): readonly z.output<T>[] => it ?? []);

const text = optional(z.string(), '');
const flag = optional(z.boolean(), false);

/** A text that `parse` turns into a value, or that has a complaint. */
const parsed = <T>(parse: (text: string) => T) =>
  z.string().transform((it, ctx): T => {
    try {
      return parse(it);
    } catch (error) {
      if (!(error instanceof AddressError)) throw error;
      complain(ctx, it.length > 64 ? `${show(it)} is too long` : error.message);
      return z.NEVER;
    }
  });

const named = (is: (text: string) => boolean, meaning: string) =>
  z.string().refine(is, { error: ({ input }) => `${show(input)} is not ${meaning}` });

const oneOf = <const T extends readonly string[]>(...values: T) => z.enum(values);

const port = z.number().int().min(1).max(65_535);
const portName = named(
  isPortName,
  'a port name (at most 15 of a-z, 0-9 and single "-", with a letter)',
);
const protocol = optional(oneOf('TCP', 'UDP', 'SCTP'), 'TCP' as const);

/** No traffic from elsewhere has a business with these: not as a Service's, nor as an endpoint's. */
const SPECIAL: readonly Cidr[] = [
  '0.0.0.0/32',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '224.0.0.0/3',
  '::/127',
  '::ffff:0:0/96',
  'fe80::/10',
  'ff00::/8',
].map(parseCidr);

function parseUnicast(it: string): IpAddress {
  const address = parseAddress(it);
  const special = SPECIAL.find((block) => cidrContains(block, address));
  if (special === undefined) return address;
  throw new AddressError(`"${it}" is no address of a pod or Service (${formatCidr(special)})`);
}

/**
 * Host bits may be set, as in Kubernetes, which reads 10.1.2.3/8 as 10.0.0.0/8: a policy that an API
 * server has accepted must not be missing here.
 */
function parseBlock(it: string): Cidr {
  const [, base, length] = /^([0-9a-fA-F:.]{2,45})\/(0|[1-9][0-9]{0,2})$/.exec(it) ?? [];
  if (base === undefined) throw new AddressError(`${show(it)} is not a CIDR block`);
  const address = parseAddress(base);
  if (Number(length) > (familyOf(address) === 4 ? 32 : 128)) {
    throw new AddressError(`"${it}" has an impossible prefix length`);
  }
  const block = cidrOf(address, Number(length));
  if (block.family === 6 && block.length >= 96 && cidrContains(MAPPED, block.base)) {
    throw new AddressError(`"${it}" is an IPv4-mapped block; write it as IPv4`);
  }
  return block;
}
const MAPPED = parseCidr('::ffff:0:0/96');

const unicast = parsed(parseUnicast);
const block = parsed(parseBlock);

/** @param limit of all keys and values together */
const textMap = (
  isKey: (text: string) => boolean,
  isValue: (text: string) => boolean,
  noun: string,
  limit = Infinity,
) =>
  z
    .unknown()
    .optional()
    .transform((value, ctx): Labels => {
      if (value === undefined || value === null) return {};
      if (!isMapping(value)) {
        ctx.addIssue({ code: 'invalid_type', expected: 'object', input: value });
        return z.NEVER;
      }
      const entries: [string, string][] = [];
      let characters = 0;
      for (const [key, it] of Object.entries(value)) {
        const one = it ?? '';
        if (!isKey(key)) complain(ctx, `${show(key)} is not a key of ${noun}s`, key);
        else if (typeof one !== 'string') {
          ctx.addIssue({ code: 'invalid_type', expected: 'string', input: one, path: [key] });
        } else if (!isValue(one)) complain(ctx, `${show(one)} is not a value of ${noun}s`, key);
        else {
          characters += key.length + one.length;
          entries.push([key, one]);
        }
      }
      if (characters > limit) complain(ctx, `has more than ${limit} characters`);
      return Object.fromEntries(entries);
    });

const labels = textMap(isLabelKey, isLabelValue, 'label');
const annotations = textMap(isAnnotationKey, () => true, 'annotation', MAX_ANNOTATION_CHARACTERS);

const EVERYTHING: LabelSelector = { matchLabels: {}, matchExpressions: [] };

const expression = z
  .strictObject({
    key: named(isLabelKey, 'a key of labels'),
    operator: oneOf('In', 'NotIn', 'Exists', 'DoesNotExist'),
    values: listOf(named(isLabelValue, 'a value of labels')),
  })
  .superRefine(({ operator, values }, ctx) => {
    const takesValues = operator === 'In' || operator === 'NotIn';
    if (takesValues && values.length === 0) complain(ctx, `${operator} needs values`, 'values');
    if (!takesValues && values.length > 0) complain(ctx, `${operator} takes no values`, 'values');
  });
const selector = z.strictObject({ matchLabels: labels, matchExpressions: listOf(expression) });

const metadataOf = (name: z.ZodType<string>, namespaced: boolean) =>
  z.object({
    name,
    namespace: namespaced
      ? optional(named(isDnsLabel, "a namespace's name (RFC 1123 label)"), 'default')
      : z
          .unknown()
          .optional()
          .transform(() => ''),
    labels,
    annotations,
    deletionTimestamp: z.string().nullish(),
  });

/** metav1.ObjectMeta's others: what is none of its fields might have been `namespace`. */
const ignoredField = z.unknown().optional();
const policyMetadataOf = (name: z.ZodType<string>, namespaced: boolean) =>
  z.strictObject({
    ...metadataOf(name, namespaced).shape,
    generateName: ignoredField,
    uid: ignoredField,
    resourceVersion: ignoredField,
    generation: ignoredField,
    creationTimestamp: ignoredField,
    deletionGracePeriodSeconds: ignoredField,
    ownerReferences: ignoredField,
    finalizers: ignoredField,
    managedFields: ignoredField,
    selfLink: ignoredField,
  });
/** What else stands beside them, such as an anchor's mapping, is nobody's. */
const policyFields = { apiVersion: ignoredField, kind: ignoredField, status: ignoredField };

type GivenMetadata = Metadata & { readonly deletionTimestamp?: string | null | undefined };

const metadata = ({ name, namespace, labels, annotations }: GivenMetadata): Metadata => ({
  name,
  namespace,
  labels,
  annotations,
});

const label = named(isDnsLabel, 'a name (at most 63 of a-z, 0-9 and "-": RFC 1123 label)');
const subdomain = named(isDnsSubdomain, 'a name (a-z, 0-9, "-" and ".": RFC 1123 subdomain)');

const namespace = z
  .object({
    metadata: metadataOf(label, false),
    status: z.object({ phase: optional(oneOf('Active', 'Terminating'), 'Active') }).nullish(),
  })
  .transform((it): Namespace => {
    const given = metadata(it.metadata);
    const terminating = (it.metadata.deletionTimestamp ?? '') !== '';
    return {
      kind: 'Namespace',
      metadata: { ...given, labels: { ...given.labels, [NAMESPACE_NAME_LABEL]: given.name } },
      phase: terminating ? 'Terminating' : (it.status?.phase ?? 'Active'),
    };
  });

const containerPort = z.object({
  name: nameOrEmpty(portName),
  containerPort: port,
  protocol,
});
const container = z.object({ ports: listOf(containerPort), restartPolicy: text });

/** At most one address of each family: the first. */
function eachFamily(addresses: readonly IpAddress[], ctx: Context, ...path: string[]) {
  const families = addresses.map(familyOf);
  if (new Set(families).size < families.length) {
    complain(ctx, 'must have at most one address of each family', ...path);
  }
}

const pod = z
  .object({
    metadata: metadataOf(subdomain, true),
    spec: z
      .object({
        nodeName: text,
        hostNetwork: flag,
        containers: listOf(container),
        initContainers: listOf(container),
      })
      .nullish(),
    status: z
      .object({
        phase: given(oneOf('Pending', 'Running', 'Succeeded', 'Failed', 'Unknown')),
        podIP: given(unicast),
        podIPs: listOf(z.object({ ip: unicast }), 64),
        conditions: listOf(z.object({ type: z.string(), status: z.string() })),
      })
      .nullish(),
  })
  .transform((it, ctx): Pod => {
    const { spec, status } = it;
    const single = status?.podIP ?? null;
    const listed = (status?.podIPs ?? []).map(({ ip }) => ip);
    const podIPs = listed.length > 0 ? listed : single === null ? [] : [single];
    eachFamily(podIPs, ctx, 'status', 'podIPs');
    // One that somebody wrote by hand, with its addresses, is meant to run.
    const phase = status?.phase ?? (podIPs.length > 0 ? 'Running' : 'Pending');
    const conditions = status?.conditions ?? [];
    const ports: ContainerPort[] = [
      ...(spec?.containers ?? []),
      ...(spec?.initContainers ?? []).filter((one) => one.restartPolicy === 'Always'),
    ].flatMap((one) => one.ports);
    return {
      kind: 'Pod',
      metadata: metadata(it.metadata),
      nodeName: spec?.nodeName ?? '',
      hostNetwork: spec?.hostNetwork ?? false,
      ports,
      podIPs,
      phase,
      ready:
        conditions.length === 0
          ? phase === 'Running'
          : conditions.some(({ type, status }) => type === 'Ready' && status === 'True'),
      terminating: (it.metadata.deletionTimestamp ?? '') !== '',
    };
  });

/** Null where it is a name. */
function addressOrNull(it: string): IpAddress | null {
  try {
    return it.length > 64 ? null : parseUnicast(it);
  } catch (error) {
    if (error instanceof AddressError) return null;
    throw error;
  }
}

const node = z
  .object({
    metadata: metadataOf(subdomain, false),
    spec: z.object({ podCIDR: given(block), podCIDRs: listOf(block, 16) }).nullish(),
    status: z
      .object({ addresses: listOf(z.object({ type: z.string(), address: z.string() }), 256) })
      .nullish(),
  })
  .transform((it): Node => {
    const single = it.spec?.podCIDR ?? null;
    const listed = it.spec?.podCIDRs ?? [];
    return {
      kind: 'Node',
      metadata: metadata(it.metadata),
      addresses: (it.status?.addresses ?? [])
        .filter(({ type }) => type === 'InternalIP' || type === 'ExternalIP')
        .map(({ address }) => addressOrNull(address))
        .filter((address) => address !== null),
      podCidrs: listed.length > 0 ? listed : single === null ? [] : [single],
    };
  });

const servicePort = z
  .object({
    name: nameOrEmpty(label),
    protocol,
    port,
    targetPort: z
      .union([z.literal(0), port, z.literal(''), portName], {
        error: ({ input }) => `${show(input)} is neither 1..65535 nor a container port's name`,
      })
      .nullish(),
    nodePort: optional(z.number().int().min(0).max(65_535), 0),
  })
  .transform((it): ServicePort => ({ ...it, targetPort: it.targetPort || it.port }));

const clusterIp = parsed((it): IpAddress | 'None' => (it === 'None' ? it : parseUnicast(it)));

const service = z
  .object({
    metadata: metadataOf(label, true),
    spec: z.object({
      type: optional(oneOf('ClusterIP', 'NodePort', 'LoadBalancer', 'ExternalName'), 'ClusterIP'),
      clusterIP: given(clusterIp),
      clusterIPs: listOf(clusterIp, 2),
      ports: listOf(servicePort),
      selector: labels,
      externalName: text,
      externalIPs: listOf(unicast),
      loadBalancerSourceRanges: listOf(parsed((it) => parseBlock(it.trim()))),
      sessionAffinity: given(oneOf('None', 'ClientIP')),
      sessionAffinityConfig: z
        .object({
          clientIP: z
            .object({ timeoutSeconds: z.number().int().min(1).max(86_400).nullish() })
            .nullish(),
        })
        .nullish(),
      internalTrafficPolicy: given(oneOf('Cluster', 'Local')),
      externalTrafficPolicy: given(oneOf('Cluster', 'Local')),
      healthCheckNodePort: optional(z.number().int().min(0).max(65_535), 0),
      trafficDistribution: given(oneOf('PreferClose', 'PreferSameZone', 'PreferSameNode')),
      publishNotReadyAddresses: flag,
    }),
    status: z
      .object({
        loadBalancer: z
          .object({
            ingress: listOf(
              z.object({
                ip: given(unicast),
                ipMode: oneOf('VIP', 'Proxy').nullish(),
              }),
            ),
          })
          .nullish(),
      })
      .nullish(),
  })
  .transform((it, ctx): Service => {
    const { spec } = it;
    const first = spec.clusterIP === null ? [] : [spec.clusterIP];
    const listed = spec.clusterIPs.length > 0 ? spec.clusterIPs : first;
    const headless = listed[0] === 'None';
    const clusterIPs = listed.filter((one) => one !== 'None');
    const isExternalName = spec.type === 'ExternalName';
    if (spec.clusterIP !== null && spec.clusterIP !== listed[0]) {
      complain(ctx, 'must begin with clusterIP', 'spec', 'clusterIPs');
    }
    if (listed.includes('None') && listed.length > 1) {
      complain(ctx, '"None" stands alone', 'spec', 'clusterIPs');
    }
    eachFamily(clusterIPs, ctx, 'spec', 'clusterIPs');
    if (headless && (spec.type === 'NodePort' || spec.type === 'LoadBalancer')) {
      complain(ctx, `"None" is not for ${spec.type}`, 'spec', 'clusterIP');
    }
    if (isExternalName) {
      if (clusterIPs.length > 0) complain(ctx, 'is not for ExternalName', 'spec', 'clusterIPs');
      const name = spec.externalName.replace(/\.$/, '');
      if (!isDnsSubdomain(name)) {
        complain(ctx, `${show(spec.externalName)} is not a DNS name`, 'spec', 'externalName');
      }
    } else if (!headless && spec.ports.length === 0) {
      complain(ctx, 'must have at least one port', 'spec', 'ports');
    }
    checkPorts(spec.type, spec.ports, ctx);
    const seconds = spec.sessionAffinityConfig?.clientIP?.timeoutSeconds ?? null;
    if (seconds !== null && spec.sessionAffinity !== 'ClientIP') {
      complain(ctx, 'is for sessionAffinity ClientIP', 'spec', 'sessionAffinityConfig');
    }
    return {
      kind: 'Service',
      metadata: metadata(it.metadata),
      type: spec.type,
      clusterIPs,
      headless,
      ports: spec.ports,
      selector: Object.keys(spec.selector).length === 0 ? null : spec.selector,
      externalIPs: spec.externalIPs,
      loadBalancerIPs: (it.status?.loadBalancer?.ingress ?? [])
        .filter(({ ipMode }) => ipMode !== 'Proxy')
        .map(({ ip }) => ip)
        .filter((ip) => ip !== null),
      loadBalancerSourceRanges: spec.loadBalancerSourceRanges,
      sessionAffinity: spec.sessionAffinity ?? 'None',
      affinityTimeoutS: seconds ?? 10_800,
      internalTrafficPolicy: spec.internalTrafficPolicy ?? 'Cluster',
      externalTrafficPolicy: spec.externalTrafficPolicy ?? 'Cluster',
      healthCheckNodePort: spec.healthCheckNodePort,
      trafficDistribution:
        spec.trafficDistribution === 'PreferClose'
          ? 'PreferSameZone'
          : (spec.trafficDistribution ?? ''),
      publishNotReadyAddresses: spec.publishNotReadyAddresses,
    };
  });

/** What is said twice is meant once: which of the two, nobody could tell. */
function checkPorts(type: Service['type'], ports: readonly ServicePort[], ctx: Context): void {
  const seen = new Map<string, number>();
  const once = (key: string, at: number, field: string): void => {
    const first = seen.get(key);
    if (first === undefined) seen.set(key, at);
    else complain(ctx, `is the same as ports[${first}]'s`, 'spec', 'ports', at, field);
  };
  for (const [at, { name, protocol, port, nodePort }] of ports.entries()) {
    if (name === '' && ports.length > 1) {
      complain(ctx, 'is missing: one of several ports has a name', 'spec', 'ports', at, 'name');
    }
    if (name !== '') once(`name ${name}`, at, 'name');
    once(`${protocol} ${port}`, at, 'port');
    if (nodePort === 0) continue;
    once(`node ${protocol} ${nodePort}`, at, 'nodePort');
    if (type !== 'NodePort' && type !== 'LoadBalancer') {
      complain(ctx, `is not for ${type}`, 'spec', 'ports', at, 'nodePort');
    }
  }
}

const hints = listOf(z.object({ name: z.string() })).transform((it) => it.map(({ name }) => name));

const endpoint = z
  .object({
    addresses: z.array(unicast).min(1).max(100),
    conditions: z
      .object({
        ready: optional(z.boolean(), true),
        serving: optional(z.boolean(), true),
        terminating: flag,
      })
      .nullish(),
    nodeName: text,
    zone: text,
    hints: z.object({ forZones: hints, forNodes: hints }).nullish(),
  })
  .transform((it): Endpoint => ({
    addresses: it.addresses,
    ready: it.conditions?.ready ?? true,
    serving: it.conditions?.serving ?? true,
    terminating: it.conditions?.terminating ?? false,
    nodeName: it.nodeName,
    zone: it.zone,
    hintsForZones: it.hints?.forZones ?? [],
    hintsForNodes: it.hints?.forNodes ?? [],
  }));

const endpointSlice = z
  .object({
    metadata: metadataOf(subdomain, true),
    addressType: z.enum(['IPv4', 'IPv6'], {
      error: (issue) =>
        issue.input === 'FQDN' ? `${IGNORED}names have no address to send to` : reasonOf(issue),
    }),
    endpoints: listOf(endpoint, 1000),
    ports: listOf(
      z.object({
        name: nameOrEmpty(label),
        protocol,
        port: optional(z.number().int().min(0).max(65_535), 0),
      }),
      20_000,
    ),
  })
  .transform((it, ctx): EndpointSlice => {
    const family = it.addressType === 'IPv4' ? 4 : 6;
    for (const [at, { addresses }] of it.endpoints.entries()) {
      const other = addresses.findIndex((address) => familyOf(address) !== family);
      if (other === -1) continue;
      complain(ctx, `is not ${it.addressType}`, 'endpoints', at, 'addresses', other);
    }
    const names = new Map<string, number>();
    for (const [at, { name }] of it.ports.entries()) {
      const first = names.get(name);
      if (first === undefined) names.set(name, at);
      else complain(ctx, `is the same as ports[${first}]'s`, 'ports', at, 'name');
    }
    return {
      kind: 'EndpointSlice',
      metadata: metadata(it.metadata),
      addressType: it.addressType,
      serviceName: Object.hasOwn(it.metadata.labels, SERVICE_NAME_LABEL)
        ? it.metadata.labels[SERVICE_NAME_LABEL]!
        : '',
      endpoints: it.endpoints,
      ports: it.ports,
    };
  });

const peer = z
  .strictObject({
    ipBlock: z.strictObject({ cidr: block, except: listOf(block) }).nullish(),
    podSelector: selector.nullish(),
    namespaceSelector: selector.nullish(),
  })
  .transform((it, ctx): NetworkPolicyPeer => {
    const podSelector = it.podSelector ?? null;
    const namespaceSelector = it.namespaceSelector ?? null;
    const ipBlock = it.ipBlock ?? null;
    if (ipBlock === null) {
      if (podSelector === null && namespaceSelector === null) {
        complain(ctx, 'must have podSelector, namespaceSelector or ipBlock');
      }
      return { podSelector, namespaceSelector };
    }
    if (podSelector !== null || namespaceSelector !== null) {
      complain(
        ctx,
        'ipBlock stands alone: podSelector and namespaceSelector go into another entry',
      );
    }
    for (const [at, inner] of ipBlock.except.entries()) {
      if (inner.length > ipBlock.cidr.length && cidrContains(ipBlock.cidr, inner.base)) continue;
      const whole = formatCidr(ipBlock.cidr);
      complain(ctx, `${formatCidr(inner)} is not a part of ${whole}`, 'ipBlock', 'except', at);
    }
    return { ipBlock };
  });

const policyPort = z
  .strictObject({
    protocol,
    port: z
      .union([port, portName], {
        error: ({ input }) => `${show(input)} is neither 1..65535 nor a container port's name`,
      })
      .nullish(),
    endPort: port.nullish(),
  })
  .transform((it, ctx): NetworkPolicyPort => {
    const from = it.port ?? null;
    const to = it.endPort ?? null;
    if (to !== null && typeof from !== 'number') complain(ctx, 'needs a numeric port', 'endPort');
    if (to !== null && typeof from === 'number' && to < from) {
      complain(ctx, `must be at least port ${from}, is ${to}`, 'endPort');
    }
    return { protocol: it.protocol, port: from, endPort: to };
  });

const ports = listOf(policyPort);
const peers = listOf(peer);
const networkPolicy = withoutSlips({
  ...policyFields,
  metadata: policyMetadataOf(subdomain, true),
  spec: z
    .strictObject({
      podSelector: optional(selector, EVERYTHING),
      policyTypes: listOf(oneOf('Ingress', 'Egress')),
      ingress: listOf(
        z
          .strictObject({ from: peers, ports })
          .transform((it) => ({ peers: it.from, ports: it.ports })),
      ),
      egress: listOf(
        z.strictObject({ to: peers, ports }).transform((it) => ({ peers: it.to, ports: it.ports })),
      ),
    })
    .nullish(),
}).transform((it): NetworkPolicy => {
  const given = new Set(it.spec?.policyTypes ?? []);
  const ingress = it.spec?.ingress ?? [];
  const egress = it.spec?.egress ?? [];
  const byRules: NetworkPolicy['policyTypes'] =
    egress.length > 0 ? ['Ingress', 'Egress'] : ['Ingress'];
  return {
    kind: 'NetworkPolicy',
    metadata: metadata(it.metadata),
    podSelector: it.spec?.podSelector ?? EVERYTHING,
    policyTypes: given.size > 0 ? [...given] : byRules,
    ingress,
    egress,
  };
});

/** The names of those that are there. */
const present = (fields: Readonly<Record<string, unknown>>): readonly string[] =>
  Object.keys(fields).filter((name) => fields[name] !== undefined && fields[name] !== null);

/**
 * One of `shape`'s fields. One that is none of them, alone, is a later version's, and what it would have
 * meant fails closed; beside one of them, or with nearly the name of one, it is a slip.
 */
const oneField = <T extends z.ZodRawShape>(shape: T) =>
  withoutSlips(shape, (given) => Object.keys(shape).some((name) => (given[name] ?? '') !== ''));

const pods = z.strictObject({
  namespaceSelector: optional(selector, EVERYTHING),
  podSelector: selector,
});

const ingressFields = { namespaces: selector.nullish(), pods: pods.nullish() };
const egressFields = {
  ...ingressFields,
  nodes: selector.nullish(),
  networks: z.array(block).min(1).max(25).nullish(),
};
type PeerFields = z.output<z.ZodObject<typeof egressFields>>;

function toPeer(it: Partial<PeerFields>, ctx: Context): ClusterPeer {
  const names = present(it);
  if (names.length > 1) complain(ctx, `must have one of ${names.join(', ')}, not all of them`);
  if (it.namespaces) return { type: 'namespaces', namespaceSelector: it.namespaces };
  if (it.pods) return { type: 'pods', ...it.pods };
  if (it.nodes) return { type: 'nodes', nodeSelector: it.nodes };
  if (it.networks) return { type: 'networks', networks: it.networks };
  return { type: 'unknown' };
}

/** Nodes and networks are none of an ingress peer's fields: unknown, and so fail closed. */
const ingressPeer = oneField(ingressFields).transform(toPeer);
const egressPeer = oneField(egressFields).transform(toPeer);

const transport = oneField({
  destinationPort: oneField({
    number: port.nullish(),
    range: z.strictObject({ start: port, end: port }).nullish(),
  })
    .transform((it, ctx) => {
      if (it.number && it.range) complain(ctx, 'must have number or range, not both');
      if (it.range && it.range.end <= it.range.start) {
        complain(ctx, `must be more than start ${it.range.start}`, 'range', 'end');
      }
      return it.range ?? (it.number ? { start: it.number, end: it.number } : null);
    })
    .nullish(),
}).nullish();

const clusterPort = oneField({
  tcp: transport,
  udp: transport,
  sctp: transport,
  destinationNamedPort: nameOrEmpty(portName),
}).transform((it, ctx): ClusterPolicyPort => {
  const given = (['tcp', 'udp', 'sctp'] as const).filter((name) => it[name]);
  const names = [...given, ...(it.destinationNamedPort === '' ? [] : ['destinationNamedPort'])];
  if (names.length > 1) complain(ctx, `must have one of ${names.join(', ')}, not all of them`);
  const [name] = given;
  if (name === undefined) {
    const portName = it.destinationNamedPort;
    return { protocol: null, range: null, portName, unknown: portName === '' };
  }
  // Without a port there was a field that we do not know: `tcp: {}` alone is not allowed.
  const range = it[name]?.destinationPort ?? null;
  const protocol = name.toUpperCase() as Protocol;
  return { protocol, range, portName: '', unknown: range === null };
});

const ruleName = optional(z.string().max(100), '');
const action = oneOf('Accept', 'Deny', 'Pass');
const protocols = optional(z.array(clusterPort).min(1).max(25), []);

const ingressRule = z
  .strictObject({ name: ruleName, action, from: z.array(ingressPeer).min(1).max(25), protocols })
  .transform(({ name, action, from, protocols }) => ({
    name,
    action,
    peers: from,
    ports: protocols,
  }));

const egressRule = z
  .strictObject({ name: ruleName, action, to: z.array(egressPeer).min(1).max(25), protocols })
  .transform(({ name, action, to, protocols }, ctx) => {
    const outside = to.some(({ type }) => type === 'nodes' || type === 'networks');
    const at = protocols.findIndex(({ portName }) => portName !== '');
    if (outside && at !== -1) {
      complain(ctx, 'nodes and networks have no port names', 'protocols', at);
    }
    return { name, action, peers: to, ports: protocols };
  });

const clusterNetworkPolicySpec = z.strictObject({
  tier: oneOf('Admin', 'Baseline'),
  priority: z.number().int().min(0).max(1000),
  subject: ingressPeer.superRefine((it, ctx) => {
    if (it.type === 'unknown') complain(ctx, 'must have namespaces or pods');
  }),
  ingress: listOf(ingressRule, 25),
  egress: listOf(egressRule, 25),
});

const clusterNetworkPolicy = withoutSlips({
  ...policyFields,
  metadata: policyMetadataOf(subdomain, false),
  spec: clusterNetworkPolicySpec,
}).transform(({ metadata: given, spec }): ClusterNetworkPolicy => ({
  kind: 'ClusterNetworkPolicy',
  metadata: metadata(given),
  ...spec,
}));

/** Isolates the pods that it selects, if that much can be told, else all of its namespace. */
const networkPolicyStandIn = z
  .object({
    metadata: policyMetadataOf(subdomain, true),
    spec: z.object({ podSelector: optional(selector, EVERYTHING) }).catch({
      podSelector: EVERYTHING,
    }),
  })
  .transform(({ metadata: given, spec }): NetworkPolicy => ({
    kind: 'NetworkPolicy',
    metadata: metadata(given),
    podSelector: spec.podSelector,
    policyTypes: ['Ingress', 'Egress'],
    ingress: [],
    egress: [],
  }));

/** A rule that is not valid is as one whose peers nobody knows: see ClusterPeer. */
const rulesStandIn = (rule: z.ZodType<ClusterPolicyRule>) =>
  z.array(z.unknown()).transform((rules): readonly ClusterPolicyRule[] =>
    rules.flatMap((it) => {
      const result = rule.safeParse(it);
      if (result.success) return [result.data];
      const given = action.safeParse(isMapping(it) ? it['action'] : undefined).data ?? 'Deny';
      if (given === 'Accept') return [];
      return [{ name: '', action: given, peers: [{ type: 'unknown' }], ports: [] }];
    }),
  );

const clusterNetworkPolicyStandIn = z
  .object({
    metadata: policyMetadataOf(subdomain, false),
    spec: z.object({
      ...clusterNetworkPolicySpec.shape,
      ingress: rulesStandIn(ingressRule).catch([]),
      egress: rulesStandIn(egressRule).catch([]),
    }),
  })
  .transform(({ metadata: given, spec }): ClusterNetworkPolicy => ({
    kind: 'ClusterNetworkPolicy',
    metadata: metadata(given),
    ...spec,
  }));

export interface KindSchema {
  readonly apiVersion: string;
  readonly namespaced: boolean;
  readonly schema: z.ZodType<WeftObject>;
  /** What reads more, and allows less. */
  readonly standIn?: z.ZodType<WeftObject>;
}

export const KINDS: Readonly<Record<Kind, KindSchema>> = {
  Namespace: { apiVersion: 'v1', namespaced: false, schema: namespace },
  Pod: { apiVersion: 'v1', namespaced: true, schema: pod },
  Node: { apiVersion: 'v1', namespaced: false, schema: node },
  Service: { apiVersion: 'v1', namespaced: true, schema: service },
  EndpointSlice: { apiVersion: 'discovery.k8s.io/v1', namespaced: true, schema: endpointSlice },
  NetworkPolicy: {
    apiVersion: 'networking.k8s.io/v1',
    namespaced: true,
    schema: networkPolicy,
    standIn: networkPolicyStandIn,
  },
  ClusterNetworkPolicy: {
    apiVersion: 'policy.networking.k8s.io/v1alpha2',
    namespaced: false,
    schema: clusterNetworkPolicy,
    standIn: clusterNetworkPolicyStandIn,
  },
};
