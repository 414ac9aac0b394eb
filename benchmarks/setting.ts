/**
 * The ground on which the side-by-side benchmark compares: two labs of one shape, each two nodes joined
 * by one veth with two pods on each. They take turns; the other is idle meanwhile.
 *
 *     weft, plain     daemons; pods attached by the CNI plugin
 *     kernel, veth    pods attached by hand as on flannel's nodes; no daemon, no nft table, no rule
 *
 * So nobody pays for what belongs to the other. In the second lab one route in table main says which way
 * the peer's pods are: by the VXLAN device, or by the underlay as it is.
 */
import { readFile } from 'node:fs/promises';
import { setFeatures, words } from '../linux/ip.ts';
import { createNamespace, writeSysctls } from '../linux/netns.ts';
import type { Running } from '../linux/program.ts';
import { formatCidr } from '../wire/cidr.ts';
import { type Lab, type LabNode, type LabPod, createLab, reaches } from '../test/lab/lab.ts';
import { startEcho } from '../test/lab/traffic/traffic.ts';

/** `plain` is Weft with every offload off. */
export const VARIANTS = ['weft', 'kernel', 'veth', 'plain'] as const;
export type Variant = (typeof VARIANTS)[number];

/** `wire`: what leaves a node is real packets of MTU size, as on a network card without offloads. */
export const MODES = ['offload', 'wire'] as const;
export type Mode = (typeof MODES)[number];

/** What Weft's daemons used between two readings. */
export interface DaemonUse {
  readonly userTicks: number;
  readonly systemTicks: number;
  readonly largestRssBytes: number;
}

/** One of the two labs. */
interface Ground extends AsyncDisposable {
  readonly lab: Lab;
  /** From now on the pods' packets take this variant's way. */
  lead(variant: Variant): Promise<void>;
}

class WeftGround implements Ground {
  readonly lab: Lab;
  readonly #daemonOptions: readonly string[];
  #daemons: readonly Running[] = [];
  #running: Variant | null = null;

  constructor(lab: Lab, daemonOptions: readonly string[]) {
    this.lab = lab;
    this.#daemonOptions = daemonOptions;
  }

  get daemons(): readonly Running[] {
    return this.#daemons;
  }

  async lead(variant: Variant): Promise<void> {
    if (this.#running === variant) return;
    await Promise.all(this.#daemons.map((daemon) => daemon.stop()));
    const offloads = variant === 'plain' ? ['--offloads', 'none'] : [];
    const extra = ['--workers', '1', ...offloads, ...this.#daemonOptions];
    this.#daemons = await Promise.all(this.lab.nodes.map((node) => node.startDaemon(extra)));
    this.#running = variant;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lab[Symbol.asyncDispose]();
  }
}

class KernelGround implements Ground {
  readonly lab: Lab;
  #way: Variant = 'kernel';

  constructor(lab: Lab) {
    this.lab = lab;
  }

  async lead(variant: Variant): Promise<void> {
    if (this.#way === variant) return;
    if (variant === 'kernel') await this.lab.syncKernelNodes();
    else await this.#leadBare();
    this.#way = variant;
  }

  async #leadBare(): Promise<void> {
    const { nodes } = this.lab;
    for (const [i, node] of nodes.entries()) {
      const peer = nodes[1 - i]!;
      const subnet = formatCidr((await peer.subnetFile()).subnet4!);
      await node.apply(words`route replace ${subnet} via ${peer.underlay4!} dev eth0`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.lab[Symbol.asyncDispose]();
  }
}

const isWeft = (variant: Variant): boolean => variant === 'weft' || variant === 'plain';

export class Setting implements AsyncDisposable {
  /** Null where no variant asks for it. */
  readonly #weft: WeftGround | null;
  readonly #kernel: KernelGround | null;
  #variant: Variant | null = null;
  #mode: Mode = 'offload';
  readonly #spare: string[] = [];

  constructor(weft: WeftGround | null, kernel: KernelGround | null) {
    this.#weft = weft;
    this.#kernel = kernel;
  }

  #groundOf(variant: Variant): Ground {
    const ground = isWeft(variant) ? this.#weft : this.#kernel;
    if (ground === null) throw new RangeError(`there is no lab for ${variant}`);
    return ground;
  }

  #node(index: number): LabNode {
    if (this.#variant === null) throw new RangeError('nothing has been steered yet');
    return this.#groundOf(this.#variant).lab.nodes[index]!;
  }

  /** This and the next two are pods of the lab that carries the variant steered to. */
  get client(): LabPod {
    return this.#node(0).pods[0]!;
  }

  /** On the other node. */
  get server(): LabPod {
    return this.#node(1).pods[0]!;
  }

  /** On the client's node. */
  get neighbour(): LabPod {
    return this.#node(0).pods[1]!;
  }

  /** The client's node, and the process of its daemon. */
  get weftNode(): { readonly node: LabNode; readonly daemonPid: number } {
    const { lab, daemons } = this.#weft!;
    return { node: lab.nodes[0]!, daemonPid: daemons[0]!.pid };
  }

  /** From now on the pods' packets take this variant's way; they are known to arrive when it returns. */
  async steer(variant: Variant): Promise<void> {
    if (this.#variant === variant) return;
    await this.#groundOf(variant).lead(variant);
    this.#variant = variant;
    await reaches(this.client, this.server.address4!);
  }

  async setMode(mode: Mode): Promise<void> {
    if (this.#mode === mode) return;
    const on = mode === 'offload';
    const features = { tso: on, gso: on, gro: on, 'tx-udp-segmentation': on };
    for (const ground of [this.#weft, this.#kernel]) {
      for (const { netns } of ground?.lab.nodes ?? [])
        await setFeatures('eth0', features, { netns });
    }
    this.#mode = mode;
  }

  /** Network namespaces without an interface; the same ones each time, as many as are asked for. */
  async spareNamespaces(count: number): Promise<readonly string[]> {
    while (this.#spare.length < count) {
      const netns = this.#weft!.lab.netnsOf(`spare${this.#spare.length + 1}`);
      await createNamespace(netns);
      this.#spare.push(netns);
    }
    return this.#spare.slice(0, count);
  }

  /** Since they started; zeros without daemons. */
  async daemonUse(): Promise<DaemonUse> {
    const each = await Promise.all((this.#weft?.daemons ?? []).map(({ pid }) => useOf(pid)));
    return {
      userTicks: each.reduce((sum, use) => sum + use.userTicks, 0),
      systemTicks: each.reduce((sum, use) => sum + use.systemTicks, 0),
      largestRssBytes: Math.max(0, ...each.map((use) => use.largestRssBytes)),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#weft?.[Symbol.asyncDispose]();
    await this.#kernel?.[Symbol.asyncDispose]();
  }
}

/** proc(5): fields 14 and 15 of stat are clock ticks in user and kernel mode, all threads. */
async function useOf(pid: number): Promise<DaemonUse> {
  const [stat, status] = await Promise.all([
    readFile(`/proc/${pid}/stat`, 'utf8'),
    readFile(`/proc/${pid}/status`, 'utf8'),
  ]);
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return {
    userTicks: Number(fields[11]),
    systemTicks: Number(fields[12]),
    largestRssBytes: Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024,
  };
}

export interface SettingOptions {
  readonly variants: readonly Variant[];
  /** Further options of the daemons, as on the command line. */
  readonly daemonOptions: readonly string[];
}

const SHAPE = { nodes: 2, podsPerNode: 2, families: 4, underlay: 'direct' } as const;

/** Pods, and who answers them. */
async function populate(lab: Lab): Promise<void> {
  await lab.attachPods();
  for (const pod of lab.pods) {
    // What one variant's connections learn of the path must not help or harm the next's.
    await writeSysctls({ 'net.ipv4.tcp_no_metrics_save': 1 }, pod.netns);
  }
  const server = lab.nodes[1]!.pods[0]!;
  await startEcho(server, server.address4!);
}

/** The labs that the variants need, with daemons for the first of Weft's. */
export async function createSetting(options: SettingOptions): Promise<Setting> {
  const { variants, daemonOptions } = options;
  await using opening = new AsyncDisposableStack();
  let weft: WeftGround | null = null;
  let kernel: KernelGround | null = null;
  const first = variants.find(isWeft);
  if (first !== undefined) {
    weft = opening.use(new WeftGround(await createLab(SHAPE), daemonOptions));
    await weft.lead(first);
    await populate(weft.lab);
  }
  if (!variants.every(isWeft)) {
    kernel = opening.use(new KernelGround(await createLab(SHAPE)));
    for (const node of kernel.lab.nodes) await node.startKernelVxlan();
    await populate(kernel.lab);
  }
  opening.move();
  return new Setting(weft, kernel);
}
