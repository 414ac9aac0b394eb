/**
 * Objects from the files of a directory, as an operator or a ConfigMap puts them there: *.yaml, *.yml and
 * *.json that are not hidden, in the order of their names, of two objects with one name the last. Links
 * are followed.
 *
 * A file is never believed while somebody writes it, and a slip widens nothing:
 *
 *     changed ──still for settleMs──> read ──nothing lost────────────────────────> counts
 *                                       └────an object lost ──still for graceMs──> counts
 *     gone ─────for graceMs────────────────────────────────────────────────────> its objects go
 *     empty, unreadable, not YAML, an object not valid ──> told; what was good of it stays
 *     a policy that never was valid ──> told; its stand-in counts
 *
 * @see fs.watch tells which of the directory's entries change, and those are looked at; the look at all of them
 *      every rereadEveryMs finds the rest.
 */
import { type FSWatcher, watch } from 'node:fs';
import { constants, open, readdir, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type ContentsEntry, readContents } from './contents.ts';
import { isIgnored } from './parse.ts';
import { withChanged, withKind } from './set.ts';
import {
  EMPTY_OBJECTS,
  type Kind,
  type ObjectProblem,
  type ObjectSet,
  type ObjectSource,
} from './types.ts';

export interface DirectoryTimes {
  /** A change counts when nothing has moved for as long as this. */
  readonly settleMs: number;
  /** The same, if objects would be lost by it. */
  readonly graceMs: number;
  /** What no event tells is seen within this. */
  readonly rereadEveryMs: number;
}

const TIMES: DirectoryTimes = { settleMs: 10, graceMs: 500, rereadEveryMs: 3000 };
/** A file that does not come to rest is told, and no longer waited for. */
const RESTLESS_MS = 5000;
/** So far may a file's time be behind the clock: a tick of most kernels. */
const TICK_MS = 4;
/**
 * Of the look at all, so many together and then a pause: a change does not wait for a thousand others. More
 * together, if there were more pauses than LOOKS_MAX.
 */
const LOOKS_TOGETHER = 32;
const LOOKS_PAUSE_MS = 20;
const LOOKS_MAX = 100;
const MAX_FILE_BYTES = 64 * 1024 * 1024;

type Entries = ReadonlyMap<string, ContentsEntry>;
type Kinds = ReadonlyMap<Kind, readonly ContentsEntry[]>;

interface KnownFile {
  /** What `entries` were read from. */
  signature: string;
  entries: Entries;
  kinds: Kinds;
  problems: readonly ObjectProblem[];
  /** What the file looked like last, and since when; restless since. */
  seen: string;
  seenMs: number;
  restlessMs: number;
  /** When it was found missing. */
  goneMs: number | null;
}

/** @param onProblems  all that is wrong, whenever that changes; [] when nothing is any more */
export function directorySource(
  dir: string,
  onProblems: (problems: readonly ObjectProblem[]) => void,
  times: Partial<DirectoryTimes> = {},
): ObjectSource {
  return { watch: (signal) => follow(dir, onProblems, { ...TIMES, ...times }, signal) };
}

async function* follow(
  dir: string,
  onProblems: (problems: readonly ObjectProblem[]) => void,
  times: DirectoryTimes,
  signal: AbortSignal,
): AsyncGenerator<ObjectSet, void, undefined> {
  const files = new Files(dir, times, signal);
  using bell = new Bell(dir, times.settleMs, signal);
  let lastProblems = '[]';
  let last: ObjectSet | null = null;
  let allSeenMs = -Infinity;
  /** Of the look at all, what is still to come. */
  let rest: readonly string[] = [];
  let together = LOOKS_TOGETHER;
  while (!signal.aborted) {
    // Before the look, so that what changes during it rings again.
    let told = await bell.listen();
    // At the start nothing counts before all has been seen.
    if (last === null) told = null;
    const isDue = rest.length === 0 && performance.now() - allSeenMs >= times.rereadEveryMs;
    if (told === null || isDue) {
      allSeenMs = performance.now();
      rest = told === null ? [] : ((await files.list()) ?? []);
      together = Math.max(LOOKS_TOGETHER, Math.ceil(rest.length / LOOKS_MAX));
    }
    const some = rest.slice(0, together);
    rest = rest.slice(together);
    const { waitMs, complete } = await files.look(told && new Set([...told, ...some]));
    const problems = files.problems();
    const text = JSON.stringify(problems);
    if (text !== lastProblems) onProblems(problems);
    lastProblems = text;
    if (last !== null || complete) {
      const set = files.set();
      if (set !== last && !signal.aborted) {
        last = set;
        yield set;
      }
    }
    const dueInMs =
      rest.length > 0 ? LOOKS_PAUSE_MS : allSeenMs + times.rereadEveryMs - performance.now();
    await bell.rings(Math.max(Math.min(waitMs, dueInMs), 0));
  }
}

/** Rings when an entry of the directory changes, as far as the kernel tells. */
class Bell {
  readonly #dir: string;
  readonly #settleMs: number;
  readonly #signal: AbortSignal;
  #watcher: FSWatcher | null = null;
  /** Which directory is watched: another may stand in its place. */
  #inode = '';
  /** When it rang first since somebody listened; null: not yet. */
  #rungMs: number | null = null;
  /** Names that rang since somebody listened; null: any may have. */
  #told: Set<string> | null = null;
  #wake: (() => void) | null = null;

  constructor(dir: string, settleMs: number, signal: AbortSignal) {
    this.#dir = dir;
    this.#settleMs = settleMs;
    this.#signal = signal;
  }

  /** @returns what has changed since the last call, as far as was told; null: it may be anything */
  async listen(): Promise<ReadonlySet<string> | null> {
    const told = this.#told;
    this.#told = new Set();
    this.#rungMs = null;
    const inode = await stat(this.#dir, { bigint: true }).then(
      (it) => `${it.dev}:${it.ino}`,
      // The look that follows says so.
      () => '',
    );
    if (this.#watcher !== null && inode === this.#inode) return told;
    this.#stop();
    this.#inode = inode;
    if (inode === '') return null;
    try {
      const watcher = watch(this.#dir, { persistent: false }, (_, name) => this.#ring(name));
      this.#watcher = watcher;
      watcher.on('error', () => this.#stop());
    } catch {
      // Gone this moment, or the kernel has no more watches to give: the next look does without.
      this.#stop();
    }
    return null;
  }

  /** Within `ms`, or when what rings first has been still for settleMs, or when the signal is aborted. */
  async rings(ms: number): Promise<void> {
    if (this.#signal.aborted) return;
    /** What rang while nobody waited has been still meanwhile. */
    const leftMs = (): number =>
      this.#rungMs === null
        ? ms
        : Math.min(ms, this.#rungMs + this.#settleMs + TICK_MS - performance.now());
    await new Promise<void>((resolve) => {
      const finish = (): void => {
        clearTimeout(timer);
        this.#signal.removeEventListener('abort', finish);
        this.#wake = null;
        resolve();
      };
      let timer = setTimeout(finish, leftMs());
      this.#signal.addEventListener('abort', finish, { once: true });
      this.#wake = () => {
        this.#wake = null;
        clearTimeout(timer);
        timer = setTimeout(finish, leftMs());
      };
    });
  }

  [Symbol.dispose](): void {
    this.#stop();
  }

  #ring(name: string | null): void {
    // Where a file is written before it is renamed into its place; `..data` is a ConfigMap's link.
    if (name !== null && isHidden(name)) return;
    if (name !== null && isWanted(name)) this.#told?.add(name);
    else this.#told = null;
    this.#rungMs ??= performance.now();
    this.#wake?.();
  }

  #stop(): void {
    this.#watcher?.close();
    this.#watcher = null;
  }
}

const isHidden = (name: string): boolean => /^\.(?!\.)/.test(name);
const isWanted = (name: string): boolean => /^[^.].*\.(ya?ml|json)$/.test(name);

const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error ? String(error.code) : String(error);

const signatureOf = (it: {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly size: bigint;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
}): string => [it.dev, it.ino, it.size, it.mtimeNs, it.ctimeNs].join(':');

class Files {
  readonly #dir: string;
  readonly #times: DirectoryTimes;
  readonly #signal: AbortSignal;
  readonly #known = new Map<string, KnownFile>();
  #dirProblem: ObjectProblem | null = null;
  #isListed = false;
  /** What was not still when it was looked at, or may be gone. */
  readonly #waiting = new Set<string>();
  readonly #twice = new Map<Kind, readonly ObjectProblem[]>();
  #set: ObjectSet = EMPTY_OBJECTS;
  /** Of these something was read or removed since `set` was made. */
  readonly #dirty = new Set<Kind>();
  /** Of the others: what has other contents since then, and its file. */
  readonly #changed = new Map<Kind, (readonly [string, ContentsEntry])[]>();
  /** The file whose object of a name counts. */
  readonly #owners = new Map<Kind, ReadonlyMap<string, string>>();

  constructor(dir: string, times: DirectoryTimes, signal: AbortSignal) {
    this.#dir = dir;
    this.#times = times;
    this.#signal = signal;
  }

  /**
   * @param told  names that may have changed; null: all
   * @returns when to look again at the latest, and whether every file has been read that can be
   */
  async look(
    told: ReadonlySet<string> | null,
  ): Promise<{ readonly waitMs: number; readonly complete: boolean }> {
    const names = told === null || !this.#isListed ? await this.list() : told;
    if (names === null) return { waitMs: Infinity, complete: false };
    let waitMs = Infinity;
    let complete = true;
    for (const name of new Set([...names, ...this.#waiting])) {
      const wait = await this.#lookAt(name);
      if (wait === 0) {
        this.#waiting.delete(name);
        continue;
      }
      this.#waiting.add(name);
      waitMs = Math.min(waitMs, wait);
      const known = this.#known.get(name);
      complete &&= known !== undefined && performance.now() - known.restlessMs > RESTLESS_MS;
    }
    return { waitMs, complete };
  }

  /** All there are, and those there were. */
  async list(): Promise<readonly string[] | null> {
    try {
      const names = (await readdir(this.#dir)).filter(isWanted);
      this.#dirProblem = null;
      this.#isListed = true;
      return [...new Set([...names, ...this.#known.keys()])];
    } catch (error) {
      const reason = `cannot be read (${codeOf(error)}); what was read of it before stays`;
      this.#dirProblem = { place: this.#dir, object: '', field: '', reason };
      this.#isListed = false;
      return null;
    }
  }

  problems(): readonly ObjectProblem[] {
    this.set();
    const ofFiles = this.#sorted().flatMap(([, { problems }]) => problems);
    const twice = [...this.#twice.values()].flat();
    return [...(this.#dirProblem === null ? [] : [this.#dirProblem]), ...ofFiles, ...twice];
  }

  set(): ObjectSet {
    for (const [kind, changed] of this.#changed) {
      if (this.#dirty.has(kind)) continue;
      const owners = this.#owners.get(kind);
      const counts = changed.filter(([file, { name }]) => owners?.get(name) === file);
      this.#set = withChanged(
        this.#set,
        kind,
        counts.map(([, { object }]) => object),
      );
    }
    this.#changed.clear();
    for (const kind of this.#dirty) {
      const owners = new Map<string, string>();
      const twice: ObjectProblem[] = [];
      const objects = this.#sorted().flatMap(([file, { kinds }]) =>
        (kinds.get(kind) ?? []).map(({ name, object }) => {
          const owner = owners.get(name);
          if (owner !== undefined) twice.push(repeated(owner, name, file));
          owners.set(name, file);
          return object;
        }),
      );
      this.#owners.set(kind, owners);
      this.#twice.set(kind, twice);
      this.#set = withKind(this.#set, kind, objects);
    }
    this.#dirty.clear();
    return this.#set;
  }

  #replace(name: string, file: KnownFile, entries: Entries): void {
    const kinds = Map.groupBy(entries.values(), ({ object }) => object.kind);
    for (const kind of new Set([...kinds.keys(), ...file.kinds.keys()])) {
      const now = kinds.get(kind) ?? [];
      const before = file.kinds.get(kind) ?? [];
      if (isSame(now, before)) continue;
      // Thousands of others of the kind stay as and where they are.
      if (!isSame(now.map(nameOfEntry), before.map(nameOfEntry))) this.#dirty.add(kind);
      else {
        const changed = now.filter((it, i) => it !== before[i]).map((it) => [name, it] as const);
        this.#changed.set(kind, [...(this.#changed.get(kind) ?? []), ...changed]);
      }
    }
    file.entries = entries;
    file.kinds = kinds;
  }

  #sorted(): readonly (readonly [string, KnownFile])[] {
    return [...this.#known].toSorted(([a], [b]) => (a < b ? -1 : 1));
  }

  /** @returns in how many milliseconds to look again; 0: it is as it is */
  async #lookAt(name: string): Promise<number> {
    const now = performance.now();
    const path = join(this.#dir, name);
    const known = this.#known.get(name);
    const status = await stat(path, { bigint: true }).catch((error: unknown) => codeOf(error));
    if (typeof status === 'string' && status !== 'ENOENT') {
      if (known !== undefined) known.signature = '';
      return this.#fail(name, `cannot be read (${status})`);
    }
    if (typeof status === 'string' || !status.isFile()) return this.#lookAtGone(name, now);

    const signature = signatureOf(status);
    if (known !== undefined) known.goneMs = null;
    if (known?.signature === signature) return 0;
    const file = known ?? this.#add(name);
    if (file.seen !== signature) {
      if (file.seen === file.signature) file.restlessMs = now;
      file.seen = signature;
      file.seenMs = now;
    }
    // What was still before we came needs no second look.
    const ageMs = Date.now() - Number(status.ctimeNs / 1_000_000n);
    const { settleMs } = this.#times;
    const stillMs = Math.max(now - file.seenMs, ageMs - TICK_MS);
    if (stillMs < settleMs) {
      if (now - file.restlessMs > RESTLESS_MS) this.#fail(name, 'keeps changing; not read');
      return settleMs - stillMs;
    }
    return this.#read(name, file, path, stillMs);
  }

  #lookAtGone(name: string, now: number): number {
    const known = this.#known.get(name);
    if (known === undefined) return 0;
    known.goneMs ??= now;
    const leftMs = known.goneMs + this.#times.graceMs - now;
    if (leftMs > 0) return leftMs;
    this.#replace(name, known, new Map());
    this.#known.delete(name);
    return 0;
  }

  async #read(name: string, file: KnownFile, path: string, stillMs: number): Promise<number> {
    const read = await readText(path).catch((error: unknown) => ({ failure: codeOf(error) }));
    if ('failure' in read) {
      return this.#fail(name, `cannot be read (${read.failure})`);
    }
    // Somebody wrote meanwhile.
    if (read.signature !== file.seen) return this.#times.settleMs;
    const { text } = read;
    const place = basename(path);
    if (text === null || (text.trim() === '' && file.entries.size > 0)) {
      file.signature = file.seen;
      return this.#fail(name, text === null ? read.reason : 'is empty; remove it if that is meant');
    }
    const contents = await readContents(text, place, this.#signal);
    if (this.#signal.aborted) return 0;
    const { problems, unidentified } = contents;
    const entries = new Map<string, ContentsEntry>();
    const told = [...problems];
    for (const entry of contents.entries) {
      const { name: key, digest } = entry;
      const before = file.entries.get(key);
      if (entries.has(key)) told.push(repeated(place, key, place));
      entries.set(key, before?.digest === digest ? before : entry);
    }
    const wrong = new Set(problems.filter((it) => !isIgnored(it)).map(({ object }) => object));
    for (const entry of contents.standIns) {
      const { name: key } = entry;
      const isNew = (file.entries.get(key)?.digest ?? '') === '' && !entries.has(key);
      if (isNew) entries.set(key, entry);
    }
    let lost = false;
    for (const [key, entry] of file.entries) {
      if (entries.has(key)) continue;
      if (unidentified || wrong.has(key)) entries.set(key, entry);
      else lost = true;
    }
    if (lost && stillMs < this.#times.graceMs) return this.#times.graceMs - stillMs;
    file.signature = file.seen;
    file.problems = told;
    this.#replace(name, file, entries);
    return 0;
  }

  #add(name: string): KnownFile {
    const now = performance.now();
    const file: KnownFile = {
      signature: '',
      entries: new Map(),
      kinds: new Map(),
      problems: [],
      seen: '',
      seenMs: now,
      restlessMs: now,
      goneMs: null,
    };
    this.#known.set(name, file);
    return file;
  }

  /** What was good of it stays. */
  #fail(name: string, reason: string): number {
    const file = this.#known.get(name) ?? this.#add(name);
    const stays = file.entries.size > 0 ? '; what was good of it before stays' : '';
    file.problems = [{ place: name, object: '', field: '', reason: `${reason}${stays}` }];
    return 0;
  }
}

const nameOfEntry = ({ name }: ContentsEntry): string => name;

const isSame = (a: readonly unknown[] = [], b: readonly unknown[] = []): boolean =>
  a.length === b.length && a.every((it, i) => it === b[i]);

const repeated = (place: string, object: string, other: string): ObjectProblem => ({
  place,
  object,
  field: '',
  reason: `stands in ${other} again, and there it counts`,
});

/** Null: `reason` says why it is none. */
async function readText(
  path: string,
): Promise<{ text: string | null; reason: string; signature: string }> {
  // A pipe that was put in its place would never open.
  await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const status = await file.stat({ bigint: true });
  const refuse = (reason: string) => ({ text: null, reason, signature: signatureOf(status) });
  if (!status.isFile()) return refuse('is no file');
  if (status.size > MAX_FILE_BYTES) return refuse(`is larger than ${MAX_FILE_BYTES} bytes`);
  const bytes = await file.readFile();
  const signature = signatureOf(await file.stat({ bigint: true }));
  try {
    return { text: new TextDecoder('utf-8', { fatal: true }).decode(bytes), reason: '', signature };
  } catch {
    return { ...refuse('is not UTF-8'), signature };
  }
}
