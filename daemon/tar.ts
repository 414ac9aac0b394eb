/** A tar archive of texts (POSIX.1-2017, pax: ustar interchange format). */

const BLOCK_BYTES = 512;

export interface TarEntry {
  /** ASCII, at most 100 characters. */
  readonly name: string;
  readonly text: string;
}

/** Zero padded octal of `length` characters, the last a NUL. */
const octal = (value: number, length: number): string =>
  `${value.toString(8).padStart(length - 1, '0')}\0`;

function header(name: string, bytes: number, timeS: number): Buffer {
  const it = Buffer.alloc(BLOCK_BYTES);
  it.write(name, 0, 100, 'latin1');
  it.write(octal(0o600, 8), 100);
  it.write(octal(0, 8), 108);
  it.write(octal(0, 8), 116);
  it.write(octal(bytes, 12), 124);
  it.write(octal(timeS, 12), 136);
  // The checksum counts its own field as blanks.
  it.write('        ', 148);
  it.write('0', 156);
  it.write('ustar\u000000', 257);
  const sum = it.reduce((total, byte) => total + byte, 0);
  it.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return it;
}

export function tarOf(entries: readonly TarEntry[], timeS: number): Buffer {
  const pieces = entries.flatMap(({ name, text }) => {
    const bytes = Buffer.from(text);
    const padding = Buffer.alloc((BLOCK_BYTES - (bytes.length % BLOCK_BYTES)) % BLOCK_BYTES);
    return [header(name, bytes.length, timeS), bytes, padding];
  });
  return Buffer.concat([...pieces, Buffer.alloc(2 * BLOCK_BYTES)]);
}
