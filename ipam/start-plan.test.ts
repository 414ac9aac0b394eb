import test from 'ava';
import * as fc from 'fast-check';
import { parseIpv4, parseIpv6 } from '../wire/address.ts';
import { cidrOf } from '../wire/cidr.ts';
import { toMac } from '../wire/mac.ts';
import type { HostAttachment } from './attachment-alias.ts';
import { EMPTY_POOL_STATE, PodPool } from './pod-pool.ts';
import { type HostInterface, type StartPlan, applyStartPlan, planStart } from './start-plan.ts';
import type { Attachment } from './types.ts';

/** `a=2`: container a with 10.0.1.2; `a=2,fd00::2` with both. */
function attachmentOf(text: string): Attachment {
  const [containerId, addresses] = text.split('=');
  const [last, ip6] = addresses!.split(',');
  return {
    containerId: containerId!,
    ifname: 'eth0',
    network: 'weft',
    netns: `/run/netns/${containerId}`,
    netnsId: '4:4026532281',
    address4: last === '' ? null : parseIpv4(`10.0.1.${last}`),
    address6: ip6 === undefined ? null : parseIpv6(ip6),
    mac: toMac(0x020000000001),
    pod: null,
  };
}

/** `weftp1: a=2`, in the order they were made; `weftp1:` has no alias of ours. */
function interfacesOf(lines: readonly string[]): HostInterface[] {
  return lines.map((line, at) => {
    const [name, text] = line.split(': ');
    const { netns: _, netnsId: __, ...attachment } = attachmentOf(text ?? 'x=1');
    return { name: name!, ifindex: at + 7, attachment: text === undefined ? null : attachment };
  });
}

const addressText = ({ address4, address6 }: HostAttachment): string =>
  [address4 === null ? '' : address4 & 255, ...(address6 === null ? [] : ['v6'])].join();

const describe = ({ keep, free, adopt, conflicts, foreign }: StartPlan): readonly string[] => [
  ...keep.map((one) => `keep ${one.attachment.containerId} ${one.hostInterface ?? 'anew'}`),
  ...free.map((one) => `${one.reason} ${[one.key.containerId, ...one.hostInterfaces].join(' ')}`),
  ...adopt.map(
    (one) =>
      `adopt ${one.attachment.containerId}=${addressText(one.attachment)} ${one.hostInterface}`,
  ),
  ...conflicts.map((one) => `conflict ${one.hostInterface}: ${one.reason}`),
  ...foreign.map((name) => `foreign ${name}`),
];

interface Case {
  readonly file?: readonly string[];
  readonly host?: readonly string[];
  /** Container ids of namespaces that live. */
  readonly alive?: string;
  /** Container ids. */
  readonly tombstones?: string;
}
const cases: readonly (readonly [string, Case, plan: readonly string[]])[] = [
  ['nothing', {}, []],
  ['all as it was', { file: ['a=2'], host: ['v1: a=2'], alive: 'a' }, ['keep a v1']],
  [
    'the interface is there, its namespace not',
    { file: ['a=2'], host: ['v1: a=2'] },
    ['keep a v1'],
  ],
  ['the interface was removed by hand', { file: ['a=2'], alive: 'a' }, ['keep a anew']],
  ['leaked', { file: ['a=2', 'b=3'], host: ['v2: b=3'] }, ['keep b v2', 'gone a']],
  ['a reboot', { file: ['a=2', 'b=3', 'c=4'] }, ['gone a', 'gone b', 'gone c']],
  ['deleted meanwhile, and gone', { file: ['a=2'], tombstones: 'a' }, ['deleted a']],
  [
    'deleted meanwhile, and all is still there',
    { file: ['a=2', 'b=3'], host: ['v1: a=2', 'v2: b=3'], alive: 'a b', tombstones: 'a' },
    ['keep b v2', 'deleted a v1'],
  ],
  ['deleted, and never heard of', { tombstones: 'a' }, []],
  [
    'the file is lost',
    { host: ['v1: a=2,fd00::2', 'v2: b=3'] },
    ['adopt b=3 v2', 'adopt a=2,v6 v1'],
  ],
  ['the file is lost, one was deleted', { host: ['v1: a=2'], tombstones: 'a' }, ['deleted a v1']],
  [
    'the file is of yesterday',
    { file: ['a=2'], host: ['v1: a=2', 'v2: b=3'] },
    ['keep a v1', 'adopt b=3 v2'],
  ],
  [
    'one address, in the file and on another’s interface: the file',
    { file: ['a=2'], host: ['v1: b=2', 'v2: a=2'] },
    ['keep a v2', 'conflict v1: it claims 10.0.1.2, but container a has it by the file'],
  ],
  [
    'the address of a leaked one: adopted by whom it serves',
    { file: ['a=2'], host: ['v1: b=2'] },
    ['gone a', 'adopt b=2 v1'],
  ],
  [
    'the address of a deleted one as well',
    { file: ['a=2'], host: ['v1: a=2', 'v2: b=2'], tombstones: 'a' },
    ['deleted a v1', 'adopt b=2 v2'],
  ],
  [
    'two interfaces, one address: the one made later',
    { host: ['v1: a=2', 'v2: b=2'] },
    ['adopt b=2 v2', 'conflict v1: it claims 10.0.1.2, but v2, made later, claims it too'],
  ],
  [
    'two, one IPv6 address',
    { host: ['v1: a=2,fd00::2', 'v2: b=3,fd00::2'] },
    ['adopt b=3,v6 v2', 'conflict v1: it claims fd00::2, but v2, made later, claims it too'],
  ],
  [
    'a conflict takes no address from a third',
    { host: ['v1: c=3', 'v2: b=2,fd00::3', 'v3: a=2'] },
    [
      'adopt a=2 v3',
      'adopt c=3 v1',
      'conflict v2: it claims 10.0.1.2, but v3, made later, claims it too',
    ],
  ],
  [
    'one container, two interfaces of one name: the one made later',
    { host: ['v1: a=2', 'v2: a=3'] },
    ['adopt a=3 v2', "conflict v1: v2, made later, is the same container's interface eth0"],
  ],
  [
    'one container, two interfaces: the one that the file knows',
    { file: ['a=2'], host: ['v1: a=2', 'v2: a=3'] },
    ['keep a v1', "conflict v2: v1 is the same container's interface eth0 already"],
  ],
  [
    'the interface says otherwise than the file: the file',
    { file: ['a=2'], host: ['v1: a=3'] },
    ['keep a anew', 'conflict v1: it says 10.0.1.3, and the file 10.0.1.2'],
  ],
  ['no alias of ours', { file: ['a=2'], host: ['v1', 'v2: a=2'] }, ['keep a v2', 'foreign v1']],
];
for (const [title, { file = [], host = [], alive = '', tombstones = '' }, plan] of cases) {
  test(`start: ${title}`, (t) => {
    const living = new Set(alive.split(' '));
    const planned = planStart({
      attachments: file.map(attachmentOf),
      tombstones: tombstones
        .split(' ')
        .filter(Boolean)
        .map((containerId) => ({ containerId, ifname: 'eth0' })),
      hostInterfaces: interfacesOf(host),
      namespaceLives: ({ containerId }) => living.has(containerId),
    });
    t.deepEqual(describe(planned), plan);
  });
}

test('an adopted one is gone with its interface, whatever is asked of its namespace', (t) => {
  const question = { tombstones: [], namespaceLives: () => true };
  const hostInterfaces = interfacesOf(['v1: a=2']);
  const { adopt } = planStart({ ...question, attachments: [], hostInterfaces });
  const attachments = adopt.map(({ attachment }) => attachment);
  t.like(attachments[0], { netns: '', netnsId: '' });
  t.deepEqual(describe(planStart({ ...question, attachments, hostInterfaces })), ['keep a v1']);
  t.deepEqual(describe(planStart({ ...question, attachments, hostInterfaces: [] })), ['gone a']);
});

const CONTAINERS = ['a', 'b', 'c', 'd', 'e', 'f'];

test('every attachment and every interface has one place in the plan, and no address two owners', (t) => {
  const container = fc.constantFrom(...CONTAINERS);
  const some = fc.uniqueArray(fc.record({ container, last: fc.integer({ min: 2, max: 7 }) }), {
    maxLength: 6,
    selector: ({ container: id }) => id,
  });
  const host = fc.array(
    fc.option(fc.record({ container, last: fc.integer({ min: 2, max: 7 }) }), { freq: 8 }),
    { maxLength: 8 },
  );
  const text = (one: { container: string; last: number }) => `${one.container}=${one.last}`;
  fc.assert(
    fc.property(
      some.filter((list) => new Set(list.map(({ last }) => last)).size === list.length),
      host,
      fc.subarray(CONTAINERS),
      fc.subarray(CONTAINERS),
      (file, interfaces, alive, deleted) => {
        const attachments = file.map((one) => attachmentOf(text(one)));
        const plan = planStart({
          attachments,
          tombstones: deleted.map((containerId) => ({ containerId, ifname: 'eth0' })),
          hostInterfaces: interfacesOf(
            interfaces.map((one, at) => (one === null ? `v${at}` : `v${at}: ${text(one)}`)),
          ),
          namespaceLives: ({ containerId }) => alive.includes(containerId),
        });
        const placed = [
          ...plan.keep.flatMap(({ hostInterface }) => hostInterface ?? []),
          ...plan.free.flatMap(({ hostInterfaces }) => hostInterfaces),
          ...plan.adopt.map(({ hostInterface }) => hostInterface),
          ...plan.conflicts.map(({ hostInterface }) => hostInterface),
          ...plan.foreign,
        ];
        t.deepEqual(placed.sort(), interfaces.map((_, at) => `v${at}`).sort());
        const decided = [
          ...plan.keep.map(({ attachment }) => attachment.containerId),
          ...plan.free.map(({ key }) => key.containerId),
        ];
        t.is(new Set(decided).size, decided.length);
        for (const { containerId } of attachments) t.true(decided.includes(containerId));

        const pool = new PodPool({
          subnets: { subnet4: cidrOf(parseIpv4('10.0.1.0'), 24), subnet6: null },
          state: { ...EMPTY_POOL_STATE, attachments },
        });
        // Throws if an address had two owners.
        applyStartPlan(pool, plan);
        t.is(pool.size, plan.keep.length + plan.adopt.length);
      },
    ),
    { numRuns: 500 },
  );
});
