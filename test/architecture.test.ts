import { readFile, glob } from 'node:fs/promises';
import test from 'ava';
import {
  brandComplaints,
  brandsOf,
  importComplaints,
  packetPathComplaints,
} from './architecture.ts';

const root = new URL('..', import.meta.url).pathname;

async function sources(): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for await (const file of glob('**/*.{ts,tsx}', { cwd: root, exclude: ['node_modules/**'] })) {
    // The examples below are no imports.
    if (file === 'test/architecture.test.ts') continue;
    found.set(file, await readFile(`${root}/${file}`, 'utf8'));
  }
  return found;
}

test('every import goes to a lower rank', async (t) => {
  const files = await sources();
  t.true(files.size > 20, 'the files are found');
  t.deepEqual(
    [...files].flatMap(([file, source]) => importComplaints(file, source)),
    [],
  );
});

test('only wire/ brands a value', async (t) => {
  const files = await sources();
  const brands = [...files.values()].flatMap((source) => brandsOf(source));
  t.true(brands.includes('Ipv4') && brands.includes('Vni'), 'the brands are found');
  t.deepEqual(
    [...files].flatMap(([file, source]) => brandComplaints(file, source, brands)),
    [],
  );
});

test('the packet path does not wait, throw or allocate', async (t) => {
  const files = await sources();
  const marked = [...files.values()].filter((source) => /^ \* Runs per packet\b/m.test(source));
  t.true(marked.length > 2, 'packet-path files are found');
  t.deepEqual(
    [...files].flatMap(([file, source]) => packetPathComplaints(file, source)),
    [],
  );
});

const imports: readonly [name: string, file: string, source: string, complaints: number][] = [
  ['down a rank', 'linux/tun.ts', "import { x } from '../wire/ipv4.ts';", 0],
  ['within the folder', 'linux/tun.ts', "import { x } from './poll.ts';", 0],
  ['a package', 'linux/tun.ts', "import koffi from 'koffi';", 0],
  ['up a rank', 'wire/ipv4.ts', "import { x } from '../linux/tun.ts';", 1],
  ['up a rank, a type', 'wire/ipv4.ts', "import type { X } from '../linux/tun.ts';", 1],
  ['up a rank, a re-export', 'wire/ipv4.ts', "export * from '../linux/tun.ts';", 1],
  ['up a rank, for its effects', 'wire/ipv4.ts', "import '../linux/tun.ts';", 1],
  ['up a rank, over several lines', 'wire/ipv4.ts', "import {\n  x,\n} from '../linux/tun.ts';", 1],
  ['up a rank, when run', 'wire/ipv4.ts', "const x = await import('../linux/tun.ts');", 1],
  ['up a rank, a worker', 'linux/tun.ts', "new URL('../overlay/worker.ts', import.meta.url)", 1],
  ['up a rank, by a test', 'wire/ipv4.test.ts', "import { x } from '../linux/tun.ts';", 1],
  ['the same rank', 'ipam/lease.ts', "import type { X } from '../overlay/types.ts';", 1],
  ['out of the repository', 'test/lab/lab.ts', "import { x } from '../../../x.ts';", 1],
  ['test/ from a test', 'wire/ipv4.test.ts', "import { x } from '../test/pcap.ts';", 0],
  ['test/ from a module', 'wire/ipv4.ts', "import { x } from '../test/pcap.ts';", 1],
  ['anything from test/', 'test/lab/lab.ts', "import { x } from '../../daemon/main.ts';", 0],
  ['a folder that has no rank', 'helpers/x.ts', '', 1],
  ['to a folder that has no rank', 'daemon/x.ts', "import { x } from '../helpers/x.ts';", 1],
  [
    'package.json',
    'daemon/version.ts',
    "import x from '../package.json' with { type: 'json' };",
    0,
  ],
  ['policy table', 'overlay/flows.ts', "import { x } from '../policy/table.ts';", 0],
  ['policy compiler', 'overlay/flows.ts', "import { x } from '../policy/compile.ts';", 1],
  ['policy compiler, by daemon', 'daemon/x.ts', "import { x } from '../policy/compile.ts';", 0],
];

for (const [name, file, source, expected] of imports) {
  test(`import: ${name}`, (t) => {
    const complaints = importComplaints(file, source);
    t.is(complaints.length, expected, complaints.join('\n'));
  });
}

const casts: readonly [name: string, file: string, source: string, complaints: number][] = [
  ['in wire/', 'wire/address.ts', 'return value as Ipv4;', 0],
  ['elsewhere', 'ipam/plan.ts', 'return value as Ipv4;', 1],
  ['through unknown', 'ipam/plan.ts', 'return value as unknown as Ipv4;', 1],
  ['to an array of them', 'ipam/plan.ts', 'return values as Ipv4[];', 1],
  ['to another type', 'ipam/plan.ts', 'return value as Ipv4Text;', 0],
  ['in a comment', 'ipam/plan.ts', '// the same as Ipv4\n/** as Ipv4 */', 0],
  ['a renamed import', 'ipam/plan.ts', "import { type X as Ipv4 } from './x.ts';", 0],
];

for (const [name, file, source, expected] of casts) {
  test(`cast: ${name}`, (t) => {
    t.is(brandComplaints(file, source, ['Ipv4', 'Vni']).length, expected);
  });
}

test('brands are found by their declaration', (t) => {
  t.deepEqual(brandsOf("export type Vni = Branded<number, 'Vni'>;\ntype X = number;"), ['Vni']);
});

/** A packet-path file whose function `egress` has `body`. */
const perPacket = (body: string): string =>
  `/**\n * Egress.\n * Runs per packet: no await.\n */\n` +
  `const table = new Uint8Array(8);\n` +
  `export function createEgress(limit: number) {\n` +
  `  if (limit < 0) throw new RangeError(\`limit \${limit}\`);\n` +
  `  const list = [1, 2].map((x) => ({ x }));\n` +
  `  function egress(at: number): number {\n    ${body}\n  }\n` +
  `  return { egress, list };\n}\n`;

const bodies: readonly [body: string, complaint: string | null][] = [
  ['return table[at]! & 7;', null],
  ['for (let i = 0; i < at; i++) table[i] = view.getUint16(i); return 0;', null],
  ["if (at === 0) return '' as unknown as number; return 0;", null],
  ['return await at;', 'await'],
  ["throw 'x';", 'throw'],
  ['return new Uint8Array(at).length;', 'new'],
  ['return Number(1n);', 'a BigInt'],
  ['return `${at}`.length;', 'a template literal'],
  ['return [1].length;', 'an array literal'],
  ['return { at }.at;', 'an object literal'],
  ['return later(() => at);', 'a closure'],
  ['function inner() {} return 0;', 'a closure'],
  ['return table.subarray(at).length;', '.subarray(), which allocates'],
  ['return at.toString().length;', '.toString(), which allocates'],
  ['return /x/.test(name) ? 1 : 0;', 'a regular expression'],
  ['return sum(...table);', 'a spread'],
];

for (const [body, complaint] of bodies) {
  test(`per packet: ${body}`, (t) => {
    const source =
      complaint === 'await'
        ? perPacket(body).replace('  function', '  async function')
        : perPacket(body);
    const complaints = packetPathComplaints('overlay/egress.ts', source);
    if (complaint === null) {
      t.deepEqual(complaints, []);
    } else {
      t.is(complaints[0], `overlay/egress.ts:10: egress runs per packet and has ${complaint}`);
    }
  });
}

const HEADER = '/**\n * Egress.\n * Runs per packet: no await.\n */\n';

const files: readonly [name: string, source: string, complaints: number][] = [
  ['a file without the mark may allocate', 'function f() { return []; }', 0],
  [
    'the mark counts in the header only',
    'const x = 1;\n/**\n * Runs per packet\n */\nfunction f() { return []; }',
    0,
  ],
  ['a function of the module', `${HEADER}function f() { return []; }`, 1],
  ['an exported one', `${HEADER}export function f() { return []; }`, 1],
  ['an arrow function', `${HEADER}const f = (x: number) => [x];`, 1],
  ['a property', `${HEADER}const o = { f: () => [] };`, 1],
  ['a method', `${HEADER}class C { f() { return []; } }`, 1],
  ['a field', `${HEADER}class C { f = () => []; }`, 1],
  ['an assignment', `${HEADER}let f; f = () => [];`, 1],
  ['an async one', `${HEADER}async function f() { return 0; }`, 1],
  ['a constructor may allocate', `${HEADER}class C { constructor() { this.x = []; } }`, 0],
  ['create… may allocate', `${HEADER}const createX = () => [];`, 0],
  ['open… may allocate', `${HEADER}function openX() { return []; }`, 0],
  ['a function in create… may not', `${HEADER}function createX() { const f = () => []; }`, 1],
  [
    'those named in the header may',
    `${HEADER.replace('no await.', 'no await.\n * Not per packet: f, g.')}function g() { return []; }`,
    0,
  ],
];

for (const [name, source, expected] of files) {
  test(`per packet: ${name}`, (t) => {
    const complaints = packetPathComplaints('overlay/egress.ts', source);
    t.is(complaints.length, expected, complaints.join('\n'));
  });
}
