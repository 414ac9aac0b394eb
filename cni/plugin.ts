/**
 * The CNI plugin without its surroundings: environment and stdin in, stdout and exit code out. It does
 * nothing by itself; the daemon, which it asks, makes and removes. Only a DEL without a daemon cleans up
 * here, because the runtime must be able to forget a container.
 */
import type { CniRequest } from '../daemon/messages.ts';
import { type CniCommand, type CniVersion, CNI_VERSIONS, CniCode } from '../wire/cni.ts';
import { type Configuration, readConfiguration, versionOf } from './configuration.ts';
import { type Environment, type Parameters, readEnvironment } from './environment.ts';
import { CniFailure, DaemonAwayError, formatError } from './errors.ts';
import { parseStdin } from './json.ts';
import { formatResult, formatVersions, readAnswer } from './result.ts';

/** What the plugin needs of the machine. */
export interface Surroundings {
  /** POST /v1/cni. @throws DaemonAwayError */
  readonly ask: (
    socket: string,
    request: CniRequest,
    withinMs: number,
  ) => Promise<{ readonly status: number; readonly text: string }>;
  /**
   * Removes what an attachment left on the host, and leaves word for the daemon's next start.
   * @returns what is left all the same, one line each
   */
  readonly cleanUp: (
    socket: string,
    containerId: string,
    ifname: string,
  ) => Promise<readonly string[]>;
}

export interface Outcome {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: 0 | 1;
}

/** Runtimes give up after two minutes or later; a DEL must still clean up in that time. */
const ANSWER_WITHIN_MS: Readonly<Record<Exclude<CniCommand, 'VERSION'>, number>> = {
  ADD: 60_000,
  DEL: 30_000,
  CHECK: 30_000,
  GC: 60_000,
  STATUS: 5_000,
};

const NEWEST: CniVersion = '1.1.0';

const USAGE = `weft-cni is the CNI plugin of Weft: container runtimes run it, people do not.
It speaks CNI ${CNI_VERSIONS.join(', ')}. Install it with: weft cni install
`;

function requestOf(
  command: Exclude<CniCommand, 'VERSION'>,
  { containerId, ifname, netns, ...args }: Parameters,
  config: Configuration,
): CniRequest {
  const { network } = config;
  switch (command) {
    case 'ADD': {
      // CONVENTIONS: the capability wins over args, args over CNI_ARGS.
      const ips = config.ips ?? args.ips;
      const mac = config.mac ?? args.mac;
      const labels = { ...args.labels, ...config.labels };
      const { pod } = args;
      const request = { command, network, containerId, ifname, netns, ips, mac, pod };
      return {
        ...request,
        ...(Object.keys(labels).length > 0 && { labels }),
        ...(config.ports.length > 0 && { ports: config.ports }),
      };
    }
    case 'CHECK':
      return { command, network, containerId, ifname, netns, ...config.previous };
    case 'DEL':
      return { command, containerId, ifname };
    case 'GC':
      return { command, network, valid: config.valid };
    default:
      return { command };
  }
}

function awayFailure(command: CniCommand, socket: string, away: DaemonAwayError): CniFailure {
  return new CniFailure(
    command === 'STATUS' ? CniCode.unavailable : CniCode.tryAgainLater,
    `no weft daemon answers at ${socket} (${away.message}); start it: weft daemon`,
    '',
    { cause: away },
  );
}

async function deleteAlone(
  { cleanUp }: Surroundings,
  socket: string,
  { containerId, ifname }: Parameters,
  away: DaemonAwayError,
): Promise<string> {
  const left = await cleanUp(socket, containerId, ifname);
  if (left.length === 0) {
    return `weft-cni: no weft daemon answers at ${socket} (${away.message}); cleaned up without it\n`;
  }
  throw new CniFailure(
    CniCode.io,
    `no weft daemon answers at ${socket} (${away.message}), and without it this is left: ${left.join('; ')}`,
    '',
    { cause: away },
  );
}

/** VERSION takes any input: the version it names is repeated if it looks like one. */
function versions(stdin: Uint8Array | null): string {
  let asked: unknown;
  try {
    asked = stdin === null ? undefined : parseStdin(stdin)['cniVersion'];
  } catch (error) {
    if (!(error instanceof CniFailure)) throw error;
    asked = undefined;
  }
  const isVersion = typeof asked === 'string' && /^[0-9]{1,3}(?:\.[0-9]{1,3}){2}$/.test(asked);
  return formatVersions(isVersion ? (asked as string) : NEWEST);
}

/**
 * @param stdin  null: a terminal, which nobody reads a configuration from
 */
export async function handle(
  env: Environment,
  stdin: Uint8Array | null,
  surroundings: Surroundings,
): Promise<Outcome> {
  if (stdin === null && (env['CNI_COMMAND'] ?? '') === '') {
    return { stdout: '', stderr: USAGE, exitCode: 0 };
  }
  let version = NEWEST;
  try {
    const parameters = readEnvironment(env);
    const { command } = parameters;
    if (command === 'VERSION') return { stdout: versions(stdin), stderr: '', exitCode: 0 };
    const json = parseStdin(stdin ?? new Uint8Array());
    // An error is written in the version that was asked for, also when it has not this command.
    version = CNI_VERSIONS.find((it) => it === json['cniVersion']) ?? NEWEST;
    versionOf(json, command);
    const config = readConfiguration(json, command, parameters.ifname);
    const { socket } = config;
    const request = requestOf(command, parameters, config);
    let answer;
    try {
      answer = await surroundings.ask(socket, request, ANSWER_WITHIN_MS[command]);
    } catch (error) {
      if (!(error instanceof DaemonAwayError)) throw error;
      if (command !== 'DEL') throw awayFailure(command, socket, error);
      const stderr = await deleteAlone(surroundings, socket, parameters, error);
      return { stdout: '', stderr, exitCode: 0 };
    }
    const attachment = readAnswer(answer.status, answer.text);
    if (command !== 'ADD') return { stdout: '', stderr: '', exitCode: 0 };
    if (attachment === null) {
      throw new CniFailure(CniCode.internal, 'the weft daemon answered ADD without an attachment');
    }
    return { stdout: formatResult(version, attachment, config.dns), stderr: '', exitCode: 0 };
  } catch (error) {
    const failure =
      error instanceof CniFailure
        ? error
        : new CniFailure(CniCode.internal, `weft-cni failed: ${String(error)}`, '', {
            cause: error,
          });
    const stderr = failure.cniCode === CniCode.internal ? `${stackOf(error)}\n` : '';
    return { stdout: formatError(version, failure), stderr, exitCode: 1 };
  }
}

const stackOf = (error: unknown): string =>
  (error instanceof Error ? error.stack : undefined) ?? String(error);
