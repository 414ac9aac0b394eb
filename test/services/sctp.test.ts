/**
 * SCTP between pods that speak it by hand, because not every kernel does: through a Service and back, with
 * ports and checksums as a peer would have them, and under policies.
 *
 *     n1: default/a (client)        n2: default/s (server, behind Service `sctp`)
 */
import test from 'ava';
import { poll } from '../../linux/program.ts';
import { Cluster, type Manifest, answerOf, netpol, service } from '../lab/cluster.ts';
import type { LabPod } from '../lab/lab.ts';
import { PodLink } from '../lab/pod-link.ts';
import type { Prober } from '../lab/prober.ts';
import { statusOf, within } from '../overlay/pair.ts';
import * as build from '../packets/build.ts';

const VIP = { 4: '10.96.0.60', 6: 'fd00:10:96::60' } as const;
const SCTP = 132;
const SERVICE_PORT = 38_412;
const PORT = 9899;
const HEADER_BYTES = 12;
/** Of UDP: the policy of the first row permits this, that of the second the next. */
const MARKER = 7000;
/** RFC 9260 section 3.2. */
const CHUNKS = { INIT: 1, 'INIT ACK': 2, 'COOKIE ECHO': 10, 'COOKIE ACK': 11 } as const;
type Chunk = keyof typeof CHUNKS;

let cluster: Cluster;
let a: { pod: LabPod; prober: Prober };
let s: { pod: LabPod; prober: Prober };
let links: Readonly<Record<'a' | 's', PodLink>>;

const sctp = (number = PORT) => ({ protocol: 'SCTP', port: number });
const udp = { protocol: 'UDP', port: PORT };

interface Row {
  readonly title: string;
  readonly ports: readonly object[];
  /** Whether an INIT, and a datagram to the same port, arrive. */
  readonly sctp: boolean;
  readonly udp: boolean;
}

const ROWS: readonly Row[] = [
  { title: 'a rule for its port', ports: [sctp()], sctp: true, udp: false },
  { title: 'a rule for UDP alone', ports: [udp], sctp: false, udp: true },
  {
    title: 'a rule for another port of SCTP',
    ports: [sctp(PORT + 1), udp],
    sctp: false,
    udp: true,
  },
  { title: 'a rule for each', ports: [sctp(), udp], sctp: true, udp: true },
];

test.before(async () => {
  cluster = await Cluster.open('sc');
  a = await cluster.addPod(0, 'a', 'app=client');
  s = await cluster.addPod(1, 's', 'app=server', [PORT, ...ROWS.map((_, i) => MARKER + i)]);
  links = { a: await PodLink.open(a.pod), s: await PodLink.open(s.pod) };
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

/** CRC32c by bits, of the packet with zeros where it stands (RFC 9260 section 6.8, appendix A). */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ ((crc & 1) * 0x82f6_3b78);
  }
  return ~crc >>> 0;
}

function checksumOf(message: Uint8Array): number {
  const copy = Buffer.from(message);
  copy.writeUInt32LE(0, 8);
  return crc32c(copy);
}

/** Of one chunk; INIT and INIT ACK with their tag, window, streams and first number (section 3.3.2). */
function message(sourcePort: number, destinationPort: number, chunk: Chunk): Buffer {
  const isInit = chunk === 'INIT' || chunk === 'INIT ACK';
  const body = Buffer.from(
    isInit ? '0badcafe000186a0000a000a00000001' : chunk === 'COOKIE ECHO' ? 'c00c1e00' : '',
    'hex',
  );
  const bytes = Buffer.alloc(HEADER_BYTES + 4 + body.length);
  bytes.writeUInt16BE(sourcePort, 0);
  bytes.writeUInt16BE(destinationPort, 2);
  // An INIT has no tag yet.
  bytes.writeUInt32BE(chunk === 'INIT' ? 0 : 0x0bad_cafe, 4);
  bytes[HEADER_BYTES] = CHUNKS[chunk];
  bytes.writeUInt16BE(4 + body.length, HEADER_BYTES + 2);
  body.copy(bytes, HEADER_BYTES + 4);
  bytes.writeUInt32LE(checksumOf(bytes), 8);
  return bytes;
}

/** What of SCTP has come from the address. */
const arrived = (at: PodLink, source: string): Buffer[] =>
  at.take(source).filter((it) => build.protocolOf(it) === SCTP);

const addressOf = (pod: LabPod, family: 4 | 6): string =>
  family === 4 ? pod.address4! : pod.address6!;

test('CRC32c of "123456789"', (t) => {
  t.is(crc32c(Buffer.from('123456789')), 0xe306_9283);
});

let lastPort = 40_000;

for (const family of [4, 6] as const) {
  test.serial(
    `IPv${family}: an association through a Service: each way with right ports`,
    async (t) => {
      await cluster.put(
        service('sctp', [VIP[4], VIP[6]], {
          selector: { app: 'server' },
          ports: [{ protocol: 'SCTP', port: SERVICE_PORT, targetPort: PORT }],
        }),
      );
      const client = addressOf(a.pod, family);
      const server = addressOf(s.pod, family);
      const port = ++lastPort;
      for (const [from, chunk] of [
        ['a', 'INIT'],
        ['s', 'INIT ACK'],
        ['a', 'COOKIE ECHO'],
        ['s', 'COOKIE ACK'],
      ] as const) {
        const isClient = from === 'a';
        const packet = isClient
          ? build.ip(
              { source: client, destination: VIP[family] },
              SCTP,
              message(port, SERVICE_PORT, chunk),
            )
          : build.ip({ source: server, destination: client }, SCTP, message(PORT, port, chunk));
        const seen = await poll(async () => {
          await links[from].send(packet);
          // Sent again until the Service is known.
          const packets = isClient ? arrived(links.s, client) : arrived(links.a, VIP[family]);
          return packets[0];
        }, within(8_000));
        const got = seen.subarray(build.transportAt(seen));
        const ports = isClient ? [port, PORT] : [SERVICE_PORT, port];
        t.deepEqual([got.readUInt16BE(0), got.readUInt16BE(2)], ports, chunk);
        t.is(got.readUInt32LE(8), checksumOf(got), `${chunk}: CRC32c`);
        t.deepEqual(
          got.subarray(HEADER_BYTES),
          message(0, 0, chunk).subarray(HEADER_BYTES),
          `${chunk}: the chunk`,
        );
      }
    },
  );
}

for (const family of [4, 6] as const) {
  for (const [i, { title, ports, ...allowed }] of ROWS.entries()) {
    test.serial(`IPv${family}: policy with ${title}`, async (t) => {
      const policy: Manifest = netpol('p', {
        podSelector: { matchLabels: { app: 'server' } },
        ingress: [{ ports: [...ports, { protocol: 'UDP', port: MARKER + i }] }],
      });
      await cluster.put(policy);
      const source = addressOf(a.pod, family);
      const destination = addressOf(s.pod, family);
      const question = { protocol: 'UDP', address: destination, port: PORT } as const;
      const inForce = { ...question, port: MARKER + i };
      t.regex(await answerOf(a.prober, inForce, /^7/), /^7/, 'the policy is in force');
      const answer = allowed.udp ? new RegExp(`^${PORT} `) : /^nothing$/;
      t.regex(await answerOf(a.prober, question, answer), answer, 'UDP');
      arrived(links.s, source);
      const drops = 'drop.policyIngress';
      const before = (await statusOf(cluster.nodes[1])).counters[drops]!;
      const init = message(++lastPort, PORT, 'INIT');
      await links.a.send(build.ip({ source, destination }, SCTP, init));
      const outcome = await poll(async () => {
        if (arrived(links.s, source).length > 0) return 'arrives';
        const { counters } = await statusOf(cluster.nodes[1]);
        return counters[drops]! > before ? 'is dropped' : undefined;
      }, within(8_000));
      t.is(outcome, allowed.sctp ? 'arrives' : 'is dropped', 'SCTP');
    });
  }
}
