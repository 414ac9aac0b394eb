/**
 * The daemon as a whole, with an etcd of its own, in namespaces of its own:
 *
 *     +------------- node --------------+            +---- peer ----+
 *     |  eth0 192.0.2.1/24, fd31::1/64  |------------|  192.0.2.2   |
 *     |  weftp... (one test only)       |--- pod     |  fd31::2     |
 *     +---------------------------------+            +--------------+
 */
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { apply, listAddresses, listLinks, listRoutes, words } from '../linux/ip.ts';
import { createNamespace, deleteNamespace, readSysctl, writeSysctls } from '../linux/netns.ts';
import { type Running, collect, poll, run, start } from '../linux/program.ts';
import { labPrefix, openRun, removeRun } from '../test/lab/run.ts';
import type { LeaseMessage, LeasesMessage, StatusMessage } from './messages.ts';
import { findProgram } from './programs.ts';

/** A program: `FROM TO PORT`, one datagram. */
const SEND_DATAGRAM = `
  const [from, to, port] = process.argv.slice(1);
  const socket = require('node:dgram').createSocket('udp4');
  socket.bind(0, from, () => socket.send('x', Number(port), to, () => socket.close()));
`;

const WEFT = join(import.meta.dirname, '..', 'bin', 'weft');
const lab = openRun(labPrefix());
const dir = lab.directory;
const netns = `${lab.name}-node`;
const outside = `${lab.name}-peer`;
const stateDir = join(dir, 'state');
const subnetFile = join(dir, 'subnet.env');
const flowFile = join(dir, 'flows');
const logFile = join(dir, 'daemon.log');
const HEALTHZ_PORT = 10_256;
const SETTINGS = [
  'net.ipv4.ip_forward',
  'net.ipv4.ip_early_demux',
  'net.ipv6.conf.all.forwarding',
  'net.ipv6.conf.eth0.accept_ra',
];

const common = [`--state-dir=${stateDir}`];
const daemonArgs = [
  WEFT,
  'daemon',
  ...common,
  `--subnet-file=${subnetFile}`,
  `--flow-file=${flowFile}`,
  '--iface=eth0',
  '--node-name=n1',
  '--network=10.244.0.0/16',
  '--ipv6-network=fd00:10:244::/56',
  '--ip-masq',
  '--healthz-ip=127.0.0.1',
  `--healthz-port=${HEALTHZ_PORT}`,
];
const cleanupArgs = [
  'cleanup',
  ...common,
  `--subnet-file=${subnetFile}`,
  `--flow-file=${flowFile}`,
];

const weft = (...args: string[]) => collect([WEFT, ...args], { netns });
/** Also where something is wrong, and the exit code says so. */
const ask = async <T>(...args: string[]): Promise<T> =>
  JSON.parse((await weft(...args, '-o', 'json', ...common)).stdout) as T;

async function health(path: string): Promise<{ status: number; body: string }> {
  const script = `const r = await fetch(process.argv[1]); console.log(r.status + ' ' + await r.text())`;
  const url = `http://127.0.0.1:${HEALTHZ_PORT}${path}`;
  const text = await run([process.execPath, '--input-type=module', '-e', script, url], { netns });
  return { status: Number(text.slice(0, 3)), body: text.slice(4).trim() };
}

const startDaemon = (...extra: string[]): Promise<Running> =>
  start([...daemonArgs, ...extra], {
    netns,
    logFile,
    readyTimeoutMs: 30_000,
    ready: {
      condition: (signal) =>
        poll(async () => {
          const { stdout } = await weft('status', '-o', 'json', ...common);
          if (stdout === '') return undefined;
          return (JSON.parse(stdout) as StatusMessage).ready ? true : undefined;
        }, signal),
    },
  });

/** What the host has of ours, and its settings: equal before a daemon and after a cleanup. */
async function traces(): Promise<unknown> {
  const [addresses, routes4, routes6, ruleset, settings] = await Promise.all([
    listAddresses({ netns }),
    listRoutes({ netns, family: 4 }),
    listRoutes({ netns, family: 6 }),
    run(['nft', '--stateless', 'list', 'ruleset'], { netns }),
    Promise.all(SETTINGS.map((it) => readSysctl(it, netns))),
  ]);
  const links = addresses.map((it) => [it.ifname, it.addr_info.map((a) => a.local)]);
  return { links, routes4, routes6, ruleset, settings };
}

test.before(async () => {
  await createNamespace(netns);
  await createNamespace(outside);
  await apply([words`link add eth0 type veth peer name eth0 netns ${outside}`], { netns });
  for (const [it, number] of [
    [netns, 1],
    [outside, 2],
  ] as const) {
    await apply(
      [
        words`link set eth0 up`,
        words`address add ${`192.0.2.${number}/24`} dev eth0`,
        words`address add ${`fd31::${number}/64`} dev eth0 nodad`,
      ],
      { netns: it },
    );
  }
  await writeSysctls({ 'net.ipv4.ip_forward': 0, 'net.ipv6.conf.all.forwarding': 0 }, netns);
});

test.after.always(() => removeRun(lab));

for (const [title, extra, stderr] of [
  ['unknown option', ['--workerz=1'], 'there is no option "--workerz" (did you mean "workers"?)'],
  ['wrong value', ['--workers=0'], '--workers: "0" is not a whole number in 1..64'],
  ['wrong CIDR', ['--network=10.244.0.1/16'], '--network: "10.244.0.1/16" has host bits set'],
  ['wrong address', ['--public-ip=1.2.3.4.5'], '--public-ip: "1.2.3.4.5" is not an IPv4 address'],
  ['no such interface', ['--iface=eth9'], '--iface: there is no interface "eth9"'],
  ['no default route', ['--iface='], '--iface: there is no default route'],
  ['unreadable file', ['--config=/nope'], '--config: /nope cannot be read (ENOENT)'],
  ['an option twice', ['--node-name=a'], '--node-name is given more than once'],
  ['a word too many', ['now'], 'there is no command "now"'],
] as const) {
  test.serial(`refused before anything is touched: ${title}`, async (t) => {
    const before = await traces();
    const isWord = !extra[0].startsWith('--');
    const name = extra[0].split('=')[0]!;
    const rest = daemonArgs
      .slice(1)
      .filter((it) => title === 'an option twice' || isWord || !it.startsWith(`${name}=`));
    const { exitCode, stdout, stderr: said } = await weft(...rest, ...extra);
    t.is(exitCode, 2);
    t.is(stdout, '');
    t.true(said.startsWith(`weft: ${stderr}`), said);
    t.is(said.trim().split('\n').length, 1);
    t.false(existsSync(stateDir));
    t.false(existsSync(subnetFile));
    t.deepEqual(await traces(), before);
  });
}

test.serial('without etcd, one line says what to install', async (t) => {
  const empty = mkdtempSync(join(dir, 'bin-'));
  for (const name of ['ip', 'nft']) symlinkSync(findProgram(name)!, join(empty, name));
  const node = join(import.meta.dirname, 'main.ts');
  const { exitCode, stderr } = await collect([process.execPath, node, ...daemonArgs.slice(1)], {
    netns,
    env: { PATH: empty },
  });
  t.is(exitCode, 2);
  t.is(
    stderr,
    'weft: etcd is not installed; run: apt-get install etcd-server, ' +
      'or name a cluster with --etcd-endpoints\n',
  );
  t.false(existsSync(stateDir));
});

test.serial('without a daemon, the commands say so', async (t) => {
  const { exitCode, stderr } = await weft('status', ...common);
  t.is(exitCode, 1);
  t.is(stderr, `weft: no weft daemon answers in ${stateDir}; start one, or name its --state-dir\n`);
});

test.serial('--print-config touches nothing', async (t) => {
  const { exitCode, stdout } = await weft(...daemonArgs.slice(1), '--print-config');
  t.is(exitCode, 0);
  t.regex(stdout, /^tun-name: weft0 {2}# default$/m);
  t.regex(stdout, /^ip-masq: true {2}# flag --ip-masq$/m);
  t.false(existsSync(stateDir));
});

test.serial(
  'a life: start, status, repair, second instance, kill, restart, stop, cleanup',
  async (t) => {
    const before = await traces();
    let daemon = await startDaemon();

    const first = await ask<StatusMessage>('status');
    t.like(first, { node: 'n1', forwarding: true, ready: true, reasons: [], peers: [] });
    t.true(first.etcd.own);
    t.is(first.overlay!.mtuBytes, 1430);
    t.is(statSync(join(stateDir, 'weft.sock')).mode & 0o777, 0o600);
    t.is(statSync(stateDir).mode & 0o777, 0o700);
    const { subnet, ipv6Subnet } = first.lease!;
    const own4 = subnet!.replace('/24', '');
    const own6 = ipv6Subnet!.replace('/64', '');

    // The host.
    const tun = (await listAddresses({ netns })).find((it) => it.ifname === 'weft0')!;
    t.is(tun.mtu, 1430);
    t.deepEqual(
      tun.addr_info.map((it) => `${it.local}/${it.prefixlen}`),
      [`${own4}/32`, `${own6}/128`],
    );
    const overlayRoute = async (): Promise<unknown> =>
      (await listRoutes({ netns })).find((it) => it.dst === '10.244.0.0/16');
    t.like(await overlayRoute(), { dev: 'weft0', prefsrc: own4, protocol: '157' });
    t.deepEqual(await Promise.all(SETTINGS.map((it) => readSysctl(it, netns))), [
      '1',
      '0',
      '1',
      '2',
    ]);
    t.is(await readSysctl('net.ipv4.conf.weft0.accept_local', netns), '1');
    t.is((await run(['ping', '-c1', '-W2', own4], { netns })).includes('1 received'), true);
    t.regex(readFileSync(subnetFile, 'utf8'), /^FLANNEL_MTU=1430$/m);

    // Health.
    const objects = '{"listed":true,"policies":0,"services":0,"problems":0,"failure":null}';
    const ok = `{"status":"ok","ready":true,"reasons":[],"objects":${objects}}`;
    t.deepEqual(await health('/healthz'), { status: 200, body: ok });
    t.deepEqual(await health('/readyz'), { status: 200, body: ok });
    t.is((await health('/v1/status')).status, 404);
    t.deepEqual(await health('/livez'), { status: 200, body: 'ok' });
    const checks = ['packet-path', 'lease', 'peers', 'host', 'objects', 'store'];
    const verbose = [...checks.map((it) => `[+]${it} ok`), 'readyz check passed'].join('\n');
    t.deepEqual(await health('/readyz?verbose'), { status: 200, body: verbose });
    const { status, body: metrics } = await health('/metrics');
    t.is(status, 200);
    for (const line of [
      'weft_ready 1',
      'weft_store_up 1',
      'weft_lease_held 1',
      'weft_flows_max 262144',
      'weft_drops_total{reason="policyEgress",direction="egress"} 0',
      'weft_host_drops_total{reason="vxlanFromPod"} 0',
      'weft_offload_in_use{offload="batch"} 1',
    ]) {
      t.true(metrics.includes(`\n${line}\n`), line);
    }
    t.regex(metrics, /^weft_lease_left_seconds 8[0-9]{4}\.?[0-9]*$/m);

    // Leases.
    const { leases } = await ask<LeasesMessage>('leases');
    t.deepEqual(
      leases.map((it) => it.key),
      [first.lease!.key],
    );
    t.true((await ask<LeaseMessage>('lease', 'show', '192.0.2.1')).own);
    t.is((await weft('lease', 'show', '10.9.9.0-24', ...common)).exitCode, 1);

    // A second one on the same state.
    const second = await weft(...daemonArgs.slice(1));
    t.is(second.exitCode, 2);
    t.is(
      second.stderr,
      `weft: another weft runs with the state directory ${stateDir}; stop it first\n`,
    );
    t.is((await weft(...cleanupArgs)).exitCode, 2);

    // Killed outright: its etcd goes with it, and the next daemon is the same node.
    const etcdPids = async (): Promise<string> =>
      (await collect(['pgrep', '-f', `data-dir=${stateDir}/etcd`])).stdout;
    t.not(await etcdPids(), '');
    await daemon.stop('SIGKILL');
    await poll(
      async () => ((await etcdPids()) === '' ? true : undefined),
      AbortSignal.timeout(10_000),
    );
    const indexOf = async () =>
      (await listLinks({ netns })).find((it) => it.ifname === 'weft0')?.ifindex;
    const index = await indexOf();
    daemon = await startDaemon();
    const again = await ask<StatusMessage>('status');
    t.is(again.lease!.key, first.lease!.key);
    t.is(again.lease!.vtepMac, first.lease!.vtepMac);
    t.is(await indexOf(), index);

    // The host as the first one left it: nothing is set again, and counters count on.
    const changes = readFileSync(logFile, 'utf8').match(/"nft":true/g);
    t.is(changes?.length, 1);

    // Stopped: what only makes sense while running goes, the rest stays.
    t.is(await daemon.stop('SIGTERM'), 0);
    t.is(await etcdPids(), '');
    t.false(existsSync(join(stateDir, 'weft.sock')));
    t.is(await indexOf(), index);
    t.like(await overlayRoute(), { dev: 'weft0' });
    t.true((await run(['nft', 'list', 'tables'], { netns })).includes('table inet weft'));
    t.true(existsSync(subnetFile));
    const lines = readFileSync(logFile, 'utf8').trim().split('\n');
    t.notThrows(() => lines.map((it) => JSON.parse(it) as unknown), 'one JSON object a line');
    t.regex(await run([WEFT, 'logs', logFile]), /INFO {2}ready/);

    // Cleaned up, twice.
    const cleaned = await weft(...cleanupArgs, '--release-lease', '--purge');
    t.is(cleaned.exitCode, 0, cleaned.stderr);
    t.true(cleaned.stdout.startsWith(`removed lease ${first.lease!.key}\n`), cleaned.stdout);
    t.deepEqual(await traces(), before);
    t.false(existsSync(stateDir));
    t.false(existsSync(subnetFile));
    t.is((await weft(...cleanupArgs)).stdout, 'nothing to remove\n');
  },
);

test.serial('a host state that somebody broke comes back', async (t) => {
  await using _daemon = await startDaemon('--log-level=debug');
  await run(['nft', 'flush', 'chain', 'inet', 'weft', 'forward'], { netns });
  await apply([words`route del 10.244.0.0/16 dev weft0`], { netns });
  // Any event makes the loop look again: here, another node's lease.
  const { etcd } = await ask<StatusMessage>('status');
  await putLease(etcd.endpoints[0]!, '10.244.200.0-24', '192.0.2.2');
  await poll(async () => {
    const routes = await listRoutes({ netns });
    return routes.some((it) => it.dst === '10.244.0.0/16') ? true : undefined;
  }, AbortSignal.timeout(10_000));
  t.regex(await run(['nft', 'list', 'chain', 'inet', 'weft', 'forward'], { netns }), /drop/);
  const { peers } = await ask<StatusMessage>('status');
  t.deepEqual(
    peers.map((it) => [it.subnet, it.publicIp]),
    [['10.244.200.0/24', '192.0.2.2']],
  );
  // Without an etcd lease it is a reservation, and stays unless that is said.
  const release = ['lease', 'release', '192.0.2.2', ...common];
  const refused = await weft(...release);
  t.is(refused.exitCode, 1);
  t.regex(refused.stderr, /^weft: 10\.244\.200\.0-24 is a reservation; say --reservations$/m);
  t.is((await weft(...release, '--reservations')).stdout, 'released 10.244.200.0-24\n');
});

async function putLease(endpoint: string, key: string, publicIp: string): Promise<void> {
  const BackendData = { VNI: 1, VtepMAC: '02:00:00:00:00:02' };
  const value = JSON.stringify({
    PublicIP: publicIp,
    PublicIPv6: null,
    BackendType: 'vxlan',
    BackendData,
  });
  const argv = [
    'etcdctl',
    `--endpoints=${endpoint}`,
    'put',
    `/coreos.com/network/subnets/${key}`,
    value,
  ];
  await run(argv, { netns, env: { ETCDCTL_API: '3' } });
}

async function hasDirectRoute(wanted: boolean): Promise<true | undefined> {
  const route = (await listRoutes({ netns })).find((it) => it.dst === '10.244.201.0/24');
  return (route?.gateway === '192.0.2.2') === wanted ? true : undefined;
}

test.serial(
  'direct routing: a peer on our link has a plain route, while it is there',
  async (t) => {
    await using _daemon = await startDaemon('--direct-routing');
    const { etcd } = await ask<StatusMessage>('status');
    await putLease(etcd.endpoints[0]!, '10.244.201.0-24', '192.0.2.2');
    t.true(await poll(() => hasDirectRoute(true), AbortSignal.timeout(10_000)));
    await weft('lease', 'release', '10.244.201.0-24', '--reservations', ...common);
    t.true(await poll(() => hasDirectRoute(false), AbortSignal.timeout(10_000)));
  },
);

test.serial(
  'an etcd that does not answer: waits, says so, touches nothing, ends when asked',
  async (t) => {
    await weft(...cleanupArgs, '--purge');
    const before = await traces();
    const argv = daemonArgs.filter((it) => !it.includes('network='));
    const daemon = await start([...argv, '--etcd-endpoints=http://127.0.0.1:1'], {
      netns,
      logFile,
    });
    const reason = await poll(async () => {
      const { exitCode, stdout } = await weft('status', '-o', 'json', ...common);
      t.is(exitCode, 1);
      if (stdout === '') return undefined;
      const { ready, forwarding, reasons, findings } = JSON.parse(stdout) as StatusMessage;
      t.false(ready || forwarding);
      t.is(findings[0]?.code, 'lease-none');
      return reasons.find((it) => it.startsWith('no network config: '));
    }, AbortSignal.timeout(20_000));
    t.truthy(reason);
    const { status, body } = await health('/healthz');
    t.is(status, 503);
    t.true(body.includes('no network config'), body);
    t.deepEqual(await health('/livez'), { status: 200, body: 'ok' });
    const verbose = await health('/readyz?verbose');
    t.is(verbose.status, 503);
    t.regex(verbose.body, /^\[-\]store failed: no network config: /m);
    t.regex((await health('/metrics')).body, /^weft_store_up 0$/m);
    t.is((await weft('leases', ...common)).exitCode, 1);
    t.deepEqual(await traces(), before);
    t.is(await daemon.stop('SIGTERM'), 0);
  },
);

test.serial('a start that fails ends the process, in one line', async (t) => {
  const args = daemonArgs.filter((it) => !it.startsWith('--flow-file='));
  const daemon = await start([...args, '--flow-file=/proc/weft/flows'], { netns, logFile });
  t.is(await Promise.race([daemon.exited, sleep(20_000, 'still there')]), 1);
  t.regex(readFileSync(logFile, 'utf8'), /^weft: ENOENT: .*\/proc\/weft/m);
});

test.serial('giving back our own lease ends the daemon', async (t) => {
  const daemon = await startDaemon();
  t.regex((await weft('lease', 'release', 'own', ...common)).stdout, /^released 10\.244\./);
  t.is(await daemon.exited, 0);
});

test.serial('an etcd that ends by itself is started again', async (t) => {
  await using _daemon = await startDaemon();
  const pid = Number((await run(['pgrep', '-f', `^[^ ]*etcd .*data-dir=${stateDir}/etcd`])).trim());
  const turns = async (status: number): Promise<void> => {
    await poll(
      async () => ((await health('/readyz')).status === status ? true : undefined),
      AbortSignal.timeout(60_000),
    );
  };
  // Away, and nobody starts another: only readiness turns red, what is known is forwarded.
  process.kill(pid, 'SIGSTOP');
  await turns(503);
  t.is((await health('/healthz')).status, 200);
  t.deepEqual(await health('/livez'), { status: 200, body: 'ok' });
  const { status, body } = await health('/readyz?verbose');
  t.is(status, 503);
  t.regex(body, /^\[\+\]lease ok\n[^]*^\[-\]store failed: etcd: /m);
  t.true(body.endsWith('readyz check failed'));
  process.kill(pid, 'SIGCONT');
  await turns(200);
  process.kill(pid, 'SIGKILL');
  await poll(async () => {
    const now = await collect(['pgrep', '-f', `^[^ ]*etcd .*data-dir=${stateDir}/etcd`]);
    const alive = now.stdout.trim() !== '' && Number(now.stdout.trim()) !== pid;
    return alive ? true : undefined;
  }, AbortSignal.timeout(15_000));
  await poll(async () => {
    const { exitCode } = await weft('leases', ...common);
    return exitCode === 0 ? true : undefined;
  }, AbortSignal.timeout(30_000));
  await turns(200);
});

test.serial(
  'a pod is masqueraded, and reaches no VXLAN port, not even by a forged address',
  async (t) => {
    await using _daemon = await startDaemon();
    const pod = `${lab.name}-pod`;
    await createNamespace(pod);
    try {
      const { ips } = JSON.parse(
        await run([`${WEFT}-cni`], {
          netns,
          env: {
            CNI_COMMAND: 'ADD',
            CNI_CONTAINERID: 'pod',
            CNI_NETNS: `/run/netns/${pod}`,
            CNI_IFNAME: 'eth0',
            CNI_PATH: '/',
          },
          input: JSON.stringify({
            cniVersion: '1.1.0',
            name: 'weft',
            type: 'weft-cni',
            socket: join(stateDir, 'weft.sock'),
          }),
        }),
      ) as { ips: { address: string }[] };
      const address = ips[0]!.address.replace('/32', '');
      await apply([words`address add 192.0.2.77/32 dev eth0`], { netns: pod });
      const refused = async (): Promise<readonly (number | undefined)[]> => {
        const { counters } = await ask<StatusMessage>('status');
        return [counters['host.vxlanFromPod'], counters['host.spoofedSource']];
      };
      const send = (from: string, to: string, port: number): Promise<string> =>
        run([process.execPath, '--eval', SEND_DATAGRAM, from, to, `${port}`], { netns: pod });
      for (const [from, to, expected] of [
        [address, '192.0.2.2', '1,0'],
        ['192.0.2.77', '192.0.2.2', '1,1'],
        [address, '192.0.2.1', '2,1'],
        ['192.0.2.77', '192.0.2.1', '2,2'],
      ] as const) {
        await send(from, to, 8472);
        await poll(
          async () => ((await refused()).join(',') === expected ? true : undefined),
          AbortSignal.timeout(5_000),
        );
      }
      await send(address, '192.0.2.2', 8473);
      // The peer knows no way back to pods: an answer means that the node's address was the source.
      await run(['ping', '-c1', '-W2', '-I', address, '192.0.2.2'], { netns: pod });
      t.deepEqual(await refused(), [2, 2], 'another port, and another protocol, pass');
    } finally {
      await deleteNamespace(pod);
    }
  },
);

test.serial('objects of a directory: counted, and what is wrong with them is told', async (t) => {
  const objects = mkdtempSync(join(dir, 'objects-'));
  const policy = (name: string): string =>
    JSON.stringify({
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { namespace: 'default', name },
      spec: { podSelector: {} },
    });
  writeFileSync(join(objects, 'one.json'), policy('one'));
  await using _daemon = await startDaemon(`--objects=${objects}`);
  const known = async () => (await ask<StatusMessage>('status')).objects;
  t.deepEqual(await known(), {
    listed: true,
    policies: 1,
    services: 0,
    problems: [],
    failure: null,
  });
  writeFileSync(join(objects, 'two.json'), policy('two'));
  writeFileSync(join(objects, 'wrong.json'), policy('Not A Name'));
  const later = await poll(async () => {
    const it = await known();
    return it?.policies === 2 && it.problems.length > 0 ? it : undefined;
  }, AbortSignal.timeout(15_000));
  t.regex(later.problems[0]!, /wrong\.json/);
  const { stdout, exitCode } = await weft('status', ...common);
  t.is(exitCode, 1);
  t.regex(stdout, /^warning: 1 problems with objects: .*wrong\.json.* \[objects-invalid\]$/m);
  t.regex((await weft('status', '--brief', ...common)).stdout, /^wrong n1, 10\.244\..*\n$/);
  t.regex(stdout, /^policies +2$/m);
  t.regex(stdout, /^problems +1\n +.*wrong\.json/m);
  t.true((await health('/readyz')).body.includes('"policies":2,"services":0,"problems":1'));
});

test.serial('a plain overlay: no mark, no sets, no route for Services', async (t) => {
  const host = async () => [
    (await run(['ip', 'rule'], { netns })).includes('fwmark'),
    (await run(['ip', 'route'], { netns })).includes('10.96.0.0/12'),
    (await run(['nft', 'list', 'table', 'inet', 'weft'], { netns })).includes('services4'),
  ];
  {
    await using _daemon = await startDaemon();
    t.deepEqual(await host(), [true, true, true]);
  }
  await using _daemon = await startDaemon('--max-flows=0');
  t.is((await ask<StatusMessage>('status')).objects, null);
  t.deepEqual(await host(), [false, false, false]);
});
