/**
 * What outlives the daemon, in a directory of its own (mode 0700):
 *
 *     node.json     our VTEP's address and the last subnets, so that a restart is the same node
 *     pods.json     the pods here and their addresses (ipam/pod-file.ts)
 *     deleted/      pods deleted while no daemon ran; the next one frees their addresses
 *     retained.json policies that outlive their deletion (daemon/retained-policies.ts)
 *     sysctls.json  global kernel settings as they were before us, for `weft cleanup`
 *     page-token    what the page asks for where it is not on loopback
 *     lock          held while a daemon or a cleanup runs
 *     weft.sock     the API, while the daemon runs
 *     etcd/         our own etcd's files, without --etcd-endpoints
 */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile } from 'node:fs/promises';
import { z } from 'zod';
import { replaceFile } from '../linux/files.ts';
import { tryLock } from '../linux/lock.ts';
import { type Mac, formatMac, isUnicastMac, localMac, parseMac } from '../wire/mac.ts';
import { type Cidr4, type Cidr6, formatCidr, parseCidr } from '../wire/cidr.ts';

/** Another process works with the same state directory. */
export class StateDirBusyError extends Error {
  override readonly name = 'StateDirBusyError';
  readonly code = 'ERR_STATE_DIR_BUSY';
}

export const stateFiles = (dir: string) =>
  ({
    node: `${dir}/node.json`,
    pods: `${dir}/pods.json`,
    deleted: `${dir}/deleted`,
    retained: `${dir}/retained.json`,
    sysctls: `${dir}/sysctls.json`,
    pageToken: `${dir}/page-token`,
    lock: `${dir}/lock`,
    socket: `${dir}/weft.sock`,
    etcd: `${dir}/etcd`,
  }) as const;

export interface NodeRecord {
  readonly mac: Mac;
  readonly subnet4: Cidr4 | null;
  readonly subnet6: Cidr6 | null;
}

const nodeSchema = z.object({
  mac: z.string(),
  subnet4: z.string().nullable(),
  subnet6: z.string().nullable(),
});
const sysctlsSchema = z.record(
  z.string().regex(/^net\/ipv[46]\/(?!.*\/\.\.\/)[^\s\0]+$/),
  z.string(),
);

const busy = (dir: string): StateDirBusyError =>
  new StateDirBusyError(`another weft runs with the state directory ${dir}; stop it first`);

/** Makes the directory if it is absent, and takes its lock. @throws StateDirBusyError */
export async function lockStateDir(dir: string): Promise<Disposable> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await chmod(dir, 0o700);
  const lock = tryLock(stateFiles(dir).lock);
  if (lock !== null) return lock;
  throw busy(dir);
}

/** The same refusal without making anything. @throws StateDirBusyError */
export function refuseBusyStateDir(dir: string): void {
  const { lock: path } = stateFiles(dir);
  if (!existsSync(path)) return;
  const lock = tryLock(path);
  if (lock === null) throw busy(dir);
  lock[Symbol.dispose]();
}

async function readJson(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // A file cut short by a power failure is as good as none: what it holds can be had again.
    if (code === 'ENOENT' || error instanceof SyntaxError) return null;
    throw error;
  }
}

const subnetOf = <F extends 4 | 6>(family: F, text: string | null) => {
  const block = text === null ? null : parseCidr(text);
  return block?.family === family ? (block as F extends 4 ? Cidr4 : Cidr6) : null;
};

/** The node's record; a fresh one with a random address if there is none that can be read. */
export async function readNode(dir: string): Promise<NodeRecord> {
  const parsed = nodeSchema.safeParse(await readJson(stateFiles(dir).node));
  if (parsed.success) {
    try {
      const { mac, subnet4, subnet6 } = parsed.data;
      const record = {
        mac: parseMac(mac),
        subnet4: subnetOf(4, subnet4),
        subnet6: subnetOf(6, subnet6),
      };
      if (isUnicastMac(record.mac)) return record;
    } catch (error) {
      if (!(error instanceof RangeError) && !(error instanceof Error && 'code' in error))
        throw error;
    }
  }
  return { mac: localMac(randomBytes(6)), subnet4: null, subnet6: null };
}

export async function writeNode(dir: string, record: NodeRecord): Promise<void> {
  const text = JSON.stringify({
    mac: formatMac(record.mac),
    subnet4: record.subnet4 && formatCidr(record.subnet4),
    subnet6: record.subnet6 && formatCidr(record.subnet6),
  });
  await replaceFile(stateFiles(dir).node, `${text}\n`, 0o600);
}

/** Settings as they were before we changed them, by path. */
export async function readSysctlRecord(dir: string): Promise<Readonly<Record<string, string>>> {
  const parsed = sysctlsSchema.safeParse(await readJson(stateFiles(dir).sysctls));
  return parsed.success ? parsed.data : {};
}

export async function writeSysctlRecord(
  dir: string,
  record: Readonly<Record<string, string>>,
): Promise<void> {
  await replaceFile(stateFiles(dir).sysctls, `${JSON.stringify(record)}\n`, 0o600);
}
