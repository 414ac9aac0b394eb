import test from 'ava';
import { type CniCommand, CNI_VERSIONS } from '../wire/cni.ts';
import { DEFAULT_SOCKET, readConfiguration, versionOf } from './configuration.ts';
import { CniFailure } from './errors.ts';

const base = { cniVersion: '1.1.0', name: 'weft', type: 'weft-cni' };
const nothing = {
  network: 'weft',
  socket: DEFAULT_SOCKET,
  ips: null,
  mac: null,
  labels: {},
  ports: [],
  dns: {},
  previous: { ips: [], mac: null },
  valid: [],
};
/** As a runtime hands it to CHECK: ours first, then an interface that a later plugin added. */
const prevResult = {
  cniVersion: '1.1.0',
  interfaces: [
    { name: 'weft1a2b', mac: '02:00:00:00:00:01' },
    { name: 'eth0', mac: '02:00:00:00:00:02', sandbox: '/run/netns/c1' },
    { name: 'tun0', sandbox: '/run/netns/c1' },
  ],
  ips: [
    { address: '10.244.1.2/32', interface: 1 },
    { address: 'fd00::2/128', interface: 1 },
    { address: '192.0.2.1/24', interface: 2 },
  ],
};
const mac = '02:00:00:00:00:09';

for (const [title, command, added, expected] of [
  ['the least', 'ADD', {}, nothing],
  ['keys of others', 'ADD', { ipMasq: true, mtu: 'x', capabilities: 1, cniVersions: [] }, nothing],
  [
    'null is absent',
    'ADD',
    { args: null, runtimeConfig: null, dns: null, prevResult: null },
    nothing,
  ],
  ['a socket', 'STATUS', { socket: '/run/w.sock' }, { socket: '/run/w.sock' }],
  ['an empty ipam', 'ADD', { ipam: {} }, nothing],
  [
    'capabilities',
    'ADD',
    { runtimeConfig: { ips: ['10.244.1.9/24', 'fd00::9'], mac, portMappings: [{}] } },
    { ips: ['10.244.1.9', 'fd00::9'], mac },
  ],
  ['args', 'ADD', { args: { cni: { ips: ['fd00::9'], mac }, x: 1 } }, { ips: ['fd00::9'], mac }],
  [
    'labels',
    'ADD',
    {
      args: {
        cni: {
          labels: [
            { key: 'app', value: 'web' },
            { key: 'x/y', value: '' },
          ],
        },
      },
    },
    { labels: { app: 'web', 'x/y': '' } },
  ],
  [
    'named ports',
    'ADD',
    {
      args: {
        cni: {
          ports: [
            { name: 'http', containerPort: 8080 },
            { name: 'dns', containerPort: 53, protocol: 'UDP' },
            { name: 'dns', containerPort: 53, protocol: 'TCP' },
          ],
        },
      },
    },
    {
      ports: [
        { name: 'http', containerPort: 8080, protocol: 'TCP' },
        { name: 'dns', containerPort: 53, protocol: 'UDP' },
        { name: 'dns', containerPort: 53, protocol: 'TCP' },
      ],
    },
  ],
  ['ports that ADD would refuse', 'DEL', { args: { cni: { ports: 1 } } }, { ports: [] }],
  ['labels that ADD would refuse', 'DEL', { args: { cni: { labels: 1 } } }, { labels: {} }],
  [
    'capabilities win over args',
    'ADD',
    {
      runtimeConfig: { ips: ['10.244.1.9'] },
      args: { cni: { ips: ['10.244.1.8'], mac } },
    },
    { ips: ['10.244.1.9'], mac },
  ],
  ['none asked for', 'ADD', { runtimeConfig: { ips: [], mac: '' } }, { ips: null, mac: null }],
  [
    'dns, its empty parts left out',
    'ADD',
    { dns: { nameservers: ['10.96.0.10'], domain: '', search: ['svc'], options: [], x: 1 } },
    { dns: { nameservers: ['10.96.0.10'], search: ['svc'] } },
  ],
  [
    'prevResult of CHECK',
    'CHECK',
    { prevResult },
    { previous: { ips: ['10.244.1.2', 'fd00::2'], mac: '02:00:00:00:00:02' } },
  ],
  [
    'prevResult of 0.3.1 without an index',
    'CHECK',
    { prevResult: { ips: [{ version: '4', address: '10.244.1.2/32' }] } },
    { previous: { ips: ['10.244.1.2'], mac: null } },
  ],
  [
    'DEL does not look at what it does not need',
    'DEL',
    { prevResult: 'x', args: 1, runtimeConfig: 1, dns: 1, ipam: { type: 'x' } },
    nothing,
  ],
  [
    'attachments of GC',
    'GC',
    { 'cni.dev/valid-attachments': [{ containerID: 'c1', ifname: 'eth0', x: 1 }] },
    { valid: [{ containerId: 'c1', ifname: 'eth0' }] },
  ],
  ['no attachment is left', 'GC', { 'cni.dev/valid-attachments': [] }, { valid: [] }],
  ["Go's empty list", 'GC', { 'cni.dev/valid-attachments': null }, { valid: [] }],
] as const) {
  test(`${command}: ${title}`, (t) => {
    t.like(readConfiguration({ ...base, ...added }, command, 'eth0'), expected);
  });
}

const valid = 'cni.dev/valid-attachments';
for (const [title, command, config, ...complaints] of [
  ['nothing', 'ADD', {}, 'name is missing', 'type is missing'],
  [
    'everything at once',
    'ADD',
    {
      name: '../x',
      type: 1,
      socket: 'weft.sock',
      args: [],
      runtimeConfig: { ips: '10.244.1.9', mac: 1 },
      dns: { nameservers: [1], domain: 1 },
      prevResult: {},
    },
    'name is "../x"',
    'type is 1',
    'socket is "weft.sock"',
    'args is no object',
    'runtimeConfig.ips is not a list',
    'runtimeConfig.mac is 1',
    'dns.nameservers is not',
    'dns.domain is not',
    'prevResult is there',
  ],
  ['name, also for DEL', 'DEL', { ...base, name: 'a b' }, 'name is "a b"'],
  [
    'a long socket',
    'GC',
    { ...base, [valid]: [], socket: `/${'x'.repeat(107)}` },
    'socket is "/xx',
  ],
  ['a socket with a zero', 'STATUS', { ...base, socket: '/a\0b' }, 'socket is "/a\\u0000b"'],
  ['a wrong address', 'ADD', { ...base, runtimeConfig: { ips: ['x'] } }, '.ips: "x" is not an IP'],
  ['a group MAC', 'ADD', { ...base, args: { cni: { mac: 'ff:ff:ff:ff:ff:ff' } } }, 'args.cni.mac'],
  [
    'labels as an object',
    'ADD',
    { ...base, args: { cni: { labels: { a: 'b' } } } },
    'is not a list',
  ],
  [
    'labels that are none',
    'ADD',
    {
      ...base,
      args: {
        cni: {
          labels: [
            { key: 'a', value: 'b' },
            { key: 'a', value: 'c' },
            { key: '../a', value: '' },
            { key: 'b', value: 1 },
            'c=d',
          ],
        },
      },
    },
    'args.cni.labels has "a" twice',
    'labels[2] is not a label',
    'labels[3] is not a label',
    'labels[4] is not a label',
  ],
  [
    'ports that are none',
    'ADD',
    {
      ...base,
      args: {
        cni: {
          ports: [
            { name: 'http', containerPort: 80 },
            { name: 'http', containerPort: 81 },
            { name: '80', containerPort: 80 },
            { name: 'a', containerPort: 65_536 },
            { name: 'b', containerPort: 1, protocol: 'ICMP' },
            { containerPort: 80 },
          ],
        },
      },
    },
    'args.cni.ports has "http" of TCP twice',
    'ports[2] is not a port',
    'ports[3] is not a port',
    'ports[4] is not a port',
    'ports[5] is not a port',
  ],
  [
    'too many ports',
    'ADD',
    { ...base, args: { cni: { ports: Array.from({ length: 257 }, () => 0) } } },
    'args.cni.ports is not a list of at most 256',
  ],
  ['CHECK without prevResult', 'CHECK', base, 'prevResult is missing'],
  ['prevResult is a list', 'CHECK', { ...base, prevResult: [] }, 'prevResult is not an object'],
  [
    'prevResult of other things',
    'CHECK',
    { ...base, prevResult: { interfaces: 1, ips: [1] } },
    'prevResult.interfaces',
    'prevResult.ips',
  ],
  [
    'prevResult with no address',
    'CHECK',
    { ...base, prevResult: { ips: [{ address: 'x' }] } },
    'prevResult.ips has "x"',
  ],
  ['GC without a list', 'GC', base, `${valid} is missing`],
  ['GC with no list', 'GC', { ...base, [valid]: {} }, `${valid} is not a list`],
  [
    'GC with something else in its list',
    'GC',
    { ...base, [valid]: [{ containerID: 'c1' }, 1, { containerID: '/', ifname: 'eth0' }] },
    `${valid}[0] is not`,
    `${valid}[1] is not`,
    `${valid}[2] is not`,
  ],
] as const) {
  test(`${command} refused: ${title}`, (t) => {
    const error = t.throws(() => readConfiguration(config, command, 'eth0'), {
      instanceOf: CniFailure,
    });
    t.is(error.cniCode, 7);
    for (const it of complaints) t.true(error.message.includes(it), error.message);
    t.is(error.message.split('; ').length, complaints.length, error.message);
  });
}

test('ipam is a field that we do not support, and the message has its key and value', (t) => {
  const config = { ...base, ipam: { type: 'host-local' } };
  const error = t.throws(() => readConfiguration(config, 'ADD', 'eth0'), {
    instanceOf: CniFailure,
  });
  t.is(error.cniCode, 2);
  t.true(error.message.includes('ipam: {"type":"host-local"}'));
});

const SINCE = { ADD: 0, DEL: 0, CHECK: 1, GC: 3, STATUS: 3 } as const;
for (const [command, since] of Object.entries(SINCE) as [CniCommand, number][]) {
  for (const [i, cniVersion] of CNI_VERSIONS.entries()) {
    test(`${command} in ${cniVersion} is ${i < since ? 'refused' : 'taken'}`, (t) => {
      if (i >= since) {
        t.is(versionOf({ cniVersion }, command), cniVersion);
        return;
      }
      const error = t.throws(() => versionOf({ cniVersion }, command), { instanceOf: CniFailure });
      t.is(error.cniCode, 1);
      t.true(error.message.includes(`"${cniVersion}"`) && error.message.includes(command));
      t.true(error.message.includes(`${CNI_VERSIONS[since]} and later`), error.message);
    });
  }
  for (const cniVersion of ['0.1.0', '0.2.0', '0.3.0', '1.2.0', '2.0.0', '1.1', '', 'v1.0.0']) {
    test(`${command} in "${cniVersion}" is refused`, (t) => {
      const error = t.throws(() => versionOf({ cniVersion }, command), { instanceOf: CniFailure });
      t.is(error.cniCode, 1);
      t.true(error.message.includes(`"${cniVersion}"`));
      t.true(error.message.includes('0.3.1, 0.4.0, 1.0.0, 1.1.0'));
    });
  }
}
for (const config of [{}, { cniVersion: 1 }, { cniVersion: null }]) {
  test(`without a version: ${JSON.stringify(config)}`, (t) => {
    const error = t.throws(() => versionOf(config, 'ADD'), { instanceOf: CniFailure });
    t.is(error.cniCode, 7);
    t.true(error.message.includes('cniVersion is'));
  });
}
