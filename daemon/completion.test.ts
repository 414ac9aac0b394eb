import { join } from 'node:path';
import test from 'ava';
import { collect } from '../linux/program.ts';
import { completionScript, questionOf, valuesOf } from './completion.ts';
import type { Ask } from './object-commands.ts';

const LISTS: Readonly<Record<string, readonly object[]>> = {
  pods: [
    { metadata: { namespace: 'shop', name: 'web-1' } },
    { metadata: { namespace: 'shop', name: 'web-2' } },
    // Its namespace has no object.
    { metadata: { namespace: 'lab', name: 'n1p1' } },
    // A name that nobody could have given to Kubernetes: a shell must never see it.
    { metadata: { namespace: 'shop', name: '$(reboot)' } },
    { metadata: { namespace: 'shop', name: 'a\u001b[2Jb' } },
  ],
  services: [{ metadata: { namespace: 'shop', name: 'front' } }],
  namespaces: [{ metadata: { name: 'shop' } }, { metadata: { name: 'default' } }],
};
const ask: Ask = <T>(_: string, path: string): Promise<T> =>
  Promise.resolve({ items: LISTS[path.split('/').at(-1) ?? ''] ?? [] } as T);

for (const [line, values] of [
  ['weft flows --from |', ['default/', 'lab/', 'lab/n1p1', 'shop/', 'shop/web-1', 'shop/web-2']],
  ['weft flows --from shop/w|', ['shop/web-1', 'shop/web-2']],
  ['weft flows --from = shop/w|', ['shop/web-1', 'shop/web-2']],
  ['weft flows --from = |', ['default/', 'lab/', 'lab/n1p1', 'shop/', 'shop/web-1', 'shop/web-2']],
  ['weft flows --from=shop/w|', ['shop/web-1', 'shop/web-2']],
  ['weft flows --to shop/f|', ['shop/front']],
  ['weft get pods -n d|', ['default']],
  ['weft status -o j|', ['json']],
  ['weft get pods -n l|', ['lab']],
  ['weft policy ma|', ['matrix']],
  ['weft completion |', ['bash', 'zsh']],
  ['weft get s|', ['services']],
  ['weft delete net|', ['networkpolicies']],
  ['weft policy --fr|', null],
  ['weft flows --from nobody|', []],
  ['weft st|', null],
  ['weft flows --fr|', null],
  ['weft flows --since |', null],
] as const) {
  test(`completes: ${line}`, async (t) => {
    const words = line.slice(0, -1).split(' ');
    // `--from =` with nothing behind it, as bash has it.
    if (words.at(-1) === '' && words.at(-2) === '=') words.pop();
    t.deepEqual(await valuesOf(questionOf(words), ask), values === null ? null : [...values]);
  });
}

test('a daemon that is absent, or never answers, completes nothing', async (t) => {
  const question = questionOf(['weft', 'flows', '--from', '']);
  t.deepEqual(await valuesOf(question, () => Promise.reject(new Error('absent'))), []);
  t.deepEqual(await valuesOf(question, () => new Promise(() => 'never')), []);
});

test('in bash: a command, an option, no daemon', async (t) => {
  const bin = join(import.meta.dirname, '..', 'bin');
  const script = `
    PATH="$1:$PATH"; source <(weft completion bash)
    try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); compopt() { :; }; _weft; echo "\${COMPREPLY[*]}"; }
    try weft lea; try weft status --br; try weft ipam sh; try weft flows --from ''; try weft status -o y`;
  const { stdout, stderr } = await collect(['bash', '-c', script, 'bash', bin], {
    env: { WEFT_STATE_DIR: '/nonexistent' },
  });
  t.deepEqual(
    stdout.split('\n').slice(0, 5),
    ['leases lease', '--brief', 'show', '', 'yaml'],
    stderr,
  );
});

test('the scripts: one for each shell that is known', (t) => {
  t.truthy(completionScript('zsh'));
  t.is(completionScript('fish'), null);
});
