/**
 * Do the other nodes answer, how soon, and up to which size: by ICMP echo, to their own addresses (the
 * underlay) and through the tunnel to `.0` of their subnets (the overlay), which their kernels answer. One peer
 * at a time, slowly; sooner, with single echoes, while somebody looks at the page; all at once when somebody
 * asks.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Echo, type EchoSocket, largestThatFits, openEcho } from '../linux/echo.ts';
import { pathMtuBytes } from '../linux/udp.ts';
import type { OverlayState, Peer } from '../overlay/types.ts';
import { type Family, type IpAddress, familyOf, parseAddress } from '../wire/address.ts';
import type { ApiRoute } from './api.ts';
import { EchoHistory, type Target } from './echo-history.ts';
import { linkOf } from './links.ts';
import {
  type LeaseMessage,
  type LinkMessage,
  type LinkProbeMessage,
  type PeerMessage,
  type PeerTrafficMessage,
  type PeersMessage,
  type StatusMessage,
  addressText,
} from './messages.ts';
import type { PeerProbe } from './metrics.ts';

const ECHOES = 5;
/** When somebody asks for them. */
const ECHOES_ASKED = 10;
const ECHO_BYTES = 64;
const ECHO_SPACING_MS = 20;
const ECHO_TIMEOUT_MS = 1_000;
/** A size is given up when so many echoes of it stay without answer. */
const SIZE_TRIES = 2;
const SIZE_TIMEOUT_MIN_MS = 100;
const PAUSE_MIN_MS = 100;
/** When somebody asks for all of them. */
const AT_ONCE = 16;
/** While somebody looks, each peer is asked so often; more than forty, less often. */
const WATCHED_EVERY_MS = 2_000;
const WATCHED_PAUSE_MS = 50;
/** Who has looked may look again. */
const WATCHED_MS = 30_000;

export interface ProbeView {
  /** What the packet path goes by; null before it runs. */
  readonly overlay: Pick<OverlayState, 'peers' | 'mtuBytes' | 'subnet4' | 'subnet6'> | null;
  readonly underlay: {
    readonly mtuBytes: number;
    readonly address4: IpAddress | null;
    readonly address6: IpAddress | null;
  };
  readonly leases: readonly LeaseMessage[];
  /** A lease's node, by the lease's key. */
  readonly nodeOf: (key: string) => string;
}

/** What is asked of a peer; nothing in a family that we have no address of. */
export function targetsOf(peer: Peer, { overlay, underlay }: ProbeView): readonly Target[] {
  if (overlay === null) return [];
  const below = peer.addresses.filter(
    (it) => (familyOf(it) === 4 ? underlay.address4 : underlay.address6) !== null,
  );
  const inside = [
    overlay.subnet4 !== null && (peer.nextHop4 ?? peer.direct4) ? peer.subnet4 : null,
    overlay.subnet6 !== null && (peer.nextHop6 ?? peer.direct6) ? peer.subnet6 : null,
  ];
  return [
    ...below.map(
      (address) => ({ kind: 'underlay', address, mtuBytes: underlay.mtuBytes }) as const,
    ),
    ...inside.flatMap((it) =>
      it === null
        ? []
        : [{ kind: 'overlay', address: it.base, mtuBytes: overlay.mtuBytes } as const],
    ),
  ];
}

interface Way {
  readonly target: Target;
  readonly history: EchoHistory;
}

/** What is known of a peer. */
interface Known {
  /** Of its last answer or silence, RFC 3339; null: there was none yet. */
  time: string | null;
  ways: readonly Way[];
}

async function ask(socket: EchoSocket, { target, history }: Way): Promise<Echo> {
  const echo = await socket.echo(target.address, ECHO_BYTES, ECHO_TIMEOUT_MS);
  history.add(echo, performance.now());
  return echo;
}

/** Echoes, and the largest size that is answered. */
async function measure(socket: EchoSocket, way: Way, count: number): Promise<void> {
  const { target, history } = way;
  const sent = Array.from({ length: count }, async (_, i) => {
    if (i > 0) await sleep(i * ECHO_SPACING_MS);
    return await ask(socket, way);
  });
  const echoes = await Promise.all(sent);
  const times = echoes.flatMap((it) => (it.kind === 'answered' ? [it.roundTripMs] : []));
  if (times.length === 0) {
    history.pathMtuBytes = null;
    return;
  }
  const timeoutMs = Math.max(SIZE_TIMEOUT_MIN_MS, 4 * Math.max(...times));
  const fits = async (bytes: number): Promise<boolean> => {
    for (let i = 0; i < SIZE_TRIES; i++) {
      const { kind } = await socket.echo(target.address, bytes, timeoutMs);
      if (kind !== 'silent') return kind === 'answered';
    }
    return false;
  };
  history.pathMtuBytes = await largestThatFits(ECHO_BYTES, target.mtuBytes, fits);
}

const messagesOf = ({ ways }: Known): readonly LinkProbeMessage[] =>
  ways.map(({ target, history }) => history.message(target)).filter(({ sent }) => sent > 0);

type LinkState = 'well' | 'silent' | 'tunnelSilent' | 'lossy' | 'smallMtu';

/** The worst of a peer's ways; the underlay may keep its silence. */
export function stateOf(links: readonly LinkProbeMessage[]): LinkState {
  const inside = links.filter((it) => it.kind === 'overlay');
  if (links.length > 0 && links.every((it) => it.silent)) return 'silent';
  if (inside.some((it) => it.silent)) return 'tunnelSilent';
  if (inside.some((it) => it.received < it.sent)) return 'lossy';
  const isSmall = inside.some((it) => (it.pathMtuBytes ?? Infinity) < it.expectedMtuBytes);
  return isSmall ? 'smallMtu' : 'well';
}

export interface PeerProbesOptions {
  readonly view: () => ProbeView;
  /** By the lease's key. */
  readonly traffic: (key: string) => PeerTrafficMessage | null;
  /** Once when it begins, null when it is over: nothing can be asked. */
  readonly onProblem: (error: Error | null) => void;
  /** For tests. */
  readonly open?: (family: Family) => Promise<EchoSocket>;
}

type Sockets = ReadonlyMap<Family, EchoSocket>;

export class PeerProbes implements Disposable {
  readonly #options: PeerProbesOptions;
  readonly #known = new Map<string, Known>();
  readonly #ending = new AbortController();
  #problem: Error | null = null;
  /** All are being asked. */
  #round: Promise<void> | null = null;
  #watchedUntilMs = 0;
  #isWatched = false;

  constructor(options: PeerProbesOptions) {
    this.#options = options;
  }

  /** Each peer in turn, and each so often unless there are too many. */
  async run(everyMs: number, signal: AbortSignal): Promise<void> {
    let last = '';
    while (!signal.aborted) {
      const startMs = performance.now();
      const peers = this.#peers().toSorted((a, b) => (a.name < b.name ? -1 : 1));
      const next = peers.find((it) => it.name > last) ?? peers[0];
      last = next?.name ?? '';
      try {
        if (next !== undefined) await this.#probe([next], ECHOES);
      } catch (error) {
        this.#tell(error as Error);
      }
      const pauseMs = everyMs / Math.max(peers.length, 1) - (performance.now() - startMs);
      // Between two peers only: at the start there may be none for a moment.
      const waitMs = peers.length === 0 ? 1_000 : Math.max(pauseMs, PAUSE_MIN_MS);
      try {
        await sleep(waitMs, undefined, { signal });
      } catch (error) {
        if (!signal.aborted) throw error;
      }
    }
  }

  /** What was before is forgotten. Who asks while all are being asked shares the answer. */
  async probeAll(): Promise<PeersMessage> {
    this.#round ??= this.#probeAnew().finally(() => (this.#round = null));
    await this.#round;
    return this.message();
  }

  async #probeAnew(): Promise<void> {
    const peers = this.#peers();
    for (const { ways } of this.#known.values()) for (const { history } of ways) history.clear();
    await this.#probe(peers, ECHOES_ASKED);
  }

  message(): PeersMessage {
    const { overlay, leases, nodeOf } = this.#options.view();
    const peers = new Map(overlay?.peers.map((it) => [it.name, it]));
    return {
      peers: leases.map((lease) => ({
        node: nodeOf(lease.key),
        lease,
        ...wayTo(peers.get(lease.key)),
        probe: this.#probeMessage(lease.key),
        traffic: this.#trafficOf(lease.key, peers.get(lease.key)),
      })),
      problem: this.#problem?.message ?? null,
    };
  }

  #probeMessage(key: string): PeerMessage['probe'] {
    const known = this.#known.get(key);
    if (known === undefined || known.time === null) return null;
    return { time: known.time, links: messagesOf(known) };
  }

  #trafficOf(key: string, peer: Peer | undefined): PeerTrafficMessage | null {
    if (peer === undefined) return null;
    const isDirect =
      (peer.subnet4 === null || peer.direct4) && (peer.subnet6 === null || peer.direct6);
    return isDirect ? null : this.#options.traffic(key);
  }

  /** For who looks at the page: for a while now, peers are asked sooner. */
  links(): readonly LinkMessage[] {
    this.#watchedUntilMs = performance.now() + WATCHED_MS;
    if (!this.#isWatched) void this.#watch();
    return this.#peers().map((peer) => {
      const known = this.#known.get(peer.name);
      const probes = known === undefined ? [] : messagesOf(known);
      return linkOf(peer.name, probes, this.#trafficOf(peer.name, peer));
    });
  }

  async #watch(): Promise<void> {
    this.#isWatched = true;
    while (performance.now() < this.#watchedUntilMs && !this.#ending.signal.aborted) {
      try {
        await this.#pass();
      } catch (error) {
        this.#tell(error as Error);
        await this.#pause(WATCHED_EVERY_MS);
      }
    }
    this.#isWatched = false;
  }

  /** Each peer once, each way with one echo; one peer after the other, whether they answer or not. */
  async #pass(): Promise<void> {
    const view = this.#options.view();
    const peers = this.#peers();
    using opened = await this.#open(peers, view);
    const asked: Promise<void>[] = [];
    const pauseMs = Math.max(WATCHED_EVERY_MS / Math.max(peers.length, 1), WATCHED_PAUSE_MS);
    for (const peer of peers) {
      asked.push(this.#askOnce(peer, view, opened.sockets));
      await this.#pause(pauseMs);
      if (this.#ending.signal.aborted) return;
    }
    if (peers.length === 0) await this.#pause(WATCHED_EVERY_MS);
    await Promise.all(asked);
  }

  async #askOnce(peer: Peer, view: ProbeView, sockets: Sockets): Promise<void> {
    const known = this.#knownOf(peer, view, sockets);
    await Promise.all(
      known.ways.map((way) => ask(sockets.get(familyOf(way.target.address))!, way)),
    );
    known.time = new Date().toISOString();
  }

  async #pause(ms: number): Promise<void> {
    const { signal } = this.#ending;
    try {
      await sleep(ms, undefined, { signal, ref: false });
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  /** What of it an operator must know. */
  findings(): StatusMessage['probes'] {
    const states = [...this.#known].map(
      ([key, known]) => [key, stateOf(messagesOf(known))] as const,
    );
    const of = (wanted: LinkState): readonly string[] =>
      states.flatMap(([key, state]) => (state === wanted ? [key] : []));
    return {
      problem: this.#problem?.message ?? null,
      silent: of('silent'),
      tunnelSilent: of('tunnelSilent'),
      lossy: of('lossy'),
      smallMtu: of('smallMtu'),
    };
  }

  /** Of each way to each peer that was asked, for metrics. */
  readings(): readonly PeerProbe[] {
    const { nodeOf } = this.#options.view();
    return [...this.#known].flatMap(([key, known]) =>
      messagesOf(known).map(({ kind, address, sent, received, avgMs }) => ({
        node: nodeOf(key),
        way: kind,
        family: familyOf(parseAddress(address)),
        roundTripMs: avgMs,
        lossRatio: 1 - received / sent,
      })),
    );
  }

  routes(): readonly ApiRoute[] {
    return [
      { method: 'GET', path: '/v1/peers', answer: () => this.message() },
      { method: 'POST', path: '/v1/peers/probe', answer: () => this.probeAll() },
    ];
  }

  #peers(): readonly Peer[] {
    const peers = this.#options.view().overlay?.peers ?? [];
    const names = new Set(peers.map((it) => it.name));
    for (const name of this.#known.keys()) if (!names.has(name)) this.#known.delete(name);
    return peers;
  }

  /** Its ways as they are now; what is known of those that were there before stays. */
  #knownOf(peer: Peer, view: ProbeView, sockets: Sockets): Known {
    const known = this.#known.get(peer.name) ?? { time: null, ways: [] };
    known.ways = targetsOf(peer, view)
      .filter(({ address }) => sockets.has(familyOf(address)))
      .map((target) => {
        const before = known.ways.find(
          (it) => it.target.kind === target.kind && it.target.address === target.address,
        );
        return { target, history: before?.history ?? new EchoHistory() };
      });
    this.#known.set(peer.name, known);
    return known;
  }

  /** Those of the families that these peers have; what keeps one from being opened is told. */
  async #open(
    peers: readonly Peer[],
    view: ProbeView,
  ): Promise<Disposable & { readonly sockets: Sockets }> {
    const open = this.#options.open ?? openEcho;
    const opened = new DisposableStack();
    const sockets = new Map<Family, EchoSocket>();
    let problem: Error | null = null;
    const families = new Set(
      peers.flatMap((it) => targetsOf(it, view).map(({ address }) => familyOf(address))),
    );
    for (const family of families) {
      try {
        sockets.set(family, opened.use(await open(family)));
      } catch (error) {
        problem = error as Error;
      }
    }
    this.#tell(problem);
    return { sockets, [Symbol.dispose]: () => opened.dispose() };
  }

  async #probe(peers: readonly Peer[], echoes: number): Promise<void> {
    const view = this.#options.view();
    using opened = await this.#open(peers, view);
    const { sockets } = opened;
    const waiting = [...peers];
    const work = async (): Promise<void> => {
      for (let peer = waiting.shift(); peer !== undefined; peer = waiting.shift()) {
        const known = this.#knownOf(peer, view, sockets);
        await Promise.all(
          known.ways.map((way) => measure(sockets.get(familyOf(way.target.address))!, way, echoes)),
        );
        known.time = new Date().toISOString();
      }
    };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, peers.length) }, work));
  }

  #tell(problem: Error | null): void {
    if (problem?.message !== this.#problem?.message) this.#options.onProblem(problem);
    this.#problem = problem;
  }

  [Symbol.dispose](): void {
    this.#ending.abort();
  }
}

function wayTo(peer: Peer | undefined): Omit<PeerMessage, 'node' | 'lease' | 'probe' | 'traffic'> {
  const hops = [peer?.nextHop4, peer?.nextHop6].filter((it) => it !== null && it !== undefined);
  // Zero: there is no way.
  const mtus = hops.map((it) => pathMtuBytes(it.address)).filter((it) => it > 0);
  return {
    nextHop: addressText(peer?.nextHop4?.address ?? null),
    nextHopV6: addressText(peer?.nextHop6?.address ?? null),
    direct: peer !== undefined && (peer.direct4 || peer.direct6),
    pathMtuBytes: mtus.length === 0 ? null : Math.min(...mtus),
  };
}
