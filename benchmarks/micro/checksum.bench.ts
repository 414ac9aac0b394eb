import { pseudoSum } from '../../overlay/pseudo-header.ts';
import { tcp } from '../../test/packets/build.ts';
import { sumIpv4Header } from '../../wire/ipv4.ts';
import { bench } from './runner.ts';
import { OUR_POD4, OUR_POD6, createStage, payload, podOf4, podOf6 } from './stage.ts';

for (const bytes of [20, 1400, 65000]) {
  bench(`checksum.${bytes}`, {
    bytes,
    setup: () => {
      const { checksum, place } = createStage(1);
      return { checksum, at: place(payload(bytes), 10) };
    },
    run: ({ checksum, at }, n) => {
      for (let i = 0; i < n; i++) checksum(at, bytes, i);
    },
  });
}

/** Keeps the compiler from leaving out a loop whose result nobody reads. */
let sink = 0;

bench('checksum.ipv4Header', {
  setup: () => {
    const { arena, place } = createStage(1);
    const packet = tcp({ source: OUR_POD4, destination: podOf4(0) }, payload(100));
    return { view: arena.view, at: place(packet, 12) };
  },
  run: ({ view, at }, n) => {
    for (let i = 0; i < n; i++) sink ^= sumIpv4Header(view, at);
  },
});

for (const [name, source, destination] of [
  ['pseudoHeader4', OUR_POD4, podOf4(0)],
  ['pseudoHeader6', OUR_POD6, podOf6(0)],
] as const) {
  bench(`checksum.${name}`, {
    setup: () => {
      const { arena, place } = createStage(1);
      return { view: arena.view, at: place(tcp({ source, destination }, payload(100)), 12) };
    },
    run: ({ view, at }, n) => {
      for (let i = 0; i < n; i++) sink ^= pseudoSum(view, at, 6, i & 0xffff);
    },
  });
}
