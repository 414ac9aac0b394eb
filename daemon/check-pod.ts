/** The pods of `weft check`: network namespaces, attached by the daemon as the CNI plugin has it attach pods. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { collect } from '../linux/program.ts';
import type { CniAnswer, CniRequest } from './messages.ts';
import type { Ask } from './object-commands.ts';
import { findProgram } from './programs.ts';

export interface CheckPod extends AsyncDisposable {
  readonly addresses: readonly string[];
  readonly mtuBytes: number;
  /** Settles when what holds the namespace has ended, and the namespace with it. Never rejects. */
  readonly ended: Promise<unknown>;
  /** Runs a program inside, to its end. @returns its stdout, and whether its exit code was 0 */
  run(argv: readonly string[]): Promise<{ readonly isDone: boolean; readonly text: string }>;
}

export interface CheckPodOptions {
  readonly containerId: string;
  /** Null: Kubernetes knows nothing of it. */
  readonly pod: { readonly namespace: string; readonly name: string } | null;
  /** Lives in the namespace, prints something when it is ready and ends when its stdin does. */
  readonly holder?: readonly string[];
}

/** Programs of the host that are needed and not there. */
export const missingPrograms = (): readonly string[] =>
  ['unshare', 'nsenter', 'ping'].filter((it) => findProgram(it) === null);

/** A network namespace that is gone when its holder is, whatever happens to us. */
async function openNamespace(argv: readonly string[]) {
  const holder = spawn('unshare', ['--net', ...argv], {
    stdio: ['pipe', 'pipe', 'ignore'],
    // A terminal's ^C is for us: the pod is taken away before its namespace.
    detached: true,
  });
  const ended = once(holder, 'exit').catch(() => 'it did not start');
  holder.stdin.on('error', () => 'it has ended, and is told so by its exit');
  const started = Promise.race([
    once(holder.stdout, 'data').then(() => true),
    ended.then(() => false),
  ]);
  // What comes back from cat has passed the namespace's making.
  holder.stdin.write('x');
  if (!(await started)) throw new Error('no network namespace can be made (unshare failed)');
  holder.stdout.resume();
  return {
    path: `/proc/${holder.pid}/ns/net`,
    ended,
    async [Symbol.asyncDispose]() {
      holder.stdin.end();
      await ended;
    },
  };
}

async function cni(ask: Ask, request: CniRequest) {
  const answer = await ask<CniAnswer>('POST', '/v1/cni', request);
  if ('error' in answer) throw new Error(answer.error.msg);
  return answer.attachment;
}

const IFNAME = 'eth0';

/** What is not there is fine. */
export async function removeCheckPod(containerId: string, ask: Ask): Promise<void> {
  await cni(ask, { command: 'DEL', containerId, ifname: IFNAME });
}

export async function addCheckPod(
  { containerId, pod, holder = ['cat'] }: CheckPodOptions,
  ask: Ask,
  signal: AbortSignal,
): Promise<CheckPod> {
  await using opening = new AsyncDisposableStack();
  const namespace = opening.use(await openNamespace(holder));
  const netns = namespace.path;
  // Also when ADD fails: DEL of what is not there does nothing.
  opening.defer(() => removeCheckPod(containerId, ask));
  const attachment = await cni(ask, {
    command: 'ADD',
    network: 'weft-check',
    containerId,
    ifname: IFNAME,
    netns,
    ips: [],
    mac: null,
    pod,
  });
  const stack = opening.move();
  return {
    addresses: (attachment?.ips ?? []).map(({ address }) => address.split('/')[0]!),
    mtuBytes: attachment?.mtuBytes ?? 0,
    ended: namespace.ended,
    async run(argv) {
      const { stdout, exitCode } = await collect(['nsenter', `--net=${netns}`, ...argv], {
        signal,
      });
      return { isDone: exitCode === 0, text: stdout.trim() };
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}
