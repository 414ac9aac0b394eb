import test from 'ava';
import { readEnvironment } from './environment.ts';
import { CniFailure } from './errors.ts';

const ADD = {
  CNI_COMMAND: 'ADD',
  CNI_CONTAINERID: 'c1',
  CNI_IFNAME: 'eth0',
  CNI_NETNS: '/run/netns/c1',
};
const nothing = { ips: [], mac: null, pod: null, labels: {} };
const attachment = { containerId: 'c1', ifname: 'eth0' };

const KUBERNETES =
  'IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;' +
  'K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=28a1c9f0-6d0e;RUNTIME=x';

for (const [title, env, expected] of [
  ['ADD', ADD, { command: 'ADD', ...attachment, netns: '/run/netns/c1', ...nothing }],
  ['CHECK', { ...ADD, CNI_COMMAND: 'CHECK' }, { command: 'CHECK', netns: '/run/netns/c1' }],
  ['DEL without a namespace', { ...ADD, CNI_COMMAND: 'DEL', CNI_NETNS: '' }, attachment],
  [
    'DEL of what ADD refused',
    { ...ADD, CNI_COMMAND: 'DEL', CNI_NETNS: 'gone', CNI_ARGS: ';;' },
    { ...attachment, netns: '', ...nothing },
  ],
  ['GC alone', { CNI_COMMAND: 'GC' }, { command: 'GC', containerId: '', ifname: '' }],
  ['STATUS alone', { CNI_COMMAND: 'STATUS' }, { command: 'STATUS' }],
  ['VERSION alone', { CNI_COMMAND: 'VERSION', CNI_ARGS: ';' }, { command: 'VERSION' }],
  [
    'what containerd passes',
    { ...ADD, CNI_ARGS: KUBERNETES },
    { ...nothing, pod: { namespace: 'default', name: 'web-0' } },
  ],
  ['half a pod', { ...ADD, CNI_ARGS: 'K8S_POD_NAME=a' }, { pod: null }],
  ['an empty pod', { ...ADD, CNI_ARGS: 'K8S_POD_NAME=;K8S_POD_NAMESPACE=' }, { pod: null }],
  [
    'addresses and MAC',
    { ...ADD, CNI_ARGS: 'IP=10.244.1.9/24,fd00::9;MAC=02:00:00:00:00:09' },
    { ips: ['10.244.1.9', 'fd00::9'], mac: '02:00:00:00:00:09' },
  ],
  [
    'labels',
    { ...ADD, CNI_ARGS: 'K8S_POD_LABELS=app=web,example.com/tier=,constructor=x' },
    { ...nothing, labels: { app: 'web', 'example.com/tier': '', constructor: 'x' } },
  ],
  ['no labels', { ...ADD, CNI_ARGS: 'K8S_POD_LABELS=' }, nothing],
  ['ignored by word', { ...ADD, CNI_ARGS: 'X=1;IgnoreUnknown=True' }, nothing],
] as const) {
  test(title, (t) => {
    t.like(readEnvironment(env), expected);
  });
}

for (const [title, env, ...complaints] of [
  ['nothing', {}, 'CNI_COMMAND is missing', 'CNI_CONTAINERID is missing', 'CNI_IFNAME is missing'],
  ['unknown command', { ...ADD, CNI_COMMAND: 'add' }, 'CNI_COMMAND is "add"'],
  [
    'ADD with nothing',
    { CNI_COMMAND: 'ADD' },
    'CNI_CONTAINERID is missing',
    'CNI_IFNAME is missing',
    'CNI_NETNS is missing',
  ],
  [
    'everything malformed at once',
    {
      CNI_COMMAND: 'CHECK',
      CNI_CONTAINERID: '../c1',
      CNI_IFNAME: 'eth0/..',
      CNI_NETNS: '/run/../etc',
      CNI_ARGS: 'A',
    },
    'CNI_CONTAINERID is "../c1"',
    'CNI_IFNAME is "eth0/.."',
    'CNI_NETNS is "/run/../etc"',
    'CNI_ARGS has "A"',
  ],
  ['long interface name', { ...ADD, CNI_IFNAME: 'a'.repeat(16) }, 'CNI_IFNAME is "aaaa'],
  ['shell characters', { ...ADD, CNI_CONTAINERID: '$(id)' }, 'CNI_CONTAINERID is "$(id)"'],
  ['a line break', { ...ADD, CNI_IFNAME: 'eth0\n' }, 'CNI_IFNAME is "eth0\\n"'],
  ['relative namespace', { ...ADD, CNI_NETNS: 'netns/c1' }, 'CNI_NETNS is "netns/c1"'],
  ['long value', { ...ADD, CNI_CONTAINERID: 'x'.repeat(1e6) }, 'CNI_CONTAINERID is "xxx'],
  ['no key', { ...ADD, CNI_ARGS: '=a' }, 'CNI_ARGS has "=a"'],
  ['two values', { ...ADD, CNI_ARGS: 'IP=a=b' }, 'CNI_ARGS has "IP=a=b"'],
  ['an empty pair', { ...ADD, CNI_ARGS: 'IgnoreUnknown=1;' }, 'CNI_ARGS has ""'],
  ['a key twice', { ...ADD, CNI_ARGS: 'MAC=;MAC=' }, 'CNI_ARGS has "MAC" twice'],
  ['unknown keys', { ...ADD, CNI_ARGS: 'A=1;B=2' }, 'without IgnoreUnknown=1: "A, B"'],
  ['unknown keys, not ignored', { ...ADD, CNI_ARGS: 'A=1;IgnoreUnknown=0' }, '"A"'],
  ['__proto__', { ...ADD, CNI_ARGS: '__proto__=1' }, '"__proto__"'],
  ['odd IgnoreUnknown', { ...ADD, CNI_ARGS: 'IgnoreUnknown=si' }, 'IgnoreUnknown="si"'],
  ['no address', { ...ADD, CNI_ARGS: 'IP=10.244.1' }, 'CNI_ARGS IP: "10.244.1" is not'],
  ['one family twice', { ...ADD, CNI_ARGS: 'IP=10.1.1.1,10.1.1.2' }, 'two addresses of one family'],
  ['group MAC', { ...ADD, CNI_ARGS: 'MAC=01:00:5e:00:00:01' }, 'CNI_ARGS MAC: "01:00'],
  [
    'labels that are none',
    { ...ADD, CNI_ARGS: 'K8S_POD_LABELS=a,=b,c==,d=../e,__proto__=f,x.y/=g,-h=i' },
    ...['"a"', '"=b"', '"c=="', '"d=../e"', '"__proto__=f"', '"x.y/=g"', '"-h=i"'].map(
      (it) => `K8S_POD_LABELS: ${it} is not a label`,
    ),
  ],
  ['a label twice', { ...ADD, CNI_ARGS: 'K8S_POD_LABELS=a=b,a=c' }, 'K8S_POD_LABELS has "a" twice'],
  ['long label', { ...ADD, CNI_ARGS: `K8S_POD_LABELS=a=${'b'.repeat(64)}` }, 'is not a label'],
  ['no pod name', { ...ADD, CNI_ARGS: 'K8S_POD_NAME=a/b' }, 'CNI_ARGS K8S_POD_NAME: "a/b"'],
] as const) {
  test(`refused: ${title}`, (t) => {
    const error = t.throws(() => readEnvironment(env), { instanceOf: CniFailure });
    t.is(error.cniCode, 4);
    for (const it of complaints) t.true(error.message.includes(it), error.message);
    t.is(error.message.split('; ').length, complaints.length, error.message);
    t.true(error.message.length < 1000);
  });
}
