/** Asks a URL until it answers 200: `healthz.ts URL`. Ends by itself then; its caller sets the limit. */
import { setTimeout } from 'node:timers/promises';

const url = process.argv[2]!;
for (;;) {
  try {
    const answer = await fetch(url);
    if (answer.status === 200) break;
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // fetch's word for "not listening yet"
  }
  await setTimeout(25);
}
