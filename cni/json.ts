/**
 * JSON from the runtime. JSON.parse takes the last of two equal keys, and a plugin in another language
 * perhaps the first: so a key that is there twice is refused, and so are `__proto__` and what is nested
 * deeper than a configuration ever is.
 */
import { CniCode } from '../wire/cni.ts';
import { CniFailure, brief, quote } from './errors.ts';

export const STDIN_LIMIT_BYTES = 1 << 20;
const DEPTH_LIMIT = 32;

/** What is wrong with the text beyond its syntax, or null. Of text that is not JSON it may say anything. */
function complaintOf(text: string): string | null {
  /** The keys of the object at each depth; an array's set stays empty. */
  const keys: Set<unknown>[] = [];
  let lastString = '';
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case '"': {
        const from = i++;
        while (i < text.length && text[i] !== '"') i += text[i] === '\\' ? 2 : 1;
        lastString = text.slice(from, i + 1);
        break;
      }
      case '{':
      case '[':
        if (keys.push(new Set()) > DEPTH_LIMIT) return `is nested deeper than ${DEPTH_LIMIT}`;
        break;
      case '}':
      case ']':
        keys.pop();
        break;
      case ':': {
        const key: unknown = JSON.parse(lastString);
        if (key === '__proto__') return 'has the key "__proto__"';
        if (keys.at(-1)?.has(key)) return `has the key ${quote(key)} twice`;
        keys.at(-1)?.add(key);
        break;
      }
    }
  }
  return null;
}

export type JsonObject = Readonly<Record<string, unknown>>;

export const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export const isStringArray = (value: unknown): value is readonly string[] =>
  Array.isArray(value) && value.every((it) => typeof it === 'string');

/** @throws CniFailure (decode) */
export function parseStdin(bytes: Uint8Array): JsonObject {
  const refuse = (why: string, cause?: unknown): never => {
    throw new CniFailure(CniCode.decode, `the network configuration on stdin ${why}`, '', {
      cause,
    });
  };
  if (bytes.length === 0) return refuse('is empty');
  if (bytes.length > STDIN_LIMIT_BYTES) return refuse(`is larger than ${STDIN_LIMIT_BYTES} bytes`);
  let value: unknown;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    const complaint = complaintOf(text);
    if (complaint !== null) return refuse(complaint);
    value = JSON.parse(text);
  } catch (cause) {
    if (cause instanceof CniFailure) throw cause;
    return refuse(`is not JSON: ${brief((cause as Error).message)}`, cause);
  }
  return isObject(value) ? value : refuse('is not a JSON object');
}
