/**
 * Policies asked offline: the table that the packet path reads answers, the plain evaluator says why, and
 * the two must agree.
 */
import { mergeSets } from '../objects/set.ts';
import {
  type ObjectSet,
  type Pod,
  type Service,
  PROTOCOL_NUMBERS,
  nameOf,
} from '../objects/types.ts';
import { PolicyCompiler } from '../policy/compile.ts';
import {
  type Answer,
  type End,
  type Flow,
  type Surroundings,
  type Verdict,
  NOWHERE,
  PolicyQueryError,
  addressesOfFlow,
  portNumber,
  referenceVerdict,
} from '../policy/reference.ts';
import { EGRESS, INGRESS, createPolicyLookup } from '../policy/table.ts';
import { endpointsOf } from './endpoints.ts';
import {
  addressOrNull,
  type IpAddress,
  AddressError,
  addressBytes,
  formatAddress,
  parseAddress,
  parseIpv6,
  toIpv4,
  toIpv6,
} from '../wire/address.ts';

/** The table and the evaluator disagree: a defect, and no answer can be relied on. */
export class PolicyMismatchError extends Error {
  readonly code = 'ERR_POLICY_MISMATCH';
}

export interface Probe {
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
  readonly #around: Surroundings;
  readonly #arena = new DataView(new ArrayBuffer(32));
  readonly #bytes = new Uint8Array(this.#arena.buffer);
  readonly #lookup = createPolicyLookup(this.#arena);
  readonly #known = new Map<string, Verdict>();
  /** Of several pods: whose they are is not sure. */
  readonly #shared = new Set<IpAddress>();
  readonly #serviceAt = new Map<IpAddress, Service>();

  constructor(objects: ObjectSet, around: Surroundings = NOWHERE) {
    this.objects = withAddresses(mergeSets([objects]));
    this.#around = around;
    this.#lookup.install(new PolicyCompiler().compile({ objects: this.objects, ...around }));
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
    const address = /^[0-9a-fA-F.:]+$/.test(text) ? addressOrNull(text) : null;
    return address === null ? null : (this.#serviceAt.get(address) ?? null);
  }

  /** @throws PolicyQueryError, PolicyMismatchError */
  verdict(probe: Probe): Verdict {
    const { from, to, protocol, port } = probe;
    const service = this.serviceOf(to);
    if (service === null) return this.verdictOf({ from, to: this.endOf(to), protocol, port });
    const name = `Service ${nameOf(service)}`;
    const targets = endpointsOf(this.objects, service, protocol, port);
    if (typeof targets === 'string') {
      return { ingress: 'deny', egress: 'deny', verdict: 'deny', because: `${name} ${targets}` };
    }
    const verdicts = targets.map((it) => ({
      to: endText(it.end),
      verdict: this.verdictOf({ from, to: it.end, protocol, port: it.port }),
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

  /** Of one flow as it is after a Service's translation. @throws PolicyQueryError, PolicyMismatchError */
  verdictOf(flow: Flow): Verdict {
    const key = `${endKey(flow.from)} ${endKey(flow.to)} ${flow.protocol} ${flow.port}`;
    let verdict = this.#known.get(key);
    if (verdict === undefined) {
      verdict = referenceVerdict(this.objects, flow, this.#around);
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
    const port = portNumber(this.objects, flow.to, flow.protocol, flow.port, this.#around);
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
export const endText = (end: End): string => (typeof end === 'string' ? end : formatAddress(end));
