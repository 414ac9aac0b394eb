/** A TCP proxy on loopback that breaks connections in the ways that networks do. */
import { once } from 'node:events';
import { type Socket, connect, createServer } from 'node:net';

export interface TcpProxy extends AsyncDisposable {
  readonly port: number;
  /** How often cutEvery has cut. */
  readonly cuts: number;
  /** Resets all connections; new ones are accepted. */
  cut(): void;
  /** Resets the connections each time so many more bytes came from the server; 0: never again. */
  cutEvery(bytes: number): void;
  /** Connections stand, nothing passes; new ones are accepted and get no answer. */
  pause(): void;
  resume(): void;
}

export async function startProxy(targetPort: number): Promise<TcpProxy> {
  const pairs = new Set<readonly [Socket, Socket]>();
  let paused = false;
  let cutEveryBytes = 0;
  let leftBytes = 0;
  let cuts = 0;
  const cut = (): void => {
    for (const [client, target] of pairs) {
      client.resetAndDestroy();
      target.destroy();
    }
  };
  const server = createServer((client) => {
    const target = connect(targetPort, '127.0.0.1');
    const pair = [client, target] as const;
    pairs.add(pair);
    for (const [from, to] of [
      [client, target],
      [target, client],
    ] as const) {
      from.on('data', (chunk) => {
        if (from === target) {
          leftBytes -= chunk.length;
          if (cutEveryBytes > 0 && leftBytes <= 0) {
            leftBytes = cutEveryBytes;
            cuts++;
            cut();
            return;
          }
        }
        to.write(chunk);
      });
      from.on('close', () => {
        to.destroy();
        pairs.delete(pair);
      });
      // A reset is what this proxy is for; 'close' follows.
      from.on('error', () => to.destroy());
      if (paused) from.pause();
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no TCP port');

  const setPaused = (value: boolean): void => {
    paused = value;
    for (const socket of [...pairs].flat()) {
      if (paused) socket.pause();
      else socket.resume();
    }
  };
  return {
    port: address.port,
    get cuts() {
      return cuts;
    },
    cut,
    cutEvery(bytes) {
      cutEveryBytes = bytes;
      leftBytes = bytes;
    },
    pause: () => setPaused(true),
    resume: () => setPaused(false),
    async [Symbol.asyncDispose]() {
      const closed = once(server, 'close');
      server.close();
      cut();
      await closed;
    },
  };
}
