import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { parseNetworkConfig } from './config.ts';
import { decodeSubnetKey } from './lease-codec.ts';
import { readSubnetFile, writeSubnetFile } from './subnet-file.ts';

const network = parseNetworkConfig(
  JSON.stringify({
    Network: '10.5.0.0/16',
    EnableIPv6: true,
    IPv6Network: 'fd00:5::/48',
    Backend: { Type: 'vxlan' },
  }),
);
const lease = decodeSubnetKey('10.5.52.0-24&fd00:5:0:34::-64')!;

test('what is written is read back, and stands alone in its folder', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'weft-subnet-'));
  const path = join(folder, 'run', 'subnet.env');
  try {
    for (const mtuBytes of [1400, 1450]) {
      await writeSubnetFile(path, { network, lease, mtuBytes, ipMasq: true });
    }
    t.is(
      await readFile(path, 'utf8'),
      [
        'FLANNEL_NETWORK=10.5.0.0/16',
        'FLANNEL_SUBNET=10.5.52.1/24',
        'FLANNEL_IPV6_NETWORK=fd00:5::/48',
        'FLANNEL_IPV6_SUBNET=fd00:5:0:34::1/64',
        'FLANNEL_MTU=1450',
        'FLANNEL_IPMASQ=true',
        '',
      ].join('\n'),
    );
    t.deepEqual(await readSubnetFile(path), lease);
    t.deepEqual(await readdir(join(folder, 'run')), ['subnet.env']);
  } finally {
    await rm(folder, { recursive: true });
  }
});

const contents: readonly (readonly [string, string, string | null])[] = [
  ['IPv4 alone', 'FLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_MTU=1450\n', '10.5.52.0-24'],
  ['IPv6 alone', 'FLANNEL_IPV6_SUBNET=fd00:5::1/64\n', '0.0.0.0-0&fd00:5::-64'],
  ['empty', '', null],
  ['no address', 'FLANNEL_SUBNET=$(reboot)/24\n', null],
  ['an impossible length', 'FLANNEL_SUBNET=10.5.52.1/33\n', null],
  ['the wrong family', 'FLANNEL_SUBNET=fd00:5::1/64\n', null],
  ['a name that only ends alike', 'XFLANNEL_SUBNET=10.5.52.1/24\n', null],
];
for (const [title, content, key] of contents) {
  test(`read: ${title}`, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'weft-subnet-'));
    try {
      await writeFile(join(folder, 'subnet.env'), content);
      t.deepEqual(await readSubnetFile(join(folder, 'subnet.env')), key && decodeSubnetKey(key));
    } finally {
      await rm(folder, { recursive: true });
    }
  });
}

test('a missing file is null', async (t) => {
  t.is(await readSubnetFile('/nonexistent/subnet.env'), null);
});
