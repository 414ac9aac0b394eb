/**
 * Compiles the SIMD checksum kernel and writes it, as base64, where it is imported from. The result is
 * committed, so that nothing compiles when Weft is installed; a test compiles it again and compares.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { main } from 'assemblyscript/asc';

const source = new URL('../wire/checksum/sum.ts', import.meta.url);
const target = new URL('../wire/checksum/wasm.ts', import.meta.url);

/**
 * A shared memory can be imported only if the module declares a maximum at least as large as the
 * memory's: 65536 pages is all there is.
 */
const flags = [
  '--runtime stub -O3 --noAssert --enable simd,threads',
  '--importMemory --sharedMemory --initialMemory 1 --maximumMemory 65536',
].flatMap((line) => line.split(' '));

/** The text of `wasm.ts`. @throws Error with the compiler's messages */
export async function compileChecksum(): Promise<string> {
  const text = await readFile(source, 'utf8');
  let binary: Uint8Array | undefined;
  const messages: string[] = [];
  const { error } = await main(['sum.ts', '--outFile', 'sum.wasm', ...flags], {
    readFile: (name) => (name === 'sum.ts' ? text : null),
    writeFile: (name, contents) => {
      if (name === 'sum.wasm' && typeof contents !== 'string') binary = contents;
    },
    listFiles: () => [],
    stderr: { write: (text) => messages.push(String(text)) },
  });
  if (error !== null || binary === undefined) {
    throw new Error(`sum.ts does not compile:\n${messages.join('')}`, { cause: error });
  }
  const base64 = Buffer.from(binary).toString('base64');
  return [
    '/** Made by `npm run build:wasm` from sum.ts; a test holds the two together. */',
    `export const CHECKSUM_WASM_BASE64 =\n  '${base64}';\n`,
  ].join('\n');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await writeFile(target, await compileChecksum());
  console.log(`wrote ${fileURLToPath(target)}`);
}
