/**
 * What somebody needs who looks for a fault and cannot log in here: the daemon's answers and the host's state,
 * without secrets. What cannot be had is noted, and the rest is there.
 */
import { open, readFile, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { collect } from '../linux/program.ts';
import { readSysctl } from '../linux/sysctl.ts';
import type { StatusMessage } from './messages.ts';
import type { Ask } from './object-commands.ts';
import { redact } from './redact.ts';
import { NFT_FAMILY, NFT_TABLE } from './ruleset.ts';
import { type TarEntry, tarOf } from './tar.ts';
import { VERSION } from './version.ts';

const PROGRAM_WITHIN_MS = 10_000;
/** Of each file the beginning, of the log the end. */
const FILE_CHARS_MAX = 8 << 20;
const LOG_BYTES_MAX = 2 << 20;
const FLOWS_MAX = 10_000;

/** Files by the questions to the daemon. */
const ANSWERS: Readonly<Record<string, string>> = {
  'status.json': '/v1/status',
  'peers.json': '/v1/peers',
  'leases.json': '/v1/leases',
  'flows.json': `/v1/flows?since=10m&limit=${FLOWS_MAX}`,
  'ipam.json': '/v1/ipam',
  'ipam-check.json': '/v1/ipam/check',
  'host-check.json': '/v1/host/check',
};

const PROGRAMS: Readonly<Record<string, readonly string[]>> = {
  'host/uname.txt': ['uname', '-a'],
  'host/ip-version.txt': ['ip', '-V'],
  'host/nft-version.txt': ['nft', '--version'],
  'host/ip-addr.txt': ['ip', '-details', 'addr'],
  'host/ip-link-statistics.txt': ['ip', '-statistics', 'link'],
  'host/ip-route-4.txt': ['ip', '-4', 'route', 'show', 'table', 'all'],
  'host/ip-route-6.txt': ['ip', '-6', 'route', 'show', 'table', 'all'],
  'host/ip-rule-4.txt': ['ip', '-4', 'rule'],
  'host/ip-rule-6.txt': ['ip', '-6', 'rule'],
  'host/nft-table.txt': ['nft', 'list', 'table', NFT_FAMILY, NFT_TABLE],
  'host/nft-tables.txt': ['nft', 'list', 'tables'],
  'host/sockets.txt': ['ss', '-uan'],
};

const FILES: Readonly<Record<string, string>> = {
  'host/os-release.txt': '/etc/os-release',
  'host/meminfo.txt': '/proc/meminfo',
  'host/softnet_stat.txt': '/proc/net/softnet_stat',
  'host/snmp.txt': '/proc/net/snmp',
};

const sysctlsOf = (tun: string, iface: string): readonly string[] => [
  'net/ipv4/ip_forward',
  'net/ipv4/ip_early_demux',
  'net/ipv4/conf/all/rp_filter',
  'net/ipv4/conf/all/accept_local',
  'net/ipv6/conf/all/forwarding',
  'net/ipv6/conf/all/disable_ipv6',
  `net/ipv4/conf/${tun}/rp_filter`,
  `net/ipv4/conf/${tun}/accept_local`,
  `net/ipv4/conf/${tun}/route_localnet`,
  `net/ipv6/conf/${tun}/accept_ra`,
  `net/ipv6/conf/${iface}/accept_ra`,
  'net/core/rmem_max',
  'net/core/wmem_max',
  'net/core/netdev_max_backlog',
  'net/netfilter/nf_conntrack_max',
  'net/netfilter/nf_conntrack_count',
];

export interface ReportOptions {
  readonly ask: Ask;
  /** Values that must not be in it. */
  readonly secrets: readonly string[];
  /** The daemon's, or null: the journal's unit weft is asked. */
  readonly logFile: string | null;
  /** For tests: instead of the host's. */
  readonly programs?: Readonly<Record<string, readonly string[]>>;
}

export interface Report {
  readonly entries: readonly TarEntry[];
  /** A line each. */
  readonly failures: readonly string[];
}

async function outputOf(argv: readonly string[]): Promise<string> {
  const signal = AbortSignal.timeout(PROGRAM_WITHIN_MS);
  const { stdout, stderr, exitCode } = await collect(argv, { signal });
  if (exitCode !== 0) throw new Error(`${argv.join(' ')}: exit code ${exitCode}: ${stderr.trim()}`);
  return stdout;
}

async function endOf(path: string): Promise<string> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  const bytes = Math.min(size, LOG_BYTES_MAX);
  const buffer = Buffer.alloc(bytes);
  const { bytesRead } = await file.read(buffer, 0, bytes, size - bytes);
  return buffer.toString('utf8', 0, bytesRead);
}

const asJson = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/** @throws nothing: what cannot be had is among the failures */
export async function collectReport(options: ReportOptions): Promise<Report> {
  const { ask, secrets, logFile } = options;
  const entries: TarEntry[] = [];
  const failures: string[] = [];
  const clean = (text: string): string => redact(text, secrets);
  const add = async (name: string, read: () => Promise<string>): Promise<void> => {
    try {
      const text = clean(await read());
      const isCut = text.length > FILE_CHARS_MAX;
      entries.push({ name, text: isCut ? text.slice(0, FILE_CHARS_MAX) : text });
      if (isCut) failures.push(`${name}: only its first ${FILE_CHARS_MAX} characters`);
    } catch (error) {
      failures.push(clean(`${name}: ${error instanceof Error ? error.message : String(error)}`));
    }
  };
  let status: StatusMessage | null = null;
  for (const [name, path] of Object.entries(ANSWERS)) {
    await add(name, async () => {
      const answer = await ask<unknown>('GET', path);
      if (name === 'status.json') status = answer as StatusMessage;
      return asJson(answer);
    });
  }
  await add('objects.json', () => {
    if (status === null) return Promise.reject(new Error('the daemon did not answer'));
    return Promise.resolve(asJson(status.objects));
  });
  await add('config.yaml', async () => (await ask<{ text: string }>('GET', '/v1/config')).text);
  for (const [name, argv] of Object.entries(options.programs ?? PROGRAMS)) {
    await add(name, () => outputOf(argv));
  }
  for (const [name, path] of Object.entries(FILES)) await add(name, () => readFile(path, 'utf8'));
  await add('host/sysctls.txt', () => sysctlsText(status));
  await add('log.txt', () =>
    logFile === null
      ? outputOf(['journalctl', '--unit=weft', '--lines=5000', '--output=cat', '--no-pager'])
      : endOf(logFile),
  );
  const versions = { weft: VERSION, node: process.version, versions: process.versions };
  await add('versions.json', () => Promise.resolve(asJson(versions)));
  const failed = failures.length === 0 ? 'none' : failures.join('\n');
  entries.unshift({
    name: 'README.txt',
    text: `A report of weft ${VERSION}, ${new Date().toISOString()}.\nSecrets are left out; names and addresses are not.\n\nWhat could not be had:\n${failed}\n`,
  });
  return { entries, failures };
}

async function sysctlsText(status: StatusMessage | null): Promise<string> {
  const paths = sysctlsOf(status?.overlay?.tunName ?? 'weft0', status?.underlay.iface ?? 'eth0');
  const lines = await Promise.all(
    paths.map(async (path) => `${path} = ${(await readSysctl(path)) ?? '(not there)'}`),
  );
  return `${lines.join('\n')}\n`;
}

/** Only its owner may read it. @throws when the file is there already or cannot be written */
export async function writeReport(file: string, { entries }: Report): Promise<void> {
  const archive = await promisify(gzip)(tarOf(entries, Math.floor(Date.now() / 1000)));
  await writeFile(file, archive, { mode: 0o600, flag: 'wx' });
}
