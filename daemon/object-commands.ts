/** What `weft apply`, `weft get` and `weft delete` do: files in, questions to the daemon, lines out. */
import { readFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { text as readAll } from 'node:stream/consumers';
import { isDnsLabel, isDnsSubdomain } from '../objects/names.ts';
import { isIgnored, parseObjects } from '../objects/parse.ts';
import { type ObjectProblem, type WeftObject, describeObject } from '../objects/types.ts';
import type {
  AppliedMessage,
  ApplyRequest,
  DeleteRequest,
  ObjectNameMessage,
  ObjectsMessage,
} from './messages.ts';
import { APPLY_OBJECTS_MAX } from './object-api.ts';
import { KINDS, type KindNames, kindOf } from './object-keys.ts';
import { didYouMean } from '../objects/nearest.ts';

/** What was given cannot be applied; nothing was. One line a problem. */
export class ObjectsError extends Error {
  override readonly name = 'ObjectsError';
  readonly code = 'ERR_OBJECTS';
  readonly problems: readonly ObjectProblem[];

  constructor(message: string, problems: readonly ObjectProblem[] = [], options?: ErrorOptions) {
    super(message, options);
    this.problems = problems;
  }
}

/** One question to the daemon. */
export type Ask = <T>(method: string, path: string, body?: unknown) => Promise<T>;

/** Less than the API takes at once. */
const REQUEST_CHARS_MAX = 1 << 20;

interface Document {
  readonly object: WeftObject;
  readonly raw: Readonly<Record<string, unknown>>;
}

interface Text {
  readonly file: string;
  readonly text: string;
}

async function readPath(path: string, stdin: NodeJS.ReadableStream): Promise<readonly Text[]> {
  if (path === '-') return [{ file: 'stdin', text: await readAll(stdin) }];
  try {
    if (!(await stat(path)).isDirectory()) {
      return [{ file: path, text: await readFile(path, 'utf8') }];
    }
    const names = (await readdir(path)).filter((it) => /\.(?:ya?ml|json)$/.test(it)).toSorted();
    return await Promise.all(
      names.map(async (it) => ({
        file: join(path, it),
        text: await readFile(join(path, it), 'utf8'),
      })),
    );
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new ObjectsError(`${path} cannot be read (${code})`, [], { cause });
  }
}

/**
 * All of them, checked, in the order of their kinds; and what is of kinds that are not ours.
 * @throws ObjectsError that names everything that is wrong
 */
export async function readObjects(
  paths: readonly string[],
  stdin: NodeJS.ReadableStream,
): Promise<{
  readonly documents: readonly Document[];
  readonly ignored: readonly ObjectProblem[];
}> {
  const problems: ObjectProblem[] = [];
  const ignored: ObjectProblem[] = [];
  const documents: Document[] = [];
  const seen = new Map<string, string>();
  for (const path of paths) {
    for (const { file, text } of await readPath(path, stdin)) {
      const parsed = parseObjects(text, file);
      for (const it of parsed.problems) {
        if (isIgnored(it)) ignored.push(it);
        else problems.push(it);
      }
      for (const document of parsed.documents) {
        const name = describeObject(document.object);
        const first = seen.get(name);
        if (first !== undefined) {
          const reason = `it is in ${first} already`;
          problems.push({ place: file, object: name, field: '', reason });
        } else {
          seen.set(name, file);
          documents.push(document);
        }
      }
    }
  }
  if (problems.length > 0) {
    const count = problems.length === 1 ? 'one problem' : `${problems.length} problems`;
    throw new ObjectsError(`${count}; nothing was changed`, [...problems, ...ignored]);
  }
  if (documents.length === 0) {
    throw new ObjectsError(`there is no object in ${paths.join(', ')}`, ignored);
  }
  const order = new Map(KINDS.map(({ kind }, i) => [kind, i]));
  const rank = ({ object }: Document): number => order.get(object.kind)!;
  return { documents: documents.toSorted((a, b) => rank(a) - rank(b)), ignored };
}

/** `stdin:3: NetworkPolicy default/x: spec.ingress: must be a list` */
export const problemLine = ({ place, object, field, reason }: ObjectProblem): string =>
  [place, object, field, reason]
    .filter(Boolean)
    .join(': ')
    .replaceAll(/\p{Cc}/gu, '?');

/** In pieces that the API takes. */
function* chunks<T>(items: readonly T[], charsOf: (item: T) => number): Generator<readonly T[]> {
  let piece: T[] = [];
  let chars = 0;
  for (const item of items) {
    const more = charsOf(item);
    if (
      piece.length > 0 &&
      (piece.length >= APPLY_OBJECTS_MAX || chars + more > REQUEST_CHARS_MAX)
    ) {
      yield piece;
      piece = [];
      chars = 0;
    }
    piece.push(item);
    chars += more;
  }
  if (piece.length > 0) yield piece;
}

const described = ({ kind, namespace, name }: ObjectNameMessage): string =>
  `${kind} ${namespace === '' ? '' : `${namespace}/`}${name}`;

export interface ApplyOptions {
  readonly paths: readonly string[];
  readonly set: string;
  readonly prune: boolean;
  readonly dryRun: boolean;
}

/** One line an object, as it is done. @throws ObjectsError before anything is changed; ApiError */
export async function* applyObjects(
  { paths, set, prune, dryRun }: ApplyOptions,
  ask: Ask,
  stdin: NodeJS.ReadableStream,
  warn: (line: string) => void,
): AsyncGenerator<string> {
  if (paths.length === 0) throw new ObjectsError('say what to apply: -f FILE');
  if (!isDnsLabel(set)) throw new ObjectsError(`--set: "${set}" is no name`);
  const { documents, ignored } = await readObjects(paths, stdin);
  for (const it of ignored) warn(problemLine(it));
  const suffix = dryRun ? ' (dry run)' : '';
  const raws = documents.map(({ raw }) => raw);
  for (const piece of chunks(raws, (it) => JSON.stringify(it).length)) {
    const request: ApplyRequest = { documents: piece, set, dryRun };
    const applied = await ask<readonly AppliedMessage[]>('POST', '/v1/objects', request);
    for (const it of applied) yield `${described(it)} ${it.result}${suffix}`;
  }
  if (!prune) return;
  const wanted = new Set(documents.map(({ object }) => describeObject(object)));
  const named = await ask<readonly ObjectNameMessage[]>(
    'GET',
    `/v1/objects?set=${encodeURIComponent(set)}`,
  );
  const stale = named.filter((it) => !wanted.has(described(it)));
  for await (const it of removed(stale, set, dryRun, ask)) {
    if (it.result === 'deleted') yield `${described(it)} pruned${suffix}`;
  }
}

async function* removed(
  names: readonly ObjectNameMessage[],
  set: string | null,
  dryRun: boolean,
  ask: Ask,
): AsyncGenerator<AppliedMessage> {
  for (const objects of chunks(names, () => 0)) {
    const request: DeleteRequest = { objects, set, dryRun };
    yield* await ask<readonly AppliedMessage[]>('POST', '/v1/objects/delete', request);
  }
}

function kindNamed(text: string): KindNames {
  const names = kindOf(text);
  if (names !== null) return names;
  const all = KINDS.flatMap(({ plural, others }) => [plural, ...others]);
  throw new ObjectsError(`there is no kind "${text}"${didYouMean(text.toLowerCase(), all)}`);
}

export interface DeleteOptions {
  readonly paths: readonly string[];
  readonly kind: string | null;
  readonly name: string | null;
  readonly namespace: string;
}

/** One line an object. Gives whether all were there. @throws ObjectsError, ApiError */
export async function deleteObjects(
  { paths, kind, name, namespace }: DeleteOptions,
  ask: Ask,
  stdin: NodeJS.ReadableStream,
): Promise<{ readonly lines: readonly string[]; readonly isDone: boolean }> {
  let names: readonly ObjectNameMessage[];
  if (kind !== null && name !== null && paths.length === 0) {
    const { kind: known, isNamespaced } = kindNamed(kind);
    if (!isDnsSubdomain(name)) throw new ObjectsError(`"${name}" is the name of no object`);
    if (!isDnsLabel(namespace)) throw new ObjectsError(`"${namespace}" is no namespace`);
    names = [{ kind: known, namespace: isNamespaced ? namespace : '', name }];
  } else if (kind === null && paths.length > 0) {
    const { documents } = await readObjects(paths, stdin);
    names = documents.map(({ object }) => ({
      kind: object.kind,
      namespace: object.metadata.namespace,
      name: object.metadata.name,
    }));
  } else throw new ObjectsError('say what to delete: KIND NAME, or -f FILE');
  const lines: string[] = [];
  let isDone = true;
  for await (const it of removed(names, null, false, ask)) {
    const isDeleted = it.result === 'deleted';
    isDone &&= isDeleted;
    lines.push(`${described(it)} ${isDeleted ? 'deleted' : 'not found'}`);
  }
  return { lines, isDone };
}

export interface GetOptions {
  readonly kind: string;
  readonly name: string | null;
  /** Null: all of them. */
  readonly namespace: string | null;
}

export interface GotObjects {
  readonly names: KindNames;
  readonly items: ObjectsMessage['items'];
  /** It was asked for by its name. */
  readonly isOne: boolean;
}

/** @throws ObjectsError, ApiError 404 */
export async function getObjects(
  { kind, name, namespace }: GetOptions,
  ask: Ask,
): Promise<GotObjects> {
  const names = kindNamed(kind);
  const query = new URLSearchParams();
  if (names.isNamespaced && namespace !== null) query.set('namespace', namespace);
  if (name !== null) query.set('name', name);
  const { items } = await ask<ObjectsMessage>(
    'GET',
    `/v1/objects/${names.plural}?${query.toString()}`,
  );
  return { names, items, isOne: name !== null };
}

/** One object as itself, several as Kubernetes' List. */
export const asOne = ({ items, isOne }: GotObjects): unknown =>
  isOne && items.length === 1 ? items[0] : { apiVersion: 'v1', kind: 'List', items };
