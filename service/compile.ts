/**
 * Services and EndpointSlices become the table of table.ts, as this node needs it. What depends on objects
 * that did not change is kept, Service by Service; the table is put together anew every time.
 */
import {
  type EndpointSlice,
  type ObjectSet,
  PROTOCOL_NUMBERS,
  type Pod,
  type Service,
  type ServicePort,
  describeObject,
} from '../objects/types.ts';
import {
  type Family,
  type IpAddress,
  familyOf,
  formatAddress,
  ipv6Words,
} from '../wire/address.ts';
import { type Cidr, cidrContains, lastOf } from '../wire/cidr.ts';
import { mix } from '../wire/flow-key.ts';
import { type Choice, type NodePlace, choose } from './choose.ts';
import {
  type ServiceEndpoint,
  endpointsOf,
  podsByNamespace,
  slicesByService,
} from './endpoints.ts';
import {
  BACKEND_ID,
  BACKEND_PORT,
  BACKEND_WORDS,
  EMPTY_SERVICE_TABLE,
  FRONTEND_AFFINITY_S,
  FRONTEND_INSIDE,
  FRONTEND_KEY,
  FRONTEND_OUTSIDE,
  FRONTEND_RANGES,
  FRONTEND_RANGES_COUNT,
  FRONTEND_SERVING,
  FRONTEND_TRAITS,
  FRONTEND_WORDS,
  RANGE_WORDS,
  type ServiceTable,
  TRAIT_ELSEWHERE_INSIDE,
  TRAIT_ELSEWHERE_OUTSIDE,
  TRAIT_HIDES,
  TRAIT_IPV6,
  TRAIT_NODE,
  hashAddress,
} from './table.ts';

export interface ServiceInputs {
  readonly objects: ObjectSet;
  readonly nodeName: string;
  /** Node ports are served on these. Another address, another array. */
  readonly nodeAddresses: readonly IpAddress[];
  readonly serviceNetworks: readonly Cidr[];
  /** In which Services may claim externalIPs; they would intercept others' traffic elsewhere. */
  readonly externalIpBlocks: readonly Cidr[];
}

/** What the host has to lead into the TUN, for it would take or route it itself. */
export interface Steered {
  readonly protocol: number;
  readonly address: IpAddress;
  readonly port: number;
}

export interface HealthCheck {
  readonly port: number;
  readonly namespace: string;
  readonly name: string;
  readonly localEndpoints: number;
}

export interface CompiledServices {
  readonly table: ServiceTable;
  readonly steered: readonly Steered[];
  readonly healthChecks: readonly HealthCheck[];
  readonly problems: readonly string[];
}

/** Objects that somebody else serves (KEP-2447). */
const PROXY_NAME = 'service.kubernetes.io/service-proxy-name';
const ZONE = 'topology.kubernetes.io/zone';

export type FrontendKind = 'cluster' | 'node' | 'external' | 'loadBalancer';

export interface Frontend {
  readonly kind: FrontendKind;
  readonly address: IpAddress;
  readonly port: number;
}

/** Left alone: nobody's frontend. */
export const isServed = ({ type, headless, metadata }: Service): boolean =>
  type !== 'ExternalName' && !headless && !Object.hasOwn(metadata.labels, PROXY_NAME);

/** Where clients reach the port. */
export function frontendsOf(
  service: Service,
  port: ServicePort,
  { nodeAddresses, externalIpBlocks }: Pick<ServiceInputs, 'nodeAddresses' | 'externalIpBlocks'>,
): readonly Frontend[] {
  const of = (kind: FrontendKind, addresses: readonly IpAddress[], number = port.port) =>
    addresses.map((address) => ({ kind, address, port: number }));
  const families = new Set(service.clusterIPs.map(familyOf));
  const external = service.externalIPs.filter((address) =>
    externalIpBlocks.some((block) => cidrContains(block, address)),
  );
  const nodes = nodeAddresses.filter((address) => families.has(familyOf(address)));
  return [
    ...of('cluster', service.clusterIPs),
    ...of('external', external),
    ...(service.type === 'LoadBalancer' ? of('loadBalancer', service.loadBalancerIPs) : []),
    ...(port.nodePort === 0 ? [] : of('node', nodes, port.nodePort)),
  ];
}

/** One Service, encoded; its lists count from its own first backend. */
interface Segment {
  readonly sources: readonly unknown[];
  readonly frontends: Uint32Array;
  readonly backends: Uint32Array;
  readonly ranges: Uint32Array;
  readonly steered: readonly Steered[];
  readonly healthCheck: HealthCheck | null;
  readonly problems: readonly string[];
}

export const wordsOf = (address: IpAddress): readonly number[] =>
  typeof address === 'number' ? [address, 0, 0, 0] : ipv6Words(address);

const rangeWords = (blocks: readonly Cidr[]): Uint32Array =>
  Uint32Array.from(blocks.flatMap((it) => [...wordsOf(it.base), ...wordsOf(lastOf(it))]));

const isSame = (a: readonly unknown[], b: readonly unknown[]): boolean =>
  a.length === b.length && a.every((it, i) => it === b[i]);

export class ServiceCompiler {
  #segments = new Map<string, Segment>();
  #inputs: ServiceInputs | null = null;
  #place: NodePlace = { nodeName: '', zone: '' };
  #slices: ReadonlyMap<string, readonly EndpointSlice[]> = new Map();
  #pods: ReadonlyMap<string, readonly Pod[]> = new Map();
  #generation = 0;
  #result: CompiledServices | null = null;

  compile(inputs: ServiceInputs): CompiledServices {
    const { objects, nodeName, nodeAddresses, serviceNetworks, externalIpBlocks } = inputs;
    const last = this.#inputs;
    const zone = objects.nodes.get(`/${nodeName}`)?.metadata.labels[ZONE] ?? '';
    const isSameNode =
      last !== null &&
      isSame(last.nodeAddresses, nodeAddresses) &&
      last.nodeName === nodeName &&
      isSame(last.serviceNetworks, serviceNetworks) &&
      isSame(last.externalIpBlocks, externalIpBlocks) &&
      this.#place.zone === zone &&
      last.objects.nodes === objects.nodes;
    const isUnchanged =
      isSameNode &&
      last.objects.services === objects.services &&
      last.objects.endpointSlices === objects.endpointSlices &&
      last.objects.pods === objects.pods;
    if (isUnchanged && this.#result !== null) return this.#result;
    if (!isSameNode) this.#segments.clear();
    this.#place = { nodeName, zone };
    if (last?.objects.endpointSlices !== objects.endpointSlices) {
      this.#slices = slicesByService(objects.endpointSlices.values());
    }
    if (last?.objects.pods !== objects.pods) this.#pods = podsByNamespace(objects.pods.values());
    this.#inputs = inputs;
    const segments = new Map<string, Segment>();
    let changed = !isSameNode || this.#result === null;
    for (const [key, service] of objects.services) {
      if (!isServed(service)) continue;
      const before = this.#segments.get(key);
      const segment = this.#segmentOf(key, service, before);
      if (segment !== before) changed = true;
      segments.set(key, segment);
    }
    changed ||= segments.size !== this.#segments.size;
    this.#segments = segments;
    if (changed || this.#result === null) this.#result = this.#join(inputs);
    return this.#result;
  }

  #segmentOf(key: string, service: Service, before: Segment | undefined): Segment {
    const slices = this.#slices.get(key) ?? [];
    const isDerived = slices.length === 0 && service.selector !== null;
    const pods = isDerived ? (this.#pods.get(service.metadata.namespace) ?? []) : [];
    const sources = [service, ...slices, ...pods];
    if (before !== undefined && isSame(before.sources, sources)) return before;
    return this.#encode(service, slices, pods, sources);
  }

  #encode(
    service: Service,
    slices: readonly EndpointSlice[],
    pods: readonly Pod[],
    sources: readonly unknown[],
  ): Segment {
    const { objects } = this.#inputs!;
    const frontends: number[] = [];
    const backends: number[] = [];
    const steered: Steered[] = [];
    const problems: string[] = [];
    const ranges = rangeWords(service.loadBalancerSourceRanges);
    const local = new Set<string>();
    for (const port of service.ports) {
      const byFamily = new Map<Family, readonly ServiceEndpoint[]>();
      const endpointsFor = (family: Family): readonly ServiceEndpoint[] => {
        let found = byFamily.get(family);
        if (found === undefined) {
          found = endpointsOf(service, port, family, slices, pods, objects);
          byFamily.set(family, found);
        }
        return found;
      };
      /** Lists that are the same stand there once. */
      const lists = new Map<string, readonly [number, number]>();
      const listOf = (endpoints: readonly ServiceEndpoint[]): readonly [number, number] => {
        const text = endpoints.map((it) => `${it.address} ${it.port}`).join();
        const known = lists.get(text);
        if (known !== undefined) return known;
        const list = [backends.length, endpoints.length] as const;
        for (const it of endpoints) backends.push(...backendWords(it));
        lists.set(text, list);
        return list;
      };
      for (const { kind, address, port: number } of frontendsOf(service, port, this.#inputs!)) {
        const family = familyOf(address);
        const endpoints = endpointsFor(family);
        const pick = (policy: 'Cluster' | 'Local'): Choice =>
          choose(service, endpoints, this.#place, policy);
        const isCluster = kind === 'cluster';
        const inside = pick(isCluster ? service.internalTrafficPolicy : 'Cluster');
        const outside = isCluster ? inside : pick(service.externalTrafficPolicy);
        const hides = !isCluster && service.externalTrafficPolicy === 'Cluster';
        const words = Array.from<number>({ length: FRONTEND_WORDS }).fill(0);
        wordsOf(address).forEach((word, i) => (words[i] = word));
        const protocol = PROTOCOL_NUMBERS[port.protocol];
        words[FRONTEND_KEY] = (protocol << 16) | number;
        words[FRONTEND_TRAITS] =
          (family === 6 ? TRAIT_IPV6 : 0) |
          (hides ? TRAIT_HIDES : 0) |
          (inside.isElsewhere ? TRAIT_ELSEWHERE_INSIDE : 0) |
          (outside.isElsewhere ? TRAIT_ELSEWHERE_OUTSIDE : 0) |
          (kind === 'node' ? TRAIT_NODE : 0);
        words[FRONTEND_AFFINITY_S] =
          service.sessionAffinity === 'ClientIP' ? service.affinityTimeoutS : 0;
        const put = (at: number, [first, count]: readonly [number, number]): void => {
          words[at] = first;
          words[at + 1] = count;
        };
        put(FRONTEND_INSIDE, listOf(inside.endpoints));
        put(FRONTEND_OUTSIDE, listOf(outside.endpoints));
        put(FRONTEND_SERVING, listOf(endpoints.filter((it) => it.ready || it.serving)));
        if (kind === 'loadBalancer') words[FRONTEND_RANGES_COUNT] = ranges.length / RANGE_WORDS;
        frontends.push(...words);
        if (!isCluster) steered.push({ protocol, address, port: number });
      }
      if (service.healthCheckNodePort !== 0) {
        for (const family of [4, 6] as const) {
          const { endpoints } = choose(service, endpointsFor(family), this.#place, 'Local');
          for (const it of endpoints) local.add(formatAddress(it.address));
        }
      }
    }
    const refused = service.externalIPs.filter(
      (address) => !this.#inputs!.externalIpBlocks.some((block) => cidrContains(block, address)),
    );
    if (refused.length > 0) {
      problems.push(
        `${describeObject(service)}: spec.externalIPs ${refused.map(formatAddress).join(', ')} ` +
          'are not served: they lie in no block of --external-ip-blocks',
      );
    }
    const { namespace, name } = service.metadata;
    return {
      sources,
      frontends: Uint32Array.from(frontends),
      backends: Uint32Array.from(backends),
      ranges,
      steered,
      healthCheck:
        service.healthCheckNodePort === 0
          ? null
          : {
              port: service.healthCheckNodePort,
              namespace,
              name,
              localEndpoints: local.size,
            },
      problems,
    };
  }

  #join(inputs: ServiceInputs): CompiledServices {
    const keys = [...this.#segments.keys()].toSorted();
    const segments = keys.map((key) => this.#segments.get(key)!);
    const sum = (of: (it: Segment) => number): number =>
      segments.reduce((all, it) => all + of(it), 0);
    const frontends = new Uint32Array(sum((it) => it.frontends.length));
    const backends = new Uint32Array(sum((it) => it.backends.length));
    const ranges = new Uint32Array(sum((it) => it.ranges.length));
    const count = frontends.length / FRONTEND_WORDS;
    let capacity = 16;
    while (capacity < count * 2) capacity *= 2;
    const slots = new Uint32Array(capacity);
    const addresses = new Uint32Array(capacity);
    const problems = segments.flatMap((it) => it.problems);
    const steered: Steered[] = [];
    let frontendsAt = 0;
    let backendsAt = 0;
    let rangesAt = 0;
    segments.forEach((segment, index) => {
      frontends.set(segment.frontends, frontendsAt);
      backends.set(segment.backends, backendsAt);
      ranges.set(segment.ranges, rangesAt);
      for (let i = 0; i < segment.frontends.length; i += FRONTEND_WORDS) {
        const base = frontendsAt + i;
        for (const at of [FRONTEND_INSIDE, FRONTEND_OUTSIDE, FRONTEND_SERVING]) {
          frontends[base + at]! += backendsAt;
        }
        frontends[base + FRONTEND_RANGES] = rangesAt;
        if (!place(slots, frontends, base, true)) {
          problems.push(
            `Service ${keys[index]!}: another Service has the same address, port and protocol, and keeps it`,
          );
          continue;
        }
        if ((frontends[base + FRONTEND_TRAITS]! & TRAIT_NODE) === 0) {
          place(addresses, frontends, base, false);
        }
      }
      for (const it of segment.steered) steered.push(it);
      frontendsAt += segment.frontends.length;
      backendsAt += segment.backends.length;
      rangesAt += segment.ranges.length;
    });
    const networks = (family: Family): Uint32Array =>
      rangeWords(inputs.serviceNetworks.filter((it) => it.family === family));
    return {
      table: {
        ...EMPTY_SERVICE_TABLE,
        generation: ++this.#generation,
        backends,
        slots,
        frontends,
        addresses,
        ranges,
        networks4: networks(4),
        networks6: networks(6),
      },
      steered,
      healthChecks: segments.flatMap((it) => it.healthCheck ?? []),
      problems,
    };
  }
}

function backendWords({ address, port }: ServiceEndpoint): readonly number[] {
  const words = Array.from<number>({ length: BACKEND_WORDS }).fill(0);
  const own = wordsOf(address);
  own.forEach((word, i) => (words[i] = word));
  words[BACKEND_PORT] = port;
  words[BACKEND_ID] = mix(hashAddress(own[0]!, own[1]!, own[2]!, own[3]!), port) >>> 0;
  return words;
}

/** @returns false: another frontend has the key already */
function place(
  slots: Uint32Array,
  frontends: Uint32Array,
  base: number,
  withPort: boolean,
): boolean {
  const hash = hashAddress(
    frontends[base]!,
    frontends[base + 1]!,
    frontends[base + 2]!,
    frontends[base + 3]!,
  );
  const mask = slots.length - 1;
  for (let i = withPort ? mix(hash, frontends[base + FRONTEND_KEY]!) : hash; ; i++) {
    const slot = slots[i & mask]!;
    if (slot === 0) {
      slots[i & mask] = base / FRONTEND_WORDS + 1;
      return true;
    }
    const other = (slot - 1) * FRONTEND_WORDS;
    let same =
      ((frontends[other + FRONTEND_TRAITS]! ^ frontends[base + FRONTEND_TRAITS]!) & TRAIT_IPV6) ===
      0;
    for (let w = 0; w < 4; w++) same &&= frontends[other + w] === frontends[base + w];
    if (same && withPort) same = frontends[other + FRONTEND_KEY] === frontends[base + FRONTEND_KEY];
    if (same) return false;
  }
}
