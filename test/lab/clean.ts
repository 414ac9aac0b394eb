/**
 * Removes what labs that died left on the host: `node test/lab/clean.ts`, LAB_PREFIX as they had it, or
 * what theirs begins with.
 */
import { labPrefix, leftoversOfTests, namespacesOf, removeRun } from './run.ts';

for (const run of leftoversOfTests(labPrefix())) {
  console.log(`removing ${run.name}: ${namespacesOf(run).length} namespaces, ${run.directory}`);
  removeRun(run);
}
