/** `weft policy`, as an operator runs it. */
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { parse } from 'yaml';

const weft = join(import.meta.dirname, '..', 'bin', 'weft');
const dir = mkdtempSync(join(tmpdir(), 'weft-policy-'));
test.after.always(() => rm(dir, { recursive: true }));

const pod = (namespace: string, name: string, rest = ''): string => `---
apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: ${namespace}, labels: { app: ${name} } }
spec: { containers: [ { name: c, ports: [ { name: http, containerPort: 8080 } ] } ] }
${rest}
`;

mkdirSync(join(dir, 'objects'));
const write = (name: string, text: string): string => {
  const path = join(dir, name);
  writeFileSync(path, text);
  return path;
};
write('objects/pods.yaml', pod('web', 'a') + pod('web', 'b') + pod('db', 'c'));
write(
  'objects/policies.yml',
  `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: only-db, namespace: web }
spec:
  podSelector: { matchLabels: { app: a } }
  ingress:
    - from: [ { namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: db } } } ]
      ports: [ { port: http } ]
`,
);
write(
  'objects/service.json',
  JSON.stringify({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'front', namespace: 'web' },
    spec: {
      clusterIP: '10.96.0.10',
      selector: { app: 'a' },
      ports: [{ name: 'main', port: 80, targetPort: 'http' }],
    },
  }),
);
const objects = join(dir, 'objects');
const probes = write(
  'probes.json',
  JSON.stringify([
    { from: 'db/c', to: 'web/a', protocol: 'TCP', port: 8080 },
    { from: 'web/b', to: 'web/a', protocol: 'TCP', port: 'http' },
    { from: '8.8.8.8', to: 'web/b', protocol: 'UDP', port: 53 },
    { from: 'db/c', to: 'web/a', protocol: 'UDP', port: 8080 },
  ]),
);

interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

function run(args: readonly string[], input = ''): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = execFile(weft, ['policy', ...args], (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code), out, err });
    });
    child.stdin?.end(input);
  });
}

const verdict = (from: string, to: string, port: string, ...more: string[]) =>
  run(['verdict', '-f', objects, '--from', from, '--to', to, '--port', port, ...more]);

const flows: readonly [from: string, to: string, port: string, code: number, says: RegExp][] = [
  ['db/c', 'web/a', '8080', 0, /^allow\n.*allowed by NetworkPolicy web\/only-db ingress rule 1$/s],
  ['db/c', 'web/a', 'http', 0, /^allow\n/],
  [
    'db/c',
    'web/a',
    '80',
    1,
    /^deny\n.*NetworkPolicy web\/only-db isolates pod web\/a for ingress/s,
  ],
  ['web/b', 'web/a', '8080', 1, /^deny\negress +allow\ningress +deny\n/],
  ['8.8.8.8', 'web/b', '1', 0, /^allow\n.*no policy selects pod web\/b for ingress/s],
  ['db/c', 'web/front', '80', 0, /every endpoint of Service web\/front is allowed: web\/a: /],
  ['db/c', 'service/web/front', 'main', 0, /^allow\n/],
  ['web/b', '10.96.0.10', '80', 1, /1 of 1 endpoints of Service web\/front are denied: web\/a: /],
  ['db/c', 'web/front', '81', 1, /Service web\/front has no TCP port 81: it is rejected/],
];
for (const [from, to, port, code, says] of flows) {
  test(`verdict: ${from} to ${to} ${port}`, async (t) => {
    const outcome = await verdict(from, to, port);
    t.is(outcome.err, '');
    t.regex(outcome.out.trimEnd(), says);
    t.is(outcome.code, code);
  });
}

test('verdict: as JSON and as YAML', async (t) => {
  const [json, yaml] = await Promise.all(
    ['json', 'yaml'].map((it) => verdict('db/c', 'web/a', '8080', '-o', it)),
  );
  t.deepEqual(JSON.parse(json!.out), parse(yaml!.out));
  t.like(JSON.parse(json!.out), { verdict: 'allow', ingress: 'allow', egress: 'allow' });
});

test('matrix: all pods', async (t) => {
  const [json, table] = await Promise.all([
    run(['matrix', '-f', objects, '--port', '8080', '-o', 'json']),
    run(['matrix', '-f', objects, '--port', '8080']),
  ]);
  const all = { 'db/c': 'allow', 'web/b': 'allow' };
  t.deepEqual(JSON.parse(json.out).matrix, {
    'db/c': { ...all, 'web/a': 'allow' },
    'web/a': { ...all, 'web/a': 'allow' },
    'web/b': { ...all, 'web/a': 'deny' },
  });
  t.regex(table.out, /^3 +web\/b +\. +X +\.$/m);
  t.is(json.code, 0);
});

for (const [title, args] of [
  ['verdict', ['verdict', '-f', objects, '--probes', probes]],
  ['no subcommand', ['--probes', probes, '-f', objects]],
  ['matrix', ['matrix', '--probes', probes, '-f', objects]],
] as const) {
  test(`probes: ${title}`, async (t) => {
    const { out, code } = await run([...args, '-o', 'json']);
    const answers = JSON.parse(out) as Record<string, string>[];
    t.deepEqual(
      answers.map((it) => [it['egress'], it['ingress'], it['verdict']]),
      [
        ['allow', 'allow', 'allow'],
        ['allow', 'deny', 'deny'],
        ['allow', 'allow', 'allow'],
        ['allow', 'deny', 'deny'],
      ],
    );
    t.deepEqual(Object.keys(answers[0]!), ['ingress', 'egress', 'verdict', 'because']);
    t.is(code, 0);
  });
}

test('objects from stdin, and -f more than once', async (t) => {
  const paths = ['-f', objects, '-f', '-'];
  const flow = ['--from', 'x/new', '--to', 'web/a', '--port', '8080'];
  const { code, err } = await run(['verdict', ...paths, ...flow], pod('x', 'new'));
  t.is(err, '');
  t.is(code, 1);
});

const broken = write('broken.yaml', 'apiVersion: v1\nkind: Pod\nmetadata: { name: A_B }\n');
const list = write('list.json', '{}');
const absent = write('absent.json', '[{"from":"web/a","to":"web/z","port":1}]');
const refused: readonly [title: string, args: readonly string[], says: RegExp][] = [
  ['no files', ['verdict', '--from', 'web/a'], /say which objects: -f FILE/],
  ['no such file', ['-f', '/nowhere.yaml'], /\/nowhere.yaml cannot be read \(ENOENT\)/],
  ['objects that are not valid', ['-f', broken], /broken.yaml:3: .*\n.*nothing was asked/s],
  ['nobody', ['-f', objects, '--port', '1'], /say between whom/],
  [
    'no such pod',
    ['-f', objects, '--from', 'web/z', '--to', 'web/a', '--port', '1'],
    /there is no pod web\/z/,
  ],
  [
    'no such Service',
    ['-f', objects, '--from', 'web/a', '--to', 'service/web/z', '--port', '1'],
    /there is no Service web\/z/,
  ],
  ['no port', ['-f', objects, '--from', 'web/a', '--to', 'web/b'], /there is no port/],
  [
    'a port out of range',
    ['-f', objects, '--from', 'web/a', '--to', 'web/b', '--port', '65536'],
    /port "65536" is not 1..65535/,
  ],
  [
    'a protocol',
    ['-f', objects, '--from', 'web/a', '--to', 'web/b', '--port', '1', '--protocol', 'x'],
    /protocol "x" is not TCP/,
  ],
  ['an action', ['verdit', '-f', objects], /"verdit" is none of verdict, matrix, diff/],
  ['an output', ['-f', objects, '-o', 'xml'], /--output: "xml" is not/],
  ['probes that are no list', ['-f', objects, '--probes', list], /is no list/],
  ['a probe of nobody', ['-f', objects, '--probes', absent], /\[0\]: there is no pod web\/z/],
  ['both from stdin', ['-f', '-', '--probes', '-'], /cannot both come from stdin/],
];
for (const [title, args, says] of refused) {
  test(`refused: ${title}`, async (t) => {
    const { code, out, err } = await run(args);
    t.is(out, '');
    t.regex(err, says);
    t.is(code, 2);
  });
}
