import test from 'ava';
import { type Echo, EchoError, type EchoSocket } from '../linux/echo.ts';
import type { Peer } from '../overlay/types.ts';
import { type IpAddress, formatAddress, parseIpv4, parseIpv6 } from '../wire/address.ts';
import { cidrOf } from '../wire/cidr.ts';
import { parseMac } from '../wire/mac.ts';
import type { LeaseMessage } from './messages.ts';
import { PeerProbes, type ProbeView, stateOf, targetsOf } from './peer-probes.ts';
import { isUnwell, peersTable } from './peers-text.ts';

const BELOW4 = parseIpv4('192.0.2.2');
const BELOW6 = parseIpv6('2001:db8::2');
const mac = parseMac('02:00:00:00:00:02');
const PEER: Peer = {
  name: '10.244.2.0-24',
  subnet4: cidrOf(parseIpv4('10.244.2.0'), 24),
  subnet6: cidrOf(parseIpv6('fd00:2::'), 64),
  nextHop4: { address: BELOW4, mac },
  nextHop6: { address: BELOW6, mac },
  direct4: false,
  direct6: false,
  addresses: [BELOW4, BELOW6],
};
const LEASE: LeaseMessage = {
  key: PEER.name,
  subnet: '10.244.2.0/24',
  ipv6Subnet: 'fd00:2::/64',
  publicIp: '192.0.2.2',
  publicIpv6: '2001:db8::2',
  vtepMac: null,
  vtepMacV6: null,
  reserved: false,
  own: false,
  endsInS: null,
};
const VIEW: ProbeView = {
  overlay: {
    peers: [PEER],
    mtuBytes: 1450,
    subnet4: cidrOf(parseIpv4('10.244.1.0'), 24),
    subnet6: cidrOf(parseIpv6('fd00:1::'), 64),
  },
  underlay: {
    mtuBytes: 1500,
    address4: parseIpv4('192.0.2.1'),
    address6: parseIpv6('2001:db8::1'),
  },
  leases: [LEASE],
  nodeOf: () => 'n2',
};

const TRAFFIC = {
  sentDatagrams: 7,
  sentBytes: 1_234_567,
  receivedDatagrams: 8,
  receivedBytes: 999,
  sentBytesPerS: 1_500_000,
  receivedBytesPerS: null,
};

/** Who answers, and up to which size. */
type Answers = (address: string, bytes: number, number: number) => boolean;

function probesOf(answers: Answers, view: ProbeView = VIEW) {
  const problems: (string | null)[] = [];
  let asked = 0;
  let isOpen = 0;
  const probes = new PeerProbes({
    view: () => view,
    traffic: () => TRAFFIC,
    onProblem: (error) => problems.push(error?.message ?? null),
    open: () => {
      isOpen += 1;
      const socket: EchoSocket = {
        echo: (address: IpAddress, bytes: number): Promise<Echo> => {
          asked += 1;
          return Promise.resolve(
            answers(formatAddress(address), bytes, asked)
              ? { kind: 'answered', roundTripMs: 1.5 }
              : { kind: 'silent' },
          );
        },
        [Symbol.dispose]: () => (isOpen -= 1),
      };
      return Promise.resolve(socket);
    },
  });
  return { probes, problems, openSockets: () => isOpen };
}

const WELL = { silent: [], tunnelSilent: [], lossy: [], smallMtu: [], problem: null };
const KEYS = [PEER.name];
const isInside = (address: string): boolean => /^10\.244|^fd00/.test(address);

for (const [name, answers, findings, mtus] of [
  ['all is well', () => true, {}, [1500, 1500, 1450, 1450]],
  ['nobody there', () => false, { silent: KEYS }, [null, null, null, null]],
  ['only the underlay', (it) => !isInside(it), { tunnelSilent: KEYS }, [1500, 1500, null, null]],
  ['a firewall that keeps ICMP out', (it) => isInside(it), {}, [null, null, 1450, 1450]],
  [
    'a small path',
    (it, bytes) => bytes <= (isInside(it) ? 1350 : 1400),
    { smallMtu: KEYS },
    [1400, 1400, 1350, 1350],
  ],
  [
    'one family of the tunnel',
    (it) => it !== 'fd00:2::',
    { tunnelSilent: KEYS },
    [1500, 1500, 1450, null],
  ],
] as const satisfies readonly (readonly [string, Answers, object, readonly (number | null)[]])[]) {
  test(`probing: ${name}`, async (t) => {
    const { probes, problems, openSockets } = probesOf(answers);
    const message = await probes.probeAll();
    t.deepEqual(probes.findings(), { ...WELL, ...findings });
    t.deepEqual(
      message.peers[0]!.probe!.links.map((it) => it.pathMtuBytes),
      [...mtus],
    );
    t.is(isUnwell(message), Object.keys(findings).length > 0);
    t.deepEqual(problems, []);
    t.is(openSockets(), 0);
  });
}

test('some of ten are lost', async (t) => {
  const { probes } = probesOf((it, bytes, number) => !(isInside(it) && bytes === 64 && number < 9));
  const message = await probes.probeAll();
  t.deepEqual(probes.findings(), { ...WELL, lossy: KEYS });
  const inside = probes.readings().filter((it) => it.way === 'overlay');
  t.deepEqual(
    inside.map((it) => [it.family, it.roundTripMs !== null]),
    [
      [4, true],
      [6, true],
    ],
  );
  t.true(inside.some((it) => it.lossRatio > 0 && it.lossRatio < 1));
  t.regex(peersTable(message), /^n2 +overlay +10\.244\.2\.0 +1\.50\/1\.50\/1\.50 +\d+ % +1450$/m);
});

test('a family that we have no address of is not asked', (t) => {
  const underlay = { ...VIEW.underlay, address6: null };
  const overlay = { ...VIEW.overlay!, subnet6: null };
  const targets = targetsOf(PEER, { ...VIEW, underlay, overlay });
  t.deepEqual(
    targets.map((it) => [it.kind, formatAddress(it.address)]),
    [
      ['underlay', '192.0.2.2'],
      ['overlay', '10.244.2.0'],
    ],
  );
});

test('a peer without end point is not asked through the tunnel', (t) => {
  const targets = targetsOf({ ...PEER, nextHop4: null, nextHop6: null }, VIEW);
  t.deepEqual(new Set(targets.map((it) => it.kind)), new Set(['underlay']));
});

test('without the right to probe: said once, and nothing breaks', async (t) => {
  const problems: (string | null)[] = [];
  const probes = new PeerProbes({
    view: () => VIEW,
    traffic: () => null,
    onProblem: (error) => problems.push(error?.message ?? null),
    open: () => Promise.reject(new EchoError('this process lacks CAP_NET_RAW')),
  });
  await probes.probeAll();
  const message = await probes.probeAll();
  t.deepEqual(problems, ['this process lacks CAP_NET_RAW']);
  t.is(message.problem, 'this process lacks CAP_NET_RAW');
  t.is(stateOf(message.peers[0]!.probe!.links), 'well');
  t.true(isUnwell(message));
});

test('what was known of a peer goes with it', async (t) => {
  let view = VIEW;
  const probes = new PeerProbes({
    view: () => view,
    traffic: () => TRAFFIC,
    onProblem: () => 'none',
    open: () =>
      Promise.resolve({
        echo: () => Promise.resolve({ kind: 'silent' }),
        [Symbol.dispose]: () => 'closed',
      }),
  });
  await probes.probeAll();
  t.deepEqual(probes.findings().silent, KEYS);
  view = { ...VIEW, overlay: { ...VIEW.overlay!, peers: [] }, leases: [] };
  await probes.probeAll();
  t.deepEqual(probes.findings().silent, []);
});

test('who looks at the page has each way asked with single echoes, and sees what weft peers says', async (t) => {
  const { promise: asked, resolve } = Promise.withResolvers<void>();
  let isOpen = 0;
  let echoes = 0;
  using probes = new PeerProbes({
    view: () => VIEW,
    traffic: () => TRAFFIC,
    onProblem: () => 'none',
    open: () => {
      isOpen += 1;
      return Promise.resolve({
        echo: () => {
          if (++echoes === 4) setImmediate(resolve);
          return Promise.resolve({ kind: 'answered', roundTripMs: 1.5 });
        },
        [Symbol.dispose]: () => (isOpen -= 1),
      });
    },
  });
  t.deepEqual(probes.links(), [
    { key: PEER.name, overlay: null, underlay: null, traffic: TRAFFIC },
  ]);
  await asked;
  const [link] = probes.links();
  const { links } = probes.message().peers[0]!.probe!;
  t.is(echoes, 4, 'one each way, and no sizes');
  t.is(isOpen, 2);
  for (const kind of ['overlay', 'underlay'] as const) {
    const { sent, received, silent, avgMs } = links.find((it) => it.kind === kind)!;
    t.deepEqual(link![kind], { sent, received, silent, avgMs });
    t.is(sent, 1);
  }
});

test('what goes to a direct peer is not counted, and said so', async (t) => {
  const direct = { ...PEER, direct4: true, direct6: true };
  for (const [peer, traffic] of [
    [PEER, TRAFFIC],
    [{ ...PEER, direct4: true }, TRAFFIC],
    [direct, null],
  ] as const) {
    const { probes } = probesOf(() => true, {
      ...VIEW,
      overlay: { ...VIEW.overlay!, peers: [peer] },
    });
    t.deepEqual(probes.message().peers[0]!.traffic, traffic);
  }
  const { probes } = probesOf(() => true);
  t.regex(peersTable(await probes.probeAll()), /VXLAN +1\.23 MB +12\.0 Mb\/s +999 B +- /);
});
