/** How long a change takes to its effect on packets of the other node; alone, and among others. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type StreamResult, streamUdp } from '../test/lab/traffic/traffic.ts';
import type { Ground } from './service-grounds.ts';
import { CHURN, PROBE_PORT, STREAM_PORT, SWITCH_VIP, churn, gate } from './service-objects.ts';

/** No answer in this time is none; TCP asks again after a second. */
const SILENCE_MS = 400;
const ASK_EVERY_MS = 4;
const EFFECT_MS = 10_000;
const STREAM_PACKETS_PER_SECOND = 3000;
/** Between the end of one change of the gate and the next. */
const PAUSE_MS = 50;

/** Whether the client is answered now, by what changes. */
type Ask = () => Promise<boolean>;

const askGate =
  ({ prober, server }: Ground): Ask =>
  async () => {
    const where = { address: server.address4!, port: PROBE_PORT };
    const got = await prober.ask({ protocol: 'TCP', ...where, timeoutMs: SILENCE_MS });
    return got.startsWith(`${PROBE_PORT}`);
  };

/** The Service's endpoint takes the connection, and ends it without a word. */
const askSwitch =
  ({ prober }: Ground): Ask =>
  async () => {
    const where = { address: SWITCH_VIP, port: 80 };
    return (await prober.ask({ protocol: 'TCP', ...where, timeoutMs: SILENCE_MS })) === '';
  };

/** Asks again and again, without waiting for answers. @returns when one came, performance.now() */
async function firstAnswer(ask: Ask, deadline: number): Promise<number> {
  const answered: number[] = [];
  const askOnce = async (): Promise<void> => {
    if (await ask()) answered.push(performance.now());
  };
  while (answered.length === 0) {
    if (performance.now() > deadline) throw new Error('a permission took no effect in 10 s');
    void askOnce();
    await sleep(ASK_EVERY_MS);
  }
  return answered[0]!;
}

/** @returns when was asked what got no answer, performance.now() */
async function firstSilence(ask: Ask, deadline: number): Promise<number> {
  for (;;) {
    const askedMs = performance.now();
    if (!(await ask())) return askedMs;
    if (askedMs > deadline) throw new Error('a denial took no effect in 10 s');
  }
}

/** What is allowed is in effect when it is answered, what is denied was when it was asked for. */
async function effectMs(ask: Ask, isOn: boolean, change: () => Promise<void>): Promise<number> {
  const begin = performance.now();
  const written = change();
  const effect = isOn ? firstAnswer : firstSilence;
  const [ms] = await Promise.all([effect(ask, begin + EFFECT_MS), written]);
  return ms - begin;
}

/** One policy admits the client to the server's other port, or does not. */
export const changeMs = (ground: Ground, isOpen: boolean): Promise<number> =>
  effectMs(askGate(ground), isOpen, () => ground.change(gate(isOpen)));

/** One Service gets its endpoint, or loses it. */
export const turnMs = (ground: Ground, isOn: boolean): Promise<number> =>
  effectMs(askSwitch(ground), isOn, () => ground.turn(isOn));

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
  let changesPerSecond = 0;
  const others = async (): Promise<void> => {
    const written: Promise<void>[] = [];
    for (let turn = 0; performance.now() < end; turn++) {
      const one = ground.change(churn(turn % CHURN, turn));
      // Who is late says so at the end, in one place.
      one.catch(() => {});
      written.push(one);
      await sleep(Math.max(0, begin + ((turn + 1) * 1000) / perSecond - performance.now()));
    }
    await Promise.all(written);
    changesPerSecond = (written.length * 1000) / (performance.now() - begin);
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
  return { changeMs: times, changesPerSecond, stream };
}
