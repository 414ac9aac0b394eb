/**
 * The example application of deploy/example in a lab: a pod for each tier and a client, one to a node in
 * turn, who ask each other through their Services with real connections.
 */
import { join } from 'node:path';
import { poll } from '../../linux/program.ts';
import { type Lab, LabHost, type LabNode } from './lab.ts';
import { Prober } from './prober.ts';

const HOUSE = join(import.meta.dirname, '..', '..');
const TIERS = ['web', 'api', 'db'] as const;
/** Answers within a lab take milliseconds. */
const SILENCE_MS = 400;
const EFFECT_MS = 10_000;

export type Answer = 'answered' | 'silent' | 'refused';

/** Who asks, and what each said. */
export type Answers = ReadonlyMap<string, ReadonlyMap<string, Answer>>;

interface Target {
  readonly name: string;
  readonly address: string;
  readonly port: number;
}

export class Shop {
  readonly #node: LabNode;
  readonly #askers: readonly Prober[];
  #targets: readonly Target[] = [];

  private constructor(node: LabNode, askers: readonly Prober[]) {
    this.#node = node;
    this.#askers = askers;
  }

  /** Attaches the pods. */
  static async open(lab: Lab): Promise<Shop> {
    const askers: Prober[] = [];
    for (const [i, name] of [...TIERS, 'client'].entries()) {
      const isClient = name === 'client';
      const [namespace, labels] = isClient ? ['default', 'app=client'] : ['shop', `tier=${name}`];
      const pod = await lab.nodes[i % lab.nodes.length]!.addPod(name, {
        args: `IgnoreUnknown=1;K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=${name};K8S_POD_LABELS=${labels}`,
      });
      askers.push(await Prober.start(pod, lab.directory, isClient ? [] : [8080]));
    }
    const outside = new LabHost('outside', lab.netnsOf('etcd'));
    askers.push(await Prober.start(outside, lab.directory, []));
    return new Shop(lab.nodes[0]!, askers);
  }

  /** `weft apply -f` of a file of deploy/example. @returns what it printed */
  async apply(file: string, ...flags: readonly string[]): Promise<string> {
    const path = join(HOUSE, 'deploy', 'example', file);
    const printed = await this.#weft(['apply', '-f', path, ...flags]);
    const targets: Target[] = [];
    for (const [name, port] of [
      ['web', 80],
      ['api', 80],
      ['db', 5432],
    ] as const) {
      const text = await this.#weft(['get', 'service', name, '-n', 'shop', '-o', 'json']);
      const { spec } = JSON.parse(text) as { spec: { clusterIP: string } };
      targets.push({ name: `service ${name}`, address: spec.clusterIP, port });
    }
    targets.push({ name: 'node port 30080', address: this.#node.underlay4!, port: 30_080 });
    this.#targets = targets;
    return printed;
  }

  #weft(words: readonly string[]): Promise<string> {
    return this.#node.run([
      join(HOUSE, 'bin', 'weft'),
      ...words,
      `--state-dir=${this.#node.stateDir}`,
    ]);
  }

  /** What each says now; from outside only node ports are asked. */
  async ask(): Promise<Answers> {
    const answers = new Map<string, ReadonlyMap<string, Answer>>();
    for (const asker of this.#askers) {
      const said = new Map<string, Answer>();
      for (const { name, address, port } of this.#targets) {
        if (asker.host.name === 'outside' && !name.startsWith('node port')) continue;
        const got = await asker.ask({ protocol: 'TCP', address, port, timeoutMs: SILENCE_MS });
        if (got === 'refused') said.set(name, 'refused');
        else said.set(name, got.startsWith('8080 ') ? 'answered' : 'silent');
      }
      answers.set(asker.host.name, said);
    }
    return answers;
  }

  /**
   * Asks until all is as `allowed` says (`web > service api`), and everything else is silent.
   * @returns the last answers, and what of them is not so
   */
  async becomes(
    allowed: readonly string[],
  ): Promise<{ readonly answers: Answers; readonly wrong: readonly string[] }> {
    let answers: Answers = new Map();
    let wrong: readonly string[] = [];
    await poll(async () => {
      answers = await this.ask();
      wrong = [...answers].flatMap(([from, said]) =>
        [...said].flatMap(([to, answer]) => {
          const way = `${from} > ${to}`;
          return (answer === 'answered') === allowed.includes(way) ? [] : [`${way}: ${answer}`];
        }),
      );
      return wrong.length === 0 ? true : undefined;
    }, AbortSignal.timeout(EFFECT_MS)).catch(() => undefined);
    return { answers, wrong };
  }
}

/** Who may reach whom, by deploy/example/shop.yaml: web is open to all, and each to itself. */
export const SHOP_ALLOWS: readonly string[] = [
  'outside > node port 30080',
  'client > node port 30080',
  'client > service web',
  'web > node port 30080',
  'web > service web',
  'web > service api',
  'api > service api',
  'api > service db',
  'db > service db',
];
export const REPORT_ALLOWS: readonly string[] = [...SHOP_ALLOWS, 'web > service db'];
