/**
 * The ground on which the side-by-side benchmark compares: two nodes joined by one veth, one pod each,
 * and every variant on the same pods, addresses and wire.
 *
 * Kernel VXLAN (its own UDP port), bare veth and Weft are all set up at once; idle they cost nothing.
 * A rule before table main looks into a table of ours: what stands there carries the next measurement,
 * and when it is empty the packets find Weft's own routes. All variants pay for that rule alike.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { apply, setFeatures, words } from '../linux/ip.ts';
import { writeSysctls } from '../linux/netns.ts';
import type { Running } from '../linux/program.ts';
import { formatCidr } from '../wire/cidr.ts';
import { type KernelVxlan, createKernelVxlan, overheadBytes } from '../test/lab/kernel-vxlan.ts';
import { type Lab, type LabNode, type LabPod, createLab, reaches } from '../test/lab/lab.ts';
import { startEcho } from '../test/lab/traffic/traffic.ts';

/** `plain` is Weft with every offload off. */
export const VARIANTS = ['weft', 'kernel', 'veth', 'plain'] as const;
export type Variant = (typeof VARIANTS)[number];

/** `wire`: what leaves a node is real packets of MTU size, as on a network card without offloads. */
export const MODES = ['offload', 'wire'] as const;
export type Mode = (typeof MODES)[number];

const TABLE = 100;
const KERNEL_PORT = 8473;

/** What Weft's daemons used between two readings. */
export interface DaemonUse {
  readonly userTicks: number;
  readonly systemTicks: number;
  readonly largestRssBytes: number;
}

export class Setting implements AsyncDisposable {
  readonly #lab: Lab;
  readonly #daemonOptions: readonly string[];
  #kernel: readonly KernelVxlan[] = [];
  #daemons: readonly Running[] = [];
  #running: 'weft' | 'plain' | null = null;
  #variant: Variant | null = null;
  #mode: Mode = 'offload';

  constructor(lab: Lab, daemonOptions: readonly string[]) {
    this.#lab = lab;
    this.#daemonOptions = daemonOptions;
  }

  get client(): LabPod {
    return this.#lab.nodes[0]!.pods[0]!;
  }

  get server(): LabPod {
    return this.#lab.nodes[1]!.pods[0]!;
  }

  /** Brings up daemons for the variant (none if it needs none), pods, kernel devices and the echo. */
  async build(variants: readonly Variant[]): Promise<void> {
    const { nodes, underlayMtu } = this.#lab;
    const first = variants.includes('weft') ? 'weft' : variants.includes('plain') ? 'plain' : null;
    if (first === null) {
      for (const node of nodes) await standIn(node, underlayMtu);
    } else {
      await this.#startDaemons(first);
    }
    await this.#lab.attachPods();
    this.#kernel = await Promise.all(
      nodes.map((node) =>
        createKernelVxlan({
          netns: node.netns,
          family: 4,
          local: node.underlay4!,
          underlayDevice: 'eth0',
          underlayMtu,
          vni: 1,
          port: KERNEL_PORT,
          address: null,
        }),
      ),
    );
    for (const node of nodes) {
      await apply([words`rule add pref 10 lookup ${TABLE}`], { netns: node.netns });
    }
    for (const pod of this.#lab.pods) {
      // What one variant's connections learn of the path must not help or harm the next's.
      await writeSysctls({ 'net.ipv4.tcp_no_metrics_save': 1 }, pod.netns);
    }
    await startEcho(this.server, this.server.address4!);
  }

  async #startDaemons(kind: 'weft' | 'plain'): Promise<void> {
    const options = kind === 'plain' ? ['--offloads', 'none'] : [];
    const extra = ['--workers', '1', ...options, ...this.#daemonOptions];
    this.#daemons = await Promise.all(this.#lab.nodes.map((node) => node.startDaemon(extra)));
    this.#running = kind;
  }

  /** From now on the pods' packets take this variant's way; they are known to arrive when it returns. */
  async steer(variant: Variant): Promise<void> {
    if (this.#variant === variant) return;
    if ((variant === 'weft' || variant === 'plain') && this.#running !== variant) {
      await Promise.all(this.#daemons.map((daemon) => daemon.stop()));
      await this.#startDaemons(variant);
    }
    const first = this.#variant === null;
    await Promise.all(this.#lab.nodes.map((_, i) => this.#route(i, variant, first)));
    this.#variant = variant;
    await reaches(this.client, this.server.address4!);
  }

  async #route(index: number, variant: Variant, first: boolean): Promise<void> {
    const node = this.#lab.nodes[index]!;
    const peer = this.#lab.nodes[1 - index]!;
    const subnet = formatCidr((await peer.subnetFile()).subnet4!);
    switch (variant) {
      case 'kernel':
        await this.#kernel[index]!.setPeer(
          { subnet, mac: this.#kernel[1 - index]!.mac, publicAddress: peer.underlay4! },
          `${TABLE}`,
        );
        break;
      case 'veth':
        await node.apply(
          words`route replace ${subnet} via ${peer.underlay4!} dev eth0 table ${TABLE}`,
        );
        break;
      default:
        if (!first) await node.apply(words`route flush table ${TABLE}`);
    }
  }

  async setMode(mode: Mode): Promise<void> {
    if (this.#mode === mode) return;
    const on = mode === 'offload';
    const features = { tso: on, gso: on, gro: on, 'tx-udp-segmentation': on };
    for (const { netns } of this.#lab.nodes) await setFeatures('eth0', features, { netns });
    this.#mode = mode;
  }

  /** Since they started; zeros without daemons. */
  async daemonUse(): Promise<DaemonUse> {
    const each = await Promise.all(this.#daemons.map(({ pid }) => useOf(pid)));
    return {
      userTicks: each.reduce((sum, use) => sum + use.userTicks, 0),
      systemTicks: each.reduce((sum, use) => sum + use.systemTicks, 0),
      largestRssBytes: Math.max(0, ...each.map((use) => use.largestRssBytes)),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lab[Symbol.asyncDispose]();
  }
}

/** Without a daemon nobody leases a subnet: the file says what it would. */
async function standIn(node: LabNode, underlayMtu: number): Promise<void> {
  const mtu = underlayMtu - overheadBytes(4);
  const text = `FLANNEL_SUBNET=10.244.${node.index}.1/24\nFLANNEL_MTU=${mtu}\n`;
  await writeFile(node.subnetFilePath, text);
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

export async function createSetting(options: SettingOptions): Promise<Setting> {
  const lab = await createLab({ nodes: 2, families: 4, underlay: 'direct' });
  const setting = new Setting(lab, options.daemonOptions);
  try {
    await setting.build(options.variants);
  } catch (error) {
    await setting[Symbol.asyncDispose]();
    throw error;
  }
  return setting;
}
