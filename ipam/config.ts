/** `<prefix>/config`: flannel's network configuration, parsed and checked. */
import type { Store } from '../store/store.ts';
import type { NetworkConfig } from './types.ts';

/** The cluster's configuration cannot be used. The message names the field and the way out. */
export class NetworkConfigError extends Error {
  readonly code = 'ERR_NETWORK_CONFIG';
}

/** @throws NetworkConfigError */
export function parseNetworkConfig(text: string): NetworkConfig {
  throw new NetworkConfigError(`not yet: ${text}`);
}

/** One try. @throws NetworkConfigError if it is absent or wrong; StoreError */
export async function readNetworkConfig(
  store: Store,
  prefix: string,
  signal?: AbortSignal,
): Promise<NetworkConfig> {
  const entry = await store.get(`${prefix}/config`, signal);
  return parseNetworkConfig(entry?.value ?? '');
}
