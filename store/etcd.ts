/** The store in etcd v3, through the etcd3 package. */
import type { Store } from './store.ts';

export interface EtcdOptions {
  /** `http://10.0.0.1:2379` or `https://…`; all of one scheme. */
  readonly endpoints: readonly string[];
  /** PEM contents, not paths. */
  readonly tls?: { readonly ca?: Buffer; readonly cert?: Buffer; readonly key?: Buffer };
  readonly login?: { readonly username: string; readonly password: string };
  /** Each call's deadline. Default 5 s. */
  readonly callTimeoutMs?: number;
}

/** Connects lazily: never fails because etcd is unreachable, only because an option is impossible. */
export function openEtcd(options: EtcdOptions): Store {
  throw new Error(`not yet: ${options.endpoints.join(',')}`);
}
