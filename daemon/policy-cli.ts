/**
 * `weft policy`: what the policies in files allow, and why. Answers come from the table that the packet
 * path reads, reasons from the plain evaluator; the two must agree.
 */
import { readFile } from 'node:fs/promises';
import { text as readAll } from 'node:stream/consumers';
import { mergeSets, objectSetOf } from '../objects/set.ts';
import {
  type ObjectSet,
  type Pod,
  type Service,
  type ServicePort,
  PROTOCOL_NUMBERS,
  nameOf,
} from '../objects/types.ts';
import { PolicyCompiler } from '../policy/compile.ts';
import {
  type Answer,
  type End,
  type Flow,
  type Verdict,
  PolicyQueryError,
  addressesOfFlow,
  explainFlow,
  portNumber,
  referenceVerdict,
} from '../policy/reference.ts';
import { EGRESS, INGRESS, createPolicyLookup } from '../policy/table.ts';
import {
  type IpAddress,
  AddressError,
  addressBytes,
  formatAddress,
  parseAddress,
  parseIpv6,
  toIpv4,
  toIpv6,
} from '../wire/address.ts';
import { ObjectsError, readObjects } from './object-commands.ts';
import { matrixTable, verdictText, verdictsTable } from './tables.ts';

/** The table and the evaluator disagree: a defect, and no answer can be relied on. */
export class PolicyMismatchError extends Error {
  readonly code = 'ERR_POLICY_MISMATCH';
}

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

/** One flow, or one for each endpoint of a Service. */
interface Target {
  readonly end: End;
  readonly port: number | string;
}

interface Probe {
  readonly from: End;
  readonly to: string;
  readonly protocol: Flow['protocol'];
  readonly port: number | string;
}

/** IPv4's reserved block and IPv6's discard-only one (RFC 1112 section 4, RFC 6666): no policy names them. */
const SPARE4 = 0xf0000001;
const SPARE6 = parseIpv6('100::1');

/** A manifest has no status: such pods get addresses that only blocks as wide as 0.0.0.0/0 hold. */
function withAddresses(objects: ObjectSet): ObjectSet {
  const taken = new Set<IpAddress>(
    [...objects.pods.values(), ...objects.nodes.values()].flatMap((it) =>
      it.kind === 'Pod' ? it.podIPs : it.addresses,
    ),
  );
  let next = 0;
  const spare = (): readonly IpAddress[] => {
    for (;;) {
      const pair = [toIpv4(SPARE4 + next), toIpv6(SPARE6 + BigInt(next))];
      next++;
      if (!pair.some((it) => taken.has(it))) return pair;
    }
  };
  const pods = new Map<string, Pod>();
  for (const [name, pod] of objects.pods) {
    const own = pod.podIPs.length > 0 || pod.phase === 'Succeeded' || pod.phase === 'Failed';
    if (own) pods.set(name, pod);
    else {
      const node = pod.hostNetwork ? objects.nodes.get(`/${pod.nodeName}`) : undefined;
      const podIPs = node === undefined || node.addresses.length === 0 ? spare() : node.addresses;
      pods.set(name, { ...pod, podIPs, ready: true });
    }
  }
  return { ...objects, pods };
}

/** Asks the table as the packet path does, and the evaluator for reasons. */
export class PolicyOracle {
  readonly objects: ObjectSet;
  readonly #arena = new DataView(new ArrayBuffer(32));
  readonly #bytes = new Uint8Array(this.#arena.buffer);
  readonly #lookup = createPolicyLookup(this.#arena);
  readonly #known = new Map<string, Verdict>();
  /** Of several pods: whose they are is not sure. */
  readonly #shared = new Set<IpAddress>();
  readonly #serviceAt = new Map<IpAddress, Service>();

  constructor(objects: ObjectSet) {
    this.objects = withAddresses(mergeSets([objects]));
    const inputs = {
      objects: this.objects,
      subjects: 'all',
      nodeName: '',
      nodeAddresses: [],
    } as const;
    this.#lookup.install(new PolicyCompiler().compile(inputs));
    const seen = new Set<IpAddress>();
    for (const { podIPs, phase, hostNetwork } of this.objects.pods.values()) {
      if (phase === 'Succeeded' || phase === 'Failed' || hostNetwork) continue;
      for (const it of podIPs) (seen.has(it) ? this.#shared : seen).add(it);
    }
    for (const service of this.objects.services.values()) {
      for (const it of service.clusterIPs) this.#serviceAt.set(it, service);
    }
  }

  /** @throws PolicyQueryError */
  endOf(text: string): End {
    try {
      return parseAddress(text);
    } catch (error) {
      if (!(error instanceof AddressError)) throw error;
    }
    const name = text.includes('/') ? text : `default/${text}`;
    if (this.objects.pods.has(name)) return name;
    throw new PolicyQueryError(`there is no pod ${name}`);
  }

  /** @throws PolicyQueryError */
  serviceOf(text: string): Service | null {
    const [, explicit] = /^(?:service|svc)\/([^/]+\/[^/]+)$/.exec(text) ?? [];
    const name = explicit ?? (text.includes('/') ? text : `default/${text}`);
    const service = this.objects.services.get(name);
    if (explicit !== undefined && service === undefined) {
      throw new PolicyQueryError(`there is no Service ${name}`);
    }
    if (service !== undefined && (explicit !== undefined || !this.objects.pods.has(name))) {
      return service;
    }
    if (!/^[0-9a-fA-F.:]+$/.test(text)) return null;
    try {
      return this.#serviceAt.get(parseAddress(text)) ?? null;
    } catch (error) {
      if (error instanceof AddressError) return null;
      throw error;
    }
  }

  /** @throws PolicyQueryError, PolicyMismatchError */
  verdict(probe: Probe): Verdict {
    const { from, to, protocol, port } = probe;
    const service = this.serviceOf(to);
    if (service === null) return this.#ask({ from, to: this.endOf(to), protocol, port });
    const name = `Service ${nameOf(service)}`;
    const targets = this.#targetsOf(service, protocol, port);
    if (typeof targets === 'string') {
      return { ingress: 'deny', egress: 'deny', verdict: 'deny', because: `${name} ${targets}` };
    }
    const verdicts = targets.map((it) => ({
      to: endText(it.end),
      verdict: this.#ask({ from, to: it.end, protocol, port: it.port }),
    }));
    const denied = verdicts.filter(({ verdict }) => verdict.verdict === 'deny');
    const all = (direction: 'ingress' | 'egress'): Answer =>
      verdicts.every(({ verdict }) => verdict[direction] === 'allow') ? 'allow' : 'deny';
    const reasons = (denied.length > 0 ? denied : verdicts).map(
      (it) => `${it.to}: ${it.verdict.because}`,
    );
    const summary =
      denied.length === 0
        ? `every endpoint of ${name} is allowed`
        : `${denied.length} of ${verdicts.length} endpoints of ${name} are denied`;
    return {
      ingress: all('ingress'),
      egress: all('egress'),
      verdict: denied.length === 0 ? 'allow' : 'deny',
      because: `${summary}: ${reasons.join('; ')}`,
    };
  }

  /** The ready endpoints; or why there are none. */
  #targetsOf(
    service: Service,
    protocol: Flow['protocol'],
    port: number | string,
  ): readonly Target[] | string {
    const servicePort = service.ports.find(
      (it) => it.protocol === protocol && (it.port === port || it.name === port),
    );
    if (servicePort === undefined) return `has no ${protocol} port ${port}: it is rejected`;
    const targets = this.#slicesOf(service, servicePort) ?? this.#podsOf(service, servicePort);
    return targets.length === 0 ? 'has no ready endpoint: it is rejected' : targets;
  }

  /** Null: there are no slices. */
  #slicesOf({ metadata }: Service, { name, protocol }: ServicePort): readonly Target[] | null {
    const slices = [...this.objects.endpointSlices.values()].filter(
      (it) => it.serviceName === metadata.name && it.metadata.namespace === metadata.namespace,
    );
    if (slices.length === 0) return null;
    return slices.flatMap(({ endpoints, ports }) => {
      const found = ports.find((it) => it.name === name && it.protocol === protocol);
      if (found === undefined) return [];
      return endpoints
        .filter(({ ready }) => ready)
        .map(({ addresses }) => ({ end: addresses[0]!, port: found.port }));
    });
  }

  #podsOf(service: Service, { protocol, targetPort }: ServicePort): readonly Target[] {
    const { selector, metadata } = service;
    if (selector === null) return [];
    const wanted = Object.entries(selector);
    return [...this.objects.pods.values()]
      .filter(
        (pod) =>
          pod.metadata.namespace === metadata.namespace &&
          pod.podIPs.length > 0 &&
          (pod.ready || service.publishNotReadyAddresses) &&
          !pod.terminating &&
          pod.phase !== 'Succeeded' &&
          pod.phase !== 'Failed' &&
          wanted.every(
            ([key, value]) =>
              Object.hasOwn(pod.metadata.labels, key) && pod.metadata.labels[key] === value,
          ),
      )
      .map((pod) => ({
        end: nameOf(pod),
        port: portNumber(this.objects, nameOf(pod), protocol, targetPort),
      }))
      .filter(({ port }) => port !== 0);
  }

  #ask(flow: Flow): Verdict {
    const key = `${endKey(flow.from)} ${endKey(flow.to)} ${flow.protocol} ${flow.port}`;
    let verdict = this.#known.get(key);
    if (verdict === undefined) {
      verdict = referenceVerdict(this.objects, flow);
      const compiled = this.compiled(flow);
      if (
        compiled !== null &&
        (compiled.ingress !== verdict.ingress || compiled.egress !== verdict.egress)
      ) {
        throw new PolicyMismatchError(
          `the compiled policies and their evaluation disagree on ${endText(flow.from)} to ` +
            `${endText(flow.to)} ${flow.protocol} ${flow.port} (${JSON.stringify([compiled, verdict])}); ` +
            'this is a defect of weft, and no answer can be relied on',
        );
      }
      this.#known.set(key, verdict);
    }
    return verdict;
  }

  /** What the table says; null where it cannot tell whose an address is. */
  compiled(flow: Flow): { readonly ingress: Answer; readonly egress: Answer } | null {
    const pair = addressesOfFlow(this.objects, flow.from, flow.to);
    if (pair === null || this.#shared.has(pair.source) || this.#shared.has(pair.destination)) {
      return null;
    }
    const is4 = typeof pair.source === 'number';
    this.#bytes.set(addressBytes(pair.source), 0);
    this.#bytes.set(addressBytes(pair.destination), 16);
    const port = portNumber(this.objects, flow.to, flow.protocol, flow.port);
    const number = flow.protocol === 'other' ? 1 : PROTOCOL_NUMBERS[flow.protocol];
    const ask = (direction: number, selfAt: number, peerAt: number): Answer => {
      const subject = this.#lookup.subjectOf(selfAt, is4);
      const isAllowed =
        subject === -1 ||
        this.#lookup.allows(direction, subject, selfAt, peerAt, is4, number, port);
      return isAllowed ? 'allow' : 'deny';
    };
    return { egress: ask(EGRESS, 0, 16), ingress: ask(INGRESS, 16, 0) };
  }
}

const endKey = (end: End): string => (typeof end === 'string' ? end : `@${end}`);
const endText = (end: End): string => (typeof end === 'string' ? end : formatAddress(end));

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
