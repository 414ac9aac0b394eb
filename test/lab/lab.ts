/**
 * Namespaces as nodes and pods, on an underlay of their own. The default namespace gets nothing.
 *
 *     segment                      routed                          direct (two nodes)
 *
 *      n1     n2    etcd            n1        n2       etcd          n1 ----- n2
 *       |      |      |              |         |         |          etcd
 *     --+------+------+-- net      .1.0/24   .2.0/24   .254.0/24
 *          a bridge                  +--- net: router ---+
 *
 * In each node `eth0` is the underlay; in each pod `eth0` has a /32 and a /128 of the node's leased
 * subnet and the gateways 169.254.1.1 and fe80::1. Where Weft runs, its CNI plugin attaches the pods, as
 * a container runtime would call it. On a node with kernel VXLAN they are attached by hand, with `pod1`...
 * as host ends and permanent neighbours.
 */
import { mkdirSync } from 'node:fs';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Command, apply, listLinks, words } from '../../linux/ip.ts';
import { createNamespace, deleteNamespace, writeSysctls } from '../../linux/netns.ts';
import {
  type ProgramOptions,
  type Running,
  type StartOptions,
  collect,
  poll,
  run,
  start,
} from '../../linux/program.ts';
import { formatAddress, toIpv4, toIpv6 } from '../../wire/address.ts';
import { type Cidr, cidrOf, formatCidr, parseCidr } from '../../wire/cidr.ts';
import { type KernelVxlan, createKernelVxlan } from './kernel-vxlan.ts';
import { type Run, labPrefix, openRun, removeRun, tracesOf } from './run.ts';
import { type CniContainer, CniRuntime } from './runtime.ts';
import { type FlannelConfig, LabStore, leaseKey } from './store.ts';

export type Families = 'dual' | 4 | 6;

export interface LabOptions {
  readonly nodes: number;
  /** 1 unless given. */
  readonly podsPerNode?: number;
  /** Of underlay and pods alike; dual unless given. */
  readonly families?: Families;
  /** segment unless given; direct joins two nodes by one veth and has etcd in the first. */
  readonly underlay?: 'segment' | 'routed' | 'direct';
  /** Of every underlay device, bytes; 1500 unless given. */
  readonly underlayMtu?: number;
  /** The environment's LAB_PREFIX, or `weft`, unless given. */
  readonly prefix?: string;
  /** Over the lab's own network configuration. */
  readonly backend?: Partial<FlannelConfig['Backend']>;
}

const HOUSE = join(import.meta.dirname, '..', '..');
const DEBIAN_PLUGINS = '/usr/lib/cni';
const NETWORK4 = '10.244.0.0/16';
const NETWORK6 = 'fd00:10:244::/56';
const GATEWAY4 = '169.254.1.1';
const GATEWAY6 = 'fe80::1';
export const HEALTHZ_PORT = 10_256;

/** The node's subnet file, as flannel's readers know it. */
export interface SubnetFile {
  readonly subnet4: Cidr | null;
  readonly subnet6: Cidr | null;
  readonly mtuBytes: number;
}

/** @throws Error unless the text is a whole subnet file */
export function parseSubnetFile(text: string): SubnetFile {
  const values = new Map(
    text.split('\n').map((line) => line.split('=', 2) as [string, string | undefined]),
  );
  const subnet = (name: string): Cidr | null => {
    const value = values.get(name);
    if (value === undefined || value === '') return null;
    // It gives the first host's address with the subnet's length.
    const [address, length] = value.split('/');
    const { base } = parseCidr(`${address}/${address!.includes(':') ? 128 : 32}`);
    return cidrOf(base, Number(length));
  };
  const file = {
    subnet4: subnet('FLANNEL_SUBNET'),
    subnet6: subnet('FLANNEL_IPV6_SUBNET'),
    mtuBytes: Number(values.get('FLANNEL_MTU')),
  };
  if ((file.subnet4 === null && file.subnet6 === null) || !(file.mtuBytes > 0)) {
    throw new Error(`not a subnet file: ${JSON.stringify(text)}`);
  }
  return file;
}

/** The block's address number `index`, such as 0 for `.0`. */
export const addressIn = (block: Cidr, index: number): string =>
  block.family === 4
    ? formatAddress(toIpv4(block.base + index))
    : formatAddress(toIpv6(block.base + BigInt(index)));

/** A namespace of the lab, and what runs in it. */
export class LabHost {
  /** Short: `n1`, `n1p2`, `etcd`. */
  readonly name: string;
  readonly netns: string;

  constructor(name: string, netns: string) {
    this.name = name;
    this.netns = netns;
  }

  run(argv: readonly string[], options: Omit<ProgramOptions, 'netns'> = {}): Promise<string> {
    return run(argv, { ...options, netns: this.netns });
  }

  start(argv: readonly string[], options: Omit<StartOptions, 'netns'> = {}): Promise<Running> {
    return start(argv, { ...options, netns: this.netns });
  }

  apply(...commands: Command[]): Promise<void> {
    return apply(commands, { netns: this.netns });
  }
}

export class LabPod extends LabHost {
  readonly node: LabNode;
  readonly address4: string | null;
  readonly address6: string | null;
  /** Its interface on the node. */
  readonly hostInterface: string;

  constructor(
    name: string,
    netns: string,
    node: LabNode,
    addresses: readonly [string | null, string | null],
    hostInterface: string,
  ) {
    super(name, netns);
    this.node = node;
    [this.address4, this.address6] = addresses;
    this.hostInterface = hostInterface;
  }

  get addresses(): string[] {
    return [this.address4, this.address6].filter((address) => address !== null);
  }
}

export class LabNode extends LabHost {
  readonly index: number;
  readonly underlay4: string | null;
  readonly underlay6: string | null;
  readonly directory: string;
  readonly #lab: Lab;
  #pods: readonly LabPod[] = [];
  #runtime: CniRuntime | null = null;
  #dataplane: 'none' | 'weft' | 'kernel' = 'none';
  readonly #kernel = new Map<4 | 6, KernelVxlan>();

  constructor(lab: Lab, index: number, netns: string, addresses: [string | null, string | null]) {
    super(`n${index}`, netns);
    this.index = index;
    [this.underlay4, this.underlay6] = addresses;
    this.directory = join(lab.directory, this.name);
    mkdirSync(this.directory);
    this.#lab = lab;
  }

  get pods(): readonly LabPod[] {
    return this.#pods;
  }

  get dataplane(): 'none' | 'weft' | 'kernel' {
    return this.#dataplane;
  }

  get subnetFilePath(): string {
    return join(this.directory, 'subnet.env');
  }

  get daemonLog(): string {
    return join(this.directory, 'daemon.log');
  }

  get stateDir(): string {
    return join(this.directory, 'state');
  }

  get cniBinDir(): string {
    return join(this.directory, 'cni', 'bin');
  }

  get cniConfDir(): string {
    return join(this.directory, 'cni', 'net.d');
  }

  async subnetFile(): Promise<SubnetFile> {
    return parseSubnetFile(await readFile(this.subnetFilePath, 'utf8'));
  }

  /** The daemon with flannel's option names. @returns when its health check answers 200 */
  async startDaemon(extra: readonly string[] = []): Promise<Running> {
    const running = await this.start(
      [
        join(HOUSE, 'bin', 'weft'),
        'daemon',
        `--etcd-endpoints=${this.#lab.store.endpoint}`,
        '--iface=eth0',
        `--subnet-file=${this.subnetFilePath}`,
        `--state-dir=${this.stateDir}`,
        `--node-name=${this.name}`,
        `--flow-file=${join(this.stateDir, 'flows')}`,
        '--healthz-ip=127.0.0.1',
        `--healthz-port=${HEALTHZ_PORT}`,
        // Tests count packets.
        ...(extra.some((it) => it.startsWith('--probe-interval')) ? [] : ['--probe-interval=0']),
        ...extra,
      ],
      {
        logFile: this.daemonLog,
        readyTimeoutMs: 30_000,
        ready: {
          condition: (signal) =>
            this.run(
              [
                process.execPath,
                join(import.meta.dirname, 'traffic', 'healthz.ts'),
                `http://127.0.0.1:${HEALTHZ_PORT}/healthz`,
              ],
              { signal },
            ),
        },
      },
    );
    await poll(() => this.subnetFile().catch(absentFile), AbortSignal.timeout(10_000));
    this.#dataplane = 'weft';
    return running;
  }

  /**
   * Makes the node what flannel makes of it: kernel VXLAN devices, the lease in etcd and the subnet
   * file. Peers come with `lab.syncKernelNodes`.
   */
  async startKernelVxlan(options: { vni?: number; port?: number } = {}): Promise<void> {
    const { vni = 1, port = 8472 } = options;
    const { store, underlayMtu } = this.#lab;
    for (let number = 200 + this.index; ; number++) {
      const subnet4 = this.underlay4 === null ? null : parseCidr(`10.244.${number}.0/24`);
      const subnet6 =
        this.underlay6 === null ? null : parseCidr(`fd00:10:244:${number.toString(16)}::/64`);
      const taken = new Set((await store.leases()).flatMap((each) => [each.subnet4, each.subnet6]));
      const wanted = [subnet4, subnet6].filter((subnet) => subnet !== null);
      if (wanted.some((subnet) => taken.has(formatCidr(subnet)))) continue;
      for (const subnet of wanted) {
        const local = subnet.family === 4 ? this.underlay4! : this.underlay6!;
        const device = await createKernelVxlan({
          netns: this.netns,
          family: subnet.family,
          local,
          underlayDevice: 'eth0',
          underlayMtu,
          vni,
          port,
          address: addressIn(subnet, 0),
        });
        this.#kernel.set(subnet.family, device);
      }
      // Flannel leaves out the end point of a family that it does not run.
      const end = (name: 'BackendData' | 'BackendV6Data', family: 4 | 6): object => {
        const device = this.#kernel.get(family);
        return device === undefined ? {} : { [name]: { VNI: vni, VtepMAC: device.mac } };
      };
      const acquired = await store.acquire(leaseKey(subnet4, subnet6), {
        PublicIP: this.underlay4 ?? '0.0.0.0',
        PublicIPv6: this.underlay6,
        BackendType: 'vxlan',
        ...end('BackendData', 4),
        ...end('BackendV6Data', 6),
      });
      if (!acquired) {
        throw new Error(`${this.name}: subnet ${number} was taken while it was being leased`);
      }
      await writeFile(
        this.subnetFilePath,
        [
          ...(subnet4 === null
            ? []
            : [`FLANNEL_NETWORK=${NETWORK4}`, `FLANNEL_SUBNET=${addressIn(subnet4, 1)}/24`]),
          ...(subnet6 === null
            ? []
            : [
                `FLANNEL_IPV6_NETWORK=${NETWORK6}`,
                `FLANNEL_IPV6_SUBNET=${addressIn(subnet6, 1)}/64`,
              ]),
          `FLANNEL_MTU=${Math.min(...[...this.#kernel.values()].map((each) => each.mtuBytes))}`,
          'FLANNEL_IPMASQ=false',
          '',
        ].join('\n'),
      );
      this.#dataplane = 'kernel';
      return;
    }
  }

  /** A kernel node learns every other lease, as flannel does on its watch's events. */
  async syncPeers(): Promise<void> {
    const own = await this.subnetFile();
    for (const { subnet4, subnet6, lease } of await this.#lab.store.leases()) {
      const ends = [
        { family: 4, subnet: subnet4, end: lease.BackendData, at: lease.PublicIP },
        { family: 6, subnet: subnet6, end: lease.BackendV6Data, at: lease.PublicIPv6 },
      ] as const;
      for (const { family, subnet, end, at } of ends) {
        const device = this.#kernel.get(family);
        const ours = family === 4 ? own.subnet4 : own.subnet6;
        if (device === undefined || subnet === null || !end || at === null) continue;
        if (ours !== null && formatCidr(ours) === subnet) continue;
        await device.setPeer({ subnet, mac: end.VtepMAC, publicAddress: at });
      }
    }
  }

  /** Creates the node's pods in its leased subnet. @throws Error before it has one */
  async attachPods(): Promise<readonly LabPod[]> {
    const names = Array.from({ length: this.#lab.podsPerNode }, (_, i) => `${this.name}p${i + 1}`);
    if (this.#dataplane === 'weft') {
      await this.installPlugin();
      for (const name of names) await this.addPod(name);
    } else {
      for (const name of names) await this.#attachByHand(name);
    }
    return this.#pods;
  }

  /** Puts Debian's plugins beside ours, where `installPlugin` finds and chains them. */
  async addDebianPlugins(...types: string[]): Promise<void> {
    await mkdir(this.cniBinDir, { recursive: true });
    for (const type of types) await symlink(join(DEBIAN_PLUGINS, type), join(this.cniBinDir, type));
  }

  /** The plugin and its configuration, into folders of this node's own. */
  async installPlugin(extra: readonly string[] = []): Promise<void> {
    await this.run([
      join(HOUSE, 'bin', 'weft'),
      'cni',
      'install',
      `--bin-dir=${this.cniBinDir}`,
      `--conf-dir=${this.cniConfDir}`,
      `--state-dir=${this.stateDir}`,
      '--wait=20',
      ...extra,
    ]);
  }

  /** Calls the plugins that `installPlugin` has set up. */
  get runtime(): CniRuntime {
    this.#runtime ??= new CniRuntime({
      netns: this.netns,
      binDir: this.cniBinDir,
      confDir: this.cniConfDir,
      morePlugins: DEBIAN_PLUGINS,
    });
    return this.#runtime;
  }

  /** A new namespace `name`, attached by the plugin. */
  async addPod(name: string, more: Partial<CniContainer> = {}): Promise<LabPod> {
    const netns = this.#lab.netnsOf(name);
    await createNamespace(netns);
    const { interfaces, ips } = await this.runtime.add({
      containerId: name,
      netns: `/run/netns/${netns}`,
      args: `IgnoreUnknown=1;K8S_POD_NAMESPACE=lab;K8S_POD_NAME=${name}`,
      ...more,
    });
    const addressOf = (isOne: (address: string) => boolean): string | null =>
      ips!.map(({ address }) => address.split('/')[0]!).find(isOne) ?? null;
    const addresses = [
      addressOf((it) => !it.includes(':')),
      addressOf((it) => it.includes(':')),
    ] as const;
    const pod = new LabPod(name, netns, this, addresses, interfaces![0]!.name);
    this.#pods = [...this.#pods, pod];
    return pod;
  }

  /** Gives the pod back, and removes its namespace. */
  async deletePod(pod: LabPod): Promise<void> {
    await this.runtime.delete({ containerId: pod.name, netns: `/run/netns/${pod.netns}` });
    await deleteNamespace(pod.netns);
    this.#pods = this.#pods.filter((it) => it !== pod);
  }

  /** As flannel's users have it without a bridge: routes and permanent neighbours. */
  async #attachByHand(name: string): Promise<void> {
    const { subnet4, subnet6, mtuBytes } = await this.subnetFile();
    const number = this.#pods.length + 1;
    const addresses = [
      subnet4 === null ? null : addressIn(subnet4, number + 1),
      subnet6 === null ? null : addressIn(subnet6, number + 1),
    ] as const;
    const pod = new LabPod(name, this.#lab.netnsOf(name), this, addresses, `pod${number}`);
    await attach(pod, mtuBytes);
    this.#pods = [...this.#pods, pod];
  }
}

function absentFile(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
}

const permanent = (address: string, device: string, mac: string): Command =>
  words`neigh replace ${address} lladdr ${mac} dev ${device} nud permanent`;

async function attach(pod: LabPod, mtuBytes: number): Promise<void> {
  const { node, address4, address6, hostInterface: hostEnd } = pod;
  await createNamespace(pod.netns);
  await writeSysctls(quietIpv6, pod.netns);
  await node.apply(veth(hostEnd, pod.netns, mtuBytes), words`link set ${hostEnd} up`);
  await pod.apply(words`link set eth0 up`);
  const [outer, inner] = await Promise.all([macOf(node, hostEnd), macOf(pod, 'eth0')]);
  const inside: Command[] = [];
  const outside: Command[] = [];
  if (address4 !== null) {
    inside.push(
      words`addr add ${address4}/32 dev eth0`,
      words`route add ${GATEWAY4} dev eth0 scope link`,
      words`route add default via ${GATEWAY4} dev eth0`,
      permanent(GATEWAY4, 'eth0', outer),
    );
    outside.push(
      words`route replace ${address4}/32 dev ${hostEnd} scope link`,
      permanent(address4, hostEnd, inner),
    );
  }
  if (address6 !== null) {
    inside.push(
      words`addr add ${address6}/128 dev eth0 nodad`,
      words`route add default via ${GATEWAY6} dev eth0`,
      permanent(GATEWAY6, 'eth0', outer),
    );
    outside.push(
      words`route replace ${address6}/128 dev ${hostEnd}`,
      permanent(address6, hostEnd, inner),
    );
  }
  await Promise.all([pod.apply(...inside), node.apply(...outside)]);
}

/** Creates a pair of devices of this host: `name` here, `eth0` in the other namespace. */
const veth = (name: string, otherNetns: string, mtuBytes: number): Command =>
  words`link add ${name} mtu ${mtuBytes} type veth peer name eth0 mtu ${mtuBytes} netns ${otherNetns}`;

async function macOf(host: LabHost, device: string): Promise<string> {
  const links = await listLinks({ netns: host.netns });
  return links.find((link) => link.ifname === device)!.address!;
}

/** No duplicate address detection, which would keep an address unusable for a second, and no RAs. */
const quietIpv6 = {
  'net.ipv6.conf.default.accept_dad': 0,
  'net.ipv6.conf.all.accept_dad': 0,
  'net.ipv6.conf.default.accept_ra': 0,
  'net.ipv6.conf.default.router_solicitations': 0,
};

const forwarding = {
  ...quietIpv6,
  'net.ipv4.ip_forward': 1,
  'net.ipv4.conf.all.rp_filter': 0,
  'net.ipv4.conf.default.rp_filter': 0,
  'net.ipv6.conf.all.forwarding': 1,
  'net.ipv6.conf.default.forwarding': 1,
};

/** Where a host of the underlay sits: `number` is its host part (segment) or its subnet (routed). */
interface Place {
  readonly number: number;
  readonly address4: string | null;
  readonly address6: string | null;
}

export class Lab implements AsyncDisposable {
  readonly directory: string;
  readonly families: Families;
  readonly podsPerNode: number;
  readonly underlay: NonNullable<LabOptions['underlay']>;
  readonly underlayMtu: number;
  readonly #run: Run;
  readonly #options: LabOptions;
  #nodes: readonly LabNode[] = [];
  #store: LabStore | null = null;
  /** The bridge's or router's namespace; none when direct. */
  #net: LabHost | null = null;

  constructor(options: LabOptions) {
    this.#options = options;
    this.families = options.families ?? 'dual';
    this.podsPerNode = options.podsPerNode ?? 1;
    this.underlay = options.underlay ?? 'segment';
    this.underlayMtu = options.underlayMtu ?? 1500;
    if (this.underlay === 'direct' && options.nodes !== 2) {
      throw new RangeError(`a direct underlay joins 2 nodes, not ${options.nodes}`);
    }
    this.#run = openRun(options.prefix ?? labPrefix());
    this.directory = this.#run.directory;
  }

  get nodes(): readonly LabNode[] {
    return this.#nodes;
  }

  get pods(): readonly LabPod[] {
    return this.#nodes.flatMap((node) => [...node.pods]);
  }

  get store(): LabStore {
    if (this.#store === null) throw new Error('the lab is not built yet');
    return this.#store;
  }

  netnsOf(name: string): string {
    return `${this.#run.name}-${name}`;
  }

  /** Lays the underlay and starts etcd on it, with the network's configuration. */
  async build(): Promise<void> {
    const places = Array.from({ length: this.#options.nodes }, (_, i) => this.#place(i + 1));
    this.#nodes = places.map(
      (place, i) =>
        new LabNode(this, i + 1, this.netnsOf(`n${i + 1}`), [place.address4, place.address6]),
    );
    for (const node of this.#nodes) {
      await createNamespace(node.netns);
      await writeSysctls(forwarding, node.netns);
    }
    if (this.underlay === 'direct') {
      const [first, second] = this.#nodes as [LabNode, LabNode];
      await first.apply(veth('eth0', second.netns, this.underlayMtu));
      for (const [i, node] of this.#nodes.entries()) await this.#address(node, places[i]!);
      this.#store = new LabStore(first.netns, first.underlay4 ?? first.underlay6!, this.directory);
    } else {
      const net = new LabHost('net', this.netnsOf('net'));
      const etcd = new LabHost('etcd', this.netnsOf('etcd'));
      const etcdPlace = this.#place(254);
      this.#net = net;
      await createNamespace(net.netns);
      await createNamespace(etcd.netns);
      await writeSysctls(forwarding, net.netns);
      await writeSysctls(quietIpv6, etcd.netns);
      if (this.underlay === 'segment') {
        await net.apply(words`link add br0 type bridge mcast_snooping 0`, words`link set br0 up`);
      }
      for (const [i, node] of this.#nodes.entries()) await this.#plug(node, places[i]!);
      await this.#plug(etcd, etcdPlace);
      const address = etcdPlace.address4 ?? etcdPlace.address6!;
      this.#store = new LabStore(etcd.netns, address, this.directory);
    }
    await this.store.start();
    await this.store.putConfig({
      EnableIPv4: this.families !== 6,
      EnableIPv6: this.families !== 4,
      ...(this.families === 6 ? {} : { Network: NETWORK4, SubnetLen: 24 }),
      ...(this.families === 4 ? {} : { IPv6Network: NETWORK6, IPv6SubnetLen: 64 }),
      Backend: { Type: 'vxlan', VNI: 1, Port: 8472, ...this.#options.backend },
    });
  }

  #place(number: number): Place {
    const routed = this.underlay === 'routed';
    return {
      number,
      address4: this.families === 6 ? null : routed ? `172.31.${number}.2` : `172.31.0.${number}`,
      address6: this.families === 4 ? null : routed ? `fd31:0:0:${number}::2` : `fd31::${number}`,
    };
  }

  async #address(host: LabHost, place: Place): Promise<void> {
    const routed = this.underlay === 'routed';
    const commands: Command[] = [words`link set eth0 up`];
    if (place.address4 !== null) {
      commands.push(words`addr add ${place.address4}/24 dev eth0`);
      if (routed) commands.push(words`route add default via 172.31.${place.number}.1`);
    }
    if (place.address6 !== null) {
      commands.push(words`addr add ${place.address6}/64 dev eth0 nodad`);
      if (routed) commands.push(words`route add default via fd31:0:0:${place.number}::1`);
    }
    await host.apply(...commands);
  }

  /** Joins a host to the bridge, or gives it a subnet of its own at the router. */
  async #plug(host: LabHost, place: Place): Promise<void> {
    const net = this.#net!;
    const port = host.name;
    const commands: Command[] = [veth(port, host.netns, this.underlayMtu)];
    if (this.underlay === 'segment') {
      commands.push(words`link set ${port} master br0`);
    } else {
      if (place.address4 !== null) {
        commands.push(words`addr add 172.31.${place.number}.1/24 dev ${port}`);
      }
      if (place.address6 !== null) {
        commands.push(words`addr add fd31:0:0:${place.number}::1/64 dev ${port} nodad`);
      }
    }
    await net.apply(...commands, words`link set ${port} up`);
    await this.#address(host, place);
  }

  /**
   * From now on the router forwards no packet larger than this to the node, and says so to the
   * sender (ICMP fragmentation needed, ICMPv6 packet too big). The other direction stays as it is.
   * @throws RangeError unless the underlay is routed
   */
  async setPathMtu(node: LabNode, mtuBytes: number): Promise<void> {
    if (this.underlay !== 'routed') {
      throw new RangeError(`no router on a ${this.underlay} underlay; nothing has a path MTU`);
    }
    const route = (destination: string): Command =>
      words`route replace ${destination} dev ${node.name} mtu lock ${mtuBytes}`;
    const commands: Command[] = [];
    if (node.underlay4 !== null) commands.push(route(`${node.underlay4}/32`));
    if (node.underlay6 !== null) commands.push(route(`${node.underlay6}/128`));
    await this.#net!.apply(...commands);
  }

  /** A pod's namespace goes, as when a machine is out of memory: nobody is told. */
  async removeNamespace(pod: LabPod): Promise<void> {
    await deleteNamespace(pod.netns);
  }

  /** Every kernel node learns the leases as they are now. */
  async syncKernelNodes(): Promise<void> {
    for (const node of this.#nodes) if (node.dataplane === 'kernel') await node.syncPeers();
  }

  /** Pods on every node, kernel nodes told of their peers. */
  async attachPods(): Promise<void> {
    for (const node of this.#nodes) await node.attachPods();
    await this.syncKernelNodes();
  }

  /** What there is of the lab on this host, in words. */
  traces(): string[] {
    return tracesOf(this.#run);
  }

  /** Ends every process in the lab's namespaces and cgroups at once, and leaves nothing. */
  async [Symbol.asyncDispose](): Promise<void> {
    removeRun(this.#run);
  }
}

/** A lab with etcd running and configured; nodes have no dataplane yet. @throws LabLeftoverError */
export async function createLab(options: LabOptions): Promise<Lab> {
  const lab = new Lab(options);
  try {
    await lab.build();
  } catch (error) {
    await lab[Symbol.asyncDispose]();
    throw error;
  }
  return lab;
}

/** Waits until one echo comes back. @throws when none does in time, saying what ping said */
export async function reaches(from: LabHost, to: string, timeoutMs = 10_000): Promise<void> {
  let said = '';
  try {
    await poll(async () => {
      const answer = await collect(['ping', '-n', '-c', '1', '-W', '1', to], { netns: from.netns });
      said = answer.stdout + answer.stderr;
      return answer.exitCode === 0 ? true : undefined;
    }, AbortSignal.timeout(timeoutMs));
  } catch (cause) {
    throw new Error(`${from.name} does not reach ${to} within ${timeoutMs} ms: ${said.trim()}`, {
      cause,
    });
  }
}
