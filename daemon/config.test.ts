import { mkdtempSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { formatAddress } from '../wire/address.ts';
import { formatCidr } from '../wire/cidr.ts';
import {
  type OptionName,
  ConfigError,
  OPTIONS,
  flagOf,
  formatOffloads,
  optionNames,
  parseOffloads,
  printConfig,
  resolveConfig,
  variableOf,
} from './config.ts';

const dir = mkdtempSync(join(tmpdir(), 'weft-config-'));
test.after.always(() => rm(dir, { recursive: true }));

let files = 0;
function fileOf(text: string): string {
  const path = join(dir, `${files++}.yaml`);
  writeFileSync(path, text);
  return path;
}

const external = { etcdEndpoints: 'http://10.0.0.1:2379' };
type Flags = Partial<Record<OptionName, string>>;

for (const [title, flags, environment, yaml, workers, origin] of [
  ['default', {}, {}, '', 1, 'default'],
  ['file before default', {}, {}, 'workers: 2', 2, 'file'],
  ['environment before file', {}, { WEFT_WORKERS: '3' }, 'workers: 2', 3, 'environment'],
  ['flag before environment', { workers: '4' }, { WEFT_WORKERS: '3' }, 'workers: 2', 4, 'flag'],
] as const) {
  test(`precedence: ${title}`, (t) => {
    const { config, given } = resolveConfig(flags, environment, fileOf(yaml));
    t.is(config.workers, workers);
    t.is(given.workers.origin, origin);
  });
}

for (const [title, flags, message] of [
  ['number', { workers: 'x' }, /^--workers: "x" is not a whole number in 1..64$/],
  ['number too large', { workers: '65' }, /^--workers: "65"/],
  ['number, negative', { healthzPort: '-1' }, /^--healthz-port: "-1"/],
  ['number, not whole', { workers: '1.5' }, /^--workers: "1.5"/],
  ['empty number', { workers: '' }, /^--workers: ""/],
  ['boolean', { ipMasq: 'maybe' }, /^--ip-masq: "maybe" is neither true nor false$/],
  ['CIDR', { network: '10.244.0.0' }, /^--network: "10.244.0.0" is not a CIDR block$/],
  ['CIDR with host bits', { network: '10.244.1.0/16' }, /the block is 10.244.0.0\/16$/],
  ['CIDR of the other family', { network: 'fd00::/48' }, /^--network: .* not an IPv4 block$/],
  ['CIDR too small', { network: '10.0.0.0/30' }, /^--network: .* no room/],
  ['IPv6 CIDR of the other family', { ipv6Network: '10.0.0.0/8' }, /not an IPv6 block$/],
  ['no network at all', { network: '' }, /^--network: an overlay needs/],
  ['address', { publicIp: '1.2.3' }, /^--public-ip: "1.2.3" is not an IPv4 address$/],
  ['IPv6 for IPv4', { publicIp: 'fd00::1' }, /^--public-ip: "fd00::1" is not an IPv4 address$/],
  ['address with a zone', { publicIpv6: 'fe80::1%eth0' }, /^--public-ipv6: "fe80::1%eth0"/],
  ['interface name too long', { iface: 'a'.repeat(16) }, /^--iface: .* neither an interface name/],
  ['interface name with a slash', { iface: '../eth0' }, /^--iface: /],
  ['TUN name that reads as a flag', { tunName: '-x' }, /^--tun-name: /],
  ['TUN name of two words', { tunName: 'a b' }, /^--tun-name: /],
  ['endpoint without scheme', { etcdEndpoints: 'host:2379' }, /^--etcd-endpoints: "host:2379"/],
  ['endpoint of another scheme', { etcdEndpoints: 'ftp://a' }, /^--etcd-endpoints: /],
  ['endpoint with a path', { etcdEndpoints: 'http://a/b' }, /has a path/],
  ['prefix without slash', { etcdPrefix: 'a' }, /^--etcd-prefix: "a" is not a key prefix/],
  ['prefix that ends in one', { etcdPrefix: '/a/' }, /^--etcd-prefix: /],
  ['Service network', { serviceClusterIpRange: '10.96.0.0' }, /^--service-cluster-ip-range: "10/],
  [
    'two Service networks of one family',
    { serviceClusterIpRange: '10.96.0.0/16,fd00:96::/112,10.97.0.0/16' },
    /"10.97.0.0\/16" is a second IPv4 block/,
  ],
  [
    'a Service network in that of the pods',
    { network: '10.0.0.0/8' },
    /^--service-cluster-ip-range: 10.96.0.0\/12 overlaps the overlay network 10.0.0.0\/8$/,
  ],
  ['external block', { externalIpBlocks: '192.0.2.0/24,x' }, /^--external-ip-blocks: "x"/],
  ['more flows than there is room', { maxFlows: '4194305' }, /^--max-flows: .* in 0..4194304$/],
  ['established', { established: 'Strict' }, /^--established: .* one of strict, loose$/],
  ['objects in no absolute path', { objects: 'here' }, /^--objects: .* not an absolute path$/],
  ['flow file', { flowFile: 'flows' }, /^--flow-file: .* not an absolute path$/],
  ['log level', { logLevel: 'loud' }, /^--log-level: "loud" is not one of trace, /],
  ['node name', { nodeName: 'a/b' }, /^--node-name: /],
  ['relative path', { subnetFile: 'subnet.env' }, /^--subnet-file: .* not an absolute path$/],
  ['state directory of the system', { stateDir: '/var/lib/' }, /^--state-dir: .* of the system/],
  ['state directory too long', { stateDir: `/${'a'.repeat(90)}` }, /longer than 90 bytes/],
  ['offload', { offloads: 'batsh' }, /^--offloads: .* \(did you mean "batch"\?\)$/],
  ['unreadable file', { ...external, etcdCafile: '/nope' }, /^--etcd-cafile: \/nope .*ENOENT/],
  ['certificate without key', { ...external, etcdCertfile: '/a' }, /needs --etcd-keyfile too$/],
  ['user without password', { ...external, etcdUsername: 'u' }, /needs --etcd-password too$/],
  ['a login for nobody', { etcdUsername: 'u', etcdPassword: 'p' }, /needs --etcd-endpoints too$/],
  ['network of another etcd', { ...external, network: '10.0.0.0/8' }, /network\/config$/],
] as readonly (readonly [string, Flags, RegExp])[]) {
  test(`refused: ${title}`, (t) => {
    const error = t.throws(() => resolveConfig(flags, {}, undefined), { instanceOf: ConfigError });
    t.regex(error.message, message);
    t.false(error.message.includes('\n'));
  });
}

for (const [title, yaml, message] of [
  ['unknown key', 'a: 1\n', /^[^ ]+\.yaml:1: unknown key "a"$/],
  [
    'unknown key, near a known one',
    '\nworker: 2\n',
    /:2: unknown key "worker" \(did you mean "workers"\?\)$/,
  ],
  ['__proto__', '__proto__: {}\n', /unknown key "__proto__"/],
  ['a key twice', 'workers: 1\nworkers: 2\n', /:2: Map keys must be unique/],
  ['not YAML', 'a: [1\n', /^[^ ]+\.yaml:\d+: /],
  ['not a mapping', '- workers\n', /not a mapping of options$/],
  ['list for one value', 'workers: [1, 2]\n', /:1: workers takes one value, not a list$/],
  ['mapping for a value', 'workers: {a: 1}\n', /:1: workers takes number values only$/],
  ['wrong value', 'iface: eth0\nworkers: many\n', /:2: workers: "many" is not a whole number/],
] as const) {
  test(`refused file: ${title}`, (t) => {
    const path = fileOf(yaml);
    const error = t.throws(() => resolveConfig({}, {}, path), { instanceOf: ConfigError });
    t.regex(error.message, message);
  });
}

test('a file that cannot be read', (t) => {
  t.throws(() => resolveConfig({}, {}, '/nope'), {
    message: '--config: /nope cannot be read (ENOENT)',
  });
  t.throws(() => resolveConfig({}, { WEFT_CONFIG: '/nope' }, undefined), {
    message: /^WEFT_CONFIG: /,
  });
});

test('a file gives lists, numbers, booleans and null as operators write them', (t) => {
  const yaml = [
    'etcd-endpoints: [http://a:1, http://b:2]',
    'workers: 2',
    'ip-masq: true',
    'iface:',
    'public-ip: 10.0.0.1',
    'offloads:',
    '  - batch',
    '  - udp-gso',
  ].join('\n');
  const { config } = resolveConfig({}, {}, fileOf(yaml));
  t.deepEqual(config.etcdEndpoints, ['http://a:1', 'http://b:2']);
  t.is(config.workers, 2);
  t.true(config.ipMasq);
  t.is(config.iface, null);
  t.is(formatAddress(config.publicIp!), '10.0.0.1');
  t.is(formatOffloads(config.offloads), 'udp-gso, batch');
});

for (const [text, rungs] of [
  ['auto', 'tun-tso, tun-uso, tunnel-gso, udp-gso, udp-gro, batch, coalesce'],
  ['none', 'none'],
  ['batch', 'batch'],
  ['tun-tso,coalesce', 'tun-tso, coalesce'],
  ['-batch', 'tun-tso, tun-uso, tunnel-gso, udp-gso, udp-gro, coalesce'],
  ['-tun-tso', 'udp-gso, udp-gro, batch'],
  ['-tun-uso, -udp-gro', 'tun-tso, tunnel-gso, udp-gso, batch, coalesce'],
] as const) {
  test(`offloads ${text}`, (t) => {
    t.is(formatOffloads(parseOffloads(text)), rungs);
  });
}

for (const [text, message] of [
  ['', /^"" is not an offload$/],
  ['tun-uso', /^"tun-uso" needs "tun-tso"$/],
  ['batch,-udp-gso', /mixes/],
  ['auto,-batch', /stand alone/],
] as const) {
  test(`offloads refused: "${text}"`, (t) => {
    t.throws(() => parseOffloads(text), { message });
  });
}

test('what --print-config prints is a file that --config reads, without secrets', (t) => {
  const printed = printConfig(
    resolveConfig(
      { ...external, workers: '3', ipMasq: 'true' },
      { WEFT_ETCD_USERNAME: 'root', WEFT_ETCD_PASSWORD: 'hunter2' },
      fileOf('log-level: debug\n'),
    ),
  );
  t.false(printed.includes('hunter2'));
  t.regex(printed, /^workers: 3 {2}# flag --workers$/m);
  t.regex(printed, /^etcd-username: root {2}# environment WEFT_ETCD_USERNAME$/m);
  t.regex(printed, /^# etcd-password: \(not shown\) {2}# environment WEFT_ETCD_PASSWORD$/m);
  t.regex(printed, /^log-level: debug {2}# file .*\.yaml:1$/m);
  t.regex(printed, /^etcd-prefix: \/coreos\.com\/network {2}# default$/m);
  const again = resolveConfig({}, { WEFT_ETCD_PASSWORD: 'hunter2' }, fileOf(printed));
  t.is(again.config.workers, 3);
  t.true(again.config.ipMasq);
});

test('names: each option has one flag and one variable', (t) => {
  t.is(flagOf('etcdCafile'), 'etcd-cafile');
  t.is(variableOf('subnetLeaseRenewMargin'), 'WEFT_SUBNET_LEASE_RENEW_MARGIN');
  t.is(new Set(optionNames.map(flagOf)).size, Object.keys(OPTIONS).length);
});

test('Services and policies unless told otherwise: tracked, strict, no external addresses', (t) => {
  const { config } = resolveConfig({}, {}, undefined);
  const { objects, maxFlows, established, flowFile, externalIpBlocks } = config;
  t.deepEqual(
    [objects, maxFlows, established, flowFile, externalIpBlocks],
    [null, 262144, 'strict', '/run/weft/flows', []],
  );
  t.deepEqual(config.serviceClusterIpRange.map(formatCidr), ['10.96.0.0/12']);
  const none = { serviceClusterIpRange: '', maxFlows: '0', established: 'loose' };
  const plain = resolveConfig(none, {}, undefined).config;
  t.deepEqual(plain.serviceClusterIpRange, []);
  t.like(plain, { maxFlows: 0, established: 'loose' });
});
