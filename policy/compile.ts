/**
 * Policies to tables: which policies select the pods of this node, which addresses and ports their rules
 * tell apart, and for each pair what passes. The packet path looks bits up. reference.ts says the same in plain
 * words.
 *
 *     objects -> peers.ts, rules.ts -> rows, atoms -> addresses.ts, port-classes.ts -> matrix.ts -> table.ts
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
import type { IpAddress } from '../wire/address.ts';
import { denyTerminating, retainPolicies, retainedObjects } from '../objects/retain.ts';
import { Addresses, type AllOwners, Ranges, Scratch, ownersOf } from './addresses.ts';
import { MATRIX_MAX, Matrix, type Row } from './matrix.ts';
import { type PolicyTableContent, isEqual, meanTheSame } from './meaning.ts';
import { Partition } from './partition.ts';
import {
  type Claim,
  type Group,
  type Matches,
  NO_LABELS,
  Peers,
  type Port,
  claimOf,
} from './peers.ts';
import { PortClasses } from './port-classes.ts';
import {
  type Atom,
  type PolicyRules,
  PROTOCOL_INDEX,
  rulesOfClusterPolicy,
  rulesOfNetworkPolicy,
} from './rules.ts';
import {
  EGRESS,
  EMPTY_POLICY_TABLE,
  INGRESS,
  type PolicyTable,
  SUBJECT_NODE,
  SUBJECT_WORDS,
} from './table.ts';

export interface PolicyInputs {
  readonly objects: ObjectSet;
  /** Pods of this node, by nameOf; 'all': every pod is asked, each on its own node (offline). */
  readonly subjects: ReadonlySet<string> | 'all';
  readonly nodeName: string;
  /** Of this node, besides those that its Node object has. */
  readonly nodeAddresses: readonly IpAddress[];
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

const LABEL_OF_NAME = 'kubernetes.io/metadata.name';

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
    const { peers, owners } = this.#peersOf(objects, inputs);
    const rows = this.#rowsOf(objects, peers);
    const atoms = this.#atomsOf(rows, peers);
    const ports = new PortClasses(rows, peers.groups);
    const ranges = new Ranges(atoms);
    const addresses = new Addresses(
      owners,
      peers.groups[0]!,
      ranges,
      this.#parted(atoms, peers, ports),
      this.#scratch,
    );
    const matrix = new Matrix(rows, atoms, ports, addresses, this.#scratch, this.#matrixMax);
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
  #peersOf(objects: ObjectSet, inputs: PolicyInputs): KnownPeers {
    const known = this.#peers;
    if (known !== null && isSameWorld(known, objects, inputs)) {
      known.peers.created.length = 0;
      return known;
    }
    // Until they are there: a failure leaves none.
    this.#peers = null;
    const peers = this.#newPeersOf(objects, inputs);
    this.#peers = { objects, inputs, peers, owners: ownersOf(peers, this.#scratch) };
    return this.#peers;
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
    const tiersOf = (group: Group): readonly (readonly PolicyRules[])[] =>
      [admin, networkPolicies.get(group.namespace) ?? [], baseline].map((tier) =>
        tier.filter(({ selects }) => selects(group.namespaceLabels, group.labels)),
      );
    const rowOf = (
      group: Group,
      selected: readonly (readonly PolicyRules[])[],
      direction: Row['direction'],
    ): Row => {
      const tiers = selected.map((tier) => tier.filter((it) => it.directions[direction] !== null));
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
        const selected = tiersOf(group);
        pair = [rowOf(group, selected, INGRESS), rowOf(group, selected, EGRESS)];
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
      // By number: what iterates over thousands of lists is garbage, at each change.
      for (let r = 0; r < rules.length; r++) {
        const used = rules[r]!.atoms;
        for (let a = 0; a < used.length; a++) {
          const atom = used[a]!;
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
  readonly owners: AllOwners;
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
