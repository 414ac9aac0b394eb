/**
 * What a daemon that starts does with the attachments of its file, when the host may have gone on without
 * it. Pure: what was read in, what to do out.
 *
 *     in the file   on the host   namespace    then
 *     yes           yes                        kept
 *     yes           no            lives        kept; the interface is made anew
 *     yes           no            gone         freed: nobody is left who could use the address
 *     no            yes                        adopted: the file was lost
 *
 * A tombstone, a DEL that came while no daemon ran, frees in any case. After a reboot nothing of either is
 * there, and all is freed.
 */
import { type IpAddress, formatAddress } from '../wire/address.ts';
import type { HostAttachment } from './attachment-alias.ts';
import {
  type AttachmentKey,
  type PodPool,
  addressesOf,
  addressesText,
  keyText,
} from './pod-pool.ts';
import type { Attachment } from './types.ts';

/** An interface that by its name could be a pod's. */
export interface HostInterface {
  readonly name: string;
  /** The kernel counts up: of two, the higher one was made later. */
  readonly ifindex: number;
  /** What its alias says (parseAlias); null: nothing of ours. */
  readonly attachment: HostAttachment | null;
}

export interface StartQuestion {
  /** Of the file: no two with one key, no two with one address. */
  readonly attachments: readonly Attachment[];
  readonly tombstones: readonly AttachmentKey[];
  readonly hostInterfaces: readonly HostInterface[];
  /** Its path leads to a namespace with the same device and inode. Asked only where it decides. */
  readonly namespaceLives: (attachment: Attachment) => boolean;
}

export interface StartPlan {
  /** `hostInterface` null: it is to be made anew. */
  readonly keep: readonly {
    readonly attachment: Attachment;
    readonly hostInterface: string | null;
  }[];
  /** To be released, and these interfaces removed. `deleted`: by tombstone; `gone`: with its namespace. */
  readonly free: readonly {
    readonly key: AttachmentKey;
    readonly hostInterfaces: readonly string[];
    readonly reason: 'deleted' | 'gone';
  }[];
  /** Their namespace is not known ("" and ""): they are gone as soon as the interface is. */
  readonly adopt: readonly { readonly attachment: Attachment; readonly hostInterface: string }[];
  /** Interfaces that claim what is another's; they get no route. The reason says whose, and why. */
  readonly conflicts: readonly { readonly hostInterface: string; readonly reason: string }[];
  /** Interfaces without an alias of ours; left alone. */
  readonly foreign: readonly string[];
}

export function planStart(question: StartQuestion): StartPlan {
  const { attachments, namespaceLives } = question;
  const deleted = new Set(question.tombstones.map(keyText));
  const foreign: string[] = [];
  const onHost = new Map<string, ClaimingInterface[]>();
  // The latest first: an address is given again only after it was freed, so of two interfaces that claim
  // one, the earlier is a remnant.
  for (const one of question.hostInterfaces.toSorted((a, b) => b.ifindex - a.ifindex)) {
    const { name, attachment } = one;
    if (attachment === null) {
      foreign.push(name);
      continue;
    }
    const key = keyText(attachment);
    onHost.set(key, [...(onHost.get(key) ?? []), { ...one, attachment }]);
  }

  const keep: StartPlan['keep'][number][] = [];
  const free: StartPlan['free'][number][] = [];
  const adopt: StartPlan['adopt'][number][] = [];
  const conflicts: StartPlan['conflicts'][number][] = [];
  /** Why an address cannot be adopted. */
  const taken = new Map<IpAddress, string>();
  const take = (attachment: HostAttachment, why: string): void => {
    for (const address of addressesOf(attachment)) taken.set(address, why);
  };

  for (const attachment of attachments) {
    const key = keyText(attachment);
    const interfaces = onHost.get(key) ?? [];
    onHost.delete(key);
    if (deleted.has(key)) {
      free.push(freed(attachment, interfaces, 'deleted'));
      continue;
    }
    const own = interfaces.find((one) => agrees(one.attachment, attachment));
    // An adopted one has no namespace that could be asked for.
    const lives =
      interfaces.length > 0 || (attachment.netnsId !== '' && namespaceLives(attachment));
    if (!lives) {
      free.push(freed(attachment, [], 'gone'));
      continue;
    }
    keep.push({ attachment, hostInterface: own?.name ?? null });
    take(attachment, `container ${attachment.containerId} has it by the file`);
    for (const one of interfaces) {
      if (one === own) continue;
      // The file was written first, then the interface was made: where they differ, the file is newer.
      const reason =
        own === undefined
          ? `it says ${addressesText(one.attachment)}, and the file ${addressesText(attachment)}`
          : `${own.name} is the same container's interface ${attachment.ifname} already`;
      conflicts.push({ hostInterface: one.name, reason });
    }
  }

  const unknown = Array.from(onHost.values()).flat();
  for (const one of unknown.toSorted((a, b) => b.ifindex - a.ifindex)) {
    const { name, attachment } = one;
    const key = keyText(attachment);
    const interfaces = onHost.get(key) ?? [];
    if (deleted.has(key)) {
      if (one === interfaces[0]) free.push(freed(attachment, interfaces, 'deleted'));
      continue;
    }
    const first = interfaces[0]!;
    const claimed = addressesOf(attachment).find((address) => taken.has(address));
    if (one !== first) {
      const reason = `${first.name}, made later, is the same container's interface ${attachment.ifname}`;
      conflicts.push({ hostInterface: name, reason });
    } else if (claimed !== undefined) {
      const reason = `it claims ${formatAddress(claimed)}, but ${taken.get(claimed)!}`;
      conflicts.push({ hostInterface: name, reason });
    } else {
      adopt.push({ attachment: { ...attachment, netns: '', netnsId: '' }, hostInterface: name });
      take(attachment, `${name}, made later, claims it too`);
    }
  }
  return { keep, free, adopt, conflicts, foreign };
}

/** Brings the pool to what the plan says. The pool holds the question's attachments. */
export function applyStartPlan(pool: PodPool, { free, adopt }: StartPlan): void {
  for (const { key } of free) pool.release(key);
  for (const { attachment } of adopt) pool.adopt(attachment);
}

interface ClaimingInterface extends HostInterface {
  readonly attachment: HostAttachment;
}

const freed = (
  { containerId, ifname }: AttachmentKey,
  interfaces: readonly ClaimingInterface[],
  reason: 'deleted' | 'gone',
): StartPlan['free'][number] => ({
  key: { containerId, ifname },
  hostInterfaces: interfaces.map(({ name }) => name),
  reason,
});

const agrees = (a: HostAttachment, b: HostAttachment): boolean =>
  a.address4 === b.address4 && a.address6 === b.address6 && a.mac === b.mac;
