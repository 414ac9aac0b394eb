/**
 * Packets into the TUN: whole ones, and large ones gathered from the payloads of several datagrams.
 * Runs per packet: no await, no allocation, no throw.
 */
import type { Arena } from '../linux/arena.ts';
import { EIO } from '../linux/errno.ts';
import { errno, writev } from '../linux/libc.ts';
import { VNET_HEADER_BYTES, VNET_NEEDS_CSUM, writeVnetHeader } from '../linux/tun.ts';
import type { Checksum } from '../wire/checksum/checksum.ts';
import { Drop } from '../wire/drop-reason.ts';
import { Counter } from './counters.ts';

const IOVEC_BYTES = 16;

/** A packet in pieces: the first begins with the packet's headers, the others are payload alone. */
export interface Gather {
  /** Forgets what was there; the first piece is the packet at `ip`, 12 bytes before which are free. */
  readonly begin: (ip: number, bytes: number) => void;
  readonly push: (at: number, bytes: number) => void;
  readonly pieces: () => number;
}

export interface TunWriter {
  /**
   * Writes the packet at `ip`, before which 12 bytes are free.
   * @param flags VNET_NEEDS_CSUM, VNET_DATA_VALID or 0; the two offsets count for the first only
   */
  readonly single: (
    ip: number,
    bytes: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
  ) => Drop;
  /**
   * Writes back the packet of `bytes` that was read with its vnet header at `at`, both as they came:
   * still large, still without its checksum. For a pod or this node.
   */
  readonly backLocal: (at: number, bytes: number) => Drop;
  /** The same, for the host to route on. */
  readonly backToHost: (at: number, bytes: number) => Drop;
  /** Writes what was gathered; the vnet header before its first piece is the caller's. */
  readonly gathered: (gather: Gather, bytes: number) => Drop;
  readonly createGather: (pieces: number) => Gather;
}

export function createTunWriter(
  arena: Arena,
  counters: Float64Array,
  checksum: Checksum,
  fd: number,
  vnetHeader: boolean,
): TunWriter {
  const { view, words, setPointer } = arena;
  const headerBytes = vnetHeader ? VNET_HEADER_BYTES : 0;
  const singleAt = arena.take(IOVEC_BYTES, 'TUN write vector');
  const singleAddress = arena.address + singleAt;
  /** Each gather writes through a function that knows its own constant address. */
  const writes = new Map<Gather, () => number>();

  function single(
    ip: number,
    bytes: number,
    flags: number,
    csumStart: number,
    csumOffset: number,
  ): Drop {
    if (vnetHeader) {
      writeVnetHeader(view, ip - VNET_HEADER_BYTES, flags, 0, 0, 0, csumStart, csumOffset);
    } else if (flags === VNET_NEEDS_CSUM) {
      const start = ip + csumStart;
      const sum = checksum(start, ip + bytes - start, 0);
      // A computed zero is sent as all ones: for UDP zero means "none" (RFC 768), TCP reads both alike.
      view.setUint16(start + csumOffset, ~sum & 0xffff || 0xffff);
    }
    setPointer(singleAt, ip - headerBytes);
    words[(singleAt + 8) >>> 2] = bytes + headerBytes;
    return finish(writev(fd, singleAddress, 1), bytes);
  }

  function back(at: number, bytes: number): Drop {
    setPointer(singleAt, at + VNET_HEADER_BYTES - headerBytes);
    words[(singleAt + 8) >>> 2] = bytes + headerBytes;
    return writev(fd, singleAddress, 1) < 0 ? reasonOf(errno()) : Drop.none;
  }

  function backLocal(at: number, bytes: number): Drop {
    const drop = back(at, bytes);
    if (drop !== Drop.none) return drop;
    counters[Counter.localDelivered]!++;
    counters[Counter.localDeliveredBytes]! += bytes;
    return Drop.none;
  }

  function backToHost(at: number, bytes: number): Drop {
    const drop = back(at, bytes);
    if (drop !== Drop.none) return drop;
    counters[Counter.hostDelivered]!++;
    counters[Counter.hostDeliveredBytes]! += bytes;
    return Drop.none;
  }

  function reasonOf(number: number): Drop {
    return number === EIO ? Drop.tunDown : Drop.tunWriteFailed;
  }

  function finish(written: number, bytes: number): Drop {
    if (written < 0) return reasonOf(errno());
    counters[Counter.tunWrites]!++;
    counters[Counter.tunDeliveredBytes]! += bytes;
    return Drop.none;
  }

  function gathered(gather: Gather, bytes: number): Drop {
    return finish(writes.get(gather)!(), bytes);
  }

  function createGather(capacity: number): Gather {
    const at = arena.take(capacity * IOVEC_BYTES, 'gather vectors');
    const address = arena.address + at;
    let count = 0;
    const set = (index: number, offset: number, bytes: number): void => {
      setPointer(at + index * IOVEC_BYTES, offset);
      words[(at + index * IOVEC_BYTES + 8) >>> 2] = bytes;
    };
    const gather: Gather = {
      begin: (ip, bytes) => {
        set(0, ip - headerBytes, bytes + headerBytes);
        count = 1;
      },
      push: (offset, bytes) => set(count++, offset, bytes),
      pieces: () => count,
    };
    writes.set(gather, () => writev(fd, address, count));
    return gather;
  }

  return { single, backLocal, backToHost, gathered, createGather };
}
