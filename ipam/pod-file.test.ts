import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import * as fc from 'fast-check';
import { replaceFile } from '../linux/files.ts';
import { parseIpv4, parseIpv6 } from '../wire/address.ts';
import { cidrOf } from '../wire/cidr.ts';
import { parseMac } from '../wire/mac.ts';
import { PodFileError, decodeState, encodeState, openPodFile } from './pod-file.ts';
import { EMPTY_POOL_STATE, PodPool, type PoolState } from './pod-pool.ts';
import type { Attachment } from './types.ts';

const root = mkdtempSync(join(tmpdir(), 'weft-pods-'));
test.after.always(() => rm(root, { recursive: true }));
let dirs = 0;
function freshPath(): string {
  const dir = join(root, String(dirs++));
  mkdirSync(dir);
  return join(dir, 'pods.json');
}
const around = (path: string): string[] => readdirSync(join(path, '..')).sort();

const attachment = (containerId: string, last: number): Attachment => ({
  containerId,
  ifname: 'eth0',
  network: 'weft',
  netns: '/run/netns/cni-1',
  netnsId: '4:4026532281',
  address4: parseIpv4(`10.244.1.${last}`),
  address6: parseIpv6(`fd00::${last}`),
  mac: parseMac('02:00:00:00:00:05'),
  pod: { namespace: 'default', name: 'web-0' },
});
const STATE: PoolState = {
  attachments: [
    attachment('a', 2),
    {
      ...attachment('d', 9),
      address4: parseIpv4('10.244.1.200'),
      pod: {
        namespace: 'default',
        name: 'web-1',
        labels: { app: 'web', 'x.y/z': '' },
        ports: [{ name: 'http', containerPort: 8080, protocol: 'TCP' }],
      },
    },
    { ...attachment('b', 3), address6: null, pod: null },
    { ...attachment('c', 4), address4: null, network: '', netns: '', netnsId: '' },
  ],
  turn4: {
    next: parseIpv4('10.244.1.9'),
    freed: [parseIpv4('10.244.1.7'), parseIpv4('10.244.1.5')],
  },
  turn6: { next: null, freed: [parseIpv6('fd00::7')] },
};
const TEXT = encodeState(STATE);

test('what is saved is read back, and stands alone in its folder', async (t) => {
  const path = freshPath();
  const { file, state, corrupt } = await openPodFile(path);
  t.deepEqual(state, EMPTY_POOL_STATE);
  t.is(corrupt, null);
  await file.save(STATE);
  t.deepEqual((await openPodFile(path)).state, STATE);
  t.deepEqual(around(path), ['pods.json']);
  t.is(statSync(path).mode & 0o777, 0o600);
});

test('the format is what it was', (t) => {
  t.is(
    encodeState({ ...STATE, attachments: STATE.attachments.slice(0, 1) }),
    '{"version":1,"turn4":{"next":"10.244.1.9","freed":["10.244.1.7","10.244.1.5"]},' +
      '"turn6":{"next":null,"freed":["fd00::7"]},"attachments":[{"containerId":"a","ifname":"eth0",' +
      '"network":"weft","netns":"/run/netns/cni-1","netnsId":"4:4026532281","address4":"10.244.1.2",' +
      '"address6":"fd00::2","mac":"02:00:00:00:00:05","pod":{"namespace":"default","name":"web-0"}}]}\n',
  );
});

const edited = (from: string | RegExp, to: string): string => {
  const text = TEXT.replace(from, to);
  if (text === TEXT) throw new Error(`${String(from)} is not in the text`);
  return text;
};
const corrupt: readonly (readonly [string, text: string, reason: RegExp])[] = [
  ['empty', '', /not JSON/],
  ['cut short', TEXT.slice(0, -20), /not JSON/],
  ['zeros, as after a power failure', '\0'.repeat(512), /not JSON/],
  ['not JSON', 'weft', /not JSON/],
  ['two states', TEXT + TEXT, /not JSON/],
  ['null', 'null', /the whole/],
  ['a list', '[]', /the whole|version/],
  ['no version', edited('"version":1,', ''), /version/],
  ['version 0', edited('"version":1', '"version":0'), /version/],
  ['half a version', edited('"version":1', '"version":1.5'), /version/],
  ['a version that is text', edited('"version":1', '"version":"2"'), /version/],
  ['no turn', edited(/"turn4":.*(?="turn6")/, ''), /turn4/],
  ['a field that nobody knows', edited('"version"', '"x":1,"version"'), /x/],
  ['__proto__', edited('"version"', '"__proto__":{"polluted":1},"version"'), /__proto__/],
  ['__proto__ in an attachment', edited('"ifname"', '"__proto__":{},"ifname"'), /__proto__/],
  ['a container id with a path', edited('"a"', '"../a"'), /attachments\.0\.containerId/],
  ['an interface’s name too long', edited('eth0', 'e'.repeat(16)), /attachments\.0\.ifname/],
  ['a namespace that is no path', edited('/run/netns/cni-1', '/run/../cni-1'), /netns/],
  ['an address of the wrong family', edited('10.244.1.2', 'fd00::22'), /not an IPv4 address/],
  ['an address that is none', edited('10.244.1.2', '10.244.1.256'), /not an IPv4 address/],
  ['a group address', edited('"02:', '"03:'), /unicast/],
  ['no address', edited('"10.244.1.3"', 'null'), /b has no address/],
  ['a key twice', edited('"containerId":"b"', '"containerId":"a"'), /eth0 of a is in it twice/],
  ['an address twice', edited('"10.244.1.3"', '"10.244.1.2"'), /10\.244\.1\.2 is in it twice/],
  ['freed and in use', edited('"10.244.1.7"', '"10.244.1.3"'), /10\.244\.1\.3 is in it twice/],
  ['freed twice', edited('"10.244.1.7"', '"10.244.1.5"'), /10\.244\.1\.5 is in it twice/],
  ['10 MB of brackets', '['.repeat(10_000_000), /not JSON/],
  ['10 MB of a name', edited('"a"', `"${'a'.repeat(10_000_000)}"`), /attachments\.0\.containerId/],
  ['10 MB of addresses', edited('"10.244.1.7"', '"1",'.repeat(2_500_000) + '"1"'), /not an IPv4/],
];
for (const [title, text, reason] of corrupt) {
  test(`corrupt: ${title}`, async (t) => {
    const path = freshPath();
    writeFileSync(path, text);
    const opened = await openPodFile(path);
    t.deepEqual(opened.state, EMPTY_POOL_STATE);
    t.is(opened.corrupt?.keptAs, `${path}.corrupt-1`);
    t.regex(opened.corrupt!.reason, reason);
    t.true(opened.corrupt!.reason.length < 300);
    t.true(readFileSync(`${path}.corrupt-1`, 'utf8') === text);
    t.deepEqual(around(path), ['pods.json.corrupt-1']);
    t.is(({} as { polluted?: unknown }).polluted, undefined);
  });
}

test('a file beyond all size is put aside unread', async (t) => {
  const path = freshPath();
  writeFileSync(path, '');
  await truncate(path, 2 ** 40);
  t.regex((await openPodFile(path)).corrupt!.reason, /1099511627776 bytes/);
});

test('a directory in its place is put aside', async (t) => {
  const path = freshPath();
  mkdirSync(path);
  const { file, corrupt: aside } = await openPodFile(path);
  t.is(aside?.reason, 'it is no file');
  await file.save(STATE);
  t.deepEqual((await openPodFile(path)).state, STATE);
});

test('what was put aside before is not overwritten', async (t) => {
  const path = freshPath();
  writeFileSync(`${path}.corrupt-2`, 'second');
  writeFileSync(`${path}.corrupt-9x`, 'not ours');
  for (const n of [3, 4]) {
    writeFileSync(path, `junk ${n}`);
    t.is((await openPodFile(path)).corrupt?.keptAs, `${path}.corrupt-${n}`);
  }
  t.is(readFileSync(`${path}.corrupt-2`, 'utf8'), 'second');
  t.is(readFileSync(`${path}.corrupt-3`, 'utf8'), 'junk 3');
});

test('a newer format is refused, and stays', async (t) => {
  const path = freshPath();
  const text = '{"version":2,"pods":{}}';
  writeFileSync(path, text);
  await t.throwsAsync(openPodFile(path), {
    code: 'ERR_POD_FILE_VERSION',
    message:
      /pods\.json was written by a newer Weft: its format is version 2, .* reads version 1; start/,
  });
  t.is(readFileSync(path, 'utf8'), text);
});

test('what a killed process left is removed, and nothing else', async (t) => {
  const path = freshPath();
  await replaceFile(path, TEXT, 0o600);
  for (const suffix of ['.7.new', '.4194304.new', '.x.new', '.7', '.bak']) {
    writeFileSync(path + suffix, '{"ver');
  }
  t.deepEqual((await openPodFile(path)).state, STATE);
  t.deepEqual(around(path), ['pods.json', 'pods.json.7', 'pods.json.bak', 'pods.json.x.new']);
});

test('a directory that is not there: told, not made', async (t) => {
  await t.throwsAsync(openPodFile(join(root, 'absent', 'pods.json')), { code: 'ERR_POD_FILE' });
});

/** States that differ in one number. */
const numbered = (n: number): PoolState => ({
  ...EMPTY_POOL_STATE,
  attachments: [attachment(`n${n}`, 2)],
});
const numberIn = (text: string): number => Number(/"n([0-9]+)"/.exec(text)?.[1]);

/** A disk of the test's own: each write waits to be let through, or to fail. */
function slowDisk() {
  const writes: { readonly text: string; readonly end: PromiseWithResolvers<void> }[] = [];
  let begun = Promise.withResolvers<void>();
  return {
    writes,
    replace: async (_path: string, text: string): Promise<void> => {
      const end = Promise.withResolvers<void>();
      writes.push({ text, end });
      begun.resolve();
      begun = Promise.withResolvers();
      await end.promise;
    },
    /** Resolves when one more write has begun. */
    next: (): Promise<void> => begun.promise,
  };
}

test('one write at a time; all who come meanwhile share the next, which holds the latest', async (t) => {
  const disk = slowDisk();
  const { file } = await openPodFile(freshPath(), { replace: disk.replace });
  const done: number[] = [];
  const saves = Array.from({ length: 100 }, async (_, n) => {
    await file.save(numbered(n));
    done.push(n);
  });
  t.is(disk.writes.length, 1);
  t.is(numberIn(disk.writes[0]!.text), 0);
  const second = disk.next();
  disk.writes[0]!.end.resolve();
  await second;
  t.deepEqual(done, [0]);
  t.is(numberIn(disk.writes[1]!.text), 99);
  disk.writes[1]!.end.resolve();
  await Promise.all(saves);
  t.is(disk.writes.length, 2);
  t.is(done.length, 100);
});

test('a failed write rejects those whose state it held, and nobody else', async (t) => {
  const disk = slowDisk();
  const path = freshPath();
  const { file } = await openPodFile(path, { replace: disk.replace });
  const [first, ...shared] = [0, 1, 2].map((n) => file.save(numbered(n)));
  let next = disk.next();
  disk.writes[0]!.end.reject(new Error('ENOSPC'));
  const error = await t.throwsAsync(first!, { instanceOf: PodFileError, code: 'ERR_POD_FILE' });
  t.is(
    error.message,
    `${path} cannot be written; pods are neither attached nor detached until it can`,
  );
  t.is((error.cause as Error).message, 'ENOSPC');
  await next;
  const later = file.save(numbered(3));
  next = disk.next();
  disk.writes[1]!.end.resolve();
  await Promise.all(shared);
  await next;
  disk.writes[2]!.end.reject(new Error('EROFS'));
  await t.throwsAsync(later, { code: 'ERR_POD_FILE' });
  const again = file.save(numbered(4));
  t.is(numberIn(disk.writes[3]!.text), 4);
  disk.writes[3]!.end.resolve();
  await again;
});

test('whatever a pool comes to remember is read back', (t) => {
  const subnet4 = cidrOf(parseIpv4('10.244.1.0'), 28);
  const subnet6 = cidrOf(parseIpv6('fd00::'), 124);
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 9 }), { maxLength: 60 }), (names) => {
      const pool = new PodPool({ subnets: { subnet4, subnet6 } });
      // Attached when named for the first time, detached when named again.
      for (const n of names) {
        const { address4: _4, address6: _6, ...request } = attachment(`c${n}`, 2);
        if (pool.release(request) === null) pool.allocate(request);
      }
      const state = pool.state();
      t.deepEqual(decodeState(encodeState(state), 'pods.json'), state);
    }),
    { numRuns: 50 },
  );
});
