/**
 * What a file of objects says. A small one is read where it is asked for; a large one by a thread of its
 * own that ends with it, so that leases and pods do not wait for a parser, and what the parser needed
 * is given back.
 */
import { hash } from 'node:crypto';
import { Worker } from 'node:worker_threads';
import { parseEach } from './parse.ts';
import { type ObjectProblem, type WeftObject, describeObject } from './types.ts';

export interface ContentsEntry {
  /** As describeObject says it. */
  readonly name: string;
  readonly object: WeftObject;
  /** Of the document that it came from: equal digests, the same object. */
  readonly digest: string;
}

export interface Contents {
  readonly entries: readonly ContentsEntry[];
  /** In the place of policies that are not valid, and of which none was known before; without digests. */
  readonly standIns: readonly ContentsEntry[];
  readonly problems: readonly ObjectProblem[];
  /** Some text could not even be told whose it is: any object may be meant by it. */
  readonly unidentified: boolean;
}

/** Some ten milliseconds of YAML. */
const APART_FROM_CHARACTERS = 64 * 1024;

/** A thread that needs more, or does not end, is ended: one file must not take the node's memory. */
export interface ContentsLimits {
  readonly heapMib: number;
  readonly seconds: number;
}
const LIMITS: ContentsLimits = { heapMib: 1024, seconds: 60 };

export function contentsOf(text: string, place: string): Contents {
  const entries: ContentsEntry[] = [];
  const rest = contentsOfEach(text, place, (it) => entries.push(it));
  return { entries, ...rest };
}

/** The same, one object after the other. */
export function contentsOfEach(
  text: string,
  place: string,
  take: (entry: ContentsEntry) => void,
): Omit<Contents, 'entries'> {
  const { standIns, problems, unidentified } = parseEach(text, place, ({ object, raw }) =>
    take({
      name: describeObject(object),
      object,
      digest: hash('sha256', JSON.stringify(raw), 'base64'),
    }),
  );
  return {
    standIns: standIns.map((object) => ({ name: describeObject(object), object, digest: '' })),
    problems,
    unidentified,
  };
}

/**
 * @param place  what to call the file in problems
 * @param signal  aborted: nobody waits for the contents any more, and they are empty
 */
export function readContents(
  text: string,
  place: string,
  signal: AbortSignal,
  limits: ContentsLimits = LIMITS,
): Contents | Promise<Contents> {
  if (text.length < APART_FROM_CHARACTERS) return contentsOf(text, place);
  return readApart({ text, place }, signal, limits);
}

/** What the thread says: objects, some together, and then the rest. */
export type ContentsMessage = readonly ContentsEntry[] | Omit<Contents, 'entries'>;

const isEntries = (it: ContentsMessage): it is readonly ContentsEntry[] => Array.isArray(it);

/** What the thread is given. */
export interface ContentsTask {
  readonly text: string;
  readonly place: string;
}

async function readApart(
  task: ContentsTask,
  signal: AbortSignal,
  { heapMib, seconds }: ContentsLimits,
): Promise<Contents> {
  const worker = new Worker(new URL('contents-worker.ts', import.meta.url), {
    workerData: task,
    name: 'weft-objects',
    resourceLimits: { maxOldGenerationSizeMb: heapMib, maxYoungGenerationSizeMb: 32 },
  });
  const { promise, resolve } = Promise.withResolvers<Contents>();
  const refuse = (reason: string): void => {
    const problem = { place: task.place, object: '', field: '', reason };
    resolve({ entries: [], standIns: [], problems: [problem], unidentified: true });
  };
  const timer = setTimeout(() => refuse(`takes more than ${seconds} s to read`), seconds * 1000);
  const abort = (): void => refuse('is no longer wanted');
  signal.addEventListener('abort', abort, { once: true });
  if (signal.aborted) abort();
  const entries: ContentsEntry[] = [];
  worker.on('message', (message: ContentsMessage) => {
    if (isEntries(message)) entries.push(...message);
    else resolve({ entries, ...message });
  });
  worker.once('error', (error) => refuse(`cannot be read: ${String(error)}`));
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', abort);
    await worker.terminate();
  }
}
