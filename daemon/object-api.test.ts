/** `weft apply`, `get` and `delete` against the API over a store in memory. */
import { execFile } from 'node:child_process';
import { mkdtempSync, mkdirSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { MemoryStore } from '../store/memory.ts';
import { StoreError } from '../store/store.ts';
import { cidrContains, parseCidr } from '../wire/cidr.ts';
import { parseAddress } from '../wire/address.ts';
import { askDaemon } from './api-client.ts';
import { listenOnSocket } from './api.ts';
import { ObjectApi } from './object-api.ts';
import {
  type Ask,
  ObjectsError,
  applyObjects,
  asOne,
  deleteObjects,
  getObjects,
  problemLine,
} from './object-commands.ts';
import { objectsTable } from './tables.ts';

const POLICY = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny }
spec: { podSelector: {} }
`;
const service = (name: string, spec: Record<string, unknown> = {}, ports = [{ port: 80 }]) =>
  JSON.stringify({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace: 'web' },
    spec: { ports, ...spec },
  });
const NAMESPACE = 'apiVersion: v1\nkind: Namespace\nmetadata: { name: web }\n';

async function setUp(t: ExecutionContext, ranges = ['10.96.0.0/24', 'fd00:96::/112']) {
  const dir = mkdtempSync(join(tmpdir(), 'weft-objects-'));
  t.teardown(() => rm(dir, { recursive: true }));
  const store = new MemoryStore();
  const clusterIps = ranges.map((it) => parseCidr(it));
  const api = new ObjectApi({ store: () => store, prefix: '/p', ranges: { clusterIps } });
  const server = await listenOnSocket(join(dir, 'weft.sock'), {
    routes: api.routes(),
    onError: (error) => t.log(error),
  });
  t.teardown(() => server[Symbol.asyncDispose]());
  const ask: Ask = (method, path, body) => askDaemon(dir, method, path, body);
  const warnings: string[] = [];
  const apply = async (
    text: string | readonly string[],
    options: { set?: string; prune?: boolean; dryRun?: boolean } = {},
  ): Promise<string[]> => {
    const paths = typeof text === 'string' ? ['-'] : text;
    const stdin = Readable.from([typeof text === 'string' ? text : '']);
    const all = { paths, set: 'default', prune: false, dryRun: false, ...options };
    const lines: string[] = [];
    const warn = (line: string): void => void warnings.push(line);
    for await (const line of applyObjects(all, ask, stdin, warn)) lines.push(line);
    return lines;
  };
  const get = async (kind: string, name: string | null = null, namespace: string | null = null) =>
    await getObjects({ kind, name, namespace }, ask);
  const remove = async (kind: string, name: string, namespace = 'default') =>
    await deleteObjects({ paths: [], kind, name, namespace }, ask, Readable.from(['']));
  const keys = async (under: string): Promise<string[]> =>
    [...(await store.list(`/p/${under}`)).entries.keys()].toSorted();
  const specOf = async (name: string) =>
    JSON.parse((await store.get(`/p/objects/services/web/${name}`))!.value).spec as Record<
      string,
      unknown
    >;
  return { dir, store, ask, apply, get, remove, keys, specOf, warnings };
}

test('created, configured, unchanged, pruned', async (t) => {
  const { apply, keys } = await setUp(t);
  t.deepEqual(await apply(`${POLICY}---\n${NAMESPACE}`), [
    'Namespace web created',
    'NetworkPolicy default/deny created',
  ]);
  t.deepEqual(await keys('objects/'), [
    '/p/objects/namespaces/-/web',
    '/p/objects/networkpolicies/default/deny',
  ]);
  const changed = NAMESPACE.replace('name: web', 'name: web, labels: { a: b }');
  t.deepEqual(await apply(`${POLICY}---\n${changed}`, { dryRun: true }), [
    'Namespace web configured (dry run)',
    'NetworkPolicy default/deny unchanged (dry run)',
  ]);
  t.deepEqual(await apply(`${POLICY}---\n${changed}`), [
    'Namespace web configured',
    'NetworkPolicy default/deny unchanged',
  ]);
  // Of another set: stays.
  await apply(POLICY.replace('deny', 'other'), { set: 'more' });
  t.deepEqual(await apply(changed, { prune: true, dryRun: true }), [
    'Namespace web unchanged (dry run)',
    'NetworkPolicy default/deny pruned (dry run)',
  ]);
  t.deepEqual(await apply(changed, { prune: true }), [
    'Namespace web unchanged',
    'NetworkPolicy default/deny pruned',
  ]);
  t.deepEqual(await keys('objects/networkpolicies/'), ['/p/objects/networkpolicies/default/other']);
});

test('one invalid object, and nothing is applied; each problem has its place', async (t) => {
  const { dir, apply, keys } = await setUp(t);
  const folder = join(dir, 'all');
  mkdirSync(folder);
  writeFileSync(join(folder, 'good.yaml'), POLICY);
  writeFileSync(
    join(folder, 'bad.yml'),
    `${NAMESPACE}---\n${POLICY.replace('{}', '{ matchLabels: 1 }')}`,
  );
  writeFileSync(join(folder, 'notes.txt'), 'not read');
  writeFileSync(
    join(folder, 'again.json'),
    JSON.stringify({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'web' } }),
  );
  const error = await t.throwsAsync(apply([folder]), { instanceOf: ObjectsError });
  t.is(error.code, 'ERR_OBJECTS');
  const lines = error.problems.map(problemLine);
  t.is(lines.length, 2, lines.join('\n'));
  t.true(lines[0]!.startsWith(`${folder}/bad.yml:`), lines[0]);
  t.true(
    lines.some((it) => it.includes('NetworkPolicy default/deny: spec.podSelector.matchLabels')),
  );
  t.deepEqual(await keys(''), []);
  for (const [paths, message] of [
    [['/nope'], /\/nope cannot be read \(ENOENT\)/],
    [['-'], /no object in -/],
  ] as const) {
    await t.throwsAsync(apply(paths), { code: 'ERR_OBJECTS', message });
  }
  await t.throwsAsync(apply(POLICY, { set: '../x' }), { code: 'ERR_OBJECTS' });
});

test('kinds that are not ours are left out, and said', async (t) => {
  const { apply, warnings } = await setUp(t);
  const other = 'apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: web }\n';
  t.deepEqual(await apply(`${other}---\n${NAMESPACE}`), ['Namespace web created']);
  t.regex(warnings.join('\n'), /Deployment/);
});

test('many objects go in pieces, and all arrive', async (t) => {
  const { apply, get } = await setUp(t);
  const texts = Array.from({ length: 1234 }, (_, i) => POLICY.replace('deny', `deny-${i}`));
  const large = POLICY.replace('deny }', `large, annotations: { a: "${'x'.repeat(200_000)}" } }`);
  const lines = await apply([...texts, large, large.replace('large', 'larger')].join('---\n'));
  t.is(lines.length, 1236);
  t.is((await get('netpol')).items.length, 1236);
});

test('what a client sends that is not ours is checked again', async (t) => {
  const { ask, keys } = await setUp(t);
  const bad = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: '../x' } };
  for (const [body, code] of [
    [{ documents: [bad], set: 'default', dryRun: false }, 'ERR_OBJECT'],
    [{ documents: [1], set: 'default', dryRun: false }, 'ERR_BODY'],
    [{ documents: [{}], set: '../x', dryRun: false }, 'ERR_BODY'],
    [undefined, 'ERR_BODY'],
  ] as const) {
    await t.throwsAsync(ask('POST', '/v1/objects', body), { code });
  }
  const objects = [{ kind: 'Pod', namespace: '..', name: 'x' }];
  await t.throwsAsync(ask('POST', '/v1/objects/delete', { objects, set: null, dryRun: false }), {
    code: 'ERR_BODY',
  });
  t.deepEqual(await keys(''), []);
});

test('a store that does not answer is 503, and the next question is answered', async (t) => {
  const { store, apply } = await setUp(t);
  store.failNext(new StoreError('ERR_STORE_UNREACHABLE', 'gone'));
  await t.throwsAsync(apply(POLICY), { code: 'ERR_STORE_UNREACHABLE', message: 'gone' });
  t.deepEqual(await apply(POLICY), ['NetworkPolicy default/deny created']);
});

test('get: by every name of its kind, one, of a namespace, of all', async (t) => {
  const { apply, get } = await setUp(t);
  await apply(`${POLICY}---\n${NAMESPACE}---\n${POLICY.replace('deny', 'deny, namespace: web')}`);
  for (const kind of ['netpol', 'NetworkPolicy', 'networkpolicies']) {
    t.is((await get(kind)).items.length, 2);
  }
  t.is((await get('netpol', null, 'web')).items.length, 1);
  t.is((await get('ns', null, 'default')).items.length, 1);
  const one = await get('netpol', 'deny', 'default');
  t.like(asOne(one), { kind: 'NetworkPolicy', metadata: { name: 'deny' } });
  t.like(asOne(await get('netpol')), { kind: 'List' });
  await t.throwsAsync(get('netpol', 'x', 'default'), { code: 'ERR_NO_OBJECT' });
  await t.throwsAsync(get('netpo'), { code: 'ERR_OBJECTS', message: /netpo.*netpol/ });
  const table = objectsTable('NetworkPolicy', (await get('netpol')).items, true);
  t.regex(table, /default +deny +\(all\)/);
  t.is(objectsTable('Pod', (await get('po')).items, true), 'none');
});

test('get po: attached pods too, with what was applied for them', async (t) => {
  const { store, apply, get } = await setUp(t);
  const attached = (name: string) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace: 'default', name },
    spec: { nodeName: 'n1' },
    status: { phase: 'Running', podIP: '10.244.1.2', podIPs: [{ ip: '10.244.1.2' }] },
  });
  for (const name of ['a', 'b']) {
    const key = `/p/pods/n1/default/${name}`;
    await store.commit({
      kind: 'create',
      key,
      value: JSON.stringify(attached(name)),
      leaseId: null,
    });
  }
  await apply('apiVersion: v1\nkind: Pod\nmetadata: { name: a, labels: { app: web } }\n');
  const { items } = await get('po', null, 'default');
  t.like(items[0], { metadata: { labels: { app: 'web' } }, status: { podIP: '10.244.1.2' } });
  t.deepEqual(items[1], attached('b'));
  t.regex(objectsTable('Pod', items, false), /a +n1 +10\.244\.1\.2 +Running +app=web/);
});

test('delete: by name, or by files; what is not there is said', async (t) => {
  const { dir, ask, apply, remove, keys } = await setUp(t);
  await apply(`${POLICY}---\n${NAMESPACE}`);
  t.deepEqual(await remove('ns', 'web', 'ignored'), {
    lines: ['Namespace web deleted'],
    isDone: true,
  });
  const path = join(dir, 'policy.yaml');
  writeFileSync(path, POLICY);
  const options = { paths: [path], kind: null, name: null, namespace: 'default' };
  const stdin = Readable.from(['']);
  t.true((await deleteObjects(options, ask, stdin)).isDone);
  t.deepEqual(await deleteObjects(options, ask, stdin), {
    lines: ['NetworkPolicy default/deny not found'],
    isDone: false,
  });
  t.deepEqual(await keys(''), []);
  for (const wrong of [
    { kind: 'ns', name: null },
    { kind: 'ns', name: '../x' },
    { kind: 'ns', name: 'web', paths: [path] },
    { kind: 'pod', name: 'a', namespace: '*' },
  ]) {
    const all = { ...options, paths: [], ...wrong };
    await t.throwsAsync(deleteObjects(all, ask, stdin), { code: 'ERR_OBJECTS' });
  }
});

test('a Service gets an address of its own, keeps it, and gives it back', async (t) => {
  const { apply, specOf, keys, remove } = await setUp(t);
  await apply(service('a'));
  const { clusterIP, clusterIPs } = await specOf('a');
  t.true(cidrContains(parseCidr('10.96.0.0/24'), parseAddress(String(clusterIP))));
  t.deepEqual(clusterIPs, [clusterIP]);
  t.deepEqual(await keys('allocations/'), [`/p/allocations/clusterip/${String(clusterIP)}`]);
  t.deepEqual(await apply(service('a')), ['Service web/a unchanged']);
  t.deepEqual(await apply(service('a'), { dryRun: true }), ['Service web/a unchanged (dry run)']);
  t.deepEqual(await apply(service('a', { selector: { app: 'web' } })), [
    'Service web/a configured',
  ]);
  t.is((await specOf('a'))['clusterIP'], clusterIP);
  await t.throwsAsync(apply(service('b', { clusterIP })), { code: 'ERR_ALLOCATED' });
  await remove('svc', 'a', 'web');
  t.deepEqual(await keys('allocations/'), []);
  await apply(service('b', { clusterIP }));
  t.is((await specOf('b'))['clusterIP'], clusterIP);
});

for (const [title, spec, families, code] of [
  ['both families', { ipFamilyPolicy: 'PreferDualStack' }, [4, 6], null],
  ['IPv6 first', { ipFamilyPolicy: 'RequireDualStack', ipFamilies: ['IPv6'] }, [6, 4], null],
  ['IPv6 alone', { ipFamilies: ['IPv6'] }, [6], null],
  ['headless', { clusterIP: 'None' }, null, null],
  ['another name', { type: 'ExternalName', externalName: 'x.y' }, null, null],
  ['outside', { clusterIP: '10.97.0.1' }, null, 'ERR_OUTSIDE_RANGE'],
] as const) {
  test(`addresses of a Service: ${title}`, async (t) => {
    const { apply, specOf, keys } = await setUp(t);
    if (code !== null) {
      await t.throwsAsync(apply(service('a', spec)), { code });
      return;
    }
    await apply(service('a', spec));
    if (families === null) t.deepEqual(await keys('allocations/'), []);
    else {
      const ips = (await specOf('a'))['clusterIPs'] as string[];
      t.deepEqual(
        ips.map((it) => (it.includes(':') ? 6 : 4)),
        [...families],
      );
    }
  });
}

test('node ports are given, kept by port, and freed when the type changes', async (t) => {
  const { apply, specOf, keys } = await setUp(t);
  const ports = [
    { name: 'http', port: 80 },
    { name: 'dns', port: 53, protocol: 'UDP' },
  ] as never;
  await apply(service('a', { type: 'NodePort' }, ports));
  const portsOf = async (): Promise<number[]> =>
    ((await specOf('a'))['ports'] as { nodePort: number }[]).map((it) => it.nodePort);
  const first = await portsOf();
  t.true(first.every((it) => it >= 30_000 && it <= 32_767) && first[0] !== first[1]);
  t.deepEqual(await apply(service('a', { type: 'NodePort' }, ports)), ['Service web/a unchanged']);
  const more = [
    ...(ports as object[]).toReversed(),
    { name: 'x', port: 1, nodePort: 31_999 },
  ] as never;
  await apply(service('a', { type: 'NodePort' }, more));
  t.deepEqual(await portsOf(), [first[1]!, first[0]!, 31_999]);
  await t.throwsAsync(
    apply(service('b', { type: 'NodePort' }, [{ port: 1, nodePort: 31_999 }] as never)),
    { code: 'ERR_ALLOCATED' },
  );
  await apply(service('a', {}, ports));
  t.deepEqual(await keys('allocations/nodeport/'), []);
});

test('two who apply at once never have one address, and a range has its end', async (t) => {
  const { apply, keys } = await setUp(t, ['10.96.0.0/28']);
  const many = Array.from({ length: 14 }, (_, i) => service(`s${i}`));
  await Promise.all(many.map((it) => apply(it)));
  t.is((await keys('allocations/clusterip/')).length, 14);
  t.is((await keys('objects/services/')).length, 14);
  await t.throwsAsync(apply(service('last')), { code: 'ERR_EXHAUSTED' });
  t.deepEqual(await apply(many[3]!), ['Service web/s3 unchanged']);
});

test('the commands: what they print, where, and their exit codes', async (t) => {
  const { dir } = await setUp(t);
  const file = join(dir, 'policy.yaml');
  writeFileSync(file, POLICY);
  writeFileSync(join(dir, 'bad.yaml'), POLICY.replace('{}', '1'));
  const weft = async (...args: string[]): Promise<readonly [number, string, string]> => {
    const main = join(import.meta.dirname, 'main.ts');
    const all = [main, ...args, '--state-dir', dir];
    try {
      const { stdout, stderr } = await promisify(execFile)(process.execPath, all);
      return [0, stdout, stderr];
    } catch (error) {
      const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
      return [code, stdout, stderr];
    }
  };
  for (const [args, code, stdout, stderr] of [
    [
      ['apply', '-f', file, '-f', join(dir, 'bad.yaml')],
      2,
      /^$/,
      /bad\.yaml:5: NetworkPolicy .*\nweft: /,
    ],
    [['apply', '-f', file], 0, /^NetworkPolicy default\/deny created\n$/, /^$/],
    [['apply'], 2, /^$/, /say what to apply/],
    [['get', 'netpol'], 0, /^NAME +PODS +TYPES\ndeny/, /^$/],
    [['get', 'netpol', '-A'], 0, /^NAMESPACE .*\ndefault +deny/, /^$/],
    [['get', 'netpol', 'deny', '-o', 'yaml'], 0, /^kind: NetworkPolicy$/m, /^$/],
    [['get', 'netpol', 'deny', '-o', 'xml'], 2, /^$/, /--output: "xml"/],
    [['get', 'netpol', 'x'], 1, /^$/, /not found/],
    [['get', 'netpols'], 2, /^$/, /there is no kind "netpols"/],
    [['delete', 'netpol', 'deny'], 0, /^NetworkPolicy default\/deny deleted\n$/, /^$/],
    [['delete', '-f', file], 1, /^NetworkPolicy default\/deny not found\n$/, /^$/],
    [['delete'], 2, /^$/, /say what to delete/],
  ] as const) {
    const said = await weft(...args);
    t.is(said[0], code, args.join(' ') + said[2]);
    t.regex(said[1], stdout);
    t.regex(said[2], stderr);
  }
});

test('two daemons that allocate at once never give one address twice', async (t) => {
  const { store } = await setUp(t);
  const ranges = { clusterIps: [parseCidr('10.96.0.0/27')] };
  const apis = [0, 1, 2].map(() => new ObjectApi({ store: () => store, prefix: '/p', ranges }));
  const documents = Array.from(
    { length: 30 },
    (_, i) => JSON.parse(service(`s${i}`)) as Record<string, unknown>,
  );
  await Promise.all(
    apis.map((api, i) =>
      api.apply({ documents: documents.slice(i * 10, i * 10 + 10), set: 'default', dryRun: false }),
    ),
  );
  const { entries } = await store.list('/p/objects/services/');
  const ips = [...entries.values()].map(
    (it) => (JSON.parse(it.value) as { spec: { clusterIP: string } }).spec.clusterIP,
  );
  t.is(new Set(ips).size, 30);
});
