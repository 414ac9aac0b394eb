/**
 * The log: bunyan records, one JSON object a line on stdout; readable lines when stdout is a terminal,
 * and through `weft logs`. Never on the packet path: a line costs 4 us.
 */
import bunyan from 'bunyan';
import pico from 'picocolors';
import type { LogLevel } from './config.ts';

export type Log = bunyan;

const LEVEL_NAMES: Readonly<Record<number, string>> = {
  10: 'TRACE',
  20: 'DEBUG',
  30: 'INFO',
  40: 'WARN',
  50: 'ERROR',
  60: 'FATAL',
};
/** Bunyan's own fields, which a reader needs once or not at all. */
const FRAME = new Set(['v', 'name', 'hostname', 'pid', 'level', 'time', 'msg', 'err', 'node']);

type Colors = ReturnType<typeof pico.createColors>;

/** Control characters in a value must not drive the reader's terminal. */
const printable = (text: string): string =>
  // oxlint-disable-next-line no-control-regex -- finding them is the purpose
  text.replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, (it) => {
    return `\\x${it.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });

const colored = (level: number, colors: Colors): ((text: string) => string) => {
  if (level >= 50) return colors.red;
  if (level >= 40) return colors.yellow;
  return level >= 30 ? colors.green : colors.dim;
};

function describe(value: unknown): string {
  if (typeof value === 'string') return /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value);
  return JSON.stringify(value);
}

/**
 * One readable line for a line of the log: `12:03:04.120 INFO  lease acquired  subnet=10.244.3.0/24`.
 * What is not a record comes back as it was, control characters escaped.
 */
export function formatLine(line: string, colors: Colors): string {
  let record: unknown;
  try {
    record = JSON.parse(line);
  } catch {
    // Not JSON: another program's line in the same stream.
    return printable(line);
  }
  if (typeof record !== 'object' || record === null || !('level' in record) || !('msg' in record)) {
    return printable(line);
  }
  const fields = record as Record<string, unknown>;
  const level = Number(fields['level']);
  const time = String(fields['time']);
  const clock = /T([0-9:.]+)Z$/.exec(time)?.[1] ?? time;
  const name = (LEVEL_NAMES[level] ?? String(level)).padEnd(5);
  const rest = Object.keys(fields)
    .filter((key) => !FRAME.has(key))
    .map((key) => `${key}=${describe(fields[key])}`);
  const message = printable(String(fields['msg'])).replaceAll('\n', '\\n');
  const parts = [colors.dim(clock), colored(level, colors)(name), message];
  if (rest.length > 0) parts.push(colors.dim(printable(` ${rest.join(' ')}`)));
  const error = fields['err'];
  const stack =
    typeof error === 'object' && error !== null && 'stack' in error
      ? `\n${printable(String(error.stack))}`
      : '';
  return parts.join(' ') + stack;
}

/** An error's `cause` chain belongs in the record: the message says the consequence, the cause why. */
const serializers = {
  err: (error: unknown): unknown => {
    if (!(error instanceof Error)) return error;
    const causes: string[] = [];
    for (let it = error.cause; it instanceof Error && causes.length < 8; it = it.cause) {
      causes.push(it.message);
    }
    const { code } = error as { code?: unknown };
    return { message: error.message, code, causes, stack: error.stack };
  },
};

export function openLog(level: LogLevel, node: string): Log {
  const colors = pico.createColors(process.stdout.isTTY && pico.isColorSupported);
  const readable = {
    write: (line: string): void => {
      process.stdout.write(`${formatLine(line.trimEnd(), colors)}\n`);
    },
  };
  const stream = process.stdout.isTTY ? (readable as NodeJS.WritableStream) : process.stdout;
  return bunyan.createLogger({
    name: 'weft',
    node,
    serializers,
    streams: [{ level, stream }],
  });
}
