/** The thread around one loop. Its event loop does not turn while packets are carried. */
import {
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  workerData,
} from 'node:worker_threads';
import { type LoopOptions, createLoop } from './loop.ts';
import type { Snapshot } from './snapshot.ts';
import type { DataplaneEvent } from './types.ts';

export interface WorkerStart extends Omit<LoopOptions, 'onChange' | 'report'> {
  /** Snapshots arrive here; read between batches, without the event loop. */
  readonly snapshots: MessagePort;
}

/** `ready` comes first: the worker is about to wait for packets. */
export type WorkerMessage = DataplaneEvent | 'ready';

const { snapshots, ...start } = workerData as WorkerStart;

const loop = createLoop({
  ...start,
  onChange: (peers) => {
    // Several may have come since: only the last one counts.
    let last: Snapshot | undefined;
    for (;;) {
      const received: { message: Snapshot } | undefined = receiveMessageOnPort(snapshots);
      if (received === undefined) break;
      last = received.message;
    }
    if (last !== undefined) peers.install(last);
  },
  report: (event: DataplaneEvent) => parentPort?.postMessage(event),
});
parentPort?.postMessage('ready' satisfies WorkerMessage);
loop.run();
snapshots.close();
