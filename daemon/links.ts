/**
 * How far the peers are: small datagrams through the overlay, from `.0` to `.0`, that the other daemon sends
 * back. They take the way of packets, VXLAN both ways, and what is lost is not sent again. Nobody is asked
 * unless somebody wants to know: a cluster that is not looked at has no traffic of ours.
 *
 *     0       4       5       9              17
 *     | weft  | kind  | number| secret       |      kind 1 asks, 2 answers; the secret is the asker's own
 */
import { randomBytes } from 'node:crypto';
import { type Socket, createSocket } from 'node:dgram';
import type { NodeLease } from '../ipam/types.ts';
import { type IpAddress, formatAddress, parseAddress } from '../wire/address.ts';
import { ownAddresses } from './cluster-api.ts';
import type { LinkMessage } from './messages.ts';

const MAGIC = Buffer.from('weft');
const LENGTH = 17;
const ASK = 1;
const ANSWER = 2;
/** Each peer is asked so often; more than a hundred peers, less often. */
const ASK_EVERY_MS = 2_000;
const ASK_PAUSE_MS = 20;
/** Later is lost. */
const LATE_MS = 1_000;
const REMEMBERED = 30;
/** Who has looked may look again. */
const WANTED_MS = 30_000;

interface Asked {
  readonly number: number;
  readonly atMs: number;
  rttMs: number | null;
}

/** What was asked of one peer, and what came back. */
export class LinkHistory {
  readonly #asked: Asked[] = [];

  ask(number: number, atMs: number): void {
    this.#asked.push({ number, atMs, rttMs: null });
    if (this.#asked.length > REMEMBERED) this.#asked.shift();
  }

  answered(number: number, atMs: number): void {
    const found = this.#asked.find((it) => it.number === number);
    if (found === undefined || atMs - found.atMs > LATE_MS) return;
    found.rttMs ??= atMs - found.atMs;
  }

  message(key: string, nowMs: number): LinkMessage {
    const over = this.#asked.filter((it) => it.rttMs !== null || nowMs - it.atMs > LATE_MS);
    const times = over
      .flatMap(({ rttMs }) => (rttMs === null ? [] : [rttMs]))
      .sort((a, b) => a - b);
    const median = times[times.length >> 1];
    return {
      key,
      rttMs: median === undefined ? null : Math.round(median * 1000) / 1000,
      sent: over.length,
      answered: times.length,
    };
  }
}

export interface LinksOptions {
  /** Of datagrams, both ends; 0: nobody is asked. */
  readonly port: number;
  readonly peers: () => readonly NodeLease[];
  readonly isPeer: (address: IpAddress | null) => boolean;
  readonly pairWith: (
    peer: NodeLease,
  ) => { readonly from: IpAddress; readonly to: IpAddress } | null;
}

export class Links implements Disposable {
  readonly #options: LinksOptions;
  readonly #sockets = new Map<IpAddress, Socket>();
  readonly #histories = new Map<string, LinkHistory>();
  readonly #secret = randomBytes(8);
  /** By the address that was asked. */
  #asked = new Map<IpAddress, LinkHistory>();
  #number = 0;
  #next = 0;
  #wantedUntilMs = 0;
  #timer: NodeJS.Timeout | null = null;

  constructor(options: LinksOptions) {
    this.#options = options;
  }

  /** Speaks from the addresses of this lease. They are there already. */
  update(lease: NodeLease): void {
    const { port } = this.#options;
    if (port === 0) return;
    const wanted = ownAddresses(lease);
    for (const [address, socket] of this.#sockets) {
      if (wanted.includes(address)) continue;
      this.#sockets.delete(address);
      socket.close();
    }
    for (const address of wanted) {
      if (this.#sockets.has(address)) continue;
      const socket = createSocket(typeof address === 'number' ? 'udp4' : 'udp6');
      this.#sockets.set(address, socket);
      socket.on('message', (message, from) => this.#take(socket, message, from));
      // The next pass over the host opens it again.
      socket.on('error', () => {
        if (this.#sockets.get(address) === socket) this.#sockets.delete(address);
        socket.close();
      });
      socket.bind(port, formatAddress(address));
    }
  }

  /** As far as they are known; the question begins the measurement. */
  messages(): readonly LinkMessage[] {
    const now = performance.now();
    this.#wantedUntilMs = now + WANTED_MS;
    if (this.#timer === null && this.#options.port !== 0) {
      this.#histories.clear();
      this.#timer = setTimeout(() => this.#askNext(), ASK_PAUSE_MS);
    }
    return this.#options.peers().map(({ key }) => {
      const history = this.#histories.get(key) ?? new LinkHistory();
      return history.message(key, now);
    });
  }

  /** One peer a turn, so that no moment has work for all of them. */
  #askNext(): void {
    this.#timer = null;
    if (performance.now() > this.#wantedUntilMs) return;
    const peers = this.#options.peers();
    if (this.#next >= peers.length) this.#begin(peers);
    const peer = peers[this.#next++];
    if (peer !== undefined) this.#ask(peer);
    const pauseMs = Math.max(ASK_EVERY_MS / Math.max(peers.length, 1), ASK_PAUSE_MS);
    this.#timer = setTimeout(() => this.#askNext(), pauseMs);
  }

  #begin(peers: readonly NodeLease[]): void {
    this.#next = 0;
    const keys = new Set(peers.map(({ key }) => key));
    for (const key of this.#histories.keys()) if (!keys.has(key)) this.#histories.delete(key);
    if (this.#asked.size > 2 * peers.length) this.#asked = new Map();
  }

  #ask(peer: NodeLease): void {
    const pair = this.#options.pairWith(peer);
    const socket = pair === null ? undefined : this.#sockets.get(pair.from);
    if (pair === null || socket === undefined) return;
    let history = this.#histories.get(peer.key);
    if (history === undefined) {
      history = new LinkHistory();
      this.#histories.set(peer.key, history);
    }
    this.#asked.set(pair.to, history);
    this.#number = (this.#number + 1) >>> 0;
    const message = Buffer.alloc(LENGTH);
    MAGIC.copy(message);
    message[4] = ASK;
    message.writeUInt32BE(this.#number, 5);
    this.#secret.copy(message, 9);
    history.ask(this.#number, performance.now());
    // What cannot be sent is lost, and counts so.
    socket.send(message, this.#options.port, formatAddress(pair.to), () => 'counted as lost');
  }

  #take(socket: Socket, message: Buffer, from: { address: string; port: number }): void {
    const atMs = performance.now();
    const { port, isPeer } = this.#options;
    if (message.length !== LENGTH || !message.subarray(0, 4).equals(MAGIC)) return;
    if (from.port !== port) return;
    const address = parseAddress(from.address);
    if (!isPeer(address)) return;
    if (message[4] === ASK) {
      message[4] = ANSWER;
      socket.send(message, port, from.address, () => 'counted as lost over there');
    } else if (message[4] === ANSWER && message.subarray(9).equals(this.#secret)) {
      this.#asked.get(address)?.answered(message.readUInt32BE(5), atMs);
    }
  }

  [Symbol.dispose](): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    for (const socket of this.#sockets.values()) socket.close();
  }
}
