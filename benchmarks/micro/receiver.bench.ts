import { createSender } from '../../overlay/sender.ts';
import { createReceiver } from '../../overlay/receiver.ts';
import { HOP_ADDRESS } from '../../overlay/snapshot.ts';
import { enableGro, openReceiver, openSender, portOf, writeSockaddr } from '../../linux/udp.ts';
import { parseAddress } from '../../wire/address.ts';
import { OUR_MAC, OUR_POD4, PEER_MAC, SEGMENTS, createStage, payload, podOf4 } from './stage.ts';
import { tcp, vxlan } from '../../test/packets/build.ts';
import { bench } from './runner.ts';

const loopback = parseAddress('127.0.0.1');
const packet = tcp({ source: podOf4(0), destination: OUR_POD4 }, payload(1410));
const datagram = vxlan({ destinationMac: OUR_MAC, sourceMac: PEER_MAC }, packet);

/** Each batch is sent first, on loopback; only receiving counts. */
for (const [name, datagrams, gro] of [
  ['gro', SEGMENTS, true],
  ['batch', SEGMENTS, false],
  ['one', 1, true],
] as const) {
  bench(`receiver.${name}`, {
    packets: datagrams,
    bytes: datagrams * datagram.length,
    setup: () => {
      const { arena, counters, peers, place } = createStage(1);
      const fd = openReceiver(loopback, 0, false);
      if (gro) enableGro(fd);
      const source = openSender(loopback);
      const sender = createSender(arena, counters, {
        fd: source.fd,
        sourcePort: source.port,
        family: 4,
        gso: true,
        batch: true,
        onTooBig: () => false,
        onGsoRefused: () => undefined,
      });
      const hop = peers.hopOf(0);
      writeSockaddr(arena.view, hop + HOP_ADDRESS, loopback, portOf(fd));
      let received = 0;
      const onDatagram = (): void => {
        received++;
      };
      const receiver = createReceiver(arena, counters, { fd, family: 4, batch: true, onDatagram });
      const at = place(datagram, 0);
      return { sender, receiver, hop, at, count: () => received };
    },
    run: ({ sender, receiver, hop, at, count }, n) => {
      let ms = 0;
      for (let i = 0; i < n; i++) {
        for (let d = 0; d < datagrams; d++) sender.append(hop, 0, at, datagram.length, 0, 0);
        const wanted = count() + datagrams;
        sender.flush();
        const begin = performance.now();
        while (count() < wanted) receiver.receive();
        ms += performance.now() - begin;
      }
      return ms;
    },
  });
}
