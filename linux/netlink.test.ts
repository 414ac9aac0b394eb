import { openSync, closeSync, readFileSync, writeFileSync } from 'node:fs';
import test from 'ava';
import fc from 'fast-check';
import { labPrefix, openRun, removeRun } from '../test/lab/run.ts';
import { parseCidr } from '../wire/cidr.ts';
import { EINVAL, SystemCallError } from './errno.ts';
import {
  NETLINK_NETFILTER,
  NFTABLES_GROUP,
  NetlinkError,
  encode,
  inNamespace,
  openNetlink,
  readAttributes,
  readText,
} from './netlink.ts';
import { createNamespace, openNamespace, ownNamespaceId, readSysctl } from './netns.ts';
import { collect, run } from './program.ts';
import { RouteGroup, replaceRoute } from './rtnetlink.ts';

const lab = openRun(labPrefix());
const netns = `${lab.name}-netlink`;
test.before(() => createNamespace(netns));
test.after.always(() => removeRun(lab));

const open = () => openNamespace(`/run/netns/${netns}`);
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

for (const [name, header, attributes, expected] of [
  ['nothing', '', [], ''],
  ['a header, padded', '0a', [], '0a000000'],
  ['a number', '', [[4, 1400]], '0800040078050000'],
  ['text ends in a zero byte', '', [[3, 'eth0']], '090003006574683000000000'],
  ['bytes, padded behind their length', '', [[1, Uint8Array.of(2, 3)]], '0600010002030000'],
  ['what is undefined is left out', '', [[1, undefined]], ''],
  ['no bytes at all', '', [[20, new Uint8Array(0)]], '04001400'],
  ['nested (NLA_F_NESTED)', '', [[18, [[1, 'a']]]], '0c0012800600010061000000'],
  ['behind a header', 'ffffffffff', [[2, 1]], 'ffffffffff0000000800020001000000'],
] as const) {
  test(`encode: ${name}`, (t) => {
    t.is(hex(encode(Buffer.from(header, 'hex'), attributes)), expected);
  });
}

test('attributes are read as they were written, and text without its zero byte', (t) => {
  const attribute = fc.tuple(fc.integer({ min: 0, max: 0x3fff }), fc.uint8Array({ maxLength: 40 }));
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 20 }), fc.array(attribute), (header, attributes) => {
      const body = encode(header, [[1, attributes]]);
      const outer = readAttributes(new DataView(body.buffer), (header.length + 3) & ~3);
      t.deepEqual([...outer.keys()], [1]);
      const inner = readAttributes(outer.get(1)!, 0);
      for (const [type, bytes] of new Map(attributes)) {
        const view = inner.get(type)!;
        t.deepEqual(new Uint8Array(view.buffer, view.byteOffset, view.byteLength), bytes);
      }
    }),
  );
  const text = encode(new Uint8Array(0), [
    [1, 'grün'],
    [2, Uint8Array.of(0x61, 0x62)],
  ]);
  const read = readAttributes(new DataView(text.buffer), 0);
  t.deepEqual([readText(read.get(1)!), readText(read.get(2)!)], ['grün', 'ab']);
});

for (const [name, bytes, types] of [
  ['shorter than its header', '030001000800020001000000', []],
  ['longer than the message', '08000200010000000c00030001000000', [2]],
  ['cut within its header', '08000200010000000400', [2]],
] as const) {
  test(`an attribute ${name} ends the reading`, (t) => {
    const view = new DataView(Uint8Array.from(Buffer.from(bytes, 'hex')).buffer);
    t.deepEqual([...readAttributes(view, 0).keys()], [...types]);
  });
}

test('a request that the kernel does not know is refused, with its own words where it has them', (t) => {
  using nl = openNetlink();
  const body = new Uint8Array(16);
  t.throws(() => nl.request({ type: 99, body, what: 'asking for the moon' }), {
    instanceOf: NetlinkError,
    code: 'ERR_NETLINK',
    message: /^asking for the moon: (EOPNOTSUPP|ENOTSUP): /,
  });
  // RTM_GETLINK with a name of 20 characters
  const long = { type: 18, body: encode(body, [[3, 'x'.repeat(20)]]), what: 'a long name' };
  t.throws(() => nl.request(long), { message: /^a long name: ERANGE: .* \(.+\)$/ });
  // The socket is as good as before.
  t.is(nl.request({ type: 18, body: encode(body, [[3, 'lo']]), what: 'lo' }).length, 1);
});

test.serial('what came unasked, or was left of another answer, is not the answer', async (t) => {
  using there = open();
  using nl = openNetlink({ netnsFd: there.fd, groups: [RouteGroup.links] });
  await run(['ip', '-n', netns, 'link', 'set', 'lo', 'alias', 'x']);
  const lo = { type: 18, body: encode(new Uint8Array(16), [[3, 'lo']]), what: 'lo' };
  t.is(nl.request(lo).length, 1);
  t.false(nl.drain(), 'it was passed over');
});

test('inNamespace: sockets and sysctls are that namespace’s, and the thread comes back', async (t) => {
  using there = open();
  const own = ownNamespaceId();
  t.not(there.id, own);
  const path = '/proc/sys/net/ipv4/conf/all/log_martians';
  const before = readFileSync(path, 'utf8');
  const result = inNamespace(there.fd, () => {
    writeFileSync(path, before.trim() === '0' ? '1' : '0');
    return ownNamespaceId();
  });
  t.is(result, there.id);
  t.is(ownNamespaceId(), own);
  t.is(readFileSync(path, 'utf8'), before);
  t.not(await readSysctl('net.ipv4.conf.all.log_martians', netns), before.trim());
  t.throws(
    () =>
      inNamespace(there.fd, () => {
        throw new RangeError('within');
      }),
    { instanceOf: RangeError, message: 'within' },
  );
  t.is(ownNamespaceId(), own);
});

test('inNamespace within another comes back to that one first', (t) => {
  using there = open();
  using own = openNamespace('/proc/self/ns/net');
  const seen = inNamespace(there.fd, () => [
    ownNamespaceId(),
    inNamespace(own.fd, ownNamespaceId),
    ownNamespaceId(),
  ]);
  t.deepEqual([...seen, ownNamespaceId()], [there.id, own.id, there.id, own.id]);
});

test('what is no namespace is not entered', (t) => {
  const fd = openSync('/dev/null', 'r');
  const own = ownNamespaceId();
  let worked = false;
  const error = t.throws(() => inNamespace(fd, () => (worked = true)), {
    instanceOf: SystemCallError,
  });
  t.is(error.errno, EINVAL);
  t.throws(() => openNetlink({ netnsFd: fd }), { instanceOf: SystemCallError });
  t.false(worked);
  t.is(ownNamespaceId(), own);
  closeSync(fd);
});

test('without a way back the process ends, and says why', async (t) => {
  // Whoever closes every file within `work` closes the one that leads back.
  const source = `
    import { closeSync, readdirSync, readlinkSync } from 'node:fs';
    import { inNamespace } from ${JSON.stringify(import.meta.resolve('./netlink.ts'))};
    import { openNamespace } from ${JSON.stringify(import.meta.resolve('./netns.ts'))};
    const there = openNamespace('/run/netns/${netns}');
    inNamespace(there.fd, () => {
      for (const fd of readdirSync('/proc/self/fd').map(Number)) {
        let target = '';
        try { target = readlinkSync('/proc/self/fd/' + fd); } catch (error) { if (error.code !== 'ENOENT') throw error; }
        if (fd !== there.fd && target.startsWith('net:')) closeSync(fd);
      }
    });
    console.log('went on');
  `;
  const argv = [process.execPath, '--input-type=module', '--eval', source];
  const output = await collect(['prlimit', '--core=0', ...argv]);
  t.is(output.exitCode, null, 'ended by a signal');
  t.regex(output.stderr, /^weft: no way back .*EBADF/m);
  t.is(output.stdout, '');
});

for (const [name, group, ...changes] of [
  ['links', RouteGroup.links, 'link add hnav0 type veth peer hnav1', 'link delete hnav0'],
  [
    'addresses4',
    RouteGroup.addresses4,
    'addr add 10.9.0.1/32 dev lo',
    'addr flush dev lo to 10.9.0.1',
  ],
  [
    'addresses6',
    RouteGroup.addresses6,
    'addr add fd09::1/128 dev lo',
    'addr del fd09::1/128 dev lo',
  ],
  ['routes4', RouteGroup.routes4, 'route add 10.8.0.0/16 dev lo', 'route del 10.8.0.0/16'],
  ['routes6', RouteGroup.routes6, 'route add fd08::/64 dev lo', 'route del fd08::/64 dev lo'],
  ['rules4', RouteGroup.rules4, '-4 rule add pref 900 lookup 9', '-4 rule del pref 900'],
  ['rules6', RouteGroup.rules6, '-6 rule add pref 900 lookup 9', '-6 rule del pref 900'],
] as const) {
  test.serial(`drain: a change of ${name} is reported once`, async (t) => {
    using there = open();
    using nl = openNetlink({ netnsFd: there.fd, groups: [group] });
    t.false(nl.drain());
    for (const change of changes) {
      await run(['ip', '-n', netns, ...change.split(' ')]);
      t.true(nl.drain(), change);
      t.false(nl.drain());
    }
    await run(['nft', 'add', 'table', 'ip', 'other'], { netns });
    t.false(nl.drain(), 'another protocol’s');
    await run(['nft', 'delete', 'table', 'ip', 'other'], { netns });
  });
}

test.serial('drain: a change of nftables is reported', async (t) => {
  using there = open();
  using nl = openNetlink({
    protocol: NETLINK_NETFILTER,
    netnsFd: there.fd,
    groups: [NFTABLES_GROUP],
  });
  t.false(nl.drain());
  await run(['nft', 'add', 'table', 'ip', 'weft'], { netns });
  t.true(nl.drain());
  t.false(nl.drain());
});

test.serial('drain: more than the socket holds is a change too, and read away', (t) => {
  using there = open();
  using watching = openNetlink({ netnsFd: there.fd, groups: [RouteGroup.routes4] });
  using nl = openNetlink({ netnsFd: there.fd });
  for (let i = 0; i < 2000; i++) {
    const to = parseCidr(`10.7.${i >> 8}.${i & 255}/32`);
    replaceRoute(nl, { to, table: 77, type: 'unreachable', protocol: 80 });
  }
  t.true(watching.drain());
  t.false(watching.drain());
});

test('a group that does not exist cannot be joined', (t) => {
  t.throws(() => openNetlink({ groups: [31_000] }), {
    instanceOf: SystemCallError,
    message: /^joining netlink group 31000: /,
  });
});
