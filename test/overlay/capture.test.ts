/**
 * Captures of real packets, by the command that operators use:
 *
 *     n1: default/a asks     n2: default/b answers at 8080, behind Service web (port 80)
 */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { poll } from '../../linux/program.ts';
import { LINKTYPE_ETHERNET, type PcapngPacket, PcapngReader } from '../../wire/pcapng.ts';
import { Cluster, answerOf, netpol, service } from '../lab/cluster.ts';
import type { LabNode } from '../lab/lab.ts';
import type { Prober } from '../lab/prober.ts';
import { within } from './pair.ts';

const WEFT = join(import.meta.dirname, '..', '..', 'bin', 'weft');
const VIP = '10.96.0.10';

let cluster: Cluster;
let a: Prober;
let address: string;

test.before(async () => {
  cluster = await Cluster.open('cp');
  ({ prober: a } = await cluster.addPod(0, 'a', 'app=client'));
  const { pod } = await cluster.addPod(1, 'b', 'app=web', [8080]);
  address = pod.address4!;
  const ports = [{ name: 'tcp', protocol: 'TCP', port: 80, targetPort: 8080 }];
  await cluster.put(service('web', [VIP], { selector: { app: 'web' }, ports }));
});
test.after.always(() => cluster?.[Symbol.asyncDispose]());

const askWeb = () => answerOf(a, { protocol: 'TCP', address: VIP, port: 80 }, / b$/);

/** Runs the command while `work` does, and ends it as ^C does. */
async function capturing(
  t: ExecutionContext,
  node: LabNode,
  words: readonly string[],
  work: () => Promise<void>,
): Promise<string> {
  const logFile = join(cluster.lab.directory, `${t.title.replaceAll(/\W+/g, '-')}.log`);
  const argv = [WEFT, 'capture', `--state-dir=${node.stateDir}`, ...words];
  const running = await node.start(argv, {
    logFile,
    // It says nothing before the first packet: what it has begun, another one is refused by.
    ready: { condition: () => new Promise((resolve) => setTimeout(resolve, 1500)) },
  });
  await work();
  await new Promise((resolve) => setTimeout(resolve, 200));
  t.is(await running.stop('SIGINT'), 0);
  return await readFile(logFile, 'utf8');
}

async function readPackets(path: string) {
  const packets: PcapngPacket[] = [];
  const linkTypes = new Set<number>();
  new PcapngReader({
    onPacket: (packet, linkType) => {
      packets.push({ ...packet, packet: Buffer.from(packet.packet) });
      linkTypes.add(linkType);
    },
  }).take(await readFile(path));
  return { packets, linkTypes };
}

test.serial('a file says what became of a flow of a Service, and tcpdump reads it', async (t) => {
  const path = join(cluster.lab.directory, 'web.pcapng');
  t.regex(await askWeb(), / b$/);
  const said = await capturing(
    t,
    cluster.nodes[0],
    ['--pod', 'default/a', '--pod', 'default/b', '--protocol', 'tcp', '-w', path],
    async () => void (await askWeb()),
  );
  t.regex(said, /^\d+ packets captured, 0 lost$/m);
  t.is((await stat(path)).mode & 0o777, 0o600);
  const { packets } = await readPackets(path);
  // Of the connection before there may be an end to see.
  const directionOf = (wanted: string) =>
    packets.find(({ comment }) => comment === wanted)?.direction;
  const asks = `forwarded egress, flow of Service default/web -> ${address}:8080`;
  const answers = `forwarded ingress, answer of Service default/web from ${address}:8080`;
  t.is(directionOf(asks), 'out', said);
  t.is(directionOf(answers), 'in', said);
  const text = await cluster.nodes[0].run(['tcpdump', '-nn', '-r', path]);
  t.regex(text, new RegExp(`IP \\S+ > ${address.replaceAll('.', '\\.')}\\.8080: Flags \\[S\\]`));
  t.regex(text, /IP 10\.96\.0\.10\.80 > \S+: Flags \[S\.\]/);
});

test.serial('what goes between nodes is as tcpdump sees it there', async (t) => {
  const [n1, n2] = cluster.nodes;
  const path = join(cluster.lab.directory, 'outer.pcapng');
  await capturing(t, n1, ['--outer', '--pod', 'default/a', '-w', path], async () => {
    await askWeb();
  });
  const { linkTypes, packets } = await readPackets(path);
  t.deepEqual([...linkTypes], [LINKTYPE_ETHERNET]);
  t.true(packets.length >= 6);
  const text = await n1.run(['tcpdump', '-nn', '-v', '-T', 'vxlan', '-r', path]);
  const escape = (it: string): string => it.replaceAll('.', '\\.');
  const between = `${escape(n1.underlay4!)}\\.\\d+ > ${escape(n2.underlay4!)}\\.8472: `;
  t.regex(text, new RegExp(`${between}VXLAN, flags \\[I\\] \\(0x08\\), vni 1`));
  t.notRegex(text, /bad cksum|bad length|truncated|\[\|/);
});

test.serial('a line says which policy dropped a packet, on the node that did', async (t) => {
  const deny = netpol('deny', { podSelector: { matchLabels: { app: 'web' } }, ingress: [] });
  await cluster.put(deny);
  t.is(await answerOf(a, { protocol: 'TCP', address, port: 8080 }, /^nothing/), 'nothing');
  const lines = await capturing(
    t,
    cluster.nodes[1],
    ['--reason', 'any', '--peer', cluster.nodes[0].underlay4!],
    async () => {
      await a.ask({ protocol: 'TCP', address, port: 8080, timeoutMs: 400 });
    },
  );
  t.regex(
    lines,
    /ingress TCP \S+ > \S+:8080 SYN, \d+ bytes {2}dropped: policyIngress, NetworkPolicy default\/deny isolates pod default\/b for ingress; no rule allows it/,
  );
  t.notRegex(lines, /forwarded/);
  await cluster.remove(deny);
  t.regex(await askWeb(), / b$/);
});

test.serial('a capture ends by its count, and what is asked wrong is refused', async (t) => {
  const [node] = cluster.nodes;
  const weft = (...words: readonly string[]) =>
    node.run([WEFT, 'capture', `--state-dir=${node.stateDir}`, ...words]);
  let isDone = false;
  const counted = weft('--count', '3', '--pod', 'default/a').finally(() => (isDone = true));
  await poll(async () => {
    await askWeb();
    return isDone || undefined;
  }, within(8000));
  t.is((await counted).trim().split('\n').length, 3);
  t.is(await weft('--duration', '200ms', '--port', '9'), '');
  for (const [words, message] of [
    [['--pod', 'default/nobody'], /there is no pod default\/nobody/],
    [['--peer', 'n7'], /no node is called "n7"; there are n1/],
    [['--reason', 'sunspots'], /no drop reason/],
    [['--port', '70000'], /port: "70000"/],
  ] as const) {
    await t.throwsAsync(weft(...words), { message });
  }
});

test.serial('captures end with their clients; five at once are one too many', async (t) => {
  const [node] = cluster.nodes;
  const words = [WEFT, 'capture', `--state-dir=${node.stateDir}`, '--port', '9'];
  const running = await Promise.all(
    Array.from({ length: 4 }, (_, i) =>
      node.start(words, { logFile: join(cluster.lab.directory, `four-${i}.log`) }),
    ),
  );
  const refused = await poll(
    () =>
      node.run([...words, '--duration', '1ms']).then(
        () => undefined,
        (error: Error) => error.message,
      ),
    within(8000),
  );
  t.regex(refused, /4 captures run on this node already/);
  await Promise.all(running.map((it) => it.stop('SIGKILL')));
  const last = await poll(
    () => node.run([...words, '--duration', '1ms']).catch(() => undefined),
    within(5000),
  );
  t.is(last, '');
});
