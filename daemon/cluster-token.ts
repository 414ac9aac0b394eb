/** What all daemons of a cluster share, and a pod does not: `<prefix>/weft/cluster-token` in etcd. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Store } from '../store/store.ts';

const TOKEN = /^[0-9a-f]{64}$/;
/** Daemons that start together race for the first write; one of them wins. */
const TRIES = 5;

/** Somebody has written something else there. */
export class ClusterTokenError extends Error {
  override readonly name = 'ClusterTokenError';
  readonly code = 'ERR_CLUSTER_TOKEN';
}

/**
 * The token in etcd; the first who asks makes it.
 * @throws ClusterTokenError, StoreError
 */
export async function clusterToken(
  store: Store,
  prefix: string,
  signal?: AbortSignal,
): Promise<string> {
  const key = `${prefix}/weft/cluster-token`;
  for (let i = 0; i < TRIES; i++) {
    const entry = await store.get(key, signal);
    if (entry !== null) {
      if (TOKEN.test(entry.value)) return entry.value;
      throw new ClusterTokenError(
        `${key} in etcd is no token; nodes do not answer one another until it is deleted`,
      );
    }
    const value = randomBytes(32).toString('hex');
    if ((await store.commit({ kind: 'create', key, value, leaseId: null }, signal)) !== null) {
      return value;
    }
  }
  throw new ClusterTokenError(`${key} in etcd comes and goes; nodes do not answer one another`);
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

/** Takes as long whatever was given. */
export const isSameSecret = (given: string, wanted: string): boolean =>
  timingSafeEqual(digest(given), digest(wanted));
