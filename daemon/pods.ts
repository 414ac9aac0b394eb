/**
 * The pods of this node: what the CNI plugin asks becomes attachments, on disk before anybody is told,
 * and from attachments come the host's state (pod-host.ts), the packet path's and the answers. Every
 * verb may come at any moment, many at once, and again after a crash in the middle.
 */
import { randomBytes } from 'node:crypto';
import { readdir, rm } from 'node:fs/promises';
import { z } from 'zod';
import type { OpenedPodFile } from '../ipam/pod-file.ts';
import {
  type AttachmentKey,
  PodPool,
  addressesOf,
  addressesText,
  describePool,
  keyText,
} from '../ipam/pod-pool.ts';
import { planStart } from '../ipam/start-plan.ts';
import type { AddressRange } from '../ipam/address-range.ts';
import type { Attachment, NodeLease } from '../ipam/types.ts';
import { NamespaceError, openNamespace, ownNamespaceId } from '../linux/netns.ts';
import { type IpAddress, formatAddress, parseAddress } from '../wire/address.ts';
import {
  CONTAINER_ID,
  CniCode,
  INTERFACE_NAME,
  LABEL_KEY,
  LABEL_VALUE,
  NAMED_PORTS_MAX,
  NETNS_PATH,
  NETWORK_NAME,
  PORT_NAME,
  PORT_PROTOCOLS,
} from '../wire/cni.ts';
import { type Mac, formatMac, isUnicastMac, localMac, parseMac } from '../wire/mac.ts';
import { ApiError } from './api.ts';
import type { Log } from './log.ts';
import { podNameOf } from './own-pods.ts';
import type {
  AttachmentMessage,
  CniAddRequest,
  CniAnswer,
  CniAttachment,
  CniCheckRequest,
  CniRequest,
  IpamCheckMessage,
  IpamMessage,
} from './messages.ts';
import { addressText, cidrText } from './messages.ts';
import {
  GATEWAY4,
  GATEWAY6,
  type PodHost,
  PodHostError,
  type PodHostResult,
  hostInterfaceOf,
  hostMacText,
  refuseExisting,
} from './pod-host.ts';

/** What a verb answers instead of doing as it was asked. */
export class CniFailure extends Error {
  override readonly name = 'CniFailure';
  readonly code = 'ERR_CNI';
  readonly cniCode: CniCode;

  constructor(cniCode: CniCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.cniCode = cniCode;
  }
}

/** What the rest of the daemon does for the pods. */
export interface PodSurroundings {
  readonly log: Log;
  readonly host: PodHost;
  /** Brings the host to what the attachments say now. @throws what kept the whole pass from it */
  readonly reconcile: () => Promise<PodHostResult>;
  /** The packet path learns which addresses pods have. */
  readonly publish: () => void;
  /** Why no pod can be added now; null: it can. */
  readonly obstacle: () => string | null;
  /** Packets are not carried as they should be: pods that are there suffer. */
  readonly impaired: () => boolean;
  readonly mtuBytes: () => number;
}

const CODES: Readonly<Record<string, CniCode>> = {
  ERR_POOL_EXHAUSTED: CniCode.tryAgainLater,
  ERR_NO_SUBNET: CniCode.tryAgainLater,
  ERR_ADDRESS_TAKEN: CniCode.addressUnavailable,
  ERR_ADDRESS_OUTSIDE: CniCode.addressUnavailable,
  ERR_ADDRESS_RESERVED: CniCode.addressUnavailable,
  ERR_ADDRESS_FAMILY: CniCode.addressUnavailable,
  ERR_ALREADY_ATTACHED: CniCode.interfaceExists,
  ERR_INTERFACE_EXISTS: CniCode.interfaceExists,
  ERR_NETNS: CniCode.invalidEnvironment,
  ERR_HOST_NAMESPACE: CniCode.invalidEnvironment,
  ERR_NAMESPACE_GONE: CniCode.unknownContainer,
  ERR_POD_FILE: CniCode.io,
};

const containerId = z.string().regex(CONTAINER_ID);
const ifname = z.string().regex(INTERFACE_NAME);
const network = z.string().regex(NETWORK_NAME);
const netns = z.string().regex(NETNS_PATH);
const ips = z.array(z.string().max(64)).max(16);
const mac = z.string().max(17).nullable();
const name = z.string().max(253);
const ports = z
  .array(
    z.object({
      name: z.string().regex(PORT_NAME),
      containerPort: z.number().int().min(1).max(65_535),
      protocol: z.enum(PORT_PROTOCOLS),
    }),
  )
  .max(NAMED_PORTS_MAX);
const requestSchema = z.discriminatedUnion('command', [
  z.object({
    command: z.literal('ADD'),
    network,
    containerId,
    ifname,
    netns,
    ips,
    mac,
    pod: z.object({ namespace: name, name }).nullable(),
    labels: z.record(z.string().regex(LABEL_KEY), z.string().regex(LABEL_VALUE)).exactOptional(),
    ports: ports.exactOptional(),
  }),
  z.object({
    command: z.literal('CHECK'),
    network,
    containerId,
    ifname,
    netns,
    ips: ips.nullable(),
    mac,
  }),
  z.object({ command: z.literal('DEL'), containerId, ifname }),
  z.object({
    command: z.literal('GC'),
    network,
    valid: z.array(z.object({ containerId: z.string(), ifname: z.string() })).max(65_536),
  }),
  z.object({ command: z.literal('STATUS') }),
]);

export class Pods {
  readonly #around: PodSurroundings;
  readonly #opened: OpenedPodFile;
  readonly #deletedDir: string;
  #pool: PodPool;
  /** Wanted on the host: every attachment that is on disk and not on its way out. */
  readonly #wanted = new Map<string, Attachment>();
  /** Being added or deleted: one verb at a time for each interface. */
  readonly #busy = new Map<string, Promise<unknown>>();
  #addresses: readonly IpAddress[] = [];

  constructor(around: PodSurroundings, opened: OpenedPodFile, deletedDir: string) {
    this.#around = around;
    this.#opened = opened;
    this.#deletedDir = deletedDir;
    const { state } = opened;
    this.#pool = new PodPool({ subnets: { subnet4: null, subnet6: null }, state });
  }

  #save(): Promise<void> {
    return this.#opened.file.save(this.#pool.state());
  }

  /** What should be on the host. */
  get attachments(): readonly Attachment[] {
    return [...this.#wanted.values()];
  }

  /** What pods send from; another array after every change. */
  get addresses(): readonly IpAddress[] {
    return this.#addresses;
  }

  /**
   * Compares what is on disk with what is on the host: frees what is left of containers that are gone,
   * and takes up what only the host knows of. Before the first change of the host.
   */
  async start(): Promise<void> {
    const { log, host } = this.#around;
    if (this.#opened.corrupt !== null) {
      const { keptAs, reason } = this.#opened.corrupt;
      log.error(
        { keptAs, reason },
        'the file of pods cannot be read; kept aside, and made anew from the interfaces on this host',
      );
    }
    const tombstones = await readTombstones(this.#deletedDir);
    const interfaces = host.interfaces();
    const plan = planStart({
      attachments: [...this.#pool.attachments()],
      tombstones,
      hostInterfaces: interfaces.map(({ link, attachment }) => ({
        name: link.name,
        ifindex: link.index,
        attachment,
      })),
      namespaceLives: isThere,
    });
    for (const { key, reason } of plan.free) {
      this.#pool.release(key);
      const text = reason === 'deleted' ? 'deleted while no daemon ran' : 'its namespace is gone';
      log.warn({ ...key, reason: text }, 'freed what was left of a pod');
    }
    for (const { attachment, hostInterface } of plan.adopt) {
      const link = interfaces.find((it) => it.link.name === hostInterface)!.link;
      const adopted = { ...attachment, ...host.namespaceOf(link) };
      this.#pool.adopt(adopted);
      log.warn(describe(adopted), 'took up a pod that only the host knew of');
    }
    for (const it of plan.conflicts) log.error(it, "a pod's interface on this host is given up");
    for (const attachment of this.#pool.attachments()) {
      this.#wanted.set(keyText(attachment), attachment);
    }
    await this.#save();
    for (const it of tombstones) await this.#removeTombstone(it);
    this.#changed();
  }

  /** Carries out the DELs that the plugin had to leave to us; one may come while a daemon is starting. */
  async bury(): Promise<void> {
    for (const key of await readTombstones(this.#deletedDir)) {
      await this.#alone(key, async () => {
        await this.#delete(key);
        await this.#removeTombstone(key);
      });
    }
  }

  #removeTombstone({ containerId, ifname }: AttachmentKey): Promise<void> {
    return rm(`${this.#deletedDir}/${containerId}@${ifname}`, { force: true });
  }

  /** The node's subnets are these from now on. */
  useSubnets(
    lease: Pick<NodeLease, 'subnet4' | 'subnet6'>,
    reserved: readonly AddressRange[],
  ): void {
    const { subnet4, subnet6 } = lease;
    const subnets = { subnet4, subnet6 };
    this.#pool = new PodPool({ subnets, reserved, state: this.#pool.state() });
    for (const it of this.#pool.strays()) {
      this.#around.log.warn(describe(it), "a pod has an address outside of this node's subnets");
    }
  }

  /** @param body what was sent to POST /v1/cni */
  async answer(body: unknown): Promise<CniAnswer> {
    const parsed = requestSchema.safeParse(body);
    if (!parsed.success) {
      const msg = `the request is malformed: ${z.prettifyError(parsed.error).replaceAll(/\s*\n\s*/g, ' ')}`;
      return { error: { code: CniCode.invalidConfig, msg } };
    }
    const request: CniRequest = parsed.data;
    try {
      return { attachment: await this.#carryOut(request) };
    } catch (error) {
      const { code, message } = error as Error & { code?: string };
      const known =
        error instanceof CniFailure ? error.cniCode : code === undefined ? undefined : CODES[code];
      if (known === undefined) {
        this.#around.log.error({ err: error as Error, command: request.command }, 'a verb failed');
      }
      return { error: { code: known ?? CniCode.internal, msg: message } };
    }
  }

  async #carryOut(request: CniRequest): Promise<CniAttachment | null> {
    switch (request.command) {
      case 'ADD':
        await this.bury();
        return await this.#alone(request, () => this.#add(request));
      case 'DEL':
        await this.#alone(request, () => this.#delete(request));
        return null;
      case 'CHECK':
        this.#check(request);
        return null;
      case 'GC':
        await this.#collect(request.network, request.valid);
        return null;
      default:
        this.#status();
        return null;
    }
  }

  /** One verb after another for one interface. */
  async #alone<T>(key: AttachmentKey, work: () => Promise<T>): Promise<T> {
    const text = keyText(key);
    const before = this.#busy.get(text);
    const mine = (async () => {
      await before?.catch(() => 'its own caller is told');
      return await work();
    })();
    this.#busy.set(text, mine);
    try {
      return await mine;
    } finally {
      if (this.#busy.get(text) === mine) this.#busy.delete(text);
    }
  }

  async #add(request: CniAddRequest): Promise<CniAttachment> {
    const obstacle = this.#around.obstacle();
    if (obstacle !== null) {
      throw new CniFailure(CniCode.tryAgainLater, `no pod can be added now: ${obstacle}`);
    }
    const { containerId, ifname, network, netns, labels, ports } = request;
    const said = { ...(labels && { labels }), ...(ports && { ports }) };
    const isNamed = request.pod !== null || Object.keys(said).length > 0;
    const pod = isNamed ? { ...(request.pod ?? podNameOf(request)), ...said } : null;
    const wanted = request.ips.map(parseWanted);
    let netnsId: string;
    {
      using namespace = openNamespace(netns);
      if (namespace.id === ownNamespaceId()) {
        throw new PodHostError(
          'ERR_HOST_NAMESPACE',
          `${netns} is the host's own network namespace; nothing was changed`,
        );
      }
      netnsId = namespace.id;
      refuseExisting(namespace, ifname);
    }
    const mac = macOf(request.mac);
    const attachment = this.#pool.allocate(
      { containerId, ifname, network, netns, netnsId, mac, pod },
      wanted,
    );
    try {
      await this.#save();
      this.#wanted.set(keyText(attachment), attachment);
      this.#changed();
      const { failures } = await this.#around.reconcile();
      const failure = failures.get(keyText(attachment));
      if (failure !== undefined) throw failure;
    } catch (error) {
      await this.#undo(attachment);
      throw error;
    }
    this.#around.log.info(describe(attachment), 'pod added');
    return this.#describeAttachment(attachment);
  }

  /** An ADD that failed leaves nothing. */
  async #undo(attachment: Attachment): Promise<void> {
    this.#wanted.delete(keyText(attachment));
    try {
      await this.#around.reconcile();
    } catch (err) {
      // The next pass tries again; the address may go to another pod only after that, as it is last in line.
      this.#around.log.error(
        { err: err as Error },
        'an interface of a pod that was not added stays',
      );
    }
    this.#pool.release(attachment);
    this.#changed();
    try {
      await this.#save();
    } catch (err) {
      this.#around.log.error({ err: err as Error }, 'the file of pods is not up to date');
    }
  }

  async #delete(key: AttachmentKey): Promise<void> {
    const attachment = this.#pool.get(key);
    if (attachment === null) return;
    this.#wanted.delete(keyText(key));
    // The interface first: an address is free when nobody can use it any more.
    await this.#around.reconcile();
    this.#pool.release(key);
    this.#changed();
    await this.#save();
    this.#around.log.info(describe(attachment), 'pod deleted');
  }

  #check(request: CniCheckRequest): void {
    const attachment = this.#pool.get(request);
    if (attachment === null) {
      throw new CniFailure(
        CniCode.unknownContainer,
        `container ${request.containerId} has no interface ${request.ifname} of ours`,
      );
    }
    const problems = [...this.#around.host.check(attachment)];
    const own = addressesOf(attachment);
    if (request.ips !== null) {
      const said = new Set(request.ips.map((it) => formatAddress(parseWanted(it))));
      for (const address of own) {
        const text = formatAddress(address);
        if (!said.has(text)) problems.push(`prevResult has not the address ${text}`);
        said.delete(text);
      }
      for (const text of said) problems.push(`the address ${text} of prevResult is not this pod's`);
    }
    if (request.mac !== null && macOf(request.mac) !== attachment.mac) {
      problems.push(`the Ethernet address is ${formatMac(attachment.mac)}, not ${request.mac}`);
    }
    if (problems.length > 0) throw new CniFailure(CniCode.notAsAdded, problems.join('; '));
  }

  async #collect(network: string, valid: readonly AttachmentKey[]): Promise<void> {
    const known = new Set(valid.map(keyText));
    const stale = [...this.#pool.attachments()].filter(
      (it) => it.network === network && !known.has(keyText(it)),
    );
    const results = await Promise.allSettled(
      stale.map((it) => this.#alone(it, () => this.#delete(it))),
    );
    const failed = results.flatMap((it, i) =>
      it.status === 'rejected' ? [`${keyText(stale[i]!)}: ${(it.reason as Error).message}`] : [],
    );
    if (failed.length > 0) throw new CniFailure(CniCode.io, `not freed: ${failed.join('; ')}`);
  }

  #status(): void {
    const { obstacle, impaired } = this.#around;
    const exhausted = this.#pool.use().find((it) => it.free === 0n);
    const why =
      obstacle() ??
      (exhausted === undefined
        ? null
        : `all ${exhausted.addresses} addresses of ${cidrText(exhausted.subnet)} are in use or reserved`);
    if (why === null) return;
    throw new CniFailure(impaired() ? CniCode.limited : CniCode.unavailable, why);
  }

  #changed(): void {
    this.#addresses = this.attachments.flatMap(addressesOf);
    this.#around.publish();
  }

  #describeAttachment(attachment: Attachment): CniAttachment {
    const { ifname, netns, mac, address4, address6 } = attachment;
    const own = [
      ...(address4 === null ? [] : [{ address: address4, length: 32, gateway: GATEWAY4 }]),
      ...(address6 === null ? [] : [{ address: address6, length: 128, gateway: GATEWAY6 }]),
    ];
    return {
      hostInterface: { name: hostInterfaceOf(attachment), mac: hostMacText },
      interface: { name: ifname, mac: formatMac(mac), sandbox: netns },
      mtuBytes: this.#around.mtuBytes(),
      ips: own.map(({ address, length, gateway }) => ({
        address: `${formatAddress(address)}/${length}`,
        gateway: formatAddress(gateway),
      })),
      routes: own.map(({ length, gateway }) => ({
        dst: length === 32 ? '0.0.0.0/0' : '::/0',
        gw: formatAddress(gateway),
      })),
    };
  }

  /** @param ip only who has this address @throws ApiError when nobody has it */
  show(ip: string | null): IpamMessage {
    const shown = [...this.#pool.attachments()].map(messageOf);
    const attachments =
      ip === null ? shown : shown.filter((it) => it.address === ip || it.ipv6Address === ip);
    if (ip !== null && attachments.length === 0) {
      throw new ApiError(404, 'ERR_NO_POD', `no pod of this node has the address ${ip}`);
    }
    return { ...describePool(this.#pool), attachments };
  }

  /** Compares file, pool and host. */
  checkAll(): IpamCheckMessage {
    const problems: string[] = [];
    const all = [...this.#pool.attachments()];
    for (const it of all) {
      const who = `${addressesText(it)} (${keyText(it)})`;
      try {
        for (const problem of this.#around.host.check(it)) problems.push(`${who}: ${problem}`);
      } catch (error) {
        problems.push(`${who}: leaked? ${(error as Error).message}`);
      }
    }
    for (const it of this.#pool.strays()) {
      problems.push(`${addressesText(it)} (${keyText(it)}): outside of this node's subnets`);
    }
    const names = new Set(all.map(hostInterfaceOf));
    for (const { link } of this.#around.host.interfaces()) {
      if (!names.has(link.name)) problems.push(`interface ${link.name}: no pod has it`);
    }
    return { attachments: all.length, problems };
  }
}

const describe = (it: Attachment) => ({
  containerId: it.containerId,
  ifname: it.ifname,
  addresses: addressesText(it),
  ...(it.pod === null ? {} : { pod: `${it.pod.namespace}/${it.pod.name}` }),
});

const messageOf = (it: Attachment): AttachmentMessage => ({
  containerId: it.containerId,
  ifname: it.ifname,
  network: it.network,
  netns: it.netns,
  hostInterface: hostInterfaceOf(it),
  address: addressText(it.address4),
  ipv6Address: addressText(it.address6),
  mac: formatMac(it.mac),
  pod: it.pod && `${it.pod.namespace}/${it.pod.name}`,
});

/** With or without a length, which is ours to say. */
function parseWanted(text: string): IpAddress {
  try {
    return parseAddress(text.replace(/\/\d{1,3}$/, ''));
  } catch (cause) {
    throw new CniFailure(CniCode.invalidConfig, `"${text}" is not an address`, { cause });
  }
}

function macOf(text: string | null): Mac {
  if (text === null) return localMac(randomBytes(6));
  let mac: Mac;
  try {
    mac = parseMac(text);
  } catch (cause) {
    throw new CniFailure(CniCode.invalidConfig, (cause as Error).message, { cause });
  }
  if (isUnicastMac(mac)) return mac;
  throw new CniFailure(CniCode.invalidConfig, `"${text}" is a group's Ethernet address`);
}

/** The namespace that was attached is where it was. */
function isThere({ netns, netnsId }: Attachment): boolean {
  try {
    using namespace = openNamespace(netns);
    return namespace.id === netnsId;
  } catch (error) {
    if (error instanceof NamespaceError) return false;
    throw error;
  }
}

/** DELs that the plugin carried out while no daemon ran: `<containerId>@<ifname>`. */
async function readTombstones(dir: string): Promise<readonly AttachmentKey[]> {
  let names: string[];
  try {
    names = await readdir(dir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  return names.flatMap((it) => {
    const at = it.lastIndexOf('@');
    const key = { containerId: it.slice(0, at), ifname: it.slice(at + 1) };
    return CONTAINER_ID.test(key.containerId) && INTERFACE_NAME.test(key.ifname) ? [key] : [];
  });
}
