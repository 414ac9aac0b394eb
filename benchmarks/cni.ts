/** Pods added and deleted by the installed plugin, under load, in figures. */
import { join } from 'node:path';
import type { LabNode } from '../test/lab/lab.ts';
import type { CniCpu, CniLoad, CniLoadResult } from './cni-load.ts';

/** Times of ADD, except where it says DEL. */
export interface CniFigures {
  readonly adds: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly addsPerSecond: number;
  readonly deleteP50Ms: number;
  readonly deleteP99Ms: number;
  readonly deletesPerSecond: number;
  /** Of one ADD, milliseconds. */
  readonly cpuMs: CniCpu;
}

/** The smallest value that at least this share of them does not exceed (nearest rank). */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(Math.ceil(sorted.length * share) - 1, 0)]!;
}

export function figuresOf({ add, delete: del }: CniLoadResult): CniFigures {
  const adds = add.ms.length;
  return {
    adds,
    p50Ms: percentile(add.ms, 0.5),
    p99Ms: percentile(add.ms, 0.99),
    maxMs: percentile(add.ms, 1),
    addsPerSecond: (adds / add.wholeMs) * 1000,
    deleteP50Ms: percentile(del.ms, 0.5),
    deleteP99Ms: percentile(del.ms, 0.99),
    deletesPerSecond: (del.ms.length / del.wholeMs) * 1000,
    cpuMs: {
      plugin: add.cpuMs.plugin / adds,
      daemon: add.cpuMs.daemon / adds,
      daemonPrograms: add.cpuMs.daemonPrograms / adds,
    },
  };
}

/**
 * Adds a pod to each namespace, then deletes them all.
 * @param netns   names; none has an interface yet, and none afterwards
 * @throws Error with the plugin's words when a verb fails
 */
export async function loadCni(
  node: LabNode,
  options: {
    readonly workers: number;
    readonly daemonPid: number;
    readonly netns: readonly string[];
  },
): Promise<CniFigures> {
  const { workers, daemonPid, netns } = options;
  const load: CniLoad = {
    binDir: node.cniBinDir,
    confDir: node.cniConfDir,
    workers,
    daemonPid,
    containers: netns.map((name) => ({
      containerId: name,
      netns: `/run/netns/${name}`,
      args: `IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=${name}`,
    })),
  };
  const text = await node.run([process.execPath, join(import.meta.dirname, 'cni-load.ts')], {
    input: JSON.stringify(load),
    signal: AbortSignal.timeout(120_000),
  });
  return figuresOf(JSON.parse(text) as CniLoadResult);
}
