/** Who is at the other end of a unix socket (SO_PEERCRED, unix(7)). */
import type { Socket } from 'node:net';
import { addressOf, getsockopt } from './libc.ts';

const SOL_SOCKET = 1;
const SO_PEERCRED = 17;

/** The user that connected; null when the kernel does not tell. */
export function peerUid(socket: Socket): number | null {
  // Node.js shows the descriptor of an accepted socket nowhere else.
  const fd = (socket as unknown as { _handle?: { fd?: number } })._handle?.fd;
  if (fd === undefined || fd < 0) return null;
  // struct ucred { pid_t pid; uid_t uid; gid_t gid }, then its length.
  const cells = new Uint32Array(new SharedArrayBuffer(16));
  cells[3] = 12;
  const at = addressOf(cells.buffer);
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, at, at + 12) < 0 ? null : cells[1]!;
}
