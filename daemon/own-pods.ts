/**
 * This node's pods as objects for everybody: what the CNI plugin attached, below
 * `<prefix>/pods/<node>/`, on an etcd lease of ours. A level, not events: one pass compares the keys that
 * are there with the pods that should be, and mends the difference, whoever made it. The lease ends with
 * a node that is gone for good; a renewal is a new lease, as the store has no keep-alive.
 */
import { type Clock, bootClock } from '../ipam/clock.ts';
import type { Attachment } from '../ipam/types.ts';
import { addressesOf } from '../ipam/pod-pool.ts';
import type { Pod } from '../objects/types.ts';
import { type Store, StoreError } from '../store/store.ts';
import { formatAddress } from '../wire/address.ts';
import { INTERFACE_OF, nodePodsPrefix } from './object-keys.ts';

/** A DNS label of it: lower case, and dashes for what none may hold. */
const labelOf = (text: string): string =>
  text
    .toLowerCase()
    .replaceAll(/[^a-z0-9]/g, '-')
    .replaceAll(/^-+|-+$/g, '');

/** A DNS subdomain of it. */
const podName = (text: string): string =>
  text
    .split('.')
    .map(labelOf)
    .filter((it) => it !== '')
    .join('.')
    .slice(0, 253)
    .replace(/[-.]+$/, '') || 'pod';

/** What Kubernetes calls the pod; one that it knows nothing of is `default/<container id>`. */
export function podNameOf({ containerId, pod }: Pick<Attachment, 'containerId' | 'pod'>): {
  readonly namespace: string;
  readonly name: string;
} {
  if (pod === null) return { namespace: 'default', name: podName(containerId) };
  const namespace = labelOf(pod.namespace).slice(0, 63).replace(/-+$/, '') || 'default';
  return { namespace, name: podName(pod.name) };
}

const known = new WeakMap<Attachment, Pod>();

/**
 * The pod at once, without the way through etcd: its policy is right from its first packet. The same
 * attachment is the same object.
 */
export function podOfAttachment(attachment: Attachment, nodeName: string): Pod {
  const before = known.get(attachment);
  if (before?.nodeName === nodeName) return before;
  const { namespace, name } = podNameOf(attachment);
  const pod: Pod = {
    kind: 'Pod',
    metadata: { namespace, name, labels: attachment.pod?.labels ?? {}, annotations: {} },
    nodeName,
    hostNetwork: false,
    ports: attachment.pod?.ports ?? [],
    podIPs: addressesOf(attachment),
    phase: 'Running',
    ready: true,
    terminating: false,
  };
  known.set(attachment, pod);
  return pod;
}

/**
 * All of them, each with a name of its own: of a pod with several interfaces the first has the name, the
 * others are `<name>-<interface>`, and say whose they are.
 */
export function podsOfAttachments(attachments: readonly Attachment[], nodeName: string): Pod[] {
  const taken = new Set<string>();
  return attachments.map((attachment) => {
    const pod = podOfAttachment(attachment, nodeName);
    const { namespace, name } = pod.metadata;
    let unique = name;
    for (let i = 1; taken.has(`${namespace}/${unique}`); i++) {
      const suffix = podName(`${attachment.ifname}${i === 1 ? '' : `-${i}`}`);
      unique = `${name.slice(0, 252 - suffix.length)}-${suffix}`;
    }
    taken.add(`${namespace}/${unique}`);
    if (unique === name) return pod;
    const annotations = { [INTERFACE_OF]: name };
    return { ...pod, metadata: { ...pod.metadata, name: unique, annotations } };
  });
}

/** As Kubernetes writes it. */
export function rawPod({ metadata, nodeName, ports, podIPs, phase }: Pod): Record<string, unknown> {
  const ips = podIPs.map((it) => formatAddress(it));
  const { namespace, name, labels, annotations } = metadata;
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      namespace,
      name,
      labels,
      ...(Object.keys(annotations).length > 0 && { annotations }),
    },
    spec: { nodeName, ...(ports.length > 0 && { containers: [{ name: 'all', ports }] }) },
    status: { phase, podIP: ips[0], podIPs: ips.map((ip) => ({ ip })) },
  };
}

export interface OwnPodsOptions {
  readonly store: Store;
  readonly prefix: string;
  readonly nodeName: string;
  readonly ttlMs: number;
  /** What should be there, read at every pass. */
  readonly pods: () => readonly Pod[];
  /** Why the pods in etcd are not up to date; null: they are again. Must not throw. */
  readonly onProblem: (error: StoreError | null) => void;
  /** After a failure. Default 2 s. */
  readonly retryMs?: number;
  readonly clock?: Clock;
}

export interface OwnPods {
  /** The pods have changed. */
  readonly changed: () => void;
  /** Ends the publishing; what is published stays until the lease ends, or the next start takes it up. */
  readonly stop: () => Promise<void>;
  /** Settles when it was stopped; rejects by a defect only. */
  readonly ended: Promise<unknown>;
  /** Ends it, and takes everything back. @throws StoreError */
  readonly release: () => Promise<void>;
}

/** Pods that come at once share a pass. */
const GATHER_MS = 20;
const RETRY_MS = 2_000;

/** Starts at once. */
export function publishOwnPods(options: OwnPodsOptions): OwnPods {
  return new Publisher(options);
}

class Publisher implements OwnPods {
  readonly #options: OwnPodsOptions;
  readonly #folder: string;
  readonly #clock: Clock;
  readonly #stopping = new AbortController();
  readonly ended: Promise<unknown>;
  #dirty = Promise.withResolvers<void>();
  #lease: { readonly leaseId: string; readonly renewAtMs: number } | null = null;

  constructor(options: OwnPodsOptions) {
    this.#options = options;
    this.#folder = nodePodsPrefix(options.prefix, options.nodeName);
    this.#clock = options.clock ?? bootClock;
    const { signal } = this.#stopping;
    this.ended = Promise.all([this.#publish(signal), this.#notice(signal)]);
    this.ended.catch(() => 'thrown by stop(), and told to who waits for it');
  }

  changed(): void {
    this.#dirty.resolve();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.ended;
  }

  async release(): Promise<void> {
    await this.stop();
    await deletePodsOf(this.#options.store, this.#options.prefix, this.#options.nodeName);
    if (this.#lease !== null) await this.#options.store.revoke(this.#lease.leaseId);
  }

  /** Somebody else changed our keys, or etcd forgot them. */
  async #notice(signal: AbortSignal): Promise<void> {
    for await (const { entries } of this.#options.store.watch(this.#folder, { signal })) {
      const wanted = this.#wanted();
      const isAsWanted =
        entries.size === wanted.size &&
        [...wanted].every(([key, value]) => {
          const entry = entries.get(key);
          return entry?.value === value && entry.leaseId === this.#lease?.leaseId;
        });
      if (!isAsWanted) this.changed();
    }
  }

  async #publish(signal: AbortSignal): Promise<void> {
    let isBehind = false;
    while (!signal.aborted) {
      this.#dirty = Promise.withResolvers();
      let waitMs: number;
      try {
        const isDone = await this.#pass(signal);
        if (isBehind) this.#options.onProblem(null);
        isBehind = false;
        waitMs = isDone ? this.#lease!.renewAtMs - this.#clock.now() : GATHER_MS;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof StoreError)) throw error;
        // A lease that the store does not know any more is refused.
        if (error.code === 'ERR_STORE_REFUSED') this.#lease = null;
        isBehind = true;
        this.#options.onProblem(error);
        waitMs = (this.#options.retryMs ?? RETRY_MS) * (0.5 + Math.random() / 2);
        await this.#pause(waitMs, signal);
        continue;
      }
      await this.#pause(waitMs, signal, this.#dirty.promise);
      await this.#pause(GATHER_MS, signal);
    }
  }

  /** Ends with `until`, too. */
  async #pause(ms: number, signal: AbortSignal, until?: Promise<void>): Promise<void> {
    const ended = new AbortController();
    const slept = this.#clock.sleep(Math.max(ms, 0), AbortSignal.any([signal, ended.signal]));
    try {
      await (until === undefined ? slept : Promise.race([slept, until]));
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      slept.catch(() => 'it was cut short');
      ended.abort();
    }
  }

  #wanted(): ReadonlyMap<string, string> {
    return new Map(
      this.#options.pods().map((pod) => {
        const { namespace, name } = pod.metadata;
        return [`${this.#folder}${namespace}/${name}`, JSON.stringify(rawPod(pod))];
      }),
    );
  }

  /** False: somebody was faster; look again. @throws StoreError */
  async #pass(signal: AbortSignal): Promise<boolean> {
    const { store } = this.#options;
    const leaseId = await this.#leaseOf(signal);
    const { entries } = await store.list(this.#folder, signal);
    const wanted = this.#wanted();
    let isDone = true;
    for (const [key, { modRevision }] of entries) {
      if (wanted.has(key)) continue;
      isDone =
        (await store.commit({ kind: 'delete', key, modRevision }, signal)) !== null && isDone;
    }
    for (const [key, value] of wanted) {
      const entry = entries.get(key);
      if (entry?.value === value && entry.leaseId === leaseId) continue;
      const change =
        entry === undefined
          ? ({ kind: 'create', key, value, leaseId } as const)
          : ({ kind: 'replace', key, value, leaseId, modRevision: entry.modRevision } as const);
      isDone = (await store.commit(change, signal)) !== null && isDone;
    }
    return isDone;
  }

  /** Half of a lease's time is left to move the keys to the next one; the old one ends by itself. */
  async #leaseOf(signal: AbortSignal): Promise<string> {
    const nowMs = this.#clock.now();
    if (this.#lease === null || nowMs >= this.#lease.renewAtMs) {
      const { leaseId, ttlMs } = await this.#options.store.grant(this.#options.ttlMs, signal);
      this.#lease = { leaseId, renewAtMs: nowMs + ttlMs / 2 };
    }
    return this.#lease.leaseId;
  }
}

/** @returns how many there were @throws StoreError */
export async function deletePodsOf(
  store: Store,
  prefix: string,
  nodeName: string,
): Promise<number> {
  const { entries } = await store.list(nodePodsPrefix(prefix, nodeName));
  for (const { key, modRevision } of entries.values()) {
    await store.commit({ kind: 'delete', key, modRevision });
  }
  return entries.size;
}
