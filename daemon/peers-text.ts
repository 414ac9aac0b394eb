/** What `weft peers` prints. */
import pico from 'picocolors';
import type { LinkProbeMessage, PeersMessage } from './messages.ts';
import { stateOf } from './peer-probes.ts';
import { columns, orDash, printable } from './tables.ts';

/** A peer does not answer as it should, or nobody can be asked. */
export const isUnwell = ({ peers, problem }: PeersMessage): boolean =>
  problem !== null || peers.some(({ probe }) => probe !== null && stateOf(probe.links) !== 'well');

const ms = (value: number | null): string => (value === null ? '-' : value.toFixed(2));

function linkCells(it: LinkProbeMessage): string[] {
  const loss = Math.round((100 * (it.sent - it.received)) / Math.max(it.sent, 1));
  const times = [it.minMs, it.avgMs, it.maxMs].map(ms).join('/');
  const isSmall = it.pathMtuBytes !== null && it.pathMtuBytes < it.expectedMtuBytes;
  const mtu = it.pathMtuBytes === null ? '-' : String(it.pathMtuBytes);
  return [
    it.kind,
    it.address,
    it.received === 0 ? '-' : times,
    `${loss} %`,
    isSmall ? `${mtu} of ${it.expectedMtuBytes}` : mtu,
    it.problem ?? '',
  ];
}

export function peersTable(message: PeersMessage): string {
  if (message.peers.length === 0) return 'no other nodes';
  const peers = message.peers.map((it) => [
    it.node,
    orDash(it.lease.subnet, it.lease.ipv6Subnet),
    orDash(it.nextHop, it.nextHopV6),
    it.pathMtuBytes === null ? '-' : String(it.pathMtuBytes),
    it.direct ? 'direct' : 'VXLAN',
    it.probe?.time ?? 'not asked yet',
  ]);
  const links = message.peers.flatMap(({ node, probe }) =>
    (probe?.links ?? []).map((it) => [node, ...linkCells(it)]),
  );
  const parts = [columns(['NODE', 'SUBNET', 'NEXT HOP', 'PATH MTU', 'BY', 'ASKED'], peers)];
  if (links.length > 0) {
    const head = ['NODE', 'WAY', 'ADDRESS', 'MIN/AVG/MAX MS', 'LOSS', 'ANSWERED UP TO', ''];
    parts.push(columns(head, links));
  }
  if (message.problem !== null) parts.push(pico.yellow(printable(message.problem)));
  return parts.join('\n\n');
}
