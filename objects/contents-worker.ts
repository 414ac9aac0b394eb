/** The thread that reads one large file of objects. */
import { parentPort, workerData } from 'node:worker_threads';
import { type ContentsTask, contentsOf } from './contents.ts';

const { text, place } = workerData as ContentsTask;
parentPort!.postMessage(contentsOf(text, place));
