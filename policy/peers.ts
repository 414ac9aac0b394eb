/** The two ends of traffic as one compilation knows them: groups of pods, nodes, and whose which address is. */
import type { Labels } from '../objects/types.ts';
import { type IpAddress, addressBytes } from '../wire/address.ts';
import type { Atom } from './rules.ts';
import { hash4, hash6 } from './table.ts';

/** Pods that only their addresses tell apart; or nodes; or, the first, everything else. */
export interface Group {
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
export interface Port {
  readonly name: string;
  readonly protocol: 0 | 1 | 2;
  readonly number: number;
}

export interface Subject {
  readonly number: number;
  readonly node: number;
  readonly claims: readonly Claim[];
}

export const NO_LABELS: Labels = {};

const wordsOf = (address: IpAddress): Uint32Array => {
  const { buffer, byteLength } = addressBytes(address);
  const view = new DataView(buffer);
  return Uint32Array.from({ length: byteLength / 4 }, (_, i) => view.getUint32(4 * i));
};

/** Somebody's word that an address is his; changed in place at each compilation. */
export interface Claim {
  readonly words: Uint32Array;
  readonly name: string;
  readonly hash: number;
  /** Of those that claim the same address the lowest has it, then the first by name. */
  rank: number;
  group: Group | null;
  node: number;
  subject: number;
}

export function claimOf(address: IpAddress, name: string): Claim {
  const words = wordsOf(address);
  const [a = 0, b = 0, c = 0, d = 0] = words;
  const hash = words.length === 1 ? hash4(a) : hash6(a, b, c, d);
  return { words, name, hash, rank: 0, group: null, node: 0, subject: -1 };
}

/** An atom, its number in this compilation, and the groups that it matches. */
export interface Matches {
  readonly atom: Atom;
  index: number;
  groups: Group[];
}

/** The groups of one compilation, the subjects, and who claims which address. */
export class Peers {
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
