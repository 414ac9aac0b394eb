/**
 * Objects become tables. The source's lists only mark what is compiled as out of date; whoever asks gets
 * tables of what is known at that moment, and changes that come close together are compiled once.
 *
 *     source -> set  \
 *     own pods        >-- compile --> policy table, Service table, steered ports, health checks
 *     node addresses /
 */
import { type ObjectSet, type ObjectSource, type Pod, nameOf } from '../objects/types.ts';
import type { PolicyCompiler } from '../policy/compile.ts';
import type { PolicyTable } from '../policy/table.ts';
import type { CompiledServices, ServiceCompiler, ServiceInputs } from '../service/compile.ts';
import type { ServiceTable } from '../service/table.ts';
import type { IpAddress } from '../wire/address.ts';
import { withInterfaces, withOwnPods } from './object-store.ts';

/** What tables are made of besides the objects. Another pod or address is another array. */
export interface NodeView {
  /** Addresses of the pods here: a pod that has come is known before its first packet goes. */
  readonly pods: readonly IpAddress[];
  readonly nodeAddresses: readonly IpAddress[];
}

/** `problems`: what the compilers could not make sense of; beside what the source tells. */
export interface Tables extends Omit<CompiledServices, 'table'> {
  readonly policy: PolicyTable;
  readonly services: ServiceTable;
}

/** Each remembers what it made of objects that are the same as last time. */
export interface Compilers {
  readonly policy: Pick<PolicyCompiler, 'compile'>;
  readonly services: Pick<ServiceCompiler, 'compile'>;
}

/** @param own  this node's pods, as the node knows them */
export function compileTables(
  { policy, services }: Compilers,
  objects: ObjectSet,
  own: readonly Pod[],
  node: Omit<ServiceInputs, 'objects'>,
): Tables {
  const { nodeName, nodeAddresses } = node;
  const all = withInterfaces(withOwnPods(objects, own));
  const subjects = new Set(own.map(nameOf));
  const { table, ...rest } = services.compile({ objects: all, ...node });
  return {
    policy: policy.compile({ objects: all, subjects, nodeName, nodeAddresses }),
    services: table,
    ...rest,
  };
}

export interface ObjectTablesOptions {
  /** @throws whatever it likes: the tables before stay in force */
  readonly compile: (objects: ObjectSet, view: NodeView) => Tables;
  readonly view: () => NodeView;
  /** Something has changed: `current` gives other tables than before, or may. */
  readonly onChange: () => void;
}

/** A change takes effect at once; those that come so soon after the one before are gathered. */
const GATHER_MS = 10;

export class ObjectTables {
  readonly #options: ObjectTablesOptions;
  #objects: ObjectSet | null = null;
  /** What `#tables` was made of. */
  #made: { readonly objects: ObjectSet; readonly view: NodeView } | null = null;
  #tables: Tables | null = null;
  #failure: Error | null = null;
  #timer: NodeJS.Timeout | null = null;

  constructor(options: ObjectTablesOptions) {
    this.#options = options;
  }

  /** Until the signal is aborted, or the source ends. @throws what the source throws */
  async follow(source: ObjectSource, signal: AbortSignal): Promise<void> {
    let told = -Infinity;
    try {
      for await (const objects of source.watch(signal)) {
        this.#objects = objects;
        this.#timer ??= setTimeout(
          () => {
            this.#timer = null;
            this.#options.onChange();
            told = performance.now();
          },
          Math.max(told + GATHER_MS - performance.now(), 0),
        );
      }
    } finally {
      if (this.#timer !== null) clearTimeout(this.#timer);
      this.#timer = null;
    }
  }

  /** Null before the first full list. */
  get objects(): ObjectSet | null {
    return this.#objects;
  }

  /** Why the tables are not those of what is known now; null: they are. */
  get failure(): Error | null {
    return this.#failure;
  }

  /**
   * Of what is known now; the same object as long as nothing has changed. Null before the first full
   * list, and while none could be compiled.
   */
  current(): Tables | null {
    const objects = this.#objects;
    if (objects === null) return null;
    const view = this.#options.view();
    const isSame =
      this.#made?.objects === objects &&
      this.#made.view.pods === view.pods &&
      this.#made.view.nodeAddresses === view.nodeAddresses;
    if (isSame) return this.#tables;
    this.#made = { objects, view };
    try {
      this.#tables = this.#options.compile(objects, view);
      this.#failure = null;
    } catch (error) {
      this.#failure = error as Error;
    }
    return this.#tables;
  }
}
