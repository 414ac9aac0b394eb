/** A real etcd of one member, for tests, demo and benchmarks. It dies with the process that started it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { poll } from '../../linux/program.ts';

export interface EtcdServerOptions {
  /** Kept when given; otherwise a new one, deleted by stop(). */
  readonly dataDir?: string;
  /** Where clients connect. Default 127.0.0.1. */
  readonly listenIp?: string;
  /** Default: one that is free in *this* network namespace. */
  readonly port?: number;
  /** Put before the command: `['ip', 'netns', 'exec', NS]`. */
  readonly commandPrefix?: readonly string[];
  /** More of etcd's own flags. */
  readonly flags?: readonly string[];
  /** 'https' when the flags bring certificates. */
  readonly scheme?: 'http' | 'https';
}

export interface EtcdServer extends AsyncDisposable {
  readonly endpoint: string;
  readonly port: number;
  readonly dataDir: string;
  /** Ends it in order; deletes the data directory it made. */
  stop(): Promise<void>;
  /** Ends it at once; the data stays, for another start on the same dataDir and port. */
  kill(): Promise<void>;
  /** Frozen when it returns: connections stand, nothing answers. */
  pause(): Promise<void>;
  resume(): void;
}

/** @throws Error with etcd's last words if it does not get ready within 20 s */
export async function startEtcd(options: EtcdServerOptions = {}): Promise<EtcdServer> {
  const listenIp = options.listenIp ?? '127.0.0.1';
  const host = listenIp.includes(':') ? `[${listenIp}]` : listenIp;
  const port = options.port ?? (await freePort());
  const dataDir = options.dataDir ?? (await mkdtemp(join(tmpdir(), 'weft-etcd-')));
  const endpoint = `${options.scheme ?? 'http'}://${host}:${port}`;
  const [command, ...args] = [
    ...(options.commandPrefix ?? []),
    // The kernel ends etcd with us, even if we crash.
    'setpriv',
    '--pdeathsig=KILL',
    'etcd',
    `--data-dir=${dataDir}`,
    `--listen-client-urls=${endpoint}`,
    `--advertise-client-urls=${endpoint}`,
    // No peers: any free port, never used.
    '--listen-peer-urls=http://127.0.0.1:0',
    '--heartbeat-interval=10',
    '--election-timeout=50',
    '--logger=zap',
    '--log-outputs=stderr',
    ...(options.flags ?? []),
  ];
  const child = spawn(command!, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const exited = once(child, 'exit');
  await ready(child, endpoint);

  const end = async (signal: NodeJS.Signals): Promise<void> => {
    child.kill('SIGCONT');
    child.kill(signal);
    await exited;
  };
  const stop = async (): Promise<void> => {
    await end('SIGTERM');
    if (options.dataDir === undefined) await rm(dataDir, { recursive: true, force: true });
  };
  return {
    endpoint,
    port,
    dataDir,
    stop,
    kill: () => end('SIGKILL'),
    pause: async () => {
      child.kill('SIGSTOP');
      await poll(() => allStopped(child.pid!), AbortSignal.timeout(10_000), 1);
    },
    resume: () => void child.kill('SIGCONT'),
    [Symbol.asyncDispose]: stop,
  };
}

/** A signal stops threads one after the other. */
async function allStopped(pid: number): Promise<true | undefined> {
  const tasks = `/proc/${pid}/task`;
  for (const thread of await readdir(tasks)) {
    const stat = await readFile(join(tasks, thread, 'stat'), 'utf8');
    if (!stat.slice(stat.lastIndexOf(')')).startsWith(') T')) return undefined;
  }
  return true;
}

async function ready(child: ChildProcess, endpoint: string): Promise<void> {
  const words: string[] = [];
  const isReady = Promise.withResolvers<void>();
  const give = (why: string): void =>
    isReady.reject(new Error(`etcd for ${endpoint} ${why}:\n${words.slice(-20).join('\n')}`));
  createInterface({ input: child.stderr! }).on('line', (line) => {
    words.push(line);
    if (words.length > 200) words.shift();
    if (line.includes('serving client traffic')) isReady.resolve();
  });
  child.once('error', (error) => isReady.reject(error));
  child.once('exit', () => give('ended'));
  const timer = setTimeout(() => {
    child.kill('SIGKILL');
    give('is not ready after 20 s');
  }, 20_000);
  try {
    await isReady.promise;
  } finally {
    clearTimeout(timer);
  }
}

/** Free a moment ago: etcd ends with its words if somebody else was faster. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no TCP port');
  return address.port;
}
