/** The thread that reads one large file of objects. */
import { parentPort, workerData } from 'node:worker_threads';
import {
  type ContentsEntry,
  type ContentsMessage,
  type ContentsTask,
  contentsOfEach,
} from './contents.ts';

/** So many objects are some ten milliseconds' work for who takes them. */
const TOGETHER = 500;

const { text, place } = workerData as ContentsTask;
const post = (message: ContentsMessage): void => parentPort!.postMessage(message);
let entries: ContentsEntry[] = [];
const rest = contentsOfEach(text, place, (entry) => {
  if (entries.push(entry) < TOGETHER) return;
  post(entries);
  entries = [];
});
post(entries);
post(rest);
