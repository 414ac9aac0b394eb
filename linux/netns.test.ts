import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { NamespaceError, openNamespace, ownNamespaceId } from './netns.ts';

const directory = mkdtempSync(join(tmpdir(), 'weft-netns-'));
test.after.always(() => rmSync(directory, { recursive: true }));
writeFileSync(join(directory, 'file'), '');
execFileSync('mkfifo', [join(directory, 'pipe')]);

for (const [name, path, why, absent] of [
  ['a path to nothing', join(directory, 'nothing'), /ENOENT/, true],
  ['a path through a file', join(directory, 'file/x'), /ENOTDIR/, false],
  [
    'a plain file, such as what an unmounted namespace leaves',
    join(directory, 'file'),
    /file/,
    false,
  ],
  ['a device', '/dev/null', /file of another kind/, false],
  ['a pipe that nobody writes to', join(directory, 'pipe'), /file of another kind/, false],
  ['a directory', directory, /file of another kind/, false],
  ['another file of /proc', '/proc/self/status', /file of another kind/, false],
  ['a mount namespace', '/proc/self/ns/mnt', /namespace of another kind/, false],
] as const) {
  test(`no network namespace: ${name}`, (t) => {
    const error = t.throws(() => openNamespace(path), {
      instanceOf: NamespaceError,
      code: 'ERR_NETNS',
      message: why,
    });
    t.is(error.absent, absent);
    t.true(error.message.startsWith(path));
  });
}

test('our own namespace, by a file', (t) => {
  using own = openNamespace('/proc/self/ns/net');
  t.is(own.id, ownNamespaceId());
  t.is(own.id, `${statSync('/proc/self/ns/net').dev}:${statSync('/proc/self/ns/net').ino}`);
});
