/** The pods' file against the real thing: a process that is killed, and a disk that is full. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, readdirSync, statfsSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { openPodFile } from '../../ipam/pod-file.ts';
import { run } from '../../linux/program.ts';
import { numberOf, stateNumbered } from './pod-file-states.ts';

const WRITER = fileURLToPath(new URL('pod-file-writer.ts', import.meta.url));
const ROUNDS = 60;

/** Mulberry32: the same numbers from the same seed. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The highest number acknowledged before the kill. */
async function writeAndKill(path: string, start: number, lifeMs: number): Promise<number> {
  const child = spawn(process.execPath, [WRITER, path, String(start)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => child.once('close', resolve));
  let said = '';
  const first = Promise.withResolvers<void>();
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said += text;
    first.resolve();
  });
  await Promise.race([first.promise, ended]);
  await sleep(lifeMs);
  child.kill('SIGKILL');
  await ended;
  return Math.max(start, ...said.trim().split('\n').map(Number));
}

test('killed at any moment, the file holds a state that was acknowledged last or is later', async (t) => {
  t.timeout(120_000);
  const seed = Number(process.env['WEFT_SEED'] ?? Math.floor(Math.random() * 2 ** 32));
  t.log(`WEFT_SEED=${seed}`);
  const random = randomFrom(seed);
  const dir = mkdtempSync(join(tmpdir(), 'weft-pods-'));
  const path = join(dir, 'pods.json');
  let number = 0;
  let saved = 0;
  let unfinished = 0;
  try {
    for (let round = 0; round < ROUNDS; round++) {
      const acknowledged = await writeAndKill(path, number, random() * 25);
      unfinished += readdirSync(dir).length - 1;
      const { state, corrupt } = await openPodFile(path);
      t.is(corrupt, null, `round ${round}`);
      const found = numberOf(state);
      t.true(found >= acknowledged, `round ${round}: ${found} is older than ${acknowledged}`);
      t.deepEqual(state, stateNumbered(found), `round ${round}`);
      t.deepEqual(readdirSync(dir), ['pods.json'], `round ${round}`);
      saved += acknowledged - number;
      number = found;
    }
    t.log(`${saved} saves acknowledged; ${unfinished} of ${ROUNDS} kills fell into a write`);
    t.true(saved > ROUNDS && unfinished > 0, 'kills fell where they can do harm');
  } finally {
    await rm(dir, { recursive: true });
  }
});

/**
 * A file system of 128 KiB in a mount namespace of its own, which ends with this process: what holds it is
 * a `cat` that waits for its input. It is reached through /proc, so it is nowhere on the machine itself.
 */
async function smallDisk() {
  const holder = spawn('unshare', ['--mount', 'cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(holder, 'close');
  // Its echo says that `cat` runs, and so within the namespace.
  holder.stdin.write('.');
  await once(holder.stdout, 'data');
  const mount = (...options: string[]): Promise<string> =>
    run(['nsenter', '--mount', '--target', String(holder.pid), 'mount', ...options, '/mnt']);
  await mount('-t', 'tmpfs', '-o', 'size=128k,mode=700', 'weft-full');
  return {
    dir: `/proc/${holder.pid}/root/mnt`,
    remountReadOnly: () => mount('-o', 'remount,ro'),
    [Symbol.asyncDispose]: async (): Promise<void> => {
      holder.stdin.end();
      await ended;
    },
  };
}

test('a full disk: those calls are refused, the file stays whole, and goes on when there is room', async (t) => {
  await using disk = await smallDisk();
  const { dir } = disk;
  const path = join(dir, 'pods.json');
  const small = stateNumbered(1);
  const large = stateNumbered(27);
  t.true(large.attachments.length > 190, 'about 50 kB');
  const { file } = await openPodFile(path);
  await file.save(small);
  const { bavail, bsize } = statfsSync(dir);
  t.true(bavail * bsize <= 128 * 1024, 'this is the small disk');
  // Room for a part of the large one.
  writeFileSync(join(dir, 'ballast'), Buffer.alloc((bavail - 4) * bsize));
  const [first, ...shared] = [large, large, large, small].map((state) => file.save(state));
  const error = await t.throwsAsync(first!, { code: 'ERR_POD_FILE' });
  t.is((error.cause as NodeJS.ErrnoException).code, 'ENOSPC');
  await Promise.all(shared);
  t.deepEqual(readdirSync(dir).sort(), ['ballast', 'pods.json'], 'the room is given back');
  const before = readFileSync(path);
  const refused = await Promise.allSettled([file.save(large), file.save(large)]);
  t.deepEqual(
    refused.map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  t.deepEqual(readFileSync(path), before);
  t.deepEqual((await openPodFile(path)).state, small);
  await rm(join(dir, 'ballast'));
  await file.save(large);
  t.deepEqual((await openPodFile(path)).state, large);
  await disk.remountReadOnly();
  await t.throwsAsync(file.save(small), { code: 'ERR_POD_FILE' });
  t.deepEqual((await openPodFile(path)).state, large, 'what cannot be written can still be read');
});
