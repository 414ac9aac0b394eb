/**
 * Programs of the host, started by argument array and never through a shell, inside a named network
 * namespace when one is given. `ip netns exec` replaces itself, so a child's pid is the program's own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';

/** A program could not be started, failed, or was not ready in time. The message says what it printed. */
export class ProgramError extends Error {
  readonly code = 'ERR_PROGRAM';
  readonly argv: readonly string[];
  /** Null: it did not start, or a signal ended it. */
  readonly exitCode: number | null;
  readonly stderr: string;

  constructor(message: string, argv: readonly string[], result: Partial<Output>, cause?: unknown) {
    super(`${argv.join(' ')}: ${message}`, { cause });
    this.argv = argv;
    this.exitCode = result.exitCode ?? null;
    this.stderr = result.stderr ?? '';
  }
}

export interface Output {
  readonly stdout: string;
  readonly stderr: string;
  /** Null: a signal ended it. */
  readonly exitCode: number | null;
}

export interface ProgramOptions {
  /** Name of a network namespace below /run/netns; absent: our own. */
  readonly netns?: string | undefined;
  /** Text for its stdin, which is otherwise empty. */
  readonly input?: string | undefined;
  /** Added to our own environment. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Ends the program (SIGKILL) when aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** The argument array that runs `argv` inside `netns`. */
export const inNamespace = (
  netns: string | undefined,
  argv: readonly string[],
): readonly string[] => (netns === undefined ? argv : ['ip', 'netns', 'exec', netns, ...argv]);

/**
 * Npm puts the packages' programs first into PATH, and one of them is another `nft`: those are not the
 * host's.
 */
const environment = (added: ProgramOptions['env']): NodeJS.ProcessEnv => ({
  ...process.env,
  PATH: (process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin')
    .split(':')
    .filter((directory) => !directory.endsWith('node_modules/.bin'))
    .join(':'),
  ...added,
});

/** What a program printed and how it ended, failure included. @throws ProgramError if it cannot start */
export function collect(argv: readonly string[], options: ProgramOptions = {}): Promise<Output> {
  const full = inNamespace(options.netns, argv);
  return new Promise((resolve, reject) => {
    const child = spawn(full[0]!, full.slice(1), {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: environment(options.env),
      killSignal: 'SIGKILL',
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    // A program that ends before it has read its input closes the pipe; its exit code tells the story.
    child.stdin.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') reject(new ProgramError(error.message, full, {}, error));
    });
    child.on('error', (error) => reject(new ProgramError(error.message, full, {}, error)));
    child.on('close', (exitCode) => resolve({ stdout, stderr, exitCode }));
    child.stdin.end(options.input ?? '');
  });
}

/** A program's stdout. @throws ProgramError unless it ends with exit code 0 */
export async function run(argv: readonly string[], options: ProgramOptions = {}): Promise<string> {
  const output = await collect(argv, options);
  if (output.exitCode !== 0) {
    const said = (output.stderr.trim() || output.stdout.trim()).slice(-2000);
    const how = output.exitCode === null ? 'a signal' : `exit code ${output.exitCode}`;
    throw new ProgramError(`ended by ${how}: ${said || 'no message'}`, argv, output);
  }
  return output.stdout;
}

/** How a program tells that it is ready: a line on its stdout, or a condition that becomes true. */
export type Readiness =
  { readonly line: RegExp } | { readonly condition: (signal: AbortSignal) => Promise<unknown> };

export interface StartOptions extends Omit<ProgramOptions, 'input' | 'signal'> {
  /** File that takes its stdout and stderr, appended. Required unless `ready` is a line. */
  readonly logFile?: string;
  readonly ready?: Readiness;
  /** 10 s unless given. */
  readonly readyTimeoutMs?: number;
}

/** A long-running child. It has a process group of its own: a terminal's Ctrl-C does not reach it. */
export interface Running extends AsyncDisposable {
  readonly pid: number;
  /** Settles when it has ended, with its exit code (null: by a signal). Never rejects. */
  readonly exited: Promise<number | null>;
  /** Everything it printed on stdout so far; empty with a log file. */
  output(): string;
  /** SIGTERM unless given; SIGKILL after `graceMs` (5 s). @returns when it has ended */
  stop(signal?: NodeJS.Signals, graceMs?: number): Promise<number | null>;
}

/** @throws ProgramError if it cannot start, ends early or is not ready in time; it is gone then */
export async function start(argv: readonly string[], options: StartOptions): Promise<Running> {
  const full = inNamespace(options.netns, argv);
  const log = options.logFile === undefined ? null : openSync(options.logFile, 'a');
  const sink = log ?? 'pipe';
  const child = spawn(full[0]!, full.slice(1), {
    stdio: ['ignore', sink, sink],
    env: environment(options.env),
    detached: true,
  });
  if (log !== null) closeSync(log);
  let printed = '';
  let complained = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (complained += text));
  const exited = new Promise<number | null>((resolve) => {
    child.on('close', (exitCode) => resolve(exitCode));
    child.on('error', () => resolve(null));
  });
  const failedStart = new Promise<never>((_, reject) => child.on('error', reject));
  const firstLine =
    child.stdout === null ? null : matchLine(child, options.ready, (text) => (printed += text));
  const running: Running = {
    pid: child.pid ?? 0,
    exited,
    output: () => printed,
    async stop(signal = 'SIGTERM', graceMs = 5000) {
      child.kill(signal);
      const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
      const code = await exited;
      clearTimeout(timer);
      return code;
    },
    async [Symbol.asyncDispose]() {
      await running.stop();
    },
  };
  const abort = new AbortController();
  const timeoutMs = options.readyTimeoutMs ?? 10_000;
  const timer = setTimeout(
    () => abort.abort(new Error(`not ready after ${timeoutMs} ms`)),
    timeoutMs,
  );
  try {
    await Promise.race([
      failedStart,
      exited.then((code) => {
        throw new Error(`ended with exit code ${code} before it was ready`);
      }),
      new Promise((_, reject) =>
        abort.signal.addEventListener('abort', () => reject(abort.signal.reason as Error)),
      ),
      readiness(options.ready, firstLine, abort.signal),
    ]);
  } catch (cause) {
    abort.abort(cause);
    await running.stop('SIGKILL');
    const said = options.logFile === undefined ? printed + complained : await tail(options.logFile);
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ProgramError(`${reason}: ${said.trim() || 'no message'}`, argv, {}, cause);
  } finally {
    clearTimeout(timer);
  }
  return running;
}

async function readiness(
  ready: Readiness | undefined,
  line: Promise<unknown> | null,
  signal: AbortSignal,
): Promise<unknown> {
  if (ready === undefined) return undefined;
  if ('condition' in ready) return await ready.condition(signal);
  if (line === null) throw new Error('a line on stdout cannot be awaited: stdout goes to the log');
  return await line;
}

function matchLine(
  child: ChildProcess,
  ready: Readiness | undefined,
  keep: (text: string) => void,
): Promise<void> {
  return new Promise((resolve) => {
    createInterface({ input: child.stdout! }).on('line', (line) => {
      keep(`${line}\n`);
      if (ready !== undefined && 'line' in ready && ready.line.test(line)) resolve();
    });
  });
}

const tail = async (path: string): Promise<string> => (await readFile(path, 'utf8')).slice(-2000);

/**
 * Asks `condition` again every `everyMs` until it gives a value other than undefined.
 * @throws the signal's reason when it is aborted first
 */
export async function poll<T>(
  condition: () => Promise<T | undefined>,
  signal: AbortSignal,
  everyMs = 25,
): Promise<T> {
  for (;;) {
    signal.throwIfAborted();
    const value = await condition();
    if (value !== undefined) return value;
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}
