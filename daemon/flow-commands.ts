/** `weft flows`: what has happened to flows on this node, and what happens now, one line each. */
import { setTimeout as sleep } from 'node:timers/promises';
import pico from 'picocolors';
import type { CommandModule } from 'yargs';
import { DaemonAbsentError, askDaemon } from './api-client.ts';
import {
  textOption,
  type Flags,
  OUTPUT_OPTION,
  UsageError,
  configOf,
  print,
  textOf,
  withOptions,
} from './cli.ts';
import { type FlowMessage, type FlowsMessage, endText } from './messages.ts';

/** Shorter than askDaemon waits for an answer. */
const WAIT = '10s';
const AGAIN_AFTER_MS = 500;
/** The most that the API gives at once. */
const LIMIT_MAX = '10000';

const OUTPUTS = ['table', 'json', 'yaml', 'jsonl'] as const;
type Output = (typeof OUTPUTS)[number];

/** Flags that are the API's, under the same names. */
const FILTERS = [
  'verdict',
  'reason',
  'from',
  'to',
  'with',
  'service',
  'protocol',
  'port',
  'since',
] as const;

type Colors = Pick<typeof pico, 'dim' | 'green' | 'red'>;

/** Names come from etcd and from packets. */
const plain = (text: string): string => text.replaceAll(/\p{Cc}/gu, '?');

/** One line: when, where, who asked whom, what was decided, and why. */
export function flowLine(flow: FlowMessage, colors: Colors): string {
  const { service, backend, verdict, reason, because, outerSource } = flow;
  const ends = [
    endText(flow.source),
    service === null
      ? endText(flow.destination)
      : `service/${service.namespace}/${service.name}:${service.port}`,
    ...(backend === null ? [] : [endText(backend)]),
  ];
  const color = verdict === 'forwarded' ? colors.green : colors.red;
  const parts = [
    colors.dim(plain(flow.time)),
    colors.dim(plain(flow.node)),
    plain(ends.join(' -> ')),
    plain(flow.protocol),
    plain(flow.tcpFlags),
    color(verdict),
    reason === null ? '' : plain(`${reason}${because === null ? '' : `: ${because}`}`),
    outerSource === null || reason === null ? '' : plain(`(from ${outerSource})`),
  ];
  return parts.filter((it) => it !== '').join(' ');
}

export interface FollowOptions {
  /** Filters, as the API has them. */
  readonly query: Readonly<Record<string, string>>;
  readonly ask: (path: string) => Promise<FlowsMessage>;
  /** What the reader must know besides the flows. */
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
}

const pathOf = (query: Readonly<Record<string, string>>): string =>
  `/v1/flows?${new URLSearchParams(query).toString()}`;

/**
 * Flows as they come, those of `since` first; until the signal is aborted. A daemon that goes away is
 * waited for.
 * @throws ApiError when the question is wrong
 */
export async function* followFlows({
  query: { since, ...filters },
  ask,
  say,
  signal,
}: FollowOptions): AsyncGenerator<FlowMessage> {
  // With neither, from now on.
  let position: Readonly<Record<string, string>> = { since: since ?? '0s' };
  let run: string | null = null;
  let lost = 0;
  let isAbsent = false;
  while (!signal.aborted) {
    let message: FlowsMessage;
    try {
      message = await ask(pathOf({ ...filters, ...position, limit: LIMIT_MAX }));
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof DaemonAbsentError) || run === null) throw error;
      if (!isAbsent) say('the daemon does not answer; waiting for it');
      isAbsent = true;
      await sleep(AGAIN_AFTER_MS, undefined, { signal }).catch(() => 'the loop ends');
      continue;
    }
    const isAnother = run !== null && message.run !== run;
    if (isAnother) say('the daemon has started anew; flows that began meanwhile may be missing');
    else if (isAbsent) say('the daemon answers again');
    isAbsent = false;
    run = message.run;
    if (isAnother) {
      lost = 0;
      // All that the new one has seen.
      position = {};
      continue;
    }
    if (message.lost > lost && position['after'] !== undefined) {
      say(`${message.lost - lost} events came faster than they could be read, and are lost`);
    }
    lost = message.lost;
    yield* message.flows;
    position = { after: String(message.next), wait: WAIT };
  }
}

/** @throws UsageError */
function outputOf(flags: Flags): Output {
  const text = textOf(flags, 'output') ?? 'table';
  const output = OUTPUTS.find((it) => it === text);
  if (output === undefined) {
    throw new UsageError(`--output: "${text}" is not ${OUTPUTS.join(', ')}`);
  }
  if (flags['follow'] === true && (output === 'json' || output === 'yaml')) {
    throw new UsageError(`--output ${output} has an end, --follow has none: say jsonl`);
  }
  return output;
}

async function flows(flags: Flags): Promise<void> {
  const output = outputOf(flags);
  const query: Record<string, string> = {};
  for (const name of FILTERS) {
    const text = textOf(flags, name);
    if (text !== null) query[name] = text;
  }
  const last = textOf(flags, 'last');
  const { stateDir } = configOf(flags).config;
  const colors = pico.createColors(process.stdout.isTTY && pico.isColorSupported);
  const lineOf = (flow: FlowMessage): string =>
    output === 'jsonl' ? JSON.stringify(flow) : flowLine(flow, colors);
  if (flags['follow'] === true) {
    const stop = new AbortController();
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
    const following = followFlows({
      query,
      ask: (path) => askDaemon(stateDir, 'GET', path, undefined, stop.signal),
      say: (line) => void process.stderr.write(`weft: ${line}\n`),
      signal: stop.signal,
    });
    for await (const flow of following) print(lineOf(flow));
    return;
  }
  const limit = last === null ? {} : { limit: last };
  const message = await askDaemon<FlowsMessage>(stateDir, 'GET', pathOf({ ...query, ...limit }));
  if (output === 'json') print(JSON.stringify(message.flows, null, 2));
  else if (output === 'yaml') {
    const { stringify } = await import('yaml');
    print(stringify(message.flows, { lineWidth: 0, aliasDuplicateObjects: false }).trimEnd());
  } else for (const flow of message.flows) print(lineOf(flow));
}

export const flowsCommand: CommandModule = {
  command: 'flows',
  describe: 'What happened to flows on this node: begun, or dropped and why',
  builder: (it) =>
    withOptions(it, ['stateDir'])
      .option('follow', { type: 'boolean', describe: 'go on as they happen, until ^C' })
      .option('verdict', textOption('allow (or forwarded), or deny (or dropped)'))
      .option('reason', textOption('a drop reason: policyIngress, noEndpoint...'))
      .option('from', textOption('source: NAMESPACE/POD, NAMESPACE/, address, block or node'))
      .option('to', textOption('destination or chosen endpoint, the same'))
      .option('with', textOption('either end, the same'))
      .option('service', textOption('NAMESPACE/NAME of the Service that was asked'))
      .option('protocol', textOption('TCP, UDP, SCTP, ICMP, ICMPv6 or its number'))
      .option('port', textOption("the destination's port, or the endpoint's"))
      .option('since', textOption('not older than this: 30s, 5m, 2h'))
      .option('last', textOption('no more than so many, the newest; 1000 if it is left out'))
      .option('output', { ...OUTPUT_OPTION, describe: 'table, yaml, json, or jsonl' })
      .epilogue(
        'For example: weft flows --follow --verdict deny --to shop/\n\nA flow is told when it ' +
          'begins, on the nodes that its packets pass; later packets of it are not.\nThe newest ' +
          '65536 events since the daemon started are remembered.',
      ),
  handler: flows,
};
