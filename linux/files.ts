/** Files that are there whole or not at all. */
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Where `replaceFile` writes before it renames; after a crash one of these may be left. */
export const unfinishedPath = (path: string): string => `${path}.${process.pid}.new`;

/**
 * Puts `text` in the place of the file, whole or not at all, also when the machine stops in between. Once
 * it resolves, the new text outlasts a power failure: the file's bytes are on disk before its name says
 * so, and the directory's are after. One at a time for each path.
 * @throws the file system's error; then `path` holds the old text, or all of the new
 */
export async function replaceFile(path: string, text: string, mode: number): Promise<void> {
  const fresh = unfinishedPath(path);
  try {
    await using file = await open(fresh, 'w', mode);
    await file.writeFile(text);
    await file.sync();
    await rename(fresh, path);
  } catch (error) {
    // On a full disk the room it takes is wanted.
    await rm(fresh, { force: true });
    throw error;
  }
  await using directory = await open(dirname(path));
  await directory.sync();
}
