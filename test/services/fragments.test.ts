/**
 * Datagrams in fragments, to a Service and under policies: the pods' kernels cut and join them, and some are
 * made by hand. What is denied, and what belongs to nothing, arrives in no part.
 *
 *     n1: default/a (client)        n2: default/w, behind Service `web`
 *
 * Client a may send to UDP 8080 and 8081 and TCP 8080, w receives at UDP 8080 and TCP 8080 only.
 */
import { join } from 'node:path';
import test from 'ava';
import { poll } from '../../linux/program.ts';
import { Cluster, answerOf, netpol, service } from '../lab/cluster.ts';
import type { LabPod } from '../lab/lab.ts';
import { PodLink } from '../lab/pod-link.ts';
import type { Prober } from '../lab/prober.ts';
import { statusOf, within } from '../overlay/pair.ts';
import * as build from '../packets/build.ts';

const WHO = [process.execPath, join(import.meta.dirname, '..', 'lab', 'traffic', 'who.ts')];
const VIP = { 4: '10.96.0.40', 6: 'fd00:10:96::40' } as const;
const BYTES = 4000;
/** Of each fragment but the last, of what is behind the IP header; a multiple of eight. */
const PIECE = 1360;
const IPV6_FRAGMENT = 44;

let cluster: Cluster;
let a: { pod: LabPod; prober: Prober };
let w: { pod: LabPod; prober: Prober };
let fromA: PodLink;
let atW: PodLink;

test.before(async () => {
  cluster = await Cluster.open('fr');
  a = await cluster.addPod(0, 'a', 'app=client');
  w = await cluster.addPod(1, 'w', 'app=web', [9090]);
  for (const port of ['8080', '8081', '8082']) {
    await w.pod.start([...WHO, 'serve', 'w', port], { ready: { line: /^ready$/ } });
  }
  fromA = await PodLink.open(a.pod);
  atW = await PodLink.open(w.pod);
  const port = (protocol: string, number: number) => ({ protocol, port: number });
  await cluster.put(
    service('web', [VIP[4], VIP[6]], {
      selector: { app: 'web' },
      ports: [
        { name: 'open', protocol: 'UDP', port: 80, targetPort: 8080 },
        { name: 'ingress', protocol: 'UDP', port: 81, targetPort: 8081 },
        { name: 'egress', protocol: 'UDP', port: 82, targetPort: 8082 },
        { name: 'tcp', protocol: 'TCP', port: 80, targetPort: 8080 },
      ],
    }),
    netpol('egress', {
      podSelector: { matchLabels: { app: 'client' } },
      policyTypes: ['Egress'],
      egress: [{ ports: [port('UDP', 8080), port('UDP', 8081), port('TCP', 8080)] }],
    }),
    netpol('ingress', {
      podSelector: { matchLabels: { app: 'web' } },
      ingress: [{ ports: [port('UDP', 8080), port('TCP', 8080)] }],
    }),
  );
  for (const [port, answer] of [
    [80, /name/],
    [81, /^nothing$/],
    [82, /^nothing$/],
  ] as const) {
    await answerOf(a.prober, { protocol: 'UDP', address: VIP[6], port }, answer);
  }
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const addressOf = (pod: LabPod, family: 4 | 6): string =>
  family === 4 ? pod.address4! : pod.address6!;

for (const family of [4, 6] as const) {
  for (const [title, port, isAnswered] of [
    ['goes to the endpoint, and the answer comes back whole', 80, true],
    ['is denied where it arrives', 81, false],
    ['is denied where it is sent', 82, false],
  ] as const) {
    test.serial(`IPv${family}: a datagram of ${BYTES} bytes to a Service ${title}`, async (t) => {
      const text = await a.pod.run([...WHO, 'ask', `${BYTES}`, `udp/${VIP[family]}`, `${port}`]);
      const [said] = JSON.parse(text) as unknown[];
      const client = addressOf(a.pod, family);
      t.deepEqual(said, isAnswered ? { name: 'w', client, bytes: BYTES } : 'nothing');
      const arrived = atW.take(client);
      const answers = fromA.take(VIP[family]);
      if (!isAnswered) {
        t.deepEqual([arrived.length, answers.length], [0, 0]);
        return;
      }
      t.true(arrived.length >= 3, `${arrived.length} fragments`);
      t.true(answers.length >= 3, `${answers.length} fragments back`);
    });
  }
}

let lastId = 1000;

interface Cut {
  /** Of the IP header's payload. */
  readonly from: number;
  readonly to: number;
  readonly more: boolean;
  /** Where it says that it belongs; `from` unless given. */
  readonly at?: number;
}

/** Pieces of the packet, with another identification each time unless it is given. */
function cut(packet: Buffer, cuts: readonly Cut[], id = ++lastId): Buffer[] {
  const is4 = packet[0]! >>> 4 === 4;
  const at = build.transportAt(packet);
  const ends = { source: build.sourceOf(packet), destination: destinationOf(packet) };
  const protocol = build.protocolOf(packet);
  return cuts.map(({ from, to, more, at: offset = from }) => {
    const piece = packet.subarray(at + from, Math.min(at + to, packet.length));
    if (is4) {
      const fields = { ...ends, id, moreFragments: more, fragmentOffset: offset / 8 };
      return build.ip(fields, protocol, piece);
    }
    const header = Buffer.alloc(8);
    header[0] = protocol;
    header.writeUInt16BE(offset | (more ? 1 : 0), 2);
    header.writeUInt32BE(id, 4);
    return build.ip(ends, IPV6_FRAGMENT, Buffer.concat([header, piece]));
  });
}

const destinationOf = (packet: Buffer): string =>
  build.sourceOf(Buffer.concat([packet.subarray(0, 8), swapped(packet)]));
const swapped = (packet: Buffer): Buffer =>
  packet[0]! >>> 4 === 4
    ? Buffer.concat([packet.subarray(8, 12), packet.subarray(16, 20)])
    : packet.subarray(24, 40);

/** The datagram that the fragments, in any order, make. */
function joinOf(fragments: readonly Buffer[]): Buffer {
  const [first] = fragments;
  const is4 = first![0]! >>> 4 === 4;
  const pieces = fragments
    .map((it) => ({
      offset: is4 ? (it.readUInt16BE(6) & 0x1fff) * 8 : it.readUInt16BE(42) & 0xfff8,
      bytes: it.subarray(is4 ? 20 : 48),
    }))
    .toSorted((x, y) => x.offset - y.offset)
    .map((it) => it.bytes);
  const protocol = is4 ? build.protocolOf(first!) : first![40]!;
  const ends = { source: build.sourceOf(first!), destination: destinationOf(first!) };
  return build.ip(ends, protocol, Buffer.concat(pieces));
}

const whole: readonly Cut[] = [
  { from: 0, to: PIECE, more: true },
  { from: PIECE, to: 2 * PIECE, more: true },
  { from: 2 * PIECE, to: BYTES + 8, more: false },
];

interface Row {
  readonly title: string;
  readonly protocol: 'TCP' | 'UDP';
  readonly port: number;
  readonly sent: readonly Cut[];
  readonly arrive: number;
  /** Counted on this node. */
  readonly drops: readonly [node: 0 | 1, reason: string] | null;
  /** Where it is otherwise when a peer sends them: no kernel joins them before Weft sees them. */
  readonly fromPeer?: { readonly drops: Row['drops'] };
  /** Of one family only. */
  readonly family?: 4 | 6;
}

const ROWS: readonly Row[] = [
  {
    title: 'in order',
    protocol: 'UDP',
    port: 80,
    sent: whole,
    arrive: 3,
    drops: null,
  },
  {
    title: 'the last first',
    protocol: 'UDP',
    port: 80,
    sent: whole.toReversed(),
    arrive: 3,
    drops: null,
  },
  {
    title: 'the first in the middle',
    protocol: 'UDP',
    port: 80,
    sent: [whole[2]!, whole[0]!, whole[1]!],
    arrive: 3,
    drops: null,
  },
  {
    title: 'later ones alone',
    protocol: 'UDP',
    port: 80,
    sent: whole.slice(1),
    arrive: 0,
    drops: null,
  },
  {
    title: 'to a port that is denied, in order',
    protocol: 'UDP',
    port: 82,
    sent: whole,
    arrive: 0,
    drops: [0, 'policyEgress'],
    fromPeer: { drops: [1, 'policyIngress'] },
  },
  {
    title: 'to a port that is denied, the last first',
    protocol: 'UDP',
    port: 82,
    sent: whole.toReversed(),
    arrive: 0,
    drops: [0, 'policyEgress'],
    fromPeer: { drops: [1, 'policyIngress'] },
  },
  {
    title: 'to a port that is denied where it arrives',
    protocol: 'UDP',
    port: 81,
    sent: whole,
    arrive: 0,
    drops: [1, 'policyIngress'],
  },
  {
    title: 'a first one too short for the TCP header (RFC 1858)',
    protocol: 'TCP',
    port: 80,
    sent: [
      { from: 0, to: 8, more: true },
      { from: 8, to: 24, more: false },
    ],
    arrive: 0,
    drops: [0, 'fragment'],
    fromPeer: { drops: [1, 'fragment'] },
  },
  {
    title: 'one over the TCP flags (RFC 3128)',
    protocol: 'TCP',
    port: 80,
    sent: [
      { from: 0, to: 24, more: true },
      { from: 0, to: 24, more: false, at: 8 },
    ],
    arrive: 0,
    drops: null,
    fromPeer: { drops: [1, 'fragment'] },
    family: 4,
  },
  {
    title: 'one over another (RFC 5722)',
    protocol: 'TCP',
    port: 80,
    sent: [
      { from: 0, to: 24, more: true },
      { from: 0, to: 24, more: false, at: 8 },
    ],
    arrive: 0,
    drops: null,
    family: 6,
  },
];

/** As VXLAN, from the first node's own namespace to the second. */
async function sendAsPeer(...packets: readonly Buffer[]): Promise<void> {
  const [n1, n2] = cluster.nodes;
  const [sourceMac, destinationMac] = (await Promise.all([statusOf(n1), statusOf(n2)])).map(
    (it) => it.lease!.vtepMac!,
  );
  const frames = packets.map((packet) => {
    const etherType = packet[0]! >>> 4 === 4 ? 0x0800 : 0x86dd;
    const fields = { sourceMac: sourceMac!, destinationMac: destinationMac!, etherType };
    return Buffer.from(build.vxlan(fields, packet)).toString('hex');
  });
  const script = `
    const socket = require('node:dgram').createSocket('udp4');
    const [address, ...frames] = process.argv.slice(1);
    const next = () => {
      const frame = frames.shift();
      if (frame === undefined) socket.close();
      else socket.send(Buffer.from(frame, 'hex'), 8472, address, next);
    };
    next();`;
  await n1.run([process.execPath, '-e', script, n2.underlay4!, ...frames]);
}

/** Whole and permitted, the same way: when it has arrived, what was sent before it has, or never will. */
async function markerPassed(family: 4 | 6, send: typeof sendAsPeer): Promise<Buffer[]> {
  const source = addressOf(a.pod, family);
  const destination = addressOf(w.pod, family);
  const payload = Buffer.from(`marker ${++lastId}`);
  await send(build.udp({ source, destination, destinationPort: 8080 }, payload));
  const packets: Buffer[] = [];
  await poll(async () => {
    packets.push(...atW.take(source));
    return packets.some((it) => it.includes(payload)) ? true : undefined;
  }, within(5_000));
  // Answers that nobody awaits are refused.
  return packets.filter(
    (it) => !it.includes('marker') && ![build.ICMP, build.ICMPV6].includes(build.protocolOf(it)),
  );
}

const families = [4, 6] as const;
const senders = ['a pod', 'a peer'] as const;
for (const [family, from] of families.flatMap((it) => senders.map((from) => [it, from] as const))) {
  for (const { title, protocol, port, sent, arrive, drops: fromPod, ...row } of ROWS) {
    if ((row.family ?? family) !== family) continue;
    test.serial(`IPv${family}: fragments made by hand, from ${from}: ${title}`, async (t) => {
      const isPod = from === 'a pod';
      const drops = isPod ? fromPod : (row.fromPeer?.drops ?? fromPod);
      const send: typeof sendAsPeer = isPod ? (...packets) => fromA.send(...packets) : sendAsPeer;
      await markerPassed(family, send);
      const before = await Promise.all(cluster.nodes.map((it) => statusOf(it)));
      const fields = {
        source: addressOf(a.pod, family),
        destination: isPod ? VIP[family] : addressOf(w.pod, family),
        // A peer has translated before it sends.
        destinationPort: isPod ? port : port + 8000,
        // A flow of its own.
        sourcePort: 20_000 + ++lastId,
      };
      const syn = { ...fields, flags: build.SYN, options: [1, 1, 1, 1] };
      const packet =
        protocol === 'UDP'
          ? build.udp(fields, build.payloadOf(BYTES))
          : build.tcp(syn, Buffer.alloc(0));
      await send(...cut(packet, sent));
      const arrived = await markerPassed(family, send);
      t.is(arrived.length, arrive);
      if (arrive === sent.length) {
        const joined = joinOf(arrived);
        t.deepEqual(build.faultsOf(joined), []);
        t.is(destinationOf(joined), addressOf(w.pod, family));
        t.is(joined.readUInt16BE(build.transportAt(joined) + 2), 8080);
        t.deepEqual(joined.subarray(build.payloadAt(joined)), build.payloadOf(BYTES));
      }
      if (drops === null) return;
      const [node, reason] = drops;
      const name = `drop.${reason}`;
      const { counters } = await statusOf(cluster.nodes[node]);
      t.true(counters[name]! > before[node]!.counters[name]!, `${name} on n${node + 1}`);
    });
  }
}

for (const family of families) {
  test.serial(
    `IPv${family}: two first fragments of one datagram, the one to a port that is denied`,
    async (t) => {
      await markerPassed(family, sendAsPeer);
      const ends = { source: addressOf(a.pod, family), destination: addressOf(w.pod, family) };
      const [open, denied] = [8080, 8082].map((destinationPort) =>
        build.udp({ ...ends, destinationPort, sourcePort: 30_000 }, build.payloadOf(BYTES)),
      );
      for (const order of [
        [open!, denied!],
        [denied!, open!],
      ]) {
        const id = ++lastId;
        const drops = 'drop.policyIngress';
        const before = (await statusOf(cluster.nodes[1])).counters[drops]!;
        const firsts = order.flatMap((it) => cut(it, whole.slice(0, 1), id));
        await sendAsPeer(...firsts, ...cut(open!, whole.slice(1), id));
        const arrived = await markerPassed(family, sendAsPeer);
        const joined = joinOf(arrived);
        t.is(arrived.length, 3);
        t.is(joined.readUInt16BE(build.transportAt(joined) + 2), 8080);
        t.is((await statusOf(cluster.nodes[1])).counters[drops]! - before, 1);
      }
    },
  );
}
