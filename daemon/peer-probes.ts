/**
 * Do the other nodes answer, how soon, and up to which size: by ICMP echo, to their own addresses (the
 * underlay) and through the tunnel to `.0` of their subnets (the overlay), which their kernels answer. One peer
 * at a time, slowly; all at once when somebody asks.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Echo, type EchoSocket, largestThatFits, openEcho } from '../linux/echo.ts';
import { pathMtuBytes } from '../linux/udp.ts';
import type { OverlayState, Peer } from '../overlay/types.ts';
import {
  type Family,
  type IpAddress,
  familyOf,
  formatAddress,
  parseAddress,
} from '../wire/address.ts';
import type { ApiRoute } from './api.ts';
import {
  type LeaseMessage,
  type LinkProbeMessage,
  type PeerMessage,
  type PeerProbeMessage,
  type PeersMessage,
  type StatusMessage,
  addressText,
} from './messages.ts';
import type { PeerProbe } from './metrics.ts';

const ECHOES = 5;
const ECHO_BYTES = 64;
const ECHO_SPACING_MS = 20;
const ECHO_TIMEOUT_MS = 1_000;
/** A size is given up when so many echoes of it stay without answer. */
const SIZE_TRIES = 2;
const SIZE_TIMEOUT_MIN_MS = 100;
const PAUSE_MIN_MS = 100;
/** When somebody asks for all of them. */
const AT_ONCE = 16;

export interface Target {
  readonly kind: 'underlay' | 'overlay';
  readonly address: IpAddress;
  /** Packets up to this size are expected to pass. */
  readonly mtuBytes: number;
}

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

const rounded = (ms: number): number => Math.round(ms * 1000) / 1000;

/** From what the echoes of one size have become. */
export function summarize(
  { kind, address, mtuBytes }: Target,
  echoes: readonly Echo[],
): LinkProbeMessage {
  const times = echoes.flatMap((it) => (it.kind === 'answered' ? [it.roundTripMs] : []));
  const refusal = echoes.find((it) => it.kind === 'refused');
  const isSilent = times.length === 0;
  return {
    kind,
    address: formatAddress(address),
    sent: echoes.length,
    received: times.length,
    minMs: isSilent ? null : rounded(Math.min(...times)),
    avgMs: isSilent ? null : rounded(times.reduce((sum, it) => sum + it, 0) / times.length),
    maxMs: isSilent ? null : rounded(Math.max(...times)),
    pathMtuBytes: null,
    expectedMtuBytes: mtuBytes,
    problem: refusal?.reason ?? null,
  };
}

/** @throws nothing: what goes wrong is in the message */
export async function probeTarget(socket: EchoSocket, target: Target): Promise<LinkProbeMessage> {
  const sent = Array.from({ length: ECHOES }, async (_, i) => {
    if (i > 0) await sleep(i * ECHO_SPACING_MS);
    return await socket.echo(target.address, ECHO_BYTES, ECHO_TIMEOUT_MS);
  });
  const summary = summarize(target, await Promise.all(sent));
  if (summary.maxMs === null) return summary;
  const timeoutMs = Math.max(SIZE_TIMEOUT_MIN_MS, 4 * summary.maxMs);
  const fits = async (bytes: number): Promise<boolean> => {
    for (let i = 0; i < SIZE_TRIES; i++) {
      const { kind } = await socket.echo(target.address, bytes, timeoutMs);
      if (kind !== 'silent') return kind === 'answered';
    }
    return false;
  };
  return { ...summary, pathMtuBytes: await largestThatFits(ECHO_BYTES, target.mtuBytes, fits) };
}

type LinkState = 'well' | 'silent' | 'tunnelSilent' | 'lossy' | 'smallMtu';

/** The worst of a peer's ways; the underlay may keep its silence. */
export function stateOf(links: readonly LinkProbeMessage[]): LinkState {
  const inside = links.filter((it) => it.kind === 'overlay');
  if (links.length > 0 && links.every((it) => it.received === 0)) return 'silent';
  if (inside.some((it) => it.received === 0)) return 'tunnelSilent';
  if (inside.some((it) => it.received < it.sent)) return 'lossy';
  const isSmall = inside.some((it) => (it.pathMtuBytes ?? Infinity) < it.expectedMtuBytes);
  return isSmall ? 'smallMtu' : 'well';
}

export interface PeerProbesOptions {
  readonly view: () => ProbeView;
  /** Once when it begins, null when it is over: nothing can be asked. */
  readonly onProblem: (error: Error | null) => void;
  /** For tests. */
  readonly open?: (family: Family) => Promise<EchoSocket>;
}

export class PeerProbes {
  readonly #options: PeerProbesOptions;
  readonly #last = new Map<string, PeerProbeMessage>();
  #problem: Error | null = null;
  /** All are being asked. */
  #round: Promise<void> | null = null;

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
        if (next !== undefined) await this.#probe([next]);
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

  /** Who asks while all are being asked shares the answer. */
  async probeAll(): Promise<PeersMessage> {
    this.#round ??= this.#probe(this.#peers()).finally(() => (this.#round = null));
    await this.#round;
    return this.message();
  }

  message(): PeersMessage {
    const { overlay, leases, nodeOf } = this.#options.view();
    const peers = new Map(overlay?.peers.map((it) => [it.name, it]));
    return {
      peers: leases.map((lease) =>
        peerMessage(lease, nodeOf(lease.key), peers.get(lease.key), this.#last.get(lease.key)),
      ),
      problem: this.#problem?.message ?? null,
    };
  }

  /** What of it an operator must know. */
  findings(): StatusMessage['probes'] {
    const of = (wanted: LinkState): readonly string[] =>
      [...this.#last].flatMap(([key, { links }]) => (stateOf(links) === wanted ? [key] : []));
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
    return [...this.#last].flatMap(([key, { links }]) =>
      links.map(({ kind, address, sent, received, avgMs }) => ({
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
    for (const name of this.#last.keys()) if (!names.has(name)) this.#last.delete(name);
    return peers;
  }

  async #probe(peers: readonly Peer[]): Promise<void> {
    const view = this.#options.view();
    const open = this.#options.open ?? openEcho;
    using sockets = new DisposableStack();
    const byFamily = new Map<Family, EchoSocket>();
    let problem: Error | null = null;
    const families = new Set(
      peers.flatMap((it) => targetsOf(it, view).map(({ address }) => familyOf(address))),
    );
    for (const family of families) {
      try {
        byFamily.set(family, sockets.use(await open(family)));
      } catch (error) {
        problem = error as Error;
      }
    }
    this.#tell(problem);
    const waiting = [...peers];
    const work = async (): Promise<void> => {
      for (let peer = waiting.shift(); peer !== undefined; peer = waiting.shift()) {
        const links = targetsOf(peer, view).flatMap((target) => {
          const socket = byFamily.get(familyOf(target.address));
          return socket === undefined ? [] : [probeTarget(socket, target)];
        });
        this.#last.set(peer.name, {
          time: new Date().toISOString(),
          links: await Promise.all(links),
        });
      }
    };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, peers.length) }, work));
  }

  #tell(problem: Error | null): void {
    if (problem?.message !== this.#problem?.message) this.#options.onProblem(problem);
    this.#problem = problem;
  }
}

function peerMessage(
  lease: LeaseMessage,
  node: string,
  peer: Peer | undefined,
  probe: PeerProbeMessage | undefined,
): PeerMessage {
  const hops = [peer?.nextHop4, peer?.nextHop6].filter((it) => it !== null && it !== undefined);
  // Zero: there is no way.
  const mtus = hops.map((it) => pathMtuBytes(it.address)).filter((it) => it > 0);
  const isDirect = peer !== undefined && (peer.direct4 || peer.direct6);
  return {
    node,
    lease,
    nextHop: addressText(peer?.nextHop4?.address ?? null),
    nextHopV6: addressText(peer?.nextHop6?.address ?? null),
    direct: isDirect,
    pathMtuBytes: mtus.length === 0 ? null : Math.min(...mtus),
    probe: probe ?? null,
  };
}
