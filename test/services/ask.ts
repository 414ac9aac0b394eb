/** Asks a compiled table as the packet path does, and says what came of it in words. */
import { createServiceLookup } from '../../service/table.ts';
import type * as Table from '../../service/table.ts';
import {
  BACKEND_NONE,
  BACKEND_NOT_LOCAL,
  BACKEND_PORT,
  BACKEND_SOURCE_REFUSED,
  BACKEND_WORDS,
  FRONTEND_NONE,
  FRONTEND_UNALLOCATED,
  FRONTEND_UNUSED_PORT,
} from '../../service/table.ts';
import type { Connection } from '../../service/reference.ts';
import { PROTOCOL_NUMBERS } from '../../objects/types.ts';
import { type IpAddress, addressBytes, formatAddress, toIpv4, toIpv6 } from '../../wire/address.ts';

const REFUSALS: ReadonlyMap<number, string> = new Map([
  [BACKEND_NONE, 'no endpoint'],
  [BACKEND_NOT_LOCAL, 'not local'],
  [BACKEND_SOURCE_REFUSED, 'source refused'],
]);

const NO_FRONTEND: ReadonlyMap<number, string> = new Map([
  [FRONTEND_NONE, 'no frontend'],
  [FRONTEND_UNUSED_PORT, 'unused port'],
  [FRONTEND_UNALLOCATED, 'unallocated'],
]);

export const endpointText = (address: IpAddress, port: number): string =>
  typeof address === 'number'
    ? `${formatAddress(address)}:${port}`
    : `[${formatAddress(address)}]:${port}`;

export function createAsker(table: Table.ServiceTable) {
  const bytes = new Uint8Array(64);
  const lookup = createServiceLookup(new DataView(bytes.buffer));
  lookup.install(table);

  function frontendOf({
    address,
    protocol,
    port,
  }: Omit<Connection, 'source' | 'isInside'>): number {
    bytes.set(addressBytes(address), 0);
    return lookup.frontendOf(0, typeof address === 'number', PROTOCOL_NUMBERS[protocol], port);
  }

  function backendText(backend: number, is4: boolean): string {
    const [a, b, c, d] = table.backends.subarray(backend * BACKEND_WORDS);
    const address = is4
      ? toIpv4(a!)
      : toIpv6([a!, b!, c!, d!].reduce((sum, word) => (sum << 32n) | BigInt(word), 0n));
    return endpointText(address, table.backends[backend * BACKEND_WORDS + BACKEND_PORT]!);
  }

  function pick(connection: Connection, hash: number): string {
    const frontend = frontendOf(connection);
    if (frontend < 0) return NO_FRONTEND.get(frontend) ?? `frontend ${frontend}`;
    bytes.set(addressBytes(connection.source), 16);
    const backend = lookup.pick(frontend, 16, connection.isInside, hash);
    return backend < 0
      ? (REFUSALS.get(backend) ?? `backend ${backend}`)
      : backendText(backend, typeof connection.address === 'number');
  }

  /** All that may come of it, in ascending order. */
  function outcomes(connection: Connection): readonly string[] {
    const found = new Set<string>();
    for (let i = 0; i < 400; i++) found.add(pick(connection, Math.imul(i, 0x9e3779b1)));
    return [...found].sort();
  }

  function usable(connection: Connection, address: IpAddress, port: number): string | null {
    const frontend = frontendOf(connection);
    if (frontend < 0) return null;
    bytes.set(addressBytes(address), 32);
    const backend = lookup.usable(frontend, 32, typeof address === 'number', port);
    return backend < 0 ? null : backendText(backend, typeof address === 'number');
  }

  return { lookup, frontendOf, pick, outcomes, usable };
}
