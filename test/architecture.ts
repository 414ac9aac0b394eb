/**
 * The rules of the house that no compiler holds, each a function from source text to complaints:
 * which folder may import which, who may brand a value, and what a packet-path file must not do.
 */
import { stripTypeScriptTypes } from 'node:module';
import { posix } from 'node:path';
import { type Node, parse } from 'acorn';

/** A folder imports from itself and from lower ranks. The twin of this table is in docs/architecture.md. */
const RANKS: Readonly<Record<string, number>> = {
  wire: 0,
  linux: 1,
  store: 1,
  objects: 1,
  policy: 2,
  service: 2,
  ipam: 2,
  overlay: 3,
  daemon: 4,
  cni: 5,
  ui: 5,
};

/** Imported by nobody but each other, and free to import anything. */
const OUTER_FOLDERS: ReadonlySet<string> = new Set(['bin', 'scripts', 'test', 'benchmarks']);

const folderOf = (file: string): string => (file.includes('/') ? file.split('/')[0]! : '');

/** `from '…'`, `import '…'`, `import('…')` and `new URL('…')`, types included; relative ones only. */
function importsOf(source: string): string[] {
  const pattern = /(?:\bfrom|\bimport|\bnew URL)\s*\(?\s*(['"`])(\.[^'"`]*)\1/g;
  return [...source.matchAll(pattern)].map((match) => match[2]!);
}

/** @param file  path from the repository's root, with `/` */
export function importComplaints(file: string, source: string): string[] {
  const folder = folderOf(file);
  const isTest = file.endsWith('.test.ts');
  const complaints: string[] = [];
  if (RANKS[folder] === undefined && !OUTER_FOLDERS.has(folder) && folder !== '') {
    complaints.push(`${file}: the folder ${folder}/ has no rank`);
  }
  for (const specifier of importsOf(source)) {
    const target = posix.join(posix.dirname(file), specifier);
    const targetFolder = folderOf(target);
    const complain = (why: string) => complaints.push(`${file} imports ${target}: ${why}`);
    if (targetFolder === '..') {
      complain('outside of the repository');
    } else if (OUTER_FOLDERS.has(folder) || targetFolder === folder || targetFolder === '') {
      continue;
    } else if (OUTER_FOLDERS.has(targetFolder)) {
      if (!isTest) complain(`only tests import from ${targetFolder}/`);
    } else if ((RANKS[targetFolder] ?? Infinity) >= (RANKS[folder] ?? -Infinity)) {
      complain(`${targetFolder}/ does not rank below ${folder}/`);
    } else if (
      folder === 'overlay' &&
      (targetFolder === 'policy' || targetFolder === 'service') &&
      posix.basename(target) !== 'table.ts'
    ) {
      complain('the packet path sees compiled tables only');
    }
  }
  return complaints;
}

/** The names that `type X = Branded<…>` declares. */
export function brandsOf(source: string): string[] {
  return [...source.matchAll(/\btype (\w+) = Branded</g)].map((match) => match[1]!);
}

/** A brand is a proof, and only wire/ can give it: elsewhere `as Ipv4` would be a claim. */
export function brandComplaints(file: string, source: string, brands: readonly string[]): string[] {
  if (folderOf(file) === 'wire') return [];
  const text = source
    .replaceAll(/\/\*[\s\S]*?\*\/|\/\/.*/g, ' ')
    .replaceAll(/\b(?:import|export)\s+(?:type\s+)?\{[^}]*\}/g, ' ');
  return brands
    .filter((brand) => new RegExp(`\\bas (?:unknown as )?${brand}\\b`).test(text))
    .map((brand) => `${file} casts to ${brand}: only wire/ makes one`);
}

/** What acorn's nodes have in common with the few of their fields that are looked at. */
interface SyntaxNode extends Node {
  readonly [field: string]: unknown;
}

const isNode = (value: unknown): value is SyntaxNode =>
  typeof value === 'object' && value !== null && 'type' in value && typeof value.type === 'string';

const childrenOf = (node: SyntaxNode): SyntaxNode[] =>
  Object.values(node)
    .flat()
    .filter((value) => isNode(value));

const isFunction = (node: SyntaxNode): boolean =>
  node.type === 'FunctionDeclaration' ||
  node.type === 'FunctionExpression' ||
  node.type === 'ArrowFunctionExpression';

const FORBIDDEN: Readonly<Record<string, string>> = {
  AwaitExpression: 'await',
  YieldExpression: 'yield',
  ThrowStatement: 'throw',
  NewExpression: 'new',
  TemplateLiteral: 'a template literal',
  ObjectExpression: 'an object literal',
  ArrayExpression: 'an array literal',
  ClassExpression: 'a class',
  SpreadElement: 'a spread',
  FunctionDeclaration: 'a closure',
  FunctionExpression: 'a closure',
  ArrowFunctionExpression: 'a closure',
};

/** Methods that return a new object or string. */
const ALLOCATING_METHODS: ReadonlySet<string> = new Set(
  `bind concat filter flat flatMap from getBigInt64 getBigUint64 join map of replace slice split
   subarray toReversed toSorted toSpliced toString with`.split(/\s+/),
);

function forbiddenIn(node: SyntaxNode): string | undefined {
  if (node.type === 'Literal') {
    if (typeof node['bigint'] === 'string') return 'a BigInt';
    return node['regex'] === undefined ? undefined : 'a regular expression';
  }
  if (node.type === 'CallExpression') {
    const callee = node['callee'] as SyntaxNode;
    const property = callee['property'];
    if (callee.type !== 'MemberExpression' || callee['computed'] === true) return undefined;
    const name = isNode(property) ? String(property['name']) : '';
    return ALLOCATING_METHODS.has(name) ? `.${name}(), which allocates` : undefined;
  }
  return FORBIDDEN[node.type];
}

/**
 * Files whose header says "Runs per packet" promise that none of their functions awaits, throws or
 * allocates. Exempt are the module's own statements, constructors, functions named `create…` or
 * `open…`, those that the header names in a line "Not per packet: a, b.", and within all of these the
 * functions that have no name.
 */
export function packetPathComplaints(file: string, source: string): string[] {
  const header = /^\s*\/\*\*[\s\S]*?\*\//.exec(source)?.[0] ?? '';
  if (!/^ \* Runs per packet\b/m.test(header)) return [];
  const exempt = new Set(/^ \* Not per packet: ([\w, ]+)\./m.exec(header)?.[1]?.split(', '));
  const isHot = (name: string): boolean =>
    !/^(create|open|constructor$)/.test(name) && !exempt.has(name);
  const script = stripTypeScriptTypes(source, { mode: 'strip' });
  const program = parse(script, { ecmaVersion: 'latest', sourceType: 'module', locations: true });
  const complaints: string[] = [];

  function visitHot(node: SyntaxNode, name: string): void {
    const found = forbiddenIn(node);
    if (found !== undefined) {
      complaints.push(`${file}:${node.loc!.start.line}: ${name} runs per packet and has ${found}`);
    }
    for (const child of childrenOf(node)) visitHot(child, name);
  }

  function visitCold(node: SyntaxNode): void {
    // What binds a function to a name: `function x`, `const x = `, `x: `, `x() {}`, `x = `.
    const binding = node['key'] ?? node['id'] ?? node['left'];
    const name = isNode(binding) ? binding['name'] : undefined;
    for (const child of node.type === 'FunctionDeclaration' ? [node] : childrenOf(node)) {
      if (isFunction(child) && typeof name === 'string' && isHot(name)) {
        for (const part of childrenOf(child)) visitHot(part, name);
        if (child['async'] === true)
          complaints.push(`${file}: ${name} runs per packet and is async`);
      } else if (child === node) {
        for (const part of childrenOf(child)) visitCold(part);
      } else {
        visitCold(child);
      }
    }
  }

  visitCold(program as unknown as SyntaxNode);
  return complaints;
}
