/** How long a changed policy takes to its effect on packets of the other node. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Ground } from './service-grounds.ts';
import { PROBE_PORT, gate } from './service-objects.ts';

/** No answer in this time is none; TCP asks again after a second. */
const SILENCE_MS = 400;
const ASK_EVERY_MS = 4;
const EFFECT_MS = 10_000;

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
