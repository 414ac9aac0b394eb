/** A cluster as large as the page is made for. */
import type {
  ClusterFlowsMessage,
  ClusterMessage,
  ClusterNodeMessage,
  FlowEndMessage,
  FlowMessage,
} from '../../daemon/messages.ts';

const NODES = 300;
const FLOWS = 5_000;
const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const keyOf = (i: number): string => `10.${64 + (i >> 8)}.${i & 255}.0-24`;

export function bigCluster(): ClusterMessage {
  const nowMs = Date.now();
  const nodes = numbers(NODES).map((i): ClusterNodeMessage => {
    const lease = {
      key: keyOf(i),
      subnet: keyOf(i).replace('-', '/'),
      ipv6Subnet: null,
      publicIp: `192.0.${2 + (i >> 8)}.${i & 255}`,
      publicIpv6: null,
      vtepMac: null,
      vtepMacV6: null,
      reserved: false,
      endsInS: null,
      own: i === 0,
    };
    if (i % 97 === 96) {
      return { ...lease, name: lease.key, answer: null, problem: 'no answer within 3 s' };
    }
    return {
      ...lease,
      name: `node-${i}`,
      problem: null,
      answer: {
        node: `node-${i}`,
        version: '0.1.0',
        startedAt: new Date(nowMs - 1e7).toISOString(),
        forwarding: true,
        ready: true,
        reasons: [],
        lease: { ...lease, endsInS: 80_000 + i },
        pods: i % 40,
        links: numbers(20).map((j) => ({
          key: keyOf((i * 7 + j * 13 + 1) % NODES),
          overlay: {
            sent: 30,
            received: (i + j) % 50 === 0 ? 27 : 30,
            silent: false,
            avgMs: 0.2 + ((i * j) % 17) / 10,
          },
          underlay: null,
          traffic: {
            sentDatagrams: i * j,
            sentBytes: 1000 * i * j,
            receivedDatagrams: i + j,
            receivedBytes: 1000 * (i + j),
            sentBytesPerS: 100 * i * j,
            receivedBytesPerS: 100 * (i + j),
          },
        })),
        rates: numbers(30).map((j) => ({
          timeMs: nowMs - (30 - j) * 2000 + i,
          outBytes: 1e6 * (1 + Math.sin((i + j) / 5)),
          inBytes: 1e6 * (1 + Math.cos((i + j) / 7)),
          drops: 0,
        })),
      },
    };
  });
  const edges = numbers(400).map((i) => ({
    from: { kind: 'workload' as const, name: `team-${i % 20}/app-${i % 90}` },
    to: { kind: 'service' as const, name: `team-${i % 17}/service-${i % 60}` },
    forwarded: 10_000 - i * 20,
    dropped: i % 9 === 0 ? i : 0,
  }));
  return {
    time: new Date(nowMs).toISOString(),
    node: 'node-0',
    nodes,
    edges,
    drops: [],
    timeline: [],
  };
}

const podOf = (i: number): FlowEndMessage => ({
  address: `10.64.${i & 255}.7`,
  port: 30_000 + (i % 1000),
  namespace: `team-${i % 20}`,
  pod: `app-${i % 400}`,
  node: `node-${i % NODES}`,
});

export function bigFlows(): ClusterFlowsMessage {
  const flows = numbers(FLOWS).map((i): FlowMessage => ({
    sequence: i,
    time: new Date(1_700_000_000_000 + i * 50).toISOString(),
    node: `node-${i % NODES}`,
    verdict: i % 5 === 0 ? 'dropped' : 'forwarded',
    reason: i % 5 === 0 ? 'policyIngress' : null,
    direction: 'ingress',
    protocol: 'TCP',
    isReply: false,
    tcpFlags: '',
    source: podOf(i),
    destination: podOf(i * 3 + 1),
    service: null,
    backend: null,
    outerSource: null,
    bytes: 60,
    because: i % 5 === 0 ? 'NetworkPolicy team-1/deny isolates it; no rule allows it' : null,
  }));
  return { flows, absent: [] };
}
