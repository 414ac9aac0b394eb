/**
 * The thread around one loop. It is started before what it needs is there: it loads its modules, and the
 * first of them tries the offloads, while the daemon asks etcd for its lease. Its event loop does not
 * turn while packets are carried.
 */
import { once } from 'node:events';
import {
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  workerData,
} from 'node:worker_threads';
import {
  CONTROL_GENERATION,
  CONTROL_INSTALLED,
  CONTROL_SEEN,
  type LoopOptions,
  createLoop,
} from './loop.ts';
import { type ProbeOptions, probeOffloads } from './probe.ts';
import type { Snapshot } from './snapshot.ts';
import type { DataplaneEvent, Offloads } from './types.ts';

/** What a worker is told first: to try these offloads, or nothing. */
export interface WorkerTask {
  readonly probe: Omit<ProbeOptions, 'report'> | null;
}

/** What it is told next. */
export interface WorkerStart extends Omit<LoopOptions, 'onChange' | 'report'> {
  /** Snapshots arrive here; read between batches, without the event loop. */
  readonly snapshots: MessagePort;
  /** Its number, from 0. */
  readonly index: number;
}

export interface Probed {
  readonly kind: 'probed';
  readonly offloads: Offloads;
}

/** `ready` comes before the first packet: the worker is about to wait for them. */
export type WorkerMessage = DataplaneEvent | Probed | 'ready';

const report = (event: DataplaneEvent): void => parentPort!.postMessage(event);
const begin = once(parentPort!, 'message') as Promise<[WorkerStart]>;
const { probe } = workerData as WorkerTask;
if (probe !== null) {
  const offloads = probeOffloads({ ...probe, report });
  parentPort!.postMessage({ kind: 'probed', offloads } satisfies Probed);
}
const [{ snapshots, index, ...start }] = await begin;

const loop = createLoop({
  ...start,
  onChange: (install) => {
    const { control } = start;
    Atomics.store(control, CONTROL_SEEN + index, Atomics.load(control, CONTROL_GENERATION));
    // Several may have come since: only the last one counts.
    let last: Snapshot | undefined;
    for (;;) {
      const received: { message: Snapshot } | undefined = receiveMessageOnPort(snapshots);
      if (received === undefined) break;
      last = received.message;
    }
    if (last === undefined) return;
    install(last);
    // What it replaced may be written over from now on.
    Atomics.store(control, CONTROL_INSTALLED + index, last.generation);
  },
  report,
});
parentPort!.postMessage('ready' satisfies WorkerMessage);
loop.run();
snapshots.close();
