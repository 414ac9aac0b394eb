/**
 * The CNI plugin as a runtime runs it: the program of the checkout and the installed file, each with
 * libcni's environment, against a daemon that only records what it is asked. Unix sockets have paths, so
 * the daemon need not be in the namespace, which is there for DEL to clean up in.
 */
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { type Server, type Socket, createServer as createSocketServer } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import type { CniAnswer, CniRequest } from '../../daemon/messages.ts';
import { apply, listLinks, words } from '../../linux/ip.ts';
import { createNamespace } from '../../linux/netns.ts';
import { collect, run, start } from '../../linux/program.ts';
import { labPrefix, openRun, removeRun } from '../lab/run.ts';

const HOUSE = join(import.meta.dirname, '..', '..');
const WEFT = join(HOUSE, 'bin', 'weft');
const lab = openRun(labPrefix());
const netns = `${lab.name}-host`;
const stateDir = join(lab.directory, 'state');
const socket = join(stateDir, 'weft.sock');
const binDir = join(lab.directory, 'bin');
const confDir = join(lab.directory, 'conf');
const PROGRAMS = { checkout: join(HOUSE, 'bin', 'weft-cni'), installed: join(binDir, 'weft-cni') };
type Program = keyof typeof PROGRAMS;
const programs = Object.keys(PROGRAMS) as readonly Program[];

const attachment = {
  hostInterface: { name: 'weft1a2b', mac: '02:00:00:00:00:01' },
  interface: { name: 'eth0', mac: '02:00:00:00:00:02', sandbox: '/run/netns/c1' },
  mtuBytes: 1450,
  ips: [{ address: '10.244.1.2/32', gateway: '169.254.1.1' }],
  routes: [{ dst: '0.0.0.0/0', gw: '169.254.1.1' }],
};

/** The daemon: what it is asked, what it answers, and whether it is ready. */
const asked: CniRequest[] = [];
let answer: (request: CniRequest) => CniAnswer = (request) => ({
  attachment: request.command === 'ADD' ? attachment : null,
});
let reasons: readonly string[] = [];
const daemon = createServer((request, response) => {
  const send = (body: unknown): void => {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(body));
  };
  let text = '';
  request.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  request.on('end', () => {
    if (request.url === '/v1/status') {
      send({ ready: reasons.length === 0, reasons });
    } else if (request.method === 'POST' && request.url === '/v1/cni') {
      const question = JSON.parse(text) as CniRequest;
      asked.push(question);
      send(answer(question));
    } else {
      response.writeHead(404).end();
    }
  });
});

const dirs = [`--bin-dir=${binDir}`, `--conf-dir=${confDir}`];
const weft = (...args: string[]) => collect([WEFT, 'cni', ...args]);
const install = (...args: string[]) => weft('install', `--state-dir=${stateDir}`, ...dirs, ...args);

/** The runtime's own, which none of ours may disturb. */
const ENV = {
  CNI_CONTAINERID: 'c1',
  CNI_IFNAME: 'eth0',
  CNI_NETNS: '/run/netns/c1',
  CNI_PATH: binDir,
  CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=1',
  HTTP_PROXY: 'http://127.0.0.1:1',
  http_proxy: 'http://127.0.0.1:1',
};

const prevResult = {
  interfaces: [{ name: 'eth0', mac: '02:00:00:00:00:02', sandbox: '/run/netns/c1' }],
  ips: [{ address: '10.244.1.2/32', interface: 0 }],
};
const configuration = (added: object = {}): string =>
  JSON.stringify({
    cniVersion: '1.1.0',
    name: 'weft',
    type: 'weft-cni',
    socket,
    prevResult: null,
    'cni.dev/valid-attachments': [],
    ...added,
  });

interface Error {
  readonly code: number;
  readonly msg: string;
}

async function plugin(
  program: Program,
  command: string,
  input = configuration(command === 'CHECK' ? { prevResult } : {}),
  env: Readonly<Record<string, string>> = {},
) {
  const output = await collect([PROGRAMS[program]], {
    netns,
    input,
    env: { ...ENV, CNI_COMMAND: command, ...env },
  });
  const said = output.stdout === '' ? null : (JSON.parse(output.stdout) as Error);
  return { ...output, said };
}

/** A socket that accepts and then does as told. */
async function misbehaving(name: string, behave: (socket: Socket) => void) {
  const path = join(lab.directory, `${name}.sock`);
  const sockets = new Set<Socket>();
  const server: Server = createSocketServer((it) => {
    sockets.add(it);
    it.on('error', () => it.destroy());
    behave(it);
  });
  server.listen(path);
  await once(server, 'listening');
  return {
    path,
    [Symbol.dispose]() {
      for (const it of sockets) it.destroy();
      server.close();
    },
  };
}

test.before(async () => {
  mkdirSync(stateDir, { mode: 0o700 });
  mkdirSync(binDir);
  daemon.listen(socket);
  await once(daemon, 'listening');
  await createNamespace(netns);
  const { exitCode, stderr } = await install();
  if (exitCode !== 0) throw new Error(stderr);
});

test.after.always(() => {
  daemon.closeAllConnections();
  daemon.close();
  removeRun(lab);
});

test.beforeEach(() => {
  asked.length = 0;
  reasons = [];
  answer = (request) => ({ attachment: request.command === 'ADD' ? attachment : null });
});

for (const program of programs) {
  const about = (title: string): string => `${program}: ${title}`;

  test.serial(about('ADD asks, and prints the result'), async (t) => {
    const { said, stderr, exitCode } = await plugin(program, 'ADD');
    t.deepEqual([exitCode, stderr], [0, '']);
    t.like(said, { cniVersion: '1.1.0', ips: [{ address: '10.244.1.2/32', interface: 1 }] });
    t.deepEqual(asked, [
      {
        command: 'ADD',
        network: 'weft',
        containerId: 'c1',
        ifname: 'eth0',
        netns: '/run/netns/c1',
        ips: [],
        mac: null,
        pod: { namespace: 'default', name: 'web' },
      },
    ]);
  });

  for (const command of ['CHECK', 'DEL', 'GC', 'STATUS']) {
    test.serial(about(`${command} asks, and prints nothing`), async (t) => {
      const { stdout, stderr, exitCode } = await plugin(program, command);
      t.deepEqual([stdout, stderr, exitCode], ['', '', 0]);
      t.deepEqual(
        asked.map((it) => it.command),
        [command],
      );
    });
  }

  test.serial(about('VERSION needs nothing else, not even stdin'), async (t) => {
    const closed = ['sh', '-c', 'exec "$0" <&-', PROGRAMS[program]];
    const { stdout, exitCode } = await collect(closed, { env: { CNI_COMMAND: 'VERSION' } });
    t.is(exitCode, 0);
    t.like(JSON.parse(stdout), { supportedVersions: ['0.3.1', '0.4.0', '1.0.0', '1.1.0'] });
    t.is(asked.length, 0);
  });

  for (const [title, input, code] of [
    ['10 MB on stdin', `{"a":"${'x'.repeat(1e7)}"}`, 6],
    ['deep nesting on stdin', '['.repeat(1e6), 6],
    ['an empty stdin', '', 6],
    ['__proto__', '{"__proto__":{}}', 6],
    ['an unknown version', configuration({ cniVersion: '2.0.0' }), 1],
    ['a wrong name', configuration({ name: '/' }), 7],
  ] as const) {
    test.serial(about(`${title} is error ${code}`), async (t) => {
      const { said, stderr, exitCode } = await plugin(program, 'ADD', input);
      t.deepEqual([exitCode, stderr, said?.code], [1, '', code]);
      t.is(asked.length, 0);
    });
  }

  test.serial(about('stdin that comes late and in pieces'), async (t) => {
    const text = configuration();
    const slow = 'printf %s "$1"; sleep 0.2; printf %s "$2"';
    const script = `{ ${slow}; } | "$0"`;
    const argv = ['sh', '-c', script, PROGRAMS[program], text.slice(0, 20), text.slice(20)];
    const env = { ...ENV, CNI_COMMAND: 'STATUS' };
    t.deepEqual(await collect(argv, { env }), { stdout: '', stderr: '', exitCode: 0 });
  });

  test.serial(about("the daemon's error, and exit code 1"), async (t) => {
    answer = () => ({ error: { code: 100, msg: 'eth0 is there' } });
    const { said, exitCode } = await plugin(program, 'ADD');
    t.deepEqual(
      [exitCode, said],
      [1, { cniVersion: '1.1.0', code: 100, msg: 'eth0 is there' } as Error],
    );
  });

  test.serial(about('what lies in the current directory is not read'), async (t) => {
    const cwd = mkdtempSync(join(lab.directory, 'cwd-'));
    writeFileSync(join(cwd, '.env'), 'CNI_COMMAND=VERSION\nCNI_IFNAME=evil0\n');
    writeFileSync(join(cwd, 'evil.ts'), 'console.log("evil"); process.exit(9);');
    for (const it of ['bunfig.toml', '.bunfig.toml']) {
      writeFileSync(join(cwd, it), 'preload = ["./evil.ts"]\n');
    }
    writeFileSync(join(cwd, 'package.json'), '{"scripts":{"weft-cni":"echo evil"}}');
    writeFileSync(join(cwd, 'tsconfig.json'), '{"compilerOptions":{"paths":{"*":["./evil.ts"]}}}');
    const argv = ['sh', '-c', 'cd "$1" && printf %s "$2" | "$0"', PROGRAMS[program], cwd];
    const { stdout, exitCode } = await collect([...argv, configuration()], {
      env: {
        ...ENV,
        CNI_COMMAND: 'DEL',
        CNI_IFNAME: 'eth7',
        HOME: cwd,
        XDG_CONFIG_HOME: cwd,
        BUN_OPTIONS: `--preload ${join(cwd, 'evil.ts')}`,
      },
    });
    t.deepEqual([stdout, exitCode], ['', 0]);
    t.deepEqual(asked, [{ command: 'DEL', containerId: 'c1', ifname: 'eth7' }]);
  });

  for (const [title, behave, why] of [
    ['closes at once', (it: Socket) => it.destroy(), 'it closed before it had answered'],
    [
      'closes half way',
      (it: Socket) =>
        it.once('data', () => it.end('HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"att')),
      'it closed before it had answered',
    ],
    ['does not answer', (it: Socket) => it.resume(), 'no answer within 5 s'],
  ] as const) {
    test.serial(about(`a daemon that ${title}`), async (t) => {
      using server = await misbehaving(program, behave);
      const { said, exitCode } = await plugin(
        program,
        'STATUS',
        configuration({ socket: server.path }),
      );
      t.deepEqual([exitCode, said?.code], [1, 50]);
      t.true(said?.msg.includes(`${server.path} (${why})`), said?.msg);
    });
  }

  for (const [title, text] of [
    ['HTTP', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}'],
    ['another protocol', 'SSH-2.0-OpenSSH_9.9\r\n'],
    [
      'a redirect',
      'HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n',
    ],
  ] as const) {
    test.serial(about(`a stranger that speaks ${title} is error 103`), async (t) => {
      using server = await misbehaving(program, (it) => it.once('data', () => it.end(text)));
      const { said } = await plugin(program, 'ADD', configuration({ socket: server.path }));
      t.is(said?.code, 103, said?.msg);
    });
  }

  test.serial(about('without a daemon DEL removes the interface and leaves word'), async (t) => {
    const dir = mkdtempSync(join(lab.directory, 'away-'));
    const input = configuration({ socket: join(dir, 'weft.sock') });
    await apply(
      [
        words`link add weftaaa type veth peer name pod0`,
        words`link add weftbbb type veth peer name pod1`,
      ],
      { netns },
    );
    for (const [name, ifname] of [
      ['weftaaa', 'eth0'],
      ['weftbbb', 'eth1'],
    ] as const) {
      const alias = `weft1 c1 ${ifname} default/web`;
      await run(['ip', 'link', 'set', 'dev', name, 'alias', alias], { netns });
    }
    const names = async () => (await listLinks({ netns })).map((it) => it.ifname).sort();
    t.deepEqual(await names(), ['lo', 'pod0', 'pod1', 'weftaaa', 'weftbbb']);
    const first = await plugin(program, 'DEL', input, { CNI_NETNS: '' });
    t.deepEqual([first.stdout, first.exitCode], ['', 0]);
    t.true(first.stderr.includes('cleaned up without it'));
    t.deepEqual(await names(), ['lo', 'pod1', 'weftbbb']);
    t.deepEqual(readdirSync(join(dir, 'deleted')), ['c1@eth0']);
    t.is(statSync(join(dir, 'deleted')).mode & 0o777, 0o700);
    t.is((await plugin(program, 'DEL', input)).exitCode, 0);
    await apply([words`link delete dev weftbbb`], { netns });
  });

  test.serial(about('DEL without even a state directory succeeds'), async (t) => {
    const input = configuration({ socket: join(lab.directory, 'nowhere', 'weft.sock') });
    t.is((await plugin(program, 'DEL', input)).exitCode, 0);
    t.false(existsSync(join(lab.directory, 'nowhere')));
  });

  test.serial(about('DEL that cannot leave word, or has no ip, is error 5'), async (t) => {
    const dir = mkdtempSync(join(lab.directory, 'away-'));
    writeFileSync(join(dir, 'deleted'), '');
    const bare = mkdtempSync(join(lab.directory, 'path-'));
    const argv = ['sh', '-c', 'printf %s "$1" | PATH="$2" "$0"', PROGRAMS[program]];
    const input = configuration({ socket: join(dir, 'weft.sock') });
    // What starts the program is there, and ip is not.
    for (const it of ['sh', 'env', 'readlink', 'dirname']) {
      const found = (await collect(['sh', '-c', `command -v ${it}`])).stdout.trim();
      writeFileSync(join(bare, it), `#!/bin/sh\nexec ${found} "$@"\n`, { mode: 0o755 });
    }
    const { stdout, exitCode } = await collect([...argv, input, bare], {
      env: { ...ENV, CNI_COMMAND: 'DEL' },
    });
    const { code, msg } = JSON.parse(stdout) as Error;
    t.deepEqual([exitCode, code], [1, 5]);
    t.true(msg.includes('the host') && msg.includes('c1 eth0'), msg);
    t.true(msg.includes(`${dir}/deleted/c1@eth0 cannot be written`), msg);
  });
}

test.serial('many at once', async (t) => {
  const outputs = await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      plugin('installed', 'ADD', undefined, { CNI_CONTAINERID: `c${i}` }),
    ),
  );
  t.deepEqual(new Set(outputs.map((it) => it.exitCode)), new Set([0]));
  t.is(asked.length, 20);
});

test.serial('at a terminal without a command it says what it is', async (t) => {
  const argv = ['script', '--quiet', '--command', PROGRAMS.installed, '/dev/null'];
  const { stdout } = await collect(argv);
  t.true(stdout.includes('weft-cni is the CNI plugin of Weft'));
});

test.serial('what is installed', async (t) => {
  const { stdout, exitCode } = await install('--network-name=pods', '--cni-version=1.1.0');
  t.is(exitCode, 0);
  t.true(stdout.includes(`wrote ${PROGRAMS.installed}\nwrote ${confDir}/10-weft.conflist\n`));
  t.true(stdout.includes('portmap is not in'));
  t.deepEqual(readdirSync(binDir), ['weft-cni']);
  t.deepEqual(readdirSync(confDir), ['10-weft.conflist']);
  t.is(statSync(PROGRAMS.installed).mode & 0o777, 0o755);
  t.is(statSync(join(confDir, '10-weft.conflist')).mode & 0o777, 0o600);
  const [line = ''] = readFileSync(PROGRAMS.installed, 'utf8').split('\n');
  t.regex(
    line,
    /^#!\/usr\/bin\/env -S -u BUN_OPTIONS \/\S+\/bun --no-env-file --config=\/dev\/null /,
  );
  t.deepEqual(JSON.parse(readFileSync(join(confDir, '10-weft.conflist'), 'utf8')), {
    cniVersion: '1.1.0',
    name: 'pods',
    plugins: [{ type: 'weft-cni', socket, capabilities: { ips: true, mac: true } }],
  });
});

test.serial('the installed file loads nothing at its start', (t) => {
  const script = readFileSync(PROGRAMS.installed, 'utf8');
  t.deepEqual(script.match(/\bfrom\s*["'][^"']*["']|\brequire\(|\bimport\s*["']/g), null);
  const later = [...script.matchAll(/\bimport\(["']([^"']*)["']\)/g)].map(([, it]) => it);
  t.deepEqual(new Set(later), new Set(['fs', 'tty']));
  t.true(script.length < 32_768);
});

test.serial("others' plugins are in the list when they can be run", async (t) => {
  writeFileSync(join(binDir, 'portmap'), '', { mode: 0o755 });
  writeFileSync(join(binDir, 'bandwidth'), '', { mode: 0o644 });
  writeFileSync(join(confDir, '05-other.conf'), '{}');
  const list = (): { type: string }[] =>
    (
      JSON.parse(readFileSync(join(confDir, '10-weft.conflist'), 'utf8')) as {
        plugins: { type: string }[];
      }
    ).plugins;
  const { stdout } = await install();
  t.deepEqual(list().slice(1), [
    { type: 'portmap', capabilities: { portMappings: true }, snat: true } as { type: string },
  ]);
  t.true(stdout.includes('which is 05-other.conf'), stdout);
  chmodSync(join(binDir, 'bandwidth'), 0o755);
  await install();
  t.deepEqual(
    list().map((it) => it.type),
    ['weft-cni', 'portmap', 'bandwidth'],
  );
});

test.serial('uninstall takes its own only, and again is fine', async (t) => {
  writeFileSync(join(binDir, '.weft-cni.0123abcd'), 'half');
  const first = await weft('uninstall', ...dirs);
  t.deepEqual(first, {
    stdout: `removed ${confDir}/10-weft.conflist\nremoved ${PROGRAMS.installed}\n`,
    stderr: '',
    exitCode: 0,
  });
  t.deepEqual(readdirSync(binDir).sort(), ['bandwidth', 'portmap']);
  t.deepEqual(readdirSync(confDir), ['05-other.conf']);
  const second = await weft('uninstall', ...dirs);
  t.deepEqual(second, { stdout: 'nothing to remove\n', stderr: '', exitCode: 0 });
  const nowhere = ['--bin-dir=/nonexistent/a', '--conf-dir=/nonexistent/b'];
  t.is((await weft('uninstall', ...nowhere)).exitCode, 0);
});

for (const [title, args, exitCode, message] of [
  ['no such version', ['--cni-version=0.2.0'], 2, '--cni-version is not one of'],
  ['no name of a network', ['--network-name=a b'], 2, '--network-name: "a b"'],
  ['no number of seconds', ['--wait=soon'], 2, '--wait: "soon"'],
  ['no daemon', ['--state-dir=/nonexistent/w'], 1, 'no weft daemon answers'],
  ['a misspelt option', ['--bindir=/x'], 2, 'did you mean "bin-dir"'],
] as const) {
  test.serial(`not installed: ${title}`, async (t) => {
    const kept = title === 'no daemon' ? [] : [`--state-dir=${stateDir}`];
    const fresh = join(lab.directory, 'not-installed');
    const output = await weft(
      'install',
      ...kept,
      `--bin-dir=${fresh}`,
      `--conf-dir=${fresh}`,
      ...args,
    );
    t.is(output.exitCode, exitCode, output.stderr);
    t.true(output.stderr.includes(message), output.stderr);
    t.is(output.stderr.trim().split('\n').length, 1);
    t.false(existsSync(fresh));
  });
}

test.serial('not installed until the daemon is ready', async (t) => {
  const fresh = join(lab.directory, 'waiting');
  const args = [`--state-dir=${stateDir}`, `--bin-dir=${fresh}/bin`, `--conf-dir=${fresh}/conf`];
  reasons = ['no lease', 'etcd is away'];
  const refused = await weft('install', ...args);
  t.is(refused.exitCode, 1);
  t.true(refused.stderr.includes('no lease; etcd is away'), refused.stderr);
  t.false(existsSync(fresh));

  const interrupted = await start([WEFT, 'cni', 'install', ...args, '--wait=60'], {
    logFile: join(lab.directory, 'install.log'),
    ready: {
      condition: () => new Promise((resolve) => daemon.once('request', () => resolve(true))),
    },
  });
  t.not(await interrupted.stop('SIGTERM'), 0);
  t.false(existsSync(fresh));

  const waiting = weft('install', ...args, '--wait=60');
  await once(daemon, 'request');
  reasons = [];
  t.is((await waiting).exitCode, 0);
  t.deepEqual(readdirSync(`${fresh}/bin`), ['weft-cni']);
});

test.serial(
  'an install that was killed leaves nothing for runtimes, and the next removes it',
  async (t) => {
    const fresh = mkdtempSync(join(lab.directory, 'killed-'));
    const [bin, conf] = [join(fresh, 'bin'), join(fresh, 'conf')];
    mkdirSync(bin);
    mkdirSync(conf);
    writeFileSync(join(bin, '.weft-cni.0123abcd'), 'half');
    writeFileSync(join(conf, '.10-weft.conflist.0123abcd'), 'half');
    const args = [`--state-dir=${stateDir}`, `--bin-dir=${bin}`, `--conf-dir=${conf}`];
    t.is((await weft('install', ...args)).exitCode, 0);
    t.deepEqual(readdirSync(bin), ['weft-cni']);
    t.deepEqual(readdirSync(conf), ['10-weft.conflist']);
  },
);

test.serial('a plugin that does not start is not installed over one that does', async (t) => {
  const fresh = mkdtempSync(join(lab.directory, 'noexec-'));
  const [bin, conf] = [join(fresh, 'bin'), join(fresh, 'conf')];
  mkdirSync(bin);
  writeFileSync(join(bin, 'weft-cni'), 'the old one');
  const args = [`--state-dir=${stateDir}`, `--bin-dir=${bin}`, `--conf-dir=${conf}`];
  // Its own mount namespace: nothing can be run in the directory.
  const script =
    'mount --bind "$1" "$1" && mount -o remount,bind,noexec "$1" && shift && exec "$@"';
  const argv = [
    'unshare',
    '--mount',
    'sh',
    '-c',
    script,
    'sh',
    bin,
    WEFT,
    'cni',
    'install',
    ...args,
  ];
  const { exitCode, stderr } = await collect(argv);
  t.is(exitCode, 1);
  t.true(stderr.includes(`the plugin does not start in ${bin}`), stderr);
  t.deepEqual(readdirSync(bin), ['weft-cni']);
  t.is(readFileSync(join(bin, 'weft-cni'), 'utf8'), 'the old one');
  t.deepEqual(readdirSync(conf), []);
  rmSync(fresh, { recursive: true });
});
