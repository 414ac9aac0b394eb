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

const PREFIXES = ['', 'k', 'M', 'G', 'T'];

/** In steps of a thousand, as rates of networks have it: 1234567 B: `1.23 MB`. */
function scaled(value: number, unit: string): string {
  const step = Math.min(Math.floor(Math.log10(Math.max(value, 1)) / 3), PREFIXES.length - 1);
  const text = step === 0 ? String(value) : (value / 1000 ** step).toPrecision(3);
  return `${text} ${PREFIXES[step]}${unit}`;
}

/** Bytes in all, and bits a second, as the page has them. */
const carried = (bytes: number | undefined, perS: number | null | undefined): string[] => [
  bytes === undefined ? '-' : scaled(bytes, 'B'),
  perS === undefined || perS === null ? '-' : scaled(perS * 8, 'b/s'),
];

export function peersTable(message: PeersMessage): string {
  if (message.peers.length === 0) return 'no other nodes';
  const peers = message.peers.map((it) => [
    it.node,
    orDash(it.lease.subnet, it.lease.ipv6Subnet),
    orDash(it.nextHop, it.nextHopV6),
    it.pathMtuBytes === null ? '-' : String(it.pathMtuBytes),
    it.direct ? 'direct' : 'VXLAN',
    ...carried(it.traffic?.sentBytes, it.traffic?.sentBytesPerS),
    ...carried(it.traffic?.receivedBytes, it.traffic?.receivedBytesPerS),
    it.probe?.time ?? 'not asked yet',
  ]);
  const links = message.peers.flatMap(({ node, probe }) =>
    (probe?.links ?? []).map((it) => [node, ...linkCells(it)]),
  );
  const head = ['NODE', 'SUBNET', 'NEXT HOP', 'PATH MTU', 'BY'];
  const parts = [columns([...head, 'SENT', '', 'RECEIVED', '', 'ASKED'], peers)];
  if (links.length > 0) {
    const titles = ['NODE', 'WAY', 'ADDRESS', 'MIN/AVG/MAX MS', 'LOSS', 'ANSWERED UP TO', ''];
    parts.push(columns(titles, links));
  }
  if (message.problem !== null) parts.push(pico.yellow(printable(message.problem)));
  return parts.join('\n\n');
}
