/**
 * The packet path as the daemon sees it: opens the device and the sockets, starts one thread per queue,
 * publishes state to them, and sums what they count.
 */
import { closeSync, readFileSync, writeSync } from 'node:fs';
import { MessageChannel, Worker } from 'node:worker_threads';
import { bootTimeMs } from '../linux/clock.ts';
import { SystemCallError } from '../linux/errno.ts';
import { errno, eventfd } from '../linux/libc.ts';
import { type TunnelTap, openTun, openTunnelTap, setUp } from '../linux/tun.ts';
import {
  type BoundSocket,
  enableGro,
  openReceiver,
  openSender,
  pathMtuBytes,
  socketDrops,
} from '../linux/udp.ts';
import { type IpAddress, familyOf } from '../wire/address.ts';
import { createCounters, sumCounters, sumDropsIn } from './counters.ts';
import {
  type FlowMemory,
  closeFlowMemory,
  flowStats,
  openFlowMemory,
  collapseFlows,
  sweepFlows,
} from './flow-memory.ts';
import {
  CONTROL_GENERATION,
  CONTROL_INSTALLED,
  CONTROL_NO_TUNNEL,
  CONTROL_SEEN,
  CONTROL_STOP,
  CONTROL_WORDS,
  type SendingSockets,
} from './loop.ts';
import { type ProbeOptions, acceptLocalSources, tunnelTapName } from './probe.ts';
import {
  CAPTURE_SLOTS,
  createCaptureRing,
  endCaptureFilter,
  lostCaptures,
  readCaptures,
  setCaptureFilter,
} from './capture-ring.ts';
import { createEventRing, lostEvents, readEvents } from './event-ring.ts';
import { createPeerSlots } from './peer-slots.ts';
import { createSharedParts } from './shared-parts.ts';
import { type Snapshot, compileSnapshot, overheadBytes } from './snapshot.ts';
import type { Dataplane, DataplaneOptions, Offloads, OverlayState, Peer } from './types.ts';
import type { WorkerMessage, WorkerStart, WorkerTask } from './worker.ts';

/** Outer source ports of one worker and family: enough for a receiver's queues to share the load. */
const SOURCE_PORTS = 4;
/** So many peers' path MTUs are looked up, so often: 10 us each. */
const PATH_MTU_PEERS = 16;
const PATH_MTU_INTERVAL_MS = 250;
/** The whole flow table is looked through for what has expired in so many turns of a second each. */
const SWEEP_TURNS = 30;
const SWEEP_INTERVAL_MS = 1000;
/** A worker that answers is asked again for a sign of life no sooner than this. */
const ASK_AGAIN_MS = 1000;
const EFD_NONBLOCK = 0o4000;
const EFD_CLOEXEC = 0o2000000;

interface Thread {
  readonly worker: Worker;
  readonly ready: Promise<void>;
  readonly exited: Promise<void>;
  /** Where its events go. */
  report: DataplaneOptions['report'];
}

/** Threads that have loaded their code and tried the offloads, or are about to. */
export interface PreparedDataplane extends AsyncDisposable {
  /**
   * Once, with the options of the preparation; an underlay address may be left out.
   * @throws SystemCallError when the TUN or a socket cannot be had; nothing is left open then
   */
  start(options: DataplaneOptions): Promise<Dataplane>;
}

export function prepareDataplane(
  options: ProbeOptions & Pick<DataplaneOptions, 'workers'>,
): PreparedDataplane {
  const { tunName, underlay4, underlay6, offloads, report } = options;
  const probe = { tunName, underlay4, underlay6, offloads };
  const probed = Promise.withResolvers<Offloads>();
  probed.promise.catch(() => 'told by start');
  const threads = Array.from({ length: options.workers }, (_, index) =>
    createThread(index, { probe: index === 0 ? probe : null }, report, probed),
  );
  let started = false;
  return {
    async start(asked) {
      started = true;
      const fds: number[] = [];
      try {
        const found = await probed.promise;
        const tunnelGso = found.tunnelGso && asked.underlay4 !== null;
        return await open(asked, { ...found, tunnelGso }, fds, threads);
      } catch (error) {
        for (const fd of fds) closeSync(fd);
        for (const { worker } of threads) await worker.terminate();
        throw error;
      }
    },
    async [Symbol.asyncDispose]() {
      if (!started) for (const { worker } of threads) await worker.terminate();
    },
  };
}

export const startDataplane = (options: DataplaneOptions): Promise<Dataplane> =>
  prepareDataplane(options).start(options);

async function open(
  asked: DataplaneOptions,
  wanted: Offloads,
  fds: number[],
  threads: readonly Thread[],
): Promise<Dataplane> {
  const inUse = { ...wanted };
  let last: OverlayState | null = null;
  const pathMtus = createPathMtus(asked.report);
  const options: DataplaneOptions = {
    ...asked,
    report: (event) => {
      if (event.kind === 'path-mtu') {
        // One worker has met it: look now, and tell the others.
        if (last !== null && pathMtus.learn(last, event.peer)) publish(last);
        return;
      }
      if (event.kind === 'offload-off') inUse[event.offload] = false;
      asked.report(event);
    },
  };
  const { workers, port } = options;
  const tun = openTun({
    name: options.tunName,
    queues: workers,
    vnetHeader: wanted.tunTso,
    tso: wanted.tunTso,
    uso: wanted.tunUso,
    persist: true,
  });
  fds.push(...tun.fds);
  const offloads: Offloads = { ...wanted, tunTso: tun.tso, tunUso: tun.uso };
  Object.assign(inUse, offloads);
  const receiverFds: number[] = [];
  const receiver = (address: IpAddress | null): number | null => {
    if (address === null) return null;
    const fd = openReceiver(address, port, workers > 1);
    fds.push(fd);
    receiverFds.push(fd);
    if (offloads.udpGro) enableGro(fd);
    return fd;
  };
  const sender = (address: IpAddress, mayFragment: boolean): BoundSocket => {
    const opened = openSender(address, mayFragment);
    fds.push(opened.fd);
    return opened;
  };
  const senders = (address: IpAddress | null): SendingSockets | null =>
    address === null
      ? null
      : {
          flows: Array.from({ length: SOURCE_PORTS }, () => sender(address, false)),
          fragmenting: sender(address, true),
        };
  const flows =
    options.flows === null
      ? null
      : {
          memory: openFlowMemory(options.flows.path, options.flows.maxFlows),
          loose: options.flows.loose,
        };
  const tap = wanted.tunnelGso ? openTap(options) : null;
  fds.push(...(tap?.fds ?? []));
  const starts = tun.fds.map(
    (tunFd, index): Omit<WorkerStart, 'index' | 'control' | 'snapshots'> => {
      const wakeFd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
      if (wakeFd < 0) throw new SystemCallError('creating an eventfd', errno());
      fds.push(wakeFd);
      return {
        tunFd,
        receiver4: receiver(options.underlay4),
        receiver6: receiver(options.underlay6),
        senders4: senders(options.underlay4),
        senders6: senders(options.underlay6),
        tunnel:
          tap === null
            ? null
            : {
                tapFd: tap.fds[index]!,
                macHigh: tap.macHigh,
                macLow: tap.macLow,
                source: options.underlay4!,
              },
        wakeFd,
        port,
        offloads,
        counters: createCounters(),
        events: options.events ? createEventRing() : null,
        captures: createCaptureRing(),
        flows,
      };
    },
  );
  const control = new Int32Array(new SharedArrayBuffer(CONTROL_WORDS * 4));
  const wakeFds = starts.map(({ wakeFd }) => wakeFd);
  const snapshotPorts = starts.map((start, index) => {
    const { port1, port2 } = new MessageChannel();
    const thread = threads[index]!;
    thread.report = options.report;
    const message: WorkerStart = { ...start, index, control, snapshots: port2 };
    thread.worker.postMessage(message, [port2]);
    return port1;
  });
  await Promise.all(threads.map(({ ready }) => ready));
  const tunDropsBefore = deviceDrops(options.tunName);
  let generation = 0;
  const installed = (): number =>
    starts.reduce(
      (least, _, index) => Math.min(least, Atomics.load(control, CONTROL_INSTALLED + index)),
      Infinity,
    );
  const parts = createSharedParts(installed);
  const peerSlots = createPeerSlots(
    starts.map(({ counters }) => counters),
    installed,
  );
  const inSharedMemory = ({ policy, services, ...rest }: Snapshot): Snapshot => ({
    ...parts.place('rest', rest, rest.generation),
    policy: parts.place('policy', policy, rest.generation),
    services: parts.place('services', services, rest.generation),
  });

  const announce = (): void => {
    Atomics.add(control, CONTROL_GENERATION, 1);
    for (const wakeFd of wakeFds) writeSync(wakeFd, Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]));
  };
  const publish = (state: OverlayState): void => {
    const next = generation + 1;
    const slots = peerSlots.assign(namesOf(state), next);
    const snapshot = inSharedMemory(compileSnapshot(state, port, next, pathMtus.of, slots));
    generation = next;
    last = state;
    for (const port of snapshotPorts) port.postMessage(snapshot);
    announce();
  };
  let question = { generation: 0, askedMs: -Infinity };
  const silentMs = (): number => {
    const nowMs = bootTimeMs();
    const { generation, askedMs } = question;
    const hasSeen = (_: unknown, index: number): boolean =>
      Atomics.load(control, CONTROL_SEEN + index) >= generation;
    if (!starts.every(hasSeen)) return nowMs - askedMs;
    if (nowMs - askedMs >= ASK_AGAIN_MS) {
      announce();
      question = { generation: Atomics.load(control, CONTROL_GENERATION), askedMs: nowMs };
    }
    return 0;
  };
  const watchPathMtus = setInterval(() => {
    if (last !== null && pathMtus.look(last)) publish(last);
  }, PATH_MTU_INTERVAL_MS);
  watchPathMtus.unref();
  const sweep = setInterval(() => {
    if (flows === null) return;
    sweepFlows(flows.memory, Math.ceil(flows.memory.maxFlows / SWEEP_TURNS));
    collapseFlows(flows.memory);
  }, SWEEP_INTERVAL_MS);
  sweep.unref();

  return {
    offloads: inUse,
    publish,
    withdrawTunnelGso: (reason) => {
      if (!offloads.tunnelGso || Atomics.exchange(control, CONTROL_NO_TUNNEL, 1) === 1) return;
      announce();
      options.report({ kind: 'offload-off', offload: 'tunnelGso', reason });
    },
    counters: () => ({
      ...sumCounters(starts.map(({ counters }) => counters)),
      ...(flows === null ? {} : flowCounters(flows.memory)),
      'drop.receiveQueueFull': receiverFds.reduce((sum, fd) => sum + socketDrops(fd), 0),
      'drop.tunQueueFull': deviceDrops(options.tunName) - tunDropsBefore,
    }),
    dropsIn: () => sumDropsIn(starts.map(({ counters }) => counters)),
    peerTraffic: () => peerSlots.traffic(last === null ? [] : namesOf(last)),
    generations: () => ({ published: generation, installed: installed() }),
    silentMs,
    readEvents: (take) => {
      let lost = 0;
      for (const { events } of starts) {
        if (events === null) continue;
        readEvents(events, (at) => take(events, at));
        lost += lostEvents(events);
      }
      return lost;
    },
    captures: {
      slots: CAPTURE_SLOTS,
      begin: (slot, filter) => {
        for (const { captures } of starts) setCaptureFilter(captures!, slot, filter);
      },
      end: (slot) => {
        for (const { captures } of starts) endCaptureFilter(captures!, slot);
      },
      read: (bytesMax, take) => {
        for (const { captures } of starts) {
          readCaptures(captures!, bytesMax, (at) => take(captures!, at));
        }
      },
      lost: (slot) => starts.reduce((sum, { captures }) => sum + lostCaptures(captures!, slot), 0),
    },
    stop: async () => {
      clearInterval(watchPathMtus);
      clearInterval(sweep);
      Atomics.store(control, CONTROL_STOP, 1);
      announce();
      await Promise.all(threads.map(({ exited }) => exited));
      for (const fd of fds) closeSync(fd);
      if (flows !== null) closeFlowMemory(flows.memory);
    },
  };
}

const namesOf = ({ peers }: OverlayState): readonly string[] => peers.map(({ name }) => name);

/** Flows that are known now, and what became of others since the start. */
function flowCounters(memory: FlowMemory): Record<string, number> {
  const { flows, inserted, evicted, expired } = flowStats(memory);
  return {
    flows,
    'flows.new': inserted,
    'flows.evicted': evicted,
    'flows.expired': expired,
  };
}

function openTap(options: DataplaneOptions): TunnelTap {
  const name = tunnelTapName(options.tunName);
  const tap = openTunnelTap(name, options.workers);
  acceptLocalSources(name);
  setUp(name);
  return tap;
}

function createThread(
  index: number,
  task: WorkerTask,
  report: DataplaneOptions['report'],
  probed: PromiseWithResolvers<Offloads>,
): Thread {
  const worker = new Worker(new URL('worker.ts', import.meta.url), {
    workerData: task,
    name: `weft-queue-${index}`,
    // Carrying packets allocates nothing.
    resourceLimits: { maxYoungGenerationSizeMb: 3 },
    // Ours come from system calls that Node.js does not see.
    trackUnmanagedFds: false,
  });
  const { promise: ready, resolve: isReady, reject: failed } = Promise.withResolvers<void>();
  ready.catch(() => 'told by start, and as an event');
  const exited = new Promise<void>((resolve) => {
    worker.once('exit', () => resolve());
  });
  const thread: Thread = { worker, ready, exited, report };
  worker.on('message', (message: WorkerMessage) => {
    if (message === 'ready') isReady();
    else if (message.kind === 'probed') probed.resolve(message.offloads);
    else thread.report(message);
  });
  worker.on('error', (thrown) => {
    const error = thrown instanceof Error ? thrown : new Error(String(thrown));
    failed(error);
    probed.reject(error);
    thread.report({ kind: 'worker-failed', worker: index, error });
  });
  return thread;
}

interface PathMtus {
  /** Largest inner packet to an underlay address that is known to be smaller than the TUN's. */
  readonly of: (address: IpAddress) => number;
  /** Asks the kernel about the next few peers. @returns true when something has changed */
  readonly look: (state: OverlayState) => boolean;
  /** The same about one peer, by its name. */
  readonly learn: (state: OverlayState, name: string) => boolean;
}

/**
 * Path MTUs towards peers, as the kernel learns them from routers (RFC 1191, RFC 8201) and forgets them
 * again. A worker whose send is refused learns one at once; a packet that goes by the tunnel TAP is
 * refused by nobody on this host, so the kernel is asked as well.
 */
function createPathMtus(report: DataplaneOptions['report']): PathMtus {
  const known = new Map<IpAddress, number>();
  let next = 0;

  function ask({ name, addresses }: Peer, mtuBytes: number): boolean {
    let changed = false;
    for (const address of addresses) {
      const inner = pathMtuBytes(address) - overheadBytes(familyOf(address));
      if (inner > 0 && inner < mtuBytes) {
        if (known.get(address) === inner) continue;
        known.set(address, inner);
        report({ kind: 'path-mtu', peer: name, mtuBytes: inner });
        changed = true;
      } else if (known.delete(address)) {
        changed = true;
      }
    }
    return changed;
  }

  return {
    of: (address) => known.get(address) ?? Infinity,
    look: ({ peers, mtuBytes }) => {
      let changed = false;
      for (let i = 0; i < Math.min(PATH_MTU_PEERS, peers.length); i++) {
        if (ask(peers[next++ % peers.length]!, mtuBytes)) changed = true;
      }
      return changed;
    },
    learn: ({ peers, mtuBytes }, name) => {
      const peer = peers.find((it) => it.name === name);
      return peer !== undefined && ask(peer, mtuBytes);
    },
  };
}

/** Packets the kernel dropped before a worker read them: the queue of the TUN was full (/proc/net/dev). */
function deviceDrops(name: string): number {
  for (const line of readFileSync('/proc/self/net/dev', 'utf8').split('\n')) {
    const [device, columns] = line.split(':', 2);
    // Eight columns of receipt, then bytes, packets, errors and drops of sending.
    if (device?.trim() === name) return Number(columns!.trim().split(/\s+/)[11]);
  }
  return 0;
}
