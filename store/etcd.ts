/**
 * The store in etcd v3, through the etcd3 package's plain calls. Its conveniences are left out, because
 * each fails in silence: its watcher resumes from the response header and loses events (follow.ts does
 * it right), its retries would repeat a transaction that had been made, its leases learn a TTL late that
 * they are over.
 */
import { rootCertificates } from 'node:tls';
import { noop } from 'cockatiel';
import {
  CompareTarget,
  Etcd3,
  EtcdAuthenticationFailedError,
  EtcdInvalidAuthTokenError,
  EtcdLeaseInvalidError,
  EtcdPermissionDeniedError,
  GRPCUnauthenticatedError,
  type IKeyValue,
  type IOptions,
  type IWatchRequest,
  type IWatchResponse,
  isRecoverableError,
} from 'etcd3';
import { unlessAborted } from './abort.ts';
import { CompactedError, type StoreEvent, follow } from './follow.ts';
import {
  type Change,
  type LeaseGrant,
  type Listing,
  type Store,
  type StoreEntry,
  type WatchOptions,
  StoreError,
} from './store.ts';

export interface EtcdOptions {
  /** `http://10.0.0.1:2379` or `https://…`; all of one scheme. */
  readonly endpoints: readonly string[];
  /** PEM contents, not paths. Without `ca`, the public authorities that Node knows. */
  readonly tls?: { readonly ca?: Buffer; readonly cert?: Buffer; readonly key?: Buffer };
  readonly login?: { readonly username: string; readonly password: string };
  /** Each call's deadline. Default 5 s. */
  readonly callTimeoutMs?: number;
}

/** The options contradict themselves; nothing was connected. */
export class EtcdOptionsError extends Error {
  readonly code = 'ERR_ETCD_OPTIONS';
}

type Call<T> = (client: Etcd3, options: { deadline: number }) => Promise<T>;

const CALL_TIMEOUT_MS = 5_000;

/** Finds a half-open connection within 15 s; etcd refuses pings more often than every 5 s. */
const GRPC_OPTIONS = {
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 5_000,
  // etcd takes a ping without a call for abuse, and closes the connection.
  'grpc.keepalive_permit_without_calls': 0,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 2_000,
  // One entry may be as large as etcd lets anybody write it; a list of such ones must still be read.
  'grpc.max_receive_message_length': -1,
};

/**
 * Connects lazily: never fails because etcd is unreachable, only because an option is impossible.
 * @throws EtcdOptionsError
 */
export function openEtcd(options: EtcdOptions): Store {
  return new EtcdStore(options);
}

class EtcdStore implements Store {
  /** One per endpoint: we choose, because etcd3 would choose at random, the dead one included. */
  readonly #clients: readonly Etcd3[];
  /** Index of the one that answered last. */
  #current = 0;
  readonly #endpoints: readonly string[];
  readonly #callTimeoutMs: number;

  constructor(options: EtcdOptions) {
    const shared = clientOptions(options);
    this.#clients = options.endpoints.map((hosts) => new Etcd3({ ...shared, hosts }));
    this.#endpoints = options.endpoints;
    this.#callTimeoutMs = options.callTimeoutMs ?? CALL_TIMEOUT_MS;
  }

  async get(key: string, signal?: AbortSignal): Promise<StoreEntry | null> {
    const answer = await this.#read(signal, (client, call) =>
      client.kv.range({ key: Buffer.from(key) }, call),
    );
    return answer.kvs[0] === undefined ? null : toEntry(answer.kvs[0]);
  }

  async list(prefix: string, signal?: AbortSignal): Promise<Listing> {
    const answer = await this.#read(signal, (client, call) =>
      client.kv.range({ key: Buffer.from(prefix), range_end: endOf(prefix) }, call),
    );
    const entries = new Map(answer.kvs.map((kv) => [kv.key.toString(), toEntry(kv)]));
    return { entries, revision: Number(answer.header.revision) };
  }

  async commit(change: Change, signal?: AbortSignal): Promise<number | null> {
    const key = Buffer.from(change.key);
    const answer = await this.#call(signal, (client, call) =>
      client.kv.txn(
        {
          compare: [
            change.kind === 'create'
              ? { key, target: CompareTarget.Version, version: 0 }
              : { key, target: CompareTarget.Mod, mod_revision: change.modRevision },
          ],
          success: [
            change.kind === 'delete'
              ? { request_delete_range: { key } }
              : {
                  request_put: {
                    key,
                    value: Buffer.from(change.value),
                    lease: change.leaseId ?? '0',
                  },
                },
          ],
        },
        call,
      ),
    );
    return answer.succeeded ? Number(answer.header.revision) : null;
  }

  async grant(ttlMs: number, signal?: AbortSignal): Promise<LeaseGrant> {
    const answer = await this.#call(signal, (client, call) =>
      client.leaseClient.leaseGrant({ TTL: Math.ceil(ttlMs / 1000) }, call),
    );
    return { leaseId: answer.ID, ttlMs: Number(answer.TTL) * 1000 };
  }

  async revoke(leaseId: string, signal?: AbortSignal): Promise<void> {
    await this.#call(signal, async (client, call) => {
      try {
        await client.leaseClient.leaseRevoke({ ID: leaseId }, call);
      } catch (error) {
        if (!(error instanceof EtcdLeaseInvalidError)) throw error;
      }
    });
  }

  watch(prefix: string, options: WatchOptions): AsyncIterable<Listing> {
    return follow(
      {
        list: (prefix, signal) => this.list(prefix, signal),
        stream: (prefix, revision, signal) => this.#stream(prefix, revision, signal),
      },
      prefix,
      options,
    );
  }

  [Symbol.dispose](): void {
    for (const client of this.#clients) client.close();
  }

  /** A call that may be repeated: where one endpoint cannot answer, another may. */
  async #read<T>(signal: AbortSignal | undefined, run: Call<T>): Promise<T> {
    for (let left = this.#clients.length; ; left--) {
      try {
        return await this.#call(signal, run);
      } catch (error) {
        const unreachable = error instanceof StoreError && error.code === 'ERR_STORE_UNREACHABLE';
        if (!unreachable || left <= 1) throw error;
      }
    }
  }

  async #call<T>(signal: AbortSignal | undefined, run: Call<T>): Promise<T> {
    signal?.throwIfAborted();
    const used = this.#current;
    try {
      const answer = run(this.#clients[used]!, { deadline: Date.now() + this.#callTimeoutMs });
      return await (signal === undefined ? answer : unlessAborted(answer, signal));
    } catch (error) {
      signal?.throwIfAborted();
      throw this.#explain(error, used);
    }
  }

  async *#stream(
    prefix: string,
    revision: number,
    signal: AbortSignal,
  ): AsyncGenerator<readonly StoreEvent[]> {
    signal.throwIfAborted();
    const used = this.#current;
    // The package's declaration leaves out that a gRPC stream is a Node stream.
    const stream = (await this.#call(signal, (client) =>
      client.watchClient.watch(),
    )) as unknown as NodeJS.ReadWriteStream & {
      write(request: IWatchRequest): boolean;
      cancel(): void;
    };
    const quit = (): void => {
      // Ended first: a cancelled stream that is still writable makes etcd3 close its other connections.
      stream.end();
      stream.cancel();
    };
    const opening = setTimeout(quit, this.#callTimeoutMs);
    signal.addEventListener('abort', quit, { once: true });
    // It may have been aborted in the very turn that gave us the stream.
    if (signal.aborted) quit();
    try {
      stream.write({
        create_request: {
          key: Buffer.from(prefix),
          range_end: endOf(prefix),
          start_revision: revision,
        },
      });
      for await (const item of stream) {
        clearTimeout(opening);
        const answer = item as unknown as IWatchResponse;
        if (Number(answer.compact_revision) > 0) {
          throw new CompactedError(`revision ${revision} of ${prefix} is compacted`);
        }
        if (answer.canceled) throw new Error(`etcd ended the watch: ${answer.cancel_reason}`);
        yield answer.events.map(toEvent);
      }
    } catch (error) {
      if (error instanceof CompactedError) throw error;
      throw this.#explain(error, used);
    } finally {
      clearTimeout(opening);
      signal.removeEventListener('abort', quit);
      quit();
    }
  }

  /** The next call goes to the endpoint after the one that could not be reached. */
  #explain(cause: unknown, used: number): StoreError {
    const error = cause instanceof Error ? cause : new Error(String(cause));
    const at = this.#endpoints[used];
    if (isUnreachable(error)) {
      if (this.#current === used) this.#current = (used + 1) % this.#clients.length;
      return new StoreError(
        'ERR_STORE_UNREACHABLE',
        `etcd at ${at} cannot be reached; what is known goes on to be used: ${error.message}`,
        { cause },
      );
    }
    return isDenied(error)
      ? new StoreError('ERR_STORE_DENIED', `etcd at ${at} denies access: ${error.message}`, {
          cause,
        })
      : new StoreError('ERR_STORE_REFUSED', `etcd at ${at} refuses: ${error.message}`, { cause });
  }
}

function clientOptions({ endpoints, tls, login, callTimeoutMs }: EtcdOptions): IOptions {
  const secure = endpoints.filter((endpoint) => endpoint.startsWith('https://')).length;
  if (endpoints.length === 0) throw new EtcdOptionsError('no etcd endpoint is given');
  for (const endpoint of endpoints) {
    if (!/^https?:\/\/[^/\s]+$/.test(endpoint)) {
      throw new EtcdOptionsError(
        `etcd endpoint "${endpoint}" is not http://HOST:PORT or https://HOST:PORT`,
      );
    }
  }
  if (secure !== 0 && secure !== endpoints.length) {
    throw new EtcdOptionsError('etcd endpoints mix http:// and https://; use one of them for all');
  }
  if (secure === 0 && tls !== undefined) {
    throw new EtcdOptionsError(
      'TLS files are given, but the etcd endpoints are http://; write https://',
    );
  }
  if ((tls?.cert === undefined) !== (tls?.key === undefined)) {
    throw new EtcdOptionsError(
      'an etcd client certificate needs its key, and the key its certificate',
    );
  }
  const timeoutMs = callTimeoutMs ?? CALL_TIMEOUT_MS;
  return {
    hosts: [...endpoints],
    grpcOptions: GRPC_OPTIONS,
    ...(secure > 0 && {
      credentials: {
        rootCertificate: tls?.ca ?? Buffer.from(rootCertificates.join('\n')),
        ...(tls?.key && { privateKey: tls.key }),
        ...(tls?.cert && { certChain: tls.cert }),
      },
    }),
    ...(login && { auth: login }),
    // Calls bring their own deadline; this one is for the login, which etcd3 makes by itself.
    defaultCallOptions: (context) => (context.isStream ? {} : { deadline: Date.now() + timeoutMs }),
    faultHandling: { global: noop, host: () => noop },
  };
}

const toEntry = (kv: IKeyValue): StoreEntry => ({
  key: kv.key.toString(),
  value: kv.value.toString(),
  createRevision: Number(kv.create_revision),
  modRevision: Number(kv.mod_revision),
  leaseId: kv.lease === '0' ? null : kv.lease,
});

const toEvent = ({ type, kv }: IWatchResponse['events'][number]): StoreEvent => ({
  key: kv.key.toString(),
  revision: Number(kv.mod_revision),
  entry: type === 'Delete' ? null : toEntry(kv),
});

/** The first key after all that begin with `prefix`; etcd takes a zero byte for "to the end". */
function endOf(prefix: string): Buffer {
  const end = Buffer.from(prefix);
  for (let i = end.length - 1; i >= 0; i--) {
    if (end[i]! < 0xff) {
      end[i] = end[i]! + 1;
      return end.subarray(0, i + 1);
    }
  }
  return Buffer.of(0);
}

/** No answer came, or none that says what the store thinks: worth another try. */
const isUnreachable = (error: Error): boolean =>
  isRecoverableError(error) || /UNAVAILABLE|DEADLINE_EXCEEDED|CANCELLED/.test(error.message);

const isDenied = (error: Error): boolean =>
  error instanceof EtcdPermissionDeniedError ||
  error instanceof EtcdAuthenticationFailedError ||
  error instanceof EtcdInvalidAuthTokenError ||
  error instanceof GRPCUnauthenticatedError ||
  /permission denied|invalid auth token|PERMISSION_DENIED|UNAUTHENTICATED/.test(error.message);
