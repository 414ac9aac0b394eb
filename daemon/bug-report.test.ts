import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import test from 'ava';
import { run } from '../linux/program.ts';
import { collectReport, writeReport } from './bug-report.ts';
import type { Ask } from './object-commands.ts';

const dir = mkdtempSync(join(tmpdir(), 'weft-report-'));
test.after.always(() => rmSync(dir, { recursive: true }));

const PLANTED = [
  'planted-in-config',
  'planted-in-url',
  'planted-in-log',
  'planted-in-environment',
  'planted-in-a-program',
  'planted-in-an-error',
];

const ask: Ask = <T>(_: string, path: string): Promise<T> => {
  if (path === '/v1/config') return Promise.resolve({ text: `etcd-password: ${PLANTED[0]}` } as T);
  if (path === '/v1/status') {
    const etcd = { endpoints: [`https://root:${PLANTED[1]}@192.0.2.1:2379`] };
    return Promise.resolve({ node: 'n1', etcd, overlay: null, underlay: { iface: 'eth0' } } as T);
  }
  if (path === '/v1/peers') return Promise.reject(new Error(`token=${PLANTED[5]}`));
  return Promise.resolve({ path, note: PLANTED[3] } as T);
};

test('an archive that tar reads, with what could be had, and no planted secret', async (t) => {
  const logFile = join(dir, 'log');
  writeFileSync(logFile, `{"msg":"login","password":"${PLANTED[2]}"}\n{"msg":"the last line"}\n`);
  const report = await collectReport({
    ask,
    secrets: [PLANTED[3]!],
    logFile,
    programs: {
      'host/echo.txt': ['echo', `--etcd-password ${PLANTED[4]}`],
      'host/false.txt': ['false'],
      'host/absent.txt': ['/nonexistent/program'],
    },
  });
  const file = join(dir, 'report.tar.gz');
  await writeReport(file, report);
  t.is(statSync(file).mode & 0o777, 0o600);
  const archive = gunzipSync(readFileSync(file)).toString('latin1');
  for (const it of PLANTED) t.false(archive.includes(it), it);
  t.true(archive.includes('the last line'));

  const names = (await run(['tar', '--list', '--file', file])).trim().split('\n');
  for (const name of ['README.txt', 'status.json', 'config.yaml', 'host/echo.txt', 'log.txt']) {
    t.true(names.includes(name), name);
  }
  const readme = await run(['tar', '--extract', '--to-stdout', '--file', file, 'README.txt']);
  for (const name of ['peers.json', 'host/false.txt', 'host/absent.txt']) {
    t.false(names.includes(name), name);
    t.regex(readme, new RegExp(`^${name}: `, 'm'));
  }
  t.is(report.failures.length, 3, report.failures.join('\n'));
  // What is there already is nobody's to overwrite.
  await t.throwsAsync(writeReport(file, report), { code: 'EEXIST' });
});

test('without a daemon the host is reported all the same', async (t) => {
  const { entries, failures } = await collectReport({
    ask: () => Promise.reject(new Error('no weft daemon answers')),
    secrets: [],
    logFile: '/nonexistent/log',
    programs: {},
  });
  const names = new Set(entries.map((it) => it.name));
  t.true(names.has('host/sysctls.txt') && names.has('versions.json'));
  t.true(failures.some((it) => it.startsWith('status.json: no weft daemon answers')));
  t.true(failures.some((it) => it.startsWith('log.txt: ')));
});
