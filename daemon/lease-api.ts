/** The cluster's leases, as an operator sees them and gives them back. */
import type { LeaseKeeper } from '../ipam/lease-keeper.ts';
import { listLeases, releaseLease } from '../ipam/lease-list.ts';
import type { NetworkConfig, NodeIdentity, NodeLease } from '../ipam/types.ts';
import { type Store, StoreError } from '../store/store.ts';
import { addressOrNull, formatAddress } from '../wire/address.ts';
import { ApiError, type ApiRoute } from './api.ts';
import { type LeaseMessage, type LeasesMessage, leaseMessage } from './messages.ts';

export interface LeaseApiOptions {
  readonly prefix: string;
  /** @throws ApiError 503 before the network config was read */
  readonly known: () => {
    readonly store: Store;
    readonly network: NetworkConfig;
    readonly own: Pick<NodeIdentity, 'publicIp4' | 'publicIp6'>;
  };
  readonly keeper: () => LeaseKeeper | null;
  /** Seconds that our lease may still be used; null: there is none, or it has no end. */
  readonly endsInS: () => number | null;
  /** Our lease was given back: without one there is nothing to do. */
  readonly onReleased: (key: string) => Promise<void>;
}

export class LeaseApi {
  readonly #options: LeaseApiOptions;

  constructor(options: LeaseApiOptions) {
    this.#options = options;
  }

  routes(): readonly ApiRoute[] {
    const path = '/v1/leases/:which';
    return [
      { method: 'GET', path: '/v1/leases', answer: () => this.#list() },
      { method: 'GET', path, answer: ({ parts }) => this.#show(parts['which'] ?? '') },
      {
        method: 'DELETE',
        path,
        answer: ({ parts, query }) =>
          this.#release(parts['which'] ?? '', query.get('reservations') === 'true'),
      },
    ];
  }

  /** @throws ApiError 503 before the network config was read, or when etcd does not answer */
  async #list(): Promise<LeasesMessage> {
    const { prefix, known, endsInS } = this.#options;
    const { store, network, own } = known();
    const { leases, problems } = await asking(listLeases(store, prefix, network));
    const isOwn = (it: NodeLease): boolean =>
      (own.publicIp4 !== null && it.publicIp4 === own.publicIp4) ||
      (own.publicIp6 !== null && it.publicIp6 === own.publicIp6);
    const message = (it: NodeLease): LeaseMessage =>
      isOwn(it) ? leaseMessage(it, true, endsInS()) : leaseMessage(it, false);
    return { leases: leases.map(message), problems };
  }

  async #show(which: string): Promise<LeaseMessage> {
    const { leases } = await this.#list();
    const found = leases.find((it) => namesLease(it, which));
    if (found !== undefined) return found;
    throw new ApiError(404, 'ERR_NO_LEASE', `no lease has the key or public address "${which}"`);
  }

  /** Ours, or a dead node's. */
  async #release(which: string, reservations: boolean): Promise<unknown> {
    const { prefix, known, keeper, onReleased } = this.#options;
    const lease = await this.#show(which);
    if (lease.reserved && !reservations) {
      throw new ApiError(409, 'ERR_RESERVED', `${lease.key} is a reservation; say --reservations`);
    }
    const own = keeper();
    if (lease.own && own !== null) {
      await asking(own.release());
      await onReleased(lease.key);
      return { kind: 'released', key: lease.key };
    }
    return await asking(releaseLease(known().store, prefix, lease.key, { reservations }));
  }
}

async function asking<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (cause) {
    if (!(cause instanceof StoreError)) throw cause;
    throw new ApiError(503, cause.code, cause.message, { cause });
  }
}

/** By its key, `10.5.52.0-24`, or its node's public address in any spelling. */
function namesLease(lease: LeaseMessage, which: string): boolean {
  if (which === 'own') return lease.own;
  if (which === lease.key) return true;
  const address = addressOrNull(which);
  if (address === null) return false;
  const text = formatAddress(address);
  return text === lease.publicIp || text === lease.publicIpv6;
}
