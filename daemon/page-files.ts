/**
 * The page's own files, as a browser takes them: the sources of ui/ with their types stripped, and the
 * packages that they import, from node_modules. Read once, at the first request, and served by name alone:
 * no path of a request ever becomes one of the disk.
 */
import { createHash } from 'node:crypto';
import { readFile, readdir } from 'node:fs/promises';
import { stripTypeScriptTypes } from 'node:module';
import { extname, join } from 'node:path';

const HOUSE = join(import.meta.dirname, '..');

/** What a source of ui/ may import, and where that is in node_modules. */
const PACKAGES: Readonly<Record<string, string>> = {
  preact: 'preact/dist/preact.mjs',
  'preact/hooks': 'preact/hooks/dist/hooks.mjs',
  htm: 'htm/dist/htm.mjs',
  uplot: 'uplot/dist/uPlot.esm.js',
  'd3-force': 'd3-force/dist/d3-force.min.mjs',
  'd3-dispatch': 'd3-dispatch/dist/d3-dispatch.min.mjs',
  'd3-quadtree': 'd3-quadtree/dist/d3-quadtree.min.mjs',
  'd3-timer': 'd3-timer/dist/d3-timer.min.mjs',
};
const STYLES: Readonly<Record<string, string>> = {
  '/packages/uplot.css': 'uplot/dist/uPlot.min.css',
};

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.ts': 'text/javascript; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
};

export interface PageFile {
  readonly type: string;
  readonly body: Buffer;
}

export interface PageFiles {
  /** By path; the page itself is `/`. */
  readonly files: ReadonlyMap<string, PageFile>;
  /** For the Content-Security-Policy: the import map is the only script in the page itself. */
  readonly importMapHash: string;
}

const packagePath = (name: string): string => `/packages/${name.replace('/', '-')}.js`;
const IMPORT_MAP = JSON.stringify({
  imports: Object.fromEntries(Object.keys(PACKAGES).map((name) => [name, packagePath(name)])),
});
const MARK = '<!-- import map -->';

export async function readPageFiles(): Promise<PageFiles> {
  const files = new Map<string, PageFile>();
  const add = (path: string, text: string): void => {
    const type = TYPES[extname(path === '/' ? '.html' : path)];
    files.set(path, { type: type ?? TYPES['.html']!, body: Buffer.from(text) });
  };
  const ui = join(HOUSE, 'ui');
  for (const name of await readdir(ui)) {
    if (name.endsWith('.test.ts') || name.endsWith('.d.ts')) continue;
    const text = await readFile(join(ui, name), 'utf8').catch(() => null);
    if (text === null) continue;
    if (name === 'index.html') {
      add('/', text.replace(MARK, `<script type="importmap">${IMPORT_MAP}</script>`));
    } else if (name.endsWith('.ts')) add(`/ui/${name}`, stripTypeScriptTypes(text));
    else if (TYPES[extname(name)] !== undefined) add(`/ui/${name}`, text);
  }
  const read = (path: string): Promise<string> =>
    readFile(join(HOUSE, 'node_modules', path), 'utf8');
  for (const [name, path] of Object.entries(PACKAGES)) add(packagePath(name), await read(path));
  for (const [path, source] of Object.entries(STYLES)) add(path, await read(source));
  const importMapHash = createHash('sha256').update(IMPORT_MAP).digest('base64');
  return { files, importMapHash };
}
