/** The API's routes for objects in etcd: what `weft apply`, `weft get` and `weft delete` ask for. */
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { isDnsLabel, isDnsSubdomain } from '../objects/names.ts';
import { isIgnored, parseObjects } from '../objects/parse.ts';
import { type WeftObject, describeObject } from '../objects/types.ts';
import { type Store, type StoreEntry, StoreError } from '../store/store.ts';
import { ApiError, type ApiRequest, type ApiRoute } from './api.ts';
import {
  Allocations,
  type Json,
  type ServiceRanges,
  allocateService,
  freeService,
  isJson,
} from './allocations.ts';
import type {
  AppliedMessage,
  ApplyRequest,
  DeleteRequest,
  ObjectNameMessage,
  ObjectsMessage,
} from './messages.ts';
import {
  KINDS,
  objectKey,
  objectsPrefix,
  parseObjectKey,
  parsePodKey,
  podsPrefix,
} from './object-keys.ts';

/** Which `weft apply` wrote the object, for --prune. */
export const APPLY_SET = 'weft.io/apply-set';
/** More in one request would keep the daemon from its other work. */
export const APPLY_OBJECTS_MAX = 500;
/** Commits on their way at once. */
const PARALLEL = 16;
/** Races lost in a row before we give up. */
const RACES = 10;

export interface ObjectApiOptions {
  /** @throws ApiError 503 before it is open */
  readonly store: () => Store;
  readonly prefix: string;
  readonly ranges: ServiceRanges;
}

const setName = z.string().refine(isDnsLabel);
const kind = z.enum(KINDS.map((it) => it.kind));
const applySchema = z.object({
  documents: z.array(z.custom<Json>(isJson)).max(APPLY_OBJECTS_MAX),
  set: setName,
  dryRun: z.boolean(),
});
const deleteSchema = z.object({
  objects: z
    .array(
      z.object({
        kind,
        namespace: z.union([z.literal(''), z.string().refine(isDnsLabel)]),
        name: z.string().refine(isDnsSubdomain),
      }),
    )
    .max(65_536),
  set: setName.nullable(),
  dryRun: z.boolean(),
});

function checked<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const text = z.prettifyError(parsed.error).replaceAll(/\s*\n\s*/g, ' ');
  throw new ApiError(400, 'ERR_BODY', `the request is malformed: ${text}`);
}

const sub = (value: unknown, key: string): Json => {
  const found = isJson(value) ? value[key] : undefined;
  return isJson(found) ? found : {};
};

/** Null: somebody wrote what is no object. */
function readRaw({ value }: StoreEntry): Json | null {
  try {
    const raw: unknown = JSON.parse(value);
    return isJson(raw) ? raw : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

const setOf = (raw: Json): string | null => {
  const set = sub(sub(raw, 'metadata'), 'annotations')[APPLY_SET];
  return typeof set === 'string' ? set : null;
};

/** As it is stored: marked, and with the namespace that was left out. */
const marked = (raw: Json, set: string, namespace: string): Json => {
  const metadata = sub(raw, 'metadata');
  const annotations = { ...sub(metadata, 'annotations'), [APPLY_SET]: set };
  const whose = namespace === '' ? {} : { namespace };
  return { ...raw, metadata: { ...metadata, ...whose, annotations } };
};

/** As many at once as etcd answers well; what fails ends it. */
async function inParallel<T, R>(
  items: readonly T[],
  work: (item: T) => Promise<R>,
): Promise<readonly R[]> {
  const results: R[] = [];
  let next = 0;
  const run = async (): Promise<void> => {
    while (next < items.length) {
      const i = next++;
      try {
        results[i] = await work(items[i]!);
      } catch (error) {
        next = items.length;
        throw error;
      }
    }
  };
  const settled = await Promise.allSettled(
    Array.from({ length: Math.min(PARALLEL, items.length) }, run),
  );
  const failed = settled.find((it) => it.status === 'rejected');
  if (failed !== undefined) throw failed.reason as Error;
  return results;
}

export class ObjectApi {
  readonly #options: ObjectApiOptions;
  /** Two requests at once that name one Service: one after the other, or each frees what is the other's. */
  #applying: Promise<unknown> = Promise.resolve();

  constructor(options: ObjectApiOptions) {
    this.#options = options;
  }

  routes(): readonly ApiRoute[] {
    const route = (
      method: ApiRoute['method'],
      path: string,
      answer: (request: ApiRequest) => Promise<unknown>,
    ): ApiRoute => ({ method, path, answer: (request) => told(answer(request)) });
    return [
      route('POST', '/v1/objects', ({ body }) =>
        this.#alone(() => this.apply(checked(applySchema, body))),
      ),
      route('POST', '/v1/objects/delete', ({ body }) =>
        this.#alone(() => this.delete(checked(deleteSchema, body))),
      ),
      route('GET', '/v1/objects', ({ query }) => this.named(query.get('set') ?? '')),
      route('GET', '/v1/objects/:plural', ({ parts, query }) =>
        this.list(parts['plural'] ?? '', query.get('namespace'), query.get('name')),
      ),
    ];
  }

  async #alone<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#applying;
    const mine = (async () => {
      await before.catch(() => 'its own caller is told');
      return await work();
    })();
    this.#applying = mine;
    return await mine;
  }

  /** Checks all before it writes one. @throws ApiError, StoreError */
  async apply({ documents, set, dryRun }: ApplyRequest): Promise<readonly AppliedMessage[]> {
    const objects = documents.map((raw, i) => {
      const parsed = parseObjects(JSON.stringify(raw), `object ${i + 1}`);
      const { objects } = parsed;
      const [object] = objects;
      const problems = parsed.problems.filter((it) => !isIgnored(it));
      if (object !== undefined && objects.length === 1 && problems.length === 0) return object;
      const [{ object: name, field, reason } = { object: '', field: '', reason: 'it is none' }] =
        problems;
      const text = [name || `object ${i + 1}`, field, reason].filter(Boolean).join(': ');
      throw new ApiError(422, 'ERR_OBJECT', `nothing was applied: ${text}`);
    });
    const store = this.#options.store();
    const allocations = new Allocations(store, this.#options.prefix);
    return await inParallel([...objects.entries()], async ([i, object]) => {
      const { kind, metadata } = object;
      const { namespace, name } = metadata;
      const wanted = marked(documents[i]!, set, namespace);
      const result = await this.#write(store, allocations, object, wanted, dryRun);
      return { kind, namespace, name, result };
    });
  }

  async #write(
    store: Store,
    allocations: Allocations,
    object: WeftObject,
    wanted: Json,
    dryRun: boolean,
  ): Promise<AppliedMessage['result']> {
    const { prefix, ranges } = this.#options;
    const { kind, metadata } = object;
    const key = objectKey(prefix, { kind, namespace: metadata.namespace, name: metadata.name });
    for (let race = 0; race < RACES; race++) {
      const entry = await store.get(key);
      const earlier = entry === null ? null : readRaw(entry);
      const allocated =
        kind === 'Service' && !dryRun
          ? await allocateService(allocations, ranges, wanted, earlier)
          : null;
      const raw = allocated?.raw ?? (kind === 'Service' ? likeEarlier(wanted, earlier) : wanted);
      if (earlier !== null && isDeepStrictEqual(earlier, raw)) return 'unchanged';
      const result = entry === null ? 'created' : 'configured';
      if (dryRun) return result;
      const value = JSON.stringify(raw);
      const made = await store.commit(
        entry === null
          ? { kind: 'create', key, value, leaseId: null }
          : { kind: 'replace', key, value, leaseId: null, modRevision: entry.modRevision },
      );
      if (made === null) continue;
      await allocated?.freeOthers();
      return result;
    }
    throw new ApiError(409, 'ERR_RACE', `${describeObject(object)} changes all the time`);
  }

  /** @throws StoreError */
  async delete({ objects, set, dryRun }: DeleteRequest): Promise<readonly AppliedMessage[]> {
    const store = this.#options.store();
    const allocations = new Allocations(store, this.#options.prefix);
    return await inParallel(objects, async (name) => ({
      ...name,
      result: (await this.#remove(store, allocations, name, set, dryRun)) ? 'deleted' : 'absent',
    }));
  }

  async #remove(
    store: Store,
    allocations: Allocations,
    name: ObjectNameMessage,
    set: string | null,
    dryRun: boolean,
  ): Promise<boolean> {
    const { prefix } = this.#options;
    const key = objectKey(prefix, name);
    for (;;) {
      const entry = await store.get(key);
      if (entry === null) return false;
      // Somebody has applied it as another set's meanwhile.
      if (set !== null && setOf(readRaw(entry) ?? {}) !== set) return false;
      if (dryRun) return true;
      const done = await store.commit({ kind: 'delete', key, modRevision: entry.modRevision });
      if (done === null) continue;
      if (name.kind === 'Service') await freeService(allocations, nameText(name));
      return true;
    }
  }

  /** What an earlier `weft apply` of this set wrote. @throws StoreError */
  async named(set: string): Promise<readonly ObjectNameMessage[]> {
    const { prefix } = this.#options;
    const { entries } = await this.#options.store().list(objectsPrefix(prefix));
    return [...entries.values()].flatMap((entry) => {
      const name = parseObjectKey(prefix, entry.key);
      const raw = readRaw(entry);
      return name !== null && raw !== null && setOf(raw) === set ? [name] : [];
    });
  }

  /** One kind, as raw JSON, by namespace and name. @throws ApiError 404, StoreError */
  async list(
    plural: string,
    namespace: string | null,
    name: string | null,
  ): Promise<ObjectsMessage> {
    const names = KINDS.find((it) => it.plural === plural);
    if (names === undefined) throw new ApiError(404, 'ERR_NO_KIND', `there is no kind "${plural}"`);
    const { prefix } = this.#options;
    const store = this.#options.store();
    const { entries } = await store.list(`${objectsPrefix(prefix)}${plural}/`);
    const found = new Map<string, Json>();
    for (const entry of entries.values()) {
      const key = parseObjectKey(prefix, entry.key);
      const raw = readRaw(entry);
      if (key !== null && raw !== null) found.set(nameText(key), raw);
    }
    if (names.kind === 'Pod') await this.#addAttached(store, found);
    const items = [...found]
      .filter(([key]) => {
        const [itsNamespace, itsName] = key.split('/');
        const isThere = namespace === null || !names.isNamespaced || itsNamespace === namespace;
        return isThere && (name === null || itsName === name);
      })
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([, raw]) => raw);
    if (name !== null && items.length === 0) {
      throw new ApiError(404, 'ERR_NO_OBJECT', `${plural} "${name}" not found`);
    }
    return { items };
  }

  /** CNI's pods: alone, or as where and with which addresses an applied one runs. */
  async #addAttached(store: Store, found: Map<string, Json>): Promise<void> {
    const { prefix } = this.#options;
    const { entries } = await store.list(podsPrefix(prefix));
    const byAge = [...entries.values()].toSorted((a, b) => a.createRevision - b.createRevision);
    const applied = new Map(found);
    for (const entry of byAge) {
      const key = parsePodKey(prefix, entry.key);
      const raw = readRaw(entry);
      if (key === null || raw === null) continue;
      const name = `${key.namespace}/${key.name}`;
      const own = applied.get(name);
      const spec = { ...sub(own, 'spec'), nodeName: key.nodeName };
      const status = { ...sub(own, 'status'), ...sub(raw, 'status') };
      found.set(name, own === undefined ? raw : { ...own, spec, status });
    }
  }
}

const nameText = ({ namespace, name }: Omit<ObjectNameMessage, 'kind'>): string =>
  `${namespace}/${name}`;

/** A dry run allocates nothing: a Service that names no address is taken to keep what it has. */
function likeEarlier(wanted: Json, earlier: Json | null): Json {
  if (earlier === null) return wanted;
  const spec = sub(wanted, 'spec');
  const before = sub(earlier, 'spec');
  const kept: Record<string, unknown> = { ...spec };
  for (const field of ['clusterIP', 'clusterIPs', 'healthCheckNodePort']) {
    if (kept[field] === undefined && before[field] !== undefined) kept[field] = before[field];
  }
  const [ports, had] = [spec['ports'], before['ports']];
  if (Array.isArray(ports) && Array.isArray(had) && ports.length === had.length) {
    kept['ports'] = ports.map((port: unknown, i) => {
      const nodePort = isJson(had[i]) ? had[i]['nodePort'] : undefined;
      return isJson(port) && nodePort !== undefined ? { nodePort, ...port } : port;
    });
  }
  return { ...wanted, spec: kept };
}

async function told<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (cause) {
    if (!(cause instanceof StoreError)) throw cause;
    throw new ApiError(503, cause.code, cause.message, { cause });
  }
}
