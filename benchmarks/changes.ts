/** How long a changed policy takes to its effect on packets of the other node; alone, and among others. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type StreamResult, streamUdp } from '../test/lab/traffic/traffic.ts';
import type { Ground } from './service-grounds.ts';
import { CHURN, PROBE_PORT, STREAM_PORT, churn, gate } from './service-objects.ts';

/** No answer in this time is none; TCP asks again after a second. */
const SILENCE_MS = 400;
const ASK_EVERY_MS = 4;
const EFFECT_MS = 10_000;
const STREAM_PACKETS_PER_SECOND = 3000;
/** Between the end of one change of the gate and the next. */
const PAUSE_MS = 50;

const isAnswered = async ({ prober, server }: Ground): Promise<boolean> => {
  const got = await prober.ask({
    protocol: 'TCP',
    address: server.address4!,
    port: PROBE_PORT,
    timeoutMs: SILENCE_MS,
  });
  return got.startsWith(`${PROBE_PORT}`);
};

/** Asks again and again, without waiting for answers. @returns when one came, performance.now() */
async function firstAnswer(ground: Ground, deadline: number): Promise<number> {
  let answeredMs: number | null = null;
  while (answeredMs === null) {
    if (performance.now() > deadline) throw new Error('a permission took no effect in 10 s');
    void isAnswered(ground).then((it) => {
      if (it) answeredMs ??= performance.now();
    });
    await sleep(ASK_EVERY_MS);
  }
  return answeredMs;
}

/** @returns when was asked what got no answer, performance.now() */
async function firstSilence(ground: Ground, deadline: number): Promise<number> {
  for (;;) {
    const askedMs = performance.now();
    if (!(await isAnswered(ground))) return askedMs;
    if (askedMs > deadline) throw new Error('a denial took no effect in 10 s');
  }
}

/** A permission is in effect when it is answered, a denial was when it was asked for. */
export async function changeMs(ground: Ground, isOpen: boolean): Promise<number> {
  const begin = performance.now();
  const written = ground.change(gate(isOpen));
  const effect = isOpen ? firstAnswer : firstSilence;
  const [ms] = await Promise.all([effect(ground, begin + EFFECT_MS), written]);
  return ms - begin;
}

export interface RateResult {
  /** Of the gate's changes. */
  readonly changeMs: readonly number[];
  /** How many of the others were written; fewer than asked for where one write takes longer. */
  readonly changesPerSecond: number;
  readonly stream: StreamResult;
}

const openings = [true, false] as const;

/**
 * Policies change by turns, `perSecond` of them, for `seconds`; meanwhile the gate opens and closes, and
 * datagrams are counted. The gate is closed before and afterwards.
 */
export async function underRate(
  ground: Ground,
  perSecond: number,
  seconds: number,
): Promise<RateResult> {
  const begin = performance.now();
  const end = begin + seconds * 1000;
  const times: number[] = [];
  let changes = 0;
  const others = async (): Promise<void> => {
    const written: Promise<void>[] = [];
    for (let turn = 0; performance.now() < end; turn++) {
      const one = ground.change(churn(turn % CHURN, turn)).then(() => void changes++);
      // Who is late says so at the end, in one place.
      one.catch(() => {});
      written.push(one);
      await sleep(Math.max(0, begin + ((turn + 1) * 1000) / perSecond - performance.now()));
    }
    await Promise.all(written);
  };
  const gates = async (): Promise<void> => {
    while (performance.now() < end) {
      for (const isOpen of openings) {
        times.push(await changeMs(ground, isOpen));
        await sleep(PAUSE_MS);
      }
    }
  };
  const { client, server } = ground;
  const [stream] = await Promise.all([
    streamUdp(client, server, server.address4!, {
      port: STREAM_PORT,
      packetsPerSecond: STREAM_PACKETS_PER_SECOND,
      seconds,
    }),
    gates(),
    perSecond > 0 ? others() : undefined,
  ]);
  const changesPerSecond = (changes * 1000) / (performance.now() - begin);
  return { changeMs: times, changesPerSecond, stream };
}
