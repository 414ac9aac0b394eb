/**
 * `weft trace`: the way of a packet from a pod to wherever it is going, stage by stage on both nodes, as
 * this daemon would decide: of its own pods by the compiled tables, of others by what it knows of them.
 * Nothing is sent.
 */
import { type ObjectSet, type Pod, PROTOCOL_NUMBERS, nameOf } from '../objects/types.ts';
import type { NodeLease } from '../ipam/types.ts';
import { type Flow, type Surroundings, explainFlow } from '../policy/reference.ts';
import { EGRESS, INGRESS, createPolicyLookup } from '../policy/table.ts';
import { referenceBackends } from '../service/reference.ts';
import {
  FRONTEND_UNALLOCATED,
  FRONTEND_UNUSED_PORT,
  createServiceLookup,
} from '../service/table.ts';
import {
  type IpAddress,
  AddressError,
  addressBytes,
  familyOf,
  formatAddress,
  parseAddress,
} from '../wire/address.ts';
import { type Cidr, cidrContains } from '../wire/cidr.ts';
import type { DropName } from '../wire/drop-reason.ts';
import { ApiError, type ApiRoute } from './api.ts';
import type { TraceMessage, TracePath, TraceStage } from './messages.ts';
import type { NamedNode } from './names.ts';
import type { Tables } from './objects.ts';
import type { View } from './observe.ts';

export interface TracesOptions {
  readonly node: string;
  readonly view: () => View;
  /** Our own, and then the peers in the order of the view. */
  readonly nodes: () => readonly NamedNode[];
  /** What the packet path has now; null: none, all passes that is routed. */
  readonly tables: () => Tables | null;
  readonly place: () => TracePlace;
}

/** What else of this node counts. */
export interface TracePlace {
  readonly tunName: string;
  /** Null: no subnet leased yet. */
  readonly mtuBytes: number | null;
  readonly directRouting: boolean;
  /** The lease is ours: packets go to peers. */
  readonly isForwarding: boolean;
  /** The overlay networks. */
  readonly networks: readonly Cidr[];
  readonly serviceNetworks: readonly Cidr[];
  readonly externalIpBlocks: readonly Cidr[];
}

export interface TraceQuestion {
  readonly from: string;
  readonly to: string;
  /** A number, or a Service port's name; null for protocols without ports. */
  readonly port: string | null;
  readonly protocol: Flow['protocol'];
}

const refusal = (message: string): ApiError => new ApiError(400, 'ERR_TRACE', message);

/** @throws ApiError */
export function traceQuestion(query: URLSearchParams): TraceQuestion {
  const [from, to, port] = ['from', 'to', 'port'].map((it) => query.get(it));
  if (!from || !to) throw refusal('say between whom: from and to');
  const upper = (query.get('protocol') ?? 'TCP').toUpperCase();
  const protocol = upper === 'ICMP' ? 'other' : upper;
  if (protocol !== 'TCP' && protocol !== 'UDP' && protocol !== 'SCTP' && protocol !== 'other') {
    throw refusal(`protocol: "${upper.slice(0, 40)}" is not TCP, UDP, SCTP or ICMP`);
  }
  if (protocol === 'other') return { from, to, port: null, protocol };
  if (!port) throw refusal('say which port');
  return { from, to, port, protocol };
}

/** Where the packet goes, before Services. */
interface Target {
  readonly address: IpAddress;
  readonly port: number;
}

/** One node's part: whose rules, addresses and subnets. */
interface Side {
  readonly name: string;
  readonly isOwn: boolean;
  readonly lease: NodeLease | null;
  readonly around: Surroundings;
}

const addressText = ({ address, port }: Target, protocol: Flow['protocol']): string => {
  const text = formatAddress(address);
  if (protocol === 'other') return text;
  return typeof address === 'number' ? `${text}:${port}` : `[${text}]:${port}`;
};

const subnetsOf = (lease: NodeLease | null): readonly Cidr[] =>
  [lease?.subnet4 ?? null, lease?.subnet6 ?? null].filter((it) => it !== null);

const hasTraffic = ({ phase }: Pod): boolean => phase !== 'Succeeded' && phase !== 'Failed';

export class Traces {
  readonly #options: TracesOptions;

  constructor(options: TracesOptions) {
    this.#options = options;
  }

  routes(): readonly ApiRoute[] {
    return [
      {
        method: 'GET',
        path: '/v1/trace',
        answer: ({ query }): TraceMessage => this.trace(traceQuestion(query)),
      },
    ];
  }

  /** @throws ApiError where the question names what is not there */
  trace(question: TraceQuestion): TraceMessage {
    return this.resolve(question).trace;
  }

  /** The same, and the addresses and port that a packet would have. @throws ApiError */
  resolve(question: TraceQuestion): ResolvedTrace {
    return new Trace(this.#options, question).run();
  }
}

export interface ResolvedTrace {
  readonly trace: TraceMessage;
  readonly source: IpAddress;
  /** A Service's own, where it is one. */
  readonly destination: IpAddress;
  readonly port: number;
  /** Where the packet may arrive: the endpoints that may be chosen, or the destination. */
  readonly targets: readonly IpAddress[];
}

/** One question, with all that is known at this moment. */
class Trace {
  readonly #question: TraceQuestion;
  readonly #options: TracesOptions;
  readonly #view: View;
  readonly #objects: ObjectSet;
  readonly #nodes: readonly NamedNode[];
  readonly #tables: Tables | null;
  readonly #place: TracePlace;
  readonly #bytes = new Uint8Array(32);
  readonly #arena = new DataView(this.#bytes.buffer);
  readonly #policy = createPolicyLookup(this.#arena);
  readonly #services = createServiceLookup(this.#arena);

  constructor(options: TracesOptions, question: TraceQuestion) {
    this.#options = options;
    this.#question = question;
    this.#view = options.view();
    const { objects } = this.#view;
    if (objects === null) {
      throw new ApiError(
        503,
        'ERR_NOT_READY',
        'no objects are known on this node yet: whose address is whose cannot be told',
      );
    }
    this.#objects = objects;
    this.#nodes = options.nodes();
    this.#tables = options.tables();
    this.#place = options.place();
    if (this.#tables !== null) {
      this.#policy.install(this.#tables.policy);
      this.#services.install(this.#tables.services);
    }
  }

  run(): ResolvedTrace {
    const { from, to, protocol, port } = this.#question;
    const pod = this.#podNamed(from);
    if (pod.hostNetwork) {
      throw refusal(`pod ${from} is on its node's network: what it sends is the node's`);
    }
    const wanted = this.#targetOf(to, pod);
    const source = pod.podIPs.find((it) => familyOf(it) === familyOf(wanted.address));
    if (source === undefined) {
      throw refusal(
        `pod ${nameOf(pod)} and ${formatAddress(wanted.address)} have no family in common`,
      );
    }
    const side = this.#sideOf(source, pod);
    const begin: TraceStage[] = [this.#podStage(side, pod, source), this.#tunStage(side, source)];
    const { stages, targets } = this.#serviceStage(side, source, wanted);
    const paths: TracePath[] = targets.map((target) => {
      const isService = target.address !== wanted.address || target.port !== wanted.port;
      const all = [...begin, ...stages, ...this.#way(side, pod, source, target)];
      return {
        backend: isService ? this.#describe(target) : null,
        arrives: all.every(({ outcome }) => outcome !== 'dropped'),
        // What comes behind the stage that drops is not reached.
        stages: untilDropped(all),
      };
    });
    if (paths.length === 0) {
      paths.push({ backend: null, arrives: false, stages: untilDropped([...begin, ...stages]) });
    }
    const trace: TraceMessage = {
      from: nameOf(pod),
      to: this.#describe(wanted),
      protocol: protocol === 'other' ? 'ICMP' : protocol,
      port: port === null ? null : wanted.port,
      arrives: paths.every(({ arrives }) => arrives),
      paths,
    };
    return {
      trace,
      source,
      destination: wanted.address,
      port: wanted.port,
      targets: targets.map(({ address }) => address),
    };
  }

  #podNamed(text: string): Pod {
    const name = text.includes('/') ? text : `default/${text}`;
    const pod = this.#objects.pods.get(name);
    if (pod === undefined) throw refusal(`there is no pod ${name.slice(0, 100)}`);
    if (!hasTraffic(pod)) throw refusal(`pod ${name} is ${pod.phase} and has no traffic`);
    if (pod.podIPs.length === 0) throw refusal(`pod ${name} has no address yet`);
    return pod;
  }

  /** A pod before a Service of the same name; `service/NAMESPACE/NAME` is one for sure. */
  #targetOf(text: string, source: Pod): Target {
    const family = (it: IpAddress): boolean =>
      source.podIPs.some((own) => familyOf(own) === familyOf(it));
    try {
      return { address: parseAddress(text), port: this.#portNumber() };
    } catch (error) {
      if (!(error instanceof AddressError)) throw error;
    }
    const [, explicit] = /^(?:service|svc)\/([^/]+\/[^/]+)$/.exec(text) ?? [];
    const name = explicit ?? (text.includes('/') ? text : `default/${text}`);
    const service = this.#objects.services.get(name);
    if (explicit === undefined && this.#objects.pods.has(name)) {
      const pod = this.#podNamed(name);
      const port = this.#portNumber((wanted) =>
        pod.ports.find((it) => it.name === wanted && it.protocol === this.#question.protocol),
      );
      return { address: pod.podIPs.find(family) ?? pod.podIPs[0]!, port };
    }
    if (service === undefined) throw refusal(`there is no pod or Service ${name.slice(0, 100)}`);
    const address = service.clusterIPs.find(family) ?? service.clusterIPs[0];
    if (service.headless || address === undefined) {
      throw refusal(`Service ${name} has no address: its name leads to its pods, trace to them`);
    }
    const port = this.#portNumber((wanted) => {
      const it = service.ports.find(({ name: portName }) => portName === wanted);
      return it && { containerPort: it.port };
    });
    return { address, port };
  }

  #portNumber(
    named: (name: string) => { readonly containerPort: number } | undefined = () => undefined,
  ): number {
    const { port } = this.#question;
    if (port === null) return 0;
    const number = /^\d{1,5}$/.test(port) ? Number(port) : named(port)?.containerPort;
    if (number !== undefined && number > 0 && number <= 65535) return number;
    throw refusal(`port: "${port.slice(0, 40)}" is neither 1..65535 nor the name of a port there`);
  }

  #describe(target: Target): string {
    const { protocol } = this.#question;
    const text = addressText(target, protocol);
    const pod = this.#podAt(target.address);
    if (pod !== null) return `${text} (pod ${nameOf(pod)})`;
    for (const it of this.#objects.services.values()) {
      if (it.clusterIPs.includes(target.address)) return `${text} (Service ${nameOf(it)})`;
    }
    return text;
  }

  #podAt(address: IpAddress): Pod | null {
    for (const pods of [this.#view.own, this.#objects.pods.values()]) {
      for (const pod of pods) {
        if (!pod.hostNetwork && hasTraffic(pod) && pod.podIPs.includes(address)) return pod;
      }
    }
    return null;
  }

  /** The node that leases the address; the pod's own where no lease has it. */
  #sideOf(address: IpAddress, pod: Pod | null): Side {
    const leases = [this.#view.lease, ...this.#view.peers];
    const at = leases.findIndex((it) =>
      subnetsOf(it).some((block) => cidrContains(block, address)),
    );
    const isOwn = at <= 0 && (at === 0 || this.#view.own.some((it) => it.podIPs.includes(address)));
    const lease = leases[at] ?? null;
    const { own, nodeAddresses } = this.#view;
    if (isOwn) {
      const nodeName = this.#options.node;
      const subjects = new Set(own.map(nameOf));
      return { name: nodeName, isOwn, lease, around: { nodeName, nodeAddresses, subjects } };
    }
    const name = pod?.nodeName || this.#nodes[at]?.name || 'an unknown node';
    const there = [...this.#objects.pods].filter(([, it]) => it.nodeName === name);
    return {
      name,
      isOwn,
      lease,
      around: {
        nodeName: name,
        nodeAddresses: this.#nodes[at]?.addresses ?? [],
        subjects: new Set(there.map(([key]) => key)),
      },
    };
  }

  #podStage({ name, isOwn }: Side, pod: Pod, source: IpAddress): TraceStage {
    const text = `pod ${nameOf(pod)} sends from ${formatAddress(source)}`;
    if (isOwn && !this.#view.own.some((it) => it.podIPs.includes(source))) {
      const why = 'no interface of this node has that address: what it sends is refused';
      return stage(name, 'pod', `${text}, but ${why}`, 'notOurSource');
    }
    return stage(name, 'pod', text);
  }

  #tunStage({ name, isOwn, lease }: Side, source: IpAddress): TraceStage {
    const { tunName, mtuBytes } = this.#place;
    if (lease === null) {
      const text = `${formatAddress(source)} lies in no leased subnet`;
      return stage(name, 'tun', text, 'notOurSource');
    }
    const mtu = isOwn && mtuBytes !== null ? `, MTU ${mtuBytes}` : '';
    const device = isOwn ? `${tunName}${mtu}` : "the node's TUN";
    return stage(name, 'tun', `${device}; lease ${lease.key}; a new flow: decided about once`);
  }

  /** Which endpoints a flow may get: one of them, by a hash of it. */
  #serviceStage(
    { name, isOwn, around }: Side,
    source: IpAddress,
    wanted: Target,
  ): { readonly stages: readonly TraceStage[]; readonly targets: readonly Target[] } {
    const { protocol } = this.#question;
    if (protocol === 'other') return { stages: [], targets: [wanted] };
    const { serviceNetworks, externalIpBlocks } = this.#place;
    const outcome = referenceBackends(
      {
        objects: this.#objects,
        nodeName: around.nodeName,
        nodeAddresses: around.nodeAddresses,
        serviceNetworks,
        externalIpBlocks,
      },
      { source, isInside: true, address: wanted.address, protocol, port: wanted.port },
    );
    const text = this.#describe(wanted);
    const drop = (why: string, reason: DropName) => ({
      stages: [stage(name, 'service', `${text} ${why}`, reason)],
      targets: [],
    });
    const frontend = isOwn ? this.#frontendOf(wanted) : null;
    const isKnown = frontend === null || frontend >= 0;
    if (outcome === 'no frontend' && (frontend === null || frontend === -1)) {
      return { stages: [], targets: [wanted] };
    }
    if (outcome === 'unused port' || frontend === FRONTEND_UNUSED_PORT) {
      return drop('is a Service that has no such port: rejected', 'unusedPort');
    }
    if (outcome === 'unallocated' || frontend === FRONTEND_UNALLOCATED) {
      return drop('lies in the Service network, but no Service has it', 'unallocated');
    }
    if (outcome === 'no endpoint') return drop('has no ready endpoint: rejected', 'noEndpoints');
    if (outcome === 'not local') {
      return drop('serves this node by its own endpoints only, and has none', 'noLocalEndpoint');
    }
    if (outcome === 'source refused') return drop('refuses this client', 'sourceRange');
    if (typeof outcome === 'string' || !isKnown) {
      return {
        stages: [
          stage(name, 'service', `${text}: the tables are about to change, ask again`, null),
        ],
        targets: [wanted],
      };
    }
    const targets = outcome.filter((it) => frontend === null || this.#isUsable(frontend, it));
    const several =
      targets.length === 1 ? 'its endpoint' : `one of its ${targets.length} endpoints`;
    return { stages: [stage(name, 'service', `${text} becomes ${several}`)], targets };
  }

  #frontendOf({ address, port }: Target): number | null {
    const { protocol } = this.#question;
    if (this.#tables === null || protocol === 'other') return null;
    this.#bytes.set(addressBytes(address), 0);
    const is4 = typeof address === 'number';
    return this.#services.frontendOf(0, is4, PROTOCOL_NUMBERS[protocol], port);
  }

  #isUsable(frontend: number, { address, port }: Target): boolean {
    this.#bytes.set(addressBytes(address), 0);
    return this.#services.usable(frontend, 0, typeof address === 'number', port) >= 0;
  }

  /** From the egress rules of the source to the pod at the other end. */
  #way(side: Side, pod: Pod, source: IpAddress, target: Target): readonly TraceStage[] {
    const destination = this.#podAt(target.address);
    const to = this.#sideOf(target.address, destination);
    const stages = [this.#policyStage('egress', side, source, target)];
    const isInOverlay = this.#place.networks.some((it) => cidrContains(it, target.address));
    if (to.lease === null) {
      if (isInOverlay) {
        const text = `no node has leased a subnet with ${formatAddress(target.address)}`;
        return [...stages, stage(side.name, 'route', text, 'noPeer')];
      }
      const text = `${formatAddress(target.address)} lies outside of the overlay: the host routes it on`;
      return [...stages, stage(side.name, 'route', text)];
    }
    const isNode = subnetsOf(to.lease).some((it) => it.base === target.address);
    if (to.lease === side.lease) {
      stages.push(stage(side.name, 'route', `${formatAddress(target.address)} is on this node`));
    } else {
      stages.push(this.#between(side, to, target.address), this.#receiveStage(side, to, source));
    }
    if (isNode) return [...stages, stage(to.name, 'node', `${to.name} itself takes it`)];
    if (destination === null) {
      const text = `no pod has ${formatAddress(target.address)}: ICMP host unreachable goes back`;
      return [...stages, stage(to.name, 'pod', text, 'noPod')];
    }
    stages.push(this.#policyStage('ingress', to, source, target));
    const hairpin = destination === pod ? ', which is the one that asked' : '';
    return [...stages, stage(to.name, 'pod', `pod ${nameOf(destination)} takes it${hairpin}`)];
  }

  #between(side: Side, to: Side, address: IpAddress): TraceStage {
    const { mtuBytes, directRouting, isForwarding } = this.#place;
    if (side.isOwn && !isForwarding) {
      const text = "this node's lease is not its own at this moment: nothing goes to peers";
      return stage(side.name, 'route', text, 'notForwarding');
    }
    const hop = familyOf(address) === 4 ? to.lease!.vtep4 : to.lease!.vtep6;
    const outer = to.lease!.publicIp4 ?? to.lease!.publicIp6;
    if (hop === null || outer === null) {
      const text = `node ${to.name} has no VXLAN end point for this family`;
      return stage(side.name, 'route', text, 'noPeer');
    }
    const mtu = mtuBytes === null ? '' : `, packets up to ${mtuBytes} bytes`;
    const way = directRouting
      ? `to node ${to.name} at ${formatAddress(outer)}, by the host's route if it is on our link, else by VXLAN`
      : `by VXLAN to node ${to.name} at ${formatAddress(outer)}`;
    return stage(side.name, 'route', `${way}${mtu}`);
  }

  /** What the other node asks first: does this packet come from whom it says it is? */
  #receiveStage(side: Side, to: Side, source: IpAddress): TraceStage {
    const outer = side.lease?.publicIp4 ?? side.lease?.publicIp6 ?? null;
    const from = outer === null ? '' : ` from ${formatAddress(outer)}`;
    const text = `arrives${from}; ${formatAddress(source)} lies in the subnet of node ${side.name}`;
    return stage(to.name, 'receive', text);
  }

  #policyStage(
    direction: 'egress' | 'ingress',
    side: Side,
    from: IpAddress,
    { address: to, port }: Target,
  ): TraceStage {
    const { protocol } = this.#question;
    const flow: Flow = { from, to, protocol, port };
    const decision = explainFlow(this.#objects, flow, side.around)[direction];
    const compiled = side.isOwn ? this.#compiled(direction, from, to, port) : null;
    const reason = direction === 'egress' ? 'policyEgress' : 'policyIngress';
    if (compiled === 'none') {
      return stage(
        side.name,
        direction,
        'the packet path knows no policy for this pod',
        'noPolicy',
      );
    }
    const answer = compiled ?? decision.answer;
    // The table is what decides; it is made anew some milliseconds after the objects change.
    const differs = answer === decision.answer ? '' : `; by the tables in force: ${answer}`;
    const text = `${decision.because}${differs}`;
    return stage(side.name, direction, text, answer === 'deny' ? reason : null);
  }

  /** As the packet path is about to decide; null: not our question. */
  #compiled(
    direction: 'egress' | 'ingress',
    from: IpAddress,
    to: IpAddress,
    port: number,
  ): 'allow' | 'deny' | 'none' | null {
    if (this.#tables === null) return null;
    const is4 = typeof from === 'number';
    this.#bytes.set(addressBytes(from), 0);
    this.#bytes.set(addressBytes(to), 16);
    const isEgress = direction === 'egress';
    const [self, peer] = isEgress ? [0, 16] : [16, 0];
    const subject = this.#policy.subjectOf(self, is4);
    if (subject < 0) return 'none';
    const { protocol } = this.#question;
    const number = protocol === 'other' ? 1 : PROTOCOL_NUMBERS[protocol];
    const way = isEgress ? EGRESS : INGRESS;
    return this.#policy.allows(way, subject, self, peer, is4, number, port) ? 'allow' : 'deny';
  }
}

const stage = (
  node: string,
  name: TraceStage['stage'],
  text: string,
  reason: DropName | null = null,
): TraceStage => ({
  node,
  stage: name,
  outcome: reason === null ? 'passes' : 'dropped',
  reason,
  text,
});

function untilDropped(stages: readonly TraceStage[]): readonly TraceStage[] {
  const at = stages.findIndex(({ outcome }) => outcome === 'dropped');
  return at < 0 ? stages : stages.slice(0, at + 1);
}
