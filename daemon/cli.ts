/** What the operator's commands share: flags, the daemon's answers, and how they are printed. */
import type { Argv } from 'yargs';
import {
  type Option,
  type OptionName,
  type ResolvedConfig,
  OPTIONS,
  flagOf,
  optionNames,
  resolveConfig,
  variableOf,
} from './config.ts';
import type { Ask } from './object-commands.ts';

/** The command line cannot be understood. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  readonly code = 'ERR_USAGE';
}

export type Flags = Readonly<Record<string, unknown>>;

export const print = (text: string): void => void process.stdout.write(`${text}\n`);

export const warn = (line: string): void =>
  void process.stderr.write(`weft: ${line.replaceAll(/\p{Cc}/gu, '?')}\n`);

/** What is missing of other nodes, a line each; a script sees it on stderr, whatever the output. */
export function warnOf(lines: readonly string[], before = ''): void {
  for (const line of lines) warn(before + line);
}

/** What yargs made of a flag, as the text the operator wrote. */
function flagText(name: OptionName, value: unknown): string {
  const { kind } = OPTIONS[name];
  if (Array.isArray(value)) {
    if (kind !== 'list') throw new UsageError(`--${flagOf(name)} is given more than once`);
    return value.map(String).join(',');
  }
  // A boolean flag alone, as flannel's.
  return kind === 'boolean' && value === '' ? 'true' : String(value);
}

export function configOf(flags: Flags): ResolvedConfig {
  const given: Partial<Record<OptionName, string>> = {};
  for (const name of optionNames) {
    const value = flags[flagOf(name)];
    if (value !== undefined) given[name] = flagText(name, value);
  }
  const file = flags['config'];
  if (Array.isArray(file)) throw new UsageError('--config is given more than once');
  return resolveConfig(given, process.env, typeof file === 'string' ? file : undefined);
}

/** The table's options as flags. Values stay text: the table parses them, whatever their source. */
export function withOptions(command: Argv, names: readonly OptionName[]): Argv {
  let it = command.option('config', {
    type: 'string',
    requiresArg: true,
    describe: 'YAML file of options, by their flags without the dashes [WEFT_CONFIG]',
  });
  for (const name of names) {
    const { kind, text, description, textMeans }: Option<unknown> = OPTIONS[name];
    it = it.option(flagOf(name), {
      type: 'string',
      requiresArg: kind !== 'boolean',
      describe: `${description} [${variableOf(name)}]`,
      defaultDescription: text === '' ? (textMeans ?? 'none') : text,
    });
  }
  return it;
}

export const etcdOptions = optionNames.filter((name) => name.startsWith('etcd'));

export async function ask<T>(
  flags: Flags,
  method: string,
  path: string,
  body?: unknown,
): Promise<T> {
  const { askDaemon } = await import('./api-client.ts');
  return await askDaemon<T>(configOf(flags).config.stateDir, method, path, body);
}

export const asking =
  (flags: Flags): Ask =>
  (method, path, body) =>
    ask(flags, method, path, body);

/** Yargs gives one text, or a list of them. */
export function textsOf(flags: Flags, name: string): readonly string[] {
  const value = flags[name];
  return (Array.isArray(value) ? value : [value]).filter((it) => typeof it === 'string');
}

/** A flag that may be there once. */
export function textOf(flags: Flags, name: string): string | null {
  const [text = null, second] = textsOf(flags, name);
  if (second !== undefined) throw new UsageError(`--${name} is given more than once`);
  return text;
}

/** An option that takes a text. */
export const textOption = (describe: string) =>
  ({ type: 'string', requiresArg: true, describe }) as const;

export const NAMESPACE_OPTION = {
  alias: 'n',
  type: 'string',
  requiresArg: true,
  describe: 'the namespace; "default" if it is left out',
} as const;

export const OUTPUT_OPTION = {
  alias: 'o',
  type: 'string',
  requiresArg: true,
  describe: 'table (if it is left out), yaml or json',
} as const;

/** Before anything is asked. @throws UsageError */
export function outputOf(flags: Flags): 'table' | 'yaml' | 'json' {
  const output = textOf(flags, 'output') ?? 'table';
  if (output === 'table' || output === 'yaml' || output === 'json') return output;
  throw new UsageError(`--output: "${output}" is not table, yaml or json`);
}

/**
 * As --output asks for it.
 * @param table  what people read
 * @throws UsageError
 */
export async function printAs(
  flags: Flags,
  value: unknown,
  table: () => string | Promise<string>,
): Promise<void> {
  const output = outputOf(flags);
  if (output === 'table') print(await table());
  else if (output === 'json') print(JSON.stringify(value, null, 2));
  else {
    const { stringify } = await import('yaml');
    print(stringify(value, { lineWidth: 0, aliasDuplicateObjects: false }).trimEnd());
  }
}

type Format<M> = (tables: typeof import('./tables.ts'), message: M) => string;

/** What the daemon answers, as --output asks for it. */
export async function show<M>(flags: Flags, path: string, format: Format<M>): Promise<void> {
  outputOf(flags);
  const message = await ask<M>(flags, 'GET', path);
  await printAs(flags, message, async () => format(await import('./tables.ts'), message));
}
