/**
 * Completion by the shell's Tab: `weft completion bash` prints a function that asks `weft __complete WORD...` for
 * each Tab. Commands and options come from yargs, names of pods, Services and namespaces from the daemon.
 */
import type { ObjectsMessage } from './messages.ts';
import type { Ask } from './object-commands.ts';
import { KINDS } from './object-keys.ts';

/** Who pressed Tab waits no longer for names. */
const NAMES_WITHIN_MS = 1_000;

/** Bash expands nothing in what it is given here, unlike `compgen -W`. Yargs describes words to zsh's users. */
const BASH = `# bash completion of weft; to use it: source <(weft completion bash)
_weft() {
  local word current="\${COMP_WORDS[COMP_CWORD]}"
  [[ $current == = ]] && current=
  COMPREPLY=()
  while IFS= read -r word; do
    [[ $word == "$current"* ]] && COMPREPLY+=("$word")
  done < <(SHELL=bash ZSH_NAME='' weft __complete "\${COMP_WORDS[@]:0:COMP_CWORD+1}" 2>/dev/null)
  [[ \${#COMPREPLY[@]} -eq 1 && \${COMPREPLY[0]} == */ ]] && compopt -o nospace
  return 0
}
complete -o default -F _weft weft
`;
const ZSH = `#compdef weft
# zsh completion of weft; to use it: source <(weft completion zsh), or as the file _weft of a directory of $fpath
_weft() {
  local -a found
  found=("\${(@f)$(SHELL=bash ZSH_NAME='' weft __complete "\${(@)words[1,CURRENT]}" 2>/dev/null)}")
  [[ $PREFIX == --*=* ]] && compset -P '*='
  if [[ -n "\${found[1]}" ]]; then compadd -- "\${found[@]}"; else _files; fi
}
# From $fpath the file is the function's first call.
if [[ \${funcstack[1]} == _weft ]]; then _weft; else compdef _weft weft; fi
`;

/** Null: there is none of that name. */
export function completionScript(shell: string): string | null {
  if (shell === 'bash') return BASH;
  return shell === 'zsh' ? ZSH : null;
}

type Names = 'pods' | 'services' | 'namespaces';

/** What may stand after an option. */
const VALUES: Readonly<Record<string, readonly Names[]>> = {
  '--from': ['pods', 'namespaces'],
  '--to': ['pods', 'services', 'namespaces'],
  '--with': ['pods', 'namespaces'],
  '--service': ['services'],
  '--namespace': ['namespaces'],
  '-n': ['namespaces'],
};
const FIXED: Readonly<Record<string, readonly string[]>> = {
  '--output': ['table', 'yaml', 'json'],
  '-o': ['table', 'yaml', 'json'],
  '--verdict': ['allow', 'deny'],
  '--protocol': ['TCP', 'UDP', 'SCTP'],
};

const KIND_WORDS = KINDS.map((it) => it.plural);
/** What may stand after a command. */
const FIRST_WORDS: Readonly<Record<string, readonly string[]>> = {
  completion: ['bash', 'zsh'],
  delete: KIND_WORDS,
  get: KIND_WORDS,
  policy: ['verdict', 'matrix', 'diff'],
  shadow: ['status', 'diff', 'stop'],
};

/** Nothing that a shell would take for more than a word. */
const isPlain = (word: string): boolean => /^[\w./:@%+,=-]+$/.test(word);

export interface Question {
  /** What is to be completed; may be ''. */
  readonly current: string;
  /** The option whose value it is, or null. */
  readonly option: string | null;
  /** Without the program's name, `current` last. */
  readonly words: readonly string[];
}

/** Bash makes three words of `--from=web`. */
export function questionOf(words: readonly string[]): Question {
  const joined: string[] = [];
  for (const [i, word] of words.entries()) {
    const isValue = i > 1 && words[i - 1] === '=' && words[i - 2]!.startsWith('-');
    if (word === '=' && words[i - 1]?.startsWith('-')) {
      if (i === words.length - 1) joined.push('');
    } else if (isValue || i > 0) joined.push(word);
  }
  const current = joined.at(-1) ?? '';
  const before = joined.at(-2) ?? '';
  const [, name = null, value = ''] = /^(--[\w-]+)=(.*)$/s.exec(current) ?? [];
  if (name !== null) return { current: value, option: name, words: joined };
  return { current, option: before.startsWith('-') ? before : null, words: joined };
}

async function namesOf(kinds: readonly Names[], option: string, ask: Ask): Promise<string[]> {
  const listed = async (kind: Names) => {
    const { items } = await ask<ObjectsMessage>('GET', `/v1/objects/${kind}`);
    return items.map((it) => it['metadata'] as { namespace?: string; name: string });
  };
  const lists = await Promise.all(
    kinds.map(async (kind) => {
      const found = await listed(kind);
      if (kind !== 'namespaces') {
        return found.map(({ namespace, name }) => `${namespace ?? 'default'}/${name}`);
      }
      // Pods may be in one that has no object.
      const ofPods = (await listed('pods')).map(({ namespace }) => namespace ?? 'default');
      const namespaces = [...found.map(({ name }) => name), ...ofPods];
      return option === '-n' || option === '--namespace'
        ? namespaces
        : namespaces.map((it) => `${it}/`);
    }),
  );
  return lists.flat();
}

/**
 * What the option's value may be; null: yargs knows. Never fails: a Tab without an answer completes nothing.
 */
export async function valuesOf(
  { current, option, words }: Question,
  ask: Ask,
): Promise<readonly string[] | null> {
  const [command = ''] = words;
  if (words.length === 2 && Object.hasOwn(FIRST_WORDS, command) && !current.startsWith('-')) {
    return FIRST_WORDS[command]!.filter((it) => it.startsWith(current));
  }
  if (option === null) return null;
  const kinds = VALUES[option];
  if (kinds === undefined && !Object.hasOwn(FIXED, option)) return null;
  let found = FIXED[option] ?? [];
  if (kinds !== undefined) {
    const late = Promise.withResolvers<readonly string[]>();
    const timer = setTimeout(() => late.resolve([]), NAMES_WITHIN_MS);
    // No daemon: no names.
    const names = namesOf(kinds, option, ask).catch(() => []);
    found = await Promise.race([names, late.promise]);
    clearTimeout(timer);
  }
  return [...new Set(found)].filter((it) => it.startsWith(current) && isPlain(it)).toSorted();
}
