/**
 * An etcd of our own, for one machine: a child on loopback, its files in the state directory. Started
 * when no --etcd-endpoints is given; started again when it ends by itself; ended by its own pid.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Log } from './log.ts';
import { findProgram } from './programs.ts';

/** Our own etcd does not run: without it there is no lease, and so no traffic. */
export class EtcdChildError extends Error {
  override readonly name = 'EtcdChildError';
  readonly code = 'ERR_ETCD_CHILD';
}

export interface EtcdChild extends AsyncDisposable {
  readonly endpoint: string;
  readonly pid: number;
}

const READY_WITHIN_MS = 20_000;
const STOP_WITHIN_MS = 5_000;
const RESTART_AFTER_MS = 1_000;

/** Two ports that nobody on loopback has now; etcd says so if somebody takes one in between. */
async function freePorts(): Promise<readonly [number, number]> {
  const servers = [createServer(), createServer()];
  const ports: number[] = [];
  for (const server of servers) {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject).listen(0, '127.0.0.1', resolve);
    });
    ports.push((server.address() as AddressInfo).port);
  }
  for (const server of servers) server.close();
  return [ports[0]!, ports[1]!];
}

function launch(stateDir: string, ports: readonly [number, number]): ChildProcess {
  const client = `http://127.0.0.1:${ports[0]}`;
  const peer = `http://127.0.0.1:${ports[1]}`;
  const etcd = [
    findProgram('etcd') ?? 'etcd',
    '--name=weft',
    `--data-dir=${stateDir}`,
    `--listen-client-urls=${client}`,
    `--advertise-client-urls=${client}`,
    `--listen-peer-urls=${peer}`,
    `--initial-advertise-peer-urls=${peer}`,
    `--initial-cluster=weft=${peer}`,
    '--auto-compaction-retention=1h',
    '--logger=zap',
    '--log-level=warn',
  ];
  // A daemon that is killed outright must not leave its etcd behind: the kernel ends it.
  const setpriv = findProgram('setpriv');
  const [program, ...args] =
    setpriv === null ? etcd : [setpriv, '--pdeathsig', 'TERM', '--', ...etcd];
  // Etcd reads ETCD_* from its environment, and would let the operator's override the flags' rest.
  const env = { PATH: process.env['PATH'], HOME: stateDir };
  // In a session of its own, so that Ctrl-C on a terminal reaches us only.
  return spawn(program!, args, { env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
}

async function isHealthy(endpoint: string, signal: AbortSignal): Promise<boolean> {
  try {
    const answer = await fetch(`${endpoint}/health`, {
      signal: AbortSignal.any([signal, AbortSignal.timeout(1_000)]),
    });
    return ((await answer.json()) as { health?: unknown }).health === 'true';
  } catch {
    // Not listening yet, or no answer in time: both mean "not yet".
    signal.throwIfAborted();
    return false;
  }
}

/**
 * Resolves when it answers. The returned child goes on until it is disposed.
 * @throws EtcdChildError with etcd's last words when it does not come up
 */
export async function startEtcd(
  stateDir: string,
  log: Log,
  signal: AbortSignal,
): Promise<EtcdChild> {
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  const ports = await freePorts();
  const endpoint = `http://127.0.0.1:${ports[0]}`;
  const stopping = new AbortController();
  let lastWords = '';
  let child = launch(stateDir, ports);
  let ended = watchEnd(child);

  function watchEnd(it: ChildProcess): Promise<string> {
    for (const stream of [it.stdout, it.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        lastWords = text.trim().split('\n').at(-1) ?? lastWords;
        log.debug({ component: 'etcd' }, text.trim().slice(0, 4_096));
      });
    }
    return new Promise((resolve) => {
      it.once('error', (error) => resolve(error.message));
      it.once('exit', (status, by) => resolve(by === null ? `status ${status}` : `signal ${by}`));
    });
  }

  async function stop(): Promise<void> {
    stopping.abort();
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGTERM');
    const timeout = new AbortController();
    const late = sleep(STOP_WITHIN_MS, 'late', { signal: timeout.signal }).catch(() => 'in time');
    if ((await Promise.race([ended, late])) === 'late') child.kill('SIGKILL');
    timeout.abort();
    await ended;
  }

  async function supervise(): Promise<void> {
    while (!stopping.signal.aborted) {
      const how = await ended;
      if (stopping.signal.aborted) return;
      log.error({ how, lastWords }, 'our etcd ended by itself; leases are kept, starting it again');
      try {
        await sleep(RESTART_AFTER_MS, undefined, { signal: stopping.signal });
      } catch {
        // Stopped meanwhile.
        return;
      }
      child = launch(stateDir, ports);
      ended = watchEnd(child);
    }
  }

  const within = AbortSignal.timeout(READY_WITHIN_MS);
  try {
    const early = { how: '' };
    void ended.then((it) => (early.how = it));
    while (!(await isHealthy(endpoint, signal))) {
      if (early.how !== '')
        throw new EtcdChildError(`our etcd ended at its start (${early.how}): ${lastWords}`);
      if (within.aborted) {
        throw new EtcdChildError(
          `our etcd did not answer in ${READY_WITHIN_MS / 1000} s: ${lastWords}`,
        );
      }
      await sleep(50, undefined, { signal });
    }
  } catch (error) {
    await stop();
    throw error;
  }
  void supervise();
  return {
    endpoint,
    get pid() {
      return child.pid ?? 0;
    },
    [Symbol.asyncDispose]: stop,
  };
}
