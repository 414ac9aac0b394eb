import { mkdtempSync, statSync, writeFileSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { type Cidr4, parseCidr } from '../wire/cidr.ts';
import { isUnicastMac, parseMac } from '../wire/mac.ts';
import {
  StateDirBusyError,
  lockStateDir,
  readNode,
  readSysctlRecord,
  refuseBusyStateDir,
  writeNode,
  writeSysctlRecord,
} from './state-dir.ts';

const root = mkdtempSync(join(tmpdir(), 'weft-state-'));
test.after.always(() => rm(root, { recursive: true }));
let dirs = 0;
async function fresh(): Promise<string> {
  const dir = join(root, String(dirs++));
  await mkdir(dir);
  return dir;
}

test('the node is the same after a restart', async (t) => {
  const dir = await fresh();
  const mac = parseMac('02:11:22:33:44:55');
  const record = { mac, subnet4: parseCidr('10.244.3.0/24') as Cidr4, subnet6: null };
  await writeNode(dir, record);
  t.deepEqual(await readNode(dir), record);
  t.is(statSync(join(dir, 'node.json')).mode & 0o777, 0o600);
  t.deepEqual(await readdir(dir), ['node.json'], 'no half-written file stays');
});

for (const [title, text] of [
  ['cut short', '{"mac":"02:11'],
  ['empty', ''],
  ['another shape', '{"mac":7}'],
  ['not an address', '{"mac":"x","subnet4":null,"subnet6":null}'],
  ['a group address', '{"mac":"03:00:00:00:00:01","subnet4":null,"subnet6":null}'],
  ['a wrong subnet', '{"mac":"02:00:00:00:00:01","subnet4":"x","subnet6":null}'],
] as const) {
  test(`node.json ${title}: a new address, locally administered`, async (t) => {
    const dir = await fresh();
    writeFileSync(join(dir, 'node.json'), text);
    const { mac, subnet4 } = await readNode(dir);
    t.true(isUnicastMac(mac));
    t.is(Math.floor(mac / 2 ** 41) % 2, 1);
    t.is(subnet4, null);
  });
}

test('a subnet of the wrong family is none', async (t) => {
  const dir = await fresh();
  const text = '{"mac":"02:00:00:00:00:01","subnet4":"fd00::/64","subnet6":null}';
  writeFileSync(join(dir, 'node.json'), text);
  t.is((await readNode(dir)).subnet4, null);
});

test('settings as they were; a path outside of net/ is not one', async (t) => {
  const dir = await fresh();
  t.deepEqual(await readSysctlRecord(dir), {});
  await writeSysctlRecord(dir, { 'net/ipv4/ip_forward': '0' });
  t.deepEqual(await readSysctlRecord(dir), { 'net/ipv4/ip_forward': '0' });
  for (const path of ['kernel/core_pattern', 'net/../kernel/core_pattern']) {
    writeFileSync(join(dir, 'sysctls.json'), JSON.stringify({ [path]: '|x' }));
    t.deepEqual(await readSysctlRecord(dir), {}, path);
  }
});

test('one at a time', async (t) => {
  const dir = join(root, 'locked');
  t.notThrows(() => refuseBusyStateDir(dir));
  const lock = await lockStateDir(dir);
  t.is(statSync(dir).mode & 0o777, 0o700);
  await t.throwsAsync(lockStateDir(dir), { instanceOf: StateDirBusyError });
  t.throws(() => refuseBusyStateDir(dir), { instanceOf: StateDirBusyError });
  lock[Symbol.dispose]();
  t.notThrows(() => refuseBusyStateDir(dir));
  (await lockStateDir(dir))[Symbol.dispose]();
});
