import { addressBytes } from '../../test/packets/build.ts';
import { bench } from './runner.ts';
import { createStage, podOf4, podOf6 } from './stage.ts';

/** Addresses that take turns, so that no branch of the search can be guessed. */
const ADDRESSES = 1024;

let sink = 0;

function layAddresses(count: number, podOf: (i: number) => string, bytes: number) {
  const { arena, peers } = createStage(count);
  const at = arena.take(ADDRESSES * bytes, 'addresses');
  // A stride with no factor in common with the powers of two that a search halves.
  for (let i = 0; i < ADDRESSES; i++) {
    arena.bytes.set(addressBytes(podOf((i * 4099) % count)), at + i * bytes);
  }
  return { peers, at };
}

for (const count of [1, 256, 8192]) {
  bench(`peers.of4.${count}`, {
    setup: () => layAddresses(count, podOf4, 4),
    run: ({ peers, at }, n) => {
      for (let i = 0; i < n; i++) sink ^= peers.of4(at + (i & (ADDRESSES - 1)) * 4);
    },
  });
  bench(`peers.of6.${count}`, {
    setup: () => layAddresses(count, podOf6, 16),
    run: ({ peers, at }, n) => {
      for (let i = 0; i < n; i++) sink ^= peers.of6(at + (i & (ADDRESSES - 1)) * 16);
    },
  });
}
