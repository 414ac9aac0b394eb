/**
 * What daemons tell one another: HTTP with JSON over the overlay itself, from `.0` of one node's subnet to
 * `.0` of another's, GET only, and nothing that changes anything. All that a question leaves behind is a look
 * at one probe's packets, for some seconds (trace-watches.ts).
 *
 * Who asks must have a peer's own address, which the packet path grants to that peer alone: an inner source
 * is checked against the outer one, and a pod cannot send from `.0`. It must also know the token in etcd.
 * Nothing is encrypted beyond what the underlay does: who reads the underlay reads the token with it, and
 * learns what the daemons tell, but cannot change anything.
 */
import { type IncomingMessage, request } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NodeLease } from '../ipam/types.ts';
import type { Store } from '../store/store.ts';
import { addressOrNull, type IpAddress, formatAddress } from '../wire/address.ts';
import { ApiError, type ApiRoute, createLimitedServer, listen, listenerOf } from './api.ts';
import { clusterToken, isSameSecret } from './cluster-token.ts';
import type { ErrorMessage } from './messages.ts';

const ANSWER_WITHIN_MS = 3_000;
const ANSWER_BYTES_MAX = 8 << 20;
const TOKEN_AGAIN_MS = 2_000;

/** Another node did not answer as it should. */
export class NodeAbsentError extends Error {
  override readonly name = 'NodeAbsentError';
  readonly code = 'ERR_NODE_ABSENT';
}

/** `.0` of its subnets: the addresses from which a node itself speaks in the overlay. */
export const ownAddresses = ({ subnet4, subnet6 }: NodeLease): readonly IpAddress[] =>
  [subnet4?.base ?? null, subnet6?.base ?? null].filter((it) => it !== null);

/** A socket's remote address; null: it is already gone. */
export function remoteAddress({ remoteAddress: text }: Pick<Socket, 'remoteAddress'>) {
  if (text === undefined) return null;
  return addressOrNull(text.replace(/^::ffff:(?=\d+\.)/, ''));
}

export interface AskOptions<T> {
  readonly withinMs?: number;
  /** Nobody wants the answer any more. */
  readonly signal?: AbortSignal;
  /** What it answers, JSON unless given; throws where it is not understood. */
  readonly read?: (bytes: Buffer) => T;
}

interface Question<T> extends AskOptions<T> {
  readonly to: IpAddress;
  readonly from: IpAddress;
  readonly port: number;
  readonly path: string;
  readonly token: string;
}

const parseJson = (bytes: Buffer): unknown => JSON.parse(bytes.toString('utf8'));

/** One question to another node. @throws NodeAbsentError; ApiError with that daemon's own words */
async function askNode<T>(question: Question<T>): Promise<T> {
  const { to, from, port, path, token, withinMs = ANSWER_WITHIN_MS } = question;
  const read = question.read ?? (parseJson as (bytes: Buffer) => T);
  const late = AbortSignal.timeout(withinMs);
  const signal = question.signal === undefined ? late : AbortSignal.any([late, question.signal]);
  let status: number;
  let said: unknown;
  try {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      const asking = request({
        host: formatAddress(to),
        localAddress: formatAddress(from),
        port,
        path,
        signal,
        agent: false,
        headers: { authorization: `Bearer ${token}` },
      });
      asking.on('response', resolve).on('error', reject).end();
    });
    const pieces: Buffer[] = [];
    let bytes = 0;
    for await (const piece of response as AsyncIterable<Buffer>) {
      bytes += piece.length;
      if (bytes > ANSWER_BYTES_MAX)
        throw new Error(`it answers more than ${ANSWER_BYTES_MAX} bytes`);
      pieces.push(piece);
    }
    const body = Buffer.concat(pieces);
    status = response.statusCode ?? 0;
    if (status === 200) return read(body);
    said = parseJson(body);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const why = late.aborted ? `no answer within ${withinMs / 1000} s` : (code ?? message);
    throw new NodeAbsentError(why, { cause });
  }
  const { error } = said as Partial<ErrorMessage>;
  throw new ApiError(status, String(error?.code), String(error?.message));
}

export interface ClusterApiOptions {
  readonly port: number;
  readonly routes: readonly ApiRoute[];
  readonly peers: () => readonly NodeLease[];
  readonly onError: (error: unknown) => void;
  /** What keeps this node from asking and answering, once each; null: nothing any more. */
  readonly onProblem: (error: Error | null) => void;
}

export class ClusterApi implements AsyncDisposable {
  readonly #options: ClusterApiOptions;
  readonly #listening = new Map<IpAddress, AsyncDisposable>();
  /** Null before etcd has told it: every question is refused. */
  #token: string | null = null;
  #own: readonly IpAddress[] = [];
  #problem = '';
  #moving: Promise<void> = Promise.resolve();
  #peersKnown: readonly NodeLease[] = [];
  #peerAddresses: ReadonlySet<IpAddress> = new Set();

  constructor(options: ClusterApiOptions) {
    this.#options = options;
  }

  /** Until etcd has told the token, or the signal is aborted. */
  async learnToken(store: Store, prefix: string, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        this.#token = await clusterToken(store, prefix, signal);
        this.#tell(null);
        return;
      } catch (error) {
        if (signal.aborted) return;
        this.#tell(error as Error);
        await sleep(TOKEN_AGAIN_MS, undefined, { signal }).catch(() => 'ended by the signal');
      }
    }
  }

  /** Listens on the addresses of this lease and on no others. They are there already. */
  update(lease: NodeLease): void {
    const wanted = ownAddresses(lease);
    const isSame = wanted.length === this.#listening.size;
    if (this.#options.port === 0) return;
    this.#own = wanted;
    if (isSame && wanted.every((it) => this.#listening.has(it))) return;
    this.#moving = this.#moving.then(() => this.#move(wanted));
  }

  async #move(wanted: readonly IpAddress[]): Promise<void> {
    for (const [address, listening] of this.#listening) {
      if (wanted.includes(address)) continue;
      this.#listening.delete(address);
      await listening[Symbol.asyncDispose]();
    }
    const { port, routes, onError } = this.#options;
    for (const address of wanted) {
      if (this.#listening.has(address)) continue;
      const refuse = (asked: IncomingMessage): void => this.#refuse(asked);
      const server = createLimitedServer(listenerOf({ routes, onError, refuse }));
      server.prependListener('connection', (socket: Socket) => {
        if (!this.#isPeer(remoteAddress(socket))) socket.destroy();
      });
      try {
        this.#listening.set(address, await listen(server, { host: formatAddress(address), port }));
      } catch (cause) {
        const { code } = cause as NodeJS.ErrnoException;
        const why = `other nodes cannot ask this one on ${formatAddress(address)} ${port} (${code})`;
        this.#tell(new Error(why, { cause }));
        return;
      }
    }
  }

  #isPeer(address: IpAddress | null): boolean {
    const peers = this.#options.peers();
    if (peers !== this.#peersKnown) {
      this.#peersKnown = peers;
      this.#peerAddresses = new Set(peers.flatMap(ownAddresses));
    }
    return address !== null && this.#peerAddresses.has(address);
  }

  #refuse({ method, headers, socket }: IncomingMessage): void {
    // The list of peers may have changed while the connection stood.
    if (!this.#isPeer(remoteAddress(socket))) {
      throw new ApiError(403, 'ERR_PEER', 'only nodes of this cluster are answered');
    }
    const [, given = ''] = /^Bearer ([0-9a-f]{64})$/.exec(headers.authorization ?? '') ?? [];
    if (this.#token === null || !isSameSecret(given, this.#token)) {
      throw new ApiError(401, 'ERR_CLUSTER_TOKEN', "the cluster's token is missing or wrong");
    }
    if (method !== 'GET') throw new ApiError(405, 'ERR_METHOD', `${method} does not apply here`);
  }

  /** Why no other node can be asked; null: each can be tried. */
  get obstacle(): string | null {
    if (this.#options.port === 0) return 'nodes are not asked, --cluster-port is 0';
    return this.#token === null ? "the cluster's token in etcd is not known yet" : null;
  }

  /** @throws NodeAbsentError, ApiError */
  async ask<T>(peer: NodeLease, path: string, options: AskOptions<T> = {}): Promise<T> {
    const { port } = this.#options;
    const token = this.#token;
    const { obstacle } = this;
    if (obstacle !== null || token === null) throw new NodeAbsentError(obstacle ?? '');
    const pair = this.#pairWith(peer);
    if (pair === null) throw new NodeAbsentError('it has no subnet of a family of ours');
    return await askNode<T>({ ...options, ...pair, port, path, token });
  }

  /** Which of our own addresses speaks to which of the peer's; null: none to none. */
  #pairWith(peer: NodeLease): { readonly from: IpAddress; readonly to: IpAddress } | null {
    for (const to of ownAddresses(peer)) {
      const from = this.#own.find((it) => typeof it === typeof to);
      if (from !== undefined) return { from, to };
    }
    return null;
  }

  #tell(error: Error | null): void {
    const text = error?.message ?? '';
    if (text !== this.#problem) this.#options.onProblem(error);
    this.#problem = text;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#moving;
    await Promise.all([...this.#listening.values()].map((it) => it[Symbol.asyncDispose]()));
  }
}
