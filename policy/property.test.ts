/**
 * The compiled table against the plain evaluator, on random clusters that change. WEFT_SEED repeats a run;
 * the seed is printed by what fails.
 */
import test from 'ava';
import { objectSetOf } from '../objects/set.ts';
import type {
  ClusterNetworkPolicy,
  ClusterPeer,
  ClusterPolicyPort,
  ClusterPolicyRule,
  LabelSelector,
  Labels,
  Metadata,
  Namespace,
  NetworkPolicy,
  NetworkPolicyPeer,
  NetworkPolicyPort,
  NetworkPolicyRule,
  Node,
  ObjectSet,
  Pod,
  Protocol,
  WeftObject,
} from '../objects/types.ts';
import { PROTOCOL_NUMBERS, describeObject, nameOf } from '../objects/types.ts';
import {
  type IpAddress,
  addressBytes,
  familyOf,
  formatAddress,
  parseAddress,
} from '../wire/address.ts';
import { type Cidr, cidrOf, parseCidr } from '../wire/cidr.ts';
import { PolicyCompiler } from './compile.ts';
import { retainPolicies } from '../objects/retain.ts';
import { type Surroundings, referenceVerdict } from './reference.ts';
import { EGRESS, INGRESS, type PolicyTable, createPolicyLookup } from './table.ts';

const SEED = Number(process.env['WEFT_SEED'] ?? Date.now() % 1_000_000_000);
const VERDICTS = 200_000;

/** mulberry32 */
function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let it = Math.imul(state ^ (state >>> 15), 1 | state);
    it = (it + Math.imul(it ^ (it >>> 7), 61 | it)) ^ it;
    return ((it ^ (it >>> 14)) >>> 0) / 2 ** 32;
  };
}

class Generator {
  readonly #random: () => number;
  constructor(seed: number) {
    this.#random = randomOf(seed);
  }

  /** 0..below-1 */
  below(below: number): number {
    return Math.floor(this.#random() * below);
  }

  chance(probability: number): boolean {
    return this.#random() < probability;
  }

  one<T>(of: readonly T[]): T {
    return of[this.below(of.length)]!;
  }

  some<T>(most: number, make: () => T): T[] {
    return Array.from({ length: this.below(most + 1) }, make);
  }

  metadata(namespace: string, name: string, labels: Labels = {}): Metadata {
    return { name, namespace, labels, annotations: {} };
  }

  labels(): Labels {
    const labels: Record<string, string> = {};
    for (const key of ['app', 'tier', 'constructor']) {
      if (this.chance(0.5)) labels[key] = this.one(['a', 'b', 'c']);
    }
    return labels;
  }

  selector(): LabelSelector {
    if (this.chance(0.25)) return { matchLabels: {}, matchExpressions: [] };
    return {
      matchLabels: this.chance(0.5) ? { [this.one(['app', 'tier'])]: this.one(['a', 'b']) } : {},
      matchExpressions: this.some(1, () => {
        const operator = this.one(['In', 'NotIn', 'Exists', 'DoesNotExist'] as const);
        const hasValues = operator === 'In' || operator === 'NotIn';
        return {
          key: this.one(['app', 'tier', 'constructor']),
          operator,
          values: hasValues ? [this.one(['a', 'b', 'c']), this.one(['a', 'd'])] : [],
        };
      }),
    };
  }

  namespaceSelector(): LabelSelector {
    if (this.chance(0.3)) {
      return {
        matchLabels: { 'kubernetes.io/metadata.name': this.one(NAMESPACES) },
        matchExpressions: [],
      };
    }
    return this.selector();
  }

  protocol(): Protocol {
    return this.one(['TCP', 'TCP', 'UDP', 'SCTP'] as const);
  }

  number(): number {
    return this.one([1, 53, 80, 81, 82, 443, 8080, 65535]);
  }

  portName(): string {
    return this.one(['http', 'dns', 'admin']);
  }

  block(): Cidr {
    return parseCidr(
      this.one([
        '0.0.0.0/0',
        '10.0.0.0/8',
        '10.244.0.0/16',
        '10.244.0.0/30',
        '10.244.0.4/31',
        '10.244.1.0/24',
        '192.168.0.0/29',
        '8.8.8.8/32',
        '255.255.255.255/32',
        '::/0',
        'fd00::/16',
        'fd00::/125',
        'fd00::8/126',
        'ffff::/16',
      ]),
    );
  }

  /** A part of `of`, strictly smaller. */
  within(of: Cidr): Cidr[] {
    const width = of.family === 4 ? 32 : 128;
    if (of.length === width) return [];
    const length = of.length + 1 + this.below(Math.min(8, width - of.length));
    const address = this.one(
      ADDRESSES.filter(
        (it) => familyOf(it) === of.family && cidrOf(it, of.length).base === of.base,
      ),
    );
    return address === undefined ? [cidrOf(of.base, length)] : [cidrOf(address, length)];
  }

  peer(): NetworkPolicyPeer {
    if (this.chance(0.35)) {
      const cidr = this.block();
      const except = this.some(2, () => this.within(cidr)).flat();
      return { ipBlock: { cidr, except } };
    }
    const which = this.below(3);
    return {
      podSelector: which === 1 ? null : this.selector(),
      namespaceSelector: which === 0 ? null : this.namespaceSelector(),
    };
  }

  port(): NetworkPolicyPort {
    const protocol = this.protocol();
    if (this.chance(0.2)) return { protocol, port: null, endPort: null };
    if (this.chance(0.35)) return { protocol, port: this.portName(), endPort: null };
    const port = this.number();
    const endPort = this.chance(0.3) ? Math.min(65535, port + this.below(400)) : null;
    return { protocol, port, endPort };
  }

  rule(): NetworkPolicyRule {
    return {
      peers: this.some(2, () => this.peer()),
      ports: this.some(2, () => this.port()),
    };
  }

  networkPolicy(namespace: string, name: string): NetworkPolicy {
    return {
      kind: 'NetworkPolicy',
      metadata: this.metadata(namespace, name),
      podSelector: this.selector(),
      policyTypes: this.one([['Ingress'], ['Egress'], ['Ingress', 'Egress']] as const),
      ingress: this.some(2, () => this.rule()),
      egress: this.some(2, () => this.rule()),
    };
  }

  clusterPeer(): ClusterPeer {
    switch (this.below(9)) {
      case 0:
        return { type: 'unknown' };
      case 1:
        return { type: 'nodes', nodeSelector: this.selector() };
      case 2:
      case 3:
        return { type: 'networks', networks: [this.block(), ...this.some(1, () => this.block())] };
      default:
        return this.subject();
    }
  }

  subject(): ClusterPeer {
    const namespaceSelector = this.namespaceSelector();
    return this.chance(0.5)
      ? { type: 'namespaces', namespaceSelector }
      : { type: 'pods', namespaceSelector, podSelector: this.selector() };
  }

  clusterPort(): ClusterPolicyPort {
    const unknown = this.chance(0.1);
    if (unknown) return { protocol: null, range: null, portName: '', unknown };
    if (this.chance(0.3)) {
      const protocol = this.chance(0.7) ? null : this.protocol();
      return { protocol, range: null, portName: this.portName(), unknown };
    }
    const start = this.number();
    const range = { start, end: Math.min(65535, start + this.below(3)) };
    return {
      protocol: this.protocol(),
      range: this.chance(0.2) ? null : range,
      portName: '',
      unknown,
    };
  }

  clusterRule(): ClusterPolicyRule {
    return {
      name: this.chance(0.5) ? this.one(['x', 'y']) : '',
      action: this.one(['Accept', 'Deny', 'Pass'] as const),
      peers: [this.clusterPeer(), ...this.some(1, () => this.clusterPeer())],
      ports: this.some(2, () => this.clusterPort()),
    };
  }

  clusterPolicy(name: string): ClusterNetworkPolicy {
    return {
      kind: 'ClusterNetworkPolicy',
      metadata: this.metadata('', name),
      tier: this.one(['Admin', 'Baseline'] as const),
      priority: this.one([0, 5, 5, 1000]),
      subject: this.subject(),
      ingress: this.some(3, () => this.clusterRule()),
      egress: this.some(3, () => this.clusterRule()),
    };
  }

  namespace(name: string): Namespace {
    const phase = this.chance(0.2) ? 'Terminating' : 'Active';
    return { kind: 'Namespace', metadata: this.metadata('', name, this.labels()), phase };
  }

  node(name: string): Node {
    const number = Number(name.slice(1));
    const addresses = [`192.168.0.${number}`, ...(this.chance(0.5) ? [`fd01::${number}`] : [])];
    return {
      kind: 'Node',
      metadata: this.metadata('', name, this.labels()),
      addresses: addresses.map((it) => parseAddress(it)),
      podCidrs: [],
    };
  }

  pod(namespace: string, name: string): Pod {
    const hostNetwork = this.chance(0.1);
    const host = this.below(12);
    const texts = hostNetwork
      ? [`192.168.0.${1 + this.below(4)}`]
      : this.one([
          [`10.244.0.${host}`, `fd00::${host.toString(16)}`],
          [`10.244.${this.below(2)}.${host}`],
          [`fd00::${host.toString(16)}`],
        ]);
    return {
      kind: 'Pod',
      metadata: this.metadata(namespace, name, this.labels()),
      nodeName: this.one([...NODES, '']),
      hostNetwork,
      ports: this.some(2, () => ({
        name: this.one(['', 'http', 'dns', 'admin']),
        containerPort: this.number(),
        protocol: this.protocol(),
      })),
      podIPs: this.chance(0.05) ? [] : texts.map((it) => parseAddress(it)),
      phase: this.chance(0.1) ? this.one(['Succeeded', 'Failed'] as const) : 'Running',
      ready: true,
      terminating: this.chance(0.1),
    };
  }

  object(): WeftObject {
    const namespace = this.one(NAMESPACES);
    switch (this.below(12)) {
      case 0:
        return this.namespace(namespace);
      case 1:
        return this.node(this.one(NODES));
      case 2:
      case 3:
        return this.clusterPolicy(`c${this.below(4)}`);
      case 4:
      case 5:
      case 6:
        return this.networkPolicy(namespace, `p${this.below(4)}`);
      default:
        return this.pod(namespace, `d${this.below(6)}`);
    }
  }
}

const NAMESPACES = ['x', 'y', 'z'];
const NODES = ['n1', 'n2', 'n3'];
const ADDRESSES: readonly IpAddress[] = [
  ...Array.from({ length: 12 }, (_, i) => [
    `10.244.0.${i}`,
    `10.244.1.${i}`,
    `fd00::${i.toString(16)}`,
  ]).flat(),
  '192.168.0.1',
  '192.168.0.2',
  '192.168.0.3',
  '192.168.0.7',
  'fd01::1',
  'fd01::2',
  '10.244.1.77',
  '8.8.8.8',
  '0.0.0.0',
  '255.255.255.255',
  '::',
  'ffff::1',
  'fd00::77',
].map((it) => parseAddress(it));
const PROTOCOLS = ['TCP', 'UDP', 'SCTP', 'other'] as const;

const arena = new DataView(new ArrayBuffer(64));
const lookup = createPolicyLookup(arena);
const [SELF_AT, PEER_AT] = [8, 40];

function place(at: number, address: IpAddress): void {
  new Uint8Array(arena.buffer).set(addressBytes(address), at);
}

/** As the packet path asks; null: no subject has the address. */
function compiledAnswer(
  direction: number,
  self: IpAddress,
  peer: IpAddress,
  protocol: (typeof PROTOCOLS)[number],
  port: number,
): boolean | null {
  const is4 = typeof self === 'number';
  place(SELF_AT, self);
  place(PEER_AT, peer);
  const subject = lookup.subjectOf(SELF_AT, is4);
  if (subject === -1) return null;
  const number = protocol === 'other' ? 1 : PROTOCOL_NUMBERS[protocol];
  return lookup.allows(direction, subject, SELF_AT, PEER_AT, is4, number, port);
}

const PORTS = [0, 1, 53, 79, 80, 81, 82, 83, 443, 453, 1000, 8080, 65534, 65535];

test('compiled tables say what the reference says, however they came to be', (t) => {
  t.log(`WEFT_SEED=${SEED}`);
  t.timeout(60_000);
  const it = new Generator(SEED);
  let [asked, answered, denied, renewed] = [0, 0, 0, 0];
  while (answered < VERDICTS) {
    const objects = new Map<string, WeftObject>();
    const change = (): void => {
      const made = it.object();
      if (it.chance(0.3)) objects.delete(describeObject(made));
      else objects.set(describeObject(made), made);
    };
    for (let i = 0; i < 10 + it.below(60); i++) change();
    const isOffline = it.chance(0.4);
    const nodeAddresses = it.chance(0.5) ? [parseAddress('10.244.0.1')] : [];
    const compiler = new PolicyCompiler();
    let set: ObjectSet = objectSetOf([]);
    let kept = set;
    let generation = 0;
    let verdicts = '';
    let last: PolicyTable | null = null;
    for (let step = 0; step < 6; step++) {
      set = objectSetOf(objects.values(), set);
      kept = retainPolicies(kept, set);
      const around: Surroundings = isOffline
        ? { nodeName: '', nodeAddresses: [], subjects: 'all' }
        : {
            nodeName: 'n1',
            nodeAddresses,
            subjects: new Set(
              set.pods
                .values()
                .filter(({ nodeName }) => nodeName === 'n1')
                .map((pod) => nameOf(pod)),
            ),
          };
      const table = compiler.compile({ objects: set, ...around });
      lookup.install(table);
      const pods = ADDRESSES.filter((address) => {
        place(SELF_AT, address);
        return lookup.subjectOf(SELF_AT, familyOf(address) === 4) !== -1;
      });
      for (let i = 0; i < 400 && pods.length > 0; i++) {
        const [self, other] = [it.one(pods), it.one(ADDRESSES)];
        const [from, to] = it.one([
          [self, other],
          [other, self],
          [self, it.chance(0.2) ? self : it.one(pods)],
        ] as const);
        if (familyOf(from) !== familyOf(to)) continue;
        const protocol = it.one(PROTOCOLS);
        const port = protocol === 'other' ? 0 : it.one(PORTS);
        const expected = referenceVerdict(kept, { from, to, protocol, port }, around);
        for (const direction of [INGRESS, EGRESS]) {
          const [self, peer] = direction === INGRESS ? [to, from] : [from, to];
          const answer = compiledAnswer(direction, self, peer, protocol, port);
          asked++;
          // Of pods of other nodes, and of who is no pod, the table knows nothing.
          if (answer === null) continue;
          answered++;
          if (!answer) denied++;
          const wanted = direction === INGRESS ? expected.ingress : expected.egress;
          if (answer === (wanted === 'allow')) continue;
          t.log(
            JSON.stringify([...objects.values()], (_, v) => (typeof v === 'bigint' ? `${v}` : v)),
          );
          t.fail(
            `seed ${SEED}: ${formatAddress(from)} -> ${formatAddress(to)} ${protocol} ${port}: ` +
              `table ${answer} for ${direction === INGRESS ? 'ingress' : 'egress'}, ${expected.because}`,
          );
          return;
        }
      }
      const now = fingerprint();
      t.true(
        table.generation > generation || now === verdicts || step === 0,
        `seed ${SEED}: verdicts have changed, and the generation has not`,
      );
      if (last !== null && table !== last && table.generation === generation) {
        renewed++;
        const all = everything();
        lookup.install(last);
        t.is(everything(), all, `seed ${SEED}: of one generation, and another verdict`);
      }
      last = table;
      generation = table.generation;
      verdicts = now;
      const changes = 1 + it.below(3);
      for (let i = 0; i < changes; i++) change();
    }
  }
  t.log(`${answered} verdicts, ${denied} of them denials, ${asked} asked`);
  t.log(`${renewed} tables that say the same of other addresses`);
  t.true(denied > answered / 20 && denied < (answered * 19) / 20, 'both are common');
});

function everything(): string {
  let text = '';
  for (const a of ADDRESSES) {
    for (const b of ADDRESSES) {
      if (familyOf(a) !== familyOf(b)) continue;
      for (const port of [53, 80, 8080]) {
        text += `${compiledAnswer(INGRESS, a, b, 'TCP', port)}${compiledAnswer(EGRESS, a, b, 'UDP', port)}`;
      }
    }
  }
  return text;
}

function fingerprint(): string {
  let text = '';
  for (let i = 0; i < ADDRESSES.length; i += 3) {
    for (let j = 1; j < ADDRESSES.length; j += 4) {
      const [a, b] = [ADDRESSES[i]!, ADDRESSES[j]!];
      if (familyOf(a) !== familyOf(b)) continue;
      text += `${compiledAnswer(INGRESS, a, b, 'TCP', 80)}${compiledAnswer(EGRESS, a, b, 'UDP', 53)}`;
    }
  }
  return text;
}
