/**
 * Real frames of Linux's VXLAN device: ingress takes each of them apart, egress makes the inner packet
 * into the same datagram, byte for byte.
 */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { formatAddress, toIpv4, toIpv6 } from '../../wire/address.ts';
import { captures, nodeOf } from './capture-nodes.ts';
import { type CapturedDatagram, datagramOf, readPcap } from './pcap.ts';
import { IngressPath, Wire, dropsOf } from './wire-harness.ts';

const textOf = (address: Uint8Array): string => {
  const hex = Buffer.from(address).toString('hex');
  return formatAddress(
    address.length === 4 ? toIpv4(Number.parseInt(hex, 16)) : toIpv6(BigInt(`0x${hex}`)),
  );
};

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

for (const capture of captures) {
  const file = new URL(`../fixtures/${capture.file}`, import.meta.url);
  const datagrams = readPcap(readFileSync(file)).map((frame) => datagramOf(frame));
  const from = (node: 1 | 2): CapturedDatagram[] =>
    datagrams.filter(({ source }) => textOf(source) === capture.outer[node]);

  for (const [sender, receiver] of [
    [1, 2],
    [2, 1],
  ] as const) {
    test(`${capture.file}: what node ${sender} sent reaches node ${receiver}'s pods as it was`, (t) => {
      using path = new IngressPath(nodeOf(capture, receiver), { underlay: capture.underlay });
      const sent = from(sender);
      t.true(sent.length > 10);
      for (const { payload, trafficClass, source } of sent) {
        t.is(path.take(payload, textOf(source), trafficClass & 3), 'none');
        t.deepEqual(
          path.tun.read().map(({ packet }) => hexOf(packet)),
          [hexOf(payload.subarray(22))],
        );
      }
      t.deepEqual(dropsOf(path.counters), {});
    });

    test(`${capture.file}: node ${sender}'s inner packets become the same datagrams`, (t) => {
      using wire = new Wire({ underlay: capture.underlay });
      const hop = wire.state.peers[0]!.nextHop4!.address;
      wire.publish(nodeOf(capture, sender, hop));
      for (const { payload, trafficClass } of from(sender)) {
        wire.carry(payload.subarray(22));
        const received = wire.received();
        t.deepEqual(
          received.map((datagram) => hexOf(datagram.payload)),
          [hexOf(payload)],
        );
        t.is(received[0]!.tos & 3, trafficClass & 3);
      }
      t.deepEqual(dropsOf(wire.counters), {});
    });
  }
}
