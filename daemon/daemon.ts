/**
 * The node's control plane. At the start, in this order: checks, the pods of last time, our own etcd,
 * network config, lease, subnet file, packet path (it opens the TUN), host state, publication, ready.
 * Afterwards every event only marks the state dirty, and one loop brings packet path and host to what
 * the state says.
 */
import { type LeaseKeeper, type LeaseState, keepLease } from '../ipam/lease-keeper.ts';
import { watchPeers } from '../ipam/peers.ts';
import { openPodFile } from '../ipam/pod-file.ts';
import { readSubnetFile, writeSubnetFile } from '../ipam/subnet-file.ts';
import type { NetworkConfig, NodeLease } from '../ipam/types.ts';
import { bootTimeMs } from '../linux/clock.ts';
import { readTable } from '../linux/nft.ts';
import type { Dataplane, DataplaneEvent, OverlayState } from '../overlay/types.ts';
import { type Store, StoreError } from '../store/store.ts';
import { type IpAddress, addressOrNull, formatAddress } from '../wire/address.ts';
import { ApiError, type ApiRoute, listenOnSocket } from './api.ts';
import { Captures } from './capture.ts';
import { ClusterNode } from './cluster-node.ts';
import { type Config, ConfigError, formatOffloads } from './config.ts';
import { prepareDataplane } from '../overlay/dataplane.ts';
import { PLAIN_OVERLAY } from '../overlay/snapshot.ts';
import { NodeObjects } from './node-objects.ts';
import { type NodeParts, NodeStatus } from './node-status.ts';
import { listenForHealth } from './health.ts';
import { HealthCheckServers } from './health-checks.ts';
import { ServiceHost } from './service-host.ts';
import { type EtcdChild, startEtcd } from './etcd-child.ts';
import { type HostWatch, openHostWatch } from './host-watch.ts';
import { HostPasses } from './host-passes.ts';
import { type HostInputs, compareHost, reconcileHost } from './host-state.ts';
import { LeaseApi } from './lease-api.ts';
import type { Log } from './log.ts';
import { type HostDifferencesMessage, cidrText, leaseMessage } from './messages.ts';
import { awaitNetworkConfig, openStore, writeFirstConfig } from './network.ts';
import { ObjectApi } from './object-api.ts';
import {
  type Fixed,
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
import { NFT_FAMILY, NFT_TABLE, TUNNEL_COUNTER } from './ruleset.ts';
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
  readonly #objects: NodeObjects;
  readonly #healthChecks = new HealthCheckServers();
  readonly #serviceHost = new ServiceHost();
  /** A pass over the whole host reads or makes the sets of Services at this moment. */
  #areSetsBusy = false;
  /** Rungs that were wanted and do not work here. */
  readonly #offloadsGivenUp = new Map<string, string>();
  #published: {
    readonly lease: NodeLease;
    readonly held: boolean;
    readonly peers: readonly NodeLease[];
    readonly pods: Pods['addresses'];
    readonly nodeAddresses: readonly IpAddress[];
  } | null = null;

  readonly #observation: Observation;
  readonly #captures: Captures;
  readonly #cluster: ClusterNode;
  readonly #probes: PeerProbes;
  readonly #status: NodeStatus;
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
    this.#objects = new NodeObjects({
      config,
      log,
      pods: () => this.#pods,
      onChange: () => this.#publish(),
    });
    this.#status = new NodeStatus({
      config,
      underlay,
      parts: () => this.#parts(),
      passes: this.#passes,
      objects: this.#objects,
      outage: this.#outage,
      observation: this.#observation,
      probes: this.#probes,
      cluster: () => this.#cluster,
      offloadsGivenUp: this.#offloadsGivenUp,
    });
    this.#cluster = new ClusterNode({
      port: config.clusterPort,
      state: () => this.#status.nodeState(),
      view: () => this.#view(),
      inputs: () => this.#objects.inputs(),
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
      await listenForHealth(this.#config, this.#status.healthSubject(), (err) =>
        this.#log.error({ err }, 'a question about health was not answered'),
      ),
    );
    open.use(this.#healthChecks);
    open.use(await lockStateDir(stateDir));
    open.use(this.#serviceHost);
    open.use(this.#objects);
    open.use(this.#traffics);
    open.use(this.#probes);
    open.use(this.#cluster);
    const onError = (err: unknown): void => this.#log.error({ err }, 'a question was not answered');
    const socket = stateFiles(stateDir).socket;
    open.use(await listenOnSocket(socket, { routes: this.#routes(), onError }));
    await this.#openPage(open);
    try {
      await this.#objects.open(stateFiles(stateDir).retained);
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
        impaired: () => !this.#status.isForwarding,
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
    if (this.#objects.lookForAddresses()) this.#publish();
  }

  /** Null: pods can be added. */
  #reasonsAgainstPods(): string | null {
    if (this.#status.isForwarding) return null;
    return this.#status.reasons[0] ?? 'the daemon is starting';
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
    const readLeft = async () => {
      const table = await readTable(NFT_FAMILY, NFT_TABLE);
      const left = table?.counters[TUNNEL_COUNTER];
      return table === null || left === undefined ? null : { left, table: table.handle };
    };
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
    if (!this.#objects.areFollowed) return;
    try {
      await this.#objects.follow(store, signal, (err) => {
        if (err === null) this.#log.info('policies and Services are current again');
        else this.#log.warn({ err }, 'etcd does not answer; policies and Services stay as known');
        this.#outage.tell('objects', err);
      });
    } catch (cause) {
      if (signal.aborted) return;
      this.#end(new DaemonError('policies and Services are no longer followed', { cause }));
    }
  }

  async #followShadow(store: Store, signal: AbortSignal): Promise<void> {
    if (!this.#objects.areFollowed) return;
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
    const { nodeAddresses } = this.#objects;
    const tables = this.#objects.current();
    // Before policies are known nothing may go to pods or come from them.
    if (this.#objects.areFollowed && tables === null) return;
    const last = this.#published;
    const isSame = last?.lease === lease && last.held === held && last.peers === peers;
    const isInForce = this.#objects.inForce === tables;
    const knowsAll = isInForce && last?.nodeAddresses === nodeAddresses;
    // A publication makes the packet path forget what it learned: none without a change.
    if (isSame && knowsAll && last.pods === pods) return;
    this.#published = { lease, held, peers, pods, nodeAddresses };
    this.#objects.inForceAre(tables);
    if (!isInForce) void this.#updateHealthChecks();
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
    const checks = this.#objects.inForce?.healthChecks ?? [];
    for (const problem of await this.#healthChecks.update(checks, this.#status.isForwarding)) {
      this.#log.warn({ problem }, 'a health check port is not served');
    }
  }

  #view(): View {
    const { objects, own, nodeAddresses } = this.#objects;
    const state = this.#keeper?.state;
    return {
      objects,
      own,
      nodeAddresses,
      lease: state !== undefined && 'lease' in state ? state.lease : this.#recorded,
      peers: this.#peers ?? [],
    };
  }

  #parts(): NodeParts {
    return {
      stage: this.#stage,
      etcd: this.#etcd,
      fixed: this.#fixed,
      keeper: this.#keeper,
      dataplane: this.#dataplane,
      peers: this.#peers,
      pods: this.#pods,
      isHostApplied: this.#hostApplied,
      isDirectRouting: this.#directRouting(),
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
      isForwarding: this.#status.isForwarding,
      networks: networks.filter((it) => it !== undefined),
      serviceNetworks,
      externalIpBlocks,
    };
  }

  /** Keeps the sets of Services as the tables in force have them. @throws NetlinkError */
  #steer(): void {
    const steered = this.#objects.inForce?.steered;
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
    const steered = this.#objects.current()?.steered ?? [];
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
      services: this.#objects.areFollowed ? { networks, steered } : null,
    };
  }

  /** @throws ApiError 503 while there is no subnet of ours */
  async #compareHost(): Promise<HostDifferencesMessage> {
    const state = this.#keeper?.state;
    if (this.#dataplane === null || state?.kind !== 'held' || this.#pods === null) {
      throw new ApiError(503, 'ERR_NOT_READY', this.#status.reasons[0] ?? this.#stage);
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
    const reasons = this.#status.reasons;
    const ready = reasons.length === 0;
    if (ready !== this.#wasReady) {
      if (ready) this.#log.info({ key: this.#recorded?.key }, 'ready');
      else this.#log.warn({ reasons }, 'not ready');
    }
    if (ready !== this.#wasReady) void this.#updateHealthChecks();
    this.#wasReady = ready;
  }

  #routes(): readonly ApiRoute[] {
    const { etcdPrefix: prefix, serviceClusterIpRange: clusterIps } = this.#config;
    const store = (): Store => this.#store ?? this.#notReady();
    const ranges = { clusterIps };
    const traces = new Traces({
      node: this.#config.nodeName,
      view: () => this.#view(),
      nodes: () => this.#observation.nodes(),
      tables: () => this.#objects.inForce,
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
      endsInS: () => this.#status.endsInS,
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
      { method: 'GET', path: '/v1/status', answer: () => this.#status.message() },
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

/** An address in the form in which it is stored; what is none stays as it is, and is nobody's. */
function canonical(address: string | null): string | null {
  const parsed = address === null ? null : addressOrNull(address);
  return parsed === null ? address : formatAddress(parsed);
}
