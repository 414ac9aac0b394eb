/** `weft flows`: what has happened to flows in the cluster, and what happens now, one line each. */
import { setTimeout as sleep } from 'node:timers/promises';
import pico from 'picocolors';
import type { CommandModule } from 'yargs';
import { DaemonAbsentError, askDaemon, openStream } from './api-client.ts';
import {
  textOption,
  type Flags,
  OUTPUT_OPTION,
  UsageError,
  configOf,
  print,
  textOf,
  textsOf,
  warn,
  warnOf,
  withOptions,
} from './cli.ts';
import { parseLine } from './flow-lines.ts';
import {
  type ClusterFlowsMessage,
  type FlowMessage,
  type FollowedMessage,
  endText,
} from './messages.ts';

const AGAIN_AFTER_MS = 500;
/** What is asked for once more, so that nothing is missing between two streams. */
const OVERLAP_S = 2;

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
  /** Filters, as the API has them, and nodes. */
  readonly query: URLSearchParams;
  /** The daemon's stream, in pieces. @throws DaemonAbsentError, ApiError */
  readonly open: (path: string) => Promise<AsyncIterable<string>>;
  /** What the reader must know besides the flows. */
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
}

/** Of JSON, one a line, or null; what is cut off at the end is left out. */
async function* messagesOf(pieces: AsyncIterable<string>): AsyncGenerator<FollowedMessage | null> {
  let waiting = '';
  for await (const piece of pieces) {
    const lines = (waiting + piece).split('\n');
    waiting = lines.pop()!;
    for (const line of lines) yield parseLine(line);
  }
}

/**
 * Flows of the cluster as they come, those of `since` first; until the signal is aborted. The daemon here is
 * waited for when it goes away; what the other nodes saw meanwhile is told then, and nothing twice.
 * @throws ApiError when the question is wrong, DaemonAbsentError when there is no daemon at the start
 */
export async function* followCluster(options: FollowOptions): AsyncGenerator<FlowMessage> {
  const { query, open, say, signal } = options;
  /** By node: the last that was told. */
  const told = new Map<string, Pick<FlowMessage, 'sequence' | 'time'>>();
  let since = query.get('since');
  let wasOpen = false;
  let isAbsent = false;
  let brokeMs = 0;
  while (!signal.aborted) {
    const asked = new URLSearchParams(query);
    if (wasOpen) since = `${Math.ceil((performance.now() - brokeMs) / 1000) + OVERLAP_S}s`;
    if (since !== null) asked.set('since', since);
    try {
      const messages = messagesOf(await open(`/v1/cluster/flows/follow?${asked.toString()}`));
      if (isAbsent) say('the daemon has started anew; flows that began meanwhile may be missing');
      isAbsent = false;
      wasOpen = true;
      for await (const message of messages) {
        if (message === null) {
          say('a line is not understood, and left out');
          continue;
        }
        if ('note' in message) {
          say(`${message.node} ${message.note}`);
          continue;
        }
        const { node, sequence, time } = message.flow;
        const last = told.get(node);
        // Another daemon counts anew, and later.
        if (last !== undefined && sequence <= last.sequence && time <= last.time) continue;
        told.set(node, { sequence, time });
        yield message.flow;
      }
    } catch (error) {
      if (signal.aborted) return;
      const isGone =
        error instanceof DaemonAbsentError ||
        (error as NodeJS.ErrnoException).code === 'ECONNRESET';
      if (!isGone || !wasOpen) throw error;
    }
    if (signal.aborted) return;
    if (!isAbsent) {
      say('the daemon does not answer; waiting for it');
      brokeMs = performance.now();
    }
    isAbsent = true;
    await sleep(AGAIN_AFTER_MS, undefined, { signal }).catch(() => 'the loop ends');
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
  const query = new URLSearchParams();
  for (const name of FILTERS) {
    const text = textOf(flags, name);
    if (text !== null) query.set(name, text);
  }
  for (const name of textsOf(flags, 'node')) query.append('node', name);
  const last = textOf(flags, 'last');
  const { stateDir } = configOf(flags).config;
  const colors = pico.createColors(process.stdout.isTTY && pico.isColorSupported);
  const lineOf = (flow: FlowMessage): string =>
    output === 'jsonl' ? JSON.stringify(flow) : flowLine(flow, colors);
  if (flags['follow'] === true) {
    const stop = new AbortController();
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
    const open = async (path: string): Promise<AsyncIterable<string>> =>
      (await openStream(stateDir, path, stop.signal)).setEncoding('utf8');
    for await (const flow of followCluster({ query, open, say: warn, signal: stop.signal })) {
      print(lineOf(flow));
    }
    return;
  }
  if (last !== null) query.set('limit', last);
  const path = `/v1/cluster/flows?${query.toString()}`;
  const message = await askDaemon<ClusterFlowsMessage>(stateDir, 'GET', path);
  warnOf(message.absent, 'without ');
  if (output === 'json') print(JSON.stringify(message.flows, null, 2));
  else if (output === 'yaml') {
    const { stringify } = await import('yaml');
    print(stringify(message.flows, { lineWidth: 0, aliasDuplicateObjects: false }).trimEnd());
  } else for (const flow of message.flows) print(lineOf(flow));
}

export const flowsCommand: CommandModule = {
  command: 'flows',
  describe: 'What happened to flows of all nodes: begun, or dropped and why',
  builder: (it) =>
    withOptions(it, ['stateDir'])
      .option('follow', { type: 'boolean', describe: 'go on as they happen, until ^C' })
      .option(
        'node',
        textOption(
          'of this node alone: its name, lease or address, or own; more than once: of these',
        ),
      )
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
          'begins, on the nodes that its packets pass; later packets of it are not.\nEach node ' +
          'remembers the newest 65536 events since its daemon started. Nodes that do not answer\n' +
          'are named on stderr.',
      ),
  handler: flows,
};
