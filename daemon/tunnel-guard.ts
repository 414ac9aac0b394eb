/**
 * Does what the packet path writes into the tunnel TAP leave this host? The host routes it like
 * anybody's packets, so a firewall rule for forwarded traffic may drop it, at any time and without a
 * word. Our nft table counts what passes; the packet path counts what it wrote.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Dataplane } from '../overlay/types.ts';

export const TUNNEL_GUARD_EVERY_MS = 2_000;
/** Fewer say little: packets on their way are in one count and not yet in the other. */
const WRITES_MIN = 20;

export interface TunnelCounts {
  /** Packets written into the TAP. */
  readonly written: number;
  /** Of these, counted on their way out of the host. Read after `written`. */
  readonly left: number;
  /** Of the table that counts what leaves: another one counts anew. */
  readonly table: number;
}

/** Whether most of what was written between two looks was lost within the host. */
export function judgeTunnel(before: TunnelCounts, now: TunnelCounts): 'lost' | 'fine' | 'unclear' {
  const written = now.written - before.written;
  const left = now.left - before.left;
  if (now.table !== before.table) return 'fine';
  if (written < WRITES_MIN) return 'unclear';
  return left < written / 2 ? 'lost' : 'fine';
}

/**
 * Looks until the rung is withdrawn or the signal aborted.
 * @param readLeft what has left, and which table counted it; null when that is not there
 */
export async function guardTunnel(
  dataplane: Pick<Dataplane, 'counters' | 'withdrawTunnelGso'>,
  readLeft: () => Promise<Omit<TunnelCounts, 'written'> | null>,
  signal: AbortSignal,
  everyMs = TUNNEL_GUARD_EVERY_MS,
): Promise<void> {
  /** Looked at last when it was clear: TCP that gets nothing through writes a packet now and then. */
  let before: TunnelCounts | null = null;
  let lastWritten = -1;
  for (;;) {
    await sleep(everyMs, undefined, { signal });
    const written = dataplane.counters()['tunnelWrites'] ?? 0;
    // An idle tunnel is not worth a program.
    if (written === lastWritten) continue;
    lastWritten = written;
    const left = await readLeft();
    if (left === null) {
      before = null;
      continue;
    }
    const now: TunnelCounts = { written, ...left };
    const verdict = before === null ? 'fine' : judgeTunnel(before, now);
    if (verdict === 'lost') {
      dataplane.withdrawTunnelGso(
        'what is written to the tunnel TAP does not leave this host: its firewall drops forwarded ' +
          'packets (docs/packet-path.md says what to allow)',
      );
      return;
    }
    if (verdict === 'fine') before = now;
  }
}
