/**
 * The node's control plane. At the start, in this order: checks, the pods of last time, our own etcd,
 * network config, lease, subnet file, packet path (it opens the TUN), host state, publication, ready.
 * Afterwards every event only marks the state dirty, and one loop brings packet path and host to what
 * the state says.
 */
import { type LeaseKeeper, type LeaseState, bootTimeMs, keepLease } from '../ipam/lease-keeper.ts';
import { watchPeers } from '../ipam/peers.ts';
import { openPodFile } from '../ipam/pod-file.ts';
import { readSubnetFile, writeSubnetFile } from '../ipam/subnet-file.ts';
import type { NetworkConfig, NodeIdentity, NodeLease } from '../ipam/types.ts';
import { type Netlink, openNetlink } from '../linux/netlink.ts';
import { readTable } from '../linux/nft.ts';
import { directorySource } from '../objects/directory.ts';
import type { ObjectProblem, ObjectSet, ObjectSource, Pod } from '../objects/types.ts';
import type { Dataplane, DataplaneEvent, OverlayState } from '../overlay/types.ts';
import { type Store, StoreError } from '../store/store.ts';
import { type IpAddress, addressOrNull, formatAddress } from '../wire/address.ts';
import type { Mac } from '../wire/mac.ts';
import { ApiError, type ApiRoute, listenOnSocket } from './api.ts';
import { Captures } from './capture.ts';
import { ClusterNode, type NodeState } from './cluster-node.ts';
import { type Config, ConfigError, formatOffloads } from './config.ts';
import { prepareDataplane } from '../overlay/dataplane.ts';
import { PLAIN_OVERLAY } from '../overlay/snapshot.ts';
import { readNodeAddresses } from './node-addresses.ts';
import {
  type Compilers,
  type NodeView,
  ObjectTables,
  type Tables,
  compileTables,
} from './objects.ts';
import {
  type HealthSubject,
  type Readiness,
  checksOf,
  listenForHealth,
  reasonsOf,
} from './health.ts';
import { diagnose } from './diagnose.ts';
import { HealthCheckServers } from './health-checks.ts';
import type { Reading } from './metrics.ts';
import { PolicyCompiler } from '../policy/compile.ts';
import { ServiceCompiler } from '../service/compile.ts';
import { ServiceHost } from './service-host.ts';
import { type EtcdChild, startEtcd } from './etcd-child.ts';
import { type HostWatch, openHostWatch } from './host-watch.ts';
import { HostPasses } from './host-passes.ts';
import { type HostInputs, compareHost, reconcileHost } from './host-state.ts';
import { LeaseApi } from './lease-api.ts';
import type { Log } from './log.ts';
import {
  type HostDifferencesMessage,
  type ObjectsStatus,
  type StatusMessage,
  addressText,
  cidrText,
  leaseMessage,
} from './messages.ts';
import { awaitNetworkConfig, openStore, writeFirstConfig } from './network.ts';
import { ObjectApi } from './object-api.ts';
import { combine, etcdSource, withOwnPods } from './object-store.ts';
import {
  overlayMtu,
  overlayState,
  publicAddresses,
  refuseOverlap,
  refuseServiceOverlap,
} from './overlay-state.ts';
import { Observation, type View } from './observe.ts';
import { type OwnPods, podsOfAttachments, publishOwnPods } from './own-pods.ts';
import { PeerProbes } from './peer-probes.ts';
import { PeerTraffics } from './peer-traffic.ts';
import { PodHost, type PodHostResult, pinsOf } from './pod-host.ts';
import { Pods } from './pods.ts';
import { isLoopback, openPage, pageToken, urlHost } from './page-server.ts';
import { requireProgram } from './programs.ts';
import { HOST_COUNTERS, NFT_FAMILY, NFT_TABLE, TUNNEL_COUNTER } from './ruleset.ts';
import { RetainedFile, readRetained } from './retained-policies.ts';
import { lockStateDir, readNode, refuseBusyStateDir, stateFiles, writeNode } from './state-dir.ts';
import { LiveTraces } from './live-trace.ts';
import { TraceWatches } from './trace-watches.ts';
import { type TracePlace, Traces } from './trace.ts';
import { StoreOutage } from './store-outage.ts';
import { Told } from './told.ts';
import { guardTunnel } from './tunnel-guard.ts';
import { type Underlay, readUnderlay } from './underlay.ts';
import { VERSION } from './version.ts';

/** The daemon cannot go on as it is; a new start takes up what changed. */
export class DaemonError extends Error {
  override readonly name = 'DaemonError';
  readonly code = 'ERR_DAEMON';
}

/** How often to ask whether somebody has changed the host. */
const NOTICE_EVERY_MS = 500;

/** Reads only. @throws ConfigError, MissingProgramError, StateDirBusyError */
export async function checkHost(config: Config): Promise<Underlay> {
  requireProgram('ip');
  requireProgram('nft');
  if (config.etcdEndpoints.length === 0) {
    requireProgram('etcd', ', or name a cluster with --etcd-endpoints');
  }
  if (process.getuid?.() !== 0)
    throw new ConfigError('the daemon makes interfaces: run it as root');
  refuseBusyStateDir(config.stateDir);
  return await readUnderlay(config);
}

/** What does not change while the daemon runs. */
interface Fixed {
  readonly network: NetworkConfig;
  readonly addresses: Pick<NodeIdentity, 'publicIp4' | 'publicIp6'>;
  readonly mac: Mac;
  readonly mtuBytes: number;
}

/**
 * Runs until the signal is aborted, or the lease is given back through the API.
 * @throws ConfigError, MissingProgramError, StateDirBusyError, UnderlayError with the host untouched;
 *         DaemonError when a new start is needed
 * @param printedConfig  for people, without secrets
 */
export async function runDaemon(
  config: Config,
  log: Log,
  stop: AbortSignal,
  printedConfig: () => string,
): Promise<void> {
  const underlay = await checkHost(config);
  await new NodeDaemon(config, underlay, log, printedConfig).run(stop);
}

const NO_ADDRESSES: readonly IpAddress[] = [];

class NodeDaemon {
  readonly #config: Config;
  /** With origins, without secrets. */
  readonly #printedConfig: () => string;
  readonly #underlay: Underlay;
  readonly #log: Log;
  readonly #startedAt = new Date().toISOString();
  /** Aborted by what ends the daemon from within; the reason is a DaemonError, or null. */
  readonly #ending = new AbortController();
  /** What the start waits for. */
  #stage = 'starting';
  #etcd: EtcdChild | null = null;
  #store: Store | null = null;
  #fixed: Fixed | null = null;
  #keeper: LeaseKeeper | null = null;
  #dataplane: Dataplane | null = null;
  /** Null before the first full list. */
  #peers: readonly NodeLease[] | null = null;
  readonly #outage = new StoreOutage();
  #hostApplied = false;
  readonly #passes: HostPasses;
  readonly #podFailures = new Told<Error>((pod, err) =>
    this.#log.warn({ pod, err }, 'a pod has not what it should have; trying again'),
  );
  #podHost: PodHost | null = null;
  #pods: Pods | null = null;
  #ownPods: OwnPods | null = null;
  readonly #podsOpened = Promise.withResolvers<Pods>();
  /** The lease that node.json and the subnet file speak of. */
  #recorded: NodeLease | null = null;
  #wasReady = false;
  /** Null: a plain overlay, which tracks no flows. */
  readonly #objects: ObjectTables | null;
  #policies = new PolicyCompiler();
  readonly #services = new ServiceCompiler();
  #retainedFile: RetainedFile | null = null;
  /** This node's pods, as objects, of the attachments that have these addresses. */
  #own: { readonly addresses: Pods['addresses']; readonly pods: readonly Pod[] } = {
    addresses: NO_ADDRESSES,
    pods: [],
  };
  readonly #healthChecks = new HealthCheckServers();
  readonly #serviceHost = new ServiceHost();
  /** A pass over the whole host reads or makes the sets of Services at this moment. */
  #areSetsBusy = false;
  /** Speaks of interfaces' addresses. */
  readonly #netlink: Netlink = openNetlink();
  #nodeAddresses: readonly IpAddress[] = [];
  #objectFailure = '';
  /** Rungs that were wanted and do not work here. */
  readonly #offloadsGivenUp = new Map<string, string>();
  readonly #objectProblems = new Told<string>((problem) =>
    this.#log.warn({ problem }, 'an object is not as it should be'),
  );
  #problems: readonly ObjectProblem[] = [];
  #published: {
    readonly lease: NodeLease;
    readonly held: boolean;
    readonly peers: readonly NodeLease[];
    readonly pods: Pods['addresses'];
    readonly tables: Tables | null;
    readonly nodeAddresses: readonly IpAddress[];
  } | null = null;

  readonly #observation: Observation;
  readonly #captures: Captures;
  readonly #cluster: ClusterNode;
  readonly #probes: PeerProbes;
  readonly #traffics = new PeerTraffics(() => this.#dataplane);
  /** What was published last. */
  #overlay: OverlayState | null = null;

  constructor(config: Config, underlay: Underlay, log: Log, printedConfig: () => string) {
    this.#config = config;
    this.#printedConfig = printedConfig;
    this.#observation = new Observation({ node: config.nodeName, view: () => this.#view() });
    this.#captures = new Captures({
      node: config.nodeName,
      interfaceName: config.tunName,
      rings: () => this.#dataplane?.captures ?? null,
      view: () => this.#view(),
      names: () => this.#observation.names(),
      nodes: () => this.#observation.nodes(),
      underlay: () => [underlay.address4, underlay.address6].filter((it) => it !== null),
    });
    this.#underlay = underlay;
    this.#log = log;
    this.#passes = new HostPasses({
      log,
      canSetHost: () => this.#canSetHost(),
      overAll: () => this.#reconcile(),
      overPods: () => this.#reconcilePods(false),
      afterEach: () => this.#sayReady(),
    });
    this.#probes = new PeerProbes({
      view: () => ({
        overlay: this.#overlay,
        underlay,
        leases: (this.#peers ?? []).map((it) => leaseMessage(it, false)),
        nodeOf: this.#observation.nodeNames(),
      }),
      traffic: (key) => this.#traffics.of(key),
      onProblem: (err) => {
        if (err === null) log.info('peers are probed again');
        else log.warn({ err }, 'whether peers answer is not known');
      },
    });
    this.#objects =
      config.maxFlows === 0
        ? null
        : new ObjectTables({
            compile: (objects, view) => this.#compile(objects, view),
            view: () => ({
              pods: this.#pods?.addresses ?? NO_ADDRESSES,
              nodeAddresses: this.#nodeAddresses,
            }),
            onChange: () => this.#publish(),
          });
    this.#cluster = new ClusterNode({
      port: config.clusterPort,
      state: () => this.#nodeState(),
      view: () => this.#view(),
      inputs: () => this.#explainInputs(),
      peers: () => this.#peers,
      dataplane: () => this.#dataplane,
      links: () => this.#probes.links(),
      observation: this.#observation,
      routes: [
        ...this.#sharedRoutes(),
        ...new TraceWatches({
          node: config.nodeName,
          captures: this.#captures,
          lease: () => this.#view().lease,
        }).routes(),
      ],
      onError: (err) => log.error({ err }, 'a question of another node was not answered'),
      onProblem: (err) => {
        if (err === null) log.info('nodes of this cluster can ask one another');
        else log.warn({ err }, 'nodes of this cluster cannot ask one another; trying again');
      },
    });
  }

  async run(stop: AbortSignal): Promise<void> {
    const { stateDir } = this.#config;
    const signal = AbortSignal.any([stop, this.#ending.signal]);
    await using open = new AsyncDisposableStack();
    open.defer(() => this.#log.info('stopped; lease, interface, routes and nft table stay'));
    open.use(
      await listenForHealth(this.#config, this.#healthSubject(), (err) =>
        this.#log.error({ err }, 'a question about health was not answered'),
      ),
    );
    open.use(this.#healthChecks);
    open.use(await lockStateDir(stateDir));
    open.use(this.#serviceHost);
    open.use(this.#netlink);
    open.use(this.#traffics);
    open.use(this.#probes);
    open.use(this.#cluster);
    open.defer(() => this.#retainedFile?.idle());
    const onError = (err: unknown): void => this.#log.error({ err }, 'a question was not answered');
    const socket = stateFiles(stateDir).socket;
    open.use(await listenOnSocket(socket, { routes: this.#routes(), onError }));
    await this.#openPage(open);
    try {
      if (this.#objects !== null) await this.#openRetained();
      await this.#openPods(open);
      // From now on: a pod can be deleted while etcd does not answer yet.
      const loop = this.#passes.run(signal);
      loop.catch(() => 'told below');
      await Promise.race([this.#start(open, signal), loop]);
      await loop;
    } catch (error) {
      // Aborted: the wait ended because the daemon does.
      const wasAborted = signal.aborted;
      // Those who follow etcd would do so for ever, and the process with them.
      this.#ending.abort(null);
      if (!wasAborted) throw error;
    }
    const { reason } = this.#ending.signal as { reason: unknown };
    if (reason instanceof DaemonError) throw reason;
  }

  async #openPods(open: AsyncDisposableStack): Promise<void> {
    const { stateDir } = this.#config;
    const files = stateFiles(stateDir);
    const log = this.#log;
    const host = open.use(new PodHost());
    const watch = open.use(openHostWatch());
    const notice = setInterval(() => this.#notice(watch), NOTICE_EVERY_MS);
    open.defer(() => clearInterval(notice));
    const pods = new Pods(
      {
        log,
        host,
        reconcile: () => this.#passes.podsChanged(),
        publish: () => {
          this.#publish();
          this.#ownPods?.changed();
        },
        obstacle: () => this.#reasonsAgainstPods(),
        impaired: () => !this.#forwarding(),
        mtuBytes: () => this.#fixed!.mtuBytes,
      },
      await openPodFile(files.pods),
      files.deleted,
    );
    await pods.start();
    this.#podHost = host;
    this.#pods = pods;
    this.#lookForAddresses();
    this.#podsOpened.resolve(pods);
  }

  #notice(watch: HostWatch): void {
    if (!watch.changed()) return;
    this.#lookForAddresses();
    this.#passes.markNode();
  }

  #lookForAddresses(): void {
    if (this.#objects === null) return;
    const found = readNodeAddresses(this.#netlink, this.#config.serviceClusterIpRange);
    const before = this.#nodeAddresses;
    if (found.length === before.length && found.every((it, i) => it === before[i])) return;
    this.#nodeAddresses = found;
    this.#log.info({ addresses: found.map((it) => formatAddress(it)) }, 'addresses of this node');
    this.#publish();
  }

  /** Null: pods can be added. */
  #reasonsAgainstPods(): string | null {
    if (this.#forwarding()) return null;
    return this.#reasons()[0] ?? 'the daemon is starting';
  }

  /** For those who watch the node. */
  #healthSubject(): HealthSubject {
    return {
      forwarding: () => this.#forwarding(),
      readiness: () => this.#readiness(),
      objects: () => this.#objectsMessage(),
      dataplane: () => this.#dataplane,
      reading: () => this.#reading(),
    };
  }

  #reading(): Reading {
    const { nodeName: node, workers, maxFlows } = this.#config;
    const dataplane = this.#dataplane;
    const state = this.#keeper?.state;
    return {
      node,
      version: VERSION,
      startedAtMs: Date.parse(this.#startedAt),
      forwarding: this.#forwarding(),
      checks: checksOf(this.#readiness()),
      leaseLeftS: state?.kind === 'held' ? (state.deadlineMs - bootTimeMs()) / 1000 : null,
      peers: this.#peers?.length ?? 0,
      probes: this.#probes.readings(),
      peerTraffic: this.#peerTraffic(),
      pods: this.#pods?.attachments.length ?? 0,
      objects: this.#objectsMessage(),
      workers,
      maxFlows,
      offloads: dataplane?.offloads ?? null,
      counters: dataplane?.counters() ?? null,
      dropsIn: dataplane?.dropsIn() ?? null,
      generations: dataplane?.generations() ?? null,
      eventsLost: this.#observation.eventsLost,
    };
  }

  #peerTraffic(): Reading['peerTraffic'] {
    const nodeOf = this.#observation.nodeNames();
    const counted = this.#dataplane?.peerTraffic() ?? [];
    return [...counted].map(([key, traffic]) => ({ node: nodeOf(key), ...traffic }));
  }

  /** A node without its page is a node all the same. */
  async #openPage(open: AsyncDisposableStack): Promise<void> {
    const { uiListen, stateDir } = this.#config;
    if (uiListen === null) return;
    const { address, port } = uiListen;
    const url = `http://${urlHost(formatAddress(address))}:${port}/`;
    const onError = (err: unknown): void => this.#log.error({ err }, 'the page was not served');
    const routes = this.#cluster.routes();
    const tokenFile = isLoopback(address) ? null : stateFiles(stateDir).pageToken;
    try {
      const token = tokenFile === null ? null : await pageToken(tokenFile);
      open.use(await openPage({ address, port, token, routes, onError }));
      this.#log.info({ url, tokenFile }, 'the page on the cluster');
    } catch (err) {
      this.#log.error({ err: err as Error, url }, 'there is no page; see --ui-listen');
    }
  }

  async #start(open: AsyncDisposableStack, signal: AbortSignal): Promise<void> {
    const config = this.#config;
    const { stateDir } = config;
    const log = this.#log;
    log.info({ version: VERSION, iface: this.#underlay.iface, stateDir }, 'weft starts');
    const { offloads, workers, tunName } = config;
    const report = (event: DataplaneEvent): void => this.#onDataplane(event);
    const { address4: underlay4, address6: underlay6 } = this.#underlay;
    // While etcd is asked. The way it takes is not known before, its ends are.
    const prepared = open.use(
      prepareDataplane({ tunName, workers, underlay4, underlay6, offloads, report }),
    );
    if (config.etcdEndpoints.length === 0) {
      this.#stage = 'our own etcd has not come up yet';
      const etcd = await startEtcd(stateFiles(stateDir).etcd, log, signal);
      open.use(etcd);
      this.#etcd = etcd;
      log.info(
        { endpoint: etcd.endpoint, etcdPid: etcd.pid },
        'no --etcd-endpoints: running an etcd of our own, for this machine only',
      );
    }
    const store = open.use(await openStore(config, this.#etcd));
    this.#store = store;
    this.#publishPods(store, open);
    void this.#cluster.api.learnToken(store, config.etcdPrefix, signal);
    if (this.#etcd !== null && (await writeFirstConfig(store, config, signal))) {
      const { network, ipv6Network } = config;
      log.info(
        { network: cidrText(network), ipv6Network: cidrText(ipv6Network) },
        'wrote the first network config',
      );
    }
    const network = await this.#awaitNetwork(store, signal);
    refuseOverlap(network, this.#underlay);
    if (config.maxFlows > 0) {
      refuseServiceOverlap(config.serviceClusterIpRange, network, this.#underlay);
    }
    const addresses = publicAddresses(network, this.#underlay, config);
    const mtuBytes = overlayMtu(network, this.#underlay, addresses);
    const record = await readNode(stateDir);
    // The address must be the same after a crash: peers know it from the lease.
    await writeNode(stateDir, record);
    this.#fixed = { network, addresses, mtuBytes, mac: record.mac };

    this.#stage = 'no subnet leased yet';
    const known = record.subnet4 ?? record.subnet6;
    const keeper = keepLease({
      store,
      prefix: config.etcdPrefix,
      node: { ...addresses, mac: record.mac },
      previous: known === null ? await readSubnetFile(config.subnetFile) : record,
      ttlMs: config.subnetLeaseTtl * 1000,
      renewMarginMs: config.subnetLeaseRenewMargin * 60_000,
      onChange: (state) => this.#onLease(state),
    });
    this.#keeper = keeper;
    open.defer(() => keeper.stop());
    void this.#followPeers(store, network, addresses, signal);
    void this.#followObjects(store, signal);
    if (config.probeInterval > 0) void this.#probes.run(config.probeInterval * 1000, signal);
    void this.#followShadow(store, signal);
    const { lease } = await keeper.held(signal);
    await this.#record(lease);

    this.#stage = 'the packet path has not started yet';
    const dataplane = await prepared.start({
      tunName,
      workers,
      underlay4: addresses.publicIp4 === null ? null : underlay4,
      underlay6: addresses.publicIp6 === null ? null : underlay6,
      port: network.port,
      offloads,
      flows:
        config.maxFlows === 0
          ? null
          : {
              path: config.flowFile,
              maxFlows: config.maxFlows,
              loose: config.established === 'loose',
            },
      events: config.flowEvents,
      report,
    });
    open.defer(async () => {
      // Pods and addresses may still change while the rest ends; its descriptors are gone by then.
      this.#dataplane = null;
      await dataplane.stop();
    });
    open.use(this.#observation.follow(dataplane));
    open.use(this.#captures);
    this.#dataplane = dataplane;
    this.#publish();
    this.#passes.markNode();
    log.info(
      { tunName, workers, offloads: formatOffloads(dataplane.offloads) },
      'packet path runs',
    );
    if (dataplane.offloads.tunnelGso) void this.#guardTunnel(dataplane, signal);
  }

  #publishPods(store: Store, open: AsyncDisposableStack): void {
    const { etcdPrefix, nodeName, subnetLeaseTtl } = this.#config;
    const ownPods = publishOwnPods({
      store,
      prefix: etcdPrefix,
      nodeName,
      ttlMs: subnetLeaseTtl * 1000,
      pods: () => podsOfAttachments(this.#pods!.attachments, nodeName),
      onProblem: (err) => {
        if (err === null) this.#log.info("this node's pods are in etcd again as they are");
        else this.#log.warn({ err }, "this node's pods are not in etcd as they are; trying again");
      },
    });
    this.#ownPods = ownPods;
    ownPods.ended.catch((cause: unknown) =>
      this.#end(new DaemonError("this node's pods are no longer published", { cause })),
    );
    open.defer(() => ownPods.stop());
  }

  async #guardTunnel(dataplane: Dataplane, signal: AbortSignal): Promise<void> {
    const readLeft = async (): Promise<number | null> =>
      (await readTable(NFT_FAMILY, NFT_TABLE))?.counters[TUNNEL_COUNTER] ?? null;
    try {
      await guardTunnel(dataplane, readLeft, signal);
    } catch (cause) {
      if (!signal.aborted) this.#end(new DaemonError('the tunnel TAP is not watched', { cause }));
    }
  }

  async #awaitNetwork(store: Store, signal: AbortSignal): Promise<NetworkConfig> {
    const { etcdPrefix } = this.#config;
    this.#stage = `no network config read from ${etcdPrefix}/config yet`;
    let said = '';
    return await awaitNetworkConfig(store, etcdPrefix, signal, (err) => {
      this.#stage = `no network config: ${err.message}`;
      if (err.message !== said) this.#log.warn({ err }, 'waiting for a network config');
      said = err.message;
    });
  }

  async #followPeers(
    store: Store,
    network: NetworkConfig,
    self: Fixed['addresses'],
    signal: AbortSignal,
  ): Promise<void> {
    const log = this.#log;
    try {
      const lists = watchPeers({
        store,
        prefix: this.#config.etcdPrefix,
        network,
        self,
        signal,
        onProblem: ({ key, reason }) => log.warn({ key, reason }, 'ignoring a lease'),
        onInterruption: (err) => {
          if (err === null) log.info('the list of peers is current again');
          else log.warn({ err }, 'etcd does not answer; peers stay as they are known');
          this.#outage.tell('peers', err);
        },
      });
      for await (const peers of lists) {
        log.info({ peers: peers.length }, 'peers');
        this.#peers = peers;
        // The host's routes to peers on our link come first: what the packet path leaves to the host must
        // not come back to it.
        if (!this.#directRouting()) this.#publish();
        this.#passes.markNode();
      }
    } catch (cause) {
      if (!signal.aborted) this.#end(new DaemonError('peers are no longer followed', { cause }));
    }
  }

  async #followObjects(store: Store, signal: AbortSignal): Promise<void> {
    if (this.#objects === null) return;
    const { etcdPrefix, objects: dir } = this.#config;
    const problems = new Map<string, readonly ObjectProblem[]>();
    const tell = (source: string) => (found: readonly ObjectProblem[]) => {
      problems.set(source, found);
      this.#problems = [...problems.values()].flat();
      this.#tellObjectProblems();
    };
    const sources: ObjectSource[] = [
      ...(dir === null ? [] : [directorySource(dir, tell('directory'))]),
      etcdSource(store, etcdPrefix, tell('etcd'), {
        onInterruption: (err) => {
          if (err === null) this.#log.info('policies and Services are current again');
          else this.#log.warn({ err }, 'etcd does not answer; policies and Services stay as known');
          this.#outage.tell('objects', err);
        },
      }),
    ];
    try {
      await this.#objects.follow(combine(sources, tell('both')), signal);
    } catch (cause) {
      if (signal.aborted) return;
      this.#end(new DaemonError('policies and Services are no longer followed', { cause }));
    }
  }

  async #followShadow(store: Store, signal: AbortSignal): Promise<void> {
    if (this.#objects === null) return;
    const tell = (problem: string): void =>
      this.#log.warn({ problem }, 'policies to be tried are ignored');
    try {
      await this.#observation.shadow.follow(store, this.#config.etcdPrefix, signal, tell);
    } catch (err) {
      if (!signal.aborted) this.#log.error({ err }, 'policies to be tried are no longer followed');
    }
  }

  #onLease(state: LeaseState): void {
    const log = this.#log;
    // First of all: not one packet more than the lease allows.
    this.#publish();
    this.#passes.markNode();
    if (state.kind === 'held') {
      const { lease, deadlineMs } = state;
      const endsInS = Math.round((deadlineMs - bootTimeMs()) / 1000);
      log.info(
        { key: lease.key, endsInS: Number.isFinite(endsInS) ? endsInS : null },
        'lease held',
      );
    } else if (state.kind === 'lost') {
      const { lease, reason } = state;
      log.error({ key: lease.key, err: reason }, 'lease lost; traffic stops until it is back');
    } else if (state.kind === 'acquiring' && state.reason !== null) {
      this.#stage = `no subnet leased: ${state.reason.message}`;
      log.warn({ err: state.reason }, 'no subnet leased yet');
    }
  }

  #onDataplane(event: DataplaneEvent): void {
    if (event.kind === 'worker-failed') {
      const { worker, error } = event;
      this.#end(new DaemonError(`packet worker ${worker} died`, { cause: error }));
    } else if (event.kind === 'offload-off') {
      const { offload, reason } = event;
      this.#offloadsGivenUp.set(offload, reason);
      this.#log.warn({ offload, reason }, 'an offload does not work here; going on without');
    } else {
      const { peer, mtuBytes } = event;
      this.#log.info({ peer, mtuBytes }, 'path MTU');
    }
  }

  #end(error: DaemonError | null): void {
    if (error !== null) this.#log.fatal({ err: error }, 'cannot go on');
    this.#ending.abort(error);
  }

  #publish(): void {
    const state = this.#keeper?.state;
    const fixed = this.#fixed;
    // The guard and the routes stand before the first packet goes.
    if (this.#dataplane === null || !this.#hostApplied || fixed === null || !state) return;
    // Without the list pods would be told that everybody is unreachable.
    if (this.#peers === null) return;
    const lease = 'lease' in state ? state.lease : this.#recorded;
    if (lease === null) return;
    const held = state.kind === 'held';
    const peers = this.#peers;
    const pods = this.#pods?.addresses ?? NO_ADDRESSES;
    const nodeAddresses = this.#nodeAddresses;
    const tables = this.#currentTables();
    // Before policies are known nothing may go to pods or come from them.
    if (this.#objects !== null && tables === null) return;
    const last = this.#published;
    const isSame = last?.lease === lease && last.held === held && last.peers === peers;
    const knowsAll = last?.tables === tables && last.nodeAddresses === nodeAddresses;
    // A publication makes the packet path forget what it learned: none without a change.
    if (isSame && knowsAll && last.pods === pods) return;
    this.#published = { lease, held, peers, pods, tables, nodeAddresses };
    if (last?.tables !== tables) {
      this.#tellObjectProblems();
      void this.#updateHealthChecks();
    }
    const { address4, address6 } = this.#underlay;
    const { addresses } = fixed;
    this.#overlay = overlayState({
      ...fixed,
      lease,
      held,
      peers,
      pods,
      ...PLAIN_OVERLAY,
      ...(tables !== null && {
        policy: tables.policy,
        services: tables.services,
        nodeAddresses,
      }),
      underlay: this.#underlay,
      directRouting: this.#directRouting(),
      reach: {
        ipv4: address4 !== null && addresses.publicIp4 !== null,
        ipv6: address6 !== null && addresses.publicIp6 !== null,
      },
    });
    this.#dataplane.publish(this.#overlay);
    this.#sayReady();
    // What is led into the TUN is served there already. A pass over the host ends with the same.
    if (this.#areSetsBusy) return;
    try {
      this.#steer();
    } catch (err) {
      this.#log.error({ err: err as Error }, "Services' sets could not be changed; trying again");
      this.#passes.markNode();
    }
  }

  /** Load balancers are told what is so now. */
  async #updateHealthChecks(): Promise<void> {
    const checks = this.#published?.tables?.healthChecks ?? [];
    for (const problem of await this.#healthChecks.update(checks, this.#forwarding())) {
      this.#log.warn({ problem }, 'a health check port is not served');
    }
  }

  #currentTables(): Tables | null {
    const objects = this.#objects;
    if (objects === null) return null;
    const tables = objects.current();
    const message = objects.failure?.message ?? '';
    if (message !== this.#objectFailure && objects.failure !== null) {
      this.#log.error({ err: objects.failure }, 'policies and Services stay as they were');
    }
    this.#objectFailure = message;
    return tables;
  }

  /** @param addresses  those that `Pods` gives now: with another attachment it is another array */
  #ownPodObjects(addresses: Pods['addresses']): readonly Pod[] {
    if (this.#own.addresses !== addresses) {
      const attachments = this.#pods?.attachments ?? [];
      this.#own = { addresses, pods: podsOfAttachments(attachments, this.#config.nodeName) };
    }
    return this.#own.pods;
  }

  #view(): View {
    const objects = this.#objects?.objects ?? null;
    const own = this.#ownPodObjects(this.#pods?.addresses ?? NO_ADDRESSES);
    const state = this.#keeper?.state;
    return {
      objects: objects && withOwnPods(objects, own),
      own,
      nodeAddresses: this.#nodeAddresses,
      lease: state !== undefined && 'lease' in state ? state.lease : this.#recorded,
      peers: this.#peers ?? [],
    };
  }

  #tracePlace(): TracePlace {
    const { tunName, serviceClusterIpRange: serviceNetworks, externalIpBlocks } = this.#config;
    const { network, mtuBytes } = this.#fixed ?? {};
    const networks = [network?.ipv4?.network, network?.ipv6?.network];
    return {
      tunName,
      mtuBytes: mtuBytes ?? null,
      directRouting: this.#directRouting(),
      isForwarding: this.#forwarding(),
      networks: networks.filter((it) => it !== undefined),
      serviceNetworks,
      externalIpBlocks,
    };
  }

  #compile(objects: ObjectSet, { pods, nodeAddresses }: NodeView): Tables {
    const { nodeName, serviceClusterIpRange: serviceNetworks, externalIpBlocks } = this.#config;
    const own = this.#ownPodObjects(pods);
    const node = { nodeName, nodeAddresses, serviceNetworks, externalIpBlocks };
    const compilers: Compilers = { policy: this.#policies, services: this.#services };
    const tables = compileTables(compilers, objects, own, node);
    this.#retainedFile?.keep(this.#policies.retained);
    return tables;
  }

  async #openRetained(): Promise<void> {
    const path = stateFiles(this.#config.stateDir).retained;
    const { before, reason } = await readRetained(path);
    if (before === null) {
      this.#log.error(
        { path, reason },
        'policies of Terminating namespaces are lost; their pods are isolated until they are gone',
      );
    }
    this.#policies = new PolicyCompiler(before);
    this.#retainedFile = new RetainedFile(
      path,
      before && [...before.namespaces.values(), ...before.networkPolicies.values()],
      (err) => this.#log.error({ err, path }, 'a restart would forget what is retained'),
    );
  }

  /** Keeps the sets of Services as the tables in force have them. @throws NetlinkError */
  #steer(): void {
    const steered = this.#published?.tables?.steered;
    if (steered === undefined) return;
    const { added, removed } = this.#serviceHost.reconcile(steered);
    if (added + removed > 0) this.#log.debug({ added, removed }, "changed Services' sets");
  }

  /** What a restart and others on this machine read. */
  async #record(lease: NodeLease): Promise<void> {
    const { network, mac, mtuBytes } = this.#fixed!;
    const { stateDir, subnetFile, ipMasq, podReserved } = this.#config;
    await writeNode(stateDir, { mac, subnet4: lease.subnet4, subnet6: lease.subnet6 });
    await writeSubnetFile(subnetFile, { network, lease, mtuBytes, ipMasq });
    this.#pods!.useSubnets(lease, podReserved);
    this.#recorded = lease;
  }

  #directRouting(): boolean {
    return this.#config.directRouting ?? this.#fixed?.network.directRouting ?? false;
  }

  /** There is a subnet of ours, and a device for it. */
  #canSetHost(): boolean {
    return this.#dataplane !== null && this.#keeper?.state.kind === 'held';
  }

  async #reconcile(): Promise<PodHostResult> {
    const { stateDir } = this.#config;
    const state = this.#keeper!.state;
    if (state.kind !== 'held') return this.#reconcilePods(false);
    if (state.lease !== this.#recorded) await this.#record(state.lease);
    const inputs = this.#hostInputs(state.lease);
    this.#areSetsBusy = true;
    const { plan, pinned, steered } = await reconcileHost(inputs, stateDir).finally(() => {
      this.#areSetsBusy = false;
    });
    this.#podHost!.pinnedAre(pinned);
    this.#serviceHost.elementsAre(steered);
    this.#steer();
    const result = this.#reconcilePods(true);
    // Not awaited: it asks for a pass of its own.
    void this.#bury();
    this.#hostApplied = true;
    this.#cluster.update(state.lease);
    this.#publish();
    const ip = [...plan.ip, ...plan.rules4, ...plan.rules6];
    if (ip.length + plan.sysctls.length === 0 && plan.ruleset === null) return result;
    this.#log.info(
      {
        ip: ip.map((it) => it.join(' ')),
        sysctls: plan.sysctls.map((it) => `${it.path}=${it.value}`),
        nft: plan.ruleset !== null,
      },
      'changed the host',
    );
    return result;
  }

  #hostInputs(lease: NodeLease): HostInputs {
    const { tunName, ipMasq, serviceClusterIpRange: networks } = this.#config;
    const { network, mtuBytes } = this.#fixed!;
    const steered = this.#currentTables()?.steered ?? [];
    return {
      tunName,
      mtuBytes,
      network,
      lease,
      underlay: this.#underlay,
      ipMasq,
      directRouting: this.#directRouting(),
      peers: this.#peers,
      pins: pinsOf(this.#pods!.attachments),
      services: this.#objects && { networks, steered },
    };
  }

  /** @throws ApiError 503 while there is no subnet of ours */
  async #compareHost(): Promise<HostDifferencesMessage> {
    const state = this.#keeper?.state;
    if (this.#dataplane === null || state?.kind !== 'held' || this.#pods === null) {
      throw new ApiError(503, 'ERR_NOT_READY', this.#reasons()[0] ?? this.#stage);
    }
    return { differences: await compareHost(this.#hostInputs(state.lease)) };
  }

  async #bury(): Promise<void> {
    try {
      await this.#pods!.bury();
    } catch (error) {
      this.#log.error({ err: error as Error }, 'pods deleted meanwhile are not freed yet');
    }
  }

  /** @param whole  not only what has come and gone since the last whole pass */
  #reconcilePods(whole: boolean): PodHostResult {
    const inputs = {
      attachments: this.#pods!.attachments,
      subnet4: this.#recorded?.subnet4 ?? null,
      subnet6: this.#recorded?.subnet6 ?? null,
      mtuBytes: this.#fixed?.mtuBytes ?? null,
    };
    const result = whole ? this.#podHost!.reconcile(inputs) : this.#podHost!.update(inputs);
    const { changes, failures } = result;
    if (changes.length > 0) this.#log.debug({ changes }, 'changed what pods have on the host');
    this.#podFailures.tell(failures);
    return result;
  }

  #sayReady(): void {
    const reasons = this.#reasons();
    const ready = reasons.length === 0;
    if (ready !== this.#wasReady) {
      if (ready) this.#log.info({ key: this.#recorded?.key }, 'ready');
      else this.#log.warn({ reasons }, 'not ready');
    }
    if (ready !== this.#wasReady) void this.#updateHealthChecks();
    this.#wasReady = ready;
  }

  /** The lease is ours, the others are known, and packet path and host know it. */
  #forwarding(): boolean {
    return (
      this.#hostApplied &&
      this.#peers !== null &&
      this.#keeper?.state.kind === 'held' &&
      this.#knowsObjects()
    );
  }

  /** Listed, and made tables of that the packet path has. */
  #knowsObjects(): boolean {
    if (this.#objects === null) return true;
    return this.#published !== null && this.#published.tables !== null;
  }

  #objectsMessage(): ObjectsStatus | null {
    if (this.#objects === null) return null;
    const set = this.#objects.objects;
    return {
      listed: set !== null,
      policies: (set?.networkPolicies.size ?? 0) + (set?.clusterNetworkPolicies.size ?? 0),
      services: set?.services.size ?? 0,
      problems: this.#problemLines(),
      failure: this.#objectFailure || null,
    };
  }

  #tellObjectProblems(): void {
    this.#objectProblems.tell(new Map(this.#problemLines().map((it) => [it, ''])));
  }

  /** Of the sources and of what was compiled last. */
  #problemLines(): readonly string[] {
    const compiled = this.#published?.tables?.problems ?? [];
    return [...this.#problems.map(problemText), ...compiled];
  }

  #reasons(): readonly string[] {
    return reasonsOf(this.#readiness());
  }

  #readiness(): Readiness {
    const state = this.#keeper?.state;
    let lease = state?.kind === 'held' ? null : 'no subnet leased';
    if (state?.kind === 'lost') {
      lease = `lease ${state.lease.key} is lost: ${state.reason.message}`;
    }
    return {
      packetPath: this.#dataplane === null ? this.#stage : null,
      lease,
      arePeersKnown: this.#peers !== null,
      isHostApplied: this.#hostApplied,
      hostProblem: this.#passes.problem?.message ?? null,
      areObjectsKnown: this.#knowsObjects(),
      objectFailure: this.#objectFailure === '' ? null : this.#objectFailure,
      store: this.#outage.current?.message ?? null,
      firstAnswer: this.#fixed === null ? this.#stage : null,
    };
  }

  #explainInputs() {
    const { nodeName, serviceClusterIpRange: serviceNetworks, externalIpBlocks } = this.#config;
    const { objects, nodeAddresses } = this.#view();
    return objects && { objects, nodeName, nodeAddresses, serviceNetworks, externalIpBlocks };
  }

  #nodeState(): NodeState {
    const state = this.#keeper?.state;
    const reasons = this.#reasons();
    return {
      node: this.#config.nodeName,
      version: VERSION,
      startedAt: this.#startedAt,
      forwarding: this.#forwarding(),
      ready: reasons.length === 0,
      reasons,
      lease: state?.kind === 'held' ? leaseMessage(state.lease, true, this.#endsInS()) : null,
      pods: this.#pods?.attachments.length ?? 0,
    };
  }

  async #status(): Promise<StatusMessage> {
    const { etcdEndpoints, tunName } = this.#config;
    const fixed = this.#fixed;
    const { lease, pods, ...state } = this.#nodeState();
    const table = this.#hostApplied ? await readTable(NFT_FAMILY, NFT_TABLE) : null;
    const refused = Object.fromEntries(
      Object.entries(HOST_COUNTERS).map(([name, counter]) => [name, table?.counters[counter] ?? 0]),
    );
    const status = {
      ...state,
      pid: process.pid,
      etcd: {
        endpoints: this.#etcd === null ? etcdEndpoints : [this.#etcd.endpoint],
        own: this.#etcd !== null,
        unreachable: this.#outage.current,
      },
      workers: this.#config.workers,
      host: { applied: this.#hostApplied, problem: this.#passes.problem?.message ?? null },
      underlay: {
        iface: this.#underlay.iface,
        mtuBytes: this.#underlay.mtuBytes,
        publicIp: addressText(fixed?.addresses.publicIp4 ?? null),
        publicIpv6: addressText(fixed?.addresses.publicIp6 ?? null),
      },
      overlay: fixed && {
        tunName,
        mtuBytes: fixed.mtuBytes,
        vni: fixed.network.vni,
        port: fixed.network.port,
        network: cidrText(fixed.network.ipv4?.network),
        ipv6Network: cidrText(fixed.network.ipv6?.network),
        directRouting: this.#directRouting(),
      },
      lease,
      peers: (this.#peers ?? []).map((it) => leaseMessage(it, false)),
      probes: this.#probes.findings(),
      pods,
      objects: this.#objectsMessage(),
      offloads: this.#dataplane === null ? null : { ...this.#dataplane.offloads },
      offloadsGivenUp: Object.fromEntries(this.#offloadsGivenUp),
      counters: { ...this.#dataplane?.counters(), ...refused },
      dropsPerSecond: this.#cluster.dropsPerSecond,
    };
    return { ...status, findings: diagnose(status) };
  }

  /** Seconds that our lease may still be used; null: there is none, or it has no end. */
  #endsInS(): number | null {
    const state = this.#keeper?.state;
    if (state?.kind !== 'held' || !Number.isFinite(state.deadlineMs)) return null;
    return Math.round((state.deadlineMs - bootTimeMs()) / 1000);
  }

  #routes(): readonly ApiRoute[] {
    const { etcdPrefix: prefix, serviceClusterIpRange: clusterIps } = this.#config;
    const store = (): Store => this.#store ?? this.#notReady();
    const ranges = { clusterIps };
    const traces = new Traces({
      node: this.#config.nodeName,
      view: () => this.#view(),
      nodes: () => this.#observation.nodes(),
      tables: () => this.#published?.tables ?? null,
      place: () => this.#tracePlace(),
    });
    const attachments = () => this.#pods?.attachments ?? [];
    const leases = new LeaseApi({
      prefix,
      known: () => {
        const { network, addresses: own } = this.#fixed ?? this.#notReady();
        return { store: store(), network, own };
      },
      keeper: () => this.#keeper,
      endsInS: () => this.#endsInS(),
      onReleased: (key) => this.#onReleased(key),
    });
    const live = new LiveTraces({
      node: this.#config.nodeName,
      traces,
      captures: this.#captures,
      attachments,
      others: this.#cluster.others,
    });
    return [
      ...new ObjectApi({ store, prefix, ranges }).routes(),
      ...this.#observation.whatIfRoutes(store, prefix, this.#cluster.others),
      ...this.#captures.routes(),
      ...traces.routes(),
      ...live.routes(),
      ...this.#probes.routes(),
      ...leases.routes(),
      ...this.#sharedRoutes(),
      ...this.#cluster.routes(),
      {
        method: 'POST',
        path: '/v1/cni',
        // Who asks in the first moments waits: a DEL that was refused now would be missed.
        answer: async ({ body }) => await (await this.#podsOpened.promise).answer(body),
      },
      {
        method: 'GET',
        path: '/v1/ipam',
        answer: ({ query }) => this.#podsOrNot().show(canonical(query.get('ip'))),
      },
      { method: 'GET', path: '/v1/config', answer: () => ({ text: this.#printedConfig() }) },
      { method: 'GET', path: '/v1/host/check', answer: () => this.#compareHost() },
      { method: 'GET', path: '/v1/ipam/check', answer: () => this.#podsOrNot().checkAll() },
    ];
  }

  /** What other nodes may ask as well: nothing of it changes anything. */
  #sharedRoutes(): readonly ApiRoute[] {
    return [
      ...this.#observation.routes(),
      { method: 'GET', path: '/v1/status', answer: () => this.#status() },
    ];
  }

  /** @throws ApiError 503 in the first moments */
  #podsOrNot(): Pods {
    return this.#pods ?? this.#notReady();
  }

  /** @throws ApiError 503 */
  #notReady(): never {
    throw new ApiError(503, 'ERR_NOT_READY', this.#stage);
  }

  /** Our lease is given back: without one there is nothing to do. */
  async #onReleased(key: string): Promise<void> {
    try {
      await this.#ownPods?.release();
    } catch (err) {
      if (!(err instanceof StoreError)) throw err;
      this.#log.warn({ err }, "this node's pods stay in etcd until their lease ends");
    }
    this.#log.info({ key }, 'gave the lease back; the daemon ends');
    setImmediate(() => this.#end(null));
  }
}

/** In one line, as the operator finds it. */
const problemText = ({ place, object, field, reason }: ObjectProblem): string =>
  [place, object, field, reason].filter((it) => it !== '').join(': ');

/** An address in the form in which it is stored; what is none stays as it is, and is nobody's. */
function canonical(address: string | null): string | null {
  const parsed = address === null ? null : addressOrNull(address);
  return parsed === null ? address : formatAddress(parsed);
}
