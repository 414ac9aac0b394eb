/**
 * The daemon's life beside its node's: restarts, crashes and an etcd that does not answer. A pod pings
 * the other node's pod all the while; what is lost must have been sent while the node could not carry it.
 */
import test, { type ExecutionContext } from 'ava';
import { listAddresses, listRoutes } from '../../linux/ip.ts';
import { collect, poll } from '../../linux/program.ts';
import type { LabNode, LabPod } from '../lab/lab.ts';
import {
  type Pair,
  allReach,
  createPair,
  exchangeTcp,
  peersKnown,
  statusOf,
  within,
} from './pair.ts';

const PING_INTERVAL_S = 0.02;
/** The least that can be asked for. */
const LEASE_TTL_S = 10;

let pair: Pair;

test.before(async () => {
  pair = await createPair({}, 'l');
});
test.after.always(() => pair?.[Symbol.asyncDispose]());

/** When each answer came, seconds since 1970, by the number of the request. */
type Answers = ReadonlyMap<number, number>;

interface Pinging {
  answers(): Answers;
  said(): string;
  stop(): Promise<Answers>;
}

async function startPing(from: LabPod, to: string): Promise<Pinging> {
  const ping = await from.start(['ping', '-n', '-D', '-i', `${PING_INTERVAL_S}`, to], {
    ready: { line: /icmp_seq=/ },
  });
  const answers = (): Map<number, number> =>
    new Map(
      Array.from(
        ping.output().matchAll(/^\[([\d.]+)\] \d+ bytes from .*icmp_seq=(\d+)/gm),
        ([, time, sequence]) => [Number(sequence), Number(time)],
      ),
    );
  return {
    answers,
    said: () => ping.output(),
    async stop() {
      await ping.stop('SIGINT');
      return answers();
    },
  };
}

/** The next answer. */
async function nextAnswer(ping: Pinging): Promise<void> {
  const before = ping.answers().size;
  await poll(async () => (ping.answers().size > before ? true : undefined), within(10_000));
}

/** One gap at most, within these times. */
function onlyLostBetween(t: ExecutionContext, answers: Answers, fromS: number, toS: number): void {
  const numbers = [...answers.keys()].toSorted((one, other) => one - other);
  const gaps = numbers.flatMap((number, i) =>
    i > 0 && number > numbers[i - 1]! + 1 ? [[numbers[i - 1]!, number] as const] : [],
  );
  t.is(gaps.length, 1, `gaps between answers: ${JSON.stringify(gaps)}`);
  const [last, first] = gaps[0]!.map((number) => answers.get(number)!) as [number, number];
  // Ping and this process share processors with the daemon's start.
  const slackS = PING_INTERVAL_S + 0.3;
  t.true(last > fromS - slackS, `the last answer came ${fromS - last} s before`);
  t.true(first < toS + slackS, `the first answer came ${first - toS} s after`);
}

const nowS = (): number => Date.now() / 1000;

async function identityOf(node: LabNode) {
  const { netns } = node;
  const { lease } = await statusOf(node);
  const tun = (await listAddresses({ netns })).find((it) => it.ifname === 'weft0');
  return { key: lease!.key, mac: lease!.vtepMac, index: tun!.ifindex };
}

/** Without their flags: nobody holds the device's other end while no daemon runs. */
const overlayRoutes = async ({ netns }: LabNode): Promise<unknown[]> =>
  (await listRoutes({ netns }))
    .filter((it) => it.dev === 'weft0')
    .map(({ dst, prefsrc, protocol }) => [dst, prefsrc, protocol]);

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test.serial(
    `${signal} and a new start: the same node, and only what was sent meanwhile is lost`,
    async (t) => {
      const [n1] = pair.nodes;
      const [a, b] = pair.pods;
      await allReach(pair);
      const before = await identityOf(n1);
      const routes = await overlayRoutes(n1);
      t.true(routes.length > 0);
      const ping = await startPing(a, b.address4!);
      await nextAnswer(ping);

      const stoppedS = nowS();
      t.is(await pair.daemons[0].stop(signal), signal === 'SIGTERM' ? 0 : null);
      t.deepEqual(await overlayRoutes(n1), routes);
      t.is((await pair.lab.store.leases()).length, 2);
      pair.daemons[0] = await n1.startDaemon();
      const startedS = nowS();

      await nextAnswer(ping);
      t.notRegex(ping.said(), /unreachable/i, 'a pod is not told that the other is gone');
      onlyLostBetween(t, await ping.stop(), stoppedS, startedS);
      t.deepEqual(await identityOf(n1), before);
      await allReach(pair);
    },
  );
}

const readiness = async (node: LabNode, path: string): Promise<number> => {
  const script = `const answer = await fetch(process.argv[1]); console.log(answer.status)`;
  const argv = [process.execPath, '--input-type=module', '-e', script];
  const { stdout } = await collect([...argv, `http://127.0.0.1:10256${path}`], {
    netns: node.netns,
  });
  return Number(stdout);
};

test.serial(
  'etcd away: traffic until the end of the lease, none after, and all again',
  async (t) => {
    const [n1, n2] = pair.nodes;
    const [a, b] = pair.pods;
    await pair.restart([`--subnet-lease-ttl=${LEASE_TTL_S}`]);
    await allReach(pair);
    const identities = await Promise.all(pair.nodes.map(identityOf));
    // Past a renewal, so that what ends is not the first lease.
    const { lease } = await statusOf(n1);
    await poll(async () => {
      const { endsInS } = (await statusOf(n1)).lease!;
      return endsInS! > LEASE_TTL_S - 2 ? true : undefined;
    }, within(10_000));
    t.true(lease!.endsInS! <= LEASE_TTL_S);

    const ping = await startPing(a, b.address4!);
    const { etcd } = pair.lab.store;
    await etcd.pause();
    const pausedS = nowS();
    try {
      const stopped = async (node: LabNode): Promise<number> =>
        poll(async () => ((await statusOf(node)).forwarding ? undefined : nowS()), within(15_000));
      const stoppedS = Math.min(...(await Promise.all([stopped(n1), stopped(n2)])));
      t.true(
        stoppedS - pausedS > 3,
        'a lease is renewed half way, so at least half of it was left',
      );
      const answers = [...ping.answers().entries()].toSorted(([one], [other]) => one - other);
      const [sequence, atS] = answers.at(-1) ?? [0, 0];
      t.is(answers.length, sequence, 'nothing was lost before');
      t.true(
        Math.abs(stoppedS - atS) < 0.5,
        `the last answer came ${stoppedS - atS} s before the end`,
      );
      for (const node of pair.nodes) {
        t.is(await readiness(node, '/healthz'), 503);
        t.is(await readiness(node, '/readyz'), 503);
        t.regex((await statusOf(node)).reasons.join(), /lease .* is lost/);
      }
      const refused = (await statusOf(n1)).counters['drop.notForwarding']!;
      t.true(refused > 0);
      await t.throwsAsync(exchangeTcp(a, b.address4!, 1, 500));
      t.is(ping.answers().size, answers.length, 'and nothing after');
    } finally {
      etcd.resume();
    }
    await Promise.all(pair.nodes.map(peersKnown));
    await nextAnswer(ping);
    await ping.stop();
    await allReach(pair);
    t.deepEqual(await Promise.all(pair.nodes.map(identityOf)), identities);
  },
);
