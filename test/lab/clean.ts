/** Removes what labs that died left on the host: `node test/lab/clean.ts`, LAB_PREFIX as they had it. */
import { labPrefix, leftovers, namespacesOf, removeRun } from './run.ts';

for (const run of leftovers(labPrefix())) {
  console.log(`removing ${run.name}: ${namespacesOf(run).length} namespaces, ${run.directory}`);
  removeRun(run);
}
