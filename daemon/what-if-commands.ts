/** `weft policy diff` and `weft shadow`: what other policies would do, before they are applied. */
import { createReadStream } from 'node:fs';
import type { CommandModule } from 'yargs';
import {
  type Flags,
  OUTPUT_OPTION,
  UsageError,
  ask,
  outputOf,
  print,
  printAs,
  textOf,
  textsOf,
  warn,
  warnOf,
  withOptions,
} from './cli.ts';
import type {
  ClusterShadowMessage,
  PolicyDiffMessage,
  PolicyDiffRequest,
  ShadowMessage,
} from './messages.ts';

/** What is to be compared, as raw JSON; other kinds are told and left out. @throws ObjectsError, UsageError */
async function readPolicies(flags: Flags): Promise<PolicyDiffRequest['documents']> {
  const paths = textsOf(flags, 'filename');
  if (paths.length === 0) throw new UsageError('say which policies: -f FILE');
  const [{ ObjectsError, problemLine, readObjects }, { isPolicy }] = await Promise.all([
    import('./object-commands.ts'),
    import('./policy-diff.ts'),
  ]);
  const { documents, ignored } = await readObjects(paths, process.stdin);
  for (const it of ignored) warn(problemLine(it));
  const others = documents.filter(({ object }) => !isPolicy(object));
  if (others.length > 0) {
    warn(
      `${others.length} objects that are no policies are left out: they stay as the daemon knows them`,
    );
  }
  if (others.length === documents.length) {
    throw new ObjectsError(`there is no policy in ${paths.join(', ')}`);
  }
  return documents.filter(({ object }) => isPolicy(object)).map(({ raw }) => raw);
}

/** @throws CaptureFileError, PcapngError, UsageError */
async function readCapture(path: string): Promise<PolicyDiffRequest['flows']> {
  const { readCapturedFlows } = await import('./captured-flows.ts');
  let captured;
  try {
    captured = await readCapturedFlows(createReadStream(path));
  } catch (cause) {
    const { code = '', syscall } = cause as NodeJS.ErrnoException;
    if (syscall === undefined) throw cause;
    throw new UsageError(`--against: ${path} cannot be read (${code})`, { cause });
  }
  const { flows, unread } = captured;
  if (unread > 0) warn(`${unread} packets of ${path} could not be read, and are left out`);
  return flows;
}

export async function policyDiff(flags: Flags): Promise<void> {
  outputOf(flags);
  const against = textOf(flags, 'against') ?? 'flows';
  const request: PolicyDiffRequest = {
    documents: await readPolicies(flags),
    replace: flags['replace'] === true,
    flows: against === 'flows' ? null : await readCapture(against),
    since: textOf(flags, 'since'),
  };
  const message = await ask<PolicyDiffMessage>(flags, 'POST', '/v1/policy/diff', request);
  warnOf(message.absent, 'without ');
  await printAs(flags, message, async () => (await import('./tables.ts')).diffText(message));
  if (message.changes.length > 0) process.exitCode = 1;
}

/** `weft apply --shadow`: on all nodes. */
export async function startShadow(flags: Flags): Promise<void> {
  for (const other of ['prune', 'dry-run', 'set']) {
    if (flags[other] !== undefined) throw new UsageError(`--shadow applies nothing: no --${other}`);
  }
  const request = { documents: await readPolicies(flags), replace: flags['replace'] === true };
  const { trial, problem } = await ask<ShadowMessage>(flags, 'PUT', '/v1/shadow', request);
  if (trial === null) throw new UsageError(problem ?? 'this node has not heard of it yet');
  print(`${trial.policies.length} policies are tried beside those in force; see: weft shadow diff`);
}

/** Exit code 1 of `diff`: there are differences. */
async function shadow(flags: Flags): Promise<void> {
  const action = textOf(flags, 'action') ?? 'status';
  if (action !== 'status' && action !== 'diff' && action !== 'stop') {
    throw new UsageError(`weft shadow: "${action}" is none of status, diff, stop`);
  }
  outputOf(flags);
  if (action === 'diff') {
    const found = await ask<ClusterShadowMessage>(flags, 'GET', '/v1/cluster/shadow');
    warnOf(found.problems);
    await printAs(flags, found, async () => (await import('./tables.ts')).shadowDiffText(found));
    if (found.changes.length > 0) process.exitCode = 1;
    return;
  }
  const method = action === 'stop' ? 'DELETE' : 'GET';
  const message = await ask<ShadowMessage>(flags, method, '/v1/shadow');
  await printAs(flags, message, async () => {
    if (action === 'status') return (await import('./tables.ts')).shadowText(message);
    return message.trial === null ? 'no policies were tried' : 'no policies are tried any more';
  });
}

export const shadowCommand: CommandModule = {
  command: 'shadow [action]',
  describe: 'Policies that are tried beside those in force (weft apply --shadow)',
  builder: (it) =>
    withOptions(it, ['stateDir'])
      .positional('action', {
        type: 'string',
        describe:
          'status (if it is left out) of this node, diff: what the nodes saw that they would have ' +
          'treated otherwise, or stop, on all nodes',
      })
      .option('output', OUTPUT_OPTION)
      .epilogue(
        'For example: weft apply --shadow -f new-policies/, then weft shadow diff on any node\n\n' +
          'New flows are seen, and packets that policies denied; flows that go on are not. Exit code ' +
          'of diff: 0 no\ndifference, 1 some.',
      ),
  handler: shadow,
};
