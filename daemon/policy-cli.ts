/**
 * `weft policy`: what the policies in files allow, and why. Answers come from the table that the packet
 * path reads, reasons from the plain evaluator; the two must agree.
 */
import { readFile } from 'node:fs/promises';
import { text as readAll } from 'node:stream/consumers';
import { objectSetOf } from '../objects/set.ts';
import {
  type Answer,
  type Flow,
  PolicyQueryError,
  explainFlow,
  referenceVerdict,
} from '../policy/reference.ts';
import { ObjectsError, readObjects } from './object-commands.ts';
import { PolicyOracle, type Probe, endText } from './policy-oracle.ts';
import { matrixTable, verdictText, verdictsTable } from './tables.ts';

export interface PolicyQuestion {
  readonly action: 'verdict' | 'matrix';
  readonly paths: readonly string[];
  readonly from: string | null;
  readonly to: string | null;
  readonly port: string | null;
  readonly protocol: string | null;
  readonly probes: string | null;
}

export interface PolicyAnswer {
  /** For JSON and YAML. */
  readonly value: unknown;
  readonly table: () => string;
  readonly isAllowed: boolean;
}

/** @throws PolicyQueryError */
function portOf(value: unknown, protocol: Flow['protocol']): number | string {
  if (protocol === 'other') return 0;
  if (value === null || value === undefined || value === '') {
    throw new PolicyQueryError('there is no port');
  }
  if (typeof value === 'string' && !/^[0-9]+$/.test(value)) return value;
  const port = Number(value);
  if (typeof value === 'object' || !Number.isInteger(port) || port < 1 || port > 65535) {
    throw new PolicyQueryError(`port ${JSON.stringify(value)} is not 1..65535 or a name`);
  }
  return port;
}

const PROTOCOLS: Readonly<Record<string, Flow['protocol']>> = {
  TCP: 'TCP',
  UDP: 'UDP',
  SCTP: 'SCTP',
  OTHER: 'other',
  ICMP: 'other',
};

/** @throws PolicyQueryError */
function protocolOf(value: unknown): Flow['protocol'] {
  const name = value ?? 'TCP';
  const known = typeof name === 'string' ? name.toUpperCase() : '';
  const protocol = Object.hasOwn(PROTOCOLS, known) ? PROTOCOLS[known] : undefined;
  if (protocol === undefined) {
    throw new PolicyQueryError(`protocol ${JSON.stringify(value)} is not TCP, UDP, SCTP or other`);
  }
  return protocol;
}

const isMapping = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** @throws PolicyQueryError */
function probeOf(oracle: PolicyOracle, value: unknown): Probe {
  if (!isMapping(value)) throw new PolicyQueryError('it is no object');
  const { from, to } = value;
  if (typeof from !== 'string' || typeof to !== 'string') {
    throw new PolicyQueryError('from and to must be texts');
  }
  const protocol = protocolOf(value['protocol']);
  return { from: oracle.endOf(from), to, protocol, port: portOf(value['port'], protocol) };
}

/** @throws PolicyQueryError */
async function readProbes(path: string, stdin: NodeJS.ReadableStream): Promise<readonly unknown[]> {
  let value: unknown;
  try {
    value = JSON.parse(path === '-' ? await readAll(stdin) : await readFile(path, 'utf8'));
  } catch (cause) {
    const { message } = cause as Error;
    throw new PolicyQueryError(`--probes ${path} cannot be read as JSON: ${message}`, { cause });
  }
  if (!Array.isArray(value)) throw new PolicyQueryError(`--probes ${path} is no list`);
  return value as readonly unknown[];
}

async function answerProbes(
  oracle: PolicyOracle,
  path: string,
  stdin: NodeJS.ReadableStream,
): Promise<PolicyAnswer> {
  const probes = await readProbes(path, stdin);
  const parsed = probes.map((it, at) => {
    try {
      const probe = probeOf(oracle, it);
      return { probe, verdict: oracle.verdict(probe) };
    } catch (error) {
      if (!(error instanceof PolicyQueryError)) throw error;
      throw new PolicyQueryError(`--probes ${path}: [${at}]: ${error.message}`, { cause: error });
    }
  });
  const verdicts = parsed.map(({ verdict }) => verdict);
  const table = (): string =>
    verdictsTable(
      parsed.map(({ probe: { from, to, protocol, port }, verdict }) => ({
        ...verdict,
        from: endText(from),
        to,
        port: `${protocol}/${port}`,
      })),
    );
  return { value: verdicts, table, isAllowed: true };
}

/** @throws PolicyQueryError */
function answerMatrix(oracle: PolicyOracle, question: PolicyQuestion): PolicyAnswer {
  const protocol = protocolOf(question.protocol);
  const port = portOf(question.port, protocol);
  const pods = [...oracle.objects.pods]
    .filter(([, { phase }]) => phase !== 'Succeeded' && phase !== 'Failed')
    .map(([name]) => name)
    .toSorted();
  const answers = pods.map((from) =>
    pods.map((to): Answer => {
      const flow: Flow = { from, to, protocol, port };
      const { ingress, egress } = oracle.compiled(flow) ?? referenceVerdict(oracle.objects, flow);
      return ingress === 'allow' && egress === 'allow' ? 'allow' : 'deny';
    }),
  );
  const matrix = Object.fromEntries(
    pods.map((from, i) => [from, Object.fromEntries(pods.map((to, j) => [to, answers[i]![j]!]))]),
  );
  return {
    value: { protocol, port, pods, matrix },
    table: () => matrixTable(pods, answers),
    isAllowed: true,
  };
}

/** @throws PolicyQueryError */
function answerVerdict(oracle: PolicyOracle, question: PolicyQuestion): PolicyAnswer {
  const { from, to } = question;
  if (from === null || to === null) {
    throw new PolicyQueryError('say between whom: --from and --to, or --probes');
  }
  const protocol = protocolOf(question.protocol);
  const port = portOf(question.port, protocol);
  const source = oracle.endOf(from);
  const verdict = oracle.verdict({ from: source, to, protocol, port });
  return {
    value: { from, to, protocol, port, ...verdict },
    table: () => {
      if (oracle.serviceOf(to) !== null) return verdictText(verdict, [verdict.because]);
      const flow: Flow = { from: source, to: oracle.endOf(to), protocol, port };
      const { egress, ingress, remark } = explainFlow(oracle.objects, flow);
      const lines = [egress.because, ingress.because, remark].filter(Boolean);
      return verdictText(verdict, [...new Set(lines)]);
    },
    isAllowed: verdict.verdict === 'allow',
  };
}

/** @throws ObjectsError, PolicyQueryError; PolicyMismatchError */
export async function answerPolicyQuestion(
  question: PolicyQuestion,
  stdin: NodeJS.ReadableStream,
): Promise<PolicyAnswer> {
  const { probes, paths, action } = question;
  if (probes === '-' && paths.includes('-')) {
    throw new PolicyQueryError('objects and probes cannot both come from stdin');
  }
  let documents;
  try {
    ({ documents } = await readObjects(paths, stdin));
  } catch (error) {
    if (!(error instanceof ObjectsError)) throw error;
    const message = error.message.replace('nothing was changed', 'nothing was asked');
    throw new ObjectsError(message, error.problems, { cause: error });
  }
  const oracle = new PolicyOracle(objectSetOf(documents.map(({ object }) => object)));
  if (probes !== null) return await answerProbes(oracle, probes, stdin);
  return action === 'matrix' ? answerMatrix(oracle, question) : answerVerdict(oracle, question);
}
