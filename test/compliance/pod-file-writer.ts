/**
 * A process that saves pods without end (pod-file.test.ts), until it is killed: argument 1 is the file,
 * argument 2 the number to go on from. It says on stdout the number of each state that was acknowledged.
 * Three savers run side by side, so that most writes hold the states of several calls.
 */
import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { openPodFile } from '../../ipam/pod-file.ts';
import { stateNumbered } from './pod-file-states.ts';

const [path, start] = process.argv.slice(2);
const { file } = await openPodFile(path!);
let number = Number(start);

async function saver(pauseMs: number): Promise<never> {
  for (;;) {
    const mine = ++number;
    await file.save(stateNumbered(mine));
    // To the pipe itself and at once: what was said before SIGKILL arrives.
    writeSync(1, `${mine}\n`);
    await sleep(pauseMs);
  }
}
await Promise.all([saver(0), saver(1), saver(2)]);
