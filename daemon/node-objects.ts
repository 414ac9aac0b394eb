/**
 * What this node knows of policies, Services and pods: the sources of objects, the tables made of them, and
 * what is wrong with either.
 *
 *     --objects DIR \
 *     etcd           >-- combine --> ObjectTables (objects.ts) --> current() --> packet path
 *     own pods      /                                              inForceAre()
 */
import { type Netlink, openNetlink } from '../linux/netlink.ts';
import { directorySource } from '../objects/directory.ts';
import type { ObjectProblem, ObjectSet, ObjectSource, Pod } from '../objects/types.ts';
import { PolicyCompiler } from '../policy/compile.ts';
import { ServiceCompiler, type ServiceInputs } from '../service/compile.ts';
import type { Store } from '../store/store.ts';
import { type IpAddress, formatAddress } from '../wire/address.ts';
import type { Config } from './config.ts';
import type { Log } from './log.ts';
import type { ObjectsStatus } from './messages.ts';
import { readNodeAddresses } from './node-addresses.ts';
import { combine, etcdSource, withOwnPods } from './object-store.ts';
import { type NodeView, ObjectTables, type Tables, compileTables } from './objects.ts';
import { podsOfAttachments } from './own-pods.ts';
import type { Pods } from './pods.ts';
import { QuietCollector } from './quiet-collector.ts';
import { RetainedFile, readRetained } from './retained-policies.ts';
import { Told } from './told.ts';

const NO_ADDRESSES: readonly IpAddress[] = [];

export interface NodeObjectsOptions {
  readonly config: Config;
  readonly log: Log;
  /** Null in the first moments. */
  readonly pods: () => Pods | null;
  /** `current` gives other tables than before, or may. */
  readonly onChange: () => void;
}

/** In one line, as the operator finds it. */
const problemText = ({ place, object, field, reason }: ObjectProblem): string =>
  [place, object, field, reason].filter((it) => it !== '').join(': ');

export class NodeObjects implements AsyncDisposable {
  readonly #options: NodeObjectsOptions;
  /** Null: a plain overlay, which tracks no flows and asks for no objects. */
  readonly #tables: ObjectTables | null;
  /** Speaks of interfaces' addresses. */
  readonly #netlink: Netlink = openNetlink();
  #policies = new PolicyCompiler();
  readonly #services = new ServiceCompiler();
  #retainedFile: RetainedFile | null = null;
  #nodeAddresses: readonly IpAddress[] = [];
  /** This node's pods, as objects, of the attachments that have these addresses. */
  #own: { readonly addresses: readonly IpAddress[]; readonly pods: readonly Pod[] } = {
    addresses: NO_ADDRESSES,
    pods: [],
  };
  #inForce: Tables | null = null;
  #failure = '';
  /** What the sources could not make sense of, by source. */
  readonly #problems = new Map<string, readonly ObjectProblem[]>();
  readonly #told: Told<string>;
  readonly #collector: QuietCollector;

  constructor(options: NodeObjectsOptions) {
    const { config, log } = options;
    this.#options = options;
    this.#collector = new QuietCollector({ log });
    this.#told = new Told((problem) => log.warn({ problem }, 'an object is not as it should be'));
    this.#tables =
      config.maxFlows === 0
        ? null
        : new ObjectTables({
            compile: (objects, view) => this.#compile(objects, view),
            view: () => ({ pods: this.#podAddresses(), nodeAddresses: this.#nodeAddresses }),
            onChange: options.onChange,
          });
  }

  /** What is retained of policies, as it was before a restart. To be awaited before the rest. */
  async open(retainedPath: string): Promise<void> {
    if (this.#tables === null) return;
    const { log } = this.#options;
    const { before, reason } = await readRetained(retainedPath);
    if (before === null) {
      log.error(
        { path: retainedPath, reason },
        'policies of Terminating namespaces are lost; their pods are isolated until they are gone',
      );
    }
    this.#policies = new PolicyCompiler(before);
    this.#retainedFile = new RetainedFile(
      retainedPath,
      before && [...before.namespaces.values(), ...before.networkPolicies.values()],
      (err) => log.error({ err, path: retainedPath }, 'a restart would forget what is retained'),
    );
  }

  /**
   * Until the signal is aborted. @throws what a source throws
   * @param onInterruption  etcd's; null: it has answered again
   */
  async follow(
    store: Store,
    signal: AbortSignal,
    onInterruption: (err: Error | null) => void,
  ): Promise<void> {
    const { etcdPrefix, objects: dir } = this.#options.config;
    const tell = (source: string) => (found: readonly ObjectProblem[]) => {
      this.#problems.set(source, found);
      this.#tell();
    };
    const sources: ObjectSource[] = [
      ...(dir === null ? [] : [directorySource(dir, tell('directory'))]),
      etcdSource(store, etcdPrefix, tell('etcd'), { onInterruption }),
    ];
    await this.#tables?.follow(combine(sources, tell('both')), signal);
  }

  /** False: a plain overlay. */
  get areFollowed(): boolean {
    return this.#tables !== null;
  }

  /** Asks the kernel for this node's addresses. @returns whether they are others than before */
  lookForAddresses(): boolean {
    if (this.#tables === null) return false;
    const { config, log } = this.#options;
    const found = readNodeAddresses(this.#netlink, config.serviceClusterIpRange);
    const before = this.#nodeAddresses;
    if (found.length === before.length && found.every((it, i) => it === before[i])) return false;
    this.#nodeAddresses = found;
    log.info({ addresses: found.map((it) => formatAddress(it)) }, 'addresses of this node');
    return true;
  }

  get nodeAddresses(): readonly IpAddress[] {
    return this.#nodeAddresses;
  }

  /** This node's pods, as objects. */
  get own(): readonly Pod[] {
    return this.#ownOf(this.#podAddresses());
  }

  /** With this node's own pods; null before the first full list. */
  get objects(): ObjectSet | null {
    const objects = this.#tables?.objects ?? null;
    return objects && withOwnPods(objects, this.own);
  }

  /** Of what is known now, the same object until something changes; null: of nothing yet. */
  current(): Tables | null {
    if (this.#tables === null) return null;
    const tables = this.#tables.current();
    const { failure } = this.#tables;
    const message = failure?.message ?? '';
    if (message !== this.#failure && failure !== null) {
      this.#options.log.error({ err: failure }, 'policies and Services stay as they were');
    }
    this.#failure = message;
    return tables;
  }

  /** The packet path has these from now on. */
  inForceAre(tables: Tables | null): void {
    if (this.#inForce === tables) return;
    this.#inForce = tables;
    this.#tell();
    this.#collector.changed();
  }

  get inForce(): Tables | null {
    return this.#inForce;
  }

  /** Listed, and made tables of that the packet path has. */
  get areKnown(): boolean {
    return this.#tables === null || this.#inForce !== null;
  }

  /** Why the tables in force are not those of what is known now; null: they are. */
  get failure(): string | null {
    return this.#failure === '' ? null : this.#failure;
  }

  /** Null: a plain overlay. */
  status(): ObjectsStatus | null {
    if (this.#tables === null) return null;
    const set = this.#tables.objects;
    return {
      listed: set !== null,
      policies: (set?.networkPolicies.size ?? 0) + (set?.clusterNetworkPolicies.size ?? 0),
      services: set?.services.size ?? 0,
      problems: this.#problemLines(),
      failure: this.failure,
    };
  }

  /** For those who explain what the tables decide; null before the first full list. */
  inputs(): ServiceInputs | null {
    const { objects } = this;
    return objects && { objects, ...this.#node(this.#nodeAddresses) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#collector[Symbol.dispose]();
    this.#netlink[Symbol.dispose]();
    await this.#retainedFile?.idle();
  }

  #compile(objects: ObjectSet, { pods, nodeAddresses }: NodeView): Tables {
    const compilers = { policy: this.#policies, services: this.#services };
    const node = this.#node(nodeAddresses);
    const tables = compileTables(compilers, objects, this.#ownOf(pods), node);
    this.#retainedFile?.keep(this.#policies.retained);
    return tables;
  }

  #node(nodeAddresses: readonly IpAddress[]): Omit<ServiceInputs, 'objects'> {
    const { nodeName, serviceClusterIpRange, externalIpBlocks } = this.#options.config;
    return { nodeName, nodeAddresses, serviceNetworks: serviceClusterIpRange, externalIpBlocks };
  }

  #podAddresses(): readonly IpAddress[] {
    return this.#options.pods()?.addresses ?? NO_ADDRESSES;
  }

  /** @param addresses  those that `Pods` gives now: with another attachment it is another array */
  #ownOf(addresses: readonly IpAddress[]): readonly Pod[] {
    if (this.#own.addresses !== addresses) {
      const { config, pods } = this.#options;
      const attachments = pods()?.attachments ?? [];
      this.#own = { addresses, pods: podsOfAttachments(attachments, config.nodeName) };
    }
    return this.#own.pods;
  }

  #tell(): void {
    this.#told.tell(new Map(this.#problemLines().map((it) => [it, ''])));
  }

  /** Of the sources and of what was compiled last. */
  #problemLines(): readonly string[] {
    const ofSources = [...this.#problems.values()].flat();
    return [...ofSources.map(problemText), ...(this.#inForce?.problems ?? [])];
  }
}
