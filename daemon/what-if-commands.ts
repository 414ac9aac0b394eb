/** `weft policy diff`: flows that other policies would treat otherwise, before they are applied. */
import { type Flags, UsageError, ask, outputOf, printAs, textOf, textsOf } from './cli.ts';
import type { PolicyDiffMessage, PolicyDiffRequest } from './messages.ts';
import { ObjectsError, problemLine, readObjects } from './object-commands.ts';
import { isPolicy } from './policy-diff.ts';

const warn = (line: string): void => void process.stderr.write(`weft: ${line}\n`);

/** What is to be compared, as raw JSON; other kinds are told and left out. @throws ObjectsError, UsageError */
async function readPolicies(flags: Flags): Promise<PolicyDiffRequest['documents']> {
  const paths = textsOf(flags, 'filename');
  if (paths.length === 0) throw new UsageError('say which policies: -f FILE');
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

export async function policyDiff(flags: Flags): Promise<void> {
  outputOf(flags);
  const against = textOf(flags, 'against') ?? 'flows';
  if (against !== 'flows') throw new UsageError(`--against: "${against}" is not flows`);
  const request: PolicyDiffRequest = {
    documents: await readPolicies(flags),
    replace: flags['replace'] === true,
    flows: null,
    since: textOf(flags, 'since'),
  };
  const message = await ask<PolicyDiffMessage>(flags, 'POST', '/v1/policy/diff', request);
  await printAs(flags, message, async () => (await import('./tables.ts')).diffText(message));
  if (message.changes.length > 0) process.exitCode = 1;
}
