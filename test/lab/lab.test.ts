import { readFile } from 'node:fs/promises';
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { IpError, apply, words } from '../../linux/ip.ts';
import { SysctlError, listNamespaces, readSysctl, writeSysctls } from '../../linux/netns.ts';
import { ProgramError, type Running, collect, run, start } from '../../linux/program.ts';
import { formatCidr } from '../../wire/cidr.ts';
import { createLab, parseSubnetFile, reaches } from './lab.ts';
import { LabLeftoverError, labPrefix } from './run.ts';
import { blastUdp, bulkTcp, ping, pingPong, startEcho, streamUdp } from './traffic/traffic.ts';

// Nobody else's labs have one that begins so: what is left of these must be nothing.
const prefix = `${labPrefix()}z`;

/** Everything of the default namespace that a lab could have touched. */
async function defaultNamespace(): Promise<Record<string, string>> {
  const programs = [
    'ip -json link',
    'ip -json addr',
    'ip -json -4 route show table all',
    'ip -json -6 route show table all',
    'ip -json -4 rule',
    'ip -json -6 rule',
    'nft list ruleset',
  ];
  const sysctls = ['ipv4', 'ipv6'].flatMap((family) =>
    ['all', 'default'].flatMap((scope) =>
      readdirSync(`/proc/sys/net/${family}/conf/${scope}`)
        .filter((name) => name !== 'stable_secret') // unreadable until it is set
        .map((name) => `/proc/sys/net/${family}/conf/${scope}/${name}`),
    ),
  );
  const state: Record<string, string> = {};
  for (const line of programs) {
    const text = await run(line.split(' '));
    // Lifetimes run down by themselves.
    state[line] = text.replaceAll(/"(valid_life_time|preferred_life_time|expires)":\d+/g, '');
  }
  for (const path of [...sysctls, '/proc/sys/net/ipv4/ip_forward']) {
    state[path] = await readFile(path, 'utf8');
  }
  return state;
}

const traces = async (wanted: string): Promise<string[]> => [
  ...(await listNamespaces()).filter((name) => name.startsWith(`${wanted}-`)),
  ...readdirSync(tmpdir()).filter((name) => name.startsWith(`weft-lab-${wanted}-`)),
];

test.serial('a lab carries traffic and leaves nothing on the host', async (t) => {
  const before = await defaultNamespace();
  const own = `${prefix}a`;
  const programs: Running[] = [];
  {
    await using lab = await createLab({ nodes: 2, podsPerNode: 2, prefix: own });
    for (const node of lab.nodes) await node.startKernelVxlan();
    await lab.attachPods();
    for (const from of [...lab.nodes, ...lab.pods]) {
      for (const to of lab.pods) for (const address of to.addresses) await reaches(from, address);
    }
    const [a, , b] = lab.pods;
    const echo = await startEcho(b!, b!.address4!);
    programs.push(echo);
    t.true((await bulkTcp(a!, b!, b!.address6!)).bytes > 0);
    t.true((await bulkTcp(a!, b!, b!.address4!, { reverse: true, streams: 2 })).bytes > 0);
    t.true((await blastUdp(a!, b!, b!.address4!, { bytes: 64, seconds: 0.2 })).packets > 0);
    const stream = { port: 9002, packetsPerSecond: 1000, seconds: 1 };
    const { sent, lost } = await streamUdp(a!, b!, b!.address4!, stream);
    t.true(sent > 900 && sent <= 1000);
    t.is(lost, 0);
    const everyTenth = '-p udp -m statistic --mode nth --every 10 --packet 9 -j DROP'.split(' ');
    await b!.run(['iptables-legacy', '-A', 'INPUT', ...everyTenth]);
    const thinned = await streamUdp(a!, b!, b!.address4!, stream);
    t.true(Math.abs(thinned.lost - thinned.sent / 10) <= 1, JSON.stringify(thinned));
    t.is(thinned.longestGap, 1);
    const { p50Us, p99Us } = await pingPong(a!, b!.address4!, { seconds: 0.2 });
    t.true(p50Us > 0 && p99Us >= p50Us);
    t.true((await traces(own)).length > 0);
  }
  t.deepEqual(await traces(own), []);
  // Killed by a signal: no exit code.
  t.deepEqual(await Promise.all(programs.map(({ exited }) => exited)), [null]);
  t.deepEqual(await defaultNamespace(), before);
});

for (const families of ['dual', 4, 6] as const) {
  test.serial(`underlay routed, families ${families}: the path MTU is the router's`, async (t) => {
    await using lab = await createLab({
      nodes: 2,
      families,
      underlay: 'routed',
      prefix: `${prefix}b`,
    });
    const [n1, n2] = lab.nodes;
    const rows = [
      [n2!.underlay4, 28],
      [n2!.underlay6, 48],
    ] as const;
    for (const [address, headers] of rows) {
      if (address === null) continue;
      const whole = { bytes: 1500 - headers, dontFragment: true };
      t.is((await ping(n1!, address, whole)).received, 1, `${address} at 1500`);
    }
    await lab.setPathMtu(n2!, 1400);
    for (const [address, headers] of rows) {
      if (address === null) continue;
      const over = { bytes: 1401 - headers, dontFragment: true };
      const within = { bytes: 1400 - headers, dontFragment: true };
      t.is((await ping(n1!, address, over)).received, 0, `${address} at 1401`);
      t.is((await ping(n1!, address, within)).received, 1, `${address} at 1400`);
    }
  });
}

const dyingLab = join(import.meta.dirname, 'fixtures', 'dying-lab.ts');

test.serial(
  'a killed lab fails the next one, which names every trace and the remedy',
  async (t) => {
    const own = `${prefix}c`;
    const env = { LAB_PREFIX: own };
    // What the prefix begins with is enough.
    const clean = (): Promise<string> =>
      run([process.execPath, join(import.meta.dirname, 'clean.ts')], {
        env: { LAB_PREFIX: prefix },
      });
    t.teardown(async () => void (await clean()));
    const crash = await collect([process.execPath, dyingLab, 'crash'], { env });
    t.is(crash.stdout, 'built\n', crash.stderr);
    const left = await traces(own);
    t.is(left.filter((name) => name.endsWith('-n1')).length, 1);
    const error = await t.throwsAsync(createLab({ nodes: 1, prefix: own }), {
      instanceOf: LabLeftoverError,
      code: 'ERR_LAB_LEFTOVER',
    });
    for (const name of left) t.true(error.message.includes(name), name);
    t.regex(error.message, /process \d+/);
    t.true(error.message.endsWith(`LAB_PREFIX=${own} node test/lab/clean.ts`));
    await clean();
    t.deepEqual(await traces(own), []);
  },
);

for (const [ending, exitCode] of [
  ['throw', 1],
  ['exit', 3],
  ['SIGINT', null],
  ['SIGTERM', null],
] as const) {
  test.serial(`a lab that ends by ${ending} leaves nothing`, async (t) => {
    const own = `${prefix}d`;
    const env = { LAB_PREFIX: own };
    if (exitCode === null) {
      const lab = await start([process.execPath, dyingLab, 'signal'], {
        env,
        ready: { line: /^built$/ },
      });
      t.is(await lab.stop(ending), exitCode);
    } else {
      const lab = await collect([process.execPath, dyingLab, ending], { env });
      t.is(lab.exitCode, exitCode, lab.stderr);
    }
    t.deepEqual(await traces(own), []);
  });
}

test.serial('a daemon that does not become ready says why', async (t) => {
  await using lab = await createLab({ nodes: 1, families: 4, prefix: `${prefix}e` });
  const [node] = lab.nodes;
  await t.throwsAsync(node!.start(['cat', '/absent'], { ready: { line: /ready/ } }), {
    instanceOf: ProgramError,
    message: /exit code 1 before it was ready: .*\/absent/,
  });
  await t.throwsAsync(node!.start(['sleep', '9'], { ready: { line: /x/ }, readyTimeoutMs: 50 }), {
    message: /not ready after 50 ms/,
  });
});

test.serial('a batch stops at its first failure and names it', async (t) => {
  await using lab = await createLab({ nodes: 1, families: 4, prefix: `${prefix}f` });
  const { netns } = lab.nodes[0]!;
  const error = await t.throwsAsync(
    apply(
      [
        words`route add 10.1.0.0/16 dev eth0`,
        words`route add 10.1.0.0/16 dev eth0`,
        words`link set absent up`,
      ],
      { netns },
    ),
    { instanceOf: IpError },
  );
  t.is(error.failedAt, 1);
  t.is(error.answer, 'RTNETLINK answers: File exists');
  t.is(
    error.message,
    `ip route add 10.1.0.0/16 dev eth0 in namespace ${netns}: RTNETLINK answers: File exists; 2 of 3 not done`,
  );
});

test.serial('sysctls are those of the namespace', async (t) => {
  await using lab = await createLab({ nodes: 1, families: 4, prefix: `${prefix}g` });
  const { netns } = lab.nodes[0]!;
  const before = await readSysctl('net.ipv4.ip_default_ttl');
  await writeSysctls({ 'net.ipv4.ip_default_ttl': 99 }, netns);
  t.is(await readSysctl('net.ipv4.ip_default_ttl', netns), '99');
  t.is(await readSysctl('net.ipv4.ip_default_ttl'), before);
  const code = { instanceOf: SysctlError, code: 'ERR_SYSCTL' };
  await t.throwsAsync(writeSysctls({ 'net.ipv4.ip_forward': 'maybe' }, netns), code);
  await t.throwsAsync(readSysctl('net.ipv4.absent', netns), code);
  await t.throwsAsync(readSysctl('net/../../../etc/passwd'), code);
});

for (const [name, text, expected] of [
  [
    'IPv4',
    'FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n',
    ['10.244.7.0/24', null, 1450],
  ],
  [
    'dual stack',
    'FLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_IPV6_SUBNET=fd00:5::1/64\nFLANNEL_MTU=8930\n',
    ['10.5.72.0/24', 'fd00:5::/64', 8930],
  ],
  ['cut short', 'FLANNEL_SUBNET=10.5.72.1/24\n', null],
  ['empty', '', null],
] as const) {
  test(`subnet file: ${name}`, (t) => {
    if (expected === null) {
      t.throws(() => parseSubnetFile(text), { message: /not a subnet file/ });
      return;
    }
    const file = parseSubnetFile(text);
    const show = (block: typeof file.subnet4): string | null =>
      block === null ? null : formatCidr(block);
    t.deepEqual([show(file.subnet4), show(file.subnet6), file.mtuBytes], [...expected]);
  });
}
