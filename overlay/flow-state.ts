/**
 * A flow's state, and how long it is remembered in it: Linux's nf_conntrack as far as it can be had without
 * tracking windows.
 * Runs per packet: no await, no allocation, no throw.
 * Not per packet: stateName, tableOf, timeoutsOf.
 *
 * Where Linux does not count a packet (it is invalid in this state, or ignored), ours changes neither
 * state nor deadline. Ours differ where a flow begins in its middle, after a restart without memory or
 * where packets took another way before: any first packet is taken (nf_conntrack_tcp_loose, and more), and
 * a flow picked up is believed to be established when both sides have been heard.
 *
 * Without windows, a forged RST cannot be told from a true one. It ends the flow in ten seconds, and is
 * taken back when after it both sides go on talking: an end that has been reset does not.
 */
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6 } from '../wire/icmp.ts';
import { PROTOCOL_TCP, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN } from '../wire/tcp.ts';
import { PROTOCOL_SCTP } from '../wire/sctp.ts';
import { PROTOCOL_UDP } from '../wire/udp.ts';
import { KIND_AFFINITY, KIND_FRAGMENT } from './flow-layout.ts';

/** Leaves state and deadline as they are. */
export const STATE_KEEP = -1;

/** FLOW_STATE holds the state, and above it whether the other side has been heard. */
export const STATE_MASK = 0xff;
export const STATE_REPLIED = 0x100;

const TCP_STATES =
  'none synSent synRecv established finWait closeWait lastAck timeWait close synSent2 resetOrig resetReply';
const TCP_ESTABLISHED = 3;
const TCP_SYN_RECV = 2;
const TCP_SYN_SENT = 1;
const TCP_LAST_ACK = 6;
const TCP_SYN_SENT2 = 9;
/** Of no reply yet: picked up in its middle (nf_conntrack's timeout UNACK). */
const TCP_UNREPLIED_S = 300;

const SCTP_STATES =
  'none closed cookieWait cookieEchoed established shutdownSent shutdownRecd shutdownAckSent heartbeatSent';
const SCTP_ESTABLISHED = 4;

/** UDP and all others: one side heard, both, the first again after that. */
const PLAIN_STATES = 'none unreplied replied stream';
const PLAIN_STREAM = 3;

const STATES_MAX = 16;

/** Rows of two directions, classes in order; columns are states. `-` keeps. */
function tableOf(codes: Readonly<Record<string, number>>, rows: string): Int8Array {
  const lines = rows.trim().split('\n');
  const table = new Int8Array(lines.length * STATES_MAX).fill(STATE_KEEP);
  for (const [row, line] of lines.entries()) {
    const cells = line.replace(/^.*:/, '').trim().split(/\s+/);
    for (const [column, cell] of cells.entries()) {
      table[row * STATES_MAX + column] = codes[cell] ?? STATE_KEEP;
    }
  }
  return table;
}

const timeoutsOf = (seconds: readonly number[]): Int32Array => Int32Array.from(seconds);

const CLASS_SYN = 0;
const CLASS_SYN_ACK = 1;
const CLASS_FIN = 2;
const CLASS_ACK = 3;
const CLASS_RST = 4;
const CLASS_NONE = 5;
const TCP_CLASSES = 6;

const TCP_CODES = { SS: 1, SR: 2, ES: 3, FW: 4, CW: 5, LA: 6, TW: 7, CL: 8, S2: 9, RO: 10, RR: 11 };

/**
 * net/netfilter/nf_conntrack_proto_tcp.c, tcp_conntracks; of ours are the first column but for SYN and
 * ACK, and what follows an RST: the last two columns, and acknowledgements in CL.
 */
const TCP_TABLE = tableOf(
  TCP_CODES,
  `           no SS SR ES FW CW LA TW CL S2 RO RR
orig syn:    SS SS -  -  -  -  -  SS SS S2 SS SS
orig synack: SR -  SR -  -  -  -  -  -  SR -  -
orig fin:    FW -  FW FW LA LA LA TW CL -  CL CL
orig ack:    ES -  ES ES CW CW TW TW RO -  -  ES
orig rst:    CL CL CL CL CL CL CL CL CL CL CL CL
orig none:   -  -  -  -  -  -  -  -  -  -  -  -
reply syn:   S2 S2 -  -  -  -  -  S2 S2 S2 S2 S2
reply synack: SR SR -  -  -  -  -  -  -  SR -  -
reply fin:   FW -  FW FW LA LA LA TW CL -  CL CL
reply ack:   ES -  SR ES CW CW TW TW RR -  ES -
reply rst:   CL CL CL CL CL CL CL CL CL CL CL CL
reply none:  -  -  -  -  -  -  -  -  -  -  -  -`.replace(/^.*\n/, ''),
);
const TCP_TIMEOUTS_S = timeoutsOf([10, 120, 60, 432_000, 120, 60, 30, 120, 10, 120, 10, 10]);

const SCTP_CODES = { CL: 1, CW: 2, CE: 3, ES: 4, SS: 5, SR: 6, SA: 7, HS: 8 };
const SCTP_CLASSES = 12;
const SCTP_DATA = 11;

/** Chunk types (RFC 9260 section 3.2), in the order of the rows; the rest are taken as DATA. */
const SCTP_CLASS_OF_CHUNK = Int8Array.from([
  SCTP_DATA, // DATA
  0, // INIT
  1, // INIT ACK
  SCTP_DATA, // SACK
  9, // HEARTBEAT
  10, // HEARTBEAT ACK
  2, // ABORT
  3, // SHUTDOWN
  4, // SHUTDOWN ACK
  5, // ERROR
  6, // COOKIE ECHO
  7, // COOKIE ACK
  SCTP_DATA, // ECNE
  SCTP_DATA, // CWR
  8, // SHUTDOWN COMPLETE
]);

/** net/netfilter/nf_conntrack_proto_sctp.c, sctp_conntracks; DATA begins a flow as HEARTBEAT does. */
const SCTP_TABLE = tableOf(
  SCTP_CODES,
  `                no CL CW CE ES SS SR SA HS
orig init:         CW CW CW CE ES CL CL SA CW
orig initAck:      CL CL CW CE ES SS SR SA CL
orig abort:        CL CL CL CL CL CL CL CL CL
orig shutdown:     CL CL CW CE SS SS SR SA CL
orig shutdownAck:  SA CL CW CE ES SA SA SA SA
orig error:        CL CL CW CE ES SS SR SA CL
orig cookieEcho:   CL CL CE CE ES SS SR SA CL
orig cookieAck:    CL CL CW CE ES SS SR SA CL
orig shutdownDone: CL CL CW CE ES SS SR CL CL
orig heartbeat:    HS CL CW CE ES SS SR SA HS
orig heartbeatAck: CL CL CW CE ES SS SR SA HS
orig data:         HS CL CW CE ES SS SR SA HS
reply init:        -  CL CW CE ES SS SR SA -
reply initAck:     -  CW CW CE ES SS SR SA -
reply abort:       CL CL CL CL CL CL CL CL CL
reply shutdown:    -  CL CW CE SR SS SR SA -
reply shutdownAck: -  CL CW CE ES SA SA SA -
reply error:       -  CL CW CL ES SS SR SA -
reply cookieEcho:  -  CL CE CE ES SS SR SA -
reply cookieAck:   -  CL CW ES ES SS SR SA -
reply shutdownDone: - CL CW CE ES SS SR CL -
reply heartbeat:   -  CL CW CE ES SS SR SA HS
reply heartbeatAck: - CL CW CE ES SS SR SA ES
reply data:        ES CL CW CE ES SS SR SA ES`.replace(/^.*\n/, ''),
);
const SCTP_TIMEOUTS_S = timeoutsOf([10, 10, 3, 3, 210, 3, 3, 3, 30]);

const UDP_TIMEOUTS_S = timeoutsOf([30, 30, 30, 120]);
const ICMP_TIMEOUTS_S = timeoutsOf([30, 30, 30, 30]);
const OTHER_TIMEOUTS_S = timeoutsOf([600, 600, 600, 600]);
export const FRAGMENT_TIMEOUT_S = 30;

/** No deadline is further away, the caller's for affinity included. */
export const TIMEOUT_MAX_S = 432_000;

function tcpClass(flags: number): number {
  if ((flags & TCP_RST) !== 0) return CLASS_RST;
  if ((flags & TCP_SYN) !== 0) return (flags & TCP_ACK) === 0 ? CLASS_SYN : CLASS_SYN_ACK;
  if ((flags & TCP_FIN) !== 0) return CLASS_FIN;
  return (flags & TCP_ACK) === 0 ? CLASS_NONE : CLASS_ACK;
}

/**
 * UDP: after both have been heard, the first side's next packet makes it a stream. Linux waits two seconds
 * instead; either way a question and its answer are soon forgotten.
 */
function nextPlain(direction: number, state: number): number {
  if (direction === 1) return state === PLAIN_STREAM ? PLAIN_STREAM : 2;
  if (state >= 2) return PLAIN_STREAM;
  return 1;
}

const isIcmp = (protocol: number): boolean =>
  protocol === PROTOCOL_ICMP || protocol === PROTOCOL_ICMPV6;

/**
 * The state after a packet.
 * @param word      FLOW_STATE as it is
 * @param tcpFlags  TCP's flags, SCTP's first chunk type
 * @returns         FLOW_STATE as it shall be, or STATE_KEEP
 */
export function nextState(
  protocol: number,
  direction: number,
  word: number,
  tcpFlags: number,
): number {
  const state = word & (STATES_MAX - 1);
  let next: number;
  if (protocol === PROTOCOL_TCP) {
    next = TCP_TABLE[(direction * TCP_CLASSES + tcpClass(tcpFlags)) * STATES_MAX + state]!;
    // A new connection, whose other side has not been heard.
    if (next === TCP_SYN_SENT && state !== TCP_SYN_SENT) return TCP_SYN_SENT;
  } else if (protocol === PROTOCOL_SCTP) {
    const type = SCTP_CLASS_OF_CHUNK[tcpFlags] ?? SCTP_DATA;
    next = SCTP_TABLE[(direction * SCTP_CLASSES + type) * STATES_MAX + state]!;
  } else if (protocol === KIND_AFFINITY || protocol === KIND_FRAGMENT) {
    return STATE_KEEP;
  } else {
    next = nextPlain(direction, state);
  }
  if (next === STATE_KEEP) return STATE_KEEP;
  return next | (word & STATE_REPLIED) | (direction === 1 ? STATE_REPLIED : 0);
}

/** Seconds that a flow is remembered after a packet that left it in `word`. */
export function timeoutS(protocol: number, word: number): number {
  const state = word & (STATES_MAX - 1);
  if (protocol === PROTOCOL_TCP) {
    if (state === TCP_ESTABLISHED && (word & STATE_REPLIED) === 0) return TCP_UNREPLIED_S;
    return TCP_TIMEOUTS_S[state]!;
  }
  if (protocol === PROTOCOL_UDP) return UDP_TIMEOUTS_S[state]!;
  if (protocol === PROTOCOL_SCTP) return SCTP_TIMEOUTS_S[state]!;
  if (isIcmp(protocol)) return ICMP_TIMEOUTS_S[state]!;
  if (protocol === KIND_FRAGMENT) return FRAGMENT_TIMEOUT_S;
  return OTHER_TIMEOUTS_S[state]!;
}

/** TCP: what is left of the connection is at most an acknowledgement. */
export function isOver(word: number): boolean {
  const state = word & STATE_MASK;
  return state >= TCP_LAST_ACK && state !== TCP_SYN_SENT2;
}

/** The flow has proven itself by the step from `before` to `after`. ICMP never does. */
export function isAssuring(protocol: number, before: number, after: number): boolean {
  const state = after & STATE_MASK;
  if (protocol === PROTOCOL_TCP) {
    const from = before & STATE_MASK;
    return (
      state === TCP_ESTABLISHED &&
      (after & STATE_REPLIED) !== 0 &&
      (from === TCP_SYN_RECV || from === TCP_ESTABLISHED)
    );
  }
  if (protocol === PROTOCOL_SCTP) {
    return state === SCTP_ESTABLISHED && (after & STATE_REPLIED) !== 0;
  }
  return state === PLAIN_STREAM && !isIcmp(protocol);
}

const NAMES: Readonly<Record<number, readonly string[]>> = {
  [PROTOCOL_TCP]: TCP_STATES.split(' '),
  [PROTOCOL_SCTP]: SCTP_STATES.split(' '),
};
const PLAIN_NAMES = PLAIN_STATES.split(' ');

/** For people. @returns undefined if there is no such state */
export const stateName = (protocol: number, word: number): string | undefined =>
  (NAMES[protocol] ?? PLAIN_NAMES)[word & STATE_MASK];
