/**
 * What has changed on this node, in words: looks are compared, one a second, and differences are kept, the
 * newest some hundreds. What came and went between two looks was not.
 */
import { isDeepStrictEqual } from 'node:util';
import type { ObjectSet } from '../objects/types.ts';
import type { TimelineMessage } from './messages.ts';

const REMEMBERED = 500;
/** More changes of one kind in one look are a number. */
const TOLD_SINGLY = 10;
/** Drops that stopped for so long begin anew. */
const QUIET_MS = 60_000;

/** What is looked at. */
export interface Look {
  readonly forwarding: boolean;
  readonly reasons: readonly string[];
  /** Of our own lease; null: none is held. */
  readonly lease: string | null;
  /** Peers, by the key of their lease; null before the first list. */
  readonly peers: readonly string[] | null;
  readonly objects: Pick<
    ObjectSet,
    'networkPolicies' | 'clusterNetworkPolicies' | 'services'
  > | null;
  /** Packets, by reason. */
  readonly drops: Readonly<Record<string, number>>;
}

type Kind = TimelineMessage['kind'];

const OBJECTS = [
  ['networkPolicies', 'NetworkPolicy', 'policy'],
  ['clusterNetworkPolicies', 'ClusterNetworkPolicy', 'policy'],
  ['services', 'Service', 'service'],
] as const;

export class Timeline {
  readonly #node: string;
  readonly #events: TimelineMessage[] = [];
  readonly #droppedAtMs = new Map<string, number>();
  #last: Look | null = null;

  constructor(node: string) {
    this.#node = node;
  }

  /** Oldest first. */
  get events(): readonly TimelineMessage[] {
    return this.#events;
  }

  look(look: Look, nowMs: number): void {
    const last = this.#last;
    this.#last = look;
    const tell = (kind: Kind, texts: readonly string[]): void => this.#tell(nowMs, kind, texts);
    if (last?.forwarding !== look.forwarding) {
      const [why] = look.reasons;
      if (look.forwarding) tell('node', ['packets go through']);
      else if (last !== null) tell('node', [`no packets go through: ${why ?? 'it stops'}`]);
    }
    if (last?.lease !== look.lease) {
      if (look.lease !== null) tell('lease', [`holds ${look.lease}`]);
      else if (last !== null) tell('lease', [`${last.lease} is not held any more`]);
    }
    if (last === null) return;
    if (last.peers !== look.peers && last.peers !== null && look.peers !== null) {
      const [before, after] = [new Set(last.peers), new Set(look.peers)];
      const came = [...after.difference(before)].map((it) => `${it} came`);
      const went = [...before.difference(after)].map((it) => `${it} went`);
      tell('peer', [...came, ...went]);
    }
    this.#compareObjects(last, look, tell);
    this.#compareDrops(last, look, nowMs, tell);
  }

  #compareObjects(
    last: Look,
    look: Look,
    tell: (kind: Kind, texts: readonly string[]) => void,
  ): void {
    if (last.objects === null || look.objects === null) return;
    for (const [field, name, kind] of OBJECTS) {
      const before: ReadonlyMap<string, unknown> = last.objects[field];
      const after: ReadonlyMap<string, unknown> = look.objects[field];
      if (before === after) continue;
      const texts: string[] = [];
      for (const [key, object] of after) {
        const other = before.get(key);
        if (other === object) continue;
        if (other === undefined) texts.push(`${name} ${key.replace(/^\//, '')} came`);
        else if (!isDeepStrictEqual(other, object)) texts.push(`${name} ${key} changed`);
      }
      for (const key of before.keys()) {
        if (!after.has(key)) texts.push(`${name} ${key.replace(/^\//, '')} went`);
      }
      if (texts.length > TOLD_SINGLY) tell(kind, [`${texts.length} changes of ${name}`]);
      else tell(kind, texts);
    }
  }

  #compareDrops(
    last: Look,
    look: Look,
    nowMs: number,
    tell: (kind: Kind, texts: readonly string[]) => void,
  ): void {
    for (const [reason, count] of Object.entries(look.drops)) {
      if (count <= (last.drops[reason] ?? 0)) continue;
      const before = this.#droppedAtMs.get(reason);
      if (before === undefined || nowMs - before > QUIET_MS) {
        tell('drops', [`drops begin: ${reason}`]);
      }
      this.#droppedAtMs.set(reason, nowMs);
    }
  }

  #tell(nowMs: number, kind: Kind, texts: readonly string[]): void {
    const time = new Date(nowMs).toISOString();
    for (const text of texts) this.#events.push({ time, node: this.#node, kind, text });
    const surplus = this.#events.length - REMEMBERED;
    if (surplus > 0) this.#events.splice(0, surplus);
  }
}
