/**
 * A container runtime's side of CNI, as libcni has it: reads a conflist, runs its plugins one after the
 * other with the specification's environment, hands each the result of the one before, and undoes in
 * reverse.
 */
import { existsSync } from 'node:fs';
import { readFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type Output, collect } from '../../linux/program.ts';

export interface CniResult {
  readonly cniVersion: string;
  readonly interfaces?: readonly {
    readonly name: string;
    readonly mac?: string;
    readonly mtu?: number;
    readonly sandbox?: string;
  }[];
  readonly ips?: readonly {
    readonly address: string;
    readonly gateway?: string;
    readonly interface?: number;
    readonly version?: string;
  }[];
  readonly routes?: readonly { readonly dst: string; readonly gw?: string }[];
  readonly dns?: object;
}

/** What a plugin printed instead of a result. */
export interface CniErrorMessage {
  readonly cniVersion: string;
  readonly code: number;
  readonly msg: string;
  readonly details?: string;
}

export class CniExecError extends Error {
  readonly code = 'ERR_CNI_EXEC';
  readonly plugin: string;
  readonly output: Output;
  /** Null: it printed something else. */
  readonly error: CniErrorMessage | null;

  constructor(plugin: string, command: string, output: Output) {
    const error = parseError(output.stdout);
    const said = error === null ? output.stderr || output.stdout : `${error.code} ${error.msg}`;
    super(`${plugin} ${command}: ${said.trim() || `exit code ${output.exitCode}`}`);
    this.plugin = plugin;
    this.output = output;
    this.error = error;
  }
}

function parseError(text: string): CniErrorMessage | null {
  try {
    return JSON.parse(text) as CniErrorMessage;
  } catch {
    return null;
  }
}

export interface CniContainer {
  readonly containerId: string;
  /** Path of its namespace. */
  readonly netns: string;
  /** eth0 unless given. */
  readonly ifname?: string;
  /** CNI_ARGS. */
  readonly args?: string;
  /** By capability, such as `{ portMappings: [...] }`. */
  readonly runtimeConfig?: Readonly<Record<string, unknown>>;
}

interface PluginConfig {
  readonly type: string;
  readonly capabilities?: Readonly<Record<string, boolean>>;
  readonly [key: string]: unknown;
}

interface NetworkList {
  readonly cniVersion: string;
  readonly name: string;
  readonly plugins: readonly PluginConfig[];
}

export interface RuntimeOptions {
  /** The node's; absent: our own. */
  readonly netns?: string;
  readonly binDir: string;
  /** The first conflist in it counts. */
  readonly confDir: string;
  /** Where Debian keeps the plugins that are chained. */
  readonly morePlugins?: string;
}

export class CniRuntime {
  readonly #options: RuntimeOptions;
  /** What ADD was asked and gave, as libcni keeps it: DEL and CHECK get both. */
  readonly #cache = new Map<string, { readonly asked: CniContainer; readonly result: CniResult }>();

  #known: { readonly mtimeMs: number; readonly list: NetworkList } | null = null;

  constructor(options: RuntimeOptions) {
    this.#options = options;
  }

  /** Read once for each change of the directory, as runtimes do. */
  async #network(): Promise<NetworkList> {
    const { confDir } = this.#options;
    const { mtimeMs } = await stat(confDir);
    if (this.#known?.mtimeMs !== mtimeMs) this.#known = { mtimeMs, list: await this.#read() };
    return this.#known.list;
  }

  async #read(): Promise<NetworkList> {
    const { confDir } = this.#options;
    const [first] = (await readdir(confDir)).filter((it) => it.endsWith('.conflist')).toSorted();
    if (first === undefined) throw new Error(`no conflist in ${confDir}`);
    return JSON.parse(await readFile(join(confDir, first), 'utf8')) as NetworkList;
  }

  /** One plugin with its environment and configuration; whatever it prints. */
  async #exec(
    command: string,
    network: NetworkList,
    plugin: PluginConfig,
    container: CniContainer | null,
    more: object,
  ): Promise<CniResult | null> {
    const { binDir, morePlugins, netns } = this.#options;
    const { capabilities, ...own } = plugin;
    const granted = Object.entries(container?.runtimeConfig ?? {}).filter(
      ([name]) => capabilities?.[name] === true,
    );
    const config = {
      ...own,
      cniVersion: network.cniVersion,
      name: network.name,
      ...(granted.length === 0 ? {} : { runtimeConfig: Object.fromEntries(granted) }),
      ...more,
    };
    const path = morePlugins === undefined ? binDir : `${binDir}:${morePlugins}`;
    const dir = existsSync(join(binDir, plugin.type)) ? binDir : (morePlugins ?? binDir);
    const output = await collect([join(dir, plugin.type)], {
      netns,
      input: JSON.stringify(config),
      env: {
        CNI_COMMAND: command,
        CNI_PATH: path,
        ...(container === null
          ? {}
          : {
              CNI_CONTAINERID: container.containerId,
              CNI_NETNS: container.netns,
              CNI_IFNAME: container.ifname ?? 'eth0',
              CNI_ARGS: container.args ?? '',
            }),
      },
    });
    if (output.exitCode !== 0) throw new CniExecError(plugin.type, command, output);
    return output.stdout.trim() === '' ? null : (JSON.parse(output.stdout) as CniResult);
  }

  /** @throws CniExecError; what earlier plugins made is undone then, as a runtime does */
  async add(container: CniContainer): Promise<CniResult> {
    const network = await this.#network();
    let result: CniResult | null = null;
    try {
      for (const plugin of network.plugins) {
        const more = result === null ? {} : { prevResult: result };
        result = await this.#exec('ADD', network, plugin, container, more);
      }
    } catch (error) {
      await this.delete(container);
      throw error;
    }
    this.#cache.set(keyOf(container), { asked: container, result: result! });
    return result!;
  }

  /** @throws CniExecError of the first plugin that fails */
  async check(container: CniContainer): Promise<void> {
    const network = await this.#network();
    const { asked, result } = this.#cache.get(keyOf(container)) ?? {};
    const whole = { ...asked, ...container };
    for (const plugin of network.plugins) {
      await this.#exec('CHECK', network, plugin, whole, { prevResult: result });
    }
  }

  /** @throws CniExecError of the first plugin that fails */
  async delete(container: CniContainer): Promise<void> {
    const network = await this.#network();
    const { asked, result } = this.#cache.get(keyOf(container)) ?? {};
    const whole = { ...asked, ...container };
    for (const plugin of network.plugins.toReversed()) {
      const more = result === undefined ? {} : { prevResult: result };
      await this.#exec('DEL', network, plugin, whole, more);
    }
    this.#cache.delete(keyOf(container));
  }
}

const keyOf = ({ containerId, ifname = 'eth0' }: CniContainer): string =>
  `${containerId}/${ifname}`;
