/**
 * A container runtime under load: `cni-load.ts` reads a CniLoad from stdin as JSON. Its workers ADD, each
 * one container after the other, until all are there, and then DEL them all. Prints one line of JSON, a
 * CniLoadResult. It runs in the node's namespace, so that nothing but the plugin is started for a verb.
 */
import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { type CniContainer, CniRuntime } from '../test/lab/runtime.ts';

export interface CniLoad {
  readonly binDir: string;
  readonly confDir: string;
  /** How many verbs are under way at any time. */
  readonly workers: number;
  readonly daemonPid: number;
  readonly containers: readonly CniContainer[];
}

/** Processor time, milliseconds. */
export interface CniCpu {
  readonly plugin: number;
  readonly daemon: number;
  /** Of the programs that the daemon starts. */
  readonly daemonPrograms: number;
}

export interface VerbResult {
  /** From the plugin's start to its end, each. */
  readonly ms: readonly number[];
  readonly wholeMs: number;
  /** Of all together. */
  readonly cpuMs: CniCpu;
}

export interface CniLoadResult {
  readonly add: VerbResult;
  readonly delete: VerbResult;
}

/** proc(5): fields 14 to 17 of stat, of a process and of its children that ended; ticks of 10 ms. */
async function cpuOf(pid: number | 'self'): Promise<{ own: number; children: number }> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const [user, system, childUser, childSystem] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 15)
    .map(Number);
  return { own: (user! + system!) * 10, children: (childUser! + childSystem!) * 10 };
}

async function cpuNow(daemonPid: number): Promise<CniCpu> {
  const [mine, daemon] = await Promise.all([cpuOf('self'), cpuOf(daemonPid)]);
  return { plugin: mine.children, daemon: daemon.own, daemonPrograms: daemon.children };
}

async function time(load: CniLoad, verb: (it: CniContainer) => Promise<unknown>) {
  const ms: number[] = [];
  const waiting = [...load.containers];
  const before = await cpuNow(load.daemonPid);
  const begin = performance.now();
  const worker = async (): Promise<void> => {
    for (let it = waiting.shift(); it !== undefined; it = waiting.shift()) {
      const start = performance.now();
      await verb(it);
      ms.push(performance.now() - start);
    }
  };
  await Promise.all(Array.from({ length: load.workers }, worker));
  const wholeMs = performance.now() - begin;
  const after = await cpuNow(load.daemonPid);
  const cpuMs: CniCpu = {
    plugin: after.plugin - before.plugin,
    daemon: after.daemon - before.daemon,
    daemonPrograms: after.daemonPrograms - before.daemonPrograms,
  };
  return { ms, wholeMs, cpuMs } satisfies VerbResult;
}

const load = JSON.parse(await text(process.stdin)) as CniLoad;
const runtime = new CniRuntime({ binDir: load.binDir, confDir: load.confDir });
const result: CniLoadResult = {
  add: await time(load, (it) => runtime.add(it)),
  delete: await time(load, (it) => runtime.delete(it)),
};
process.stdout.write(`${JSON.stringify(result)}\n`);
