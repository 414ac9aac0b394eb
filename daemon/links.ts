/** Links to peers as the page shows them: of what `weft peers` tells, what fits a line. */
import type {
  EchoesMessage,
  LinkMessage,
  LinkProbeMessage,
  PeerTrafficMessage,
} from './messages.ts';

/** Of one node; links are as many as pairs of nodes. */
const LINKS_MAX = 20;

const lossOf = ({ sent, received }: EchoesMessage): number =>
  sent === 0 ? 0 : (sent - received) / sent;

/** Positive: `a` is the worse one. */
const compare = (a: EchoesMessage | null, b: EchoesMessage | null): number =>
  Number(a !== null) - Number(b !== null) ||
  (a === null || b === null ? 0 : lossOf(a) - lossOf(b) || (a.avgMs ?? 0) - (b.avgMs ?? 0));

const bytesPerS = ({ traffic }: LinkMessage): number =>
  (traffic?.sentBytesPerS ?? 0) + (traffic?.receivedBytesPerS ?? 0);

/** Of two families the worse one counts. @param key  the peer's lease */
export function linkOf(
  key: string,
  probes: readonly LinkProbeMessage[],
  traffic: PeerTrafficMessage | null,
): LinkMessage {
  const worst = (kind: LinkProbeMessage['kind']): EchoesMessage | null => {
    const [first] = probes
      .filter((it) => it.kind === kind && it.sent > 0)
      .toSorted((a, b) => compare(b, a));
    if (first === undefined) return null;
    const { sent, received, silent, avgMs } = first;
    return { sent, received, silent, avgMs };
  };
  return { key, overlay: worst('overlay'), underlay: worst('underlay'), traffic };
}

/** Of many links, the worst and the busiest. */
export function foremost(links: readonly LinkMessage[]): readonly LinkMessage[] {
  if (links.length <= LINKS_MAX) return links;
  const worst = links.toSorted((a, b) => compare(b.overlay, a.overlay));
  const busiest = links.toSorted((a, b) => bytesPerS(b) - bytesPerS(a));
  const told = new Set(worst.slice(0, LINKS_MAX / 2));
  for (const it of busiest) if (told.size < LINKS_MAX) told.add(it);
  return [...told];
}
