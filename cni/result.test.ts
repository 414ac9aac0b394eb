import test from 'ava';
import { CNI_VERSIONS } from '../wire/cni.ts';
import { CniFailure } from './errors.ts';
import { formatResult, formatVersions, readAnswer } from './result.ts';

const attachment = {
  hostInterface: { name: 'weft1a2b', mac: '02:00:00:00:00:01' },
  interface: { name: 'eth0', mac: '02:00:00:00:00:02', sandbox: '/run/netns/c1' },
  mtuBytes: 1450,
  ips: [
    { address: '10.244.1.2/32', gateway: '169.254.1.1' },
    { address: 'fd00::2/128', gateway: 'fe80::1' },
  ],
  routes: [
    { dst: '0.0.0.0/0', gw: '169.254.1.1' },
    { dst: '::/0', gw: 'fe80::1' },
  ],
};
const dns = { nameservers: ['10.96.0.10'], search: ['svc.cluster.local'] };

const before100 = {
  interfaces: [
    { name: 'weft1a2b', mac: '02:00:00:00:00:01' },
    { name: 'eth0', mac: '02:00:00:00:00:02', sandbox: '/run/netns/c1' },
  ],
  ips: [
    { version: '4', address: '10.244.1.2/32', gateway: '169.254.1.1', interface: 1 },
    { version: '6', address: 'fd00::2/128', gateway: 'fe80::1', interface: 1 },
  ],
  routes: attachment.routes,
  dns,
};
const since100 = {
  ...before100,
  ips: [
    { address: '10.244.1.2/32', gateway: '169.254.1.1', interface: 1 },
    { address: 'fd00::2/128', gateway: 'fe80::1', interface: 1 },
  ],
};
const since110 = {
  ...since100,
  interfaces: before100.interfaces.map((it) => ({ ...it, mtu: 1450 })),
};

const RESULTS = {
  '0.3.1': before100,
  '0.4.0': before100,
  '1.0.0': since100,
  '1.1.0': since110,
} as const;
for (const cniVersion of CNI_VERSIONS) {
  test(`the result in ${cniVersion}`, (t) => {
    t.deepEqual(JSON.parse(formatResult(cniVersion, attachment, dns)), {
      cniVersion,
      ...RESULTS[cniVersion],
    });
  });
}

test('a result without dns has no such key', (t) => {
  t.false('dns' in (JSON.parse(formatResult('1.0.0', attachment, {})) as object));
});

test('the versions', (t) => {
  t.deepEqual(JSON.parse(formatVersions('0.4.0')), {
    cniVersion: '0.4.0',
    supportedVersions: ['0.3.1', '0.4.0', '1.0.0', '1.1.0'],
  });
});

test('an answer is read', (t) => {
  t.is(readAnswer(200, '{"attachment":null}'), null);
  t.deepEqual(readAnswer(200, JSON.stringify({ attachment })), attachment);
});

test("the daemon's error is handed on", (t) => {
  const text = JSON.stringify({ error: { code: 102, msg: 'taken', details: 'by c2' } });
  const error = t.throws(() => readAnswer(200, text), { instanceOf: CniFailure });
  t.deepEqual([error.cniCode, error.message, error.details], [102, 'taken', 'by c2']);
});

for (const [title, status, text] of [
  ['nothing', 200, ''],
  ['no JSON', 200, '<html>'],
  ['another shape', 200, '{}'],
  ['a list', 200, '[]'],
  ['an error without a code', 200, '{"error":{"msg":"x"}}'],
  ['an error whose code is text', 200, '{"error":{"code":"7","msg":"x"}}'],
  ["the API's own error", 404, '{"error":{"code":"ERR_NOT_FOUND","message":"no such path"}}'],
  ['another status', 500, '{"attachment":null}'],
  ['half an attachment', 200, JSON.stringify({ attachment: { ...attachment, ips: [{}] } })],
  ['no interface', 200, JSON.stringify({ attachment: { ...attachment, interface: null } })],
] as const) {
  test(`no answer: ${title}`, (t) => {
    const error = t.throws(() => readAnswer(status, text), { instanceOf: CniFailure });
    t.is(error.cniCode, 103);
    t.true(error.details.startsWith(`HTTP ${status}: `));
  });
}
