/** The commands that ask a running daemon what it does, and tell by their exit code whether all is well. */
import type { Argv } from 'yargs';
import {
  type Flags,
  OUTPUT_OPTION,
  UsageError,
  ask,
  asking,
  configOf,
  etcdOptions,
  textOf,
  outputOf,
  print,
  printAs,
  show,
  withOptions,
} from './cli.ts';
import { ConfigError } from './config.ts';
import type { CheckResult } from './check-result.ts';
import type { LeasesMessage, PeersMessage, StatusMessage } from './messages.ts';

/** Names for whom a word was mistyped. */
export const OPERATOR_COMMANDS = ['bugreport', 'check', 'completion', 'leases', 'peers', 'status'];
export const OPERATOR_FLAGS = ['brief', 'verbose', 'probe', 'serve', 'write', 'log-file'];

async function status(flags: Flags): Promise<void> {
  const [isBrief, isVerbose] = [flags['brief'] === true, flags['verbose'] === true];
  if (isBrief && isVerbose) throw new UsageError('--brief and --verbose: one of them');
  const message = await ask<StatusMessage>(flags, 'GET', '/v1/status');
  await printAs(flags, message, async () => {
    const { statusText } = await import('./status-text.ts');
    return statusText(message, isBrief ? 'brief' : isVerbose ? 'verbose' : 'usual');
  });
  const { isWrong } = await import('./diagnose.ts');
  if (message.findings.some(isWrong)) process.exitCode = 1;
}

async function peers(flags: Flags): Promise<void> {
  const [method, path] =
    flags['probe'] === true ? ['POST', '/v1/peers/probe'] : ['GET', '/v1/peers'];
  const message = await ask<PeersMessage>(flags, method, path);
  const { peersTable, isUnwell } = await import('./peers-text.ts');
  await printAs(flags, message, () => peersTable(message));
  if (isUnwell(message)) process.exitCode = 1;
}

/** Aborted by SIGINT or SIGTERM. */
function interruption(): AbortSignal {
  const stop = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => stop.abort(new InterruptedError()));
  }
  return stop.signal;
}

async function serve(flags: Flags): Promise<void> {
  outputOf(flags);
  const { serveCheckPod } = await import('./check-served.ts');
  await serveCheckPod(asking(flags), interruption(), (serving) =>
    printAs(
      flags,
      serving,
      () =>
        `pod ${serving.pod} answers at ${serving.addresses.join(', ')}, port ${serving.port} of TCP and UDP\n` +
        'now on another node: weft check; ^C here takes the pod away',
    ),
  );
}

class InterruptedError extends Error {
  override readonly name = 'InterruptedError';
  readonly code = 'ERR_INTERRUPTED';

  constructor() {
    super('interrupted; what was made for the check is gone');
  }
}

const RESULT_COLORS = { ok: 'green', failed: 'red', skipped: 'dim' } as const;

async function check(flags: Flags): Promise<void> {
  if (flags['serve'] === true) {
    await serve(flags);
    return;
  }
  const isTable = outputOf(flags) === 'table';
  const [{ runChecks }, { printable }, { default: pico }] = await Promise.all([
    import('./check.ts'),
    import('./tables.ts'),
    import('picocolors'),
  ]);
  const results: CheckResult[] = [];
  for await (const it of runChecks(asking(flags), interruption())) {
    results.push(it);
    if (!isTable) continue;
    const word = pico[RESULT_COLORS[it.result]](it.result.padEnd(8));
    print(`${word} ${printable(it.name)}: ${printable(it.detail)}`);
    if (it.remedy !== null) print(`         what to do: ${printable(it.remedy)}`);
  }
  const count = (result: CheckResult['result']): number =>
    results.filter((it) => it.result === result).length;
  const summary = { ok: count('ok'), failed: count('failed'), skipped: count('skipped') };
  await printAs(
    flags,
    { results, ...summary },
    () => `\n${summary.ok} ok, ${summary.failed} failed, ${summary.skipped} skipped`,
  );
  if (summary.failed > 0) process.exitCode = 1;
}

async function bugReport(flags: Flags): Promise<void> {
  const { config } = configOf(flags);
  const { collectReport, writeReport } = await import('./bug-report.ts');
  const { secretsOf } = await import('./redact.ts');
  const time = new Date().toISOString().slice(0, 19).replaceAll(':', '');
  const file = textOf(flags, 'write') ?? `weft-bugreport-${config.nodeName}-${time}.tar.gz`;
  const report = await collectReport({
    ask: asking(flags),
    secrets: [...secretsOf(process.env), config.etcdPassword ?? ''],
    logFile: textOf(flags, 'log-file'),
  });
  try {
    await writeReport(file, report);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new ConfigError(`--write: ${file} cannot be written (${code})`, { cause });
  }
  const { failures } = report;
  const { printable } = await import('./tables.ts');
  await printAs(flags, { file, entries: report.entries.map((it) => it.name), failures }, () =>
    [
      `wrote ${file}: ${report.entries.length} files; look through it before you send it`,
      ...failures.map((it) => `not in it: ${printable(it)}`),
    ].join('\n'),
  );
}

async function completion(flags: Flags): Promise<void> {
  const shell = String(flags['shell']);
  const { completionScript } = await import('./completion.ts');
  const script = completionScript(shell);
  if (script === null) throw new UsageError(`weft completion: "${shell}" is neither bash nor zsh`);
  print(script.trimEnd());
}

/** What a shell's Tab asks: `__complete weft WORD...`. Gives arguments with which yargs answers, if it is to. */
export async function completeWords(words: readonly string[]): Promise<readonly string[] | null> {
  const { questionOf, valuesOf } = await import('./completion.ts');
  const question = questionOf(words);
  const stateDir = question.words.findLast((it) => it.startsWith('--state-dir='));
  const flags = stateDir === undefined ? {} : { 'state-dir': stateDir.split('=')[1] };
  const values = await valuesOf(question, asking(flags));
  if (values === null) return ['--get-yargs-completions', ...question.words];
  // A question to the daemon may still be open.
  process.stdout.write(values.map((it) => `${it}\n`).join(''), () => process.exit(0));
  return null;
}

export const withOperatorCommands = (cli: Argv): Argv =>
  cli
    .command(
      'status',
      'What the daemon on this machine does, what is wrong, and what to do about it',
      (it) =>
        withOptions(it, ['stateDir'])
          .option('brief', { type: 'boolean', describe: 'in one line' })
          .option('verbose', { type: 'boolean', describe: 'every counter, problem and peer' })
          .option('output', OUTPUT_OPTION)
          .epilogue(
            'For example: weft status --brief || weft status --verbose\n\nExit code 0: all is well; 1: ' +
              'something is wrong, or no daemon answers.',
          ),
      status,
    )
    .command(
      'check',
      'Try it: daemon, etcd, host, other nodes, and packets between pods made for it',
      (it) =>
        withOptions(it, ['stateDir'])
          .option('serve', {
            type: 'boolean',
            describe: 'attach a pod that answers the weft check of other nodes, until ^C',
          })
          .option('output', OUTPUT_OPTION)
          .epilogue(
            'For example: weft check; between pods of two nodes: weft check --serve on one, weft check on ' +
              'another\n\nThe pods are network namespaces, and are gone with their addresses at the end. ' +
              'Exit code 1 when a check\nfailed. A pod that serves is weft-check/NODE, so that policies can ' +
              'name it.',
          ),
      check,
    )
    .command(
      'bugreport',
      'Write what is known of this node into an archive: answers, host state, log; no secrets',
      (it) =>
        withOptions(it, ['stateDir', ...etcdOptions])
          .option('write', {
            alias: 'w',
            type: 'string',
            requiresArg: true,
            describe: 'the archive; weft-bugreport-NODE-TIME.tar.gz here if it is left out',
          })
          .option('log-file', {
            type: 'string',
            requiresArg: true,
            describe: "the daemon's log; the journal of the unit weft if it is left out",
          })
          .option('output', OUTPUT_OPTION)
          .epilogue(
            'For example: weft bugreport -w /tmp/report.tar.gz --log-file /var/log/weft.log\n\nPasswords, tokens ' +
              'and keys are left out; names and addresses of pods and nodes are not. What\ncannot be had is ' +
              'noted in README.txt of the archive.',
          ),
      bugReport,
    )
    .command(
      'completion <shell>',
      'Print what lets bash or zsh complete commands, options and names of pods by Tab',
      (it) =>
        it
          .positional('shell', { type: 'string', describe: 'bash or zsh' })
          .epilogue(
            'For example: source <(weft completion bash)\n\nNames come from the daemon, when it answers ' +
              'within a second.',
          ),
      completion,
    )
    .command(
      'peers',
      'The other nodes: the way to each, whether it answers, how soon and up to which size',
      (it) =>
        withOptions(it, ['stateDir'])
          .option('probe', {
            type: 'boolean',
            describe: 'ask all of them now; otherwise what they answered last',
          })
          .option('output', OUTPUT_OPTION)
          .epilogue(
            'For example: weft peers --probe\n\nunderlay is an echo to the node itself, overlay one through ' +
              'the tunnel. Exit code 1 when a peer does\nnot answer through the tunnel, answers not always, or ' +
              'does not get large packets.',
          ),
      peers,
    )
    .command(
      'leases',
      'The subnets of all nodes: who holds them, and how long ours is ours',
      (it) =>
        withOptions(it, ['stateDir'])
          .option('output', OUTPUT_OPTION)
          .epilogue(
            'For example: weft leases -o json\n\nOne of them: weft lease show KEY, weft lease release KEY',
          ),
      (flags) =>
        show<LeasesMessage>(flags, '/v1/leases', (tables, leases) => tables.leasesTable(leases)),
    );
