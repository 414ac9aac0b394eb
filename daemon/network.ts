/** The cluster's memory as the daemon opens it, and the network it says we are part of. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { readNetworkConfig } from '../ipam/config.ts';
import type { NetworkConfig } from '../ipam/types.ts';
import type { Store } from '../store/store.ts';
import { formatCidr } from '../wire/cidr.ts';
import type { Config } from './config.ts';
import type { EtcdChild } from './etcd-child.ts';

const RETRY_AFTER_MS = 2_000;

/**
 * Loads the client only now: that takes a third of a start, and threads of the packet path start meanwhile.
 * @param child our own etcd, without --etcd-endpoints
 */
export async function openStore(config: Config, child: EtcdChild | null): Promise<Store> {
  const { openEtcd } = await import('../store/etcd.ts');
  const { etcdCafile, etcdCertfile, etcdKeyfile, etcdUsername, etcdPassword } = config;
  if (child !== null) return openEtcd({ endpoints: [child.endpoint] });
  const tls = {
    ...(etcdCafile === null ? {} : { ca: readFileSync(etcdCafile) }),
    ...(etcdCertfile === null ? {} : { cert: readFileSync(etcdCertfile) }),
    ...(etcdKeyfile === null ? {} : { key: readFileSync(etcdKeyfile) }),
  };
  return openEtcd({
    endpoints: config.etcdEndpoints,
    ...(Object.keys(tls).length === 0 ? {} : { tls }),
    ...(etcdUsername === null || etcdPassword === null
      ? {}
      : { login: { username: etcdUsername, password: etcdPassword } }),
  });
}

/** An etcd of our own begins empty: the first start writes the network; later ones leave it alone. */
export async function writeFirstConfig(
  store: Store,
  config: Pick<Config, 'etcdPrefix' | 'network' | 'ipv6Network'>,
  signal: AbortSignal,
): Promise<boolean> {
  const { network, ipv6Network } = config;
  const value = JSON.stringify({
    EnableIPv4: network !== null,
    EnableIPv6: ipv6Network !== null,
    ...(network === null ? {} : { Network: formatCidr(network) }),
    ...(ipv6Network === null ? {} : { IPv6Network: formatCidr(ipv6Network) }),
    Backend: { Type: 'vxlan' },
  });
  const key = `${config.etcdPrefix}/config`;
  const revision = await store.commit({ kind: 'create', key, value, leaseId: null }, signal);
  return revision !== null;
}

/** Asks until there is a config that can be used; a wrong one may be mended meanwhile. */
export async function awaitNetworkConfig(
  store: Store,
  prefix: string,
  signal: AbortSignal,
  onFailure: (error: Error) => void,
): Promise<NetworkConfig> {
  for (;;) {
    try {
      return await readNetworkConfig(store, prefix, signal);
    } catch (error) {
      signal.throwIfAborted();
      onFailure(error as Error);
    }
    await sleep(RETRY_AFTER_MS, undefined, { signal });
  }
}
