import test from 'ava';
import type { CniRequest } from '../daemon/messages.ts';
import { CNI_VERSIONS } from '../wire/cni.ts';
import { DaemonAwayError } from './errors.ts';
import { type Surroundings, handle } from './plugin.ts';

const ENV = {
  CNI_CONTAINERID: 'c1',
  CNI_IFNAME: 'eth0',
  CNI_NETNS: '/run/netns/c1',
  CNI_PATH: '/opt/cni/bin',
};
const attachment = {
  hostInterface: { name: 'weft1a2b', mac: '02:00:00:00:00:01' },
  interface: { name: 'eth0', mac: '02:00:00:00:00:02', sandbox: '/run/netns/c1' },
  mtuBytes: 1450,
  ips: [{ address: '10.244.1.2/32', gateway: '169.254.1.1' }],
  routes: [{ dst: '0.0.0.0/0', gw: '169.254.1.1' }],
};
const prevResult = {
  interfaces: [{ name: 'eth0', mac: '02:00:00:00:00:02', sandbox: '/run/netns/c1' }],
  ips: [{ address: '10.244.1.2/32', interface: 0 }],
};
const valid = [{ containerID: 'c2', ifname: 'eth0' }];

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

const away = () => Promise.reject(new DaemonAwayError('nobody listens there'));
const never: Surroundings = {
  ask: () => Promise.reject(new Error('asked')),
  cleanUp: () => Promise.reject(new Error('cleaned up')),
};
const answering = (answer: unknown): Surroundings => ({
  ...never,
  ask: () => Promise.resolve({ status: 200, text: JSON.stringify(answer) }),
});

/** @param config  laid over one that suits every command */
async function plugin(
  command: string,
  surroundings: Surroundings,
  config: object = {},
  env: Readonly<Record<string, string>> = {},
) {
  const suits = {
    cniVersion: '1.1.0',
    name: 'weft',
    type: 'weft-cni',
    socket: '/run/w.sock',
    ...(command === 'CHECK' ? { prevResult } : {}),
    'cni.dev/valid-attachments': valid,
    ...config,
  };
  const outcome = await handle(
    { ...ENV, CNI_COMMAND: command, ...env },
    bytes(JSON.stringify(suits)),
    surroundings,
  );
  const said = outcome.stdout === '' ? undefined : (JSON.parse(outcome.stdout) as unknown);
  return { ...outcome, said: said as Record<string, unknown> | undefined };
}

const attached = { containerId: 'c1', ifname: 'eth0' };
const inNamespace = { network: 'weft', ...attached, netns: '/run/netns/c1' };
const none = { ips: [], mac: null, pod: null };
const mac = '02:00:00:00:00:09';

for (const [title, command, config, env, expected] of [
  ['ADD', 'ADD', {}, {}, { command: 'ADD', ...inNamespace, ...none }],
  [
    'ADD: CNI_ARGS last',
    'ADD',
    { runtimeConfig: { ips: ['10.244.1.9'] }, args: { cni: { ips: ['10.244.1.8'] } } },
    { CNI_ARGS: `IP=10.244.1.7;MAC=${mac};K8S_POD_NAMESPACE=a;K8S_POD_NAME=b` },
    {
      command: 'ADD',
      ...inNamespace,
      ips: ['10.244.1.9'],
      mac,
      pod: { namespace: 'a', name: 'b' },
    },
  ],
  [
    'ADD: CNI_ARGS alone',
    'ADD',
    {},
    { CNI_ARGS: 'IP=10.244.1.7' },
    { command: 'ADD', ...inNamespace, ...none, ips: ['10.244.1.7'] },
  ],
  [
    'ADD: named ports',
    'ADD',
    { args: { cni: { ports: [{ name: 'http', containerPort: 8080 }] } } },
    {},
    {
      command: 'ADD',
      ...inNamespace,
      ...none,
      ports: [{ name: 'http', containerPort: 8080, protocol: 'TCP' }],
    },
  ],
  [
    'ADD: labels of both places, args first',
    'ADD',
    { args: { cni: { labels: [{ key: 'app', value: 'web' }] } } },
    { CNI_ARGS: 'K8S_POD_LABELS=app=db,tier=front' },
    { command: 'ADD', ...inNamespace, ...none, labels: { app: 'web', tier: 'front' } },
  ],
  [
    'CHECK',
    'CHECK',
    {},
    {},
    { command: 'CHECK', ...inNamespace, ips: ['10.244.1.2'], mac: '02:00:00:00:00:02' },
  ],
  ['DEL', 'DEL', {}, {}, { command: 'DEL', ...attached }],
  [
    'GC',
    'GC',
    {},
    {},
    { command: 'GC', network: 'weft', valid: [{ containerId: 'c2', ifname: 'eth0' }] },
  ],
  ['STATUS', 'STATUS', {}, {}, { command: 'STATUS' }],
] as const) {
  test(`what the daemon is asked: ${title}`, async (t) => {
    let asked: [string, CniRequest, number] | undefined;
    await plugin(
      command,
      {
        ...never,
        ask: (...it) => {
          asked = it;
          return Promise.resolve({ status: 200, text: '{"attachment":null}' });
        },
      },
      config,
      env,
    );
    t.deepEqual(asked?.slice(0, 2), ['/run/w.sock', expected]);
    t.is(
      asked?.[2],
      { ADD: 60_000, CHECK: 30_000, DEL: 30_000, GC: 60_000, STATUS: 5_000 }[command],
    );
  });
}

for (const command of ['DEL', 'CHECK', 'GC', 'STATUS']) {
  test(`${command} that succeeds prints nothing`, async (t) => {
    const { stdout, stderr, exitCode } = await plugin(command, answering({ attachment: null }));
    t.deepEqual([stdout, stderr, exitCode], ['', '', 0]);
  });
}

for (const cniVersion of CNI_VERSIONS) {
  test(`ADD prints a result in ${cniVersion}, with the configuration's dns`, async (t) => {
    const dns = { nameservers: ['10.96.0.10'] };
    const outcome = await plugin('ADD', answering({ attachment }), { cniVersion, dns });
    t.is(outcome.exitCode, 0);
    t.like(outcome.said, { cniVersion, dns });
  });

  test(`an error is written in ${cniVersion}`, async (t) => {
    const error = { code: 102, msg: 'taken', details: 'by c2' };
    const outcome = await plugin('ADD', answering({ error }), { cniVersion });
    t.deepEqual([outcome.exitCode, outcome.stderr], [1, '']);
    t.deepEqual(outcome.said, { cniVersion, ...error });
  });
}

for (const [command, code] of [
  ['ADD', 11],
  ['CHECK', 11],
  ['GC', 11],
  ['STATUS', 50],
] as const) {
  test(`without a daemon ${command} is error ${code}`, async (t) => {
    const { said, exitCode } = await plugin(command, { ...never, ask: away });
    t.is(exitCode, 1);
    t.deepEqual(said, {
      cniVersion: '1.1.0',
      code,
      msg: 'no weft daemon answers at /run/w.sock (nobody listens there); start it: weft daemon',
    });
  });
}

test('without a daemon DEL cleans up, says so on stderr and succeeds', async (t) => {
  let cleaned: unknown;
  const cleanUp: Surroundings['cleanUp'] = (...it) => {
    cleaned = it;
    return Promise.resolve([]);
  };
  const { stdout, stderr, exitCode } = await plugin('DEL', { ask: away, cleanUp });
  t.deepEqual([stdout, exitCode, cleaned], ['', 0, ['/run/w.sock', 'c1', 'eth0']]);
  t.is(stderr.split('\n').length, 2);
});

test('DEL that cannot clean up is error 5 with what is left', async (t) => {
  const cleanUp = () => Promise.resolve(['interface a (busy)', 'its address']);
  const { said, exitCode } = await plugin('DEL', { ask: away, cleanUp });
  t.is(exitCode, 1);
  t.is(said?.['code'], 5);
  t.true(String(said?.['msg']).endsWith('this is left: interface a (busy); its address'));
});

test('DEL does not clean up behind a daemon that answers', async (t) => {
  const { said } = await plugin('DEL', answering({ error: { code: 11, msg: 'busy' } }));
  t.is(said?.['code'], 11);
});

for (const [title, surroundings] of [
  ['throws', { ...never, ask: () => Promise.reject(new TypeError('boom')) }],
  ['throws no error', { ...never, ask: () => Promise.reject('boom') }],
  ['answers nonsense', { ...never, ask: () => Promise.resolve({ status: 200, text: 'boom' }) }],
  ['answers ADD with nothing', answering({ attachment: null })],
] as const) {
  test(`error 103, and a trace on stderr, when the daemon's side ${title}`, async (t) => {
    const { said, stderr, exitCode } = await plugin('ADD', surroundings);
    t.deepEqual([said?.['code'], said?.['cniVersion'], exitCode], [103, '1.1.0', 1]);
    t.not(stderr, '');
  });
}

for (const [title, env, stdin, cniVersion, code] of [
  ['the environment first', { CNI_COMMAND: 'ADD', CNI_NETNS: 'x' }, '{', '1.1.0', 4],
  ['no command', { CNI_COMMAND: '' }, '{}', '1.1.0', 4],
  ['then the syntax', { CNI_COMMAND: 'ADD' }, '{', '1.1.0', 6],
  ['nothing on stdin', { CNI_COMMAND: 'ADD' }, '', '1.1.0', 6],
  ['then the version', { CNI_COMMAND: 'ADD' }, '{"cniVersion":"9.0.0"}', '1.1.0', 1],
  ['of the command too', { CNI_COMMAND: 'GC' }, '{"cniVersion":"1.0.0"}', '1.0.0', 1],
  ['then the fields', { CNI_COMMAND: 'ADD' }, '{"cniVersion":"0.4.0"}', '0.4.0', 7],
] as const) {
  test(`what is refused, in order: ${title}`, async (t) => {
    const outcome = await handle({ ...ENV, ...env }, bytes(stdin), never);
    t.is(outcome.exitCode, 1);
    t.is(outcome.stderr, '');
    t.like(JSON.parse(outcome.stdout), { cniVersion, code });
  });
}

for (const [title, stdin, cniVersion] of [
  ['a version of ours', '{"cniVersion":"0.3.1"}', '0.3.1'],
  ['a version to come', '{"cniVersion":"9.0.0"}', '9.0.0'],
  ['no version', '{}', '1.1.0'],
  ['something else', '{"cniVersion":"1.0.0\\n<b>"}', '1.1.0'],
  ['no JSON', '{', '1.1.0'],
  ['nothing', '', '1.1.0'],
  ['a terminal', null, '1.1.0'],
] as const) {
  test(`VERSION with ${title}`, async (t) => {
    const input = stdin === null ? null : bytes(stdin);
    const outcome = await handle({ CNI_COMMAND: 'VERSION' }, input, never);
    t.is(outcome.exitCode, 0);
    t.deepEqual(JSON.parse(outcome.stdout), { cniVersion, supportedVersions: [...CNI_VERSIONS] });
  });
}

test('at a terminal without a command it says what it is', async (t) => {
  const { stdout, stderr, exitCode } = await handle({}, null, never);
  t.deepEqual([stdout, exitCode], ['', 0]);
  t.true(stderr.includes('weft cni install'));
});
