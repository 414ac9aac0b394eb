/**
 * Policies to tables: which policies select the pods of this node, which addresses and ports their rules
 * tell apart, and for each pair what passes. All tiers are evaluated here; the packet path looks bits up.
 * reference.ts says the same in plain words.
 */
import {
  EMPTY_OBJECTS,
  type ClusterNetworkPolicy,
  type Labels,
  type Namespace,
  type NetworkPolicy,
  type Node,
  type ObjectSet,
  type Pod,
  nameOf,
} from '../objects/types.ts';
import { type IpAddress, addressBytes } from '../wire/address.ts';
import { type Cidr, lastOf } from '../wire/cidr.ts';
import { denyTerminating, retainPolicies, retainedObjects } from '../objects/retain.ts';
import { type PolicyTableContent, isEqual, meanTheSame } from './meaning.ts';
import { Partition } from './partition.ts';
import {
  type Atom,
  type NamedPort,
  type PolicyRules,
  type Rule,
  PROTOCOL_INDEX,
  rulesOfClusterPolicy,
  rulesOfNetworkPolicy,
} from './rules.ts';
import {
  ADDRESS4_WORDS,
  ADDRESS6_WORDS,
  EGRESS,
  EMPTY_POLICY_TABLE,
  INGRESS,
  PORTS,
  type PolicyTable,
  SUBJECT_NODE,
  SUBJECT_ROW,
  SUBJECT_SELF,
  SUBJECT_WORDS,
  classOfPort,
  hash4,
  hash6,
} from './table.ts';

/** Entries of the matrix, 1 GiB: pods times peers that are all told apart. */
const MATRIX_MAX = 2 ** 28;

/** More than a table holds; the earlier one stays in force. */
export class PolicySizeError extends Error {
  readonly code = 'ERR_POLICY_SIZE';
}

export interface PolicyInputs {
  readonly objects: ObjectSet;
  /** Pods of this node, by nameOf; 'all': every pod is asked, each on its own node (offline). */
  readonly subjects: ReadonlySet<string> | 'all';
  readonly nodeName: string;
  /** Of this node, besides those that its Node object has. */
  readonly nodeAddresses: readonly IpAddress[];
}

/** Pods that only their addresses tell apart; or nodes; or, the first, everything else. */
interface Group {
  readonly kind: 'pod' | 'node' | 'outside';
  readonly namespace: string;
  readonly namespaceLabels: Labels;
  readonly labels: Labels;
  readonly ports: readonly Port[];
  readonly portsKey: string;
  /** The last compilation that it was in, and its place there. */
  epoch: number;
  index: number;
}

/** A container port that has a name. */
interface Port {
  readonly name: string;
  readonly protocol: 0 | 1 | 2;
  readonly number: number;
}

/** Of a namespace: its groups of pods by their labels and ports, as long as its own labels stay. */
interface Place {
  readonly object: Namespace | undefined;
  readonly labelsKey: string;
  readonly labels: Labels;
  readonly groups: Map<string, Group>;
}

/** Of a pod object. */
interface PodFacts {
  readonly key: string;
  readonly ports: readonly Port[];
  readonly portsKey: string;
  /** One for each address. */
  readonly claims: readonly Claim[];
  place: Place | null;
}

/** An atom, its number in this compilation, and the groups that it matches. */
interface Matches {
  readonly atom: Atom;
  index: number;
  groups: Group[];
}

/** What the same policies make of one direction, for all the pods that they select. */
interface Row {
  readonly direction: typeof INGRESS | typeof EGRESS;
  /** Admin's, from networkAt NetworkPolicies', from baselineAt Baseline's. */
  readonly rules: readonly Rule[];
  readonly networkAt: number;
  readonly baselineAt: number;
  readonly isIsolated: boolean;
  /** Some rule has named ports. */
  readonly hasNames: boolean;
  /** The subjects' own: what ingress rules' names mean. */
  readonly ports: readonly Port[];
  readonly subjects: Subject[];
}

interface Subject {
  readonly number: number;
  readonly node: number;
  readonly claims: readonly Claim[];
}

const LABEL_OF_NAME = 'kubernetes.io/metadata.name';
const NO_LABELS: Labels = {};

const wordsOf = (address: IpAddress): Uint32Array => {
  const { buffer, byteLength } = addressBytes(address);
  const view = new DataView(buffer);
  return Uint32Array.from({ length: byteLength / 4 }, (_, i) => view.getUint32(4 * i));
};

const labelsKeyOf = (labels: Labels): string =>
  JSON.stringify(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)));

/** Keeps what depends on objects that stay the same objects; one for each daemon. */
export class PolicyCompiler {
  readonly #facts = new WeakMap<Pod, PodFacts>();
  readonly #rules = new WeakMap<NetworkPolicy | ClusterNetworkPolicy, PolicyRules>();
  readonly #nodeClaims = new WeakMap<Node, readonly Claim[]>();
  #places = new Map<string, Place>();
  #nodeGroups = new Map<string, Group>();
  #atoms = new Map<string, Matches>();
  #peers: KnownPeers | null = null;
  readonly #scratch = new Scratch();
  readonly #matrixMax: number;
  #objects: ObjectSet | null;
  #retained: readonly (Namespace | NetworkPolicy)[] = [];
  #table = EMPTY_POLICY_TABLE;
  /** Of `#table`. */
  #classes = 0;
  #epoch = 0;

  /**
   * @param before     what another compiler retained last; null: it is not known
   * @param matrixMax  entries
   */
  constructor(before: ObjectSet | null = EMPTY_OBJECTS, matrixMax = MATRIX_MAX) {
    this.#objects = before;
    this.#matrixMax = matrixMax;
  }

  /** What the last compilation kept though it was deleted: see retainPolicies. */
  get retained(): readonly (Namespace | NetworkPolicy)[] {
    return this.#retained;
  }

  /** @throws PolicySizeError */
  compile(inputs: PolicyInputs): PolicyTable {
    const before = this.#objects ?? denyTerminating(inputs.objects);
    const objects = retainPolicies(before, inputs.objects);
    this.#objects = objects;
    this.#retained = retainedObjects(objects, inputs.objects);
    const peers = this.#peersOf(objects, inputs);
    const rows = this.#rowsOf(objects, peers);
    const atoms = this.#atomsOf(rows, peers);
    const ports = new PortClasses(rows, peers.groups);
    const ranges = new Ranges(atoms);
    const addresses = new Addresses(
      peers,
      ranges,
      this.#parted(atoms, peers, ports),
      this.#scratch,
    );
    const matrix = new Matrix(rows, atoms, ports, addresses, this.#matrixMax);
    const subjects = new Uint32Array(peers.subjects.length * SUBJECT_WORDS);
    for (const { number, node } of peers.subjects) {
      subjects[number * SUBJECT_WORDS + SUBJECT_NODE] = node;
    }
    matrix.write(subjects);
    const last = this.#table;
    const stay = (before: Uint32Array, now: Uint32Array): Uint32Array =>
      isEqual(before, now) ? before : now;
    const next: PolicyTableContent = {
      addresses4: stay(last.addresses4, addresses.addresses4),
      addresses6: stay(last.addresses6, addresses.addresses6),
      ranges4: stay(last.ranges4, addresses.ranges4),
      ranges6: stay(last.ranges6, addresses.ranges6),
      subjects: stay(last.subjects, subjects),
      matrix: stay(last.matrix, matrix.entries),
      portSets: stay(last.portSets, matrix.portSets()),
      portStarts: stay(last.portStarts, ports.starts),
    };
    const names = Object.keys(next) as (keyof PolicyTableContent)[];
    // Before anything was compiled nothing was known: the first table is another one in any case.
    const isFirst = last === EMPTY_POLICY_TABLE;
    if (isFirst || !names.every((name) => next[name] === last[name])) {
      const { classes } = addresses;
      const isSame = !isFirst && classes === this.#classes && meanTheSame(next, last, classes);
      this.#table = { generation: last.generation + (isSame ? 0 : 1), ...next };
      this.#classes = classes;
      this.#scratch.release(Object.values(next));
    }
    return this.#table;
  }

  #factsOf(pod: Pod): PodFacts {
    const known = this.#facts.get(pod);
    if (known !== undefined) return known;
    const ports = pod.ports
      .filter(({ name }) => name !== '')
      .map(({ name, protocol, containerPort }): Port => ({
        name,
        protocol: PROTOCOL_INDEX[protocol],
        number: containerPort,
      }));
    const portsKey = ports.length === 0 ? '' : JSON.stringify(ports);
    const facts: PodFacts = {
      key: labelsKeyOf(pod.metadata.labels) + portsKey,
      ports,
      portsKey,
      claims: pod.podIPs.map((it) => claimOf(it, nameOf(pod))),
      place: null,
    };
    this.#facts.set(pod, facts);
    return facts;
  }

  #placeOf(name: string, objects: ObjectSet): Place {
    const known = this.#places.get(name);
    const object = objects.namespaces.get(`/${name}`);
    if (known !== undefined && known.object === object) return known;
    const labels = { ...object?.metadata.labels, [LABEL_OF_NAME]: name };
    const labelsKey = labelsKeyOf(labels);
    if (known?.labelsKey === labelsKey) return { ...known, object };
    return { object, labelsKey, labels, groups: new Map() };
  }

  /** The peers of last time where only policies have changed. */
  #peersOf(objects: ObjectSet, inputs: PolicyInputs): Peers {
    const known = this.#peers;
    if (known !== null && isSameWorld(known, objects, inputs)) {
      known.peers.created.length = 0;
      return known.peers;
    }
    // Until they are there: a failure leaves none.
    this.#peers = null;
    const peers = this.#newPeersOf(objects, inputs);
    this.#peers = { objects, inputs, peers };
    return peers;
  }

  /** Who has which address, and who is asked. Groups of other compilations are not found again. */
  #newPeersOf(objects: ObjectSet, inputs: PolicyInputs): Peers {
    const epoch = ++this.#epoch;
    const peers = new Peers(epoch);
    const places = new Map<string, Place>();
    const hostPods: Pod[] = [];
    const { subjects } = inputs;
    for (const address of inputs.nodeAddresses) {
      const group = this.#nodeGroup(objects, inputs.nodeName, peers);
      peers.enterClaim(claimOf(address, ''), 0, group, peers.nodeNumber(inputs.nodeName), -1);
    }
    for (const [name, pod] of objects.pods) {
      if (pod.phase === 'Succeeded' || pod.phase === 'Failed') continue;
      if (pod.hostNetwork) {
        hostPods.push(pod);
        continue;
      }
      const facts = this.#factsOf(pod);
      const { namespace, labels } = pod.metadata;
      let place = places.get(namespace);
      if (place === undefined) {
        place = this.#placeOf(namespace, objects);
        places.set(namespace, place);
      }
      let group = facts.claims[0]?.group ?? null;
      if (group === null || group.epoch < epoch - 1 || facts.place?.groups !== place.groups) {
        group = place.groups.get(facts.key) ?? {
          kind: 'pod',
          namespace,
          namespaceLabels: place.labels,
          labels,
          ports: facts.ports,
          portsKey: facts.portsKey,
          epoch: -1,
          index: -1,
        };
        place.groups.set(facts.key, group);
        facts.place = place;
      }
      peers.enter(group);
      const isSubject = subjects === 'all' || subjects.has(name);
      let number = -1;
      if (isSubject) {
        const nodeName = subjects === 'all' ? pod.nodeName : inputs.nodeName;
        number = peers.addSubject(group, nodeName, facts.claims);
      }
      const rank = 1 + (isSubject ? 0 : 2) + (pod.terminating ? 1 : 0);
      for (const it of facts.claims) peers.enterClaim(it, rank, group, 0, number);
    }
    for (const node of objects.nodes.values()) {
      const { name } = node.metadata;
      let claims = this.#nodeClaims.get(node);
      if (claims === undefined) {
        claims = node.addresses.map((it) => claimOf(it, name));
        this.#nodeClaims.set(node, claims);
      }
      const group = this.#nodeGroup(objects, name, peers);
      for (const it of claims) peers.enterClaim(it, 5, group, peers.nodeNumber(name), -1);
    }
    for (const pod of hostPods) {
      const group = this.#nodeGroup(objects, pod.nodeName, peers);
      for (const it of this.#factsOf(pod).claims) {
        peers.enterClaim(it, 6, group, peers.nodeNumber(pod.nodeName), -1);
      }
    }
    for (const { groups } of places.values()) {
      for (const [key, group] of groups) if (group.epoch !== epoch) groups.delete(key);
    }
    for (const [key, group] of this.#nodeGroups) {
      if (group.epoch !== epoch) this.#nodeGroups.delete(key);
    }
    this.#places = places;
    return peers;
  }

  #nodeGroup(objects: ObjectSet, name: string, peers: Peers): Group {
    const labels = objects.nodes.get(`/${name}`)?.metadata.labels ?? NO_LABELS;
    const key = labelsKeyOf(labels);
    const group = this.#nodeGroups.get(key) ?? {
      kind: 'node',
      namespace: '',
      namespaceLabels: NO_LABELS,
      labels,
      ports: [],
      portsKey: '',
      epoch: -1,
      index: -1,
    };
    this.#nodeGroups.set(key, group);
    peers.enter(group);
    return group;
  }

  #clusterRules(objects: ObjectSet, tier: ClusterNetworkPolicy['tier']): PolicyRules[] {
    return [...objects.clusterNetworkPolicies.values()]
      .filter((it) => it.tier === tier)
      .sort((a, b) => a.priority - b.priority || (a.metadata.name < b.metadata.name ? -1 : 1))
      .map((it) => this.#rulesOf(it));
  }

  #rulesOf(policy: NetworkPolicy | ClusterNetworkPolicy): PolicyRules {
    let rules = this.#rules.get(policy);
    if (rules === undefined) {
      rules =
        policy.kind === 'NetworkPolicy'
          ? rulesOfNetworkPolicy(policy)
          : rulesOfClusterPolicy(policy);
      this.#rules.set(policy, rules);
    }
    return rules;
  }

  #rowsOf(objects: ObjectSet, { subjects, groupOfSubject }: Peers): readonly Row[] {
    const admin = this.#clusterRules(objects, 'Admin');
    const baseline = this.#clusterRules(objects, 'Baseline');
    const wanted = new Set(groupOfSubject.map(({ namespace }) => namespace));
    const networkPolicies = new Map<string, PolicyRules[]>();
    for (const policy of objects.networkPolicies.values()) {
      const { namespace } = policy.metadata;
      if (!wanted.has(namespace)) continue;
      const list = networkPolicies.get(namespace);
      if (list === undefined) networkPolicies.set(namespace, [this.#rulesOf(policy)]);
      else list.push(this.#rulesOf(policy));
    }
    const rows = new Map<string, Row>();
    const rowsOfGroup = new Map<Group, readonly Row[]>();
    const rowOf = (group: Group, direction: Row['direction']): Row => {
      const { namespaceLabels, labels } = group;
      const isFor = (it: PolicyRules): boolean =>
        it.directions[direction] !== null && it.selects(namespaceLabels, labels);
      const tiers = [admin, networkPolicies.get(group.namespace) ?? [], baseline].map((tier) =>
        tier.filter(isFor),
      );
      const [first, second, third] = tiers.map((tier) =>
        tier.flatMap((it) => it.directions[direction] ?? []),
      );
      const rules = [...first!, ...second!, ...third!];
      const hasNames = rules.some(({ named }) => named.length > 0);
      const ids = tiers.map((tier) => tier.map(({ id }) => id).join(',')).join('/');
      const key = `${direction} ${ids} ${direction === INGRESS && hasNames ? group.portsKey : ''}`;
      let row = rows.get(key);
      if (row === undefined) {
        row = {
          direction,
          rules,
          networkAt: first!.length,
          baselineAt: first!.length + second!.length,
          isIsolated: tiers[1]!.length > 0,
          hasNames,
          ports: group.ports,
          subjects: [],
        };
        rows.set(key, row);
      }
      return row;
    };
    for (const [number, subject] of subjects.entries()) {
      const group = groupOfSubject[number]!;
      let pair = rowsOfGroup.get(group);
      if (pair === undefined) {
        pair = [rowOf(group, INGRESS), rowOf(group, EGRESS)];
        rowsOfGroup.set(group, pair);
      }
      for (const row of pair) row.subjects.push(subject);
    }
    return [...rows.values()];
  }

  /** An atom of the last compilation knows all groups but those that are new. */
  #atomsOf(rows: readonly Row[], { groups, created }: Peers): ReadonlyMap<string, Matches> {
    const atoms = new Map<string, Matches>();
    const byNamespace = Map.groupBy(groups, ({ namespace }) => namespace);
    for (const { rules } of rows) {
      for (const { atoms: used } of rules) {
        for (const atom of used) {
          if (atoms.has(atom.key)) continue;
          const known = this.#atoms.get(atom.key);
          const matches = known ?? { atom, index: 0, groups: [] };
          matches.index = atoms.size;
          atoms.set(atom.key, matches);
          if (atom.kind === 'block') continue;
          const candidates =
            known !== undefined
              ? created
              : atom.kind === 'pods' && atom.namespace !== null
                ? (byNamespace.get(atom.namespace) ?? [])
                : groups;
          if (known?.groups.some(({ epoch }) => epoch !== this.#epoch)) {
            matches.groups = known.groups.filter(({ epoch }) => epoch === this.#epoch);
          }
          for (const group of candidates) if (isMatch(atom, group)) matches.groups.push(group);
        }
      }
    }
    this.#atoms = atoms;
    return atoms;
  }

  #parted(
    atoms: ReadonlyMap<string, Matches>,
    { groups }: Peers,
    { portsOfGroup }: PortClasses,
  ): Partition {
    const partition = new Partition(groups.length, portsOfGroup);
    for (const { index, groups: members } of atoms.values()) {
      partition.begin(index);
      for (const group of members) partition.add(group.index);
    }
    return partition;
  }
}

interface KnownPeers {
  readonly objects: ObjectSet;
  readonly inputs: PolicyInputs;
  readonly peers: Peers;
}

/** Did the same go into it: all but policies? */
function isSameWorld(known: KnownPeers, objects: ObjectSet, inputs: PolicyInputs): boolean {
  const { subjects, nodeName, nodeAddresses } = inputs;
  const before = known.inputs;
  return (
    known.objects.pods === objects.pods &&
    known.objects.nodes === objects.nodes &&
    known.objects.namespaces === objects.namespaces &&
    before.nodeName === nodeName &&
    before.nodeAddresses.length === nodeAddresses.length &&
    before.nodeAddresses.every((it, i) => it === nodeAddresses[i]) &&
    (subjects === 'all' || before.subjects === 'all'
      ? subjects === before.subjects
      : subjects.size === before.subjects.size && subjects.isSubsetOf(before.subjects))
  );
}

function isMatch(atom: Exclude<Atom, { kind: 'block' }>, group: Group): boolean {
  if (atom.kind === 'nodes') return group.kind === 'node' && atom.isNode(group.labels);
  return (
    group.kind === 'pod' &&
    (atom.namespace === null || atom.namespace === group.namespace) &&
    atom.inNamespace(group.namespaceLabels) &&
    atom.isPod(group.labels)
  );
}

/** Somebody's word that an address is his; changed in place at each compilation. */
interface Claim {
  readonly words: Uint32Array;
  readonly name: string;
  readonly hash: number;
  /** Of those that claim the same address the lowest has it, then the first by name. */
  rank: number;
  group: Group | null;
  node: number;
  subject: number;
}

function claimOf(address: IpAddress, name: string): Claim {
  const words = wordsOf(address);
  const [a = 0, b = 0, c = 0, d = 0] = words;
  const hash = words.length === 1 ? hash4(a) : hash6(a, b, c, d);
  return { words, name, hash, rank: 0, group: null, node: 0, subject: -1 };
}

/** The groups of one compilation, the subjects, and who claims which address. */
class Peers {
  readonly groups: Group[] = [];
  readonly created: Group[] = [];
  readonly subjects: Subject[] = [];
  readonly groupOfSubject: Group[] = [];
  readonly claims: Claim[] = [];
  readonly #nodes = new Map<string, number>();
  readonly #epoch: number;

  constructor(epoch: number) {
    this.#epoch = epoch;
    this.groups.push({
      kind: 'outside',
      namespace: '',
      namespaceLabels: NO_LABELS,
      labels: NO_LABELS,
      ports: [],
      portsKey: '',
      epoch,
      index: 0,
    });
  }

  enter(group: Group): void {
    if (group.epoch === this.#epoch) return;
    if (group.epoch === -1) this.created.push(group);
    group.epoch = this.#epoch;
    group.index = this.groups.push(group) - 1;
  }

  /** From 1; 0, which is nobody's own, for a node without a name. */
  nodeNumber(name: string): number {
    if (name === '') return 0;
    const known = this.#nodes.get(name);
    if (known !== undefined) return known;
    this.#nodes.set(name, this.#nodes.size + 1);
    return this.#nodes.size;
  }

  addSubject(group: Group, nodeName: string, claims: readonly Claim[]): number {
    const number = this.subjects.length;
    this.subjects.push({ number, node: this.nodeNumber(nodeName), claims });
    this.groupOfSubject.push(group);
    return number;
  }

  enterClaim(claim: Claim, rank: number, group: Group, node: number, subject: number): void {
    claim.rank = rank;
    claim.group = group;
    claim.node = node;
    claim.subject = subject;
    this.claims.push(claim);
  }
}

/** Ports that no rule tells apart, and what they are in sets of bits. */
class PortClasses {
  readonly starts: Uint32Array;
  readonly words: number;
  /** What the names that egress rules use mean on a group's pods: the same number, the same ports. */
  readonly portsOfGroup: Int32Array;
  readonly #ports: (readonly Port[])[] = [[]];
  readonly #bits = new Map<Rule, Uint32Array>();
  readonly full: Uint32Array;

  constructor(rows: readonly Row[], groups: readonly Group[]) {
    const starts = new Set([0, PORTS, 2 * PORTS]);
    const mark = (protocol: number, start: number, end: number): void => {
      starts.add(protocol * PORTS + start).add(protocol * PORTS + end + 1);
    };
    const names = new Set<string>();
    for (const { direction, rules, hasNames, ports } of rows) {
      for (const { ranges, named } of rules) {
        for (const { protocol, start, end } of ranges) mark(protocol, start, end);
        if (direction === EGRESS) for (const { name } of named) names.add(name);
      }
      if (direction === INGRESS && hasNames) {
        for (const { protocol, number } of ports) mark(protocol, number, number);
      }
    }
    this.portsOfGroup = new Int32Array(groups.length);
    if (names.size > 0) this.#nameGroups(groups, names, mark);
    // No port comes after the last.
    starts.delete(3 * PORTS);
    this.starts = Uint32Array.from(starts).sort();
    this.words = (this.starts.length >>> 5) + 1;
    this.full = new Uint32Array(this.words).fill(0xffffffff);
  }

  #nameGroups(
    groups: readonly Group[],
    names: ReadonlySet<string>,
    mark: (protocol: number, start: number, end: number) => void,
  ): void {
    const numbers = new Map<string, number>([['', 0]]);
    for (const { index, ports, portsKey } of groups) {
      if (portsKey === '') continue;
      let number = numbers.get(portsKey);
      if (number === undefined) {
        const used = ports.filter(({ name }) => names.has(name));
        const key = used.length === 0 ? '' : ` ${JSON.stringify(used)}`;
        number = numbers.get(key);
        if (number === undefined) {
          number = this.#ports.push(used) - 1;
          numbers.set(key, number);
        }
        numbers.set(portsKey, number);
        for (const it of used) mark(it.protocol, it.number, it.number);
      }
      this.portsOfGroup[index] = number;
    }
  }

  portsOf(number: number): readonly Port[] {
    return this.#ports[number]!;
  }

  #addRange(bits: Uint32Array, protocol: number, start: number, end: number): void {
    const last = classOfPort(this.starts, protocol * PORTS + end);
    for (let bit = classOfPort(this.starts, protocol * PORTS + start); bit <= last; bit++) {
      bits[bit >>> 5]! |= 1 << (bit & 31);
    }
  }

  /** @param ports  the destination's */
  bitsOf(rule: Rule, ports: readonly Port[]): Uint32Array {
    if (rule.isAnyPort) return this.full;
    let bits = this.#bits.get(rule);
    if (bits === undefined) {
      bits = new Uint32Array(this.words);
      for (const { protocol, start, end } of rule.ranges) {
        this.#addRange(bits, protocol, start, end);
      }
      this.#bits.set(rule, bits);
    }
    if (rule.named.length === 0 || ports.length === 0) return bits;
    const all = Uint32Array.from(bits);
    for (const port of ports) {
      if (!rule.named.some((it) => isNamed(it, port))) continue;
      this.#addRange(all, port.protocol, port.number, port.number);
    }
    return all;
  }
}

const isNamed = ({ name, protocol }: NamedPort, port: Port): boolean =>
  name === port.name && (protocol === null || protocol === port.protocol);

/** Addresses of both families in ranges that no block tells apart: IPv4's first, then IPv6's. */
class Ranges {
  readonly starts4: readonly bigint[];
  readonly starts6: readonly bigint[];
  readonly words4: Uint32Array;
  readonly words6: Uint32Array;
  readonly partition: Partition;

  constructor(atoms: ReadonlyMap<string, Matches>) {
    const starts = { 4: new Set([0n]), 6: new Set([0n]) };
    const endOf = (block: Cidr): bigint =>
      BigInt(block.family === 4 ? lastOf(block) : lastOf(block)) + 1n;
    for (const { atom } of atoms.values()) {
      if (atom.kind !== 'block') continue;
      for (const block of [atom.cidr, ...atom.except]) {
        starts[block.family].add(BigInt(block.base)).add(endOf(block));
      }
    }
    starts[4].delete(1n << 32n);
    starts[6].delete(1n << 128n);
    const sorted = (some: Set<bigint>): bigint[] => [...some].sort((a, b) => (a < b ? -1 : 1));
    this.starts4 = sorted(starts[4]);
    this.starts6 = sorted(starts[6]);
    this.words4 = Uint32Array.from(this.starts4, Number);
    this.words6 = Uint32Array.from(
      this.starts6.flatMap((it) => [96n, 64n, 32n, 0n].map((by) => it >> by)),
      (it) => Number(it & 0xffffffffn),
    );
    const count = this.starts4.length + this.starts6.length;
    this.partition = new Partition(count);
    const indexes = {
      4: new Map(this.starts4.map((it, i) => [it, i])),
      6: new Map(this.starts6.map((it, i) => [it, this.starts4.length + i])),
    };
    const ends = { 4: this.starts4.length, 6: count };
    const span = (block: Cidr): readonly [number, number] => [
      indexes[block.family].get(BigInt(block.base))!,
      indexes[block.family].get(endOf(block)) ?? ends[block.family],
    ];
    for (const { atom, index } of atoms.values()) {
      if (atom.kind !== 'block') continue;
      this.partition.begin(index);
      const except = atom.except.map((it) => span(it)).sort(([a], [b]) => a - b);
      let [at, end] = span(atom.cidr);
      // Exceptions lie within the block, and may lie within each other.
      for (const [from, to] of [...except, [end, end] as const]) {
        for (; at < from; at++) this.partition.add(at);
        if (to > at) at = to;
      }
    }
  }

  /** The range that holds the address. */
  indexOf(words: Uint32Array): number {
    const is4 = words.length === 1;
    const table = is4 ? this.words4 : this.words6;
    const stride = words.length;
    let low = 1;
    let high = table.length / stride;
    while (low < high) {
      const middle = (low + high) >>> 1;
      let i = 0;
      while (i < stride - 1 && table[middle * stride + i] === words[i]) i++;
      if (table[middle * stride + i]! <= words[i]!) low = middle + 1;
      else high = middle;
    }
    return low - 1 + (is4 ? 0 : this.starts4.length);
  }
}

const capacityFor = (count: number): number => {
  let capacity = 1;
  while (capacity < 2 * count + 1) capacity *= 2;
  return capacity;
};

/**
 * Arrays that the next compilation uses again, unless they went into a table: thousands of pages that are taken
 * anew for every change make the engine look through all it has.
 */
class Scratch {
  readonly #arrays = new Map<string, Uint32Array>();

  zeros(name: string, length: number): Uint32Array {
    const known = this.#arrays.get(name);
    if (known?.length === length) return known.fill(0);
    const made = new Uint32Array(length);
    this.#arrays.set(name, made);
    return made;
  }

  /** They are no longer ours to change. */
  release(arrays: readonly unknown[]): void {
    for (const [name, it] of this.#arrays) if (arrays.includes(it)) this.#arrays.delete(name);
  }
}

/** Every address's class: of its owner's group and of its range. */
class Addresses {
  readonly addresses4: Uint32Array;
  readonly addresses6: Uint32Array;
  readonly ranges4: Uint32Array;
  readonly ranges6: Uint32Array;
  /** Of each class: those of its group and of its range. */
  readonly groupClasses: number[] = [];
  readonly rangeClasses: number[] = [];
  readonly groups: Partition;
  readonly ranges: Ranges;
  readonly #numbers = new Map<number, number>();

  constructor({ claims, groups }: Peers, ranges: Ranges, partition: Partition, scratch: Scratch) {
    this.groups = partition;
    this.ranges = ranges;
    const outside = partition.classOf[groups[0]!.index]!;
    const { classOf } = ranges.partition;
    const { starts4, starts6, words4, words6 } = ranges;
    const ranges4 = starts4.flatMap((_, i) => [words4[i]!, this.#classOf(outside, classOf[i]!)]);
    const ranges6 = starts6.flatMap((_, i) => [
      ...words6.subarray(4 * i, 4 * i + 4),
      this.#classOf(outside, classOf[starts4.length + i]!),
    ]);
    this.ranges4 = Uint32Array.from(ranges4);
    this.ranges6 = Uint32Array.from(ranges6);
    const count4 = claims.filter(({ words }) => words.length === 1).length;
    this.addresses4 = scratch.zeros('addresses4', capacityFor(count4) * ADDRESS4_WORDS);
    const count6 = claims.length - count4;
    this.addresses6 = scratch.zeros('addresses6', capacityFor(count6) * ADDRESS6_WORDS);
    const owners4 = scratch.zeros('owners4', this.addresses4.length / ADDRESS4_WORDS);
    const owners6 = scratch.zeros('owners6', this.addresses6.length / ADDRESS6_WORDS);
    for (let i = 0; i < claims.length; i++) {
      const claim = claims[i]!;
      const { words, group } = claim;
      const is4 = words.length === 1;
      const slot = this.#slotOf(claim);
      const owners = is4 ? owners4 : owners6;
      const owner = owners[slot]!;
      if (owner !== 0 && !isBefore(claim, claims[owner - 1]!)) continue;
      owners[slot] = i + 1;
      const range = classOf[ranges.indexOf(words)]!;
      const table = is4 ? this.addresses4 : this.addresses6;
      const at = slot * (is4 ? ADDRESS4_WORDS : ADDRESS6_WORDS);
      for (let w = 0; w < words.length; w++) table[at + w] = words[w]!;
      const after = at + words.length;
      table[after] = this.#classOf(partition.classOf[group!.index]!, range) + 1;
      table[after + 1] = claim.node;
      table[after + 2] = claim.subject + 1;
    }
  }

  get classes(): number {
    return this.groupClasses.length;
  }

  #classOf(group: number, range: number): number {
    const key = group * this.ranges.partition.classes + range;
    const known = this.#numbers.get(key);
    if (known !== undefined) return known;
    this.#numbers.set(key, this.groupClasses.length);
    this.rangeClasses.push(range);
    return this.groupClasses.push(group) - 1;
  }

  /** The address's own, or the free one that it would get. */
  #slotOf({ words, hash }: Claim): number {
    const [a = 0, b = 0, c = 0, d = 0] = words;
    if (words.length === 1) {
      const table = this.addresses4;
      const mask = table.length / ADDRESS4_WORDS - 1;
      for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
        const at = slot * ADDRESS4_WORDS;
        if (table[at + 1] === 0 || table[at] === a) return slot;
      }
    }
    const table = this.addresses6;
    const mask = table.length / ADDRESS6_WORDS - 1;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const at = slot * ADDRESS6_WORDS;
      if (table[at + 4] === 0) return slot;
      if (table[at] === a && table[at + 1] === b && table[at + 2] === c && table[at + 3] === d) {
        return slot;
      }
    }
  }

  /** The class of an address that the subject has itself; -1 if it is somebody else's. */
  ownClass(claim: Claim, subject: number): number {
    const slot = this.#slotOf(claim);
    const [table, at] =
      claim.words.length === 1
        ? [this.addresses4, slot * ADDRESS4_WORDS + 1]
        : [this.addresses6, slot * ADDRESS6_WORDS + 4];
    return table[at + 2] === subject + 1 ? table[at]! - 1 : -1;
  }
}

const isBefore = (a: Claim, b: Claim): boolean =>
  a.rank < b.rank || (a.rank === b.rank && a.name < b.name);

/** What passes between the rows' subjects and the classes. */
class Matrix {
  readonly entries: Uint32Array;
  readonly #rows: readonly Row[];
  readonly #ports: PortClasses;
  readonly #addresses: Addresses;
  readonly #atoms: ReadonlyMap<string, Matches>;
  /** Offset 0: nothing passes. */
  readonly #sets: Uint32Array[];
  readonly #offsets = new Map<string, number>();
  /** Thousands of sets are made one after the other, of which few differ. */
  readonly #scratch: readonly [Uint32Array, Uint32Array, Uint32Array];

  /** @throws PolicySizeError */
  constructor(
    rows: readonly Row[],
    atoms: ReadonlyMap<string, Matches>,
    ports: PortClasses,
    addresses: Addresses,
    most: number,
  ) {
    const size = rows.length * addresses.classes;
    if (size > most) {
      throw new PolicySizeError(
        `policies tell ${rows.length} kinds of pods from ${addresses.classes} kinds of peers, more than ` +
          'a table holds; the policies of before stay in force',
      );
    }
    this.entries = new Uint32Array(size);
    this.#rows = rows;
    this.#ports = ports;
    this.#addresses = addresses;
    this.#atoms = atoms;
    this.#sets = [new Uint32Array(ports.words)];
    const { words } = ports;
    this.#scratch = [new Uint32Array(words), new Uint32Array(words), new Uint32Array(words)];
    this.#offsets.set(this.#sets[0]!.join(), 0);
  }

  portSets(): Uint32Array {
    const { words } = this.#ports;
    const all = new Uint32Array(this.#sets.length * words);
    for (const [i, set] of this.#sets.entries()) all.set(set, i * words);
    return all;
  }

  #classesOfAtoms(): readonly (readonly number[])[] {
    const { classes, groupClasses, rangeClasses, groups, ranges } = this.#addresses;
    const found: number[][] = Array.from(this.#atoms, () => []);
    const ofGroup = new Map<number, readonly number[]>();
    const ofRange = new Map<number, readonly number[]>();
    const causesOf = (
      partition: Partition,
      it: number,
      known: Map<number, readonly number[]>,
    ): readonly number[] => {
      let causes = known.get(it);
      if (causes === undefined) {
        causes = partition.causesOf(it);
        known.set(it, causes);
      }
      return causes;
    };
    for (let i = 0; i < classes; i++) {
      for (const atom of causesOf(groups, groupClasses[i]!, ofGroup)) found[atom]!.push(i);
      for (const atom of causesOf(ranges.partition, rangeClasses[i]!, ofRange)) {
        found[atom]!.push(i);
      }
    }
    return found;
  }

  /** Writes the entries, and where the subjects find theirs. */
  write(subjects: Uint32Array): void {
    const { classes, groupClasses, groups } = this.#addresses;
    const classesOfAtoms = this.#classesOfAtoms();
    const portsOfClass = Int32Array.from(groupClasses, (it) => groups.rootOf(it));
    for (const [i, row] of this.#rows.entries()) {
      const { direction, rules } = row;
      const byPeer = direction === EGRESS && row.hasNames;
      const partition = new Partition(classes, byPeer ? portsOfClass : undefined);
      const forAny: number[] = [];
      for (const [number, { isAnyPeer, atoms }] of rules.entries()) {
        if (isAnyPeer) {
          forAny.push(number);
          continue;
        }
        partition.begin(number);
        for (const { key } of atoms) {
          for (const it of classesOfAtoms[this.#atoms.get(key)!.index]!) partition.add(it);
        }
      }
      const offsets = new Int32Array(2 * partition.classes).fill(-1);
      const offsetOf = (peerClass: number, isSelf: boolean): number => {
        const part = partition.classOf[peerClass]!;
        const at = 2 * part + (isSelf ? 1 : 0);
        if (offsets[at] === -1) {
          const ports = byPeer ? this.#ports.portsOf(partition.rootOf(part)) : row.ports;
          const about = inOrder(partition.causesOf(part), forAny);
          offsets[at] = this.#intern(this.#portSet(row, about, ports, isSelf));
        }
        return offsets[at]!;
      };
      for (let it = 0; it < classes; it++) this.entries[i * classes + it] = offsetOf(it, false);
      for (const { number, claims } of row.subjects) {
        const at = number * SUBJECT_WORDS;
        subjects[at + SUBJECT_ROW + direction] = i * classes;
        for (const claim of claims) {
          const own = this.#addresses.ownClass(claim, number);
          const isIpv6 = claim.words.length > 1;
          const self = at + SUBJECT_SELF + 2 * direction + (isIpv6 ? 1 : 0);
          if (own !== -1) subjects[self] = offsetOf(own, true);
        }
      }
    }
  }

  /** @param set  is used again */
  #intern(set: Uint32Array): number {
    const key = set.join();
    let offset = this.#offsets.get(key);
    if (offset === undefined) {
      offset = (this.#sets.push(set.slice()) - 1) * this.#ports.words;
      this.#offsets.set(key, offset);
    }
    return offset;
  }

  /**
   * @param about  the row's rules that are about this peer or any, in their order
   * @returns until the next call
   */
  #portSet(
    { rules, networkAt, baselineAt, isIsolated }: Row,
    about: readonly number[],
    ports: readonly Port[],
    isSelf: boolean,
  ): Uint32Array {
    const [allowed, open, passed] = this.#scratch;
    allowed.fill(0);
    open.set(this.#ports.full);
    passed.fill(0);
    let isPast = false;
    for (const i of about) {
      if (i >= networkAt && !isPast) {
        isPast = true;
        join(open, passed);
      }
      const rule = rules[i]!;
      const bits = this.#ports.bitsOf(rule, ports);
      if (i >= networkAt && i < baselineAt) {
        for (let w = 0; w < bits.length; w++) allowed[w]! |= bits[w]! & open[w]!;
        continue;
      }
      // Baseline decides for pods that no NetworkPolicy isolates.
      if (i >= baselineAt && isIsolated) break;
      // Nobody comes after Baseline: what it passes, passes.
      const into = rule.action === 'Accept' ? allowed : i < networkAt ? passed : allowed;
      for (let w = 0; w < bits.length; w++) {
        if (rule.action !== 'Deny') into[w]! |= bits[w]! & open[w]!;
        open[w]! &= ~bits[w]!;
      }
    }
    if (!isPast) join(open, passed);
    if (!isIsolated || isSelf) join(allowed, open);
    return allowed;
  }
}

/** Of two lists in ascending order. */
function inOrder(some: readonly number[], others: readonly number[]): readonly number[] {
  if (others.length === 0) return some;
  if (some.length === 0) return others;
  return [...some, ...others].sort((a, b) => a - b);
}

function join(into: Uint32Array, other: Uint32Array): void {
  for (let w = 0; w < into.length; w++) into[w]! |= other[w]!;
}
