/** The lab's etcd: a real one in a namespace, on the underlay, and flannel's keys in it. */
import { join } from 'node:path';
import type { Cidr } from '../../wire/cidr.ts';
import { formatCidr } from '../../wire/cidr.ts';
import { run } from '../../linux/program.ts';
import { type EtcdServer, startEtcd } from './etcd.ts';

const PORT = 2379;
export const ETCD_PREFIX = '/coreos.com/network';

/** The network's configuration as flannel's `config` key has it. */
export interface FlannelConfig {
  readonly Network?: string;
  readonly SubnetLen?: number;
  readonly IPv6Network?: string;
  readonly IPv6SubnetLen?: number;
  readonly EnableIPv4: boolean;
  readonly EnableIPv6: boolean;
  readonly Backend: {
    readonly Type: 'vxlan';
    readonly VNI?: number;
    readonly Port?: number;
    readonly MTU?: number;
    readonly DirectRouting?: boolean;
  };
}

/** A node's lease as flannel writes it. */
export interface FlannelLease {
  readonly PublicIP: string;
  readonly PublicIPv6: string | null;
  readonly BackendType: string;
  readonly BackendData?: { readonly VNI: number; readonly VtepMAC: string } | null;
  readonly BackendV6Data?: { readonly VNI: number; readonly VtepMAC: string } | null;
}

export interface LeaseEntry {
  /** `10.244.1.0-24` or `10.244.1.0-24&fd00:10:244:1::-64`. */
  readonly key: string;
  readonly subnet4: string | null;
  readonly subnet6: string | null;
  readonly lease: FlannelLease;
}

const part = (subnet: Cidr): string => formatCidr(subnet).replace('/', '-');

/** Flannel's key of a lease; without an IPv4 network its part is all zeros. */
export function leaseKey(subnet4: Cidr | null, subnet6: Cidr | null): string {
  const first = subnet4 === null ? '0.0.0.0-0' : part(subnet4);
  return subnet6 === null ? first : `${first}&${part(subnet6)}`;
}

export class LabStore {
  readonly netns: string;
  readonly endpoint: string;
  readonly #address: string;
  readonly #directory: string;
  #etcd: EtcdServer | null = null;

  constructor(netns: string, address: string, directory: string) {
    this.netns = netns;
    this.endpoint = `http://${address.includes(':') ? `[${address}]` : address}:${PORT}`;
    this.#address = address;
    this.#directory = directory;
  }

  /** The running etcd, for tests that pause or kill it. @throws Error when there is none */
  get etcd(): EtcdServer {
    if (this.#etcd === null) throw new Error('the lab has no etcd running');
    return this.#etcd;
  }

  async start(): Promise<void> {
    this.#etcd = await startEtcd({
      listenIp: this.#address,
      port: PORT,
      dataDir: join(this.#directory, 'etcd'),
      commandPrefix: ['ip', 'netns', 'exec', this.netns],
      // It shares two processors with what is measured: no tick every 10 ms.
      flags: ['--heartbeat-interval=100', '--election-timeout=500'],
    });
  }

  /** The data stay: `start` goes on with them. */
  async stop(): Promise<void> {
    await this.#etcd?.stop();
    this.#etcd = null;
  }

  /** etcdctl's stdout. @throws ProgramError */
  ctl(words: readonly string[], input?: string): Promise<string> {
    return run(['etcdctl', '--command-timeout=20s', '--endpoints', this.endpoint, ...words], {
      netns: this.netns,
      env: { ETCDCTL_API: '3' },
      input,
    });
  }

  async putConfig(config: FlannelConfig): Promise<void> {
    await this.ctl(['put', `${ETCD_PREFIX}/config`], JSON.stringify(config));
  }

  async leases(): Promise<LeaseEntry[]> {
    const text = await this.ctl(['get', '--prefix', `${ETCD_PREFIX}/subnets/`, '-w', 'json']);
    const { kvs = [] } = JSON.parse(text) as { kvs?: { key: string; value: string }[] };
    return kvs.map((pair) => {
      const path = Buffer.from(pair.key, 'base64').toString();
      const key = path.slice(path.lastIndexOf('/') + 1);
      const [four, six] = key.split('&').map((part) => part.replace(/-(\d+)$/, '/$1'));
      return {
        key,
        subnet4: four === '0.0.0.0/0' ? null : four!,
        subnet6: six ?? null,
        lease: JSON.parse(Buffer.from(pair.value, 'base64').toString()) as FlannelLease,
      };
    });
  }

  /** Writes a lease of 24 h as flannel does. @returns false if the key is taken */
  async acquire(key: string, lease: FlannelLease): Promise<boolean> {
    const granted = await this.ctl(['lease', 'grant', '86400']);
    const id = /lease ([0-9a-f]+) granted/.exec(granted)![1]!;
    const path = JSON.stringify(`${ETCD_PREFIX}/subnets/${key}`);
    const value = JSON.stringify(JSON.stringify(lease));
    // Compares, operations on success, operations on failure: blank lines part them.
    const transaction = `version(${path}) = "0"\n\nput ${path} ${value} --lease=${id}\n\n\n`;
    return (await this.ctl(['txn'], transaction)).startsWith('SUCCESS');
  }

  /** Deletes a lease's key, as its end would. */
  async remove(key: string): Promise<void> {
    await this.ctl(['del', `${ETCD_PREFIX}/subnets/${key}`]);
  }
}
