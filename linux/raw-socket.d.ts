/** The part of raw-socket that is used; the package has no types of its own. */
declare module 'raw-socket' {
  import type { EventEmitter } from 'node:events';

  export const Protocol: { readonly ICMP: number; readonly ICMPv6: number; readonly UDP: number };
  export const AddressFamily: { readonly IPv4: number; readonly IPv6: number };

  /** Events: `message` (packet: Buffer, source: string), `error` (Error), `close`. Main thread only. */
  export interface Socket extends EventEmitter {
    send(
      buffer: Buffer,
      offset: number,
      length: number,
      address: string,
      sent: (error: Error | null, bytes: number) => void,
    ): void;
    setOption(level: number, option: number, value: number): void;
    setOption(level: number, option: number, value: Buffer, length: number): void;
    close(): void;
  }

  /** @throws Error without CAP_NET_RAW */
  export function createSocket(options: {
    readonly protocol: number;
    readonly addressFamily?: number;
    readonly bufferSize?: number;
  }): Socket;
}
