/** The plugin's parameters in the environment (CNI specification, section 2), checked for form. */
import {
  type CniCommand,
  CNI_COMMANDS,
  CONTAINER_ID,
  CniCode,
  INTERFACE_NAME,
  LABEL_KEY,
  LABEL_VALUE,
  NETNS_PATH,
} from '../wire/cni.ts';
import { ipsComplaint, isMacText, withoutLength } from './addresses.ts';
import { CniFailure, quote } from './errors.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

/** What CNI_ARGS can ask of us. */
export interface ExtraArgs {
  readonly ips: readonly string[];
  readonly mac: string | null;
  readonly pod: { readonly namespace: string; readonly name: string } | null;
  readonly labels: Readonly<Record<string, string>>;
}

/** '' for what the command does not need. */
export interface Parameters extends ExtraArgs {
  readonly command: CniCommand;
  readonly containerId: string;
  readonly ifname: string;
  readonly netns: string;
}

interface Variable {
  readonly pattern: RegExp;
  readonly meaning: string;
  readonly commands: readonly CniCommand[];
}

// DEL does not look at the namespace: it must succeed when there is none any more.
const VARIABLES = {
  CNI_CONTAINERID: {
    pattern: CONTAINER_ID,
    meaning: 'a container id',
    commands: ['ADD', 'DEL', 'CHECK'],
  },
  CNI_IFNAME: {
    pattern: INTERFACE_NAME,
    meaning: 'an interface name',
    commands: ['ADD', 'DEL', 'CHECK'],
  },
  CNI_NETNS: { pattern: NETNS_PATH, meaning: 'an absolute path', commands: ['ADD', 'CHECK'] },
} as const satisfies Readonly<Record<string, Variable>>;

const NO_ARGS: ExtraArgs = { ips: [], mac: null, pod: null, labels: {} };
/** Kubernetes' names, and those that other runtimes give under the same keys. */
const POD_NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,252}$/;
/** The last two come with every pod of Kubernetes, and ask for nothing. */
const KNOWN_ARGS: ReadonlySet<string> = new Set([
  'IgnoreUnknown',
  'IP',
  'MAC',
  'K8S_POD_NAMESPACE',
  'K8S_POD_NAME',
  'K8S_POD_LABELS',
  'K8S_POD_INFRA_CONTAINER_ID',
  'K8S_POD_UID',
]);

/**
 * `KEY=value;KEY=value`. A key that we do not know is an error unless IgnoreUnknown says otherwise.
 * @param complain  takes what is wrong, once for each
 */
export function parseArgs(text: string, complain: (what: string) => void): ExtraArgs {
  const args = new Map<string, string>();
  for (const pair of text === '' ? [] : text.split(';')) {
    const [key = '', ...rest] = pair.split('=');
    // Labels are pairs themselves.
    const value = key === 'K8S_POD_LABELS' ? rest.join('=') : rest[0];
    const isPair = rest.length === 1 || (key === 'K8S_POD_LABELS' && rest.length > 0);
    if (key === '' || value === undefined || !isPair) {
      complain(`CNI_ARGS has ${quote(pair)}, which is not KEY=value`);
    } else if (args.has(key)) {
      complain(`CNI_ARGS has ${quote(key)} twice`);
    } else {
      args.set(key, value);
    }
  }
  const ignore = args.get('IgnoreUnknown')?.toLowerCase() ?? '0';
  if (!['0', '1', 'false', 'true'].includes(ignore)) {
    complain(`CNI_ARGS has IgnoreUnknown=${quote(ignore)}, which is neither 1 nor 0`);
  }
  const unknown = [...args.keys()].filter((it) => !KNOWN_ARGS.has(it));
  if (unknown.length > 0 && (ignore === '0' || ignore === 'false')) {
    complain(`CNI_ARGS has unknown keys without IgnoreUnknown=1: ${quote(unknown.join(', '))}`);
  }

  const ips = (args.get('IP') ?? '').split(',').filter((it) => it !== '');
  const wrong = ipsComplaint(ips);
  if (wrong !== null) complain(`CNI_ARGS IP: ${wrong}`);
  const mac = args.get('MAC') || null;
  if (mac !== null && !isMacText(mac)) {
    complain(`CNI_ARGS MAC: ${quote(mac)} is not a unicast Ethernet address`);
  }
  const [namespace = '', name = ''] = ['K8S_POD_NAMESPACE', 'K8S_POD_NAME'].map((key) => {
    const value = args.get(key) ?? '';
    if (value !== '' && !POD_NAME.test(value)) {
      complain(`CNI_ARGS ${key}: ${quote(value)} is not a name`);
    }
    return value;
  });
  const pod = namespace === '' || name === '' ? null : { namespace, name };
  const labels = parseLabels(args.get('K8S_POD_LABELS') ?? '', complain);
  return { ips: ips.map((it) => withoutLength(it)), mac, pod, labels };
}

/** `a=b,c=d` */
function parseLabels(text: string, complain: (what: string) => void): ExtraArgs['labels'] {
  const labels = new Map<string, string>();
  for (const pair of text.split(',').filter((it) => it !== '')) {
    const [key = '', value, ...rest] = pair.split('=');
    if (value === undefined || rest.length > 0 || !isLabel(key, value)) {
      complain(`CNI_ARGS K8S_POD_LABELS: ${quote(pair)} is not a label (key=value)`);
    } else if (labels.has(key)) {
      complain(`CNI_ARGS K8S_POD_LABELS has ${quote(key)} twice`);
    } else labels.set(key, value);
  }
  return Object.fromEntries(labels);
}

export const isLabel = (key: unknown, value: unknown): boolean =>
  typeof key === 'string' &&
  typeof value === 'string' &&
  LABEL_KEY.test(key) &&
  LABEL_VALUE.test(value);

/** @throws CniFailure (invalidEnvironment) that names everything that is missing or malformed */
export function readEnvironment(env: Environment): Parameters {
  const complaints: string[] = [];
  const complain = (what: string): void => void complaints.push(what);
  const asked = env['CNI_COMMAND'] ?? '';
  const command = CNI_COMMANDS.find((it) => it === asked);
  if (asked === '') {
    complain('CNI_COMMAND is missing');
  } else if (command === undefined) {
    complain(`CNI_COMMAND is ${quote(asked)}, not one of ${CNI_COMMANDS.join(', ')}`);
  }
  const read = (name: keyof typeof VARIABLES): string => {
    const { pattern, meaning, commands }: Variable = VARIABLES[name];
    // Without a command, what every command that makes or removes something needs.
    if (!commands.includes(command ?? 'DEL')) return '';
    const value = env[name] ?? '';
    if (value === '') complain(`${name} is missing`);
    else if (!pattern.test(value)) complain(`${name} is ${quote(value)}, not ${meaning}`);
    return value;
  };
  const containerId = read('CNI_CONTAINERID');
  const ifname = read('CNI_IFNAME');
  const netns = read('CNI_NETNS');
  // DEL after an ADD that refused them must not fail for them.
  const usesArgs = command === 'ADD' || command === 'CHECK';
  const args = usesArgs ? parseArgs(env['CNI_ARGS'] ?? '', complain) : NO_ARGS;
  if (complaints.length > 0 || command === undefined) {
    throw new CniFailure(CniCode.invalidEnvironment, complaints.join('; '));
  }
  return { command, containerId, ifname, netns, ...args };
}
