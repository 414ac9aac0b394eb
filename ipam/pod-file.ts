/**
 * What the pool remembers, in a file: `<state dir>/pods.json`.
 *
 *     {"version":1,
 *      "turn4":{"next":"10.244.1.9","freed":["10.244.1.4"]},"turn6":{"next":null,"freed":[]},
 *      "attachments":[{"containerId":"3f1c…","ifname":"eth0","network":"weft","netns":"/run/netns/cni-1",
 *        "netnsId":"4:4026532281","address4":"10.244.1.2","address6":null,"mac":"02:…",
 *        "pod":{"namespace":"default","name":"web-0","labels":{"app":"web"},
 *          "ports":[{"name":"http","containerPort":8080,"protocol":"TCP"}]}}]}
 *
 * What was acknowledged is in the file, whatever ends the process or the machine. What cannot be read
 * is put aside and never overwritten: it may be all that is known of who has which address.
 */
import { readFile, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { z } from 'zod';
import { replaceFile } from '../linux/files.ts';
import {
  AddressError,
  type IpAddress,
  type Ipv4,
  type Ipv6,
  formatAddress,
  parseIpv4,
  parseIpv6,
} from '../wire/address.ts';
import {
  CONTAINER_ID,
  INTERFACE_NAME,
  LABEL_KEY,
  LABEL_VALUE,
  NAMED_PORTS_MAX,
  NETNS_PATH,
  NETWORK_NAME,
  PORT_NAME,
  PORT_PROTOCOLS,
} from '../wire/cni.ts';
import { formatMac, isUnicastMac, parseMac } from '../wire/mac.ts';
import { EMPTY_POOL_STATE, type PoolState, type Turn, addressesOf, keyText } from './pod-pool.ts';
import type { Attachment } from './types.ts';

/** A newer Weft wrote the file. */
export class PodFileVersionError extends Error {
  readonly code = 'ERR_POD_FILE_VERSION';
}

/** The disk does not do what the file needs. The message says what follows. */
export class PodFileError extends Error {
  readonly code = 'ERR_POD_FILE';
}

/** The text is not what `encodeState` writes. The message says why. */
export class PodFileCorruptError extends Error {
  readonly code = 'ERR_POD_FILE_CORRUPT';
}

export interface OpenedPodFile {
  readonly file: PodFile;
  readonly state: PoolState;
  /** What was there could not be understood, and is kept under another name; then `state` is empty. */
  readonly corrupt: { readonly keptAs: string; readonly reason: string } | null;
}

const VERSION = 1;
/** 65,000 pods take some 20 MB. */
const LARGEST_BYTES = 64 * 2 ** 20;

/**
 * Reads the file, and removes what a killed process left half-written beside it. Nobody else may have it
 * open: the state directory's lock sees to that.
 * @throws PodFileVersionError, PodFileError
 */
export async function openPodFile(
  path: string,
  options: { readonly replace?: typeof replaceFile } = {},
): Promise<OpenedPodFile> {
  const file = new PodFile(path, options.replace ?? replaceFile);
  try {
    const suffixes = await suffixesBeside(path);
    for (const suffix of suffixes) if (/^\.[0-9]+\.new$/.test(suffix)) await rm(path + suffix);
    try {
      return { file, state: await readState(path), corrupt: null };
    } catch (error) {
      if (!(error instanceof PodFileCorruptError)) throw error;
      const numbers = suffixes.map((suffix) =>
        Number(/^\.corrupt-([0-9]+)$/.exec(suffix)?.[1] ?? 0),
      );
      const keptAs = `${path}.corrupt-${Math.max(0, ...numbers) + 1}`;
      await rename(path, keptAs);
      return { file, state: EMPTY_POOL_STATE, corrupt: { keptAs, reason: error.message } };
    }
  } catch (cause) {
    if (cause instanceof PodFileVersionError) throw cause;
    throw new PodFileError(
      `${path} can be neither read nor put aside; without it addresses in use could be given again`,
      { cause },
    );
  }
}

/** Writes whole states, one at a time; all who come during a write share the next one. */
export class PodFile {
  readonly #path: string;
  readonly #replace: typeof replaceFile;
  #writing = false;
  #next: { state: PoolState; readonly written: PromiseWithResolvers<void> } | null = null;

  constructor(path: string, replace: typeof replaceFile) {
    this.#path = path;
    this.#replace = replace;
  }

  /**
   * Resolves once this state or one of a later call is on disk. Rejects if the write that held it failed;
   * then the file holds an earlier state, and what was changed since must be taken back or saved again.
   * @throws PodFileError
   */
  save(state: PoolState): Promise<void> {
    this.#next ??= { state, written: Promise.withResolvers() };
    this.#next.state = state;
    const { written } = this.#next;
    if (!this.#writing) void this.#write();
    return written.promise;
  }

  async #write(): Promise<void> {
    this.#writing = true;
    while (this.#next !== null) {
      const { state, written } = this.#next;
      this.#next = null;
      try {
        await this.#replace(this.#path, encodeState(state), 0o600);
        written.resolve();
      } catch (cause) {
        written.reject(
          new PodFileError(
            `${this.#path} cannot be written; pods are neither attached nor detached until it can`,
            { cause },
          ),
        );
      }
    }
    this.#writing = false;
  }
}

/** What follows the file's own name in the names beside it. */
async function suffixesBeside(path: string): Promise<string[]> {
  const name = basename(path);
  const names = await readdir(dirname(path));
  return names.filter((one) => one.startsWith(`${name}.`)).map((one) => one.slice(name.length));
}

/** @throws PodFileCorruptError, PodFileVersionError; the file system's error */
async function readState(path: string): Promise<PoolState> {
  let text: string;
  try {
    const stats = await stat(path);
    if (!stats.isFile()) throw new PodFileCorruptError('it is no file');
    if (stats.size > LARGEST_BYTES) throw new PodFileCorruptError(`it has ${stats.size} bytes`);
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return EMPTY_POOL_STATE;
    throw error;
  }
  return decodeState(text, path);
}

const turnSchema = z.strictObject({ next: z.string().nullable(), freed: z.array(z.string()) });
const attachmentSchema = z.strictObject({
  containerId: z.string().regex(CONTAINER_ID),
  ifname: z.string().regex(INTERFACE_NAME),
  /** Empty: adopted from the host, where these three may be unknown. */
  network: z.union([z.literal(''), z.string().regex(NETWORK_NAME)]),
  netns: z.union([z.literal(''), z.string().regex(NETNS_PATH)]),
  netnsId: z.union([z.literal(''), z.string().regex(/^[0-9]+:[0-9]+$/)]),
  address4: z.string().nullable(),
  address6: z.string().nullable(),
  mac: z.string(),
  pod: z
    .strictObject({
      namespace: z.string(),
      name: z.string(),
      labels: z.record(z.string().regex(LABEL_KEY), z.string().regex(LABEL_VALUE)).exactOptional(),
      ports: z
        .array(
          z.strictObject({
            name: z.string().regex(PORT_NAME),
            containerPort: z.number().int().min(1).max(65_535),
            protocol: z.enum(PORT_PROTOCOLS),
          }),
        )
        .max(NAMED_PORTS_MAX)
        .exactOptional(),
    })
    .nullable(),
});
const stateSchema = z.strictObject({
  version: z.literal(VERSION),
  turn4: turnSchema,
  turn6: turnSchema,
  attachments: z.array(attachmentSchema),
});

export function encodeState({ attachments, turn4, turn6 }: PoolState): string {
  const turnText = ({ next, freed }: Turn<IpAddress>): z.infer<typeof turnSchema> => ({
    next: next === null ? null : formatAddress(next),
    freed: freed.map((address) => formatAddress(address)),
  });
  const content: z.infer<typeof stateSchema> = {
    version: VERSION,
    turn4: turnText(turn4),
    turn6: turnText(turn6),
    attachments: attachments.map((attachment) => ({
      containerId: attachment.containerId,
      ifname: attachment.ifname,
      network: attachment.network,
      netns: attachment.netns,
      netnsId: attachment.netnsId,
      address4: attachment.address4 === null ? null : formatAddress(attachment.address4),
      address6: attachment.address6 === null ? null : formatAddress(attachment.address6),
      mac: formatMac(attachment.mac),
      pod: attachment.pod && podText(attachment.pod),
    })),
  };
  return `${JSON.stringify(content)}\n`;
}

const podText = ({ namespace, name, labels, ports }: NonNullable<Attachment['pod']>) => ({
  namespace,
  name,
  ...(labels === undefined ? {} : { labels: { ...labels } }),
  ...(ports === undefined ? {} : { ports: ports.map((it) => ({ ...it })) }),
});

/** @throws PodFileCorruptError, PodFileVersionError */
export function decodeState(text: string, path: string): PoolState {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (cause) {
    throw new PodFileCorruptError('it is not JSON', { cause });
  }
  refuseNewer(content, path);
  const parsed = stateSchema.safeParse(content);
  if (!parsed.success) {
    const { message, path: place } = parsed.error.issues[0]!;
    throw new PodFileCorruptError(`${place.join('.') || 'the whole'}: ${message.slice(0, 200)}`);
  }
  try {
    const { attachments, turn4, turn6 } = parsed.data;
    const state: PoolState = {
      attachments: attachments.map(attachmentOf),
      turn4: turnOf(turn4, parseIpv4),
      turn6: turnOf(turn6, parseIpv6),
    };
    refuseTwice(state);
    return state;
  } catch (cause) {
    if (!(cause instanceof AddressError)) throw cause;
    throw new PodFileCorruptError(cause.message.slice(0, 200), { cause });
  }
}

function refuseNewer(content: unknown, path: string): void {
  if (typeof content !== 'object' || content === null || !('version' in content)) return;
  const { version } = content;
  if (!Number.isSafeInteger(version) || (version as number) <= VERSION) return;
  throw new PodFileVersionError(
    `${path} was written by a newer Weft: its format is version ${String(version)}, and this Weft reads ` +
      `version ${VERSION}; start the newer one again`,
  );
}

function attachmentOf(text: z.infer<typeof attachmentSchema>): Attachment {
  const address4: Ipv4 | null = text.address4 === null ? null : parseIpv4(text.address4);
  const address6: Ipv6 | null = text.address6 === null ? null : parseIpv6(text.address6);
  const mac = parseMac(text.mac);
  if (!isUnicastMac(mac)) throw new PodFileCorruptError(`${text.mac} is not a unicast address`);
  if (address4 === null && address6 === null) {
    throw new PodFileCorruptError(`container ${text.containerId} has no address`);
  }
  return { ...text, address4, address6, mac };
}

const turnOf = <A extends IpAddress>(
  { next, freed }: z.infer<typeof turnSchema>,
  parse: (text: string) => A,
): Turn<A> => ({ next: next === null ? null : parse(next), freed: freed.map(parse) });

/** @throws PodFileCorruptError */
function refuseTwice({ attachments, turn4, turn6 }: PoolState): void {
  const keys = new Set<string>();
  const addresses = new Set<IpAddress>();
  const enter = (address: IpAddress): void => {
    if (addresses.has(address)) {
      throw new PodFileCorruptError(`${formatAddress(address)} is in it twice`);
    }
    addresses.add(address);
  };
  for (const attachment of attachments) {
    const { containerId, ifname } = attachment;
    const key = keyText(attachment);
    if (keys.has(key)) {
      throw new PodFileCorruptError(`interface ${ifname} of ${containerId} is in it twice`);
    }
    keys.add(key);
    addressesOf(attachment).forEach(enter);
  }
  for (const address of [...turn4.freed, ...turn6.freed]) enter(address);
}
