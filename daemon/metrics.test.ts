import test from 'ava';
import { createCounters, sumCounters, sumDropsIn } from '../overlay/counters.ts';
import { Drop } from '../wire/drop-reason.ts';
import { METRICS, type Reading, formatMetrics } from './metrics.ts';

const counters = createCounters();
const reading: Reading = {
  node: 'n1',
  version: '1.2.3',
  startedAtMs: 1_700_000_000_000,
  forwarding: true,
  checks: [
    { name: 'lease', reason: null },
    { name: 'store', reason: 'etcd: it does not answer' },
  ],
  leaseLeftS: 12.5,
  peers: 2,
  probes: [
    { node: 'n2', way: 'overlay', family: 4, roundTripMs: 1.5, lossRatio: 0 },
    { node: 'a"b\nc', way: 'underlay', family: 6, roundTripMs: null, lossRatio: 1 },
  ],
  peerTraffic: [
    { node: 'n2', sentDatagrams: 7, sentBytes: 700, receivedDatagrams: 8, receivedBytes: 1000 },
  ],
  pods: 3,
  objects: { policies: 4, services: 5, problems: ['x'] },
  workers: 1,
  maxFlows: 100,
  offloads: {
    tunTso: true,
    tunUso: false,
    tunnelGso: false,
    udpGso: true,
    udpGro: true,
    batch: true,
    coalesce: true,
  },
  counters: {
    ...sumCounters([counters]),
    flows: 7,
    'flows.new': 9,
    'flows.evicted': 1,
    'flows.expired': 2,
    'drop.policyEgress': 5,
    'drop.policyIngress': 6,
    'drop.receiveQueueFull': 3,
    'drop.tunQueueFull': -1,
    'host.spoofedSource': 8,
    tunPackets: 10,
  },
  dropsIn: { ...sumDropsIn([counters]), policyIngress: 4 },
  generations: { published: 12, installed: 11 },
  eventsLost: 0,
};

const line = async (start: string, from = reading): Promise<string | undefined> =>
  (await formatMetrics(from)).text.split('\n').find((it) => it.startsWith(start));

for (const [start, value] of [
  ['weft_build_info{version="1.2.3",node="n1",nodejs="', '1'],
  ['weft_forwarding', '1'],
  ['weft_ready', '0'],
  ['weft_check_ok{check="store"}', '0'],
  ['weft_store_up', '0'],
  ['weft_lease_held', '1'],
  ['weft_lease_left_seconds', '12.5'],
  ['weft_peers', '2'],
  ['weft_peer_round_trip_seconds{peer="n2",way="overlay",family="ipv4"}', '0.0015'],
  ['weft_peer_loss_ratio{peer="a\\"b\\nc",way="underlay",family="ipv6"}', '1'],
  ['weft_peer_datagrams_total{peer="n2",direction="ingress"}', '8'],
  ['weft_peer_bytes_total{peer="n2",direction="egress"}', '700'],
  ['weft_object_problems', '1'],
  ['weft_offload_in_use{offload="tun-uso"}', '0'],
  ['weft_snapshot_generation{state="installed"}', '11'],
  ['weft_tun_packets_total{direction="egress"}', '10'],
  ['weft_tun_packets_total{direction="ingress"}', '0'],
  ['weft_drops_total{reason="policyIngress",direction="ingress"}', '4'],
  ['weft_drops_total{reason="policyIngress",direction="egress"}', '2'],
  ['weft_drops_total{reason="receiveQueueFull",direction="ingress"}', '3'],
  ['weft_drops_total{reason="tunQueueFull",direction="egress"}', '0'],
  ['weft_host_drops_total{reason="spoofedSource"}', '8'],
  ['weft_policy_verdicts_total{verdict="allowed"}', '9'],
  ['weft_policy_verdicts_total{verdict="denied_egress"}', '5'],
  ['weft_flows', '7'],
  ['weft_flows_max', '100'],
  ['weft_flows_evicted_total', '1'],
  ['process_start_time_seconds', '1700000000'],
] as const) {
  test(`says ${start} ${value}`, async (t) => {
    const found = await line(start.endsWith('"') || start.endsWith('}') ? start : `${start} `);
    t.is(found?.slice(found.lastIndexOf(' ') + 1), value, found);
  });
}

test('what is not known is left out, not 0', async (t) => {
  const nothing = { ...reading, counters: null, offloads: null, probes: [], leaseLeftS: null };
  const { text } = await formatMetrics({ ...nothing, dropsIn: null, generations: null });
  for (const name of ['weft_drops_total', 'weft_flows_new_total', 'weft_peer_loss_ratio']) {
    t.false(text.includes(name), name);
  }
  t.true(text.includes('\nweft_lease_held 0\n'));
  t.false(text.includes('weft_lease_left_seconds'));
});

test('a reservation has no end', async (t) => {
  const found = await line('weft_lease_left_seconds ', { ...reading, leaseLeftS: Infinity });
  t.is(found, 'weft_lease_left_seconds +Inf');
});

test('names and helps are as Prometheus has them', (t) => {
  t.is(new Set(METRICS.map((it) => it.name)).size, METRICS.length);
  for (const { name, type, help } of METRICS) {
    t.regex(name, /^(weft|process)_[a-z_]+$/);
    t.is(name.endsWith('_total'), type === 'counter', name);
    t.notRegex(name, /_(ms|milliseconds|kb|percent)(_|$)/, 'base units');
    t.regex(help, /^[^\n]+\.$/, name);
  }
});

test('every sample has the labels that the table says, and a small number of series', (t) => {
  for (const { name, labels, read } of METRICS) {
    const samples = read(reading);
    t.true(samples.length > 0, `${name}: the reading of this test has all`);
    t.true(samples.length <= 2 * Object.keys(Drop).length, name);
    for (const { labels: of = {} } of samples) t.deepEqual(Object.keys(of), [...labels], name);
  }
});

test('the drops of both directions are those of all', async (t) => {
  const one = createCounters();
  one[Drop.noPod] = 5;
  const { text } = await formatMetrics({
    ...reading,
    counters: sumCounters([one]),
    dropsIn: { noPod: 2 },
  });
  t.true(text.includes('weft_drops_total{reason="noPod",direction="egress"} 3\n'));
  t.true(text.includes('weft_drops_total{reason="noPod",direction="ingress"} 2\n'));
});
