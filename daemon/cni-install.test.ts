import test from 'ava';
import { CniInstallError, conflist, shebangOf } from './cni-install.ts';

test('the first line of the plugin', (t) => {
  t.is(
    shebangOf('/opt/weft/bun'),
    '#!/usr/bin/env -S -u BUN_OPTIONS /opt/weft/bun --no-env-file --config=/dev/null ' +
      '--tsconfig-override=/dev/null',
  );
  const room = 254 - shebangOf('/x').length + 1;
  t.is(shebangOf(`/${'x'.repeat(room)}`).length, 254);
  t.throws(() => shebangOf(`/${'x'.repeat(room + 1)}`), {
    instanceOf: CniInstallError,
    message: /too long for a file's first line by 1 bytes/,
  });
});

for (const path of ['/opt/my weft/bun', '/opt/$HOME/bun', String.raw`/a\b`, '/ü/bun', '/a\n/bun']) {
  test(`cannot stand in a first line: ${JSON.stringify(path)}`, (t) => {
    t.throws(() => shebangOf(path), { instanceOf: CniInstallError, message: /move Weft/ });
  });
}

test('the network configuration list', (t) => {
  const options = {
    cniVersion: '1.0.0',
    networkName: 'weft',
    stateDir: '/var/lib/weft',
    binDir: '/opt/cni/bin',
    confDir: '/etc/cni/net.d',
    waitMs: 0,
  } as const;
  t.deepEqual(JSON.parse(conflist(options, { portmap: true, bandwidth: true })), {
    cniVersion: '1.0.0',
    name: 'weft',
    plugins: [
      {
        type: 'weft-cni',
        socket: '/var/lib/weft/weft.sock',
        capabilities: { ips: true, mac: true },
      },
      { type: 'portmap', capabilities: { portMappings: true }, snat: true },
      { type: 'bandwidth', capabilities: { bandwidth: true } },
    ],
  });
});
