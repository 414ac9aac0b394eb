/** Leases on a real etcd that goes away, and one behind TLS and a password. */
import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Etcd3 } from 'etcd3';
import test from 'ava';
import { type LeaseState, keepLease } from '../../ipam/lease-keeper.ts';
import { watchPeers } from '../../ipam/peers.ts';
import { openEtcd } from '../../store/etcd.ts';
import { toIpv4 } from '../../wire/address.ts';
import { toMac } from '../../wire/mac.ts';
import { startEtcd } from '../lab/etcd.ts';

const CONFIG = '{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}';
const nodeAt = (host: number) => ({
  publicIp4: toIpv4(0xc0a80000 + host),
  publicIp6: null,
  mac: toMac(0x020000000000 + host),
});

test('etcd unreachable for longer than the lease: peers stay, the node gets its own subnet back', async (t) => {
  await using server = await startEtcd();
  using store = openEtcd({ endpoints: [server.endpoint], callTimeoutMs: 1000 });
  const prefix = '/n';
  await store.commit({ kind: 'create', key: '/n/config', value: CONFIG, leaseId: null });
  const states: LeaseState[] = [];
  const keeping = { store, prefix, ttlMs: 3000, retryMs: 200 };
  const keeper = keepLease({
    ...keeping,
    node: nodeAt(1),
    onChange: (state) => states.push(state),
  });
  const other = keepLease({ ...keeping, node: nodeAt(2) });
  const stop = new AbortController();
  try {
    const signal = AbortSignal.timeout(60_000);
    const { lease, network } = await keeper.held(signal);
    await other.held(signal);
    const views: string[][] = [];
    const interrupted = Promise.withResolvers<void>();
    const sawOther = Promise.withResolvers<void>();
    const watching = (async () => {
      for await (const peers of watchPeers({
        store,
        prefix,
        network,
        self: nodeAt(1),
        signal: stop.signal,
        onProblem: ({ key, reason }) => t.fail(`${key}: ${reason}`),
        onInterruption: (error) => error && interrupted.resolve(),
      })) {
        views.push(peers.map(({ key }) => key));
        if (peers.length > 0) sawOther.resolve();
      }
    })();
    await sawOther.promise;
    const viewsBefore = views.length;

    await server.kill();
    const outageMs = performance.now();
    await interrupted.promise;
    while (keeper.state.kind === 'held') await new Promise((resolve) => setTimeout(resolve, 20));
    t.true(performance.now() - outageMs < 3000, 'lost before etcd could have given it away');
    t.is(keeper.state.kind, 'lost');
    t.is(views.length, viewsBefore, 'what is known of others stays');

    // Longer than the lease, and longer than the other one's.
    await new Promise((resolve) => setTimeout(resolve, 2000));
    await using _again = await startEtcd({ dataDir: server.dataDir, port: server.port });
    const again = await keeper.held(signal);
    t.is(again.lease.key, lease.key);
    t.deepEqual(
      states.map(({ kind }) => kind).filter((kind, i, all) => kind !== all[i - 1]),
      ['held', 'lost', 'held'],
    );
    await other.held(signal);
    stop.abort();
    await watching;
    await keeper.release();
    t.is(await store.get(`/n/subnets/${lease.key}`), null);
    await other.stop();
  } finally {
    stop.abort();
    await Promise.all([keeper.stop(), other.stop()]);
  }
});

test('TLS with client certificates, and a login', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'weft-tls-'));
  const openssl = (command: string): void => {
    execFileSync('openssl', command.split(' '), { cwd: folder, stdio: 'pipe' });
  };
  try {
    const key = '-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes';
    openssl(`req -x509 ${key} -keyout ca.key -out ca.crt -subj /CN=ca`);
    openssl(
      `req ${key} -keyout tls.key -out tls.csr -subj /CN=weft -addext subjectAltName=IP:127.0.0.1`,
    );
    openssl(
      'x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -copy_extensions copy -out tls.crt',
    );
    await using server = await startEtcd({
      scheme: 'https',
      flags: [
        `--cert-file=${folder}/tls.crt`,
        `--key-file=${folder}/tls.key`,
        `--trusted-ca-file=${folder}/ca.crt`,
        '--client-cert-auth',
      ],
    });
    const [ca, cert, certKey] = await Promise.all(
      ['ca.crt', 'tls.crt', 'tls.key'].map((name) => readFile(join(folder, name))),
    );
    const tls = { ca: ca!, cert: cert!, key: certKey! };
    const endpoints = [server.endpoint];
    const admin = new Etcd3({
      hosts: endpoints,
      credentials: { rootCertificate: ca!, certChain: cert!, privateKey: certKey! },
    });
    const root = await admin.role('root').create();
    await (await admin.user('root').create('secret')).addRole(root);
    await admin.auth.authEnable();
    admin.close();

    const login = { username: 'root', password: 'secret' };
    using store = openEtcd({ endpoints, tls, login });
    const created = await store.commit({ kind: 'create', key: '/a', value: 'b', leaseId: null });
    t.is((await store.get('/a'))!.modRevision, created!);
    for await (const { entries } of store.watch('/', { signal: AbortSignal.timeout(10_000) })) {
      t.is(entries.get('/a')!.value, 'b');
      break;
    }
    using wrong = openEtcd({ endpoints, tls, login: { ...login, password: 'guess' } });
    await t.throwsAsync(wrong.get('/a'), { code: 'ERR_STORE_DENIED' });
    using bare = openEtcd({ endpoints, tls: { ca: ca! }, callTimeoutMs: 1000 });
    await t.throwsAsync(bare.get('/a'), { code: 'ERR_STORE_UNREACHABLE' });
  } finally {
    await rm(folder, { recursive: true });
  }
});
