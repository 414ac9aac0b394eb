import test from 'ava';
import * as fc from 'fast-check';
import { parseIpv4, toIpv4 } from '../wire/address.ts';
import { cidrContains, cidrOf, cidrsOverlap, formatCidr } from '../wire/cidr.ts';
import { parseNetworkConfig } from './config.ts';
import { type SubnetPair, decodeSubnetKey, encodeSubnetKey } from './lease-codec.ts';
import { type Plan, planAcquire } from './plan.ts';
import { subnetReader } from './subnets.ts';
import type { NetworkConfig } from './types.ts';

const config = (fields: object): NetworkConfig =>
  parseNetworkConfig(JSON.stringify({ Backend: { Type: 'vxlan' }, ...fields }));

const SMALL = config({ Network: '10.0.0.0/22' });
const DUAL = config({ Network: '10.0.0.0/22', EnableIPv6: true, IPv6Network: 'fd00::/62' });
const OWNER = { publicIp4: parseIpv4('192.168.0.1'), publicIp6: null };

/** `KEY ADDRESS`, with `reserved` behind it for a key without a lease, or a whole value. */
function entriesOf(lines: readonly string[], network: NetworkConfig) {
  return subnetReader(
    '/n',
    network,
  )(
    lines.map((line, at) => {
      const [key, address, reserved] = line.split(' ');
      return {
        key: `/n/subnets/${key}`,
        value:
          address === 'junk'
            ? 'junk'
            : JSON.stringify({
                PublicIP: address,
                BackendType: 'vxlan',
                BackendData: { VtepMAC: '02:00:00:00:00:01' },
              }),
        createRevision: at + 1,
        modRevision: at + 1,
        leaseId: reserved ? null : '7',
      };
    }),
  );
}

const describe = (plan: Plan): string => {
  switch (plan.kind) {
    case 'create':
      return `create ${encodeSubnetKey(plan.subnets)}`;
    case 'exhausted':
      return `exhausted IPv${plan.family}`;
    default:
      return `${plan.kind} ${plan.subnet.key}`;
  }
};

interface Case {
  readonly network?: NetworkConfig;
  readonly entries: readonly string[];
  readonly previous?: string;
  /** Index of the free one to take. */
  readonly random?: number;
}
const cases: readonly (readonly [string, Case, string])[] = [
  ['an empty network gives the first', { entries: [] }, 'create 10.0.1.0-24'],
  ['or the one that chance says', { entries: [], random: 2 }, 'create 10.0.3.0-24'],
  ['what others have is left out', { entries: ['10.0.1.0-24 1.1.1.1'] }, 'create 10.0.2.0-24'],
  [
    'a smaller piece of another occupies all of it',
    { entries: ['10.0.1.128-25 1.1.1.1', '10.0.2.0-30 2.2.2.2'] },
    'create 10.0.3.0-24',
  ],
  ['a larger one too', { entries: ['10.0.0.0-23 1.1.1.1'] }, 'create 10.0.2.0-24'],
  ['so does an entry that is broken', { entries: ['10.0.1.0-24 junk'] }, 'create 10.0.2.0-24'],
  ['nothing left', { entries: ['10.0.1.0-24 1.1.1.1', '10.0.2.0-23 2.2.2.2'] }, 'exhausted IPv4'],
  [
    'ours by public address',
    { entries: ['10.0.1.0-24 1.1.1.1', '10.0.3.0-24 192.168.0.1'], previous: '10.0.2.0-24' },
    'reuse 10.0.3.0-24',
  ],
  [
    'our reservation before our lease',
    { entries: ['10.0.1.0-24 192.168.0.1', '10.0.2.0-24 192.168.0.1 reserved'] },
    'reuse 10.0.2.0-24',
  ],
  [
    'a reservation for another is not ours',
    { entries: ['10.0.1.0-24 1.1.1.1 reserved'] },
    'create 10.0.2.0-24',
  ],
  [
    'ours of another length is discarded',
    { entries: ['10.0.1.0-25 192.168.0.1'] },
    'discard 10.0.1.0-25',
  ],
  [
    'ours outside the network is discarded',
    { entries: ['10.9.1.0-24 192.168.0.1'] },
    'discard 10.9.1.0-24',
  ],
  [
    'ours below the minimum is discarded',
    { entries: ['10.0.0.0-24 192.168.0.1'] },
    'discard 10.0.0.0-24',
  ],
  [
    'ours that an earlier one overlaps is discarded',
    { entries: ['10.0.1.0-25 1.1.1.1', '10.0.1.0-24 192.168.0.1'] },
    'discard 10.0.1.0-24',
  ],
  [
    'a reservation that does not fit is left alone',
    { entries: ['10.0.1.0-25 192.168.0.1 reserved'] },
    'create 10.0.2.0-24',
  ],
  ['the previous one, if free', { entries: [], previous: '10.0.3.0-24' }, 'create 10.0.3.0-24'],
  [
    'not if taken',
    { entries: ['10.0.3.0-24 1.1.1.1'], previous: '10.0.3.0-24' },
    'create 10.0.1.0-24',
  ],
  ['not if it does not fit', { entries: [], previous: '10.9.3.0-24' }, 'create 10.0.1.0-24'],
  [
    'both families',
    { network: DUAL, entries: ['10.0.1.0-24&fd00:0:0:1::-64 1.1.1.1'] },
    'create 10.0.2.0-24&fd00:0:0:2::-64',
  ],
  [
    'IPv6 taken, IPv4 free',
    { network: DUAL, entries: ['10.9.1.0-24&fd00:0:0:1::-64 1.1.1.1'], previous: '10.0.3.0-24' },
    'create 10.0.3.0-24&fd00:0:0:2::-64',
  ],
  [
    'ours of IPv4 alone, when IPv6 has come',
    { network: DUAL, entries: ['10.0.1.0-24 192.168.0.1'] },
    'discard 10.0.1.0-24',
  ],
  [
    'IPv6 exhausted',
    {
      network: DUAL,
      entries: [1, 2, 3].map((i) => `10.9.${i}.0-24&fd00:0:0:${i}::-64 1.1.1.${i}`),
    },
    'exhausted IPv6',
  ],
];
for (const [title, { network = SMALL, entries, previous, random = 0 }, expected] of cases) {
  test(title, (t) => {
    const plan = planAcquire({
      subnets: entriesOf(entries, network),
      network,
      owner: OWNER,
      previous: previous === undefined ? null : decodeSubnetKey(previous),
      random: () => random,
    });
    t.is(describe(plan), expected);
  });
}

/**
 * Slow twin: tries every subnet of the network against every entry.
 */
function isFreeSlowly(pair: SubnetPair, occupied: readonly SubnetPair[]): boolean {
  return occupied.every(({ subnet4 }) => subnet4 === null || !cidrsOverlap(subnet4, pair.subnet4!));
}

test('whatever is there: a plan gives a free subnet of the network, or there is none', (t) => {
  const network = config({ Network: '10.0.0.0/20' });
  const { min, max, subnetLength } = network.ipv4!;
  const anyBlock = fc
    .tuple(fc.nat(0xfff), fc.integer({ min: 20, max: 32 }))
    .map(([host, length]) => cidrOf(toIpv4(parseIpv4('10.0.0.0') + host), length));
  fc.assert(
    fc.property(
      fc.array(anyBlock, { maxLength: 40 }),
      fc.option(anyBlock),
      fc.nat(),
      (blocks, previous, chance) => {
        const pairs = blocks.map((subnet4) => ({ subnet4, subnet6: null }));
        const subnets = entriesOf(
          pairs.map((pair) => `${encodeSubnetKey(pair)} 1.1.1.1`),
          network,
        );
        const plan = planAcquire({
          subnets,
          network,
          owner: OWNER,
          previous: previous && { subnet4: previous, subnet6: null },
          random: (bound) => chance % bound,
        });
        if (plan.kind === 'create') {
          const { subnet4 } = plan.subnets;
          return (
            subnet4 !== null &&
            subnet4.length === subnetLength &&
            cidrContains(network.ipv4!.network, subnet4.base) &&
            isFreeSlowly(plan.subnets, pairs)
          );
        }
        if (plan.kind !== 'exhausted') return false;
        for (let base: number = min; base <= max; base += 256) {
          const subnet4 = cidrOf(toIpv4(base), subnetLength);
          if (isFreeSlowly({ subnet4, subnet6: null }, pairs)) {
            throw new Error(`${formatCidr(subnet4)} is free`);
          }
        }
        return true;
      },
    ),
    { numRuns: 2000 },
  );
  t.pass();
});

test('of entries that overlap, the accepted ones never do, and the first created always is', (t) => {
  const network = config({ Network: '10.0.0.0/20' });
  const anyKey = fc
    .tuple(fc.nat(0xfff), fc.integer({ min: 22, max: 30 }))
    .map(([host, length]) => cidrOf(toIpv4(parseIpv4('10.0.0.0') + host), length))
    .map((subnet4) => encodeSubnetKey({ subnet4, subnet6: null }));
  fc.assert(
    fc.property(fc.uniqueArray(anyKey, { maxLength: 30 }), (keys) => {
      const read = entriesOf(
        keys.map((key) => `${key} 1.1.1.1`),
        network,
      );
      const accepted: SubnetPair[] = [];
      for (const { subnets, lease, overlaps } of read) {
        const free = isFreeSlowly(subnets!, accepted);
        if (free !== (lease !== null) || free !== (overlaps === null)) return false;
        if (free) accepted.push(subnets!);
      }
      return true;
    }),
    { numRuns: 1000 },
  );
  t.pass();
});
