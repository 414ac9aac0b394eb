/**
 * Each function's effect, and each list, beside what `ip -json` says of the same namespace:
 *
 *     near: nl ── a0 ──────── eth0, far
 */
import { closeSync, openSync } from 'node:fs';
import test, { type ExecutionContext } from 'ava';
import { labPrefix, openRun, removeRun } from '../test/lab/run.ts';
import { type Family, parseAddress } from '../wire/address.ts';
import { type Cidr, cidrOf, parseCidr } from '../wire/cidr.ts';
import { type Mac, parseMac, toMac } from '../wire/mac.ts';
import { EEXIST, EINVAL, ENODEV } from './errno.ts';
import { type Netlink, NetlinkError, openNetlink } from './netlink.ts';
import { type NamespaceFile, createNamespace, openNamespace } from './netns.ts';
import { run } from './program.ts';
import {
  type AddressState,
  type LinkChange,
  type LinkState,
  type NeighborState,
  type NewAddress,
  type RouteSpec,
  type RouteState,
  addAddress,
  createVeth,
  deleteLink,
  deleteLinkGroup,
  deleteRoute,
  findLink,
  listAddresses,
  listLinks,
  listNeighbors,
  listRoutes,
  namespaceIdOf,
  replaceNeighbor,
  replaceRoute,
  setLink,
} from './rtnetlink.ts';

const lab = openRun(labPrefix());
test.after.always(() => removeRun(lab));

interface Namespace {
  readonly name: string;
  readonly file: NamespaceFile;
  readonly nl: Netlink;
}

let namespaces = 0;

async function namespace(t: ExecutionContext): Promise<Namespace> {
  const name = `${lab.name}-rt${namespaces++}`;
  await createNamespace(name);
  const file = openNamespace(`/run/netns/${name}`);
  const nl = openNetlink({ netnsFd: file.fd });
  t.teardown(() => {
    nl[Symbol.dispose]();
    file[Symbol.dispose]();
  });
  return { name, file, nl };
}

const mac = (last: number): Mac => toMac(0x02_00_00_00_00_00 + last);

const nearEnd = {
  name: 'a0',
  mtuBytes: 1400,
  mac: mac(1),
  alias: 'weft pod x/eth0',
  up: true,
  group: 7,
} as const;
const farEnd = { name: 'eth0', mtuBytes: 1300, mac: mac(2) } as const;

interface Pair {
  readonly near: Namespace;
  readonly far: Namespace;
  readonly link: LinkState;
}

/** Two namespaces joined by a veth whose both ends are up. */
async function pair(t: ExecutionContext): Promise<Pair> {
  const [near, far] = [await namespace(t), await namespace(t)];
  const link = createVeth(near.nl, nearEnd, { ...farEnd, netnsFd: far.file.fd });
  setLink(far.nl, link.peerIndex!, { up: true });
  return { near, far, link };
}

type Json = Readonly<Record<string, never>>;

async function ip(name: string, ...words: string[]): Promise<Json[]> {
  const text = await run(['ip', '-n', name, '-json', '-details', ...words]);
  return text.trim() === '' ? [] : (JSON.parse(text) as Json[]);
}

/** The words of one `ip` command. */
const change = (name: string, words: string): Promise<string> =>
  run(['ip', '-n', name, ...words.split(' ')]);

async function linksByIp(name: string): Promise<LinkState[]> {
  const links = await ip(name, 'link');
  const indexOf = new Map<string, number>(links.map((link) => [link['ifname']!, link['ifindex']!]));
  return links.map((link) => ({
    index: link['ifindex']!,
    name: link['ifname']!,
    up: (link['flags'] as unknown as string[]).includes('UP'),
    mtuBytes: link['mtu']!,
    mac: ['ether', 'loopback'].includes(link['link_type']!) ? parseMac(link['address']!) : null,
    kind: (link['linkinfo'] as { info_kind?: string } | undefined)?.info_kind ?? null,
    alias: link['ifalias'] ?? '',
    peerIndex: link['link_index'] ?? indexOf.get(link['link'] ?? '') ?? null,
    peerNamespaceId: link['link_netnsid'] ?? null,
    group: link['group'] === 'default' ? 0 : Number(link['group']),
  }));
}

async function addressesByIp(name: string): Promise<AddressState[]> {
  return (await ip(name, 'addr')).flatMap((link) =>
    (link['addr_info'] as unknown as Json[]).map((address) => ({
      index: link['ifindex']!,
      address: parseAddress(address['local']!),
      length: address['prefixlen']!,
      scope: address['scope']!,
      tentative: address['tentative'] ?? false,
    })),
  );
}

/** A list of the kernel's own order, which differs between families. */
const sorted = (list: readonly object[]): string[] =>
  list
    .map((each) =>
      JSON.stringify(each, (_, value: unknown) => (typeof value === 'bigint' ? `${value}` : value)),
    )
    .sort();

const PROTOCOLS: Readonly<Record<string, number>> = { kernel: 2, boot: 3, static: 4 };

function blockOf(text: string, family: Family): Cidr {
  if (text === 'default') return parseCidr(family === 4 ? '0.0.0.0/0' : '::/0');
  return text.includes('/') ? parseCidr(text) : cidrOf(parseAddress(text), family === 4 ? 32 : 128);
}

async function routesByIp(name: string, family: Family, table: number): Promise<RouteState[]> {
  const indexOf = new Map((await linksByIp(name)).map((link) => [link.name, link.index]));
  return (await ip(name, `-${family}`, 'route', 'show', 'table', `${table}`)).map((route) => {
    const via = route['gateway'] ?? (route['via'] as { host: string } | undefined)?.host;
    const src = route['prefsrc'];
    return {
      to: blockOf(route['dst']!, family),
      type: route['type']!,
      index: indexOf.get(route['dev'] ?? '') ?? null,
      via: via === undefined ? null : parseAddress(via),
      src: src === undefined ? null : parseAddress(src),
      scope: route['scope']!,
      protocol: PROTOCOLS[route['protocol']!] ?? Number(route['protocol']),
      metric: route['metric'] ?? 0,
    };
  });
}

async function neighborsByIp(name: string): Promise<NeighborState[]> {
  const indexOf = new Map((await linksByIp(name)).map((link) => [link.name, link.index]));
  return (await ip(name, 'neigh', 'show', 'nud', 'all')).map((neighbor) => ({
    index: indexOf.get(neighbor['dev']!)!,
    address: parseAddress(neighbor['dst']!),
    mac: neighbor['lladdr'] === undefined ? null : parseMac(neighbor['lladdr']),
    permanent: (neighbor['state'] as unknown as string[]).includes('PERMANENT'),
  }));
}

test('a veth is made with both ends as asked, in two namespaces', async (t) => {
  const [near, far] = [await namespace(t), await namespace(t)];
  const link = createVeth(near.nl, nearEnd, { ...farEnd, netnsFd: far.file.fd });
  const { name, mtuBytes, alias, up, group } = nearEnd;
  t.like(link, { name, mtuBytes, mac: mac(1), alias, up, group, kind: 'veth' });
  const [, a0] = await linksByIp(near.name);
  t.deepEqual(a0, link);
  const [, eth0] = await linksByIp(far.name);
  t.like(eth0, { ...farEnd, index: link.peerIndex!, peerIndex: link.index, up: false, alias: '' });
  t.is(namespaceIdOf(near.nl, far.file.fd), link.peerNamespaceId);
  t.not(link.peerNamespaceId, null);
});

test('a veth is made without alias and group, down', async (t) => {
  const [near, far] = [await namespace(t), await namespace(t)];
  const { name, mtuBytes } = nearEnd;
  createVeth(
    near.nl,
    { name, mtuBytes, mac: mac(1), alias: '', up: false },
    { ...farEnd, netnsFd: far.file.fd },
  );
  t.like(await linksByIp(near.name), { 1: { name, up: false, alias: '', group: 0 } });
});

test('a veth whose name or peer’s name is taken, or whose peer has nowhere to go, is not made', async (t) => {
  const { near, far } = await pair(t);
  const peer = { ...farEnd, netnsFd: far.file.fd };
  const device = openSync('/dev/null', 'r');
  t.teardown(() => closeSync(device));
  const before = [await linksByIp(near.name), await linksByIp(far.name)];
  for (const [veth, other, errno] of [
    [nearEnd, { ...peer, name: 'eth1' }, EEXIST],
    [{ ...nearEnd, name: 'a1' }, peer, EEXIST],
    [{ ...nearEnd, name: 'a1' }, { ...peer, name: 'eth1', netnsFd: device }, EINVAL],
    // Longer than IFALIASZ: the second request fails, and the first is undone.
    [{ ...nearEnd, name: 'a1', alias: 'x'.repeat(300) }, { ...peer, name: 'eth1' }, null],
  ] as const) {
    const error = t.throws(() => createVeth(near.nl, veth, other), {
      instanceOf: NetlinkError,
      code: 'ERR_NETLINK',
    });
    if (errno !== null) {
      t.is(error.errno, errno);
      t.true(error.message.startsWith(`making the veth ${veth.name} with ${other.name}: `));
    }
  }
  t.deepEqual([await linksByIp(near.name), await linksByIp(far.name)], before);
});

test('interfaces of every kind are listed, and found by name, as ip has them', async (t) => {
  const { near, far } = await pair(t);
  await change(near.name, 'link add name br0 type bridge');
  await change(near.name, 'link add name b0 type veth peer name b1');
  await change(near.name, 'link set b1 alias grün up');
  await change(near.name, 'tuntap add dev tun0 mode tun');
  await change(near.name, 'link add vx0 type vxlan id 7 dstport 4789');
  for (const { name, nl } of [near, far]) {
    const expected = await linksByIp(name);
    t.deepEqual(listLinks(nl), expected);
    for (const link of expected) t.deepEqual(findLink(nl, link.name), link);
  }
  t.like(findLink(near.nl, 'tun0'), { kind: 'tun', mac: null, peerIndex: null });
  t.is(findLink(near.nl, 'absent'), null);
  t.throws(() => findLink(near.nl, 'x'.repeat(20)), { instanceOf: NetlinkError });
});

const changes: readonly (readonly [name: string, LinkChange, Partial<LinkState>])[] = [
  ['down', { up: false }, { up: false }],
  ['up again', { up: true }, { up: true }],
  ['another MTU', { mtuBytes: 1280 }, { mtuBytes: 1280 }],
  ['another address', { mac: mac(9) }, { mac: mac(9) }],
  ['another alias', { alias: 'ä b' }, { alias: 'ä b' }],
  ['no alias', { alias: '' }, { alias: '' }],
  ['another group', { group: 2_000_000_000 }, { group: 2_000_000_000 }],
  ['the default group', { group: 0 }, { group: 0 }],
  ['nothing', {}, {}],
  ['everything', { ...farEnd, up: false, alias: 'y' }, { mtuBytes: 1300, mac: mac(2), alias: 'y' }],
];

test('an interface is changed as asked, and in nothing else', async (t) => {
  const { near, link } = await pair(t);
  const expected = { ...link };
  for (const [name, asked, changed] of changes) {
    const { up = expected.up } = asked;
    setLink(near.nl, link.index, asked);
    Object.assign(expected, changed, { up });
    t.deepEqual((await linksByIp(near.name))[1], expected, name);
  }
  const error = t.throws(() => setLink(near.nl, 4711, { up: true }), { instanceOf: NetlinkError });
  t.is(error.errno, ENODEV);
  t.regex(error.message, /^changing interface 4711: ENODEV/);
});

test('an interface is deleted with its other end, and once', async (t) => {
  const { near, far, link } = await pair(t);
  t.true(deleteLink(near.nl, link.index));
  for (const { name } of [near, far]) {
    t.deepEqual(
      (await linksByIp(name)).map((each) => each.name),
      ['lo'],
    );
  }
  t.false(deleteLink(near.nl, link.index));
});

test('a group is deleted and the others stay', async (t) => {
  const { near, far } = await pair(t);
  for (let i = 0; i < 5; i++) {
    createVeth(
      near.nl,
      { ...nearEnd, name: `b${i}`, group: 8 },
      { ...farEnd, name: `b${i}`, netnsFd: far.file.fd },
    );
  }
  t.true(deleteLinkGroup(near.nl, 8));
  t.deepEqual(
    (await linksByIp(near.name)).map(({ name }) => name),
    ['lo', 'a0'],
  );
  t.deepEqual(
    (await linksByIp(far.name)).map(({ name }) => name),
    ['lo', 'eth0'],
  );
  t.false(deleteLinkGroup(near.nl, 8));
  t.throws(() => deleteLinkGroup(near.nl, 0), { instanceOf: NetlinkError });
});

for (const [name, address, length, options, expected] of [
  ['IPv4', '10.244.1.7', 32, {}, { scope: 'global', tentative: false }],
  ['IPv4 with a network', '10.1.255.255', 8, {}, { scope: 'global' }],
  ['IPv4 of the link only', '169.254.1.1', 32, { scope: 'link' }, { scope: 'link' }],
  ['IPv6', 'fd00:10:244:1::7', 128, {}, { tentative: true }],
  ['IPv6, at once', 'fd00:10:244:1::8', 128, { noDad: true }, { tentative: false }],
  ['IPv6 of the link only', 'fe80::1', 64, { noDad: true, scope: 'link' }, { scope: 'link' }],
] as const) {
  test(`an address is added, once however often: ${name}`, async (t) => {
    const { far, near, link } = await pair(t);
    const index = link.peerIndex!;
    const added: NewAddress = { index, address: parseAddress(address), length, ...options };
    addAddress(far.nl, added);
    addAddress(far.nl, added);
    const found = (await addressesByIp(far.name)).filter((each) => each.address === added.address);
    t.is(found.length, 1);
    t.like(found[0], { index, length, ...expected });
    t.deepEqual(
      listAddresses(near.nl, index),
      listAddresses(near.nl).filter((each) => each.index === index),
    );
  });
}

test('addresses are listed, of all and of one, as ip has them', async (t) => {
  const { near, link } = await pair(t);
  await change(near.name, 'addr add 10.0.0.1/24 dev a0');
  await change(near.name, 'addr add 10.0.0.2/24 dev a0');
  await change(near.name, 'addr add 10.3.0.1 peer 10.3.0.2/32 dev a0');
  await change(near.name, 'addr add fd00::1/64 dev a0 nodad');
  const expected = await addressesByIp(near.name);
  t.true(expected.length >= 6);
  t.deepEqual(sorted(listAddresses(near.nl)), sorted(expected));
  t.deepEqual(
    sorted(listAddresses(near.nl, link.index)),
    sorted(expected.filter(({ index }) => index === link.index)),
  );
  t.deepEqual(listAddresses(near.nl, 4711), []);
  const error = t.throws(() =>
    addAddress(near.nl, { index: 4711, address: parseAddress('10.0.0.9'), length: 32 }),
  );
  t.regex(error.message, /^adding 10\.0\.0\.9\/32 to interface 4711: ENODEV/);
});

const table = 1000;
/** `dev` stands for the index of a0; what ip says of the route after it was set. */
const routes: readonly (readonly [
  name: string,
  spec: Omit<RouteSpec, 'table' | 'protocol' | 'index' | 'to'> & { to: string; dev?: boolean },
  line: string,
])[] = [
  ['to a pod', { to: '10.244.1.7/32', dev: true }, '10.244.1.7 dev a0 proto 80 scope link'],
  [
    'by a next hop',
    { to: '10.5.0.0/16', dev: true, via: parseAddress('10.0.0.9') },
    '10.5.0.0/16 via 10.0.0.9 dev a0 proto 80',
  ],
  [
    'by a next hop of no network of ours',
    { to: '0.0.0.0/0', dev: true, via: parseAddress('169.254.1.1'), onlink: true },
    'default via 169.254.1.1 dev a0 proto 80 onlink',
  ],
  [
    'IPv4 by a next hop of IPv6',
    { to: '10.6.0.0/16', dev: true, via: parseAddress('fe80::1') },
    '10.6.0.0/16 via inet6 fe80::1 dev a0 proto 80',
  ],
  [
    'with source, scope and metric',
    { to: '10.7.0.0/16', dev: true, src: parseAddress('10.0.0.1'), scope: 'global', metric: 5 },
    '10.7.0.0/16 dev a0 proto 80 src 10.0.0.1 metric 5',
  ],
  ['unreachable', { to: '10.8.0.0/16', type: 'unreachable' }, 'unreachable 10.8.0.0/16 proto 80'],
  ['blackhole', { to: '10.8.0.0/16', type: 'blackhole' }, 'blackhole 10.8.0.0/16 proto 80'],
  ['throw', { to: '10.9.0.0/16', type: 'throw' }, 'throw 10.9.0.0/16 proto 80'],
  [
    'local',
    { to: '10.10.0.0/16', type: 'local', dev: true },
    'local 10.10.0.0/16 dev a0 proto 80 scope host',
  ],
  [
    'IPv6 to a pod',
    { to: 'fd00::7/128', dev: true },
    'fd00::7 dev a0 proto 80 metric 1024 pref medium',
  ],
  [
    'IPv6 by a next hop',
    { to: '::/0', dev: true, via: parseAddress('fe80::1'), onlink: true },
    'default via fe80::1 dev a0 proto 80 metric 1024 onlink pref medium',
  ],
  [
    'IPv6 unreachable',
    { to: 'fd08::/48', type: 'unreachable', metric: 7 },
    'unreachable fd08::/48 dev lo proto 80 metric 7 pref medium',
  ],
  [
    'IPv6 throw',
    { to: 'fd09::/48', type: 'throw' },
    'throw fd09::/48 dev lo proto 80 metric 1024 pref medium',
  ],
];

for (const [name, { to, dev = false, ...rest }, line] of routes) {
  test(`a route is set, replaces another, and is deleted: ${name}`, async (t) => {
    const { near, link } = await pair(t);
    await change(near.name, 'addr add 10.0.0.1/24 dev a0');
    const block = parseCidr(to);
    const { family } = block;
    const route: RouteSpec = {
      ...rest,
      to: block,
      table,
      protocol: 80,
      ...(dev ? { index: link.index } : {}),
    };
    const lines = async () =>
      (await run(['ip', '-n', near.name, `-${family}`, 'route', 'show', 'table', `${table}`]))
        .split('\n')
        .map((text) => text.trim())
        .filter((text) => text !== '');
    t.deepEqual(listRoutes(near.nl, { family, table }), [], 'a table that is not there');
    // What was there before, of another kind and owner.
    const { metric = 0 } = rest;
    replaceRoute(near.nl, { to: block, table, metric, type: 'prohibit', protocol: 81 });
    t.true(replaceRoute(near.nl, route));
    t.true(replaceRoute(near.nl, route));
    t.deepEqual(await lines(), [line]);
    const listed = listRoutes(near.nl, { family, table });
    t.deepEqual(listed, await routesByIp(near.name, family, table));
    t.like(listed[0], { to: block, protocol: 80, via: rest.via ?? null, src: rest.src ?? null });
    t.false(replaceRoute(near.nl, { ...route, protocol: 82 }, { unlessPresent: true }));
    t.deepEqual(await lines(), [line]);
    t.false(deleteRoute(near.nl, { ...route, protocol: 82 }), 'another’s');
    t.true(deleteRoute(near.nl, route));
    t.false(deleteRoute(near.nl, route));
    t.deepEqual(await lines(), []);
    t.true(replaceRoute(near.nl, route, { unlessPresent: true }));
    t.deepEqual(await lines(), [line]);
    t.true(deleteRoute(near.nl, { to: block, table, protocol: 80 }), 'whatever it is');
    t.deepEqual(await lines(), []);
  });
}

test('routes of every table are listed as ip has them, and only that table’s', async (t) => {
  const { near } = await pair(t);
  for (const words of [
    'addr add 10.0.0.1/24 dev a0',
    'addr add fd00::1/64 dev a0 nodad',
    'route add 10.5.0.0/16 nexthop via 10.0.0.7 dev a0 nexthop via 10.0.0.8 dev a0',
    'route add default via 10.0.0.9 src 10.0.0.1 metric 50',
    'route add 10.6.0.0/16 via 10.0.0.9 table 100',
    '-6 route add fd05::/64 via fd00::9',
    '-6 route add fd06::/64 via fd00::9 table 100',
  ]) {
    await change(near.name, words);
  }
  for (const family of [4, 6] as const) {
    for (const number of [100, 254, 255]) {
      const listed = listRoutes(near.nl, { family, table: number });
      t.true(listed.length > 0);
      t.deepEqual(sorted(listed), sorted(await routesByIp(near.name, family, number)));
    }
    t.deepEqual(listRoutes(near.nl, { family, table: 4711 }), []);
  }
});

test('a route to an interface that is not there is refused', async (t) => {
  const { near } = await pair(t);
  const to = parseCidr('10.0.0.0/8');
  const error = t.throws(() => replaceRoute(near.nl, { to, table, index: 4711, protocol: 80 }));
  t.regex(error.message, /^setting the route to 10\.0\.0\.0\/8 in table 1000: ENODEV/);
});

test('a neighbour is set for good, replaces another, and is listed as ip has it', async (t) => {
  const { near, link } = await pair(t);
  const { index } = link;
  for (const text of ['169.254.1.1', 'fe80::1']) {
    const address = parseAddress(text);
    for (const last of [7, 8]) {
      replaceNeighbor(near.nl, { index, address, mac: mac(last) });
      const found = (await neighborsByIp(near.name)).filter((each) => each.address === address);
      t.deepEqual(found, [{ index, address, mac: mac(last), permanent: true }]);
    }
  }
  const expected = await neighborsByIp(near.name);
  t.deepEqual(sorted(listNeighbors(near.nl)), sorted(expected));
  t.deepEqual(
    sorted(listNeighbors(near.nl, index)),
    sorted(expected.filter((each) => each.index === index)),
  );
  t.deepEqual(listNeighbors(near.nl, 4711), []);
  const absent = { index: 4711, address: parseAddress('10.0.0.1'), mac: mac(1) };
  t.throws(() => replaceNeighbor(near.nl, absent), { instanceOf: NetlinkError });
});

test('a namespace that no interface leads to has no number', async (t) => {
  const [near, far] = [await namespace(t), await namespace(t)];
  t.is(namespaceIdOf(near.nl, far.file.fd), null);
});

test('250 veths are made, listed and deleted by their group', async (t) => {
  const [near, far] = [await namespace(t), await namespace(t)];
  const count = 250;
  const time = (what: string, work: () => void): void => {
    const start = performance.now();
    work();
    t.log(`${what}: ${(performance.now() - start).toFixed(1)} ms`);
  };
  time(`${count} made`, () => {
    for (let i = 0; i < count; i++) {
      createVeth(
        near.nl,
        { ...nearEnd, name: `v${i}`, mac: mac(2 * i) },
        { ...farEnd, name: `v${i}`, mac: mac(2 * i + 1), netnsFd: far.file.fd },
      );
    }
  });
  time('listed', () => t.is(listLinks(near.nl).length, count + 1));
  t.deepEqual(listLinks(near.nl), await linksByIp(near.name));
  time('deleted', () => t.true(deleteLinkGroup(near.nl, nearEnd.group)));
  t.deepEqual(
    listLinks(near.nl).map(({ name }) => name),
    ['lo'],
  );
  t.deepEqual(
    listLinks(far.nl).map(({ name }) => name),
    ['lo'],
  );
});
