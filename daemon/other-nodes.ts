/** The other nodes of the cluster: what they are called, and what they answer. None is an obstacle to the rest. */
import type { NodeLease } from '../ipam/types.ts';
import { ApiError } from './api.ts';
import { type AskOptions, type ClusterApi, NodeAbsentError } from './cluster-api.ts';
import { addressText } from './messages.ts';

/** Questions to different nodes. */
const AT_ONCE = 32;
/** Of another node's words, so many characters. */
const WORDS_MAX = 200;

export interface OtherNodesOptions {
  readonly api: Pick<ClusterApi, 'ask' | 'obstacle'>;
  /** Null before the first list. */
  readonly peers: () => readonly NodeLease[] | null;
  /** By the key of a lease: what is known of names before a node says its own. */
  readonly names: () => (key: string) => string;
}

/** A node's answer, or why there is none. */
export type Answered<T> = { readonly answer: T } | { readonly problem: string };

/** Nodes that were asked for by name. */
export interface ChosenNodes {
  readonly own: boolean;
  readonly peers: readonly NodeLease[];
  /** Names of nobody. */
  readonly unknown: readonly string[];
}

/** At most AT_ONCE at the same time. */
export async function eachOf<T>(
  items: readonly T[],
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < items.length) await work(items[next++]!);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
}

const isNamed = (answer: unknown): answer is { readonly node: string } =>
  typeof (answer as { readonly node?: unknown } | null)?.node === 'string';

export class OtherNodes {
  readonly #options: OtherNodesOptions;
  /** What nodes call themselves, by the keys of their leases; they said so once. */
  readonly #called = new Map<string, string>();

  constructor(options: OtherNodesOptions) {
    this.#options = options;
  }

  /** Why none can be asked; null: each can be tried. */
  get obstacle(): string | null {
    if (this.#options.peers() === null) return 'their leases in etcd have not been listed yet';
    return this.#options.api.obstacle;
  }

  get peers(): readonly NodeLease[] {
    return this.#options.peers() ?? [];
  }

  nameOf({ key }: Pick<NodeLease, 'key'>): string {
    return this.#called.get(key) ?? this.#options.names()(key);
  }

  /** @throws NodeAbsentError; ApiError with that daemon's own words */
  async ask<T>(peer: NodeLease, path: string, options: AskOptions<T> = {}): Promise<T> {
    const answer = await this.#options.api.ask<T>(peer, path, options);
    if (isNamed(answer)) this.#called.set(peer.key, answer.node.slice(0, WORDS_MAX));
    return answer;
  }

  /** The same, and a problem is an answer, too. */
  async answerOf<T>(peer: NodeLease, path: string): Promise<Answered<T>> {
    try {
      return { answer: await this.ask<T>(peer, path) };
    } catch (error) {
      return { problem: problemOf(error) };
    }
  }

  /**
   * Asks them all. What one answers is taken as it comes: many nodes' answers need not be in memory at once.
   * @param take     false: it is not understood
   * @returns        who did not answer, and why, a line each
   */
  async askAll(
    path: string,
    take: (answer: unknown, peer: NodeLease) => boolean,
    peers: readonly NodeLease[] = this.peers,
  ): Promise<readonly string[]> {
    const { obstacle } = this;
    const isAsking = this.#options.peers() === null || peers.length > 0;
    if (obstacle !== null && isAsking) return [`the other nodes: ${obstacle}`];
    const absent: string[] = [];
    await eachOf(peers, async (peer) => {
      const got = await this.answerOf<unknown>(peer, path);
      let problem: string | null = null;
      if ('problem' in got) ({ problem } = got);
      else if (!take(got.answer, peer)) problem = 'its answer is not understood';
      if (problem !== null) absent.push(`${this.nameOf(peer)}: ${problem}`);
    });
    return absent.toSorted((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  }

  /**
   * By name, lease or address; those who have not said their name are asked for it when one is looked for.
   * @param names  none: all of them
   * @param isOwn  does the name mean this node?
   */
  async choose(names: readonly string[], isOwn: (name: string) => boolean): Promise<ChosenNodes> {
    const { peers } = this;
    if (names.length === 0) return { own: true, peers, unknown: [] };
    const others = names.filter((it) => !isOwn(it));
    const unknown = (): string[] =>
      others.filter((name) => !peers.some((it) => this.#isCalled(it, name)));
    if (unknown().length > 0 && this.obstacle === null) {
      const silent = peers.filter(({ key }) => !this.#called.has(key));
      await this.askAll('/v1/status', () => true, silent);
    }
    return {
      own: others.length < names.length,
      peers: peers.filter((it) => others.some((name) => this.#isCalled(it, name))),
      unknown: unknown(),
    };
  }

  #isCalled(peer: NodeLease, name: string): boolean {
    const addresses = [peer.publicIp4, peer.publicIp6].map(addressText);
    return peer.key === name || this.nameOf(peer) === name || addresses.includes(name);
  }
}

/** Why another node has no answer for us. @throws what is neither */
export function problemOf(error: unknown): string {
  if (error instanceof NodeAbsentError) return error.message;
  if (error instanceof ApiError) return `it refuses: ${error.message.slice(0, WORDS_MAX)}`;
  throw error;
}
