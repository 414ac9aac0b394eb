/**
 * The host's part of Services on a real kernel; the test is the packet path:
 *
 *     client 192.0.2.2 ── eth0 192.0.2.1, node ── weft0 (TUN) ── the test
 */
import { closeSync, readSync, writeSync } from 'node:fs';
import test, { type ExecutionContext } from 'ava';
import { apply, listRules, words } from '../linux/ip.ts';
import { inNamespace } from '../linux/netlink.ts';
import { createNamespace, openNamespace, writeSysctls } from '../linux/netns.ts';
import { poll, run } from '../linux/program.ts';
import { openTun } from '../linux/tun.ts';
import { labPrefix, openRun, removeRun } from '../test/lab/run.ts';
import { parseAddress, parseIpv4, parseIpv6, toIpv4, toIpv6 } from '../wire/address.ts';
import { type Cidr4, type Cidr6, parseCidr } from '../wire/cidr.ts';
import { desiredHost, planHost, steeredIn } from './host-state.ts';
import type { SteeredFrontend } from '../service/compile.ts';
import { steeredElement } from './ruleset.ts';
import { ServiceHost } from './service-host.ts';

const UDP = 17;
const TCP = 6;
const lab = openRun(labPrefix());
test.after.always(() => removeRun(lab));
const node = `${lab.name}-node`;
const client = `${lab.name}-client`;

const at = (protocol: number, address: string, port: number): SteeredFrontend => ({
  protocol,
  address: parseAddress(address),
  port,
});
const STEERED: readonly SteeredFrontend[] = [
  at(UDP, '192.0.2.1', 30053),
  at(TCP, '192.0.2.1', 30080),
  at(UDP, 'fd31::1', 30053),
  at(UDP, '203.0.113.7', 53),
];
const ENTER = { netns: node } as const;
let tunFd = -1;
let host: ServiceHost;

const desired = desiredHost({
  tunName: 'weft0',
  mtuBytes: 1430,
  network: {
    ipv4: {
      network: parseCidr('10.244.0.0/16') as Cidr4,
      subnetLength: 24,
      min: toIpv4(0),
      max: toIpv4(0),
    },
    ipv6: {
      network: parseCidr('fd00:10:244::/56') as Cidr6,
      subnetLength: 64,
      min: toIpv6(0n),
      max: toIpv6(0n),
    },
    port: 8472,
  },
  lease: {
    subnet4: parseCidr('10.244.1.0/24') as Cidr4,
    subnet6: parseCidr('fd00:10:244:1::/64') as Cidr6,
  },
  underlay: {
    iface: 'eth0',
    mtuBytes: 1500,
    address4: parseIpv4('192.0.2.1'),
    address6: parseIpv6('fd31::1'),
    onLink: [],
  },
  ipMasq: true,
  directRouting: false,
  peers: [],
  pins: [],
  services: {
    networks: [parseCidr('10.96.0.0/12'), parseCidr('fd00:96::/112')],
    steered: STEERED,
  },
});

test.before(async () => {
  await createNamespace(node);
  await createNamespace(client);
  await apply([words`link add eth0 type veth peer name eth0 netns ${client}`], ENTER);
  for (const [it, number] of [
    [node, 1],
    [client, 2],
  ] as const) {
    await apply(
      [
        words`link set lo up`,
        words`link set eth0 up`,
        words`address add ${`192.0.2.${number}/24`} dev eth0`,
        words`address add ${`fd31::${number}/64`} dev eth0 nodad`,
      ],
      { netns: it },
    );
  }
  await apply([words`route add 203.0.113.0/24 via 192.0.2.1`], { netns: client });
  using namespace = openNamespace(`/run/netns/${node}`);
  inNamespace(namespace.fd, () => {
    const options = { name: 'weft0', queues: 1, vnetHeader: false, persist: false };
    tunFd = openTun({ ...options, tso: false, uso: false }).fds[0]!;
    host = new ServiceHost();
  });
  const tun = {
    ifindex: 9,
    ifname: 'weft0',
    flags: [],
    mtu: 1500,
    operstate: 'DOWN',
    link_type: 'none',
    addr_info: [],
  };
  const bare = { routes4: [], routes6: [], sysctls: {}, table: null, links: [tun] };
  const rules4 = await listRules({ ...ENTER, family: 4 });
  const rules6 = await listRules({ ...ENTER, family: 6 });
  const plan = planHost(desired, { ...bare, rules4, rules6 });
  await writeSysctls(
    // As strict as distributions have it.
    { 'net.ipv4.conf.all.rp_filter': 1, 'net.ipv4.conf.eth0.rp_filter': 1 },
    node,
  );
  const settings = desired.sysctls.map(({ path, value }) => [path.replaceAll('/', '.'), value]);
  await writeSysctls(Object.fromEntries(settings), node);
  await run(['nft', '-f', '-'], { input: plan.ruleset!, ...ENTER });
  await apply(plan.ip, ENTER);
  await apply(plan.rules4, { ...ENTER, family: 4 });
  await apply(plan.rules6, { ...ENTER, family: 6 });
  host.elementsAre(new Set(STEERED.map(steeredElement)));
});

test.after.always(() => {
  host?.[Symbol.dispose]();
  if (tunFd >= 0) closeSync(tunFd);
});

/** What the kernel has for us now, as `protocol source port > destination port`; ICMP without ports. */
const kept: Buffer[] = [];
function readTun(): Buffer | undefined {
  const room = Buffer.alloc(2048);
  try {
    const bytes = readSync(tunFd, room);
    return room.subarray(0, bytes);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return undefined;
    throw error;
  }
}

function textOf(packet: Buffer): string {
  const is4 = packet[0]! >>> 4 === 4;
  const protocol = packet[is4 ? 9 : 6]!;
  const [from, bytes, start] = is4 ? [12, 4, (packet[0]! & 15) * 4] : [8, 16, 40];
  const address = (offset: number): string =>
    is4
      ? [...packet.subarray(offset, offset + 4)].join('.')
      : packet.toString('hex', offset, offset + 16).replaceAll(/(.{4})(?=.)/g, '$1:');
  const hasPorts = protocol === UDP || protocol === TCP;
  const port = (offset: number) => (hasPorts ? ` ${packet.readUInt16BE(start + offset)}` : '');
  return `${protocol} ${address(from)} > ${address(from + bytes)}${port(2)}`;
}

/** Waits for a packet of this text; others are kept aside. */
async function awaitPacket(t: ExecutionContext, text: string): Promise<Buffer> {
  const seen: string[] = [];
  const found = await poll(() => {
    for (let it = readTun(); it !== undefined; it = readTun()) kept.push(it);
    seen.push(...kept.map(textOf));
    const index = kept.findIndex((it) => textOf(it) === text);
    return Promise.resolve(index < 0 ? undefined : kept.splice(index, 1)[0]);
  }, AbortSignal.timeout(5000)).catch(() => undefined);
  if (found === undefined) return t.fail(`no ${text}; seen: ${[...new Set(seen)].join(', ')}`);
  return found;
}

const send = (from: string, to: string, port: number, protocol = 'udp') =>
  run(['timeout', '3', 'bash', '-c', `echo ping > /dev/${protocol}/${to}/${port}`], {
    netns: from,
  }).catch(() => 'a connection that nobody answers');

/** Asks and prints the answer. */
const ask = (from: string, to: string, port: number): Promise<string> => {
  const kind = to.includes(':') ? 'udp6' : 'udp4';
  const script =
    `const s = require('node:dgram').createSocket('${kind}');` +
    `s.on('message', (m) => { console.log(m.toString().trim()); s.close(); });` +
    `s.send('ping', ${port}, '${to}');` +
    `setTimeout(() => { console.log('no answer'); process.exit(0); }, 4000).unref();` +
    `setTimeout(() => {}, 0);`;
  return run([process.execPath, '-e', script], { netns: from });
};

/** The same bytes back to where they came from; no UDP checksum in IPv4, the same sum in IPv6. */
function answer(packet: Buffer): void {
  const back = Buffer.from(packet);
  const is4 = packet[0]! >>> 4 === 4;
  const [from, bytes, start] = is4 ? [12, 4, 20] : [8, 16, 40];
  packet.copy(back, from, from + bytes, from + 2 * bytes);
  packet.copy(back, from + bytes, from, from + bytes);
  packet.copy(back, start, start + 2, start + 4);
  packet.copy(back, start + 2, start, start + 2);
  if (is4) back.writeUInt16BE(0, start + 6);
  writeSync(tunFd, back);
}

test.serial('a node port: its packets come into the TUN, the answer goes out by it', async (t) => {
  const asked = ask(client, '192.0.2.1', 30053);
  answer(await awaitPacket(t, '17 192.0.2.2 > 192.0.2.1 30053'));
  t.is((await asked).trim(), 'ping');
});

test.serial('the same in IPv6', async (t) => {
  const asked = ask(client, 'fd31::1', 30053);
  const full = (last: number) => `fd31:0000:0000:0000:0000:0000:0000:000${last}`;
  const packet = await awaitPacket(t, `17 ${full(2)} > ${full(1)} 30053`);
  // The kernel left the sum to the device.
  const sum = udp6Sum(packet);
  packet.writeUInt16BE(sum, 46);
  answer(packet);
  t.is((await asked).trim(), 'ping');
});

test.serial('an address that nobody has, and TCP', async (t) => {
  await send(client, '203.0.113.7', 53);
  await awaitPacket(t, '17 192.0.2.2 > 203.0.113.7 53');
  void send(client, '192.0.2.1', 30080, 'tcp');
  await awaitPacket(t, '6 192.0.2.2 > 192.0.2.1 30080');
  t.pass();
});

test.serial("the node's own processes: node ports, and answers from its own address", async (t) => {
  const asked = ask(node, '192.0.2.1', 30053);
  answer(await awaitPacket(t, '17 192.0.2.1 > 192.0.2.1 30053'));
  t.is((await asked).trim(), 'ping');
});

test.serial('Service networks: the node is .0 there, an outside client itself', async (t) => {
  const asked = ask(node, '10.96.0.10', 53);
  answer(await awaitPacket(t, '17 10.244.1.0 > 10.96.0.10 53'));
  t.is((await asked).trim(), 'ping');
  await apply([words`route add 10.96.0.0/12 via 192.0.2.1`], { netns: client });
  const outside = ask(client, '10.96.0.10', 53);
  answer(await awaitPacket(t, '17 192.0.2.2 > 10.96.0.10 53'));
  t.is((await outside).trim(), 'ping');
});

test.serial('ICMP errors about a node port come too, others go to the host', async (t) => {
  await send(client, '192.0.2.1', 30053);
  // The socket is closed already.
  answer(await awaitPacket(t, '17 192.0.2.2 > 192.0.2.1 30053'));
  await awaitPacket(t, '1 192.0.2.2 > 192.0.2.1');
  await send(node, '192.0.2.2', 9);
  await send(client, '192.0.2.1', 30054);
  await send(client, '192.0.2.1', 30053);
  await awaitPacket(t, '17 192.0.2.2 > 192.0.2.1 30053');
  t.deepEqual(
    kept.map(textOf).filter((it) => / 30054$|^1 /.test(it)),
    [],
  );
});

test.serial('10,000 ports: what changes is what is written', async (t) => {
  const many = Array.from({ length: 10_000 }, (_, i) =>
    at(i % 2 === 0 ? TCP : UDP, `198.51.${100 + (i >> 12)}.${(i >> 4) & 255}`, 1000 + (i & 15)),
  );
  const timed = (work: () => void): number => {
    const startMs = performance.now();
    work();
    return performance.now() - startMs;
  };
  const fillMs = timed(() => t.deepEqual(host.reconcile(many), { added: 10_000, removed: 4 }));
  const one = [...many.slice(1), STEERED[0]!];
  const changeMs = timed(() => t.deepEqual(host.reconcile(one), { added: 1, removed: 1 }));
  t.deepEqual(host.reconcile(one), { added: 0, removed: 0 });
  t.log(`10,000 in ${fillMs.toFixed(0)} ms, one changed in ${changeMs.toFixed(1)} ms`);
  const json = await run(['nft', '--json', 'list', 'table', 'inet', 'weft'], ENTER);
  const { nftables } = JSON.parse(json) as {
    nftables: { set?: { name: string; elem?: { concat: (string | number)[] }[] } }[];
  };
  const sets = Object.fromEntries(
    nftables.flatMap(({ set }) =>
      set ? [[set.name, (set.elem ?? []).map(({ concat }) => concat.map(String))]] : [],
    ),
  );
  t.deepEqual(steeredIn({ sets }).sort(), one.map(steeredElement).sort());
});

test.serial('a port that is of no Service any more belongs to the host again', async (t) => {
  host.reconcile([at(UDP, '203.0.113.7', 53)]);
  kept.length = 0;
  await send(client, '192.0.2.1', 30053);
  await send(client, '203.0.113.7', 53);
  await awaitPacket(t, '17 192.0.2.2 > 203.0.113.7 53');
  t.deepEqual(
    kept.map(textOf).filter((it) => it.endsWith(' 30053')),
    [],
  );
});

test.serial('after a failure it is not known what is there; what is found counts', (t) => {
  host.elementsAre(new Set(['6 . 192.0.2.1 . 1']));
  t.throws(() => host.reconcile([]), { code: 'ERR_NETLINK' });
  t.deepEqual(host.reconcile(STEERED), { added: 0, removed: 0 });
  host.elementsAre(new Set(['17 . 203.0.113.7 . 53']));
  t.deepEqual(host.reconcile(STEERED), { added: 3, removed: 0 });
});

function udp6Sum(packet: Buffer): number {
  const udp = Buffer.from(packet.subarray(40));
  udp.writeUInt16BE(0, 6);
  let sum = UDP + udp.length;
  for (let i = 8; i < 40; i += 2) sum += packet.readUInt16BE(i);
  for (let i = 0; i + 1 < udp.length; i += 2) sum += udp.readUInt16BE(i);
  if (udp.length % 2 === 1) sum += udp.readUInt8(udp.length - 1) << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff || 0xffff;
}
