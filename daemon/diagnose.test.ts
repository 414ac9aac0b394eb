import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { type Diagnosed, FINDING_CODES, diagnose, isWrong } from './diagnose.ts';
import type { LeaseMessage } from './messages.ts';
import { statusText } from './status-text.ts';

const LEASE: LeaseMessage = {
  key: '10.244.1.0-24',
  subnet: '10.244.1.0/24',
  ipv6Subnet: null,
  publicIp: '192.0.2.1',
  publicIpv6: null,
  vtepMac: '02:00:00:00:00:01',
  vtepMacV6: null,
  reserved: false,
  own: true,
  endsInS: 86_000,
};

const WELL: Diagnosed = {
  node: 'n1',
  version: '0',
  pid: 1,
  startedAt: '2026-01-01T00:00:00.000Z',
  forwarding: true,
  ready: true,
  reasons: [],
  etcd: { endpoints: ['http://192.0.2.9:2379'], own: false, unreachable: null },
  workers: 1,
  host: { applied: true, problem: null },
  underlay: { iface: 'eth0', mtuBytes: 1500, publicIp: '192.0.2.1', publicIpv6: null },
  overlay: {
    tunName: 'weft0',
    mtuBytes: 1450,
    vni: 1,
    port: 8472,
    network: '10.244.0.0/16',
    ipv6Network: null,
    directRouting: false,
  },
  lease: LEASE,
  peers: [{ ...LEASE, key: '10.244.2.0-24', subnet: '10.244.2.0/24', own: false, endsInS: null }],
  probes: { problem: null, silent: [], tunnelSilent: [], lossy: [], smallMtu: [] },
  pods: 2,
  objects: { listed: true, policies: 1, services: 2, problems: [], failure: null },
  offloads: { tunTso: true, tunUso: false },
  offloadsGivenUp: {},
  counters: { 'drop.noPeer': 3, 'drop.policyEgress': 0, tunPackets: 9 },
  dropsPerSecond: { noPeer: 0.05 },
};
const OUTAGE = { since: '2026-01-01T00:01:00.000Z', message: 'connect ECONNREFUSED' };
const unreachable = { ...WELL.etcd, unreachable: OUTAGE };
const starting = { forwarding: false, ready: false, reasons: ['no subnet leased'] };

for (const [name, change, codes] of [
  ['all is well', {}, []],
  ['no lease', { ...starting, lease: null }, ['lease-none']],
  ['etcd away', { etcd: unreachable, ready: false }, ['store-unreachable']],
  [
    'etcd away, and the lease ends',
    { etcd: unreachable, ready: false, lease: { ...LEASE, endsInS: 90 } },
    ['lease-ending', 'store-unreachable'],
  ],
  ['a lease of a minute, renewed', { lease: { ...LEASE, endsInS: 30 } }, []],
  [
    'a reservation of ours',
    { etcd: unreachable, lease: { ...LEASE, endsInS: null } },
    ['store-unreachable'],
  ],
  ['host state', { host: { applied: true, problem: 'weft0 is gone' } }, ['host-state']],
  [
    'objects not listed',
    { ...starting, objects: { ...WELL.objects!, listed: false } },
    ['objects-unknown'],
  ],
  ['tables failed', { objects: { ...WELL.objects!, failure: 'too large' } }, ['objects-stale']],
  [
    'an object is wrong',
    { objects: { ...WELL.objects!, problems: ['a: b'] } },
    ['objects-invalid'],
  ],
  ['peers not listed', { ...starting, peers: [] }, ['not-forwarding']],
  ['a peer without VTEP', { peers: [{ ...LEASE, vtepMac: null }] }, ['peer-without-vtep']],
  [
    'the same, routed directly',
    { peers: [{ ...LEASE, vtepMac: null }], overlay: { ...WELL.overlay!, directRouting: true } },
    [],
  ],
  ...(
    [
      ['silent', 'peer-silent'],
      ['tunnelSilent', 'tunnel-silent'],
      ['lossy', 'tunnel-lossy'],
      ['smallMtu', 'path-mtu-small'],
    ] as const
  ).map(
    ([list, code]) =>
      [
        `probes: ${list}`,
        { probes: { ...WELL.probes, [list]: ['10.244.2.0-24'] } },
        [code],
      ] as const,
  ),
  ['no probes', { probes: { ...WELL.probes, problem: 'no right' } }, ['probes-impossible']],
  ['a rung was given up', { offloadsGivenUp: { udpGso: 'EIO' } }, ['offload-given-up']],
] as const satisfies readonly (readonly [string, Partial<Diagnosed>, readonly string[]])[]) {
  test(`diagnosis: ${name}`, (t) => {
    const found = diagnose({ ...WELL, ...change });
    t.deepEqual(
      found.map((it) => it.code),
      [...codes],
    );
    for (const it of found) {
      for (const text of [it.what, it.consequence, it.remedy]) t.truthy(text);
    }
  });
}

test('a note is nothing that is wrong', (t) => {
  const found = diagnose({ ...WELL, offloadsGivenUp: { udpGso: 'EIO' } });
  t.deepEqual(found.map(isWrong), [false]);
});

test('docs/troubleshooting.md has every code', (t) => {
  const page = readFileSync(join(import.meta.dirname, '..', 'docs', 'troubleshooting.md'), 'utf8');
  for (const code of FINDING_CODES) t.true(page.includes(`### \`${code}\``), code);
});

test('the text: in a line, in short, all of it', (t) => {
  const status = { ...WELL, findings: diagnose({ ...WELL, etcd: unreachable }) };
  const brief = statusText(status, 'brief');
  t.regex(brief, /^wrong n1, 10\.244\.1\.0\/24, 1 peers, 2 pods, 1 policies, 2 Services: etcd has/);
  t.false(brief.includes('\n'));
  const usual = statusText(status, 'usual');
  t.regex(usual, /^lease +10\.244\.1\.0\/24, 23 h 53 min left unless renewed$/m);
  t.regex(usual, /^offloads +tunTso; off: tunUso$/m);
  t.regex(usual, /^noPeer +3 +0\.05 +no node holds/m);
  t.regex(usual, /^ {2}what to do: look at etcd/m);
  t.notRegex(usual, /policyEgress|tunPackets/);
  t.regex(statusText(status, 'verbose'), /^tunPackets +9$/m);
});

test('control characters of names do not reach the terminal', (t) => {
  const problems = ['Pod \u001b[2J\n: wrong'];
  const status = { ...WELL, node: 'n\u0007', objects: { ...WELL.objects!, problems } };
  for (const detail of ['brief', 'usual', 'verbose'] as const) {
    const text = statusText({ ...status, findings: diagnose(status) }, detail);
    t.false(text.includes('\u001b[2J') || text.includes('\u0007'), JSON.stringify(text));
  }
});
