/**
 * A containerd of a lab's node, with runc: in the node's network namespace, and in a mount namespace of
 * its own, so that the machine's /etc, /opt and /run get nothing (containerd.sh). `ctr run --cni` calls
 * CNI by itself, hence runs in the same namespaces. The node's plugins are whatever is in its cniBinDir
 * and cniConfDir.
 *
 * Containers live in a containerd namespace, hence in cgroups, with the node's name, by which
 * `removeRun` finds them, whatever becomes of the test.
 */
import { mkdirSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Output, type Running, collect, poll, run, start } from '../../linux/program.ts';
import type { LabNode } from './lab.ts';
import { busyboxImage } from './oci-image.ts';

const BUSYBOX = '/bin/busybox';
const IMAGE = 'localhost/busybox:lab';
const APPLETS = 'cat echo httpd ip nc ping printf sh'.split(' ');
/** The one that needs nothing of the file system below. */
const SNAPSHOTTER = ['--snapshotter', 'native'];
const READY_MS = 20_000;

/** Containers cannot run on this machine; the message has runc's or containerd's reason. */
export class ContainerdError extends Error {
  readonly code = 'ERR_CONTAINERD';
}

export class Containerd {
  readonly #node: LabNode;
  readonly #running: Running;
  readonly #containers = new Map<string, Running>();
  #execs = 0;

  constructor(node: LabNode, running: Running) {
    this.#node = node;
    this.#running = running;
  }

  /** Also the end of every container's cgroup path but for its id. */
  get namespace(): string {
    return this.#node.netns;
  }

  /** What CNI has for the container's id. */
  containerId(id: string): string {
    return `${this.namespace}-${id}`;
  }

  #argv(args: readonly string[]): readonly string[] {
    const enter = ['nsenter', '--target', `${this.#running.pid}`, '--mount', '--net'];
    return [...enter, 'ctr', '--namespace', this.namespace, ...args];
  }

  /** @throws ProgramError */
  ctr(...args: string[]): Promise<string> {
    return run(this.#argv(args));
  }

  /** @throws Error when containerd does not answer in time */
  async ready(): Promise<void> {
    // Before it has its own /run and /etc, ctr does not find its socket.
    await poll(async () => {
      const { exitCode } = await collect(this.#argv(['version']));
      return exitCode === 0 ? true : undefined;
    }, AbortSignal.timeout(READY_MS));
  }

  /**
   * A container with a network of its own, when its program has printed `ready`. Attached, because ctr
   * 1.6 gives back the network of no other.
   * @throws ContainerdError
   */
  async run(id: string, argv: readonly string[]): Promise<void> {
    try {
      const running = await start(this.#runArgv(id, argv), {
        ready: { line: /^ready$/ },
        readyTimeoutMs: READY_MS,
      });
      this.#containers.set(id, running);
    } catch (cause) {
      throw await cannotRun(id, cause as Error);
    }
  }

  /** The same, until it ends by itself. @returns what it printed. @throws ContainerdError */
  async runOnce(id: string, argv: readonly string[]): Promise<string> {
    try {
      return await run(this.#runArgv(id, argv));
    } catch (cause) {
      throw await cannotRun(id, cause as Error);
    }
  }

  #runArgv(id: string, argv: readonly string[]): readonly string[] {
    return this.#argv(['run', '--rm', '--cni', ...SNAPSHOTTER, IMAGE, id, ...argv]);
  }

  /** What a program inside the container prints, and how it ends. */
  exec(id: string, argv: readonly string[]): Promise<Output> {
    const execId = `exec-${++this.#execs}`;
    return collect(this.#argv(['task', 'exec', '--exec-id', execId, id, ...argv]));
  }

  /** By a signal to its process. @returns when container and network are gone */
  async remove(id: string): Promise<void> {
    await this.ctr('task', 'kill', '--signal', 'SIGKILL', id);
    await this.#containers.get(id)?.exited;
    this.#containers.delete(id);
  }
}

async function cannotRun(id: string, cause: Error): Promise<ContainerdError> {
  const mounts = await readFile('/proc/mounts', 'utf8');
  const cgroups = mounts.split('\n').filter((line) => line.startsWith('cgroup'));
  return new ContainerdError(
    `container ${id} does not run: ${cause.message}; runc needs root and cgroups, of which there are ` +
      `here: ${cgroups.join(', ') || 'none'}`,
    { cause },
  );
}

/**
 * @returns when `ctr` gets an answer, and the image is there
 * @throws ContainerdError with containerd's log
 */
export async function startContainerd(node: LabNode): Promise<Containerd> {
  const dir = join(node.directory, 'containerd');
  for (const it of [dir, node.cniBinDir, node.cniConfDir]) mkdirSync(it, { recursive: true });
  const image = join(dir, 'image.tar');
  await writeFile(image, busyboxImage(IMAGE, await readFile(BUSYBOX), APPLETS));
  await writeFile(
    join(dir, 'config.toml'),
    'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n',
  );
  // Not by `ip netns exec`, which mounts a /sys without the cgroups that runc needs.
  const inNetns = ['nsenter', `--net=/run/netns/${node.netns}`];
  const ownMounts = 'unshare --mount --propagation slave'.split(' ');
  const script = join(import.meta.dirname, 'containerd.sh');
  const logFile = join(dir, 'log');
  const running = await start(
    [...inNetns, ...ownMounts, 'sh', script, dir, node.cniBinDir, node.cniConfDir],
    { logFile },
  );
  const containerd = new Containerd(node, running);
  try {
    await Promise.race([containerd.ready(), running.exited.then(endedEarly)]);
    await containerd.ctr('images', 'import', ...SNAPSHOTTER, image);
  } catch (cause) {
    await running.stop('SIGKILL');
    const said = (await readFile(logFile, 'utf8')).trim().slice(-2000);
    throw new ContainerdError(`containerd of ${node.name} does not start: ${said}`, { cause });
  }
  return containerd;
}

function endedEarly(exitCode: number | null): never {
  throw new Error(`ended with exit code ${exitCode}`);
}
