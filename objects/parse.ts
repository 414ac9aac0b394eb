/**
 * Text to objects: YAML of any number of documents, JSON, and kind List. What is not valid is left out
 * and told, each complaint with the line and the path of its field; nothing throws, whatever the text.
 */
import { createRequire } from 'node:module';
import type * as Yaml from 'yaml';
import { fieldsAt, slips } from './fields.ts';
import { IGNORED, KINDS, isMapping, reasonOf, show, unknownField } from './schema.ts';
import type { Kind, ObjectProblem, WeftObject } from './types.ts';

/** Loaded where there is YAML to read, or a line to name: JSON needs neither. */
const yaml = (): typeof Yaml => createRequire(import.meta.url)('yaml');

export interface ParsedDocument {
  readonly object: WeftObject;
  /** As it was given, with fields that we do not know. */
  readonly raw: Record<string, unknown>;
}

/** What a text says besides its objects. */
export interface ParsedRest {
  readonly problems: ObjectProblem[];
  /**
   * For policies that are not valid: what allows no more than any reading of them would. Objects of the same
   * names; of use where nothing that was valid before can stay.
   */
  readonly standIns: readonly WeftObject[];
  /** Some text could not even be told whose it is: any object may be meant by it. */
  readonly unidentified: boolean;
}

export interface ParsedObjects extends ParsedRest {
  readonly objects: WeftObject[];
  /** The same objects, in the same order, each with its text's value. */
  readonly documents: ParsedDocument[];
}

type Path = readonly (string | number)[];

/** No object of Kubernetes comes near; what is nested deeper is meant to exhaust a stack. */
const MAX_DEPTH = 64;
/** A megabyte of YAML takes a second; JSON may be as long as it likes. */
const MAX_YAML_CHARACTERS = 8 * 1024 * 1024;
/** Beyond, what is wrong with JSON has no line. */
const MAX_LINES_OF_CHARACTERS = 1024 * 1024;
/** Each makes the parser look through the document. */
const MAX_ALIASES = 1000;
/** What they may come to, each counted as often as it is followed. */
const MAX_ALIASED = 100;
const MAX_PROBLEMS_PER_OBJECT = 16;

/** One document, and where its values stand. */
interface Source {
  readonly value: unknown;
  /** `file.yaml:12`: of the nearest thing that has a line. */
  readonly place: (path: Path) => string;
}

const isKind = (kind: string): kind is Kind => Object.hasOwn(KINDS, kind);

/** `spec.ingress[0].ports[1].endPort`, `metadata.labels["a.b/c"]`. */
const fieldText = (path: readonly PropertyKey[]): string =>
  path
    .map((it, at) => {
      if (typeof it === 'number') return `[${it}]`;
      const name = String(it);
      if (!/^[A-Za-z_][A-Za-z0-9_]{0,63}$/.test(name)) return `[${show(name)}]`;
      return at === 0 ? name : `.${name}`;
    })
    .join('');

function isDeeper(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return depth === 0 || Object.values(value).some((it) => isDeeper(it, depth - 1));
}

/** Of a kind that is none of ours: nothing is wrong with it. */
export const isIgnored = ({ reason }: ObjectProblem): boolean => reason.startsWith(IGNORED);

/** @param file  what to call the text in problems */
export function parseObjects(text: string, file: string): ParsedObjects {
  const documents: ParsedDocument[] = [];
  const rest = parseEach(text, file, (it) => documents.push(it));
  return { objects: documents.map(({ object }) => object), documents, ...rest };
}

/** The same, one object after the other. */
export function parseEach(
  text: string,
  file: string,
  take: (document: ParsedDocument) => void,
): ParsedRest {
  const problems: ObjectProblem[] = [];
  const standIns: WeftObject[] = [];
  let unidentified = false;

  const refuse = (place: string, object: string, field: string, reason: string): void => {
    const ignored = reason.startsWith(IGNORED);
    problems.push({ place, object, field, reason });
    if (!ignored && !object.includes(' ')) unidentified = true;
  };

  for (const source of sourcesOf(text, file, (place, reason) => refuse(place, '', '', reason))) {
    for (const [path, value] of itemsOf(source.value)) {
      const place = (inner: Path = []): string => source.place([...path, ...inner]);
      const checked = checkObject(value, place, refuse);
      if (checked === null) standIns.push(...standInOf(value));
      else take(checked);
    }
  }
  return { problems, standIns, unidentified };
}

function standInOf(value: unknown): readonly WeftObject[] {
  if (!isMapping(value) || isDeeper(value, MAX_DEPTH)) return [];
  const { kind, apiVersion } = value;
  if (typeof kind !== 'string' || !isKind(kind) || apiVersion !== KINDS[kind].apiVersion) return [];
  const result = KINDS[kind].standIn?.safeParse(value);
  return result?.success === true ? [result.data] : [];
}

/** A List's items may leave out what its kind says already: PodList. */
function* itemsOf(value: unknown, path: Path = [], depth = 4): Generator<[Path, unknown]> {
  if (Array.isArray(value) && path.length === 0) {
    for (const [at, item] of value.entries()) yield* itemsOf(item, [at], depth - 1);
    return;
  }
  const kind = isMapping(value) ? value['kind'] : undefined;
  const isList = typeof kind === 'string' && kind.endsWith('List') && depth > 0;
  const items = isMapping(value) ? (value['items'] ?? []) : undefined;
  if (!isMapping(value) || !isList || !Array.isArray(items)) {
    yield [path, value];
    return;
  }
  const of = kind.slice(0, -'List'.length);
  for (const [at, item] of (items as readonly unknown[]).entries()) {
    const inner = [...path, 'items', at];
    if (isMapping(item) && item['kind'] === undefined && isKind(of)) {
      yield [inner, { apiVersion: value['apiVersion'], kind: of, ...item }];
    } else {
      yield* itemsOf(item, inner, depth - 1);
    }
  }
}

type Refuse = (place: string, object: string, field: string, reason: string) => void;

function checkObject(
  value: unknown,
  place: (path?: Path) => string,
  refuse: Refuse,
): ParsedDocument | null {
  if (!isMapping(value)) {
    refuse(place(), '', '', `must be a Kubernetes object, is ${show(value)}`);
    return null;
  }
  const { kind, apiVersion } = value;
  if (typeof kind !== 'string' || typeof apiVersion !== 'string') {
    const missing = typeof kind === 'string' ? 'apiVersion' : 'kind';
    refuse(place(), '', missing, 'is missing: every object says its apiVersion and kind');
    return null;
  }
  const object = describeRaw(kind, value);
  if (!isKind(kind)) {
    const known = Object.keys(KINDS).join(', ');
    refuse(place(), object, '', `${IGNORED}weft reads ${known} only`);
    return null;
  }
  const { schema, apiVersion: ours, standIn } = KINDS[kind];
  if (apiVersion !== ours) {
    refuse(place(['apiVersion']), object, 'apiVersion', `must be ${ours}, is ${show(apiVersion)}`);
    return null;
  }
  if (isDeeper(value, MAX_DEPTH)) {
    refuse(place(), object, '', `is nested more than ${MAX_DEPTH} deep`);
    return null;
  }
  const result = schema.safeParse(value, { error: reasonOf });
  if (result.success) {
    // Policies have complained of theirs.
    for (const [path, fields] of standIn === undefined ? slips(schema, value) : []) {
      const reason = `${IGNORED}${unknownField(String(path.at(-1)), fields)}`;
      refuse(place(path), object, fieldText(path), reason);
    }
    return { object: result.data, raw: value };
  }
  const issues = result.error.issues.flatMap((it) => {
    if (it.code !== 'unrecognized_keys') return [it];
    const fields = fieldsAt(schema, it.path);
    return it.keys.map((key) => ({
      path: [...it.path, key],
      message: unknownField(key, fields),
    }));
  });
  for (const { path, message } of issues.slice(0, MAX_PROBLEMS_PER_OBJECT)) {
    const inner = path.filter((it) => typeof it !== 'symbol');
    refuse(place(inner), object, fieldText(inner), message);
  }
  if (issues.length > MAX_PROBLEMS_PER_OBJECT) {
    const more = issues.length - MAX_PROBLEMS_PER_OBJECT;
    refuse(place(), object, '', `has ${more} more problems`);
  }
  return null;
}

/** As describeObject would; the kind alone, if no name can be told. */
function describeRaw(kind: string, value: Readonly<Record<string, unknown>>): string {
  const metadata = isMapping(value['metadata']) ? value['metadata'] : {};
  const text = (it: unknown): string =>
    typeof it === 'string' && /^[-.:a-zA-Z0-9]{1,253}$/.test(it) ? it : '';
  const name = text(metadata['name']);
  if (!isKind(kind))
    return `${/^[A-Za-z0-9]{1,64}$/.test(kind) ? kind : show(kind)} ${name}`.trim();
  if (name === '') return kind;
  const namespace = KINDS[kind].namespaced ? text(metadata['namespace']) || 'default' : '';
  return `${kind} ${namespace === '' ? '' : `${namespace}/`}${name}`;
}

function* sourcesOf(
  text: string,
  file: string,
  refuse: (place: string, reason: string) => void,
): Generator<Source> {
  if (/^\s*[{[]/.test(text)) {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      if (text.length > MAX_LINES_OF_CHARACTERS) {
        refuse(file, `is not JSON: ${shortOf(error)}`);
        return;
      }
      // Braces begin YAML as well, and YAML says the line.
      yield* yamlSources(text, file, refuse);
      return;
    }
    yield { value, place: jsonPlaces(text, file) };
    return;
  }
  yield* yamlSources(text, file, refuse);
}

/** JSON is YAML: read again for the lines, when there is something to complain of. */
function jsonPlaces(text: string, file: string): (path: Path) => string {
  let place: ((path: Path) => string) | null = null;
  return (path) => {
    if (place === null) {
      const [source] =
        text.length > MAX_LINES_OF_CHARACTERS ? [] : yamlSources(text, file, () => {});
      place = source?.place ?? (() => file);
    }
    return place(path);
  };
}

/** A text with more errors than anybody makes has an object for each: a trace each is dear. */
function parseAll(text: string, lineCounter: Yaml.LineCounter): Yaml.Document.Parsed[] {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    return yaml().parseAllDocuments(text, {
      lineCounter,
      prettyErrors: false,
      merge: true,
      // It compares each key with each: see flawOf.
      uniqueKeys: false,
      logLevel: 'error',
    });
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

function* yamlSources(
  text: string,
  file: string,
  refuse: (place: string, reason: string) => void,
): Generator<Source> {
  if (text.length > MAX_YAML_CHARACTERS) {
    refuse(file, `is longer than ${MAX_YAML_CHARACTERS} characters; write it as JSON`);
    return;
  }
  const { LineCounter, isNode } = yaml();
  const lineCounter = new LineCounter();
  const lineAt = (offset: number): string => `${file}:${lineCounter.linePos(offset).line}`;
  try {
    for (const document of parseAll(text, lineCounter)) {
      const [broken] = document.errors;
      if (broken !== undefined) {
        refuse(lineAt(broken.pos[0]), `is not YAML: ${shortOf(broken)}`);
        continue;
      }
      const { contents } = document;
      const flaw = flawOf(document);
      if (flaw !== null) {
        refuse(lineAt(flaw.at), `is not YAML: ${flaw.reason}`);
        continue;
      }
      // Comments alone, or nothing between two lines of ---.
      if (contents === null) continue;
      const start = contents.range?.[0] ?? 0;
      const value = valueOf(document);
      if (value instanceof Error) {
        refuse(lineAt(start), `is not YAML: ${shortOf(value)}`);
        continue;
      }
      if (value === null) continue;
      yield {
        value,
        place: (path) => {
          for (let length = path.length; length > 0; length--) {
            const found: unknown = document.getIn(path.slice(0, length), true);
            if (isNode(found) && found.range) return lineAt(found.range[0]);
          }
          return lineAt(start);
        },
      };
    }
  } catch (error) {
    // The parser's own recursion.
    if (!(error instanceof RangeError)) throw error;
    refuse(file, 'is nested too deep');
  }
}

/** A key that stands twice in one mapping, or more aliases than anybody writes. */
function flawOf(document: Yaml.Document.Parsed): { at: number; reason: string } | null {
  const { isScalar, visit } = yaml();
  const flaws: { at: number; reason: string }[] = [];
  let aliases = 0;
  visit(document, {
    Map: (_, { items }) => {
      const seen = new Set<unknown>();
      for (const { key } of items) {
        if (!isScalar(key) || key.value === '<<') continue;
        if (!seen.has(key.value)) {
          seen.add(key.value);
          continue;
        }
        flaws.push({ at: key.range?.[0] ?? 0, reason: `${show(key.value)} stands twice` });
        return visit.BREAK;
      }
      return undefined;
    },
    Alias: (_, { range }) => {
      if (++aliases <= MAX_ALIASES) return undefined;
      flaws.push({ at: range?.[0] ?? 0, reason: `has more than ${MAX_ALIASES} aliases` });
      return visit.BREAK;
    },
  });
  return flaws[0] ?? null;
}

/** Aliases and merges are followed here; what is wrong with them has errors of all kinds. */
function valueOf(document: Yaml.Document.Parsed): unknown {
  try {
    return document.toJS({ maxAliasCount: MAX_ALIASED });
  } catch (error) {
    if (error instanceof ReferenceError && error.message.startsWith('Excessive alias count')) {
      return new Error(`its aliases, followed through each other, are more than ${MAX_ALIASED}`);
    }
    if (error instanceof Error) return error;
    throw error;
  }
}

/** Some messages repeat the text. */
const shortOf = ({ message }: Error): string => message.slice(0, 200);
