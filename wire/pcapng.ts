/**
 * Captures as files: pcapng (draft-ietf-opsawg-pcapng), little endian, one section. Blocks that nobody
 * here needs are passed over by the reader.
 *
 *     | type | length | body, padded to 4 | length |
 *     options: | code | length | value, padded to 4 | ... | 0 | 0 |
 */
const SECTION_HEADER = 0x0a0d0d0a;
const INTERFACE_DESCRIPTION = 1;
const INTERFACE_STATISTICS = 5;
const ENHANCED_PACKET = 6;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;

export const LINKTYPE_ETHERNET = 1;
/** IPv4 or IPv6, as the version field says. */
export const LINKTYPE_RAW = 101;

const OPT_COMMENT = 1;
const SHB_USERAPPL = 4;
const IF_NAME = 2;
const IF_TSRESOL = 9;
const EPB_FLAGS = 2;
const ISB_IFRECV = 4;
const ISB_IFDROP = 5;
/** Nanoseconds: 10 to the power of minus nine. */
const NANOSECONDS = 9;
/** A comment that grows without end is not one. */
const COMMENT_BYTES_MAX = 1024;

export interface PcapngPacket {
  readonly timeNs: bigint;
  /** As much of the packet as was kept. */
  readonly packet: Uint8Array;
  /** Bytes that it had. */
  readonly bytes: number;
  readonly direction: 'in' | 'out' | null;
  readonly comment: string | null;
}

/** What an interface statistics block says, of all that came before it. */
export interface PcapngStatistics {
  readonly received: bigint;
  readonly dropped: bigint;
}

type Option = readonly [code: number, value: Uint8Array];

const padded = (bytes: number): number => (bytes + 3) & ~3;

function optionsOf(options: readonly Option[]): Buffer {
  if (options.length === 0) return Buffer.alloc(0);
  return Buffer.concat([
    ...options.map(([code, value]) => {
      const room = Buffer.alloc(4 + padded(value.length));
      room.writeUInt16LE(code, 0);
      room.writeUInt16LE(value.length, 2);
      room.set(value, 4);
      return room;
    }),
    Buffer.alloc(4),
  ]);
}

function block(type: number, fixed: Uint8Array, options: readonly Option[]): Buffer {
  const tail = optionsOf(options);
  const bytes = 12 + padded(fixed.length) + tail.length;
  const room = Buffer.alloc(bytes);
  room.writeUInt32LE(type, 0);
  room.writeUInt32LE(bytes, 4);
  room.set(fixed, 8);
  room.set(tail, 8 + padded(fixed.length));
  room.writeUInt32LE(bytes, bytes - 4);
  return room;
}

/** 64 bits as two halves, the upper one first. */
function writeHalves(room: Buffer, at: number, value: bigint): void {
  room.writeUInt32LE(Number(value >> 32n), at);
  room.writeUInt32LE(Number(value & 0xffffffffn), at + 4);
}

const uint64 = (value: bigint): Buffer => {
  const room = Buffer.alloc(8);
  room.writeBigUInt64LE(value);
  return room;
};

/** What a file begins with: the section, and its only interface. */
export function pcapngHeader(
  linkType: number,
  snapBytes: number,
  interfaceName: string,
  application: string,
): Buffer {
  const section = Buffer.alloc(16);
  section.writeUInt32LE(BYTE_ORDER_MAGIC, 0);
  section.writeUInt16LE(1, 4);
  // The section's length: not known.
  section.fill(0xff, 8, 16);
  const description = Buffer.alloc(8);
  description.writeUInt16LE(linkType, 0);
  description.writeUInt32LE(snapBytes, 4);
  return Buffer.concat([
    block(SECTION_HEADER, section, [[SHB_USERAPPL, Buffer.from(application)]]),
    block(INTERFACE_DESCRIPTION, description, [
      [IF_NAME, Buffer.from(interfaceName)],
      [IF_TSRESOL, Uint8Array.of(NANOSECONDS)],
    ]),
  ]);
}

export function pcapngPacket({ timeNs, packet, bytes, direction, comment }: PcapngPacket): Buffer {
  const fixed = Buffer.alloc(20 + packet.length);
  writeHalves(fixed, 4, timeNs);
  fixed.writeUInt32LE(packet.length, 12);
  fixed.writeUInt32LE(bytes, 16);
  fixed.set(packet, 20);
  const options: Option[] = [];
  if (comment !== null) {
    options.push([OPT_COMMENT, Buffer.from(comment).subarray(0, COMMENT_BYTES_MAX)]);
  }
  if (direction !== null) {
    // Bits 0 and 1: 1 is inbound, 2 outbound.
    const flags = Buffer.alloc(4);
    flags.writeUInt32LE(direction === 'in' ? 1 : 2);
    options.push([EPB_FLAGS, flags]);
  }
  return block(ENHANCED_PACKET, fixed, options);
}

/** What a file ends with. */
export function pcapngStatistics(timeNs: bigint, { received, dropped }: PcapngStatistics): Buffer {
  const fixed = Buffer.alloc(12);
  writeHalves(fixed, 4, timeNs);
  return block(INTERFACE_STATISTICS, fixed, [
    [ISB_IFRECV, uint64(received)],
    [ISB_IFDROP, uint64(dropped)],
  ]);
}

export class PcapngError extends Error {
  readonly code = 'ERR_PCAPNG';
}

/** Larger ones are not written by anybody who writes packets. */
const BLOCK_BYTES_MAX = 1 << 20;

export interface PcapngTaker {
  readonly onPacket: (packet: PcapngPacket, linkType: number) => void;
  readonly onStatistics?: (statistics: PcapngStatistics) => void;
}

interface Interface {
  readonly linkType: number;
  /** Nanoseconds a unit. */
  readonly unitNs: { readonly times: bigint; readonly over: bigint };
}

/** Reads a file as it comes, in pieces of any size. */
export class PcapngReader {
  readonly #taker: PcapngTaker;
  #waiting: Buffer = Buffer.alloc(0);
  #interfaces: Interface[] = [];
  #isLittle = true;
  #isBegun = false;

  constructor(taker: PcapngTaker) {
    this.#taker = taker;
  }

  /** Bytes of a block that has not come whole. */
  get waitingBytes(): number {
    return this.#waiting.length;
  }

  /** @throws PcapngError */
  take(piece: Uint8Array): void {
    let room: Buffer =
      this.#waiting.length === 0 ? Buffer.from(piece) : Buffer.concat([this.#waiting, piece]);
    for (;;) {
      const bytes = this.#blockBytes(room);
      if (bytes === 0 || bytes > room.length) break;
      this.#takeBlock(room.subarray(0, bytes));
      room = room.subarray(bytes);
    }
    this.#waiting = room;
  }

  /** 0: too little is there to tell. */
  #blockBytes(room: Buffer): number {
    if (room.length < 12) return 0;
    // Reads the same in both byte orders.
    if (room.readUInt32LE(0) === SECTION_HEADER) {
      this.#isLittle = room.readUInt32LE(8) === BYTE_ORDER_MAGIC;
      if (!this.#isLittle && room.readUInt32BE(8) !== BYTE_ORDER_MAGIC) {
        throw new PcapngError('no pcapng file: its byte order cannot be told');
      }
      this.#isBegun = true;
      this.#interfaces = [];
    }
    if (!this.#isBegun) throw new PcapngError('no pcapng file: it does not begin with a section');
    const bytes = this.#u32(room, 4);
    if (bytes < 12 || bytes % 4 !== 0 || bytes > BLOCK_BYTES_MAX) {
      throw new PcapngError(`a block of ${bytes} bytes: the file is damaged from here on`);
    }
    return bytes;
  }

  #u16(room: Buffer, at: number): number {
    return this.#isLittle ? room.readUInt16LE(at) : room.readUInt16BE(at);
  }

  #u32(room: Buffer, at: number): number {
    return this.#isLittle ? room.readUInt32LE(at) : room.readUInt32BE(at);
  }

  #takeBlock(room: Buffer): void {
    if (this.#u32(room, room.length - 4) !== room.length) {
      throw new PcapngError('the two lengths of a block differ: the file is damaged from here on');
    }
    const type = this.#u32(room, 0);
    const body = room.subarray(8, room.length - 4);
    if (type === INTERFACE_DESCRIPTION) this.#takeInterface(body);
    else if (type === ENHANCED_PACKET) this.#takePacket(body);
    else if (type === INTERFACE_STATISTICS) this.#takeStatistics(body);
  }

  #options(body: Buffer, from: number): Map<number, Buffer> {
    const found = new Map<number, Buffer>();
    for (let at = from; at + 4 <= body.length;) {
      const code = this.#u16(body, at);
      const length = this.#u16(body, at + 2);
      if (code === 0) break;
      if (at + 4 + length > body.length) throw new PcapngError('an option ends behind its block');
      found.set(code, body.subarray(at + 4, at + 4 + length));
      at += 4 + padded(length);
    }
    return found;
  }

  #takeInterface(body: Buffer): void {
    if (body.length < 8) throw new PcapngError('an interface description is cut off');
    const resolution = this.#options(body, 8).get(IF_TSRESOL)?.[0] ?? 6;
    const power = BigInt(resolution & 0x7f);
    const units = (resolution & 0x80) === 0 ? 10n ** power : 2n ** power;
    this.#interfaces.push({
      linkType: this.#u16(body, 0),
      unitNs: { times: 1_000_000_000n, over: units },
    });
  }

  #takePacket(body: Buffer): void {
    if (body.length < 20) throw new PcapngError('a packet block is cut off');
    const it = this.#interfaces[this.#u32(body, 0)];
    if (it === undefined) throw new PcapngError('a packet of an interface that is not described');
    const stored = this.#u32(body, 12);
    if (stored > body.length - 20) throw new PcapngError('a packet ends behind its block');
    const options = this.#options(body, 20 + padded(stored));
    const units = (BigInt(this.#u32(body, 4)) << 32n) | BigInt(this.#u32(body, 8));
    const flags = options.get(EPB_FLAGS);
    const way = flags === undefined || flags.length < 4 ? 0 : this.#u32(flags, 0) & 3;
    const comment = options.get(OPT_COMMENT);
    this.#taker.onPacket(
      {
        timeNs: (units * it.unitNs.times) / it.unitNs.over,
        packet: body.subarray(20, 20 + stored),
        bytes: this.#u32(body, 16),
        direction: way === 1 ? 'in' : way === 2 ? 'out' : null,
        comment: comment === undefined ? null : comment.toString('utf8'),
      },
      it.linkType,
    );
  }

  #takeStatistics(body: Buffer): void {
    const options = this.#options(body, 12);
    const count = (code: number): bigint => {
      const value = options.get(code);
      if (value === undefined || value.length < 8) return 0n;
      return this.#isLittle ? value.readBigUInt64LE() : value.readBigUInt64BE();
    };
    this.#taker.onStatistics?.({ received: count(ISB_IFRECV), dropped: count(ISB_IFDROP) });
  }
}
