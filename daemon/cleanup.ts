/** `weft cleanup`: the host as if there had never been a daemon. As often as you like. */
import { existsSync } from 'node:fs';
import { rm, rmdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { readNetworkConfig } from '../ipam/config.ts';
import { listLeases, releaseLease } from '../ipam/lease-list.ts';
import type { NodeLease } from '../ipam/types.ts';
import { cidrsEqual } from '../wire/cidr.ts';
import { type Config, ConfigError, OPTIONS } from './config.ts';
import { type EtcdChild, startEtcd } from './etcd-child.ts';
import { removeHost } from './host-state.ts';
import type { Log } from './log.ts';
import { openStore } from './network.ts';
import { deletePodsOf } from './own-pods.ts';
import { PodHost } from './pod-host.ts';
import { requireProgram } from './programs.ts';
import { type NodeRecord, lockStateDir, readNode, stateFiles } from './state-dir.ts';

export interface CleanupOptions {
  readonly releaseLease: boolean;
  /** Our own etcd's files too: the network config and whatever else was kept there. */
  readonly purge: boolean;
}

/** The lease is still in etcd; nothing was removed, so that it can be tried again. */
export class ReleaseError extends Error {
  override readonly name = 'ReleaseError';
  readonly code = 'ERR_RELEASE';
}

const isOurs = (lease: NodeLease, { mac, subnet4, subnet6 }: NodeRecord): boolean => {
  const sameSubnet =
    (subnet4 !== null && lease.subnet4 !== null && cidrsEqual(subnet4, lease.subnet4)) ||
    (subnet6 !== null && lease.subnet6 !== null && cidrsEqual(subnet6, lease.subnet6));
  return sameSubnet && (lease.vtep4 ?? lease.vtep6)?.mac === mac;
};

async function releaseOwn(config: Config, log: Log, signal: AbortSignal): Promise<string | null> {
  const { stateDir, etcdPrefix, etcdEndpoints } = config;
  const files = stateFiles(stateDir);
  await using open = new AsyncDisposableStack();
  let etcd: EtcdChild | null = null;
  if (etcdEndpoints.length === 0) {
    // Never started here: then there is no lease either.
    if (!existsSync(files.etcd)) return null;
    requireProgram('etcd');
    etcd = open.use(await startEtcd(files.etcd, log, signal));
  }
  const store = open.use(await openStore(config, etcd));
  try {
    const network = await readNetworkConfig(store, etcdPrefix, signal);
    const record = await readNode(stateDir);
    const { leases } = await listLeases(store, etcdPrefix, network);
    await deletePodsOf(store, etcdPrefix, config.nodeName);
    const own = leases.find((it) => isOurs(it, record));
    if (own === undefined || own.reserved) return null;
    await releaseLease(store, etcdPrefix, own.key);
    return own.key;
  } catch (cause) {
    const { message } = cause as Error;
    throw new ReleaseError(`the lease was not given back: ${message}; nothing was removed`, {
      cause,
    });
  }
}

/**
 * Gives what it removed, one line each.
 * @throws StateDirBusyError while a daemon runs; ReleaseError
 */
export async function cleanUp(
  config: Config,
  options: CleanupOptions,
  log: Log,
  signal: AbortSignal,
): Promise<readonly string[]> {
  requireProgram('ip');
  requireProgram('nft');
  if (process.getuid?.() !== 0) throw new ConfigError('cleanup removes interfaces: run it as root');
  const { stateDir, subnetFile, tunName } = config;
  const files = stateFiles(stateDir);
  const removed: string[] = [];
  using _lock = existsSync(stateDir) ? await lockStateDir(stateDir) : null;
  if (options.releaseLease) {
    const key = await releaseOwn(config, log, signal);
    if (key !== null) removed.push(`lease ${key}`);
  }
  {
    // Pods lose their network, as they would have no way out of it any more.
    using pods = new PodHost();
    removed.push(...pods.removeAll());
  }
  removed.push(...(await removeHost(tunName, stateDir)));
  const { flowFile } = config;
  const paths = [
    subnetFile,
    flowFile,
    files.socket,
    files.node,
    files.sysctls,
    files.pods,
    files.retained,
    files.deleted,
  ];
  if (options.purge) paths.push(files.etcd);
  for (const path of paths) {
    if (!existsSync(path)) continue;
    await rm(path, { recursive: path === files.etcd || path === files.deleted });
    removed.push(path);
  }
  await rm(files.lock, { force: true });
  await removeIfEmpty(stateDir);
  // The folders of the defaults are made by us; others are the operator's.
  if (subnetFile === OPTIONS.subnetFile.text) await removeIfEmpty(dirname(subnetFile));
  if (flowFile === OPTIONS.flowFile.text) await removeIfEmpty(dirname(flowFile));
  return removed;
}

async function removeIfEmpty(dir: string): Promise<void> {
  try {
    await rmdir(dir);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTEMPTY' && code !== 'EBUSY') throw error;
  }
}
