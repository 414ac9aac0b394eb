/**
 * The host's network through iproute2: read as JSON, changed in batches.
 * Only the fields that Weft reads are declared; iproute2 gives more.
 */
import { type ProgramOptions, collect, run } from './program.ts';

/** iproute2 refused. The message names the command that failed; earlier ones of its batch are done. */
export class IpError extends Error {
  readonly code = 'ERR_IP';
  /** Index in the batch of the command that failed; null when not a batch. */
  readonly failedAt: number | null;
  /** What iproute2 said, such as `RTNETLINK answers: File exists`. */
  readonly answer: string;

  constructor(message: string, failedAt: number | null, answer: string, cause?: unknown) {
    super(message, { cause });
    this.failedAt = failedAt;
    this.answer = answer;
  }
}

export interface Link {
  readonly ifindex: number;
  readonly ifname: string;
  readonly flags: readonly string[];
  readonly mtu: number;
  readonly operstate: string;
  readonly link_type: string;
  /** Hardware address; a TUN has none. */
  readonly address?: string;
  readonly master?: string;
  readonly linkinfo?: {
    readonly info_kind?: string;
    readonly info_data?: Readonly<Record<string, unknown>>;
  };
}

export interface InterfaceAddress {
  readonly family: 'inet' | 'inet6';
  readonly local: string;
  readonly prefixlen: number;
  readonly scope: string;
  readonly dynamic?: boolean;
  readonly tentative?: boolean;
  readonly dadfailed?: boolean;
  readonly deprecated?: boolean;
  readonly temporary?: boolean;
}

export interface InterfaceAddresses extends Link {
  readonly addr_info: readonly InterfaceAddress[];
}

export interface Route {
  /** `default`, an address or a CIDR block. */
  readonly dst: string;
  /** Absent: unicast. Others: local, unreachable, blackhole... */
  readonly type?: string;
  readonly dev?: string;
  readonly gateway?: string;
  readonly prefsrc?: string;
  readonly protocol?: string;
  readonly scope?: string;
  readonly metric?: number;
  readonly table?: string;
  readonly flags: readonly string[];
  readonly metrics?: readonly { readonly mtu?: number }[];
}

export interface IpScope {
  /** Named network namespace; absent: our own. */
  readonly netns?: string | undefined;
}

const ip = (scope: IpScope, ...words: string[]): string[] => [
  'ip',
  ...(scope.netns === undefined ? [] : ['-n', scope.netns]),
  ...words,
];

async function show<T>(argv: string[]): Promise<T[]> {
  const output = await collect(argv);
  if (output.exitCode !== 0) {
    const answer = output.stderr.trim();
    // A table that has never held a route does not exist; it is empty.
    if (/FIB table does not exist/.test(answer)) return [];
    throw new IpError(`${argv.join(' ')}: ${answer || 'no message'}`, null, answer);
  }
  const text = output.stdout.trim();
  try {
    // iproute2 prints `{}` for elements its filters emptied.
    const list = text === '' ? [] : (JSON.parse(text) as (T & object)[]);
    return list.filter((element) => Object.keys(element).length > 0);
  } catch (cause) {
    throw new IpError(`${argv.join(' ')}: its answer is not JSON`, null, text.slice(0, 200), cause);
  }
}

export const listLinks = (scope: IpScope = {}): Promise<Link[]> =>
  show<Link>(ip(scope, '-json', '-details', 'link', 'show'));

export const listAddresses = (scope: IpScope = {}): Promise<InterfaceAddresses[]> =>
  show<InterfaceAddresses>(ip(scope, '-json', '-details', 'addr', 'show'));

/** Routes of one family; of table main unless `table` (a number, a name or `all`) is given. */
export const listRoutes = (
  scope: IpScope & { readonly family?: 4 | 6; readonly table?: string | number } = {},
): Promise<Route[]> =>
  show<Route>(
    ip(
      scope,
      '-json',
      `-${scope.family ?? 4}`,
      'route',
      'show',
      'table',
      `${scope.table ?? 'main'}`,
    ),
  );

/** A rule of policy routing. */
export interface Rule {
  readonly priority: number;
  /** `all`, or an address; `srclen` is absent for a whole one. */
  readonly src: string;
  readonly srclen?: number;
  readonly iif?: string;
  /** In hexadecimal, both. */
  readonly fwmark?: string;
  readonly fwmask?: string;
  readonly table?: string;
  readonly goto?: number;
  readonly protocol?: string;
}

export const listRules = (scope: IpScope & { readonly family?: 4 | 6 } = {}): Promise<Rule[]> =>
  show<Rule>(ip(scope, '-json', `-${scope.family ?? 4}`, 'rule', 'show'));

/** The words of one command: `['route', 'replace', '10.244.1.0/24', 'dev', 'weft0']`. */
export type Command = readonly (string | number)[];

/**
 * A command as it reads: words`route replace ${subnet} dev ${device}`. Only the template's own spaces
 * part words; a value with a space in it stays one word, which `apply` then refuses.
 */
export function words(literals: TemplateStringsArray, ...values: (string | number)[]): Command {
  const command = [''];
  for (const [i, literal] of literals.entries()) {
    let text = i === 0 ? literal.trimStart() : literal;
    if (i === values.length) text = text.trimEnd();
    const [first, ...rest] = text.split(/\s+/);
    command[command.length - 1] += first!;
    command.push(...rest);
    if (i < values.length) command[command.length - 1] += `${values[i]}`;
  }
  return command;
}

/**
 * A word goes into a line of text, so it must not hold what ends or joins words there: nothing that
 * came from the store can become two words or a second command.
 */
function line(command: Command): string {
  for (const word of command) {
    if (!/^[^\s#'"\\]+$/.test(`${word}`)) {
      throw new IpError(`ip ${command.join(' ')}: "${word}" is not one word`, null, '');
    }
  }
  return command.join(' ');
}

/**
 * Runs the commands in order in one process, and stops at the first that fails.
 * @throws IpError naming the command that failed
 */
export async function apply(
  commands: readonly Command[],
  scope: IpScope & { readonly family?: 4 | 6 } = {},
): Promise<void> {
  await batch('ip', commands, scope);
}

/** The same for `bridge`, which holds the forwarding entries of kernel VXLAN devices. */
export async function applyBridge(
  commands: readonly Command[],
  scope: IpScope = {},
): Promise<void> {
  await batch('bridge', commands, scope);
}

async function batch(
  program: string,
  commands: readonly Command[],
  scope: IpScope & { readonly family?: 4 | 6 },
): Promise<void> {
  if (commands.length === 0) return;
  const lines = commands.map(line);
  // Rules do not tell their family by themselves.
  const family = scope.family === undefined ? [] : [`-${scope.family}`];
  const argv = [...ip(scope, ...family, '-batch', '-')];
  argv[0] = program;
  const output = await collect(argv, { input: `${lines.join('\n')}\n` });
  if (output.exitCode === 0) return;
  const failed = /Command failed -:(\d+)/.exec(output.stderr);
  const failedAt = failed === null ? null : Number(failed[1]) - 1;
  const answer = output.stderr.replaceAll(/^Command failed.*$/gm, '').trim();
  const where = scope.netns === undefined ? '' : ` in namespace ${scope.netns}`;
  const what = failedAt === null ? argv.join(' ') : `${program} ${lines[failedAt]}`;
  const undone =
    failedAt === null ? '' : `; ${lines.length - failedAt} of ${lines.length} not done`;
  throw new IpError(`${what}${where}: ${answer || 'no message'}${undone}`, failedAt, answer);
}

/** Turns offload features of a device on or off: `{ tso: false, gro: false }`. @throws ProgramError */
export async function setFeatures(
  device: string,
  features: Readonly<Record<string, boolean>>,
  options: ProgramOptions = {},
): Promise<void> {
  const words = Object.entries(features).flatMap(([name, on]) => [name, on ? 'on' : 'off']);
  await run(['ethtool', '-K', device, ...words], options);
}
