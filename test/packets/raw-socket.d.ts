/** The part of raw-socket that tests use; the package has no types of its own. */
declare module 'raw-socket' {
  import type { EventEmitter } from 'node:events';

  export const Protocol: { readonly ICMP: number; readonly UDP: number };

  /** Events: `message` (packet: Buffer, source: string), `error` (Error), `close`. Main thread only. */
  interface Socket extends EventEmitter {
    send(
      buffer: Buffer,
      offset: number,
      length: number,
      address: string,
      sent: (error: Error | null, bytes: number) => void,
    ): void;
    close(): void;
  }

  /** @throws Error without CAP_NET_RAW */
  export function createSocket(options: { readonly protocol: number }): Socket;
}
