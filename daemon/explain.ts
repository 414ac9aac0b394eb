/** May A reach B, and because of what: Services first, as a packet meets them, then both ends' policies. */
import { type ObjectSet, type Service, nameOf } from '../objects/types.ts';
import {
  type End,
  type Flow,
  PolicyQueryError,
  type Surroundings,
  addressesOfFlow,
  explainFlow,
} from '../policy/reference.ts';
import type { ServiceInputs } from '../service/compile.ts';
import { type Outcome, referenceBackends } from '../service/reference.ts';
import { addressOrNull, formatAddress } from '../wire/address.ts';
import { ApiError } from './api.ts';
import type { ExplainMessage } from './messages.ts';

const LENGTH_MAX = 300;
/** More endpoints of one Service are not told one by one. */
const ENDPOINTS_MAX = 20;

export interface ExplainInputs extends ServiceInputs {
  readonly around: Surroundings;
}

const refuse = (why: string): never => {
  throw new ApiError(400, 'ERR_EXPLAIN', why);
};

const qualified = (name: string): string => (name.includes('/') ? name : `default/${name}`);
const endText = (end: End): string => (typeof end === 'string' ? end : formatAddress(end));

/** A pod, a node or an address. */
function endOf(objects: ObjectSet, text: string): End {
  const address = addressOrNull(text);
  if (address !== null) return address;
  const name = qualified(text);
  if (objects.pods.has(name)) return name;
  const ofNode = objects.nodes.get(`/${text}`)?.addresses[0];
  return ofNode ?? refuse(`there is no pod ${name}, and no node ${text}`);
}

function serviceOf(objects: ObjectSet, text: string): Service | null {
  const [, explicit] = /^(?:service|svc)\/([^/]+\/[^/]+)$/.exec(text) ?? [];
  const name = explicit ?? qualified(text);
  const service = objects.services.get(name) ?? null;
  if (explicit !== undefined && service === null) refuse(`there is no Service ${name}`);
  return explicit === undefined && objects.pods.has(name) ? null : service;
}

const WHY: Readonly<Record<Extract<Outcome, string>, string>> = {
  'no frontend': 'it is no Service address',
  'unused port': 'the Service has no such port: it is rejected',
  unallocated: 'no Service has the address: it is dropped',
  'source refused': 'its loadBalancerSourceRanges do not hold the source: it is dropped',
  'no endpoint': 'the Service has no ready endpoint: it is rejected',
  'not local': 'its traffic policy is Local, and no endpoint is on this node: it is dropped',
};

type Step = ExplainMessage['steps'][number];

function policySteps(inputs: ExplainInputs, flow: Flow): readonly Step[] {
  const { egress, ingress, remark } = explainFlow(inputs.objects, flow, inputs.around);
  const steps: Step[] = [
    { what: `egress of ${endText(flow.from)}`, verdict: egress.answer, because: egress.because },
    { what: `ingress of ${endText(flow.to)}`, verdict: ingress.answer, because: ingress.because },
  ];
  if (remark !== '') steps.push({ what: 'remark', verdict: 'allow', because: remark });
  return steps;
}

const isAllowed = (steps: readonly Step[]): boolean => steps.every((it) => it.verdict === 'allow');

const ALIASES: Readonly<Record<string, Flow['protocol']>> = {
  TCP: 'TCP',
  UDP: 'UDP',
  SCTP: 'SCTP',
  ICMP: 'other',
  OTHER: 'other',
};

/** The port's number, of a Service or as it was given. */
function portOf(service: Service | null, protocol: Flow['protocol'], text: string) {
  if (protocol === 'other') return 0;
  if (/^\d{1,5}$/.test(text)) {
    const port = Number(text);
    return port >= 1 && port <= 65_535 ? port : refuse(`port ${text} is not 1..65535`);
  }
  if (text === '') return refuse('say which port');
  if (service === null) return text;
  const named = service.ports.find((it) => it.protocol === protocol && it.name === text);
  return named?.port ?? refuse(`the Service has no ${protocol} port "${text}"`);
}

/** A source's address of a family that the Service has, and the Service's. */
function meeting(objects: ObjectSet, from: End, service: Service) {
  for (const address of service.clusterIPs) {
    const pair = addressesOfFlow(objects, from, address);
    if (pair !== null) return { source: pair.source, address };
  }
  return refuse('the Service has no cluster IP of a family of the source');
}

/** @throws ApiError 400, what is asked cannot be */
export function explain(inputs: ExplainInputs, query: URLSearchParams): ExplainMessage {
  const [from, to] = ['from', 'to'].map((name) => {
    const text = query.get(name) ?? '';
    if (text === '') refuse(`say ${name} whom: NAMESPACE/POD, a Service, a node or an address`);
    return text.length > LENGTH_MAX ? refuse(`${name} is too long`) : text;
  }) as [string, string];
  const protocol = ALIASES[(query.get('protocol') ?? 'TCP').toUpperCase()];
  if (protocol === undefined) return refuse('the protocol is not TCP, UDP, SCTP or ICMP');
  try {
    return explainPair(inputs, from, to, protocol, query.get('port') ?? '');
  } catch (cause) {
    if (!(cause instanceof PolicyQueryError)) throw cause;
    throw new ApiError(400, 'ERR_EXPLAIN', cause.message, { cause });
  }
}

function explainPair(
  inputs: ExplainInputs,
  from: string,
  to: string,
  protocol: Flow['protocol'],
  portText: string,
): ExplainMessage {
  const { objects } = inputs;
  const source = endOf(objects, from);
  const service = serviceOf(objects, to);
  const port = portOf(service, protocol, portText);
  const asked = { from, to, protocol, port };
  const answer = (verdict: ExplainMessage['verdict'], steps: readonly Step[]): ExplainMessage => ({
    ...asked,
    verdict,
    steps,
  });
  const given = service === null ? endOf(objects, to) : null;
  const plain = (end: End): ExplainMessage => {
    const steps = policySteps(inputs, { from: source, to: end, protocol, port });
    return answer(isAllowed(steps) ? 'allow' : 'deny', steps);
  };
  if (protocol === 'other' || typeof port === 'string' || typeof given === 'string') {
    if (given !== null) return plain(given);
    return answer('deny', [
      { what: `Service ${nameOf(service!)}`, verdict: 'deny', because: 'a Service has ports only' },
    ]);
  }
  const ends =
    service === null
      ? { source: addressesOfFlow(objects, source, given!)?.source, address: given! }
      : meeting(objects, source, service);
  if (ends.source === undefined) return plain(ends.address);
  const pod = typeof source === 'string' ? objects.pods.get(source) : undefined;
  const outcome = referenceBackends(
    { ...inputs, nodeName: pod?.nodeName || inputs.nodeName },
    { ...ends, source: ends.source, isInside: pod !== undefined, protocol, port },
  );
  if (outcome === 'no frontend') return plain(ends.address);
  const what = service === null ? formatAddress(ends.address) : `Service ${nameOf(service)}`;
  if (typeof outcome === 'string') {
    return answer('deny', [{ what, verdict: 'deny', because: WHY[outcome] }]);
  }
  const chosen = outcome.map((it) => `${formatAddress(it.address)} port ${it.port}`);
  const some = chosen.slice(0, ENDPOINTS_MAX).join(', ');
  const more = chosen.length > ENDPOINTS_MAX ? ` and ${chosen.length - ENDPOINTS_MAX} more` : '';
  const steps: Step[] = [{ what, verdict: 'allow', because: `becomes one of ${some}${more}` }];
  let allowed = 0;
  for (const target of outcome.slice(0, ENDPOINTS_MAX)) {
    const flow: Flow = { from: source, to: target.address, protocol, port: target.port };
    const found = policySteps(inputs, flow);
    if (isAllowed(found)) allowed++;
    steps.push(...found);
  }
  const told = Math.min(outcome.length, ENDPOINTS_MAX);
  return answer(allowed === told ? 'allow' : allowed === 0 ? 'deny' : 'partly', steps);
}
