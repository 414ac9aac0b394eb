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
 *   bulk      TCP between pods of the two nodes for two seconds, Gb/s
 *
 * Two starts of the same daemons differ by more than what is looked for, so `on of quiet` is the figure to trust.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { askDaemon, openStream } from '../daemon/api-client.ts';
import { followCluster } from '../daemon/flow-commands.ts';
import { poll } from '../linux/program.ts';
import { bulkTcp } from '../test/lab/traffic/traffic.ts';
import { newTable } from './report.ts';
import { CONNECT, WeftGround } from './service-grounds.ts';
import { SMALL, VIP, gate, objectsOf } from './service-objects.ts';

const USAGE = `npm run bench:observe -- [options]
  --rounds N    of two starts of each kind; 4 unless given
  --connects N  connections in each; 4000 unless given`;

const LOOK_EVERY_MS = 1_000;
const BULK_SECONDS = 2;
type Setting = 'on' | 'quiet' | 'off';
/** Of one start of the daemons. */
interface Start {
  readonly flags: readonly string[];
  readonly settings: readonly Setting[];
}
/** What comes first in a start has the coldest engine. */
const STARTS: readonly Start[] = [
  { flags: [], settings: ['on', 'quiet', 'quiet', 'on'] },
  { flags: ['--flow-events=false'], settings: ['off', 'off', 'off', 'off'] },
  { flags: ['--flow-events=false'], settings: ['off', 'off', 'off', 'off'] },
  { flags: [], settings: ['quiet', 'on', 'on', 'quiet'] },
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

interface Figures {
  readonly bulk: number[];
  readonly connect: number[];
}

async function measure(ground: WeftGround, connects: number, into: Figures): Promise<void> {
  const { client, server } = ground;
  const { bitsPerSecond } = await bulkTcp(client, server, server.address4!, {
    seconds: BULK_SECONDS,
  });
  into.bulk.push(bitsPerSecond / 1e9);
  const text = await client.run([process.execPath, CONNECT, 'ask', `${connects}`, VIP, '80']);
  into.connect.push((JSON.parse(text) as { p50: number }).p50);
}

async function main(rounds: number, connects: number): Promise<void> {
  await using ground = await WeftGround.create();
  await ground.prepare(objectsOf(SMALL, ground.server.address4!), [gate(false)])();
  const figures: Record<Setting, Figures> = {
    on: { bulk: [], connect: [] },
    quiet: { bulk: [], connect: [] },
    off: { bulk: [], connect: [] },
  };
  for (let round = 0; round < rounds; round++) {
    for (const { flags, settings } of STARTS) {
      await ground.restart(flags);
      const question = { protocol: 'TCP', address: VIP, port: 80, timeoutMs: 500 } as const;
      const answered = async (): Promise<true | undefined> =>
        (await ground.prober.ask(question)) === '' ? true : undefined;
      await poll(answered, AbortSignal.timeout(20_000));
      await ground.settled();
      // What the engine compiles is compiled now.
      await measure(ground, connects, { bulk: [], connect: [] });
      for (const setting of settings) {
        await using looking = setting === 'on' ? lookers(ground) : null;
        await measure(ground, connects, figures[setting]);
        if (looking?.events() === 0) throw new Error('no flow was seen: nothing was measured');
      }
    }
  }
  const median = (values: readonly number[]): number =>
    values.toSorted((a, b) => a - b)[values.length >> 1]!;
  const table = newTable(['', 'on', 'quiet', 'off', 'on of quiet', 'quiet of off', 'runs each']);
  for (const name of ['bulk', 'connect'] as const) {
    const [on, quiet, off] = [figures.on, figures.quiet, figures.off].map((it) => median(it[name]));
    const texts = [on!, quiet!, off!].map((it) => it.toFixed(2));
    const ratios = [on! / quiet!, quiet! / off!].map((it) => it.toFixed(3));
    table.push([name, ...texts, ...ratios, figures.on[name].length]);
  }
  console.log(table.toString());
  console.log(JSON.stringify(figures));
}

const { values } = parseArgs({
  options: {
    help: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '4' },
    connects: { type: 'string', default: '4000' },
  },
});
if (values.help) console.log(USAGE);
else if (process.getuid?.() !== 0) {
  process.stderr.write('npm run bench:observe needs root, for it makes network namespaces\n');
  process.exitCode = 1;
} else await main(Number(values.rounds), Number(values.connects));
