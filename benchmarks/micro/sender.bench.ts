import { Counter } from '../../overlay/counters.ts';
import { createSender } from '../../overlay/sender.ts';
import { HOP_ADDRESS } from '../../overlay/snapshot.ts';
import { openSender, writeSockaddr } from '../../linux/udp.ts';
import { parseAddress } from '../../wire/address.ts';
import { bench } from './runner.ts';
import { SEGMENTS, createStage, payload } from './stage.ts';

const loopback = parseAddress('127.0.0.1');

/** From a socket on loopback to another that drops what it is sent: no queue fills, nobody reads. */
for (const [name, datagrams, head, body, gso] of [
  ['gso', SEGMENTS, 74, 1398, true],
  ['batch', SEGMENTS, 74, 1398, false],
  ['udp64.gso', 64, 86, 0, true],
  ['one', 1, 86, 0, true],
] as const) {
  bench(`sender.${name}`, {
    packets: datagrams,
    bytes: datagrams * (head + body),
    setup: () => {
      const { arena, counters, peers, place } = createStage(1);
      const { fd, port } = openSender(loopback);
      const sender = createSender(arena, counters, {
        fd,
        sourcePort: port,
        family: 4,
        gso,
        batch: true,
        onTooBig: () => false,
        onGsoRefused: () => undefined,
      });
      const hop = peers.hopOf(0);
      writeSockaddr(arena.view, hop + HOP_ADDRESS, loopback, openSender(loopback).port);
      const stage = { sender, hop, at: place(payload(datagrams * (head + body)), 0) };
      runOnce(stage, datagrams, head, body);
      if (counters[Counter.udpSentDatagrams] !== datagrams) throw new Error('not all were sent');
      return stage;
    },
    run: (stage, n) => {
      for (let i = 0; i < n; i++) runOnce(stage, datagrams, head, body);
    },
  });
}

interface Queue {
  readonly sender: ReturnType<typeof createSender>;
  readonly hop: number;
  readonly at: number;
}

function runOnce({ sender, hop, at }: Queue, datagrams: number, head: number, body: number): void {
  let p = at;
  for (let i = 0; i < datagrams; i++) {
    sender.append(hop, 0, p, head, p + head, body);
    p += head + body;
  }
  sender.flush();
}
