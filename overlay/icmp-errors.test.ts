import test from 'ava';
import * as build from '../test/packets/build.ts';
import { TunTwin, stateOf } from '../test/packets/wire-harness.ts';
import { createArena } from '../linux/arena.ts';
import { parseAddress } from '../wire/address.ts';
import { createChecksum } from '../wire/checksum/checksum.ts';
import { Counter, createCounters } from './counters.ts';
import { createIcmpErrors } from './icmp-errors.ts';
import { createPeers } from './peers.ts';
import { compileSnapshot } from './snapshot.ts';
import { createTunWriter } from './tun-writer.ts';

const packet = build.udp({ source: '10.244.1.5', destination: '10.244.9.9' }, build.payloadOf(64));

test('fifty errors at once, then one a millisecond', (t) => {
  using tun = new TunTwin(true);
  const arena = createArena(2 << 20);
  const counters = createCounters();
  const checksum = createChecksum(arena.memory);
  const writer = createTunWriter(arena, counters, checksum, tun.fd, true);
  const peers = createPeers(arena);
  const a = parseAddress('192.0.2.2');
  peers.install(compileSnapshot(stateOf(a, a), 8472, 1));
  let nowMs = 1000;
  const icmp = createIcmpErrors(arena, counters, checksum, peers, writer, () => nowMs);
  const ip = arena.take(packet.length, 'packet');
  arena.bytes.set(packet, ip);
  const answered = (tries: number): number => {
    for (let i = 0; i < tries; i++) icmp.unreachable(ip, packet.length);
    return tun.read().length;
  };

  t.is(answered(200), 50);
  nowMs += 0.5;
  t.is(answered(200), 0, 'half a millisecond is half an error');
  nowMs += 0.5;
  t.is(answered(200), 1);
  nowMs += 10;
  t.is(answered(200), 10);
  nowMs += 60_000;
  t.is(answered(200), 50, 'silence saves up no more than the burst');
  t.is(counters[Counter.icmpErrors], 111);
});
