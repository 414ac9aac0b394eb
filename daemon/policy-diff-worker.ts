/** Compares policies on a thread of its own: compiling for a whole cluster would keep the daemon from its pods. */
import { parentPort, workerData } from 'node:worker_threads';
import { type DiffTask, diffPolicies } from './policy-diff.ts';

parentPort?.postMessage(diffPolicies(workerData as DiffTask));
