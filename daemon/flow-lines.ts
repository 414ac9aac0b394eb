/**
 * Flows as one daemon hands them to another that follows them for a reader: each is written once, where it
 * was seen, and passed on as it is.
 *
 *     {"node":"n2","next":9,"run":"6f…","lost":0}      where the next question goes on
 *     {"flow":{…}}                                     a line each, as the reader gets it
 */
import type { FlowMessage, FlowsMessage, FollowedMessage } from './messages.ts';

export type FlowLinesHead = Omit<FlowsMessage, 'flows'>;

export interface FlowLines extends FlowLinesHead {
  /** FollowedMessage, each ended by a newline. */
  readonly lines: Buffer;
}

export const LINES_TYPE = 'application/jsonl';
const NEWLINE = 0x0a;

export const lineOf = (message: FollowedMessage | FlowLinesHead): string =>
  `${JSON.stringify(message)}\n`;

/** The definition of what FlowLog.lines writes. */
export function linesOf({ flows, ...head }: FlowsMessage): FlowLines {
  return { ...head, lines: Buffer.from(flows.map((flow) => lineOf({ flow })).join('')) };
}

/** The body of an answer. */
export const flowLinesText = ({ lines, ...head }: FlowLines): string => lineOf(head) + lines;

/** The same, from another node: its head is looked at, its lines by who reads them. @throws SyntaxError */
export function parseFlowLines(bytes: Buffer): FlowLines {
  const end = bytes.indexOf(NEWLINE) + 1;
  const head = JSON.parse(bytes.toString('utf8', 0, end)) as Partial<FlowLinesHead> | null;
  const { node, next, run, lost } = head ?? {};
  if (
    typeof node !== 'string' ||
    typeof next !== 'number' ||
    typeof run !== 'string' ||
    typeof lost !== 'number' ||
    bytes.at(-1) !== NEWLINE
  ) {
    throw new SyntaxError('its answer is not understood');
  }
  return { node, next, run, lost, lines: bytes.subarray(end) };
}

const TEXTS = ['time', 'node', 'verdict', 'protocol', 'tcpFlags'] as const;
const isObject = (it: unknown): boolean => typeof it === 'object' && it !== null;

/** What another node has sent can be told of as a flow. */
export function isFlow(it: unknown): it is FlowMessage {
  const flow = (it ?? {}) as Partial<FlowMessage>;
  return (
    typeof flow.sequence === 'number' &&
    TEXTS.every((name) => typeof flow[name] === 'string') &&
    isObject(flow.source) &&
    isObject(flow.destination)
  );
}

/** @returns null: it is no line that a reader can use */
export function parseLine(line: string): FollowedMessage | null {
  let message: Partial<{ flow: unknown; node: unknown; note: unknown }> | null;
  try {
    message = JSON.parse(line) as typeof message;
  } catch {
    return null;
  }
  const { flow, node, note } = message ?? {};
  if (isFlow(flow)) return { flow };
  return typeof node === 'string' && typeof note === 'string' ? { node, note } : null;
}

/** Whole lines, as many together as fit; one that does not fit is alone. */
export function* cutLines(lines: Buffer, bytesMax: number): Generator<Buffer> {
  for (let from = 0; from < lines.length;) {
    let end = lines.length;
    if (end - from > bytesMax) {
      end = lines.lastIndexOf(NEWLINE, from + bytesMax - 1) + 1;
      if (end <= from) end = lines.indexOf(NEWLINE, from) + 1;
      if (end <= from) end = lines.length;
    }
    yield lines.subarray(from, end);
    from = end;
  }
}

export function countLines(lines: Buffer): number {
  let count = 0;
  for (let at = lines.indexOf(NEWLINE); at >= 0; at = lines.indexOf(NEWLINE, at + 1)) count++;
  return count;
}
