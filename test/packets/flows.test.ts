/**
 * What passes and as what: packets in and packets out, through the real flow table, with policies and
 * Services that a table of this file stands for.
 */
import test, { type ExecutionContext } from 'ava';
import { createArena } from '../../linux/arena.ts';
import { createChecksum } from '../../wire/checksum/checksum.ts';
import { formatAddress, parseAddress, toIpv4, toIpv6 } from '../../wire/address.ts';
import { Drop, dropNames } from '../../wire/drop-reason.ts';
import { finishSctp } from '../../wire/sctp.ts';
import { createCounters } from '../../overlay/counters.ts';
import { openFlowMemory } from '../../overlay/flow-memory.ts';
import { createFlowTable } from '../../overlay/flow-table.ts';
import { createFlows } from '../../overlay/flows.ts';
import { createIcmpErrors } from '../../overlay/icmp-errors.ts';
import { createPeers } from '../../overlay/peers.ts';
import { createRejects } from '../../overlay/rejects.ts';
import { compileSnapshot } from '../../overlay/snapshot.ts';
import { createTunWriter } from '../../overlay/tun-writer.ts';
import { EGRESS, type PolicyLookup } from '../../policy/table.ts';
import {
  BACKEND_NONE,
  BACKEND_NOT_LOCAL,
  BACKEND_WORDS,
  FRONTEND_NONE,
  FRONTEND_UNALLOCATED,
  FRONTEND_UNUSED_PORT,
  type ServiceLookup,
} from '../../service/table.ts';
import * as build from './build.ts';
import { TunTwin, stateOf } from './wire-harness.ts';

interface Family {
  readonly pod: string;
  readonly other: string;
  readonly remote: string;
  readonly node: string;
  readonly host: string;
  /** Another node, in the underlay. */
  readonly peer: string;
  readonly vip: string;
  readonly outside: string;
}

const FAMILIES: readonly Family[] = [
  {
    pod: '10.244.1.2',
    other: '10.244.1.3',
    remote: '10.244.2.2',
    node: '10.244.1.0',
    host: '192.0.2.2',
    peer: '192.0.2.3',
    vip: '10.96.0.10',
    outside: '198.51.100.7',
  },
  {
    pod: 'fd00:1::2',
    other: 'fd00:1::3',
    remote: 'fd00:2::2',
    node: 'fd00:1::',
    host: '2001:db8::2',
    peer: '2001:db8::3',
    vip: 'fd96::a',
    outside: '2001:db8:ffff::7',
  },
];

interface Frontend {
  backends: string[];
  port: number;
  affinityS?: number;
  hides?: boolean;
  local?: boolean;
  isNodePort?: boolean;
}

/** One node's decisions, without the ways in and out. */
class Decider {
  readonly arena = createArena(2 << 20);
  readonly tun = new TunTwin(true);
  /** `egress 10.244.1.2 > 10.244.2.2 :80` */
  readonly denied = new Set<string>();
  /** By `address port`. */
  readonly frontends = new Map<string, Frontend>();
  readonly #peers = createPeers(this.arena);
  readonly #flows;
  readonly #table;
  readonly #at = this.arena.take(1 << 16, 'packet');
  #generation = 1;
  #services = 1;
  #backends: string[] = [];

  constructor(options: { loose?: boolean; maxFlows?: number } = {}) {
    const { view } = this.arena;
    const counters = createCounters();
    const checksum = createChecksum(this.arena.memory);
    const writer = createTunWriter(this.arena, counters, checksum, this.tun.fd, true);
    const icmp = createIcmpErrors(this.arena, counters, checksum, this.#peers, writer, () => 1e6);
    const table = createFlowTable(view, openFlowMemory(null, options.maxFlows ?? 1024));
    const read = (at: number, is4: boolean): string =>
      formatAddress(
        is4
          ? toIpv4(view.getUint32(at))
          : toIpv6((view.getBigUint64(at) << 64n) | view.getBigUint64(at + 8)),
      );
    const policy: PolicyLookup = {
      install: () => undefined,
      subjectOf: (at, is4) =>
        FAMILIES.findIndex((it) => it.pod === read(at, is4) || it.other === read(at, is4)),
      allows: (direction, _subject, self, peer, is4, _protocol, port) => {
        const way = direction === EGRESS ? 'egress' : 'ingress';
        return !this.denied.has(`${way} ${read(self, is4)} > ${read(peer, is4)} :${port}`);
      },
    };
    const services: ServiceLookup = {
      install: () => undefined,
      frontendOf: (at, is4, _protocol, port) => {
        const address = read(at, is4);
        const keys = [...this.frontends.keys()];
        const index = keys.indexOf(`${address} ${port}`);
        if (index >= 0) return index;
        if (keys.some((key) => key.startsWith(`${address} `))) return FRONTEND_UNUSED_PORT;
        return /^10\.96|^fd96/.test(address) ? FRONTEND_UNALLOCATED : FRONTEND_NONE;
      },
      pick: (frontend, _source, _inside, hash) => {
        const { backends, local } = [...this.frontends.values()][frontend]!;
        if (local === true) return BACKEND_NOT_LOCAL;
        if (backends.length === 0) return BACKEND_NONE;
        const address = backends[(hash >>> 0) % backends.length]!;
        return this.#backends.indexOf(address);
      },
      usable: (frontend, at, is4) => {
        const address = read(at, is4);
        const { backends } = [...this.frontends.values()][frontend]!;
        return backends.includes(address) ? this.#backends.indexOf(address) : -1;
      },
      affinityS: (frontend) => [...this.frontends.values()][frontend]!.affinityS ?? 0,
      hidesSource: (frontend) => [...this.frontends.values()][frontend]!.hides ?? false,
      isNodePort: (frontend) => [...this.frontends.values()][frontend]!.isNodePort ?? false,
    };
    this.#table = table;
    table.setNow(1000);
    this.#flows = createFlows(this.arena, this.#peers, {
      table,
      policy,
      services,
      rejects: createRejects(this.arena, checksum, icmp, writer),
      loose: options.loose ?? false,
      heldOut: null,
      heldIn: null,
    });
    icmp.onError(this.#flows.ownError);
    this.publish();
  }

  /** What was said of policies and Services is in force; or not yet listed. */
  publish(policyReady = true): void {
    const a = parseAddress('192.0.2.2');
    const all = [...this.frontends.values()].flatMap(({ backends, port }) =>
      backends.map((address) => ({ address, port })),
    );
    for (const { address } of all) {
      if (!this.#backends.includes(address)) this.#backends.push(address);
    }
    const words = new Uint32Array(this.#backends.length * BACKEND_WORDS);
    this.#backends.forEach((address, i) => {
      const bytes = build.addressBytes(address);
      for (let w = 0; w < bytes.length / 4; w++)
        words[i * BACKEND_WORDS + w] = bytes.readUInt32BE(w * 4);
      words[i * BACKEND_WORDS + 4] = all.find((it) => it.address === address)?.port ?? 0;
    });
    const plain = stateOf(a, parseAddress('192.0.2.3'));
    const addresses = FAMILIES.map(({ peer }) => parseAddress(peer));
    const state = {
      ...plain,
      peers: plain.peers.map((it) => ({ ...it, addresses })),
      pods: FAMILIES.flatMap((it) => [parseAddress(it.pod), parseAddress(it.other)]),
      nodeAddresses: FAMILIES.map((it) => parseAddress(it.host)),
      policyReady,
      policy: { ...stateOf(a, a).policy, generation: ++this.#generation },
      services: { ...stateOf(a, a).services, generation: ++this.#services, backends: words },
    };
    this.#peers.install(compileSnapshot(state, 8472, 1));
  }

  /** The packet dropped last was an answer in a flow that policy denies. */
  get wasReply(): boolean {
    return this.#flows.isReply();
  }

  later(seconds: number): void {
    this.#table.setNow(this.#table.nowS() + seconds);
  }

  /** @returns the packet as it goes on, or the reason why it does not */
  take(packet: Buffer, from: 'tun' | 'peer' = 'tun', unfinished = false): Buffer | string {
    const { bytes } = this.arena;
    const at = this.#at + 2;
    bytes.fill(0xa5, this.#at, this.#at + packet.length + 64);
    bytes.set(packet, at);
    const end = at + packet.length;
    const way = from === 'tun' ? this.#flows.outbound : this.#flows.inbound;
    const drop = way(at, end, unfinished);
    if (bytes[at - 1] !== 0xa5 || bytes[end] !== 0xa5) throw new Error('wrote beyond the packet');
    return drop === Drop.none ? Buffer.from(bytes.subarray(at, end)) : dropNames[drop]!;
  }

  [Symbol.dispose](): void {
    this.tun[Symbol.dispose]();
  }
}

const destinationOf = (packet: Buffer): string => {
  const is4 = packet[0]! >> 4 === 4;
  const turned = Buffer.from(packet);
  if (is4) packet.copy(turned, 12, 16, 20);
  else packet.copy(turned, 8, 24, 40);
  return build.sourceOf(turned);
};

/** `10.244.1.2:40000 > 10.244.2.2:80` */
function ends(packet: Buffer | string): string {
  if (typeof packet === 'string') return packet;
  const at = build.transportAt(packet);
  const [from, to] = [packet.readUInt16BE(at), packet.readUInt16BE(at + 2)];
  return `${build.sourceOf(packet)}:${from} > ${destinationOf(packet)}:${to}`;
}

function whole(t: ExecutionContext, packet: Buffer | string): Buffer {
  if (typeof packet === 'string') throw new Error(`dropped: ${packet}`);
  t.deepEqual(build.faultsOf(packet), []);
  return packet;
}

const BUILDERS = { tcp: build.tcp, udp: build.udp } as const;

/** The answer to a packet, as its receiver sends it. */
function answerTo(packet: Buffer, protocol: 'tcp' | 'udp', flags = build.SYN | build.ACK): Buffer {
  const at = build.transportAt(packet);
  return BUILDERS[protocol](
    {
      source: destinationOf(packet),
      destination: build.sourceOf(packet),
      sourcePort: packet.readUInt16BE(at + 2),
      destinationPort: packet.readUInt16BE(at),
      flags,
    },
    build.payloadOf(33),
  );
}

for (const f of FAMILIES) {
  const version = f.pod.includes(':') ? 'IPv6' : 'IPv4';
  const syn = (destination: string, destinationPort = 80, sourcePort = 40000, source = f.pod) =>
    build.tcp({ source, destination, sourcePort, destinationPort, flags: build.SYN }, Buffer.of());
  const datagram = (
    destination: string,
    destinationPort = 53,
    sourcePort = 40000,
    source = f.pod,
  ) => build.udp({ source, destination, sourcePort, destinationPort }, build.payloadOf(21));

  test(`${version}: what policy allows passes as it is, and its answers with it`, (t) => {
    using it = new Decider();
    it.denied.add(`ingress ${f.pod} > ${f.remote} :40000`);
    t.is(it.take(answerTo(syn(f.remote), 'tcp'), 'peer'), 'policyIngress');
    const sent = syn(f.remote);
    t.deepEqual(it.take(sent), sent);
    const answer = answerTo(sent, 'tcp');
    t.deepEqual(it.take(answer, 'peer'), answer, 'replies are implicit');
  });

  test(`${version}: egress is asked where the packet begins, ingress where it ends, both within a node`, (t) => {
    using it = new Decider();
    it.denied.add(`egress ${f.pod} > ${f.remote} :80`);
    it.denied.add(`ingress ${f.other} > ${f.pod} :81`);
    it.denied.add(`egress ${f.pod} > ${f.other} :82`);
    it.denied.add(`ingress ${f.pod} > ${f.remote} :83`);
    it.denied.add(`ingress ${f.pod} > ${f.outside} :84`);
    it.denied.add(`egress ${f.pod} > ${f.outside} :85`);
    t.is(it.take(syn(f.remote)), 'policyEgress');
    t.is(it.take(syn(f.other, 81)), 'policyIngress');
    t.is(it.take(syn(f.other, 82)), 'policyEgress');
    t.is(it.take(syn(f.pod, 83, 1, f.remote), 'peer'), 'policyIngress');
    t.is(it.take(syn(f.pod, 84, 1, f.outside)), 'policyIngress');
    t.is(it.take(datagram(f.outside, 85)), 'policyEgress');
    t.is(ends(it.take(syn(f.other, 86))), `${f.pod}:40000 > ${f.other}:86`);
    t.is(it.tun.read().length, 0, 'policy drops in silence');
  });

  test(`${version}: established flows are decided again when policy changes; loose ones are not`, (t) => {
    for (const loose of [false, true]) {
      using it = new Decider({ loose });
      whole(t, it.take(syn(f.remote)));
      it.denied.add(`egress ${f.pod} > ${f.remote} :80`);
      const answer = answerTo(syn(f.remote), 'tcp');
      whole(t, it.take(answer, 'peer'));
      it.publish();
      t.is(typeof it.take(answer, 'peer'), loose ? 'object' : 'string');
      t.is(ends(it.take(syn(f.remote, 80, 40001))), 'policyEgress');
    }
  });

  test(`${version}: a flow that is denied now stays denied, whichever end sends, until policy allows it`, (t) => {
    using it = new Decider();
    const first = syn(f.pod, 80, 40000, f.remote);
    const ack = (packet: Buffer): Buffer => answerTo(packet, 'tcp', build.ACK);
    whole(t, it.take(first, 'peer'));
    const answer = answerTo(first, 'tcp');
    whole(t, it.take(answer));
    whole(t, it.take(ack(answer), 'peer'));
    it.denied.add(`ingress ${f.pod} > ${f.remote} :80`);
    it.publish();
    t.is(it.take(ack(answer), 'peer'), 'policyIngress');
    t.is(it.take(ack(first)), 'policyIngress', 'the pod may send, but not in this connection');
    t.true(it.wasReply);
    t.is(it.take(ack(answer), 'peer'), 'policyIngress');
    t.false(it.wasReply);
    t.is(it.take(syn(f.pod, 80, 40000, f.remote), 'peer'), 'policyIngress');
    whole(t, it.take(syn(f.remote, 40000, 81)));
    it.denied.clear();
    it.publish();
    whole(t, it.take(ack(answer), 'peer'));
    whole(t, it.take(ack(first)));
  });

  test(`${version}: before policies are listed nothing passes, and no flow is lost`, (t) => {
    using it = new Decider();
    it.frontends.set(`${f.host} 30080`, { backends: [f.remote], port: 8080, hides: true });
    it.publish();
    const sent = whole(t, it.take(syn(f.host, 30080, 5000, f.outside)));
    it.publish(false);
    t.is(it.take(syn(f.remote)), 'noPolicy');
    t.is(it.take(syn(f.pod, 80, 1, f.remote), 'peer'), 'noPolicy');
    t.is(it.take(answerTo(sent, 'tcp'), 'peer'), 'noPolicy');
    it.publish();
    t.is(ends(it.take(answerTo(sent, 'tcp'), 'peer')), `${f.host}:30080 > ${f.outside}:5000`);
  });

  for (const protocol of ['tcp', 'udp'] as const) {
    const first = protocol === 'tcp' ? syn : datagram;
    test(`${version}: a Service's address becomes a backend's and back: ${protocol}`, (t) => {
      using it = new Decider();
      it.frontends.set(`${f.vip} 80`, { backends: [f.remote], port: 8080 });
      it.publish();
      const sent = whole(t, it.take(first(f.vip, 80)));
      t.is(ends(sent), `${f.pod}:40000 > ${f.remote}:8080`);
      const back = whole(t, it.take(answerTo(sent, protocol), 'peer'));
      t.is(ends(back), `${f.vip}:80 > ${f.pod}:40000`);
    });

    test(`${version}: another node's node port is served where the pod is: ${protocol}`, (t) => {
      using it = new Decider();
      it.frontends.set(`${f.host} 30080`, {
        backends: [f.remote],
        port: 8080,
        hides: false,
        isNodePort: true,
      });
      it.frontends.set(`${f.host} 443`, { backends: [f.remote], port: 8443 });
      it.publish();
      const packet = first(f.peer, 30080);
      const sent = whole(t, it.take(packet));
      t.is(ends(sent), `${f.pod}:40000 > ${f.remote}:8080`);
      const back = whole(t, it.take(answerTo(sent, protocol), 'peer'));
      t.is(ends(back), `${f.peer}:30080 > ${f.pod}:40000`);
      it.publish();
      t.is(ends(whole(t, it.take(packet))), ends(sent), 'and is after Services have changed');
      for (const [name, other] of [
        ['what is no node port', first(f.peer, 443)],
        ['what nobody serves', first(f.peer, 22)],
        ['an address of no node', first(f.outside, 30080)],
      ] as const) {
        t.deepEqual(it.take(other), other, name);
      }
      const fromNode = first(f.peer, 30080, 40000, f.host);
      t.deepEqual(it.take(fromNode), fromNode, "the node's own reach the other node as it is");
      it.frontends.get(`${f.host} 30080`)!.backends = [];
      it.publish();
      if (protocol === 'udp') t.is(it.take(packet), 'noEndpoints', 'decided again');
    });

    test(`${version}: checksums left to a device stay the pseudo-header's: ${protocol}`, (t) => {
      using it = new Decider();
      it.frontends.set(`${f.vip} 80`, { backends: [f.remote], port: 8080 });
      it.publish();
      const fields = { source: f.pod, destination: f.vip, destinationPort: 80, flags: build.SYN };
      const packet = BUILDERS[protocol]({ ...fields, checksum: 'partial' }, build.payloadOf(900));
      const sent = it.take(packet, 'tun', true);
      if (typeof sent === 'string') throw new Error(sent);
      const at = build.transportAt(sent) + (protocol === 'tcp' ? 16 : 6);
      t.is(sent.readUInt16BE(at), build.pseudoSum(sent));
    });

    test(`${version}: a pod reaches itself through its Service: ${protocol}`, (t) => {
      using it = new Decider();
      it.frontends.set(`${f.vip} 80`, { backends: [f.pod], port: 8080 });
      it.publish();
      const sent = whole(t, it.take(first(f.vip, 80)));
      t.is(build.sourceOf(sent), f.node, 'from the node, or it would answer itself directly');
      t.is(destinationOf(sent), f.pod);
      const back = whole(t, it.take(answerTo(sent, protocol)));
      t.is(ends(back), `${f.vip}:80 > ${f.pod}:40000`);
    });

    test(`${version}: a client outside has its answers come back through this node: ${protocol}`, (t) => {
      using it = new Decider();
      it.frontends.set(`${f.host} 30080`, { backends: [f.remote], port: 8080, hides: true });
      it.publish();
      const ports = new Set<number>();
      for (let port = 5000; port < 5020; port++) {
        const sent = whole(t, it.take(first(f.host, 30080, port, f.outside)));
        t.is(build.sourceOf(sent), f.node);
        ports.add(sent.readUInt16BE(build.transportAt(sent)));
        const back = whole(t, it.take(answerTo(sent, protocol), 'peer'));
        t.is(ends(back), `${f.host}:30080 > ${f.outside}:${port}`);
      }
      t.is(ports.size, 20, 'each has a port of its own');
    });
  }

  test(`${version}: under Local a client outside keeps its address`, (t) => {
    using it = new Decider();
    it.frontends.set(`${f.host} 30080`, { backends: [f.pod], port: 8080 });
    it.publish();
    const sent = whole(t, it.take(syn(f.host, 30080, 5000, f.outside)));
    t.is(ends(sent), `${f.outside}:5000 > ${f.pod}:8080`);
    t.is(ends(it.take(answerTo(sent, 'tcp'))), `${f.host}:30080 > ${f.outside}:5000`);
  });

  test(`${version}: policy sees the backend's address and port`, (t) => {
    using it = new Decider();
    it.frontends.set(`${f.vip} 80`, { backends: [f.other], port: 8080 });
    it.publish();
    it.denied.add(`egress ${f.pod} > ${f.vip} :80`);
    whole(t, it.take(syn(f.vip)));
    it.denied.add(`ingress ${f.other} > ${f.pod} :8080`);
    t.is(it.take(syn(f.vip, 80, 40001)), 'policyIngress');
  });

  test(`${version}: what has no backend is told so, or dropped`, (t) => {
    using it = new Decider();
    it.frontends.set(`${f.vip} 80`, { backends: [], port: 8080 });
    it.frontends.set(`${f.host} 30080`, { backends: [f.pod], port: 8080, local: true });
    it.publish();
    t.is(it.take(syn(f.vip)), 'noEndpoints');
    const [reset] = it.tun.read().map(({ packet }) => packet);
    t.deepEqual(build.faultsOf(reset!), []);
    t.is(ends(reset!), `${f.vip}:80 > ${f.pod}:40000`);
    t.is(reset![build.transportAt(reset!) + 13], build.RST | build.ACK);
    t.is(reset!.readUInt32BE(build.transportAt(reset!) + 8), 1001, 'it acknowledges the SYN');
    t.is(it.take(datagram(f.vip, 80)), 'noEndpoints');
    t.is(it.take(syn(f.vip, 81)), 'unusedPort');
    const [unreachable, second] = it.tun.read().map(({ packet }) => packet);
    t.deepEqual(build.faultsOf(unreachable!), []);
    t.is(build.sourceOf(unreachable!), f.vip);
    const at = build.transportAt(unreachable!);
    t.deepEqual([...unreachable!.subarray(at, at + 2)], version === 'IPv4' ? [3, 3] : [1, 4]);
    t.is(build.protocolOf(second!), build.TCP);
    t.is(it.take(syn(f.host, 30080, 5000, f.outside)), 'noLocalEndpoint');
    t.is(it.take(syn(version === 'IPv4' ? '10.96.7.7' : 'fd96::77')), 'unallocated');
    t.is(it.tun.read().length, 0);
  });

  test(`${version}: a UDP flow whose backend is gone moves on, a connection stays`, (t) => {
    using it = new Decider();
    it.frontends.set(`${f.vip} 53`, { backends: [f.remote], port: 5353 });
    it.publish();
    whole(t, it.take(datagram(f.vip)));
    const sent = whole(t, it.take(syn(f.vip, 53)));
    whole(t, it.take(answerTo(sent, 'tcp'), 'peer'));
    const ack = build.tcp(
      { source: f.pod, destination: f.vip, destinationPort: 53, flags: build.ACK },
      build.payloadOf(5),
    );
    t.is(ends(whole(t, it.take(ack))), `${f.pod}:40000 > ${f.remote}:5353`);
    it.frontends.set(`${f.vip} 53`, { backends: [f.other], port: 5353 });
    it.publish();
    t.is(ends(it.take(datagram(f.vip))), `${f.pod}:40000 > ${f.other}:5353`);
    t.is(ends(it.take(ack)), `${f.pod}:40000 > ${f.remote}:5353`);
    it.frontends.delete(`${f.vip} 53`);
    it.frontends.set(`${f.vip} 1`, { backends: [], port: 1 });
    it.publish();
    t.is(it.take(datagram(f.vip)), 'unusedPort', 'the Service is gone');
  });

  test(`${version}: a client keeps its backend for the time of its affinity`, (t) => {
    using it = new Decider();
    const backends = Array.from({ length: 10 }, (_, i) =>
      version === 'IPv4' ? `10.244.2.${10 + i}` : `fd00:2::${10 + i}`,
    );
    it.frontends.set(`${f.vip} 80`, { backends, port: 8080, affinityS: 100 });
    it.publish();
    const seen = new Set<string>();
    for (let port = 1; port <= 30; port++) {
      seen.add(destinationOf(whole(t, it.take(syn(f.vip, 80, port)))));
      it.later(60);
    }
    t.is(seen.size, 1);
    const [kept] = seen;
    // Another choice would now be likely, were it not remembered.
    it.frontends.set(`${f.vip} 80`, {
      backends: [...backends.filter((at) => at !== kept), kept!],
      port: 8080,
      affinityS: 100,
    });
    it.publish();
    t.is(destinationOf(whole(t, it.take(syn(f.vip, 80, 31)))), kept!);
  });

  test(`${version}: ICMP errors belong to the flow that they are about, and are translated inside`, (t) => {
    using it = new Decider();
    it.frontends.set(`${f.vip} 80`, { backends: [f.remote], port: 8080 });
    it.publish();
    const sent = whole(t, it.take(datagram(f.vip, 80)));
    it.denied.add(`ingress ${f.pod} > ${f.remote} :0`);
    it.publish();
    const is4 = version === 'IPv4';
    const about = (quote: Buffer, source: string): Buffer =>
      build.icmp(
        { source, destination: build.sourceOf(quote) },
        is4 ? 3 : 1,
        is4 ? 3 : 4,
        Buffer.concat([Buffer.alloc(4), quote]),
      );
    const back = whole(t, it.take(about(sent, f.remote), 'peer'));
    t.is(build.sourceOf(back), f.vip);
    t.is(destinationOf(back), f.pod);
    const quote = back.subarray(build.transportAt(back) + 8);
    t.is(ends(quote), `${f.pod}:40000 > ${f.vip}:80`);
    if (is4) t.deepEqual(build.finishIp(Buffer.from(quote)), quote, "the quoted header's checksum");
    const router = version === 'IPv4' ? '203.0.113.1' : '2001:db8:1::1';
    const fromRouter = whole(t, it.take(about(sent, router), 'peer'));
    t.is(build.sourceOf(fromRouter), router);
    t.is(
      it.take(about(datagram(f.remote, 9), f.remote), 'peer'),
      'policyIngress',
      'about nothing that was sent',
    );
  });

  test(`${version}: SCTP is translated, its CRC32c with it`, (t) => {
    using it = new Decider();
    it.frontends.set(`${f.vip} 80`, { backends: [f.remote], port: 8080 });
    it.publish();
    const body = Buffer.alloc(12 + 20);
    body.writeUInt16BE(40000, 0);
    body.writeUInt16BE(80, 2);
    body[12] = 1;
    body.writeUInt16BE(20, 14);
    const packet = build.ip({ source: f.pod, destination: f.vip }, 132, body);
    const sent = it.take(packet);
    if (typeof sent === 'string') throw new Error(sent);
    t.is(ends(sent), `${f.pod}:40000 > ${f.remote}:8080`);
    const again = Buffer.from(sent);
    const at = build.transportAt(again);
    finishSctp(new DataView(again.buffer, again.byteOffset, again.length), at, again.length);
    t.deepEqual(again, sent);
  });
}

test('CRC32c of a known message (RFC 3720 appendix B.4: 32 bytes of zeros)', (t) => {
  // The checksum field itself counts as zero, so a header of zeros in front changes nothing but length.
  const view = new DataView(new ArrayBuffer(32));
  finishSctp(view, 0, 32);
  t.is(view.getUint32(8, true), 0x8a9136aa);
});

const fragment = (
  fields: Partial<build.IpFields>,
  payload: Uint8Array,
  protocol = build.UDP,
): Buffer =>
  build.ip(
    { source: '10.244.1.2', destination: '10.244.2.2', id: 77, ...fields },
    protocol,
    payload,
  );

test('fragments go by what the first one showed; none passes that was not decided about', (t) => {
  using it = new Decider();
  const whole = build.udp(
    { source: '10.244.1.2', destination: '10.244.2.2', destinationPort: 53 },
    build.payloadOf(3000),
  );
  const body = whole.subarray(20);
  const first = fragment({ moreFragments: true }, body.subarray(0, 1480));
  const second = fragment({ moreFragments: true, fragmentOffset: 185 }, body.subarray(1480, 2960));
  const last = fragment({ fragmentOffset: 370 }, body.subarray(2960));
  t.is(it.take(last), 'fragment', 'its first one was not seen');
  t.deepEqual(it.take(first), first);
  t.deepEqual(it.take(last), last);
  t.deepEqual(it.take(second), second);
  t.is(it.take(fragment({ id: 78, fragmentOffset: 185 }, body.subarray(0, 80))), 'fragment');
  it.later(31);
  t.is(it.take(second), 'fragment', 'it came too late');
  it.denied.add('egress 10.244.1.2 > 10.244.2.2 :53');
  it.publish();
  const other = fragment({ id: 79, moreFragments: true }, body.subarray(0, 1480));
  t.is(it.take(other), 'policyEgress');
  t.is(it.take(fragment({ id: 79, fragmentOffset: 185 }, body.subarray(0, 80))), 'fragment');
});

test('fragments of a Service are translated with the first', (t) => {
  using it = new Decider();
  it.frontends.set('10.96.0.10 53', { backends: ['10.244.2.2'], port: 5353 });
  it.publish();
  const packet = build.udp(
    { source: '10.244.1.2', destination: '10.96.0.10', destinationPort: 53 },
    build.payloadOf(3000),
  );
  const to = { destination: '10.96.0.10', id: 5 };
  const first = it.take(fragment({ ...to, moreFragments: true }, packet.subarray(20, 1500)));
  const last = it.take(fragment({ ...to, fragmentOffset: 185 }, packet.subarray(1500)));
  if (typeof first === 'string' || typeof last === 'string') throw new Error('dropped');
  const joined = Buffer.concat([first, last.subarray(20)]);
  joined.writeUInt16BE(joined.length, 2);
  joined.writeUInt16BE(0, 6);
  t.deepEqual(build.faultsOf(build.finishIp(joined)), []);
  t.is(ends(joined), '10.244.1.2:40000 > 10.244.2.2:5353');
});

const TRICKS: readonly [string, Buffer, string][] = [
  [
    'a first fragment without ports (RFC 1858)',
    fragment({ moreFragments: true }, Buffer.alloc(4), build.TCP),
    'fragment',
  ],
  [
    'a TCP header in two fragments (RFC 1858)',
    fragment({ moreFragments: true }, Buffer.alloc(8), build.TCP),
    'fragment',
  ],
  [
    'a fragment over the TCP flags (RFC 3128)',
    fragment({ fragmentOffset: 1 }, Buffer.alloc(32), build.TCP),
    'fragment',
  ],
  ['TCP cut short', fragment({}, Buffer.alloc(12), build.TCP), 'transport'],
  ['UDP cut short', fragment({}, Buffer.alloc(7)), 'transport'],
  ['protocol 0', fragment({}, Buffer.alloc(20), 0), 'protocol'],
  ['a protocol that names our own entries', fragment({}, Buffer.alloc(20), 253), 'protocol'],
];
for (const [name, packet, reason] of TRICKS) {
  test(`dropped: ${name}`, (t) => {
    using it = new Decider();
    t.is(it.take(packet), reason);
  });
}

const extension = (next: number, bytes = 8): Buffer => {
  const header = Buffer.alloc(bytes);
  header[0] = next;
  header[1] = bytes / 8 - 1;
  return header;
};

test('IPv6 extension headers hide no ports', (t) => {
  using it = new Decider();
  const [, f] = FAMILIES;
  it.denied.add(`egress ${f!.pod} > ${f!.remote} :53`);
  const ends = { source: f!.pod, destination: f!.remote };
  const datagram = build.udp({ ...ends, destinationPort: 53 }, build.payloadOf(8)).subarray(40);
  const frag = (next: number, offset: number, more: boolean): Buffer => {
    const header = extension(next);
    header[1] = 0;
    header.writeUInt16BE((offset << 3) | (more ? 1 : 0), 2);
    header.writeUInt32BE(99, 4);
    return header;
  };
  const chains: [string, number, Buffer, string][] = [
    ['hop-by-hop', 0, extension(build.UDP), 'policyEgress'],
    ['two', 0, Buffer.concat([extension(60), extension(build.UDP, 16)]), 'policyEgress'],
    ['an atomic fragment', 44, frag(build.UDP, 0, false), 'policyEgress'],
    ['a first fragment', 44, frag(build.UDP, 0, true), 'policyEgress'],
    ['a later fragment', 44, frag(build.UDP, 8, false), 'fragment'],
    [
      'fragment within fragment',
      44,
      Buffer.concat([frag(44, 0, true), frag(build.UDP, 0, true)]),
      'fragment',
    ],
    [
      'more than there can be',
      60,
      Buffer.concat([...Array.from({ length: 8 }, () => extension(60)), extension(build.UDP)]),
      'transport',
    ],
    ['one that ends nowhere', 0, Buffer.from([17, 255, 0, 0, 0, 0, 0, 0]), 'transport'],
  ];
  for (const [name, next, headers, reason] of chains) {
    const packet = build.ip(ends, next, Buffer.concat([headers, datagram]));
    t.is(it.take(packet), reason, name);
  }
});
