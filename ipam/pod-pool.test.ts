import test from 'ava';
import * as fc from 'fast-check';
import {
  type IpAddress,
  type Ipv4,
  type Ipv6,
  formatAddress,
  parseAddress,
  parseIpv4,
  toIpv4,
  toIpv6,
} from '../wire/address.ts';
import { type Cidr4, type Cidr6, parseCidr } from '../wire/cidr.ts';
import { toMac } from '../wire/mac.ts';
import { parseAddressRange } from './address-range.ts';
import type { SubnetPair } from './lease-codec.ts';
import {
  type AttachmentRequest,
  PodPool,
  type PodPoolOptions,
  type PoolState,
  describePool,
} from './pod-pool.ts';
import type { Attachment } from './types.ts';

const request = (containerId: string, ifname = 'eth0'): AttachmentRequest => ({
  containerId,
  ifname,
  network: 'weft',
  netns: `/run/netns/${containerId}`,
  netnsId: '4:4026532000',
  mac: toMac(0x020000000001),
  pod: containerId.startsWith('pod-') ? { namespace: 'default', name: containerId } : null,
});

/** `10.0.1.0/24`, `fd00::/64`, both with a space between them, or nothing. */
function subnetsOf(text: string): SubnetPair {
  const blocks = text.split(' ').filter(Boolean).map(parseCidr);
  return {
    subnet4: blocks.find((block) => block.family === 4) ?? null,
    subnet6: blocks.find((block) => block.family === 6) ?? null,
  };
}

const poolOf = (subnets: string, reserved: readonly string[] = [], state?: PoolState): PodPool =>
  new PodPool({
    subnets: subnetsOf(subnets),
    reserved: reserved.map(parseAddressRange),
    ...(state === undefined ? {} : { state }),
  });

const shown = ({ address4, address6 }: Pick<Attachment, 'address4' | 'address6'>): string =>
  [address4, address6]
    .filter((address) => address !== null)
    .map((address) => formatAddress(address))
    .join(' ');

/**
 * `+a` allocates for container a, `+a=ADDRESS,ADDRESS` with addresses wanted, `-a` releases. What is
 * given stands in the answer, and the code of what is refused.
 */
function play(pool: PodPool, steps: string): string {
  const answers: string[] = [];
  for (const step of steps.split(' ')) {
    const [, sign, name, addresses] = /^([+-])([^=]+)=?(.*)$/.exec(step)!;
    if (sign === '-') {
      answers.push(pool.release(request(name!)) === null ? 'none' : 'released');
      continue;
    }
    try {
      const wanted = addresses!.split(',').filter(Boolean).map(parseAddress);
      answers.push(shown(pool.allocate(request(name!), wanted)));
    } catch (error) {
      answers.push((error as { code: string }).code);
    }
  }
  return answers.join(', ');
}

const cases: readonly (readonly [string, subnets: string, steps: string, answers: string])[] = [
  ['from the third on', '10.0.1.0/24', '+a +b +c', '10.0.1.2, 10.0.1.3, 10.0.1.4'],
  [
    'what was freed comes after what was never given, the longest free first',
    '10.0.1.0/29',
    '+a +b +c -b -a +d +e +f +g',
    '10.0.1.2, 10.0.1.3, 10.0.1.4, released, released, 10.0.1.5, 10.0.1.6, 10.0.1.3, 10.0.1.2',
  ],
  ['the broadcast address is not given', '10.0.1.0/30', '+a +b', '10.0.1.2, ERR_POOL_EXHAUSTED'],
  ['IPv6 has none', 'fd00::/126', '+a +b +c', 'fd00::2, fd00::3, ERR_POOL_EXHAUSTED'],
  ['both families', '10.0.1.0/24 fd00:1::/64', '+a +b', '10.0.1.2 fd00:1::2, 10.0.1.3 fd00:1::3'],
  [
    'one family exhausted: the other gives nothing either',
    '10.0.1.0/24 fd00::/126',
    '+a +b +c -b +d',
    '10.0.1.2 fd00::2, 10.0.1.3 fd00::3, ERR_POOL_EXHAUSTED, released, 10.0.1.4 fd00::3',
  ],
  ['no subnet', '', '+a', 'ERR_NO_SUBNET'],
  ['a subnet of one address', '10.0.1.7/32', '+a', 'ERR_POOL_EXHAUSTED'],
  ['the very last one', '255.255.255.255/32', '+a', 'ERR_POOL_EXHAUSTED'],
  ['a subnet of two addresses', 'fd00::/127', '+a', 'ERR_POOL_EXHAUSTED'],
  ['released twice', '10.0.1.0/24', '+a -a -a', '10.0.1.2, released, none'],
  ['the same key', '10.0.1.0/24', '+a +a +b', '10.0.1.2, ERR_ALREADY_ATTACHED, 10.0.1.3'],
  ['wanted', '10.0.1.0/24', '+a=10.0.1.3 +b +c', '10.0.1.3, 10.0.1.2, 10.0.1.4'],
  [
    'wanted in one family, given in the other',
    '10.0.1.0/24 fd00::/64',
    '+a=fd00::9 +b',
    '10.0.1.2 fd00::9, 10.0.1.3 fd00::2',
  ],
  ['wanted in both', '10.0.1.0/24 fd00::/64', '+a=fd00::9,10.0.1.9', '10.0.1.9 fd00::9'],
  [
    'wanted out of the line of the freed',
    '10.0.1.0/29',
    '+a +b +c -a -b +d=10.0.1.2 +e +f +g +h',
    '10.0.1.2, 10.0.1.3, 10.0.1.4, released, released, 10.0.1.2, 10.0.1.5, 10.0.1.6, 10.0.1.3, ' +
      'ERR_POOL_EXHAUSTED',
  ],
  [
    'wanted before its turn and freed: reused last too',
    '10.0.1.0/29',
    '+a=10.0.1.3 -a +b +c +d +e +f',
    '10.0.1.3, released, 10.0.1.2, 10.0.1.4, 10.0.1.5, 10.0.1.6, 10.0.1.3',
  ],
  ['wanted and taken', '10.0.1.0/24', '+a +b=10.0.1.2 +c', '10.0.1.2, ERR_ADDRESS_TAKEN, 10.0.1.3'],
  ['wanted and outside', '10.0.1.0/24', '+a=10.0.2.2', 'ERR_ADDRESS_OUTSIDE'],
  ['the node', '10.0.1.0/24', '+a=10.0.1.0', 'ERR_ADDRESS_RESERVED'],
  ['the bridge', '10.0.1.0/24', '+a=10.0.1.1', 'ERR_ADDRESS_RESERVED'],
  ['the broadcast', '10.0.1.0/24', '+a=10.0.1.255', 'ERR_ADDRESS_RESERVED'],
  ['the last of IPv6', 'fd00::/120', '+a=fd00::ff', 'fd00::ff'],
  ['two of one family', '10.0.1.0/24', '+a=10.0.1.5,10.0.1.6', 'ERR_ADDRESS_FAMILY'],
  ['the same one twice', '10.0.1.0/24', '+a=10.0.1.5,10.0.1.5', 'ERR_ADDRESS_FAMILY'],
  ['a family that is not here', '10.0.1.0/24', '+a=fd00::5', 'ERR_ADDRESS_FAMILY'],
  [
    'refused in one family: the other is not taken',
    '10.0.1.0/24 fd00::/64',
    '+a=fd00::1 +b',
    'ERR_ADDRESS_RESERVED, 10.0.1.2 fd00::2',
  ],
];
for (const [title, subnets, steps, answers] of cases) {
  test(`allocate: ${title}`, (t) => {
    t.is(play(poolOf(subnets), steps), answers);
  });
}

test('reserved addresses are never given, not even when asked for', (t) => {
  const reserved = ['10.0.1.2-10.0.1.3', '10.0.1.5', '10.0.9.0/24', 'fd00::/126'];
  const pool = poolOf('10.0.1.0/29 fd00::/64', reserved);
  t.is(
    play(pool, '+a +b=10.0.1.3 +b=fd00::2 +b +c'),
    '10.0.1.4 fd00::4, ERR_ADDRESS_RESERVED, ERR_ADDRESS_RESERVED, 10.0.1.6 fd00::5, ERR_POOL_EXHAUSTED',
  );
  t.deepEqual(pool.reserved(), ['10.0.1.2-10.0.1.3', '10.0.1.5', 'fd00::2-fd00::3']);
  t.is(play(pool, '-a +d'), 'released, 10.0.1.4 fd00::6');
});

const messages: readonly (readonly [string, steps: string, RegExp])[] = [
  [
    'exhausted',
    '+a=10.0.1.5 +b +c',
    /^10\.0\.1\.0\/29 has no free address left: of 5, 2 are in use and 3 reserved; delete/,
  ],
  ['taken by a pod', '+pod-a +b=10.0.1.5', /^10\.0\.1\.5 is in use by pod default\/pod-a \(inter/],
  ['taken', '+a +b=10.0.1.5', /^10\.0\.1\.5 is in use by interface eth0 of container a$/],
  ['outside', '+a=10.0.2.5', /^10\.0\.2\.5 is not of this node's subnet 10\.0\.1\.0\/29; packets/],
  ['the node', '+a=10.0.1.0', /^10\.0\.1\.0 is the node's own, the bridge's or the broadcast /],
  ['reserved', '+a=10.0.1.3', /^10\.0\.1\.3 is reserved on this node \(10\.0\.1\.2-10\.0\.1\.4\)/],
  [
    'two',
    '+a=10.0.1.5,10.0.1.6',
    /^10\.0\.1\.5 and 10\.0\.1\.6 are asked for at once; an int.* IPv4/,
  ],
  ['no IPv6', '+a=fd00::1', /^fd00::1 is asked for, but this node holds no IPv6 subnet$/],
  ['attached', '+a +a', /^container a has an interface eth0 already, with 10\.0\.1\.5; it must be/],
];
for (const [title, steps, message] of messages) {
  test(`message: ${title}`, (t) => {
    const pool = poolOf('10.0.1.0/29', ['10.0.1.2-10.0.1.4']);
    const all = steps.split(' ');
    if (all.length > 1) play(pool, all.slice(0, -1).join(' '));
    const [name, addresses = ''] = all.at(-1).slice(1).split('=');
    const wanted = addresses.split(',').filter(Boolean).map(parseAddress);
    t.throws(() => pool.allocate(request(name!), wanted), { message });
  });
}

test('a changed subnet: pods keep what they have, and take nothing', (t) => {
  const before = poolOf('10.0.1.0/29 fd00:1::/64');
  play(before, '+a +b +c -c');
  const pool = poolOf('10.0.2.0/29', [], before.state());
  t.deepEqual(pool.strays().map(shown), ['10.0.1.2 fd00:1::2', '10.0.1.3 fd00:1::3']);
  t.deepEqual(describePool(pool), {
    subnet: '10.0.2.0/29',
    ipv6Subnet: null,
    capacity: 5,
    used: 0,
    reserved: [],
  });
  t.is(play(pool, '+d +e=10.0.1.2 -a +f'), '10.0.2.2, ERR_ADDRESS_OUTSIDE, released, 10.0.2.3');
  t.is(pool.size, 3);
  t.is(pool.strays().length, 1);
  const back = poolOf('10.0.1.0/29 fd00:1::/64', [], pool.state());
  t.is(play(back, '+g'), '10.0.1.2 fd00:1::5', 'the IPv6 turn went on where it was');
  t.deepEqual(back.strays().map(shown), ['10.0.2.2', '10.0.2.3']);
});

test('a subnet that grew: the new addresses below are given as well', (t) => {
  const before = poolOf('10.0.1.8/29');
  play(before, '+a +b -a');
  const pool = poolOf('10.0.1.0/28', [], before.state());
  t.is(
    play(pool, '+c +d +e +f +g +h +i +j +k'),
    '10.0.1.12, 10.0.1.13, 10.0.1.14, 10.0.1.2, 10.0.1.3, 10.0.1.4, 10.0.1.5, 10.0.1.6, 10.0.1.7',
  );
  t.is(play(pool, '+l +m +n +o'), '10.0.1.8, 10.0.1.9, 10.0.1.10, ERR_POOL_EXHAUSTED');
});

test('an address that is the node’s own in the new subnet is of no pool', (t) => {
  const before = poolOf('10.0.1.0/28');
  play(before, '+a=10.0.1.8 +b=10.0.1.10');
  const pool = poolOf('10.0.1.8/29', [], before.state());
  t.deepEqual(pool.strays().map(shown), ['10.0.1.8']);
  t.is(describePool(pool).used, 1);
});

test('adopted as it is, even reserved or outside; not twice', (t) => {
  const pool = poolOf('10.0.1.0/29', ['10.0.1.2-10.0.1.3']);
  const attachment = (name: string, address: string): Attachment => ({
    ...request(name),
    address4: parseIpv4(address),
    address6: null,
  });
  pool.adopt(attachment('a', '10.0.1.3'));
  pool.adopt(attachment('b', '10.0.7.7'));
  pool.adopt(attachment('c', '10.0.1.4'));
  t.throws(() => pool.adopt(attachment('a', '10.0.1.6')), { code: 'ERR_ALREADY_ATTACHED' });
  t.throws(() => pool.adopt(attachment('d', '10.0.1.3')), { code: 'ERR_ADDRESS_TAKEN' });
  t.throws(() => pool.adopt(attachment('d', '10.0.7.7')), { code: 'ERR_ADDRESS_TAKEN' });
  t.like(pool.use()[0], { addresses: 5n, used: 2n, reserved: 1n, free: 2n });
  t.is(pool.holderOf(parseAddress('10.0.1.3'))?.containerId, 'a');
  t.is(play(pool, '-a +e +f +g'), 'released, 10.0.1.5, 10.0.1.6, ERR_POOL_EXHAUSTED');
});

const described: readonly (readonly [string, string, readonly string[], number | null, number])[] =
  [
    ['IPv4', '10.0.1.0/24', ['10.0.1.16/28'], 237, 2],
    ['IPv6: more than can be counted', 'fd00::/64', [], null, 2],
    ['IPv6 that can be counted', 'fd00::/120', [], 254, 2],
    ['both: the one with fewer left', '10.0.1.0/24 fd00::/64', [], 253, 2],
    ['none', '', [], 0, 0],
  ];
for (const [title, subnets, reserved, capacity, used] of described) {
  test(`described: ${title}`, (t) => {
    const pool = poolOf(subnets, reserved);
    play(pool, '+a +b');
    t.like(describePool(pool), { capacity, used });
  });
}

test('IPv6: the line of the freed stays short, and none of it is given before the turn comes round', (t) => {
  const pool = poolOf('fd00::/64');
  for (let i = 0; i < 3_000; i++) pool.allocate(request(`c${i}`));
  for (let i = 0; i < 3_000; i++) pool.release(request(`c${i}`));
  const { next, freed } = pool.state().turn6;
  t.is(formatAddress(next!), 'fd00::bba');
  t.is(freed.length, 1_024);
  t.is(formatAddress(freed.at(-1)!), 'fd00::bb9');
  t.is(play(pool, '+x'), 'fd00::bba');
});

test('131,070 addresses: what fell off the line comes first, the line last, none is lost', (t) => {
  const pool = poolOf('fd00::/111');
  const give = (i: number): bigint => BigInt(pool.allocate(request(`c${i}`)).address6!) & 0xfffffn;
  const count = 2 ** 17 - 2;
  for (let i = 0; i < count; i++) give(i);
  t.is(play(pool, '+x'), 'ERR_POOL_EXHAUSTED');
  // Freed from the highest to the lowest: the line holds the lowest.
  for (let i = count - 1; i >= 0; i--) pool.release(request(`c${i}`));
  const given = Array.from({ length: count }, (_, i) => give(i));
  t.is(given[0], 1_026n);
  t.is(given[count - 1_025], 2n ** 17n - 1n);
  t.is(given[count - 1_024], 1_025n);
  t.is(given[count - 1], 2n);
  t.is(new Set(given).size, count);
});

test('65,000 pods in a /16: filling, churn when nearly full, and exhaustion take constant time each', (t) => {
  const pool = poolOf('10.0.0.0/16', ['10.0.128.0/20']);
  const { free } = pool.use()[0]!;
  const startMs = performance.now();
  for (let i = 0; i < Number(free); i++) pool.allocate(request(`c${i}`));
  for (let i = 0; i < 60_000; i++) {
    pool.release(request(`c${i}`));
    pool.allocate(request(`c${i}`));
    t.throws(() => pool.allocate(request('x')), { code: 'ERR_POOL_EXHAUSTED' });
  }
  // 180,000 steps: 1 s when each is constant, minutes when each looks at all.
  t.true(performance.now() - startMs < 20_000);
});

/** The definition, a line each: what the pool must do for one family. */
class Reference<A extends IpAddress> {
  readonly all: readonly A[];
  used = new Map<string, A>();
  freed: A[] = [];
  next = 0;
  reserved: ReadonlySet<IpAddress> = new Set();

  constructor(all: readonly A[]) {
    this.all = all;
  }

  /** The turn's order: from `next` on and round, then the freed. Null: exhausted. */
  choose(): A | null {
    const used = new Set<A>(this.used.values());
    const free = (address: A): boolean => !used.has(address) && !this.reserved.has(address);
    const turn = [...this.all.slice(this.next), ...this.all.slice(0, this.next)];
    const fresh = turn.find((address) => free(address) && !this.freed.includes(address));
    return fresh ?? this.freed.find(free) ?? null;
  }

  take(name: string, address: A, byTurn: boolean): void {
    if (byTurn && !this.freed.includes(address)) {
      this.next = (this.all.indexOf(address) + 1) % this.all.length;
    }
    this.freed = this.freed.filter((one) => one !== address);
    this.used.set(name, address);
  }

  release(name: string): void {
    const address = this.used.get(name);
    if (address === undefined) return;
    this.used.delete(name);
    if (!this.reserved.has(address)) this.freed.push(address);
  }

  reserve(addresses: readonly IpAddress[]): void {
    this.reserved = new Set(addresses);
    this.freed = this.freed.filter((address) => !this.reserved.has(address));
  }
}

const SUBNET4 = parseCidr('10.0.1.0/28') as Cidr4;
const SUBNET6 = parseCidr('fd00::/124') as Cidr6;
const all4 = Array.from({ length: 13 }, (_, i) => toIpv4(SUBNET4.base + 2 + i));
const all6 = Array.from({ length: 14 }, (_, i) => toIpv6(SUBNET6.base + 2n + BigInt(i)));

type Step =
  | { readonly kind: 'allocate'; readonly name: string; readonly wanted: number | null }
  | { readonly kind: 'release'; readonly name: string }
  | { readonly kind: 'restart'; readonly reserve: readonly number[] | null };
const name = fc.integer({ min: 0, max: 19 }).map((n) => `c${n}`);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('allocate' as const),
      name,
      wanted: fc.option(fc.integer({ min: 0, max: 13 }), { freq: 3 }),
    }),
  },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('release' as const), name }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('restart' as const),
      reserve: fc.option(fc.array(fc.integer({ min: 0, max: 12 }), { maxLength: 4 })),
    }),
  },
);

test('the pool is its definition, whatever is asked of it', (t) => {
  const options: PodPoolOptions = { subnets: { subnet4: SUBNET4, subnet6: SUBNET6 } };
  fc.assert(
    fc.property(fc.array(step, { minLength: 20, maxLength: 200 }), (steps) => {
      let pool = new PodPool(options);
      let reserved: readonly number[] = [];
      const twin4 = new Reference<Ipv4>(all4);
      const twin6 = new Reference<Ipv6>(all6);
      for (const one of steps) {
        if (one.kind === 'release') {
          const had = twin4.used.has(one.name);
          if ((pool.release(request(one.name)) !== null) !== had) return false;
          twin4.release(one.name);
          twin6.release(one.name);
        } else if (one.kind === 'restart') {
          reserved = one.reserve ?? reserved;
          const addresses = reserved.flatMap((i) => [all4[i]!, all6[i]!]);
          const ranges = addresses.map((address) => parseAddressRange(formatAddress(address)));
          pool = new PodPool({ ...options, reserved: ranges, state: pool.state() });
          twin4.reserve(addresses);
          twin6.reserve(addresses);
        } else {
          const wanted = one.wanted === null ? [] : [all6[one.wanted]!];
          const address4 = twin4.choose();
          const address6 = wanted[0] ?? twin6.choose();
          const possible =
            !twin4.used.has(one.name) &&
            address4 !== null &&
            address6 !== null &&
            !twin6.reserved.has(address6) &&
            !Array.from(twin6.used.values()).includes(address6);
          let given: Attachment | null = null;
          try {
            given = pool.allocate(request(one.name), wanted);
          } catch (error) {
            if (!(error instanceof Error && 'code' in error)) throw error;
          }
          if ((given !== null) !== possible) return false;
          if (given !== null) {
            if (given.address4 !== address4 || given.address6 !== address6) return false;
            twin4.take(one.name, address4!, true);
            twin6.take(one.name, address6!, wanted.length === 0);
          }
        }
        const { attachments, turn4, turn6 } = pool.state();
        if (attachments.length !== twin4.used.size) return false;
        if (new Set(attachments.map(shown)).size !== attachments.length) return false;
        if (turn4.freed.join() !== twin4.freed.join()) return false;
        if (turn6.freed.join() !== twin6.freed.join()) return false;
        const use = pool.use()[0]!;
        if (use.used + use.reserved + use.free !== use.addresses) return false;
      }
      return true;
    }),
    { numRuns: 500 },
  );
  t.pass();
});

test('a restart changes nothing', (t) => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 150 }), (steps) => {
      const subnets = { subnet4: SUBNET4, subnet6: SUBNET6 };
      const through = new PodPool({ subnets });
      let restarted = new PodPool({ subnets });
      const apply = (pool: PodPool, one: Step): string => {
        if (one.kind === 'restart') return '';
        if (one.kind === 'release') return `${pool.release(request(one.name)) !== null}`;
        try {
          const wanted = one.wanted === null ? [] : [all6[one.wanted]!];
          return shown(pool.allocate(request(one.name), wanted));
        } catch (error) {
          return (error as Error).message;
        }
      };
      return steps.every((one) => {
        restarted = new PodPool({ subnets, state: restarted.state() });
        return apply(through, one) === apply(restarted, one);
      });
    }),
  );
  t.pass();
});
