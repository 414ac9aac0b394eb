/**
 * `npm run bench:observe`: what it costs to see everything. Two nodes of Weft with a small set of Services and
 * policies, by turns in one run:
 *
 *   on     events of flows, followed as `weft flows --follow` does, which asks both nodes; the cluster asked for
 *          every second on both, as the page does
 *   quiet  the same daemons, and nobody asks
 *   off    daemons without events (`--flow-events=false`), and nobody asks
 *
 *   connect   TCP connections to a Service, one after the other: each is a flow and its event; microseconds
 *   bulk      TCP between pods of the two nodes for a second, Gb/s
 *
 * Beside each, how busy all processors were for it, the reader's with them: microseconds for a connection,
 * milliseconds for a gigabyte. `on` and `quiet` take turns of seconds on the same daemons, and each turn is
 * compared with the one beside it; two starts of the same daemons differ by more than what is looked for, so
 * that what is compared with `off`, medians, is worth less than `on of quiet`.
 */
import { writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { askDaemon, openStream } from '../daemon/api-client.ts';
import { followCluster } from '../daemon/flow-commands.ts';
import { poll } from '../linux/program.ts';
import { bulkTcp } from '../test/lab/traffic/traffic.ts';
import { busySeconds } from './measures.ts';
import { digits, median, newTable, percentile } from './report.ts';
import { CONNECT, WeftGround } from './service-grounds.ts';
import { SMALL, VIP, gate, objectsOf } from './service-objects.ts';

const USAGE = `npm run bench:observe -- [options]
  --rounds N    of two starts of each kind; 4 unless given
  --connects N  connections in each; 2000 unless given
  --json FILE   every run's figures`;

const LOOK_EVERY_MS = 1_000;
const BULK_SECONDS = 1;
/** Settings of a start that are gone through once before they count. */
const WARM_UP = 4;
type Setting = 'on' | 'quiet' | 'off';
/** Neighbours are compared; of no pair is the same one always the first. */
const PAIRS: readonly Setting[] = ['on', 'quiet', 'quiet', 'on', 'quiet', 'on', 'on', 'quiet'];
/** Of one start of the daemons. */
interface Start {
  readonly flags: readonly string[];
  readonly settings: readonly Setting[];
}
const STARTS: readonly Start[] = [
  { flags: [], settings: PAIRS },
  { flags: ['--flow-events=false'], settings: PAIRS.map(() => 'off') },
  { flags: ['--flow-events=false'], settings: PAIRS.map(() => 'off') },
  { flags: [], settings: PAIRS.toReversed() },
];

/** Who looks, until it is disposed of. */
function lookers(ground: WeftGround): AsyncDisposable & { readonly events: () => number } {
  const stop = new AbortController();
  const { signal } = stop;
  let events = 0;
  const [first] = ground.stateDirs;
  const follow = async (): Promise<void> => {
    const following = followCluster({
      query: new URLSearchParams(),
      open: async (path) => (await openStream(first!, path, signal)).setEncoding('utf8'),
      say: (line) => process.stderr.write(`${line}\n`),
      signal,
    });
    for await (const _ of following) events++;
  };
  const look = async (stateDir: string): Promise<void> => {
    while (!signal.aborted) {
      await askDaemon(stateDir, 'GET', '/v1/cluster', undefined, signal);
      await sleep(LOOK_EVERY_MS, undefined, { signal });
    }
  };
  const all = [follow(), ...ground.stateDirs.map(look)];
  const ended = Promise.all(all).catch((error: unknown) => {
    if (!signal.aborted) throw error;
  });
  return {
    events: () => events,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await ended;
    },
  };
}

const MEASURES = ['bulk', 'bulk, processors', 'connect', 'connect, processors'] as const;
type Figures = Readonly<Record<(typeof MEASURES)[number], number>>;

async function measure(ground: WeftGround, connects: number): Promise<Figures> {
  const { client, server } = ground;
  const beforeBulk = await busySeconds();
  const bulk = await bulkTcp(client, server, server.address4!, { seconds: BULK_SECONDS });
  const beforeConnect = await busySeconds();
  const text = await client.run([process.execPath, CONNECT, 'ask', `${connects}`, VIP, '80']);
  const end = await busySeconds();
  return {
    bulk: bulk.bitsPerSecond / 1e9,
    'bulk, processors': ((beforeConnect - beforeBulk) * 1e3) / (bulk.bytes / 1e9),
    connect: (JSON.parse(text) as { p50: number }).p50,
    'connect, processors': ((end - beforeConnect) * 1e6) / connects,
  };
}

async function main(rounds: number, connects: number, json?: string): Promise<void> {
  await using ground = await WeftGround.create();
  await ground.prepare(objectsOf(SMALL, ground.server.address4!), [gate(false)])();
  const figures: Record<Setting, Figures[]> = { on: [], quiet: [], off: [] };
  for (let round = 0; round < rounds; round++) {
    for (const { flags, settings } of STARTS) {
      await ground.restart(flags);
      const question = { protocol: 'TCP', address: VIP, port: 80, timeoutMs: 500 } as const;
      const answered = async (): Promise<true | undefined> =>
        (await ground.prober.ask(question)) === '' ? true : undefined;
      await poll(answered, AbortSignal.timeout(20_000));
      await ground.settled();
      // What the engine compiles is compiled now, for who looks too.
      for (const setting of settings.slice(0, WARM_UP)) {
        await using _ = setting === 'on' ? lookers(ground) : null;
        await measure(ground, connects);
      }
      for (const setting of settings) {
        await using looking = setting === 'on' ? lookers(ground) : null;
        figures[setting].push(await measure(ground, connects));
        if (looking?.events() === 0) throw new Error('no flow was seen: nothing was measured');
      }
    }
  }
  const table = newTable([
    '',
    'on',
    'quiet',
    'off',
    'on of quiet',
    'quiet of off',
    'on of off',
    'runs each',
  ]);
  for (const name of MEASURES) {
    const of = (setting: Setting): number[] => figures[setting].map((it) => it[name]);
    const medians = (['on', 'quiet', 'off'] as const).map((it) => median(of(it)));
    const quiet = of('quiet');
    // The n-th of each are neighbours.
    const pairs = of('on').map((on, i) => on / quiet[i]!);
    const quartiles = [0.25, 0.75].map((it) => percentile(pairs, it).toFixed(2));
    table.push([
      name,
      ...medians.map(digits),
      `${median(pairs).toFixed(3)} (${quartiles.join('..')})`,
      (medians[1]! / medians[2]!).toFixed(3),
      (medians[0]! / medians[2]!).toFixed(3),
      pairs.length,
    ]);
  }
  console.log(table.toString());
  if (json !== undefined) await writeFile(json, `${JSON.stringify(figures)}\n`);
}

const { values } = parseArgs({
  options: {
    help: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '4' },
    connects: { type: 'string', default: '2000' },
    json: { type: 'string' },
  },
});
if (values.help) console.log(USAGE);
else if (process.getuid?.() !== 0) {
  process.stderr.write('npm run bench:observe needs root, for it makes network namespaces\n');
  process.exitCode = 1;
} else await main(Number(values.rounds), Number(values.connects), values.json);
