/**
 * Policies that were deleted while pods of their Terminating namespaces live (objects/retain.ts), in a
 * file: a restart would forget them, as nobody else has them any more.
 *
 *     retained.json   a list of manifests, as weft apply reads them
 */
import { readFile } from 'node:fs/promises';
import { replaceFile } from '../linux/files.ts';
import { parseObjects } from '../objects/parse.ts';
import { objectSetOf } from '../objects/set.ts';
import {
  EMPTY_OBJECTS,
  type Namespace,
  type NetworkPolicy,
  type NetworkPolicyRule,
  type ObjectSet,
} from '../objects/types.ts';
import { formatCidr } from '../wire/cidr.ts';

type Retained = readonly (Namespace | NetworkPolicy)[];

const rulesOf = (rules: readonly NetworkPolicyRule[], field: 'from' | 'to') =>
  rules.map(({ peers, ports }) => ({
    [field]: peers.map((it) =>
      it.ipBlock === undefined
        ? it
        : {
            ipBlock: {
              cidr: formatCidr(it.ipBlock.cidr),
              except: it.ipBlock.except.map(formatCidr),
            },
          },
    ),
    ports,
  }));

const manifestOf = (it: Namespace | NetworkPolicy) => {
  const { kind, metadata } = it;
  if (kind === 'Namespace') {
    const { name, labels } = metadata;
    return { apiVersion: 'v1', kind, metadata: { name, labels }, status: { phase: it.phase } };
  }
  const { podSelector, policyTypes } = it;
  const { name, namespace, labels } = metadata;
  return {
    apiVersion: 'networking.k8s.io/v1',
    kind,
    metadata: { name, namespace, labels },
    spec: {
      podSelector,
      policyTypes,
      ingress: rulesOf(it.ingress, 'from'),
      egress: rulesOf(it.egress, 'to'),
    },
  };
};

export const retainedText = (retained: Retained): string =>
  `${JSON.stringify(retained.map(manifestOf), null, 1)}\n`;

/** `before`: for PolicyCompiler; null if it cannot be told, and `reason` says why. */
export async function readRetained(
  path: string,
): Promise<{ readonly before: ObjectSet | null; readonly reason: string }> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    return code === 'ENOENT'
      ? { before: EMPTY_OBJECTS, reason: '' }
      : { before: null, reason: `cannot be read (${code})` };
  }
  const { objects, problems } = parseObjects(text, path);
  const [problem] = problems;
  if (problem !== undefined) return { before: null, reason: `${problem.field} ${problem.reason}` };
  if (!text.trimEnd().endsWith(']')) return { before: null, reason: 'is no list' };
  return { before: objectSetOf(objects), reason: '' };
}

/** Writes the latest, one at a time. */
export class RetainedFile {
  readonly #path: string;
  readonly #onError: (error: Error) => void;
  readonly #replace: typeof replaceFile;
  #wanted: string;
  #written: string;
  #writing: Promise<void> | null = null;

  /** @param before  what is in the file; null: it is not known */
  constructor(
    path: string,
    before: Retained | null,
    onError: (error: Error) => void,
    replace = replaceFile,
  ) {
    this.#path = path;
    this.#onError = onError;
    this.#replace = replace;
    this.#wanted = before === null ? '' : retainedText(before);
    this.#written = this.#wanted;
  }

  /** Nothing is written where nothing has changed. A write that failed is tried again by the next call. */
  keep(retained: Retained): void {
    this.#wanted = retainedText(retained);
    if (this.#wanted !== this.#written) this.#writing ??= this.#write();
  }

  /** Once what was kept is on disk, or could not be written. */
  async idle(): Promise<void> {
    await this.#writing;
  }

  async #write(): Promise<void> {
    try {
      while (this.#wanted !== this.#written) {
        const text = this.#wanted;
        await this.#replace(this.#path, text, 0o600);
        this.#written = text;
      }
    } catch (error) {
      this.#onError(error as Error);
    } finally {
      this.#writing = null;
    }
  }
}
