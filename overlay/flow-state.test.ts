/**
 * Conversations, packet by packet: `>` from the side that began, `<` from the other; after each the state,
 * the seconds that it is remembered, and `!` where it is assured from here on. What is not marked as ours
 * is as Linux has it (net/netfilter/nf_conntrack_proto_*.c; Documentation/networking/nf_conntrack-sysctl).
 */
import test from 'ava';
import { KIND_AFFINITY, KIND_FRAGMENT } from './flow-layout.ts';
import { STATE_KEEP, isAssuring, isOver, nextState, stateName, timeoutS } from './flow-state.ts';

const [TCP, UDP, SCTP, ICMP, ICMPV6, GRE] = [6, 17, 132, 1, 58, 47];

const FLAGS: Readonly<Record<string, number>> = {
  syn: 0x02,
  synack: 0x12,
  ack: 0x10,
  push: 0x18,
  fin: 0x11,
  rst: 0x04,
  rstack: 0x14,
  none: 0,
  // ECN set up (RFC 3168 section 6.1.1).
  synEcn: 0xc2,
  // SCTP's chunks.
  data: 0,
  init: 1,
  initAck: 2,
  sack: 3,
  heartbeat: 4,
  heartbeatAck: 5,
  abort: 6,
  shutdown: 7,
  shutdownAck: 8,
  cookieEcho: 10,
  cookieAck: 11,
  shutdownDone: 14,
  unknown: 200,
  // Others have none.
  packet: 0,
};

const HANDSHAKE =
  '>syn synSent 120, <synack synRecv 60, >ack established 432000 !, ' +
  '<push established 432000, >push established 432000';
const SCTP_HANDSHAKE =
  '>init cookieWait 3, <initAck cookieWait 3, >cookieEcho cookieEchoed 3, <cookieAck established 210 !';

const rows: readonly [name: string, protocol: number, talk: string][] = [
  ['a handshake', TCP, HANDSHAKE],
  ['with ECN', TCP, '>synEcn synSent 120, <synack synRecv 60, >ack established 432000 !'],
  ['a SYN again', TCP, '>syn synSent 120, >syn synSent 120, <synack synRecv 60, <synack -'],
  ['a refusal', TCP, '>syn synSent 120, <rstack close 10'],
  [
    'the client closes',
    TCP,
    `${HANDSHAKE}, >fin finWait 120, <ack closeWait 60, <fin lastAck 30, >ack timeWait 120`,
  ],
  [
    'the server closes',
    TCP,
    `${HANDSHAKE}, <fin finWait 120, >ack closeWait 60, >fin lastAck 30, <ack timeWait 120`,
  ],
  ['both close', TCP, `${HANDSHAKE}, >fin finWait 120, <fin lastAck 30, >ack timeWait 120`],
  ['a simultaneous open', TCP, '>syn synSent 120, <syn synSent2 120, >synack synRecv 60'],
  ['a reset', TCP, `${HANDSHAKE}, <rst close 10, >rst close 10`],
  [
    'ours: data of one side after a reset keeps it closed',
    TCP,
    `${HANDSHAKE}, <rst close 10, >ack resetOrig 10, >push -, <rst close 10`,
  ],
  [
    'ours: a forged reset is taken back by both sides',
    TCP,
    `${HANDSHAKE}, <rst close 10, >push resetOrig 10, <ack established 432000, >push established 432000`,
  ],
  [
    'ours: the other side speaks first',
    TCP,
    `${HANDSHAKE}, >rst close 10, <push resetReply 10, >ack established 432000`,
  ],
  [
    'a SYN reopens what was closed',
    TCP,
    `${HANDSHAKE}, >fin finWait 120, <fin lastAck 30, >ack timeWait 120, ` +
      '>syn synSent 120, <synack synRecv 60, >ack established 432000 !',
  ],
  ['a SYN reopens what was reset', TCP, `${HANDSHAKE}, <rst close 10, >syn synSent 120`],
  ['a SYN changes nothing that is open', TCP, `${HANDSHAKE}, >syn -, <syn -, <synack -`],
  ['no flags change nothing', TCP, `${HANDSHAKE}, >none -, <none -`],
  [
    'picked up in its middle, one side (UNACK), then both',
    TCP,
    '>ack established 300, >push established 300, <ack established 432000 !',
  ],
  [
    'ours: picked up at its SYN ACK, by the other side',
    TCP,
    '>synack synRecv 60, <ack synRecv 60, >push established 432000 !',
  ],
  ['ours: picked up at its end', TCP, '>fin finWait 120, <fin lastAck 30'],
  ['ours: begins with a reset', TCP, '>rst close 10'],
  ['a question', UDP, '>packet unreplied 30, >packet unreplied 30'],
  ['a question and its answer', UDP, '>packet unreplied 30, <packet replied 30'],
  [
    'two questions at once (ours: no stream)',
    UDP,
    '>packet unreplied 30, >packet unreplied 30, <packet replied 30, <packet replied 30',
  ],
  [
    'a stream',
    UDP,
    '>packet unreplied 30, <packet replied 30, >packet stream 120 !, <packet stream 120 !',
  ],
  ['SCTP', SCTP, SCTP_HANDSHAKE],
  ['SCTP, data', SCTP, `${SCTP_HANDSHAKE}, >data established 210 !, <sack established 210 !`],
  [
    'SCTP, an end',
    SCTP,
    `${SCTP_HANDSHAKE}, >shutdown shutdownSent 3, <shutdownAck shutdownAckSent 3, >shutdownDone closed 10`,
  ],
  [
    'SCTP, the other side ends',
    SCTP,
    `${SCTP_HANDSHAKE}, <shutdown shutdownRecd 3, >shutdownAck shutdownAckSent 3, <shutdownDone closed 10`,
  ],
  ['SCTP, abort', SCTP, `${SCTP_HANDSHAKE}, <abort closed 10`],
  [
    'SCTP, another path',
    SCTP,
    '>heartbeat heartbeatSent 30, >heartbeat heartbeatSent 30, <heartbeatAck established 210 !',
  ],
  ['SCTP, picked up', SCTP, '>data heartbeatSent 30, <sack established 210 !'],
  ['SCTP, a chunk that nobody knows', SCTP, `${SCTP_HANDSHAKE}, >unknown established 210 !`],
  ['echo', ICMP, '>packet unreplied 30, <packet replied 30, >packet stream 30'],
  ['echo of IPv6', ICMPV6, '>packet unreplied 30, <packet replied 30, >packet stream 30'],
  ['any other', GRE, '>packet unreplied 600, <packet replied 600, >packet stream 600 !'],
  ['affinity is the caller’s', KIND_AFFINITY, '>packet -'],
  ['a fragment stays as it is', KIND_FRAGMENT, '>packet -'],
];

for (const [name, protocol, talk] of rows) {
  test(`protocol ${protocol}: ${name}`, (t) => {
    let word = 0;
    const seen = talk.split(', ').map((step) => {
      const packet = step.split(' ')[0]!;
      const direction = packet.startsWith('<') ? 1 : 0;
      const next = nextState(protocol, direction, word, FLAGS[packet.slice(1)]!);
      if (next === STATE_KEEP) return `${packet} -`;
      const assuring = isAssuring(protocol, word, next) ? ' !' : '';
      word = next;
      return `${packet} ${stateName(protocol, word)} ${timeoutS(protocol, word)}${assuring}`;
    });
    // Of what is assured already nobody asks again.
    const plain = (steps: readonly string[]) => {
      const first = steps.findIndex((step) => step.endsWith('!'));
      return steps.map((step, i) => (i > first ? step.replace(/ !$/, '') : step));
    };
    t.deepEqual(plain(seen), plain(talk.split(', ')));
  });
}

test('a SYN begins another connection where one is over', (t) => {
  const over = new Set(['lastAck', 'timeWait', 'close', 'resetOrig', 'resetReply']);
  for (let state = 0; stateName(TCP, state) !== undefined; state++) {
    t.is(isOver(state), over.has(stateName(TCP, state)!), stateName(TCP, state));
  }
  t.is(isOver(7 | 0x100), true);
});

test('no packet leads out of the states', (t) => {
  for (const protocol of [TCP, UDP, SCTP, ICMP, GRE]) {
    for (let state = 0; stateName(protocol, state) !== undefined; state++) {
      for (let flags = 0; flags < 256; flags++) {
        for (const direction of [0, 1]) {
          const next = nextState(protocol, direction, state, flags);
          if (next === STATE_KEEP) continue;
          if (stateName(protocol, next) === undefined) t.fail(`${protocol} ${state} ${flags}`);
          if (!(timeoutS(protocol, next) > 0)) t.fail(`${protocol} ${next} has no timeout`);
        }
      }
    }
  }
  t.pass();
});
